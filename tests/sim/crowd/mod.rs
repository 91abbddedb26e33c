//! Whole swarms in virtual time: real [`Swarm`] machines over TCP-like links, each with a disk in memory.
//!
//! Measured against the shortest time in which any protocol could distribute the file,
//! `T_min = max(F/us, F/dmin, N·F/(us + Σui))`.

#![allow(dead_code, reason = "each test and example uses its part of it")]

pub mod disk;
pub mod fleet;
pub mod links;
pub mod ticks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dhtget::id::Id160;
use dhtget::peer::Bitfield;
use dhtget::rng::Rng;
use dhtget::swarm::{Action, CloseReason, Config, Input, Origin, PeerKey, Report, Stats, Swarm, Wanted};
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{Info, PieceIndex};
use sha1::{Digest as _, Sha1};

use self::disk::Disk;
use self::links::{Arrival, LinkOptions, Links, StreamId};
use self::ticks::{Post, Ticks};

pub const KIB: u64 = 1 << 10;
/// Bytes of a small torrent: odd, so that the last piece and the last block are short.
pub const SIZE: usize = (8 << 20) - 12_345;
/// Bytes of a piece of it.
pub const PIECE: usize = 64 << 10;

/// A torrent's bytes, and those of a piece of it.
pub type Shape = (usize, usize);
/// Bytes of one stream under way.
const WINDOW: usize = 256 << 10;
/// Time between an order to the disk and its answer.
const DISK: Duration = Duration::from_millis(2);

/// What a host of the swarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Seeder,
    Leecher,
    /// Says that it has everything; a byte of each block it sends is wrong.
    Liar,
    /// The same, of the first block of every fourth piece only.
    LiarNowAndThen,
    /// Says that it has everything, lets everybody in and sends nothing.
    Silent,
    /// Says that it has everything, sends true blocks and falls silent at the first piece with an odd number.
    Fading,
    /// A leecher that gives nothing.
    FreeRider,
}

impl Role {
    pub fn is_leecher(self) -> bool {
        matches!(self, Self::Leecher | Self::FreeRider)
    }

    fn keeps_back(self, piece: PieceIndex) -> bool {
        self == Self::Silent || self == Self::Fading && piece.get() % 2 == 1
    }

    fn lies_about(self, piece: PieceIndex, begin: u32) -> bool {
        self == Self::Liar || self == Self::LiarNowAndThen && begin == 0 && piece.get().is_multiple_of(4)
    }
}

#[derive(Debug)]
pub struct Peer {
    pub role: Role,
    pub swarm: Swarm,
    pub addr: SocketAddr,
    pub info: Option<Arc<Info>>,
    pub disk: Disk,
    pub links: BTreeMap<PeerKey, StreamId>,
    /// Whom it dropped, why, and what had been wasted by then.
    pub closed: Vec<(SocketAddr, CloseReason, u64)>,
    pub verified: BTreeSet<u32>,
    pub done: Option<Duration>,
    pub alive: bool,
    /// What it wants, said once it knows the torrent.
    pub wanted: Wanted,
    /// When it wants to be called.
    timer: Option<Instant>,
}

/// What happens at a host beside its links.
#[derive(Debug)]
enum Event {
    Knock { from: usize, key: PeerKey, to: usize },
    Connected { from: usize, key: PeerKey, connection: Option<u64> },
    Disk(usize, Input),
}

pub struct World {
    pub links: Links,
    pub peers: Vec<Peer>,
    addrs: BTreeMap<SocketAddr, usize>,
    ends: HashMap<StreamId, (usize, PeerKey)>,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    /// Where short messages come once a tick.
    ticks: Option<Ticks>,
    /// When who wants to be called, soonest first.
    timers: BTreeSet<(Instant, usize)>,
    content: Bytes,
    pub info: Arc<Info>,
    /// Changes what [`World::add`] gives to the machines from then on.
    pub adjust: fn(&mut Config),
    rng: Rng,
}

impl World {
    pub fn new(seed: u64, loss: f64, shape: Shape) -> Self {
        let delay = (Duration::from_millis(5), Duration::from_millis(60));
        Self::over(LinkOptions { seed, delay, loss, window: WINDOW }, shape)
    }

    /// A world over links of one's own.
    pub fn over(options: LinkOptions, (size, piece): Shape) -> Self {
        let seed = options.seed;
        let mut rng = Rng::from_u64(seed);
        let mut content = vec![0; size];
        rng.fill(&mut content);
        Self {
            links: Links::new(options),
            peers: Vec::new(),
            addrs: BTreeMap::new(),
            ends: HashMap::new(),
            events: BTreeMap::new(),
            serial: 0,
            ticks: None,
            timers: BTreeSet::new(),
            adjust: |_| (),
            info: Arc::new(info(&content, piece)),
            content: content.into(),
            rng,
        }
    }

    /// From now on short messages come once a tick.
    pub fn tick(&mut self, length: Duration) {
        self.ticks = Some(Ticks::new(self.links.now(), length));
    }

    pub fn add(&mut self, role: Role, up: u64, down: u64) -> usize {
        let now = self.links.now();
        let number = self.links.host(up, down);
        let addr = SocketAddr::from(([10, 0, 1 + (number / 200) as u8, (number % 200) as u8 + 1], 6881));
        let swarm = self.machine(role);
        let whole = !role.is_leecher();
        let mut peer = Peer {
            role,
            swarm,
            addr,
            info: whole.then(|| self.info.clone()),
            disk: Disk::new(&self.content, whole),
            links: BTreeMap::new(),
            closed: Vec::new(),
            verified: BTreeSet::new(),
            done: whole.then_some(Duration::ZERO),
            alive: true,
            wanted: Wanted::default(),
            timer: None,
        };
        if whole {
            peer.swarm.handle(now, Input::Info(self.info.clone()));
            peer.swarm.handle(now, Input::DiskReady(Bitfield::all(self.info.layout().count())));
        }
        self.peers.push(peer);
        self.addrs.insert(addr, number);
        number
    }

    fn machine(&mut self, role: Role) -> Swarm {
        let mut config = Config::new(Id160(self.rng.bytes()));
        config.listen_port = Some(6881);
        (self.adjust)(&mut config);
        if role == Role::FreeRider {
            config.upload_limit = Some(0);
        }
        Swarm::new(self.info.hash(), config, self.rng.child(), self.links.now())
    }

    /// Every leecher learns of everyone else, as from the DHT.
    pub fn introduce(&mut self) {
        let all: Vec<SocketAddr> = self.peers.iter().map(|p| p.addr).collect();
        for number in 0..self.peers.len() {
            if self.peers[number].role.is_leecher() {
                let others = all.iter().copied().filter(|a| *a != self.peers[number].addr).collect();
                self.handle(number, Input::Candidates(others, Origin::Dht));
            } else {
                self.act(number);
            }
        }
    }

    /// The same one by one: each leecher learns of the others at a moment of its own.
    pub fn introduce_over(&mut self, time: Duration) {
        let leechers: Vec<_> = self.leechers().collect();
        for (nth, &number) in leechers.iter().enumerate() {
            let addr = self.peers[number].addr;
            let others = self.peers.iter().map(|p| p.addr).filter(|a| *a != addr).collect();
            let at = time.mul_f64(nth as f64 / leechers.len() as f64);
            self.later(at, Event::Disk(number, Input::Candidates(others, Origin::Dht)));
        }
        (0..self.peers.len()).for_each(|number| self.act(number));
    }

    /// Each leecher learns of so many others, drawn anew for each; the first host, which has everything, is one of those who
    /// may be drawn, and the first leecher is told of it.
    pub fn introduce_some(&mut self, known: usize) {
        (0..self.peers.len()).for_each(|number| self.act(number));
        let leechers: Vec<_> = self.leechers().collect();
        for number in leechers {
            let drawn: BTreeSet<usize> = (0..known).map(|_| self.rng.below(self.peers.len())).collect();
            let told = drawn.into_iter().chain((number == 1).then_some(0)).filter(|other| *other != number);
            let others = told.map(|other| self.peers[other].addr).collect();
            self.handle(number, Input::Candidates(others, Origin::Dht));
        }
    }

    // ---- time

    /// Until `over`, which is asked after everything that happens; panics past `limit`.
    pub fn run(&mut self, limit: Duration, mut over: impl FnMut(&mut Self) -> bool) {
        let mut steps = 0u64;
        while !over(self) {
            steps += 1;
            let timers = self.timers.first().map(|(at, _)| *at);
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let tick = self.ticks.as_ref().and_then(Ticks::next_at);
            let next = [timers, event, tick, self.links.next_at()].into_iter().flatten().min();
            let next = next.expect("nothing will ever happen again");
            self.links.advance_to(next);
            assert!(self.links.elapsed() < limit && steps < 300_000_000, "too long: {}", self.describe());
            while let Some(arrival) = self.links.receive() {
                self.on_arrival(arrival);
            }
            let now = self.links.now();
            while let Some((number, post)) = self.ticks.as_mut().and_then(|t| t.receive(now)) {
                self.on_post(number, post);
            }
            while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= now) {
                let event = entry.remove();
                self.on_event(event);
            }
            while let Some((_, number)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
                self.set_timer(number, None);
                if self.peers[number].alive {
                    self.peers[number].swarm.handle_timeout(now);
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

    fn on_post(&mut self, number: usize, post: Post) {
        let now = self.links.now();
        if !self.peers[number].alive {
            return;
        }
        for (id, bytes) in post {
            if let Some(&(_, key)) = self.ends.get(&(id.0, 1 - id.1)) {
                self.peers[number].swarm.handle(now, Input::Received(key, bytes));
            }
        }
        self.act(number);
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
        self.obey(number);
        let at = self.peers[number].swarm.poll_timeout();
        self.set_timer(number, at);
    }

    fn set_timer(&mut self, number: usize, at: Option<Instant>) {
        let before = std::mem::replace(&mut self.peers[number].timer, at);
        if before != at {
            before.map(|before| self.timers.remove(&(before, number)));
            at.map(|at| self.timers.insert((at, number)));
        }
    }

    fn obey(&mut self, number: usize) {
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
                        self.send(number, key, id, bytes);
                    }
                }
                Action::Report(report) => self.on_report(number, report),
                disk => self.on_disk(number, disk),
            }
        }
    }

    fn send(&mut self, number: usize, key: PeerKey, id: StreamId, bytes: Bytes) {
        let (now, length) = (self.links.now(), bytes.len());
        let alone = self.links.alone(id);
        let posted = self.ticks.as_mut().zip(alone).and_then(|(t, (to, at))| t.post(at, to, id, &bytes));
        match posted {
            Some(at) => {
                self.links.follow(id, at);
                self.peers[number].swarm.handle(now, Input::Sent(key, length));
            }
            None => self.links.send(id, bytes),
        }
    }

    fn on_disk(&mut self, number: usize, action: Action) {
        let layout = *self.info.layout();
        let place = |piece: PieceIndex, begin: u32| layout.offset(piece) as usize + begin as usize;
        let peer = &mut self.peers[number];
        let answer = match action {
            Action::Write { piece, begin, data } => return peer.disk.write(place(piece, begin), data),
            Action::Hash(piece) => {
                Input::Hashed(piece, peer.disk.is_true(place(piece, 0), layout.len_of(piece) as usize))
            }
            Action::Digest(piece) => {
                Input::Digested(piece, peer.disk.digests(place(piece, 0), layout.len_of(piece) as usize))
            }
            Action::Read { piece, .. } if peer.role.keeps_back(piece) => return,
            Action::Read { peer: key, piece, begin, length } => {
                let mut data = peer.disk.read(place(piece, begin), length as usize);
                if peer.role.lies_about(piece, begin) {
                    data = [&[data[0] ^ 1], &data[1..]].concat().into();
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
                let wanted = Input::Wanted(self.peers[number].wanted.clone());
                self.later(Duration::ZERO, Event::Disk(number, wanted));
                self.later(DISK, Event::Disk(number, Input::DiskReady(none)));
            }
            Report::Verified(piece) => {
                self.peers[number].verified.insert(piece.get());
            }
            Report::Complete if self.peers[number].role.is_leecher() => {
                let now = self.links.elapsed();
                assert!(self.peers[number].done.replace(now).is_none(), "complete twice");
                assert!(self.peers[number].disk.is_whole(), "wrong bytes");
            }
            Report::Complete | Report::DhtNode(_) => {}
            Report::BadMetadata(error) => panic!("{error}"),
        }
    }

    /// Whoever reads what a host fetches has come so far.
    pub fn consume(&mut self, number: usize, to: u64) {
        self.handle(number, Input::Consumed(to));
    }

    /// A host leaves: its connections break and the others learn it.
    pub fn leave(&mut self, number: usize) {
        self.peers[number].alive = false;
        for (_, id) in std::mem::take(&mut self.peers[number].links) {
            self.ends.remove(&id);
            self.links.cut(id.0);
        }
    }

    /// A host that has left comes back with what it has, and learns of everyone else.
    pub fn come_back(&mut self, number: usize) {
        let (now, mut have) = (self.links.now(), Bitfield::none(self.info.layout().count()));
        self.peers[number].verified.iter().for_each(|&piece| {
            have.set(piece, true);
        });
        self.peers[number].swarm = self.machine(self.peers[number].role);
        let peer = &mut self.peers[number];
        (peer.alive, peer.info) = (true, Some(self.info.clone()));
        peer.swarm.handle(now, Input::Info(self.info.clone()));
        peer.swarm.handle(now, Input::DiskReady(have));
        self.introduce_one(number);
    }

    /// A host learns of everyone else.
    pub fn introduce_one(&mut self, number: usize) {
        let own = self.peers[number].addr;
        let others = self.peers.iter().map(|p| p.addr).filter(|a| *a != own).collect();
        self.handle(number, Input::Candidates(others, Origin::Dht));
    }

    /// A host falls silent: nobody is told.
    pub fn vanish(&mut self, number: usize) {
        self.peers[number].alive = false;
        self.links.silence(number);
    }

    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        let others = self.peers[a].links.values().filter_map(|id| self.ends.get(&(id.0, 1 - id.1)));
        others.into_iter().any(|&(other, _)| other == b)
    }

    // ---- figures

    pub fn elapsed(&self) -> Duration {
        self.links.elapsed()
    }

    pub fn stats(&self, number: usize) -> Stats {
        self.peers[number].swarm.stats(self.links.now())
    }

    pub fn leechers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.peers.len()).filter(|&n| self.peers[n].role.is_leecher() && self.peers[n].alive)
    }

    /// Whether every piece is out of the seeder.
    pub fn one_copy_is_out(&self) -> bool {
        let all = self.leechers().flat_map(|n| self.peers[n].verified.iter().copied());
        all.collect::<BTreeSet<u32>>().len() == self.info.layout().count() as usize
    }

    pub fn all_done(&self) -> bool {
        self.leechers().all(|n| self.peers[n].done.is_some())
    }

    /// Whether nothing more will happen by itself.
    pub fn is_quiet(&self) -> bool {
        self.timers.is_empty()
            && self.events.is_empty()
            && self.links.next_at().is_none()
            && self.ticks.as_ref().is_none_or(|t| t.next_at().is_none())
    }

    fn describe(&self) -> String {
        let each = self.leechers().map(|n| format!("\n{n}: {:?} {:?}", self.peers[n].done, self.stats(n)));
        format!("after {:?}:{}", self.links.elapsed(), each.collect::<String>())
    }

    pub fn outcome(&self, name: &str, t_min: f64) -> Outcome {
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

pub struct Outcome {
    pub ratio: f64,
    pub wasted: u64,
    pub trace: String,
}

pub fn info(content: &[u8], piece: usize) -> Info {
    let mut hashes: Vec<u8> = content.chunks(piece).flat_map(Sha1::digest).collect();
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.begin_dict().bytes(b"length").int(content.len() as i64).bytes(b"name").bytes(b"swarm.bin");
    w.bytes(b"piece length").int(piece as i64).bytes(b"pieces").bytes(&hashes);
    // Two more blocks of metadata, so that it comes from several peers.
    hashes.resize(hashes.len().max(33_000), 7);
    w.bytes(b"x-filler").bytes(&hashes).end();
    Info::parse(out.into()).expect("an info dictionary of our own making")
}

/// The shortest time any protocol could need, in seconds (Kumar and Ross, "Peer-Assisted File Distribution: The Minimum
/// Distribution Time", 2006). `ups` are of those who give, among `leechers`.
pub fn t_min(size: usize, seeder_up: u64, ups: &[u64], down: u64, leechers: usize) -> f64 {
    let (size, n) = (size as f64, leechers as f64);
    let all = (seeder_up + ups.iter().sum::<u64>()) as f64;
    (size / seeder_up as f64).max(size / down as f64).max(n * size / all)
}
