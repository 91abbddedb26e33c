//! Peer exchange messages (BEP 11): who came and who went since the last one.
//!
//! Owns the dictionary. Must not know which addresses are worth dialling.

use std::net::SocketAddr;

use super::bencode::{Limits, Value, Writer};
use super::compact::{PEER_V4, PEER_V6, peer, write_peer};

/// Addresses that one message may add, over both families; the same number may be dropped. What is more is not read.
pub const MAX_PEX_ENTRIES: usize = 50;

/// The peer wants nothing: a seed, or one with all that it chose.
pub const PEX_SEED: u8 = 0x02;
/// The peer has been dialled with success.
pub const PEX_REACHABLE: u8 = 0x10;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PexMessage {
    /// Who came, with flags.
    pub added: Vec<(SocketAddr, u8)>,
    /// Who went.
    pub dropped: Vec<SocketAddr>,
}

impl PexMessage {
    /// Reads one; unknown keys, wrong types and damaged tails are passed over.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (dict, _) = Value::parse_prefix(payload, Limits::MESSAGE).ok()?;
        if !dict.is_dict() {
            return None;
        }
        let bytes = |key: &[u8]| dict.get(key).and_then(|v| v.bytes()).unwrap_or_default();
        let mut message = Self::default();
        for (list, flags, size) in
            [(&b"added"[..], &b"added.f"[..], PEER_V4), (b"added6", b"added6.f", PEER_V6)]
        {
            let flags = bytes(flags);
            let flag = |at: usize| flags.get(at).copied().unwrap_or(0);
            let listed = bytes(list).chunks_exact(size).enumerate();
            let listed = listed.filter_map(|(at, entry)| Some((peer(entry)?, flag(at))));
            message.added.extend(listed.take(MAX_PEX_ENTRIES - message.added.len()));
        }
        for (list, size) in [(&b"dropped"[..], PEER_V4), (b"dropped6", PEER_V6)] {
            let listed = bytes(list).chunks_exact(size).filter_map(peer);
            message.dropped.extend(listed.take(MAX_PEX_ENTRIES - message.dropped.len()));
        }
        Some(message)
    }

    /// Writes one.
    pub fn emit(&self) -> Vec<u8> {
        let of = |v4: bool| {
            let added = self.added.iter().filter(|(addr, _)| addr.is_ipv4() == v4);
            let (mut entries, mut flags) = (Vec::new(), Vec::new());
            for (addr, flag) in added {
                write_peer(*addr, &mut entries);
                flags.push(*flag);
            }
            let mut dropped = Vec::new();
            self.dropped.iter().filter(|a| a.is_ipv4() == v4).for_each(|a| write_peer(*a, &mut dropped));
            (entries, flags, dropped)
        };
        let (v4, v6) = (of(true), of(false));
        let mut out = Vec::with_capacity(128 + 8 * (self.added.len() + self.dropped.len()));
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"added").bytes(&v4.0).bytes(b"added.f").bytes(&v4.1);
        w.bytes(b"added6").bytes(&v6.0).bytes(b"added6.f").bytes(&v6.1);
        w.bytes(b"dropped").bytes(&v4.2).bytes(b"dropped6").bytes(&v6.2).end();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_bep_11_shows() {
        let message = PexMessage {
            added: vec![("1.2.3.4:258".parse().unwrap(), PEX_SEED), ("[2600::1]:6881".parse().unwrap(), 0)],
            dropped: vec!["5.6.7.8:772".parse().unwrap()],
        };
        let mut expected = b"d5:added6:\x01\x02\x03\x04\x01\x02".to_vec();
        expected.extend_from_slice(b"7:added.f1:\x02");
        expected.extend_from_slice(b"6:added618:\x26\x00\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1");
        expected.extend_from_slice(b"8:added6.f1:\0");
        expected.extend_from_slice(b"7:dropped6:\x05\x06\x07\x08\x03\x048:dropped60:e");
        assert_eq!(message.emit(), expected);
        assert_eq!(PexMessage::parse(&expected), Some(message));
    }

    #[test]
    fn what_is_missing_damaged_or_too_much_costs_only_itself() {
        assert_eq!(PexMessage::parse(b"de"), Some(PexMessage::default()));
        assert_eq!(PexMessage::parse(b"d5:addedi7e7:droppedlee"), Some(PexMessage::default()));
        assert_eq!(PexMessage::parse(b"le"), None);
        let flagless = PexMessage::parse(b"d5:added7:\x01\x02\x03\x04\x01\x02xe").unwrap();
        assert_eq!(flagless.added, [("1.2.3.4:258".parse().unwrap(), 0)]);
        let mut many = b"d5:added60000:".to_vec();
        many.extend_from_slice(&[7; 60_000]);
        many.extend_from_slice(b"6:added618000:");
        many.extend_from_slice(&[8; 18_000]);
        many.extend_from_slice(b"7:dropped60000:");
        many.extend_from_slice(&[7; 60_000]);
        many.push(b'e');
        let many = PexMessage::parse(&many).unwrap();
        assert_eq!((many.added.len(), many.dropped.len()), (MAX_PEX_ENTRIES, MAX_PEX_ENTRIES));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_stays_bounded(bytes: Vec<u8>) {
            if let Some(message) = PexMessage::parse(&bytes) {
                assert!(message.added.len() <= MAX_PEX_ENTRIES && message.dropped.len() <= MAX_PEX_ENTRIES);
            }
        }
    }
}
