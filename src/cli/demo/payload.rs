//! The demo's files: generated, compared, and removed whatever happens.
//!
//! Owns one temporary folder. Blocking code; each loop looks at a flag, so that a signal ends it soon.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::rng::Rng;

/// Bytes generated or compared at once.
const CHUNK: usize = 1 << 20;
/// Bytes beyond the size that was asked for, so that the last piece is an odd one.
const ODD_BYTES: u64 = 12_345;
/// Attempts to remove the folder: a write that was under way may still make a file in it.
const REMOVALS: u32 = 20;

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct TempFolder(PathBuf);

impl TempFolder {
    /// Makes a folder of a new name in `parent`.
    pub fn new(parent: &Path, rng: &mut Rng) -> io::Result<Self> {
        let path = parent.join(format!("dhtget-demo-{}-{:08x}", std::process::id(), rng.u32()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.0) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        tracing::warn!(folder = %self.0.display(), "the demo's folder could not be removed");
    }
}

/// Name and length of each file: several, nested, one empty, one with a name that is not ASCII.
pub fn files(size: u64) -> Vec<(&'static str, u64)> {
    let (half, quarter) = (size / 2, size / 4);
    let rest = size - half - quarter + ODD_BYTES;
    vec![
        ("film.bin", half),
        ("folder/nested/deep.bin", quarter),
        ("folder/empty.txt", 0),
        ("grün ☂ 雨.bin", rest - ODD_BYTES.min(rest) / 2),
        ("letzte.bin", ODD_BYTES.min(rest) / 2),
    ]
}

/// Writes the files below `root` from a seeded stream. False where it was stopped.
pub fn generate(root: &Path, size: u64, rng: &mut Rng, stop: &AtomicBool) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK];
    for (name, length) in files(size) {
        let path = root.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = File::create_new(path)?;
        let mut left = length;
        while left > 0 {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let part = &mut chunk[..left.min(CHUNK as u64) as usize];
            rng.fill(part);
            file.write_all(part)?;
            left -= part.len() as u64;
        }
    }
    Ok(true)
}

/// What a comparison found.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many bytes, all the same.
    Same(u64),
    /// The first difference, in words.
    Different(String),
}

/// Compares every byte of every file below `source` with `copy`, and the lists of files.
pub fn compare(source: &Path, copy: &Path, size: u64, stop: &AtomicBool) -> io::Result<Verdict> {
    let wanted = files(size);
    let found = count_files(copy)?;
    if found != wanted.len() {
        return Ok(Verdict::Different(format!("{found} files arrived, {} were sent", wanted.len())));
    }
    let mut total = 0;
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    for (name, length) in wanted {
        let (mut a, mut b) = (File::open(source.join(name))?, File::open(copy.join(name))?);
        let mut at = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(Verdict::Different("stopped while comparing".to_owned()));
            }
            let (here, there) = (read_full(&mut a, &mut ours)?, read_full(&mut b, &mut theirs)?);
            if ours[..here] != theirs[..there] {
                return Ok(Verdict::Different(format!("{name} differs after byte {at}")));
            }
            at += here as u64;
            if here == 0 {
                break;
            }
        }
        if at != length {
            return Ok(Verdict::Different(format!("{name} has {at} bytes, {length} were generated")));
        }
        total += at;
    }
    Ok(Verdict::Same(total))
}

/// Fills `buffer` as far as the file goes.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match file.read(&mut buffer[at..])? {
            0 => break,
            n => at += n,
        }
    }
    Ok(at)
}

fn count_files(root: &Path) -> io::Result<usize> {
    let mut count = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                count += 1;
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_found_and_the_folder_goes_away() {
        let run = AtomicBool::new(false);
        let parent = tempfile::tempdir().unwrap();
        let folder = TempFolder::new(parent.path(), &mut Rng::from_u64(1)).unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let size = 3 << 20;
        for root in [&a, &b] {
            assert!(generate(root, size, &mut Rng::from_u64(2), &run).unwrap());
        }
        let same = compare(&a, &b, size, &run).unwrap();
        assert_eq!(same, Verdict::Same(size + ODD_BYTES));
        let mut bytes = fs::read(b.join("film.bin")).unwrap();
        bytes[1_200_000] ^= 1;
        fs::write(b.join("film.bin"), bytes).unwrap();
        let Verdict::Different(why) = compare(&a, &b, size, &run).unwrap() else { panic!() };
        assert_eq!(why, "film.bin differs after byte 1048576");
        fs::write(b.join("extra"), "").unwrap();
        assert!(matches!(compare(&a, &b, size, &run).unwrap(), Verdict::Different(_)));
        drop(folder);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn lengths_sum_up_at_every_size() {
        for size in [1, 2, 3, 1000, 1 << 30] {
            assert_eq!(files(size).iter().map(|f| f.1).sum::<u64>(), size + ODD_BYTES);
        }
    }
}
