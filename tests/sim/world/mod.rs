//! A network of real DHT nodes in virtual time: a day of ten thousand in minutes, and the same again from
//! the same options, byte for byte.
//!
//! [`Options`] holds every choice and fault. Time is microseconds from the start. Hosts are split over as many
//! shards as there are threads (`shard.rs`). No datagram takes less than [`Options::access_min`] twice, so for that
//! long no host can feel what another one does: all shards run through one such window at the same time, then pass on
//! what their hosts have sent to others'. What concerns the whole world (who comes, who goes, who searches for whom, faults)
//! is done between windows, at its exact time. Each host draws its own luck, and the order of what happens to one is
//! stated in full, so the number of threads changes nothing but the time that it takes.
#![allow(dead_code, unused_imports, reason = "each test and example uses its part of it")]

pub mod address;
mod crew;
mod dice;
mod evil;
mod fate;
mod host;
mod network;
mod options;
mod population;
mod queue;
mod searches;
mod shard;
mod side_by_side;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dhtget::dht::{LookupId, LookupStats, Node};
use dhtget::id::NodeId;
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;
use siphasher::sip::SipHasher13;

use self::crew::Crew;
pub use self::host::Host;
use self::network::{NOBODY, Network};
pub use self::options::{Churn, Fault, Malice, Options};
use self::queue::Datagram;
pub use self::searches::PEER_PORT;
pub use self::shard::Gauge;
use self::shard::Shard;
pub use self::side_by_side::side_by_side;
pub use self::tally::{COLUMNS, Row, Tables, Tally};

/// What is to happen to the world, rather than to a host by its own timer.
#[derive(Debug)]
enum Thing {
    ComeUp(u32),
    GoDown { host: u32, session: u32 },
    Search,
    Fault(Fault),
}

/// The hosts, the network between them, and the clock of all.
pub struct World {
    /// The coordinator's luck: who comes and goes, who searches.
    pub rng: Rng,
    now: u64,
    network: Arc<Network>,
    /// Hosts, by number modulo their count.
    shards: Vec<Shard>,
    total: u32,
    /// By time, and then by when they were decided.
    things: BTreeMap<(u64, u64), Thing>,
    decided: u64,
    injected: u32,
    up: usize,
    up_since: u64,
    up_time: u128,
}

impl World {
    pub fn new(options: Options) -> Self {
        let count = options.threads.max(1);
        let mut world = Self {
            rng: Rng::from_u64(options.seed),
            now: 0,
            network: Arc::new(Network::new(options)),
            shards: (0..count).map(|number| Shard::new(number, count)).collect(),
            total: 0,
            things: BTreeMap::new(),
            decided: 0,
            injected: 0,
            up: 0,
            up_since: 0,
            up_time: 0,
        };
        world.populate();
        world
    }

    // ---- time

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// What a host's clock shows.
    pub fn clock(&self, host: u32) -> Instant {
        self.network.epoch + Duration::from_micros(self.now + self.host(host).ahead)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + micros(time);
        match self.shards.len() {
            1 => self.run_until(end, u64::MAX, |shards, network, until| shards[0].run(network, until)),
            n => Crew::with(n - 1, |crew| {
                let lookahead = self.network.lookahead();
                self.run_until(end, lookahead, |shards, network, until| crew.run(shards, network, until));
            }),
        }
    }

    /// Runs windows of at most that length; each ends where something befalls the whole world.
    fn run_until(&mut self, end: u64, length: u64, run: impl Fn(&mut Vec<Shard>, &Arc<Network>, u64)) {
        assert!(length > 0, "no time to run ahead");
        loop {
            self.exchange();
            let due = self.shards.iter().map(|s| s.next()).fold(u64::MAX, u64::min);
            let thing = self.things.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let start = due.min(thing);
            if start >= end {
                break;
            }
            if thing == start {
                self.now = thing;
                if let Some((_, thing)) = self.things.pop_first() {
                    self.befall(thing);
                }
            } else {
                let until = start.saturating_add(length).min(thing).min(end);
                run(&mut self.shards, &self.network, until);
                self.now = until;
            }
        }
        self.now = end;
    }

    /// Hands over what shards have sent to each other: their boxes change places.
    fn exchange(&mut self) {
        let count = self.shards.len();
        for (from, to) in (0..count * count).map(|n| (n / count, n % count)) {
            let mut post = std::mem::take(&mut self.shards[from].outbox[to]);
            self.shards[to].inbox[from].receive(&mut post);
            self.shards[from].outbox[to] = post;
        }
    }

    /// Decides what is to happen then.
    fn at(&mut self, time: u64, thing: Thing) {
        self.decided += 1;
        self.things.insert((time.max(self.now), self.decided), thing);
    }

    // ---- the parts

    pub fn options(&self) -> &Options {
        &self.network.options
    }

    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.network_mut().options
    }

    fn network_mut(&mut self) -> &mut Network {
        Arc::get_mut(&mut self.network).expect("shards run in windows only")
    }

    pub fn host(&self, host: u32) -> &Host {
        of(&self.shards, host)
    }

    fn host_mut(&mut self, host: u32) -> &mut Host {
        let shard = host as usize % self.shards.len();
        self.shards[shard].host_mut(host)
    }

    /// The shard of a host, at the present time, and what is round it.
    fn around(&mut self, host: u32) -> (&mut Shard, &Network) {
        let shard = host as usize % self.shards.len();
        let shard = &mut self.shards[shard];
        shard.now = self.now;
        (shard, &self.network)
    }

    /// One input to a node, and then all that it has to say.
    pub fn with_node<T>(&mut self, host: u32, input: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let (shard, network) = self.around(host);
        shard.with_node(network, host, input)
    }

    /// A datagram out of nowhere, as forged ones come.
    pub fn inject(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: Vec<u8>) {
        let Some(there) = self.network.resolve(to) else { return };
        self.injected += 1;
        let (at, receiver, count) = (self.now, there.host, self.injected);
        let (shard, _) = self.around(receiver);
        shard.post(Datagram { at, sender: NOBODY, receiver, count, from, to, payload });
    }

    // ---- what there is to see

    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = u32> {
        (0..self.total).filter(|n| self.host(*n).is_up())
    }

    /// The figures since they were last taken.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        tally.up_time = self.up_time + u128::from(self.now - self.up_since) * self.up as u128;
        self.shards.iter().for_each(|shard| tally.add(shard.tally.clone()));
        tally
    }

    /// The same, and counts anew.
    pub fn take_tally(&mut self) -> Tally {
        let tally = self.tally();
        self.shards.iter_mut().for_each(|shard| shard.tally = Tally::default());
        (self.up_time, self.up_since) = (0, self.now);
        tally
    }

    fn count_up_time(&mut self) {
        self.up_time += u128::from(self.now - self.up_since) * self.up as u128;
        self.up_since = self.now;
    }

    /// Peers found by a search that a test started itself.
    pub fn found(&self, host: u32, lookup: LookupId) -> &[SocketAddr] {
        let found = &self.shards[host as usize % self.shards.len()].found;
        found.get(&(host, lookup)).map_or(&[], Vec::as_slice)
    }

    /// How it ended.
    pub fn done(&self, host: u32, lookup: LookupId) -> Option<&(LookupStats, Vec<Contact>)> {
        self.shards[host as usize % self.shards.len()].done.get(&(host, lookup))
    }

    /// A fingerprint of every delivery so far: when, from whom, to whom, what.
    pub fn trace(&self) -> u64 {
        let mut all = SipHasher13::new();
        (0..self.total).for_each(|n| all.write_u64(self.host(n).trace));
        all.finish()
    }

    /// The host at an address, up or down.
    pub fn resolve(&self, addr: SocketAddr) -> Option<u32> {
        let SocketAddr::V4(addr) = addr else { return None };
        self.network.resolve(addr).map(|place| place.host)
    }

    /// What the tables of honest hosts hold, and whether it is true.
    pub fn tables(&self) -> Tables {
        let id = |host: u32| self.host(host).node.as_ref().map(|node| node.id());
        let mut tables = Tables { smallest: usize::MAX, ..Tables::default() };
        for host in self.up().filter(|n| !self.host(*n).is_malicious) {
            let Some(node) = &self.host(host).node else { continue };
            let entries = node.snapshot(self.clock(host)).nodes_v4;
            tables.nodes += 1;
            tables.entries += entries.len();
            tables.smallest = tables.smallest.min(entries.len());
            for entry in entries {
                let Some(other) = self.resolve(entry.addr) else { continue };
                if self.host(other).addr() == entry.addr && id(other) == Some(entry.id) {
                    tables.live += 1;
                    tables.natted += usize::from(self.host(other).nat.is_some());
                }
            }
        }
        tables
    }

    /// Distinct first halves of addresses that are in use.
    pub fn networks(&self) -> usize {
        let net = |n: u32| u32::from(*self.host(n).address.ip()) >> 16;
        self.up().map(net).collect::<BTreeSet<_>>().len()
    }
}

/// A host, by its number.
fn of(shards: &[Shard], host: u32) -> &Host {
    shards[host as usize % shards.len()].host(host)
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}
