//! DHT nodes in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::{Config, Event, LookupId, LookupStats, Network, Node};
use dhtget::id::{Id160, InfoHash};

use crate::net::{Net, NetOptions};

/// Nodes on a network; node 0 is where everyone starts.
struct World {
    net: Net,
    nodes: Vec<Node>,
    addrs: Vec<SocketAddr>,
    by_addr: BTreeMap<SocketAddr, usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    due: Vec<Option<Instant>>,
    found: BTreeMap<(usize, LookupId), Vec<SocketAddr>>,
    done: BTreeMap<(usize, LookupId), LookupStats>,
}

impl World {
    /// `count` nodes that all start at the same moment.
    fn new(count: usize, network: Network, options: NetOptions) -> Self {
        let mut net = Net::new(options);
        let now = net.now();
        let config = Config { network, ipv6: false, ..Config::default() };
        let nodes = (0..count).map(|_| Node::new(config.clone(), net.rng().child(), now)).collect();
        // One to a /24, as the public network's rules would have it.
        let addr = |n: usize| SocketAddr::from(([20, (n >> 8) as u8, n as u8, 1], 6881));
        let addrs: Vec<_> = (0..count).map(addr).collect();
        let mut world = Self {
            net,
            nodes,
            by_addr: addrs.iter().enumerate().map(|(n, a)| (*a, n)).collect(),
            addrs,
            deadlines: BTreeSet::new(),
            due: vec![None; count],
            found: BTreeMap::new(),
            done: BTreeMap::new(),
        };
        for n in 1..count {
            world.nodes[n].add_bootstrap(now, [world.addrs[0]]);
            world.drain(n);
        }
        world
    }

    /// The contract: after each mutation, every poll.
    fn drain(&mut self, n: usize) {
        while let Some(t) = self.nodes[n].poll_transmit() {
            self.net.send(self.addrs[n], t.to, t.payload);
        }
        while let Some(event) = self.nodes[n].poll_event() {
            match event {
                Event::Peers { lookup, peers } => self.found.entry((n, lookup)).or_default().extend(peers),
                Event::Done { lookup, stats, .. } => drop(self.done.insert((n, lookup), stats)),
                _ => {}
            }
        }
        let due = self.nodes[n].poll_timeout().map(|(at, _)| at);
        if due != self.due[n] {
            self.due[n].map(|at| self.deadlines.remove(&(at, n)));
            due.map(|at| self.deadlines.insert((at, n)));
            self.due[n] = due;
        }
    }

    /// Lets time pass.
    fn run_for(&mut self, time: Duration) {
        let end = self.net.now() + time;
        while self.net.now() < end {
            let timer = self.deadlines.first().map_or(end, |(at, _)| *at);
            self.net.advance_to(timer.min(end));
            let now = self.net.now();
            while let Some(delivery) = self.net.receive() {
                if let Some(&to) = self.by_addr.get(&delivery.to) {
                    self.nodes[to].handle_datagram(now, delivery.from, &delivery.payload);
                    self.drain(to);
                }
            }
            while let Some(&(_, n)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
                if !self.net.is_dead(&self.addrs[n]) {
                    self.nodes[n].handle_timeout(now);
                    self.drain(n);
                }
                if self.due[n].is_some_and(|at| at <= now) && self.net.is_dead(&self.addrs[n]) {
                    self.deadlines.pop_first();
                    self.due[n] = None;
                }
            }
        }
    }

    fn announce(&mut self, n: usize, hash: InfoHash) -> (usize, LookupId) {
        let id = self.nodes[n].announce(self.net.now(), hash, 7000).expect("not full");
        self.drain(n);
        (n, id)
    }

    fn get_peers(&mut self, n: usize, hash: InfoHash) -> (usize, LookupId) {
        let id = self.nodes[n].get_peers(self.net.now(), hash).expect("not full");
        self.drain(n);
        (n, id)
    }
}

/// What a run of many announces and searches came to.
struct Outcome {
    found: usize,
    searches: usize,
    hops: f64,
    asked: f64,
    median: Duration,
    trace: u64,
}

/// `count` nodes join at once; a fifth of them dies; the others announce, and then look for each other.
fn announce_and_find(count: usize, loss: f64, dead: f64) -> Outcome {
    let mut world = World::new(count, Network::Public, NetOptions { loss, ..NetOptions::default() });
    world.run_for(Duration::from_secs(20));
    for n in 1..count {
        if world.net.rng().chance(dead) {
            world.net.kill(world.addrs[n]);
        }
    }
    let alive: Vec<_> = (0..count).filter(|&n| !world.net.is_dead(&world.addrs[n])).collect();
    let hash = |n: usize| Id160([n as u8; 20]);
    for &n in alive.iter().step_by(4) {
        world.announce(n, hash(n));
    }
    world.run_for(Duration::from_secs(20));
    let told: Vec<_> = world.done.values().map(|s| s.announced_to).collect();
    let sizes: Vec<_> = alive.iter().map(|&n| world.nodes[n].table_sizes().0).collect();
    println!("announced to at least {:?}, smallest table {:?}", told.iter().min(), sizes.iter().min());
    let sharers: Vec<_> = alive.iter().step_by(4).copied().collect();
    let seekers: Vec<_> = alive.iter().skip(1).step_by(4).copied().collect();
    let wanted: Vec<_> =
        sharers.iter().zip(&seekers).map(|(&s, &k)| (s, world.get_peers(k, hash(s)))).collect();
    world.run_for(Duration::from_secs(20));
    let peer = |n: usize| SocketAddr::new(world.addrs[n].ip(), 7000);
    let has = |(s, key): &&(usize, _)| world.found.get(key).is_some_and(|p| p.contains(&peer(*s)));
    for (s, key) in wanted.iter().filter(|w| !has(w)) {
        println!("node {} did not find node {s}: {:?}", key.0, world.done.get(key));
    }
    let stats: Vec<_> = wanted.iter().map(|(_, key)| world.done[key]).collect();
    let mut elapsed: Vec<_> = stats.iter().map(|s| s.elapsed).collect();
    elapsed.sort();
    let mean = |f: fn(&LookupStats) -> u32| stats.iter().map(f).sum::<u32>() as f64 / stats.len() as f64;
    Outcome {
        found: wanted.iter().filter(has).count(),
        searches: wanted.len(),
        hops: mean(|s| s.hops),
        asked: mean(|s| s.asked),
        median: elapsed[elapsed.len() / 2],
        trace: world.net.trace(),
    }
}

#[test]
fn two_hundred_nodes_find_each_other_despite_loss_and_death() {
    let o = announce_and_find(200, 0.05, 0.2);
    println!(
        "{} of {} found; {:.1} hops, {:.1} asked, median {:?} to the end",
        o.found, o.searches, o.hops, o.asked, o.median
    );
    assert_eq!(o.found, o.searches);
    assert!(o.asked < 40.0 && o.median < Duration::from_secs(2));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (a, b) = (announce_and_find(60, 0.05, 0.2), announce_and_find(60, 0.05, 0.2));
    assert_eq!(a.trace, b.trace);
}

#[test]
fn tiny_networks_work() {
    for size in [2, 3, 5, 7] {
        let mut world = World::new(size, Network::Local, NetOptions::default());
        world.run_for(Duration::from_secs(3));
        for n in 0..size {
            world.announce(n, Id160([n as u8; 20]));
        }
        world.run_for(Duration::from_secs(5));
        for sharer in 0..size {
            let peer = SocketAddr::new(world.addrs[sharer].ip(), 7000);
            for seeker in (0..size).filter(|&s| s != sharer) {
                let key = world.get_peers(seeker, Id160([sharer as u8; 20]));
                world.run_for(Duration::from_secs(1));
                assert!(
                    world.found.get(&key).is_some_and(|p| p.contains(&peer)),
                    "{seeker} of {size}: {sharer}"
                );
            }
        }
    }
}

#[test]
fn a_cold_network_serves_within_seconds() {
    let mut world = World::new(100, Network::Local, NetOptions::default());
    world.run_for(Duration::from_secs(4));
    let smallest = world.nodes.iter().map(|n| n.table_sizes().0).min();
    println!("smallest table after {:?}: {smallest:?}, {} datagrams", world.net.elapsed(), world.net.sent());
    let hash = |n: usize| Id160([n as u8; 20]);
    for n in 0..50 {
        world.announce(n, hash(n));
    }
    world.run_for(Duration::from_secs(2));
    let keys: Vec<_> = (0..50).map(|n| world.get_peers(n + 50, hash(n))).collect();
    world.run_for(Duration::from_secs(2));
    let found = keys.iter().filter(|key| world.found.contains_key(key)).count();
    assert_eq!(found, 50);
}
