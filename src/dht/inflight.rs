//! Queries under way.
//!
//! Owns transaction ids and their deadlines, and feeds the [`Pace`]. Must not know what a query was
//! for: its purpose is the caller's and comes back with the outcome. A reply counts only if it carries
//! the transaction id, comes from the very endpoint that was asked, and has the id that was expected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::MAX_IN_FLIGHT;
use super::pace::Pace;
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
    pace: Pace,
}

impl<P> InFlight<P> {
    /// None under way; answers are taken to come as that says until some were measured.
    pub fn new(seed: [u8; 32], pace: Pace) -> Self {
        let (queries, deadlines) = (BTreeMap::new(), BTreeSet::new());
        Self { rng: Rng::from_seed(seed), queries, deadlines, pace }
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
        self.pace.add(now.saturating_duration_since(query.sent));
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

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// How long answers take.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_needs_both_the_transaction_and_the_endpoint() {
        let now = Instant::now();
        let mut inflight = InFlight::new([1; 32], Pace::default());
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
        let mut inflight = InFlight::new([1; 32], Pace::default());
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
    fn queries_under_way_are_bounded() {
        let mut inflight = InFlight::new([1; 32], Pace::default());
        let to: SocketAddr = "1.2.3.4:5".parse().unwrap();
        let now = Instant::now();
        let made = (0..MAX_IN_FLIGHT + 9)
            .filter(|_| inflight.insert(now, to, None, Duration::from_secs(1), ()).is_some())
            .count();
        assert_eq!(made, MAX_IN_FLIGHT);
    }
}
