//! A private network of real DHT nodes in virtual time: machines with addresses of the test's choice, which are cut
//! off, put to sleep, moved and restarted.
//!
//! Smaller than the world of `world/`, and closer: one thread, delays of a LAN, every datagram shown to a witness.
//! Time is microseconds from the start. The same seed gives the same run.

pub mod users;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::{Config, Event, LookupId, Network, Node, Stored};
use dhtget::driver::state::SavedNodes;
use dhtget::id::{Id160, InfoHash, NodeId};
use dhtget::rng::Rng;
use dhtget::wire::allow::AllowList;
use dhtget::wire::compact::Contact;
use dhtget::wire::reach::Reach;

/// The port that peers are announced at.
pub const PEER_PORT: u16 = 7000;
/// One-way delay, in microseconds: a switch or two, and a busy machine now and then.
const DELAY: u64 = 150;
const JITTER: usize = 450;

/// What a search has told.
#[derive(Debug, Default)]
pub struct Found {
    pub peers: Vec<SocketAddr>,
    /// When the first of them was told.
    pub first: Option<Duration>,
    pub done: Option<Duration>,
    /// The nodes closest to what was searched for, once it is over.
    pub closest: Vec<Contact>,
}

/// What a machine keeps while its node is down.
#[derive(Debug)]
struct Saved {
    id: NodeId,
    contacts: Vec<Contact>,
    stored: Stored,
    at: u64,
}

/// A machine.
pub struct Host {
    /// Where it is; what it sends comes from the one that reaches as far as the receiver's.
    pub addrs: Vec<SocketAddr>,
    pub config: Config,
    pub bootstrap: Vec<SocketAddr>,
    pub node: Option<Node>,
    /// Hears and does nothing.
    asleep: bool,
    /// Which part of a network that is cut it is in.
    side: bool,
    wake: u64,
    queued: u64,
    saved: Option<Saved>,
    pub found: BTreeMap<LookupId, Found>,
    /// Datagrams that came to it.
    pub received: u64,
}

/// A datagram as a witness sees it.
pub struct Seen<'a> {
    pub from: usize,
    pub to: SocketAddr,
    pub payload: &'a [u8],
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Timer(usize),
    Datagram { from: SocketAddr, sender: usize, to: SocketAddr, payload: Vec<u8> },
}

/// Looks at each datagram.
type Witness = Box<dyn FnMut(&Seen<'_>)>;

pub struct Lan {
    pub rng: Rng,
    pub hosts: Vec<Host>,
    /// Share of datagrams lost.
    pub loss: f64,
    pub sent: u64,
    now: u64,
    epoch: Instant,
    places: BTreeMap<SocketAddr, usize>,
    /// By time, and by when it was decided.
    queue: BinaryHeap<Reverse<(u64, u64, Due)>>,
    decided: u64,
    cut: bool,
    witness: Option<Witness>,
}

/// Member number `n` of a private network.
pub fn member(n: usize) -> SocketAddr {
    ([10, 0, (n >> 8) as u8, n as u8], 6881).into()
}

/// How the nodes of a private network are set up.
pub fn private() -> Config {
    Config { network: Network::Local, ipv6: false, ..Config::default() }
}

/// The same for one that consists of `10.0.0.0/8`.
pub fn closed() -> Config {
    let allow = AllowList::parse(&["10.0.0.0/8".to_owned()]).expect("a range");
    Config { allow, ..private() }
}

impl Lan {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::from_u64(seed),
            hosts: Vec::new(),
            loss: 0.0,
            sent: 0,
            now: 0,
            epoch: Instant::now(),
            places: BTreeMap::new(),
            queue: BinaryHeap::new(),
            decided: 0,
            cut: false,
            witness: None,
        }
    }

    /// So many members that start at once and know the first one.
    pub fn of(seed: u64, members: usize) -> Self {
        let mut lan = Self::new(seed);
        for n in 0..members {
            lan.add(vec![member(n)], private(), vec![member(0)]);
        }
        lan
    }

    /// A machine more, up from now on.
    pub fn add(&mut self, addrs: Vec<SocketAddr>, config: Config, bootstrap: Vec<SocketAddr>) -> usize {
        let host = self.hosts.len();
        self.hosts.push(Host {
            addrs,
            config,
            bootstrap,
            node: None,
            asleep: false,
            side: false,
            wake: u64::MAX,
            queued: u64::MAX,
            saved: None,
            found: BTreeMap::new(),
            received: 0,
        });
        self.settle(host);
        self.start(host);
        host
    }

    /// Everything that is sent is shown to it, whether it arrives or not.
    pub fn watch(&mut self, witness: impl FnMut(&Seen<'_>) + 'static) {
        self.witness = Some(Box::new(witness));
    }

    // ---- what befalls machines

    fn settle(&mut self, host: usize) {
        for addr in self.hosts[host].addrs.clone() {
            self.places.insert(addr, host);
        }
    }

    /// Starts the machine's node, from what an earlier one saved if anything.
    pub fn start(&mut self, host: usize) {
        let (now, seed) = (self.clock(), self.rng.child());
        let h = &mut self.hosts[host];
        let saved = h.saved.take();
        let config = Config { id: saved.as_ref().map(|s| s.id), ..h.config.clone() };
        h.node = Some(Node::new(config, seed, now));
        (h.wake, h.queued) = (u64::MAX, u64::MAX);
        let bootstrap = h.bootstrap.clone();
        self.input(host, |node, now| node.add_bootstrap(now, bootstrap));
        if let Some(Saved { contacts, mut stored, at, .. }) = saved {
            let gone = Duration::from_micros(self.now - at);
            stored.peers.iter_mut().for_each(|p| p.age += gone);
            self.input(host, |node, now| {
                node.add_saved(now, contacts);
                node.restore(now, stored);
            });
        }
    }

    /// Ends the machine's node; what it saves waits for the next one.
    pub fn stop(&mut self, host: usize) {
        let (now, at) = (self.clock(), self.now);
        let h = &mut self.hosts[host];
        if let Some(node) = h.node.take() {
            let snapshot = node.snapshot(now);
            // What the driver keeps of it.
            let SavedNodes { id, contacts, stored } = SavedNodes::new(snapshot, node.stored(now));
            h.saved = Some(Saved { id, contacts, stored, at });
        }
    }

    /// Ends it for good: nothing is kept.
    pub fn die(&mut self, host: usize) {
        self.hosts[host].node = None;
        self.hosts[host].saved = None;
    }

    /// The machine sleeps for so long; the others go on.
    pub fn sleep(&mut self, host: usize, time: Duration) {
        self.hosts[host].asleep = true;
        self.run_for(time);
        self.hosts[host].asleep = false;
        self.input(host, |node, now| node.handle_sleep(now, time));
    }

    /// From now on the machine is there, and no longer where it was.
    pub fn move_to(&mut self, host: usize, addr: SocketAddr) {
        for old in std::mem::replace(&mut self.hosts[host].addrs, vec![addr]) {
            self.places.remove(&old);
        }
        self.settle(host);
    }

    /// Cuts the network in two: those for whom `side` holds, and the others.
    pub fn cut(&mut self, side: impl Fn(usize) -> bool) {
        self.cut = true;
        self.hosts.iter_mut().enumerate().for_each(|(n, h)| h.side = side(n));
    }

    /// Everybody hears everybody again.
    pub fn heal(&mut self) {
        self.cut = false;
    }

    // ---- what machines do

    /// Looks for peers of a torrent.
    pub fn search(&mut self, host: usize, hash: InfoHash) -> LookupId {
        self.input(host, |node, now| node.get_peers(now, hash)).expect("is up").expect("not full")
    }

    /// Announces a torrent.
    pub fn announce(&mut self, host: usize, hash: InfoHash) -> LookupId {
        self.input(host, |node, now| node.announce(now, hash, PEER_PORT)).expect("is up").expect("not full")
    }

    /// What a search has told so far.
    pub fn found(&self, host: usize, lookup: LookupId) -> &Found {
        self.hosts[host].found.get(&lookup).expect("it was begun")
    }

    /// Whether a search by one leads to the other within that time.
    pub fn finds(&mut self, host: usize, hash: InfoHash, peer: SocketAddr, within: Duration) -> bool {
        let lookup = self.search(host, hash);
        self.run_for(within);
        self.found(host, lookup).peers.contains(&SocketAddr::new(peer.ip(), PEER_PORT))
    }

    /// How many a node knows.
    pub fn known(&self, host: usize) -> usize {
        self.hosts[host].node.as_ref().map_or(0, |node| node.table_sizes().0)
    }

    // ---- time

    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn clock(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time.as_micros() as u64;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at < end) {
            let Some(Reverse((at, _, due))) = self.queue.pop() else { break };
            self.now = at;
            match due {
                Due::Timer(host) => self.on_timer(host),
                Due::Datagram { from, sender, to, payload } => self.deliver(from, sender, to, &payload),
            }
        }
        self.now = end;
    }

    /// Lets time pass until something holds, looking every ten milliseconds; how long it took, if not too long.
    pub fn run_until(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.elapsed();
        while !holds(self) {
            if self.elapsed() - start >= most {
                return None;
            }
            self.run_for(Duration::from_millis(10));
        }
        Some(self.elapsed() - start)
    }

    fn at(&mut self, at: u64, due: Due) {
        self.decided += 1;
        self.queue.push(Reverse((at, self.decided, due)));
    }

    fn on_timer(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if h.queued != self.now {
            return;
        }
        h.queued = u64::MAX;
        if h.wake <= self.now && !h.asleep {
            self.input(host, |node, now| node.handle_timeout(now));
        }
    }

    /// One input to a node, and then all that it has to say.
    pub fn input<T>(&mut self, host: usize, input: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let now = self.clock();
        let mut node = self.hosts[host].node.take()?;
        let out = input(&mut node, now);
        while let Some(transmit) = node.poll_transmit() {
            self.send(host, transmit.to, transmit.payload);
        }
        let at = self.elapsed();
        let h = &mut self.hosts[host];
        while let Some(event) = node.poll_event() {
            match event {
                Event::Peers { lookup, peers } => {
                    let found = h.found.entry(lookup).or_default();
                    found.first.get_or_insert(at);
                    found.peers.extend(peers);
                }
                Event::Done { lookup, closest, .. } => {
                    let found = h.found.entry(lookup).or_default();
                    (found.done, found.closest) = (Some(at), closest);
                }
                Event::Progress { lookup, .. } => drop(h.found.entry(lookup).or_default()),
                _ => {}
            }
        }
        h.wake = node.poll_timeout().map_or(u64::MAX, |(at, _)| {
            let after = at.saturating_duration_since(self.epoch).as_nanos() as u64;
            after.div_ceil(1000).max(self.now)
        });
        h.node = Some(node);
        if h.wake < h.queued {
            h.queued = h.wake;
            self.at(self.hosts[host].wake, Due::Timer(host));
        }
        Some(out)
    }

    fn send(&mut self, sender: usize, to: SocketAddr, payload: Vec<u8>) {
        self.sent += 1;
        if let Some(witness) = &mut self.witness {
            witness(&Seen { from: sender, to, payload: &payload });
        }
        let addrs = &self.hosts[sender].addrs;
        let alike = |addr: &&SocketAddr| Reach::of(addr.ip()) == Reach::of(to.ip());
        let Some(from) = addrs.iter().find(alike).copied() else { return };
        if self.loss > 0.0 && self.rng.chance(self.loss) {
            return;
        }
        let at = self.now + DELAY + self.rng.below(JITTER) as u64;
        self.at(at, Due::Datagram { from, sender, to, payload });
    }

    fn deliver(&mut self, from: SocketAddr, sender: usize, to: SocketAddr, payload: &[u8]) {
        let Some(host) = self.places.get(&to).copied() else { return };
        let apart = self.cut && self.hosts[host].side != self.hosts[sender].side;
        if apart || self.hosts[host].asleep || self.hosts[sender].asleep {
            return;
        }
        self.hosts[host].received += 1;
        self.input(host, |node, now| node.handle_datagram(now, from, payload));
    }
}

/// The torrent that a machine shares.
pub fn torrent(n: usize) -> InfoHash {
    Id160(Rng::from_u64(n as u64 ^ 0x7011_e47b).bytes())
}
