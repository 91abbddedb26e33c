//! Searches under way: a lookup in each family, then perhaps an announce.
//!
//! Owns what a search reports and when it ends. Whom to ask is the lookup's decision.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::items::ItemSearch;
use super::{Node, Purpose, family};
use crate::dht::bucket::Entry;
use crate::dht::config::{
    CHEAP_STARTS, K, MAX_ANNOUNCE_ATTEMPTS, MAX_PEERS_FOUND, MAX_PEERS_NAMED, MAX_SEEDS, Network,
    PATIENCE_OTHER_FAMILY, REACHES, WIDER_STARTS,
};
use crate::dht::event::{Event, LookupId, LookupStats};
use crate::dht::lookup::{Lookup, Step};
use crate::id::{Distance, Id160};
use crate::wire::bloom::Bloom;
use crate::wire::compact::Contact;
use crate::wire::krpc::{Method, Reply};

/// What a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Our own neighbourhood; nobody is told.
    Join,
    FindNode,
    GetPeers,
    Announce {
        port: u16,
        seed: bool,
    },
    Scrape,
    GetItem,
    PutItem,
}

impl Kind {
    fn wants_peers(self) -> bool {
        matches!(self, Kind::GetPeers | Kind::Announce { .. })
    }

    /// The query that everyone on the way is asked.
    fn method(self, target: Id160) -> Method<'static> {
        match self {
            Kind::Join | Kind::FindNode => Method::FindNode { target },
            Kind::GetItem | Kind::PutItem => Method::Get { target, seq: None },
            Kind::GetPeers | Kind::Announce { .. } | Kind::Scrape => {
                let scrape = self == Kind::Scrape;
                Method::GetPeers { info_hash: target, scrape, no_seeds: false }
            }
        }
    }
}

/// One search.
#[derive(Debug)]
pub(super) struct Search {
    id: LookupId,
    target: Id160,
    kind: Kind,
    started: Instant,
    /// IPv4, IPv6.
    lookups: [Option<Lookup>; 2],
    wake: Option<Instant>,
    found: BTreeSet<SocketAddr>,
    /// Once the lookups are over.
    announcing: Option<Announcing>,
    announced_to: u32,
    /// The last error a node refused to store with.
    pub(super) refused: Option<i64>,
    /// Nothing further is to be found.
    pub(super) is_satisfied: bool,
    pub(super) item: Option<Box<ItemSearch>>,
    /// Seeds and others (BEP 33).
    filters: Option<Box<[Bloom; 2]>>,
}

/// The end of a search that announces.
#[derive(Debug, Default)]
struct Announcing {
    /// Who has not confirmed yet, [`K`] of each sort and family at most, and the tokens they gave.
    pending: Vec<(Contact, Box<[u8]>)>,
    /// How often they were told.
    attempts: u32,
    /// The next closest, who are told in place of those who stay silent.
    spare: Vec<(Contact, Box<[u8]>)>,
}

/// How far from their targets the [`K`] closest nodes reached in the latest searches.
#[derive(Debug, Default)]
pub(super) struct Reaches(VecDeque<Distance>);

impl Reaches {
    fn add(&mut self, reach: Distance) {
        if self.0.len() == REACHES {
            self.0.pop_front();
        }
        self.0.push_back(reach);
    }

    fn median(&self) -> Option<Distance> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

impl Search {
    pub(super) fn is_get_item(&self) -> bool {
        self.kind == Kind::GetItem
    }

    pub(super) fn id(&self) -> LookupId {
        self.id
    }

    pub(super) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    pub(super) fn is_join(&self) -> bool {
        self.kind == Kind::Join
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn target(&self) -> Id160 {
        self.target
    }

    /// The lookups of IPv4 and IPv6.
    pub(super) fn by_family(&self) -> &[Option<Lookup>; 2] {
        &self.lookups
    }

    fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.lookups.iter().flatten()
    }

    fn sum(&self, count: impl Fn(&Lookup) -> u32) -> u32 {
        self.lookups().map(count).sum()
    }

    pub(super) fn stats(&self, now: Instant) -> LookupStats {
        LookupStats {
            hops: self.lookups().map(Lookup::hops).max().unwrap_or(0),
            asked: self.sum(Lookup::asked),
            answered: self.sum(Lookup::answered),
            timeouts: self.sum(Lookup::stalls),
            peers: self.found.len() as u32,
            announced_to: self.announced_to,
            refused: self.refused,
            elapsed: now.saturating_duration_since(self.started),
        }
    }

    /// The peers among these that are new and can be dialled.
    fn fresh_peers(&mut self, peers: impl Iterator<Item = SocketAddr>, most_ports: usize) -> Vec<SocketAddr> {
        let mut fresh = Vec::new();
        for peer in peers {
            // Port 1 is what some clients announce to be left alone.
            let ports = |ip| self.found.range(SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX)).count();
            let few = ports(peer.ip()) < most_ports || peer.ip().is_loopback();
            if peer.port() > 1 && few && self.found.len() < MAX_PEERS_FOUND && self.found.insert(peer) {
                fresh.push(peer);
            }
        }
        fresh
    }
}

impl Node {
    pub(super) fn start_search(&mut self, now: Instant, target: Id160, kind: Kind) -> LookupId {
        let id = LookupId(self.fresh_id());
        let enabled = [self.config.ipv4, self.config.ipv6];
        let lookups = [0, 1].map(|at| enabled[at].then(|| self.seeded_lookup(now, target, at)));
        let (found, announcing) = (BTreeSet::new(), None);
        let mut search = Box::new(Search {
            id,
            target,
            kind,
            started: now,
            lookups,
            wake: None,
            found,
            announcing,
            announced_to: 0,
            refused: None,
            is_satisfied: false,
            item: None,
            filters: None,
        });
        if kind == Kind::Scrape {
            search.filters = self.announced.filters(now, &target).map(Box::new);
        }
        if matches!(kind, Kind::GetPeers | Kind::Announce { .. }) {
            // The own store answers first: in a tiny network we may be the one who was told.
            let max = MAX_PEERS_FOUND / 2;
            let mut own = self.announced.peers(now, &target, true, false, max, &mut self.rng);
            own.extend(self.announced.peers(now, &target, false, false, max, &mut self.rng));
            let peers = search.fresh_peers(own.into_iter(), self.config.ports_found());
            if !peers.is_empty() {
                self.push_event(Event::Peers { lookup: id, peers });
            }
        }
        self.searches.push(search);
        self.drive(now, id);
        id
    }

    /// A lookup that starts from the table, and from every other address where the table is thin.
    fn seeded_lookup(&self, now: Instant, target: Id160, at: usize) -> Lookup {
        let rules = self.config.lookup;
        let mut lookup = Lookup::new(now, target, rules);
        lookup.expect_within(self.reaches[at].median());
        let known = self.tables[at].closest_entries(&target, 2 * K);
        let cheap = match rules.bit_worth {
            Some(_) => {
                let cost = |e: &Entry| rules.cost(&target, &e.id, e.rtt());
                self.tables[at].cheapest(CHEAP_STARTS, cost)
            }
            None => Vec::new(),
        };
        for entry in known.iter().chain(&cheap) {
            lookup.offer_known(now, entry.contact(), entry.rtt(), &self.config);
        }
        if known.len() < K {
            self.offer_saved(now, target, at, &mut lookup);
            let ours = self.bootstrap.iter().map(|b| b.addr).filter(|addr| family(*addr) == at);
            for addr in ours.take(MAX_SEEDS) {
                lookup.offer_address(now, addr);
            }
        }
        lookup
    }

    fn offer_saved(&self, now: Instant, target: Id160, at: usize, lookup: &mut Lookup) {
        let mut saved: Vec<_> = self.upkeep.saved().filter(|c| family(c.addr) == at).collect();
        saved.sort_by_key(|c| c.id.distance(&target));
        for contact in saved.into_iter().take(MAX_SEEDS) {
            lookup.offer(now, *contact, &self.config);
        }
    }

    /// Gives what was saved to every search that has not had an answer yet.
    pub(super) fn seed_searches_with_saved(&mut self, now: Instant) {
        let mut searches = std::mem::take(&mut self.searches);
        let mut ids = Vec::new();
        for search in searches.iter_mut().filter(|s| s.announcing.is_none()) {
            for (at, lookup) in search.lookups.iter_mut().enumerate() {
                if let Some(lookup) = lookup.as_mut().filter(|l| l.answered() == 0) {
                    self.offer_saved(now, search.target, at, lookup);
                    ids.push(search.id);
                }
            }
        }
        self.searches = searches;
        for id in ids {
            self.drive(now, id);
        }
    }

    /// Gives an address to every search that has not had an answer yet.
    pub(super) fn seed_searches(&mut self, now: Instant, addr: SocketAddr) {
        let mut ids = Vec::new();
        for search in &mut self.searches {
            if let Some(lookup) = &mut search.lookups[family(addr)]
                && search.announcing.is_none()
                && lookup.answered() == 0
            {
                lookup.offer_address(now, addr);
                ids.push(search.id);
            }
        }
        for id in ids {
            self.drive(now, id);
        }
    }

    pub(super) fn due_searches(&self, now: Instant) -> Vec<LookupId> {
        let due = self.searches.iter().filter(|s| s.wake.is_some_and(|at| at <= now));
        due.map(|s| s.id).collect()
    }

    /// Lets a search go on as far as it can.
    pub(super) fn drive(&mut self, now: Instant, id: LookupId) {
        let Some(at) = self.searches.iter().position(|s| s.id == id) else { return };
        self.forget_due();
        let mut search = self.searches.swap_remove(at);
        let due = search.wake.is_some_and(|at| at <= now);
        if let Some(mut announcing) = search.announcing.take() {
            if due && announcing.attempts == MAX_ANNOUNCE_ATTEMPTS {
                // Confirmations that are this late are not waited for.
                announcing.pending.clear();
            } else if due {
                // Either way one of a pair of datagrams was lost, or a node is gone that was there a moment ago;
                // to be announced twice, or in one place more, harms nobody.
                let silent = announcing.pending.len().min(announcing.spare.len());
                announcing.pending.extend(std::mem::take(&mut announcing.spare).into_iter().take(silent));
                self.send_announces(now, &mut search, &mut announcing);
            }
            search.announcing = Some(announcing);
        } else {
            search.wake = None;
            if search.is_satisfied || self.drive_lookups(now, &mut search) {
                self.start_announcing(now, &mut search);
            }
        }
        let over = search.announcing.as_ref().is_some_and(|a| a.pending.is_empty());
        if over { self.finish(now, search) } else { self.searches.push(search) }
    }

    /// True when the lookups of all families are over.
    fn drive_lookups(&mut self, now: Instant, search: &mut Search) -> bool {
        let method = search.kind.method(search.target);
        // A family in which nobody answers must not hold up the other one.
        let answered = search.sum(Lookup::answered) > 0;
        let mut over = true;
        // Whoever finds nobody asks some more of his own acquaintances before he believes it.
        let doubts =
            search.kind.wants_peers() && search.found.is_empty() && self.config.network == Network::Public;
        for (at, lookup) in search.lookups.iter_mut().enumerate() {
            let Some(lookup) = lookup else { continue };
            loop {
                match lookup.next(now, self.inflight.pace()) {
                    Step::Query { addr, id, aside } => {
                        let method = aside.map_or(method, |target| Method::FindNode { target });
                        let purpose = Purpose::Search(search.id);
                        if let Some(until) = self.postponed(now, addr) {
                            lookup.on_postponed(addr, until);
                        } else if self
                            .query(now, addr, id, self.config.query_timeout(), method, purpose)
                            .is_none()
                        {
                            lookup.on_failure(addr);
                        }
                    }
                    Step::Wait(at) => {
                        let silent = answered && lookup.answered() == 0;
                        let at = if silent { at.min(search.started + PATIENCE_OTHER_FAMILY) } else { at };
                        if !silent || lookup.asked() > 0 && at > now {
                            over = false;
                            search.wake = Some(search.wake.map_or(at, |w| w.min(at)));
                        }
                        break;
                    }
                    Step::Done => {
                        let others = if doubts { self.acquaintances(at) } else { Vec::new() };
                        if !lookup.widen(now, others.into_iter(), &self.config) {
                            break;
                        }
                    }
                }
            }
        }
        over
    }

    /// Some of those we know, whatever they are near to.
    fn acquaintances(&mut self, at: usize) -> Vec<Contact> {
        let usable = self.tables[at].entries().filter(|e| e.is_usable());
        let mut all: Vec<_> = usable.map(Entry::contact).collect();
        self.rng.shuffle(&mut all);
        all.truncate(WIDER_STARTS);
        all
    }

    fn start_announcing(&mut self, now: Instant, search: &mut Search) {
        let mut announcing = Announcing::default();
        if matches!(search.kind, Kind::Announce { .. } | Kind::PutItem) {
            for lookup in search.lookups() {
                let willing =
                    lookup.closest_set().filter_map(|(contact, token)| Some((contact, token?.into())));
                announcing.pending.extend(willing);
                let told = |c: &Contact| announcing.pending.iter().any(|(p, _)| p.addr == c.addr);
                let others = lookup.closest().filter(|(c, _)| !told(c));
                let spare: Vec<_> =
                    others.filter_map(|(contact, token)| Some((contact, token?.into()))).take(K).collect();
                announcing.spare.extend(spare);
            }
            self.send_announces(now, search, &mut announcing);
        }
        search.announcing = Some(announcing);
    }

    fn send_announces(&mut self, now: Instant, search: &mut Search, announcing: &mut Announcing) {
        for (contact, token) in &announcing.pending {
            let info_hash = search.target;
            let method = match search.kind {
                Kind::Announce { port, seed } => {
                    Some(Method::AnnouncePeer { info_hash, port, implied_port: false, seed, token })
                }
                _ => search.item.as_ref().and_then(|i| i.put_method(token)),
            };
            let Some(method) = method else { continue };
            let purpose = Purpose::Announce(search.id);
            // With too many under way it is as good as lost, and repeated as if it were.
            let _ =
                self.query(now, contact.addr, Some(contact.id), self.config.query_timeout(), method, purpose);
        }
        search.wake = Some(now + self.inflight.pace().stall() * 2_u32.pow(announcing.attempts));
        announcing.attempts += 1;
    }

    fn finish(&mut self, now: Instant, search: Box<Search>) {
        let stats = search.stats(now);
        tracing::debug!(?stats, kind = ?search.kind, "search over");
        self.note_finished(now, &search);
        for (lookup, reaches) in search.lookups.iter().zip(&mut self.reaches) {
            if let Some(reach) = lookup.as_ref().and_then(Lookup::reach) {
                reaches.add(reach);
            }
        }
        if search.is_join() {
            return self.on_joined(now, stats.answered > 0);
        }
        if let Kind::Scrape = search.kind {
            let count = |at: usize| search.filters.as_ref().map_or(0, |f| f[at].estimate().round() as u32);
            self.push_event(Event::Scrape { lookup: search.id, seeds: count(0), leechers: count(1) });
        }
        let closest = search.lookups().flat_map(|l| l.closest_set()).map(|(c, _)| c).collect();
        self.push_event(Event::Done { lookup: search.id, stats, closest });
    }

    fn progress(&mut self, id: LookupId) {
        let search = self.searches.iter().find(|s| s.id == id && !s.is_join());
        if let Some(search) = search {
            let (asked, answered) = (search.sum(Lookup::asked), search.sum(Lookup::answered));
            self.push_event(Event::Progress { lookup: id, asked, answered });
        }
    }

    pub(super) fn on_search_reply(&mut self, now: Instant, id: LookupId, from: Contact, reply: &Reply<'_>) {
        let contacts = self.acceptable(from.addr, reply);
        let config = &self.config;
        let Some(search) = self.searches.iter_mut().find(|s| s.id == id) else { return };
        for (at, lookup) in search.lookups.iter_mut().enumerate() {
            let Some(lookup) = lookup else { continue };
            let of_family: Vec<_> = contacts.iter().copied().filter(|c| family(c.addr) == at).collect();
            if family(from.addr) == at {
                lookup.on_reply(now, from, reply.token, &of_family, config);
            } else {
                of_family.iter().take(K).for_each(|c| lookup.offer(now, *c, config));
            }
        }
        if let Some(filters) = reply.filters.filter(|_| search.kind == Kind::Scrape) {
            let [seeds, peers] = &mut **search.filters.get_or_insert_default();
            seeds.merge(filters.seeds);
            peers.merge(filters.peers);
        }
        let usable = |p: &SocketAddr| config.accepts(*p, from.addr.ip());
        let peers =
            search.fresh_peers(reply.peers().take(MAX_PEERS_NAMED).filter(usable), config.ports_found());
        if !peers.is_empty() {
            self.push_event(Event::Peers { lookup: id, peers });
        }
        if !reply.value.is_empty() {
            self.on_item_reply(now, id, reply);
        }
        self.progress(id);
        self.drive(now, id);
    }

    pub(super) fn on_search_failure(&mut self, now: Instant, id: LookupId, from: SocketAddr) {
        let Some(search) = self.searches.iter_mut().find(|s| s.id == id) else { return };
        if let Some(lookup) = &mut search.lookups[family(from)] {
            lookup.on_failure(from);
        }
        self.progress(id);
        self.drive(now, id);
    }

    pub(super) fn on_announced(&mut self, now: Instant, id: LookupId, from: SocketAddr, accepted: bool) {
        let Some(search) = self.searches.iter_mut().find(|s| s.id == id) else { return };
        let Some(announcing) = &mut search.announcing else { return };
        let Some(at) = announcing.pending.iter().position(|(c, _)| c.addr == from) else { return };
        announcing.pending.swap_remove(at);
        search.announced_to += u32::from(accepted);
        if announcing.pending.is_empty() {
            self.drive(now, id);
        }
    }
}
