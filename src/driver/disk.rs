//! Disk threads: they hash blocks as they arrive, write them, and read for peers.
//!
//! One piece belongs to one thread, so its blocks are hashed in order while they are warm, and written in
//! gathered runs straight from the buffers they were received in. Nothing is read back unless blocks came
//! out of order. Must not decide what to fetch or whom to trust.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use tokio::sync::mpsc as tokio_mpsc;

use super::handles::Handles;
use super::resume::{Ground, Keeper, SaveError};
use super::storage::{Access, Segment, Storage};
use super::stored::{self, Stored, Stretch};
use super::transfer::disk_full;
use crate::swarm::PeerKey;
use crate::swarm::resume::Plan;
use crate::wire::metainfo::{BLOCK_LEN, Info, PieceIndex};
use crate::wire::resume::Stamp;

/// Blocks gathered into one write.
const RUN_BLOCKS: usize = 64;
/// Jobs taken from the queue before answers are sent.
const BATCH: usize = 64;
/// Bytes read at once when a piece must be read back.
const READ_BACK: usize = 256 * 1024;
/// How long to wait for room on a full disk before trying again.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// Threads beyond this do not help: one disk, one memory bus.
const MAX_THREADS: usize = 8;

/// What a disk thread is told to do.
#[derive(Debug)]
pub enum Job {
    /// Write a block, and hash it if it is the next of its piece.
    Write(PieceIndex, u32, Bytes),
    /// Every block of the piece has been given: say whether it is what it must be.
    Hash(PieceIndex),
    /// Read a piece that was there before and hash it.
    Check(PieceIndex),
    /// Read a piece and digest each of its blocks.
    Digest(PieceIndex),
    /// Make sure that a part of a piece can be sent to a peer from where it lies.
    Read(PeerKey, PieceIndex, u32, u32),
}

/// What a disk thread answers.
#[derive(Debug)]
pub enum Done {
    /// Bytes of [`Job::Write`] that have been dealt with.
    Wrote(usize),
    /// The answer to [`Job::Hash`].
    Hashed(PieceIndex, bool),
    /// The answer to [`Job::Check`].
    Checked(PieceIndex, bool),
    /// The answer to [`Job::Digest`].
    Digested(PieceIndex, Vec<u64>),
    /// The answer to [`Job::Read`]: peer, piece, begin, and where it lies.
    Read(PeerKey, PieceIndex, u32, Option<Stored>),
    /// A file cannot be read for a peer: its path or number, and the system's words.
    Unreadable(String),
    /// No room is left; the thread waits and tries again.
    Full(String),
    /// There is room again.
    RoomAgain,
    /// A file cannot be written or read: its path, and the system's words.
    Failed(String, String),
    /// The answer to [`Disk::save`]: the files as they were when their bytes were synced.
    Saved(Result<Vec<Option<Stamp>>, SaveError>),
}

/// The threads of one torrent. Dropping it ends them.
#[derive(Debug)]
pub struct Disk {
    queues: Vec<mpsc::Sender<Job>>,
    stop: Arc<AtomicBool>,
    /// Nobody waits for room on a full disk any more.
    leaving: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    done: tokio_mpsc::UnboundedSender<Done>,
    /// Syncs and saves beside them; started when there is something to save.
    keeper: Option<Keeper>,
}

impl Disk {
    /// Starts a thread for each core. Answers come on the returned channel; they are as many as the jobs
    /// under way, which the caller bounds.
    pub fn start(
        storage: Arc<Storage>,
        info: Arc<Info>,
    ) -> io::Result<(Self, tokio_mpsc::UnboundedReceiver<Done>)> {
        let (done, answers) = tokio_mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let count = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(1, MAX_THREADS);
        let leaving = Arc::new(AtomicBool::new(false));
        let mut disk = Self {
            queues: Vec::new(),
            stop: stop.clone(),
            leaving: leaving.clone(),
            threads: Vec::new(),
            done: done.clone(),
            keeper: None,
        };
        for number in 0..count {
            let (queue, jobs) = mpsc::channel();
            let mut worker = Worker {
                storage: storage.clone(),
                info: info.clone(),
                done: done.clone(),
                stop: stop.clone(),
                leaving: leaving.clone(),
                failed: false,
                open: Handles::default(),
                looking: false,
                partial: BTreeMap::new(),
                run: Run::default(),
            };
            let name = format!("disk-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || worker.work(&jobs))?;
            disk.queues.push(queue);
            disk.threads.push(thread);
        }
        Ok((disk, answers))
    }

    /// Hands over a job. Jobs of one piece are done in order.
    pub fn send(&self, job: Job) {
        let piece = match &job {
            Job::Write(piece, ..) | Job::Read(_, piece, ..) => piece,
            Job::Hash(piece) | Job::Check(piece) | Job::Digest(piece) => piece,
        };
        if let Some(queue) = self.queues.get(piece.at() % self.queues.len().max(1)) {
            // A thread that has failed has said so; its queue leads nowhere.
            let _ = queue.send(job);
        }
    }

    /// Syncs and saves on a thread of its own, so that no write waits for a sync. What is verified by now
    /// was written by now.
    pub fn save(&mut self, plan: Plan, ground: impl FnOnce() -> Ground) -> io::Result<()> {
        if self.keeper.is_none() {
            self.keeper = Some(Keeper::start(ground(), self.done.clone())?);
        }
        if let Some(keeper) = &self.keeper {
            keeper.send(plan);
        }
        Ok(())
    }

    /// Does what has been handed over, then ends the threads; what the syncing one worked with. Blocks.
    pub fn finish(mut self) -> Option<Ground> {
        self.leaving.store(true, Ordering::Relaxed);
        self.queues.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.keeper.take().and_then(Keeper::finish)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How far a piece under way has been hashed.
#[derive(Default)]
struct Partial {
    hasher: Sha1,
    hashed: u32,
    /// A block was written over bytes that had been hashed: the hasher is void.
    rewritten: bool,
}

/// Blocks that follow each other and wait to be written together.
#[derive(Default)]
struct Run {
    offset: u64,
    length: u64,
    blocks: Vec<Bytes>,
}

struct Worker {
    storage: Arc<Storage>,
    info: Arc<Info>,
    done: tokio_mpsc::UnboundedSender<Done>,
    stop: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
    /// A write has failed: what follows is not vouched for.
    failed: bool,
    open: Handles,
    /// While the place is not ours yet, or only read, nothing in it may be created or resized.
    looking: bool,
    partial: BTreeMap<PieceIndex, Partial>,
    run: Run,
}

impl Worker {
    fn work(&mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut next = Some(first);
            for _ in 0..BATCH {
                let Some(job) = next else { break };
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.on_job(job);
                next = jobs.try_recv().ok();
            }
            if let Some(job) = next {
                self.on_job(job);
            }
            self.write_run();
        }
        self.write_run();
    }

    fn on_job(&mut self, job: Job) {
        match job {
            Job::Write(piece, begin, data) => self.on_write(piece, begin, data),
            Job::Hash(piece) => {
                self.write_run();
                let partial = self.partial.remove(&piece).unwrap_or_default();
                let digest = self.finish_hash(piece, partial);
                let valid = digest.is_some_and(|d| d == self.info.piece_hash(piece));
                if !self.failed {
                    let _ = self.done.send(Done::Hashed(piece, valid));
                }
            }
            Job::Check(_) if self.leaving.load(Ordering::Relaxed) => {}
            Job::Check(piece) => {
                // What cannot be read is not there.
                self.looking = true;
                let digest = self.finish_hash(piece, Partial::default());
                self.looking = false;
                let valid = digest.is_some_and(|d| d == self.info.piece_hash(piece));
                let _ = self.done.send(Done::Checked(piece, valid));
            }
            Job::Digest(piece) => {
                self.write_run();
                let digests = self.digest_blocks(piece);
                let _ = self.done.send(Done::Digested(piece, digests));
            }
            Job::Read(peer, piece, begin, length) => {
                self.write_run();
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
        let partial = self.partial.entry(piece).or_default();
        if begin == partial.hashed {
            partial.hasher.update(&data);
            partial.hashed += data.len() as u32;
        } else if begin < partial.hashed {
            partial.rewritten = true;
        }
        let offset = self.info.layout().offset(piece) + u64::from(begin);
        if self.run.offset + self.run.length != offset || self.run.blocks.len() >= RUN_BLOCKS {
            self.write_run();
            self.run.offset = offset;
        }
        self.run.length += data.len() as u64;
        self.run.blocks.push(data);
    }

    fn finish_hash(&mut self, piece: PieceIndex, partial: Partial) -> Option<[u8; 20]> {
        let mut partial = if partial.rewritten { Partial::default() } else { partial };
        let (offset, length) = (self.info.layout().offset(piece), self.info.layout().len_of(piece));
        while partial.hashed < length {
            let take = (length - partial.hashed).min(READ_BACK as u32);
            let data = self.read(offset + u64::from(partial.hashed), take as usize).ok()?;
            partial.hasher.update(&data);
            partial.hashed += take;
        }
        Some(partial.hasher.finalize().into())
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

    /// Writes what has been gathered; on a full disk waits until there is room.
    fn write_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.blocks.is_empty() {
            return;
        }
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
                write_all(file, &mut slices, segment.offset).map_err(|e| (index, e))?;
            }
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let storage = self.storage.clone();
        let mut out = Vec::with_capacity(length);
        for segment in storage.segments(offset, length as u64) {
            let begin = out.len();
            out.resize(begin + segment.length as usize, 0);
            if let Some(index) = segment.file {
                let access = if self.looking { Access::Look } else { Access::Write { whole: false } };
                let file = self.open.file(&storage, index, access)?;
                file.read_exact_at(&mut out[begin..], segment.offset)?;
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
