//! Where the bytes of files lie that nobody asked for.
//!
//! A piece that is wanted may hold bytes of files that are not. They are kept in one hidden, sparse file beside the
//! claim, at the place they have in the whole, so that the piece can be served and verified again; no file appears at the
//! target that was not asked for. A stream keeps everything that way. Must not know threads or peers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{self, Mode, OFlags};

use super::choice::Chosen;
use crate::wire::metainfo::{FileKind, Info};

/// The number by which the hidden file goes among a torrent's files; no torrent has as many.
pub const PARTS: usize = usize::MAX;
/// Names tried for a temporary file before the folder is given up.
const MAX_NAMES: u32 = 100;

/// Which files have no place of their own, and where their bytes go.
#[derive(Debug)]
pub struct Parts {
    home: Home,
    /// For each file: it stays out of the target.
    out: Vec<AtomicBool>,
    /// Pieces that are wanted and touch such a file, as byte ranges in order. Bytes of such files outside are read where
    /// the file may stand all the same.
    wanted: Vec<Range<u64>>,
}

#[derive(Debug)]
enum Home {
    /// Below this path, made when it is first needed.
    Named(PathBuf),
    /// Gone from its folder already: it ends with the process.
    Unnamed(File),
}

impl Parts {
    /// For the files that are not chosen; none where all are.
    pub fn beside(path: PathBuf, info: &Info, chosen: &Chosen) -> Option<Self> {
        let regular = |n: usize| info.files()[n].kind == FileKind::Regular;
        let out: Vec<bool> = (0..info.files().len()).map(|n| regular(n) && !chosen.has(n)).collect();
        let layout = info.layout();
        let mut wanted: Vec<Range<u64>> = Vec::new();
        for file in chosen.indices().filter_map(|n| info.files().get(n)) {
            for piece in layout.touching(file.offset, file.length) {
                let begin = layout.offset(piece);
                let end = begin + u64::from(layout.len_of(piece));
                match wanted.last_mut().filter(|last| last.end >= begin) {
                    Some(last) => last.end = end,
                    None => wanted.push(begin..end),
                }
            }
        }
        let any = out.contains(&true);
        let out = out.into_iter().map(AtomicBool::new).collect();
        any.then_some(Self { home: Home::Named(path), out, wanted })
    }

    /// For every file, in a file of `folder` that has no name.
    pub fn unnamed(folder: &Path, info: &Info) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut attempt = 0;
        let file = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".dhtget-{}-{number}", std::process::id()));
            match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path)?;
                    break file;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < MAX_NAMES => attempt += 1,
                Err(e) => return Err(e),
            }
        };
        file.set_len(info.layout().total())?;
        let out = info.files().iter().map(|f| AtomicBool::new(f.kind == FileKind::Regular)).collect();
        let all = 0..info.layout().total();
        Ok(Self { home: Home::Unnamed(file), out, wanted: vec![all] })
    }

    /// Whether this byte of a file, as it stands in the whole, lies here; and how many bytes after it do the same.
    pub fn hold(&self, file: usize, offset: u64) -> (bool, u64) {
        if !self.is_out(file) {
            return (false, u64::MAX);
        }
        let at = self.wanted.partition_point(|r| r.end <= offset);
        match self.wanted.get(at) {
            Some(range) if range.start <= offset => (true, range.end - offset),
            Some(range) => (false, range.start - offset),
            None => (false, u64::MAX),
        }
    }

    /// Whether a file is kept out of the target.
    pub fn is_out(&self, file: usize) -> bool {
        self.out.get(file).is_some_and(|out| out.load(Ordering::Relaxed))
    }

    /// A file nobody asked for is there already, or is not this torrent's after all.
    pub fn set_out(&self, file: usize, out: bool) {
        if let Some(slot) = self.out.get(file) {
            slot.store(out, Ordering::Relaxed);
        }
    }

    /// Opens the hidden file; makes it where it may be made.
    pub fn open(&self, total: u64, create: bool) -> io::Result<File> {
        let path = match &self.home {
            Home::Unnamed(file) => return file.try_clone(),
            Home::Named(path) => path,
        };
        let access = if create { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(fs::open(path, flags, Mode::from_raw_mode(0o666))?);
        if create && file.metadata()?.len() != total {
            file.set_len(total)?;
        }
        Ok(file)
    }

    /// Whether the hidden file is there.
    pub fn exists(&self) -> bool {
        match &self.home {
            Home::Named(path) => path.symlink_metadata().is_ok_and(|meta| meta.is_file()),
            Home::Unnamed(_) => false,
        }
    }

    /// The hidden file's path, for messages.
    pub fn path(&self) -> PathBuf {
        match &self.home {
            Home::Named(path) => path.clone(),
            Home::Unnamed(_) => PathBuf::from("the temporary file"),
        }
    }
}
