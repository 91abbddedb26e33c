//! Fetching: what peers have, what to ask whom for, what to do with blocks and hashed pieces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::*;
use super::event::{Action, CloseReason, PeerKey, Report};
use super::explain::time_under;
use super::member::{Has, Member};
use super::metadata::Metadata;
use super::pieces::{Help, Pieces, Received};
use super::swarm::Swarm;
use crate::peer::{Bitfield, Connection};
use crate::wire::metainfo::{BLOCK_LEN, Info, PieceIndex};
use crate::wire::peer::{BlockRef, Message};

impl Swarm {
    // ---- the torrent becomes known

    pub(super) fn on_info(&mut self, now: Instant, info: Arc<Info>) {
        let count = info.layout().count();
        let (size, private) = (info.raw().len() as u64, info.is_private());
        self.info = Some(info);
        if private {
            self.seclude(now);
        }
        // What was collected is in there.
        self.metadata = Metadata::new(self.info_hash);
        for key in self.keys() {
            let Some(member) = self.members.get_mut(&key) else { continue };
            if member.has.settle(count).is_none() {
                self.close(now, key, CloseReason::Impossible("bitfield"));
                continue;
            }
            if let Some(conn) = self.conn(key) {
                conn.announce_metadata(size, private);
            }
            self.flush(now, key);
        }
    }

    pub(super) fn on_disk_ready(&mut self, now: Instant, have: Bitfield) {
        let Some(info) = self.info.clone() else { return };
        let wanted = std::mem::take(&mut self.wanted);
        let pieces = Pieces::new(*info.layout(), have, wanted, &mut self.rng);
        let complete = pieces.is_complete();
        self.pieces = Some(pieces);
        let most = if self.is_super_seeding() { 0 } else { MAX_LATE_HAVES as usize + 1 };
        let have = self.pieces.iter().flat_map(|p| p.have().iter());
        let late_haves: Vec<u32> = have.take(most).collect();
        for key in self.keys() {
            let Some(member) = self.members.get_mut(&key).filter(|m| m.is_open()) else { continue };
            let has = std::mem::replace(&mut member.has, Has::All);
            let wanted = self.count_in(&has);
            if let Some(member) = self.members.get_mut(&key) {
                (member.has, member.wanted) = (has, wanted);
            }
            if late_haves.len() > MAX_LATE_HAVES as usize {
                self.close(now, key, CloseReason::Refresh);
                continue;
            }
            if let Some(conn) = self.conn(key) {
                late_haves.iter().for_each(|&index| conn.send(&Message::Have(index)));
            }
            self.offer_fast(key);
            self.update_interest(now, key);
        }
        if complete {
            self.retire(now);
            self.actions.push_back(Action::Report(Report::Complete));
        }
        self.refill = true;
    }

    /// Counts a peer's pieces into the availability; returns how many of them we lack.
    fn count_in(&mut self, has: &Has) -> u32 {
        let (Some(info), Some(pieces)) = (&self.info, &mut self.pieces) else { return 0 };
        match has {
            Has::Early { .. } => 0,
            Has::All => pieces.missing(),
            Has::Some(field) => {
                let mut wanted = 0;
                for piece in field.iter().filter_map(|i| info.layout().piece(i)) {
                    pieces.picker_mut().increment(piece);
                    wanted += u32::from(pieces.lacks(piece));
                }
                wanted
            }
        }
    }

    fn count_out(&mut self, has: &Has) {
        if let (Some(info), Some(pieces), Has::Some(field)) = (&self.info, &mut self.pieces, has) {
            for piece in field.iter().filter_map(|i| info.layout().piece(i)) {
                pieces.picker_mut().decrement(piece);
            }
        }
    }

    // ---- what peers have

    /// Says what we have, in the shortest way the peer understands.
    pub(super) fn send_field(&mut self, key: PeerKey) {
        let hidden = self.is_super_seeding();
        let field = self.pieces.as_ref().map(Pieces::have).filter(|f| f.ones() > 0 && !hidden);
        let complete = field.is_some_and(Bitfield::is_complete);
        let bits = field.map(Bitfield::to_wire);
        let Some(conn) = self.conn(key) else { return };
        match bits {
            Some(_) if complete && conn.is_fast() => conn.send(&Message::HaveAll),
            Some(bits) => conn.send(&Message::Bitfield(bits)),
            None if conn.is_fast() => conn.send(&Message::HaveNone),
            None => {}
        }
    }

    pub(super) fn on_field(&mut self, now: Instant, key: PeerKey, all: bool, bits: Option<Bytes>) {
        let count = self.info.as_ref().map(|i| i.layout().count());
        let Some(member) = self.members.get_mut(&key) else { return };
        // A later bitfield takes the place of an earlier one.
        let (old, haves) = match std::mem::replace(&mut member.has, Has::All) {
            Has::Early { haves, .. } => (None, haves),
            old => (Some(old), Vec::new()),
        };
        if let Some(old) = old {
            self.count_out(&old);
        }
        // A slice would keep the receive buffer that it came in.
        let bits = bits.map(|b| Bytes::copy_from_slice(&b));
        let mut has = Has::Early { all, bits, haves };
        if let Some(count) = count
            && has.settle(count).is_none()
        {
            return self.close(now, key, CloseReason::Impossible("bitfield"));
        }
        let wanted = self.count_in(&has);
        if let Some(member) = self.members.get_mut(&key) {
            (member.has, member.wanted) = (has, wanted);
            let has = &member.has;
            let got = member.named.extract_if(.., |piece| has.piece(*piece));
            if let Some(suggestions) = &mut self.suggestions {
                got.for_each(|piece| suggestions.forget(piece));
            }
        }
        self.suggest(now, key);
        self.offer_fast(key);
        self.update_interest(now, key);
    }

    /// The piece that a have is about, once the torrent is known; remembers it before that.
    fn named_piece(&mut self, now: Instant, key: PeerKey, index: u32, present: bool) -> Option<PieceIndex> {
        let layout = self.info.as_ref().map(|i| *i.layout());
        let has = &mut self.members.get_mut(&key)?.has;
        let fault = match layout.map(|layout| (layout.piece(index), has.settle(layout.count()))) {
            Some((Some(piece), Some(()))) => return Some(piece),
            Some((Some(_), None)) => "bitfield",
            Some((None, _)) => "have",
            None if has.early_have(index, present) => return None,
            None => "number of haves",
        };
        self.close(now, key, CloseReason::Impossible(fault));
        None
    }

    pub(super) fn on_have(&mut self, now: Instant, key: PeerKey, index: u32) {
        let Some(piece) = self.named_piece(now, key, index, true) else { return };
        let Some(member) = self.members.get_mut(&key) else { return };
        let news = member.has.mark(index, true);
        if let (true, Some(pieces)) = (news, &mut self.pieces) {
            pieces.picker_mut().increment(piece);
            member.wanted += u32::from(pieces.lacks(piece));
            member.conn.iter_mut().for_each(Connection::welcome_have);
            match self.is_super_seeding() {
                true => self.on_seen(now, key, piece),
                false => self.on_fetched(now, key, piece),
            }
        }
        self.update_interest(now, key);
    }

    /// A peer has lost a piece (BEP 54): it is not asked for it any more.
    pub(super) fn on_dont_have(&mut self, now: Instant, key: PeerKey, index: u32) {
        let Some(piece) = self.named_piece(now, key, index, false) else { return };
        let Some(member) = self.members.get_mut(&key) else { return };
        if let (Has::All, Some(info)) = (&member.has, &self.info) {
            // From now on it counts in the availability, as one of those that have not everything.
            let has = Has::Some(Bitfield::all(info.layout().count()));
            self.count_in(&has);
            if let Some(member) = self.members.get_mut(&key) {
                member.has = has;
            }
        }
        let Some(member) = self.members.get_mut(&key) else { return };
        let lost = member.has.mark(index, false);
        let (true, Some(pieces), Some(conn)) = (lost, &mut self.pieces, &mut member.conn) else { return };
        pieces.picker_mut().decrement(piece);
        if pieces.lacks(piece) {
            member.wanted = member.wanted.saturating_sub(1);
        }
        let void: Vec<BlockRef> = conn.pending().filter(|b| b.index == index).copied().collect();
        for block in &void {
            conn.cancel(*block);
            pieces.release(key, block);
        }
        self.refill |= !void.is_empty();
        self.update_interest(now, key);
    }

    /// Takes a gone peer's pieces out of the availability and frees what it was asked for.
    pub(super) fn forget_pieces(&mut self, key: PeerKey, has: &Has, requests: &[BlockRef]) {
        self.count_out(has);
        let Some(pieces) = &mut self.pieces else { return };
        for block in requests {
            pieces.release(key, block);
        }
        pieces.disown(key);
        self.refill |= !requests.is_empty();
    }

    pub(super) fn update_interest(&mut self, now: Instant, key: PeerKey) {
        let complete = self.is_complete();
        let Some(member) = self.members.get_mut(&key) else { return };
        let passive = member.conn.as_ref().is_some_and(|c| c.is_upload_only());
        let both_complete = complete && (passive || member.has.is_complete());
        let wanted = member.wanted > 0;
        if let Some(conn) = member.conn.as_mut() {
            conn.express_interest(wanted);
        }
        if both_complete {
            self.on_seed_met(key);
            self.close(now, key, CloseReason::BothComplete);
        }
    }

    // ---- asking

    /// Asks a peer for as much as its pipeline holds.
    pub(super) fn fill(&mut self, now: Instant, key: PeerKey) {
        let under_limit = self.room_under_limit();
        let leads = self.leads(now, key);
        let (Some(info), Some(pieces)) = (&self.info, &mut self.pieces) else { return };
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        let rests = member.rests_until.is_some_and(|t| t > now);
        if member.wanted == 0 || rests || pieces.is_complete() {
            return;
        }
        let choked = conn.is_choked();
        let allowed = member.fast.allowed(info.layout());
        let wanted = allowed.filter(|p| choked && member.has.piece(*p) && pieces.lacks(*p));
        let wanted: Vec<PieceIndex> = wanted.collect();
        if choked && wanted.is_empty() {
            return;
        }
        let most = if choked { ALLOWED_FAST_DEPTH } else { usize::MAX };
        let depth = member.depth.min(conn.request_limit()).min(most);
        let room = depth.saturating_sub(conn.requests()).min(under_limit);
        // In batches: a request for each block that arrives would wake the other side for each.
        if room == 0 || (room < (depth / 4).min(REQUEST_BATCH) && conn.requests() > 8) {
            return;
        }
        let rate = member.down.per_second(now, Duration::from_secs(5));
        let help = match rate * WHOLE_PIECE_SECONDS >= u64::from(info.layout().piece_length()) {
            _ if leads => Help::Suggested,
            true => Help::Pieces,
            false => Help::Blocks,
        };
        let blocks = match choked {
            true => pieces.ask_among(key, &wanted, room),
            false if pieces.is_in_order() => self.ask_in_order(now, key, room),
            false => pieces.ask(key, &member.has, help, &member.suggested, room, &mut self.rng),
        };
        if blocks.is_empty() {
            if !choked {
                self.ask_twice(now, key);
            }
            return;
        }
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        if conn.requests() == 0 {
            // The wait for the first block begins now, not when the last one came.
            member.last_block = now;
            if !member.stalled {
                member.owes_since = now;
            }
        }
        member.mute_since.get_or_insert(now);
        for block in blocks {
            conn.request(block);
        }
    }

    /// Whether a seed names to each what it should ask for: everything else is for others, who pass it on.
    fn leads(&self, now: Instant, key: PeerKey) -> bool {
        let Some(member) = self.members.get(&key) else { return false };
        let since = |at: Instant| now.saturating_duration_since(at);
        let names = member.suggested_at.is_some_and(|at| since(at) < LED_FOR);
        // What it named may be with others already, who send nothing.
        let idle =
            since(member.last_block) >= LED_IDLE && member.conn.as_ref().is_none_or(|c| c.requests() == 0);
        let shares = |m: &Member| m.is_open() && !m.has.is_complete();
        // Once everything is begun, it may be needed to bring it to an end.
        let waits = self.pieces.as_ref().is_some_and(|p| !p.picker().is_empty());
        names && !idle && waits && self.members.values().any(shares)
    }

    /// Blocks that may still be asked for under the user's limit. Without this bound many peers would each get
    /// a trickle through it, and all of them look stalled.
    pub(super) fn room_under_limit(&self) -> usize {
        let Some(limit) = self.config.download_limit else { return usize::MAX };
        let most = (limit * LIMIT_SECONDS / u64::from(BLOCK_LEN)).max(MIN_DEPTH as u64) as usize;
        let live = self.members.values().filter(|m| !m.stalled);
        let asked = live.filter_map(|m| m.conn.as_ref()).map(|c| c.requests()).sum();
        most.saturating_sub(asked)
    }

    pub(super) fn on_rejected(&mut self, now: Instant, key: PeerKey, block: &BlockRef) {
        // After a choke rejects are what BEP 6 asks for.
        if let Some(member) = self.members.get_mut(&key) {
            match member.conn.as_ref().is_some_and(|c| c.is_choked()) {
                true => member.fast.refuse(block.index),
                false => member.strike(now),
            }
        }
        if let Some(pieces) = &mut self.pieces {
            pieces.release(key, block);
            self.refill = true;
        }
    }

    pub(super) fn on_choked(&mut self, now: Instant, key: PeerKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        member.excuse(now, true);
        let Some(conn) = member.conn.as_mut() else { return };
        // With the fast extension each request stays alive until it is rejected.
        let void = if conn.is_fast() { Vec::new() } else { conn.take_requests() };
        if !void.is_empty() {
            member.strike(now);
        }
        if let Some(pieces) = &mut self.pieces {
            void.iter().for_each(|block| pieces.release(key, block));
            // Whatever it began, others may finish.
            pieces.disown(key);
            self.refill = true;
        }
    }

    /// Once a second: depth follows rate, and a peer that owes blocks for too long has stalled.
    pub(super) fn check_progress(&mut self, now: Instant, key: PeerKey) {
        let in_order = self.pieces.as_ref().is_some_and(Pieces::is_in_order);
        let Some(member) = self.members.get_mut(&key) else { return };
        member.adapt_depth(now);
        let Some(conn) = member.conn.as_mut() else { return };
        let silent = now.saturating_duration_since(member.last_block);
        let patience = match member.down.total() {
            _ if in_order => STALL_IN_ORDER_AFTER,
            0 => STALL_AT_FIRST,
            _ => STALL_AFTER,
        };
        // Under a low limit even a block takes longer than that.
        let patience = self.config.download_limit.map_or(patience, |l| patience.max(time_under(l) * 2));
        // Where the user's limit holds blocks back, nobody is to blame.
        let throttled =
            self.config.download_limit.is_some_and(|l| self.down.per_second(now, patience) * 5 >= l * 4);
        if throttled {
            return;
        }
        if conn.requests() == 0 || silent < patience {
            return;
        }
        if member.stalled {
            // A busy seed's first block may take this long: to ask anew would put us at its queue's end again.
            if silent >= 2 * STALL_AFTER {
                // It has lost them. Without them it can be asked for one block again, to notice a recovery.
                let lost: Vec<BlockRef> = conn.pending().copied().collect();
                lost.iter().for_each(|&block| conn.cancel(block));
                if let Some(pieces) = &mut self.pieces {
                    lost.iter().for_each(|block| pieces.release(key, block));
                }
                member.last_block = now;
            }
            return;
        }
        member.stalled = true;
        // Late blocks are still welcome, but others may bring them first.
        if let Some(pieces) = &mut self.pieces {
            conn.pending().for_each(|block| pieces.release(key, block));
        }
        self.refill = true;
    }

    // ---- blocks and pieces

    pub(super) fn on_block(&mut self, now: Instant, key: PeerKey, block: BlockRef, data: Bytes) {
        let (Some(info), Some(pieces)) = (&self.info, &mut self.pieces) else { return };
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(piece) = info.layout().piece(block.index) else { return };
        self.sources += usize::from(member.down.total() == 0);
        member.on_block(now, block.length);
        self.down.record(now, u64::from(block.length));
        match pieces.on_block(key, piece, block.begin / BLOCK_LEN) {
            Received::Duplicate => self.wasted += u64::from(block.length),
            Received::Wanted { cancel, complete } => {
                self.actions.push_back(Action::Write { piece, begin: block.begin, data });
                if complete {
                    self.actions.push_back(Action::Hash(piece));
                }
                for other in cancel {
                    if let Some(conn) = self.conn(other) {
                        conn.cancel(block);
                    }
                    self.members.get_mut(&other).into_iter().for_each(|m| m.excuse(now, false));
                    self.flush(now, other);
                }
            }
        }
    }

    pub(super) fn on_hashed(&mut self, now: Instant, piece: PieceIndex, valid: bool) {
        let (Some(info), Some(pieces)) = (&self.info, &mut self.pieces) else { return };
        let was_lacking = pieces.lacks(piece);
        let authors = pieces.on_hashed(piece, valid);
        if !valid {
            self.wasted += u64::from(info.layout().len_of(piece));
            self.refill = true;
            return self.on_false_piece(now, piece, authors);
        }
        let complete = pieces.is_complete();
        if self.suspects.contains_key(&piece) {
            self.actions.push_back(Action::Digest(piece));
        }
        for author in &authors {
            self.members.get_mut(author).into_iter().for_each(|m| m.proven = true);
        }
        self.actions.push_back(Action::Report(Report::Verified(piece)));
        for key in self.keys() {
            let Some(member) = self.members.get_mut(&key).filter(|m| m.is_open()) else { continue };
            let has = member.has.piece(piece);
            member.wanted = member.wanted.saturating_sub(u32::from(has && was_lacking));
            // Who has everything wants to know what is out already, and who gave it may hide that it has more (BEP 16);
            // others who have this one need not.
            let asks = !has || member.has.is_complete() || authors.contains(&key);
            if let Some(conn) = member.conn.as_mut().filter(|_| asks) {
                conn.send(&Message::Have(piece.get()));
            }
            if member.wanted == 0 || complete {
                self.update_interest(now, key);
            }
            self.flush(now, key);
        }
        if complete {
            self.retire(now);
            self.actions.push_back(Action::Report(Report::Complete));
        }
    }

    pub(super) fn on_lost(&mut self, piece: PieceIndex) {
        let (Some(info), Some(pieces)) = (&self.info, &mut self.pieces) else { return };
        if pieces.on_lost(piece) {
            self.wasted += u64::from(info.layout().len_of(piece));
            self.refill = true;
        }
    }

    /// Everything that is wanted is here: peers learn that we want no more (BEP 21).
    fn retire(&mut self, now: Instant) {
        for key in self.keys() {
            let says_so = !self.is_super_seeding();
            if let Some(conn) = self.conn(key).filter(|_| says_so) {
                conn.announce_upload_only();
            }
            // Whoever is served already may have names at once.
            self.suggest(now, key);
            self.flush(now, key);
        }
    }
}
