//! A million virtual nodes that cost nothing while nobody asks them.
//!
//! Their ids are one sorted array; everything else about a node (address, round trip, when it is alive,
//! whom it knows) is computed from the seed and its place in the array at the moment it is asked. The
//! node under test is the real machine, and what passes between it and them are real datagrams.
//!
//! Who knows whom: each node has a Kademlia table of its own, [`K`] nodes for each length of the prefix
//! that it shares with them (all of them where there are no more), drawn from the living and the dead
//! alike, and answers with the eight of them closest to the target. So half of what it hands on is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dhtget::dht::{Event, Node};
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::compact::{Contact, write_node, write_peer};
use dhtget::wire::krpc::{Body, Message, Method, Query, Reply, Want};

/// Entries of a virtual node's bucket, nodes in an answer, and nodes that hold a value (BEP 5).
const K: usize = 8;

/// Everything that can be chosen about the world.
#[derive(Clone, Copy, Debug)]
pub struct WorldOptions {
    pub seed: u64,
    pub nodes: usize,
    /// Median of the round trips.
    pub rtt: Duration,
    /// Standard deviation of their natural logarithm.
    pub sigma: f64,
    /// Dead nodes that a table knows for each dead node it could know.
    pub stale: f64,
    /// Median of the time that a node stays, and stays away; half of them stay and half stay away for good
    /// where there is none.
    pub session: Option<Duration>,
    /// Share of datagrams lost, each way.
    pub loss: f64,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 1_000_000,
            rtt: Duration::from_millis(100),
            sigma: 0.5,
            stale: 1.0,
            session: None,
            loss: 0.0,
        }
    }
}

/// The nodes.
pub struct World {
    pub options: WorldOptions,
    /// The first 64 bits of every id, sorted.
    ids: Vec<u64>,
}

fn mix(mut x: u64) -> u64 {
    // The finaliser of SplitMix64.
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// A normal deviate (Box and Muller).
fn normal(hash: u64) -> f64 {
    let (a, b) = (unit(mix(hash ^ 1)), unit(mix(hash ^ 2)));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// The first 64 bits.
fn head(id: &Id160) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().expect("eight bytes"))
}

/// Places are shuffled over this many addresses, so that neighbours in the array are not neighbours there.
const ADDRESSES: u32 = 1 << 20;
/// An odd factor, and its inverse modulo [`ADDRESSES`].
const SPREAD: u32 = 0x9_e375;
/// Addresses between two nodes: four nodes live in a /24, 1,044 in a /16.
const GAP: u32 = 61;
const FIRST: u32 = 0x1000_0000;

impl World {
    pub fn new(options: WorldOptions) -> Self {
        assert!(options.nodes <= ADDRESSES as usize);
        let mut rng = Rng::from_u64(options.seed);
        // Sums of exponential gaps, scaled, are uniform numbers already in order.
        let mut sum = 0.0;
        let gaps = (0..=options.nodes).map(|_| {
            sum -= rng.unit().max(1e-300).ln();
            sum
        });
        let sums: Vec<f64> = gaps.collect();
        let scale = u64::MAX as f64 / sum;
        let ids = sums[..options.nodes].iter().map(|s| (s * scale) as u64).collect();
        Self { options, ids }
    }

    fn hash(&self, what: u64, of: usize) -> u64 {
        mix(mix(self.options.seed ^ (what << 32)) ^ of as u64)
    }

    pub fn id(&self, n: usize) -> Id160 {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&self.ids[n].to_be_bytes());
        id[8..16].copy_from_slice(&self.hash(1, n).to_be_bytes());
        Id160(id)
    }

    pub fn addr(&self, n: usize) -> SocketAddr {
        let place = (n as u32).wrapping_mul(SPREAD) % ADDRESSES;
        SocketAddr::from((Ipv4Addr::from(FIRST + place * GAP), 6881))
    }

    fn contact(&self, n: usize) -> Contact {
        Contact { id: self.id(n), addr: self.addr(n) }
    }

    fn by_addr(&self, addr: SocketAddr) -> Option<usize> {
        let SocketAddr::V4(v4) = addr else { return None };
        let offset = u32::from(*v4.ip()).checked_sub(FIRST)?;
        // Newton's iteration doubles the right bits of an inverse.
        let inverse = (0..5).fold(SPREAD, |x, _| x.wrapping_mul(2u32.wrapping_sub(SPREAD.wrapping_mul(x))));
        let n = (offset / GAP).wrapping_mul(inverse) % ADDRESSES;
        (v4.port() == 6881 && offset.is_multiple_of(GAP) && (n as usize) < self.ids.len())
            .then_some(n as usize)
    }

    /// Half of the nodes are alive at any time: each comes and goes with a period of its own.
    pub fn is_alive(&self, n: usize, at: Duration) -> bool {
        let start = unit(self.hash(3, n));
        let Some(median) = self.options.session else { return start < 0.5 };
        let session = median.as_secs_f64() * normal(self.hash(2, n)).exp();
        (at.as_secs_f64() / (2.0 * session) + start).fract() < 0.5
    }

    /// Whether a living node is there.
    pub fn lives(&self, addr: SocketAddr, at: Duration) -> bool {
        self.by_addr(addr).is_some_and(|n| self.is_alive(n, at))
    }

    /// The round trip between the node under test, `own`, and a node.
    pub fn round_trip(&self, own: u64, n: usize) -> Duration {
        let factor = (normal(self.hash(4 ^ (own << 8), n)) * self.options.sigma).exp();
        self.options.rtt.mul_f64(factor)
    }

    /// The nodes whose ids share `bits` bits with `prefix`.
    fn range(&self, prefix: u64, bits: u32) -> (usize, usize) {
        let rest = if bits == 0 { u64::MAX } else { u64::MAX.checked_shr(bits).unwrap_or(0) };
        let low = self.ids.partition_point(|&id| id < prefix & !rest);
        let high = low + self.ids[low..].partition_point(|&id| id <= prefix | rest);
        (low, high)
    }

    /// Whether `v` would have `n` in its table: always if it lives, perhaps if it is dead.
    fn keeps(&self, v: usize, n: usize, at: Duration) -> bool {
        let stale = self.options.stale;
        n != v && (stale >= 1.0 || unit(self.hash(5, v) ^ mix(n as u64)) < stale || self.is_alive(n, at))
    }

    /// Whom `v` knows among those that share exactly `bit` bits with it.
    fn bucket(&self, v: usize, bit: u32, at: Duration, out: &mut Vec<usize>) {
        let (low, high) = self.range(self.ids[v] ^ (1 << (63 - bit)), bit + 1);
        let seed = mix(self.hash(6, v) ^ u64::from(bit));
        let start = out.len();
        if high - low <= 4 * K {
            out.extend((low..high).filter(|&n| self.keeps(v, n, at)));
            out[start..].sort_unstable_by_key(|&n| mix(seed ^ n as u64));
            out.truncate(start + K);
            return;
        }
        let mut draw = seed;
        while out.len() < start + K {
            draw = mix(draw);
            let n = low + ((u128::from(draw) * (high - low) as u128) >> 64) as usize;
            if self.keeps(v, n, at) && !out[start..].contains(&n) {
                out.push(n);
            }
        }
    }

    /// The eight nodes closest to `target` that `v` knows.
    fn closest_known(&self, v: usize, target: u64, at: Duration) -> Vec<usize> {
        let shared = (self.ids[v] ^ target).leading_zeros().min(62);
        let mut out = Vec::with_capacity(4 * K);
        self.bucket(v, shared, at, &mut out);
        if out.len() < K {
            for bit in shared + 1..62 {
                let (low, high) = self.range(self.ids[v], bit);
                if high - low <= 1 {
                    break;
                }
                self.bucket(v, bit, at, &mut out);
            }
        }
        for bit in (0..shared).rev() {
            if out.len() >= K {
                break;
            }
            self.bucket(v, bit, at, &mut out);
        }
        out.sort_unstable_by_key(|&n| self.ids[n] ^ target);
        out.truncate(K);
        out
    }

    /// The eight living nodes closest to a target.
    pub fn true_closest(&self, target: &Id160, at: Duration) -> Vec<usize> {
        let target = head(target);
        let mut bits = 40;
        loop {
            let (low, high) = self.range(target, bits);
            let mut alive: Vec<_> = (low..high).filter(|&n| self.is_alive(n, at)).collect();
            if alive.len() >= K || bits == 0 {
                alive.sort_unstable_by_key(|&n| self.ids[n] ^ target);
                alive.truncate(K);
                return alive;
            }
            bits -= 1;
        }
    }

    /// A random node that is alive.
    pub fn random_living(&self, rng: &mut Rng, at: Duration) -> usize {
        loop {
            let n = rng.below(self.ids.len());
            if self.is_alive(n, at) {
                return n;
            }
        }
    }
}

/// What the virtual nodes were asked for one info-hash.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub queries: u32,
    /// When the first announce was sent, which is when the search had ended.
    pub announced_at: Option<Duration>,
    /// Who took an announce.
    pub holders: BTreeSet<usize>,
}

/// The node under test, and the wires between it and the world.
pub struct Run<'w> {
    pub world: &'w World,
    pub node: Node,
    pub rng: Rng,
    /// Tells the runs of a world apart: each has its own place on the net, hence round trips of its own.
    own: u64,
    start: Instant,
    now: Instant,
    flights: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)>,
    sent: u64,
    strangers: Option<(Duration, Instant)>,
    /// By info-hash: peers lie on these nodes.
    pub stored: BTreeMap<Id160, Vec<usize>>,
    pub asked: BTreeMap<Id160, Asked>,
}

/// Where our node lives.
const OWN_ADDR: ([u8; 4], u16) = ([9, 8, 7, 6], 6881);

impl<'w> Run<'w> {
    pub fn new(world: &'w World, config: dhtget::dht::Config, own: u64) -> Self {
        let mut rng = Rng::from_u64(mix(world.options.seed) ^ own);
        let start = Instant::now();
        let node = Node::new(config, rng.child(), start);
        Self {
            world,
            node,
            rng,
            own,
            start,
            now: start,
            flights: BTreeMap::new(),
            sent: 0,
            strangers: None,
            stored: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// From now on a stranger asks us something this often.
    pub fn let_strangers_ask(&mut self, every: Duration) {
        self.strangers = Some((every, self.now + every));
    }

    /// Delivers and wakes until `end`, or until `stop` says so of an event.
    pub fn run_until(&mut self, end: Instant, mut stop: impl FnMut(Duration, &Event) -> bool) {
        loop {
            self.send_all();
            let mut stopped = false;
            while let Some(event) = self.node.poll_event() {
                stopped |= stop(self.now - self.start, &event);
            }
            if stopped {
                return;
            }
            let timer = self.node.poll_timeout().map(|(at, _)| at);
            let arrival = self.flights.first_key_value().map(|((at, _), _)| *at);
            let stranger = self.strangers.map(|(_, at)| at);
            let next = [timer, arrival, stranger, Some(end)].into_iter().flatten().min().unwrap_or(end);
            self.now = self.now.max(next);
            if next >= end {
                return;
            }
            if arrival == Some(next) {
                let Some((_, (from, bytes))) = self.flights.pop_first() else { return };
                self.node.handle_datagram(self.now, from, &bytes);
            } else if stranger == Some(next) {
                self.stranger_asks();
            } else {
                self.node.handle_timeout(self.now);
            }
        }
    }

    fn stranger_asks(&mut self) {
        let Some((every, at)) = self.strangers else { return };
        self.strangers = Some((every, at + every));
        let n = self.world.random_living(&mut self.rng, self.now - self.start);
        let method = Method::FindNode { target: Id160::random(&mut self.rng) };
        let body = Body::Query(Query { id: self.world.id(n), want: Want::default(), method });
        let mut bytes = Vec::new();
        Message { transaction: b"ab", version: None, ip: None, read_only: false, body }.emit(&mut bytes);
        self.node.handle_datagram(self.now, self.world.addr(n), &bytes);
    }

    fn send_all(&mut self) {
        while let Some(t) = self.node.poll_transmit() {
            let Some(n) = self.world.by_addr(t.to) else { continue };
            let reply = self.answer(n, &t.payload);
            let lost = self.rng.chance(1.0 - (1.0 - self.world.options.loss).powi(2));
            if let Some(reply) = reply.filter(|_| !lost) {
                self.sent += 1;
                let at = self.now + self.world.round_trip(self.own, n);
                self.flights.insert((at, self.sent), (t.to, reply));
            }
        }
    }

    /// What a virtual node answers, `None` if it is dead or was not asked.
    fn answer(&mut self, n: usize, payload: &[u8]) -> Option<Vec<u8>> {
        let at = self.now - self.start;
        let message = Message::parse(payload).expect("we send no rubbish");
        let Body::Query(query) = message.body else { return None };
        let alive = self.world.is_alive(n, at);
        let token = self.world.hash(7, n).to_be_bytes();
        let (mut nodes, mut values) = (Vec::new(), Vec::new());
        let mut reply = Reply { id: self.world.id(n), ..Reply::default() };
        let mut closest = |target: &Id160| {
            let known = self.world.closest_known(n, head(target), at);
            known.into_iter().for_each(|n| write_node(&self.world.contact(n), &mut nodes));
        };
        match query.method {
            Method::FindNode { target } => {
                // A question beside a target is part of the search for it.
                let wanted = self.stored.keys().find(|hash| hash.shared_prefix(&target) >= 8);
                if let Some(wanted) = wanted {
                    self.asked.entry(*wanted).or_default().queries += 1;
                }
                if alive {
                    closest(&target);
                }
            }
            Method::GetPeers { info_hash, .. } => {
                self.asked.entry(info_hash).or_default().queries += 1;
                if alive {
                    closest(&info_hash);
                    reply.token = Some(&token);
                }
                if self.stored.get(&info_hash).is_some_and(|on| on.contains(&n)) {
                    values.extend_from_slice(b"l6:");
                    write_peer(SocketAddr::from(([8, 8, 4, 4], 5000)), &mut values);
                    values.push(b'e');
                }
            }
            Method::AnnouncePeer { info_hash, token: given, .. } => {
                let asked = self.asked.entry(info_hash).or_default();
                asked.announced_at.get_or_insert(at);
                if alive && given == token {
                    asked.holders.insert(n);
                }
            }
            _ => {}
        }
        (reply.nodes, reply.values) = (&nodes, &values);
        let mut out = Vec::with_capacity(300);
        let ip = Some(SocketAddr::from(OWN_ADDR));
        let body = Body::Reply(reply);
        Message { transaction: message.transaction, version: None, ip, read_only: false, body }
            .emit(&mut out);
        alive.then_some(out)
    }
}
