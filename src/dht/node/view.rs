//! All that an operator may want to see of a node, at one moment.
//!
//! Owns the figures and how they are derived, the network's estimated size among them. Reads only; must
//! not know how they are shown.
//!
//! # The size of the network
//!
//! Ids are uniform, so the nodes round any point are a Poisson process of density `N` over the key space
//! (taken as length 1), and the distance to the `k`-th closest of them is a sum of `k` exponential gaps,
//! Gamma(k, N). `(k - 1) / d_k` is the unbiased estimate from one such distance, with a relative error of
//! `1 / sqrt(k - 2)`: 41 % for 8 nodes, which says little. Distances round different points are independent
//! and of the same density, so their sum is Gamma(sum k, N), and `(sum k - 1) / sum d_k` is again unbiased,
//! now with an error of `1 / sqrt(sum k - 2)`: 6 % for 32 points. The points are our own id, whose
//! neighbours the table holds, and the targets of finished searches. (Local density as an estimate:
//! Horowitz and Malkhi, "Estimating network size from local information", 2003.)

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Node;
use super::search::{Kind, Search};
use crate::dht::bucket::{Bucket, Entry};
use crate::dht::config::{DENSITY_SAMPLES, K, Limits, RECENT_SEARCHES};
use crate::dht::event::{BootstrapState, Counters, LookupStats};
use crate::dht::moment::Moment;
use crate::dht::table::Table;
use crate::id::{Distance, Id160, NodeId};

/// A node at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its id.
    pub id: NodeId,
    /// Time since its start.
    pub uptime: Duration,
    /// Whether the own neighbourhood was looked up with success.
    pub joined: bool,
    /// Whether it asks only (BEP 43).
    pub read_only: bool,
    /// IPv4, IPv6.
    pub families: [FamilyReport; 2],
    /// Searches under way.
    pub searches: Vec<SearchReport>,
    /// The last searches that ended, and how long ago; the latest first.
    pub recent: Vec<(SearchReport, Duration)>,
    /// Traffic since the start.
    pub counters: Counters,
    /// What strangers have left here.
    pub stored: StoreReport,
    /// The addresses to start from.
    pub bootstrap: Vec<BootstrapState>,
    /// Queries without an answer so far.
    pub in_flight: usize,
    /// Strangers waiting for the ping that decides whether they enter the table.
    pub unverified: usize,
    /// Silence after which an answer has become unlikely, from measured round trips.
    pub stall: Duration,
    /// How often the machine was found to have slept.
    pub sleeps: u64,
    /// In a private network: members that are remembered, in the tables or not, and of these the ones that were silent
    /// when last asked.
    pub remembered: (usize, usize),
    /// How often the network round this node has changed so much that what is shared was announced again.
    pub renewals: u64,
    /// What strangers may take.
    pub limits: Limits,
}

/// One address family.
#[derive(Clone, Debug, Default)]
pub struct FamilyReport {
    /// Whether there is a socket of it.
    pub enabled: bool,
    /// Our own address as others see it (BEP 42).
    pub external: Option<IpAddr>,
    /// Networks that have told us one.
    pub votes: usize,
    /// The buckets with somebody in them, far ones first.
    pub buckets: Vec<BucketReport>,
    /// How many nodes the network has, and the relative error (one standard deviation) of that.
    pub network_size: Option<(f64, f64)>,
}

/// One bucket.
#[derive(Clone, Debug)]
pub struct BucketReport {
    /// Bits of prefix its nodes share with us.
    pub index: usize,
    /// Entries it takes.
    pub capacity: usize,
    /// Entries.
    pub contacts: Vec<ContactReport>,
    /// Verified spares.
    pub spares: usize,
    /// The median of its entries' last round trips.
    pub median_rtt: Duration,
    /// How long its oldest entry has been known.
    pub oldest: Duration,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct ContactReport {
    /// Who.
    pub id: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// What is known of it.
    pub evidence: Evidence,
    /// Its last round trip.
    pub rtt: Duration,
    /// Time since its last answer.
    pub answered: Duration,
    /// Time since its first answer.
    pub known: Duration,
    /// Queries unanswered since its last answer.
    pub failures: u8,
}

/// BEP 5, "Routing Table".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Heard of lately.
    Good,
    /// Silent for a while.
    Questionable,
    /// Has left queries unanswered, and is not handed to others any more.
    Bad,
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct SearchReport {
    /// What for.
    pub target: Id160,
    /// `join`, `find_node`, `get_peers`, `announce`, `scrape`, `get_item` or `put_item`.
    pub kind: &'static str,
    /// How far it is.
    pub stats: LookupStats,
    /// Leading bits that the closest node that answered shares with the target.
    pub best_bits: Option<u32>,
}

/// What strangers have left here.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreReport {
    /// Info-hashes.
    pub hashes: usize,
    /// Peers, all hashes together.
    pub peers: usize,
    /// Items (BEP 44).
    pub items: usize,
    /// Memory taken.
    pub bytes: usize,
    /// Memory it may take.
    pub cap: usize,
}

impl FamilyReport {
    /// Entries of all buckets.
    pub fn contacts(&self) -> impl Iterator<Item = &ContactReport> {
        self.buckets.iter().flat_map(|b| &b.contacts)
    }

    /// How many entries are good, questionable and bad.
    pub fn evidence(&self) -> [usize; 3] {
        count(self.contacts())
    }
}

impl BucketReport {
    /// How many entries are good, questionable and bad.
    pub fn evidence(&self) -> [usize; 3] {
        count(self.contacts.iter())
    }
}

fn count<'a>(contacts: impl Iterator<Item = &'a ContactReport>) -> [usize; 3] {
    let mut counts = [0; 3];
    contacts.for_each(|c| counts[c.evidence as usize] += 1);
    counts
}

impl Node {
    /// All there is to see.
    pub fn report(&self, now: Instant) -> Report {
        let (bytes, cap) = self.announced.memory();
        let (item_bytes, item_cap) = self.items.memory();
        let enabled = [self.config.ipv4, self.config.ipv6];
        Report {
            id: self.id,
            uptime: now.saturating_duration_since(self.started),
            joined: self.has_joined(),
            read_only: self.is_read_only(),
            families: [0, 1].map(|at| FamilyReport {
                enabled: enabled[at],
                external: self.external[at].address(),
                votes: self.external[at].votes(),
                buckets: buckets(now, &self.tables[at]),
                network_size: self.findings.families[at].estimate(self.id, &self.tables[at]),
            }),
            searches: self.searches.iter().map(|s| search_report(now, s)).collect(),
            recent: self.findings.recent(now),
            counters: self.counters,
            stored: StoreReport {
                hashes: self.announced.hashes(),
                peers: self.announced.peers_stored(),
                items: self.items.len(),
                bytes: bytes + item_bytes,
                cap: cap + item_cap,
            },
            bootstrap: self.bootstrap.clone(),
            in_flight: self.inflight.len(),
            unverified: self.upkeep.waiting(),
            stall: self.inflight.pace().stall(),
            sleeps: self.upkeep.sleeps(),
            remembered: self.reach.counts(),
            renewals: self.renewals(),
            limits: self.config.limits,
        }
    }

    /// A search that has ended is shown for a while, and tells how close the nodes round its target are.
    pub(super) fn note_finished(&mut self, now: Instant, search: &Search) {
        self.findings.recent.truncate(RECENT_SEARCHES - 1);
        self.findings.recent.push_front((search_report(now, search), now));
        // Round our own id the table knows more.
        if search.target() == self.id {
            return;
        }
        for (density, lookup) in self.findings.families.iter_mut().zip(search.by_family()) {
            if let Some(lookup) = lookup {
                let distances = lookup.closest().map(|(c, _)| c.id.distance(&search.target()));
                density.note(search.target(), distances.take(K));
            }
        }
    }
}

fn buckets(now: Instant, table: &Table) -> Vec<BucketReport> {
    let now = table.epoch().moment(now);
    let some = |(_, b): &(usize, &Bucket)| !b.entries().is_empty() || !b.spares().is_empty();
    table
        .buckets()
        .iter()
        .enumerate()
        .filter(some)
        .map(|(at, b)| bucket_report(now, at, table.capacity(at), b))
        .collect()
}

fn bucket_report(now: Moment, index: usize, capacity: usize, bucket: &Bucket) -> BucketReport {
    let mut rtts: Vec<_> = bucket.entries().iter().map(Entry::rtt).collect();
    rtts.sort_unstable();
    BucketReport {
        index,
        capacity,
        contacts: bucket.entries().iter().map(|e| contact_report(now, e)).collect(),
        spares: bucket.spares().len(),
        median_rtt: rtts.get(rtts.len() / 2).copied().unwrap_or_default(),
        oldest: bucket
            .entries()
            .iter()
            .map(|e| e.since)
            .min()
            .map_or(Duration::ZERO, |since| now.since(since)),
    }
}

fn contact_report(now: Moment, entry: &Entry) -> ContactReport {
    let evidence = match entry {
        e if !e.is_usable() => Evidence::Bad,
        e if e.is_good(now) => Evidence::Good,
        _ => Evidence::Questionable,
    };
    ContactReport {
        id: entry.id,
        addr: entry.addr(),
        evidence,
        rtt: entry.rtt(),
        answered: now.since(entry.answered),
        known: now.since(entry.since),
        failures: entry.failures,
    }
}

fn search_report(now: Instant, search: &Search) -> SearchReport {
    let kind = match search.kind() {
        Kind::Join => "join",
        Kind::FindNode => "find_node",
        Kind::GetPeers => "get_peers",
        Kind::Announce { .. } => "announce",
        Kind::Scrape => "scrape",
        Kind::GetItem => "get_item",
        Kind::PutItem => "put_item",
    };
    let target = search.target();
    let closest = search.by_family().iter().flatten().filter_map(|l| l.closest().next());
    let best_bits = closest.map(|(c, _)| c.id.shared_prefix(&target)).max();
    SearchReport { target, kind, stats: search.stats(now), best_bits }
}

/// What finished searches have left to see.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// IPv4, IPv6.
    families: [Density; 2],
    /// With the time of its end, the latest first. At most [`RECENT_SEARCHES`].
    recent: VecDeque<(SearchReport, Instant)>,
}

impl Findings {
    fn recent(&self, now: Instant) -> Vec<(SearchReport, Duration)> {
        let ago = |at: Instant| now.saturating_duration_since(at);
        self.recent.iter().map(|(report, at)| (report.clone(), ago(*at))).collect()
    }
}

/// How densely the key space is peopled: distances round points that were looked at.
#[derive(Debug, Default)]
struct Density {
    /// The point, how many nodes round it, and how far the last of them is. At most [`DENSITY_SAMPLES`].
    samples: VecDeque<(Id160, usize, f64)>,
}

impl Density {
    fn note(&mut self, target: Id160, distances: impl Iterator<Item = Distance>) {
        let Some((count, farthest)) = counted(distances) else { return };
        // The same point once more is no new evidence.
        self.samples.retain(|(point, ..)| *point != target);
        self.samples.truncate(DENSITY_SAMPLES - 1);
        self.samples.push_front((target, count, farthest));
    }

    fn estimate(&self, own: NodeId, table: &Table) -> Option<(f64, f64)> {
        let near = table.closest(&own, K);
        let near = counted(near.iter().map(|c| c.id.distance(&own)));
        let samples = self.samples.iter().map(|(_, count, farthest)| (*count, *farthest)).chain(near);
        let (nodes, space) = samples.fold((0, 0.0), |(n, d), (count, farthest)| (n + count, d + farthest));
        (nodes > 2 && space > 0.0).then(|| ((nodes - 1) as f64 / space, 1.0 / ((nodes - 2) as f64).sqrt()))
    }
}

/// How many there are, and the farthest, where they are enough to tell a density from.
fn counted(distances: impl Iterator<Item = Distance>) -> Option<(usize, f64)> {
    let all: Vec<f64> = distances.map(|d| fraction(&d)).collect();
    (all.len() >= K).then(|| (all.len(), all.iter().copied().fold(0.0, f64::max)))
}

/// A distance as a share of the key space.
fn fraction(distance: &Distance) -> f64 {
    distance.0.iter().rev().fold(0.0, |sum, byte| (sum + f64::from(*byte)) / 256.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::{Config, Network};
    use crate::rng::Rng;
    use crate::wire::compact::Contact;

    fn local() -> Config {
        Config { network: Network::Local, ..Config::default() }
    }

    /// What a node says of a network of `size` after `searches` complete ones.
    fn estimated(size: usize, searches: usize, seed: u64) -> (f64, f64) {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(seed));
        let mut ids: Vec<_> = (0..size).map(|_| Id160::random(&mut rng)).collect();
        ids.sort();
        let own = Id160::random(&mut rng);
        let mut node = Node::new(Config { id: Some(own), ..local() }, [1; 32], now);
        let near = |target: &Id160| {
            // Nodes near by the metric share the longest prefixes, so they stand near in order too.
            let at = ids.partition_point(|id| id < target);
            let mut near = ids[at.saturating_sub(200)..(at + 200).min(size)].to_vec();
            near.sort_by_key(|id| id.distance(target));
            near.truncate(K);
            near
        };
        for (n, id) in near(&own).into_iter().enumerate() {
            let addr = ([10, 0, 0, n as u8], 1).into();
            node.tables[0].on_answer(now, Contact { id, addr }, Duration::ZERO, &local());
        }
        for _ in 0..searches {
            let target = Id160::random(&mut rng);
            node.findings.families[0].note(target, near(&target).iter().map(|id| id.distance(&target)));
        }
        node.report(now).families[0].network_size.unwrap()
    }

    #[test]
    fn the_size_of_a_network_is_estimated_within_the_stated_error() {
        for (size, seed) in [(1000, 1), (50_000, 2), (200_000, 3)] {
            let (nodes, error) = estimated(size, DENSITY_SAMPLES, seed);
            assert!(error < 0.07, "{error}");
            // Three standard deviations.
            let off = (nodes / size as f64 - 1.0).abs();
            assert!(off < 3.0 * error, "{size}: {nodes}, off by {off}");
        }
    }

    #[test]
    fn the_table_alone_tells_the_order_of_magnitude_without_bias() {
        let runs = 200;
        let mean = (0..runs).map(|seed| estimated(5000, 0, seed).0).sum::<f64>() / runs as f64;
        // 41 % each, so 2.9 % for the mean of 200.
        assert!((mean / 5000.0 - 1.0).abs() < 0.09, "{mean}");
    }

    #[test]
    fn samples_are_bounded_and_a_repeated_target_counts_once() {
        let mut density = Density::default();
        let near = |n: u8| (1..=8u8).map(move |d| Id160([d; 20]).distance(&Id160([n; 20])));
        for n in 0..100 {
            density.note(Id160([n; 20]), near(n));
            density.note(Id160([n; 20]), near(n));
        }
        assert_eq!(density.samples.len(), DENSITY_SAMPLES);
        density.note(Id160::ZERO, near(0).take(7));
        assert!(density.samples.iter().all(|(point, ..)| *point != Id160::ZERO));
    }

    #[test]
    fn a_report_tells_good_from_questionable_from_bad() {
        let start = Instant::now();
        let mut node = Node::new(Config { id: Some(Id160::ZERO), ..local() }, [1; 32], start);
        let contact = |n: u8| Contact { id: Id160([n; 20]), addr: ([10, 0, 0, n], 1).into() };
        let now = start + Duration::from_secs(3600);
        node.tables[0].on_answer(start, contact(0x80), Duration::from_millis(30), &local());
        node.tables[0].on_answer(now, contact(0x81), Duration::from_millis(20), &local());
        node.tables[0].on_answer(now, contact(0x82), Duration::from_millis(10), &local());
        node.tables[0].on_answer(now, contact(1), Duration::from_millis(5), &local());
        for _ in 0..2 {
            node.tables[0].on_failure(&contact(0x82));
        }
        let report = node.report(now);
        let family = &report.families[0];
        assert_eq!(family.evidence(), [2, 1, 1]);
        let [far, near] = &family.buckets[..] else { panic!("{:?}", family.buckets) };
        assert_eq!((far.index, far.capacity, far.evidence()), (0, 512, [1, 1, 1]));
        assert_eq!((far.median_rtt, far.oldest), (Duration::from_millis(20), Duration::from_secs(3600)));
        assert_eq!((near.index, near.capacity, near.contacts.len()), (7, 8, 1));
        assert_eq!((report.uptime, family.network_size), (Duration::from_secs(3600), None));
    }
}
