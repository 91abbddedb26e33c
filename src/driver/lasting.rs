//! Files that outlive a power cut: written beside, synced, renamed, and the folder synced.
//!
//! Owns that order. Must not know what the files hold.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::Path;

/// Puts a file into its place by way of `temporary`, beside it: a power cut leaves the old one or the new one, and a failure
/// nothing new.
pub fn replace(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let result = write_synced(temporary, bytes).and_then(|()| fs::rename(temporary, path));
    if result.is_err() {
        let _ = fs::remove_file(temporary);
        return result;
    }
    sync_folder_of(path);
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a file's folder last.
pub fn sync_folder_of(path: &Path) {
    let Some(folder) = path.parent() else { return };
    match File::open(folder) {
        Ok(folder) => sync_folder(folder),
        Err(error) => tracing::debug!(%error, "cannot open a folder to sync it"),
    }
}

/// The same of an open folder. Some file systems cannot; then its names last as they can.
pub fn sync_folder(folder: impl AsFd) {
    if let Err(error) = rustix::fs::fsync(folder) {
        tracing::debug!(%error, "cannot sync a folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, temporary) = (dir.path().join("file"), dir.path().join("file.new"));
        for bytes in [b"one", b"two"] {
            replace(&temporary, &path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(replace(&temporary, &dir.path().join("taken"), b"x").is_err());
        assert!(!temporary.exists());
    }
}
