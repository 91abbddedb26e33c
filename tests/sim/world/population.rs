//! How hosts come into being, start and stop.
//!
//! Knows what a host keeps and where it lives; when and why it comes and goes is decided in `fate.rs`.

use std::net::SocketAddrV4;
use std::time::Duration;

use dhtget::dht::{Config, Node, Stored};
use dhtget::id::NodeId;
use dhtget::wire::compact::Contact;

use super::dice::Dice;
use super::host::{Nat, Saved};
use super::shard::Gauge;
use super::{Host, Thing, World, micros};

impl World {
    pub(super) fn populate(&mut self) {
        let options = self.options().clone();
        let nodes = options.nodes;
        let total = nodes + options.churn.map_or(0, |c| (nodes as f64 * c.away) as usize);
        for n in 0..total {
            self.add_host(n < options.routers);
        }
        for host in 0..total as u32 {
            let is_router = (host as usize) < options.routers;
            if host as usize >= nodes {
                self.stay_away(host);
            } else if is_router || options.arrival.is_zero() {
                self.come_up_first(host);
            } else {
                let at = self.rng.below(micros(options.arrival) as usize) as u64;
                self.at(at, Thing::ComeUp(host));
            }
        }
        if let Some(every) = options.search_every {
            self.at(micros(every) / nodes as u64, Thing::Search);
        }
        for fault in options.faults {
            self.at(micros(fault.at()), Thing::Fault(fault));
        }
    }

    fn add_host(&mut self, is_router: bool) -> u32 {
        let host = self.total;
        let (sharers, nat, malice) = (self.options().sharers, self.options().nat, self.options().malice);
        let shares = self.rng.chance(sharers);
        let natted = self.rng.chance(nat);
        let lies = malice.is_some_and(|(share, _)| self.rng.chance(share));
        let access = self.draw_access();
        let dice = Dice::of(self.options().seed, host);
        let mut h = Host::new(self.network.next_serial(), access, dice);
        h.is_malicious = lies && !is_router;
        h.shares = shares && !h.is_malicious;
        h.nat = (natted && !is_router).then(Nat::default);
        self.network_mut().move_in(host, access);
        let shard = host as usize % self.shards.len();
        self.shards[shard].add(h);
        self.total += 1;
        host
    }

    /// A host of that id at that address, up from now on; a malicious one joins the plot.
    pub fn add_named(&mut self, address: SocketAddrV4, id: NodeId, malicious: bool) -> u32 {
        let host = self.add_host(true);
        let (at, access) = (self.clock(host), self.host(host).access);
        self.network_mut().name(address, host, access);
        let h = self.host_mut(host);
        (h.address, h.is_malicious, h.shares) = (address, malicious, false);
        h.saved = Some(Box::new(Saved { id, contacts: Vec::new(), stored: Stored::default(), at }));
        self.come_up(host);
        host
    }

    /// Log-normal, by twelve uniform draws: sums are the same on every machine.
    fn draw_access(&mut self) -> u64 {
        let normal = (0..12).map(|_| self.rng.unit()).sum::<f64>() - 6.0;
        let (median, least) = (micros(self.options().access), micros(self.options().access_min));
        ((median as f64 * (normal * self.options().access_sigma).exp()) as u64).max(least)
    }

    /// Starts a host's node, from what it had saved if anything.
    pub fn come_up(&mut self, host: u32) {
        let (now, seed) = (self.clock(host), self.rng.child());
        let routers = (0..self.options().routers as u32).filter(|r| *r != host);
        let routers: Vec<_> = routers.map(|r| self.host(r).addr()).collect();
        // First the node joins, and in the beginning everyone else has to.
        let settled = (micros(self.options().arrival) + 60_000_000).max(self.now + 10_000_000);
        let shares = self.host(host).shares;
        let announces_at = if shares { settled + self.rng.below(50_000_000) as u64 } else { u64::MAX };
        self.count_up_time();
        self.up += 1;
        let (shard, network) = self.around(host);
        let saved = shard.host_mut(host).saved.take();
        let config = Config {
            id: saved.as_ref().map(|s| s.id),
            network: network.options.network,
            ipv6: false,
            ..Config::default()
        };
        let before = shard.weigh(host);
        let node = Box::new(Node::new(config, seed, now));
        shard.take_on(host, before);
        let id = node.id();
        let h = shard.host_mut(host);
        (h.session, h.announced_to) = (h.session + 1, 0);
        (h.wake, h.queued) = (u64::MAX, u64::MAX);
        h.announces_at = announces_at;
        h.node = Some(node);
        let member = h.is_malicious.then(|| Contact { id, addr: h.addr() });
        shard.with_node(network, host, |node, now| node.add_bootstrap(now, routers));
        if let Some(saved) = saved {
            let Saved { contacts, mut stored, at, .. } = *saved;
            let gone = now.saturating_duration_since(at);
            stored.peers.iter_mut().for_each(|p| p.age += gone);
            stored.items.iter_mut().for_each(|(_, age)| *age += gone);
            shard.with_node(network, host, |node, now| node.restore(now, stored));
            if !contacts.is_empty() {
                shard.with_node(network, host, |node, now| node.add_saved(now, contacts));
            }
        }
        if let Some(member) = member {
            self.network_mut().plot.members.push(member);
        }
    }

    /// Stops a host's node without a word, as nodes do.
    pub fn go_down(&mut self, host: u32) {
        self.count_up_time();
        let (shard, _) = self.around(host);
        let h = shard.host_mut(host);
        let Some(node) = h.node.take() else { return };
        h.session += 1;
        h.announces_at = u64::MAX;
        let (addr, is_malicious) = (h.addr(), h.is_malicious);
        let before = shard.weigh(host);
        drop(node);
        shard.take_on(host, before);
        shard.searches.retain(|(searcher, _), _| *searcher != host);
        self.up -= 1;
        if is_malicious {
            self.network_mut().plot.members.retain(|c| c.addr != addr);
        }
    }

    /// Another host in its place, at another address.
    pub(super) fn replace(&mut self, host: u32) {
        let old = self.host(host).serial;
        let access = self.draw_access();
        let network = self.network_mut();
        network.move_out(old);
        let serial = network.move_in(host, access);
        self.host_mut(host).replace(serial, access);
    }

    /// From now on the memory of this host's node is weighed, by what the allocator has given out. The node starts
    /// anew, so that nothing of it is missed.
    pub fn weigh_host(&mut self, host: u32, gauge: Gauge) {
        assert!(self.shards.len() == 1, "an allocator counts for all threads");
        self.go_down(host);
        self.shards[0].weighed = Some((host, gauge, 0));
        self.come_up(host);
    }

    /// What the weighed node holds.
    pub fn held(&self) -> isize {
        self.shards[0].weighed.map_or(0, |w| w.2)
    }
}
