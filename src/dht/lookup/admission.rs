//! Who becomes a candidate: of whom there may be how many.

use std::net::SocketAddr;

use super::{Candidate, Lookup, State};
use crate::dht::config::{
    Config, MAX_CANDIDATES, MAX_PER_SUBNET, UNPROVEN_PER_IP, UNPROVEN_PER_SUBNET, subnet,
};
use crate::id::Distance;

impl Lookup {
    /// Lets go of somebody where there are too many: of one who failed, of the farthest who is not asked or is
    /// silent, or of one who is silent; of nobody who is nearer and may still answer.
    pub(super) fn make_room(&mut self, distance: Option<Distance>) -> bool {
        if self.candidates.len() < MAX_CANDIDATES {
            return true;
        }
        let last = |state: fn(State) -> bool| self.candidates.iter().rposition(|c| state(c.state));
        let farther = last(|s| matches!(s, State::New | State::Stalled))
            .filter(|&at| self.candidates[at].distance(&self.target) > distance);
        let out = last(|s| s == State::Failed).or(farther).or_else(|| last(|s| s == State::Stalled));
        out.map(|at| self.candidates.remove(at)).is_some()
    }

    /// Whether an address may be asked beside those that are. Some more than may answer in the end, since a liar may
    /// have named addresses next to somebody's to keep him out.
    pub(super) fn is_diverse(&self, addr: SocketAddr, config: &Config) -> bool {
        if !config.wants_diversity(addr.ip()) {
            return true;
        }
        let hopeful = |c: &&Candidate| !matches!(c.state, State::Failed | State::Stalled);
        let (mut of_ip, mut of_net) = (0, 0);
        for c in self.candidates.iter().filter(hopeful).filter(|c| c.id.is_some()) {
            of_ip += usize::from(c.place.ip() == addr.ip());
            of_net += usize::from(subnet(c.place.ip()) == subnet(addr.ip()));
        }
        of_ip < UNPROVEN_PER_IP && of_net < UNPROVEN_PER_SUBNET && self.is_proven_diverse(addr, config)
    }

    /// Whether an answer from there would be one too many: one an address counts, and few a subnet.
    pub(super) fn is_proven_diverse(&self, addr: SocketAddr, config: &Config) -> bool {
        if !config.wants_diversity(addr.ip()) {
            return true;
        }
        let others = || self.candidates.iter().filter(|c| c.state == State::Answered && c.addr() != addr);
        let of_net = others().filter(|c| subnet(c.place.ip()) == subnet(addr.ip())).count();
        of_net < MAX_PER_SUBNET && others().all(|c| c.place.ip() != addr.ip())
    }
}
