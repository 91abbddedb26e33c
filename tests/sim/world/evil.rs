//! What malicious hosts answer.
//!
//! Knows the protocol and who is in the plot; whatever it does not answer itself, a real node behind it does.

use std::net::SocketAddr;

use dhtget::dht::config::K;
use dhtget::id::{Id160, NodeId};
use dhtget::rng::Rng;
use dhtget::wire::compact::{self, Contact};
use dhtget::wire::krpc::{Body, Message, Method, Query, Reply};

use super::address;
use super::options::Malice;

/// Bits that an invented id shares with its target: nearer than any honest node of a million.
pub const INVENTED_BITS: usize = 28;

/// The hosts in the plot.
#[derive(Debug, Default)]
pub struct Plot {
    pub members: Vec<Contact>,
}

/// What to do with a query.
pub enum Verdict {
    /// Let the real node see to it.
    Honest,
    Silent,
    Answer(Vec<u8>),
}

impl Plot {
    /// The verdict of the host `me` on a datagram from `from` that came to its address `at`.
    pub fn judge(
        &self,
        kind: Malice,
        me: Contact,
        at: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
        rng: &mut Rng,
    ) -> Verdict {
        let Ok(Message { body: Body::Query(Query { method, .. }), transaction, .. }) = Message::parse(bytes)
        else {
            return Verdict::Honest;
        };
        let searched = matches!(method, Method::GetPeers { .. });
        let target = match method {
            Method::FindNode { target } | Method::GetPeers { info_hash: target, .. } => target,
            Method::AnnouncePeer { info_hash, .. } if at != me.addr => {
                return Verdict::Answer(reply(invented(info_hash, at), transaction, from, &[], false));
            }
            _ if at != me.addr => return Verdict::Silent,
            _ => return Verdict::Honest,
        };
        let nodes = match kind {
            Malice::Swallow if searched => return Verdict::Silent,
            Malice::Swallow | Malice::Mixed => return Verdict::Honest,
            Malice::Collude => self.nearest(target, K),
            Malice::Invent => self.inventions(target, rng),
            Malice::Phantom => phantoms(target, rng),
            Malice::Poison(victim) => poison(target, victim, rng),
        };
        let id = if at == me.addr { me.id } else { invented(target, at) };
        Verdict::Answer(reply(id, transaction, from, &nodes, searched))
    }

    fn nearest(&self, target: Id160, count: usize) -> Vec<Contact> {
        let mut all = self.members.clone();
        let count = count.min(all.len());
        if count < all.len() {
            all.select_nth_unstable_by_key(count, |c| c.id.distance(&target));
        }
        all.truncate(count);
        all
    }

    fn inventions(&self, target: Id160, rng: &mut Rng) -> Vec<Contact> {
        let members = (0..K).filter_map(|_| rng.choose(&self.members).copied());
        let second = members.map(|c| SocketAddr::new(c.addr.ip(), address::SECOND_PORT));
        second.map(|addr| Contact { id: invented(target, addr), addr }).collect()
    }
}

/// The id next to `target` that a host in the plot answers to at its second port.
pub fn invented(target: Id160, addr: SocketAddr) -> NodeId {
    let std::net::IpAddr::V4(ip) = addr.ip() else { return target };
    target.random_with_prefix(INVENTED_BITS, &mut Rng::from_u64(u64::from(u32::from(ip))))
}

fn phantoms(target: Id160, rng: &mut Rng) -> Vec<Contact> {
    let mut make = || {
        let id = target.random_with_prefix(INVENTED_BITS, rng);
        let ip =
            [40 + rng.below(20) as u8, rng.below(256) as u8, rng.below(256) as u8, 1 + rng.below(250) as u8];
        Contact { id, addr: (ip, 6881).into() }
    };
    (0..K).map(|_| make()).collect()
}

fn poison(target: Id160, victim: [u8; 4], rng: &mut Rng) -> Vec<Contact> {
    let mut make = || {
        let id = target.random_with_prefix(INVENTED_BITS, rng);
        Contact { id, addr: (victim, 1024 + rng.below(60_000) as u16).into() }
    };
    (0..K).map(|_| make()).collect()
}

fn reply(id: NodeId, transaction: &[u8], to: SocketAddr, nodes: &[Contact], token: bool) -> Vec<u8> {
    let mut compact = Vec::new();
    nodes.iter().for_each(|c| compact::write_node(c, &mut compact));
    let token = token.then_some(b"evil".as_slice());
    let body = Body::Reply(Reply { id, nodes: &compact, token, ..Reply::default() });
    let mut out = Vec::new();
    Message { transaction, version: None, ip: Some(to), read_only: false, body }.emit(&mut out);
    out
}
