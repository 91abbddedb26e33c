//! Serving: requests of peers, reading for them, choking.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::choker::Contender;
use super::config::MAX_PEER_REQUESTS;
use super::event::{Action, CloseReason, PeerKey};
use super::pieces::Pieces;
use super::swarm::Swarm;
use crate::wire::metainfo::PieceIndex;
use crate::wire::peer::{BlockRef, MAX_REQUEST_LEN, Message};

/// Tit-for-tat compares rates over this long.
const RATE_WINDOW: Duration = Duration::from_secs(20);

impl Swarm {
    pub(super) fn on_interest(&mut self, key: PeerKey) {
        // A peer that wants nothing (BEP 21) may still say that it is interested.
        let wants = self.conn(key).map(|c| c.is_peer_interested() && !c.is_upload_only());
        let Some(wants) = wants else { return };
        if !wants {
            self.choker.release(key);
            self.set_choke(key, true);
        } else if self.pieces.is_some() && self.choker.admit(key) {
            self.set_choke(key, false);
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
            let Some(block) = member.queue.pop_front() else { return };
            let Some(piece) = info.layout().piece(block.index) else { continue };
            member.reading += block.length as usize;
            let BlockRef { begin, length, .. } = block;
            self.actions.push_back(Action::Read { peer: key, piece, begin, length });
        }
    }

    pub(super) fn on_read(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: PieceIndex,
        begin: u32,
        data: Option<Bytes>,
    ) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        match data {
            Some(data) => {
                let length = data.len();
                member.reading = member.reading.saturating_sub(length);
                if conn.is_choking() && !member.fast.offers(piece) {
                    return self.reject(key, BlockRef { index: piece.get(), begin, length: length as u32 });
                }
                conn.send_block(piece.get(), begin, data);
                member.up.record(now, length as u64);
                self.up.record(now, length as u64);
            }
            // A block that the disk lost cannot be served; the connection cannot go on without it.
            None => return self.close(now, key, CloseReason::Finished),
        }
        self.flush(now, key);
        self.pump(now, key);
    }

    pub(super) fn choke_round(&mut self, now: Instant) {
        let seeding = self.pieces.as_ref().is_some_and(Pieces::is_complete);
        let open = self.members.iter().filter(|(_, m)| m.is_open());
        let contenders: Vec<Contender> = open
            .map(|(&peer, m)| Contender {
                peer,
                interested: m.conn.as_ref().is_some_and(|c| c.is_peer_interested() && !c.is_upload_only()),
                rate: if seeding { &m.up } else { &m.down }.per_second(now, RATE_WINDOW),
                snubbed: m.snubbed && !seeding,
                since: m.since,
            })
            .collect();
        let unchoked = self.choker.round(now, &contenders, &mut self.rng).to_vec();
        for contender in contenders {
            self.set_choke(contender.peer, !unchoked.contains(&contender.peer));
        }
    }

    fn set_choke(&mut self, key: PeerKey, choking: bool) {
        let piece_length = self.piece_length();
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut().filter(|c| c.is_choking() != choking) else { return };
        conn.choke(choking);
        let queue = if choking { std::mem::take(&mut member.queue) } else { Default::default() };
        for block in queue {
            let Some(member) = self.members.get_mut(&key) else { return };
            if member.grant(&block, piece_length) {
                member.queue.push_back(block);
            } else {
                self.reject(key, block);
            }
        }
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
