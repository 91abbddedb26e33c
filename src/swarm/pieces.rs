//! Which blocks are had, under way, or free, and whom to ask for which.
//!
//! A piece is given whole to one peer where that peer is fast enough: its blocks then come in order, and are
//! hashed and written without a detour. Slow peers help with pieces others have begun. At the end, busy
//! blocks are asked for twice. Must not know connections or the disk.

use std::collections::{BTreeMap, VecDeque};

use super::config::{ENDGAME_EXTRA, RANDOM_FIRST_PIECES};
use super::event::PeerKey;
use super::picker::{Holds, Picker};
use super::wanted::Wanted;
use crate::peer::Bitfield;
use crate::rng::Rng;
use crate::wire::metainfo::{BLOCK_LEN, PieceIndex, PieceLayout};
use crate::wire::peer::BlockRef;

mod in_order;

pub use self::in_order::Pace;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Free,
    Asked([Option<PeerKey>; 1 + ENDGAME_EXTRA]),
    Here(PeerKey),
}

#[derive(Debug)]
struct Open {
    blocks: Vec<Block>,
    free: u32,
    missing: u32,
    owner: Option<PeerKey>,
    /// After a failed hash: only the owner is asked, so that the next failure has one author.
    exclusive: bool,
}

/// What a peer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Help {
    /// A few blocks of pieces that others have begun.
    Blocks,
    /// Whole pieces.
    Pieces,
    /// The pieces that it suggests, and what has been begun with it.
    Suggested,
}

/// What came of a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Had already, or its piece is not being fetched.
    Duplicate,
    /// Wanted: take the request back from these peers; `complete` when it was the last of its piece.
    Wanted {
        /// Others who were asked for it.
        cancel: Vec<PeerKey>,
        /// Whether the piece can be hashed.
        complete: bool,
    },
}

/// The state of every piece.
#[derive(Debug)]
pub struct Pieces {
    layout: PieceLayout,
    have: Bitfield,
    /// Wanted bytes of the pieces we have.
    verified: u64,
    /// Wanted pieces that we lack.
    missing: u32,
    picker: Picker,
    /// Where wanted pieces are fetched in order.
    course: Option<in_order::Course>,
    open: BTreeMap<PieceIndex, Open>,
    /// Pieces that failed once with several authors.
    suspicious: Vec<PieceIndex>,
}

impl Pieces {
    /// `have` is on disk and verified; what else is wanted is missing.
    pub fn new(layout: PieceLayout, have: Bitfield, wanted: Wanted, rng: &mut Rng) -> Self {
        let missing = layout.pieces().filter(|p| !have.has(p.get()) && wanted.has(*p)).count() as u32;
        let verified = wanted.verified(&layout, &have);
        let course = in_order::Course::new(&layout, &have, &wanted);
        let picker = Picker::new(&layout, &have, wanted, rng);
        let (open, suspicious) = (BTreeMap::new(), Vec::new());
        Self { layout, have, verified, missing, picker, course, open, suspicious }
    }

    /// The pieces we have.
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// What is wanted.
    pub fn wanted(&self) -> &Wanted {
        self.picker.wanted()
    }

    /// Whether this piece is wanted and not here.
    pub fn lacks(&self, piece: PieceIndex) -> bool {
        !self.have.has(piece.get()) && self.wanted().has(piece)
    }

    /// How many wanted pieces are not here.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// Wanted bytes of the pieces we have.
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// Whether we have everything that is wanted.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Whether we have everything there is.
    pub fn is_whole(&self) -> bool {
        self.have.is_complete()
    }

    /// The missing pieces by rarity.
    pub fn picker(&self) -> &Picker {
        &self.picker
    }

    /// The missing pieces by rarity, to be told of what peers have.
    pub fn picker_mut(&mut self) -> &mut Picker {
        &mut self.picker
    }

    /// Chooses up to `count` blocks to ask `peer` for, of `suggested` pieces first; they count as asked.
    pub fn ask(
        &mut self,
        peer: PeerKey,
        held: &impl Holds,
        help: Help,
        suggested: &VecDeque<PieceIndex>,
        count: usize,
        rng: &mut Rng,
    ) -> Vec<BlockRef> {
        let has = |piece| held.has(piece);
        let mut out = Vec::with_capacity(count);
        self.ask_open(peer, has, count, &mut out, |o| o.owner == Some(peer));
        // Before what others have begun and left: it may be had elsewhere, what a seed names may not.
        while out.len() < count {
            let named = suggested.iter().copied().find(|p| self.picker.is_waiting(*p) && has(*p));
            let Some(piece) = named else { break };
            self.begin_for(peer, piece, count, &mut out);
        }
        if help == Help::Suggested {
            self.ask_failed(peer, has, count, &mut out);
            return out;
        }
        self.ask_open(peer, has, count, &mut out, |o| o.owner.is_none());
        if help == Help::Blocks {
            self.ask_open(peer, has, count, &mut out, |o| !o.exclusive);
        } else {
            self.ask_failed(peer, has, count, &mut out);
        }
        while out.len() < count {
            let next = if self.have.ones() < RANDOM_FIRST_PIECES {
                self.picker.any(rng, held)
            } else {
                self.picker.rarest(held, |_| false)
            };
            let Some(piece) = next else { break };
            self.begin_for(peer, piece, count, &mut out);
        }
        // Nobody may help with those: who is slow takes one where nothing else is left.
        self.ask_failed(peer, has, count, &mut out);
        self.ask_open(peer, has, count, &mut out, |o| !o.exclusive);
        out
    }

    /// Chooses up to `count` blocks of these pieces to ask `peer` for, which chokes us; they count as asked.
    pub fn ask_among(&mut self, peer: PeerKey, pieces: &[PieceIndex], count: usize) -> Vec<BlockRef> {
        let mut out = Vec::new();
        for &piece in pieces {
            if out.len() >= count || !self.lacks(piece) {
                continue;
            }
            if !self.open.contains_key(&piece) {
                self.begin(piece);
            }
            let open = self.open.get_mut(&piece);
            let free = open.filter(|o| !o.exclusive || o.owner.is_none_or(|owner| owner == peer));
            if let Some(open) = free {
                open.give(&self.layout, piece, peer, count, &mut out);
            }
        }
        out
    }

    /// Chooses up to `count` blocks that others were asked for and that `peer` may bring sooner: those of
    /// which everyone who was asked is `late`. Where enough were asked, it takes the place of one who is `lost`; such
    /// come second, with what is to be taken back from them.
    pub fn ask_twice(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        late: impl Fn(PeerKey) -> bool,
        lost: impl Fn(PeerKey) -> bool,
        count: usize,
    ) -> (Vec<BlockRef>, Vec<(PeerKey, BlockRef)>) {
        let (mut out, mut replaced) = (Vec::new(), Vec::new());
        for (&piece, open) in self.open.iter_mut().filter(|(p, o)| !o.exclusive && has(**p)) {
            for (index, block) in open.blocks.iter_mut().enumerate() {
                if out.len() >= count {
                    return (out, replaced);
                }
                let Block::Asked(peers) = block else { continue };
                if !peers.iter().flatten().all(|&p| p != peer && late(p)) {
                    continue;
                }
                let free = peers.iter().position(Option::is_none);
                let Some(at) = free.or_else(|| peers.iter().position(|p| p.is_some_and(&lost))) else {
                    continue;
                };
                let block = block_ref(&self.layout, piece, index as u32);
                replaced.extend(peers[at].replace(peer).map(|other| (other, block)));
                out.push(block);
            }
        }
        (out, replaced)
    }

    /// Chooses up to `count` blocks of pieces that failed before, and lie with somebody to whom they are `lost`, given how many
    /// blocks that one has to bring and how many there are, to ask `peer` for: it fetches them from the start, since the next
    /// failure must have one author. With them, what is to be taken back.
    pub fn take_over(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        lost: impl Fn(PeerKey, u32, u32) -> bool,
        count: usize,
    ) -> (Vec<BlockRef>, Vec<(PeerKey, BlockRef)>) {
        let (mut out, mut replaced) = (Vec::new(), Vec::new());
        for (&piece, open) in self.open.iter_mut().filter(|(p, o)| o.exclusive && o.missing > 0 && has(**p)) {
            let (left, all) = (open.missing, open.blocks.len() as u32);
            let idle = open.owner.is_none_or(|owner| owner != peer && lost(owner, left, all));
            if out.len() >= count || !idle {
                continue;
            }
            for (index, block) in open.blocks.iter().enumerate() {
                let Block::Asked(peers) = block else { continue };
                let block = block_ref(&self.layout, piece, index as u32);
                replaced.extend(peers.iter().flatten().map(|other| (*other, block)));
            }
            open.owner = None;
            open.give(&self.layout, piece, peer, count, &mut out);
        }
        (out, replaced)
    }

    /// Whether every block has come; the last pieces are being hashed.
    pub fn nothing_missing(&self) -> bool {
        self.picker.is_empty() && self.open.values().all(|o| o.missing == 0)
    }

    /// Whether every missing block has been asked for, but for those that only one peer may bring.
    pub fn nothing_free(&self) -> bool {
        self.picker.is_empty() && self.open.values().all(|o| o.free == 0 || o.exclusive)
    }

    /// A request will not be answered by this peer.
    pub fn release(&mut self, peer: PeerKey, block: &BlockRef) {
        let Some(piece) = self.layout.piece(block.index) else { return };
        let Some(open) = self.open.get_mut(&piece) else { return };
        if open.owner == Some(peer) {
            open.owner = None;
        }
        if let Some(slot @ Block::Asked(_)) = open.blocks.get_mut((block.begin / BLOCK_LEN) as usize) {
            let Block::Asked(peers) = slot else { return };
            peers.iter_mut().filter(|p| **p == Some(peer)).for_each(|p| *p = None);
            if peers.iter().all(Option::is_none) {
                *slot = Block::Free;
                open.free += 1;
            }
        }
        // A piece nobody has begun goes back, so that rarity decides anew.
        if open.free as usize == open.blocks.len() && !open.exclusive {
            self.open.remove(&piece);
            self.picker.insert(piece);
        }
    }

    /// The peer will bring nothing of what it owns for now: others may finish its pieces.
    pub fn disown(&mut self, peer: PeerKey) {
        for open in self.open.values_mut().filter(|o| o.owner == Some(peer)) {
            open.owner = None;
        }
    }

    /// The peer has lied: what it sent for unfinished pieces is fetched again, before it spoils them. Returns
    /// the bytes thrown away.
    pub fn distrust(&mut self, peer: PeerKey) -> u64 {
        let mut thrown = 0;
        // A piece without missing blocks is being hashed; its hash will tell.
        for (&piece, open) in self.open.iter_mut().filter(|(_, o)| o.missing > 0) {
            for (index, block) in open.blocks.iter_mut().enumerate().filter(|(_, b)| **b == Block::Here(peer))
            {
                *block = Block::Free;
                open.free += 1;
                open.missing += 1;
                thrown += u64::from(self.layout.block_len(piece, index as u32));
            }
        }
        thrown
    }

    /// A block came.
    pub fn on_block(&mut self, peer: PeerKey, piece: PieceIndex, block: u32) -> Received {
        let Some(open) = self.open.get_mut(&piece) else { return Received::Duplicate };
        let Some(slot) = open.blocks.get_mut(block as usize) else { return Received::Duplicate };
        let cancel = match *slot {
            Block::Here(_) => return Received::Duplicate,
            // Late, from a peer that had been given up: as good as any, except where one author is wanted.
            Block::Free if open.exclusive => return Received::Duplicate,
            Block::Free => {
                open.free -= 1;
                Vec::new()
            }
            Block::Asked(peers) if open.exclusive && !peers.contains(&Some(peer)) => {
                return Received::Duplicate;
            }
            Block::Asked(peers) => peers.into_iter().flatten().filter(|p| *p != peer).collect(),
        };
        *slot = Block::Here(peer);
        open.missing -= 1;
        Received::Wanted { cancel, complete: open.missing == 0 }
    }

    /// A piece was hashed. Returns who had sent each of its blocks.
    pub fn on_hashed(&mut self, piece: PieceIndex, valid: bool) -> Vec<PeerKey> {
        let Some(open) = self.open.remove(&piece) else { return Vec::new() };
        let author = |block: &Block| match block {
            Block::Here(peer) => Some(*peer),
            _ => None,
        };
        let authors: Vec<PeerKey> = open.blocks.iter().filter_map(author).collect();
        if valid {
            self.suspicious.retain(|&p| p != piece);
            self.missing -= u32::from(self.lacks(piece));
            if self.have.set(piece.get(), true) {
                self.verified += self.wanted().bytes_of(&self.layout, piece);
            }
            if let Some(course) = &mut self.course {
                course.advance(&self.have);
            }
            return authors;
        }
        if authors.windows(2).any(|two| two[0] != two[1]) && !self.suspicious.contains(&piece) {
            self.suspicious.push(piece);
        }
        self.picker.insert(piece);
        authors
    }

    /// A piece cannot be hashed: it is to be fetched again from anybody. Whether it was waited for.
    pub fn on_lost(&mut self, piece: PieceIndex) -> bool {
        let waited = self.open.remove(&piece).is_some();
        if waited {
            self.picker.insert(piece);
        }
        waited
    }

    /// A piece that failed comes before others: it will tell who lied before more is lost.
    fn ask_failed(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        while out.len() < count {
            let failed = self.suspicious.iter().copied().find(|p| !self.open.contains_key(p) && has(*p));
            let Some(piece) = failed else { return };
            self.begin_for(peer, piece, count, out);
        }
    }

    fn begin_for(&mut self, peer: PeerKey, piece: PieceIndex, count: usize, out: &mut Vec<BlockRef>) {
        self.begin(piece);
        if let Some(open) = self.open.get_mut(&piece) {
            open.give(&self.layout, piece, peer, count, out);
        }
    }

    fn begin(&mut self, piece: PieceIndex) {
        self.picker.remove(piece);
        let count = self.layout.blocks_of(piece);
        let exclusive = self.suspicious.contains(&piece);
        let blocks = vec![Block::Free; count as usize];
        self.open.insert(piece, Open { blocks, free: count, missing: count, owner: None, exclusive });
    }

    /// Takes free blocks of open pieces that pass both tests; an ownerless piece gets this owner. An
    /// exclusive piece never changes hands while it holds a block of somebody else.
    fn ask_open(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        count: usize,
        out: &mut Vec<BlockRef>,
        eligible: impl Fn(&Open) -> bool,
    ) {
        if out.len() >= count {
            return;
        }
        for (&piece, open) in &mut self.open {
            if open.free == 0 || !eligible(open) || !has(piece) {
                continue;
            }
            open.give(&self.layout, piece, peer, count, out);
            if out.len() >= count {
                return;
            }
        }
    }
}

impl Open {
    /// Gives free blocks to a peer, until `out` holds `count`.
    fn give(
        &mut self,
        layout: &PieceLayout,
        piece: PieceIndex,
        peer: PeerKey,
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        // A piece without missing blocks is being hashed, and must not change meanwhile.
        if self.missing == 0 {
            return;
        }
        if self.exclusive && self.owner != Some(peer) {
            self.restart();
        }
        self.owner.get_or_insert(peer);
        for (index, block) in self.blocks.iter_mut().enumerate() {
            if out.len() >= count {
                return;
            }
            if *block == Block::Free {
                let mut peers = [None; 1 + ENDGAME_EXTRA];
                peers[0] = Some(peer);
                *block = Block::Asked(peers);
                self.free -= 1;
                out.push(block_ref(layout, piece, index as u32));
            }
        }
    }

    /// Forgets what is here: an exclusive piece must have one author.
    fn restart(&mut self) {
        self.blocks.fill(Block::Free);
        self.free = self.blocks.len() as u32;
        self.missing = self.free;
    }
}

fn block_ref(layout: &PieceLayout, piece: PieceIndex, block: u32) -> BlockRef {
    BlockRef { index: piece.get(), begin: block * BLOCK_LEN, length: layout.block_len(piece, block) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn peer(n: u32) -> PeerKey {
        PeerKey(NonZeroU32::new(n).unwrap())
    }

    fn everyone(_: PieceIndex) -> bool {
        true
    }

    fn pieces(count: u32) -> (Pieces, Rng) {
        let layout = PieceLayout::new(u64::from(count) * 65536 - 5, 65536).unwrap();
        let mut rng = Rng::from_u64(1);
        (Pieces::new(layout, Bitfield::none(count), Wanted::default(), &mut rng), rng)
    }

    #[test]
    fn a_fast_peer_gets_whole_pieces_and_a_slow_one_helps() {
        let (mut p, mut rng) = pieces(4);
        let first = p.ask(peer(1), &everyone, Help::Pieces, &VecDeque::new(), 3, &mut rng);
        assert!(first.iter().all(|b| b.index == first[0].index));
        let second = p.ask(peer(2), &everyone, Help::Pieces, &VecDeque::new(), 3, &mut rng);
        assert_ne!(second[0].index, first[0].index);
        let slow = p.ask(peer(3), &everyone, Help::Blocks, &VecDeque::new(), 1, &mut rng);
        assert!([first[0].index, second[0].index].contains(&slow[0].index));
    }

    #[test]
    fn the_last_blocks_are_asked_for_twice_and_cancelled() {
        let (mut p, mut rng) = pieces(1);
        let all = p.ask(peer(1), &everyone, Help::Pieces, &VecDeque::new(), 100, &mut rng);
        assert_eq!((all.len(), all[3].length), (4, 16384 - 5));
        assert!(p.nothing_free());
        assert_eq!(p.ask(peer(2), &everyone, Help::Pieces, &VecDeque::new(), 100, &mut rng), []);
        let nobody = |_| false;
        assert_eq!(p.ask_twice(peer(2), |_| true, nobody, nobody, 2).0, []);
        assert_eq!(p.ask_twice(peer(2), |_| true, |_| true, nobody, 2).0, all[..2]);
        let piece = p.layout.piece(0).unwrap();
        let wanted = Received::Wanted { cancel: vec![peer(1)], complete: false };
        assert_eq!(p.on_block(peer(2), piece, 0), wanted);
        assert_eq!(p.on_block(peer(1), piece, 0), Received::Duplicate);
    }

    #[test]
    fn those_who_never_answer_keep_no_block_from_one_who_would() {
        let (mut p, mut rng) = pieces(1);
        let all = p.ask(peer(1), &everyone, Help::Pieces, &VecDeque::new(), 4, &mut rng);
        for silent in 2..=1 + ENDGAME_EXTRA as u32 {
            let (asked, replaced) = p.ask_twice(peer(silent), |_| true, |_| true, |_| false, 4);
            assert!(asked == all && replaced.is_empty());
        }
        let slow = |p| p == peer(1);
        assert_eq!(p.ask_twice(peer(9), |_| true, |_| true, |_| false, 4).0, []);
        let (asked, replaced) = p.ask_twice(peer(9), |_| true, |_| true, |p| !slow(p), 4);
        assert_eq!((asked.len(), replaced[0]), (4, (peer(2), all[0])));
        let piece = p.layout.piece(0).unwrap();
        let Received::Wanted { cancel, .. } = p.on_block(peer(9), piece, 0) else { panic!() };
        assert!(cancel.contains(&peer(1)) && !cancel.contains(&peer(2)));
    }

    #[test]
    fn what_a_liar_sent_for_unfinished_pieces_is_fetched_again() {
        let (mut p, mut rng) = pieces(1);
        let piece = p.layout.piece(0).unwrap();
        p.ask(peer(1), &everyone, Help::Pieces, &VecDeque::new(), 3, &mut rng);
        p.ask(peer(2), &everyone, Help::Blocks, &VecDeque::new(), 1, &mut rng);
        for (who, block) in [(1, 0), (1, 2), (2, 3)] {
            p.on_block(peer(who), piece, block);
        }
        assert_eq!(p.distrust(peer(1)), 2 * 16384);
        p.release(peer(1), &block_ref(&p.layout, piece, 1));
        assert_eq!(p.ask(peer(2), &everyone, Help::Pieces, &VecDeque::new(), 9, &mut rng).len(), 3);
        for block in 0..3 {
            p.on_block(peer(2), piece, block);
        }
        assert_eq!(p.on_hashed(piece, true), [peer(2); 4]);
    }

    #[test]
    fn a_failed_piece_of_two_authors_is_fetched_again_from_one() {
        let (mut p, mut rng) = pieces(1);
        let piece = p.layout.piece(0).unwrap();
        p.ask(peer(1), &everyone, Help::Pieces, &VecDeque::new(), 2, &mut rng);
        p.ask(peer(2), &everyone, Help::Blocks, &VecDeque::new(), 2, &mut rng);
        for (who, block) in [(1, 0), (1, 1), (2, 2), (2, 3)] {
            p.on_block(peer(who), piece, block);
        }
        assert_eq!(p.on_hashed(piece, false), [peer(1), peer(1), peer(2), peer(2)]);
        assert_eq!(p.ask(peer(2), &everyone, Help::Pieces, &VecDeque::new(), 2, &mut rng).len(), 2);
        assert_eq!(p.ask(peer(1), &everyone, Help::Blocks, &VecDeque::new(), 2, &mut rng), []);
        assert_eq!(p.ask_twice(peer(1), |_| true, |_| true, |_| true, 2).0, []);
        assert_eq!(p.on_block(peer(1), piece, 3), Received::Duplicate);
        p.on_block(peer(2), piece, 0);
        // Who has it is asked for the rest, unless nothing comes: another begins anew.
        assert_eq!(p.take_over(peer(3), |_| true, |_, _, _| false, 9), (vec![], vec![]));
        assert!(p.nothing_free());
        let (asked, back) = p.take_over(peer(3), |_| true, |_, _, _| true, 9);
        assert_eq!((asked.len(), back), (4, vec![(peer(2), block_ref(&p.layout, piece, 1))]));
        assert_eq!(p.on_block(peer(2), piece, 1), Received::Duplicate);
        for block in 0..4 {
            p.on_block(peer(3), piece, block);
        }
        // While it is hashed nobody is asked for it, though its owner has choked us.
        p.disown(peer(3));
        assert_eq!(p.ask_among(peer(1), &[piece], 9), []);
        assert_eq!(p.on_block(peer(1), piece, 0), Received::Duplicate);
        assert_eq!(p.on_hashed(piece, true), [peer(3); 4]);
        assert!(p.is_complete());
    }

    proptest! {
        /// Whatever peers do, everything is fetched, each block is wanted once, none while its piece is hashed, and the
        /// counts hold.
        #[test]
        fn everything_is_fetched_whatever_peers_do(seed: u64, kinds in prop::collection::vec(0u8..14, 1..600)) {
            let (mut p, _) = pieces(6);
            let mut rng = Rng::from_u64(seed);
            let mut asked: Vec<(PeerKey, BlockRef)> = Vec::new();
            let mut hashing: Vec<PieceIndex> = Vec::new();
            let mut step = |p: &mut Pieces, kind: u8, rng: &mut Rng| {
                let who = peer(1 + rng.below(3) as u32);
                match kind {
                    0..=2 => {
                        let blocks = p.ask(who, &everyone, if kind == 0 { Help::Pieces } else { Help::Blocks }, &VecDeque::new(), 3, rng);
                        asked.extend(blocks.into_iter().map(|b| (who, b)));
                    }
                    3 => {
                        for over in [false, true] {
                            let (blocks, replaced) = match over {
                                false => p.ask_twice(who, |_| true, |_| true, |_| true, 1),
                                true => p.take_over(who, |_| true, |_, _, _| true, 2),
                            };
                            asked.retain(|one| !replaced.contains(one));
                            asked.extend(blocks.into_iter().map(|b| (who, b)));
                        }
                    }
                    4 if !asked.is_empty() => {
                        let (who, block) = asked.swap_remove(rng.below(asked.len()));
                        p.release(who, &block);
                    }
                    8 => {
                        let piece = p.layout.piece(rng.below(6) as u32).unwrap();
                        asked.extend(p.ask_among(who, &[piece], 3).into_iter().map(|b| (who, b)));
                    }
                    9 => p.disown(who),
                    10 => _ = p.distrust(who),
                    11..=12 if !hashing.is_empty() => {
                        let piece = hashing.swap_remove(rng.below(hashing.len()));
                        p.on_hashed(piece, !rng.chance(0.4));
                    }
                    _ if !asked.is_empty() => {
                        let (who, block) = asked.swap_remove(rng.below(asked.len()));
                        let piece = p.layout.piece(block.index).unwrap();
                        if let Received::Wanted { complete, .. } = p.on_block(who, piece, block.begin / BLOCK_LEN) {
                            assert!(!hashing.contains(&piece), "changed while it is hashed");
                            hashing.extend(complete.then_some(piece));
                        }
                    }
                    _ => {}
                }
                for open in p.open.values() {
                    let free = open.blocks.iter().filter(|b| **b == Block::Free).count();
                    let here = open.blocks.iter().filter(|b| matches!(b, Block::Here(_))).count();
                    assert_eq!((open.free as usize, open.missing as usize), (free, open.blocks.len() - here));
                }
            };
            for kind in kinds {
                step(&mut p, kind, &mut rng);
            }
            for _ in 0..20_000 {
                if p.is_complete() { break }
                step(&mut p, 1, &mut rng);
                step(&mut p, 7, &mut rng);
                step(&mut p, 11, &mut rng);
            }
            prop_assert!(p.is_complete());
            prop_assert_eq!(p.verified(), p.layout.total());
        }
    }
}
