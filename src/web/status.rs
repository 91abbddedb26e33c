//! The figures of a node as JSON: what the page draws and `dhtget node status` prints.
//!
//! Owns names and units (seconds, milliseconds, bytes, shares of the key space from 0 to 1). Written by one
//! program and read by another, perhaps of another version: unknown fields are ignored, absent ones empty.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dht::event::BootstrapState;
use crate::dht::traffic::{ERROR_CODES, Kind, Refusal};
use crate::dht::{Evidence, FamilyReport, Report, SearchReport};
use crate::driver::DhtStatus;
use crate::id::Id160;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// The node's, 40 hex digits.
    pub id: String,
    /// Where the id stands in the key space.
    pub position: f64,
    /// Where it listens, UDP and TCP.
    pub port: u16,
    /// Since its start.
    pub uptime_s: f64,
    /// Whether it knows anybody.
    pub health: Health,
    /// Whether it only asks, and answers nobody (BEP 43).
    pub read_only: bool,
    /// The tables, `IPv4` and `IPv6`, each where there is a socket of it.
    pub families: Vec<Family>,
    /// Under way.
    pub searches: Vec<Search>,
    /// That have ended, the latest first.
    pub recent_searches: Vec<Search>,
    /// Counters since the start.
    pub traffic: TrafficFigures,
    /// How often something was not served since the start, by reason (docs/OPERATING.md, "Metrics").
    pub refused: BTreeMap<String, u64>,
    /// What strangers have left here.
    pub stored: Stored,
    /// Where to start from.
    pub bootstrap: Vec<Entry>,
    /// Queries of ours without an answer so far.
    pub in_flight: usize,
    /// Strangers that wait for the ping that decides whether they enter a table.
    pub unverified: usize,
    /// Silence after which an answer has become unlikely, from measured round trips.
    pub stall_ms: f64,
    /// How often the machine was found to have slept.
    pub sleeps: u64,
    /// Members of a private network that are remembered, in the tables or not.
    pub remembered: usize,
    /// Of these, the ones that were silent when last asked.
    pub lost: usize,
    /// How often the network has changed so much that what is shared was announced again.
    pub renewals: u64,
    /// What strangers may take.
    pub limits: LimitFigures,
    /// Memory of the process in RAM, where the system tells.
    pub resident_bytes: Option<u64>,
    /// CPU time of the process, user and system, where the system tells.
    pub cpu_s: Option<f64>,
    /// The last minutes.
    pub history: History,
}

/// Whether the node knows anybody, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Whether a node is in a table: what `/healthz` answers.
    pub ok: bool,
    /// Whether the own neighbourhood was looked up with success.
    pub joined: bool,
    /// Both in a sentence, with the reason where nobody is known.
    pub words: String,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Family {
    /// `IPv4` or `IPv6`.
    pub name: String,
    /// Entries: the good, questionable and bad ones.
    pub nodes: usize,
    /// Entries heard of lately (BEP 5, "Routing Table").
    pub good: usize,
    /// Entries that have been silent for longer.
    pub questionable: usize,
    /// Entries that have left queries unanswered, and are not handed to others any more.
    pub bad: usize,
    /// Verified nodes that wait to replace an entry.
    pub spares: usize,
    /// Our own address as others see it (BEP 42), once enough of them agree.
    pub external_address: Option<String>,
    /// Networks that have told us one.
    pub external_votes: usize,
    /// Nodes of the network, estimated; absent while too few are known.
    pub network_size: Option<f64>,
    /// One standard deviation, as a share.
    pub network_size_error: Option<f64>,
    /// Those with an entry or a spare, far ones first.
    pub buckets: Vec<Bucket>,
}

/// One bucket with somebody in it, an entry or a spare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// Bits of prefix that its nodes share with us.
    pub index: usize,
    /// Entries that it takes.
    pub capacity: usize,
    /// Of its entries, as in [`Family`].
    pub good: usize,
    /// The same.
    pub questionable: usize,
    /// The same.
    pub bad: usize,
    /// Verified nodes that wait to replace one.
    pub spares: usize,
    /// The median of its entries' last round trips; 0 without entries.
    pub median_rtt_ms: f64,
    /// How long its oldest entry has been known.
    pub oldest_s: f64,
    /// Its entries.
    pub contacts: Vec<Contact>,
}

/// One entry of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contact {
    /// 40 hex digits.
    pub id: String,
    /// `ip:port`, IPv6 in brackets.
    pub address: String,
    /// Where the id stands in the key space.
    pub position: f64,
    /// `good`, `questionable` or `bad`.
    pub state: String,
    /// Its last round trip.
    pub rtt_ms: f64,
    /// Since its last answer.
    pub answered_s: f64,
    /// Since its first answer.
    pub known_s: f64,
    /// Queries unanswered since its last answer.
    pub failures: u8,
}

/// One search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Search {
    /// `join`, `find_node`, `get_peers`, `announce`, `scrape`, `get_item` or `put_item`.
    pub kind: String,
    /// What for, 40 hex digits.
    pub target: String,
    /// From its start until now, or until its end.
    pub elapsed_s: f64,
    /// Time since it ended, where it has.
    pub ended_s: Option<f64>,
    /// Nodes asked.
    pub asked: u32,
    /// Nodes that answered.
    pub answered: u32,
    /// Queries that went unanswered for longer than answers usually take.
    pub timeouts: u32,
    /// Steps from the nodes we knew to the farthest one that answered.
    pub hops: u32,
    /// Distinct peers found.
    pub peers: u32,
    /// Leading bits that the closest node that answered shares with the target.
    pub best_bits: Option<u32>,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficFigures {
    /// Queries that we received and looked at, by method; unknown methods are `other`.
    pub queries_in: BTreeMap<String, u64>,
    /// Queries that we sent, by method.
    pub queries_out: BTreeMap<String, u64>,
    /// Answers that matched a query of ours.
    pub replies_in: u64,
    /// Answers that we gave.
    pub replies_out: u64,
    /// Errors that matched a query of ours, by code (BEP 5 and 44); unknown codes are `other`.
    pub errors_in: BTreeMap<String, u64>,
    /// Errors that we gave, by code.
    pub errors_out: BTreeMap<String, u64>,
    /// Queries of ours that nobody answered.
    pub timeouts: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Their payload, received.
    pub bytes_in: u64,
    /// Their payload, sent.
    pub bytes_out: u64,
}

/// What strangers have left here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// Info-hashes that peers are stored for.
    pub hashes: usize,
    /// Announced peers, of all of them.
    pub peers: usize,
    /// Items (BEP 44).
    pub items: usize,
    /// Memory that all of it takes.
    pub bytes: usize,
    /// Memory that it may take.
    pub limit_bytes: usize,
}

/// An address to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// `ip:port`; a name that did not resolve yet, as it was given; of what is no address, why.
    pub address: String,
    /// Whether it is a well-known router, which stays out of the table.
    pub router: bool,
    /// `answered`, `silent`, `not asked`, `unresolved` or `unusable`.
    pub state: String,
}

/// What strangers may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitFigures {
    /// Queries a second of one address (IPv6: /64); the default stands for more among members of a private network.
    pub queries_per_address: u32,
    /// Queries a second of one /16 (IPv6: /48); no bound among such members.
    pub queries_per_network: u32,
    /// Queries a second of everyone together; absent without such a limit.
    pub queries: Option<u32>,
    /// Bytes of answers a second; absent without such a limit.
    pub answer_bytes: Option<u64>,
    /// Memory for what strangers announce, items among it.
    pub store_bytes: usize,
}

/// What passed in the last minutes: counts, one for each step, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The length of a step.
    pub step_s: u64,
    /// Steps that are kept at most; there are fewer at first.
    pub samples: usize,
    /// Queries received in each step, by method; one of which there were none is left out.
    pub queries_in: BTreeMap<String, Vec<u64>>,
    /// Queries sent, likewise.
    pub queries_out: BTreeMap<String, Vec<u64>>,
    /// Bytes of payload received in each step.
    pub bytes_in: Vec<u64>,
    /// Bytes of payload sent in each step.
    pub bytes_out: Vec<u64>,
}

impl Status {
    /// The figures of `report`; names that did not resolve yet are only in `status`.
    pub fn new(report: &Report, status: &DhtStatus, port: u16) -> Self {
        let names = ["IPv4", "IPv6"];
        let families = report.families.iter().zip(names).filter(|(f, _)| f.enabled);
        let ended = |(search, ago): &(SearchReport, Duration)| Search {
            ended_s: Some(ago.as_secs_f64()),
            ..Search::new(search)
        };
        let traffic = &report.counters.traffic;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: report.id.to_string(),
            position: position(&report.id),
            port,
            uptime_s: seconds(report.uptime),
            health: Health::new(report, status),
            read_only: report.read_only,
            families: families.map(|(family, name)| Family::new(name, family)).collect(),
            searches: report.searches.iter().map(Search::new).collect(),
            recent_searches: report.recent.iter().map(ended).collect(),
            traffic: TrafficFigures::new(report),
            refused: Refusal::ALL
                .iter()
                .map(|r| (r.name().to_owned(), traffic.refused[*r as usize]))
                .collect(),
            stored: Stored {
                hashes: report.stored.hashes,
                peers: report.stored.peers,
                items: report.stored.items,
                bytes: report.stored.bytes,
                limit_bytes: report.stored.cap,
            },
            bootstrap: bootstrap(report, status),
            in_flight: report.in_flight,
            unverified: report.unverified,
            stall_ms: milliseconds(report.stall),
            sleeps: report.sleeps,
            remembered: report.remembered.0,
            lost: report.remembered.1,
            renewals: report.renewals,
            limits: LimitFigures {
                queries_per_address: report.limits.queries_per_ip,
                queries_per_network: report.limits.queries_per_net,
                queries: report.limits.queries_per_second,
                answer_bytes: report.limits.bytes_per_second,
                store_bytes: report.limits.store_bytes,
            },
            resident_bytes: super::process::resident_bytes(),
            cpu_s: super::process::cpu_seconds(),
            history: History::default(),
        }
    }

    /// Entries of all tables.
    pub fn nodes(&self) -> usize {
        self.families.iter().map(|f| f.nodes).sum()
    }
}

impl Health {
    /// Well is who knows somebody.
    pub fn new(report: &Report, status: &DhtStatus) -> Self {
        let nodes: usize = report.families.iter().map(|f| f.contacts().count()).sum();
        let silent = report.bootstrap.iter().filter(|b| b.asked && !b.answered).count();
        let words = if report.joined {
            format!("joined, {nodes} nodes in the table")
        } else if nodes > 0 {
            format!("joining, {nodes} nodes in the table")
        } else if report.bootstrap.is_empty() && status.unresolved.is_empty() {
            "no node is known and there is no address to start from".to_owned()
        } else {
            let waiting = status.unresolved.len();
            format!("no node is known: {silent} bootstrap addresses are silent, {waiting} names unresolved")
        };
        Self { ok: nodes > 0, joined: report.joined, words }
    }
}

impl Family {
    fn new(name: &str, family: &FamilyReport) -> Self {
        let [good, questionable, bad] = family.evidence();
        Self {
            name: name.to_owned(),
            nodes: good + questionable + bad,
            good,
            questionable,
            bad,
            spares: family.buckets.iter().map(|b| b.spares).sum(),
            external_address: family.external.map(|ip| ip.to_string()),
            external_votes: family.votes,
            network_size: family.network_size.map(|(nodes, _)| nodes.round()),
            network_size_error: family.network_size.map(|(_, error)| error),
            buckets: family.buckets.iter().map(Bucket::new).collect(),
        }
    }
}

impl Bucket {
    fn new(bucket: &crate::dht::BucketReport) -> Self {
        let [good, questionable, bad] = bucket.evidence();
        let contact = |c: &crate::dht::ContactReport| Contact {
            id: c.id.to_string(),
            address: c.addr.to_string(),
            position: position(&c.id),
            state: match c.evidence {
                Evidence::Good => "good",
                Evidence::Questionable => "questionable",
                Evidence::Bad => "bad",
            }
            .to_owned(),
            rtt_ms: milliseconds(c.rtt),
            answered_s: seconds(c.answered),
            known_s: seconds(c.known),
            failures: c.failures,
        };
        Self {
            index: bucket.index,
            capacity: bucket.capacity,
            good,
            questionable,
            bad,
            spares: bucket.spares,
            median_rtt_ms: milliseconds(bucket.median_rtt),
            oldest_s: seconds(bucket.oldest),
            contacts: bucket.contacts.iter().map(contact).collect(),
        }
    }
}

impl Search {
    fn new(search: &SearchReport) -> Self {
        Self {
            kind: search.kind.to_owned(),
            target: search.target.to_string(),
            elapsed_s: search.stats.elapsed.as_secs_f64(),
            ended_s: None,
            asked: search.stats.asked,
            answered: search.stats.answered,
            timeouts: search.stats.timeouts,
            hops: search.stats.hops,
            peers: search.stats.peers,
            best_bits: search.best_bits,
        }
    }
}

impl TrafficFigures {
    fn new(report: &Report) -> Self {
        let traffic = &report.counters.traffic;
        let by_kind = |counts: &[u64]| {
            Kind::ALL.iter().map(|k| k.name().to_owned()).zip(counts.iter().copied()).collect()
        };
        let by_code = |counts: &[u64]| {
            ERROR_CODES.iter().map(|code| error_name(*code)).zip(counts.iter().copied()).collect()
        };
        Self {
            queries_in: by_kind(&traffic.queries_in),
            queries_out: by_kind(&traffic.queries_out),
            replies_in: report.counters.replies_in,
            replies_out: traffic.replies_out,
            errors_in: by_code(&traffic.errors_in),
            errors_out: by_code(&traffic.errors_out),
            timeouts: traffic.timeouts,
            datagrams_in: traffic.datagrams_in,
            datagrams_out: traffic.datagrams_out,
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
        }
    }
}

fn bootstrap(report: &Report, status: &DhtStatus) -> Vec<Entry> {
    let state = |entry: &BootstrapState| match (entry.asked, entry.answered) {
        (_, true) => "answered",
        (true, false) => "silent",
        (false, false) => "not asked",
    };
    let entry = |address: String, router, state: &str| Entry { address, router, state: state.to_owned() };
    let known = report.bootstrap.iter().map(|b| entry(b.addr.to_string(), b.router, state(b)));
    let names = status.unresolved.iter().map(|name| entry(name.clone(), false, "unresolved"));
    let bad = status.bad_bootstrap.iter().map(|why| entry(why.clone(), false, "unusable"));
    known.chain(names).chain(bad).collect()
}

/// An error code as figures name it.
pub fn error_name(code: i64) -> String {
    if code == 0 { "other".to_owned() } else { code.to_string() }
}

/// Where an id stands, as a share of the key space.
fn position(id: &Id160) -> f64 {
    id.0.iter().take(8).rev().fold(0.0, |sum, byte| (sum + f64::from(*byte)) / 256.0)
}

fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_share_of_the_key_space() {
        assert_eq!(position(&Id160::ZERO), 0.0);
        assert_eq!(position(&Id160([0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), 0.5);
        assert!(position(&Id160([0xff; 20])) > 0.999);
    }

    #[test]
    fn health_says_why_a_node_is_alone() {
        let (mut report, mut status) = (Report::default(), DhtStatus::default());
        let health = Health::new(&report, &status);
        assert!(!health.ok && health.words.contains("no address to start from"), "{health:?}");
        let state = |asked| BootstrapState {
            addr: ([127, 0, 0, 1], 1).into(),
            router: false,
            asked,
            answered: false,
        };
        report.bootstrap = vec![state(true), state(true), state(false)];
        status.unresolved = vec!["a.example:1".into()];
        let health = Health::new(&report, &status);
        assert!(
            !health.ok && health.words.contains("2 bootstrap addresses are silent, 1 name"),
            "{health:?}"
        );
        let states: Vec<_> = bootstrap(&report, &status).into_iter().map(|e| e.state).collect();
        assert_eq!(states, ["silent", "silent", "not asked", "unresolved"]);
    }

    #[test]
    fn what_another_version_wrote_can_be_read() {
        let status: Status = serde_json::from_str(r#"{"id":"ab","new":1,"traffic":{"bytes_in":5}}"#).unwrap();
        assert_eq!((status.id.as_str(), status.traffic.bytes_in, status.port), ("ab", 5, 0));
    }
}
