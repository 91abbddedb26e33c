//! Joining the network and keeping the tables true.
//!
//! Owns the pace of it: searches for the own neighbourhood in doubling intervals, then one check each
//! few seconds, of a waiting stranger or of the entry that was checked longest ago. A check is a
//! `find_node` into the bucket concerned, so that it tells who is alive and who else is there at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::search::Kind;
use super::{Node, Purpose, family};
use crate::dht::config::{
    JOIN_EVERY, JOIN_RETRY, JOIN_RETRY_MAX, JOIN_RETRY_PRIVATE, JOIN_SMALL_MAX, K, MAX_SAVED, MAX_UNVERIFIED,
    PRIVATE_TABLE, SMALL_TABLE, UPKEEP_EVERY, UPKEEP_FAST, UPKEEP_PRIVATE,
};
use crate::id::{Id160, NodeId};
use crate::wire::compact::Contact;
use crate::wire::krpc::{Method, Reply};

/// One who may enter the table if he answers.
#[derive(Debug)]
struct Unverified {
    addr: SocketAddr,
    id: Option<NodeId>,
    due: Instant,
}

/// Where upkeep stands.
#[derive(Debug)]
pub(super) struct Upkeep {
    unverified: VecDeque<Unverified>,
    saved: Vec<Contact>,
    last_check: Instant,
    joined: bool,
    joins: u32,
    join_at: Option<Instant>,
    join_wait: Duration,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unverified: VecDeque::new(),
            saved: Vec::new(),
            last_check: now,
            joined: false,
            joins: 0,
            join_at: None,
            join_wait: JOIN_RETRY,
        }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.joined
    }

    pub(super) fn saved(&self) -> impl Iterator<Item = &Contact> {
        self.saved.iter()
    }
}

impl Node {
    fn known(&self) -> usize {
        self.tables[0].len() + self.tables[1].len()
    }

    pub(super) fn remember_saved(&mut self, contact: Contact) {
        let saved = &mut self.upkeep.saved;
        if saved.len() < MAX_SAVED && saved.iter().all(|c| c.addr != contact.addr) {
            saved.push(contact);
        }
    }

    /// Starts joining if too few are known and it is not going on already.
    pub(super) fn join_now(&mut self, now: Instant) {
        if self.known() < K && !self.searches.iter().any(|s| s.is_join()) {
            self.upkeep.join_wait = if self.knows_private() { JOIN_RETRY_PRIVATE } else { JOIN_RETRY };
            self.join(now);
        }
    }

    fn join(&mut self, now: Instant) {
        self.upkeep.join_at = None;
        // Every third time elsewhere: who knows only his neighbours starts far from most targets.
        let elsewhere = self.upkeep.joins % 3 == 2 && self.known() >= K;
        let target = if elsewhere { Id160::random(&mut self.rng) } else { self.id };
        self.start_search(now, target, Kind::Join);
    }

    pub(super) fn on_joined(&mut self, now: Instant, answered: bool) {
        let (known, upkeep) = (self.known(), &mut self.upkeep);
        upkeep.joined = known > 0 && (upkeep.joined || answered);
        upkeep.joins += 1;
        let ceiling = if known == 0 { JOIN_RETRY_MAX } else { JOIN_SMALL_MAX };
        // A table that has emptied since must not wait as long as a full one may.
        let wait = if known < K { upkeep.join_wait.min(ceiling) } else { upkeep.join_wait };
        upkeep.join_wait = if known >= K && wait >= JOIN_RETRY_MAX { JOIN_EVERY } else { wait * 2 };
        if known < K {
            upkeep.join_wait = upkeep.join_wait.min(ceiling);
        }
        upkeep.join_at = Some(now + wait);
    }

    /// The table has shrunk below what a search needs: joins again soon.
    pub(super) fn rejoin_soon(&mut self, now: Instant) {
        self.upkeep.joined &= self.known() > 0;
        self.upkeep.join_wait = JOIN_RETRY;
        let soon = now + JOIN_RETRY;
        self.upkeep.join_at = self.upkeep.join_at.map(|at| at.min(soon));
    }

    pub(super) fn join_at(&self) -> Option<Instant> {
        self.upkeep.join_at
    }

    /// Queues a ping that decides whether someone enters the table.
    pub(super) fn verify_soon(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        id: Option<NodeId>,
        delay: Duration,
    ) {
        let waiting = &mut self.upkeep.unverified;
        if waiting.len() < MAX_UNVERIFIED && waiting.iter().all(|u| u.addr != addr) {
            waiting.push_back(Unverified { addr, id, due: now + delay });
        }
    }

    /// When the next check is due; never, while there is nobody to check.
    pub(super) fn upkeep_at(&self) -> Option<Instant> {
        let last = self.upkeep.last_check;
        let regular = (self.known() > 0).then_some(last + UPKEEP_EVERY);
        let pace = match self.known() {
            _ if self.knows_private() => UPKEEP_PRIVATE,
            0..SMALL_TABLE => UPKEEP_FAST,
            _ => UPKEEP_EVERY,
        };
        let due = self.upkeep.unverified.iter().map(|u| u.due).min();
        let stranger = due.map(|due| due.max(last + pace));
        regular.into_iter().chain(stranger).min()
    }

    pub(super) fn handle_upkeep(&mut self, now: Instant) {
        if self.upkeep.join_at.is_some_and(|at| at <= now) {
            self.join(now);
        }
        if self.upkeep_at().is_some_and(|at| at <= now) {
            self.upkeep.last_check = now;
            self.announced.expire(now);
            self.items.expire(now);
            self.check_one(now);
        }
    }

    fn check_one(&mut self, now: Instant) {
        while let Some(at) = self.upkeep.unverified.iter().position(|u| u.due <= now) {
            let Some(stranger) = self.upkeep.unverified.remove(at) else { return };
            let contact = stranger.id.map(|id| Contact { id, addr: stranger.addr });
            let table = &self.tables[family(stranger.addr)];
            if contact.is_none_or(|c| table.has_room(&c.id) && !table.contains(&c)) {
                let target = stranger.id.unwrap_or(self.id);
                return self.check(now, stranger.addr, stranger.id, target);
            }
        }
        let oldest = self.tables.iter().filter_map(|t| t.least_recently_checked());
        let Some(contact) = oldest.min_by_key(|e| e.checked).map(|e| e.contact) else { return };
        self.tables[family(contact.addr)].on_check(now, &contact);
        let shared = self.id.shared_prefix(&contact.id) as usize;
        let target = self.id.random_with_prefix(shared, &mut self.rng);
        self.check(now, contact.addr, Some(contact.id), target);
    }

    fn check(&mut self, now: Instant, addr: SocketAddr, id: Option<NodeId>, target: Id160) {
        let method = Method::FindNode { target };
        // With too many under way the check is skipped; its turn comes again.
        let _ = self.query(now, addr, id, Self::TIMEOUT, method, Purpose::Check);
    }

    pub(super) fn on_checked(&mut self, now: Instant, from: SocketAddr, reply: &Reply<'_>) {
        let enough = if self.knows_private() { PRIVATE_TABLE } else { SMALL_TABLE };
        if self.known() >= enough {
            return;
        }
        for contact in self.acceptable(from, reply) {
            let table = &self.tables[family(contact.addr)];
            if table.has_room(&contact.id) && !table.contains(&contact) {
                self.verify_soon(now, contact.addr, Some(contact.id), Duration::ZERO);
            }
        }
    }
}
