//! TCP as a swarm feels it, in virtual time: byte streams in order, each host's rates shared by its
//! streams, delay, a window, losses that cost time, connections that break and hosts that fall silent.
//!
//! Knows hosts by number and streams by connection and side; not who speaks or what is said.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use dhtget::rng::Rng;

/// Bytes that travel together: a few TCP segments, so that events stay few.
const SEGMENT: usize = 8 << 10;
/// A retransmission timeout; a lost segment costs this and a round trip.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// One direction of a connection: the connection, and the side (0 dialled, 1 accepted) that sends.
pub type StreamId = (u64, usize);

/// Every fault and bound of the links.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    pub seed: u64,
    /// One-way delay of the nearest and the farthest pair.
    pub delay: (Duration, Duration),
    /// Share of segments that are lost and come later.
    pub loss: f64,
    /// Bytes of one stream under way, as a receive window of this size allows.
    pub window: usize,
}

/// What comes out at an end of a stream.
#[derive(Debug)]
pub enum Arrival {
    /// Bytes for the receiving side.
    Bytes(StreamId, Bytes),
    /// Bytes have left the sending side.
    Sent(StreamId, usize),
    /// The stream has ended; told to the receiving side.
    Closed(StreamId),
}

#[derive(Debug)]
enum Flight {
    Left(StreamId, Bytes),
    Arrived(StreamId, Bytes),
    Delivered(StreamId, Bytes),
    Acked(StreamId, usize),
    Fin(StreamId),
}

#[derive(Debug)]
struct Due {
    at: Instant,
    serial: u64,
    flight: Flight,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Due {}

#[derive(Debug)]
struct Host {
    up: f64,
    down: f64,
    sending: bool,
    down_free: Instant,
    /// Streams with something to send and room in their window, in turn.
    ready: VecDeque<StreamId>,
    dead: bool,
}

#[derive(Debug)]
struct Stream {
    from: usize,
    to: usize,
    delay: Duration,
    pending: VecDeque<Bytes>,
    in_flight: usize,
    queued: bool,
    last_arrival: Instant,
    /// A segment is on its way out of the host.
    leaving: bool,
    closing: bool,
    ended: bool,
}

/// All links and their clock.
#[derive(Debug)]
pub struct Links {
    options: LinkOptions,
    rng: Rng,
    start: Instant,
    now: Instant,
    hosts: Vec<Host>,
    streams: HashMap<StreamId, Stream>,
    /// By time, then by number, which no two share.
    flights: BinaryHeap<Reverse<Due>>,
    arrivals: VecDeque<Arrival>,
    serial: u64,
    connections: u64,
    trace: u64,
}

impl Links {
    pub fn new(options: LinkOptions) -> Self {
        let start = Instant::now();
        Self {
            rng: Rng::from_u64(options.seed ^ 0x11_4b5),
            options,
            start,
            now: start,
            hosts: Vec::new(),
            streams: HashMap::new(),
            flights: BinaryHeap::new(),
            arrivals: VecDeque::new(),
            serial: 0,
            connections: 0,
            trace: 0,
        }
    }

    /// A host with these rates in bytes a second; its number.
    pub fn host(&mut self, up: u64, down: u64) -> usize {
        let (up, down) = (up as f64, down as f64);
        let host =
            Host { up, down, sending: false, down_free: self.now, ready: VecDeque::new(), dead: false };
        self.hosts.push(host);
        self.hosts.len() - 1
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// A fingerprint of every delivery so far: when, on which stream, what.
    pub fn trace(&self) -> String {
        format!("{:016x}", self.trace)
    }

    pub fn is_dead(&self, host: usize) -> bool {
        self.hosts[host].dead
    }

    /// From now on nothing comes from there or arrives there, and nobody is told.
    pub fn silence(&mut self, host: usize) {
        self.hosts[host].dead = true;
    }

    /// A pair's own one-way delay, the same both ways.
    pub fn delay(&self, a: usize, b: usize) -> Duration {
        let (near, far) = self.options.delay;
        let pair = (a.min(b) * 1000 + a.max(b)) as u64;
        let unit = Rng::from_u64(self.options.seed ^ (pair << 20)).unit();
        near + (far - near).mul_f64(unit)
    }

    /// Opens a connection; the number of it.
    pub fn connect(&mut self, dialled: usize, accepted: usize) -> u64 {
        self.connections += 1;
        let delay = self.delay(dialled, accepted);
        for (side, (from, to)) in [(dialled, accepted), (accepted, dialled)].into_iter().enumerate() {
            let stream = Stream {
                from,
                to,
                delay,
                pending: VecDeque::new(),
                in_flight: 0,
                queued: false,
                last_arrival: self.now,
                leaving: false,
                closing: false,
                ended: false,
            };
            self.streams.insert((self.connections, side), stream);
        }
        self.connections
    }

    pub fn send(&mut self, id: StreamId, bytes: Bytes) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.closing) {
            stream.pending.push_back(bytes);
            self.make_ready(id);
        }
    }

    /// To which host a stream leads, and when what leaves now would arrive, where nothing of it is under way.
    pub fn alone(&self, id: StreamId) -> Option<(usize, Instant)> {
        let stream = self.streams.get(&id)?;
        let alone = stream.pending.is_empty() && stream.in_flight == 0 && !stream.closing;
        let dead = self.hosts[stream.from].dead || self.hosts[stream.to].dead;
        (alone && !dead).then(|| (stream.to, self.now + stream.delay))
    }

    /// Nothing of this stream arrives before.
    pub fn follow(&mut self, id: StreamId, at: Instant) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.last_arrival = stream.last_arrival.max(at);
        }
    }

    /// Ends a stream after what is queued; the other side learns it when that has arrived.
    pub fn close(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.closing = true;
            self.finish(id);
        }
    }

    /// Cuts a connection: what is under way is lost, and the accepting and the dialling side learn it.
    pub fn cut(&mut self, connection: u64) {
        for id in [(connection, 0), (connection, 1)] {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.pending.clear();
                stream.closing = true;
                self.finish(id);
            }
        }
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<Instant> {
        if self.arrivals.is_empty() { self.flights.peek().map(|Reverse(due)| due.at) } else { Some(self.now) }
    }

    /// Moves the clock, never backwards.
    pub fn advance_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }

    /// The next thing that has come out by now.
    pub fn receive(&mut self) -> Option<Arrival> {
        while self.arrivals.is_empty() {
            self.flights.peek().filter(|Reverse(due)| due.at <= self.now)?;
            let Reverse(due) = self.flights.pop()?;
            self.on_flight(due.flight);
        }
        self.arrivals.pop_front()
    }

    fn on_flight(&mut self, flight: Flight) {
        match flight {
            Flight::Left(id, bytes) => self.on_left(id, bytes),
            Flight::Arrived(id, bytes) => {
                let Some(to) = self.streams.get(&id).map(|s| s.to).filter(|&h| !self.hosts[h].dead) else {
                    return;
                };
                let host = &mut self.hosts[to];
                let time = Duration::from_secs_f64(bytes.len() as f64 / host.down);
                host.down_free = host.down_free.max(self.now) + time;
                let at = host.down_free;
                self.schedule(at, Flight::Delivered(id, bytes));
            }
            Flight::Delivered(id, bytes) => {
                let Some(stream) = self.streams.get(&id) else { return };
                let (delay, length) = (stream.delay, bytes.len());
                self.record(id, &bytes);
                self.arrivals.push_back(Arrival::Bytes(id, bytes));
                let at = self.now + delay;
                self.schedule(at, Flight::Acked(id, length));
            }
            Flight::Acked(id, length) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.in_flight -= length;
                    self.make_ready(id);
                }
            }
            Flight::Fin(id) => {
                self.streams.remove(&id);
                self.record(id, b"fin");
                self.arrivals.push_back(Arrival::Closed(id));
            }
        }
    }

    fn on_left(&mut self, id: StreamId, bytes: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (from, delay) = (stream.from, stream.delay);
        stream.leaving = false;
        self.hosts[from].sending = false;
        if !self.hosts[from].dead {
            self.arrivals.push_back(Arrival::Sent(id, bytes.len()));
            let lost = self.rng.chance(self.options.loss);
            let late = if lost { RETRANSMIT + delay * 2 } else { Duration::ZERO };
            let Some(stream) = self.streams.get_mut(&id) else { return };
            stream.last_arrival = stream.last_arrival.max(self.now + delay + late);
            let at = stream.last_arrival;
            self.schedule(at, Flight::Arrived(id, bytes));
            self.make_ready(id);
            self.finish(id);
        }
        self.kick(from);
    }

    fn make_ready(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.queued && !stream.pending.is_empty() && stream.in_flight < self.options.window {
            stream.queued = true;
            self.hosts[stream.from].ready.push_back(id);
            let from = stream.from;
            self.kick(from);
        }
    }

    /// Starts the next segment of a host whose uplink is free.
    fn kick(&mut self, host: usize) {
        while !self.hosts[host].sending && !self.hosts[host].dead {
            let Some(id) = self.hosts[host].ready.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let bytes = gather(&mut stream.pending);
            if bytes.is_empty() {
                continue;
            }
            stream.in_flight += bytes.len();
            stream.leaving = true;
            self.hosts[host].sending = true;
            let time = Duration::from_secs_f64(bytes.len() as f64 / self.hosts[host].up);
            self.schedule(self.now + time, Flight::Left(id, bytes));
        }
    }

    /// The end follows the last byte.
    fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to, delay) = (stream.from, stream.to, stream.delay);
        let over = stream.closing && !stream.ended && !stream.leaving && stream.pending.is_empty();
        if !over || self.hosts[from].dead || self.hosts[to].dead {
            return;
        }
        // After the last byte has passed the other side's downlink.
        let at = stream.last_arrival.max(self.now + delay).max(self.hosts[to].down_free);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ended = true;
        }
        self.schedule(at + RETRANSMIT, Flight::Fin(id));
    }

    fn schedule(&mut self, at: Instant, flight: Flight) {
        self.serial += 1;
        self.flights.push(Reverse(Due { at, serial: self.serial, flight }));
    }

    fn record(&mut self, id: StreamId, bytes: &[u8]) {
        let when = (self.now - self.start).as_nanos() as u64;
        let said = u64::from(crc32c::crc32c(bytes)) << 32 | bytes.len() as u64;
        for word in [when, id.0 << 1 | id.1 as u64, said] {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// Up to one segment from the head of a queue.
fn gather(pending: &mut VecDeque<Bytes>) -> Bytes {
    let mut out = Vec::with_capacity(SEGMENT);
    while let Some(first) = pending.front_mut().filter(|_| out.len() < SEGMENT) {
        let take = first.len().min(SEGMENT - out.len());
        out.extend_from_slice(&first[..take]);
        first.advance(take);
        if first.is_empty() {
            pending.pop_front();
        }
    }
    out.into()
}
