//! The async face of the library: a node, its transfers, and what they report.
//!
//! The only place where the DHT meets the swarm. Must run inside a tokio runtime (a current-thread one is
//! enough and the fastest). Must not print, parse a command line, or decide anything a machine decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::id::InfoHash;
use crate::wire::metainfo::{Info, MetainfoError};

/// How a client joins the world.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// Address and port of TCP and UDP; none: the first free port of 6881-6889 on every address.
    pub listen: Option<SocketAddr>,
    /// Entry points of the DHT, `host:port`.
    pub bootstrap: Vec<String>,
    /// The bootstrap list is the user's own: private addresses are as good as any.
    pub private_network: bool,
    /// Where the node id and known nodes outlive the process; none: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Bytes a second, all transfers together.
    pub limit_download: Option<u64>,
    /// Bytes a second, all transfers together.
    pub limit_upload: Option<u64>,
}

/// What to fetch.
#[derive(Debug, Clone)]
pub enum Source {
    /// An info-hash; the metadata comes from peers.
    Hash(InfoHash),
    /// The metadata is known.
    Info(Arc<Info>),
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
    /// The data is complete and stands at exactly this path (`share`); nothing is verified or written.
    InPlace(PathBuf),
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
    /// Bytes in all; 0 before the metadata.
    pub total: u64,
    /// Bytes whose pieces have been verified, those found on disk too.
    pub verified: u64,
    /// Pieces verified.
    pub pieces_verified: u32,
    /// Payload bytes received in this run.
    pub downloaded: u64,
    /// Payload bytes sent in this run.
    pub uploaded: u64,
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
    /// Metadata blocks here and in all; (0, 0) before a peer has named the size.
    pub metadata_blocks: (u32, u32),
    /// Bytes verified of those to check, while checking.
    pub checked: (u64, u64),
    /// DHT nodes in the table.
    pub dht_nodes: usize,
    /// Bootstrap entries that did not resolve or answer, in words.
    pub dht_trouble: Option<String>,
    /// DHT nodes asked and answered in the current or last search.
    pub dht_asked: (u32, u32),
    /// Nodes that hold our announce.
    pub announced_to: u32,
    /// Why the disk holds us up, in words (disk full).
    pub disk_trouble: Option<String>,
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
    /// What was on disk has been checked: bytes verified there, and where the data stands.
    Checked {
        /// Bytes.
        verified: u64,
        /// The file or top folder.
        path: PathBuf,
    },
    /// The first piece of this run was verified.
    FirstPiece,
    /// Everything is here, verified and flushed. A seed goes on; else the transfer has ended.
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
    /// The info dictionary is authentic and still unusable.
    #[error("the metadata of this torrent cannot be used: {0}")]
    Metadata(#[from] MetainfoError),
}

/// A running transfer. Dropping it stops it without a flush; [`Transfer::stop`] flushes.
#[derive(Debug)]
pub struct Transfer {
    events: mpsc::Receiver<TransferEvent>,
    status: watch::Receiver<Status>,
}

impl Transfer {
    /// The next milestone; none once the transfer has ended.
    pub async fn next(&mut self) -> Option<TransferEvent> {
        self.events.recv().await
    }

    /// The figures as they change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Flushes what has been written and ends the transfer.
    pub async fn stop(self) {
        unimplemented!()
    }
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port or address cannot be bound.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// What was asked for.
        address: String,
        /// The system's words.
        cause: String,
    },
}

/// One node with its transfers.
#[derive(Debug)]
pub struct Client {}

impl Client {
    /// Binds, starts the DHT and listens for peers.
    pub async fn start(_config: ClientConfig) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// The port of TCP and UDP.
    pub fn port(&self) -> u16 {
        unimplemented!()
    }

    /// The DHT node.
    pub fn dht(&self) -> &crate::driver::udp::Dht {
        unimplemented!()
    }

    /// Starts a transfer.
    pub fn add(&self, _job: Job) -> Transfer {
        unimplemented!()
    }

    /// Says goodbye: saves the DHT's nodes, closes the sockets.
    pub async fn shutdown(self) {
        unimplemented!()
    }
}
