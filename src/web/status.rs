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
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Status {
    pub version: String,
    pub id: String,
    /// Where the id stands in the key space.
    pub position: f64,
    pub port: u16,
    pub uptime_s: f64,
    pub health: Health,
    pub read_only: bool,
    pub families: Vec<Family>,
    pub searches: Vec<Search>,
    pub recent_searches: Vec<Search>,
    pub traffic: TrafficFigures,
    pub refused: BTreeMap<String, u64>,
    pub stored: Stored,
    pub bootstrap: Vec<Entry>,
    pub in_flight: usize,
    pub unverified: usize,
    pub stall_ms: f64,
    pub sleeps: u64,
    /// Members of a private network that are remembered, in the tables or not.
    pub remembered: usize,
    /// Of these, the ones that were silent when last asked.
    pub lost: usize,
    /// How often the network has changed so much that what is shared was announced again.
    pub renewals: u64,
    pub limits: LimitFigures,
    pub resident_bytes: Option<u64>,
    pub cpu_s: Option<f64>,
    pub history: History,
}

/// Whether the node takes part, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Health {
    pub ok: bool,
    pub joined: bool,
    pub words: String,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Family {
    pub name: String,
    pub nodes: usize,
    pub good: usize,
    pub questionable: usize,
    pub bad: usize,
    pub spares: usize,
    pub external_address: Option<String>,
    pub external_votes: usize,
    pub network_size: Option<f64>,
    /// One standard deviation, as a share.
    pub network_size_error: Option<f64>,
    pub buckets: Vec<Bucket>,
}

/// One bucket with somebody in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Bucket {
    pub index: usize,
    pub capacity: usize,
    pub good: usize,
    pub questionable: usize,
    pub bad: usize,
    pub spares: usize,
    pub median_rtt_ms: f64,
    pub oldest_s: f64,
    pub contacts: Vec<Contact>,
}

/// One entry of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Contact {
    pub id: String,
    pub address: String,
    pub position: f64,
    pub state: String,
    pub rtt_ms: f64,
    pub answered_s: f64,
    pub known_s: f64,
    pub failures: u8,
}

/// One search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Search {
    pub kind: String,
    pub target: String,
    pub elapsed_s: f64,
    /// Time since it ended, where it has.
    pub ended_s: Option<f64>,
    pub asked: u32,
    pub answered: u32,
    pub timeouts: u32,
    pub hops: u32,
    pub peers: u32,
    pub best_bits: Option<u32>,
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct TrafficFigures {
    pub queries_in: BTreeMap<String, u64>,
    pub queries_out: BTreeMap<String, u64>,
    pub replies_in: u64,
    pub replies_out: u64,
    pub errors_in: BTreeMap<String, u64>,
    pub errors_out: BTreeMap<String, u64>,
    pub timeouts: u64,
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What strangers have left here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Stored {
    pub hashes: usize,
    pub peers: usize,
    pub items: usize,
    pub bytes: usize,
    pub limit_bytes: usize,
}

/// An address to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct Entry {
    pub address: String,
    pub router: bool,
    /// `answered`, `silent`, `not asked`, `unresolved` or `unusable`.
    pub state: String,
}

/// What strangers may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct LimitFigures {
    pub queries_per_address: u32,
    pub queries_per_network: u32,
    pub queries: Option<u32>,
    pub answer_bytes: Option<u64>,
    pub store_bytes: usize,
}

/// Rates of the last minutes, a number for each step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/OPERATING.md describes each field")]
pub struct History {
    pub step_s: u64,
    pub samples: usize,
    pub queries_in: BTreeMap<String, Vec<u64>>,
    pub queries_out: BTreeMap<String, Vec<u64>>,
    pub bytes_in: Vec<u64>,
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
    /// Well is who has joined, or knows somebody at least.
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
