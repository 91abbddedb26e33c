//! Rarest first: missing pieces in the order of how many peers have them, kept incrementally.
//!
//! Pieces of high priority stand apart and come first; pieces that nobody wants stand nowhere. Peers that have
//! everything are not counted: they change every piece alike. A change of one count is a swap; nothing is ever sorted
//! or scanned over all pieces. Where the rarest of a large torrent are not with a peer, what it has is compared with what is
//! missing, 64 pieces at a step. Must not know blocks or peers.

use super::wanted::{Priority, Wanted};
use crate::peer::Bitfield;
use crate::rng::Rng;
use crate::wire::metainfo::{PieceIndex, PieceLayout};

const ABSENT: u32 = u32::MAX;
/// Pieces looked at one by one for the rarest that a peer has: all there are, but in very large torrents.
const LOOKS: usize = 4096;

/// Who has which pieces.
pub trait Holds {
    /// Whether it has this one.
    fn has(&self, piece: PieceIndex) -> bool;

    /// All that it has, where it is counted in the availability and has not everything.
    fn field(&self) -> Option<&Bitfield> {
        None
    }
}

impl<F: Fn(PieceIndex) -> bool> Holds for F {
    fn has(&self, piece: PieceIndex) -> bool {
        self(piece)
    }
}

/// Pieces that nobody works on yet: by priority, then rarest first, in random order among equals.
#[derive(Debug)]
pub struct Picker {
    wanted: Wanted,
    ranks: [Rank; Priority::COUNT],
    /// Where a piece stands in the order of its rank; `ABSENT` for pieces that are had, under way or not wanted.
    position: Vec<u32>,
    /// The pieces that stand anywhere.
    waiting: Bitfield,
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
        let mut waiting = Bitfield::none(layout.count());
        for rank in &mut ranks {
            rng.shuffle(&mut rank.order);
            for (at, piece) in rank.order.iter().enumerate() {
                position[piece.at()] = at as u32;
                waiting.set(piece.get(), true);
            }
            rank.ends.push(rank.order.len() as u32);
        }
        Self { wanted, ranks, position, waiting, availability: vec![0; layout.count() as usize] }
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
        self.waiting.set(piece.get(), false);
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
        self.waiting.set(piece.get(), true);
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

    /// The rarest piece that a peer has, of the highest priority that has one; but for those that are to be left out. Where
    /// the first thousands are not with it, the rarest of the next few that are.
    pub fn rarest(&self, peer: &impl Holds, out: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        let fits = |p: &PieceIndex| peer.has(*p) && !out(*p);
        let Some(field) = peer.field() else {
            return self.ranks.iter().flat_map(|rank| &rank.order).copied().find(fits);
        };
        let (all, waiting) = (self.waiting.len(), &self.waiting);
        // Most vain searches end here.
        waiting.common(field, 0, all).next()?;
        // What nobody is counted for, it has not.
        let seen = |rank: &Rank| rank.ends.first().map_or(0, |end| *end as usize);
        let mut rarest = self.ranks.iter().flat_map(|rank| &rank.order[seen(rank)..]).copied();
        if let Some(piece) = rarest.by_ref().take(LOOKS).find(fits) {
            return Some(piece);
        }
        // Where the order would go on: it is as random as any place.
        let from = rarest.next()?.get();
        let common = waiting.common(field, from, all).chain(waiting.common(field, 0, from));
        let few = common.filter_map(|index| self.wanted_piece(index)).filter(fits).take(LOOKS);
        few.min_by_key(|p| (self.wanted.priority(*p), self.availability[p.at()]))
    }

    /// A random piece that a peer has, or the rarest after a few vain draws.
    pub fn any(&self, rng: &mut Rng, peer: &impl Holds) -> Option<PieceIndex> {
        let first = self.ranks.iter().find(|rank| !rank.order.is_empty())?;
        let draws = (0..16).filter_map(|_| rng.choose(&first.order).copied());
        draws.into_iter().find(|&p| peer.has(p)).or_else(|| self.rarest(peer, |_| false))
    }

    /// A piece that stands somewhere, by its number.
    fn wanted_piece(&self, index: u32) -> Option<PieceIndex> {
        let at = *self.position.get(index as usize)? as usize;
        let named = |rank: &Rank| rank.order.get(at).copied().filter(|p| p.get() == index);
        self.ranks.iter().find_map(named)
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
    use std::collections::BTreeSet;

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
                prop_assert_eq!(picker.rarest(&|_: PieceIndex| true, |_| false).map(key), first.map(key));
                // A peer that is counted.
                let mut held = Bitfield::none(20);
                let counted = layout.pieces().filter(|p| picker.availability(*p) > 0 && p.get() % 3 != 1);
                counted.for_each(|p| {
                    held.set(p.get(), true);
                });
                let first = layout.pieces().filter(|p| waits[p.at()] && held.has(p.get()));
                let first = first.min_by_key(|p| (picker.wanted.priority(*p), picker.availability(*p)));
                let held = Few(held, std::cell::Cell::new(0));
                prop_assert_eq!(picker.rarest(&held, |_| false).map(key), first.map(key));
            }
        }
    }

    /// Some of two million pieces, and how often anybody asked for one.
    struct Few(Bitfield, std::cell::Cell<usize>);

    impl Holds for Few {
        fn has(&self, piece: PieceIndex) -> bool {
            self.1.set(self.1.get() + 1);
            self.0.has(piece.get())
        }

        fn field(&self) -> Option<&Bitfield> {
            Some(&self.0)
        }
    }

    /// Of two million pieces, those that a peer has are found without a look at all the others that are as rare or rarer.
    #[test]
    fn a_peer_with_few_of_many_pieces_is_no_work() {
        const COUNT: u32 = 2_000_000;
        let layout = PieceLayout::new(u64::from(COUNT) * 16384, 16384).unwrap();
        let none = Bitfield::none(COUNT);
        let mut picker = Picker::new(&layout, &none, Wanted::default(), &mut Rng::from_u64(1));
        let mut few = Few(none, std::cell::Cell::new(0));
        let chosen = [5, 70_000, 1_234_567, COUNT - 1].map(|p| layout.piece(p).unwrap());
        for piece in layout.pieces() {
            picker.increment(piece);
        }
        for piece in chosen {
            few.0.set(piece.get(), true);
            picker.increment(piece);
        }
        picker.increment(chosen[0]);
        let mut found = BTreeSet::new();
        while let Some(piece) = picker.rarest(&few, |_| false) {
            assert!(few.1.replace(0) <= 2 * LOOKS);
            assert!(piece != chosen[0] || found.len() == 3, "the commonest comes last");
            picker.remove(piece);
            found.insert(piece);
        }
        assert!(few.1.get() <= 2 * LOOKS, "a vain search is no work either");
        assert_eq!(found, BTreeSet::from(chosen));
    }

    #[test]
    fn the_rarest_comes_first() {
        let layout = PieceLayout::new(5 * 16384, 16384).unwrap();
        let none = Bitfield::none(5);
        let mut picker = Picker::new(&layout, &none, Wanted::default(), &mut Rng::from_u64(1));
        let rare = layout.piece(3).unwrap();
        layout.pieces().filter(|&p| p != rare).for_each(|p| picker.increment(p));
        assert_eq!(picker.rarest(&|_: PieceIndex| true, |_| false), Some(rare));
        picker.remove(rare);
        assert_ne!(picker.rarest(&|_: PieceIndex| true, |_| false), Some(rare));
        assert_eq!(picker.rarest(&|_: PieceIndex| false, |_| false), None);
    }
}
