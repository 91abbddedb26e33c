//! Whole swarms in virtual time: real [`Swarm`] machines over TCP-like links, each with a disk in memory.
//!
//! Measured against the shortest time in which any protocol could distribute the file,
//! `T_min = max(F/us, F/dmin, N·F/(us + Σui))`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dhtget::id::Id160;
use dhtget::peer::Bitfield;
use dhtget::rng::Rng;
use dhtget::swarm::{Action, CloseReason, Config, Input, Origin, PeerKey, Report, Stats, Swarm};
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{BLOCK_LEN, Info, PieceIndex};
use dhtget::wire::peer::{Handshake, Message, Reserved};
use sha1::{Digest as _, Sha1};

use crate::links::{Arrival, LinkOptions, Links, StreamId};
use crate::seed;

const KIB: u64 = 1 << 10;
/// Bytes of the torrent: odd, so that the last piece and the last block are short.
const SIZE: usize = (8 << 20) - 12_345;
const PIECE: usize = 64 << 10;
/// Time between an order to the disk and its answer.
const DISK: Duration = Duration::from_millis(2);

/// What a host of the swarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Seeder,
    Leecher,
    /// Says that it has everything; a byte of each block it sends is wrong.
    Liar,
}

#[derive(Debug)]
struct Peer {
    role: Role,
    swarm: Swarm,
    addr: SocketAddr,
    info: Option<Arc<Info>>,
    disk: Vec<u8>,
    links: BTreeMap<PeerKey, StreamId>,
    /// Whom it dropped, why, and what had been wasted by then.
    closed: Vec<(SocketAddr, CloseReason, u64)>,
    verified: BTreeSet<u32>,
    done: Option<Duration>,
    alive: bool,
}

/// What happens at a host beside its links.
#[derive(Debug)]
enum Event {
    Knock { from: usize, key: PeerKey, to: usize },
    Connected { from: usize, key: PeerKey, connection: Option<u64> },
    Disk(usize, Input),
}

struct World {
    links: Links,
    peers: Vec<Peer>,
    addrs: BTreeMap<SocketAddr, usize>,
    ends: BTreeMap<StreamId, (usize, PeerKey)>,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    content: Vec<u8>,
    info: Arc<Info>,
    rng: Rng,
}

impl World {
    fn new(seed: u64, loss: f64) -> Self {
        let mut rng = Rng::from_u64(seed);
        let mut content = vec![0; SIZE];
        rng.fill(&mut content);
        let delay = (Duration::from_millis(5), Duration::from_millis(60));
        Self {
            links: Links::new(LinkOptions { seed, delay, loss }),
            peers: Vec::new(),
            addrs: BTreeMap::new(),
            ends: BTreeMap::new(),
            events: BTreeMap::new(),
            serial: 0,
            info: Arc::new(info(&content)),
            content,
            rng,
        }
    }

    fn add(&mut self, role: Role, up: u64, down: u64) -> usize {
        let now = self.links.now();
        let number = self.links.host(up, down);
        let addr = SocketAddr::from(([10, 0, 1, number as u8 + 1], 6881));
        let config = Config {
            peer_id: Id160(self.rng.bytes()),
            listen_port: Some(6881),
            dht_port: None,
            metadata_only: false,
            download_limit: None,
        };
        let swarm = Swarm::new(self.info.hash(), config, self.rng.child(), now);
        let whole = role != Role::Leecher;
        let mut peer = Peer {
            role,
            swarm,
            addr,
            info: whole.then(|| self.info.clone()),
            disk: if whole { self.content.clone() } else { vec![0; SIZE] },
            links: BTreeMap::new(),
            closed: Vec::new(),
            verified: BTreeSet::new(),
            done: whole.then_some(Duration::ZERO),
            alive: true,
        };
        if whole {
            peer.swarm.handle(now, Input::Info(self.info.clone()));
            peer.swarm.handle(now, Input::DiskReady(Bitfield::all(self.info.layout().count())));
        }
        self.peers.push(peer);
        self.addrs.insert(addr, number);
        number
    }

    /// Every leecher learns of everyone else, as from the DHT.
    fn introduce(&mut self) {
        let all: Vec<SocketAddr> = self.peers.iter().map(|p| p.addr).collect();
        for number in 0..self.peers.len() {
            if self.peers[number].role == Role::Leecher {
                let others = all.iter().copied().filter(|a| *a != self.peers[number].addr).collect();
                self.handle(number, Input::Candidates(others, Origin::Dht));
            } else {
                self.act(number);
            }
        }
    }

    // ---- time

    /// Until `over`, which is asked after everything that happens; panics past `limit`.
    fn run(&mut self, limit: Duration, mut over: impl FnMut(&mut Self) -> bool) {
        let mut steps = 0u64;
        while !over(self) {
            steps += 1;
            let timers = self.peers.iter().filter(|p| p.alive).filter_map(|p| p.swarm.poll_timeout()).min();
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = [timers, event, self.links.next_at()].into_iter().flatten().min();
            let next = next.expect("nothing will ever happen again");
            self.links.advance_to(next);
            assert!(self.links.elapsed() < limit && steps < 3_000_000, "too long: {}", self.describe());
            while let Some(arrival) = self.links.receive() {
                self.on_arrival(arrival);
            }
            let now = self.links.now();
            while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= now) {
                let event = entry.remove();
                self.on_event(event);
            }
            for number in 0..self.peers.len() {
                let peer = &mut self.peers[number];
                if peer.alive && peer.swarm.poll_timeout().is_some_and(|t| t <= now) {
                    peer.swarm.handle_timeout(now);
                    self.act(number);
                }
            }
        }
    }

    fn later(&mut self, wait: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((self.links.now() + wait, self.serial), event);
    }

    fn on_arrival(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Bytes(id, bytes) => {
                if let Some(&(number, key)) = self.ends.get(&(id.0, 1 - id.1)) {
                    self.handle(number, Input::Received(key, bytes));
                }
            }
            Arrival::Sent(id, count) => {
                if let Some(&(number, key)) = self.ends.get(&id) {
                    self.handle(number, Input::Sent(key, count));
                }
            }
            Arrival::Closed(id) => {
                let end = (id.0, 1 - id.1);
                if let Some((number, key)) = self.ends.remove(&end) {
                    self.peers[number].links.remove(&key);
                    self.links.close(end);
                    self.handle(number, Input::Closed(key));
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Knock { from, key, to } => {
                let now = self.links.now();
                let (addr, back) = (self.peers[from].addr, self.links.delay(from, to));
                if !self.peers[to].alive || self.links.is_dead(to) {
                    return;
                }
                // Another port than the one it listens on, as dials have.
                let addr = SocketAddr::new(addr.ip(), 40_000 + key.0.get() as u16);
                let accepted = self.peers[to].swarm.accept(now, addr);
                let connection = accepted.map(|theirs| {
                    let connection = self.links.connect(from, to);
                    self.ends.insert((connection, 1), (to, theirs));
                    self.peers[to].links.insert(theirs, (connection, 1));
                    connection
                });
                self.later(back, Event::Connected { from, key, connection });
            }
            Event::Connected { from, key, connection } => {
                if !self.peers[from].alive {
                    return connection.into_iter().for_each(|c| self.links.cut(c));
                }
                let Some(connection) = connection else { return self.handle(from, Input::DialFailed(key)) };
                self.ends.insert((connection, 0), (from, key));
                self.peers[from].links.insert(key, (connection, 0));
                self.handle(from, Input::Connected(key));
            }
            Event::Disk(number, input) => self.handle(number, input),
        }
    }

    // ---- the machines

    fn handle(&mut self, number: usize, input: Input) {
        let now = self.links.now();
        if self.peers[number].alive {
            self.peers[number].swarm.handle(now, input);
            self.act(number);
        }
    }

    fn act(&mut self, number: usize) {
        while let Some(action) = self.peers[number].swarm.poll_action() {
            match action {
                Action::Dial { peer: key, addr, timeout } => {
                    let to = self.addrs[&addr];
                    if self.peers[to].alive && !self.links.is_dead(to) {
                        self.later(self.links.delay(number, to), Event::Knock { from: number, key, to });
                    } else {
                        self.later(timeout, Event::Connected { from: number, key, connection: None });
                    }
                }
                Action::Close(key, reason) => {
                    let Some(id) = self.peers[number].links.remove(&key) else { continue };
                    let other = self.ends.get(&(id.0, 1 - id.1)).map(|&(other, _)| self.peers[other].addr);
                    let wasted = self.stats(number).wasted;
                    self.peers[number].closed.extend(other.map(|addr| (addr, reason, wasted)));
                    self.ends.remove(&id);
                    self.links.close(id);
                }
                Action::Send(key, bytes) => {
                    if let Some(&id) = self.peers[number].links.get(&key) {
                        self.links.send(id, bytes);
                    }
                }
                Action::Report(report) => self.on_report(number, report),
                disk => self.on_disk(number, disk),
            }
        }
    }

    fn on_disk(&mut self, number: usize, action: Action) {
        let layout = *self.info.layout();
        let place = |piece: PieceIndex, begin: u32| layout.offset(piece) as usize + begin as usize;
        let peer = &mut self.peers[number];
        let answer = match action {
            Action::Write { piece, begin, data } => {
                let at = place(piece, begin);
                peer.disk[at..at + data.len()].copy_from_slice(&data);
                return;
            }
            Action::Hash(piece) => {
                let at = place(piece, 0);
                let digest: [u8; 20] =
                    Sha1::digest(&peer.disk[at..at + layout.len_of(piece) as usize]).into();
                Input::Hashed(piece, digest == self.info.piece_hash(piece))
            }
            Action::Digest(piece) => {
                let at = place(piece, 0);
                let whole = &peer.disk[at..at + layout.len_of(piece) as usize];
                let first = |block: &[u8]| <[u8; 20]>::from(Sha1::digest(block))[..8].try_into();
                let digests = whole.chunks(BLOCK_LEN as usize).filter_map(|block| first(block).ok());
                Input::Digested(piece, digests.map(u64::from_be_bytes).collect())
            }
            Action::Read { peer: key, piece, begin, length } => {
                let at = place(piece, begin);
                let mut data = peer.disk[at..at + length as usize].to_vec();
                if peer.role == Role::Liar {
                    data[0] ^= 1;
                }
                Input::Read { peer: key, piece, begin, data: Some(data.into()) }
            }
            other => unreachable!("{other:?}"),
        };
        self.later(DISK, Event::Disk(number, answer));
    }

    fn on_report(&mut self, number: usize, report: Report) {
        match report {
            Report::Metadata(info) => {
                assert_eq!(info.raw(), self.info.raw());
                let none = Bitfield::none(info.layout().count());
                self.peers[number].info = Some(info);
                self.later(DISK, Event::Disk(number, Input::DiskReady(none)));
            }
            Report::Verified(piece) => {
                self.peers[number].verified.insert(piece.get());
            }
            Report::Complete if self.peers[number].role == Role::Leecher => {
                let now = self.links.elapsed();
                assert!(self.peers[number].done.replace(now).is_none(), "complete twice");
                assert!(self.peers[number].disk == self.content, "wrong bytes");
            }
            Report::Complete | Report::DhtNode(_) => {}
            Report::BadMetadata(error) => panic!("{error}"),
        }
    }

    /// A host leaves: its connections break and the others learn it.
    fn leave(&mut self, number: usize) {
        self.peers[number].alive = false;
        for (_, id) in std::mem::take(&mut self.peers[number].links) {
            self.ends.remove(&id);
            self.links.cut(id.0);
        }
    }

    /// A host falls silent: nobody is told.
    fn vanish(&mut self, number: usize) {
        self.peers[number].alive = false;
        self.links.silence(number);
    }

    fn is_connected(&self, a: usize, b: usize) -> bool {
        let others = self.peers[a].links.values().filter_map(|id| self.ends.get(&(id.0, 1 - id.1)));
        others.into_iter().any(|&(other, _)| other == b)
    }

    // ---- figures

    fn stats(&self, number: usize) -> Stats {
        self.peers[number].swarm.stats(self.links.now())
    }

    fn leechers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.peers.len()).filter(|&n| self.peers[n].role == Role::Leecher && self.peers[n].alive)
    }

    fn all_done(&self) -> bool {
        self.leechers().all(|n| self.peers[n].done.is_some())
    }

    fn describe(&self) -> String {
        let each = self.leechers().map(|n| format!("\n{n}: {:?} {:?}", self.peers[n].done, self.stats(n)));
        format!("after {:?}:{}", self.links.elapsed(), each.collect::<String>())
    }

    fn outcome(&self, name: &str, t_min: f64) -> Outcome {
        let last = self.leechers().filter_map(|n| self.peers[n].done).max().unwrap_or_default().as_secs_f64();
        let first =
            self.leechers().filter_map(|n| self.peers[n].done).min().unwrap_or_default().as_secs_f64();
        let wasted = self.leechers().map(|n| self.stats(n).wasted).max().unwrap_or_default();
        let outcome = Outcome { ratio: last / t_min, wasted, trace: self.links.trace() };
        println!(
            "{name:24} | first {first:6.1} s | last {last:6.1} s | T_min {t_min:6.1} s | T/T_min {:5.2} | wasted at most {:5} KiB | {}",
            outcome.ratio,
            wasted >> 10,
            &outcome.trace[..12],
        );
        outcome
    }
}

struct Outcome {
    ratio: f64,
    wasted: u64,
    trace: String,
}

fn info(content: &[u8]) -> Info {
    let mut hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.begin_dict().bytes(b"length").int(content.len() as i64).bytes(b"name").bytes(b"swarm.bin");
    w.bytes(b"piece length").int(PIECE as i64).bytes(b"pieces").bytes(&hashes);
    // Two more blocks of metadata, so that it comes from several peers.
    hashes.resize(33_000, 7);
    w.bytes(b"x-filler").bytes(&hashes).end();
    Info::parse(out.into()).expect("an info dictionary of our own making")
}

/// The shortest time any protocol could need, in seconds.
fn t_min(seeder_up: u64, ups: &[u64], down: u64) -> f64 {
    let (size, n) = (SIZE as f64, ups.len() as f64);
    let all = (seeder_up + ups.iter().sum::<u64>()) as f64;
    (size / seeder_up as f64).max(size / down as f64).max(n * size / all)
}

const UP: u64 = 128 * KIB;
const DOWN: u64 = 1024 * KIB;
const SEEDER_UP: u64 = 256 * KIB;
const PATIENCE: Duration = Duration::from_secs(1200);

/// One seeder and `leechers` of equal rates, introduced to each other.
fn swarm_of(seed: u64, leechers: usize, loss: f64) -> (World, f64) {
    let mut world = World::new(seed, loss);
    world.add(Role::Seeder, SEEDER_UP, DOWN);
    for _ in 0..leechers {
        world.add(Role::Leecher, UP, DOWN);
    }
    (world, t_min(SEEDER_UP, &vec![UP; leechers], DOWN))
}

fn plain(seed: u64, loss: f64, name: &str) -> Outcome {
    let (mut world, best) = swarm_of(seed, 10, loss);
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    for leecher in world.leechers().collect::<Vec<_>>() {
        assert!(world.stats(leecher).uploaded > 0, "{leecher} gave nothing");
        assert_eq!(world.stats(leecher).verified, SIZE as u64);
    }
    world.outcome(name, best)
}

#[test]
fn a_swarm_finishes_near_the_shortest_time_and_replays() {
    let seed = seed();
    let first = plain(seed, 0.0, "plain");
    assert!(first.ratio <= 1.6, "{}", first.ratio);
    assert_eq!(plain(seed, 0.0, "plain again").trace, first.trace, "the same seed, another trace");
    assert_ne!(plain(seed + 1, 0.0, "plain, next seed").trace, first.trace);
}

#[test]
fn a_swarm_finishes_over_links_that_lose() {
    let outcome = plain(seed(), 0.02, "2 % of segments late");
    assert!(outcome.ratio <= 1.8, "{}", outcome.ratio);
}

#[test]
fn a_liar_is_banned_and_costs_little() {
    let (mut world, best) = swarm_of(seed(), 10, 0.0);
    let liar = world.add(Role::Liar, SEEDER_UP, DOWN);
    let liar_addr = world.peers[liar].addr;
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    let mut caught = 0;
    for leecher in world.leechers().collect::<Vec<_>>() {
        let peer = &world.peers[leecher];
        let liars = peer.closed.iter().filter(|(_, reason, _)| *reason == CloseReason::Liar);
        let accused: Vec<(SocketAddr, u64)> = liars.map(|(addr, _, wasted)| (*addr, *wasted)).collect();
        assert!(accused.iter().all(|(addr, _)| *addr == liar_addr), "an honest peer was banned: {accused:?}");
        // The piece that gave it away, and what it had sent of others.
        assert!(accused.iter().all(|(_, wasted)| *wasted <= 3 * PIECE as u64), "a dear ban: {accused:?}");
        assert!(accused.len() <= 1, "{leecher} banned the liar {} times", accused.len());
        caught += accused.len();
        assert!(accused.is_empty() || !world.is_connected(leecher, liar), "a banned peer is back");
    }
    let outcome = world.outcome("a liar", best);
    println!("{caught} of 10 caught the liar");
    assert!(caught >= 5, "only {caught} caught the liar");
    assert!(outcome.wasted <= (SIZE / 6) as u64, "{} bytes wasted", outcome.wasted);
    assert!(outcome.ratio <= 1.8, "{}", outcome.ratio);
}

#[test]
fn peers_that_leave_or_fall_silent_hold_nobody_up() {
    let (mut world, best) = swarm_of(seed(), 14, 0.0);
    world.introduce();
    let half = |w: &mut World| w.stats(5).verified > SIZE as u64 / 2;
    world.run(PATIENCE, half);
    world.vanish(1);
    world.leave(2);
    world.vanish(3);
    world.leave(4);
    world.run(PATIENCE, |w| w.all_done());
    let outcome = world.outcome("4 of 14 vanish", best);
    assert!(outcome.ratio <= 2.0, "{}", outcome.ratio);
}

#[test]
fn one_copy_is_enough_when_the_seeder_leaves() {
    let (mut world, best) = swarm_of(seed(), 10, 0.0);
    world.introduce();
    let count = world.info.layout().count() as usize;
    world.run(PATIENCE, |w| {
        let out: BTreeSet<u32> = w.leechers().flat_map(|n| w.peers[n].verified.iter().copied()).collect();
        out.len() == count
    });
    let (left, sent) = (world.links.elapsed(), world.stats(0).uploaded);
    println!("the seeder leaves after {left:?}, having sent {:.2} copies", sent as f64 / SIZE as f64);
    world.leave(0);
    world.run(PATIENCE, |w| w.all_done());
    let outcome = world.outcome("the seeder leaves", best);
    assert!(outcome.ratio <= 2.0, "{}", outcome.ratio);
    assert!(sent < 4 * SIZE as u64, "rarest first should spread a copy sooner: {sent}");
}

#[test]
fn metadata_comes_from_a_peer_slower_than_every_wait() {
    let mut world = World::new(seed(), 0.0);
    world.add(Role::Seeder, 4 * KIB, DOWN);
    world.add(Role::Leecher, UP, DOWN);
    world.introduce();
    world.run(PATIENCE, |w| w.peers[1].info.is_some());
    assert!(world.links.elapsed() < Duration::from_secs(30), "{:?}", world.links.elapsed());
}

/// A peer that dialled us and never named its port is banned like any other.
#[test]
fn an_incoming_peer_that_breaks_the_rules_does_not_come_back() {
    let content = vec![7; PIECE * 3];
    let (info, now) = (Arc::new(info(&content)), Instant::now());
    let config = Config::new(Id160([1; 20]));
    let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
    swarm.handle(now, Input::Info(info.clone()));
    swarm.handle(now, Input::DiskReady(Bitfield::none(3)));
    let addr: SocketAddr = "10.1.1.1:50000".parse().unwrap();
    let key = swarm.accept(now, addr).unwrap();
    let mut bytes = Vec::new();
    let greeting =
        Handshake { reserved: Reserved::default(), info_hash: info.hash(), peer_id: Id160([2; 20]) };
    greeting.emit(&mut bytes);
    Message::Have(3).emit(&mut bytes);
    swarm.handle(now, Input::Received(key, bytes.into()));
    let actions: Vec<Action> = std::iter::from_fn(|| swarm.poll_action()).collect();
    assert!(actions.iter().any(|a| matches!(a, Action::Close(k, CloseReason::Impossible(_)) if *k == key)));
    assert_eq!(swarm.stats(now).banned, 1);
    assert_eq!(swarm.accept(now, "10.1.1.1:50001".parse().unwrap()), None);
}

/// Peer ids are no secret: a stranger that repeats one must not take its owner's connection.
#[test]
fn a_peer_that_steals_an_id_displaces_nobody() {
    let (info, now) = (info(&[7; PIECE]), Instant::now());
    let config = Config::new(Id160([9; 20]));
    let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
    let mut greeting = Vec::new();
    Handshake { reserved: Reserved::default(), info_hash: info.hash(), peer_id: Id160([2; 20]) }
        .emit(&mut greeting);
    let honest: SocketAddr = "10.1.1.1:6881".parse().expect("an address");
    swarm.handle(now, Input::Candidates(vec![honest], Origin::Dht));
    let Some(Action::Dial { peer, .. }) = swarm.poll_action() else { panic!("no dial") };
    swarm.handle(now, Input::Connected(peer));
    swarm.handle(now, Input::Received(peer, greeting.clone().into()));
    for (from, stays) in [("10.6.6.6:5000", true), ("10.1.1.1:5000", false)] {
        let thief = swarm.accept(now, from.parse().expect("an address")).expect("room");
        swarm.handle(now, Input::Received(thief, greeting.clone().into()));
        let actions = std::iter::from_fn(|| swarm.poll_action());
        let closed = actions
            .filter_map(|a| if let Action::Close(key, reason) = a { Some((key, reason)) } else { None });
        // From its own host it is the peer itself, and both sides keep the same one of two connections.
        let loser = if stays { thief } else { peer };
        assert_eq!(closed.collect::<Vec<_>>(), [(loser, CloseReason::Duplicate)], "{from}");
    }
}
