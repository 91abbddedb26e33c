//! The vocabulary of one transfer, from the job to its milestones.
//!
//! Leaf of its folder: what a person or a program is told, in the units it is told in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::choice::ChoiceError;
use super::stream::Sink;
use crate::id::InfoHash;
pub use crate::swarm::explain::Bottleneck;
use crate::wire::metainfo::{Info, MetainfoError};

/// What to fetch.
#[derive(Debug, Clone)]
pub enum Source {
    /// An info-hash; the metadata comes from peers.
    Hash(InfoHash),
    /// The metadata is known.
    Info(Arc<Info>),
}

impl Source {
    /// The torrent's hash.
    pub fn hash(&self) -> InfoHash {
        match self {
            Self::Hash(hash) => *hash,
            Self::Info(info) => info.hash(),
        }
    }
}

/// Where a fetched torrent goes.
#[derive(Debug, Clone)]
pub enum Placement {
    /// Metadata only, nothing is written.
    Nowhere,
    /// Into `dir`, under `name` instead of the torrent's own name where given.
    Folder {
        /// The folder; created where it is missing.
        dir: PathBuf,
        /// The file's or top folder's name.
        name: Option<String>,
        /// Existing files that are not this torrent's are written over.
        overwrite: bool,
    },
    /// One file, in order and as it is verified, to whoever reads; nothing stays.
    Stream {
        /// Where the data lies meanwhile, in a file without a name.
        dir: PathBuf,
        /// Who takes it.
        sink: Sink,
    },
    /// The data is complete and stands at exactly this path (`share`); nothing is verified or written.
    InPlace(PathBuf),
}

/// How a file gets its length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Allocation {
    /// It grows as it is written.
    None,
    /// At once, without taking room: what is not written yet is a hole.
    #[default]
    Sparse,
    /// At once, with all its room, where the file system can do that.
    Full,
}

/// How downloads treat the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Verify all that is there, whatever an earlier run has noted of it.
    pub check: bool,
    /// How files get their length.
    pub allocation: Allocation,
}

/// One transfer to start.
#[derive(Debug, Clone)]
pub struct Job {
    /// What.
    pub source: Source,
    /// Where to.
    pub placement: Placement,
    /// Peers that are dialled at once, `host:port`.
    pub peers: Vec<String>,
    /// Whether to stay as a seed when it is complete; the transfer ends otherwise.
    pub seed: bool,
    /// Whether to say that we have nothing, as long as few copies are out (BEP 16).
    pub super_seed: bool,
}

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The DHT has no node yet.
    #[default]
    JoiningDht,
    /// No peer is known.
    LookingForPeers,
    /// Peers are known, none has finished a handshake.
    Connecting,
    /// Connected, waiting for the info dictionary.
    Metadata,
    /// Hashing what is on disk already.
    Checking,
    /// Fetching pieces.
    Downloading,
    /// Complete, serving others.
    Seeding,
    /// Ended.
    Finished,
}

/// A transfer at one moment; published at least each 250 ms while something changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes of the files that are fetched; 0 before the metadata.
    pub total: u64,
    /// Bytes whose pieces have been verified, those found on disk too.
    pub verified: u64,
    /// Pieces verified.
    pub pieces_verified: u32,
    /// Payload bytes received in this run.
    pub downloaded: u64,
    /// Payload bytes sent in this run.
    pub uploaded: u64,
    /// Peers that have given payload in this run.
    pub sources: usize,
    /// Payload received and thrown away: duplicates, failed pieces.
    pub wasted: u64,
    /// Bytes a second, payload, smoothed over seconds.
    pub download_rate: u64,
    /// Bytes a second, payload, smoothed over seconds.
    pub upload_rate: u64,
    /// Peer addresses known.
    pub peers_known: usize,
    /// Peers connected, past the handshake.
    pub peers_connected: usize,
    /// Connected peers that let us request.
    pub peers_unchoking: usize,
    /// Connected peers that have something we lack.
    pub peers_interesting: usize,
    /// Connections that failed or were refused in this run.
    pub dials_failed: usize,
    /// Peers banned in this run: they sent what is false or impossible, or floods.
    pub peers_banned: usize,
    /// Metadata blocks here and in all; (0, 0) before a peer has named the size.
    pub metadata_blocks: (u32, u32),
    /// Bytes verified of those to check, while checking.
    pub checked: (u64, u64),
    /// DHT nodes in the table.
    pub dht_nodes: usize,
    /// Why the DHT finds nobody, where that is known.
    pub dht_trouble: Option<DhtTrouble>,
    /// DHT nodes asked and answered in the current or last search.
    pub dht_asked: (u32, u32),
    /// Nodes that hold our announce.
    pub announced_to: u32,
    /// The torrent is private (BEP 27): the DHT is not asked for it.
    pub private: bool,
    /// Why the disk holds us up, in words (disk full).
    pub disk_trouble: Option<String>,
    /// What could not be read when it was last tried for a peer, in words; that peer was left.
    pub unreadable: Option<String>,
    /// What holds the transfer up; none before the place on disk has been looked at.
    pub bottleneck: Option<Bottleneck>,
    /// Bytes of a stream that are verified in order, and that its reader has not taken.
    pub unread: u64,
    /// Seconds since the last payload byte or metadata block arrived, or since the start.
    pub idle: Duration,
}

/// Milestones of a transfer, in order.
#[derive(Debug, Clone)]
pub enum TransferEvent {
    /// The first peer address became known.
    FirstPeer(SocketAddr),
    /// The info dictionary is here and verified.
    Metadata(Arc<Info>),
    /// Not all files are fetched.
    Chosen {
        /// Those that are: their places in the torrent's list, from 0.
        files: Vec<usize>,
        /// Their bytes.
        bytes: u64,
    },
    /// What was on disk has been checked: bytes verified there, and where the data stands.
    Checked {
        /// Bytes.
        verified: u64,
        /// The file or top folder.
        path: PathBuf,
    },
    /// The first piece of this run was verified.
    FirstPiece,
    /// Half of the bytes are verified.
    Half,
    /// Everything that is wanted is here, verified and flushed. A seed goes on; else the transfer has ended.
    Complete,
    /// It cannot go on.
    Failed(TransferError),
}

/// Why a transfer cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransferError {
    /// Something stands at the target that is not this torrent's.
    #[error("{path}: {what}")]
    TargetExists {
        /// The path in the way.
        path: String,
        /// Why it is not ours.
        what: String,
    },
    /// The disk refused.
    #[error("{path}: {cause}")]
    Disk {
        /// The file or folder.
        path: String,
        /// The system's words.
        cause: String,
        /// No space is left.
        full: bool,
    },
    /// Where a stream goes, nothing more can be written.
    #[error("what is written out is refused: {cause}")]
    Output {
        /// The system's words.
        cause: String,
        /// No space is left.
        full: bool,
    },
    /// The info dictionary is authentic and still unusable.
    #[error("the metadata of this torrent cannot be used: {0}")]
    Metadata(#[from] MetainfoError),
    /// The files that were asked for are not in it.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// Whoever read the stream has gone.
    #[error("nobody reads what is written")]
    ReaderGone,
}

/// Whether it is room that is missing.
pub fn disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Why the DHT finds nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhtTrouble {
    /// This run stays out of it.
    Unused,
    /// Bootstrap entries that did not resolve or answer, in words.
    Unreachable(String),
}

/// How the search for peers goes, and what it taught us; the client fills it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// DHT nodes in the table.
    pub nodes: usize,
    /// Why the DHT finds nobody, where that is known.
    pub trouble: Option<DhtTrouble>,
    /// Nodes asked and answered in the current or last search.
    pub asked: (u32, u32),
    /// Nodes that hold our announce.
    pub announced_to: u32,
    /// Our own address as others see it, IPv4 and IPv6.
    pub external: [Option<IpAddr>; 2],
}
