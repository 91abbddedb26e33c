//! The vocabulary of a connection: what both sides agree on, what a peer said, why it must end.
//!
//! Leaf of its folder: everything may use it, it uses nothing beside it.

use std::net::IpAddr;

use bytes::Bytes;
use thiserror::Error;

use crate::id::{Id160, InfoHash};
use crate::wire::extended::MetadataMessage;
use crate::wire::peer::{BlockRef, PeerWireError};
use crate::wire::pex::PexMessage;

/// What both sides of a connection must agree on, and what we say of ourselves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Our id in this swarm.
    pub peer_id: Id160,
    /// Where we accept connections.
    pub listen_port: Option<u16>,
    /// Where our DHT node listens; sent to peers that run one.
    pub dht_port: Option<u16>,
    /// The size of the info dictionary, once we have it.
    pub metadata_size: Option<u64>,
    /// Whether peers are exchanged (BEP 11).
    pub pex: bool,
    /// Whether we want no payload (BEP 21).
    pub upload_only: bool,
    /// Where the peer is, to be told so.
    pub peer_ip: Option<IpAddr>,
}

/// A block to be sent: its bytes, or the promise that the driver takes them from the disk as they go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Here they are.
    Bytes(Bytes),
    /// So many bytes, at the block's place on disk.
    Stored(u32),
}

impl Payload {
    /// How many bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Stored(length) => *length as usize,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `length` bytes, or as many as there are.
    pub fn split_to(&mut self, length: usize) -> Self {
        let length = length.min(self.len());
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(length)),
            Self::Stored(left) => {
                *left -= length as u32;
                Self::Stored(length as u32)
            }
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// What goes out on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// These bytes.
    Bytes(Bytes),
    /// This block's, from the disk.
    Stored(BlockRef),
}

/// What a peer said or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete; now say which pieces we have.
    Handshaken,
    /// The extended handshake came, or came again.
    Extended,
    /// The peer chokes us; without the fast extension our requests are void, see [`take_requests`](super::Connection::take_requests).
    Choked,
    /// The peer lets us request.
    Unchoked,
    /// The peer wants pieces of ours.
    Interested,
    /// The peer wants none.
    NotInterested,
    /// The peer got a piece.
    Have(u32),
    /// The peer's pieces, in wire form.
    Bitfield(Bytes),
    /// The peer has every piece.
    HaveAll,
    /// The peer has no piece.
    HaveNone,
    /// The peer would have us fetch this piece from it.
    Suggested(u32),
    /// The peer asks for a block.
    Request(BlockRef),
    /// The peer takes a request back.
    Cancel(BlockRef),
    /// A block that we had asked for.
    Block {
        /// What it is.
        block: BlockRef,
        /// Its bytes.
        data: Bytes,
    },
    /// A block that we had not asked for, or had given up; its length.
    Unrequested(u32),
    /// A request of ours will not be answered.
    Rejected(BlockRef),
    /// We may request this piece while choked (BEP 6).
    AllowedFast(u32),
    /// The peer's DHT node listens on this port (BEP 5).
    DhtPort(u16),
    /// A metadata message (BEP 9).
    Metadata(MetadataMessage),
    /// The peer names others (BEP 11).
    Peers(PexMessage),
    /// The peer has begun or ceased to want payload; see [`is_upload_only`](super::Connection::is_upload_only).
    UploadOnly,
    /// The peer has lost a piece (BEP 54).
    DontHave(u32),
}

/// Why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The stream is malformed.
    #[error(transparent)]
    Wire(#[from] PeerWireError),
    /// The handshake names another torrent.
    #[error("handshake for another torrent")]
    OtherTorrent,
    /// We have connected to ourselves.
    #[error("connected to ourselves")]
    Ourselves,
    /// Bitfields without end.
    #[error("too many bitfields")]
    Bitfields,
    /// An extension message that does not parse.
    #[error("malformed extension message")]
    Extension,
    /// Too many blocks that nobody asked for.
    #[error("too many unrequested blocks")]
    Unrequested,
    /// Extended handshakes without end.
    #[error("too many extended handshakes")]
    Handshakes,
    /// Far more talk than use.
    #[error("it floods us with messages")]
    Flood,
    /// No handshake in time.
    #[error("no handshake in time")]
    HandshakeTimeout,
    /// Nothing for two minutes.
    #[error("silent for two minutes")]
    Silent,
}
