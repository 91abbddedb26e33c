//! Fetching in order: what each peer is good for, as `pieces::in_order` wants to know it.

use std::time::{Duration, Instant};

use super::config::LATE_AFTER;
use super::endgame::is_late;
use super::event::PeerKey;
use super::member::Member;
use super::pieces::Pace;
use super::swarm::Swarm;
use crate::wire::metainfo::BLOCK_LEN;
use crate::wire::peer::BlockRef;

impl Swarm {
    /// Whoever reads has come so far: as much more may be fetched.
    pub(super) fn on_consumed(&mut self, to: u64) {
        if let Some(pieces) = &mut self.pieces {
            pieces.on_consumed(to);
            self.refill = true;
        }
    }

    /// Chooses what to ask a peer for that lets us.
    pub(super) fn ask_in_order(&mut self, now: Instant, key: PeerKey, room: usize) -> Vec<BlockRef> {
        let (Some(pieces), Some(member)) = (&mut self.pieces, self.members.get(&key)) else {
            return Vec::new();
        };
        let window = Duration::from_secs(5);
        let requests = member.requests();
        let rate = |m: &Member| m.down.per_second(now, window);
        let pace = Pace {
            own: if member.stalled { 1 } else { rate(member) },
            best: self.members.values().map(rate).max().unwrap_or(0),
            all: self.down.per_second(now, window),
            backlog: requests as u64 * u64::from(BLOCK_LEN),
            received: self.down.total(),
        };
        let own = member.time_for(now, 1);
        let late = |other| is_late(self.members.get(&other), now, own, LATE_AFTER);
        pieces.ask_in_order(key, &member.has, pace, late, room)
    }
}
