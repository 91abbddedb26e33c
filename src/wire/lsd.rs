//! Announces of local service discovery (BEP 14): a datagram to a group of hosts, in the manner of HTTP.
//!
//! Owns the text and its limits. Must not know who is ourselves, or how often anybody may speak.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::InfoHash;

/// The port of both groups.
pub const LSD_PORT: u16 = 6771;
/// The group over IPv4, which routers keep within an organisation.
pub const LSD_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);
/// The group over IPv6, of one site.
pub const LSD_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);
/// Bytes of the longest announce (BEP 14), ours and others'; what is longer is not read.
pub const MAX_LSD_BYTES: usize = 1400;
/// Torrents of one announce: as many as fit beside the other lines.
pub const MAX_LSD_HASHES: usize = 20;
/// What a cookie may be cut to; ours has 16 characters.
const MAX_COOKIE: usize = 64;

/// One announce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announce {
    /// Where the sender takes peers.
    pub port: u16,
    /// What it shares or wants.
    pub hashes: Vec<InfoHash>,
    /// By which senders know their own; empty where there is none.
    pub cookie: String,
}

impl Announce {
    /// Reads one; unknown lines, and torrents beyond [`MAX_LSD_HASHES`], are passed over. None without a port or
    /// a torrent.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.get(..bytes.len().min(MAX_LSD_BYTES + 1))?).ok()?;
        let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        let first = lines.next()?;
        if text.len() > MAX_LSD_BYTES || !first.get(..10)?.eq_ignore_ascii_case("BT-SEARCH ") {
            return None;
        }
        let mut announce = Self::default();
        for (name, value) in lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'))
        {
            let value = value.trim();
            match name.trim() {
                n if n.eq_ignore_ascii_case("Port") => announce.port = value.parse().ok()?,
                n if n.eq_ignore_ascii_case("Infohash") => {
                    // 40 digits only: the other spelling of a hash belongs to links.
                    let hash = value.parse::<InfoHash>().ok().filter(|_| value.len() == 40);
                    let room = announce.hashes.len() < MAX_LSD_HASHES;
                    announce.hashes.extend(hash.filter(|_| room));
                }
                n if n.eq_ignore_ascii_case("cookie") => {
                    announce.cookie = value.chars().take(MAX_COOKIE).collect();
                }
                _ => {}
            }
        }
        (announce.port != 0 && !announce.hashes.is_empty()).then_some(announce)
    }

    /// Writes one, for the group of that family.
    pub fn emit(&self, v4: bool) -> Vec<u8> {
        let group = if v4 {
            SocketAddr::from((LSD_GROUP_V4, LSD_PORT))
        } else {
            SocketAddr::from((LSD_GROUP_V6, LSD_PORT))
        };
        let mut out = format!("BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for hash in self.hashes.iter().take(MAX_LSD_HASHES) {
            // Writing to a string cannot fail.
            let _ = write!(out, "Infohash: {hash}\r\n");
        }
        let _ = write!(out, "cookie: {}\r\n\r\n\r\n", self.cookie);
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;

    #[test]
    fn an_announce_is_written_as_bep_14_shows() {
        let announce = Announce { port: 6881, hashes: vec![Id160([0xab; 20])], cookie: "name".into() };
        let expected = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: {}\r\ncookie: name\r\n\r\n\r\n",
            "ab".repeat(20)
        );
        assert_eq!(announce.emit(true), expected.as_bytes());
        assert_eq!(Announce::parse(expected.as_bytes()), Some(announce.clone()));
        let v6 = String::from_utf8(announce.emit(false)).unwrap();
        assert!(v6.contains("\r\nHost: [ff15::efc0:988f]:6771\r\n"));
        assert_eq!(Announce::parse(v6.as_bytes()), Some(announce));
    }

    #[test]
    fn many_torrents_fit_and_more_are_passed_over() {
        let hashes: Vec<InfoHash> = (0..MAX_LSD_HASHES as u8).map(|n| Id160([n; 20])).collect();
        let announce = Announce { port: u16::MAX, hashes, cookie: "0123456789abcdef".into() };
        let bytes = announce.emit(false);
        assert!(bytes.len() <= MAX_LSD_BYTES, "{}", bytes.len());
        assert_eq!(Announce::parse(&bytes), Some(announce));
        let line = format!("Infohash: {}\n", "cd".repeat(20));
        let many = format!("BT-SEARCH * HTTP/1.1\nPort: 1\n{}", line.repeat(26));
        assert_eq!(Announce::parse(many.as_bytes()).map(|a| a.hashes.len()), Some(MAX_LSD_HASHES));
        let too_long = format!("BT-SEARCH * HTTP/1.1\nPort: 1\n{}", line.repeat(100));
        assert_eq!(Announce::parse(too_long.as_bytes()), None);
    }

    #[test]
    fn any_case_and_order_will_do_and_what_is_no_announce_is_none() {
        let hash = "0123456789abcdef0123456789ABCDEF01234567";
        let odd = format!(
            "bt-search * HTTP/1.1\r\nx: y\r\nnothing\r\nINFOHASH:{hash}\r\ninfohash: 12\r\nport :80\r\n\r\nPort: 9"
        );
        let announce = Announce::parse(odd.as_bytes()).unwrap();
        assert_eq!((announce.port, announce.hashes.len(), announce.cookie.as_str()), (80, 1, ""));
        for bad in [
            String::new(),
            "BT-SEARCH".into(),
            format!("M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {hash}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {hash}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {hash}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {hash}\r\n\r\n"),
            "BT-SEARCH * HTTP/1.1\r\nPort: 7\r\nInfohash: zz\r\n\r\n".into(),
        ] {
            assert_eq!(Announce::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Announce::parse(b"BT-SEARCH \xff\xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_what_it_reads_it_writes(
            junk: Vec<u8>,
            lines in proptest::collection::vec("(?i)(port|infohash|cookie|host)?:? ?[0-9a-fé]{0,41}\r?", 0..40),
        ) {
            let text = format!("BT-SEARCH * HTTP/1.1\r\n{}", lines.join("\n"));
            for bytes in [&junk[..], text.as_bytes()] {
                if let Some(announce) = Announce::parse(bytes) {
                    assert!(announce.hashes.len() <= MAX_LSD_HASHES && announce.cookie.len() <= 4 * MAX_COOKIE);
                    assert_eq!(Announce::parse(&announce.emit(true)), Some(announce));
                }
            }
        }
    }
}
