//! What a run came to: searches, traffic, and how true the tables are.
//!
//! Knows numbers only, and puts them in order when it adds them up: the sum is the same however hosts are split.

use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use dhtget::dht::LookupStats;

use super::Malice;
use super::network::Network;

/// Figures since the start, or since they were last taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    pub searches: u64,
    pub found: u64,
    hops: u64,
    asked: u64,
    /// Milliseconds until the wanted peer was heard of, of those found; in order as soon as it has been added to another.
    first: Vec<u32>,
    /// Milliseconds until the end.
    total: Vec<u32>,
    pub announces: u64,
    pub announced_to: u64,
    pub datagrams: u64,
    pub bytes: u64,
    pub lost: u64,
    /// To addresses at which there never was a host.
    pub astray: u64,
    /// How often a victim was named in a poisoned answer, and what was sent to him.
    pub poisoned: u64,
    pub hits: u64,
    /// Microseconds that hosts were up, all together.
    pub up_time: u128,
}

impl Tally {
    pub fn on_search(&mut self, first: Option<Duration>, stats: &LookupStats) {
        self.searches += 1;
        self.hops += u64::from(stats.hops);
        self.asked += u64::from(stats.asked);
        self.total.push(stats.elapsed.as_millis() as u32);
        if let Some(first) = first {
            self.found += 1;
            self.first.push(first.as_millis() as u32);
        }
    }

    /// Counts a datagram that leads nowhere.
    pub(super) fn on_astray(&mut self, network: &Network, to: SocketAddrV4) {
        if network.is_outside(to) {
            self.astray += 1;
            let victim = Malice::Poison(to.ip().octets());
            self.hits += u64::from(network.options.malice.is_some_and(|(_, kind)| kind == victim));
        }
    }

    /// Adds the figures of another stretch of time, or of other hosts.
    pub fn add(&mut self, other: Self) {
        self.searches += other.searches;
        self.found += other.found;
        self.hops += other.hops;
        self.asked += other.asked;
        for (all, more) in [(&mut self.first, other.first), (&mut self.total, other.total)] {
            all.extend(more);
            all.sort_unstable();
        }
        self.announces += other.announces;
        self.announced_to += other.announced_to;
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.astray += other.astray;
        self.poisoned += other.poisoned;
        self.hits += other.hits;
        self.up_time += other.up_time;
    }

    /// Percent of the searches that found a peer who had announced and was up.
    pub fn success(&self) -> f64 {
        100.0 * self.found as f64 / self.searches.max(1) as f64
    }

    pub fn hops(&self) -> f64 {
        self.hops as f64 / self.searches.max(1) as f64
    }

    /// Nodes asked in one search.
    pub fn asked(&self) -> f64 {
        self.asked as f64 / self.searches.max(1) as f64
    }

    /// Milliseconds to the first right answer, at that percentile.
    pub fn first_ms(&self, percent: usize) -> u32 {
        percentile(&self.first, percent)
    }

    /// Milliseconds to the end of a search, at that percentile.
    pub fn total_ms(&self, percent: usize) -> u32 {
        percentile(&self.total, percent)
    }

    fn node_hours(&self) -> f64 {
        (self.up_time as f64 / 3.6e9).max(1e-9)
    }

    /// Datagrams sent by a node in an hour.
    pub fn datagrams_per_hour(&self) -> f64 {
        self.datagrams as f64 / self.node_hours()
    }

    /// Bytes of payload sent by a node in an hour.
    pub fn bytes_per_hour(&self) -> f64 {
        self.bytes as f64 / self.node_hours()
    }

    /// Nodes that took an announce.
    pub fn told(&self) -> f64 {
        self.announced_to as f64 / self.announces.max(1) as f64
    }
}

fn percentile(sorted: &[u32], percent: usize) -> u32 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// What the tables of those that are up hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tables {
    pub entries: usize,
    /// Up, with that id at that address.
    pub live: usize,
    /// Of these, the ones behind a NAT, which not everyone can ask.
    pub natted: usize,
    pub nodes: usize,
    pub smallest: usize,
}

impl Tables {
    /// Percent of the entries that are up.
    pub fn quality(&self) -> f64 {
        100.0 * self.live as f64 / self.entries.max(1) as f64
    }

    pub fn mean(&self) -> f64 {
        self.entries as f64 / self.nodes.max(1) as f64
    }
}

/// The columns of a table of results, in the order of [`Row`]'s output.
pub const COLUMNS: &str = "scenario                        searches  found %  hops  asked  \
    first ms p50/p90    end ms p50/p90  msgs/node/h  KiB/node/h  live %";

/// One line of a table of results. Rounded, so that it tells what changed and not that something did.
pub struct Row<'a>(pub &'a str, pub &'a Tally, pub &'a Tables);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row(name, t, tables) = self;
        write!(
            f,
            "{name:<30}  {:>8}  {:>7.1}  {:>4.1}  {:>5.1}",
            t.searches,
            t.success(),
            t.hops(),
            t.asked()
        )?;
        write!(
            f,
            "  {:>7} / {:<7}  {:>7} / {:<6}",
            t.first_ms(50),
            t.first_ms(90),
            t.total_ms(50),
            t.total_ms(90)
        )?;
        write!(
            f,
            "  {:>10.0}  {:>10.0}  {:>6.1}",
            t.datagrams_per_hour(),
            t.bytes_per_hour() / 1024.0,
            tables.quality()
        )
    }
}
