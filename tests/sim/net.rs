//! A network in virtual time: datagrams with delay, loss and dead hosts.
//!
//! Knows addresses and payloads, not who speaks: anything that sends datagrams can live on it. The order
//! of everything follows from the seed, and a running hash of all deliveries is its fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::rng::Rng;

/// Every fault and bound of a simulated network.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Where all randomness comes from.
    pub seed: u64,
    /// One-way delay of the nearest pair.
    pub delay_min: Duration,
    /// One-way delay of the farthest pair, jitter not counted.
    pub delay_max: Duration,
    /// Added to each datagram at random, up to this.
    pub jitter: Duration,
    /// Share of datagrams lost.
    pub loss: f64,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            seed: seed(),
            delay_min: Duration::from_millis(5),
            delay_max: Duration::from_millis(100),
            jitter: Duration::from_millis(10),
            loss: 0.0,
        }
    }
}

/// The seed of this run, printed so that a failure can be replayed.
pub fn seed() -> u64 {
    let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("SIM_SEED={seed}");
    seed
}

/// A datagram that arrives.
#[derive(Debug)]
pub struct Delivery {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

/// The network and its clock.
#[derive(Debug)]
pub struct Net {
    options: NetOptions,
    rng: Rng,
    start: Instant,
    now: Instant,
    flights: BTreeMap<(Instant, u64), Delivery>,
    sent: u64,
    dead: BTreeSet<SocketAddr>,
    trace: u64,
}

impl Net {
    pub fn new(options: NetOptions) -> Self {
        let (rng, start) = (Rng::from_u64(options.seed), Instant::now());
        let (flights, dead) = (BTreeMap::new(), BTreeSet::new());
        // The offset basis of FNV-1a.
        Self { options, rng, start, now: start, flights, sent: 0, dead, trace: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// A fingerprint of every delivery so far: when, from whom, to whom, what.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// From now on nothing arrives there.
    pub fn kill(&mut self, addr: SocketAddr) {
        self.dead.insert(addr);
    }

    pub fn is_dead(&self, addr: &SocketAddr) -> bool {
        self.dead.contains(addr)
    }

    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.sent += 1;
        let lost = self.rng.chance(self.options.loss);
        let at = self.now + self.delay(from, to);
        if !lost && !self.dead.contains(&from) && !self.dead.contains(&to) {
            self.flights.insert((at, self.sent), Delivery { from, to, payload });
        }
    }

    /// A pair's own delay, the same both ways, and this datagram's jitter.
    fn delay(&mut self, from: SocketAddr, to: SocketAddr) -> Duration {
        let ends = fnv(fnv_addr(0, from.min(to)), fnv_addr(1, from.max(to)).to_le_bytes());
        let span = self.options.delay_max.saturating_sub(self.options.delay_min);
        let pair = Rng::from_u64(ends ^ self.options.seed).unit();
        self.options.delay_min + span.mul_f64(pair) + self.options.jitter.mul_f64(self.rng.unit())
    }

    /// When the next datagram arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flights.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves the clock, never backwards and never past an arrival.
    pub fn advance_to(&mut self, at: Instant) {
        self.now = self.now.max(self.next_arrival().map_or(at, |next| at.min(next)));
    }

    /// The next datagram that has arrived by now.
    pub fn receive(&mut self) -> Option<Delivery> {
        let entry = self.flights.first_entry().filter(|e| e.key().0 <= self.now)?;
        let ((at, _), delivery) = entry.remove_entry();
        let when = (at - self.start).as_nanos() as u64;
        self.trace = fnv(self.trace, when.to_le_bytes());
        self.trace = fnv_addr(fnv_addr(self.trace, delivery.from), delivery.to);
        self.trace = fnv(self.trace, delivery.payload.iter().copied());
        Some(delivery)
    }
}

fn fnv_addr(hash: u64, addr: SocketAddr) -> u64 {
    let hash = match addr.ip() {
        std::net::IpAddr::V4(ip) => fnv(hash, ip.octets()),
        std::net::IpAddr::V6(ip) => fnv(hash, ip.octets()),
    };
    fnv(hash, addr.port().to_le_bytes())
}

fn fnv(hash: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
