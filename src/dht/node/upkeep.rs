//! Joining the network and keeping the tables true.
//!
//! Owns the pace of it: searches for the own neighbourhood in doubling intervals, then one check each
//! few seconds, of a waiting stranger or of the entry that most likely has left. A check is a
//! `find_node` into the bucket concerned, so that it tells who is alive and who else is there at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::search::Kind;
use super::{Node, Pending, Purpose, family};
use crate::dht::config::{
    CHECKS_PLANNED, JOIN_EVERY, JOIN_RETRY, JOIN_RETRY_MAX, JOIN_RETRY_PRIVATE, JOIN_SMALL_MAX, K, MAX_SAVED,
    MAX_UNVERIFIED, MAX_UNVERIFIED_PRIVATE, Network, PRIVATE_TABLE, SLEPT, SMALL_TABLE, UPKEEP_EVERY,
    UPKEEP_FAST, UPKEEP_PRIVATE,
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
    /// When the first of them is due.
    first_due: Option<Instant>,
    saved: Vec<Contact>,
    last_check: Instant,
    /// Whom to check next, the most doubtful last, and when that was decided. At most [`CHECKS_PLANNED`].
    planned: Vec<Contact>,
    planned_at: Instant,
    joined: bool,
    joins: u32,
    join_at: Option<Instant>,
    join_wait: Duration,
    /// Entries not checked since then have to prove themselves once more.
    recheck_since: Option<Instant>,
    sleeps: u64,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unverified: VecDeque::new(),
            first_due: None,
            saved: Vec::new(),
            last_check: now,
            planned: Vec::new(),
            planned_at: now,
            joined: false,
            joins: 0,
            join_at: None,
            join_wait: JOIN_RETRY,
            recheck_since: None,
            sleeps: 0,
        }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.joined
    }

    fn take_due(&mut self, now: Instant) -> Option<Unverified> {
        self.first_due.filter(|due| *due <= now)?;
        let at = self.unverified.iter().position(|u| u.due <= now)?;
        let due = self.unverified.remove(at);
        self.first_due = self.unverified.iter().map(|u| u.due).min();
        due
    }

    pub(super) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    pub(super) fn waiting(&self) -> usize {
        self.unverified.len()
    }

    pub(super) fn saved(&self) -> impl Iterator<Item = &Contact> {
        self.saved.iter()
    }
}

impl Node {
    pub(super) fn known(&self) -> usize {
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
        self.forget_due();
        self.upkeep.join_at = None;
        // Every third time elsewhere: who knows only his neighbours starts far from most targets.
        let elsewhere = self.upkeep.joins % 3 == 2 && self.known() >= K;
        let target = if elsewhere { Id160::random(&mut self.rng) } else { self.id };
        self.start_search(now, target, Kind::Join);
    }

    /// Somebody is known again: what is due counts from now.
    pub(super) fn on_first_known(&mut self, now: Instant) {
        self.upkeep.last_check = now;
    }

    pub(super) fn on_joined(&mut self, now: Instant, answered: bool) {
        self.on_neighbourhood();
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

    pub(super) fn on_timeout(&mut self, now: Instant, query: &Pending<Purpose>) {
        self.counters.traffic.timeouts += 1;
        self.note_silent_member(now, query.to);
        // Where nobody has answered since, the silence may be ours: a cable, a sleep, a router.
        let table = &self.tables[family(query.to)];
        let heard_since = query.expect.is_some_and(|id| {
            let contact = Contact { id, addr: query.to };
            table.has_answered_since(&contact, query.sent)
        });
        // In a private network whoever is looked for at his old place has just spoken from the new one.
        let is_local = self.config.network == Network::Local;
        let spoke = |at: Instant| at > query.sent || is_local && at == query.sent;
        if !heard_since && self.last_reply.is_some_and(spoke) {
            self.blame(now, query);
        }
        self.on_failure(now, query);
    }

    pub(super) fn blame(&mut self, now: Instant, query: &Pending<Purpose>) {
        if let Some(id) = query.expect {
            let known = self.tables[0].len() + self.tables[1].len();
            self.tables[family(query.to)].on_failure(&Contact { id, addr: query.to });
            if self.tables[0].len() + self.tables[1].len() < known.min(K) {
                self.rejoin_soon(now);
            }
        }
    }

    /// Queues a ping that decides whether someone enters the table.
    pub(super) fn verify_soon(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        id: Option<NodeId>,
        delay: Duration,
    ) {
        let is_local = self.config.network == Network::Local;
        let most = if is_local { MAX_UNVERIFIED_PRIVATE } else { MAX_UNVERIFIED };
        let waiting = &mut self.upkeep.unverified;
        if waiting.len() < most && waiting.iter().all(|u| u.addr != addr) {
            self.due.set(None);
            let due = now + delay;
            waiting.push_back(Unverified { addr, id, due });
            self.upkeep.first_due = self.upkeep.first_due.into_iter().chain([due]).min();
        }
    }

    /// When the next check is due; never, while there is nobody to check.
    pub(super) fn upkeep_at(&self) -> Option<Instant> {
        let last = self.upkeep.last_check;
        let every = if self.has_to_recheck() { UPKEEP_FAST } else { UPKEEP_EVERY };
        let regular = (self.known() > 0).then_some(last + every);
        let pace = match self.known() {
            // Nobody outside can be made a target by a forged question here.
            _ if self.config.network == Network::Local => UPKEEP_PRIVATE,
            0..SMALL_TABLE => UPKEEP_FAST,
            _ => UPKEEP_EVERY,
        };
        let stranger = self.upkeep.first_due.map(|due| due.max(last + pace));
        regular.into_iter().chain(stranger).min()
    }

    pub(super) fn handle_upkeep(&mut self, now: Instant) {
        if self.upkeep.join_at.is_some_and(|at| at <= now) {
            self.join(now);
        }
        self.handle_reach(now);
        if self.upkeep_at().is_some_and(|at| at <= now) {
            self.upkeep.last_check = now;
            self.announced.expire(now);
            self.items.expire(now);
            self.check_one(now);
            if !self.has_to_recheck() {
                self.upkeep.recheck_since = None;
            }
        }
    }

    /// Compares the wake that was due with the one that came: a process that was halted, or a machine that
    /// slept on a clock that counts sleep, comes late by as much.
    pub(super) fn note_lateness(&mut self, now: Instant) {
        let due = self.poll_timeout().map(|(at, _)| at);
        let late = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late > SLEPT {
            self.on_sleep(now);
        }
    }

    /// The machine has slept, by a clock that only the driver sees (the monotonic one of Linux stands still
    /// meanwhile).
    pub fn handle_sleep(&mut self, now: Instant, slept: Duration) {
        if slept > SLEPT {
            self.on_sleep(now);
        }
    }

    /// What the table says was true before the gap; meanwhile nodes have left, and the address may be a new
    /// one. A search for the own neighbourhood asks the closest at once, then each entry is asked once.
    fn on_sleep(&mut self, now: Instant) {
        self.forget_due();
        self.upkeep.sleeps += 1;
        self.upkeep.recheck_since = Some(now);
        self.renew_now(now);
        self.rejoin_at_once(now);
    }

    pub(super) fn rejoin_at_once(&mut self, now: Instant) {
        self.upkeep.join_wait = if self.knows_private() { JOIN_RETRY_PRIVATE } else { JOIN_RETRY };
        // A join from before the gap waits for answers that will not come.
        self.searches.retain(|s| !s.is_join());
        self.join(now);
    }

    fn has_to_recheck(&self) -> bool {
        let Some(since) = self.upkeep.recheck_since else { return false };
        self.tables.iter().filter_map(|t| t.least_recently_checked()).any(|(checked, _)| checked <= since)
    }

    fn check_one(&mut self, now: Instant) {
        while let Some(stranger) = self.upkeep.take_due(now) {
            let contact = stranger.id.map(|id| Contact { id, addr: stranger.addr });
            let table = &self.tables[family(stranger.addr)];
            if contact.is_none_or(|c| table.has_room(&c.id) && !table.contains(&c)) {
                let target = stranger.id.unwrap_or(self.id);
                return self.check(now, stranger.addr, stranger.id, target);
            }
        }
        let Some(contact) = self.most_doubtful(now) else { return };
        self.tables[family(contact.addr)].on_check(now, &contact);
        let shared = self.id.shared_prefix(&contact.id) as usize;
        let target = self.id.random_with_prefix(shared, &mut self.rng);
        self.check(now, contact.addr, Some(contact.id), target);
    }

    /// The entry that most likely has left. After a sleep it is the one that was checked longest ago, until all were.
    fn most_doubtful(&mut self, now: Instant) -> Option<Contact> {
        if self.upkeep.recheck_since.is_some() {
            let oldest = self.tables.iter().filter_map(|t| t.least_recently_checked());
            return oldest.min_by_key(|(checked, _)| *checked).map(|(_, contact)| contact);
        }
        let since = self.upkeep.planned_at;
        while let Some(contact) = self.upkeep.planned.pop() {
            if self.tables[family(contact.addr)].is_silent_since(&contact, since) {
                return Some(contact);
            }
        }
        let mut all: Vec<_> = self.tables.iter().flat_map(|t| t.most_doubtful(now, CHECKS_PLANNED)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(CHECKS_PLANNED.min(self.known().div_ceil(4)));
        self.upkeep.planned_at = now;
        self.upkeep.planned = all.into_iter().rev().map(|(_, contact)| contact).collect();
        self.upkeep.planned.pop()
    }

    pub(super) fn check(&mut self, now: Instant, addr: SocketAddr, id: Option<NodeId>, target: Id160) {
        let method = Method::FindNode { target };
        // With too many under way the check is skipped; its turn comes again.
        let _ = self.query(now, addr, id, self.config.query_timeout(), method, Purpose::Check);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::{Config, Network};
    use crate::wire::krpc::{Body, Message};

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    /// A node with a table of 100 others that are all silent from now on, past its first searches.
    fn settled(now: Instant) -> Node {
        let config = Config { network: Network::Public, ipv6: false, ..Config::default() };
        let mut node = Node::new(config, [1; 32], now);
        let mut rng = crate::rng::Rng::from_u64(1);
        for n in 1..=100 {
            let contact = Contact { id: Id160::random(&mut rng), addr: ([8, n, 8, 8], 6881).into() };
            node.tables[0].on_answer(now, contact, Duration::ZERO, &node.config);
        }
        (node.upkeep.joined, node.upkeep.join_at) = (true, Some(now + JOIN_EVERY));
        node
    }

    /// The targets of `find_node` that the node sends.
    fn asked(node: &mut Node) -> Vec<Id160> {
        let mut targets = Vec::new();
        while let Some(transmit) = node.poll_transmit() {
            if let Body::Query(query) = Message::parse(&transmit.payload).unwrap().body
                && let Method::FindNode { target } = query.method
            {
                targets.push(target);
            }
        }
        targets
    }

    #[test]
    fn a_late_wake_asks_the_neighbourhood_at_once_and_then_everyone() {
        let start = Instant::now();
        for late in [Duration::from_secs(1), minutes(2)] {
            let mut node = settled(start);
            let due = node.poll_timeout().unwrap().0;
            node.handle_timeout(due + late);
            let to_own = asked(&mut node).iter().filter(|t| **t == node.id).count();
            let slept = late > SLEPT;
            assert_eq!((to_own >= 4, node.upkeep.sleeps()), (slept, u64::from(slept)), "{late:?}");
        }
    }

    #[test]
    fn after_a_sleep_every_entry_is_asked_soon_and_then_the_old_pace_returns() {
        let now = Instant::now();
        let mut node = settled(now);
        node.handle_sleep(now, Duration::from_secs(59));
        assert!(asked(&mut node).is_empty());
        node.handle_sleep(now, minutes(600));
        assert!(asked(&mut node).len() >= 4 && node.has_to_recheck());
        let mut at = now;
        while node.has_to_recheck() {
            at = node.poll_timeout().unwrap().0.max(at);
            assert!(at < now + minutes(2), "the table is not asked soon");
            node.handle_timeout(at);
            asked(&mut node);
        }
        assert_eq!(node.upkeep.sleeps(), 1);
        assert_eq!(node.upkeep_at(), Some(node.upkeep.last_check + UPKEEP_EVERY));
    }
}
