//! Queries under way and how long answers take.
//!
//! Owns transaction ids, their deadlines and the round-trip histogram. Must not know what a query was
//! for: its purpose is the caller's and comes back with the outcome. A reply counts only if it carries
//! the transaction id, comes from the very endpoint that was asked, and has the id that was expected.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{MAX_IN_FLIGHT, RTT_SAMPLES, STALL_MAX, STALL_MIN};
use crate::id::NodeId;
use crate::rng::Rng;

/// A transaction id as we make them.
pub type Tid = [u8; 4];

/// A query under way.
#[derive(Debug, Clone)]
pub struct Pending<P> {
    /// Whom we asked.
    pub to: SocketAddr,
    /// Who should be there, if we knew.
    pub expect: Option<NodeId>,
    /// When.
    pub sent: Instant,
    /// What for.
    pub purpose: P,
    deadline: Instant,
}

/// All queries under way.
#[derive(Debug)]
pub struct InFlight<P> {
    rng: Rng,
    queries: BTreeMap<Tid, Pending<P>>,
    deadlines: BTreeSet<(Instant, Tid)>,
    rtt: Rtt,
}

impl<P> InFlight<P> {
    /// None under way.
    pub fn new(seed: [u8; 32]) -> Self {
        let rtt = Rtt { samples: VecDeque::with_capacity(RTT_SAMPLES), stall: STALL_MAX };
        Self { rng: Rng::from_seed(seed), queries: BTreeMap::new(), deadlines: BTreeSet::new(), rtt }
    }

    /// Registers a query; `None` when too many are under way.
    pub fn insert(
        &mut self,
        now: Instant,
        to: SocketAddr,
        expect: Option<NodeId>,
        timeout: Duration,
        purpose: P,
    ) -> Option<Tid> {
        if self.queries.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let mut tid: Tid = self.rng.bytes();
        while self.queries.contains_key(&tid) {
            tid = self.rng.bytes();
        }
        let deadline = now + timeout;
        self.deadlines.insert((deadline, tid));
        self.queries.insert(tid, Pending { to, expect, sent: now, purpose, deadline });
        Some(tid)
    }

    /// The query that an answer from there belongs to; it is not under way any more.
    pub fn take(&mut self, now: Instant, tid: &[u8], from: SocketAddr) -> Option<Pending<P>> {
        let tid: Tid = tid.try_into().ok()?;
        if self.queries.get(&tid)?.to != from {
            return None;
        }
        let query = self.queries.remove(&tid)?;
        self.deadlines.remove(&(query.deadline, tid));
        self.rtt.add(now.saturating_duration_since(query.sent));
        Some(query)
    }

    /// A query that was sent there; it is not under way any more. Rare, so a walk over all is cheap enough.
    pub fn take_to(&mut self, to: SocketAddr) -> Option<Pending<P>> {
        let tid = self.queries.iter().find(|(_, q)| q.to == to).map(|(tid, _)| *tid)?;
        let query = self.queries.remove(&tid)?;
        self.deadlines.remove(&(query.deadline, tid));
        Some(query)
    }

    /// The next query whose time is up.
    pub fn take_expired(&mut self, now: Instant) -> Option<Pending<P>> {
        let &(deadline, tid) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        self.queries.remove(&tid)
    }

    /// Whether an answer from there is awaited. Rare, like [`InFlight::take_to`].
    pub fn has_asked(&self, to: SocketAddr) -> bool {
        self.queries.values().any(|q| q.to == to)
    }

    /// When the next query's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Silence after which an answer has become unlikely.
    pub fn stall(&self) -> Duration {
        self.rtt.stall
    }
}

/// The latest round trips.
#[derive(Debug)]
struct Rtt {
    samples: VecDeque<Duration>,
    stall: Duration,
}

/// Fewer samples say nothing about a 95th percentile.
const MIN_SAMPLES: usize = 8;

impl Rtt {
    fn add(&mut self, sample: Duration) {
        if self.samples.len() == RTT_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        if self.samples.len() >= MIN_SAMPLES {
            let mut sorted: Vec<_> = self.samples.iter().copied().collect();
            let at = (sorted.len() * 95 / 100).min(sorted.len() - 1);
            let (_, p95, _) = sorted.select_nth_unstable(at);
            // A quarter on top, or every twentieth honest answer would come "late".
            self.stall = (*p95 + *p95 / 4).clamp(STALL_MIN, STALL_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_needs_both_the_transaction_and_the_endpoint() {
        let now = Instant::now();
        let mut inflight = InFlight::new([1; 32]);
        let (to, other): (SocketAddr, SocketAddr) =
            ("1.2.3.4:5".parse().unwrap(), "1.2.3.4:6".parse().unwrap());
        let tid = inflight.insert(now, to, None, Duration::from_secs(15), "x").unwrap();
        assert!(inflight.take(now, &tid, other).is_none());
        assert!(inflight.take(now, &tid[..3], to).is_none());
        assert_eq!(inflight.take(now, &tid, to).unwrap().purpose, "x");
        assert!(inflight.take(now, &tid, to).is_none());
        assert_eq!(inflight.next_deadline(), None);
    }

    #[test]
    fn deadlines_come_in_order() {
        let now = Instant::now();
        let mut inflight = InFlight::new([1; 32]);
        let to: SocketAddr = "1.2.3.4:5".parse().unwrap();
        inflight.insert(now, to, None, Duration::from_secs(15), 'b').unwrap();
        inflight.insert(now, to, None, Duration::from_secs(5), 'a').unwrap();
        assert!(inflight.take_expired(now).is_none());
        let late = now + Duration::from_secs(20);
        assert_eq!(inflight.take_expired(late).unwrap().purpose, 'a');
        assert_eq!(inflight.take_expired(late).unwrap().purpose, 'b');
        assert!(inflight.take_expired(late).is_none());
    }

    #[test]
    fn the_stall_follows_the_measured_round_trips() {
        let mut rtt = Rtt { samples: VecDeque::new(), stall: STALL_MAX };
        (0..7).for_each(|_| rtt.add(Duration::from_millis(1)));
        assert_eq!(rtt.stall, STALL_MAX);
        (0..50).for_each(|_| rtt.add(Duration::from_millis(1)));
        assert_eq!(rtt.stall, STALL_MIN);
        (0..64).for_each(|_| rtt.add(Duration::from_millis(400)));
        assert_eq!(rtt.stall, Duration::from_millis(500));
    }

    #[test]
    fn queries_under_way_are_bounded() {
        let mut inflight = InFlight::new([1; 32]);
        let to: SocketAddr = "1.2.3.4:5".parse().unwrap();
        let now = Instant::now();
        let made = (0..5000).filter(|_| inflight.insert(now, to, None, STALL_MAX, ()).is_some()).count();
        assert_eq!(made, MAX_IN_FLIGHT);
    }
}
