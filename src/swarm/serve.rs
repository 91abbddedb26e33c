//! Serving: requests of peers, reading for them, choking.

use std::time::{Duration, Instant};

use super::choker::{Contender, upload_slots};
use super::config::{
    IDLE_SLOT, MAX_FINISHING, MAX_IDLE_SLOTS, MAX_NAMED, MAX_PEER_REQUESTS, MAX_SUGGESTED, MIN_NAMED,
    SLOW_SLOT, STALLED_SLOT,
};
use super::event::{Action, CloseReason, PeerKey};
use super::member::Member;
use super::pieces::Pieces;
use super::suggest::Suggestions;
use super::swarm::Swarm;
use crate::peer::{Connection, Payload};
use crate::wire::metainfo::PieceIndex;
use crate::wire::peer::{BlockRef, MAX_REQUEST_LEN, Message};

/// Tit-for-tat compares rates over this long.
const RATE_WINDOW: Duration = Duration::from_secs(20);
/// Our own rate over this long is what our link can carry.
const CAPACITY_WINDOW: Duration = Duration::from_secs(5);

impl Swarm {
    pub(super) fn on_interest(&mut self, now: Instant, key: PeerKey) {
        // A peer that wants nothing (BEP 21) may still say that it is interested.
        let wants = self.conn(key).map(|c| c.is_peer_interested() && !c.is_upload_only());
        let Some(wants) = wants else { return };
        if !wants {
            self.choker.release(key);
            self.set_choke(now, key, true);
        } else if self.pieces.is_some() && self.choker.admit(key, 0) {
            self.set_choke(now, key, false);
        }
    }

    pub(super) fn on_request(&mut self, now: Instant, key: PeerKey, block: BlockRef) {
        let fits = self.can_serve(&block);
        let piece_length = self.piece_length();
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        let (choked, fast) = (conn.is_choking(), conn.is_fast());
        let full = member.queue.len() >= MAX_PEER_REQUESTS;
        if !fits || full || (choked && !member.grant(&block, piece_length)) {
            let Some(conn) = member.conn.as_mut() else { return };
            if fast {
                conn.send(&Message::Reject(block));
            } else if !fits {
                self.close(now, key, CloseReason::Impossible("request"));
            }
            return;
        }
        member.queue.push_back(block);
        self.pump(now, key);
    }

    pub(super) fn on_cancel(&mut self, key: PeerKey, block: &BlockRef) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let before = member.queue.len();
        member.queue.retain(|b| b != block);
        // BEP 6: a cancelled request is answered, with its block or a reject.
        if let Some(conn) = member.conn.as_mut().filter(|c| c.is_fast() && member.queue.len() < before) {
            conn.send(&Message::Reject(*block));
        }
    }

    /// Has the disk read for this peer as long as little is unsent.
    pub(super) fn pump(&mut self, now: Instant, key: PeerKey) {
        let (Some(info), Some(member)) = (&self.info, self.members.get_mut(&key)) else { return };
        let ahead = member.upload_ahead(now);
        while member.reading + member.unsent < ahead {
            let Some(BlockRef { index, begin, length }) = member.take_run(ahead) else { return };
            let Some(piece) = info.layout().piece(index) else { continue };
            member.serving = Some(index);
            self.actions.push_back(Action::Read { peer: key, piece, begin, length });
        }
    }

    pub(super) fn on_read(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: PieceIndex,
        begin: u32,
        data: Option<Payload>,
    ) {
        // A block that the disk lost cannot be served; the connection cannot go on without it.
        let Some(mut data) = data else { return self.close(now, key, CloseReason::Finished) };
        let mut at = begin;
        while !data.is_empty() {
            let Some(member) = self.members.get_mut(&key) else { return };
            let Some(block) = member.take_read(piece, at) else { break };
            let payload = data.split_to(block.length as usize);
            at += block.length;
            let Some(conn) = member.conn.as_mut() else { return };
            let may = member.fast.offers(piece) || member.finishing == Some(piece.get());
            if conn.is_choking() && !may {
                self.reject(key, block);
                continue;
            }
            conn.send_block(piece.get(), block.begin, payload);
            member.up.record(now, u64::from(block.length));
            self.up.record(now, u64::from(block.length));
        }
        self.flush(now, key);
        self.pump(now, key);
    }

    /// As a seed: who keeps to itself what it was named, and may be had from others no more than before.
    fn find_hoarders(&mut self, now: Instant) {
        let Some(suggestions) = &mut self.suggestions else { return };
        suggestions.start_again();
        let kept = suggestions.kept(now);
        for (key, member) in &mut self.members {
            member.hoarded = kept.get(key).copied().unwrap_or(0);
            if member.hoards() {
                suggestions.reclaim(*key);
            }
        }
    }

    pub(super) fn choke_round(&mut self, now: Instant) {
        self.find_hoarders(now);
        let seeding = self.is_complete();
        let open = self.members.iter().filter(|(_, m)| m.is_open());
        let contenders: Vec<Contender> = open
            .map(|(&peer, m)| Contender {
                peer,
                interested: m.conn.as_ref().is_some_and(|c| c.is_peer_interested() && !c.is_upload_only()),
                rate: if seeding { &m.up } else { &m.down }.per_second(now, RATE_WINDOW),
                snubbed: m.snubs(now) && !seeding,
                hoards: m.hoards(),
                since: m.since,
            })
            .collect();
        self.up_best = (self.up_best / 10 * 9).max(self.up.per_second(now, CAPACITY_WINDOW));
        self.choker.set_slots(upload_slots(self.config.upload_limit, self.up_best));
        let unchoked = match seeding {
            true => self.choker.seed_round(now, &contenders, &mut self.rng).to_vec(),
            false => self.choker.round(now, &contenders, &mut self.rng).to_vec(),
        };
        for contender in contenders {
            self.set_choke(now, contender.peer, !unchoked.contains(&contender.peer));
        }
    }

    /// Gives slots that became free between rounds to those who wait longest.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        // What our link can carry shows at times only: while there is little to give, it is not narrow.
        self.up_best = self.up_best.max(self.up.per_second(now, CAPACITY_WINDOW));
        self.choker.add_slots(upload_slots(self.config.upload_limit, self.up_best));
        let seeding = self.is_complete();
        let waits = |m: &Member| {
            m.is_open()
                && (seeding || !m.snubs(now))
                && m.conn
                    .as_ref()
                    .is_some_and(|c| c.is_peer_interested() && c.is_choking() && !c.is_upload_only())
        };
        let mut waiting: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| waits(m))
            .map(|(key, m)| (m.hoards(), m.took, *key))
            .collect();
        waiting.sort_unstable();
        // While we fetch, a slot is earned: who asks for nothing just now costs nothing, and others get one more.
        let cleared = if waiting.is_empty() || !seeding { 0 } else { self.clear_slots(now) };
        // Whoever was let in takes nothing: one who would may be far behind, and more slots cost nothing now.
        let fed = |m: &Member| m.fed.is_some_and(|at| now.saturating_duration_since(at) < IDLE_SLOT);
        let unused = cleared > 0 && !self.members.values().any(fed);
        // Who is served and asks for nothing just now holds a slot, and no bandwidth.
        let served = self.members.values().filter(|m| m.conn.as_ref().is_some_and(|c| !c.is_choking()));
        let served = served.filter(|_| !seeding);
        let idle = served.filter(|m| m.queue.is_empty() && m.reading == 0 && m.unsent == 0).count();
        let extra = if unused { MAX_IDLE_SLOTS } else { idle };
        for (_, _, key) in waiting {
            if !self.choker.admit(key, extra) {
                return;
            }
            self.set_choke(now, key, false);
        }
    }

    /// Others wait: whoever holds a slot and takes nothing, be it that it asks for nothing or reads nothing, goes to
    /// their end. Without this a few who only say that they are interested would keep a seed to themselves.
    fn clear_slots(&mut self, now: Instant) -> usize {
        let idle = |m: &Member| {
            // Who has taken something may be slow; a socket says for a while nothing of what leaves it.
            let most = match m.fed {
                _ if m.unsent == 0 && m.queue.is_empty() => IDLE_SLOT,
                None => STALLED_SLOT,
                Some(_) => SLOW_SLOT,
            };
            m.reading == 0
                && now.saturating_duration_since(m.took) >= most
                && m.conn.as_ref().is_some_and(|c| !c.is_choking())
        };
        let idle: Vec<PeerKey> = self.members.iter().filter(|(_, m)| idle(m)).map(|(key, _)| *key).collect();
        for &key in &idle {
            self.choker.set_aside(now, key);
            self.set_choke(now, key, true);
            if let Some(member) = self.members.get_mut(&key) {
                member.took = now;
            }
        }
        idle.len()
    }

    fn set_choke(&mut self, now: Instant, key: PeerKey, choking: bool) {
        let piece_length = self.piece_length();
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut().filter(|c| c.is_choking() != choking) else { return };
        conn.choke(choking);
        member.took = now;
        // BEP 6: what was asked for before a choke may still be served. A piece that is nearly there is of use to the whole
        // swarm, and half of one to nobody.
        member.finishing = member.serving.filter(|_| choking && keeps_requests(conn));
        let queue = if choking { std::mem::take(&mut member.queue) } else { Default::default() };
        let (mut dropped, mut left) = (Vec::new(), MAX_FINISHING);
        for block in queue {
            let fits = Some(block.index) == member.finishing && block.length as usize <= left;
            if fits && !member.queue.contains(&block) {
                left -= block.length as usize;
                member.queue.push_back(block);
            } else {
                dropped.push(block);
            }
        }
        for block in dropped {
            let Some(member) = self.members.get_mut(&key) else { return };
            if member.grant(&block, piece_length) {
                member.queue.push_back(block);
            } else {
                self.reject(key, block);
            }
        }
        if !choking {
            self.suggest(now, key);
        } else if !self.is_super_seeding() {
            self.take_back(key, true);
        }
    }

    // ---- suggestions

    /// As a seed, once a second: what was taken back from one has no taker yet.
    pub(super) fn suggest_all(&mut self, now: Instant) {
        let seeds = self.pieces.as_ref().is_some_and(Pieces::is_whole) && !self.is_super_seeding();
        for key in if seeds { self.keys() } else { Vec::new() } {
            self.suggest(now, key);
        }
    }

    /// As a seed, names pieces that nobody has yet to a peer we serve.
    pub(super) fn suggest(&mut self, now: Instant, key: PeerKey) {
        if self.is_super_seeding() {
            return self.show(now, key);
        }
        let (Some(info), Some(pieces)) = (&self.info, &self.pieces) else { return };
        let Some(member) = self.members.get_mut(&key).filter(|_| pieces.is_whole()) else { return };
        let ahead =
            member.up.per_second(now, Duration::from_secs(5)) * 2 / u64::from(info.layout().piece_length());
        let most = MIN_NAMED + (ahead as usize).min(MAX_NAMED - MIN_NAMED);
        let Some(conn) = member.conn.as_mut().filter(|c| c.is_fast() && !c.is_choking()) else { return };
        let layout = info.layout();
        let suggestions = self.suggestions.get_or_insert_with(|| Suggestions::new(*layout, &mut self.rng));
        while member.named.len() < most {
            let has = |piece| member.has.piece(piece);
            let Some(piece) = suggestions.next(|p| pieces.picker().availability(p), has) else {
                return self.pass_name(key);
            };
            conn.send(&Message::Suggest(piece.get()));
            member.named.push(piece);
        }
    }

    /// All pieces are named: one of those that the peer with the longest list has not asked for yet goes to one with
    /// a shorter list. Otherwise slots of a seed would be idle, or bring what others wait for, until that list is done.
    fn pass_name(&mut self, key: PeerKey) {
        let Some(pieces) = &self.pieces else { return };
        let own = self.members.get(&key).map_or(0, |m| m.named.len());
        let longest = self.members.iter_mut().max_by_key(|(_, m)| m.named.len());
        let Some((_, longest)) = longest.filter(|(from, m)| **from != key && m.named.len() > own + 1) else {
            return;
        };
        let asked = |index: u32| {
            let blocks = || longest.queue.iter().chain(&longest.reads);
            longest.serving == Some(index) || blocks().any(|b| b.index == index)
        };
        let free = |p: &PieceIndex| !asked(p.get()) && pieces.picker().availability(*p) == 0;
        let Some(at) = longest.named.iter().rposition(free) else { return };
        let piece = longest.named.remove(at);
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        conn.send(&Message::Suggest(piece.get()));
        member.named.push(piece);
    }

    /// A peer has got a piece, from us or from somebody else.
    pub(super) fn on_fetched(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let Some(suggestions) = &mut self.suggestions else { return };
        if let Some(giver) = suggestions.passed_on(piece, key).and_then(|k| self.members.get_mut(&k)) {
            giver.passed_on += 1;
        }
        let Some(member) = self.members.get_mut(&key).filter(|m| m.named.contains(&piece)) else { return };
        member.named.retain(|p| *p != piece);
        if self.pieces.as_ref().is_some_and(|p| p.picker().availability(piece) == 1) {
            suggestions.gave(now, piece, key);
        } else {
            suggestions.forget(piece);
        }
        self.suggest(now, key);
    }

    /// What was named to a peer that is not served any more, others may have; but for a piece that it still gets.
    pub(super) fn take_back(&mut self, key: PeerKey, stays: bool) {
        let (Some(suggestions), Some(member)) = (&mut self.suggestions, self.members.get_mut(&key)) else {
            return;
        };
        let finishing = member.finishing.filter(|_| stays);
        let (kept, free): (Vec<PieceIndex>, Vec<PieceIndex>) =
            member.named.drain(..).partition(|p| Some(p.get()) == finishing);
        member.named = kept;
        free.into_iter().for_each(|piece| suggestions.give_back(piece));
    }

    /// A peer names a piece that we should fetch from it.
    pub(super) fn on_suggested(&mut self, now: Instant, key: PeerKey, index: u32) {
        let (Some(info), Some(pieces)) = (&self.info, &self.pieces) else { return };
        let Some(piece) = info.layout().piece(index).filter(|_| !pieces.have().has(index)) else { return };
        // Whoever has only a part would name what others have too.
        let Some(member) = self.members.get_mut(&key).filter(|m| m.has.is_complete()) else { return };
        member.suggested.retain(|p| pieces.picker().is_waiting(*p) && *p != piece);
        if member.suggested.len() == MAX_SUGGESTED {
            member.suggested.pop_front();
        }
        member.suggested.push_back(piece);
        member.suggested_at = Some(now);
    }

    fn piece_length(&self) -> u32 {
        self.info.as_ref().map_or(0, |i| i.layout().piece_length())
    }

    fn reject(&mut self, key: PeerKey, block: BlockRef) {
        if let Some(conn) = self.conn(key).filter(|c| c.is_fast()) {
            conn.send(&Message::Reject(block));
        }
    }

    fn can_serve(&self, block: &BlockRef) -> bool {
        let (Some(info), Some(pieces)) = (&self.info, &self.pieces) else { return false };
        let Some(piece) = info.layout().piece(block.index) else { return false };
        let end = u64::from(block.begin) + u64::from(block.length);
        let sized = (1..=MAX_REQUEST_LEN).contains(&block.length);
        sized && end <= u64::from(info.layout().len_of(piece)) && pieces.have().has(block.index)
    }
}

/// Whether a peer still wants what it had asked for before a choke: with the fast extension (BEP 6), but for aria2, which
/// sets its bit and throws it all away.
fn keeps_requests(conn: &Connection) -> bool {
    conn.is_fast() && !conn.remote().is_some_and(|remote| remote.peer_id.0.starts_with(b"A2-"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::swarm::event::Input;
    use crate::swarm::tests::{PIECES, drain, info, join, seed_with};
    use crate::wire::metainfo::BLOCK_LEN;

    #[test]
    fn a_seed_names_each_piece_to_one_peer() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |_| ());
        let mut named = BTreeSet::new();
        for id in 1..=5 {
            let key = join(&mut swarm, id, now);
            let (said, _) = drain(&mut swarm, key, false);
            let suggested =
                said.iter().filter_map(|m| if let Message::Suggest(p) = m { Some(*p) } else { None });
            let before = named.len();
            named.extend(suggested);
            assert_eq!(named.len() - before, MIN_NAMED, "peer {id}");
        }
        // One that has got its piece is named another one; what a choked one was named goes to the next.
        let first = PeerKey(std::num::NonZeroU32::MIN);
        let got = swarm.members[&first].named[0];
        let mut have = Vec::new();
        Message::Have(got.get()).emit(&mut have);
        swarm.handle(now, Input::Received(first, have.into()));
        let (said, _) = drain(&mut swarm, first, true);
        let [Message::Suggest(next)] = said[..] else { panic!("{said:?}") };
        assert!(named.insert(next));
        let returned: Vec<_> = swarm.members[&first].named.clone();
        swarm.set_choke(now, first, true);
        swarm.choker.release(first);
        let key = join(&mut swarm, 6, now);
        assert!(swarm.members[&key].named.iter().all(|p| returned.contains(p)));
    }

    #[test]
    fn who_takes_nothing_keeps_a_seed_from_nobody() {
        let mut now = Instant::now();
        let mut swarm = seed_with(now, |_| ());
        for id in 1..=50 {
            let key = join(&mut swarm, id, now);
            // Every other asks for everything and reads nothing.
            let asked = (0..PIECES).filter(|_| id % 2 == 0).flat_map(|index| {
                (0..4).map(move |b| BlockRef { index, begin: b * BLOCK_LEN, length: BLOCK_LEN })
            });
            let mut bytes = Vec::new();
            asked.for_each(|block| Message::Request(block).emit(&mut bytes));
            swarm.handle(now, Input::Received(key, bytes.into()));
        }
        let last = join(&mut swarm, 99, now);
        let mut seconds = 0;
        while swarm.conn(last).unwrap().is_choking() {
            now += Duration::from_secs(1);
            seconds += 1;
            assert!(seconds <= 20, "it still waits");
            swarm.handle_timeout(now);
            let reads: Vec<Action> = std::iter::from_fn(|| swarm.poll_action()).collect();
            for action in reads {
                let Action::Read { peer, piece, begin, length } = action else { continue };
                let data = Some(Bytes::from(vec![0; length as usize]).into());
                swarm.handle(now, Input::Read { peer, piece, begin, data });
            }
        }
    }

    #[test]
    fn a_piece_under_way_is_served_to_its_end_after_a_choke() {
        let now = Instant::now();
        let mut swarm = seed_with(now, |_| ());
        let key = join(&mut swarm, 1, now);
        let mut asks = Vec::new();
        let block = |index, n: u32| BlockRef { index, begin: n * BLOCK_LEN, length: BLOCK_LEN };
        for index in [3, 4] {
            (0..4).for_each(|n| Message::Request(block(index, n)).emit(&mut asks));
        }
        swarm.handle(now, Input::Received(key, asks.into()));
        let (_, mut reads) = drain(&mut swarm, key, false);
        assert!(reads.len() < 4, "{} blocks read at once", reads.len());
        swarm.set_choke(now, key, true);
        swarm.flush(now, key);
        let (mut rejected, mut served) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            for read in std::mem::take(&mut reads) {
                let piece = info().layout().piece(read.index).unwrap();
                let data = Some(Bytes::from(vec![0; read.length as usize]).into());
                swarm.handle(now, Input::Read { peer: key, piece, begin: read.begin, data });
            }
            swarm.handle(now, Input::Sent(key, 1 << 20));
            let (said, more) = drain(&mut swarm, key, true);
            reads = more;
            for message in said {
                match message {
                    Message::Reject(block) => rejected.push(block),
                    Message::Piece { index, begin, .. } => served.push((index, begin / BLOCK_LEN)),
                    _ => {}
                }
            }
        }
        assert_eq!(served, [(3, 0), (3, 1), (3, 2), (3, 3)]);
        assert_eq!(rejected, (0..4).map(|n| block(4, n)).collect::<Vec<_>>());
    }
}
