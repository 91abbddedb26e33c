//! The loop: wake, one mutation, drain, wait.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use super::mailbox::Sender;
use super::{DhtStatus, PingError, PingReply, SampleReply, SearchEvent};
use crate::dht::{self, Event, LookupId, PingId};
use crate::driver::listen::UdpSockets;
use crate::driver::state::SavedNodes;
use crate::driver::{bootstrap, clock};
use crate::id::{Id160, InfoHash};
use crate::wire::item::Item;

/// Datagrams taken in one turn, so that a flood does not starve timers and wishes.
const BUDGET: usize = 64;
/// Datagrams that wait for room in a socket; beyond that the network drops them, we may too.
const MAX_OUTBOX: usize = 1024;
/// The largest datagram that is read whole: nothing honest comes near it.
const MAX_DATAGRAM: usize = 4096;
/// How often searches whose listener has gone are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the status is renewed at most: people read it, and each renewal wakes who waits for it.
const STATUS_EVERY: Duration = Duration::from_millis(50);

/// A wish.
#[derive(Debug)]
pub(super) enum Command {
    Search(InfoHash, SearchKind, Sender),
    Ping(SocketAddr, oneshot::Sender<Result<PingReply, PingError>>),
    Sample(SocketAddr, Id160, oneshot::Sender<Result<SampleReply, PingError>>),
    Contact(SocketAddr),
    Resolved(String, Vec<SocketAddr>),
    Snapshot(oneshot::Sender<dht::Snapshot>),
    Save(oneshot::Sender<SavedNodes>),
    Shutdown(oneshot::Sender<SavedNodes>),
}

/// What a search is to do.
#[derive(Debug)]
pub(super) enum SearchKind {
    GetPeers,
    Announce { port: u16, seed: bool },
    Scrape,
    GetItem { salt: Vec<u8> },
    PutItem { item: Box<Item>, cas: Option<i64> },
}

/// Why the task woke up, in order of priority.
#[derive(Debug)]
enum Wake {
    Shutdown(Option<oneshot::Sender<SavedNodes>>),
    Timer,
    Command(Command),
    Network,
}

/// The owner of a node and its sockets.
pub(super) struct Task {
    node: dht::Node,
    /// IPv4, IPv6.
    sockets: [Option<UdpSocket>; 2],
    outbox: [VecDeque<dht::Transmit>; 2],
    inbox: mpsc::Receiver<Command>,
    searches: BTreeMap<LookupId, Sender>,
    pings: BTreeMap<PingId, oneshot::Sender<Result<PingReply, PingError>>>,
    samples: BTreeMap<PingId, oneshot::Sender<Result<SampleReply, PingError>>>,
    status: watch::Sender<DhtStatus>,
    status_at: Instant,
    sweep_at: Instant,
    buffer: Box<[u8; MAX_DATAGRAM]>,
}

impl Task {
    pub(super) fn new(
        node: dht::Node,
        sockets: UdpSockets,
        inbox: mpsc::Receiver<Command>,
        status: watch::Sender<DhtStatus>,
    ) -> io::Result<Self> {
        let tokio_socket = |socket: Option<std::net::UdpSocket>| {
            socket.map(|s| s.set_nonblocking(true).and_then(|()| UdpSocket::from_std(s))).transpose()
        };
        let now = clock::now();
        Ok(Self {
            node,
            sockets: [tokio_socket(sockets.v4)?, tokio_socket(sockets.v6)?],
            outbox: Default::default(),
            inbox,
            searches: BTreeMap::new(),
            pings: BTreeMap::new(),
            samples: BTreeMap::new(),
            status,
            status_at: now,
            sweep_at: now + SWEEP,
            buffer: Box::new([0; MAX_DATAGRAM]),
        })
    }

    pub(super) async fn run(mut self) {
        self.drain();
        loop {
            match self.wake().await {
                Wake::Shutdown(reply) => {
                    if let Some(reply) = reply {
                        // Whoever asked may have gone meanwhile.
                        let _ = reply.send(self.saved(clock::now()));
                    }
                    return;
                }
                Wake::Timer => self.on_timer(),
                Wake::Command(command) => self.on_command(command),
                Wake::Network => self.receive(),
            }
            self.drain();
        }
    }

    async fn wake(&mut self) -> Wake {
        let node_at = self.node.poll_timeout().map(|(at, _)| at);
        let sweep_at = (!self.searches.is_empty()).then_some(self.sweep_at);
        let status_at = self.is_status_stale().then_some(self.status_at);
        let timer = node_at.into_iter().chain(sweep_at).chain(status_at).min();
        let [v4, v6] = &self.sockets;
        let blocked = [!self.outbox[0].is_empty(), !self.outbox[1].is_empty()];
        tokio::select! {
            biased;
            () = sleep_until(timer), if timer.is_some_and(|at| at <= clock::now()) => Wake::Timer,
            command = self.inbox.recv() => match command {
                None => Wake::Shutdown(None),
                Some(Command::Shutdown(reply)) => Wake::Shutdown(Some(reply)),
                Some(command) => Wake::Command(command),
            },
            () = ready(v4, blocked[0]) => Wake::Network,
            () = ready(v6, blocked[1]) => Wake::Network,
            () = sleep_until(timer) => Wake::Timer,
        }
    }

    fn on_timer(&mut self) {
        let now = clock::now();
        if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.node.handle_timeout(now);
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP;
            let gone: Vec<_> =
                self.searches.iter().filter(|(_, s)| s.is_abandoned()).map(|(id, _)| *id).collect();
            for id in gone {
                self.searches.remove(&id);
                self.node.cancel(id);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Search(hash, kind, sender) => match self.start(now, hash, kind) {
                Ok(id) => drop(self.searches.insert(id, sender)),
                Err(full) => tracing::debug!(%hash, "search not started: {full}"),
            },
            Command::Ping(addr, reply) => match self.node.ping(now, addr) {
                Ok(ping) => drop(self.pings.insert(ping, reply)),
                Err(_) => drop(reply.send(Err(PingError::Busy))),
            },
            Command::Sample(addr, target, reply) => match self.node.sample_infohashes(now, addr, target) {
                Ok(ping) => drop(self.samples.insert(ping, reply)),
                Err(_) => drop(reply.send(Err(PingError::Busy))),
            },
            Command::Contact(addr) => self.node.add_contact(now, addr),
            Command::Resolved(name, addrs) => {
                tracing::debug!(%name, count = addrs.len(), "a node to start from has resolved");
                self.status.send_if_modified(|s| {
                    s.unresolved.retain(|n| *n != name);
                    true
                });
                if bootstrap::default_nodes().contains(&name) {
                    self.node.add_routers(now, addrs);
                } else {
                    self.node.add_bootstrap(now, addrs);
                }
            }
            Command::Save(reply) => drop(reply.send(self.saved(now))),
            Command::Snapshot(reply) => drop(reply.send(self.node.snapshot(now))),
            Command::Shutdown(_) => {}
        }
    }

    fn saved(&self, now: Instant) -> SavedNodes {
        SavedNodes::new(self.node.snapshot(now), self.node.stored(now))
    }

    fn start(&mut self, now: Instant, target: Id160, kind: SearchKind) -> Result<LookupId, dht::Full> {
        match kind {
            SearchKind::GetPeers => self.node.get_peers(now, target),
            SearchKind::Announce { port, seed: false } => self.node.announce(now, target, port),
            SearchKind::Announce { port, seed: true } => self.node.announce_seed(now, target, port),
            SearchKind::Scrape => self.node.scrape(now, target),
            SearchKind::GetItem { salt } => self.node.get_item(now, target, &salt),
            // The handle has checked it already.
            SearchKind::PutItem { item, cas } => {
                self.node.put_item(now, *item, cas).unwrap_or(Err(dht::Full))
            }
        }
    }

    fn receive(&mut self) {
        for at in 0..2 {
            for _ in 0..BUDGET {
                let Some(socket) = &self.sockets[at] else { break };
                match socket.try_recv_from(&mut self.buffer[..]) {
                    Ok((length, from)) => {
                        tracing::trace!(%from, length, "datagram");
                        self.node.handle_datagram(clock::now(), from, &self.buffer[..length]);
                        self.drain_node();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Such as an ICMP message about an earlier datagram; it concerns nobody here.
                    Err(error) => tracing::trace!(%error, "receiving"),
                }
            }
        }
    }

    /// Hands on everything the node has to say.
    fn drain(&mut self) {
        self.drain_node();
        self.flush();
        let now = clock::now();
        if self.is_status_stale() && now >= self.status_at {
            self.status_at = now + STATUS_EVERY;
            self.publish_status();
        }
    }

    fn drain_node(&mut self) {
        while let Some(transmit) = self.node.poll_transmit() {
            let outbox = &mut self.outbox[usize::from(transmit.to.is_ipv6())];
            if outbox.len() < MAX_OUTBOX {
                outbox.push_back(transmit);
            }
        }
        while let Some(event) = self.node.poll_event() {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Peers { lookup, peers } => self.tell(lookup, SearchEvent::Peers(peers)),
            Event::Progress { lookup, asked, answered } => {
                self.tell(lookup, SearchEvent::Progress { asked, answered });
            }
            Event::Item { lookup, item } => self.tell(lookup, SearchEvent::Item(item)),
            Event::Scrape { lookup, seeds, leechers } => {
                self.tell(lookup, SearchEvent::Scrape { seeds, leechers });
            }
            Event::Samples { ping, hashes, num, interval, nodes } => {
                let reply = self.samples.remove(&ping);
                reply.map(|reply| reply.send(Ok(SampleReply { hashes, num, interval, nodes })));
            }
            Event::Done { lookup, stats, .. } => {
                self.tell(lookup, SearchEvent::Done(stats));
                self.searches.remove(&lookup);
            }
            Event::Pong { ping, id, rtt, version } => {
                let reply = self.pings.remove(&ping);
                reply.map(|reply| reply.send(Ok(PingReply { id, rtt, version })));
            }
            Event::PingFailed { ping } => {
                let reply = self.pings.remove(&ping);
                reply.map(|reply| reply.send(Err(PingError::Timeout)));
                let reply = self.samples.remove(&ping);
                reply.map(|reply| reply.send(Err(PingError::Timeout)));
            }
        }
    }

    fn tell(&mut self, lookup: LookupId, event: SearchEvent) {
        if let Some(sender) = self.searches.get(&lookup) {
            sender.send(event);
        }
    }

    /// Sends what the sockets take now; the rest waits for them to become writable.
    fn flush(&mut self) {
        let mut unreachable = Vec::new();
        for (socket, outbox) in self.sockets.iter().zip(&mut self.outbox) {
            let Some(socket) = socket else {
                outbox.clear();
                continue;
            };
            while let Some(transmit) = outbox.front() {
                match socket.try_send_to(&transmit.payload, transmit.to) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::debug!(to = %transmit.to, %error, "cannot send");
                        // No route, no address of that family. Anything else is a datagram lost.
                        if matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable) {
                            unreachable.push(transmit.to);
                        }
                    }
                    Ok(_) => {}
                }
                outbox.pop_front();
            }
        }
        let now = clock::now();
        for addr in unreachable {
            self.node.handle_unreachable(now, addr);
        }
    }

    fn is_status_stale(&self) -> bool {
        let (nodes_v4, nodes_v6) = self.node.table_sizes();
        let status = self.status.borrow();
        let unanswering = self.node.bootstrap().iter().filter(|b| b.asked && !b.answered).count();
        (nodes_v4, nodes_v6) != (status.nodes_v4, status.nodes_v6)
            || self.node.counters() != status.counters
            || self.node.has_joined() != status.bootstrapped
            || unanswering != status.unanswering.len()
    }

    fn publish_status(&mut self) {
        let (nodes_v4, nodes_v6) = self.node.table_sizes();
        let counters = self.node.counters();
        let silent = self.node.bootstrap().iter().filter(|b| b.asked && !b.answered);
        let unanswering = silent.map(|b| b.addr).collect();
        self.status.send_modify(|status| {
            (status.nodes_v4, status.nodes_v6) = (nodes_v4, nodes_v6);
            status.bootstrapped = self.node.has_joined();
            status.queries_in = counters.queries_in;
            status.queries_out = counters.queries_out;
            status.counters = counters;
            status.unanswering = unanswering;
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Until the socket has something to read, or room to write where something waits.
async fn ready(socket: &Option<UdpSocket>, blocked: bool) {
    let Some(socket) = socket else { return std::future::pending().await };
    let interest = tokio::io::Interest::READABLE;
    let interest = if blocked { interest | tokio::io::Interest::WRITABLE } else { interest };
    // An error of the driver itself shows in the next attempt to receive.
    let _ = socket.ready(interest).await;
}
