//! Rarest first: missing pieces in the order of how many peers have them, kept incrementally.
//!
//! Peers that have everything are not counted: they change every piece alike. A change of one count is a
//! swap; nothing is ever sorted or scanned over all pieces. Must not know blocks or peers.

use crate::rng::Rng;
use crate::wire::metainfo::PieceIndex;

const ABSENT: u32 = u32::MAX;

/// Pieces that nobody works on yet, rarest first, in random order among equals.
#[derive(Debug)]
pub struct Picker {
    /// Missing pieces, by availability.
    order: Vec<PieceIndex>,
    /// Where a piece stands in `order`; `ABSENT` for pieces that are had or under way.
    position: Vec<u32>,
    availability: Vec<u32>,
    /// `ends[a]`: one past the last piece in `order` with availability `a`.
    ends: Vec<u32>,
}

impl Picker {
    /// All of `pieces` missing and unseen, in random order. `count` is the number of pieces of the torrent.
    pub fn new(count: u32, pieces: impl Iterator<Item = PieceIndex>, rng: &mut Rng) -> Self {
        let mut order: Vec<PieceIndex> = pieces.collect();
        rng.shuffle(&mut order);
        let mut position = vec![ABSENT; count as usize];
        for (at, piece) in order.iter().enumerate() {
            position[piece.at()] = at as u32;
        }
        let ends = vec![order.len() as u32];
        Self { order, position, availability: vec![0; count as usize], ends }
    }

    /// Whether every missing piece is under way.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// One more peer has this piece.
    pub fn increment(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.at()];
        self.availability[piece.at()] = a + 1;
        self.grow_ends(a + 1);
        if self.position[piece.at()] != ABSENT {
            let last = self.ends[a as usize] - 1;
            self.swap_to(piece, last);
            self.ends[a as usize] = last;
        }
    }

    /// One peer less has this piece.
    pub fn decrement(&mut self, piece: PieceIndex) {
        let a = self.availability[piece.at()];
        if a == 0 {
            return;
        }
        self.availability[piece.at()] = a - 1;
        if self.position[piece.at()] != ABSENT {
            let first = self.ends[a as usize - 1];
            self.swap_to(piece, first);
            self.ends[a as usize - 1] = first + 1;
        }
    }

    /// The piece is being worked on or had.
    pub fn remove(&mut self, piece: PieceIndex) {
        if self.position[piece.at()] == ABSENT {
            return;
        }
        for a in self.availability[piece.at()] as usize..self.ends.len() {
            let last = self.ends[a] - 1;
            self.swap_to(piece, last);
            self.ends[a] = last;
        }
        self.order.pop();
        self.position[piece.at()] = ABSENT;
    }

    /// The piece is missing again.
    pub fn insert(&mut self, piece: PieceIndex) {
        if self.position[piece.at()] != ABSENT {
            return;
        }
        self.position[piece.at()] = self.order.len() as u32;
        self.order.push(piece);
        for a in (self.availability[piece.at()] as usize..self.ends.len()).rev() {
            self.ends[a] += 1;
            let below = if a == 0 { 0 } else { self.ends[a - 1] };
            if a as u32 > self.availability[piece.at()] {
                self.swap_to(piece, below);
            }
        }
    }

    /// How many peers have this piece, beside those that have everything.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.availability[piece.at()]
    }

    /// Whether nobody has or fetches this piece.
    pub fn is_waiting(&self, piece: PieceIndex) -> bool {
        self.position[piece.at()] != ABSENT
    }

    /// The rarest piece that passes `has`.
    pub fn rarest(&self, has: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.order.iter().copied().find(|&p| has(p))
    }

    /// A random piece that passes `has`, or the rarest after a few vain draws.
    pub fn any(&self, rng: &mut Rng, has: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        let draws = (0..16).filter_map(|_| rng.choose(&self.order).copied());
        draws.into_iter().find(|&p| has(p)).or_else(|| self.rarest(has))
    }

    /// How many peers that have not everything have this piece.
    #[cfg(test)]
    pub fn availability_of(&self, piece: PieceIndex) -> u32 {
        self.availability[piece.at()]
    }

    fn grow_ends(&mut self, availability: u32) {
        while self.ends.len() <= availability as usize {
            self.ends.push(self.order.len() as u32);
        }
    }

    fn swap_to(&mut self, piece: PieceIndex, target: u32) {
        let from = self.position[piece.at()];
        self.order.swap(from as usize, target as usize);
        let moved = self.order[from as usize];
        self.position[moved.at()] = from;
        self.position[piece.at()] = target;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::metainfo::PieceLayout;
    use proptest::prelude::*;

    fn is_sound(p: &Picker) -> bool {
        let sorted = p.order.is_sorted_by_key(|i| p.availability[i.at()]);
        let placed = p.order.iter().enumerate().all(|(at, i)| p.position[i.at()] == at as u32);
        let ends = (0..p.ends.len()).all(|a| {
            p.ends[a] as usize == p.order.iter().filter(|i| p.availability[i.at()] as usize <= a).count()
        });
        sorted && placed && ends
    }

    proptest! {
        #[test]
        fn order_holds_under_any_changes(changes in prop::collection::vec((0u8..4, 0u32..20), 0..200)) {
            let layout = PieceLayout::new(20 * 16384, 16384).unwrap();
            let mut picker = Picker::new(20, layout.pieces(), &mut Rng::from_u64(1));
            for (what, index) in changes {
                let piece = layout.piece(index).unwrap();
                match what {
                    0 => picker.increment(piece),
                    1 => picker.decrement(piece),
                    2 => picker.remove(piece),
                    _ => picker.insert(piece),
                }
                prop_assert!(is_sound(&picker));
            }
        }
    }

    #[test]
    fn the_rarest_comes_first() {
        let layout = PieceLayout::new(5 * 16384, 16384).unwrap();
        let mut picker = Picker::new(5, layout.pieces(), &mut Rng::from_u64(1));
        let rare = layout.piece(3).unwrap();
        layout.pieces().filter(|&p| p != rare).for_each(|p| picker.increment(p));
        assert_eq!(picker.rarest(|_| true), Some(rare));
        picker.remove(rare);
        assert_ne!(picker.rarest(|_| true), Some(rare));
        assert_eq!(picker.rarest(|_| false), None);
    }
}
