//! Who sent a false block, where several peers had a part in a piece that failed.
//!
//! The digests of the failed blocks are kept until the piece has been fetched again and verified; whoever
//! sent a block that differs has lied, and nobody else is punished. Must not know the disk: it asks for
//! digests with [`Action::Digest`].

use std::net::SocketAddr;
use std::time::Instant;

use super::config::MAX_SUSPECTS;
use super::event::{Action, CloseReason, PeerKey};
use super::swarm::Swarm;
use crate::wire::metainfo::PieceIndex;

/// Who sent a block, and from where: by the time it is judged the sender may have gone.
type Author = (PeerKey, Option<SocketAddr>);

/// A piece that failed.
#[derive(Debug)]
pub(super) struct Suspect {
    /// Of each block.
    authors: Vec<Author>,
    /// What each block was; empty until the disk has said.
    digests: Vec<u64>,
}

impl Swarm {
    /// A piece does not hash; `authors` sent its blocks.
    pub(super) fn on_false_piece(&mut self, now: Instant, piece: PieceIndex, authors: Vec<PeerKey>) {
        if let Some(&first) = authors.first().filter(|&first| authors.iter().all(|a| a == first)) {
            let addr = self.address_of(first);
            return self.expel(now, (first, addr));
        }
        if self.suspects.contains_key(&piece) || self.suspects.len() >= MAX_SUSPECTS {
            return;
        }
        let authors = authors.into_iter().map(|key| (key, self.address_of(key))).collect();
        self.suspects.insert(piece, Suspect { authors, digests: Vec::new() });
        self.actions.push_back(Action::Digest(piece));
    }

    /// The disk has digested a piece: first the false one, later the true one.
    pub(super) fn on_digested(&mut self, now: Instant, piece: PieceIndex, digests: Vec<u64>) {
        let Some(suspect) = self.suspects.get_mut(&piece) else { return };
        let verified = self.pieces.as_ref().is_some_and(|p| p.have().has(piece.get()));
        if !verified {
            if suspect.digests.is_empty() {
                suspect.digests = digests;
            }
            return;
        }
        let Some(suspect) = self.suspects.remove(&piece) else { return };
        let pairs = suspect.digests.iter().zip(&digests).zip(suspect.authors);
        let mut liars: Vec<Author> =
            pairs.filter(|((was, is), _)| was != is).map(|(_, author)| author).collect();
        liars.sort_unstable();
        liars.dedup();
        for liar in liars {
            self.expel(now, liar);
        }
    }

    /// Where a peer is, or was.
    fn address_of(&self, key: PeerKey) -> Option<SocketAddr> {
        let here = self.members.get(&key).map(|m| m.candidate.unwrap_or(m.addr));
        here.or_else(|| self.departed.get(&key).copied())
    }

    /// Ends a liar's connection, or bans it where it has left, and throws away what it sent for unfinished
    /// pieces.
    fn expel(&mut self, now: Instant, (liar, addr): Author) {
        if let Some(pieces) = &mut self.pieces {
            self.wasted += pieces.distrust(liar);
        }
        if self.members.contains_key(&liar) {
            self.close(now, liar, CloseReason::Liar);
        } else if let Some(addr) = addr.filter(|&addr| !self.candidates.is_banned(addr)) {
            self.banned += 1;
            self.candidates.ban(addr);
        }
    }
}
