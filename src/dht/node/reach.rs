//! Holding a private network together: members that are not at hand are tried, and what changes is noticed.
//!
//! Owns the pace of both. Whom to try is the memory's decision; nothing of this happens in the public network but
//! that a machine which slept or has moved counts as a change.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Node, family};
use crate::dht::config::{Network, REACH_EVERY, RENEW_EVERY, RENEW_NEWS, RENEW_SHARE};
use crate::dht::memory::Memory;
use crate::id::{Id160, NodeId};
use crate::rng::Rng;
use crate::wire::compact::Contact;

/// Where it stands.
#[derive(Debug)]
pub(super) struct Reach {
    memory: Memory,
    rng: Rng,
    /// When the memory is looked through next; none while it is empty.
    at: Option<Instant>,
    /// Members that came or came back since the last look at the neighbourhood.
    news: usize,
    /// When the neighbourhood is looked up for that.
    renew_at: Option<Instant>,
    renewed_at: Instant,
    /// That is going on.
    is_renewing: bool,
    renewals: u64,
}

impl Reach {
    pub(super) fn new(now: Instant, secrets: &mut Rng) -> Self {
        Self {
            memory: Memory::default(),
            rng: Rng::from_seed(secrets.child()),
            at: None,
            news: 0,
            renew_at: None,
            renewed_at: now,
            is_renewing: false,
            renewals: 0,
        }
    }

    pub(super) fn name(&mut self, now: Instant, addr: SocketAddr) {
        self.memory.name(now, addr, &mut self.rng);
        self.look_soon(now);
    }

    pub(super) fn recall(&mut self, now: Instant, contact: Contact) {
        self.memory.recall(now, contact, &mut self.rng);
        self.look_soon(now);
    }

    pub(super) fn forget(&mut self, addr: SocketAddr) {
        self.memory.forget(addr);
    }

    pub(super) fn retain_named(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.memory.retain_named(keep);
    }

    pub(super) fn contacts(&self) -> Vec<Contact> {
        self.memory.contacts()
    }

    /// How many are remembered, and of these, how many were silent when last asked.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.memory.len(), self.memory.lost())
    }

    /// Searches for the own neighbourhood come first: whoever they find needs not be tried.
    fn look_soon(&mut self, now: Instant) {
        self.at = self.at.into_iter().chain([now + REACH_EVERY]).min();
    }
}

impl Node {
    /// How often the network round us has changed so much that what is shared had better be announced again: this
    /// machine slept or has moved, or many members came or came back.
    pub fn renewals(&self) -> u64 {
        self.reach.renewals
    }

    /// This machine's addresses have changed. The closest members learn the new one at once by being asked.
    pub fn handle_address_change(&mut self, now: Instant, local_ips: Vec<std::net::IpAddr>) {
        self.config.local_ips = local_ips;
        self.forget_due();
        self.renew_now(now);
        self.rejoin_at_once(now);
    }

    pub(super) fn renew_now(&mut self, now: Instant) {
        self.reach.renewals += 1;
        (self.reach.renewed_at, self.reach.news) = (now, 0);
    }

    pub(super) fn reach_at(&self) -> Option<Instant> {
        // A search that is under way says when it is over.
        let renew_at = self.reach.renew_at.filter(|_| !self.is_joining());
        self.reach.at.into_iter().chain(renew_at).min()
    }

    pub(super) fn handle_reach(&mut self, now: Instant) {
        if self.reach.renew_at.is_some_and(|at| at <= now) && !self.is_joining() {
            (self.reach.renew_at, self.reach.renewed_at, self.reach.news) = (None, now, 0);
            self.reach.is_renewing = true;
            self.look_up_neighbourhood(now);
        }
        if self.reach.at.is_some_and(|at| at <= now) {
            self.try_one(now);
        }
    }

    /// Asks one member that is not in the table.
    fn try_one(&mut self, now: Instant) {
        let tables = &self.tables;
        let is_at_hand = |addr: SocketAddr, id: Option<NodeId>| match id {
            Some(id) => tables[family(addr)].contains(&Contact { id, addr }),
            None => tables[family(addr)].entries().any(|e| e.is_at(addr)),
        };
        let (one, next) = self.reach.memory.reach_out(now, is_at_hand);
        self.reach.at = (!self.reach.memory.is_empty()).then(|| next.max(now + REACH_EVERY));
        if let Some((addr, id)) = one {
            self.check(now, addr, id, self.id);
        }
    }

    /// A member has answered.
    pub(super) fn note_member(&mut self, now: Instant, contact: Contact, was_known: bool) {
        let was_lost = self.reach.memory.on_answer(now, contact, &mut self.reach.rng);
        if was_known {
            return;
        }
        self.reach.look_soon(now);
        let is_known = self.tables[family(contact.addr)].contains(&contact);
        if !is_known {
            self.look_into_move(now, contact);
        }
        if is_known || was_lost {
            self.reach.news += 1;
            if self.reach.news >= RENEW_NEWS + self.known() / RENEW_SHARE {
                let at = now.max(self.reach.renewed_at + RENEW_EVERY);
                self.reach.renew_at.get_or_insert(at);
            }
        }
    }

    /// An id that has its place at another address is looked for there; if nobody answers, this one has it next.
    fn look_into_move(&mut self, now: Instant, contact: Contact) {
        let table = &self.tables[family(contact.addr)];
        let at_old_place = |e: &&crate::dht::bucket::Entry| e.id == contact.id && e.failures == 0;
        let Some(old) = table.entries().find(at_old_place).map(|e| e.contact()) else { return };
        self.check(now, old.addr, Some(old.id), self.id);
        self.verify_soon(now, contact.addr, Some(contact.id), self.config.query_timeout() + REACH_EVERY);
    }

    /// A member has not answered.
    pub(super) fn note_silent_member(&mut self, now: Instant, addr: SocketAddr) {
        if self.config.network == Network::Local {
            self.reach.memory.on_silence(now, addr);
            self.reach.look_soon(now);
        }
    }

    /// The neighbourhood was looked up.
    pub(super) fn on_neighbourhood(&mut self) {
        if std::mem::take(&mut self.reach.is_renewing) {
            self.reach.renewals += 1;
        }
    }

    fn is_joining(&self) -> bool {
        self.searches.iter().any(|s| s.is_join())
    }

    fn look_up_neighbourhood(&mut self, now: Instant) {
        let target: Id160 = self.id;
        self.start_search(now, target, super::search::Kind::Join);
    }
}
