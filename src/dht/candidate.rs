//! One node in a search: where it is, what was asked of it and what came of that.
//!
//! Must not know the other candidates; the lookup decides.

use std::net::SocketAddr;

use super::config::Config;
use super::moment::{Moment, Place};
use super::quorum::Region;
use crate::id::{Distance, Id160, NodeId};

/// How far it is with a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Waiting,
    /// Silent for too long, not given up.
    Stalled,
    Answered,
    Failed,
}

/// A node that was named, or an address to start from. Each answer leads to several looks over all of a search, so
/// what is here is kept small.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// When it was last asked.
    pub(super) sent: Moment,
    /// When its last query stalls, or did.
    pub(super) stalls_at: Moment,
    /// When its answer about the nodes beside the target stalls.
    pub(super) aside: Option<Moment>,
    pub(super) token: Option<Box<[u8]>>,
    /// What asking it first costs, for one that has answered us before.
    pub(super) cost: Option<i32>,
    /// None: an address to start from may be anywhere.
    pub(super) id: Option<NodeId>,
    pub(super) place: Place,
    pub(super) state: State,
    pub(super) attempts: u8,
    pub(super) hop: u8,
    /// Whether the id follows from the address, or need not.
    pub(super) is_bound: bool,
    /// Whether it says anything in which part of the address space it is.
    pub(super) has_region: bool,
    /// Whether it was asked for the nodes beside the target.
    pub(super) was_aside: bool,
    /// Whether it must be asked, however far it is.
    pub(super) required: bool,
}

impl Candidate {
    /// Whether it has not proven dead or silent.
    pub(super) fn is_hopeful(&self) -> bool {
        !matches!(self.state, State::Failed | State::Stalled)
    }

    /// How far from the target it is; None sorts first.
    pub(super) fn distance(&self, target: &Id160) -> Option<Distance> {
        self.id.map(|id| id.distance(target))
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.place.addr()
    }

    /// Where it is, if that says anything.
    pub(super) fn region(&self) -> Option<Region> {
        self.has_region.then(|| Region::of(self.place.ip()))
    }
}

/// Private networks have no regions.
pub(super) fn has_region(addr: SocketAddr, config: &Config) -> bool {
    config.wants_diversity(addr.ip())
}

/// One that has not been asked.
pub(super) fn candidate(now: Moment, id: Option<NodeId>, addr: SocketAddr, hop: u8) -> Candidate {
    Candidate {
        sent: now,
        stalls_at: now,
        aside: None,
        token: None,
        cost: None,
        id,
        place: addr.into(),
        state: State::New,
        attempts: 0,
        hop,
        is_bound: false,
        has_region: false,
        was_aside: false,
        required: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_stays_small() {
        assert!(size_of::<Candidate>() <= 96, "{}", size_of::<Candidate>());
    }
}
