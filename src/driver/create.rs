//! Makes the info dictionary of a file or folder that stands on this machine.
//!
//! Owns the walk, the choice of the piece length and the hashing on several threads. Blocking code: an
//! async caller gives it a thread. Memory is a few read buffers a thread and the hashes. What changes while
//! it is read is an error, never a torrent that nobody can verify. Must not know peers or the DHT.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use thiserror::Error;

use super::lanes::{self, Groups, Hasher, LANES, Lane};
use crate::wire::bencode::Writer;
use crate::wire::metainfo::{
    Info, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_PATH_DEPTH, MAX_PIECES, MetainfoError, PieceIndex,
    PieceLayout,
};

/// Pieces a torrent should have: enough for peers to trade, few enough for small metadata (30 KB).
const PIECES_AIM: u64 = 1500;
/// Shorter pieces would be less than one block.
const MIN_PIECE_LENGTH: u64 = 16 << 10;
/// Longer pieces would be verified and shared on too late.
const MAX_PIECE_LENGTH: u64 = 16 << 20;
/// Files of one torrent: more would pass the token limit of every reader.
const MAX_FILES: usize = 400_000;
/// Bytes of a piece read at once: hashed while those of all lanes are in cache.
const READ_BYTES: usize = 128 << 10;
/// Threads that hash: past this, disks and memory buses are the limit.
const MAX_THREADS: usize = 16;

/// Why no torrent can be made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The file or folder cannot be read.
    #[error("{}: {cause}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        cause: io::Error,
    },
    /// Neither a file nor a folder.
    #[error("{}: neither a file nor a folder", .0.display())]
    Kind(PathBuf),
    /// A folder without any file, or only files without a byte.
    #[error("{}: there is nothing to share in it, not one byte", .0.display())]
    Empty(PathBuf),
    /// `/` and the like.
    #[error("{}: it has no name that a torrent could carry", .0.display())]
    NoName(PathBuf),
    /// A name that readers would have to change.
    #[error("{}: {why}", path.display())]
    Name {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Over a bound of the format.
    #[error("{}: {what}", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// Which bound.
        what: String,
    },
    /// Someone wrote to it meanwhile.
    #[error("{}: the file changed while it was read", .0.display())]
    Changed(PathBuf),
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The dictionary that was made is refused by our own reader.
    #[error("the torrent that was made cannot be read back: {0}")]
    Metainfo(#[from] MetainfoError),
}

/// One file found, as it was when it was found.
#[derive(Debug, Clone)]
struct Found {
    /// Below the root, joined by `/`; empty where the root is the file.
    below: Box<str>,
    length: u64,
    offset: u64,
    modified: Option<SystemTime>,
}

/// A file or folder that can become a torrent.
#[derive(Debug, Clone)]
pub struct Content {
    root: PathBuf,
    name: String,
    multi_file: bool,
    files: Vec<Found>,
    layout: PieceLayout,
    skipped: Vec<PathBuf>,
}

impl Content {
    /// Walks `path` in the order of names. Symbolic links below it are skipped and listed, because what
    /// they point to may lie anywhere; `path` itself may be one.
    pub fn scan(path: &Path) -> Result<Self, CreateError> {
        let root = fs::canonicalize(path).map_err(|cause| read_error(path, cause))?;
        let name = match path.file_name() {
            Some(name) => name.to_owned(),
            None => root.file_name().ok_or_else(|| CreateError::NoName(root.clone()))?.to_owned(),
        };
        let name = name.to_str().ok_or_else(|| bad_name(path, "its name is not UTF-8"))?.to_owned();
        check_name(path, &name)?;
        let meta = fs::metadata(&root).map_err(|cause| read_error(&root, cause))?;
        let mut skipped = Vec::new();
        let mut files = if meta.is_dir() {
            walk(&root, &mut skipped)?
        } else if meta.is_file() {
            vec![found(String::new(), &meta)]
        } else {
            return Err(CreateError::Kind(root));
        };
        files.sort_by(|a, b| a.components().cmp(b.components()));
        let mut total = 0u64;
        for file in &mut files {
            file.offset = total;
            total = total.saturating_add(file.length);
        }
        if total == 0 {
            return Err(CreateError::Empty(root));
        }
        let layout = PieceLayout::new(total, piece_length_for(total)).map_err(|_| CreateError::TooMuch {
            path: root.clone(),
            what: format!("{total} bytes need more than {MAX_PIECES} pieces"),
        })?;
        Ok(Self { multi_file: meta.is_dir(), root, name, files, layout, skipped })
    }

    /// Where the data stands, without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The torrent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.layout.total()
    }

    /// Symbolic links, sockets and devices that were left out.
    pub fn skipped(&self) -> &[PathBuf] {
        &self.skipped
    }

    /// Hashes everything with as many threads as there are cores and returns the info dictionary.
    /// `progress` is told the bytes done and in all, from any thread; `cancel` ends it soon.
    pub fn hash(
        &self,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Info, CreateError> {
        let count = self.layout.count();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(MAX_THREADS).min(count as usize).max(1);
        let job = Hashing {
            content: self,
            groups: Groups::new(count, threads),
            done: AtomicU64::new(0),
            hashes: Mutex::new(vec![0; count as usize * 20]),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            progress,
            cancel,
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| job.work());
            }
            job.work();
        });
        if let Some(error) = job.failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(error);
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(CreateError::Cancelled);
        }
        self.check_unchanged()?;
        let hashes = job.hashes.into_inner().unwrap_or_else(|e| e.into_inner());
        self.info(&hashes)
    }

    fn check_unchanged(&self) -> Result<(), CreateError> {
        for file in &self.files {
            let path = file.path(&self.root);
            let meta = fs::symlink_metadata(&path).map_err(|cause| read_error(&path, cause))?;
            if !file.is_still(&meta) {
                return Err(CreateError::Changed(path));
            }
        }
        Ok(())
    }

    /// Writes the dictionary with sorted keys (BEP 3) and reads it back as a peer would.
    fn info(&self, hashes: &[u8]) -> Result<Info, CreateError> {
        let mut raw = Vec::with_capacity(hashes.len() + 256);
        let mut w = Writer::new(&mut raw);
        w.begin_dict();
        if self.multi_file {
            w.bytes(b"files").begin_list();
            for file in &self.files {
                w.begin_dict().bytes(b"length").int(file.length as i64).bytes(b"path").begin_list();
                for component in file.components() {
                    w.bytes(component.as_bytes());
                }
                w.end().end();
            }
            w.end();
        } else {
            w.bytes(b"length").int(self.total() as i64);
        }
        w.bytes(b"name").bytes(self.name.as_bytes());
        w.bytes(b"piece length").int(i64::from(self.layout.piece_length()));
        w.bytes(b"pieces").bytes(hashes).end();
        if raw.len() > MAX_METADATA_BYTES {
            return Err(CreateError::TooMuch {
                path: self.root.clone(),
                what: format!("its metadata has {} bytes, peers accept {MAX_METADATA_BYTES}", raw.len()),
            });
        }
        Ok(Info::parse(raw.into())?)
    }
}

impl Found {
    fn path(&self, root: &Path) -> PathBuf {
        // Nothing joined to a path would end it with a slash.
        if self.below.is_empty() { root.to_owned() } else { root.join(&*self.below) }
    }

    fn components(&self) -> impl Iterator<Item = &str> {
        self.below.split('/')
    }

    fn is_still(&self, meta: &Metadata) -> bool {
        meta.is_file() && meta.len() == self.length && meta.modified().ok() == self.modified
    }
}

/// The power of two that cuts `total` bytes into about 1500 pieces.
pub fn piece_length_for(total: u64) -> u64 {
    total.div_ceil(PIECES_AIM).clamp(1, MAX_PIECE_LENGTH).next_power_of_two().max(MIN_PIECE_LENGTH)
}

fn read_error(path: &Path, cause: io::Error) -> CreateError {
    CreateError::Read { path: path.to_owned(), cause }
}

fn bad_name(path: &Path, why: &'static str) -> CreateError {
    CreateError::Name { path: path.to_owned(), why }
}

/// A name that a reader would change could not be found again when a peer asks for its bytes.
fn check_name(path: &Path, name: &str) -> Result<(), CreateError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(bad_name(path, "its name is too long for a torrent (240 bytes)"));
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || c == char::REPLACEMENT_CHARACTER) {
        return Err(bad_name(
            path,
            "its name has a backslash or a control character, which torrents cannot carry",
        ));
    }
    Ok(())
}

fn found(below: String, meta: &Metadata) -> Found {
    Found { below: below.into(), length: meta.len(), offset: 0, modified: meta.modified().ok() }
}

fn walk(root: &Path, skipped: &mut Vec<PathBuf>) -> Result<Vec<Found>, CreateError> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, above, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|cause| read_error(&folder, cause))? {
            let entry = entry.map_err(|cause| read_error(&folder, cause))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|cause| read_error(&path, cause))?;
            if !kind.is_dir() && !kind.is_file() {
                skipped.push(path);
                continue;
            }
            let name =
                entry.file_name().into_string().map_err(|_| bad_name(&path, "its name is not UTF-8"))?;
            check_name(&path, &name)?;
            let below = if depth == 0 { name } else { format!("{above}/{name}") };
            if depth >= MAX_PATH_DEPTH || files.len() + folders.len() >= MAX_FILES {
                let what = format!("more than {MAX_PATH_DEPTH} folders deep or {MAX_FILES} files");
                return Err(CreateError::TooMuch { path, what });
            }
            if kind.is_dir() {
                folders.push((path, below, depth + 1));
            } else {
                let meta = entry.metadata().map_err(|cause| read_error(&path, cause))?;
                files.push(found(below, &meta));
            }
        }
    }
    skipped.sort();
    Ok(files)
}

/// What the hashing threads share.
struct Hashing<'a> {
    content: &'a Content,
    groups: Groups,
    done: AtomicU64,
    hashes: Mutex<Vec<u8>>,
    failure: Mutex<Option<CreateError>>,
    failed: AtomicBool,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    cancel: &'a AtomicBool,
}

impl Hashing<'_> {
    /// One thread: takes the next pieces until there are none.
    fn work(&self) {
        let reader = || Reader { content: self.content, open: None, buffer: vec![0; READ_BYTES] };
        let mut readers: [Reader<'_>; LANES] = std::array::from_fn(|_| reader());
        loop {
            let group = self.groups.take();
            let pieces: Vec<PieceIndex> = group.filter_map(|n| self.content.layout.piece(n)).collect();
            if pieces.is_empty() {
                return;
            }
            match self.pieces(&mut readers, &pieces) {
                Ok(found) => {
                    let mut hashes = self.hashes.lock().unwrap_or_else(|e| e.into_inner());
                    for (piece, hash) in pieces.iter().zip(found) {
                        hashes[piece.at() * 20..][..20].copy_from_slice(&hash);
                    }
                }
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    self.failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// The hashes of these pieces, which are read a part of each in turn.
    fn pieces(
        &self,
        readers: &mut [Reader<'_>],
        pieces: &[PieceIndex],
    ) -> Result<Vec<[u8; 20]>, CreateError> {
        let layout = &self.content.layout;
        let mut hashers = vec![Hasher::default(); pieces.len()];
        let range = |piece: &PieceIndex| {
            let offset = layout.offset(*piece);
            (offset, offset + u64::from(layout.len_of(*piece)))
        };
        let mut left: Vec<(u64, u64)> = pieces.iter().map(range).collect();
        while left.iter().any(|(at, end)| at < end) {
            if self.cancel.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
                return Err(CreateError::Cancelled);
            }
            let (mut lanes, mut read) = (Vec::with_capacity(LANES), 0);
            for ((hasher, reader), (at, end)) in hashers.iter_mut().zip(&mut *readers).zip(&mut left) {
                if at < end {
                    let bytes = reader.read(*at, *end)?;
                    *at += bytes.len() as u64;
                    read += bytes.len() as u64;
                    lanes.push(Lane::new(hasher, [bytes]));
                }
            }
            lanes::hash(lanes);
            let done = self.done.fetch_add(read, Ordering::Relaxed) + read;
            (self.progress)(done, layout.total());
        }
        Ok(hashers.into_iter().map(Hasher::finish).collect())
    }
}

/// Reads the files as one run of bytes; keeps the last file open.
struct Reader<'a> {
    content: &'a Content,
    open: Option<(usize, File)>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// Some bytes from `at` on, at least one, none past `end` or past the file that holds `at`.
    fn read(&mut self, at: u64, end: u64) -> Result<&[u8], CreateError> {
        // The last file that begins at or before `at`: empty files share their offset with what follows.
        let files = &self.content.files;
        let index = files.partition_point(|f| f.offset <= at).saturating_sub(1);
        let file = &files[index];
        let path = || file.path(&self.content.root);
        let read_error = |cause| read_error(&path(), cause);
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            let handle = File::open(path()).map_err(read_error)?;
            if !file.is_still(&handle.metadata().map_err(read_error)?) {
                return Err(CreateError::Changed(path()));
            }
            self.open = Some((index, handle));
        }
        let (start, wanted) = (at - file.offset, (end - at).min(file.offset + file.length - at));
        let wanted = wanted.min(READ_BYTES as u64) as usize;
        let Some((_, handle)) = &self.open else { return Err(CreateError::Changed(path())) };
        let buffer = &mut self.buffer[..wanted];
        match handle.read_exact_at(buffer, start) {
            Ok(()) => Ok(buffer),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(CreateError::Changed(path())),
            Err(e) => Err(read_error(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::{Digest as _, Sha1};

    fn make(path: &Path) -> Result<Info, CreateError> {
        Content::scan(path)?.hash(&|_, _| {}, &AtomicBool::new(false))
    }

    fn random(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        crate::rng::Rng::from_u64(seed).fill(&mut bytes);
        bytes
    }

    fn assert_hashes(info: &Info, all: &[u8]) {
        assert_eq!(info.layout().total(), all.len() as u64);
        for piece in info.layout().pieces() {
            let start = info.layout().offset(piece) as usize;
            let bytes = &all[start..start + info.layout().len_of(piece) as usize];
            assert_eq!(
                info.piece_hash(piece),
                <[u8; 20]>::from(Sha1::digest(bytes)),
                "piece {}",
                piece.get()
            );
        }
    }

    #[test]
    fn piece_lengths_follow_the_size() {
        const MIB: u64 = 1 << 20;
        for (total, wanted) in [
            (1, 16 << 10),
            (20 * MIB, 16 << 10),
            (256 * MIB, 256 << 10),
            (600 * MIB, 512 << 10),
            (1024 * MIB, MIB),
            (4096 * MIB, 4 * MIB),
            (1 << 40, 16 * MIB),
            (u64::MAX, 16 * MIB),
        ] {
            assert_eq!(piece_length_for(total), wanted, "{total}");
        }
    }

    #[test]
    fn a_single_file_hashes_as_it_would_sequentially() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = random(3 * 16_384 + 777, 1);
        fs::write(dir.path().join("one.bin"), &bytes).unwrap();
        let info = make(&dir.path().join("one.bin")).unwrap();
        assert_eq!((info.name(), info.is_multi_file(), info.layout().count()), ("one.bin", false, 4));
        assert_hashes(&info, &bytes);
    }

    #[test]
    fn a_folder_is_walked_in_order_and_links_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("folder");
        fs::create_dir_all(root.join("b/deep")).unwrap();
        fs::create_dir(root.join("empty folder")).unwrap();
        let parts = [("a", 5), ("b/deep/ü.bin", 40_000), ("b/zero", 0), ("c", 70_001)];
        let mut all = Vec::new();
        for (i, (name, length)) in parts.iter().enumerate() {
            let bytes = random(*length, i as u64);
            fs::write(root.join(name), &bytes).unwrap();
            all.extend(bytes);
        }
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let content = Content::scan(&root.join(".")).unwrap();
        assert_eq!(content.skipped().len(), 1);
        let last = AtomicU64::new(0);
        let progress = |done, _| {
            last.fetch_max(done, Ordering::Relaxed);
        };
        let info = content.hash(&progress, &AtomicBool::new(false)).unwrap();
        assert_eq!((info.name(), last.into_inner()), ("folder", 110_006));
        let files: Vec<_> = info.files().iter().map(|f| (f.path.to_string(), f.length as usize)).collect();
        assert_eq!(files, parts.map(|(name, length)| (name.to_owned(), length)));
        assert_hashes(&info, &all);
    }

    #[test]
    fn what_cannot_be_shared_says_why() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(matches!(make(&at("absent")), Err(CreateError::Read { .. })));
        fs::create_dir(at("none")).unwrap();
        assert!(matches!(make(&at("none")), Err(CreateError::Empty(_))));
        fs::write(at("zero"), "").unwrap();
        assert!(matches!(make(&at("zero")), Err(CreateError::Empty(_))));
        assert!(matches!(Content::scan(Path::new("/")), Err(CreateError::NoName(_))));
        for name in [&b"bad\xff"[..], b"bad\\", b"bad\n"] {
            let bad = dir.path().join(std::ffi::OsStr::from_bytes(name));
            fs::write(&bad, "x").unwrap();
            let error = make(dir.path()).unwrap_err();
            assert!(
                matches!(&error, CreateError::Name { .. }) && error.to_string().contains("/bad"),
                "{error}"
            );
            fs::remove_file(bad).unwrap();
        }
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, random(100_000, 1)).unwrap();
        let content = Content::scan(&path).unwrap();
        fs::write(&path, random(90_000, 2)).unwrap();
        let error = content.hash(&|_, _| {}, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, CreateError::Changed(_)), "{error}");
    }

    #[test]
    fn it_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), random(100_000, 1)).unwrap();
        let content = Content::scan(dir.path()).unwrap();
        assert!(matches!(content.hash(&|_, _| {}, &AtomicBool::new(true)), Err(CreateError::Cancelled)));
    }
}
