//! Datagrams on their way out, and the buffers they are written into.
//!
//! Owns who gets which buffer, and that no address is asked too often. Must not know what is sent: a buffer that
//! comes back serves any other message.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Node, Purpose};
use crate::dht::config::{MAX_SPARE_PAYLOADS, MAX_TRANSMITS, VERSION};
use crate::dht::event::Transmit;
use crate::dht::traffic::Kind as QueryKind;
use crate::id::NodeId;
use crate::wire::krpc::{Body, Message, Method, Query, Want};

impl Node {
    /// Sends a query and registers it; `None` when too many are under way, or were to that address.
    pub(super) fn query(
        &mut self,
        now: Instant,
        to: SocketAddr,
        expect: Option<NodeId>,
        timeout: Duration,
        method: Method<'_>,
        purpose: Purpose,
    ) -> Option<()> {
        // Nobody outside is ever learned of; should one be, he is still not asked.
        if !self.config.allow.allows(to.ip()) {
            return None;
        }
        let paced = self.config.wants_diversity(to.ip());
        // What the user asks of one node he asks by hand; it counts, and is not put off.
        let is_wish = matches!(purpose, Purpose::Ping(_) | Purpose::Sample(_));
        if paced && !is_wish && self.courtesy.ready(now, to.ip()).is_err() {
            return None;
        }
        self.forget_due();
        let tid = self.inflight.insert(now, to, expect, timeout, purpose)?;
        if paced {
            self.courtesy.on_query(now, to.ip());
        }
        self.counters.queries_out += 1;
        self.counters.traffic.on_query_out(QueryKind::of(&method));
        if let Some(state) = self.bootstrap.iter_mut().find(|b| b.addr == to) {
            state.asked = true;
        }
        let both = self.config.ipv4 && self.config.ipv6;
        let searching =
            matches!(method, Method::FindNode { .. } | Method::GetPeers { .. } | Method::Get { .. });
        let want = Want { v4: both && searching, v6: both && searching };
        let body = Body::Query(Query { id: self.id, want, method });
        let read_only = self.is_read_only();
        self.send(to, Message { transaction: &tid, version: Some(VERSION), ip: None, read_only, body });
        Some(())
    }

    /// When a query may go there, if not now.
    pub(super) fn postponed(&self, now: Instant, to: SocketAddr) -> Option<Instant> {
        let paced = self.config.wants_diversity(to.ip());
        self.courtesy.ready(now, to.ip()).err().filter(|_| paced)
    }

    /// Takes back the payload of a datagram that was sent, so that the next one needs no new buffer.
    pub fn recycle(&mut self, mut payload: Vec<u8>) {
        if self.spare.len() < MAX_SPARE_PAYLOADS {
            payload.clear();
            self.spare.push(payload);
        }
    }

    /// Queues a message and tells its size.
    pub(super) fn send(&mut self, to: SocketAddr, message: Message<'_>) -> usize {
        // Beyond the bound the driver has stopped draining; a datagram more or less is no loss then.
        if self.transmits.len() >= MAX_TRANSMITS {
            return 0;
        }
        let mut payload = self.spare_payload();
        message.emit(&mut payload);
        let bytes = payload.len();
        self.counters.traffic.on_send(bytes);
        self.transmits.push_back(Transmit { to, payload });
        bytes
    }

    pub(super) fn spare_payload(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(256))
    }
}
