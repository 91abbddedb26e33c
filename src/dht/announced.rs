//! The peers that others announced to us, for as long as they are believed.
//!
//! Owns a bounded store: least recently used info-hashes go first, the oldest peer of a hash goes first.
//! Must not know tokens or messages.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use lru::LruCache;

use super::config::{
    ANNOUNCE_EXPIRY, FILTERS_HOLD, FILTERS_KEPT, MAX_PEERS_PER_HASH, MAX_PORTS_PER_ADDRESS, MAX_SAMPLES,
    SAMPLE_INTERVAL, is_private,
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

/// Which peers of a hash are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Of IPv4, otherwise of IPv6.
    pub ipv4: bool,
    /// Those that lack something only.
    pub no_seeds: bool,
    /// Those at private addresses too, which mean nothing to the world.
    pub private: bool,
    /// So many at most.
    pub max: usize,
}

/// Peers by info-hash. The map is never iterated, only its order of use is followed.
#[derive(Debug)]
pub struct Announced {
    by_hash: LruCache<InfoHash, Vec<Peer>>,
    bytes: usize,
    peers: usize,
    cap: usize,
    /// What was counted lately: a thousand hashes an answer are too many.
    filters: LruCache<InfoHash, (Instant, Box<[Bloom; 2]>)>,
    samples: Vec<InfoHash>,
    /// When the samples are drawn anew.
    samples_until: Option<Instant>,
    /// Ports that one address may announce for one hash.
    ports: usize,
}

impl Announced {
    /// An empty store of at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        let by_hash = LruCache::unbounded();
        let filters = LruCache::sparse(NonZeroUsize::new(FILTERS_KEPT).unwrap_or(NonZeroUsize::MIN));
        Self {
            by_hash,
            bytes: 0,
            peers: 0,
            cap,
            filters,
            samples: Vec::new(),
            samples_until: None,
            ports: MAX_PORTS_PER_ADDRESS,
        }
    }

    /// As many ports of one address as there are peers: behind it may be a whole site.
    pub fn share_addresses(&mut self) {
        self.ports = MAX_PEERS_PER_HASH;
    }

    /// Info-hashes in store.
    pub fn hashes(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether anybody announced it; he may have expired since.
    pub fn contains(&self, hash: &InfoHash) -> bool {
        self.by_hash.contains(hash)
    }

    /// Peers in store.
    pub fn peers_stored(&self) -> usize {
        self.peers
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
    pub fn insert(&mut self, now: Instant, hash: InfoHash, addr: SocketAddr, seed: bool) {
        let peer = Peer { addr, at: now, seed };
        let (bytes, stored) = (&mut self.bytes, &mut self.peers);
        let peers = self.by_hash.get_or_insert_mut(hash, || {
            *bytes += HASH_COST + PEER_COST;
            // Most hashes have one peer; a vector's own first step would be room for four.
            Vec::with_capacity(1)
        });
        if let Some(known) = peers.iter_mut().find(|p| p.addr == addr) {
            if known.seed != seed {
                self.filters.pop(&hash);
            }
            *known = peer;
            return;
        }
        // Whoever is new is counted at once.
        self.filters.pop(&hash);
        let same = peers.iter_mut().filter(|p| p.addr.ip() == addr.ip() && !addr.ip().is_loopback());
        let (count, oldest) = same.fold((0, None::<&mut Peer>), |(n, old), entry| match old {
            Some(old) if old.at <= entry.at => (n + 1, Some(old)),
            _ => (n + 1, Some(entry)),
        });
        if let Some(oldest) = oldest.filter(|_| count >= self.ports) {
            *oldest = peer;
        } else if peers.len() < MAX_PEERS_PER_HASH {
            // What is set aside counts, not what is used.
            let before = peers.capacity();
            peers.push(peer);
            *stored += 1;
            *bytes += (peers.capacity() - before) * PEER_COST;
        } else if let Some(oldest) = peers.iter_mut().min_by_key(|p| p.at) {
            *oldest = peer;
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > self.cap && self.by_hash.len() > 1 {
            self.drop_oldest();
        }
    }

    /// The peers of a hash that are still believed, having let go of the others.
    fn fresh(&mut self, now: Instant, hash: &InfoHash) -> &[Peer] {
        let Some(peers) = self.by_hash.get_mut(hash) else { return &[] };
        let before = peers.len();
        peers.retain(|p| p.is_fresh(now));
        self.peers -= before - peers.len();
        if peers.is_empty() {
            if let Some(peers) = self.by_hash.pop(hash) {
                self.forget(&peers);
            }
        } else if peers.capacity() > 2 * peers.len() + 2 {
            let before = peers.capacity();
            peers.shrink_to_fit();
            self.bytes -= (before - peers.capacity()) * PEER_COST;
        }
        self.by_hash.peek(hash).map_or(&[], Vec::as_slice)
    }

    /// Seeds and others of a hash, as filters (BEP 33); none where nobody was announced. Who has
    /// gone is counted for a minute more.
    pub fn filters(&mut self, now: Instant, hash: &InfoHash) -> Option<[Bloom; 2]> {
        if let Some((at, filters)) = self.filters.get(hash)
            && now.saturating_duration_since(*at) < FILTERS_HOLD
        {
            return Some(filters.as_ref().clone());
        }
        let peers = self.fresh(now, hash);
        if peers.is_empty() {
            return None;
        }
        let mut filters = [Bloom::default(), Bloom::default()];
        peers.iter().for_each(|p| filters[usize::from(!p.seed)].insert(p.addr.ip()));
        self.filters.put(*hash, (now, Box::new(filters.clone())));
        Some(filters)
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
        let mut out = Vec::new();
        let choice = Choice { ipv4, no_seeds, private: true, max };
        self.tell_peers(now, hash, choice, rng, |peer| out.push(peer));
        out
    }

    /// The same, each told as it comes.
    pub fn tell_peers(
        &mut self,
        now: Instant,
        hash: &InfoHash,
        Choice { ipv4, no_seeds, private, max }: Choice,
        rng: &mut Rng,
        mut tell: impl FnMut(SocketAddr),
    ) {
        let peers = self.fresh(now, hash);
        // One draw for all of them: whoever comes first, everyone has the same chance to be in the row.
        let first = if peers.len() > max { rng.below(peers.len()) } else { 0 };
        let row = peers[first..].iter().chain(&peers[..first]);
        let wanted = row.filter(|p| {
            p.addr.is_ipv4() == ipv4 && !(no_seeds && p.seed) && (private || !is_private(p.addr.ip()))
        });
        wanted.take(max).for_each(|p| tell(p.addr));
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
            self.forget(&peers);
        }
    }

    fn forget(&mut self, peers: &Vec<Peer>) {
        self.bytes -= HASH_COST + peers.capacity() * PEER_COST;
        self.peers -= peers.len();
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
    fn any_peer_may_be_among_the_few_that_are_told() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(2));
        let mut store = Announced::new(1 << 20);
        for n in 0..100 {
            let other = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), n as u16);
            store.insert(now, Id160::ZERO, peer(n), false);
            store.insert(now, Id160::ZERO, other, false);
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut few = store.peers(now, &Id160::ZERO, true, false, 10, &mut rng);
            few.sort();
            few.dedup();
            assert!(few.len() == 10 && few.iter().all(SocketAddr::is_ipv4));
            seen.extend(few);
        }
        assert_eq!(seen.len(), 100);
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
        let [seeds, others] = store.filters(now, &Id160::ZERO).unwrap();
        assert_eq!((seeds.estimate().round(), others.estimate().round()), (11.0, 19.0), "at once");
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

    /// What an hour of expired peers leaves set aside counts, and goes.
    #[test]
    fn memory_follows_what_is_set_aside() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut store = Announced::new(64 << 20);
        (0..1000).for_each(|n| store.insert(now, Id160::ZERO, peer(n), false));
        assert!(store.memory().0 >= 1000 * PEER_COST && store.peers_stored() == 1000);
        let later = now + ANNOUNCE_EXPIRY / 2;
        store.insert(later, Id160::ZERO, peer(5), false);
        let much_later = now + ANNOUNCE_EXPIRY;
        assert_eq!(store.peers(much_later, &Id160::ZERO, true, false, 9, &mut rng), [peer(5)]);
        let spare = store.by_hash.peek(&Id160::ZERO).unwrap().capacity();
        assert!(spare <= 4 && store.memory().0 == HASH_COST + spare * PEER_COST, "{spare}");
        assert_eq!(store.peers_stored(), 1);
    }
}
