//! The vocabulary between a [`Swarm`](super::Swarm) and whoever drives it.
//!
//! Near the ground of its folder: everything may use it, it uses only `wanted`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::wanted::Wanted;
use crate::peer::{Bitfield, Payload, ProtocolError};
use crate::wire::metainfo::{Info, MetainfoError, PieceIndex};
use crate::wire::peer::BlockRef;

/// Names one connection, from the dial to its end; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub std::num::NonZeroU32);

/// Who named a peer's address; better sources are dialled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The user: `--peer`, or `x.pe` in the magnet.
    User,
    /// The local network (BEP 14): nobody is nearer.
    Lan,
    /// The DHT.
    Dht,
    /// It connected to us and named its port.
    Itself,
    /// Another peer (BEP 11): whoever is connected may name anybody.
    Pex,
}

impl Origin {
    /// Whether a search brought the address, rather than its owner or the user; none may for private torrents.
    pub fn is_found(self) -> bool {
        match self {
            Self::User | Self::Itself => false,
            Self::Lan | Self::Dht | Self::Pex => true,
        }
    }
}

/// What the driver tells the swarm.
#[derive(Debug)]
pub enum Input {
    /// Addresses of possible peers.
    Candidates(Vec<SocketAddr>, Origin),
    /// Our own addresses as others see them, IPv4 and IPv6, where the DHT has found out.
    External([Option<IpAddr>; 2]),
    /// A dial succeeded.
    Connected(PeerKey),
    /// A dial failed.
    DialFailed(PeerKey),
    /// Bytes came from a peer.
    Received(PeerKey, Bytes),
    /// This many bytes of ours have left for the peer's socket.
    Sent(PeerKey, usize),
    /// The peer's connection has ended.
    Closed(PeerKey),
    /// The metadata was known beforehand.
    Info(Arc<Info>),
    /// What of the torrent is wanted, before the disk is ready; everything, where nobody says.
    Wanted(Wanted),
    /// The disk is ready; these pieces are on it, verified.
    DiskReady(Bitfield),
    /// The disk takes nothing for now, and nothing is read from peers (true), or it goes on: nobody is blamed for the silence
    /// between.
    Held(bool),
    /// Whoever reads in order has come so far into the whole, in bytes.
    Consumed(u64),
    /// A piece was hashed: whether it is what the metadata promises.
    Hashed(PieceIndex, bool),
    /// A piece that arrived cannot be read back to be hashed: it is fetched again, and nobody is to blame.
    Lost(PieceIndex),
    /// What [`Action::Digest`] asked for: a digest of each block of the piece, none where it cannot be read.
    Digested(PieceIndex, Vec<u64>),
    /// What [`Action::Read`] asked for; none where the disk could not give it.
    Read {
        /// Who wants it.
        peer: PeerKey,
        /// Piece number.
        piece: PieceIndex,
        /// First byte within the piece.
        begin: u32,
        /// The bytes, or that they can be sent from where they are.
        data: Option<Payload>,
    },
}

/// What the swarm tells its driver.
#[derive(Debug)]
pub enum Action {
    /// Connect to an address, giving up after `timeout`.
    Dial {
        /// Its name from now on.
        peer: PeerKey,
        /// Where.
        addr: SocketAddr,
        /// How long to try.
        timeout: Duration,
    },
    /// End a connection, or a dial under way.
    Close(PeerKey, CloseReason),
    /// Send bytes, in order.
    Send(PeerKey, Bytes),
    /// Send a block from the disk, in the same order; only what [`Input::Read`] has said to be [`Payload::Stored`].
    SendStored(PeerKey, BlockRef),
    /// Write a block to its place.
    Write {
        /// Piece number.
        piece: PieceIndex,
        /// First byte within the piece.
        begin: u32,
        /// The bytes.
        data: Bytes,
    },
    /// All blocks of this piece have been given to [`Action::Write`]: hash it.
    Hash(PieceIndex),
    /// Say what each block of this piece holds now, before anything else is done to it.
    Digest(PieceIndex),
    /// Read for a peer: a block, or several that follow each other.
    Read {
        /// Who wants it.
        peer: PeerKey,
        /// Piece number.
        piece: PieceIndex,
        /// First byte within the piece.
        begin: u32,
        /// Bytes.
        length: u32,
    },
    /// Something a person or the layer above wants to know.
    Report(Report),
}

/// Milestones and findings.
#[derive(Debug, Clone)]
pub enum Report {
    /// The metadata came and is authentic.
    Metadata(Arc<Info>),
    /// The metadata is authentic and unusable: nobody can give a better one.
    BadMetadata(MetainfoError),
    /// A piece was verified.
    Verified(PieceIndex),
    /// Every wanted piece is verified.
    Complete,
    /// A peer runs a DHT node here.
    DhtNode(SocketAddr),
}

/// Why a connection was ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It broke the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// It sent something impossible: an index, length or order outside the torrent.
    #[error("it sent what this torrent cannot have: {0}")]
    Impossible(&'static str),
    /// It sent data that does not hash.
    #[error("it sent false data")]
    Liar,
    /// It asks on and on and reads no answer.
    #[error("it reads nothing of what it asked for")]
    Deaf,
    /// It names other peers too often.
    #[error("it names other peers too often")]
    Talkative,
    /// It is of no use, and its place goes to one of higher priority (BEP 40).
    #[error("its place goes to another")]
    Displaced,
    /// The same peer is connected already.
    #[error("connected already")]
    Duplicate,
    /// The torrent is private (BEP 27): only those whom the user names are dialled.
    #[error("the torrent is private")]
    Private,
    /// Neither side needs the other any more.
    #[error("both sides are complete")]
    BothComplete,
    /// Only the metadata was wanted, or the transfer ends.
    #[error("finished")]
    Finished,
    /// A fresh handshake says more cheaply what we have now.
    #[error("reconnecting to announce our pieces")]
    Refresh,
}

impl CloseReason {
    /// Whether the peer did wrong: what is left to say to it need not be sent.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Protocol(ProtocolError::Ourselves | ProtocolError::OtherTorrent) => false,
            Self::Protocol(_) | Self::Impossible(_) | Self::Liar | Self::Deaf | Self::Talkative => true,
            Self::Displaced
            | Self::Duplicate
            | Self::Private
            | Self::BothComplete
            | Self::Finished
            | Self::Refresh => false,
        }
    }

    /// Whether it is dealt with never again.
    pub fn is_for_ever(self) -> bool {
        let flood = matches!(self, Self::Protocol(ProtocolError::Flood | ProtocolError::Handshakes));
        flood || matches!(self, Self::Liar | Self::Impossible(_))
    }
}
