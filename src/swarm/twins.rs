//! Connections to peers of one id.
//!
//! From one host they are one peer, and the second connection goes (`Swarm::on_handshaken`). From two hosts one may be a stranger who
//! repeats the other's id: both stay, so that nobody is kept out by it. Only of a pair over IPv4 and IPv6, as a host with
//! both has it, one goes in the end. Owns the addresses of those who were closed for such a reason. Must not know
//! sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::config::{CHOKE_ROUND, MAX_PARKED};
use super::event::{CloseReason, PeerKey};
use super::member::Member;
use super::swarm::Swarm;
use crate::id::PeerId;

/// Addresses that need not be dialled as long as their peer has another connection.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeMap<PeerId, SocketAddr>);

impl Twins {
    /// A second connection to this peer was closed.
    pub(super) fn park(&mut self, peer: Option<PeerId>, addr: SocketAddr) {
        let Some(peer) = peer else { return };
        self.0.insert(peer, addr);
        while self.0.len() > MAX_PARKED {
            self.0.pop_first();
        }
    }

    /// A connection to this peer has ended: where it may be dialled again.
    pub(super) fn leave(&mut self, peer: Option<PeerId>) -> Option<SocketAddr> {
        self.0.remove(&peer?)
    }
}

impl Swarm {
    /// At each round of choking: who is connected over IPv4 and IPv6, and uses one of them, does not need the other.
    pub(super) fn part_twins(&mut self, now: Instant) {
        let mut used: BTreeMap<PeerId, bool> = BTreeMap::new();
        let settled = |m: &Member| now.saturating_duration_since(m.since) >= CHOKE_ROUND;
        let moved = |m: &Member| m.down.total() + m.up.total() > 0;
        for member in self.members.values().filter(|m| m.down.total() > 0) {
            used.extend(member.peer_id().map(|id| (id, member.addr.ip().to_canonical().is_ipv4())));
        }
        let other = |m: &Member| {
            let ipv4 = m.peer_id().and_then(|id| used.get(&id).copied());
            ipv4.is_some_and(|ipv4| ipv4 != m.addr.ip().to_canonical().is_ipv4())
        };
        // Whom the user named stays.
        let found = |m: &Member| m.candidate.is_none_or(|addr| !self.candidates.is_users(addr));
        let idle = |m: &Member| other(m) && settled(m) && !moved(m) && found(m);
        let idle: Vec<PeerKey> = self.members.iter().filter(|(_, m)| idle(m)).map(|(key, _)| *key).collect();
        for key in idle {
            self.close(now, key, CloseReason::Duplicate);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::id::Id160;
    use crate::peer::Bitfield;
    use crate::swarm::tests::info;
    use crate::swarm::{Action, Config, Input, Origin};
    use crate::wire::peer::{BlockRef, Handshake, Message, Reserved};

    fn greeting(id: u8, messages: &[Message]) -> Bytes {
        let mut out = Vec::new();
        let peer_id = Id160([id; 20]);
        Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id }.emit(&mut out);
        messages.iter().for_each(|m| m.emit(&mut out));
        out.into()
    }

    fn leecher(now: Instant) -> Swarm {
        let mut swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [3; 32], now);
        swarm.handle(now, Input::Info(info()));
        swarm.handle(now, Input::DiskReady(Bitfield::none(info().layout().count())));
        swarm
    }

    fn join(swarm: &mut Swarm, now: Instant, addr: &str, messages: &[Message]) -> PeerKey {
        let key = swarm.accept(now, addr.parse().unwrap()).unwrap();
        swarm.handle(now, Input::Received(key, greeting(9, messages)));
        key
    }

    fn actions(swarm: &mut Swarm) -> Vec<Action> {
        std::iter::from_fn(|| swarm.poll_action()).collect()
    }

    /// A liar who knows a seed's id, and was here first, must not keep the seed away.
    #[test]
    fn whoever_repeats_an_id_keeps_nobody_out() {
        let now = Instant::now();
        let mut swarm = leecher(now);
        let liar = join(&mut swarm, now, "7.7.7.7:1", &[]);
        swarm.handle(now, Input::Candidates(vec!["8.8.8.8:6881".parse().unwrap()], Origin::User));
        let dialled = |a: &Action| if let Action::Dial { peer, .. } = a { Some(*peer) } else { None };
        let seed = actions(&mut swarm).iter().find_map(dialled).unwrap();
        swarm.handle(now, Input::Connected(seed));
        swarm.handle(now, Input::Received(seed, greeting(9, &[Message::HaveAll, Message::Unchoke])));
        let asked = |a: &Action| matches!(a, Action::Send(key, _) if *key == seed);
        assert!(actions(&mut swarm).iter().any(asked));
        assert!(
            swarm.members.contains_key(&liar) && swarm.members[&seed].conn.as_ref().unwrap().requests() > 0
        );
    }

    #[test]
    fn of_one_host_over_ipv4_and_ipv6_the_idle_connection_goes_until_the_other_ends() {
        let now = Instant::now();
        let mut swarm = leecher(now);
        let used = join(&mut swarm, now, "8.8.8.8:1", &[Message::HaveAll, Message::Unchoke]);
        let idle = join(&mut swarm, now, "[2001:db8::1]:1", &[Message::HaveAll]);
        let block = *swarm.members[&used].conn.as_ref().unwrap().pending().next().unwrap();
        let BlockRef { index, begin, length } = block;
        let mut out = Vec::new();
        Message::Piece { index, begin, data: vec![0; length as usize].into() }.emit(&mut out);
        swarm.members.get_mut(&idle).unwrap().candidate = "[2001:db8::1]:6881".parse().ok();
        swarm.handle(now, Input::Received(used, out.into()));
        let later = now + CHOKE_ROUND + Duration::from_secs(2);
        swarm.handle_timeout(later);
        assert!(swarm.members.contains_key(&used) && !swarm.members.contains_key(&idle));
        assert_eq!(swarm.twins.0.len(), 1);
        swarm.handle(later, Input::Closed(used));
        assert_eq!(swarm.twins.0.len(), 0);
    }
}
