//! How a search goes about it: the choices that make one fast, and the classic ones for comparison.
//!
//! Owns the choices, not what follows from them. `tests/sim/million.rs` measures each.

use std::time::Duration;

use super::config::{K, ROOT_BUCKETS};
use crate::id::{Id160, NodeId};

/// How many queries of a search are in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flight {
    /// So many, whoever they were sent to, one more for each that has stalled.
    Slots {
        /// Without a stall.
        count: usize,
        /// Whether a query holds its slot after closer candidates have overtaken it.
        overtaken_count: bool,
        /// Whether a stalled query makes room for one more until the next answer.
        grows: bool,
    },
    /// As many as make so many answers likely, by the share of nodes that have answered in this search and
    /// by how long each has been silent; near the target, as many as it takes to hear the closest living.
    Likely {
        /// Answers that are to be on their way.
        answers: f64,
        /// Bits by which a query in flight may be farther from the target than the next candidate, and still
        /// count as if it were as good.
        slack: u32,
        /// Whether candidates near the target are asked at once.
        wide_end: bool,
    },
}

/// When a query has been silent for too long to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// After this time.
    After(Duration),
    /// When an answer has become unlikely, by the round trips measured lately.
    Measured,
}

/// The choices of a search, and of the table it starts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LookupRules {
    /// Queries in flight.
    pub flight: Flight,
    /// Silence.
    pub stall: Stall,
    /// Capacities of the buckets nearest the root.
    pub root_buckets: [usize; 4],
    /// What a start that is closer by one bit is worth in round-trip time; nothing where only the distance
    /// counts.
    pub bit_worth: Option<Duration>,
    /// Whether a far node may take the place of a slower one in a full bucket.
    pub prefer_fast: bool,
    /// Closest living nodes that must have answered.
    pub quorum: usize,
    /// Questions about the nodes beside the target, to those near it.
    pub asides: usize,
}

impl LookupRules {
    /// Three in flight, and two seconds for an answer: Kademlia as it was first written down.
    pub const CLASSIC: Self = Self {
        flight: Flight::Slots { count: 3, overtaken_count: true, grows: false },
        stall: Stall::After(Duration::from_secs(2)),
        root_buckets: [K; 4],
        bit_worth: None,
        prefer_fast: false,
        quorum: K,
        asides: 0,
    };

    /// Five in flight among the best, one more for each that is silent for a second.
    pub const FIVE: Self = Self {
        flight: Flight::Slots { count: 5, overtaken_count: false, grows: true },
        stall: Stall::After(Duration::from_secs(1)),
        root_buckets: [128, 64, 32, 16],
        ..Self::CLASSIC
    };

    /// What it costs, in microseconds, to start from a node: its round trip, less what its place saves.
    pub fn cost(&self, target: &Id160, id: &NodeId, rtt: Duration) -> i64 {
        let closer = i64::from(target.shared_prefix(id));
        match self.bit_worth {
            Some(worth) => rtt.as_micros() as i64 - closer * worth.as_micros() as i64,
            None => -closer,
        }
    }
}

impl Default for LookupRules {
    fn default() -> Self {
        Self {
            flight: Flight::Likely { answers: 4.0, slack: 2, wide_end: true },
            stall: Stall::Measured,
            root_buckets: ROOT_BUCKETS,
            bit_worth: Some(Duration::from_millis(20)),
            prefer_fast: true,
            quorum: K,
            asides: 4,
        }
    }
}
