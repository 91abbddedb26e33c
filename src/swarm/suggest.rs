//! Which piece a seed would have whom ask for (BEP 6, "Suggest Piece"), so that a first copy of everything is
//! out soon.
//!
//! Rarest first cannot see what others are about to get: where several peers ask one seed for what nobody has
//! yet, some choose the same. A seed knows; it names each piece to one peer. Owns the order of that. Must not
//! know connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::config::{HOARD_AFTER, MAX_GIVEN};
use super::event::PeerKey;
use crate::rng::Rng;
use crate::wire::metainfo::{PieceIndex, PieceLayout};

/// Pieces looked at for one suggestion: past a long run that is out already, the next call goes on.
const MAX_STEPS: u32 = 4096;

/// Pieces passed by for one suggestion because the peer has them itself.
const MAX_PASSED_BY: usize = 64;

/// Each piece once, in an order of its own.
#[derive(Debug)]
pub(super) struct Suggestions {
    layout: PieceLayout,
    start: u32,
    /// Without a common divisor with the number of pieces, so that every piece has its turn.
    stride: u32,
    at: u32,
    /// Named to somebody who did not fetch them. Each piece is named or here once at most.
    returned: Vec<PieceIndex>,
    /// Named to somebody who may still fetch them: [`MAX_NAMED`](super::config::MAX_NAMED) for each peer at most.
    named: BTreeSet<PieceIndex>,
    /// Who has got a piece that it was named, as long as nobody else has it: each piece once at most.
    given: BTreeMap<PieceIndex, (PeerKey, Instant)>,
    /// The latest that were given, at most [`MAX_GIVEN`], oldest first; some have been passed on since.
    given_order: VecDeque<PieceIndex>,
    /// Of these, pieces that are with peers who keep them to themselves: as good as not out.
    hoarded: BTreeSet<PieceIndex>,
    /// All have had their turn, and what is left was found to be out or named.
    over: bool,
}

impl Suggestions {
    pub(super) fn new(layout: PieceLayout, rng: &mut Rng) -> Self {
        let count = layout.count();
        let start = rng.below(count.max(1) as usize) as u32;
        let coprime = |stride: &u32| gcd(*stride, count) == 1;
        let stride = 1 + rng.below(count.max(1) as usize) as u32;
        let stride = (stride..stride.saturating_add(count)).find(coprime).unwrap_or(1);
        Self {
            layout,
            start,
            stride,
            at: 0,
            returned: Vec::new(),
            named: BTreeSet::new(),
            given: BTreeMap::new(),
            given_order: VecDeque::new(),
            hoarded: BTreeSet::new(),
            over: false,
        }
    }

    /// A piece for a peer that nobody else has and nobody is named, as far as can be told; none when all have had their turn.
    /// What others should have instead of the peer, because it keeps it to itself, it `has`.
    pub(super) fn next(
        &mut self,
        availability: impl Fn(PieceIndex) -> u32,
        has: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let mut found = None;
        let mut for_others = Vec::new();
        while found.is_none()
            && for_others.len() < MAX_PASSED_BY
            && let Some(piece) = self.returned.pop()
        {
            if has(piece) && self.hoarded.contains(&piece) {
                for_others.push(piece);
            } else if !self.is_out(piece, &availability) && self.named.insert(piece) {
                found = Some(piece);
            }
        }
        self.returned.extend(for_others);
        if found.is_some() {
            return found;
        }
        let count = self.layout.count();
        for _ in 0..MAX_STEPS {
            self.over |= self.at >= count;
            if self.over {
                return None;
            }
            let index =
                (u64::from(self.start) + u64::from(self.at) * u64::from(self.stride)) % u64::from(count);
            self.at += 1;
            let piece = self.layout.piece(index as u32).filter(|p| !self.is_out(*p, &availability));
            if let Some(piece) = piece.filter(|p| has(*p)) {
                self.returned.push(piece);
                continue;
            }
            if let Some(piece) = piece.filter(|p| self.named.insert(*p)) {
                return Some(piece);
            }
        }
        None
    }

    fn is_out(&self, piece: PieceIndex, availability: impl Fn(PieceIndex) -> u32) -> bool {
        availability(piece) > u32::from(self.hoarded.contains(&piece))
    }

    /// A peer keeps to itself what it was given: others may have it too.
    pub(super) fn reclaim(&mut self, peer: PeerKey) {
        for (&piece, _) in self.given.iter().filter(|(_, (who, _))| *who == peer) {
            if self.hoarded.insert(piece) {
                self.returned.push(piece);
            }
        }
    }

    /// Who was named this piece will not fetch it.
    pub(super) fn give_back(&mut self, piece: PieceIndex) {
        // What is named to several, a super-seed has drawn: it is out already.
        if self.named.remove(&piece) {
            self.returned.push(piece);
        }
    }

    /// Who was named this piece has it, or says so.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.named.remove(&piece);
    }

    /// Who was named this piece has it, and nobody else.
    pub(super) fn gave(&mut self, now: Instant, piece: PieceIndex, to: PeerKey) {
        self.named.remove(&piece);
        self.given.insert(piece, (to, now));
        self.given_order.push_back(piece);
        if self.given_order.len() > MAX_GIVEN
            && let Some(oldest) = self.given_order.pop_front()
        {
            self.given.remove(&oldest);
            self.hoarded.remove(&oldest);
        }
    }

    /// Somebody has got this piece; who had it before, and passed it on as far as can be told.
    pub(super) fn passed_on(&mut self, piece: PieceIndex, by: PeerKey) -> Option<PeerKey> {
        let (giver, _) = *self.given.get(&piece)?;
        if giver == by {
            return None;
        }
        self.hoarded.remove(&piece);
        self.given.remove(&piece);
        Some(giver)
    }

    /// How many pieces each has kept to itself for too long.
    pub(super) fn kept(&self, now: Instant) -> BTreeMap<PeerKey, u32> {
        let mut kept = BTreeMap::new();
        for (who, since) in self.given.values() {
            *kept.entry(*who).or_default() += u32::from(now.saturating_duration_since(*since) >= HOARD_AFTER);
        }
        kept
    }

    /// A peer has gone.
    pub(super) fn on_gone(&mut self, peer: PeerKey) {
        let gone = self.given.extract_if(.., |_, (who, _)| *who == peer);
        gone.for_each(|(piece, _)| {
            self.hoarded.remove(&piece);
        });
    }

    /// Gives each piece another turn, where all have had theirs: who said that they had one may have lied, or gone.
    pub(super) fn start_again(&mut self) {
        if std::mem::take(&mut self.over) {
            self.at = 0;
            // They have their turn with the others.
            self.returned.clear();
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_piece_has_its_turn_once(count in 1u32..3000, seed: u64) {
            let layout = PieceLayout::new(u64::from(count) * 16384, 16384).unwrap();
            let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(seed));
            let mut seen = vec![0; count as usize];
            while let Some(piece) = suggestions.next(|_| 0, |_| false) {
                seen[piece.at()] += 1;
            }
            prop_assert!(seen.iter().all(|n| *n == 1));
        }
    }

    /// A liar who takes every name and says that it has them leaves nothing behind when it goes.
    #[test]
    fn whoever_claims_everything_and_goes_keeps_no_piece_from_others() {
        let layout = PieceLayout::new(10 * 16384, 16384).unwrap();
        let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(1));
        for piece in std::iter::from_fn(|| suggestions.next(|_| 0, |_| false)).collect::<Vec<_>>() {
            suggestions.forget(piece);
        }
        assert_eq!(suggestions.next(|_| 0, |_| false), None);
        suggestions.start_again();
        assert_eq!(std::iter::from_fn(|| suggestions.next(|_| 0, |_| false)).count(), 10);
        // What is named now is not named again.
        suggestions.start_again();
        assert_eq!(suggestions.next(|_| 0, |_| false), None);
    }

    #[test]
    fn what_a_seed_remembers_is_bounded() {
        let layout = PieceLayout::new(100_000 * 16384, 16384).unwrap();
        let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(1));
        let (only, now) = (PeerKey(std::num::NonZeroU32::MIN), Instant::now());
        while let Some(piece) = suggestions.next(|_| 0, |_| false) {
            suggestions.gave(now, piece, only);
        }
        suggestions.reclaim(only);
        let kept = [suggestions.given.len(), suggestions.given_order.len(), suggestions.returned.len()];
        assert_eq!((kept, suggestions.hoarded.len()), ([MAX_GIVEN; 3], MAX_GIVEN));
    }

    #[test]
    fn what_is_out_is_passed_by_and_what_is_given_back_comes_again() {
        let layout = PieceLayout::new(10 * 16384, 16384).unwrap();
        let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(1));
        let even = |p: PieceIndex| u32::from(p.get().is_multiple_of(2));
        let all: Vec<_> = std::iter::from_fn(|| suggestions.next(even, |_| false)).collect();
        assert!(all.len() == 5 && all.iter().all(|p| even(*p) == 0));
        suggestions.give_back(all[2]);
        assert_eq!(
            (suggestions.next(even, |_| false), suggestions.next(even, |_| false)),
            (Some(all[2]), None)
        );
        suggestions.give_back(all[2]);
        assert_eq!(suggestions.next(|_| 1, |_| false), None);
    }
    #[test]
    fn what_a_peer_keeps_to_itself_is_named_again_until_it_is_passed_on() {
        let layout = PieceLayout::new(3 * 16384, 16384).unwrap();
        let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(1));
        let [miser, other] = [1, 2].map(|n| PeerKey(std::num::NonZeroU32::new(n).unwrap()));
        let all: Vec<_> = std::iter::from_fn(|| suggestions.next(|_| 0, |_| false)).collect();
        let now = Instant::now();
        all.iter().for_each(|piece| suggestions.gave(now, *piece, miser));
        assert_eq!((suggestions.kept(now)[&miser], suggestions.kept(now + HOARD_AFTER)[&miser]), (0, 3));
        assert_eq!(suggestions.next(|_| 1, |_| false), None);
        suggestions.reclaim(miser);
        assert_eq!(suggestions.next(|_| 1, |_| true), None, "it has them itself");
        assert_eq!(suggestions.passed_on(all[0], miser), None);
        assert_eq!(suggestions.passed_on(all[0], other), Some(miser));
        let again: BTreeSet<_> = std::iter::from_fn(|| suggestions.next(|_| 1, |_| false)).collect();
        assert_eq!(again, all[1..].iter().copied().collect());
    }
}
