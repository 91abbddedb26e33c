//! What the hosts' users do: share, and look for what others share.
//!
//! Knows who announced what; a search succeeds if it hears of the very host that shares the torrent.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::dht::{Event, LookupId};
use dhtget::id::InfoHash;

use super::{Thing, World, micros};

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
    pub(super) fn announce_again(&mut self, host: u32, session: u32) {
        let h = &self.hosts[host as usize];
        if h.session != session || !h.is_up() {
            return;
        }
        self.announce(host);
        // A tenth more or less, or all would announce in step.
        let every = micros(self.options.announce_every);
        let at = self.now + every - every / 10 + self.rng.below(every as usize / 5) as u64;
        self.queue.push(at, Thing::Announce { host, session });
    }

    /// A host announces its torrent.
    pub fn announce(&mut self, host: u32) {
        self.announce_as(host, self.hosts[host as usize].torrent());
    }

    /// A host announces that torrent.
    pub fn announce_as(&mut self, host: u32, hash: InfoHash) {
        let peer = SocketAddr::new(self.hosts[host as usize].addr().ip(), PEER_PORT);
        let lookup = self.with_node(host, |node, now| node.announce(now, hash, PEER_PORT));
        if let Some(Ok(lookup)) = lookup {
            let wanted = Wanted { peer, started: self.now, first: None, is_announce: true };
            self.expect(host, lookup, wanted);
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

    pub(super) fn search_somewhere(&mut self) {
        let Some(every) = self.options.search_every else { return };
        let mean = micros(every) as f64 / self.up.max(1) as f64;
        let wait = -(1.0 - self.rng.unit()).ln() * mean;
        self.queue.push(self.now + wait as u64, Thing::Search);
        if let Some((host, sharer)) = self.pair() {
            self.search(host, sharer);
        }
    }

    /// An honest host that is up, and another one whose torrent has been announced.
    fn pair(&mut self) -> Option<(u32, u32)> {
        let total = self.hosts.len();
        let mut draw = |fits: &dyn Fn(&super::Host) -> bool| {
            let at = (0..TRIES).map(|_| self.rng.below(total)).find(|n| fits(&self.hosts[*n]));
            at.map(|n| n as u32)
        };
        let host = draw(&|h| h.node.as_ref().is_some_and(|n| n.has_joined()) && !h.is_malicious)?;
        let sharer = draw(&|h| h.is_up() && h.announced_to > 0)?;
        (host != sharer).then_some((host, sharer))
    }

    /// A host looks for what another one shares.
    pub fn search(&mut self, host: u32, sharer: u32) {
        let h = &self.hosts[sharer as usize];
        let (hash, peer) = (h.torrent(), SocketAddr::new(h.addr().ip(), PEER_PORT));
        self.search_for(host, hash, peer);
    }

    /// A host looks for a torrent that this peer has announced.
    pub fn search_for(&mut self, host: u32, hash: InfoHash, peer: SocketAddr) {
        let lookup = self.with_node(host, |node, now| node.get_peers(now, hash));
        if let Some(Ok(lookup)) = lookup {
            let wanted = Wanted { peer, started: self.now, first: None, is_announce: false };
            self.expect(host, lookup, wanted);
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
                    self.hosts[host as usize].announced_to = stats.announced_to;
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
