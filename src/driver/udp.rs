//! The task that runs one [`dht::Node`] on its UDP sockets, and the handle to it.
//!
//! Owns the node, the sockets and the wake-up order. Must not decide anything that the node could: it
//! carries datagrams, time and wishes in, and datagrams and events out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock;
use super::listen::UdpSockets;
use super::state::SavedNodes;
use crate::dht::{self, Counters, LookupStats};
use crate::id::{Id160, InfoHash, NodeId};
use crate::network::Keys;
pub use crate::network::seal::SealCounters;
use crate::wire::compact::Contact;
use crate::wire::item::{Item, ItemError};

mod batch;
mod mailbox;
mod operator;
mod resolve;
mod seal;
mod srv;
mod task;

use self::mailbox::Mailbox;
pub(super) use self::operator::SleepWatch;
use self::resolve::Resolvers;
pub use self::resolve::look_up;
use self::seal::Seal;
pub use self::seal::apart;
use self::task::{Command, SearchKind, Task};

/// Wishes waiting for the task: it takes them all in each turn.
const MAX_COMMANDS: usize = 256;

/// A running DHT node. Cheap to clone; the node ends with its last handle.
#[derive(Clone, Debug)]
pub struct Dht {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<DhtStatus>,
}

/// How the node fares, for a person to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhtStatus {
    /// Entries of the IPv4 table.
    pub nodes_v4: usize,
    /// Entries of the IPv6 table.
    pub nodes_v6: usize,
    /// Whether the own neighbourhood was looked up with success.
    pub bootstrapped: bool,
    /// Our own address as others see it, IPv4 and IPv6 (BEP 42).
    pub external: [Option<IpAddr>; 2],
    /// Queries that strangers sent.
    pub queries_in: u64,
    /// Queries we sent.
    pub queries_out: u64,
    /// How often the network round this node has changed so much that what is shared is announced again.
    pub renewals: u64,
    /// All counters.
    pub counters: Counters,
    /// Names to start from that are being resolved or have failed so far.
    pub unresolved: Vec<String>,
    /// Addresses to start from that were asked and have not answered (yet).
    pub unanswering: Vec<SocketAddr>,
    /// Entries that are no address at all, with the reason.
    pub bad_bootstrap: Vec<String>,
    /// What became of sealed datagrams, in a keyed network.
    pub sealed: Option<SealCounters>,
    /// A member has told us that its clock is so much ahead of ours, in microseconds: too much for us to be heard.
    pub our_clock_us: Option<i64>,
}

impl DhtStatus {
    /// What members said of this machine's clock, in words.
    pub fn clock_trouble(&self) -> Option<String> {
        let ahead_us = self.our_clock_us?;
        Some(format!(
            "this machine's clock is wrong: a member's is {} it, so that nobody listens",
            apart(ahead_us)
        ))
    }

    /// How many datagrams came that the network's key does not open, while not one did.
    pub fn foreign_only(&self) -> Option<u64> {
        self.sealed.filter(|sealed| sealed.opened == 0 && sealed.foreign > 0).map(|sealed| sealed.foreign)
    }
}

/// What a pinged node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingReply {
    /// Its id.
    pub id: NodeId,
    /// How long it took.
    pub rtt: Duration,
    /// Its software, as it calls itself.
    pub version: Option<[u8; 4]>,
    /// How much its clock is ahead of ours, in microseconds, less the time that its word took; only members of a keyed
    /// network tell.
    pub ahead_us: Option<i64>,
}

/// Why a ping brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// No answer in time.
    #[error("no answer within 5 seconds")]
    Timeout,
    /// Too many pings at once.
    #[error("too many pings at once")]
    Busy,
    /// The node has ended.
    #[error("the DHT node has stopped")]
    Stopped,
}

/// What a search tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchEvent {
    /// Peers not told before.
    Peers(Vec<SocketAddr>),
    /// An item, newer than any told before (BEP 44).
    Item(Item),
    /// How many addresses share a torrent (BEP 33).
    Scrape {
        /// Those that have everything.
        seeds: u32,
        /// Those that do not.
        leechers: u32,
    },
    /// The search goes on.
    Progress {
        /// Nodes asked so far.
        asked: u32,
        /// Nodes that answered so far.
        answered: u32,
    },
    /// The search is over; nothing follows.
    Done(LookupStats),
}

/// What a node has peers of (BEP 51).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleReply {
    /// Some of its info-hashes.
    pub hashes: Vec<InfoHash>,
    /// How many it has.
    pub num: u64,
    /// For how long it would name the same ones.
    pub interval: Duration,
    /// Nodes close to the target that was asked about.
    pub nodes: Vec<Contact>,
}

/// A search under way; dropping it ends it.
#[derive(Debug)]
pub struct PeerSearch {
    mailbox: Mailbox,
}

impl PeerSearch {
    /// What came next; nothing after [`SearchEvent::Done`], or when the node has stopped.
    pub async fn next(&mut self) -> Option<SearchEvent> {
        self.mailbox.next().await
    }
}

impl Dht {
    /// Starts a node on these sockets, within a tokio runtime. Addresses to start from are used at once,
    /// names as soon as they resolve.
    pub fn spawn(
        config: dht::Config,
        sockets: UdpSockets,
        seed: [u8; 32],
        saved: Option<SavedNodes>,
        bootstrap: Vec<String>,
    ) -> io::Result<Dht> {
        Self::spawn_sealed(config, sockets, seed, saved, bootstrap, None)
    }

    /// The same in a keyed network, whose members seal what they say.
    pub fn spawn_sealed(
        mut config: dht::Config,
        sockets: UdpSockets,
        seed: [u8; 32],
        saved: Option<SavedNodes>,
        bootstrap: Vec<String>,
        keys: Option<Keys>,
    ) -> io::Result<Dht> {
        config.is_sealed |= keys.is_some();
        config.ipv4 = sockets.v4.is_some();
        config.ipv6 = sockets.v6.is_some();
        // A socket on loopback or in a laboratory's range reaches no other network, whatever the configuration says.
        let locals = [&sockets.v4, &sockets.v6].into_iter().flatten();
        if locals.filter_map(|s| s.local_addr().ok()).all(|addr| dht::config::is_isolated(addr.ip())) {
            config.network = dht::Network::Local;
        }
        if let Some(saved) = &saved {
            config.id.get_or_insert(saved.id);
        }
        let now = clock::now();
        let mut list = resolve::sort_out(bootstrap);
        list.keep_out(&config.allow);
        let mut node = dht::Node::new(config, seed, now);
        node.add_bootstrap(now, list.addrs);
        if let Some(saved) = saved {
            node.add_saved(now, saved.contacts);
            node.restore(now, saved.stored);
        }
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let first = DhtStatus { unresolved: list.names, bad_bootstrap: list.bad, ..DhtStatus::default() };
        let mut resolvers = Resolvers::new(commands.downgrade());
        resolvers.want(&first.unresolved);
        let (status_out, status) = watch::channel(first);
        let seal = match keys {
            None => None,
            Some(keys) => Some(Seal::new(keys, clock::entropy_seed()?)),
        };
        let task = Task::new(node, sockets, inbox, resolvers, status_out, seal)?;
        tokio::spawn(task.run());
        Ok(Dht { commands, status })
    }

    /// Searches for peers of a torrent.
    pub fn get_peers(&self, hash: InfoHash) -> PeerSearch {
        self.search(hash, SearchKind::GetPeers)
    }

    /// Searches for peers of a torrent, then announces that one listens at `port`, and whether it has
    /// everything.
    pub fn get_peers_and_announce(&self, hash: InfoHash, port: u16, seed: bool) -> PeerSearch {
        self.search(hash, SearchKind::Announce { port, seed })
    }

    /// Counts the peers of a torrent (BEP 33).
    pub fn scrape(&self, hash: InfoHash) -> PeerSearch {
        self.search(hash, SearchKind::Scrape)
    }

    /// Searches for an item (BEP 44). Of a mutable one, the salt must be known.
    pub fn get_item(&self, target: Id160, salt: &[u8]) -> PeerSearch {
        self.search(target, SearchKind::GetItem { salt: salt.to_vec() })
    }

    /// Puts an item on the nodes closest to its target (BEP 44); with `cas`, only in place of that version.
    pub fn put_item(&self, item: Item, cas: Option<i64>) -> Result<PeerSearch, ItemError> {
        item.check()?;
        Ok(self.search(item.target(), SearchKind::PutItem { item: Box::new(item), cas }))
    }

    /// Asks one node which torrents it has peers of (BEP 51).
    pub async fn sample_infohashes(&self, addr: SocketAddr, target: Id160) -> Result<SampleReply, PingError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Sample(addr, target, reply)).await;
        sent.map_err(|_| PingError::Stopped)?;
        answer.await.unwrap_or(Err(PingError::Stopped))
    }

    fn search(&self, hash: InfoHash, kind: SearchKind) -> PeerSearch {
        let (sender, mailbox) = mailbox::pair();
        // A full inbox drops the sender, and the search ends before it began.
        if self.commands.try_send(Command::Search(hash, kind, sender)).is_err() {
            tracing::debug!(%hash, "search not started: the DHT node is busy or has stopped");
        }
        PeerSearch { mailbox }
    }

    /// Asks one node whether it is there.
    pub async fn ping(&self, addr: SocketAddr) -> Result<PingReply, PingError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Ping(addr, reply)).await;
        sent.map_err(|_| PingError::Stopped)?;
        answer.await.unwrap_or(Err(PingError::Stopped))
    }

    /// Tries an address at which a node may be, such as a peer's. A busy node ignores the hint.
    pub fn add_contact(&self, addr: SocketAddr) {
        let _ = self.commands.try_send(Command::Contact(addr));
    }

    /// How the node fares, now and from now on.
    pub fn status(&self) -> watch::Receiver<DhtStatus> {
        self.status.clone()
    }

    /// What persists and what is worth showing; empty when the node has stopped.
    pub async fn snapshot(&self) -> dht::Snapshot {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Snapshot(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// What to save for the next run; nothing if nobody ever answered, so that an earlier run's contacts are
    /// not overwritten with none.
    pub async fn saved(&self) -> Option<SavedNodes> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Save(reply)).await;
        answer.await.ok().filter(|saved| !saved.is_empty())
    }

    /// Ends the node, whatever handles there are, and returns what to save, as [`Dht::saved`] does.
    pub async fn shutdown(&self) -> Option<SavedNodes> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Shutdown(reply)).await;
        answer.await.ok().filter(|saved| !saved.is_empty())
    }
}
