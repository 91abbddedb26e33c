//! Files of private networks: read from anywhere, and kept in a folder under their names for the networks that were
//! joined.
//!
//! Owns their permissions: a file that may hold a key is made for its owner alone. Must not know what a network means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::lasting;
use crate::network::file::MAX_FILE;
use crate::network::{INVITE_PREFIX, InviteError, Keys, NetworkError, NetworkKey, PrivateNetwork};

/// What a file of a network ends with.
pub const EXTENSION: &str = "network";
/// Files of the folder that are looked at: nobody is a member of more networks.
const MAX_LISTED: usize = 1000;

/// Why a file gives no network.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It holds something else.
    #[error("{0}")]
    Network(#[from] NetworkError),
    /// It holds a line of text that should be an invite.
    #[error("{0}")]
    Invite(#[from] InviteError),
}

/// A network that was read from a file.
#[derive(Debug)]
pub struct Read {
    /// The network.
    pub network: PrivateNetwork,
    /// Its key can be read by others on this machine.
    pub exposed: bool,
}

/// Reads a file that holds a network, or an invite to one.
pub fn read(path: &Path) -> Result<Read, ReadError> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    // One more than allowed, so that a longer file is seen to be one.
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let network = parse(&bytes)?;
    let exposed = network.is_keyed() && meta.is_file() && meta.permissions().mode() & 0o077 != 0;
    Ok(Read { network, exposed })
}

/// A network out of the bytes of a file or of a pipe.
pub fn parse(bytes: &[u8]) -> Result<PrivateNetwork, ReadError> {
    let text = String::from_utf8_lossy(bytes);
    match text.trim_start().starts_with(INVITE_PREFIX) {
        true => Ok(PrivateNetwork::from_invite(&text)?),
        false => Ok(PrivateNetwork::parse(&text)?),
    }
}

/// Makes a file that must not be there.
pub fn create(path: &Path, network: &PrivateNetwork) -> io::Result<()> {
    let result = write_new(path, network).map(drop);
    // Half a file would be in the way of the next attempt.
    if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
        let _ = fs::remove_file(path);
    }
    lasting::sync_folder_of(path);
    result
}

/// What became of a network that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Yes,
    /// Another network has that name.
    Another,
    /// The key that is kept came after this one.
    Older,
    /// It has a key that has nothing to do with the one that is kept.
    Unrelated,
}

/// Whether a network that was kept may give way to what is said to be the same one.
fn compare(kept: &PrivateNetwork, new: &PrivateNetwork) -> Kept {
    if kept.id != new.id {
        return Kept::Another;
    }
    match (&kept.keys, &new.keys) {
        (None, None) => Kept::Yes,
        (Some(kept), Some(new)) => {
            let before = |keys: &Keys, key: &NetworkKey| keys.old.as_ref().is_some_and(|old| old.key == *key);
            match kept.current == new.current || before(new, &kept.current) {
                true => Kept::Yes,
                false if before(kept, &new.current) => Kept::Older,
                false => Kept::Unrelated,
            }
        }
        _ => Kept::Another,
    }
}

/// Makes a file, or puts it in the place of the one that is there: a power cut leaves the old one or the new one.
pub fn replace(path: &Path, network: &PrivateNetwork) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by a run of the same number that was cut off.
    let _ = fs::remove_file(&temporary);
    let written = write_new(&temporary, network).and_then(|file| keep_owner(path, &file));
    let result = written.and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
        return result;
    }
    lasting::sync_folder_of(path);
    Ok(())
}

/// Makes a file that only we can read.
fn write_new(path: &Path, network: &PrivateNetwork) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(network.to_toml().as_bytes())?;
    file.sync_all()?;
    Ok(file)
}

/// Gives a new file to whom the old one belongs: where an administrator changes the key, the service must still read it.
fn keep_owner(old: &Path, new: &File) -> io::Result<()> {
    let (Ok(old), ours) = (fs::metadata(old), new.metadata()?) else { return Ok(()) };
    if old.uid() != ours.uid() {
        unix::fs::fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    Ok(())
}

/// The folder of the networks that were joined.
#[derive(Debug, Clone)]
pub struct Networks {
    folder: PathBuf,
}

impl Networks {
    /// Below the folder of the user's configuration.
    pub fn below(config: &Path) -> Self {
        Self { folder: config.join("networks") }
    }

    /// Where the network of this name is, or would be.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{EXTENSION}"))
    }

    /// Keeps a network under its name. Where one of that name is kept, it gives way only to a later state of the same
    /// network, or, if that is `forced`, to any.
    pub fn keep(&self, network: &PrivateNetwork, forced: bool) -> Result<Kept, ReadError> {
        let path = self.path_of(&network.name);
        match read(&path) {
            Ok(other) if !forced => match compare(&other.network, network) {
                Kept::Yes => {}
                refused => return Ok(refused),
            },
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700).create(&self.folder)?;
        replace(&path, network)?;
        Ok(Kept::Yes)
    }

    /// The networks that are kept, by name, with those whose file is damaged.
    pub fn list(&self) -> io::Result<Vec<(PathBuf, Result<Read, ReadError>)>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let paths = entries.take(MAX_LISTED).filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == EXTENSION)).collect();
        paths.sort();
        Ok(paths.into_iter().map(|path| (path.clone(), read(&path))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn network(name: &str, seed: u64) -> PrivateNetwork {
        PrivateNetwork::new(name, true, &mut Rng::from_u64(seed)).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_for_their_owner_and_never_written_over_by_another_network() {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::below(dir.path());
        assert!(networks.list().unwrap().is_empty());
        let (mut corp, other) = (network("corp", 1), network("corp", 2));
        assert_eq!(networks.keep(&corp, false).unwrap(), Kept::Yes);
        let path = networks.path_of("corp");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(networks.keep(&other, false).unwrap(), Kept::Another);
        let before = corp.clone();
        corp.rotate(Some(7), &mut Rng::from_u64(3));
        assert_eq!(networks.keep(&corp, false).unwrap(), Kept::Yes);
        assert_eq!(networks.keep(&before, false).unwrap(), Kept::Older);
        let mut cut = corp.clone();
        cut.rotate(None, &mut Rng::from_u64(6));
        assert_eq!(networks.keep(&cut, false).unwrap(), Kept::Unrelated);
        let bare = PrivateNetwork { keys: None, ..corp.clone() };
        assert_eq!(networks.keep(&bare, false).unwrap(), Kept::Another);
        networks.keep(&network("lab", 4), false).unwrap();
        fs::write(networks.path_of("odd"), "x").unwrap();
        let listed = networks.list().unwrap();
        assert_eq!(listed.len(), 3);
        assert_eq!(listed[0].1.as_ref().unwrap().network, corp);
        assert!(listed[2].1.is_err());
        assert!(networks.keep(&network("odd", 5), true).is_err(), "what cannot be read is not written over");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3, "nothing temporary is left");
    }

    #[test]
    fn a_new_key_belongs_to_whom_the_old_one_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corp.network");
        let corp = network("corp", 1);
        create(&path, &corp).unwrap();
        // Only the administrator can give a file away.
        if rustix::process::geteuid().is_root() {
            unix::fs::chown(&path, Some(12_345), Some(54_321)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        replace(&path, &corp).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.uid(), before.gid(), 0o600), (after.uid(), after.gid(), mode(&path)));
        assert_ne!(before.ino(), after.ino());
    }

    #[test]
    fn a_file_that_others_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corp.network");
        create(&path, &network("corp", 1)).unwrap();
        assert_eq!((mode(&path), read(&path).unwrap().exposed), (0o600, false));
        assert!(create(&path, &network("corp", 2)).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap().exposed);
        let open = PrivateNetwork::new("open", false, &mut Rng::from_u64(9)).unwrap();
        fs::write(&path, open.to_invite()).unwrap();
        let read = read(&path).unwrap();
        assert!(read.network == open && !read.exposed);
        fs::write(&path, [0xff; 70_000]).unwrap();
        assert!(matches!(super::read(&path), Err(ReadError::Network(NetworkError::Large))));
    }
}
