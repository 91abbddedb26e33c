//! What a disk thread does with its jobs.
//!
//! Owns the pieces under way on one thread. All their blocks that wait are hashed and written together: several pieces are hashed at
//! once where the queue has them (`lanes`), blocks are written in gathered runs straight from the buffers they were
//! received in, and both while they are warm. Nothing is read back unless blocks came out of order.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc as tokio_mpsc;

use super::super::clock;
use super::super::handles::Handles;
use super::super::lanes::{self, Hasher, LANES, Lane};
use super::super::storage::{Access, Segment, Storage};
use super::super::stored::{self, Stored, Stretch};
use super::super::strain::Toil;
use super::super::transfer::disk_full;
use super::{Done, Job};
use crate::wire::metainfo::{BLOCK_LEN, Info, PieceIndex};

/// Blocks gathered into one write.
const RUN_BLOCKS: usize = 64;
/// Jobs taken from the queue before answers are sent: blocks of two MiB, so that they are of several pieces.
const BATCH: usize = 128;
/// How long bytes wait for others to be hashed with, where nothing comes.
const COMPANY: Duration = Duration::from_millis(1);
/// Bytes of each piece read at once when pieces must be read back.
const READ_BACK: usize = 128 * 1024;
/// Times that a piece is fetched again because what was written cannot be read back: a bad place on a disk may come right when it is
/// written anew, but not for ever.
const MAX_LOST: u32 = 3;
/// How long to wait for room on a full disk before trying again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// How far a piece under way has come.
#[derive(Default)]
struct Partial {
    hasher: Hasher,
    /// Bytes that were hashed or wait for it.
    taken: u32,
    /// What waits to be hashed, in order.
    waiting: VecDeque<Bytes>,
    /// A block was written over bytes that had been hashed: the hasher is void.
    rewritten: bool,
}

impl Partial {
    /// Only the last bytes of what waited were not hashed.
    fn keep(&mut self, mut left: usize) {
        let mut kept = VecDeque::new();
        while left > 0 {
            let Some(last) = self.waiting.pop_back() else { break };
            let take = left.min(last.len());
            kept.push_front(last.slice(last.len() - take..));
            left -= take;
        }
        self.waiting = kept;
    }
}

/// What a piece has turned out to be.
enum Verdict {
    /// What it must be, or not.
    Hashed(bool),
    /// Nobody knows: this file cannot be read.
    Unreadable(usize, io::Error),
}

/// Blocks that follow each other and wait to be written together.
#[derive(Default)]
struct Run {
    offset: u64,
    length: u64,
    blocks: Vec<Bytes>,
}

pub struct Worker {
    storage: Arc<Storage>,
    info: Arc<Info>,
    done: tokio_mpsc::UnboundedSender<Done>,
    stop: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
    /// The disk has failed: what follows is not vouched for.
    failed: bool,
    /// How often pieces could not be read back.
    lost: BTreeMap<PieceIndex, u32>,
    open: Handles,
    toil: Arc<Toil>,
    /// Bytes that may wait for others to be hashed with.
    hold: usize,
    partial: BTreeMap<PieceIndex, Partial>,
    /// In the order in which they came.
    runs: Vec<Run>,
    /// Pieces to be answered for once what waits is hashed and written.
    complete: Vec<PieceIndex>,
    /// Pieces that were there before, to be read and answered for.
    checks: Vec<PieceIndex>,
}

impl Worker {
    pub fn new(
        storage: Arc<Storage>,
        info: Arc<Info>,
        done: tokio_mpsc::UnboundedSender<Done>,
        stop: Arc<AtomicBool>,
        leaving: Arc<AtomicBool>,
        toil: Arc<Toil>,
        hold: usize,
    ) -> Self {
        Self {
            storage,
            info,
            done,
            stop,
            leaving,
            failed: false,
            lost: BTreeMap::new(),
            open: Handles::default(),
            toil,
            hold,
            partial: BTreeMap::new(),
            runs: Vec::new(),
            complete: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Does the jobs until nobody has any more.
    pub fn work(&mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let first = jobs.try_recv().or_else(|_| self.wait(jobs));
            let Ok(first) = first else { return };
            let next = std::iter::from_fn(|| jobs.try_recv().ok());
            for job in std::iter::once(first).chain(next).take(BATCH) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.on_job(job);
            }
            self.settle(self.hold);
        }
    }

    /// The next job, when there is none now.
    fn wait(&mut self, jobs: &mpsc::Receiver<Job>) -> Result<Job, mpsc::RecvError> {
        if self.partial.values().any(|partial| !partial.waiting.is_empty())
            && let Ok(job) = jobs.recv_timeout(COMPANY)
        {
            return Ok(job);
        }
        self.settle(0);
        jobs.recv()
    }

    fn on_job(&mut self, job: Job) {
        match job {
            Job::Write(piece, begin, data) => self.on_write(piece, begin, data),
            Job::Hash(piece) => self.complete.push(piece),
            Job::Check(_) if self.leaving.load(Ordering::Relaxed) => {}
            Job::Check(piece) => {
                self.checks.push(piece);
                if self.checks.len() == LANES {
                    self.check();
                }
            }
            Job::Digest(piece) => {
                self.settle(0);
                let digests = self.digest_blocks(piece);
                let _ = self.done.send(Done::Digested(piece, digests));
            }
            Job::Read(peer, piece, begin, length) => {
                self.settle(self.hold);
                let offset = self.info.layout().offset(piece) + u64::from(begin);
                let data = self.warm_up(offset, u64::from(length));
                if let Err(error) = &data {
                    let root = self.storage.root().display();
                    let _ = self.done.send(Done::Unreadable(format!("{root} cannot be read: {error}")));
                }
                let _ = self.done.send(Done::Read(peer, piece, begin, data.ok()));
            }
        }
    }

    fn on_write(&mut self, piece: PieceIndex, begin: u32, data: Bytes) {
        if self.complete.contains(&piece) {
            // Too late for the answer that is due.
            self.settle(0);
        }
        let partial = self.partial.entry(piece).or_default();
        if begin == partial.taken {
            partial.taken += data.len() as u32;
            partial.waiting.push_back(data.clone());
        } else if begin < partial.taken {
            partial.rewritten = true;
        }
        let offset = self.info.layout().offset(piece) + u64::from(begin);
        let follows = |run: &&mut Run| run.offset + run.length == offset && run.blocks.len() < RUN_BLOCKS;
        match self.runs.last_mut().filter(follows) {
            Some(run) => {
                run.length += data.len() as u64;
                run.blocks.push(data);
            }
            None => self.runs.push(Run { offset, length: data.len() as u64, blocks: vec![data] }),
        }
    }

    /// Writes what waits and hashes it, but for up to `hold` bytes of pieces too few to be worth it yet; gives the answers that waited for
    /// that.
    fn settle(&mut self, hold: usize) {
        self.hash(hold);
        self.write_runs();
        let waits = |piece: &PieceIndex| self.partial.get(piece).is_some_and(|p| !p.waiting.is_empty());
        let (waiting, complete) = std::mem::take(&mut self.complete).into_iter().partition(waits);
        self.complete = waiting;
        self.answer(&complete);
        self.check();
    }

    fn hash(&mut self, hold: usize) {
        let mut partials: Vec<_> = self.partial.values_mut().filter(|p| !p.waiting.is_empty()).collect();
        if partials.is_empty() {
            return;
        }
        let begun = clock::now();
        let given: usize = partials.iter().flat_map(|p| &p.waiting).map(Bytes::len).sum();
        let lanes = partials.iter_mut().map(|p| Lane::new(&mut p.hasher, p.waiting.iter().map(|b| &b[..])));
        let left = lanes::hash_in_company(lanes.collect(), hold);
        let hashed = given - left.iter().sum::<usize>().min(given);
        for (partial, left) in partials.into_iter().zip(left) {
            partial.keep(left);
        }
        self.toil.on_hashed(clock::now().saturating_duration_since(begun), hashed);
    }

    fn write_runs(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let begun = clock::now();
        for run in std::mem::take(&mut self.runs) {
            self.write(run);
        }
        self.toil.on_moved(clock::now().saturating_duration_since(begun));
    }

    /// Says of pieces that are here as a whole whether they are what they must be.
    fn answer(&mut self, complete: &[PieceIndex]) {
        let partials = complete.iter().map(|piece| self.partial.remove(piece).unwrap_or_default());
        let partials = partials.map(|p| if p.rewritten { Partial::default() } else { p }).collect();
        for (&piece, verdict) in complete.iter().zip(self.judge(complete, partials)) {
            if self.failed {
                return;
            }
            let answer = match verdict {
                Verdict::Hashed(valid) => {
                    self.lost.remove(&piece);
                    Done::Hashed(piece, valid)
                }
                Verdict::Unreadable(file, error) => self.lose(piece, file, &error),
            };
            let _ = self.done.send(answer);
        }
    }

    /// A piece cannot be read back. It is worth another try, unless its file is gone and others with it, or it has had its tries.
    fn lose(&mut self, piece: PieceIndex, file: usize, error: &io::Error) -> Done {
        let path = self.storage.path(file).display().to_string();
        let times = self.lost.entry(piece).or_default();
        *times += 1;
        if error.kind() == io::ErrorKind::NotFound || *times > MAX_LOST {
            self.failed = true;
            return Done::Failed(path, format!("what was written there cannot be read back: {error}"));
        }
        tracing::warn!("{path}: a piece cannot be read back and is fetched again: {error}");
        Done::Lost(piece)
    }

    /// Reads the pieces that are to be checked. What cannot be read is not there.
    fn check(&mut self) {
        let pieces = std::mem::take(&mut self.checks);
        let verdicts = self.judge(&pieces, pieces.iter().map(|_| Partial::default()).collect());
        for (piece, verdict) in pieces.into_iter().zip(verdicts) {
            let _ = self.done.send(Done::Checked(piece, matches!(verdict, Verdict::Hashed(true))));
        }
    }

    /// Whether each piece is what it must be; what was not hashed as it came is read back.
    fn judge(&mut self, pieces: &[PieceIndex], mut partials: Vec<Partial>) -> Vec<Verdict> {
        let mut unreadable: Vec<Option<(usize, io::Error)>> = pieces.iter().map(|_| None).collect();
        let layout = *self.info.layout();
        loop {
            let (mut parts, begun) = (Vec::new(), clock::now());
            for ((piece, partial), trouble) in pieces.iter().zip(&mut partials).zip(&mut unreadable) {
                let take = (layout.len_of(*piece) - partial.taken).min(READ_BACK as u32);
                if take == 0 || trouble.is_some() || parts.len() == LANES {
                    continue;
                }
                match self.read(layout.offset(*piece) + u64::from(partial.taken), take as usize) {
                    Ok(data) => parts.push((partial, data)),
                    Err(error) => *trouble = Some(error),
                }
            }
            if parts.is_empty() {
                break;
            }
            let read = clock::now();
            self.toil.on_moved(read.saturating_duration_since(begun));
            let bytes = parts.iter().map(|(_, data)| data.len()).sum();
            let lanes = parts.iter_mut().map(|(partial, data)| {
                partial.taken += data.len() as u32;
                Lane::new(&mut partial.hasher, [&data[..]])
            });
            lanes::hash(lanes.collect());
            self.toil.on_hashed(clock::now().saturating_duration_since(read), bytes);
        }
        let digests = partials.into_iter().map(|partial| partial.hasher.finish());
        let hashes = pieces.iter().map(|piece| self.info.piece_hash(*piece));
        let verdict = |(trouble, (is, must)): (Option<(usize, io::Error)>, _)| match trouble {
            Some((file, error)) => Verdict::Unreadable(file, error),
            None => Verdict::Hashed(is == must),
        };
        unreadable.into_iter().zip(digests.zip(hashes)).map(verdict).collect()
    }

    /// The first 64 bits of the SHA-1 of each block; nothing where the piece cannot be read.
    fn digest_blocks(&mut self, piece: PieceIndex) -> Vec<u64> {
        let layout = *self.info.layout();
        let mut digests = Vec::new();
        for block in 0..layout.blocks_of(piece) {
            let offset = layout.offset(piece) + u64::from(block) * u64::from(BLOCK_LEN);
            let Ok(data) = self.read(offset, layout.block_len(piece, block) as usize) else {
                return Vec::new();
            };
            let digest: [u8; 20] = Sha1::digest(&data).into();
            digests.push(digest.iter().take(8).fold(0, |n, &byte| n << 8 | u64::from(byte)));
        }
        digests
    }

    /// Writes what follows each other; on a full disk waits until there is room.
    fn write(&mut self, run: Run) {
        let mut waited = false;
        loop {
            match self.try_write(&run) {
                Ok(()) => break,
                Err((_, error)) if disk_full(&error) && self.may_wait() => {
                    if !std::mem::replace(&mut waited, true) {
                        let _ = self.done.send(Done::Full(error.to_string()));
                    }
                    std::thread::sleep(FULL_RETRY);
                }
                Err((file, error)) => {
                    let path = self.storage.path(file).display().to_string();
                    let _ = self.done.send(Done::Failed(path, error.to_string()));
                    self.failed = true;
                    break;
                }
            }
        }
        if waited {
            let _ = self.done.send(Done::RoomAgain);
        }
        let _ = self.done.send(Done::Wrote(run.length as usize));
    }

    /// Whether somebody still wants what a full disk holds up.
    fn may_wait(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && !self.leaving.load(Ordering::Relaxed)
    }

    fn try_write(&mut self, run: &Run) -> Result<(), (usize, io::Error)> {
        let storage = self.storage.clone();
        let mut blocks = run.blocks.iter();
        let mut rest: &[u8] = &[];
        for segment in storage.segments(run.offset, run.length) {
            let mut slices = Vec::with_capacity(run.blocks.len());
            let mut missing = segment.length as usize;
            while missing > 0 {
                if rest.is_empty() {
                    let Some(block) = blocks.next() else { break };
                    rest = block;
                }
                let (now, later) = rest.split_at(missing.min(rest.len()));
                slices.push(IoSlice::new(now));
                missing -= now.len();
                rest = later;
            }
            if let Some(index) = segment.file {
                let whole = segment.offset == 0
                    && storage.range(index).is_some_and(|(_, length)| length == segment.length);
                let access = Access::Write { whole };
                let file = self.open.file(&storage, index, access).map_err(|e| (index, e))?;
                let _turn = storage.turn(index);
                write_all(file, &mut slices, segment.offset).map_err(|e| (index, e))?;
            }
        }
        Ok(())
    }

    /// Reads what is there; where that is not possible, also says which file it is. Nothing is made or resized for it: the place may
    /// not be ours yet, and a file that was cut meanwhile would read as zeros, for which a peer would be blamed.
    fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, (usize, io::Error)> {
        let storage = self.storage.clone();
        let mut out = Vec::with_capacity(length);
        for segment in storage.segments(offset, length as u64) {
            let begin = out.len();
            out.resize(begin + segment.length as usize, 0);
            if let Some(index) = segment.file {
                let file = self.open.file(&storage, index, Access::Look).map_err(|e| (index, e))?;
                file.read_exact_at(&mut out[begin..], segment.offset).map_err(|e| (index, e))?;
            }
        }
        Ok(out)
    }

    /// Where a range lies, once it is in the system's memory. Serving never creates or changes a file: it may
    /// have been moved away meanwhile.
    fn warm_up(&mut self, offset: u64, length: u64) -> io::Result<Stored> {
        let storage = self.storage.clone();
        let mut stored = Stored::default();
        for Segment { file, offset, length } in storage.segments(offset, length) {
            let open = file.map(|index| self.open.file(&storage, index, Access::Look).cloned());
            let file = open.transpose()?;
            if let Some(file) = &file {
                stored::warm(file, offset, length)?;
            }
            stored.push(Stretch { file, offset, length });
        }
        Ok(stored)
    }
}

fn write_all(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !slices.is_empty() {
        let written = rustix::io::pwritev(file, slices, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}
