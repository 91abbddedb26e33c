//! One DHT node: the wiring of the machines beside it, and their queues.
//!
//! The methods come in four kinds. *Input*: [`Node::handle_datagram`], [`Node::handle_timeout`].
//! *Wishes*: [`Node::get_peers`], [`Node::announce`], [`Node::find_node`], [`Node::scrape`],
//! [`Node::get_item`], [`Node::put_item`], [`Node::ping`], [`Node::sample_infohashes`],
//! [`Node::add_bootstrap`], [`Node::add_contact`], [`Node::cancel`]. *Output*: [`Node::poll_transmit`],
//! [`Node::poll_event`], [`Node::poll_timeout`]. *View*: [`Node::snapshot`], [`Node::report`].
//!
//! The contract: after each input or wish, drain `poll_transmit` and `poll_event` until they yield
//! nothing, then ask `poll_timeout` when to call `handle_timeout`, and only then go on. Must not know
//! sockets, clocks or files.

mod due;
mod identity;
mod items;
mod operator;
mod reach;
mod scrape;
mod search;
mod sending;
mod serve;
mod upkeep;
pub mod view;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use self::reach::Reach;
use self::search::{Kind, Reaches, Search};
use self::serve::Noted;
use self::upkeep::Upkeep;
use self::view::Findings;
use super::allowance::Allowance;
use super::announced::Announced;
use super::bucket::Entry;
use super::config::{
    Config, ITEM_SHARE, MAX_EVENTS, MAX_NODES_NAMED, MAX_PINGS, MAX_SEARCHES, Network, PING_TIMEOUT,
    STALL_MAX, STALL_PRIVATE, is_private, is_sendable,
};
use super::courtesy::Courtesy;
use super::event::{BootstrapState, Counters, Event, Full, LookupId, PingId, Reason, Snapshot, Transmit};
use super::external::External;
use super::inflight::{InFlight, Pending};
use super::items::Items;
use super::limiter::Limiter;
use super::moment::Epoch;
use super::pace::Pace;
use super::table::Table;
use super::token::Tokens;
use super::traffic::{Kind as QueryKind, Refusal};
use crate::id::{Id160, InfoHash, NodeId};
use crate::rng::Rng;
use crate::wire::compact::{self, Contact, canonical};
use crate::wire::krpc::{Body, Message, Method, ParseError, Reply};

/// A node of the DHT.
#[derive(Debug)]
pub struct Node {
    /// What [`Node::poll_timeout`] has last said, if that still holds.
    due: Cell<Option<(Instant, Reason)>>,
    /// When somebody last answered.
    last_reply: Option<Instant>,
    /// Whether a stranger's query has ever come in.
    was_reached: bool,
    config: Config,
    id: NodeId,
    rng: Rng,
    /// IPv4, IPv6.
    tables: [Table; 2],
    inflight: InFlight<Purpose>,
    tokens: Tokens,
    announced: Announced,
    items: Items,
    /// IPv4, IPv6.
    external: [External; 2],
    limiter: Limiter,
    allowance: Allowance,
    courtesy: Courtesy,
    /// How long the answer to the query at hand may be.
    answer_room: usize,
    /// How long a transaction id it has to repeat.
    echo: usize,
    /// Each on its own, since they are taken out and put back at each turn.
    #[expect(clippy::vec_box, reason = "650 bytes need not be moved")]
    searches: Vec<Box<Search>>,
    /// IPv4, IPv6.
    reaches: [Reaches; 2],
    upkeep: Upkeep,
    /// Used in private networks only.
    reach: Reach,
    bootstrap: Vec<BootstrapState>,
    pings: usize,
    next_id: u64,
    counters: Counters,
    started: Instant,
    findings: Findings,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    noted: Noted,
    /// Empty buffers for payloads to come.
    spare: Vec<Vec<u8>>,
}

/// What a query under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Search(LookupId),
    Announce(LookupId),
    Ping(PingId),
    Sample(PingId),
    Check,
}

/// Which of the two tables.
fn family(addr: SocketAddr) -> usize {
    usize::from(addr.is_ipv6())
}

impl Node {
    /// A node that knows nobody.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = Rng::from_seed(seed);
        // A stream of their own: these secrets decide nothing that anybody sees.
        let mut secrets = Rng::from_seed(seed.map(|byte| !byte));
        let random_id = Id160::random(&mut rng);
        let id = config.id.unwrap_or(random_id);
        let item_bytes = (config.limits.store_bytes as f64 * ITEM_SHARE) as usize;
        let is_local = config.network == Network::Local;
        let stall = if is_local { STALL_PRIVATE } else { STALL_MAX };
        let mut announced = Announced::new(config.limits.store_bytes - item_bytes);
        if is_local {
            announced.share_addresses();
        }
        Self {
            due: Cell::new(None),
            last_reply: None,
            was_reached: false,
            id,
            tables: [0, 1].map(|_| Table::with_root(id, config.lookup.root_buckets, Epoch::new(now))),
            inflight: InFlight::new(rng.child(), Pace::new(stall)),
            tokens: Tokens::new(now, rng.child()),
            announced,
            items: Items::new(now, item_bytes, secrets.u64()),
            external: Default::default(),
            limiter: Limiter::new(&config, secrets.u64()),
            allowance: Allowance::new(now, &config, secrets.u64()),
            courtesy: Courtesy::new(secrets.u64()),
            reach: Reach::new(now, &mut secrets),
            answer_room: 0,
            echo: 0,
            searches: Vec::new(),
            reaches: Default::default(),
            upkeep: Upkeep::new(now),
            bootstrap: Vec::new(),
            pings: 0,
            next_id: 0,
            counters: Counters::default(),
            started: now,
            findings: Findings::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            noted: Noted::new(now),
            spare: Vec::new(),
            rng,
            config,
        }
    }

    /// The node's own id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Entries of the IPv4 and the IPv6 table.
    pub fn table_sizes(&self) -> (usize, usize) {
        (self.tables[0].len(), self.tables[1].len())
    }

    /// Takes a datagram. Whatever it holds, nothing worse happens than that it is counted and dropped.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let from = canonical(from);
        self.counters.traffic.on_receive(bytes.len());
        if !self.config.allow.allows(from.ip()) {
            return self.counters.traffic.on_refusal(Refusal::Outside);
        }
        let message = Message::parse(bytes);
        if !matches!(&message, Ok(Message { body: Body::Query(query), .. }) if query.id != self.id) {
            self.forget_due();
        }
        match message {
            Ok(Message { body: Body::Query(query), transaction, read_only, .. }) => {
                if self.admits(now, from) {
                    self.counters.traffic.on_query_in(QueryKind::of(&query.method));
                    if query.id != self.id {
                        self.serve_within_bounds(now, from, bytes.len(), transaction, &query, read_only);
                    } else {
                        if let Some(own) = self.inflight.take(now, transaction, from) {
                            // Our own query, come back: an address to start from that is ourselves is not silent.
                            self.note_bootstrap(from);
                            self.reach.forget(from);
                            self.on_failure(now, &own);
                        }
                        self.counters.traffic.on_refusal(Refusal::OwnId);
                    }
                }
            }
            Ok(Message { body: Body::Reply(reply), transaction, version, ip, .. }) => {
                self.on_reply(now, from, transaction, &reply, (version, ip));
            }
            Ok(Message { body: Body::Error(error), transaction, ip, .. }) => {
                match self.inflight.take(now, transaction, from) {
                    Some(query) => {
                        tracing::debug!(code = error.code, "a node refused a query");
                        self.counters.errors_in += 1;
                        self.counters.traffic.on_error_in(error.code);
                        self.note_refusal(&query, error.code);
                        if query.purpose == Purpose::Check {
                            // Who refuses even `find_node` is of no use to anybody.
                            self.blame(now, &query);
                        }
                        self.on_failure(now, &query);
                        // Who is refused for his id learns here which address it should follow (BEP 42).
                        self.on_vote(now, from, ip);
                    }
                    None => self.on_unmatched(),
                }
            }
            Err(ParseError::Query { transaction, what }) => {
                self.counters.malformed += 1;
                if self.admits(now, from) {
                    self.counters.traffic.on_query_in(QueryKind::Other);
                    self.refuse_within_bounds(now, from, bytes.len(), transaction, what);
                }
            }
            Err(_) => {
                self.counters.malformed += 1;
                self.counters.traffic.on_refusal(Refusal::Malformed);
            }
        }
    }

    fn admits(&mut self, now: Instant, from: SocketAddr) -> bool {
        if !self.config.read_only && !self.limiter.admits(now, from.ip()) {
            self.counters.traffic.on_refusal(Refusal::RateLimit);
            self.counters.limited += 1;
            return false;
        }
        self.note_reached(from);
        if self.is_read_only() {
            self.counters.traffic.on_refusal(Refusal::ReadOnly);
            return false;
        }
        self.counters.queries_in += 1;
        true
    }

    fn on_unmatched(&mut self) {
        self.counters.unmatched += 1;
        self.counters.traffic.on_refusal(Refusal::Unmatched);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_lateness(now);
        self.forget_due();
        while let Some(query) = self.inflight.take_expired(now) {
            self.on_timeout(now, &query);
        }
        for id in self.due_searches(now) {
            self.drive(now, id);
        }
        self.tokens.handle_timeout(now);
        self.handle_upkeep(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.transmits.pop_front();
        if transmit.is_none() {
            // The next one goes to the start of the ring again: memory that was just used is near.
            self.transmits.clear();
        }
        transmit
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() {
            self.events.clear();
        }
        event
    }

    /// Searches for peers of a torrent.
    pub fn get_peers(&mut self, now: Instant, hash: InfoHash) -> Result<LookupId, Full> {
        self.search(now, hash, Kind::GetPeers)
    }

    /// Searches for peers of a torrent, and afterwards announces `port` to the nodes closest to it.
    pub fn announce(&mut self, now: Instant, hash: InfoHash, port: u16) -> Result<LookupId, Full> {
        self.search(now, hash, Kind::Announce { port, seed: false })
    }

    /// The same for one who has everything (BEP 33).
    pub fn announce_seed(&mut self, now: Instant, hash: InfoHash, port: u16) -> Result<LookupId, Full> {
        self.search(now, hash, Kind::Announce { port, seed: true })
    }

    /// Searches for the nodes closest to an id.
    pub fn find_node(&mut self, now: Instant, target: Id160) -> Result<LookupId, Full> {
        self.search(now, target, Kind::FindNode)
    }

    fn search(&mut self, now: Instant, target: Id160, kind: Kind) -> Result<LookupId, Full> {
        if self.searches.len() >= MAX_SEARCHES {
            return Err(Full);
        }
        Ok(self.start_search(now, target, kind))
    }

    /// Forgets a search; it yields no further event.
    pub fn cancel(&mut self, lookup: LookupId) {
        self.forget_due();
        self.searches.retain(|s| s.id() != lookup);
    }

    /// Asks one node whether it is there.
    pub fn ping(&mut self, now: Instant, addr: SocketAddr) -> Result<PingId, Full> {
        self.question(now, addr, Method::Ping, Purpose::Ping)
    }

    /// Asks one node something for the user.
    fn question(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        method: Method<'_>,
        purpose: fn(PingId) -> Purpose,
    ) -> Result<PingId, Full> {
        if self.pings >= MAX_PINGS {
            return Err(Full);
        }
        let (ping, addr) = (PingId(self.fresh_id()), canonical(addr));
        if !is_sendable(addr) || !self.config.allow.allows(addr.ip()) {
            self.push_event(Event::PingFailed { ping });
            return Ok(ping);
        }
        let query = self.query(now, addr, None, PING_TIMEOUT, method, purpose(ping));
        self.pings += 1;
        query.map(|()| ping).ok_or(Full).inspect_err(|_| self.pings -= 1)
    }

    /// What persists and what is worth showing.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let nodes = |table: &Table| {
            let mut entries: Vec<_> = table.entries().filter(|e| e.is_usable()).collect();
            let now = table.epoch().moment(now);
            entries.sort_by_key(|e| (!e.is_good(now), std::cmp::Reverse(e.answered)));
            entries.into_iter().map(Entry::contact).collect()
        };
        Snapshot {
            id: self.id,
            nodes_v4: nodes(&self.tables[0]),
            nodes_v6: nodes(&self.tables[1]),
            remembered: self.reach.contacts(),
            bootstrapped: self.upkeep.has_joined(),
            counters: self.counters,
            bootstrap: self.bootstrap.clone(),
            stored_hashes: self.announced.hashes(),
            stored_items: self.items.len(),
            external: [0, 1].map(|at| self.external[at].address()),
        }
    }

    /// Traffic since the start, without the cost of a snapshot.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The addresses to start from and how they fare.
    pub fn bootstrap(&self) -> &[BootstrapState] {
        &self.bootstrap
    }

    /// Whether the own neighbourhood was looked up with success.
    pub fn has_joined(&self) -> bool {
        self.upkeep.has_joined()
    }

    fn on_reply(
        &mut self,
        now: Instant,
        from: SocketAddr,
        tid: &[u8],
        reply: &Reply<'_>,
        (version, ip): (Option<[u8; 4]>, Option<SocketAddr>),
    ) {
        let Some(query) = self.inflight.take(now, tid, from) else {
            return self.on_unmatched();
        };
        self.counters.replies_in += 1;
        if reply.id == self.id {
            // Ourselves, over some detour, or one who repeats what he hears.
            self.reach.forget(from);
            return self.on_failure(now, &query);
        }
        let contact = Contact { id: reply.id, addr: from };
        let rtt = now.saturating_duration_since(query.sent);
        let is_router = self.note_bootstrap(from);
        self.last_reply = Some(now);
        if !is_router {
            let nobody = self.tables.iter().all(Table::is_empty);
            let was_known = self.tables[family(from)].contains(&contact);
            self.tables[family(from)].on_answer(now, contact, rtt, &self.config);
            if self.config.network == Network::Local {
                self.note_member(now, contact, was_known);
            }
            if nobody {
                self.on_first_known(now);
            }
        }
        if query.expect.is_some_and(|id| id != reply.id) {
            // Whoever named this node lied about its place, or it has moved. To a search it is who it says it is;
            // a token was given by somebody else.
            self.blame(now, &query);
            if matches!(query.purpose, Purpose::Announce(_)) {
                return self.on_failure(now, &query);
            }
        }
        match query.purpose {
            Purpose::Search(id) => self.on_search_reply(now, id, contact, reply),
            Purpose::Announce(id) => self.on_announced(now, id, from, true),
            Purpose::Ping(ping) => {
                self.pings -= 1;
                self.push_event(Event::Pong { ping, id: reply.id, rtt, version });
            }
            Purpose::Sample(ping) => self.on_samples(ping, from, reply),
            Purpose::Check => self.on_checked(now, from, reply),
        }
        self.seed_searches(now, from);
        self.on_vote(now, from, ip);
    }

    /// The system cannot send there, and says so: what was asked of it fails at once, and is nobody's fault.
    pub fn handle_unreachable(&mut self, now: Instant, to: SocketAddr) {
        self.forget_due();
        while let Some(query) = self.inflight.take_to(to) {
            self.on_failure(now, &query);
        }
    }

    fn on_failure(&mut self, now: Instant, query: &Pending<Purpose>) {
        match query.purpose {
            Purpose::Search(id) => self.on_search_failure(now, id, query.to),
            Purpose::Announce(id) => self.on_announced(now, id, query.to, false),
            Purpose::Ping(ping) | Purpose::Sample(ping) => {
                self.pings -= 1;
                self.push_event(Event::PingFailed { ping });
            }
            Purpose::Check => {}
        }
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Nodes named by one at `source` that may be talked to.
    fn acceptable(&self, source: SocketAddr, reply: &Reply<'_>) -> Vec<Contact> {
        // The rest of a longer list is an attempt to steer us. Nobody needs to be sent to himself either.
        let is_public = self.config.network == Network::Public;
        let at_ours = |c: &Contact| self.external[family(c.addr)].address() == Some(c.addr.ip());
        let own = |c: &Contact| c.id == self.id || is_public && at_ours(c);
        let fits = |c: &Contact| self.config.accepts(c.addr, source.ip()) && !own(c);
        let v4 = compact::nodes_v4(reply.nodes).take(MAX_NODES_NAMED);
        v4.chain(compact::nodes_v6(reply.nodes6).take(MAX_NODES_NAMED)).filter(fits).collect()
    }

    /// Whether the user's own network is a private one.
    fn knows_private(&self) -> bool {
        self.config.network == Network::Local || self.bootstrap.iter().any(|b| is_private(b.addr.ip()))
    }
}

#[cfg(test)]
mod tests;
