//! Write tokens: a keyed hash of the asker's address (BEP 5, "get_peers").
//!
//! Owns two secrets and their rotation. Must not know what a token permits. Nothing is stored for a
//! token, so a flood of askers costs no memory.

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::time::Instant;

use siphasher::sip::SipHasher24;

use super::config::TOKEN_ROTATION;
use crate::rng::Rng;

/// Issues and checks tokens.
#[derive(Debug)]
pub struct Tokens {
    rng: Rng,
    current: [u8; 16],
    previous: [u8; 16],
    rotate_at: Instant,
}

/// A token as it goes over the wire.
pub type Token = [u8; 8];

impl Tokens {
    /// Fresh secrets.
    pub fn new(now: Instant, seed: [u8; 32]) -> Self {
        let mut rng = Rng::from_seed(seed);
        let (current, previous) = (rng.bytes(), rng.bytes());
        Self { rng, current, previous, rotate_at: now + TOKEN_ROTATION }
    }

    /// When the next rotation is due.
    pub fn rotate_at(&self) -> Instant {
        self.rotate_at
    }

    /// Changes secrets as often as has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        // After a long sleep both secrets are stale; more than two turns change nothing further.
        for _ in 0..2 {
            if now >= self.rotate_at {
                self.previous = self.current;
                self.current = self.rng.bytes();
                self.rotate_at += TOKEN_ROTATION;
            }
        }
        self.rotate_at = self.rotate_at.max(now);
    }

    /// The token for an address.
    pub fn issue(&self, ip: IpAddr) -> Token {
        hash(&self.current, ip)
    }

    /// Whether `token` was issued to this address within the last two periods.
    pub fn accepts(&self, ip: IpAddr, token: &[u8]) -> bool {
        token == hash(&self.current, ip) || token == hash(&self.previous, ip)
    }
}

fn hash(secret: &[u8; 16], ip: IpAddr) -> Token {
    let mut hasher = SipHasher24::new_with_key(secret);
    match ip {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.finish().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_address_and_two_periods() {
        let start = Instant::now();
        let mut tokens = Tokens::new(start, [1; 32]);
        let (ip, other): (IpAddr, IpAddr) = ([1, 2, 3, 4].into(), [1, 2, 3, 5].into());
        let token = tokens.issue(ip);
        assert!(tokens.accepts(ip, &token) && !tokens.accepts(other, &token));
        assert!(!tokens.accepts(ip, b"") && !tokens.accepts(ip, &token[..7]));
        tokens.handle_timeout(start + TOKEN_ROTATION);
        assert!(tokens.accepts(ip, &token));
        tokens.handle_timeout(start + TOKEN_ROTATION * 2);
        assert!(!tokens.accepts(ip, &token));
    }

    #[test]
    fn a_long_sleep_invalidates_everything() {
        let start = Instant::now();
        let mut tokens = Tokens::new(start, [1; 32]);
        let ip: IpAddr = [1, 2, 3, 4].into();
        let token = tokens.issue(ip);
        tokens.handle_timeout(start + TOKEN_ROTATION * 50);
        assert!(!tokens.accepts(ip, &token));
        assert!(tokens.rotate_at() >= start + TOKEN_ROTATION * 50);
    }
}
