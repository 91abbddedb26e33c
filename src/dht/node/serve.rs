//! Answers to strangers' queries.
//!
//! Owns what each query is answered with. Must not start anything of its own beyond noting who asked.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Node, family};
use crate::dht::config::{K, MAX_PAYLOAD, SMALL_TABLE, VERIFY_DELAY, VERSION, is_private, is_sendable};
use crate::id::Id160;
use crate::wire::compact::{self, Contact};
use crate::wire::krpc::{Body, ErrorBody, Filters, Message, Method, Query, Reply, Want, code};

/// What a reply holds beside its nodes, the transaction id not counted.
const REPLY_FRAME: usize = 110;

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
        let before = self.transmits.len();
        self.serve(now, from, tid, query, read_only);
        let sent = self.transmits.iter().skip(before).map(|t| t.payload.len()).sum();
        self.allowance.spend(from.ip(), received, sent);
    }

    fn serve(&mut self, now: Instant, from: SocketAddr, tid: &[u8], query: &Query<'_>, read_only: bool) {
        if !is_sendable(from) {
            return;
        }
        match query.method {
            Method::Ping => self.answer(from, tid, Reply::default()),
            Method::FindNode { target } | Method::Other { target: Some(target), .. } => {
                let (nodes, nodes6) = self.closest_compact(from, target, query.want);
                self.answer(from, tid, Reply { nodes: &nodes, nodes6: &nodes6, ..Reply::default() });
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
                    return self.refuse(from, tid, code::PROTOCOL, "bad token");
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
        let (nodes, nodes6) = self.closest_compact(from, hash, want);
        let token = self.tokens.issue(from.ip());
        let mut reply = Reply { nodes: &nodes, nodes6: &nodes6, token: Some(&token), ..Reply::default() };
        let filters = if scrape && self.may_tell_much() { self.announced.filters(now, &hash) } else { None };
        reply.filters = filters.as_ref().map(|[s, p]| Filters { seeds: s.as_bytes(), peers: p.as_bytes() });
        // What the datagram has room for: "6:" or "18:" and the peer, inside "6:valuesl" ... "e".
        let mut bare = Vec::with_capacity(MAX_PAYLOAD);
        self.reply_message(from, tid, reply).emit(&mut bare);
        let room = self.answer_room.saturating_sub(bare.len() + 10);
        let each = if from.is_ipv4() { 2 + compact::PEER_V4 } else { 3 + compact::PEER_V6 };
        let peers = self.announced.peers(now, &hash, from.is_ipv4(), no_seeds, room / each, &mut self.rng);
        let mut values = Vec::new();
        if !peers.is_empty() {
            values.push(b'l');
            for peer in peers {
                values.extend_from_slice(if peer.is_ipv4() { b"6:" } else { b"18:" });
                compact::write_peer(peer, &mut values);
            }
            values.push(b'e');
        }
        reply.values = &values;
        self.answer(from, tid, reply);
    }

    pub(super) fn closest_compact(&self, from: SocketAddr, target: Id160, want: Want) -> (Vec<u8>, Vec<u8>) {
        // Without a wish it is the family of the query (BEP 32).
        let none = want == Want::default();
        let wanted = [want.v4 || none && from.is_ipv4(), want.v6 || none && from.is_ipv6()];
        let mut out = [Vec::new(), Vec::new()];
        for ((table, bytes), wanted) in self.tables.iter().zip(&mut out).zip(wanted) {
            for contact in if wanted { table.closest(&target, K + 1) } else { Vec::new() } {
                // Nobody needs to be told of himself, nor a stranger of our private neighbours.
                let private = is_private(contact.addr.ip()) && !is_private(from.ip());
                if contact.addr != from && !private && bytes.len() < K * compact::NODE_V6 {
                    compact::write_node(&contact, bytes);
                }
            }
        }
        let [mut nodes, mut nodes6] = out;
        let room = self.answer_room.saturating_sub(REPLY_FRAME);
        nodes.truncate(K.min(room / compact::NODE_V4) * compact::NODE_V4);
        let room = room - nodes.len();
        nodes6.truncate(K.min(room / compact::NODE_V6) * compact::NODE_V6);
        (nodes, nodes6)
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
        let message = self.reply_message(to, tid, reply);
        self.send(to, message);
    }

    /// Answers with an error.
    pub(super) fn refuse(&mut self, to: SocketAddr, tid: &[u8], code: i64, text: &str) {
        if is_sendable(to) {
            let body = Body::Error(ErrorBody { code, text: text.as_bytes() });
            let message =
                Message { transaction: tid, version: Some(VERSION), ip: Some(to), read_only: false, body };
            self.send(to, message);
        }
    }

    /// One who asks is known to be alive if he has answered before; else he may be worth a ping.
    fn note_querier(&mut self, now: Instant, contact: Contact) {
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
