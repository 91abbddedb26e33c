//! The peers that others announced to us, for as long as they are believed.
//!
//! Owns a bounded store: least recently used info-hashes go first, the oldest peer of a hash goes first.
//! Must not know tokens or messages.

use std::net::SocketAddr;
use std::time::Instant;

use lru::LruCache;

use super::config::{
    ANNOUNCE_EXPIRY, MAX_PEERS_PER_HASH, MAX_PORTS_PER_ADDRESS, MAX_SAMPLES, SAMPLE_INTERVAL,
};
use crate::id::InfoHash;
use crate::rng::Rng;
use crate::wire::bloom::Bloom;

/// What an info-hash costs beside its peers, with the map's share.
const HASH_COST: usize = 128;
/// What a peer costs.
const PEER_COST: usize = std::mem::size_of::<Peer>();

/// One that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// When it was last announced.
    pub at: Instant,
    /// Whether it has everything (BEP 33).
    pub seed: bool,
}

impl Peer {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < ANNOUNCE_EXPIRY
    }
}

/// Peers by info-hash. The map is never iterated, only its order of use is followed.
#[derive(Debug)]
pub struct Announced {
    by_hash: LruCache<InfoHash, Vec<Peer>>,
    bytes: usize,
    cap: usize,
    samples: Vec<InfoHash>,
    /// When the samples are drawn anew.
    samples_until: Option<Instant>,
}

impl Announced {
    /// An empty store of at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        let by_hash = LruCache::unbounded();
        Self { by_hash, bytes: 0, cap, samples: Vec::new(), samples_until: None }
    }

    /// Info-hashes in store.
    pub fn hashes(&self) -> usize {
        self.by_hash.len()
    }

    /// Remembers a peer, or that it is still there.
    pub fn insert(&mut self, now: Instant, hash: InfoHash, addr: SocketAddr, seed: bool) {
        let peer = Peer { addr, at: now, seed };
        if !self.by_hash.contains(&hash) {
            self.by_hash.put(hash, Vec::new());
            self.bytes += HASH_COST;
        }
        let Some(peers) = self.by_hash.get_mut(&hash) else { return };
        if let Some(known) = peers.iter_mut().find(|p| p.addr == addr) {
            *known = peer;
            return;
        }
        let same = peers.iter_mut().filter(|p| p.addr.ip() == addr.ip() && !addr.ip().is_loopback());
        let (count, oldest) = same.fold((0, None::<&mut Peer>), |(n, old), entry| match old {
            Some(old) if old.at <= entry.at => (n + 1, Some(old)),
            _ => (n + 1, Some(entry)),
        });
        if let (MAX_PORTS_PER_ADDRESS.., Some(oldest)) = (count, oldest) {
            *oldest = peer;
        } else if peers.len() < MAX_PEERS_PER_HASH {
            peers.push(peer);
            self.bytes += PEER_COST;
        } else if let Some(oldest) = peers.iter_mut().min_by_key(|p| p.at) {
            *oldest = peer;
        }
        while self.bytes > self.cap && self.by_hash.len() > 1 {
            self.drop_oldest();
        }
    }

    /// The peers of a hash that are still believed, having let go of the others.
    fn fresh(&mut self, now: Instant, hash: &InfoHash) -> &[Peer] {
        let Some(peers) = self.by_hash.get_mut(hash) else { return &[] };
        let before = peers.len();
        peers.retain(|p| p.is_fresh(now));
        self.bytes -= (before - peers.len()) * PEER_COST;
        if peers.is_empty() {
            self.by_hash.pop(hash);
            self.bytes -= HASH_COST;
        }
        self.by_hash.peek(hash).map_or(&[], Vec::as_slice)
    }

    /// Seeds and others of a hash, as filters (BEP 33); none where nobody was announced.
    pub fn filters(&mut self, now: Instant, hash: &InfoHash) -> Option<[Bloom; 2]> {
        let peers = self.fresh(now, hash);
        let mut filters = [Bloom::default(), Bloom::default()];
        peers.iter().for_each(|p| filters[usize::from(!p.seed)].insert(p.addr.ip()));
        (!peers.is_empty()).then_some(filters)
    }

    /// Some of the hashes, the same ones for [`SAMPLE_INTERVAL`] (BEP 51).
    pub fn samples(&mut self, now: Instant, rng: &mut Rng) -> &[InfoHash] {
        let outdated = self.samples_until.is_none_or(|until| until <= now);
        if outdated || self.samples.len() < MAX_SAMPLES.min(self.by_hash.len()) {
            self.samples_until = Some(now + SAMPLE_INTERVAL);
            // Reservoir sampling: one pass, every hash equally likely.
            self.samples.clear();
            for (seen, (hash, _)) in self.by_hash.iter().enumerate() {
                if self.samples.len() < MAX_SAMPLES {
                    self.samples.push(*hash);
                } else if let Some(place) = self.samples.get_mut(rng.below(seen + 1)) {
                    *place = *hash;
                }
            }
        }
        &self.samples
    }

    /// Everyone who is still believed, the hashes least recently used first.
    pub fn export(&self, now: Instant) -> impl Iterator<Item = (InfoHash, Peer)> + '_ {
        let hashes = self.by_hash.iter().rev();
        hashes.flat_map(move |(h, peers)| peers.iter().filter(move |p| p.is_fresh(now)).map(|p| (*h, *p)))
    }

    /// Up to `max` peers of one family, a random choice where there are more.
    pub fn peers(
        &mut self,
        now: Instant,
        hash: &InfoHash,
        ipv4: bool,
        no_seeds: bool,
        max: usize,
        rng: &mut Rng,
    ) -> Vec<SocketAddr> {
        let wanted = |p: &&Peer| p.addr.is_ipv4() == ipv4 && !(no_seeds && p.seed);
        let mut out: Vec<_> = self.fresh(now, hash).iter().filter(wanted).map(|p| p.addr).collect();
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
            if peers.iter().any(|p| p.is_fresh(now)) {
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
        store.insert(now, Id160::ZERO, peer(1), false);
        store.insert(now, Id160::ZERO, peer(2), false);
        store.insert(now + ANNOUNCE_EXPIRY / 2, Id160::ZERO, peer(2), false);
        store.insert(now, Id160::ZERO, "[::1]:9".parse().unwrap(), true);
        assert_eq!(store.peers(now, &Id160::ZERO, true, false, 9, &mut rng).len(), 2);
        assert_eq!(store.peers(now, &Id160::ZERO, true, false, 1, &mut rng).len(), 1);
        assert_eq!(store.peers(now + ANNOUNCE_EXPIRY, &Id160::ZERO, true, false, 9, &mut rng), [peer(2)]);
        assert!(store.peers(now + ANNOUNCE_EXPIRY * 2, &Id160::ZERO, true, false, 9, &mut rng).is_empty());
        assert_eq!((store.hashes(), store.bytes), (0, 0));
    }

    #[test]
    fn a_flood_stays_within_the_cap_and_the_latest_survive() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(10_000);
        for n in 0..10_000 {
            store.insert(now, Id160::random(&mut rng), peer(n), false);
        }
        store.insert(now, Id160::ZERO, peer(1), false);
        assert!(store.bytes <= 10_000 && store.hashes() > 50);
        for n in 0..5000 {
            store.insert(now, Id160::ZERO, peer(n), false);
        }
        assert!(store.peers(now, &Id160::ZERO, true, false, 9999, &mut rng).len() == MAX_PEERS_PER_HASH);
        store.expire(now + ANNOUNCE_EXPIRY);
        assert_eq!((store.hashes(), store.bytes), (0, 0));
    }

    #[test]
    fn seeds_are_counted_apart_and_left_out_on_request() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(1 << 20);
        assert_eq!(store.filters(now, &Id160::ZERO), None);
        (0..30).for_each(|n| store.insert(now, Id160::ZERO, peer(n), n < 10));
        let [seeds, others] = store.filters(now, &Id160::ZERO).unwrap();
        assert_eq!((seeds.estimate().round(), others.estimate().round()), (10.0, 20.0));
        assert_eq!(store.peers(now, &Id160::ZERO, true, true, 99, &mut rng).len(), 20);
        store.insert(now, Id160::ZERO, peer(20), true);
        assert_eq!(store.peers(now, &Id160::ZERO, true, true, 99, &mut rng).len(), 19);
        assert_eq!(store.export(now).count(), 30);
        assert_eq!(store.export(now + ANNOUNCE_EXPIRY).count(), 0);
    }

    #[test]
    fn samples_stay_the_same_for_their_interval() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(1 << 20);
        store.insert(now, Id160([1; 20]), peer(1), false);
        assert_eq!(store.samples(now, &mut rng), [Id160([1; 20])]);
        (0..200).for_each(|n| store.insert(now, Id160([n; 20]), peer(1), false));
        let first = store.samples(now, &mut rng).to_vec();
        assert_eq!(first.len(), MAX_SAMPLES);
        assert_eq!(store.samples(now + SAMPLE_INTERVAL / 2, &mut rng), first);
        assert_ne!(store.samples(now + SAMPLE_INTERVAL, &mut rng), first);
    }
}
