//! Disk threads: they hash blocks as they arrive, write them, and read for peers.
//!
//! Owns the threads, their queues and which piece is whose; what a thread does with its jobs is in `worker`. Must not
//! decide what to fetch or whom to trust.

mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use tokio::sync::mpsc as tokio_mpsc;

use self::worker::Worker;
use super::lanes::LANES;
use super::resume::{Ground, Keeper, SaveError};
use super::storage::Storage;
use super::stored::Stored;
use super::strain::Toil;
use crate::swarm::PeerKey;
use crate::swarm::resume::Plan;
use crate::wire::metainfo::{Info, PieceIndex};
use crate::wire::resume::Stamp;

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
    /// The same, where what was written of the piece cannot be read back: it says nothing of who sent it.
    Lost(PieceIndex),
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
    /// What they are busy with.
    toil: Arc<Toil>,
    done: tokio_mpsc::UnboundedSender<Done>,
    /// Syncs and saves beside them; started when there is something to save.
    keeper: Option<Keeper>,
}

impl Disk {
    /// Starts a thread for each core. Answers come on the returned channel; they are as many as the jobs
    /// under way, which the caller bounds: they hold `unwritten` bytes at most.
    pub fn start(
        storage: Arc<Storage>,
        info: Arc<Info>,
        unwritten: usize,
    ) -> io::Result<(Self, tokio_mpsc::UnboundedReceiver<Done>)> {
        let (done, answers) = tokio_mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let count = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(1, MAX_THREADS);
        let leaving = Arc::new(AtomicBool::new(false));
        let toil = Arc::new(Toil::default());
        let mut disk = Self {
            toil: toil.clone(),
            queues: Vec::new(),
            stop: stop.clone(),
            leaving: leaving.clone(),
            threads: Vec::new(),
            done: done.clone(),
            keeper: None,
        };
        // Half of them may wait to be hashed together; buffers must be left for what comes.
        let hold = unwritten / 2 / count;
        for number in 0..count {
            let (queue, jobs) = mpsc::channel();
            let (done, stop, leaving) = (done.clone(), stop.clone(), leaving.clone());
            let (storage, info, toil) = (storage.clone(), info.clone(), toil.clone());
            let mut worker = Worker::new(storage, info, done, stop, leaving, toil, hold);
            let name = format!("disk-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || worker.work(&jobs))?;
            disk.queues.push(queue);
            disk.threads.push(thread);
        }
        Ok((disk, answers))
    }

    /// Hands over a job. Jobs of one piece are done in order; pieces that follow each other, as one peer sends them, are of one thread, which
    /// hashes them together.
    pub fn send(&self, job: Job) {
        let piece = match &job {
            Job::Write(piece, ..) | Job::Read(_, piece, ..) => piece,
            Job::Hash(piece) | Job::Check(piece) | Job::Digest(piece) => piece,
        };
        if let Some(queue) = self.queues.get(piece.at() / LANES % self.queues.len().max(1)) {
            // A thread that has failed has said so; its queue leads nowhere.
            let _ = queue.send(job);
        }
    }

    /// What the threads have done so far.
    pub fn toil(&self) -> &Toil {
        &self.toil
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::bencode::Writer;
    use crate::wire::metainfo::BLOCK_LEN;
    use sha1::{Digest as _, Sha1};
    use std::collections::BTreeMap;

    const PIECE: usize = 4 * BLOCK_LEN as usize;

    fn torrent(content: &[u8]) -> Info {
        let hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(content.len() as i64).bytes(b"name").bytes(b"file");
        w.bytes(b"piece length").int(PIECE as i64).bytes(b"pieces").bytes(&hashes).end();
        Info::parse(out.into()).unwrap()
    }

    /// The blocks of a piece in some order, now and then one twice.
    fn blocks(info: &Info, piece: PieceIndex, rng: &mut Rng) -> Vec<u32> {
        let mut blocks: Vec<_> = (0..info.layout().blocks_of(piece)).collect();
        if rng.chance(0.3) {
            rng.shuffle(&mut blocks);
        }
        if rng.chance(0.2) {
            blocks.push(rng.u32() % info.layout().blocks_of(piece));
        }
        blocks
    }

    /// Whatever the order of blocks and pieces, however many meet in a thread: each piece gets one answer, which is right, and what was
    /// answered for is in the file.
    #[test]
    fn each_piece_gets_the_right_answer_in_whatever_order_it_comes() {
        for seed in 0..60 {
            let mut rng = Rng::from_u64(seed);
            let mut content = vec![0; PIECE * rng.below(24) + 1 + rng.below(PIECE)];
            rng.fill(&mut content);
            let info = Arc::new(torrent(&content));
            let layout = *info.layout();
            let folder = tempfile::tempdir().unwrap();
            let storage = Arc::new(Storage::for_download(folder.path(), None, &info).unwrap());
            let unwritten = if rng.chance(0.5) { 0 } else { rng.below(64 * PIECE) };
            let (disk, mut answers) = Disk::start(storage.clone(), info.clone(), unwritten).unwrap();
            // Whatever a piece still lacks, and whether one of its blocks is wrong this time.
            let mut missing: BTreeMap<_, _> = layout
                .pieces()
                .map(|piece| (piece, (blocks(&info, piece, &mut rng), rng.chance(0.2))))
                .collect();
            let (mut written, mut given) = (0, 0);
            let mut expected: BTreeMap<PieceIndex, bool> = BTreeMap::new();
            let mut valid = 0;
            while valid < layout.count() {
                if let Some(&piece) = missing.keys().nth(rng.below(missing.len().clamp(1, 5))) {
                    let (blocks, is_wrong) = &mut missing.get_mut(&piece).unwrap();
                    let block = blocks.remove(0);
                    let (begin, length) = (block * BLOCK_LEN, layout.block_len(piece, block));
                    let mut data =
                        content[layout.offset(piece) as usize + begin as usize..][..length as usize].to_vec();
                    // The last one decides: an earlier one may come again and be right.
                    if blocks.is_empty() && *is_wrong {
                        data[rng.below(length as usize)] ^= 1;
                    }
                    given += data.len();
                    disk.send(Job::Write(piece, begin, data.into()));
                    if blocks.is_empty() {
                        disk.send(Job::Hash(piece));
                        expected.insert(piece, !*is_wrong);
                        missing.remove(&piece);
                    }
                    if rng.chance(0.7) && !missing.is_empty() {
                        continue;
                    }
                }
                let answer =
                    if missing.is_empty() { answers.blocking_recv() } else { answers.try_recv().ok() };
                match answer {
                    None => assert!(!missing.is_empty(), "seed {seed}: the threads ended"),
                    Some(Done::Wrote(count)) => written += count,
                    Some(Done::Hashed(piece, is_valid)) => {
                        assert_eq!(expected.remove(&piece), Some(is_valid), "seed {seed}, piece {piece:?}");
                        if is_valid {
                            valid += 1;
                        } else {
                            missing.insert(piece, (blocks(&info, piece, &mut rng), false));
                        }
                    }
                    Some(other) => panic!("seed {seed}: {other:?}"),
                }
            }
            disk.finish();
            while let Some(Done::Wrote(count)) = answers.blocking_recv() {
                written += count;
            }
            assert_eq!((written, expected.len()), (given, 0), "seed {seed}");
            assert!(std::fs::read(storage.path(0)).unwrap() == content, "seed {seed}");
        }
    }

    /// One piece of four blocks, given so that it must be read back.
    fn give(
        disk: &Disk,
        answers: &mut tokio_mpsc::UnboundedReceiver<Done>,
        piece: PieceIndex,
        content: &[u8],
    ) {
        let mut written = 0;
        for block in [1, 0, 2, 3] {
            let begin = block * BLOCK_LEN;
            let data = content[begin as usize..][..BLOCK_LEN as usize].to_vec();
            disk.send(Job::Write(piece, begin, data.into()));
        }
        while written < PIECE {
            match answers.blocking_recv() {
                Some(Done::Wrote(count)) => written += count,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whoever sent what the disk has lost is not to be called a liar.
    #[test]
    fn a_piece_that_cannot_be_read_back_is_not_a_false_one() {
        let content: Vec<u8> = (0..PIECE).map(|n| (n / 7) as u8).collect();
        let info = Arc::new(torrent(&content));
        let piece = info.layout().pieces().next().unwrap();
        for gone in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let storage = Arc::new(Storage::for_download(folder.path(), None, &info).unwrap());
            let (disk, mut answers) = Disk::start(storage.clone(), info.clone(), 1 << 20).unwrap();
            let path = storage.path(0);
            let spoil = || match gone {
                true => std::fs::remove_file(&path).unwrap(),
                false => std::fs::File::options().write(true).open(&path).unwrap().set_len(5).unwrap(),
            };
            let ask = |answers: &mut tokio_mpsc::UnboundedReceiver<Done>| {
                disk.send(Job::Hash(piece));
                answers.blocking_recv().unwrap()
            };
            give(&disk, &mut answers, piece, &content);
            spoil();
            let answer = ask(&mut answers);
            if gone {
                let path = path.display().to_string();
                assert!(matches!(&answer, Done::Failed(at, _) if *at == path), "{answer:?}");
                continue;
            }
            assert!(matches!(answer, Done::Lost(lost) if lost == piece), "{answer:?}");
            give(&disk, &mut answers, piece, &content);
            assert!(matches!(ask(&mut answers), Done::Hashed(_, true)));
            // Not for ever.
            let mut times = 0;
            let end = loop {
                give(&disk, &mut answers, piece, &content);
                spoil();
                match ask(&mut answers) {
                    Done::Lost(_) => times += 1,
                    other => break other,
                }
            };
            assert!(times == 3 && matches!(end, Done::Failed(..)), "{times}, {end:?}");
        }
    }
}
