//! Collects the info dictionary from several peers at once (BEP 9).
//!
//! One block table for each size that peers claim: a liar about the size holds up only itself. The SHA-1
//! decides. Where blocks of several peers together fail, each peer is then tried alone, so that the liar
//! is known. Memory is committed as blocks arrive. Must not know connections or the payload.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::config::{MAX_METADATA_HELD, MAX_METADATA_SIZES, METADATA_DEPTH};
use super::event::PeerKey;
use crate::id::InfoHash;
use crate::wire::extended::METADATA_BLOCK_LEN;
use crate::wire::metainfo::{MAX_METADATA_BYTES, hash_of};

/// A block is asked for elsewhere after at least this long.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// The wait is at most this, whatever the round trip.
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(5);
/// The same peer is not asked for the same block again before this, twice as long each time: TCP loses nothing, and a slow
/// peer in a crowd would send each block many times.
const SAME_PEER_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How often that doubles.
const MAX_DOUBLINGS: u32 = 4;
/// A peer that rejected is left alone for this long.
const REJECTED_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Ask {
    peer: PeerKey,
    /// From when on another peer may be asked.
    again_at: Instant,
    /// From when on the same peer may be asked.
    same_at: Instant,
    /// How often it was asked before.
    repeats: u32,
}

impl Ask {
    fn is_over(&self, for_peer: PeerKey, now: Instant) -> bool {
        if self.peer == for_peer { self.same_at <= now } else { self.again_at <= now }
    }
}

#[derive(Debug, Clone, Default)]
struct Block {
    data: Option<(Bytes, PeerKey)>,
    ask: Option<Ask>,
}

#[derive(Debug)]
struct Table {
    size: u32,
    blocks: Vec<Block>,
    /// After a mixed failure: only this peer is asked.
    alone: Option<PeerKey>,
}

#[derive(Debug)]
struct Claimant {
    size: u32,
    round_trip: Duration,
    not_before: Option<Instant>,
    /// It was asked for something: what it sends may be an answer that comes late.
    asked: bool,
}

/// What came of a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not asked for, or here already.
    Ignored,
    /// Kept; more are missing.
    Stored,
    /// The whole dictionary, authentic.
    Complete(Bytes),
    /// All blocks are here and do not hash; these peers have lied. Empty while the liar is still sought.
    Failed(Vec<PeerKey>),
    /// A block that contradicts the peer's own claim.
    Violation,
}

/// The collection.
#[derive(Debug)]
pub struct Metadata {
    wanted: InfoHash,
    tables: BTreeMap<u32, Table>,
    claimants: BTreeMap<PeerKey, Claimant>,
    held: usize,
}

impl Metadata {
    /// Nothing collected yet.
    pub fn new(wanted: InfoHash) -> Self {
        Self { wanted, tables: BTreeMap::new(), claimants: BTreeMap::new(), held: 0 }
    }

    /// A peer offers a dictionary of `size` bytes; false where that is impossible or one size too many.
    pub fn claim(&mut self, peer: PeerKey, size: u64, round_trip: Duration) -> bool {
        if size == 0 || size > MAX_METADATA_BYTES as u64 {
            return false;
        }
        let size = size as u32;
        if let Some(known) = self.claimants.get(&peer) {
            return known.size == size;
        }
        if !self.tables.contains_key(&size) {
            if self.tables.len() >= MAX_METADATA_SIZES && !self.make_room(size) {
                return false;
            }
            let blocks = vec![Block::default(); size.div_ceil(METADATA_BLOCK_LEN) as usize];
            self.tables.insert(size, Table { size, blocks, alone: None });
        }
        self.claimants.insert(peer, Claimant { size, round_trip, not_before: None, asked: false });
        true
    }

    /// The blocks to ask this peer for now; they count as asked.
    pub fn ask(&mut self, peer: PeerKey, now: Instant) -> Vec<u32> {
        let Some(size) = self.claimants.get(&peer).map(|c| c.size) else { return Vec::new() };
        self.relieve(size, now);
        let Some(claimant) = self.claimants.get_mut(&peer) else { return Vec::new() };
        let Some(table) = self.tables.get_mut(&size) else { return Vec::new() };
        let barred = table.alone.is_some_and(|alone| alone != peer);
        if barred || claimant.not_before.is_some_and(|t| t > now) {
            return Vec::new();
        }
        let wait = (claimant.round_trip * 2).clamp(ASK_AGAIN_AFTER, ASK_AGAIN_AT_MOST);
        let mine = |b: &Block| b.data.is_none() && b.ask.is_some_and(|a| a.peer == peer && a.same_at > now);
        let room = METADATA_DEPTH.saturating_sub(table.blocks.iter().filter(|b| mine(b)).count());
        let free = |b: &Block| b.data.is_none() && b.ask.is_none_or(|a| a.is_over(peer, now));
        let mut asked = Vec::new();
        for (index, block) in table.blocks.iter_mut().enumerate().filter(|(_, b)| free(b)).take(room) {
            // Those at the end of the queue take longer.
            let again_at = now + wait * (1 + asked.len() as u32 / 2);
            let before = block.ask.filter(|a| a.peer == peer).map_or(0, |a| a.repeats + 1);
            let same_at = now + SAME_PEER_AGAIN_AFTER * 2_u32.pow(before.min(MAX_DOUBLINGS));
            block.ask = Some(Ask { peer, again_at, same_at, repeats: before });
            asked.push(index as u32);
        }
        claimant.asked |= !asked.is_empty();
        asked
    }

    /// A peer that is tried alone and gives nothing makes way for the next.
    fn relieve(&mut self, size: u32, now: Instant) {
        let Some(table) = self.tables.get(&size) else { return };
        let Some(alone) = table.alone else { return };
        let overdue =
            |b: &Block| b.data.is_none() && b.ask.is_some_and(|a| a.peer == alone && a.same_at <= now);
        let refuses = self.claimants.get(&alone).is_none_or(|c| c.not_before.is_some_and(|t| t > now));
        if refuses || table.blocks.iter().any(overdue) {
            self.try_next_alone(size, alone);
        }
    }

    fn try_next_alone(&mut self, size: u32, last: PeerKey) {
        let same = || self.claimants.iter().filter(|(_, c)| c.size == size).map(|(key, _)| *key);
        let next = same().find(|&key| key > last).or_else(|| same().next());
        if let Some(table) = self.tables.get_mut(&size) {
            table.alone = next;
            self.held -= table.clear();
        }
    }

    /// Gives up the size, other than `keep`, that fewest peers claim and least has come of; not one that
    /// several peers agree on.
    fn make_room(&mut self, keep: u32) -> bool {
        let claims = |size: u32| self.claimants.values().filter(|c| c.size == size).count();
        let others = self.tables.values().filter(|t| t.size != keep && claims(t.size) <= 1);
        let Some(worst) = others.min_by_key(|t| (t.held() > 0, std::cmp::Reverse(t.size))).map(|t| t.size)
        else {
            return false;
        };
        self.claimants.retain(|_, c| c.size != worst);
        self.drop_table(worst);
        true
    }

    /// A block came.
    pub fn on_data(&mut self, peer: PeerKey, block: u32, total_size: u64, data: &Bytes) -> Outcome {
        let Some(claimant) = self.claimants.get(&peer) else { return Outcome::Ignored };
        let (size, asked) = (claimant.size, claimant.asked);
        if total_size != u64::from(size) {
            return Outcome::Violation;
        }
        let Some(table) = self.tables.get_mut(&size) else { return Outcome::Ignored };
        let begin = u64::from(block) * u64::from(METADATA_BLOCK_LEN);
        let length = u64::from(size).saturating_sub(begin).min(u64::from(METADATA_BLOCK_LEN));
        let Some(slot) = table.blocks.get_mut(block as usize).filter(|_| data.len() as u64 == length) else {
            return Outcome::Violation;
        };
        let barred = table.alone.is_some_and(|alone| alone != peer);
        // An answer may come after we have given it up: it is as good as any.
        if slot.data.is_some() || !asked || barred {
            return Outcome::Ignored;
        }
        while self.held + data.len() > MAX_METADATA_HELD {
            if !self.make_room(size) {
                return Outcome::Ignored;
            }
        }
        let Some(table) = self.tables.get_mut(&size) else { return Outcome::Ignored };
        let Some(slot) = table.blocks.get_mut(block as usize) else { return Outcome::Ignored };
        // A copy of its own: the slice it came in would keep a whole receive buffer alive.
        slot.data = Some((Bytes::copy_from_slice(data), peer));
        self.held += data.len();
        if table.blocks.iter().any(|b| b.data.is_none()) { Outcome::Stored } else { self.judge(size) }
    }

    /// The peer does not serve this block, or anything, now. True where it had been asked for it: others may be.
    pub fn on_reject(&mut self, peer: PeerKey, block: u32, now: Instant) -> bool {
        let Some(claimant) = self.claimants.get_mut(&peer) else { return false };
        claimant.not_before = Some(now + REJECTED_WAIT);
        let table = self.tables.get_mut(&claimant.size);
        let slot = table.and_then(|t| t.blocks.get_mut(block as usize));
        let slot = slot.filter(|s| s.data.is_none() && s.ask.is_some_and(|a| a.peer == peer));
        slot.map(|s| s.ask = None).is_some()
    }

    /// The peer has gone; what it was asked for is free, what it gave stays.
    pub fn on_gone(&mut self, peer: PeerKey) {
        let Some(claimant) = self.claimants.remove(&peer) else { return };
        let next = self.claimants.iter().find(|(_, c)| c.size == claimant.size).map(|(k, _)| *k);
        let Some(table) = self.tables.get_mut(&claimant.size) else { return };
        for block in table.blocks.iter_mut().filter(|b| b.ask.is_some_and(|a| a.peer == peer)) {
            block.ask = None;
        }
        match next {
            None => self.drop_table(claimant.size),
            Some(_) if table.alone == Some(peer) => {
                table.alone = next;
                self.held -= table.clear();
            }
            Some(_) => {}
        }
    }

    /// Blocks here and in all, of the size that is furthest.
    pub fn progress(&self) -> (u32, u32) {
        let here = |t: &Table| t.blocks.iter().filter(|b| b.data.is_some()).count();
        let best = self.tables.values().max_by_key(|t| here(t));
        best.map_or((0, 0), |t| (here(t) as u32, t.blocks.len() as u32))
    }

    /// When a block should be asked for elsewhere. What was due by `offered`, when every peer was last given
    /// the choice, waits for a peer that can take it.
    pub fn poll_timeout(&self, offered: Instant) -> Option<Instant> {
        self.tables.values().filter_map(|table| self.due(table)).filter(|at| *at > offered).min()
    }

    /// When a block of this table can be asked for again: its wait is over, and somebody may be asked.
    fn due(&self, table: &Table) -> Option<Instant> {
        let asks = || table.blocks.iter().filter(|b| b.data.is_none()).filter_map(|b| b.ask);
        let claimants = || self.claimants.iter().filter(|(_, c)| c.size == table.size);
        // Where nobody else can be asked, only the same peer's wait counts.
        let others = table.alone.is_none() && claimants().nth(1).is_some();
        let again_at =
            if others { asks().map(|a| a.again_at).min()? } else { asks().map(|a| a.same_at).min()? };
        let askable = |(&peer, c): (&PeerKey, &Claimant)| {
            let asked = table.alone.is_none_or(|alone| alone == peer);
            asked.then(|| c.not_before.map_or(again_at, |t| t.max(again_at)))
        };
        claimants().filter_map(askable).min()
    }

    fn judge(&mut self, size: u32) -> Outcome {
        let Some(table) = self.tables.get_mut(&size) else { return Outcome::Ignored };
        let mut whole = BytesMut::with_capacity(size as usize);
        let mut senders = Vec::new();
        for (data, sender) in table.blocks.iter().filter_map(|b| b.data.as_ref()) {
            whole.extend_from_slice(data);
            if !senders.contains(sender) {
                senders.push(*sender);
            }
        }
        if hash_of(&whole) == self.wanted {
            return Outcome::Complete(whole.freeze());
        }
        self.held -= table.clear();
        if let [liar] = senders[..] {
            self.on_gone(liar);
            return Outcome::Failed(vec![liar]);
        }
        table.alone = self.claimants.iter().find(|(_, c)| c.size == size).map(|(k, _)| *k);
        Outcome::Failed(Vec::new())
    }

    fn drop_table(&mut self, size: u32) {
        if let Some(mut table) = self.tables.remove(&size) {
            self.held -= table.clear();
        }
    }
}

impl Table {
    /// Bytes that are here.
    fn held(&self) -> usize {
        self.blocks.iter().filter_map(|b| b.data.as_ref()).map(|(d, _)| d.len()).sum()
    }

    /// Throws the blocks away and returns their bytes.
    fn clear(&mut self) -> usize {
        let held = self.held();
        self.blocks = vec![Block::default(); self.size.div_ceil(METADATA_BLOCK_LEN) as usize];
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn peer(n: u32) -> PeerKey {
        PeerKey(NonZeroU32::new(n).unwrap())
    }

    fn dictionary(len: usize) -> (Bytes, InfoHash) {
        let bytes: Bytes = (0..len).map(|i| i as u8).collect::<Vec<_>>().into();
        let hash = hash_of(&bytes);
        (bytes, hash)
    }

    fn block(whole: &Bytes, index: u32) -> Bytes {
        let begin = index as usize * METADATA_BLOCK_LEN as usize;
        whole.slice(begin..whole.len().min(begin + METADATA_BLOCK_LEN as usize))
    }

    #[test]
    fn blocks_come_from_several_peers_at_once() {
        let (whole, hash) = dictionary(200_000);
        let (mut m, now) = (Metadata::new(hash), Instant::now());
        assert!(m.claim(peer(1), 200_000, Duration::ZERO) && m.claim(peer(2), 200_000, Duration::ZERO));
        let (first, second) = (m.ask(peer(1), now), m.ask(peer(2), now));
        assert_eq!((first.len(), second.len()), (METADATA_DEPTH, 13 - METADATA_DEPTH));
        for b in &first {
            assert_eq!(m.on_data(peer(1), *b, 200_000, &block(&whole, *b)), Outcome::Stored);
        }
        for b in &second[1..] {
            assert_eq!(m.on_data(peer(2), *b, 200_000, &block(&whole, *b)), Outcome::Stored);
        }
        // The one that is late is asked for elsewhere.
        assert_eq!(m.ask(peer(1), now), [0u32; 0]);
        let later = m.poll_timeout(now).unwrap();
        assert_eq!(m.ask(peer(1), later), [second[0]]);
        let done = m.on_data(peer(1), second[0], 200_000, &block(&whole, second[0]));
        assert_eq!(done, Outcome::Complete(whole));
    }

    /// A wait that is over wakes nobody while the only peer to ask has said no.
    #[test]
    fn a_peer_that_rejects_one_block_and_keeps_quiet_costs_no_wakeups() {
        let (_, hash) = dictionary(1);
        let (mut m, now) = (Metadata::new(hash), Instant::now());
        assert!(m.claim(peer(1), 40_000, Duration::ZERO));
        assert_eq!(m.ask(peer(1), now).len(), 3);
        assert!(m.on_reject(peer(1), 1, now));
        assert!(!m.on_reject(peer(1), 1, now) && !m.on_reject(peer(2), 0, now));
        let next = m.poll_timeout(now).unwrap();
        assert_eq!(next, now + REJECTED_WAIT);
        assert_eq!(m.ask(peer(1), next).len(), 3);
        assert!(m.poll_timeout(next).unwrap() > next);
    }

    #[test]
    fn a_liar_about_the_size_holds_up_nobody() {
        let (whole, hash) = dictionary(100);
        let (mut m, now) = (Metadata::new(hash), Instant::now());
        assert!(!m.claim(peer(9), 33 << 20, Duration::ZERO) && !m.claim(peer(9), 0, Duration::ZERO));
        assert!(m.claim(peer(1), 50, Duration::ZERO) && m.claim(peer(2), 100, Duration::ZERO));
        assert_eq!((m.ask(peer(1), now), m.ask(peer(2), now)), (vec![0], vec![0]));
        assert_eq!(m.on_data(peer(1), 0, 100, &whole), Outcome::Violation);
        let junk = Bytes::from_static(&[7; 50]);
        assert_eq!(m.on_data(peer(1), 0, 50, &junk), Outcome::Failed(vec![peer(1)]));
        assert_eq!(m.on_data(peer(2), 0, 100, &whole), Outcome::Complete(whole));
    }

    /// A dictionary of nine blocks that peer 2 has and peer 1 has sent false blocks of; now each is tried alone.
    fn two_of_whom_one_lied(now: Instant) -> (Metadata, Bytes, Bytes) {
        let (whole, hash) = dictionary(METADATA_BLOCK_LEN as usize * 9);
        let (mut m, size) = (Metadata::new(hash), whole.len() as u64);
        assert!(m.claim(peer(1), size, Duration::ZERO) && m.claim(peer(2), size, Duration::ZERO));
        let junk = Bytes::from(vec![0xee; METADATA_BLOCK_LEN as usize]);
        for b in m.ask(peer(1), now) {
            m.on_data(peer(1), b, size, &junk);
        }
        let last = m.ask(peer(2), now)[0];
        assert_eq!(m.on_data(peer(2), last, size, &block(&whole, last)), Outcome::Failed(vec![]));
        (m, whole, junk)
    }

    #[test]
    fn a_liar_among_honest_peers_is_found_by_trying_each_alone() {
        let now = Instant::now();
        let (mut m, whole, junk) = two_of_whom_one_lied(now);
        let size = whole.len() as u64;
        assert_eq!(m.ask(peer(2), now), [0u32; 0]);
        let mut outcome = Outcome::Ignored;
        for _ in 0..2 {
            for b in m.ask(peer(1), now) {
                outcome = m.on_data(peer(1), b, size, &junk);
            }
        }
        assert_eq!(outcome, Outcome::Failed(vec![peer(1)]));
        for _ in 0..2 {
            for b in m.ask(peer(2), now) {
                outcome = m.on_data(peer(2), b, size, &block(&whole, b));
            }
        }
        assert_eq!(outcome, Outcome::Complete(whole));
        assert_eq!(m.claimants.len(), 1);
    }

    #[test]
    fn a_slow_peer_is_not_asked_for_the_same_block_again_and_again() {
        let (whole, hash) = dictionary(METADATA_BLOCK_LEN as usize * 6);
        let size = whole.len() as u64;
        let (mut m, start) = (Metadata::new(hash), Instant::now());
        assert!(m.claim(peer(1), size, Duration::from_millis(50)));
        let mut asked = m.ask(peer(1), start).len();
        // One block each second and a half: slower than any round trip promises.
        let mut outcome = Outcome::Ignored;
        for block_number in 0..6 {
            for tenth in 0..15 {
                let now = start + Duration::from_millis(1500 * u64::from(block_number) + 100 * tenth);
                asked += m.ask(peer(1), now).len();
            }
            outcome = m.on_data(peer(1), block_number, size, &block(&whole, block_number));
        }
        assert_eq!(outcome, Outcome::Complete(whole));
        assert!(asked <= 10, "{asked} requests for 6 blocks");
    }

    #[test]
    fn a_silent_peer_that_is_tried_alone_makes_way() {
        let mut now = Instant::now();
        let (mut m, whole, _) = two_of_whom_one_lied(now);
        let size = whole.len() as u64;
        let mut outcome = Outcome::Ignored;
        for _ in 0..20 {
            m.ask(peer(1), now);
            for b in m.ask(peer(2), now) {
                outcome = m.on_data(peer(2), b, size, &block(&whole, b));
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(outcome, Outcome::Complete(whole));
    }

    #[test]
    fn false_sizes_do_not_lock_out_the_true_one() {
        let (whole, hash) = dictionary(100);
        let (mut m, now) = (Metadata::new(hash), Instant::now());
        for n in 0..MAX_METADATA_SIZES as u32 {
            assert!(m.claim(peer(n + 1), 1000 + u64::from(n), Duration::ZERO));
        }
        assert!(m.claim(peer(99), 100, Duration::ZERO));
        assert_eq!(m.ask(peer(99), now), [0]);
        assert_eq!(m.on_data(peer(99), 0, 100, &whole), Outcome::Complete(whole));
        assert!(m.tables.len() <= MAX_METADATA_SIZES);
    }

    #[test]
    fn blocks_that_nobody_asked_for_or_that_cannot_be_are_not_kept() {
        let (whole, hash) = dictionary(100);
        let mut m = Metadata::new(hash);
        assert_eq!(m.on_data(peer(1), 0, 100, &whole), Outcome::Ignored);
        m.claim(peer(1), 100, Duration::ZERO);
        assert_eq!(m.on_data(peer(1), 0, 100, &whole), Outcome::Ignored);
        assert_eq!(m.on_data(peer(1), 1, 100, &whole), Outcome::Violation);
        m.ask(peer(1), Instant::now());
        assert_eq!(m.on_data(peer(1), 0, 100, &whole.slice(1..)), Outcome::Violation);
        m.on_gone(peer(1));
        assert_eq!((m.progress(), m.held), ((0, 0), 0));
    }
}
