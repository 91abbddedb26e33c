//! Where a torrent's bytes lie on disk: safe paths, and byte ranges cut into files.
//!
//! Owns opening files below one folder without ever following a symbolic link out of it. Must not know
//! pieces under way, peers or threads.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::lasting;
use super::parts::{PARTS, Parts};
use super::transfer::Allocation;
use crate::wire::metainfo::{FileEntry, FileKind, Info};
use crate::wire::resume::Stamp;

/// Where one file lies.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    /// The torrent's own folder, where it has one, and those below it, joined by `/`.
    folders: Folders<'a>,
    name: &'a str,
    /// Bytes of the whole file.
    length: u64,
}

/// A folder at or below the target folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Folders<'a> {
    /// The torrent's own; none for the target folder itself.
    top: Option<&'a str>,
    below: &'a str,
}

impl<'a> Folders<'a> {
    fn components(self) -> impl Iterator<Item = &'a str> {
        self.top.into_iter().chain(self.below.split('/').filter(|component| !component.is_empty()))
    }

    /// The folder in which it lies; none above the target folder.
    fn up(self) -> Option<Self> {
        match (self.top, self.below) {
            (None, _) => None,
            (Some(_), "") => Some(Self { top: None, below: "" }),
            (top, below) => Some(Self { top, below: below.rsplit_once('/').map_or("", |(above, _)| above) }),
        }
    }
}

/// Part of a byte range that lies in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Which file, or [`PARTS`]; none for pads, which read as zeros and are not written.
    pub file: Option<usize>,
    /// Where in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What stands at a file's place before a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// Nothing.
    Nothing,
    /// A regular file, as it is.
    File(Stamp),
    /// Something that cannot be this file, in words.
    InTheWay(String),
}

impl Present {
    /// Whether these words, of a place that is taken, are about a file: that can be written over, and nothing else can.
    pub fn is_a_file(what: &str) -> bool {
        what.starts_with("a file")
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read what is there; nothing is created or resized.
    Look,
    /// To write; it is made where it is missing, and gets its full length.
    Write {
        /// All of it is about to be written: its length comes with that.
        whole: bool,
    },
}

/// The folder in which a file was opened last: the next one most likely lies there too.
#[derive(Debug, Default)]
pub struct Parent(Option<(usize, Option<OwnedFd>)>);

/// The files of one torrent at their place.
#[derive(Debug)]
pub struct Storage {
    folder: OwnedFd,
    root: PathBuf,
    name: String,
    files: Arc<[FileEntry]>,
    /// They lie in a folder of the torrent's name.
    multi_file: bool,
    /// Where bytes of files lie that are not fetched.
    parts: Option<Parts>,
    writable: bool,
    allocation: Allocation,
    /// It was said that room cannot be taken beforehand here.
    told: AtomicBool,
    /// Whose turn it is to write to a file.
    turns: [Mutex<()>; 8],
}

const PATIENT: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
const NEW_FILE: Mode = Mode::from_raw_mode(0o666);
const NEW_FOLDER: Mode = Mode::from_raw_mode(0o777);

impl Storage {
    /// Files below `folder`, which is created where it is missing, under `name` or the torrent's own name.
    pub fn for_download(folder: &Path, name: Option<&str>, info: &Info) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = name.unwrap_or(info.name());
        Self::open(folder, name, info, true)
    }

    /// The same, with files that get their length in this way.
    pub fn allocating(mut self, allocation: Allocation) -> Self {
        self.allocation = allocation;
        self
    }

    /// Files that stand at `path` already and are only read.
    pub fn in_place(path: &Path, info: &Info) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let name = path.file_name().and_then(|n| n.to_str());
        let name =
            name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a name"))?;
        Self::open(path.parent().unwrap_or(Path::new("/")), name, info, false)
    }

    fn open(folder: &Path, name: &str, info: &Info, writable: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            folder: fs::open(folder, flags, Mode::empty())?,
            root: folder.join(name),
            name: name.to_owned(),
            files: info.shared_files(),
            multi_file: info.is_multi_file(),
            parts: None,
            writable,
            allocation: Allocation::default(),
            told: AtomicBool::new(false),
            turns: Default::default(),
        })
    }

    /// The same, with some files left out of the target.
    pub fn with_parts(self, parts: Option<Parts>) -> Self {
        Self { parts, ..self }
    }

    /// What is left out of the target, if anything.
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// The name of the file or top folder, below the target folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file or top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many files there are, pads too.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file's byte range in the whole, if it is a file to write.
    pub fn range(&self, file: usize) -> Option<(u64, u64)> {
        let file = self.regular(file)?;
        Some((file.offset, file.length))
    }

    fn regular(&self, file: usize) -> Option<&FileEntry> {
        self.files.get(file).filter(|f| f.kind == FileKind::Regular)
    }

    /// Where a file to write lies.
    fn place(&self, file: usize) -> Option<Place<'_>> {
        let file = self.regular(file)?;
        let length = file.length;
        if !self.multi_file {
            return Some(Place { folders: Folders { top: None, below: "" }, name: &self.name, length });
        }
        let (below, name) = file.path.split();
        Some(Place { folders: Folders { top: Some(&self.name), below }, name, length })
    }

    /// A file's path, for messages.
    pub fn path(&self, file: usize) -> PathBuf {
        if let (PARTS, Some(parts)) = (file, &self.parts) {
            return parts.path();
        }
        let below = self.regular(file).filter(|_| self.multi_file);
        below.map_or_else(|| self.root.clone(), |file| self.root.join(file.path.as_str()))
    }

    /// Cuts a byte range into the files it lies in, in order; files of no bytes have no part in it.
    pub fn segments(&self, offset: u64, length: u64) -> impl Iterator<Item = Segment> + '_ {
        let first = self.files.partition_point(|f| f.offset + f.length <= offset);
        let end = offset + length;
        let touched = self.files.iter().enumerate().skip(first).take_while(move |(_, f)| f.offset < end);
        touched.filter(|(_, f)| f.length > 0).flat_map(move |(index, file)| {
            self.cut(index, file, offset.max(file.offset)..end.min(file.offset + file.length))
        })
    }

    /// Cuts a range of one file where it goes over to what is left out of the target, and back.
    fn cut<'a>(
        &'a self,
        index: usize,
        entry: &'a FileEntry,
        range: Range<u64>,
    ) -> impl Iterator<Item = Segment> + use<'a> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let left = range.end.checked_sub(at).filter(|&left| left > 0)?;
            let (held, run) = self.parts.as_ref().map_or((false, left), |parts| parts.hold(index, at));
            let length = run.min(left);
            let (file, offset) = if held { (PARTS, at) } else { (index, at - entry.offset) };
            at += length;
            Some(Segment { file: (entry.kind == FileKind::Regular).then_some(file), offset, length })
        })
    }

    fn open_parts(&self, create: bool) -> io::Result<File> {
        let total = self.files.last().map_or(0, |file| file.offset + file.length);
        self.parts.as_ref().ok_or(io::ErrorKind::NotFound)?.open(total, create)
    }

    /// Opens a file, making its folders and giving it its full length where it is writable.
    pub fn file(&self, index: usize) -> io::Result<File> {
        self.open_file(index, Access::Write { whole: false }, &mut Parent::default())
    }

    /// Opens a file to read what is there, changing nothing.
    pub fn file_as_it_is(&self, index: usize) -> io::Result<File> {
        self.open_file(index, Access::Look, &mut Parent::default())
    }

    /// Opens a file; `parent` spares the way down where the last one lay in the same folder.
    pub fn open_file(&self, index: usize, access: Access, parent: &mut Parent) -> io::Result<File> {
        if index == PARTS {
            return self.open_parts(self.writable && access != Access::Look);
        }
        let Place { folders, name, length } = self.place(index).ok_or(io::ErrorKind::NotFound)?;
        let access = if self.writable { access } else { Access::Look };
        let (flags, create) = match access {
            Access::Look => (OFlags::RDONLY | PATIENT, false),
            Access::Write { .. } => (OFlags::RDWR | OFlags::CREATE | PATIENT, true),
        };
        let kept = parent.0.take();
        let kept = kept.filter(|(other, _)| self.place(*other).is_some_and(|p| p.folders == folders));
        let was_kept = kept.is_some();
        let mut folder = match kept {
            Some((_, folder)) => folder,
            None => self.enter(folders, create)?,
        };
        let open = |folder: &Option<OwnedFd>| {
            fs::openat(folder.as_ref().unwrap_or(&self.folder), name, flags, NEW_FILE)
        };
        let mut opened = open(&folder);
        // The folder may have been taken away since.
        if was_kept && matches!(opened, Err(Errno::NOENT)) {
            folder = self.enter(folders, create)?;
            opened = open(&folder);
        }
        parent.0 = Some((index, folder));
        let file = File::from(opened?);
        if let Access::Write { whole } = access {
            self.fit(&file, length, whole)?;
        }
        Ok(file)
    }

    /// To be held while a file is written to: the system lets one write at a time, and whoever waits there keeps a core busy.
    pub fn turn(&self, index: usize) -> MutexGuard<'_, ()> {
        self.turns[index % self.turns.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a file its length, as far as it is to have it now.
    fn fit(&self, file: &File, length: u64, whole: bool) -> io::Result<()> {
        if whole && self.allocation != Allocation::Full {
            return Ok(());
        }
        let now = file.metadata()?.len();
        if now > length || (now < length && self.allocation == Allocation::Sparse) {
            return file.set_len(length);
        }
        if now == length || self.allocation == Allocation::None {
            return Ok(());
        }
        match fs::fallocate(file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let place = self.root.display();
                    tracing::warn!("{place}: this file system takes no room beforehand; files are sparse");
                }
                file.set_len(length)
            }
            other => Ok(other?),
        }
    }

    /// Looks at what stands at a file's place, without changing anything.
    pub fn look(&self, index: usize) -> io::Result<Present> {
        let Some(Place { folders, name, .. }) = self.place(index) else { return Ok(Present::Nothing) };
        let folder = match self.enter(folders, false) {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
            Err(e) => return Self::explain_folder(folders, e),
        };
        let folder = folder.as_ref().unwrap_or(&self.folder);
        let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Present::Nothing),
            Err(e) => return Err(e.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Present::File(stamp_of(&stat)),
            FileType::Directory => Present::InTheWay("a folder stands where a file must go".into()),
            FileType::Symlink => Present::InTheWay("a symbolic link stands in the way".into()),
            _ => Present::InTheWay("it is neither a file nor a folder".into()),
        })
    }

    fn explain_folder(folders: Folders<'_>, error: io::Error) -> io::Result<Present> {
        // ELOOP and ENOTDIR: a component of the path is a link or a file.
        let errno = Errno::from_io_error(&error);
        if matches!(errno, Some(Errno::LOOP | Errno::NOTDIR)) {
            let path: Vec<_> = folders.components().collect();
            let what = format!("`{}` is a file or a symbolic link, not a folder", path.join("/"));
            return Ok(Present::InTheWay(what));
        }
        Err(error)
    }

    /// Walks down from the target folder, one component at a time, so that no link is ever followed.
    fn enter(&self, folders: Folders<'_>, create: bool) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | PATIENT;
        let mut current: Option<OwnedFd> = None;
        for name in folders.components() {
            let parent = current.as_ref().unwrap_or(&self.folder);
            let next = match fs::openat(parent, name, flags, Mode::empty()) {
                Err(Errno::NOENT) if create => {
                    match fs::mkdirat(parent, name, NEW_FOLDER) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                    fs::openat(parent, name, flags, Mode::empty())?
                }
                other => other?,
            };
            current = Some(next);
        }
        Ok(current)
    }

    /// A file as it is; none where there is none.
    pub fn stamp(&self, index: usize) -> io::Result<Option<Stamp>> {
        // Whose bytes are kept elsewhere: what stands at its place says nothing of them.
        if self.parts.as_ref().is_some_and(|parts| parts.is_out(index)) {
            return Ok(None);
        }
        Ok(match self.look(index)? {
            Present::File(stamp) => Some(stamp),
            Present::Nothing | Present::InTheWay(_) => None,
        })
    }

    /// Makes the names of these files last, and those of the folders above them.
    pub fn sync_names(&self, files: &[usize]) -> io::Result<()> {
        let mut done = BTreeSet::new();
        for place in files.iter().filter_map(|&index| self.place(index)) {
            // From the file's own folder up, until one that another file has brought.
            for folders in std::iter::successors(Some(place.folders), |folders| folders.up()) {
                if !done.insert(folders) {
                    break;
                }
                match self.enter(folders, false) {
                    Ok(folder) => lasting::sync_folder(folder.as_ref().unwrap_or(&self.folder)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Makes everything last that was written to the target's file system; false where that is no single call.
    pub fn sync_everything(&self) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        {
            fs::syncfs(&self.folder)?;
            Ok(true)
        }
        #[cfg(not(target_os = "linux"))]
        Ok(false)
    }

    /// Bytes of the disk that stand behind a file, as far as it is to go; none where there is no such file.
    pub fn room_taken(&self, index: usize) -> Option<u64> {
        let Place { folders, name, length } = self.place(index)?;
        let folder = self.enter(folders, false).ok()?;
        let folder = folder.as_ref().unwrap_or(&self.folder);
        let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        // In this unit whatever the file system's own blocks are (POSIX leaves it open, all systems agree).
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        is_file.then(|| blocks.saturating_mul(512).min(length))
    }

    /// Bytes free for us on the target's file system; none where it does not tell.
    pub fn free_space(&self) -> Option<u64> {
        let stat = fs::fstatvfs(&self.folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[allow(clippy::unnecessary_cast, reason = "the widths differ from system to system")]
fn stamp_of(stat: &fs::Stat) -> Stamp {
    let nanoseconds = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Stamp {
        size: stat.st_size.max(0) as u64,
        mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::choice::{Choice, Pattern};
    use crate::wire::bencode::Writer;
    use proptest::prelude::*;

    fn info(files: &[(&str, u64)]) -> Info {
        let total: u64 = files.iter().map(|f| f.1).sum();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (path, length) in files {
            w.begin_dict();
            if path.is_empty() {
                w.bytes(b"attr").bytes(b"p");
            }
            w.bytes(b"length").int(*length as i64).bytes(b"path").begin_list();
            path.split('/').for_each(|c| {
                w.bytes(c.as_bytes());
            });
            w.end().end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(16384);
        w.bytes(b"pieces").bytes(&vec![0; 20 * total.div_ceil(16384) as usize]).end();
        Info::parse(out.into()).unwrap()
    }

    #[test]
    fn a_range_is_cut_at_files_and_pads() {
        let dir = tempfile::tempdir().unwrap();
        let info = info(&[("a", 10), ("empty", 0), ("", 6), ("d/b", 20)]);
        let storage = Storage::for_download(dir.path(), None, &info).unwrap();
        let cut: Vec<_> = storage.segments(5, 20).map(|s| (s.file, s.offset, s.length)).collect();
        assert_eq!(cut, [(Some(0), 5, 5), (None, 0, 6), (Some(3), 0, 9)]);
        assert_eq!(storage.segments(35, 1).collect::<Vec<_>>().len(), 1);
    }

    #[test]
    fn a_symlink_in_the_way_is_neither_followed_nor_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("top")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("top/d")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("x"), dir.path().join("top/a")).unwrap();
        let storage = Storage::for_download(dir.path(), None, &info(&[("a", 10), ("d/b", 20)])).unwrap();
        assert!(matches!(storage.look(0), Ok(Present::InTheWay(what)) if what.contains("symbolic link")));
        assert!(matches!(storage.look(1), Ok(Present::InTheWay(what)) if what.contains("symbolic link")));
        assert!(storage.file(0).is_err() && storage.file(1).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_get_their_length_as_they_are_told() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        const LENGTH: u64 = 1 << 20;
        for allocation in [Allocation::None, Allocation::Sparse, Allocation::Full] {
            let dir = tempfile::tempdir().unwrap();
            let storage = Storage::for_download(dir.path(), None, &info(&[("a", LENGTH)])).unwrap();
            let storage = storage.allocating(allocation);
            let file = storage.file(0).unwrap();
            file.write_all_at(b"something", 5000).unwrap();
            let found = file.metadata().unwrap();
            assert_eq!(found.len(), if allocation == Allocation::None { 5009 } else { LENGTH });
            let has_room = found.blocks() * 512 >= LENGTH;
            // Where the file system cannot do it, the file is sparse.
            let cannot = storage.told.load(Ordering::Relaxed);
            assert_eq!(has_room, allocation == Allocation::Full && !cannot, "{allocation:?}");
            file.set_len(LENGTH + 5).unwrap();
            assert_eq!(storage.file(0).unwrap().metadata().unwrap().len(), LENGTH, "{allocation:?}");
        }
    }

    #[test]
    fn files_get_their_folders_and_full_length() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/folder");
        let storage = Storage::for_download(&target, Some("other"), &info(&[("d/e/b", 20)])).unwrap();
        assert_eq!(storage.look(0).unwrap(), Present::Nothing);
        storage.file(0).unwrap();
        assert_eq!(storage.stamp(0).unwrap().map(|s| s.size), Some(20));
        assert_eq!(std::fs::metadata(target.join("other/d/e/b")).unwrap().len(), 20);
        std::fs::create_dir(dir.path().join("top")).unwrap();
        std::fs::create_dir(dir.path().join("top/d")).unwrap();
        let blocked = Storage::for_download(dir.path(), None, &info(&[("d", 20)])).unwrap();
        assert!(matches!(blocked.look(0), Ok(Present::InTheWay(what)) if what.contains("folder")));
    }

    proptest! {
        /// Any range of any files, any of them chosen: every byte is in one segment, in order, and lies where its file or
        /// the hidden one has it.
        #[test]
        fn every_byte_of_a_range_lies_in_one_place(
            files in prop::collection::vec((0u64..40_000, any::<bool>(), any::<bool>()), 1..12),
            (from, to) in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            // Pads are named by nothing; a torrent of no bytes is none.
            let names: Vec<String> = (0..files.len()).map(|n| format!("f{n}")).collect();
            let entries: Vec<(&str, u64)> = files.iter().zip(&names)
                .map(|((length, _, pad), name)| (if *pad { "" } else { name.as_str() }, *length)).collect();
            let total: u64 = entries.iter().map(|e| e.1).sum();
            prop_assume!(total > 0);
            let info = info(&entries);
            let chosen = |n: &usize| files[*n].1 && !files[*n].2;
            let patterns = (0..files.len()).filter(chosen).map(|n| Pattern::parse(&format!("{}", n + 1)).unwrap());
            let choice = Choice { files: patterns.collect(), ..Choice::default() };
            let chosen = choice.resolve(&info, false);
            prop_assume!(!choice.files.is_empty());
            let chosen = chosen.unwrap();
            let dir = tempfile::tempdir().unwrap();
            let parts = Parts::beside(dir.path().join("parts"), &info, &chosen);
            let storage = Storage::for_download(dir.path(), None, &info).unwrap().with_parts(parts);
            let touches_chosen = |at: u64| {
                let piece = at / 16384 * 16384..(at / 16384 + 1) * 16384;
                let overlaps = |f: &FileEntry| f.length > 0 && f.offset < piece.end && f.offset + f.length > piece.start;
                chosen.indices().any(|n| overlaps(&info.files()[n]))
            };
            let place = |at: u64| {
                let (n, file) = info.files().iter().enumerate().find(|(_, f)| at < f.offset + f.length).unwrap();
                if file.kind != FileKind::Regular {
                    (None, 0)
                } else if !chosen.has(n) && touches_chosen(at) {
                    (Some(PARTS), at)
                } else {
                    (Some(n), at - file.offset)
                }
            };
            let (from, to) = ((total as f64 * from.min(to)) as u64, (total as f64 * from.max(to)) as u64);
            let mut at = from;
            for segment in storage.segments(from, to - from) {
                prop_assert!(segment.length > 0);
                for step in [0, segment.length / 2, segment.length - 1] {
                    let (file, offset) = place(at + step);
                    prop_assert_eq!(segment.file, file);
                    prop_assert!(file.is_none() || segment.offset + step == offset);
                }
                at += segment.length;
            }
            prop_assert_eq!(at, to);
        }
    }
}
