//! The end of a fetch: who is asked for what others were asked for, and who can be relied on.
//!
//! The last blocks are under way somewhere, some of them with peers that send nothing. Whoever is idle and brings blocks
//! may have them; whoever sends nothing must not keep them, nor take them from each other in turn. Must not know which
//! blocks there are: `pieces` does.

use std::time::{Duration, Instant};

use super::config::{ENDGAME_AFTER, ENDGAME_DEPTH, MUTE_BLOCKS, QUEUE_TIME, STRIKE_REST};
use super::event::PeerKey;
use super::member::Member;
use super::swarm::Swarm;
use crate::wire::metainfo::BLOCK_LEN;

/// Whether what a peer was asked for comes so late that another, who needs `own` for one block more, may be asked for it
/// too: after `least`, and after twice that time. Who is gone is late.
pub(super) fn is_late(other: Option<&Member>, now: Instant, own: Duration, least: Duration) -> bool {
    other.is_none_or(|o| o.backlog(now, 0) >= least.max(own.saturating_mul(2)))
}

impl Member {
    /// How long what it was asked for, and `more` blocks, will take at its rate; for ever where nothing comes.
    pub(super) fn backlog(&self, now: Instant, more: usize) -> Duration {
        let Some(conn) = self.conn.as_ref().filter(|_| !self.stalled) else { return Duration::MAX };
        let bytes = (conn.requests() + more) as u64 * u64::from(BLOCK_LEN);
        let rate = self.down.per_second(now, Duration::from_secs(2));
        if self.is_mute(now) {
            let silent = self.mute_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            if silent.as_secs_f64() * rate as f64 >= MUTE_BLOCKS * f64::from(BLOCK_LEN) {
                return Duration::MAX;
            }
        } else if rate == 0 && now.saturating_duration_since(self.last_block) < ENDGAME_AFTER {
            // Only just asked.
            return Duration::ZERO;
        }
        bytes.saturating_mul(1000).checked_div(rate).map_or(Duration::MAX, Duration::from_millis)
    }

    /// How long so many blocks more would take it. Who is asked for nothing, and has been for a while, is about as fast as
    /// when it last sent; that is no certainty, so that it is not said to be faster than what is asked ahead.
    pub(super) fn time_for(&self, now: Instant, blocks: usize) -> Duration {
        let time = self.backlog(now, blocks);
        let idle = self.requests() == 0 && !self.stalled && self.mute_since.is_none();
        if time < Duration::MAX || !idle {
            return time;
        }
        self.backlog(self.last_block.min(now), blocks).max(QUEUE_TIME)
    }

    /// Whether it should have sent something by now, and has not: asked anew, it is no better.
    pub(super) fn is_mute(&self, now: Instant) -> bool {
        let answer = ENDGAME_AFTER.max(2 * self.round_trip.min(QUEUE_TIME));
        self.mute_since.is_some_and(|since| now.saturating_duration_since(since) >= answer)
    }

    /// What it was asked for has come from another, or it chokes us: it owes no more, unless it did not send when it could.
    pub(super) fn excuse(&mut self, now: Instant, chokes: bool) {
        let owes = !chokes && self.conn.as_ref().is_some_and(|c| c.requests() > 0);
        if !owes && !self.is_mute(now) {
            self.mute_since = None;
        }
    }

    /// It would not answer what it was asked: others come first for a while, which doubles each time.
    pub(super) fn strike(&mut self, now: Instant) {
        if self.rests_until.is_none_or(|t| t <= now) {
            self.rests_until = Some(now + STRIKE_REST * (1 << self.strikes.min(5)));
            self.strikes += 1;
        }
    }
}

impl Swarm {
    /// Endgame: an idle peer is asked for what slower ones were asked for.
    pub(super) fn ask_twice(&mut self, now: Instant, key: PeerKey) {
        let (Some(pieces), Some(member)) = (&mut self.pieces, self.members.get(&key)) else { return };
        let requests = member.requests();
        // Half a second's worth: what is asked twice comes twice where the cancel is late.
        let soon = member.down.per_second(now, Duration::from_secs(5)) as usize / 2 / BLOCK_LEN as usize;
        let room = soon.clamp(1, ENDGAME_DEPTH).min(member.depth).saturating_sub(requests);
        if room == 0 || member.stalled || !pieces.nothing_free() {
            return;
        }
        let own = member.time_for(now, 1);
        let idle = requests == 0;
        let late = |other| is_late(self.members.get(&other), now, own, ENDGAME_AFTER);
        // Who sends nothing at all, however many they are, must not keep a block from one who would.
        let mute = member.is_mute(now);
        let lost =
            |other| !mute && self.members.get(&other).is_none_or(|o| o.backlog(now, 0) == Duration::MAX);
        let has = |piece| member.has.piece(piece);
        let (mut blocks, mut replaced) = pieces.ask_twice(key, has, late, lost, room);
        if member.proven {
            // It fetches the whole piece: worth it only where that is twice as fast as the rest is.
            let slow = |other, left: u32, all: u32| {
                let rest = |o: &Member| o.backlog(now, (left as usize).saturating_sub(o.requests()));
                let all = member.time_for(now, all as usize).max(ENDGAME_AFTER);
                lost(other) || self.members.get(&other).is_none_or(|o| rest(o) > all.saturating_mul(2))
            };
            let (more, back) = pieces.take_over(key, has, slow, room.saturating_sub(blocks.len()));
            blocks.extend(more);
            replaced.extend(back);
        }
        for (other, block) in replaced {
            // Otherwise those who send nothing would take it from each other for ever.
            self.members.get_mut(&other).into_iter().for_each(|m| m.strike(now));
            if let Some(conn) = self.conn(other) {
                conn.cancel(block);
            }
            self.flush(now, other);
        }
        let Some(member) = self.members.get_mut(&key).filter(|_| !blocks.is_empty()) else { return };
        if idle {
            // It has only just been asked.
            member.last_block = now;
        }
        let Some(conn) = member.conn.as_mut() else { return };
        member.mute_since.get_or_insert(now);
        for block in blocks {
            conn.request(block);
        }
    }
}
