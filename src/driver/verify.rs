//! Verifying what lies on disk against a torrent, on all cores, changing nothing.
//!
//! Owns that reading and the summary of each file. Plain blocking code.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handles::Handles;
use super::lanes::{self, Groups, Hasher, LANES, Lane};
use super::storage::{Access, Present, Storage};
use crate::wire::metainfo::{FileKind, Info, PieceIndex};

/// Bytes of a piece read at once: hashed while those of all lanes are in cache.
const READ: usize = 128 * 1024;
/// Threads beyond this do not help: one disk, one memory bus.
const MAX_THREADS: usize = 16;

/// What a piece was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PieceState {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// Its bytes are right.
    Right,
    /// A file of it is not there, or too short.
    Missing,
    /// Its bytes are not what they should be.
    Wrong,
    /// A file of it cannot be read, or is none.
    Unread,
}

/// What a file was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Every byte is right.
    Right,
    /// It is not there.
    Missing,
    /// Some of its bytes are wrong or missing, or it is longer than it must be.
    Damaged,
    /// It cannot be read, or something that is no file stands in its place: nothing is known of its bytes.
    Unreadable,
    /// The pieces that fail are shared with other files: whose bytes are wrong cannot be told.
    Unproven,
}

/// One file's summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Where it stands.
    pub path: PathBuf,
    /// Bytes it should have.
    pub length: u64,
    /// Bytes it has beyond them.
    pub surplus: u64,
    /// Pieces it lies in, and those of them that are missing or wrong.
    pub pieces: u32,
    /// Of these, pieces with bytes that are not there.
    pub missing: u32,
    /// Of these, pieces with other bytes.
    pub damaged: u32,
    /// All of that in a word.
    pub state: FileState,
    /// Why it cannot be read, in words.
    pub cause: Option<String>,
}

/// What was found, of each piece and of the files that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pieces: Vec<PieceState>,
    /// By number; as many as the torrent has files at most.
    unreadable: BTreeMap<usize, String>,
}

/// Files that there is no use in opening, and why. A pipe would be waited for without end.
fn survey(storage: &Storage) -> BTreeMap<usize, String> {
    let why = |index| match storage.look(index) {
        Ok(Present::InTheWay(what)) => Some((index, what)),
        Ok(Present::Nothing | Present::File(_)) => None,
        Err(error) => Some((index, unreadable(&error))),
    };
    (0..storage.len()).filter_map(why).collect()
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// Reads every piece; `done` is told the bytes of each. None when it was stopped.
pub fn pieces(
    storage: &Storage,
    info: &Info,
    done: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> Option<Found> {
    let unreadable = Mutex::new(survey(storage));
    let count = info.layout().count();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(1, MAX_THREADS);
    let groups = Groups::new(count, threads);
    let states = Mutex::new(vec![PieceState::Unknown; count as usize]);
    let work = || {
        let mut look = Look {
            storage,
            info,
            unreadable: &unreadable,
            handles: Handles::default(),
            buffers: Default::default(),
        };
        while !stop.load(Ordering::Relaxed) {
            let group = groups.take();
            let pieces: Vec<PieceIndex> = group.clone().filter_map(|n| info.layout().piece(n)).collect();
            if pieces.is_empty() {
                break;
            }
            let found = look.at(&pieces);
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            for (piece, state) in pieces.iter().zip(found) {
                states[piece.at()] = state;
            }
            drop(states);
            pieces.iter().for_each(|piece| done(u64::from(info.layout().len_of(*piece))));
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let pieces = states.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unreadable = unreadable.into_inner().unwrap_or_else(PoisonError::into_inner);
    (!pieces.contains(&PieceState::Unknown)).then_some(Found { pieces, unreadable })
}

/// One thread's way to look at pieces, a few at once.
struct Look<'a> {
    storage: &'a Storage,
    info: &'a Info,
    unreadable: &'a Mutex<BTreeMap<usize, String>>,
    handles: Handles,
    buffers: [Vec<u8>; LANES],
}

impl Look<'_> {
    /// What each of these is, at most [`LANES`].
    fn at(&mut self, pieces: &[PieceIndex]) -> Vec<PieceState> {
        let layout = *self.info.layout();
        let mut states = vec![PieceState::Unknown; pieces.len()];
        let mut hashers = vec![Hasher::default(); pieces.len()];
        let longest = pieces.iter().map(|piece| layout.len_of(*piece)).max().unwrap_or_default();
        for at in (0..longest).step_by(READ) {
            for ((piece, state), buffer) in pieces.iter().zip(&mut states).zip(&mut self.buffers) {
                let length = layout.len_of(*piece).saturating_sub(at).min(READ as u32);
                let length = if *state == PieceState::Unknown { length } else { 0 };
                buffer.resize(length as usize, 0);
                let offset = layout.offset(*piece) + u64::from(at);
                if let Err(why) = read(self.storage, self.unreadable, &mut self.handles, offset, buffer) {
                    *state = why;
                }
            }
            let lanes = hashers.iter_mut().zip(&self.buffers);
            lanes::hash(lanes.map(|(hasher, buffer)| Lane::new(hasher, [&buffer[..]])).collect());
        }
        for ((piece, state), hasher) in pieces.iter().zip(&mut states).zip(hashers) {
            if *state == PieceState::Unknown {
                let right = hasher.finish() == self.info.piece_hash(*piece);
                *state = if right { PieceState::Right } else { PieceState::Wrong };
            }
        }
        states
    }
}

/// Fills the buffer with what stands there; else what that makes of the piece.
fn read(
    storage: &Storage,
    unreadable_files: &Mutex<BTreeMap<usize, String>>,
    handles: &mut Handles,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), PieceState> {
    let mut rest = buffer;
    for segment in storage.segments(offset, rest.len() as u64) {
        let (part, later) = rest.split_at_mut(segment.length as usize);
        rest = later;
        let Some(index) = segment.file else {
            part.fill(0);
            continue;
        };
        let known = || unreadable_files.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains_key(&index) {
            return Err(PieceState::Unread);
        }
        let file = handles.file(storage, index, Access::Look);
        let read = file.and_then(|file| file.read_exact_at(part, segment.offset));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => PieceState::Missing,
            _ => {
                known().entry(index).or_insert_with(|| unreadable(&error));
                PieceState::Unread
            }
        })?;
    }
    Ok(())
}

/// The summary of each file, in the torrent's order; pads and links have none.
pub fn files(storage: &Storage, info: &Info, found: &Found) -> Vec<FileReport> {
    let layout = info.layout();
    let regular = info.files().iter().enumerate().filter(|(_, f)| f.kind == FileKind::Regular);
    let report = regular.map(|(index, file)| {
        let size = storage.stamp(index).ok().flatten().map(|s| s.size);
        let (mut missing, mut damaged, mut bad, mut own, mut pieces) = (0, 0, 0, 0, 0);
        for piece in layout.touching(file.offset, file.length) {
            let state = found.pieces.get(piece.at()).copied().unwrap_or_default();
            let begin = layout.offset(piece);
            let alone =
                begin >= file.offset && begin + u64::from(layout.len_of(piece)) <= file.offset + file.length;
            pieces += 1;
            missing += u32::from(state == PieceState::Missing);
            damaged += u32::from(matches!(state, PieceState::Wrong | PieceState::Unknown));
            bad += u32::from(state != PieceState::Right);
            own += u32::from(state != PieceState::Right && alone);
        }
        let cause = found.unreadable.get(&index).cloned();
        let surplus = size.unwrap_or_default().saturating_sub(file.length);
        let state = match size {
            _ if cause.is_some() => FileState::Unreadable,
            None => FileState::Missing,
            Some(size) if size != file.length || own > 0 => FileState::Damaged,
            Some(_) if bad > 0 => FileState::Unproven,
            Some(_) => FileState::Right,
        };
        let path = storage.path(index);
        FileReport { path, length: file.length, surplus, pieces, missing, damaged, state, cause }
    });
    report.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;
    use sha1::{Digest as _, Sha1};
    use std::sync::atomic::AtomicU64;

    const PIECE: usize = 16384;
    /// `a` has two pieces of its own and shares the third with `b` and `c`.
    const FILES: [(&str, usize); 5] =
        [("a", PIECE * 5 / 2), ("b", 100), ("c", PIECE / 2), ("empty", 0), ("d/e", PIECE * 2)];

    fn summary(damage: impl Fn(&std::path::Path)) -> Vec<(String, FileState, u32, u32)> {
        let short = |r: FileReport| (r.path.display().to_string(), r.state, r.missing, r.damaged);
        reports(damage).into_iter().map(short).collect()
    }

    /// With paths below the torrent's folder.
    fn reports(damage: impl Fn(&std::path::Path)) -> Vec<FileReport> {
        let dir = tempfile::tempdir().unwrap();
        let total: usize = FILES.iter().map(|f| f.1).sum();
        let content: Vec<u8> = (0..total).map(|i| (i * 7 / 3) as u8).collect();
        let hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        let mut at = 0;
        for (path, length) in FILES {
            w.begin_dict().bytes(b"length").int(length as i64).bytes(b"path").begin_list();
            path.split('/').for_each(|c| {
                w.bytes(c.as_bytes());
            });
            w.end().end();
            let place = dir.path().join("top").join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, &content[at..at + length]).unwrap();
            at += length;
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&hashes).end();
        let info = Info::parse(out.into()).unwrap();
        let top = dir.path().join("top");
        damage(&top);
        let storage = Storage::in_place(&top, &info).unwrap();
        let read = AtomicU64::new(0);
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let states = pieces(&storage, &info, &count, &AtomicBool::new(false)).unwrap();
        assert_eq!(read.into_inner(), total as u64);
        assert_eq!(pieces(&storage, &info, &|_| (), &AtomicBool::new(true)), None);
        let mut reports = files(&storage, &info, &states);
        reports.iter_mut().for_each(|r| r.path = r.path.strip_prefix(&top).unwrap().to_owned());
        reports
    }

    fn states(damage: impl Fn(&std::path::Path)) -> Vec<FileState> {
        summary(damage).into_iter().map(|r| r.1).collect()
    }

    #[test]
    fn what_is_right_is_right() {
        assert_eq!(states(|_| ()), [FileState::Right; 5]);
    }

    #[test]
    fn whose_fault_it_is_is_told_where_it_can_be() {
        use FileState::{Damaged, Missing, Right, Unproven};
        let flip = |path: &str, at: usize| {
            let path = path.to_owned();
            move |top: &std::path::Path| {
                let mut bytes = std::fs::read(top.join(&path)).unwrap();
                bytes[at] ^= 1;
                std::fs::write(top.join(&path), bytes).unwrap();
            }
        };
        assert_eq!(states(flip("a", 5)), [Damaged, Right, Right, Right, Right]);
        assert_eq!(states(flip("b", 5)), [Unproven, Unproven, Unproven, Right, Right]);
        assert_eq!(
            states(|top| std::fs::remove_file(top.join("b")).unwrap()),
            [Unproven, Missing, Unproven, Right, Right]
        );
        let gone = summary(|top| std::fs::remove_dir_all(top.join("d")).unwrap());
        assert_eq!(gone[4], ("d/e".into(), Missing, 3, 0));
        assert_eq!(states(|top| std::fs::remove_file(top.join("empty")).unwrap())[3], Missing);
        assert_eq!(states(|top| std::fs::write(top.join("empty"), b"x").unwrap())[3], Damaged);
    }

    #[test]
    fn what_is_no_file_is_neither_missing_nor_damaged_and_nobody_waits_for_it() {
        use FileState::{Right, Unproven, Unreadable};
        let instead = |make: fn(&std::path::Path)| {
            let reports = reports(|top| {
                std::fs::remove_file(top.join("b")).unwrap();
                make(&top.join("b"));
            });
            let states: Vec<_> = reports.iter().map(|r| r.state).collect();
            assert_eq!(states, [Unproven, Unreadable, Unproven, Right, Right]);
            assert!(reports.iter().all(|r| (r.missing, r.damaged) == (0, 0)), "{reports:?}");
            reports[1].cause.clone().unwrap()
        };
        let pipe = instead(|at| {
            assert!(std::process::Command::new("mkfifo").arg(at).status().unwrap().success());
        });
        assert!(pipe.contains("neither a file nor a folder"), "{pipe}");
        let folder = instead(|at| std::fs::create_dir(at).unwrap());
        assert!(folder.contains("a folder stands"), "{folder}");
        let link = instead(|at| std::os::unix::fs::symlink("a", at).unwrap());
        assert!(link.contains("a symbolic link stands"), "{link}");
    }
}
