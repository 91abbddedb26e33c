//! Pieces in order, for whoever reads while they come: a window that moves with what is here, and deadlines.
//!
//! A piece is due when all that is missing before it has come at everybody's rate. A peer is given the first piece that it
//! can bring by then, so that the next ones come from the fastest, and the slow ones work ahead. What is due soon and not
//! here belongs to nobody: whoever can bring a block of it sooner is asked for it, twice where it must be. Must not know
//! connections or clocks.

use std::ops::Range;

use super::Pieces;
use crate::peer::Bitfield;
use crate::swarm::config::{
    DUE_NOW, DUE_SOON, MIN_DEPTH, MIN_WINDOW, TWICE_FREE, TWICE_SHARE, WINDOW_PIECES, WINDOW_SECONDS,
};
use crate::swarm::event::PeerKey;
use crate::swarm::picker::Holds;
use crate::swarm::wanted::{Priority, Sequence, Wanted};
use crate::wire::metainfo::{BLOCK_LEN, PieceIndex, PieceLayout};
use crate::wire::peer::BlockRef;

/// The way through the wanted pieces, and how far it has been gone.
#[derive(Debug)]
pub(super) struct Course {
    /// Pieces in the order in which they are read: those of high priority, then the others. Pieces that are here at the
    /// beginning are cut off.
    route: Vec<Range<u32>>,
    /// Runs of the route that are all here.
    done: usize,
    /// How far ahead of the reader may be fetched, and where he stands.
    reader: Option<(u64, u64)>,
    /// Bytes asked for twice so far.
    twice: u64,
}

/// How fast things go, in bytes and seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// What the peer gives a second; 0 where that is not known.
    pub own: u64,
    /// What the fastest peer gives a second.
    pub best: u64,
    /// What all peers give a second.
    pub all: u64,
    /// What the peer has been asked for and has not given.
    pub backlog: u64,
    /// What all peers have given so far.
    pub received: u64,
}

impl Pace {
    /// Milliseconds until the peer has brought `bytes` more.
    fn need(&self, bytes: u64) -> u64 {
        (self.backlog + bytes).saturating_mul(1000).checked_div(self.own).unwrap_or(u64::MAX)
    }

    /// Whether the peer can bring `bytes` more about as soon as they are due, or as anybody could.
    fn is_in_time(&self, bytes: u64, ahead: u64) -> bool {
        // Half as long again: a little too late is better than nothing.
        self.own * 2 >= self.best || self.need(bytes) <= (self.due(ahead).saturating_mul(3) / 2).max(DUE_SOON)
    }

    /// Milliseconds until `ahead` bytes have come from everybody.
    fn due(&self, ahead: u64) -> u64 {
        ahead.saturating_mul(1000).checked_div(self.all).unwrap_or(u64::MAX)
    }
}

impl Course {
    /// None where no order is asked for.
    pub(super) fn new(layout: &PieceLayout, have: &Bitfield, wanted: &Wanted) -> Option<Self> {
        let ahead = match wanted.sequence() {
            Sequence::Rarest => return None,
            Sequence::InOrder => None,
            Sequence::Reader(ahead) => Some(ahead),
        };
        let mut route: Vec<Range<u32>> = Vec::new();
        for priority in [Priority::High, Priority::Normal] {
            let first_of_priority = route.len();
            let here = |p: &PieceIndex| wanted.has(*p) && wanted.priority(*p) == priority;
            for piece in layout.pieces().filter(here).map(PieceIndex::get) {
                match route[first_of_priority..].last_mut().filter(|run| run.end == piece) {
                    Some(run) => run.end += 1,
                    None => route.push(piece..piece + 1),
                }
            }
        }
        let start = route.first().and_then(|run| layout.piece(run.start)).map_or(0, |p| layout.offset(p));
        let mut course = Self { route, done: 0, reader: ahead.map(|ahead| (ahead, start)), twice: 0 };
        course.advance(have);
        Some(course)
    }

    /// Goes on past what is here.
    pub(super) fn advance(&mut self, have: &Bitfield) {
        while let Some(run) = self.route.get_mut(self.done) {
            while run.start < run.end && have.has(run.start) {
                run.start += 1;
            }
            if run.start < run.end {
                return;
            }
            self.done += 1;
        }
    }
}

/// A piece ahead, and the bytes that are missing up to its end.
type Ahead = (PieceIndex, u64);

impl Pieces {
    /// Whether pieces are fetched in order.
    pub fn is_in_order(&self) -> bool {
        self.course.is_some()
    }

    /// The reader has come so far.
    pub fn on_consumed(&mut self, to: u64) {
        if let Some((_, at)) = self.course.as_mut().and_then(|course| course.reader.as_mut()) {
            *at = to.max(*at);
        }
    }

    /// Chooses up to `count` blocks to ask `peer` for, those that are read first before others; they count as asked.
    pub fn ask_in_order(
        &mut self,
        peer: PeerKey,
        held: &impl Holds,
        pace: Pace,
        late: impl Fn(PeerKey) -> bool,
        count: usize,
    ) -> Vec<BlockRef> {
        let has = |piece| held.has(piece);
        // Whoever is not known to be fast gets little of what is due first: it may be minutes until it comes.
        let asked = (pace.backlog / u64::from(BLOCK_LEN)) as usize;
        let count = if pace.own == 0 { count.min(MIN_DEPTH.saturating_sub(asked)) } else { count };
        let mut out = Vec::with_capacity(count);
        let window = self.window(pace.all);
        self.ask_late(peer, has, pace, &window, late, count, &mut out);
        let soon = due_within(&window, pace, DUE_SOON);
        self.ask_soon(peer, has, pace, soon, count, &mut out);
        let later = |p: PieceIndex| has(p) && !soon.iter().any(|(s, _)| *s == p);
        self.ask_open(peer, later, count, &mut out, |o| o.owner == Some(peer));
        let waits = |p: PieceIndex| self.picker.is_waiting(p) && has(p);
        let waiting: Vec<Ahead> = window.iter().copied().filter(|(p, _)| waits(*p)).collect();
        let mut asked = out.len() as u64 * u64::from(BLOCK_LEN);
        for &(piece, ahead) in &waiting {
            if out.len() >= count {
                break;
            }
            let length = u64::from(self.layout.len_of(piece));
            if pace.is_in_time(asked + length, ahead) {
                self.begin_for(peer, piece, count, &mut out);
                asked += length;
            }
        }
        self.ask_open(peer, later, count, &mut out, |o| o.owner.is_none());
        self.ask_beyond(peer, held, &window, count, &mut out);
        out
    }

    /// Wanted pieces that are not here, from the first on; what is far ahead is not among them.
    fn window(&self, rate: u64) -> Vec<Ahead> {
        let Some(course) = &self.course else { return Vec::new() };
        let piece_length = u64::from(self.layout.piece_length());
        let most = MIN_WINDOW.max(2 * piece_length).max(rate.saturating_mul(WINDOW_SECONDS));
        let end =
            course.reader.map_or(u64::MAX, |(ahead, at)| at.saturating_add(ahead.max(2 * piece_length)));
        let (mut window, mut ahead) = (Vec::new(), 0);
        let pieces = course.route[course.done.min(course.route.len())..].iter().cloned().flatten();
        for piece in pieces.take(WINDOW_PIECES).filter_map(|index| self.layout.piece(index)) {
            if ahead >= most || self.layout.offset(piece) >= end {
                break;
            }
            if !self.have.has(piece.get()) {
                ahead += u64::from(self.layout.len_of(piece));
                window.push((piece, ahead));
            }
        }
        window
    }

    /// Free blocks of pieces under way that are due soon, whoever has begun them.
    fn ask_soon(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        pace: Pace,
        soon: &[Ahead],
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        for &(piece, ahead) in soon {
            let Some(open) = self.open.get_mut(&piece).filter(|o| o.free > 0 && has(piece)) else { continue };
            let exclusive = open.exclusive && open.owner.is_some_and(|owner| owner != peer);
            let bytes = (out.len() as u64 + 1) * u64::from(BLOCK_LEN);
            if out.len() < count && !exclusive && pace.is_in_time(bytes, ahead) {
                open.give(&self.layout, piece, peer, count, out);
            }
        }
    }

    /// Who has nothing that is due in the window works far ahead, at what is rarest.
    fn ask_beyond(
        &mut self,
        peer: PeerKey,
        held: &impl Holds,
        window: &[Ahead],
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        let bounded = self.course.as_ref().is_some_and(|course| course.reader.is_some());
        if out.len() >= count {
            return;
        }
        let mut near: Vec<PieceIndex> = window.iter().map(|(piece, _)| *piece).collect();
        near.sort_unstable();
        let inside = |p: PieceIndex| near.binary_search(&p).is_ok();
        while out.len() < count {
            let far = if bounded { None } else { self.picker.rarest(held, inside) };
            // A slow peer is better than none: what it begins and does not bring in time others may finish.
            let last =
                || window.iter().rev().map(|(p, _)| *p).find(|p| self.picker.is_waiting(*p) && held.has(*p));
            let Some(piece) = far.or_else(last) else { return };
            self.begin_for(peer, piece, count, out);
        }
    }

    /// Blocks that are due soon, and that slower peers were asked for. Bounded by a share of what has come.
    #[expect(clippy::too_many_arguments, reason = "one moment of one peer")]
    fn ask_late(
        &mut self,
        peer: PeerKey,
        has: impl Fn(PieceIndex) -> bool,
        pace: Pace,
        window: &[Ahead],
        late: impl Fn(PeerKey) -> bool,
        count: usize,
        out: &mut Vec<BlockRef>,
    ) {
        let Some(course) = &self.course else { return };
        let allowed = (TWICE_FREE + pace.received / TWICE_SHARE).saturating_sub(course.twice);
        let room = count.saturating_sub(out.len()).min((allowed / u64::from(BLOCK_LEN)) as usize);
        if room == 0 || pace.own == 0 {
            return;
        }
        let soon = due_within(window, pace, DUE_NOW);
        // Nobody is asked in the place of another here: whoever is lost is snubbed within seconds.
        let is_due = |p| has(p) && soon.iter().any(|(s, _)| *s == p);
        let (again, _) = self.ask_twice(peer, is_due, late, |_| false, room);
        if let Some(course) = &mut self.course {
            course.twice += again.len() as u64 * u64::from(BLOCK_LEN);
        }
        out.extend(again);
    }
}

/// The pieces of a window that are due within so many milliseconds; the first is, always.
fn due_within(window: &[Ahead], pace: Pace, time: u64) -> &[Ahead] {
    let end = window.iter().position(|(_, ahead)| pace.due(*ahead) > time);
    &window[..end.unwrap_or(window.len()).max(1).min(window.len())]
}
