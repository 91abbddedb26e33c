//! A part of the hosts, with all that happens to them alone: what one core works on.
//!
//! Knows of the others only what [`Network`] tells, which stands still while shards run, and leaves what is for
//! other shards' hosts in its outbox. A shard keeps the contract of the machine: one input, then every poll.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use dhtget::dht::config::K;
use dhtget::dht::{Event, LookupId, LookupStats, Node};
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;

use super::evil::Verdict;
use super::host::Host;
use super::network::Network;
use super::queue::{Datagram, Due, Queue};
use super::searches::Wanted;
use super::tally::Tally;
use super::{Malice, micros};

/// The allocator's count, where a test wants one host's memory weighed.
pub type Gauge = fn() -> usize;

/// Datagrams from one shard to another.
#[derive(Debug)]
pub struct Post {
    pub letters: Vec<Datagram>,
    /// When the first of them gets there.
    pub earliest: u64,
}

impl Default for Post {
    fn default() -> Self {
        Self { letters: Vec::new(), earliest: u64::MAX }
    }
}

impl Post {
    /// Takes what is in another box, and leaves it an empty one.
    pub fn receive(&mut self, other: &mut Self) {
        self.earliest = self.earliest.min(other.earliest);
        if self.letters.is_empty() {
            std::mem::swap(&mut self.letters, &mut other.letters);
        } else {
            self.letters.append(&mut other.letters);
        }
        other.earliest = u64::MAX;
    }
}

pub struct Shard {
    /// Which of how many it is: its hosts are those whose number leaves this rest.
    number: u32,
    of: u32,
    hosts: Vec<Host>,
    pub now: u64,
    queue: Queue,
    /// From and to each other shard.
    pub inbox: Vec<Post>,
    pub outbox: Vec<Post>,
    pub tally: Tally,
    pub(super) searches: BTreeMap<(u32, LookupId), Wanted>,
    /// Peers found by searches that a test started itself, and how these ended.
    pub found: BTreeMap<(u32, LookupId), Vec<SocketAddr>>,
    pub done: BTreeMap<(u32, LookupId), (LookupStats, Vec<Contact>)>,
    /// A host whose memory is weighed, by what, and what it holds now.
    pub weighed: Option<(u32, Gauge, isize)>,
}

impl Shard {
    pub fn new(number: usize, of: usize) -> Self {
        let boxes = || (0..of).map(|_| Post::default()).collect();
        Self {
            number: number as u32,
            of: of as u32,
            hosts: Vec::new(),
            now: 0,
            queue: Queue::default(),
            inbox: boxes(),
            outbox: boxes(),
            tally: Tally::default(),
            searches: BTreeMap::new(),
            found: BTreeMap::new(),
            done: BTreeMap::new(),
            weighed: None,
        }
    }

    /// Takes in the host with the next number.
    pub fn add(&mut self, host: Host) {
        self.hosts.push(host);
    }

    pub fn host(&self, host: u32) -> &Host {
        &self.hosts[(host / self.of) as usize]
    }

    pub fn host_mut(&mut self, host: u32) -> &mut Host {
        &mut self.hosts[(host / self.of) as usize]
    }

    // ---- time

    /// When something is due here.
    pub fn next(&self) -> u64 {
        self.inbox.iter().map(|post| post.earliest).fold(self.queue.next(), u64::min)
    }

    /// Lets everything happen that is due before `end`.
    pub fn run(&mut self, network: &Network, end: u64) {
        for post in &mut self.inbox {
            post.letters.drain(..).for_each(|datagram| self.queue.push(datagram));
            post.earliest = u64::MAX;
        }
        while let Some(due) = self.queue.pop_before(end) {
            match due {
                Due::Timer { at, host } => {
                    self.now = at;
                    self.on_timer(network, host);
                }
                Due::Datagram(datagram) => {
                    self.now = datagram.at;
                    self.deliver(network, &datagram);
                }
            }
        }
        self.now = end;
    }

    /// What a host's clock shows.
    pub fn clock(&self, network: &Network, host: u32) -> Instant {
        network.epoch + Duration::from_micros(self.now + self.host(host).ahead)
    }

    // ---- the machines

    fn on_timer(&mut self, network: &Network, host: u32) {
        let now = self.now;
        let h = self.host_mut(host);
        // The queue keeps early entries rather than looking for them; the last one set counts.
        if h.queued != now {
            return;
        }
        h.queued = u64::MAX;
        if h.announces_at <= now {
            self.announce_again(network, host);
        }
        if self.host(host).wake <= now {
            self.with_node(network, host, |node, now| node.handle_timeout(now));
        } else {
            self.set_timer(host);
        }
    }

    /// One input to a node, and then all that it has to say.
    pub fn with_node<T>(
        &mut self,
        network: &Network,
        host: u32,
        input: impl FnOnce(&mut Node, Instant) -> T,
    ) -> Option<T> {
        let now = self.clock(network, host);
        let before = self.weigh(host);
        let out = self.host_mut(host).node.as_deref_mut().map(|node| input(node, now))?;
        self.take_on(host, before);
        self.drain(network, host);
        Some(out)
    }

    /// The allocator's count now, if that host is the one that is weighed.
    pub fn weigh(&self, host: u32) -> isize {
        self.weighed.filter(|w| w.0 == host).map_or(0, |(_, gauge, _)| gauge() as isize)
    }

    /// What has been allocated and freed since that count is the host's.
    pub fn take_on(&mut self, host: u32, before: isize) {
        let after = self.weigh(host);
        if let Some((_, _, held)) = &mut self.weighed {
            *held += after - before;
        }
    }

    /// What has left the node is the world's.
    fn let_go(&mut self, host: u32, bytes: usize) {
        if let Some((_, _, held)) = self.weighed.as_mut().filter(|w| w.0 == host) {
            *held -= bytes as isize;
        }
    }

    pub fn drain(&mut self, network: &Network, host: u32) {
        let at = self.host(host).address;
        while let Some(transmit) = self.host_mut(host).node.as_mut().and_then(|n| n.poll_transmit()) {
            self.let_go(host, transmit.payload.capacity());
            self.send(network, host, at, transmit.to, transmit.payload);
        }
        while let Some(event) = self.host_mut(host).node.as_mut().and_then(|n| n.poll_event()) {
            self.let_go(host, heap_of(&event));
            self.on_event(host, event);
        }
        let now = self.now;
        let h = self.host_mut(host);
        h.wake = h.node.as_ref().and_then(|n| n.poll_timeout()).map_or(u64::MAX, |(at, _)| {
            let after = at.saturating_duration_since(network.epoch + Duration::from_micros(h.ahead));
            // Rounded up: a timer that fires early would fire again.
            (after.as_nanos() as u64).div_ceil(1000).max(now)
        });
        self.set_timer(host);
    }

    pub fn set_timer(&mut self, host: u32) {
        let h = self.host_mut(host);
        let due = h.wake.min(h.announces_at);
        if due < h.queued {
            h.queued = due;
            self.queue.push_timer(due, host);
        }
    }

    // ---- the network

    fn send(&mut self, network: &Network, host: u32, from: SocketAddrV4, to: SocketAddr, payload: Vec<u8>) {
        self.tally.datagrams += 1;
        self.tally.bytes += payload.len() as u64;
        // The world has one family.
        let SocketAddr::V4(to) = to else { return };
        let (now, options) = (self.now, &network.options);
        let h = self.host_mut(host);
        h.sent = h.sent.wrapping_add(1);
        if let Some(nat) = &mut h.nat {
            nat.on_send(now, *to.ip(), micros(options.pinhole));
        }
        if options.loss > 0.0 && h.dice.chance(options.loss) {
            self.tally.lost += 1;
            return;
        }
        let delay = h.access + h.dice.below(micros(options.jitter));
        let count = h.sent;
        let Some(there) = network.resolve(to) else { return self.tally.on_astray(network, to) };
        let at = now + delay + u64::from(there.access);
        self.post(Datagram { at, sender: host, receiver: there.host, count, from, to, payload });
    }

    /// To a host here, or to another shard.
    pub fn post(&mut self, datagram: Datagram) {
        let shard = datagram.receiver % self.of;
        if shard == self.number {
            self.queue.push(datagram);
        } else {
            let post = &mut self.outbox[shard as usize];
            post.earliest = post.earliest.min(datagram.at);
            post.letters.push(datagram);
        }
    }

    fn deliver(&mut self, network: &Network, datagram: &Datagram) {
        let Datagram { sender, receiver: host, from, to, ref payload, .. } = *datagram;
        let now = self.now;
        let h = self.host_mut(host);
        // Gone since it was sent, if not replaced.
        if !h.is_up() || h.address.ip() != to.ip() {
            return;
        }
        let lifetime = micros(network.options.pinhole);
        let shut = h.nat.as_ref().is_some_and(|nat| !nat.admits(now, *from.ip(), lifetime));
        if shut || network.parts(now, sender, host) {
            return;
        }
        h.trace = network.fingerprint(h.trace, datagram);
        let (is_malicious, is_main) = (h.is_malicious, h.address == to);
        if is_malicious && let Some(answer) = self.scheme(network, datagram) {
            let from = SocketAddr::V4(from);
            return answer.into_iter().for_each(|bytes| self.send(network, host, to, from, bytes));
        }
        // Real nodes have one port.
        if is_main {
            self.with_node(network, host, |node, now| node.handle_datagram(now, from.into(), payload));
        }
    }

    /// What a host in the plot does about a datagram: nothing of its own, silence, or an answer.
    fn scheme(&mut self, network: &Network, datagram: &Datagram) -> Option<Option<Vec<u8>>> {
        let (_, kind) = network.options.malice?;
        let host = datagram.receiver;
        let kind = match kind {
            Malice::Mixed => {
                [Malice::Collude, Malice::Invent, Malice::Phantom, Malice::Swallow][host as usize % 4]
            }
            kind => kind,
        };
        let h = self.host_mut(host);
        let me = Contact { id: h.node.as_ref()?.id(), addr: h.addr() };
        let mut rng = Rng::from_u64(h.dice.roll());
        let (at, from) = (datagram.to.into(), datagram.from.into());
        match network.plot.judge(kind, me, at, from, &datagram.payload, &mut rng) {
            Verdict::Honest => None,
            Verdict::Silent => Some(None),
            Verdict::Answer(bytes) => {
                self.tally.poisoned += if let Malice::Poison(_) = kind { K as u64 } else { 0 };
                Some(Some(bytes))
            }
        }
    }
}

/// What an event holds on the heap.
fn heap_of(event: &Event) -> usize {
    match event {
        Event::Peers { peers, .. } => peers.capacity() * size_of::<SocketAddr>(),
        Event::Done { closest, .. } => closest.capacity() * size_of::<Contact>(),
        _ => 0,
    }
}
