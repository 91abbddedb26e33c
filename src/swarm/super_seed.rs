//! Super-seeding (BEP 16): a seed that says it has nothing, and shows each peer a piece or two. Who wants more has to pass
//! those on first, so that one copy of everything leaves a slow uplink about once. Whoever had to wait until others said that they
//! have them is shown more at a time: each one passed on counts one, so that the number doubles with each round, up to a bound.
//!
//! The order of the pieces is that of `suggest`. Ends by itself when copies enough are out.

use std::collections::BTreeSet;
use std::time::Instant;

use super::config::{
    MAX_LATE_HAVES, MAX_SUPER_AHEAD, SUPER_AHEAD, SUPER_AHEAD_BYTES, SUPER_COPIES, SUPER_PATIENCE,
};
use super::event::{CloseReason, PeerKey};
use super::member::Member;
use super::suggest::Suggestions;
use super::swarm::Swarm;
use crate::id::PeerId;
use crate::wire::metainfo::{PieceIndex, PieceLayout};
use crate::wire::peer::Message;

/// Pieces drawn to find one that is rare, once all are out.
const DRAWS: usize = 16;

/// How far it is.
#[derive(Debug)]
pub(super) struct SuperSeed {
    wanted: bool,
    /// Peers that were complete, and have been let go; [`SUPER_COPIES`] are enough to know.
    seeds_met: BTreeSet<PeerId>,
}

/// Pieces shown ahead to a peer that has had a slot.
fn ahead(layout: &PieceLayout, member: &Member) -> usize {
    let at_first = ((SUPER_AHEAD_BYTES / layout.piece_length()) as usize).max(SUPER_AHEAD);
    (at_first + member.shown_more).min(MAX_SUPER_AHEAD)
}

impl SuperSeed {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, seeds_met: BTreeSet::new() }
    }
}

impl Swarm {
    /// Whether we have everything and do not say so.
    pub(super) fn is_super_seeding(&self) -> bool {
        self.super_seed.wanted && self.pieces.as_ref().is_some_and(|p| p.is_whole())
    }

    /// A peer may have everything, and goes. The same one, come again, is no other copy; one that has a part, and wants no more,
    /// is none at all.
    pub(super) fn on_seed_met(&mut self, key: PeerKey) {
        let complete = self.members.get(&key).filter(|m| m.has.is_complete());
        if let Some(id) = complete.and_then(Member::peer_id)
            && self.super_seed.seeds_met.len() < SUPER_COPIES
        {
            self.super_seed.seeds_met.insert(id);
        }
    }

    /// Shows a peer what it may ask for next.
    pub(super) fn show(&mut self, now: Instant, key: PeerKey) {
        while let Some(piece) = self.next_to_show(now, key) {
            let Some(member) = self.members.get_mut(&key) else { return };
            let Some(conn) = member.conn.as_mut() else { return };
            conn.send(&Message::Have(piece.get()));
            member.named.push(piece);
            member.shown_at = now;
        }
    }

    fn next_to_show(&mut self, now: Instant, key: PeerKey) -> Option<PieceIndex> {
        let (info, pieces) = (self.info.as_ref()?, self.pieces.as_ref()?);
        let layout = *info.layout();
        let member = self.members.get(&key).filter(|m| m.is_open() && !m.has.is_complete())?;
        let choked = member.conn.as_ref().is_none_or(|c| c.is_choking());
        let wants = member.conn.as_ref().is_some_and(|c| c.is_peer_interested());
        // One to become interested; more where there is a slot, or was one until it had all it was shown.
        let once = choked && (wants || member.up.total() == 0);
        let most = if once { 1 } else { ahead(&layout, member) };
        if member.named.len() >= most {
            return None;
        }
        let in_vain =
            member.named.is_empty() && now.saturating_duration_since(member.shown_at) >= SUPER_PATIENCE;
        let suggestions = self.suggestions.get_or_insert_with(|| Suggestions::new(layout, &mut self.rng));
        if let Some(piece) = suggestions.next(|p| pieces.picker().availability(p), |p| member.has.piece(p)) {
            return Some(piece);
        }
        if choked {
            // Without anything to ask for it would never get a slot.
            return if in_vain { self.rare_for(key) } else { None };
        }
        self.shown_in_vain(key).or_else(|| self.rare_for(key))
    }

    /// What was shown to a peer that has no slot; it may still ask for it when it gets one.
    fn shown_in_vain(&mut self, key: PeerKey) -> Option<PieceIndex> {
        let waits = |m: &Member| m.conn.as_ref().is_some_and(|c| c.is_choking());
        let for_key = self.members.get(&key)?;
        let free = |other: &Member, p: PieceIndex| {
            !other.has.piece(p) && !for_key.has.piece(p) && !for_key.named.contains(&p)
        };
        let find = |(k, m): (&PeerKey, &Member)| Some((*k, m.named.iter().position(|p| free(m, *p))?));
        let (other, at) = self.members.iter().filter(|(_, m)| waits(m)).find_map(find)?;
        Some(self.members.get_mut(&other)?.named.swap_remove(at))
    }

    /// Once all are out: the rarest of a few that the peer lacks.
    fn rare_for(&mut self, key: PeerKey) -> Option<PieceIndex> {
        let (layout, pieces) = (*self.info.as_ref()?.layout(), self.pieces.as_ref()?);
        let member = self.members.get(&key)?;
        let lacks = |p: &PieceIndex| !member.has.piece(*p) && !member.named.contains(p);
        let draws = (0..DRAWS).filter_map(|_| layout.piece(self.rng.below(layout.count() as usize) as u32));
        draws.filter(lacks).min_by_key(|p| pieces.picker().availability(*p))
    }

    /// A peer has got a piece: whoever was shown it and passed it on is shown the next.
    pub(super) fn on_seen(&mut self, now: Instant, by: PeerKey, piece: PieceIndex) {
        // Who was shown it too may have it from us.
        let itself = self.members.get(&by).is_some_and(|m| m.named.contains(&piece));
        let passed = |(key, m): (&PeerKey, &Member)| (*key != by && m.named.contains(&piece)).then_some(*key);
        let passed: Vec<PeerKey> = self.members.iter().filter_map(passed).collect();
        for key in passed {
            let waited = |m: &&mut Member| !itself && m.shown_held > 0 && m.has.piece(piece);
            if let Some(member) = self.members.get_mut(&key).filter(waited) {
                member.shown_held -= 1;
                member.shown_more += 1;
            }
            self.show_next(now, key, piece);
        }
        let taken = itself && !self.lacks_somebody(by, piece);
        let Some(member) = self.members.get_mut(&by).filter(|_| itself) else { return };
        if taken {
            // There is nobody to pass it on to.
            member.shown_more = (member.shown_more + 1).min(MAX_SUPER_AHEAD);
            return self.show_next(now, by, piece);
        }
        let waits = member.named.iter().all(|p| member.has.piece(*p));
        member.shown_held = if waits { member.named.len() } else { 0 };
    }

    /// Whether anybody else is here who could take this piece from `peer`.
    fn lacks_somebody(&self, peer: PeerKey, piece: PieceIndex) -> bool {
        let takes = |m: &Member| {
            m.is_open() && !m.has.piece(piece) && m.conn.as_ref().is_some_and(|c| !c.is_upload_only())
        };
        self.members.iter().any(|(key, m)| *key != peer && takes(m))
    }

    fn show_next(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.named.retain(|p| *p != piece);
        let choked = member.conn.as_ref().is_some_and(|c| c.is_choking());
        if let Some(suggestions) = &mut self.suggestions {
            match choked && !member.has.piece(piece) {
                true => suggestions.give_back(piece),
                false => suggestions.forget(piece),
            }
        }
        self.show(now, key);
        self.flush(now, key);
    }

    /// Once a second: nobody waits for ever for others to take what it has.
    pub(super) fn check_shown(&mut self, now: Instant) {
        if !self.is_super_seeding() {
            return;
        }
        for key in self.keys() {
            self.forget_passed_on(key);
            let Some(member) = self.members.get(&key).filter(|m| m.is_open()) else { continue };
            let late = now.saturating_duration_since(member.shown_at) >= SUPER_PATIENCE;
            let served = member.conn.as_ref().is_some_and(|c| !c.is_choking());
            // Who is not served keeps one to ask for, and no more from others.
            let spare = served || member.named.len() > 1;
            let stuck = member.named.iter().copied().find(|p| late && (spare || member.has.piece(*p)));
            match stuck {
                Some(piece) => self.show_next(now, key, piece),
                None => self.show(now, key),
            }
        }
    }

    /// What a peer has and others had already when it was shown, or nobody is here to take: nobody will say of it that it was
    /// passed on.
    fn forget_passed_on(&mut self, key: PeerKey) {
        let named = self.members.get(&key).map(|m| m.named.clone()).unwrap_or_default();
        let alone: Vec<PieceIndex> = named.into_iter().filter(|p| !self.lacks_somebody(key, *p)).collect();
        let (Some(pieces), Some(member)) = (&self.pieces, self.members.get_mut(&key)) else { return };
        let has = &member.has;
        let known =
            |p: &mut PieceIndex| has.piece(*p) && (pieces.picker().availability(*p) > 1 || alone.contains(p));
        for piece in member.named.extract_if(.., known) {
            self.suggestions.iter_mut().for_each(|s| s.forget(piece));
        }
    }

    /// At each round of choking: ends when copies enough are out.
    pub(super) fn check_copies(&mut self, now: Instant) {
        let (true, Some(info), Some(pieces)) = (self.is_super_seeding(), &self.info, &self.pieces) else {
            return;
        };
        let met = self.super_seed.seeds_met.len();
        let out = |piece| pieces.picker().availability(piece) as usize + met >= SUPER_COPIES;
        if !info.layout().pieces().all(out) {
            return;
        }
        self.super_seed.wanted = false;
        // What an ordinary seed names begins anew.
        self.suggestions = None;
        self.members.values_mut().for_each(|m| m.named.clear());
        let layout = *info.layout();
        for key in self.keys() {
            let Some(member) = self.members.get_mut(&key).filter(|m| m.is_open()) else { continue };
            let lacks: Vec<u32> =
                layout.pieces().filter(|p| !member.has.piece(*p)).map(PieceIndex::get).collect();
            if lacks.len() > MAX_LATE_HAVES as usize {
                self.close(now, key, CloseReason::Refresh);
                continue;
            }
            let Some(conn) = self.conn(key) else { continue };
            lacks.iter().for_each(|&index| conn.send(&Message::Have(index)));
            conn.announce_upload_only();
            self.flush(now, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::swarm::tests::{PIECES, drain, info, join, seed_with};

    fn haves(said: &[Message]) -> Vec<u32> {
        said.iter().filter_map(|m| if let Message::Have(p) = m { Some(*p) } else { None }).collect()
    }

    fn has(swarm: &mut Swarm, now: Instant, key: PeerKey, piece: u32) {
        let mut bytes = Vec::new();
        Message::Have(piece).emit(&mut bytes);
        swarm.handle(now, crate::swarm::Input::Received(key, bytes.into()));
    }

    #[test]
    fn a_piece_is_shown_to_each_and_the_next_when_it_was_passed_on() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| config.super_seed = true);
        let first = join(&mut swarm, 1, now);
        let (said, _) = drain(&mut swarm, first, false);
        assert!(said.contains(&Message::HaveNone), "{said:?}");
        let shown = haves(&said);
        assert_eq!(shown.len(), SUPER_AHEAD);
        let second = join(&mut swarm, 2, now);
        let (said, _) = drain(&mut swarm, second, false);
        assert!(haves(&said).iter().all(|p| !shown.contains(p)), "{said:?}");
        // It has it, and nobody else does.
        has(&mut swarm, now, first, shown[0]);
        assert!(haves(&drain(&mut swarm, first, true).0).is_empty());
        has(&mut swarm, now, second, shown[0]);
        assert_eq!(haves(&drain(&mut swarm, first, true).0).len(), 1);
        // Nobody takes the other one: it does not wait for ever.
        has(&mut swarm, now, first, shown[1]);
        let late = now + SUPER_PATIENCE;
        swarm.handle_timeout(late);
        assert_eq!(haves(&drain(&mut swarm, first, true).0).len(), 1);
    }

    /// Who is alone has nobody to pass anything on to.
    #[test]
    fn a_single_peer_is_shown_piece_after_piece() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| config.super_seed = true);
        let only = join(&mut swarm, 1, now);
        let mut got = Vec::new();
        while got.len() < PIECES as usize {
            let piece = swarm.members[&only].named.first().map(|p| p.get()).expect("the next one is shown");
            has(&mut swarm, now, only, piece);
            got.push(piece);
        }
        assert!(!swarm.members.contains_key(&only), "complete, and gone");
    }

    /// Nor has he whose only company leaves.
    #[test]
    fn who_is_left_alone_waits_for_nobody() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| config.super_seed = true);
        let [left, goes] = [1, 2].map(|id| join(&mut swarm, id, now));
        let shown: Vec<u32> = swarm.members[&left].named.iter().map(|p| p.get()).collect();
        shown.iter().for_each(|piece| has(&mut swarm, now, left, *piece));
        assert!(swarm.members[&left].named.iter().all(|p| shown.contains(&p.get())));
        swarm.handle(now, crate::swarm::Input::Closed(goes));
        swarm.handle_timeout(now + crate::swarm::config::TICK);
        assert!(swarm.members[&left].named.iter().all(|p| !shown.contains(&p.get())));
        assert!(!swarm.members[&left].named.is_empty());
    }

    #[test]
    fn who_waits_until_others_have_it_is_shown_more_at_a_time() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| config.super_seed = true);
        let keys = [1, 2].map(|id| join(&mut swarm, id, now));
        drain(&mut swarm, keys[1], false);
        let mut counts = Vec::new();
        for _ in 0..3 {
            let shown: Vec<u32> = swarm.members[&keys[0]].named.iter().map(|p| p.get()).collect();
            counts.push(shown.len());
            // It gets all of them, says so, and has nothing to ask for; then the other one has them.
            shown.iter().for_each(|piece| has(&mut swarm, now, keys[0], *piece));
            shown.iter().for_each(|piece| has(&mut swarm, now, keys[1], *piece));
        }
        assert_eq!(counts, [SUPER_AHEAD, 2 * SUPER_AHEAD, 4 * SUPER_AHEAD]);
        // Whoever has something left to ask for does not wait.
        let shown: Vec<u32> = swarm.members[&keys[0]].named.iter().map(|p| p.get()).collect();
        for piece in &shown[1..] {
            has(&mut swarm, now, keys[0], *piece);
            has(&mut swarm, now, keys[1], *piece);
        }
        assert_eq!(ahead(info().layout(), &swarm.members[&keys[0]]), 8 * SUPER_AHEAD);
    }

    #[test]
    fn a_newcomer_without_a_slot_is_shown_something_in_the_end_though_all_is_out() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| {
            config.super_seed = true;
            // Nobody gets a slot.
            config.upload_limit = Some(0);
        });
        let first = join(&mut swarm, 1, now);
        let second = join(&mut swarm, 2, now);
        let last = haves(&drain(&mut swarm, second, false).0);
        assert_eq!(last.len(), 1);
        (0..PIECES).filter(|p| *p != last[0]).for_each(|piece| has(&mut swarm, now, first, piece));
        let third = join(&mut swarm, 3, now);
        assert!(haves(&drain(&mut swarm, third, false).0).is_empty());
        swarm.handle_timeout(now + SUPER_PATIENCE);
        assert_eq!(haves(&drain(&mut swarm, third, true).0).len(), 1);
    }

    #[test]
    fn it_ends_when_copies_enough_are_out() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |config| config.super_seed = true);
        let keys = [1, 2, 3].map(|id| join(&mut swarm, id, now));
        drain(&mut swarm, keys[2], false);
        for key in &keys[..SUPER_COPIES] {
            (0..PIECES - 1).for_each(|piece| has(&mut swarm, now, *key, piece));
            has(&mut swarm, now, *key, PIECES - 1);
        }
        let later = now + crate::swarm::config::CHOKE_ROUND;
        swarm.handle_timeout(later);
        let told = haves(&drain(&mut swarm, keys[2], true).0);
        assert!((0..PIECES).all(|p| told.contains(&p)), "{told:?}");
        assert!(!swarm.is_super_seeding());
        let new = join(&mut swarm, 4, later);
        assert!(drain(&mut swarm, new, false).0.contains(&Message::HaveAll));
    }
}
