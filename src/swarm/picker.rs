//! Rarest first: missing pieces in the order of how many peers have them, kept incrementally.
//!
//! Pieces of high priority stand apart and come first; pieces that nobody wants stand nowhere. Peers that have
//! everything are not counted: they change every piece alike. A change of one count is a swap; nothing is ever sorted
//! or scanned over all pieces. Must not know blocks or peers.

use super::wanted::{Priority, Wanted};
use crate::peer::Bitfield;
use crate::rng::Rng;
use crate::wire::metainfo::{PieceIndex, PieceLayout};

const ABSENT: u32 = u32::MAX;

/// Pieces that nobody works on yet: by priority, then rarest first, in random order among equals.
#[derive(Debug)]
pub struct Picker {
    wanted: Wanted,
    ranks: [Rank; Priority::COUNT],
    /// Where a piece stands in the order of its rank; `ABSENT` for pieces that are had, under way or not wanted.
    position: Vec<u32>,
    availability: Vec<u32>,
}

/// The pieces of one priority.
#[derive(Debug, Default)]
struct Rank {
    /// Missing pieces, by availability.
    order: Vec<PieceIndex>,
    /// `ends[a]`: one past the last piece in `order` with availability `a`.
    ends: Vec<u32>,
}

impl Picker {
    /// All wanted pieces that are not in `have` missing and unseen, in random order.
    pub fn new(layout: &PieceLayout, have: &Bitfield, wanted: Wanted, rng: &mut Rng) -> Self {
        let mut ranks: [Rank; Priority::COUNT] = Default::default();
        for piece in layout.pieces().filter(|p| !have.has(p.get()) && wanted.has(*p)) {
            ranks[wanted.priority(piece) as usize].order.push(piece);
        }
        let mut position = vec![ABSENT; layout.count() as usize];
        for rank in &mut ranks {
            rng.shuffle(&mut rank.order);
            for (at, piece) in rank.order.iter().enumerate() {
                position[piece.at()] = at as u32;
            }
            rank.ends.push(rank.order.len() as u32);
        }
        Self { wanted, ranks, position, availability: vec![0; layout.count() as usize] }
    }

    /// What is wanted at all.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether every missing piece is under way.
    pub fn is_empty(&self) -> bool {
        self.ranks.iter().all(|rank| rank.order.is_empty())
    }

    /// One more peer has this piece.
    pub fn increment(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.at()];
        self.availability[piece.at()] = a + 1;
        if self.is_waiting(piece) {
            let rank = &mut self.ranks[self.wanted.priority(piece) as usize];
            rank.grow_ends(a + 1);
            let last = rank.ends[a as usize] - 1;
            rank.swap_to(&mut self.position, piece, last);
            rank.ends[a as usize] = last;
        }
    }

    /// One peer less has this piece.
    pub fn decrement(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.at()];
        if a == 0 {
            return;
        }
        self.availability[piece.at()] = a - 1;
        if self.is_waiting(piece) {
            let rank = &mut self.ranks[self.wanted.priority(piece) as usize];
            let first = rank.ends[a as usize - 1];
            rank.swap_to(&mut self.position, piece, first);
            rank.ends[a as usize - 1] = first + 1;
        }
    }

    /// The piece is being worked on or had.
    pub fn remove(&mut self, piece: PieceIndex) {
        if !self.is_waiting(piece) {
            return;
        }
        let rank = &mut self.ranks[self.wanted.priority(piece) as usize];
        for a in self.availability[piece.at()] as usize..rank.ends.len() {
            let last = rank.ends[a] - 1;
            rank.swap_to(&mut self.position, piece, last);
            rank.ends[a] = last;
        }
        rank.order.pop();
        self.position[piece.at()] = ABSENT;
    }

    /// The piece is missing again, where it is wanted.
    pub fn insert(&mut self, piece: PieceIndex) {
        if self.is_waiting(piece) || !self.wanted.has(piece) {
            return;
        }
        let availability = self.availability[piece.at()];
        let rank = &mut self.ranks[self.wanted.priority(piece) as usize];
        rank.grow_ends(availability);
        self.position[piece.at()] = rank.order.len() as u32;
        rank.order.push(piece);
        for a in (availability as usize..rank.ends.len()).rev() {
            rank.ends[a] += 1;
            let below = if a == 0 { 0 } else { rank.ends[a - 1] };
            if a as u32 > availability {
                rank.swap_to(&mut self.position, piece, below);
            }
        }
    }

    /// How many peers have this piece, beside those that have everything.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.availability[piece.at()]
    }

    /// Whether it is wanted, and nobody has or fetches it.
    pub fn is_waiting(&self, piece: PieceIndex) -> bool {
        self.position[piece.at()] != ABSENT
    }

    /// The rarest piece that passes `has`, of the highest priority that has one.
    pub fn rarest(&self, has: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.ranks.iter().flat_map(|rank| &rank.order).copied().find(|&p| has(p))
    }

    /// A random piece that passes `has`, or the rarest after a few vain draws.
    pub fn any(&self, rng: &mut Rng, has: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        let first = self.ranks.iter().find(|rank| !rank.order.is_empty())?;
        let draws = (0..16).filter_map(|_| rng.choose(&first.order).copied());
        draws.into_iter().find(|&p| has(p)).or_else(|| self.rarest(has))
    }
}

impl Rank {
    fn grow_ends(&mut self, availability: u32) {
        while self.ends.len() <= availability as usize {
            self.ends.push(self.order.len() as u32);
        }
    }

    fn swap_to(&mut self, position: &mut [u32], piece: PieceIndex, target: u32) {
        let from = position[piece.at()];
        self.order.swap(from as usize, target as usize);
        let moved = self.order[from as usize];
        position[moved.at()] = from;
        position[piece.at()] = target;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::metainfo::PieceLayout;
    use proptest::prelude::*;

    fn is_sound(p: &Picker) -> bool {
        let rank_is_sound = |(number, rank): (usize, &Rank)| {
            let own = rank.order.iter().all(|i| p.wanted.has(*i) && p.wanted.priority(*i) as usize == number);
            let sorted = rank.order.is_sorted_by_key(|i| p.availability[i.at()]);
            let placed = rank.order.iter().enumerate().all(|(at, i)| p.position[i.at()] == at as u32);
            let ends = (0..rank.ends.len()).all(|a| {
                let below = rank.order.iter().filter(|i| p.availability[i.at()] as usize <= a);
                rank.ends[a] as usize == below.count()
            });
            own && sorted && placed && ends
        };
        p.ranks.iter().enumerate().all(rank_is_sound)
    }

    proptest! {
        #[test]
        fn order_holds_under_any_changes(
            changes in prop::collection::vec((0u8..4, 0u32..20), 0..200),
            wanted: [bool; 20],
            high: [bool; 20],
        ) {
            let layout = PieceLayout::new(20 * 16384, 16384).unwrap();
            let wanted = Wanted::of_pieces(&wanted, &high);
            let mut waits: Vec<bool> = layout.pieces().map(|p| wanted.has(p)).collect();
            let mut picker = Picker::new(&layout, &Bitfield::none(20), wanted, &mut Rng::from_u64(1));
            for (what, index) in changes {
                let piece = layout.piece(index).unwrap();
                match what {
                    0 => picker.increment(piece),
                    1 => picker.decrement(piece),
                    2 => picker.remove(piece),
                    _ => picker.insert(piece),
                }
                waits[piece.at()] = match what {
                    2 => false,
                    3 => picker.wanted.has(piece),
                    _ => waits[piece.at()],
                };
                prop_assert!(is_sound(&picker));
                prop_assert!(layout.pieces().all(|p| picker.is_waiting(p) == waits[p.at()]));
                let first = layout.pieces().filter(|p| waits[p.at()]);
                let first = first.min_by_key(|p| (picker.wanted.priority(*p), picker.availability(*p)));
                let key = |p: PieceIndex| (picker.wanted.priority(p), picker.availability(p));
                prop_assert_eq!(picker.rarest(|_| true).map(key), first.map(key));
            }
        }
    }

    #[test]
    fn the_rarest_comes_first() {
        let layout = PieceLayout::new(5 * 16384, 16384).unwrap();
        let none = Bitfield::none(5);
        let mut picker = Picker::new(&layout, &none, Wanted::default(), &mut Rng::from_u64(1));
        let rare = layout.piece(3).unwrap();
        layout.pieces().filter(|&p| p != rare).for_each(|p| picker.increment(p));
        assert_eq!(picker.rarest(|_| true), Some(rare));
        picker.remove(rare);
        assert_ne!(picker.rarest(|_| true), Some(rare));
        assert_eq!(picker.rarest(|_| false), None);
    }
}
