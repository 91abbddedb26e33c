//! One node in a search: where it is, what was asked of it and what came of that.
//!
//! Must not know the other candidates; the lookup decides.

use std::net::SocketAddr;
use std::time::Instant;

use super::config::Config;
use super::quorum::Region;
use crate::id::{Distance, NodeId};

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

/// A node that was named, or an address to start from.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// None sorts first: an address to start from may be anywhere.
    pub(super) distance: Option<Distance>,
    pub(super) id: Option<NodeId>,
    /// Whether the id follows from the address, or need not.
    pub(super) is_bound: bool,
    /// Where it is, if that says anything.
    pub(super) region: Option<Region>,
    pub(super) addr: SocketAddr,
    pub(super) state: State,
    /// What asking it first costs, for one that has answered us before.
    pub(super) cost: Option<i64>,
    /// When it was last asked.
    pub(super) sent: Instant,
    /// When its last query stalls, or did.
    pub(super) stalls_at: Instant,
    pub(super) attempts: u8,
    /// When its answer about the nodes beside the target stalls.
    pub(super) aside: Option<Instant>,
    /// Whether it was asked for those.
    pub(super) was_aside: bool,
    /// Whether it must be asked, however far it is.
    pub(super) required: bool,
    pub(super) hop: u32,
    pub(super) token: Option<Box<[u8]>>,
}

impl Candidate {
    /// Whether it has not proven dead or silent.
    pub(super) fn is_hopeful(&self) -> bool {
        !matches!(self.state, State::Failed | State::Stalled)
    }
}

/// Private networks have no regions.
pub(super) fn region(addr: SocketAddr, config: &Config) -> Option<Region> {
    config.wants_diversity(addr.ip()).then(|| Region::of(addr.ip()))
}

/// One that has not been asked.
pub(super) fn candidate(
    now: Instant,
    distance: Option<Distance>,
    id: Option<NodeId>,
    addr: SocketAddr,
    hop: u32,
) -> Candidate {
    let (state, token) = (State::New, None);
    Candidate {
        distance,
        id,
        is_bound: false,
        region: None,
        addr,
        state,
        cost: None,
        sent: now,
        stalls_at: now,
        attempts: 0,
        aside: None,
        was_aside: false,
        required: false,
        hop,
        token,
    }
}
