//! Answers to strangers' queries.
//!
//! Owns what each query is answered with. Must not start anything of its own beyond noting who asked.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{Node, family};
use crate::dht::announced::Choice;
use crate::dht::config::{
    K, MAX_ITEM_PAYLOAD, MAX_PAYLOAD, NOTE_EVERY, NOTED_QUERIERS, SMALL_TABLE, VERIFY_DELAY, VERSION,
    is_private, is_sendable,
};
use crate::dht::traffic::{BAD_TOKEN, Refusal};
use crate::id::Id160;
use crate::wire::compact::{self, Contact};
use crate::wire::krpc::{Body, ErrorBody, Filters, Message, Method, Query, Reply, Want, code};

/// What a reply holds beside its nodes, the transaction id not counted.
pub(super) const REPLY_FRAME: usize = 110;
/// The same of an error, its words not counted.
const ERROR_FRAME: usize = 64;

/// Nodes of both families as they stand in a reply.
pub(super) struct CompactNodes {
    v4: [u8; K * compact::NODE_V4],
    v6: [u8; K * compact::NODE_V6],
    lengths: [usize; 2],
    /// Bytes that they may take together.
    room: usize,
}

impl CompactNodes {
    /// Adds a node, if there is room for one more of its family.
    fn push(&mut self, family: usize, node: &[u8]) {
        let out = if family == 0 { &mut self.v4[..] } else { &mut self.v6[..] };
        let length = &mut self.lengths[family];
        if let Some(place) = out.get_mut(*length..*length + node.len())
            && self.room >= node.len()
        {
            place.copy_from_slice(node);
            *length += node.len();
            self.room -= node.len();
        }
    }

    /// Bytes of both families.
    pub(super) fn len(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub(super) fn reply(&self) -> Reply<'_> {
        let (nodes, nodes6) = (&self.v4[..self.lengths[0]], &self.v6[..self.lengths[1]]);
        Reply { nodes, nodes6, ..Reply::default() }
    }
}

/// Who has asked in the present second: one slot for each hash of an asker, the latest wins.
#[derive(Debug)]
pub(super) struct Noted {
    since: Instant,
    slots: Box<[[u16; 3]; NOTED_QUERIERS]>,
}

impl Noted {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, slots: Box::new([[u16::MAX; 3]; NOTED_QUERIERS]) }
    }

    /// Whether this one has not asked for as long as [`NOTE_EVERY`], as far as is remembered.
    fn is_news(&mut self, now: Instant, contact: &Contact) -> bool {
        // Good enough a hash: who makes others collide with himself is looked into more often, no more.
        let id = contact.id.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        let ip = match contact.addr.ip() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        let who = (id ^ ip << 16 ^ u64::from(contact.addr.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let spell = now.saturating_duration_since(self.since).as_millis() / NOTE_EVERY.as_millis();
        // What does not choose the slot, and 25 bits that tell the time: until that repeats a year goes by.
        let rest = who >> 49 << 8 | who >> 32 & 0xff;
        let mark = rest << 25 | spell as u64 & 0x1ff_ffff;
        let mark = [(mark >> 32) as u16, (mark >> 16) as u16, mark as u16];
        let slot = &mut self.slots[(who >> 40) as usize % NOTED_QUERIERS];
        std::mem::replace(slot, mark) != mark
    }
}

impl Node {
    /// Answers so that the bytes that go out stay in proportion to those that came in.
    pub(super) fn serve_within_bounds(
        &mut self,
        now: Instant,
        from: SocketAddr,
        received: usize,
        tid: &[u8],
        query: &Query<'_>,
        read_only: bool,
    ) {
        self.answer_room = self.allowance.room(now, from.ip(), received);
        self.echo = tid.len();
        let before = self.transmits.len();
        self.serve(now, from, tid, query, read_only);
        let sent = self.transmits.iter().skip(before).map(|t| t.payload.len()).sum();
        self.allowance.spend(from.ip(), received, sent);
    }

    fn serve(&mut self, now: Instant, from: SocketAddr, tid: &[u8], query: &Query<'_>, read_only: bool) {
        if !is_sendable(from) {
            return self.counters.traffic.on_refusal(Refusal::Unsendable);
        }
        match query.method {
            Method::Ping => self.answer(from, tid, Reply::default()),
            Method::FindNode { target } | Method::Other { target: Some(target), .. } => {
                let nodes = self.closest_compact(from, target, query.want);
                self.answer(from, tid, nodes.reply());
            }
            Method::GetPeers { info_hash, scrape, no_seeds } => {
                self.serve_get_peers(now, from, tid, (info_hash, scrape, no_seeds), query.want);
            }
            Method::Get { target, seq } => self.serve_get(now, from, tid, (target, seq), query.want),
            Method::Put(put) => self.serve_put(now, from, tid, &put),
            Method::SampleInfohashes { target } => self.serve_samples(now, from, tid, target, query.want),
            Method::AnnouncePeer { info_hash, port, implied_port, seed, token } => {
                let port = if implied_port { from.port() } else { port };
                if !self.tokens.accepts(from.ip(), token) {
                    return self.refuse(from, tid, code::PROTOCOL, BAD_TOKEN);
                }
                if port == 0 {
                    return self.refuse(from, tid, code::PROTOCOL, "bad port");
                }
                self.announced.insert(now, info_hash, SocketAddr::new(from.ip(), port), seed);
                self.answer(from, tid, Reply::default());
            }
            Method::Other { target: None, .. } => {
                return self.refuse(from, tid, code::METHOD, "method unknown");
            }
        }
        if !read_only {
            self.note_querier(now, Contact { id: query.id, addr: from });
        }
    }

    /// Whether the one who asks may have an answer many times as long as his query.
    pub(super) fn may_tell_much(&self) -> bool {
        self.answer_room >= MAX_PAYLOAD
    }

    /// The same for an item's value (BEP 44).
    pub(super) fn may_tell_item(&self) -> bool {
        self.answer_room >= MAX_ITEM_PAYLOAD
    }

    /// Answers what is no proper query with an error, if that is in proportion to it.
    pub(super) fn refuse_within_bounds(
        &mut self,
        now: Instant,
        from: SocketAddr,
        received: usize,
        tid: &[u8],
        what: &str,
    ) {
        let room = self.allowance.room(now, from.ip(), received);
        if ERROR_FRAME + tid.len() + what.len() <= room {
            let before = self.transmits.len();
            self.refuse(from, tid, code::PROTOCOL, what);
            let sent = self.transmits.iter().skip(before).map(|t| t.payload.len()).sum();
            self.allowance.spend(from.ip(), received, sent);
        }
    }

    fn serve_get_peers(
        &mut self,
        now: Instant,
        from: SocketAddr,
        tid: &[u8],
        (hash, scrape, no_seeds): (Id160, bool, bool),
        want: Want,
    ) {
        // Filters and nodes of both families together would not fit.
        let want = if scrape { Want::default() } else { want };
        let nodes = self.closest_compact(from, hash, want);
        let token = self.tokens.issue(from.ip());
        let mut reply = nodes.reply();
        reply.token = Some(&token);
        if !self.announced.contains(&hash) {
            return self.answer(from, tid, reply);
        }
        let filters = if scrape && self.may_tell_much() { self.announced.filters(now, &hash) } else { None };
        reply.filters = filters.as_ref().map(|[s, p]| Filters { seeds: s.as_bytes(), peers: p.as_bytes() });
        // What the datagram has room for: "6:" or "18:" and the peer, inside "6:valuesl" ... "e".
        let mut values = self.spare_payload();
        self.reply_message(from, tid, reply).emit(&mut values);
        let room = self.answer_room.min(MAX_PAYLOAD).saturating_sub(values.len() + 10);
        let each = if from.is_ipv4() { 2 + compact::PEER_V4 } else { 3 + compact::PEER_V6 };
        let (ipv4, private) = (from.is_ipv4(), self.may_hear_private(from.ip()));
        let choice = Choice { ipv4, no_seeds, private, max: room / each };
        values.clear();
        values.push(b'l');
        self.announced.tell_peers(now, &hash, choice, &mut self.rng, |peer| {
            values.extend_from_slice(if peer.is_ipv4() { b"6:" } else { b"18:" });
            compact::write_peer(peer, &mut values);
        });
        if values.len() > 1 {
            values.push(b'e');
            reply.values = &values;
        }
        self.answer(from, tid, reply);
        self.recycle(values);
    }

    /// Whether private addresses mean something to one who asks from there.
    fn may_hear_private(&self, ip: IpAddr) -> bool {
        is_private(ip) || self.config.trusts(ip)
    }

    pub(super) fn closest_compact(&mut self, from: SocketAddr, target: Id160, want: Want) -> CompactNodes {
        // Without a wish it is the family of the query (BEP 32).
        let none = want == Want::default();
        let wanted = [want.v4 || none && from.is_ipv4(), want.v6 || none && from.is_ipv6()];
        // Nobody needs to be told of himself, nor a stranger of our private neighbours.
        let tells_private = self.may_hear_private(from.ip());
        let room = self.answer_room.min(MAX_PAYLOAD).saturating_sub(REPLY_FRAME + self.echo);
        let mut out = CompactNodes { v4: [0; _], v6: [0; _], lengths: [0, 0], room };
        for (family, table) in self.tables.iter().enumerate() {
            if !wanted[family] {
                continue;
            }
            for listed in table.directory().closest(&target, K + 1) {
                if (tells_private || !listed.is_private()) && !listed.is_at(from) {
                    out.push(family, listed.bytes());
                }
            }
        }
        out
    }

    pub(super) fn reply_message<'a>(
        &self,
        to: SocketAddr,
        transaction: &'a [u8],
        reply: Reply<'a>,
    ) -> Message<'a> {
        let body = Body::Reply(Reply { id: self.id, ..reply });
        Message { transaction, version: Some(VERSION), ip: Some(to), read_only: false, body }
    }

    pub(super) fn answer(&mut self, to: SocketAddr, tid: &[u8], reply: Reply<'_>) {
        self.counters.traffic.replies_out += 1;
        let message = self.reply_message(to, tid, reply);
        let bytes = self.send(to, message);
        self.limiter.on_answer(bytes);
    }

    /// Answers with an error.
    pub(super) fn refuse(&mut self, to: SocketAddr, tid: &[u8], code: i64, text: &str) {
        if is_sendable(to) {
            self.counters.traffic.on_error_out(code);
            self.counters.traffic.on_refusal(Refusal::of_error(code, text));
            let body = Body::Error(ErrorBody { code, text: text.as_bytes() });
            let message =
                Message { transaction: tid, version: Some(VERSION), ip: Some(to), read_only: false, body };
            let bytes = self.send(to, message);
            self.limiter.on_answer(bytes);
        }
    }

    /// One who asks is known to be alive if he has answered before; else he may be worth a ping.
    fn note_querier(&mut self, now: Instant, contact: Contact) {
        if !self.noted.is_news(now, &contact) {
            return;
        }
        let table = &mut self.tables[family(contact.addr)];
        if table.on_query(now, &contact) || !table.has_room(&contact.id) {
            return;
        }
        let private = is_private(contact.addr.ip());
        if private && !self.knows_private() {
            return;
        }
        // Among friends, and while few others are known, waiting for a NAT's pinhole to close is idle.
        let at_once = private || self.tables[family(contact.addr)].len() < SMALL_TABLE;
        let delay = if at_once { std::time::Duration::ZERO } else { VERIFY_DELAY };
        self.verify_soon(now, contact.addr, Some(contact.id), delay);
    }
}
