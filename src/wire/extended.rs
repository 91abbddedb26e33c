//! The payloads of extension messages: the extended handshake (BEP 10) and metadata transfer (BEP 9). Peer
//! exchange is in [`pex`](super::pex).
//!
//! Owns their dictionaries. Must not know which message id carried them: each side chooses its own.

use std::net::IpAddr;

use bytes::Bytes;

use super::bencode::{Limits, Value, Writer};

/// The id under which we want metadata messages sent to us.
pub const OUR_METADATA_ID: u8 = 1;
/// The id under which we want peer exchange messages (BEP 11).
pub const OUR_PEX_ID: u8 = 2;
/// The id under which we want to hear whether a peer wants payload (BEP 21; a message in libtorrent).
pub const OUR_UPLOAD_ONLY_ID: u8 = 3;
/// The id under which we want to hear which pieces a peer has lost (BEP 54).
pub const OUR_DONT_HAVE_ID: u8 = 4;
/// How many requests we say we queue (BEP 10, `reqq`).
pub const OUR_REQUEST_QUEUE: u32 = 2000;
/// Metadata travels in blocks of this size (BEP 9).
pub const METADATA_BLOCK_LEN: u32 = 16 * 1024;
/// What a client's name may be cut to.
const MAX_CLIENT_NAME: usize = 64;

/// What an extended handshake may say (BEP 10); each key may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// The id under which the sender wants metadata messages; 0 switches them off.
    pub metadata_id: Option<u8>,
    /// The same for peer exchange messages (BEP 11).
    pub pex_id: Option<u8>,
    /// The same for messages that say whether we want payload (libtorrent's form of BEP 21).
    pub upload_only_id: Option<u8>,
    /// The same for messages that take a piece back (BEP 54).
    pub dont_have_id: Option<u8>,
    /// Bytes of the info dictionary, where the sender has it (BEP 9).
    pub metadata_size: Option<u64>,
    /// How many requests the sender queues.
    pub request_queue: Option<u32>,
    /// The sender's TCP port.
    pub port: Option<u16>,
    /// The sender's program.
    pub client: Option<String>,
    /// The sender wants no payload (BEP 21).
    pub upload_only: Option<bool>,
    /// The receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
}

impl ExtendedHandshake {
    /// Reads one; unknown keys and wrong types are passed over.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (dict, _) = Value::parse_prefix(payload, Limits::MESSAGE).ok()?;
        if !dict.is_dict() {
            return None;
        }
        let uint = |key: &[u8]| dict.get(key).and_then(|v| v.uint());
        let id = |key: &[u8]| dict.get(b"m")?.get(key)?.uint()?.try_into().ok();
        let client = dict.get(b"v").and_then(|v| v.bytes());
        Some(Self {
            metadata_id: id(b"ut_metadata"),
            pex_id: id(b"ut_pex"),
            upload_only_id: id(b"upload_only"),
            dont_have_id: id(b"lt_donthave"),
            metadata_size: uint(b"metadata_size"),
            request_queue: uint(b"reqq").map(|n| n.min(u64::from(u32::MAX)) as u32),
            port: uint(b"p").and_then(|p| p.try_into().ok()).filter(|&p| p > 0),
            client: client.map(|c| String::from_utf8_lossy(&c[..c.len().min(MAX_CLIENT_NAME)]).into_owned()),
            upload_only: uint(b"upload_only").map(|n| n != 0),
            your_ip: dict.get(b"yourip").and_then(|v| v.bytes()).and_then(compact_ip),
        })
    }

    /// Writes one.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"m").begin_dict();
        for (name, id) in [
            (&b"lt_donthave"[..], self.dont_have_id),
            (b"upload_only", self.upload_only_id),
            (b"ut_metadata", self.metadata_id),
            (b"ut_pex", self.pex_id),
        ] {
            if let Some(id) = id {
                w.bytes(name).int(i64::from(id));
            }
        }
        w.end();
        if let Some(size) = self.metadata_size {
            w.bytes(b"metadata_size").int(size.min(i64::MAX as u64) as i64);
        }
        if let Some(port) = self.port {
            w.bytes(b"p").int(i64::from(port));
        }
        if let Some(queue) = self.request_queue {
            w.bytes(b"reqq").int(i64::from(queue));
        }
        if let Some(upload_only) = self.upload_only {
            w.bytes(b"upload_only").int(i64::from(upload_only));
        }
        if let Some(client) = &self.client {
            w.bytes(b"v").bytes(client.as_bytes());
        }
        match self.your_ip {
            Some(IpAddr::V4(ip)) => drop(w.bytes(b"yourip").bytes(&ip.octets())),
            Some(IpAddr::V6(ip)) => drop(w.bytes(b"yourip").bytes(&ip.octets())),
            None => {}
        }
        w.end();
        out
    }
}

/// An address of 4 or 16 bytes.
fn compact_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|ip| ip.to_canonical())
}

/// A metadata message (BEP 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataMessage {
    /// Asks for a block.
    Request {
        /// Block number.
        block: u32,
    },
    /// A block.
    Data {
        /// Block number.
        block: u32,
        /// Bytes of the whole dictionary, as the sender claims.
        total_size: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The sender does not serve this block.
    Reject {
        /// Block number.
        block: u32,
    },
}

impl MetadataMessage {
    /// Reads one: a dictionary, then raw bytes. Unknown types are `None`, as BEP 9 asks to ignore them.
    pub fn parse(payload: &Bytes) -> Option<Self> {
        let (dict, rest) = Value::parse_prefix(payload, Limits::MESSAGE).ok()?;
        let block = dict.get(b"piece")?.uint()?.try_into().ok()?;
        match dict.get(b"msg_type")?.uint()? {
            0 => Some(Self::Request { block }),
            1 => {
                let total_size = dict.get(b"total_size")?.uint()?;
                Some(Self::Data { block, total_size, data: payload.slice_ref(rest) })
            }
            2 => Some(Self::Reject { block }),
            _ => None,
        }
    }

    /// Writes one.
    pub fn emit(&self) -> Vec<u8> {
        let (kind, block) = match self {
            Self::Request { block } => (0, *block),
            Self::Data { block, .. } => (1, *block),
            Self::Reject { block } => (2, *block),
        };
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"msg_type").int(kind).bytes(b"piece").int(i64::from(block));
        if let Self::Data { total_size, data, .. } = self {
            w.bytes(b"total_size").int(*total_size as i64).end().raw(data);
        } else {
            w.end();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_handshake_that_bep_10_shows() {
        let shown = b"d1:md11:LT_metadatai1e7:\xc2\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e";
        let handshake = ExtendedHandshake::parse(shown).unwrap();
        assert_eq!((handshake.port, handshake.client.as_deref()), (Some(6881), Some("µTorrent 1.2")));
        assert_eq!(handshake.metadata_id, None);
    }

    #[test]
    fn reads_and_writes_the_messages_that_bep_9_shows() {
        for (bytes, message) in [
            (&b"d8:msg_typei0e5:piecei0ee"[..], MetadataMessage::Request { block: 0 }),
            (
                b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx",
                MetadataMessage::Data { block: 0, total_size: 34256, data: Bytes::from_static(b"xxxxxxxx") },
            ),
            (b"d8:msg_typei2e5:piecei0ee", MetadataMessage::Reject { block: 0 }),
        ] {
            assert_eq!(message.emit(), bytes);
            assert_eq!(MetadataMessage::parse(&Bytes::copy_from_slice(bytes)), Some(message));
        }
        assert_eq!(MetadataMessage::parse(&Bytes::from_static(b"d8:msg_typei9e5:piecei0ee")), None);
        assert_eq!(MetadataMessage::parse(&Bytes::from_static(b"d8:msg_typei0e5:piecei-1ee")), None);
    }

    #[test]
    fn a_handshake_round_trips() {
        let handshake = ExtendedHandshake {
            metadata_id: Some(1),
            pex_id: Some(2),
            upload_only_id: Some(3),
            dont_have_id: Some(0),
            metadata_size: Some(300),
            request_queue: Some(2000),
            port: Some(6881),
            client: Some("x".into()),
            upload_only: Some(true),
            your_ip: Some([9, 8, 7, 6].into()),
        };
        // Sorted, as bencoding asks.
        assert!(Value::parse(&handshake.emit(), Limits::MESSAGE).is_ok());
        assert_eq!(ExtendedHandshake::parse(&handshake.emit()), Some(handshake.clone()));
        let v6 = ExtendedHandshake { your_ip: "2600::1".parse().ok(), ..handshake };
        assert_eq!(ExtendedHandshake::parse(&v6.emit()), Some(v6));
        assert_eq!(ExtendedHandshake::parse(b"i1e"), None);
        assert_eq!(ExtendedHandshake::parse(b"d1:mi3e4:reqqi-5ee"), Some(ExtendedHandshake::default()));
    }

    #[test]
    fn addresses_that_peers_name_are_read_or_harmless() {
        let mapped = b"d4:ipv44:\x01\x02\x03\x044:ipv616:aaaaaaaaaaaaaaaa6:yourip16:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04e";
        let told = ExtendedHandshake { your_ip: Some([1, 2, 3, 4].into()), ..ExtendedHandshake::default() };
        assert_eq!(ExtendedHandshake::parse(mapped), Some(told));
        for odd in [&b"d4:ipv4i7e4:ipv6de6:yourip5:abcdee"[..], b"d6:youripi4ee", b"d6:yourip0:e"] {
            assert_eq!(ExtendedHandshake::parse(odd), Some(ExtendedHandshake::default()));
        }
    }
}
