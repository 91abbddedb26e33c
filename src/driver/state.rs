//! What a node keeps across restarts: its id, the contacts that answered, and what strangers entrusted to it.
//!
//! Owns one file and its format. A damaged file is reported and ignored: a node without memory starts
//! slower, nothing else.

mod stored;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use super::{clock, lasting};
use crate::dht::config::MAX_REMEMBERED;
use crate::dht::{Snapshot, Stored};
use crate::id::{Id160, NodeId};
use crate::rng::Rng;
use crate::wire::bencode::{Limits, Value};
use crate::wire::compact::{self, Contact};

/// The file's name in the state directory.
pub const FILE_NAME: &str = "dht.state";
/// Who holds a lock on this file owns the id.
const LOCK_NAME: &str = "dht.lock";
/// A file larger than this is none of ours: what is stored for others is cut before it comes near.
const MAX_FILE: u64 = 64 << 20;
/// Contacts of each family that are saved: more than a start can use.
const MAX_CONTACTS: usize = 256;
const FORMAT: i64 = 1;
/// Where a damaged file is kept, for whoever wants to know what happened.
const BAD_NAME: &str = "dht.state.bad";
/// What a file of ours can be: items stand four levels deep and have at most fourteen values each, swarms five.
const SHAPE: Limits = Limits { depth: 8, tokens: 8_000_000 };

/// An id and contacts of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedNodes {
    /// The node's id.
    pub id: NodeId,
    /// Nodes that answered, both families, most trusted first.
    pub contacts: Vec<Contact>,
    /// What strangers entrusted to it; ages are as of now, whenever that is read.
    pub stored: Stored,
}

impl SavedNodes {
    /// What is worth keeping of a node.
    pub fn new(snapshot: Snapshot, stored: Stored) -> Self {
        let family = |nodes: Vec<Contact>| nodes.into_iter().take(MAX_CONTACTS);
        let mut contacts: Vec<_> = family(snapshot.nodes_v4).chain(family(snapshot.nodes_v6)).collect();
        // Members that have no place in the tables, or were lost: theirs may be the half of the network that is left.
        let mut others = snapshot.remembered;
        others.retain(|c| contacts.iter().all(|known| known.addr != c.addr));
        contacts.extend(others.into_iter().take(MAX_REMEMBERED));
        Self { id: snapshot.id, contacts, stored }
    }

    /// Whether nobody has answered: an earlier run's memory is worth more then.
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }
}

/// Why there is nothing to start from.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error("cannot read the saved nodes: {0}")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("the saved nodes are damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: i64,
    id: ByteBuf,
    nodes: ByteBuf,
    nodes6: ByteBuf,
    saved_unix_s: u64,
    #[serde(default)]
    announced: Vec<stored::Swarm>,
    #[serde(default)]
    items: Vec<stored::StoredItem>,
}

/// Reads what was saved; nothing where there is no file, and, with a warning, where it is unusable. A
/// damaged file that is `ours` is put aside, where the next save does not replace it.
fn load(dir: &Path, ours: bool) -> Option<SavedNodes> {
    match try_load(dir) {
        Ok(saved) => saved,
        Err(error) => {
            let file = dir.join(FILE_NAME);
            tracing::warn!(file = %file.display(), "{error}; starting without them");
            if ours && matches!(error, StateError::Damaged(_)) {
                match fs::rename(&file, dir.join(BAD_NAME)) {
                    Ok(()) => tracing::warn!("the damaged file is kept as {BAD_NAME}"),
                    Err(error) => tracing::warn!("the damaged file stays where it is: {error}"),
                }
            }
            None
        }
    }
}

/// Reads what was saved, if anything.
fn try_load(dir: &Path) -> Result<Option<SavedNodes>, StateError> {
    let file = match File::open(dir.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    decode(&bytes).map(Some).map_err(StateError::Damaged)
}

fn decode(bytes: &[u8]) -> Result<SavedNodes, String> {
    if bytes.len() as u64 > MAX_FILE {
        return Err("too large".into());
    }
    // The deserialiser recurses: what nests deeper than our own files must not reach it.
    Value::parse(bytes, SHAPE).map_err(|e| e.to_string())?;
    let disk: OnDisk = serde_bencode::from_bytes(bytes).map_err(|e| e.to_string())?;
    if disk.format != FORMAT {
        return Err(format!("format {} is not known", disk.format));
    }
    let id = Id160::from_slice(&disk.id).ok_or("the id has not 20 bytes")?;
    let contacts = compact::nodes_v4(&disk.nodes).chain(compact::nodes_v6(&disk.nodes6)).collect();
    let asleep = clock::unix_time().saturating_sub(Duration::from_secs(disk.saved_unix_s));
    let stored = stored::decode(&disk.announced, disk.items, asleep);
    Ok(SavedNodes { id, contacts, stored })
}

/// Writes beside the old file, syncs, and puts it in its place.
fn save(dir: &Path, saved: &SavedNodes) -> io::Result<()> {
    let (mut nodes, mut nodes6) = (Vec::new(), Vec::new());
    for contact in &saved.contacts {
        compact::write_node(contact, if contact.addr.is_ipv4() { &mut nodes } else { &mut nodes6 });
    }
    let (announced, items) = stored::encode(&saved.stored);
    let disk = OnDisk {
        announced,
        items,
        format: FORMAT,
        id: ByteBuf::from(saved.id.as_bytes().as_slice()),
        nodes: ByteBuf::from(nodes),
        nodes6: ByteBuf::from(nodes6),
        saved_unix_s: clock::unix_time().as_secs(),
    };
    let bytes = serde_bencode::to_bytes(&disk).map_err(io::Error::other)?;
    fs::create_dir_all(dir)?;
    // The process id keeps two runs in one directory from writing into each other's file.
    let temporary = dir.join(format!("{FILE_NAME}.{}.tmp", std::process::id()));
    lasting::replace(&temporary, &dir.join(FILE_NAME), &bytes)
}

/// A state folder as one run uses it.
///
/// Each network has a folder of its own, so that a private one never learns of the public one's nodes. The
/// first run to come holds its id; another one beside it borrows the contacts and saves nothing.
#[derive(Debug)]
pub struct StateFolder {
    dir: PathBuf,
    lock: Lock,
}

/// Whose a node id is.
#[derive(Debug)]
enum Lock {
    /// This run's, for as long as the file is open.
    Held { _file: File },
    /// Another run's.
    Elsewhere,
    /// Nobody's: the system gives no lock here.
    Impossible,
}

impl Lock {
    fn take(dir: &Path) -> Self {
        let file = fs::create_dir_all(dir).and_then(|()| File::create(dir.join(LOCK_NAME)));
        let lock = file.and_then(|file| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        match lock {
            Ok(file) => Self::Held { _file: file },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!(dir = %dir.display(), "another run holds the node id");
                Self::Elsewhere
            }
            Err(error) => {
                tracing::warn!("nothing can be kept in the state folder {}: {error}", dir.display());
                Self::Impossible
            }
        }
    }
}

impl StateFolder {
    /// Where the public network, or the one with these entry points, has its place below `dir`.
    pub fn path(dir: &Path, network: Option<&[String]>) -> PathBuf {
        match network {
            None => dir.to_owned(),
            Some(entries) => {
                let mut entries = entries.to_vec();
                entries.sort();
                let digest: [u8; 20] = Sha1::digest(entries.join("\n")).into();
                dir.join(format!("network-{}", HEXLOWER.encode(&digest[..4])))
            }
        }
    }

    /// Addresses that an earlier run of that network has saved, the most trusted first; a damaged file holds none.
    pub fn contacts(dir: &Path, network: Option<&[String]>) -> Vec<SocketAddr> {
        let saved = try_load(&Self::path(dir, network)).ok().flatten().unwrap_or_default();
        saved.contacts.into_iter().map(|contact| contact.addr).collect()
    }

    /// The folder of the public network, or that of the network with these entry points.
    pub fn open(dir: &Path, network: Option<&[String]>) -> Self {
        let dir = Self::path(dir, network);
        let lock = Lock::take(&dir);
        Self { dir, lock }
    }

    /// Whether another run holds the id: this one saves nothing.
    pub fn is_guest(&self) -> bool {
        matches!(self.lock, Lock::Elsewhere)
    }

    fn is_ours(&self) -> bool {
        matches!(self.lock, Lock::Held { .. })
    }

    /// What an earlier run saved; for a guest, its contacts under an id of our own.
    pub fn load(&self, rng: &mut Rng) -> Option<SavedNodes> {
        let mut saved = load(&self.dir, self.is_ours())?;
        if !self.is_ours() {
            saved.id = Id160::random(rng);
        }
        Some(saved)
    }

    /// Saves, unless another run does.
    pub fn store(&self, saved: &SavedNodes) {
        if self.is_ours()
            && let Err(error) = save(&self.dir, saved)
        {
            tracing::warn!("the DHT's nodes cannot be saved in {}: {error}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_never_share_an_id_and_networks_never_share_contacts() {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Rng::from_u64(1);
        let saved = SavedNodes { id: Id160([7; 20]), ..SavedNodes::default() };
        let first = StateFolder::open(dir.path(), None);
        first.store(&saved);
        let second = StateFolder::open(dir.path(), None);
        assert_ne!(second.load(&mut rng).unwrap().id, saved.id);
        second.store(&SavedNodes::default());
        assert_eq!(first.load(&mut rng), Some(saved.clone()));
        let own = StateFolder::open(dir.path(), Some(&["10.0.0.5:6881".into()]));
        assert_eq!(own.load(&mut rng), None);
        drop(first);
        assert_eq!(StateFolder::open(dir.path(), None).load(&mut rng), Some(saved));
    }

    fn some() -> SavedNodes {
        let contact = |addr: &str| Contact { id: Id160([3; 20]), addr: addr.parse().unwrap() };
        let contacts = vec![contact("1.2.3.4:5"), contact("[2001:db8::1]:6")];
        SavedNodes { id: Id160([9; 20]), contacts, stored: Stored::default() }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), true), None);
        save(dir.path(), &some()).unwrap();
        save(dir.path(), &some()).unwrap();
        assert_eq!(load(dir.path(), true), Some(some()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A private network's state holds whom it remembers beyond its tables, each once.
    #[test]
    fn lost_members_are_saved_after_those_at_hand() {
        let contact = |n: u8| Contact { id: Id160([n; 20]), addr: ([10, 0, 0, n], 5).into() };
        let snapshot = Snapshot {
            nodes_v4: vec![contact(1), contact(2)],
            remembered: vec![contact(2), contact(3)],
            ..Snapshot::default()
        };
        let saved = SavedNodes::new(snapshot, Stored::default());
        assert_eq!(saved.contacts, [1, 2, 3].map(contact));
    }

    #[test]
    fn damaged_and_future_files_are_reported_and_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE_NAME);
        // The last one would need a stack as deep as it is long.
        let deep = ["d1:a".to_owned(), "l".repeat(1_000_000)].concat();
        for bytes in [
            &b""[..],
            b"d6:format",
            b"d6:formati9e2:id0:5:nodes0:6:nodes60:12:saved_unix_si0ee",
            deep.as_bytes(),
            format!("{deep}{}", "e".repeat(1_000_001)).as_bytes(),
        ] {
            fs::write(&file, bytes).unwrap();
            assert!(matches!(try_load(dir.path()), Err(StateError::Damaged(_))));
            assert_eq!(load(dir.path(), false), None);
            assert!(file.exists(), "what another run may be using stays");
            assert_eq!(load(dir.path(), true), None);
            assert_eq!(fs::read(dir.path().join(BAD_NAME)).unwrap(), bytes);
            assert!(!file.exists());
        }
    }

    #[test]
    fn whoever_holds_the_id_and_a_folder_that_keeps_nothing_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateFolder::open(dir.path(), None);
        let second = StateFolder::open(dir.path(), None);
        assert!(first.is_ours() && !first.is_guest() && second.is_guest());
        fs::write(dir.path().join("file"), b"").unwrap();
        let none = StateFolder::open(&dir.path().join("file"), None);
        assert!(matches!(none.lock, Lock::Impossible) && !none.is_guest());
    }
}
