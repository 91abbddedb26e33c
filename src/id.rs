//! 160-bit identifiers: node ids, info-hashes and the XOR metric between them.
//!
//! Owns [`Id160`] and its two meanings, [`NodeId`] and [`InfoHash`], and which ids an address may have
//! (BEP 42). Knows nothing of messages, tables or torrents.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::rng::Rng;

/// 160 bits: a point of the Kademlia key space (BEP 5, "Overview").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id160(pub [u8; 20]);

/// The id of a DHT node.
pub type NodeId = Id160;
/// SHA-1 of a torrent's info dictionary, which is also its key in the DHT (BEP 5).
pub type InfoHash = Id160;
/// What a peer calls itself on one torrent (BEP 3, `peer_id`): no secret, and no proof of anything.
pub type PeerId = Id160;

impl Id160 {
    /// The id whose bits are all zero.
    pub const ZERO: Self = Self([0; 20]);

    /// Takes exactly 20 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// A uniformly random id.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// The bytes in network order.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Kademlia's distance: the XOR of both ids, compared as a big-endian number.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut d = [0; 20];
        for (out, (a, b)) in d.iter_mut().zip(self.0.iter().zip(&other.0)) {
            *out = a ^ b;
        }
        Distance(d)
    }

    /// How many leading bits both ids share, 0 to 160.
    pub fn shared_prefix(&self, other: &Self) -> u32 {
        self.distance(other).leading_zeros()
    }

    /// Bit `index`, counted from the most significant one; false past the end.
    pub fn bit(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }

    /// Sets bit `index`, counted from the most significant one; nothing past the end.
    pub fn set_bit(&mut self, index: usize, value: bool) {
        if let Some(byte) = self.0.get_mut(index / 8) {
            let mask = 0x80 >> (index % 8);
            if value { *byte |= mask } else { *byte &= !mask }
        }
    }

    /// A random id that shares exactly the first `bits` bits with this one (all of it from 160 on).
    pub fn random_with_prefix(&self, bits: usize, rng: &mut Rng) -> Self {
        let mut id = Self::random(rng);
        for index in 0..bits.min(160) {
            id.set_bit(index, self.bit(index));
        }
        if bits < 160 {
            id.set_bit(bits, !self.bit(bits));
        }
        id
    }
}

/// Bits of an id that follow from the address (BEP 42, "Node ID restriction").
const BOUND_BITS: usize = 21;
/// Choices of an id for one address, kept in the low bits of its last byte.
const CHOICES: u8 = 8;

impl Id160 {
    /// A random id that a node at `ip` may have (BEP 42).
    pub fn random_for(ip: IpAddr, rng: &mut Rng) -> Self {
        let mut id = Self::random(rng);
        let prefix = Self::prefix_for(ip, id.0[19] % CHOICES);
        for bit in 0..BOUND_BITS {
            id.set_bit(bit, prefix.bit(bit));
        }
        id
    }

    /// Whether a node at `ip` may have this id (BEP 42).
    pub fn is_bound_to(&self, ip: IpAddr) -> bool {
        self.shared_prefix(&Self::prefix_for(ip, self.0[19] % CHOICES)) as usize >= BOUND_BITS
    }

    /// The first four bytes are the CRC-32C of the masked address, in which the choice takes the top bits.
    fn prefix_for(ip: IpAddr, choice: u8) -> Self {
        let crc = match ip {
            IpAddr::V4(ip) => {
                let mut bytes = (u32::from(ip) & 0x030f_3fff).to_be_bytes();
                bytes[0] |= choice << 5;
                crc32c::crc32c(&bytes)
            }
            IpAddr::V6(ip) => {
                let network = (u128::from(ip) >> 64) as u64;
                let mut bytes = (network & 0x0103_070f_1f3f_7fff).to_be_bytes();
                bytes[0] |= choice << 5;
                crc32c::crc32c(&bytes)
            }
        };
        let mut id = Self::ZERO;
        id.0[..4].copy_from_slice(&crc.to_be_bytes());
        id
    }
}

/// The XOR of two ids; smaller is closer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Distance(pub [u8; 20]);

impl Distance {
    /// The number of leading zero bits, 160 for the distance of an id to itself.
    pub fn leading_zeros(&self) -> u32 {
        let mut zeros = 0;
        for byte in self.0 {
            zeros += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        zeros
    }
}

impl fmt::Display for Id160 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Id160 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no 160-bit id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Neither 40 nor 32 characters.
    #[error("an info-hash has 40 hex or 32 base32 characters, this one has {0}")]
    Length(usize),
    /// A character outside the alphabet that the length asks for.
    #[error("not {0}")]
    Alphabet(&'static str),
}

impl FromStr for Id160 {
    type Err = ParseIdError;

    /// 40 hex or 32 base32 digits of any case (BEP 9, "magnet URI format").
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (bytes, alphabet) = match text.len() {
            40 => (HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(), "hexadecimal"),
            32 => (BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok(), "base32"),
            _ => return Err(ParseIdError::Length(text.chars().count())),
        };
        bytes.and_then(|b| Self::from_slice(&b)).ok_or(ParseIdError::Alphabet(alphabet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base32_name_the_same_hash() {
        let hex: InfoHash = "0123456789abcdef0123456789ABCDEF01234567".parse().unwrap();
        let base32: InfoHash = BASE32_NOPAD.encode(&hex.0).to_lowercase().parse().unwrap();
        assert_eq!(hex, base32);
        assert_eq!(hex.to_string(), "0123456789abcdef0123456789abcdef01234567");
    }

    #[test]
    fn wrong_texts_say_what_is_wrong() {
        assert_eq!("abc".parse::<InfoHash>(), Err(ParseIdError::Length(3)));
        assert_eq!("z".repeat(40).parse::<InfoHash>(), Err(ParseIdError::Alphabet("hexadecimal")));
        assert_eq!("1".repeat(32).parse::<InfoHash>(), Err(ParseIdError::Alphabet("base32")));
        assert!("ä".repeat(20).parse::<InfoHash>().is_err());
    }

    /// BEP 42, "Test vectors": address, choice, and the first bits of the id.
    #[test]
    fn the_ids_of_bep_42_belong_to_their_addresses() {
        let mut rng = Rng::from_u64(1);
        for (ip, id) in [
            ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
            ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
            ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
        ] {
            let (ip, mut id): (IpAddr, Id160) = (ip.parse().unwrap(), id.parse().unwrap());
            assert!(id.is_bound_to(ip), "{ip}");
            id.set_bit(20, !id.bit(20));
            assert!(!id.is_bound_to(ip));
            assert!(Id160::random_for(ip, &mut rng).is_bound_to(ip));
        }
        let (a, b): (IpAddr, IpAddr) = ("2001:db8:1:2::3".parse().unwrap(), "2001:db8:9::3".parse().unwrap());
        let id = Id160::random_for(a, &mut rng);
        assert!(id.is_bound_to(a) && !id.is_bound_to(b));
        assert_ne!(Id160::random_for(a, &mut rng), id);
    }

    #[test]
    fn prefix_and_distance_agree() {
        let mut rng = Rng::from_seed([7; 32]);
        let id = Id160::random(&mut rng);
        for bits in [0, 1, 7, 8, 100, 159] {
            assert_eq!(id.random_with_prefix(bits, &mut rng).shared_prefix(&id), bits as u32);
        }
        assert_eq!(id.random_with_prefix(160, &mut rng), id);
        assert_eq!(id.distance(&id).leading_zeros(), 160);
    }
}
