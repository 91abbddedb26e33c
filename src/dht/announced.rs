//! The peers that others announced to us, for as long as they are believed.
//!
//! Owns a bounded store: least recently used info-hashes go first, the oldest peer of a hash goes first.
//! Must not know tokens or messages.

use std::net::SocketAddr;
use std::time::Instant;

use lru::LruCache;

use super::config::{ANNOUNCE_EXPIRY, MAX_PEERS_PER_HASH, MAX_PORTS_PER_ADDRESS};
use crate::id::InfoHash;
use crate::rng::Rng;

/// What an info-hash costs beside its peers, with the map's share.
const HASH_COST: usize = 128;
/// What a peer costs.
const PEER_COST: usize = std::mem::size_of::<(SocketAddr, Instant)>();

/// Peers by info-hash. The map is never iterated, only its order of use is followed.
#[derive(Debug)]
pub struct Announced {
    by_hash: LruCache<InfoHash, Vec<(SocketAddr, Instant)>>,
    bytes: usize,
    cap: usize,
}

impl Announced {
    /// An empty store of at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self { by_hash: LruCache::unbounded(), bytes: 0, cap }
    }

    /// Info-hashes in store.
    pub fn hashes(&self) -> usize {
        self.by_hash.len()
    }

    /// Peers in store.
    pub fn peers_stored(&self) -> usize {
        (self.bytes - self.by_hash.len() * HASH_COST) / PEER_COST
    }

    /// Memory taken, and the most it may become.
    pub fn memory(&self) -> (usize, usize) {
        (self.bytes, self.cap)
    }

    /// Sets the most memory it may take; what is too much goes at once.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
        self.shrink();
    }

    /// Remembers a peer, or that it is still there.
    pub fn insert(&mut self, now: Instant, hash: InfoHash, peer: SocketAddr) {
        if !self.by_hash.contains(&hash) {
            self.by_hash.put(hash, Vec::new());
            self.bytes += HASH_COST;
        }
        let Some(peers) = self.by_hash.get_mut(&hash) else { return };
        if let Some(known) = peers.iter_mut().find(|(p, _)| *p == peer) {
            known.1 = now;
            return;
        }
        let same = peers.iter_mut().filter(|(p, _)| p.ip() == peer.ip() && !p.ip().is_loopback());
        let (count, oldest) =
            same.fold((0, None::<&mut (SocketAddr, Instant)>), |(n, old), entry| match old {
                Some(old) if old.1 <= entry.1 => (n + 1, Some(old)),
                _ => (n + 1, Some(entry)),
            });
        if let (MAX_PORTS_PER_ADDRESS.., Some(oldest)) = (count, oldest) {
            *oldest = (peer, now);
        } else if peers.len() < MAX_PEERS_PER_HASH {
            peers.push((peer, now));
            self.bytes += PEER_COST;
        } else if let Some(oldest) = peers.iter_mut().min_by_key(|(_, at)| *at) {
            *oldest = (peer, now);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.cap && self.by_hash.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Up to `max` peers of one family, a random choice where there are more.
    pub fn peers(
        &mut self,
        now: Instant,
        hash: &InfoHash,
        ipv4: bool,
        max: usize,
        rng: &mut Rng,
    ) -> Vec<SocketAddr> {
        let Some(peers) = self.by_hash.get_mut(hash) else { return Vec::new() };
        let before = peers.len();
        peers.retain(|(_, at)| now.saturating_duration_since(*at) < ANNOUNCE_EXPIRY);
        self.bytes -= (before - peers.len()) * PEER_COST;
        let mut out: Vec<_> = peers.iter().map(|(p, _)| *p).filter(|p| p.is_ipv4() == ipv4).collect();
        if peers.is_empty() {
            self.by_hash.pop(hash);
            self.bytes -= HASH_COST;
        }
        if out.len() > max {
            rng.shuffle(&mut out);
            out.truncate(max);
        }
        out
    }

    /// Lets go of what nobody has asked about and whose peers have all expired, a few at a time.
    pub fn expire(&mut self, now: Instant) {
        // Bounded, so that a large store costs no single long turn.
        for _ in 0..64 {
            let Some((_, peers)) = self.by_hash.peek_lru() else { return };
            if peers.iter().any(|(_, at)| now.saturating_duration_since(*at) < ANNOUNCE_EXPIRY) {
                return;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, peers)) = self.by_hash.pop_lru() {
            self.bytes -= HASH_COST + peers.len() * PEER_COST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;

    fn peer(n: u32) -> SocketAddr {
        (n.to_be_bytes(), 7).into()
    }

    #[test]
    fn peers_expire_and_a_repeat_renews() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(1 << 20);
        store.insert(now, Id160::ZERO, peer(1));
        store.insert(now, Id160::ZERO, peer(2));
        store.insert(now + ANNOUNCE_EXPIRY / 2, Id160::ZERO, peer(2));
        store.insert(now, Id160::ZERO, "[::1]:9".parse().unwrap());
        assert_eq!(store.peers(now, &Id160::ZERO, true, 9, &mut rng).len(), 2);
        assert_eq!(store.peers(now, &Id160::ZERO, true, 1, &mut rng).len(), 1);
        assert_eq!(store.peers(now + ANNOUNCE_EXPIRY, &Id160::ZERO, true, 9, &mut rng), [peer(2)]);
        assert!(store.peers(now + ANNOUNCE_EXPIRY * 2, &Id160::ZERO, true, 9, &mut rng).is_empty());
        assert_eq!((store.hashes(), store.bytes), (0, 0));
    }

    #[test]
    fn a_flood_stays_within_the_cap_and_the_latest_survive() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(10_000);
        for n in 0..10_000 {
            store.insert(now, Id160::random(&mut rng), peer(n));
        }
        store.insert(now, Id160::ZERO, peer(1));
        assert!(store.bytes <= 10_000 && store.hashes() > 50);
        for n in 0..5000 {
            store.insert(now, Id160::ZERO, peer(n));
        }
        assert!(store.peers(now, &Id160::ZERO, true, 9999, &mut rng).len() == MAX_PEERS_PER_HASH);
        store.expire(now + ANNOUNCE_EXPIRY);
        assert_eq!((store.hashes(), store.bytes), (0, 0));
    }
}
