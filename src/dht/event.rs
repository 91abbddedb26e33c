//! The vocabulary of the DHT machine: what goes in and what comes out.
//!
//! A leaf: every other file of this module may use it, it uses none of them but that other leaf, `traffic`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::traffic::Traffic;
use crate::id::{InfoHash, NodeId};
use crate::wire::compact::Contact;
use crate::wire::item::Item;

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The whole payload.
    pub payload: Vec<u8>,
}

/// Names one search, from its start to its [`Event::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u64);

/// Names one ping that a user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub u64);

/// Something the user of the machine may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Peers that the search had not found before.
    Peers {
        /// The search.
        lookup: LookupId,
        /// Who they are.
        peers: Vec<SocketAddr>,
    },
    /// The search got an answer or gave up on one.
    Progress {
        /// The search.
        lookup: LookupId,
        /// Nodes asked so far.
        asked: u32,
        /// Nodes that answered so far.
        answered: u32,
    },
    /// An item was found, newer than any the search had found before (BEP 44).
    Item {
        /// The search.
        lookup: LookupId,
        /// The item; its hash or signature holds.
        item: Item,
    },
    /// How many peers a torrent has, as the nodes closest to it know (BEP 33).
    Scrape {
        /// The search; its end follows at once.
        lookup: LookupId,
        /// Addresses that have everything.
        seeds: u32,
        /// Addresses that do not.
        leechers: u32,
    },
    /// The search is over; nothing more will come under this id.
    Done {
        /// The search.
        lookup: LookupId,
        /// How it went.
        stats: LookupStats,
        /// The closest nodes that answered, closest first.
        closest: Vec<Contact>,
    },
    /// A ping was answered.
    Pong {
        /// The ping.
        ping: PingId,
        /// Who answered.
        id: NodeId,
        /// How long it took.
        rtt: Duration,
        /// The software, as it calls itself.
        version: Option<[u8; 4]>,
    },
    /// A node has named some of the info-hashes it has peers of (BEP 51).
    Samples {
        /// The question.
        ping: PingId,
        /// Some of them.
        hashes: Vec<InfoHash>,
        /// How many it has.
        num: u64,
        /// For how long it would name the same ones.
        interval: Duration,
        /// Nodes close to the target that was asked about.
        nodes: Vec<Contact>,
    },
    /// A ping was not answered in time.
    PingFailed {
        /// The ping.
        ping: PingId,
    },
}

/// How a search went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupStats {
    /// Steps from the nodes we knew to the farthest one that answered.
    pub hops: u32,
    /// Nodes asked.
    pub asked: u32,
    /// Nodes that answered.
    pub answered: u32,
    /// Queries that went unanswered for longer than answers usually take.
    pub timeouts: u32,
    /// Distinct peers found.
    pub peers: u32,
    /// Nodes that accepted our announce or item.
    pub announced_to: u32,
    /// The last error one of them refused it with, see [`crate::wire::krpc::code`].
    pub refused: Option<i64>,
    /// From start to end.
    pub elapsed: Duration,
}

/// Why the machine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// When a query has gone unanswered for good.
    Query,
    /// When a search should ask someone else or end.
    Lookup,
    /// When the own neighbourhood should be looked up (again).
    Join,
    /// When a table entry is due for a check.
    Upkeep,
    /// When the token secret changes.
    Tokens,
    /// When a member that is not in the table should be tried, or the network looked at again.
    Reach,
}

/// Too much of a kind is going on already; the bound stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the DHT node is busy with as many searches as it allows")]
pub struct Full;

/// What has passed through a node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Queries that strangers sent and we looked at.
    pub queries_in: u64,
    /// Queries we sent.
    pub queries_out: u64,
    /// Replies that matched a query.
    pub replies_in: u64,
    /// Errors that matched a query.
    pub errors_in: u64,
    /// Datagrams that were no message.
    pub malformed: u64,
    /// Queries refused by the rate limit.
    pub limited: u64,
    /// Replies that matched no query.
    pub unmatched: u64,
    /// The same by kind, and bytes.
    pub traffic: Traffic,
}

/// An address the user gave to start from, and how it fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootstrapState {
    /// The address.
    pub addr: SocketAddr,
    /// Whether it is a well-known router, which stays out of the table.
    pub router: bool,
    /// Whether it was ever asked.
    pub asked: bool,
    /// Whether it ever answered.
    pub answered: bool,
}

/// What is worth saving and showing of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The node's id.
    pub id: NodeId,
    /// IPv4 contacts that have answered, most trusted first.
    pub nodes_v4: Vec<Contact>,
    /// IPv6 contacts that have answered, most trusted first.
    pub nodes_v6: Vec<Contact>,
    /// In a private network: members that have answered once, the latest first, in the tables or not.
    pub remembered: Vec<Contact>,
    /// Whether the own neighbourhood was looked up with success.
    pub bootstrapped: bool,
    /// Traffic since the start.
    pub counters: Counters,
    /// The addresses to start from.
    pub bootstrap: Vec<BootstrapState>,
    /// Info-hashes for which peers are stored here.
    pub stored_hashes: usize,
    /// Items stored here.
    pub stored_items: usize,
    /// Our own address as others see it, IPv4 and IPv6 (BEP 42).
    pub external: [Option<IpAddr>; 2],
}

/// What strangers entrusted to a node, with ages, for its next run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Announced peers, the torrents least recently asked for first.
    pub peers: Vec<StoredPeer>,
    /// Items, likewise, and how long ago each was put.
    pub items: Vec<(Item, Duration)>,
}

/// An announced peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPeer {
    /// Of this torrent.
    pub hash: InfoHash,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it has everything.
    pub seed: bool,
    /// How long ago it was announced.
    pub age: Duration,
}
