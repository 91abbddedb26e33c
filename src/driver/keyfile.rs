//! The file of a secret key: made once, for its owner's eyes only.
//!
//! Owns the format (64 hex digits of an Ed25519 seed) and the file's permissions. Must not know what is
//! signed with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::SigningKey;
use thiserror::Error;

use super::clock;

/// The longest file: digits and a line end take 65, some editors leave more blanks.
const MAX_BYTES: u64 = 256;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key file {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is no key file: it should hold 64 hex digits", path.display())]
    Shape {
        /// Which.
        path: PathBuf,
    },
}

/// Reads the key, or makes one where there is no such file; true if it was made.
pub fn load_or_create(path: &Path) -> Result<(SigningKey, bool), KeyError> {
    let io_error = |source| KeyError::Io { path: path.to_owned(), source };
    match File::open(path) {
        Ok(file) => read(file, path).map(|key| (key, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seed = clock::entropy_seed().map_err(io_error)?;
            create(path, &seed).map_err(io_error)?;
            Ok((SigningKey::from_bytes(&seed), true))
        }
        Err(error) => Err(io_error(error)),
    }
}

fn read(file: File, path: &Path) -> Result<SigningKey, KeyError> {
    let mut text = String::new();
    // One more than allowed, so that a longer file is seen to be one.
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(KeyError::Shape { path: path.to_owned() });
    }
    let seed = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok().and_then(|s| s.try_into().ok());
    seed.map(|s| SigningKey::from_bytes(&s)).ok_or_else(|| KeyError::Shape { path: path.to_owned() })
}

/// Written beside, synced, then given its name, which must be free: whoever finds a file finds a whole key.
fn create(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by a run of the same number that was cut off.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let result = write(&temporary, seed).and_then(|()| match fs::hard_link(&temporary, path) {
        // A file system without links, such as a stick's: the name was free a moment ago.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.try_exists()? => {
            fs::rename(&temporary, path)
        }
        linked => linked,
    });
    let _ = fs::remove_file(&temporary);
    result
}

fn write(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{}", HEXLOWER.encode(seed))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let (key, made) = load_or_create(&path).unwrap();
        let (again, made_again) = load_or_create(&path).unwrap();
        assert!(made && !made_again && key.to_bytes() == again.to_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        assert!(create(&path, &[1; 32]).is_err(), "a key is never replaced");
        assert_eq!(load_or_create(&path).unwrap().0.to_bytes(), key.to_bytes());
        let long = format!("{}{}", HEXLOWER.encode(&[1; 32]), "\n".repeat(300));
        std::fs::write(&path, long).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Shape { .. })));
        std::fs::write(&path, "hello").unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyError::Shape { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        assert!(matches!(load_or_create(&path.join("below")), Err(KeyError::Io { .. })));
    }
}
