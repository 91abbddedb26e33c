//! Badges: how members of a network recognise each other in what they say to everybody around.
//!
//! Owns the secret that members share for this, and the code made with it. Must not know how it travels
//! ([`super::advert`]) or what the secret is made from.

use std::fmt;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Bytes of a nonce: no two starts of any node draw the same one.
pub const NONCE_BYTES: usize = 16;
/// Bytes of a badge: nobody guesses one, and it leaves room in a datagram.
pub const BADGE_BYTES: usize = 16;
/// What a badge is a code of, so that no other use of the secret makes one.
const PURPOSE: &[u8] = b"dhtget badge 1";

/// Random, once for each start of a node.
pub type Nonce = [u8; NONCE_BYTES];
/// Proof that whoever says something knows the secret.
pub type Badge = [u8; BADGE_BYTES];

/// What the members of one network, and nobody else, have in common. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct LanIdentity {
    secret: [u8; 32],
}

impl LanIdentity {
    /// Of the network whose members have this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The badge of a node that is to be found at these addresses, in this order. Whoever has not the secret cannot
    /// tell it from noise, nor two nodes of one network from nodes of two.
    pub fn badge(&self, nonce: &Nonce, port: u16, addresses: &[IpAddr]) -> Badge {
        let code = self.code(nonce, port, addresses).finalize().into_bytes();
        let mut badge = Badge::default();
        badge.copy_from_slice(&code[..BADGE_BYTES]);
        badge
    }

    /// Whether a member made this badge for all of that.
    pub fn recognises(&self, badge: &Badge, nonce: &Nonce, port: u16, addresses: &[IpAddr]) -> bool {
        self.code(nonce, port, addresses).verify_truncated_left(badge).is_ok()
    }

    fn code(&self, nonce: &Nonce, port: u16, addresses: &[IpAddr]) -> Hmac<Sha256> {
        // A key shorter than a block of the hash is filled up with zeros (RFC 2104, 2).
        let mut key = [0; 64];
        key[..32].copy_from_slice(&self.secret);
        let mut code = Hmac::<Sha256>::new(&key.into());
        code.update(PURPOSE);
        code.update(nonce);
        code.update(&port.to_be_bytes());
        for address in addresses {
            match address {
                IpAddr::V4(v4) => {
                    code.update(&[4]);
                    code.update(&v4.octets());
                }
                IpAddr::V6(v6) => {
                    code.update(&[6]);
                    code.update(&v6.octets());
                }
            }
        }
        code
    }
}

impl fmt::Debug for LanIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LanIdentity(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_secret_recognises_a_badge() {
        let (ours, theirs) = (LanIdentity::new([1; 32]), LanIdentity::new([2; 32]));
        let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).to_vec();
        let badge = ours.badge(&[7; 16], 6881, &addresses);
        assert!(ours.recognises(&badge, &[7; 16], 6881, &addresses));
        assert!(!theirs.recognises(&badge, &[7; 16], 6881, &addresses));
        assert_ne!(badge, theirs.badge(&[7; 16], 6881, &addresses));
    }

    /// A stranger who repeats a badge can change nothing of what it is for.
    #[test]
    fn a_badge_is_of_one_nonce_port_and_list_of_addresses() {
        let ours = LanIdentity::new([1; 32]);
        let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).to_vec();
        let badge = ours.badge(&[7; 16], 6881, &addresses);
        let reversed: Vec<IpAddr> = addresses.iter().rev().copied().collect();
        assert!(!ours.recognises(&badge, &[8; 16], 6881, &addresses));
        assert!(!ours.recognises(&badge, &[7; 16], 6882, &addresses));
        assert!(!ours.recognises(&badge, &[7; 16], 6881, &addresses[..1]));
        assert!(!ours.recognises(&badge, &[7; 16], 6881, &reversed));
        let mut other = badge;
        other[15] ^= 1;
        assert!(!ours.recognises(&other, &[7; 16], 6881, &addresses));
    }

    #[test]
    fn nothing_of_the_secret_is_shown() {
        assert_eq!(format!("{:?}", LanIdentity::new([0xab; 32])), "LanIdentity(..)");
    }

    /// Nodes of different versions must recognise each other. HMAC-SHA-256 over
    /// "dhtget badge 1" | nonce | port | 4 | address | 6 | address, its first half; reckoned apart from this code.
    #[test]
    fn the_code_is_this_one() {
        let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).to_vec();
        let badge = LanIdentity::new([1; 32]).badge(&[7; 16], 6881, &addresses);
        assert_eq!(data_encoding::HEXLOWER.encode(&badge), "8ad1236f4c6fa4c74e4b1c53a3012641");
    }
}
