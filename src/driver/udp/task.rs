//! The loop: wake, one mutation, drain, wait.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;

use super::batch::{self, Batch};
use super::mailbox::Sender;
use super::operator::{AddressWatch, Operator, SleepWatch};
use super::resolve::Resolvers;
use super::seal::Seal;
use super::{DhtStatus, PingError, PingReply, SampleReply, SearchEvent};
use crate::dht::{self, Event, LookupId, PingId};
use crate::driver::listen::{UdpSockets, local_ips};
use crate::driver::state::SavedNodes;
use crate::driver::{bootstrap, clock};
use crate::id::{Id160, InfoHash};
use crate::wire::item::Item;

/// Batches taken from a socket in one turn, so that a flood does not starve timers, wishes and other tasks: about
/// a millisecond's worth.
const BATCHES_A_TURN: usize = 4;
/// Datagrams that wait for room in a socket; beyond that the network drops them, we may too.
const MAX_OUTBOX: usize = 1024;
/// How often searches whose listener has gone are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// What the system says of a datagram that may not be cut up and is too long.
const EMSGSIZE: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();
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
    Operator(Operator),
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

/// What waits for room in a socket: our own questions, then answers to strangers.
type Outbox = [VecDeque<dht::Transmit>; 2];

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
    pub(super) node: dht::Node,
    pub(super) sleep: SleepWatch,
    pub(super) addresses: AddressWatch,
    /// IPv4, IPv6.
    sockets: [Option<UdpSocket>; 2],
    outbox: [Outbox; 2],
    /// Where we can be reached ourselves: a list that names all entry points names us too.
    own: Vec<SocketAddr>,
    /// Of a keyed network: how datagrams are sealed.
    pub(super) seal: Option<Seal>,
    /// What the node tells during one batch, and how much the clock of whoever it heard is ahead; empty between batches.
    events: Vec<(Event, Option<i64>)>,
    inbox: mpsc::Receiver<Command>,
    pub(super) resolvers: Resolvers,
    searches: BTreeMap<LookupId, Sender>,
    pings: BTreeMap<PingId, oneshot::Sender<Result<PingReply, PingError>>>,
    samples: BTreeMap<PingId, oneshot::Sender<Result<SampleReply, PingError>>>,
    pub(super) status: watch::Sender<DhtStatus>,
    status_at: Instant,
    /// Whether something has happened since the status was last compared.
    unpublished: bool,
    sweep_at: Instant,
    batch: Batch,
    /// Rings when the earliest of all deadlines has come; set anew only when that changes.
    alarm: Pin<Box<Sleep>>,
}

impl Task {
    pub(super) fn new(
        node: dht::Node,
        sockets: UdpSockets,
        inbox: mpsc::Receiver<Command>,
        resolvers: Resolvers,
        status: watch::Sender<DhtStatus>,
        seal: Option<Seal>,
    ) -> io::Result<Self> {
        let bound = [&sockets.v4, &sockets.v6].into_iter().flatten().filter_map(|s| s.local_addr().ok());
        let of = |addr: SocketAddr| match addr.ip().is_unspecified() {
            true => local_ips(None).into_iter().map(|ip| SocketAddr::new(ip, addr.port())).collect(),
            false => vec![addr],
        };
        let own = bound.flat_map(of).collect();
        let tokio_socket = |socket: Option<std::net::UdpSocket>| {
            socket.map(|s| s.set_nonblocking(true).and_then(|()| UdpSocket::from_std(s))).transpose()
        };
        let now = clock::now();
        let local = |socket: &std::net::UdpSocket| socket.local_addr().ok().map(|addr| addr.ip());
        let bound: Vec<_> = [&sockets.v4, &sockets.v6].into_iter().flatten().filter_map(local).collect();
        Ok(Self {
            node,
            sleep: SleepWatch::new(now, clock::with_sleep()),
            addresses: AddressWatch::new(now, &bound),
            sockets: [tokio_socket(sockets.v4)?, tokio_socket(sockets.v6)?],
            outbox: Default::default(),
            own,
            seal,
            events: Vec::new(),
            inbox,
            resolvers,
            searches: BTreeMap::new(),
            pings: BTreeMap::new(),
            samples: BTreeMap::new(),
            status,
            status_at: now,
            unpublished: true,
            sweep_at: now + SWEEP,
            batch: Batch::new(),
            alarm: Box::pin(tokio::time::sleep_until(now.into())),
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
                Wake::Network => {
                    if self.receive() {
                        self.drain();
                        // More is waiting, but so may be the other tasks of this thread.
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
            }
            self.drain();
        }
    }

    async fn wake(&mut self) -> Wake {
        let node_at = self.node.poll_timeout().map(|(at, _)| at);
        let sweep_at = (!self.searches.is_empty()).then_some(self.sweep_at);
        let status_at = self.unpublished.then_some(self.status_at);
        let timer = node_at.into_iter().chain(sweep_at).chain(status_at).min();
        let is_due = timer.is_some_and(|at| at <= clock::now());
        if let Some(at) = timer
            && self.alarm.deadline() != at.into()
        {
            self.alarm.as_mut().reset(at.into());
        }
        let [v4, v6] = &self.sockets;
        let blocked = [0, 1].map(|at| !self.outbox[at].iter().all(VecDeque::is_empty));
        tokio::select! {
            biased;
            () = std::future::ready(()), if is_due => Wake::Timer,
            command = self.inbox.recv() => match command {
                None => Wake::Shutdown(None),
                Some(Command::Shutdown(reply)) => Wake::Shutdown(Some(reply)),
                Some(command) => Wake::Command(command),
            },
            () = ready(v4, blocked[0]) => Wake::Network,
            () = ready(v6, blocked[1]) => Wake::Network,
            () = self.alarm.as_mut(), if timer.is_some() => Wake::Timer,
        }
    }

    fn on_timer(&mut self) {
        let now = clock::now();
        self.notice_sleep(now);
        self.notice_move(now);
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
                let wanted = self.status.send_if_modified(|s| {
                    let before = s.unresolved.len();
                    s.unresolved.retain(|n| *n != name);
                    s.unresolved.len() < before
                });
                // The list may have changed while the name was being looked up.
                if !wanted {
                    return;
                }
                let addrs = self.inside(&name, addrs);
                if bootstrap::default_nodes().contains(&name) {
                    self.node.add_routers(now, addrs);
                } else {
                    self.node.add_bootstrap(now, addrs);
                }
            }
            Command::Save(reply) => drop(reply.send(self.saved(now))),
            Command::Snapshot(reply) => drop(reply.send(self.node.snapshot(now))),
            Command::Operator(wish) => self.on_operator(now, wish),
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

    /// Takes a bounded number of batches; true if more may be waiting.
    fn receive(&mut self) -> bool {
        let mut more = [true; 2];
        for _ in 0..BATCHES_A_TURN {
            for (at, more) in more.iter_mut().enumerate().filter(|(_, more)| **more) {
                *more = self.receive_from(at);
                self.flush();
            }
        }
        more.contains(&true)
    }

    fn receive_from(&mut self, at: usize) -> bool {
        let Some(socket) = &self.sockets[at] else { return false };
        let more = self.batch.receive(socket, at == 1).unwrap_or_else(|error| {
            // Such as an ICMP message about an earlier datagram; it concerns nobody here. Another look comes with
            // the next turn, so that an error that stays does not keep us from everything else.
            tracing::trace!(%error, "receiving");
            false
        });
        let now = clock::now();
        if let Some(seal) = &mut self.seal {
            seal.open(&mut self.batch).for_each(|notice| queue(&mut self.outbox, notice, true));
        }
        // Answers to our own questions first, then what strangers want to know.
        for strangers in [false, true] {
            let datagrams = self.batch.datagrams().enumerate();
            for (at, (from, bytes)) in datagrams.filter(|(_, (_, bytes))| is_query(bytes) == strangers) {
                let ahead = match &self.seal {
                    None => None,
                    // It did not open.
                    Some(_) if bytes.is_empty() => continue,
                    Some(seal) => Some(seal.ahead_us(at)),
                };
                tracing::trace!(%from, length = bytes.len(), "datagram");
                self.node.handle_datagram(now, from, bytes);
                hand_on(&mut self.node, &mut self.outbox, &mut self.seal);
                while let Some(event) = self.node.poll_event() {
                    self.events.push((event, ahead));
                }
            }
        }
        for (event, ahead) in std::mem::take(&mut self.events) {
            self.on_event(event, ahead);
        }
        more
    }

    /// Hands on everything the node has to say.
    fn drain(&mut self) {
        self.drain_node();
        // What cannot be sent may lead to other questions; each of them can fail once.
        while self.flush() {
            self.drain_node();
        }
        // Compared only as often as it may be told.
        let now = clock::now();
        self.unpublished = now < self.status_at;
        if !self.unpublished && self.is_status_stale() {
            self.status_at = now + STATUS_EVERY;
            self.publish_status();
        }
    }

    fn drain_node(&mut self) {
        hand_on(&mut self.node, &mut self.outbox, &mut self.seal);
        while let Some(event) = self.node.poll_event() {
            self.on_event(event, None);
        }
    }

    fn on_event(&mut self, event: Event, ahead_us: Option<i64>) {
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
                reply.map(|reply| reply.send(Ok(PingReply { id, rtt, version, ahead_us })));
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

    /// Sends what the sockets take now; the rest waits for them to become writable. True if the node was told of
    /// addresses that cannot be reached.
    fn flush(&mut self) -> bool {
        let mut unreachable = Vec::new();
        for (socket, outbox) in self.sockets.iter().zip(&mut self.outbox) {
            let Some(socket) = socket else {
                outbox.iter_mut().for_each(VecDeque::clear);
                continue;
            };
            while let Some(outbox) = outbox.iter_mut().find(|o| !o.is_empty()) {
                match batch::send(socket, outbox) {
                    Ok(sent) => outbox.drain(..sent).for_each(|t| self.node.recycle(t.payload)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        let Some(transmit) = outbox.pop_front() else { break };
                        tracing::debug!(to = %transmit.to, %error, "cannot send");
                        // No route, no address of that family, too long for the first link. Anything else is a
                        // datagram lost.
                        let too_long = error.raw_os_error() == Some(EMSGSIZE);
                        let nowhere =
                            matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable);
                        if too_long || nowhere {
                            unreachable.push(transmit.to);
                        }
                    }
                }
            }
        }
        let now = clock::now();
        for addr in &unreachable {
            self.node.handle_unreachable(now, *addr);
        }
        !unreachable.is_empty()
    }

    fn is_status_stale(&self) -> bool {
        let (nodes_v4, nodes_v6) = self.node.table_sizes();
        let status = self.status.borrow();
        let unanswering = self.unanswering().count();
        (nodes_v4, nodes_v6) != (status.nodes_v4, status.nodes_v6)
            || self.node.counters() != status.counters
            || self.node.has_joined() != status.bootstrapped
            || self.node.renewals() != status.renewals
            || self.seal.as_ref().is_some_and(|seal| seal.our_clock_us() != status.our_clock_us)
            || unanswering != status.unanswering.len()
    }

    /// Entry points that were asked in vain; we do not answer ourselves.
    fn unanswering(&self) -> impl Iterator<Item = SocketAddr> {
        let silent = self.node.bootstrap().iter().filter(|b| b.asked && !b.answered);
        silent.map(|b| b.addr).filter(|addr| !self.own.contains(addr))
    }

    fn publish_status(&mut self) {
        let (nodes_v4, nodes_v6) = self.node.table_sizes();
        let counters = self.node.counters();
        let unanswering = self.unanswering().collect();
        self.status.send_modify(|status| {
            (status.nodes_v4, status.nodes_v6) = (nodes_v4, nodes_v6);
            status.bootstrapped = self.node.has_joined();
            status.external = self.node.external();
            status.renewals = self.node.renewals();
            status.queries_in = counters.queries_in;
            status.queries_out = counters.queries_out;
            status.counters = counters;
            status.unanswering = unanswering;
            if let Some(seal) = &self.seal {
                (status.sealed, status.our_clock_us) = (Some(seal.counters()), seal.our_clock_us());
            }
        });
    }
}

/// Moves what the node sends to the queues of the sockets, sealed where the network is keyed.
fn hand_on(node: &mut dht::Node, outbox: &mut [Outbox; 2], seal: &mut Option<Seal>) {
    while let Some(mut transmit) = node.poll_transmit() {
        let is_answer = !is_query(&transmit.payload);
        if let Some(seal) = seal {
            seal.seal(&mut transmit.payload);
        }
        queue(outbox, transmit, is_answer);
    }
}

fn queue(outbox: &mut [Outbox; 2], transmit: dht::Transmit, is_answer: bool) {
    let outbox = &mut outbox[usize::from(transmit.to.is_ipv6())][usize::from(is_answer)];
    if outbox.len() < MAX_OUTBOX {
        outbox.push_back(transmit);
    }
}

/// Whether this is a question, told by how nearly all of them end: `y` is the last key (BEP 5, "KRPC
/// Protocol"). Whatever else it may be, it only comes first.
fn is_query(bytes: &[u8]) -> bool {
    bytes.ends_with(b"1:y1:qe")
}

/// Until the socket has something to read, or room to write where something waits.
async fn ready(socket: &Option<UdpSocket>, blocked: bool) {
    let Some(socket) = socket else { return std::future::pending().await };
    let interest = tokio::io::Interest::READABLE;
    let interest = if blocked { interest | tokio::io::Interest::WRITABLE } else { interest };
    // An error of the driver itself shows in the next attempt to receive.
    let _ = socket.ready(interest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While a socket is full, a thousand answers must not keep a question of our own from its place.
    #[test]
    fn own_questions_do_not_wait_behind_answers() {
        let now = clock::now();
        let config = dht::Config { network: dht::Network::Local, ..dht::Config::default() };
        let mut node = dht::Node::new(config, [1; 32], now);
        let mut outbox = [Outbox::default(), Outbox::default()];
        for n in 0..MAX_OUTBOX as u16 + 50 {
            let from = SocketAddr::from(([127, 0, (n >> 8) as u8, n as u8], 6881));
            let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
            node.handle_datagram(now, from, ping);
            hand_on(&mut node, &mut outbox, &mut None);
        }
        assert!(node.ping(now, ([127, 0, 0, 1], 9).into()).is_ok());
        hand_on(&mut node, &mut outbox, &mut None);
        let [own, answers] = &outbox[0];
        assert_eq!(answers.len(), MAX_OUTBOX);
        assert!(own.iter().any(|t| t.to == ([127, 0, 0, 1], 9).into()));
        assert!(own.iter().all(|t| is_query(&t.payload)));
    }
}
