//! Open files of the disk threads, bounded over the whole process.
//!
//! Owns one thread's share of them, least recently used first to go, and the folder it last was in. Must not
//! know pieces or jobs.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use rustix::process::{Resource, getrlimit};

use super::storage::{Access, Parent, Storage};

/// Files one thread keeps open: as many as a run of small pieces goes back to.
const OF_ONE_THREAD: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Files all threads of all transfers keep open; the rest of the descriptors is for sockets.
const OF_ALL: usize = 512;

/// Files that are open now.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// How many files may be open at once: five hundred and twelve, or a quarter of what the system allows the process. A
/// thread that has none open may open one in any case.
pub fn bound() -> usize {
    static BOUND: OnceLock<usize> = OnceLock::new();
    *BOUND.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| n as usize);
        OF_ALL.min(limit / 4).max(1)
    })
}

/// One open file's place among all.
#[derive(Debug)]
struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file that counts among all until nobody holds it, a socket that still sends from it included.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    _place: Option<Place>,
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl From<File> for OpenFile {
    /// One that counts for nothing.
    fn from(file: File) -> Self {
        Self { file, _place: None }
    }
}

/// What one thread holds open.
#[derive(Debug)]
pub struct Handles {
    /// By number, and whether it was opened only to be looked at.
    files: LruCache<(usize, bool), Arc<OpenFile>>,
    folder: Parent,
}

impl Default for Handles {
    fn default() -> Self {
        Self { files: LruCache::new(OF_ONE_THREAD), folder: Parent::default() }
    }
}

impl Handles {
    /// A file, opened if it is not.
    pub fn file(&mut self, storage: &Storage, index: usize, access: Access) -> io::Result<&Arc<OpenFile>> {
        let key = (index, access == Access::Look);
        if !self.files.contains(&key) {
            let place = self.place();
            let file = storage.open_file(index, access, &mut self.folder)?;
            self.files.put(key, Arc::new(OpenFile { file, _place: Some(place) }));
        }
        self.files.get(&key).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A place among all; where there is none, one of ours goes.
    fn place(&mut self) -> Place {
        loop {
            let free = |open: usize| (open < bound()).then_some(open + 1);
            if OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok() {
                return Place;
            }
            if self.files.pop_lru().is_none() {
                OPEN.fetch_add(1, Ordering::Relaxed);
                return Place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;
    use crate::wire::metainfo::Info;

    const FILES: usize = 5000;
    const THREADS: usize = 24;

    /// A torrent of many small files in folders.
    fn info() -> Info {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for index in 0..FILES {
            w.begin_dict().bytes(b"length").int(10).bytes(b"path").begin_list();
            w.bytes(format!("d{}", index / 100).as_bytes()).bytes(index.to_string().as_bytes()).end().end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(16384);
        w.bytes(b"pieces").bytes(&vec![0; 20 * (FILES * 10).div_ceil(16384)]).end();
        Info::parse(out.into()).unwrap()
    }

    fn open_below(folder: &std::path::Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|link| link.starts_with(folder) && link.extension().is_none()).count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn five_thousand_files_are_never_open_at_once_whatever_the_threads() {
        use std::sync::atomic::AtomicBool;
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::for_download(dir.path(), None, &info()).unwrap();
        let (most, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (storage, most, over) = (&storage, &most, &over);
                scope.spawn(move || {
                    let mut handles = Handles::default();
                    for step in 0..FILES / 8 {
                        let index = (step * 8 + thread) % FILES;
                        handles.file(storage, index, Access::Write { whole: false }).unwrap();
                        over.fetch_or(OPEN.load(Ordering::Relaxed) > bound() + THREADS, Ordering::Relaxed);
                    }
                    most.fetch_max(OPEN.load(Ordering::Relaxed), Ordering::Relaxed);
                });
            }
        });
        assert!(!over.load(Ordering::Relaxed), "more than {} files were open", bound());
        assert!(most.load(Ordering::Relaxed) > 300, "the bound was not put to the test");
        assert_eq!(open_below(dir.path()), 1, "the target folder alone stays open");
    }

    #[test]
    fn a_folder_that_was_taken_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::for_download(dir.path(), None, &info()).unwrap();
        let mut handles = Handles::default();
        let write = Access::Write { whole: false };
        handles.file(&storage, 0, write).unwrap();
        std::fs::remove_dir_all(dir.path().join("top")).unwrap();
        handles.file(&storage, 1, write).unwrap();
        assert!(dir.path().join("top/d0/1").exists());
    }
}
