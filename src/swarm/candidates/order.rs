//! Who among the candidates is next, in every order that is asked for, kept as they change: swarms of thousands name
//! thousands, and dials fail by the hundred.
//!
//! Owns nothing but these orders and counts. Must not know why a candidate changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{Candidate, State};
use crate::swarm::event::Origin;

/// Who has failed least, then whom who is nearest to us named, then by rank.
type Turn = (u32, Origin, Reverse<u32>, SocketAddr);

/// Every candidate stands in each order that concerns it, as it is.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// May be dialled, best first.
    due: BTreeSet<Turn>,
    /// May be dialled later, soonest first.
    resting: BTreeSet<(Instant, SocketAddr)>,
    /// Could not be reached and may go, the worst last.
    failed: BTreeSet<(u32, Origin, SocketAddr)>,
    /// How many each peer has named.
    named_by: BTreeMap<IpAddr, usize>,
    /// How many peers have named.
    named: usize,
}

impl Order {
    /// Takes up a candidate, which must not change before it is struck off.
    pub(super) fn list(&mut self, addr: SocketAddr, candidate: &Candidate) {
        match candidate.state {
            State::Idle { not_before: None } => drop(self.due.insert(turn(addr, candidate))),
            State::Idle { not_before: Some(at) } => drop(self.resting.insert((at, addr))),
            State::Busy => {}
        }
        if candidate.may_go() {
            self.failed.insert((candidate.failures, candidate.origin, addr));
        }
        self.named += usize::from(candidate.origin == Origin::Pex);
        if let Some(by) = candidate.named_by {
            *self.named_by.entry(by).or_default() += 1;
        }
    }

    /// Strikes off a candidate that is as it was when it was listed.
    pub(super) fn strike(&mut self, addr: SocketAddr, candidate: &Candidate) {
        match candidate.state {
            State::Idle { not_before: None } => drop(self.due.remove(&turn(addr, candidate))),
            State::Idle { not_before: Some(at) } => drop(self.resting.remove(&(at, addr))),
            State::Busy => {}
        }
        self.failed.remove(&(candidate.failures, candidate.origin, addr));
        self.named -= usize::from(candidate.origin == Origin::Pex);
        if let Some(by) = candidate.named_by
            && let Some(count) = self.named_by.get_mut(&by)
        {
            *count -= 1;
            if *count == 0 {
                self.named_by.remove(&by);
            }
        }
    }

    /// Whom to dial next, of those that need not rest.
    pub(super) fn next(&self) -> Option<SocketAddr> {
        self.due.first().map(|turn| turn.3)
    }

    /// Somebody who has rested by now.
    pub(super) fn rested(&self, now: Instant) -> Option<SocketAddr> {
        self.resting.first().filter(|(at, _)| *at <= now).map(|(_, addr)| *addr)
    }

    /// Who could not be reached, the worst first.
    pub(super) fn worst(&self) -> impl Iterator<Item = SocketAddr> {
        self.failed.iter().rev().map(|(_, _, addr)| *addr)
    }

    /// How many peers have named, and nobody else has.
    pub(super) fn named(&self) -> usize {
        self.named
    }

    /// How many of them this one has.
    pub(super) fn named_by(&self, by: IpAddr) -> usize {
        self.named_by.get(&by).copied().unwrap_or_default()
    }
}

fn turn(addr: SocketAddr, candidate: &Candidate) -> Turn {
    (candidate.failures, candidate.origin, Reverse(candidate.rank), addr)
}
