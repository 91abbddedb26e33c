//! The peer wire protocol (BEP 3, BEP 6, BEP 10): the handshake and length-prefixed messages.
//!
//! Owns bytes to [`Message`] and back. Must not know who the peer is or what a torrent holds: indices are
//! plain numbers here. An incomplete message is no error, [`Frames`] just waits for more.

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;

use super::metainfo::{BLOCK_LEN, MAX_PIECES};
use crate::id::{Id160, InfoHash};

/// Length of a handshake.
pub const HANDSHAKE_LEN: usize = 68;
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// The largest block a peer may ask of us; more is refused.
pub const MAX_REQUEST_LEN: u32 = 128 * 1024;
/// The largest bitfield: a bit for each piece of the largest torrent.
const MAX_BITFIELD_FRAME: usize = 1 + (MAX_PIECES as usize) / 8;
/// The largest extension message: a metadata block and its dictionary, or a generous handshake.
const MAX_EXTENDED_FRAME: usize = 128 * 1024;
/// A block message: we never ask for more than one block.
const MAX_PIECE_FRAME: usize = 9 + BLOCK_LEN as usize;
/// Everything else, unknown messages too, which are skipped.
const MAX_OTHER_FRAME: usize = 16 * 1024;

/// A violation that ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerWireError {
    /// The stream does not begin with BEP 3's handshake; an encrypted one does not.
    #[error("not a BitTorrent handshake")]
    NotBitTorrent,
    /// A message is longer than its kind may be.
    #[error("message {id} of {length} bytes is too long")]
    TooLong {
        /// The message's id.
        id: u8,
        /// Its claimed length.
        length: u32,
    },
    /// A message's length does not fit its id.
    #[error("message {0} has the wrong length")]
    WrongLength(u8),
}

/// The 8 bytes that announce extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// What we announce: extension protocol (BEP 10), fast extension (BEP 6), DHT (BEP 5).
    pub const OURS: Self = Self([0, 0, 0, 0, 0, 0x10, 0, 0x05]);

    /// BEP 10.
    pub fn extended(&self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// BEP 6.
    pub fn fast(&self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// BEP 5.
    pub fn dht(&self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

/// The first 68 bytes of each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Extension bits.
    pub reserved: Reserved,
    /// The torrent.
    pub info_hash: InfoHash,
    /// The sender's self-chosen id.
    pub peer_id: Id160,
}

impl Handshake {
    /// Reads a handshake; `None` while bytes are missing. Fails at the first byte that cannot be one.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, PeerWireError> {
        let shared = bytes.len().min(PROTOCOL.len());
        if bytes[..shared] != PROTOCOL[..shared] {
            return Err(PeerWireError::NotBitTorrent);
        }
        let (Some(reserved), Some(hash), Some(id)) =
            (bytes.get(20..28), bytes.get(28..48), bytes.get(48..68))
        else {
            return Ok(None);
        };
        let reserved = Reserved(reserved.try_into().unwrap_or_default());
        let (Some(info_hash), Some(peer_id)) = (Id160::from_slice(hash), Id160::from_slice(id)) else {
            return Ok(None);
        };
        Ok(Some(Self { reserved, info_hash, peer_id }))
    }

    /// Appends the 68 bytes.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PROTOCOL);
        out.extend_from_slice(&self.reserved.0);
        out.extend_from_slice(self.info_hash.as_bytes());
        out.extend_from_slice(self.peer_id.as_bytes());
    }
}

/// A block as requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    /// Piece number.
    pub index: u32,
    /// First byte within the piece.
    pub begin: u32,
    /// Bytes.
    pub length: u32,
}

/// One message after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Nothing but a sign of life.
    KeepAlive,
    /// Requests will not be answered.
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender wants pieces of ours.
    Interested,
    /// The sender wants none.
    NotInterested,
    /// The sender got a piece.
    Have(u32),
    /// The pieces the sender has, most significant bit first.
    Bitfield(Bytes),
    /// Asks for a block.
    Request(BlockRef),
    /// A block.
    Piece {
        /// Piece number.
        index: u32,
        /// First byte within the piece.
        begin: u32,
        /// The bytes.
        data: Bytes,
    },
    /// Takes a request back.
    Cancel(BlockRef),
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// BEP 6.
    Suggest(u32),
    /// BEP 6: in place of a full bitfield.
    HaveAll,
    /// BEP 6: in place of an empty bitfield.
    HaveNone,
    /// BEP 6: a request will not be answered.
    Reject(BlockRef),
    /// BEP 6: may be requested while choked.
    AllowedFast(u32),
    /// BEP 10: extension message.
    Extended {
        /// 0 for the handshake, else an id that the receiver chose.
        id: u8,
        /// What follows.
        payload: Bytes,
    },
    /// A message of another extension, skipped.
    Unknown(u8),
}

impl Message {
    /// Reads the body of a frame (what follows the length prefix).
    fn parse(mut body: Bytes) -> Result<Self, PeerWireError> {
        if body.is_empty() {
            return Ok(Self::KeepAlive);
        }
        let id = body.get_u8();
        let wrong = PeerWireError::WrongLength(id);
        let exactly = |n: usize| if body.len() == n { Ok(()) } else { Err(wrong) };
        match id {
            0..=3 | 14 | 15 => exactly(0)?,
            4 | 13 | 17 => exactly(4)?,
            6 | 8 | 16 => exactly(12)?,
            _ => {}
        }
        Ok(match id {
            0 => Self::Choke,
            1 => Self::Unchoke,
            2 => Self::Interested,
            3 => Self::NotInterested,
            4 => Self::Have(body.get_u32()),
            5 => Self::Bitfield(body),
            6 => Self::Request(block_ref(&mut body)),
            7 if body.len() >= 8 => Self::Piece { index: body.get_u32(), begin: body.get_u32(), data: body },
            8 => Self::Cancel(block_ref(&mut body)),
            9 if body.len() >= 2 => Self::Port(body.get_u16()),
            13 => Self::Suggest(body.get_u32()),
            14 => Self::HaveAll,
            15 => Self::HaveNone,
            16 => Self::Reject(block_ref(&mut body)),
            17 => Self::AllowedFast(body.get_u32()),
            20 if !body.is_empty() => Self::Extended { id: body.get_u8(), payload: body },
            7 | 9 | 20 => return Err(wrong),
            other => Self::Unknown(other),
        })
    }

    /// Appends the message with its length prefix. For [`Message::Piece`] the data too; senders that do not
    /// want to copy it use [`piece_header`].
    pub fn emit(&self, out: &mut Vec<u8>) {
        match self {
            Self::KeepAlive => out.extend_from_slice(&[0; 4]),
            Self::Choke => head(out, 1, 0),
            Self::Unchoke => head(out, 1, 1),
            Self::Interested => head(out, 1, 2),
            Self::NotInterested => head(out, 1, 3),
            Self::Have(index) => number(out, 4, *index),
            Self::Bitfield(bits) => {
                head(out, 1 + bits.len(), 5);
                out.extend_from_slice(bits);
            }
            Self::Request(block) => block_message(out, 6, block),
            Self::Piece { index, begin, data } => {
                out.extend_from_slice(&piece_header(*index, *begin, data.len()));
                out.extend_from_slice(data);
            }
            Self::Cancel(block) => block_message(out, 8, block),
            Self::Port(port) => {
                head(out, 3, 9);
                out.extend_from_slice(&port.to_be_bytes());
            }
            Self::Suggest(index) => number(out, 13, *index),
            Self::HaveAll => head(out, 1, 14),
            Self::HaveNone => head(out, 1, 15),
            Self::Reject(block) => block_message(out, 16, block),
            Self::AllowedFast(index) => number(out, 17, *index),
            Self::Extended { id, payload } => {
                head(out, 2 + payload.len(), 20);
                out.push(*id);
                out.extend_from_slice(payload);
            }
            Self::Unknown(id) => head(out, 1, *id),
        }
    }
}

fn block_ref(body: &mut Bytes) -> BlockRef {
    BlockRef { index: body.get_u32(), begin: body.get_u32(), length: body.get_u32() }
}

fn head(out: &mut Vec<u8>, length: usize, id: u8) {
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.push(id);
}

fn number(out: &mut Vec<u8>, id: u8, value: u32) {
    head(out, 5, id);
    out.extend_from_slice(&value.to_be_bytes());
}

fn block_message(out: &mut Vec<u8>, id: u8, block: &BlockRef) {
    head(out, 13, id);
    for value in [block.index, block.begin, block.length] {
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// What stands before the bytes of a block of `length` bytes.
pub fn piece_header(index: u32, begin: u32, length: usize) -> [u8; 13] {
    let mut header = [0; 13];
    header[..4].copy_from_slice(&(9 + length as u32).to_be_bytes());
    header[4] = 7;
    header[5..9].copy_from_slice(&index.to_be_bytes());
    header[9..].copy_from_slice(&begin.to_be_bytes());
    header
}

/// Cuts a stream into messages. A message that lies whole in one chunk is not copied; one that straddles
/// two is, so memory held is one message at the most, and only bytes that have arrived.
#[derive(Debug, Default)]
pub struct Frames {
    /// The unfinished message at the end of what has arrived.
    partial: BytesMut,
    chunk: Bytes,
}

impl Frames {
    /// Takes the next bytes of the stream. The previous chunk must have been drained with [`Frames::next_message`].
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last chunk was not drained");
        self.chunk = chunk;
    }

    /// The next whole message, or `None` until more bytes come.
    pub fn next_message(&mut self) -> Result<Option<Message>, PeerWireError> {
        if !self.partial.is_empty() {
            // The prefix first: a keep-alive ends with it, and what follows is the next message's.
            for wanted in [4, 5] {
                if frame_len(&self.partial)?.is_none() {
                    self.fill_partial(wanted);
                }
            }
            let Some(length) = frame_len(&self.partial)? else { return Ok(None) };
            self.fill_partial(4 + length);
            if self.partial.len() < 4 + length {
                return Ok(None);
            }
            let mut frame = std::mem::take(&mut self.partial);
            frame.advance(4);
            return Message::parse(frame.freeze()).map(Some);
        }
        match frame_len(&self.chunk)? {
            Some(length) if self.chunk.len() >= 4 + length => {
                self.chunk.advance(4);
                Message::parse(self.chunk.split_to(length)).map(Some)
            }
            _ => {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk = Bytes::new();
                Ok(None)
            }
        }
    }

    /// Moves bytes from the chunk until the unfinished message has `wanted` of them.
    fn fill_partial(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }
}

/// The length of the frame's body, once the prefix and the id are here; refuses what is too long for its id.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, PeerWireError> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix);
    if length == 0 {
        return Ok(Some(0));
    }
    let Some(&id) = bytes.get(4) else { return Ok(None) };
    let most = match id {
        5 => MAX_BITFIELD_FRAME,
        7 => MAX_PIECE_FRAME,
        20 => MAX_EXTENDED_FRAME,
        _ => MAX_OTHER_FRAME,
    };
    if length as usize > most {
        Err(PeerWireError::TooLong { id, length })
    } else {
        Ok(Some(length as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_messages() -> Vec<Message> {
        let block = BlockRef { index: 1, begin: 2, length: 3 };
        vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::Have(9),
            Message::Bitfield(Bytes::from_static(b"\xff\x80")),
            Message::Request(block),
            Message::Piece { index: 4, begin: 5, data: Bytes::from_static(b"data") },
            Message::Cancel(block),
            Message::Port(6881),
            Message::Suggest(1),
            Message::HaveAll,
            Message::HaveNone,
            Message::Reject(block),
            Message::AllowedFast(7),
            Message::Extended { id: 0, payload: Bytes::from_static(b"de") },
            Message::Unknown(99),
        ]
    }

    fn read_all(stream: &[u8], cut: usize) -> Result<Vec<Message>, PeerWireError> {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        for chunk in stream.chunks(cut.max(1)) {
            frames.push(Bytes::copy_from_slice(chunk));
            while let Some(message) = frames.next_message()? {
                all.push(message);
            }
        }
        Ok(all)
    }

    #[test]
    fn every_message_survives_any_cut_of_the_stream() {
        let mut stream = Vec::new();
        some_messages().iter().for_each(|m| m.emit(&mut stream));
        for cut in 1..=stream.len() {
            assert_eq!(read_all(&stream, cut).unwrap(), some_messages(), "cut {cut}");
        }
    }

    #[test]
    fn a_length_of_4_gib_is_refused_at_its_first_bytes() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 7];
        assert_eq!(read_all(&bytes, 5), Err(PeerWireError::TooLong { id: 7, length: u32::MAX }));
        assert_eq!(read_all(&bytes, 1), Err(PeerWireError::TooLong { id: 7, length: u32::MAX }));
        assert_eq!(read_all(&[0, 0, 0, 2, 4, 1], 6), Err(PeerWireError::WrongLength(4)));
    }

    #[test]
    fn a_handshake_is_told_from_an_encrypted_one_at_once() {
        let handshake =
            Handshake { reserved: Reserved::OURS, info_hash: Id160([3; 20]), peer_id: Id160([4; 20]) };
        let mut bytes = Vec::new();
        handshake.emit(&mut bytes);
        assert_eq!(bytes.len(), HANDSHAKE_LEN);
        assert_eq!(Handshake::parse(&bytes), Ok(Some(handshake)));
        assert_eq!(Handshake::parse(&bytes[..67]), Ok(None));
        assert_eq!(Handshake::parse(b"\x13Bit"), Ok(None));
        assert_eq!(Handshake::parse(b"\x13bit"), Err(PeerWireError::NotBitTorrent));
        assert!(Reserved::OURS.extended() && Reserved::OURS.fast() && Reserved::OURS.dht());
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, cut in 1usize..64) {
            let _ = read_all(&bytes, cut);
            let _ = Handshake::parse(&bytes);
        }
    }
}
