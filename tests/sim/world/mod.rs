//! A network of real DHT nodes in virtual time: a day of ten thousand in minutes, and the same again from
//! the same options, byte for byte.
//!
//! [`Options`] holds every choice and fault. A [`World`] keeps the contract of the machine: one input, then
//! every poll. Time is microseconds from the start; the order of everything that happens is by time, and then
//! by when it was decided.
#![allow(dead_code, unused_imports, reason = "each test and example uses its part of it")]

pub mod address;
mod evil;
mod fate;
mod host;
mod options;
mod queue;
mod searches;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::config::K;
use dhtget::dht::{Config, Event, LookupId, LookupStats, Node, Stored};
use dhtget::id::NodeId;
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;
use siphasher::sip::SipHasher13;

use self::evil::{Plot, Verdict};
pub use self::host::Host;
use self::host::{Nat, Saved};
pub use self::options::{Churn, Fault, Malice, Options};
use self::queue::{Due, Queue};
pub use self::searches::PEER_PORT;
use self::searches::Wanted;
pub use self::tally::{COLUMNS, Row, Tables, Tally};

/// What is to happen beside timers.
#[derive(Debug)]
enum Thing {
    Datagram { from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    ComeUp(u32),
    GoDown { host: u32, session: u32 },
    Announce { host: u32, session: u32 },
    Search,
    Fault(Fault),
}

/// The allocator's count, where a test wants one host's memory weighed.
pub type Gauge = fn() -> usize;

/// The network, its hosts and its clock.
pub struct World {
    pub options: Options,
    pub rng: Rng,
    epoch: Instant,
    now: u64,
    queue: Queue<Thing>,
    pub hosts: Vec<Host>,
    /// Host by serial number of its address; strangers' addresses of the past lead nowhere.
    directory: Vec<u32>,
    /// The same for addresses outside the usual ones.
    named: BTreeMap<SocketAddr, u32>,
    up: usize,
    up_since: u64,
    /// Until then the two sides of a partition do not hear each other.
    parted_until: u64,
    plot: Plot,
    pub tally: Tally,
    searches: BTreeMap<(u32, LookupId), Wanted>,
    /// Peers found by searches that a test started itself, and how these ended.
    pub found: BTreeMap<(u32, LookupId), Vec<SocketAddr>>,
    pub done: BTreeMap<(u32, LookupId), (LookupStats, Vec<Contact>)>,
    /// How often a victim was named in a poisoned answer.
    pub poisoned: u64,
    /// Datagrams to addresses outside the network.
    pub strays: BTreeMap<SocketAddr, u64>,
    /// A host whose memory is weighed, by what, and what it holds now.
    weighed: Option<(u32, Gauge, isize)>,
    trace: SipHasher13,
}

/// No host.
const NOBODY: u32 = u32::MAX;
/// Addresses outside the network that are told apart.
const MAX_STRAYS: usize = 4096;

impl World {
    pub fn new(options: Options) -> Self {
        let mut world = Self {
            rng: Rng::from_u64(options.seed),
            epoch: Instant::now(),
            now: 0,
            queue: Queue::new(),
            hosts: Vec::new(),
            directory: Vec::new(),
            named: BTreeMap::new(),
            up: 0,
            up_since: 0,
            parted_until: 0,
            plot: Plot::default(),
            tally: Tally::default(),
            searches: BTreeMap::new(),
            found: BTreeMap::new(),
            done: BTreeMap::new(),
            poisoned: 0,
            strays: BTreeMap::new(),
            weighed: None,
            trace: SipHasher13::new(),
            options,
        };
        world.populate();
        world
    }

    // ---- time

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// A fingerprint of every delivery so far: when, from whom, to whom, what.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// What a host's clock shows.
    pub fn clock(&self, host: u32) -> Instant {
        self.epoch + Duration::from_micros(self.now + self.hosts[host as usize].ahead)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + micros(time);
        while let Some((at, due)) = self.queue.pop_until(end) {
            self.now = at;
            match due {
                Due::Timer(host) => self.on_timer(host),
                Due::Thing(Thing::Datagram { from, to, payload }) => self.deliver(from, to, &payload),
                Due::Thing(thing) => self.befall(thing),
            }
        }
        self.now = end;
        self.count_up_time();
    }

    fn count_up_time(&mut self) {
        self.tally.up_time += u128::from(self.now - self.up_since) * self.up as u128;
        self.up_since = self.now;
    }

    /// The figures since they were last taken.
    pub fn take_tally(&mut self) -> Tally {
        self.count_up_time();
        std::mem::take(&mut self.tally)
    }

    // ---- the machines

    fn on_timer(&mut self, host: u32) {
        let now = self.clock(host);
        let h = &mut self.hosts[host as usize];
        // The queue keeps early entries rather than looking for them; the last one set counts.
        if h.due != self.now {
            return;
        }
        h.due = u64::MAX;
        let Some(node) = &mut h.node else { return };
        if node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.with_node(host, |node, now| node.handle_timeout(now));
        } else {
            self.drain(host);
        }
    }

    /// One input to a node, and then all that it has to say.
    pub fn with_node<T>(&mut self, host: u32, input: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let now = self.clock(host);
        let before = self.weigh(host);
        let node = self.hosts[host as usize].node.as_deref_mut()?;
        let out = input(node, now);
        let after = self.weigh(host);
        if let Some((_, _, held)) = &mut self.weighed {
            *held += after - before;
        }
        self.drain(host);
        Some(out)
    }

    fn weigh(&self, host: u32) -> isize {
        self.weighed.filter(|w| w.0 == host).map_or(0, |(_, gauge, _)| gauge() as isize)
    }

    fn drain(&mut self, host: u32) {
        let at = self.hosts[host as usize].addr();
        loop {
            let Some(node) = self.hosts[host as usize].node.as_deref_mut() else { return };
            let Some(transmit) = node.poll_transmit() else { break };
            self.let_go(host, transmit.payload.capacity());
            self.send(host, at, transmit.to, transmit.payload);
        }
        loop {
            let Some(node) = self.hosts[host as usize].node.as_deref_mut() else { return };
            let Some(event) = node.poll_event() else { break };
            self.let_go(host, heap_of(&event));
            self.on_event(host, event);
        }
        let h = &mut self.hosts[host as usize];
        let due = h.node.as_ref().and_then(|n| n.poll_timeout()).map_or(u64::MAX, |(at, _)| {
            let after = at.saturating_duration_since(self.epoch + Duration::from_micros(h.ahead));
            // Rounded up: a timer that fires early would fire again.
            (after.as_nanos() as u64).div_ceil(1000).max(self.now)
        });
        if due < h.due {
            h.due = due;
            self.queue.push_timer(due, host);
        }
    }

    /// What has left the node is the world's.
    fn let_go(&mut self, host: u32, bytes: usize) {
        if let Some((_, _, held)) = self.weighed.as_mut().filter(|w| w.0 == host) {
            *held -= bytes as isize;
        }
    }

    // ---- the network

    fn send(&mut self, host: u32, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.tally.datagrams += 1;
        self.tally.bytes += payload.len() as u64;
        let h = &mut self.hosts[host as usize];
        if let Some(nat) = &mut h.nat {
            nat.on_send(self.now, to.ip(), micros(self.options.pinhole));
        }
        let access = h.access;
        self.put_on_the_way(access, from, to, payload);
    }

    fn put_on_the_way(&mut self, access: u64, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        if self.options.loss > 0.0 && self.rng.chance(self.options.loss) {
            self.tally.lost += 1;
            return;
        }
        let jitter = self.rng.below(micros(self.options.jitter) as usize) as u64;
        let there = self.resolve(to).map(|n| self.hosts[n as usize].access).unwrap_or(access);
        self.queue.push(self.now + access + there + jitter, Thing::Datagram { from, to, payload });
    }

    /// A datagram out of nowhere, as forged ones come.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.queue.push(self.now, Thing::Datagram { from, to, payload });
    }

    /// The host at an address, up or down.
    pub fn resolve(&self, addr: SocketAddr) -> Option<u32> {
        let host = match address::serial(addr) {
            Some(serial) => self.directory.get(serial as usize).copied().unwrap_or(NOBODY),
            None => self.named.get(&addr).copied().unwrap_or(NOBODY),
        };
        (host != NOBODY).then_some(host)
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let Some(host) = self.resolve(to) else {
            if address::serial(to).is_none_or(|s| s as usize >= self.directory.len()) {
                self.tally.astray += 1;
                if self.strays.len() < MAX_STRAYS || self.strays.contains_key(&to) {
                    *self.strays.entry(to).or_default() += 1;
                }
            }
            return;
        };
        let h = &self.hosts[host as usize];
        let lifetime = micros(self.options.pinhole);
        let shut = h.nat.as_ref().is_some_and(|nat| !nat.admits(self.now, from.ip(), lifetime));
        let parted = self.now < self.parted_until
            && self.resolve(from).is_some_and(|f| self.hosts[f as usize].side != h.side);
        let is_malicious = h.is_malicious;
        if !h.is_up() || shut || parted {
            return;
        }
        self.note(from, to, payload);
        if is_malicious && let Some(answer) = self.scheme(host, to, from, payload) {
            return answer.into_iter().for_each(|bytes| self.send(host, to, from, bytes));
        }
        // Real nodes have one port.
        if to == self.hosts[host as usize].addr() {
            self.with_node(host, |node, now| node.handle_datagram(now, from, payload));
        }
    }

    fn note(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        self.trace.write(&self.now.to_le_bytes());
        for addr in [from, to] {
            if let std::net::IpAddr::V4(ip) = addr.ip() {
                self.trace.write(&ip.octets());
            }
            self.trace.write(&addr.port().to_le_bytes());
        }
        self.trace.write(payload);
    }

    /// What a host in the plot does about a datagram: nothing of its own, silence, or an answer.
    fn scheme(
        &mut self,
        host: u32,
        at: SocketAddr,
        from: SocketAddr,
        payload: &[u8],
    ) -> Option<Option<Vec<u8>>> {
        let (_, kind) = self.options.malice?;
        let h = &self.hosts[host as usize];
        let kind = match kind {
            Malice::Mixed => {
                [Malice::Collude, Malice::Invent, Malice::Phantom, Malice::Swallow][host as usize % 4]
            }
            kind => kind,
        };
        let me = Contact { id: h.node.as_ref()?.id(), addr: h.addr() };
        match self.plot.judge(kind, me, at, from, payload, &mut self.rng) {
            Verdict::Honest => None,
            Verdict::Silent => Some(None),
            Verdict::Answer(bytes) => {
                self.poisoned += if let Malice::Poison(_) = kind { K as u64 } else { 0 };
                Some(Some(bytes))
            }
        }
    }

    // ---- hosts

    fn populate(&mut self) {
        let churn = self.options.churn;
        let total = self.options.nodes + churn.map_or(0, |c| (self.options.nodes as f64 * c.away) as usize);
        for n in 0..total {
            self.add_host(n < self.options.routers);
        }
        for host in 0..total as u32 {
            let is_router = (host as usize) < self.options.routers;
            if host as usize >= self.options.nodes {
                self.stay_away(host);
            } else if is_router || self.options.arrival.is_zero() {
                self.come_up_first(host);
            } else {
                let at = self.rng.below(micros(self.options.arrival) as usize) as u64;
                self.queue.push(at, Thing::ComeUp(host));
            }
        }
        if let Some(every) = self.options.search_every {
            self.queue.push(micros(every) / self.options.nodes as u64, Thing::Search);
        }
        for fault in self.options.faults.clone() {
            self.queue.push(micros(fault.at()), Thing::Fault(fault));
        }
    }

    fn add_host(&mut self, is_router: bool) -> u32 {
        let host = self.hosts.len() as u32;
        let shares = self.rng.chance(self.options.sharers);
        let natted = self.rng.chance(self.options.nat);
        let lies = self.options.malice.is_some_and(|(share, _)| self.rng.chance(share));
        let is_malicious = lies && !is_router;
        let serial = self.fresh_serial(host);
        let access = self.draw_access();
        self.hosts.push(Host {
            serial,
            own_addr: None,
            node: None,
            saved: None,
            session: 0,
            due: u64::MAX,
            access,
            ahead: 0,
            nat: (natted && !is_router).then(Nat::default),
            side: false,
            is_malicious,
            shares: shares && !is_malicious,
            announced_to: 0,
        });
        host
    }

    /// A host of that id at that address, up from now on; a malicious one joins the plot.
    pub fn add_named(&mut self, addr: SocketAddr, id: NodeId, malicious: bool) -> u32 {
        let host = self.add_host(true);
        let now = self.clock(host);
        self.named.insert(addr, host);
        let h = &mut self.hosts[host as usize];
        (h.own_addr, h.is_malicious, h.shares) = (Some(addr), malicious, false);
        h.saved = Some(Saved { id, contacts: Vec::new(), stored: Stored::default(), at: now });
        self.come_up(host);
        host
    }

    fn fresh_serial(&mut self, host: u32) -> u32 {
        self.directory.push(host);
        self.directory.len() as u32 - 1
    }

    /// Log-normal, by twelve uniform draws: sums are the same on every machine.
    fn draw_access(&mut self) -> u64 {
        let normal = (0..12).map(|_| self.rng.unit()).sum::<f64>() - 6.0;
        (micros(self.options.access) as f64 * (normal * self.options.access_sigma).exp()) as u64
    }

    /// Starts a host's node, from what it had saved if anything.
    pub fn come_up(&mut self, host: u32) {
        let (now, seed) = (self.clock(host), self.rng.child());
        let routers: Vec<_> = (0..self.options.routers as u32).filter(|r| *r != host).collect();
        let routers: Vec<_> = routers.iter().map(|r| self.hosts[*r as usize].addr()).collect();
        let saved = self.hosts[host as usize].saved.take();
        let config = Config {
            id: saved.as_ref().map(|s| s.id),
            network: self.options.network,
            ipv6: false,
            ..Config::default()
        };
        self.count_up_time();
        self.up += 1;
        let before = self.weigh(host);
        let node = Box::new(Node::new(config, seed, now));
        let after = self.weigh(host);
        if let Some((_, _, held)) = &mut self.weighed {
            *held += after - before;
        }
        let h = &mut self.hosts[host as usize];
        (h.session, h.due, h.announced_to) = (h.session + 1, u64::MAX, 0);
        let (id, addr, session) = (node.id(), h.addr(), h.session);
        h.node = Some(node);
        if h.is_malicious {
            self.plot.members.push(Contact { id, addr });
        }
        if h.shares {
            // First the node joins, and in the beginning everyone else has to.
            let settled = micros(self.options.arrival) + 60_000_000;
            let at = settled.max(self.now + 10_000_000) + self.rng.below(50_000_000) as u64;
            self.queue.push(at, Thing::Announce { host, session });
        }
        self.with_node(host, |node, now| node.add_bootstrap(now, routers));
        if let Some(Saved { contacts, mut stored, at, .. }) = saved {
            let gone = now.saturating_duration_since(at);
            stored.peers.iter_mut().for_each(|p| p.age += gone);
            stored.items.iter_mut().for_each(|(_, age)| *age += gone);
            self.with_node(host, |node, now| node.restore(now, stored));
            if !contacts.is_empty() {
                self.with_node(host, |node, now| node.add_saved(now, contacts));
            }
        }
    }

    /// Stops a host's node without a word, as nodes do.
    pub fn go_down(&mut self, host: u32) {
        self.count_up_time();
        let h = &mut self.hosts[host as usize];
        if let Some(node) = h.node.take() {
            self.up -= 1;
            h.session += 1;
            let addr = h.addr();
            let before = self.weigh(host);
            drop(node);
            let after = self.weigh(host);
            if let Some((_, _, held)) = &mut self.weighed {
                *held += after - before;
            }
            self.plot.members.retain(|c| c.addr != addr);
            self.searches.retain(|(searcher, _), _| *searcher != host);
        }
    }

    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = u32> {
        (0..self.hosts.len() as u32).filter(|n| self.hosts[*n as usize].is_up())
    }

    /// From now on the memory of this host's node is weighed, by what the allocator has given out. The node starts
    /// anew, so that nothing of it is missed.
    pub fn weigh_host(&mut self, host: u32, gauge: Gauge) {
        self.go_down(host);
        self.weighed = Some((host, gauge, 0));
        self.come_up(host);
    }

    /// What the weighed node holds.
    pub fn held(&self) -> isize {
        self.weighed.map_or(0, |w| w.2)
    }

    // ---- what there is to see

    /// What the tables of honest hosts hold, and whether it is true.
    pub fn tables(&self) -> Tables {
        let ids: BTreeMap<SocketAddr, NodeId> = self
            .up()
            .map(|n| &self.hosts[n as usize])
            .filter_map(|h| Some((h.addr(), h.node.as_ref()?.id())))
            .collect();
        let mut tables = Tables { smallest: usize::MAX, ..Tables::default() };
        for host in self.up().filter(|n| !self.hosts[*n as usize].is_malicious) {
            let Some(node) = &self.hosts[host as usize].node else { continue };
            let entries = node.snapshot(self.clock(host)).nodes_v4;
            let live = |c: &&Contact| ids.get(&c.addr) == Some(&c.id);
            tables.nodes += 1;
            tables.entries += entries.len();
            tables.smallest = tables.smallest.min(entries.len());
            tables.live += entries.iter().filter(live).count();
            let natted =
                |c: &&Contact| self.resolve(c.addr).is_some_and(|n| self.hosts[n as usize].nat.is_some());
            tables.natted += entries.iter().filter(|c| live(c) && natted(c)).count();
        }
        tables
    }

    /// Distinct first halves of addresses that are in use.
    pub fn networks(&self) -> usize {
        let net = |n: u32| match self.hosts[n as usize].addr().ip() {
            std::net::IpAddr::V4(ip) => [ip.octets()[0], ip.octets()[1]],
            std::net::IpAddr::V6(_) => [0; 2],
        };
        self.up().map(net).collect::<BTreeSet<_>>().len()
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// What an event holds on the heap.
fn heap_of(event: &Event) -> usize {
    match event {
        Event::Peers { peers, .. } => peers.capacity() * size_of::<SocketAddr>(),
        Event::Done { closest, .. } => closest.capacity() * size_of::<Contact>(),
        _ => 0,
    }
}
