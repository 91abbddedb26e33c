//! A pointer to a torrent that may change: a mutable item, and the magnet link that names it (BEP 46).
//!
//! Owns the link's form and the item's value. Must not know how items are found.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::bencode::{Limits, Value, Writer};
use super::item::{self, Item, MAX_SALT};
use super::magnet::{MAX_MAGNET_BYTES, Magnet, MagnetError, percent_decode, plain_key};
use crate::id::{Id160, InfoHash};

/// Whose pointer, and which of his.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The publisher's Ed25519 public key.
    pub key: [u8; 32],
    /// Tells several pointers of one publisher apart; mostly empty.
    pub salt: Vec<u8>,
}

impl Pointer {
    /// Where the item is stored.
    pub fn target(&self) -> Id160 {
        item::mutable_target(&self.key, &self.salt)
    }

    /// The pointer in a magnet link, and what else that says (peers, files); none in one that names a torrent itself.
    pub fn with_link(text: &str) -> Result<Option<(Self, Magnet)>, MagnetError> {
        Ok(Self::in_magnet(text)?.map(|pointer| (pointer, Magnet::beside_topic(text))))
    }

    /// The pointer in a magnet link; none in one that names a torrent itself.
    pub fn in_magnet(text: &str) -> Result<Option<Self>, MagnetError> {
        if text.len() > MAX_MAGNET_BYTES || !Magnet::looks_like(text) {
            return Ok(None);
        }
        let (mut key, mut salt, mut torrent) = (None, Vec::new(), false);
        let query = text.trim().split_once('?').map_or("", |(_, query)| query);
        for part in query.split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (plain_key(name), percent_decode(value));
            let urn = |scheme: &str| {
                let head = value.get(..scheme.len())?;
                head.eq_ignore_ascii_case(scheme).then(|| value[scheme.len()..].trim().to_owned())
            };
            match name.as_str() {
                "xt" => torrent |= urn("urn:btih:").is_some(),
                "xs" => key = key.or(urn("urn:btpk:")),
                "s" => {
                    let bytes = HEXLOWER_PERMISSIVE.decode(value.trim().as_bytes()).ok();
                    let fits = bytes.filter(|b| b.len() <= MAX_SALT);
                    salt = fits.ok_or(MagnetError::Salt(2 * MAX_SALT))?;
                }
                _ => {}
            }
        }
        match key {
            Some(key) if !torrent => Ok(Some(Self { key: parse_key(&key).ok_or(MagnetError::Key)?, salt })),
            _ => Ok(None),
        }
    }

    /// The value of an item that points at a torrent (BEP 46, "Publishing content").
    pub fn value(hash: InfoHash) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new(&mut out).begin_dict().bytes(b"ih").bytes(hash.as_bytes()).end();
        out
    }

    /// The torrent an item points at.
    pub fn torrent(item: &Item) -> Option<InfoHash> {
        let value = Value::parse(item.value(), Limits::MESSAGE).ok()?;
        Id160::from_slice(value.get(b"ih")?.bytes()?)
    }
}

/// A public key as 64 hex digits.
pub fn parse_key(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

impl FromStr for Pointer {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, MagnetError> {
        Self::in_magnet(text)?.ok_or(MagnetError::NoTopic)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xs=urn:btpk:{}", HEXLOWER.encode(&self.key))?;
        if !self.salt.is_empty() {
            write!(f, "&s={}", HEXLOWER.encode(&self.salt))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BEP 46, "Magnet link" and "Test vectors".
    #[test]
    fn the_beps_own_links_are_read() {
        let link = "magnet:?xs=urn:btpk:8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
        let pointer: Pointer = link.parse().unwrap();
        assert_eq!(pointer.target().to_string(), "cc3f9d90b572172053626f9980ce261a850d050b");
        assert_eq!(pointer.to_string(), link);
        let salted = format!("{link}&s=6e");
        let pointer: Pointer = salted.parse().unwrap();
        assert_eq!(pointer.target().to_string(), "59ee7c2cb9b4f7eb1986ee2d18fd2fdb8a56554f");
        assert_eq!((pointer.to_string(), pointer.salt), (salted, b"n".to_vec()));
    }

    #[test]
    fn a_link_to_a_torrent_is_no_pointer_and_a_broken_key_is_told() {
        let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
        let both = format!("magnet:?xt=urn:btih:{}&xs=urn:btpk:{key}", "a".repeat(40));
        assert_eq!(Pointer::in_magnet(&both), Ok(None));
        assert_eq!(Pointer::in_magnet("magnet:?xs=http://a.example/x.torrent"), Ok(None));
        for bad in [&key[1..], "", "zz"] {
            assert_eq!(Pointer::in_magnet(&format!("magnet:?xs=urn:btpk:{bad}")), Err(MagnetError::Key));
        }
        for bad in ["z", "abc", &"aa".repeat(65)] {
            let link = format!("magnet:?xs=urn:btpk:{key}&s={bad}");
            assert_eq!(Pointer::in_magnet(&link), Err(MagnetError::Salt(128)));
        }
        let shouted = format!("MAGNET:?XS=URN:BTPK:{}&S=6E", key.to_uppercase());
        assert_eq!(shouted.parse::<Pointer>().unwrap().salt, b"n");
    }

    #[test]
    fn what_else_the_link_says_counts() {
        let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
        let link = format!("magnet:?xs=urn:btpk:{key}&s=6e&dn=a&so=1,3-4,x&x.pe=1.2.3.4:5&x.pe=bad");
        let (pointer, link) = Pointer::with_link(&link).unwrap().unwrap();
        assert_eq!((pointer.salt.as_slice(), link.name.as_deref()), (&b"n"[..], Some("a")));
        assert_eq!((link.peers[0].to_string().as_str(), link.select), ("1.2.3.4:5", vec![1..=1, 3..=4]));
        assert_eq!(
            (link.ignored.ranges.unread, link.ignored.peers.unread, link.ignored.web_seeds),
            (1, 1, 0)
        );
    }

    #[test]
    fn the_value_names_a_torrent() {
        let hash = Id160([0xab; 20]);
        let value = Pointer::value(hash);
        assert_eq!(Pointer::torrent(&Item::Immutable { value }), Some(hash));
        assert_eq!(Pointer::torrent(&Item::Immutable { value: b"d2:ih1:xe".to_vec() }), None);
        assert_eq!(Pointer::torrent(&Item::Immutable { value: b"i1e".to_vec() }), None);
    }
}
