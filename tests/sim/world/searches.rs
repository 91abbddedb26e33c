//! What the hosts' users do: share, and look for what others share.
//!
//! Knows who announced what; a search succeeds if it hears of the very host that shares the torrent.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::dht::{Event, LookupId};
use dhtget::id::InfoHash;

use super::host::Host;
use super::network::Network;
use super::shard::Shard;
use super::{Thing, World, micros, of};

/// Where peers listen.
pub const PEER_PORT: u16 = 7000;
/// Draws before a moment without a pair to search is let go.
const TRIES: usize = 64;

/// A search whose outcome counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    peer: SocketAddr,
    started: u64,
    first: Option<Duration>,
    is_announce: bool,
}

impl World {
    pub(super) fn search_somewhere(&mut self) {
        let Some(every) = self.options().search_every else { return };
        let mean = micros(every) as f64 / self.up.max(1) as f64;
        let wait = -(1.0 - self.rng.unit()).ln() * mean;
        self.at(self.now + wait as u64, Thing::Search);
        if let Some((host, sharer)) = self.pair() {
            self.search(host, sharer);
        }
    }

    /// An honest host that is up, and another one whose torrent has been announced.
    fn pair(&mut self) -> Option<(u32, u32)> {
        let host = self.draw(|h| h.node.as_ref().is_some_and(|n| n.has_joined()) && !h.is_malicious)?;
        let sharer = self.draw(|h| h.is_up() && h.announced_to > 0)?;
        (host != sharer).then_some((host, sharer))
    }

    fn draw(&mut self, fits: impl Fn(&Host) -> bool) -> Option<u32> {
        let total = self.total as usize;
        (0..TRIES).map(|_| self.rng.below(total) as u32).find(|n| fits(of(&self.shards, *n)))
    }

    /// A host announces its torrent.
    pub fn announce(&mut self, host: u32) {
        self.announce_as(host, self.host(host).torrent());
    }

    /// A host announces that torrent.
    pub fn announce_as(&mut self, host: u32, hash: InfoHash) {
        let (shard, network) = self.around(host);
        shard.announce(network, host, hash);
    }

    /// A host looks for what another one shares.
    pub fn search(&mut self, host: u32, sharer: u32) {
        let h = self.host(sharer);
        let (hash, peer) = (h.torrent(), SocketAddr::new(h.addr().ip(), PEER_PORT));
        self.search_for(host, hash, peer);
    }

    /// A host looks for a torrent that this peer has announced.
    pub fn search_for(&mut self, host: u32, hash: InfoHash, peer: SocketAddr) {
        let (shard, network) = self.around(host);
        shard.search_for(network, host, hash, peer);
    }
}

impl Shard {
    /// A sharer announces what it shares, and will again.
    pub(super) fn announce_again(&mut self, network: &Network, host: u32) {
        let (now, every) = (self.now, micros(network.options.announce_every));
        let h = self.host_mut(host);
        // A tenth more or less, or all would announce in step.
        h.announces_at = now + every - every / 10 + h.dice.below(every / 5);
        let hash = h.torrent();
        self.announce(network, host, hash);
    }

    /// A host announces that torrent.
    pub(super) fn announce(&mut self, network: &Network, host: u32, hash: InfoHash) {
        let peer = SocketAddr::new(self.host(host).addr().ip(), PEER_PORT);
        let lookup = self.with_node(network, host, |node, now| node.announce(now, hash, PEER_PORT));
        if let Some(Ok(lookup)) = lookup {
            self.expect(host, lookup, Wanted { peer, started: self.now, first: None, is_announce: true });
        }
    }

    /// A host looks for a torrent that this peer has announced.
    pub(super) fn search_for(&mut self, network: &Network, host: u32, hash: InfoHash, peer: SocketAddr) {
        let lookup = self.with_node(network, host, |node, now| node.get_peers(now, hash));
        if let Some(Ok(lookup)) = lookup {
            self.expect(host, lookup, Wanted { peer, started: self.now, first: None, is_announce: false });
        }
    }

    fn expect(&mut self, host: u32, lookup: LookupId, wanted: Wanted) {
        self.searches.insert((host, lookup), wanted);
        // A search that ends at once has told so already.
        if let Some(peers) = self.found.remove(&(host, lookup)) {
            self.on_event(host, Event::Peers { lookup, peers });
        }
        if let Some((stats, closest)) = self.done.remove(&(host, lookup)) {
            self.on_event(host, Event::Done { lookup, stats, closest });
        }
    }

    pub(super) fn on_event(&mut self, host: u32, event: Event) {
        match event {
            Event::Peers { lookup, peers } => match self.searches.get_mut(&(host, lookup)) {
                Some(wanted) => {
                    if wanted.first.is_none() && peers.contains(&wanted.peer) {
                        wanted.first = Some(Duration::from_micros(self.now - wanted.started));
                    }
                }
                None => self.found.entry((host, lookup)).or_default().extend(peers),
            },
            Event::Done { lookup, stats, closest } => match self.searches.remove(&(host, lookup)) {
                Some(wanted) if wanted.is_announce => {
                    self.host_mut(host).announced_to = stats.announced_to;
                    self.tally.announces += 1;
                    self.tally.announced_to += u64::from(stats.announced_to);
                }
                Some(wanted) => self.tally.on_search(wanted.first, &stats),
                None => drop(self.done.insert((host, lookup), (stats, closest))),
            },
            _ => {}
        }
    }
}
