//! Which piece a seed would have whom ask for (BEP 6, "Suggest Piece"), so that a first copy of everything is
//! out soon.
//!
//! Rarest first cannot see what others are about to get: where several peers ask one seed for what nobody has
//! yet, some choose the same. A seed knows; it names each piece to one peer. Owns the order of that. Must not
//! know connections.

use std::collections::BTreeSet;

use crate::rng::Rng;
use crate::wire::metainfo::{PieceIndex, PieceLayout};

/// Pieces looked at for one suggestion: past a long run that is out already, the next call goes on.
const MAX_STEPS: u32 = 4096;

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
        Self { layout, start, stride, at: 0, returned: Vec::new(), named: BTreeSet::new(), over: false }
    }

    /// A piece that nobody has and nobody is named, as far as can be told; none when all have had their turn.
    pub(super) fn next(&mut self, is_out: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        while let Some(piece) = self.returned.pop() {
            if !is_out(piece) && self.named.insert(piece) {
                return Some(piece);
            }
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
            let piece = self.layout.piece(index as u32).filter(|p| !is_out(*p));
            if let Some(piece) = piece.filter(|p| self.named.insert(*p)) {
                return Some(piece);
            }
        }
        None
    }

    /// Who was named this piece will not fetch it.
    pub(super) fn give_back(&mut self, piece: PieceIndex) {
        self.named.remove(&piece);
        self.returned.push(piece);
    }

    /// Who was named this piece has it, or says so.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.named.remove(&piece);
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
            while let Some(piece) = suggestions.next(|_| false) {
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
        for piece in std::iter::from_fn(|| suggestions.next(|_| false)).collect::<Vec<_>>() {
            suggestions.forget(piece);
        }
        assert_eq!(suggestions.next(|_| false), None);
        suggestions.start_again();
        assert_eq!(std::iter::from_fn(|| suggestions.next(|_| false)).count(), 10);
        // What is named now is not named again.
        suggestions.start_again();
        assert_eq!(suggestions.next(|_| false), None);
    }

    #[test]
    fn what_is_out_is_passed_by_and_what_is_given_back_comes_again() {
        let layout = PieceLayout::new(10 * 16384, 16384).unwrap();
        let mut suggestions = Suggestions::new(layout, &mut Rng::from_u64(1));
        let even = |p: PieceIndex| p.get().is_multiple_of(2);
        let all: Vec<_> = std::iter::from_fn(|| suggestions.next(even)).collect();
        assert!(all.len() == 5 && all.iter().all(|p| !even(*p)));
        suggestions.give_back(all[2]);
        assert_eq!((suggestions.next(even), suggestions.next(even)), (Some(all[2]), None));
        suggestions.give_back(all[2]);
        assert_eq!(suggestions.next(|_| true), None);
    }
}
