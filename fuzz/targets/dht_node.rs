//! A DHT node among strangers: each step is a datagram, a wish of the user, an answer to one of the
//! node's own queries, or the passing of time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dhtget::dht::config::{MAX_EVENTS, MAX_PAYLOAD, MAX_TRANSMITS, is_sendable};
use dhtget::dht::{Config, Event, Network, Node};
use dhtget::id::Id160;
use dhtget::wire::compact::{Contact, canonical};
use dhtget::wire::krpc::{
    Body, ErrorBody, Filters, Message, Method, Put, Query, Reply, Samples, Signed, Want,
};

use super::script::{Script, Trace};

/// Steps of one script; more add nothing but time.
const MAX_STEPS: usize = 400;
/// What one table can hold: its wide first buckets and eight in each other one.
const MAX_TABLE: usize = 128 + 64 + 32 + 16 + 156 * 8;
/// Queries of the node that a script may still answer.
const MAX_OPEN: usize = 64;
/// A reply without peers, as long as it can be, and what stands round an echoed transaction id.
const REPLY_ROOM: usize = 760;

struct World {
    node: Node,
    read_only: bool,
    now: Instant,
    start: Instant,
    /// Queries of the node: to whom, and the transaction.
    open: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The last token that the node gave, and to whom.
    token: Option<(SocketAddr, Vec<u8>)>,
    trace: Trace,
}

pub fn run(data: &[u8]) -> u64 {
    let mut script = Script::new(data);
    let flags = script.u8();
    let start = Instant::now();
    let config = Config {
        id: (flags & 1 == 1).then_some(Id160([7; 20])),
        network: if flags & 2 == 2 { Network::Local } else { Network::Public },
        ipv4: true,
        ipv6: flags & 4 == 4,
        read_only: flags & 24 == 24,
        ..Config::default()
    };
    let read_only = config.read_only;
    let node = Node::new(config, [flags; 32], start);
    let open = VecDeque::new();
    let mut world = World { node, read_only, now: start, start, open, token: None, trace: Trace::default() };
    for _ in 0..MAX_STEPS {
        if script.is_over() {
            break;
        }
        world.step(&mut script);
    }
    // What remains must come to its end when nobody answers any more.
    for _ in 0..40 {
        world.pass(Duration::from_secs(5));
    }
    world.trace.note(world.node.table_sizes());
    world.trace.finish()
}

impl World {
    fn step(&mut self, script: &mut Script<'_>) {
        let mut received = 0;
        let now = self.now;
        match script.u8() % 12 {
            0 => {
                let (from, bytes) = (script.addr(), script.slice(4));
                received = bytes.len();
                self.node.handle_datagram(now, from, bytes);
            }
            1 | 2 => {
                let (from, bytes) = self.query(script);
                received = bytes.len();
                self.node.handle_datagram(now, from, &bytes);
            }
            3..=5 => {
                if let Some((from, bytes)) = self.answer(script) {
                    received = bytes.len();
                    self.node.handle_datagram(now, from, &bytes);
                }
            }
            6 => return self.pass(Duration::from_millis(u64::from(script.u16()))),
            7 => return self.pass(Duration::from_secs(u64::from(script.u8()) * 8)),
            8 => self.wish(script),
            9 => {
                let addrs: Vec<_> = (0..script.u8() % 8).map(|_| script.addr()).collect();
                if script.flag() {
                    self.node.add_routers(now, addrs);
                } else {
                    self.node.add_bootstrap(now, addrs);
                }
            }
            10 => {
                let contact = Contact { id: Id160(script.id()), addr: script.addr() };
                if script.flag() {
                    self.node.add_saved(now, [contact]);
                } else {
                    self.node.add_contact(now, contact.addr);
                }
            }
            _ => self.look(),
        }
        self.drain(received);
    }

    fn wish(&mut self, script: &mut Script<'_>) {
        let (now, id) = (self.now, Id160(script.id()));
        let done = match script.u8() % 8 {
            0 => self.node.get_peers(now, id).map(|l| l.0),
            1 => self.node.announce(now, id, script.u16()).map(|l| l.0),
            2 => self.node.find_node(now, id).map(|l| l.0),
            3 => self.node.ping(now, script.addr()).map(|p| p.0),
            4 => self.node.scrape(now, id).map(|l| l.0),
            5 => self.node.get_item(now, id, script.slice(1)).map(|l| l.0),
            6 => self.node.sample_infohashes(now, script.addr(), id).map(|p| p.0),
            _ => {
                self.node.cancel(dhtget::dht::LookupId(script.u8().into()));
                Ok(0)
            }
        };
        self.trace.note(done.ok());
    }

    /// A well-formed query, sometimes with the token that the node gave.
    fn query(&mut self, script: &mut Script<'_>) -> (SocketAddr, Vec<u8>) {
        let (mut from, id, target) = (script.addr(), Id160(script.id()), Id160(script.id()));
        let (kind, tid) = (script.u8(), script.slice(1));
        let given = self.token.clone().unwrap_or((from, script.slice(1).to_vec()));
        let method = match kind % 6 {
            0 => Method::Ping,
            1 => Method::FindNode { target },
            2 => Method::GetPeers { info_hash: target, scrape: kind & 64 == 64, no_seeds: kind & 128 == 128 },
            3 | 4 => {
                from = given.0;
                let (port, implied_port) = (script.u16(), script.flag());
                let (info_hash, seed, token) = (target, kind & 64 == 64, given.1.as_slice());
                Method::AnnouncePeer { info_hash, port, implied_port, seed, token }
            }
            _ if kind & 192 == 0 => Method::Other { name: b"vote", target: script.flag().then_some(target) },
            _ if kind & 192 == 64 => Method::SampleInfohashes { target },
            _ if kind & 192 == 128 => Method::Get { target, seq: script.flag().then_some(4) },
            _ => {
                from = given.0;
                let signed = script.flag().then_some(Signed { key: &[7; 32], seq: 4, signature: &[7; 64] });
                let (cas, salt) = (script.flag().then_some(3), script.slice(1));
                Method::Put(Put { token: &given.1, value: b"12:Hello World!", signed, cas, salt })
            }
        };
        let want = Want { v4: kind & 8 == 8, v6: kind & 16 == 16 };
        let body = Body::Query(Query { id, want, method });
        let message = Message { transaction: tid, version: None, ip: None, read_only: kind & 32 == 32, body };
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        (from, bytes)
    }

    /// A well-formed answer to a query of the node.
    fn answer(&mut self, script: &mut Script<'_>) -> Option<(SocketAddr, Vec<u8>)> {
        if self.open.is_empty() {
            return None;
        }
        let at = script.index(self.open.len());
        let (from, tid) = self.open.remove(at)?;
        let (id, kind) = (Id160(script.id()), script.u8());
        let body = if kind & 15 == 15 {
            Body::Error(ErrorBody { code: 201, text: b"no" })
        } else {
            let nodes = if kind & 1 == 1 { script.slice(26) } else { &[] };
            let nodes6 = if kind & 2 == 2 { script.slice(38) } else { &[] };
            let token = (kind & 4 == 4).then(|| script.slice(1));
            let values: &[u8] =
                if kind & 8 == 8 { b"l6:\x08\x08\x08\x08\x1a\xe16:\x7f\0\0\x01\0\0e" } else { &[] };
            let value: &[u8] = if kind & 16 == 16 { b"12:Hello World!" } else { &[] };
            let samples = (kind & 32 == 32).then_some(Samples { interval: -1, num: i64::MAX, hashes: nodes });
            let filters = (kind & 64 == 64).then_some(Filters { seeds: &[7; 256], peers: &[255; 256] });
            Body::Reply(Reply {
                id,
                nodes,
                nodes6,
                token,
                values,
                value,
                samples,
                filters,
                ..Reply::default()
            })
        };
        let message = Message { transaction: &tid, version: None, ip: None, read_only: false, body };
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        Some((from, bytes))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for turn in 0.. {
            self.node.handle_timeout(self.now);
            self.drain(0);
            match self.node.poll_timeout() {
                Some((at, reason)) if at <= self.now => assert!(turn < 64, "{reason:?} is due for ever"),
                _ => break,
            }
        }
    }

    fn look(&mut self) {
        let snapshot = self.node.snapshot(self.now);
        for contact in snapshot.nodes_v4.iter().chain(&snapshot.nodes_v6) {
            assert!(is_sendable(contact.addr) && contact.id != self.node.id());
            assert_eq!(contact.addr, canonical(contact.addr));
        }
        self.trace.note((snapshot.nodes_v4.len(), snapshot.nodes_v6.len(), snapshot.stored_hashes));
    }

    /// Takes what the node has to say and checks it. `received` is the length of the datagram behind it.
    fn drain(&mut self, received: usize) {
        let mut count = 0;
        while let Some(transmit) = self.node.poll_transmit() {
            count += 1;
            assert!(is_sendable(transmit.to), "a datagram to {}", transmit.to);
            assert!(transmit.payload.len() <= MAX_PAYLOAD.max(received + REPLY_ROOM));
            let message = Message::parse(&transmit.payload).expect("the node sends what it reads itself");
            let is_query = matches!(message.body, Body::Query(_));
            assert!(is_query || !self.read_only, "a read-only node has answered");
            assert_eq!(message.read_only, is_query && self.read_only);
            if is_query && self.open.len() < MAX_OPEN {
                self.open.push_back((transmit.to, message.transaction.to_vec()));
            }
            if let Body::Reply(Reply { token: Some(token), .. }) = message.body {
                self.token = Some((transmit.to, token.to_vec()));
            }
            self.trace.note(&transmit.payload);
        }
        assert!(count < MAX_TRANSMITS, "datagrams were dropped");
        let mut events = 0;
        while let Some(event) = self.node.poll_event() {
            events += 1;
            if let Event::Peers { peers, .. } = &event {
                assert!(!peers.is_empty() && peers.iter().all(|p| is_sendable(*p)));
            }
            if let Event::Done { closest, .. } = &event {
                assert!(closest.len() <= 16 && closest.iter().all(|c| is_sendable(c.addr)));
            }
            self.trace.note(std::mem::discriminant(&event));
        }
        assert!(events < MAX_EVENTS, "events were dropped");
        let (v4, v6) = self.node.table_sizes();
        assert!(v4 <= MAX_TABLE && v6 <= MAX_TABLE);
        let due = self.node.poll_timeout().map(|(at, _)| at.saturating_duration_since(self.start));
        self.trace.note(due);
    }
}
