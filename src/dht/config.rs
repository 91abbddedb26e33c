//! Every number that bounds or paces the node, each with its reason, and which network it lives in.
//!
//! Must not know any machine. What a user may set is in [`Config`]; what no user should is a constant.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::rules::LookupRules;
use crate::id::NodeId;
use crate::wire::allow::AllowList;
use crate::wire::compact::Contact;
use crate::wire::reach::Reach;

/// Nodes that store a value, and entries of a full bucket far from the root (BEP 5, "Routing Table").
pub const K: usize = 8;
/// Capacity of the buckets nearest the root: with them the table is as dense as a
/// thousand nodes spread evenly would be, so the first hop of a search is nine or ten bits long.
pub const ROOT_BUCKETS: [usize; 4] = [512, 256, 128, 64];
/// Verified spares of one bucket: as many as it can lose between two rounds of upkeep.
pub const REPLACEMENTS: usize = 8;
/// Silence after which an entry is questionable (BEP 5, "Routing Table").
pub const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
/// Unanswered queries after which an entry is bad, with no spare waiting: one lost packet proves nothing.
pub const MAX_FAILURES: u8 = 3;
/// Entries of a bucket beyond which a single failure is enough: those who are left serve, and one who was
/// dropped for a lost packet comes back by himself.
pub const LARGE_BUCKET: usize = 4 * K;
/// What a newcomer is taken to have stayed: a third of all sessions is shorter than half an hour.
pub const DOUBT_BASE: Duration = Duration::from_secs(20 * 60);
/// How much sooner one is checked again that has just failed to answer.
pub const FAILED_DOUBT: f64 = 100.0;
/// How much sooner nodes near our own id are checked: they hold what is stored here, and nobody else knows them
/// all.
pub const NEAR_DOUBT: f64 = 4.0;
/// Checks that are planned ahead, so that the table is looked through once for all of them.
pub const CHECKS_PLANNED: usize = 16;
/// Entries of one /24 (IPv6: /64) in one bucket: one operator must not own it.
pub const MAX_PER_SUBNET: usize = 2;

/// Addresses of one host that a search may have named but not heard: a liar's beside the true one.
pub const UNPROVEN_PER_IP: usize = 3;
/// The same of one /24 (IPv6: /64).
pub const UNPROVEN_PER_SUBNET: usize = 6;
/// Time after which a search ends whatever happens: liars could name each other for ever.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Nodes of one family that an answer may name: eight by the book, twenty where k is larger.
pub const MAX_NODES_NAMED: usize = 20;
/// Peers that one answer may name: what fits a datagram of 1024 bytes, with room for larger ones.
pub const MAX_PEERS_NAMED: usize = 150;
/// Ports of one address among a search's peers: many clients may share it, but nobody shall be dialled without end.
pub const MAX_PORTS_FOUND: usize = 16;
/// Acquaintances that a search which found nobody asks besides: if half of those we know are in a plot, all of these
/// are in 0.4 % of the cases.
pub const WIDER_STARTS: usize = 8;
/// Candidates a search remembers: far more than it can ask before it ends.
pub const MAX_CANDIDATES: usize = 160;
/// Queries of one search in flight: more than the closest living take, with as many dead among them.
pub const SLOTS_MAX: usize = 24;
/// Of the nodes named to a search, answers that are taken for granted before there is any evidence, and
/// silences likewise: half of the mainline network's contacts are dead.
pub const PRIOR: f64 = 2.0;
/// How likely a node of our own table is to answer: all have, and one check each half hour finds most of
/// those who left.
pub const VERIFIED_LIFE: f64 = 0.85;
/// Searches whose reach is remembered, to tell where the next one's end will be: their median is not moved
/// by a few that an attacker lengthened or shortened.
pub const REACHES: usize = 9;
/// How many bits before the one that splits the expected neighbourhood each question aside flips: its other
/// half, then what is beside the whole, each from two nodes at most.
pub const ASIDE_PLAN: [usize; 4] = [0, 1, 0, 1];
/// Questions about other parts of the key space where fewer than [`K`] answered and some are silent: the other
/// half, then a quarter, an eighth and a sixteenth. A network in which these leave something out is no small one.
pub const MAX_BEYOND: usize = 4;
/// Cheapest nodes of the table that a search may start from, beside the closest.
pub const CHEAP_STARTS: usize = 4;
/// Attempts at one candidate when there is nobody else to ask: small networks cannot spare a lost packet.
pub const MAX_ATTEMPTS: u8 = 2;
/// Attempts while nobody has answered at all.
pub const MAX_LONELY_ATTEMPTS: u8 = 5;
/// Times a node that gave a token is told what it was asked for, each time with twice the wait for its word: it
/// was there a moment ago, so it is busy or a datagram was lost, and one copy less is one node less to be found at.
pub const MAX_ANNOUNCE_ATTEMPTS: u32 = 3;
/// How long a search without a single answer stays open for one, or for addresses to ask.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// The same where the other address family has answered: half a network must not hold up the whole.
pub const PATIENCE_OTHER_FAMILY: Duration = Duration::from_secs(3);
/// Tokens longer than this are not kept: nobody issues them.
pub const MAX_TOKEN_LEN: usize = 64;

/// Time after which an answer does not count any more.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Time a user waits for a ping.
pub const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Stall before anything was measured, and the longest there is.
pub const STALL_MAX: Duration = Duration::from_secs(1);
/// The shortest stall: schedulers and busy neighbours hiccup this long.
pub const STALL_MIN: Duration = Duration::from_millis(100);
/// Round trips remembered for the percentile: enough for a 95th, few enough to follow a change.
pub const RTT_SAMPLES: usize = 128;
/// Queries without an answer yet, the silent ones for [`QUERY_TIMEOUT`]: what dozens of searches at once leave behind.
pub const MAX_IN_FLIGHT: usize = 8192;

/// Time between two queries to one address in the long run: less than one a second is what nobody minds.
pub const ASK_EVERY: Duration = Duration::from_millis(1250);
/// Queries to one address at once: what two searches, their questions aside and their announces may want of it.
pub const ASK_BURST: u32 = 8;
/// Addresses of which it is remembered when they were asked: more than are asked within the time that a burst
/// takes to be paid off.
pub const ASKED_ADDRESSES: usize = 2048;

/// Searches by the user at a time: more than a swarm client starts, few enough to pace.
pub const MAX_SEARCHES: usize = 64;
/// Distinct peers one search reports: no client dials more.
pub const MAX_PEERS_FOUND: usize = 4096;
/// User pings in flight.
pub const MAX_PINGS: usize = 64;
/// Datagrams queued between two drains: one mutation makes far fewer.
pub const MAX_TRANSMITS: usize = 2048;
/// Events queued between two drains: likewise.
pub const MAX_EVENTS: usize = 4096;

/// Addresses to start from that are remembered: a public list, resolved, or a private one.
pub const MAX_BOOTSTRAP: usize = 256;
/// Saved contacts that are tried at a start: a full table's worth.
pub const MAX_SAVED: usize = 256;
/// Addresses one search on an empty table starts from.
pub const MAX_SEEDS: usize = 32;
/// Strangers waiting for the ping that decides whether they enter the table.
pub const MAX_UNVERIFIED: usize = 64;
/// Wait before a stranger who asked us is pinged: a NAT's pinhole looks like reachability meanwhile.
pub const VERIFY_DELAY: Duration = Duration::from_secs(30);
/// Upkeep interval: one query each, hence below 0.2 queries a second.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(6);
/// A wake that comes later than this means that the machine slept, or the process was halted.
pub const SLEPT: Duration = Duration::from_secs(60);
/// Searches that have ended and are still shown: as many as fit under each other on a page.
pub const RECENT_SEARCHES: usize = 12;
/// Samples of the network's density that are remembered, 8 nodes each: an error of about 6 percent.
pub const DENSITY_SAMPLES: usize = 32;
/// Upkeep interval while the table is smaller than [`SMALL_TABLE`] and strangers wait.
pub const UPKEEP_FAST: Duration = Duration::from_millis(250);
/// The same in a private network, where nobody is bothered and everyone may have started just now.
pub const UPKEEP_PRIVATE: Duration = Duration::from_millis(5);
/// A private table is filled up to this size at once: who knows everyone finds in one step.
pub const PRIVATE_TABLE: usize = 128;
/// A table of this size serves any search.
pub const SMALL_TABLE: usize = 32;
/// First retry of the search for the own neighbourhood; doubles.
pub const JOIN_RETRY: Duration = Duration::from_secs(1);
/// The same in a private network, where everyone may have started at this very moment.
pub const JOIN_RETRY_PRIVATE: Duration = Duration::from_millis(100);
/// Longest wait between retries while the table is empty.
pub const JOIN_RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest wait while the table is smaller than a bucket: newcomers may have come to a small network.
pub const JOIN_SMALL_MAX: Duration = Duration::from_secs(300);
/// Wait once the doubling has passed [`JOIN_RETRY_MAX`] with a table that serves.
pub const JOIN_EVERY: Duration = Duration::from_secs(30 * 60);

/// Life of a token secret; a token is valid for this long twice at most (BEP 5, "get_peers").
pub const TOKEN_ROTATION: Duration = Duration::from_secs(5 * 60);
/// Time an announced peer is remembered: twice the usual interval between announces.
pub const ANNOUNCE_EXPIRY: Duration = Duration::from_secs(60 * 60);
/// Memory for announced peers, unless the operator says otherwise: about 100,000 of them.
pub const STORE_BYTES: usize = 8 << 20;
/// Peers of one info-hash: a reply holds fewer than 100 of them.
pub const MAX_PEERS_PER_HASH: usize = 1000;
/// Ports of one address announced for one hash: several users behind one NAT, not a crowd made up by one.
pub const MAX_PORTS_PER_ADDRESS: usize = 16;
/// Buffers of sent answers that are kept for the next ones: a few batches' worth.
pub const MAX_SPARE_PAYLOADS: usize = 256;
/// Strangers whose latest question is remembered, so that the next one is not looked into again at once.
pub const NOTED_QUERIERS: usize = 512;
/// How long their further questions are not looked into: nothing that is learned from them changes faster.
pub const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Time for which a swarm that was counted is not counted again (BEP 33).
pub const FILTERS_HOLD: Duration = Duration::from_secs(60);
/// Swarms whose count is remembered: 512 bytes each.
pub const FILTERS_KEPT: usize = 64;
/// Info-hashes in one answer to `sample_infohashes`: they share 1024 B with nodes of both families.
pub const MAX_SAMPLES: usize = 20;
/// Time for which that answer stays the same (BEP 51: 0 to 21,600 s).
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Time an item is kept since it was last put (BEP 44, "Expiration").
pub const ITEM_EXPIRY: Duration = Duration::from_secs(2 * 60 * 60);
/// Part of the memory for strangers' data that items may take; announced peers take the rest.
pub const ITEM_SHARE: f64 = 0.25;
/// Signatures checked each second: each takes about 50 us, so that a flood of items costs a twentieth of a core.
pub const SIGNATURES_PER_SECOND: u32 = 1000;
/// The same for one host: a tenth, so that nobody uses up alone what is there for all.
pub const SIGNATURES_PER_HOST: u32 = 100;
/// Addresses whose word about our own address is remembered (BEP 42).
pub const MAX_VOTES: usize = 64;
/// Strangers who must agree on our address before it is believed; each /24 has one voice.
pub const MIN_VOTES: usize = 5;
/// Strangers who must agree on another one after that: each change costs a new id and a new neighbourhood.
pub const MIN_VOTES_TO_CHANGE: usize = 16;
/// Time an address is believed at least.
pub const ADDRESS_HOLDS: Duration = Duration::from_secs(10 * 60);
/// Payload of a reply: larger ones meet firewalls and the limits of other nodes.
pub const MAX_PAYLOAD: usize = 1024;

/// The same where an item of up to 1000 B is in it (BEP 44): what tunnels carry whole.
pub const MAX_ITEM_PAYLOAD: usize = 1360;

/// Queries per second of one address (IPv6: /64); many nodes may share it behind a NAT.
pub const LIMIT_PER_IP: u32 = 25;
/// Queries per second of one /16 (IPv6: /48).
pub const LIMIT_PER_NET: u32 = 500;
/// Seconds' worth of a limit that may come in one burst.
pub const BURST_SECONDS: u32 = 10;
/// Addresses and networks whose rate is remembered: 48 bytes each.
pub const LIMITER_ENTRIES: usize = 4096;

/// Bytes of answers for each byte of queries that an address gets in the long run: an answer with nodes is about
/// three times its query, and whoever forges his victim's address gains no more than that.
pub const AMPLIFICATION: usize = 3;
/// Bytes beyond that for one address: eight full answers, what a NAT with a few nodes behind it asks at once.
pub const ALLOWANCE_BURST: usize = 8 << 10;
/// How fast they come back: within four minutes.
pub const ALLOWANCE_PER_SECOND: usize = 32;
/// Bytes beyond that for all addresses together: a flood may forge a new one for each query.
pub const ALLOWANCE_BURST_ALL: usize = 256 << 10;
/// How fast they come back: eleven full answers a second.
pub const ALLOWANCE_PER_SECOND_ALL: usize = 8 << 10;

/// Time after which an answer does not count in a private network: whoever is there answers within milliseconds,
/// however busy he is within a second or two, and who is gone should be known to be.
pub const QUERY_TIMEOUT_PRIVATE: Duration = Duration::from_secs(4);
/// Stall before anything was measured there: the first node asked may be a bootstrap machine that has gone.
pub const STALL_PRIVATE: Duration = Duration::from_millis(250);
/// Queries a second of one address there, unless the operator has named a figure: a few hundred members behind one
/// address that all start at once, and about a hundredth of a core for one that is broken.
pub const LIMIT_PER_IP_PRIVATE: u32 = 2000;
/// Strangers there that wait for their ping: a thousand machines may have been switched on together.
pub const MAX_UNVERIFIED_PRIVATE: usize = 512;
/// Members of a private network that are remembered beyond the table: 100 bytes each, and of two halves of any
/// size some dozens of the other one are still there after an hour.
pub const MAX_REMEMBERED: usize = 512;
/// One that has been silent for so long makes room for another.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a new one takes somebody's place while all others are younger than that.
pub const NEWCOMER_LUCK: f64 = 0.25;
/// Silence after which one that answers again was lost, and did not just restart.
pub const LOST_AFTER: Duration = Duration::from_secs(30);
/// Shortest wait between two attempts at one that is remembered and not in the table.
pub const REACH_AGAIN_MIN: Duration = Duration::from_secs(10);
/// It grows with the silence, to this part of it: who has been away for an hour is tried each 36 seconds.
pub const REACH_SHARE: u32 = 100;
/// Longest wait between two attempts.
pub const REACH_AGAIN_MAX: Duration = Duration::from_secs(60 * 60);
/// The same for addresses that the user named.
pub const REACH_AGAIN_NAMED: Duration = Duration::from_secs(30);
/// Wait before one is tried who answers, and has no place in the table.
pub const REACH_ALIVE: Duration = Duration::from_secs(10 * 60);
/// Shortest time between two attempts at anybody: a small datagram a second.
pub const REACH_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody has fallen out of the table.
pub const REACH_LOOK: Duration = Duration::from_secs(10);
/// New or returned members, beside one for each [`RENEW_SHARE`] known, after which the network counts as changed:
/// the own neighbourhood is looked up, and what is shared is announced again.
pub const RENEW_NEWS: usize = 1;
/// See [`RENEW_NEWS`]: a machine that restarts now and then is no such change.
pub const RENEW_SHARE: usize = 32;
/// Shortest time between two such changes.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// `v` of our messages: dhtget, version 0.1.
pub const VERSION: [u8; 4] = *b"dg\x00\x01";

/// The kind of network a node lives in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The internet: one node an address, few a subnet, and private addresses only from nodes that are
    /// private themselves, which begins with what the user named.
    #[default]
    Public,
    /// A loopback, a LAN, a lab: any address that can be sent to.
    Local,
}

/// What strangers may take from a node; the operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries a second of one address.
    pub queries_per_ip: u32,
    /// Queries a second of one /16 (IPv6: /48).
    pub queries_per_net: u32,
    /// Queries a second of everyone together; as many as come, if none.
    pub queries_per_second: Option<u32>,
    /// Bytes of answers a second; as many as it takes, if none.
    pub bytes_per_second: Option<u64>,
    /// Memory for what strangers announce, in bytes.
    pub store_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_per_ip: LIMIT_PER_IP,
            queries_per_net: LIMIT_PER_NET,
            queries_per_second: None,
            bytes_per_second: None,
            store_bytes: STORE_BYTES,
        }
    }
}

/// What the creator of a node decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of an earlier run; random if none.
    pub id: Option<NodeId>,
    /// The kind of network.
    pub network: Network,
    /// Who belongs to it. Nobody else is listened to, asked, believed in, or named to anyone.
    pub allow: AllowList,
    /// Only who holds the network's key can speak to us: the driver drops everything else.
    pub is_sealed: bool,
    /// Whether there is an IPv4 socket.
    pub ipv4: bool,
    /// Whether there is an IPv6 socket.
    pub ipv6: bool,
    /// Ask only, never answer, enter no table (BEP 43).
    pub read_only: bool,
    /// The same while a NAT keeps strangers out: for runs that are over soon, whom nobody should remember.
    pub read_only_behind_nat: bool,
    /// This machine's own addresses, by which a NAT is told.
    pub local_ips: Vec<IpAddr>,
    /// What strangers may take.
    pub limits: Limits,
    /// How a search goes about it.
    pub lookup: LookupRules,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: None,
            network: Network::Public,
            allow: AllowList::default(),
            is_sealed: false,
            ipv4: true,
            ipv6: true,
            read_only: false,
            read_only_behind_nat: false,
            local_ips: Vec::new(),
            limits: Limits::default(),
            lookup: LookupRules::default(),
        }
    }
}

/// Whether a datagram can be sent there at all.
pub fn is_sendable(addr: SocketAddr) -> bool {
    let ip = addr.ip();
    let broken = match ip {
        // 0/8, and from 240/4 on: reserved, and the broadcast address (RFC 6890).
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    addr.port() != 0 && !broken && !ip.is_multicast()
}

/// Whether the address means nothing outside one machine or one site.
pub fn is_private(ip: IpAddr) -> bool {
    Reach::of(ip) < Reach::World
}

/// Whether a socket on this address reaches no other network: loopback, and what is set aside for testing
/// devices in a laboratory (RFC 2544, RFC 5180).
pub fn is_isolated(ip: IpAddr) -> bool {
    Reach::of(ip) == Reach::Isolated
}

impl Config {
    /// Whether a contact at `addr`, named by a node at `source`, may be talked to.
    pub fn accepts(&self, addr: SocketAddr, source: IpAddr) -> bool {
        let family = if addr.is_ipv4() { self.ipv4 } else { self.ipv6 };
        family
            && is_sendable(addr)
            && self.allow.allows(addr.ip())
            && (self.network == Network::Local || !is_private(addr.ip()) || is_private(source))
    }

    /// Whether a node's id follows from its address, or need not: on private networks and addresses (BEP 42).
    pub fn is_bound(&self, contact: &Contact) -> bool {
        !self.wants_diversity(contact.addr.ip()) || contact.id.is_bound_to(contact.addr.ip())
    }

    /// Whether one who asks from there is a member of a private network, rather than a stranger who may have forged
    /// his address.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.network == Network::Local && (is_private(ip) || self.is_sealed || !self.allow.is_everyone())
    }

    /// Ports of one address among a search's peers.
    pub fn ports_found(&self) -> usize {
        match self.network {
            Network::Public => MAX_PORTS_FOUND,
            // Behind one address may be a whole site.
            Network::Local => MAX_PEERS_FOUND,
        }
    }

    /// How long a query of a search or check may take.
    pub fn query_timeout(&self) -> Duration {
        match self.network {
            Network::Public => QUERY_TIMEOUT,
            Network::Local => QUERY_TIMEOUT_PRIVATE,
        }
    }

    /// Whether one operator could pose as many with addresses like this one.
    pub fn wants_diversity(&self, ip: IpAddr) -> bool {
        self.network == Network::Public && !is_private(ip)
    }
}

/// What one operator is taken to own: a /24, or a /64 of IPv6.
pub fn subnet(ip: IpAddr) -> [u8; 8] {
    let mut out = [0; 8];
    match ip {
        IpAddr::V4(v4) => out[..3].copy_from_slice(&v4.octets()[..3]),
        IpAddr::V6(v6) => out.copy_from_slice(&v6.octets()[..8]),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laboratory_is_a_network_of_its_own() {
        let isolated = |text: &str| is_isolated(text.parse().unwrap());
        assert!(["127.0.0.1", "198.18.0.1", "198.19.255.255", "::1", "2001:2::1"].into_iter().all(isolated));
        assert!(
            !["198.17.0.1", "198.20.0.1", "10.0.0.1", "2001:2:1::1", "fd00::1"].into_iter().any(isolated)
        );
        assert!(is_private([198, 18, 0, 1].into()) && is_private([10, 0, 0, 1].into()));
    }

    #[test]
    fn private_addresses_come_only_from_private_nodes() {
        let config = Config::default();
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (lan, world) = (at("192.168.1.1:1"), at("8.8.8.8:1"));
        assert!(!config.accepts(lan, world.ip()));
        assert!(config.accepts(lan, lan.ip()) && config.accepts(world, world.ip()));
        for bad in ["8.8.8.8:0", "0.1.2.3:5", "224.0.0.1:5", "255.255.255.255:5", "[ff02::1]:5", "[::]:5"] {
            assert!(!config.accepts(at(bad), lan.ip()), "{bad}");
        }
        let local = Config { network: Network::Local, ipv6: false, ..Config::default() };
        assert!(local.accepts(at("127.0.0.1:9"), world.ip()) && !local.accepts(at("[::1]:9"), world.ip()));
    }
}
