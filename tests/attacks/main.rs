//! A DHT node under attack: what it gives away, what it holds, and whether honest searches still succeed.
//!
//! Each attack is a scenario with asserted goals and a line in a table that a reviewer sees change. The heap is
//! counted for the whole process, so the scenarios take turns.

mod crowd;
mod flood;
mod poison;
mod soak;
#[path = "../sim/world/mod.rs"]
mod world;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dhtget::dht::config::MAX_PAYLOAD;
use dhtget::dht::{Config, Node};
use dhtget::id::{Id160, NodeId};
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;
use dhtget::wire::krpc::{Body, Message, Method, Query, Reply, Want};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// A reply without peers and with the nodes of both families.
const MAX_REPLY: usize = 760;
/// What the node under attack may hold, whatever befalls it.
const MAX_HELD: usize = 32 << 20;

/// One scenario at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> u64 {
    let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("SIM_SEED={seed}");
    seed
}

/// One public node, its surroundings played by the test.
struct Victim {
    node: Node,
    now: Instant,
    /// Allocated before it was made.
    before: usize,
    peak: usize,
    bytes_in: u64,
    bytes_out: u64,
    sent: u64,
    largest: usize,
    /// The longest that its queue of datagrams ever was.
    queue: usize,
    /// What it sent last.
    out: Vec<(SocketAddr, Vec<u8>)>,
    /// Who is in its table.
    others: Vec<Contact>,
    /// Whether it may send to public addresses of others only.
    strict: bool,
}

/// Where it is, as the others tell it.
const OWN: [u8; 4] = [9, 8, 7, 6];

impl Victim {
    /// A node with a table of a hundred others that have answered.
    fn new() -> Self {
        Self::with(false)
    }

    /// The same with or without an IPv6 socket beside the other one.
    fn with(ipv6: bool) -> Self {
        let before = HEAP.current_usage();
        let now = Instant::now();
        let node = Node::new(Config { ipv6, ..Config::default() }, [7; 32], now);
        let mut victim = Self {
            node,
            now,
            before,
            peak: 0,
            bytes_in: 0,
            bytes_out: 0,
            sent: 0,
            largest: 0,
            queue: 0,
            out: Vec::new(),
            others: Vec::new(),
            strict: false,
        };
        let mut rng = Rng::from_u64(3);
        let others: Vec<_> = (0..100u8)
            .map(|n| Contact { id: Id160::random(&mut rng), addr: ([60 + n, n, 3, 4], 6881).into() })
            .collect();
        victim.node.add_saved(now, others.iter().copied());
        for _ in 0..300 {
            victim.drain();
            for (to, payload) in std::mem::take(&mut victim.out) {
                if let Some(contact) = others.iter().find(|c| c.addr == to) {
                    let from = rng.below(92);
                    victim.answer_with(contact.id, to, &payload, &others[from..from + 8]);
                }
            }
            victim.pass(Duration::from_secs(2));
        }
        assert!(victim.node.table_sizes().0 >= 50, "{:?}", victim.node.table_sizes());
        (victim.bytes_in, victim.bytes_out, victim.sent, victim.largest) = (0, 0, 0, 0);
        (victim.queue, victim.peak) = (0, 0);
        victim.out.clear();
        victim.others = others;
        assert_eq!(victim.node.snapshot(victim.now).external[0], Some(OWN.into()));
        victim
    }

    /// A neighbour answers and names these.
    fn answer_with(&mut self, id: NodeId, from: SocketAddr, query: &[u8], named: &[Contact]) {
        let Ok(Message { body: Body::Query(_), transaction, .. }) = Message::parse(query) else { return };
        let nodes = compact(named.iter().filter(|c| c.addr.is_ipv4()));
        let nodes6 = compact(named.iter().filter(|c| c.addr.is_ipv6()));
        let body = Body::Reply(Reply { id, nodes: &nodes, nodes6: &nodes6, ..Reply::default() });
        let mut out = Vec::new();
        let ip = Some(SocketAddr::from((OWN, 6881)));
        Message { transaction, version: None, ip, read_only: false, body }.emit(&mut out);
        self.node.handle_datagram(self.now, from, &out);
        self.drain();
    }

    /// A datagram comes in.
    fn take(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.bytes_in += bytes.len() as u64;
        let before = self.bytes_out;
        self.node.handle_datagram(self.now, from, bytes);
        self.drain();
        // A transaction id is echoed whatever its length, so who sends much may get as much and a reply.
        let answer = (self.bytes_out - before) as usize;
        assert!(answer <= MAX_PAYLOAD.max(bytes.len() + MAX_REPLY), "{answer} bytes for {}", bytes.len());
    }

    fn drain(&mut self) {
        self.peak = self.peak.max(HEAP.current_usage().saturating_sub(self.before));
        let mut queue = 0;
        while let Some(transmit) = self.node.poll_transmit() {
            queue += 1;
            self.sent += 1;
            self.bytes_out += transmit.payload.len() as u64;
            self.largest = self.largest.max(transmit.payload.len());
            assert!(dhtget::dht::config::is_sendable(transmit.to), "sent to {}", transmit.to);
            assert!(!self.strict || !poison::is_forbidden(transmit.to), "sent to {}", transmit.to);
            if self.out.len() < 10_000 {
                self.out.push((transmit.to, transmit.payload));
            }
        }
        self.queue = self.queue.max(queue);
        while self.node.poll_event().is_some() {}
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at.max(self.now);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn row(&self, name: &str) -> String {
        let c = self.node.counters();
        format!(
            "{name:<40}  {:>9}  {:>9}  {:>8}  {:>6.2}  {:>7}  {:>5}  {:>8}",
            c.queries_in + c.limited,
            c.limited,
            c.malformed,
            self.bytes_out as f64 / self.bytes_in.max(1) as f64,
            self.largest,
            self.queue,
            // Whole ones, rounded up: the test runner allocates, too.
            self.peak.div_ceil(1 << 20),
        )
    }
}

/// The columns of [`Victim::row`].
const COLUMNS: &str = "attack                                      queries    refused  malformed  out/in  largest  queue  max. MiB";

fn compact<'a>(contacts: impl Iterator<Item = &'a Contact>) -> Vec<u8> {
    let mut out = Vec::new();
    contacts.for_each(|c| dhtget::wire::compact::write_node(c, &mut out));
    out
}

fn query(id: NodeId, method: Method<'_>) -> Vec<u8> {
    let body = Body::Query(Query { id, want: Want::default(), method });
    let mut out = Vec::new();
    Message { transaction: b"aa", version: None, ip: None, read_only: false, body }.emit(&mut out);
    out
}

/// A table of results, compared where the seed is the one it was written with.
fn check(name: &str, columns: &str, rows: &[String]) {
    let table = format!("{columns}\n{}\n", rows.join("\n"));
    println!("{table}");
    if seed() == 1 {
        insta::assert_snapshot!(name, table);
    }
}
