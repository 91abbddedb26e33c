//! One peer as the swarm sees it: its connection, its pieces, its speed, what is owed in both directions.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{
    FIRST_DEPTH, MAX_EARLY_HAVES, MAX_HOARD, METADATA_STALL, MIN_DEPTH, MIN_UPLOAD_AHEAD, QUEUE_TIME,
    READ_RUN, SNUB_AFTER, UPLOAD_AHEAD,
};
use super::fast::Fast;
use super::pex::Exchange;
use super::picker::Holds;
use crate::id::PeerId;
use crate::peer::{Bitfield, Connection, Rate};
use crate::wire::metainfo::{BLOCK_LEN, PieceIndex};
use crate::wire::peer::BlockRef;

/// Marks a piece that was lost, in [`Has::Early`]; far above every piece of the largest torrent.
const LOST: u32 = 1 << 31;

/// Less than this leaving at once is talk: haves go to those who ask for nothing too.
const PAYLOAD_AT_LEAST: usize = 1024;

/// Which pieces a peer has.
#[derive(Debug)]
pub(super) enum Has {
    /// The number of pieces is not known yet: kept as it came. With [`LOST`], a piece that it no longer has.
    Early { all: bool, bits: Option<Bytes>, haves: Vec<u32> },
    /// All of them.
    All,
    /// These.
    Some(Bitfield),
}

impl Has {
    pub(super) fn piece(&self, piece: PieceIndex) -> bool {
        match self {
            Self::Early { .. } => false,
            Self::All => true,
            Self::Some(field) => field.has(piece.get()),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Early { all, .. } => *all,
            Self::All => true,
            Self::Some(field) => field.is_complete(),
        }
    }

    /// Marks one piece, where they are told apart; says whether that changed anything.
    pub(super) fn mark(&mut self, index: u32, present: bool) -> bool {
        match self {
            Self::Some(field) => field.set(index, present),
            Self::All | Self::Early { .. } => false,
        }
    }

    /// What was said before the number of pieces was known; none where it cannot be true.
    pub(super) fn settle(&mut self, count: u32) -> Option<()> {
        let Self::Early { all, bits, haves } = self else { return Some(()) };
        if *all && haves.is_empty() {
            *self = Self::All;
            return Some(());
        }
        let mut field = match bits {
            _ if *all => Bitfield::all(count),
            Some(bits) => Bitfield::from_wire(bits, count)?,
            None => Bitfield::none(count),
        };
        for said in haves.iter() {
            let index = said & !LOST;
            if index >= count {
                return None;
            }
            field.set(index, said & LOST == 0);
        }
        *self = if *all && field.is_complete() { Self::All } else { Self::Some(field) };
        Some(())
    }

    /// Remembers a have, or the loss of a piece, of which the range is not known yet; false where it cannot be
    /// true, or there are too many.
    pub(super) fn early_have(&mut self, index: u32, present: bool) -> bool {
        let Self::Early { haves, .. } = self else { return true };
        haves.push(if present { index } else { index | LOST });
        index & LOST == 0 && haves.len() <= MAX_EARLY_HAVES
    }
}

impl Holds for Has {
    fn has(&self, piece: PieceIndex) -> bool {
        self.piece(piece)
    }

    fn field(&self) -> Option<&Bitfield> {
        match self {
            Self::Some(field) => Some(field),
            Self::All | Self::Early { .. } => None,
        }
    }
}

/// One peer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) addr: SocketAddr,
    /// Under which address it is a candidate: `addr` if we dialled, what it told us if not.
    pub(super) candidate: Option<SocketAddr>,
    /// None while the dial is under way.
    pub(super) conn: Option<Connection>,
    pub(super) since: Instant,
    /// From the dial to the connection, or from there to the handshake.
    pub(super) round_trip: Duration,
    pub(super) has: Has,
    /// Pieces it has and we lack.
    pub(super) wanted: u32,
    pub(super) down: Rate,
    pub(super) up: Rate,
    pub(super) depth: usize,
    ramping: bool,
    last_rate: u64,
    pub(super) last_block: Instant,
    /// Since when it has owed us blocks and sent none, where it owes any.
    pub(super) owes_since: Instant,
    /// Since when it has been asked for blocks and sent none; that they were taken back because nothing came, changes nothing.
    pub(super) mute_since: Option<Instant>,
    /// It owes blocks that others may bring now.
    pub(super) stalled: bool,
    /// It has had a part in a piece that was verified.
    pub(super) proven: bool,
    /// Rejects and chokes in a row that cost us requests, without a block between them.
    pub(super) strikes: u32,
    /// Not asked for anything before this, after a strike.
    pub(super) rests_until: Option<Instant>,
    /// Requests of the peer that wait to be read from disk.
    pub(super) queue: VecDeque<BlockRef>,
    /// Bytes that the disk reads for it, and the blocks they are.
    pub(super) reading: usize,
    pub(super) reads: VecDeque<BlockRef>,
    /// The piece that was read of last.
    pub(super) serving: Option<u32>,
    /// The same, when it was choked: what it had asked for of it is still served.
    pub(super) finishing: Option<u32>,
    pub(super) unsent: usize,
    /// When it was let in or out, or anything of what it asked for was last on its way.
    pub(super) took: Instant,
    /// When payload last left for it.
    pub(super) fed: Option<Instant>,
    /// Pieces that we would have it fetch from us.
    pub(super) named: Vec<PieceIndex>,
    /// Pieces that it was named and has had for a while, and nobody else has; and those that others have by now.
    pub(super) hoarded: u32,
    pub(super) passed_on: u32,
    /// When it was last shown a piece by a super-seed.
    pub(super) shown_at: Instant,
    /// How many pieces a super-seed shows to it ahead, beside those that it shows to everyone.
    pub(super) shown_more: usize,
    /// How many of these it has and others have not, since it last had all of them and nothing to ask for.
    pub(super) shown_held: usize,
    /// Pieces that it would have us fetch, oldest first.
    pub(super) suggested: VecDeque<PieceIndex>,
    /// When it last did so.
    pub(super) suggested_at: Option<Instant>,
    pub(super) metadata_served: u32,
    /// DHT ports it has named.
    pub(super) dht_ports: u8,
    pub(super) exchange: Exchange,
    pub(super) fast: Fast,
    /// Bytes of metadata among those unsent, at most, and the last block of it.
    pub(super) metadata_unsent: usize,
    pub(super) metadata_last: u32,
    /// When metadata was last sent to it, or anything left for it meanwhile.
    pub(super) metadata_moved: Instant,
}

impl Member {
    pub(super) fn new(addr: SocketAddr, now: Instant) -> Self {
        Self {
            addr,
            candidate: None,
            conn: None,
            since: now,
            round_trip: Duration::ZERO,
            has: Has::Early { all: false, bits: None, haves: Vec::new() },
            wanted: 0,
            down: Rate::new(now),
            up: Rate::new(now),
            depth: FIRST_DEPTH,
            ramping: true,
            last_rate: 0,
            last_block: now,
            owes_since: now,
            mute_since: None,
            stalled: false,
            proven: false,
            strikes: 0,
            rests_until: None,
            queue: VecDeque::new(),
            reading: 0,
            reads: VecDeque::new(),
            serving: None,
            finishing: None,
            unsent: 0,
            took: now,
            fed: None,
            named: Vec::new(),
            hoarded: 0,
            passed_on: 0,
            shown_at: now,
            shown_more: 0,
            shown_held: 0,
            suggested: VecDeque::new(),
            suggested_at: None,
            metadata_served: 0,
            dht_ports: 0,
            exchange: Exchange::default(),
            fast: Fast::default(),
            metadata_unsent: 0,
            metadata_last: 0,
            metadata_moved: now,
        }
    }

    /// Bytes of metadata that wait for its socket, unless it has stopped reading: others must not wait for that.
    pub(super) fn metadata_waiting(&self, now: Instant) -> usize {
        let moves = now.saturating_duration_since(self.metadata_moved) < METADATA_STALL;
        if moves { self.metadata_unsent } else { 0 }
    }

    /// Bytes have left for it. What part of them was metadata is not known; too little waiting harms nobody.
    pub(super) fn on_sent(&mut self, now: Instant, bytes: usize) {
        self.unsent = self.unsent.saturating_sub(bytes);
        if bytes >= PAYLOAD_AT_LEAST {
            self.took = now;
            self.fed = Some(now);
        }
        self.metadata_unsent = self.metadata_unsent.saturating_sub(bytes).min(self.unsent);
        self.metadata_moved = now;
    }

    /// Blocks that it has been asked for and has not sent.
    pub(super) fn requests(&self) -> usize {
        self.conn.as_ref().map_or(0, Connection::requests)
    }

    /// What it calls itself, past the handshake.
    pub(super) fn peer_id(&self) -> Option<PeerId> {
        self.conn.as_ref()?.remote().map(|handshake| handshake.peer_id)
    }

    /// Nothing was read from it for so long: it is not to blame that it sent nothing.
    pub(super) fn forgive(&mut self, now: Instant, time: Duration) {
        let mute_since = self.mute_since.iter_mut();
        for at in [&mut self.last_block, &mut self.owes_since].into_iter().chain(mute_since) {
            *at = (*at + time).min(now);
        }
        self.conn.iter_mut().for_each(|conn| conn.forgive(now, time));
    }

    /// Past the handshake.
    pub(super) fn is_open(&self) -> bool {
        self.conn.as_ref().is_some_and(|c| c.remote().is_some())
    }

    /// A block came: slow start asks for two more for each until the rate no longer grows.
    pub(super) fn on_block(&mut self, now: Instant, length: u32) {
        self.down.record(now, u64::from(length));
        self.last_block = now;
        self.owes_since = now;
        self.mute_since = self.conn.as_ref().filter(|c| c.requests() > 0).map(|_| now);
        self.stalled = false;
        self.strikes = 0;
        self.rests_until = None;
        // Where the rate has not followed, the rest would only wait in the peer's queue.
        if self.ramping && self.depth < FIRST_DEPTH.max(2 * self.depth_at(now)) {
            self.depth += 1;
        }
    }

    /// Blocks that keep its link busy for a round trip, and for the time that is asked ahead.
    fn depth_at(&self, now: Instant) -> usize {
        let rate = self.down.per_second(now, Duration::from_secs(2));
        let time = self.round_trip + QUEUE_TIME;
        (rate as f64 * time.as_secs_f64() / f64::from(BLOCK_LEN)).ceil() as usize
    }

    /// Whether what it gets from a seed stays with it.
    pub(super) fn hoards(&self) -> bool {
        // In a fast swarm much is under way at any moment; who passes on nothing has no such excuse.
        self.hoarded > MAX_HOARD.max(8 * self.passed_on)
    }

    /// Whether it has owed us blocks for too long to be served in return.
    pub(super) fn snubs(&self, now: Instant) -> bool {
        let owes = self.conn.as_ref().is_some_and(|c| c.requests() > 0);
        owes && self.stalled && now.saturating_duration_since(self.owes_since) >= SNUB_AFTER
    }

    /// Takes the next block that it waits for, and those that follow it on disk, as one; they count as being read.
    pub(super) fn take_run(&mut self, ahead: usize) -> Option<BlockRef> {
        let mut run = self.queue.pop_front()?;
        self.reads.push_back(run);
        let room = ahead.saturating_sub(self.reading + self.unsent).min(READ_RUN as usize);
        while let Some(next) = self.queue.front().filter(|next| {
            let follows = (next.index, next.begin) == (run.index, run.begin + run.length);
            follows && (run.length as usize) < room && run.length + next.length <= READ_RUN
        }) {
            run.length += next.length;
            self.reads.extend(self.queue.pop_front());
        }
        self.reading += run.length as usize;
        Some(run)
    }

    /// The block that was being read at this place is here.
    pub(super) fn take_read(&mut self, piece: PieceIndex, begin: u32) -> Option<BlockRef> {
        let at = self.reads.iter().position(|b| (b.index, b.begin) == (piece.get(), begin))?;
        let block = self.reads.remove(at)?;
        self.reading = self.reading.saturating_sub(block.length as usize);
        Some(block)
    }

    /// Bytes that may be read or unsent for this peer: a second of its rate.
    pub(super) fn upload_ahead(&self, now: Instant) -> usize {
        let rate = self.up.per_second(now, Duration::from_secs(2));
        usize::try_from(rate).unwrap_or(UPLOAD_AHEAD).clamp(MIN_UPLOAD_AHEAD, UPLOAD_AHEAD)
    }

    /// Once a second: the depth follows the rate.
    pub(super) fn adapt_depth(&mut self, now: Instant) {
        let rate = self.down.per_second(now, Duration::from_secs(2));
        if self.ramping && self.last_rate > 0 && rate < self.last_rate + self.last_rate / 10 {
            self.ramping = false;
        }
        self.last_rate = rate;
        if !self.ramping {
            self.depth = self.depth_at(now).max(MIN_DEPTH);
        }
        if self.stalled {
            self.depth = 1;
        }
    }
}
