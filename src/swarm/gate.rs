//! Who comes in, and whom we dial.
//!
//! Owns how many may come from where, and how many dials go out in a second. Who is dialled first: `candidates`; who makes
//! room for whom: `priority`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::candidates::{has_a_site, site, take_one};
use super::config::{
    DIAL_TIMEOUT, DIALS_A_SECOND, FEW_MEMBERS, MAX_CONNECTIONS, MAX_HALF_OPEN, MAX_INCOMING, MAX_PER_ADDRESS,
    MAX_PER_SITE, PATIENT_DIAL_TIMEOUT,
};
use super::event::{Action, PeerKey};
use super::member::Member;
use super::swarm::Swarm;
use crate::peer::Connection;

/// What is counted, so that nobody need look at every member for it.
#[derive(Debug)]
pub(super) struct Gate {
    /// How many connections have come from each host.
    incoming: BTreeMap<IpAddr, usize>,
    /// And from each /64.
    sites: BTreeMap<IpAddr, usize>,
    /// All of these.
    incoming_count: usize,
    /// Dials that may go out before the next tick.
    dials: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { incoming: BTreeMap::new(), sites: BTreeMap::new(), incoming_count: 0, dials: MAX_HALF_OPEN }
    }
}

impl Gate {
    /// A second has passed. Where thousands are full, each refuses at once and the next is dialled: without a bound a crowd
    /// in one building would dial nothing but itself.
    pub(super) fn on_tick(&mut self, members: usize) {
        let more = if members < FEW_MEMBERS { MAX_HALF_OPEN } else { DIALS_A_SECOND };
        self.dials = (self.dials + more).min(MAX_HALF_OPEN);
    }

    /// The user waits for these.
    pub(super) fn on_named(&mut self, count: usize) {
        self.dials = (self.dials + count).min(MAX_HALF_OPEN);
    }

    /// A connection that had come from there has ended.
    pub(super) fn on_gone(&mut self, host: IpAddr) {
        if take_one(&mut self.incoming, host) {
            self.incoming_count -= 1;
            take_one(&mut self.sites, site(host));
        }
    }

    /// Whether as many have come from there as may.
    fn is_crowded(&self, host: IpAddr) -> bool {
        let count = |counts: &BTreeMap<IpAddr, usize>, of| counts.get(&of).copied().unwrap_or_default();
        count(&self.incoming, host) >= MAX_PER_ADDRESS
            || (has_a_site(host) && count(&self.sites, site(host)) >= MAX_PER_SITE)
    }

    fn on_come(&mut self, host: IpAddr) {
        *self.incoming.entry(host).or_default() += 1;
        *self.sites.entry(site(host)).or_default() += 1;
        self.incoming_count += 1;
    }
}

impl Swarm {
    /// A peer dialled us; its name from now on, or `None` where it is not welcome.
    pub fn accept(&mut self, now: Instant, addr: SocketAddr) -> Option<PeerKey> {
        if !self.candidates.allows(addr) {
            return None;
        }
        let crowded = self.candidates.is_one_host(addr.ip()) && self.gate.is_crowded(addr.ip());
        if crowded || self.candidates.is_banned(addr) {
            return None;
        }
        let too_many = self.gate.incoming_count >= MAX_INCOMING;
        if (too_many || self.members.len() >= MAX_CONNECTIONS) && !self.displace(now, addr, too_many) {
            return None;
        }
        let key = self.new_key()?;
        let mut member = Member::new(addr, now);
        member.conn = Some(Connection::new(self.settings(addr), true, now));
        self.members.insert(key, member);
        self.gate.on_come(addr.ip());
        Some(key)
    }

    pub(super) fn dial(&mut self, now: Instant) {
        if self.config.metadata_only && self.info.is_some() {
            return;
        }
        let full = self.members.len() >= MAX_CONNECTIONS || self.gate.dials == 0;
        if full || !self.candidates.any_due(now) {
            return;
        }
        let mut half_open = self.members.values().filter(|m| m.conn.is_none()).count();
        while half_open < MAX_HALF_OPEN && self.members.len() < MAX_CONNECTIONS && self.gate.dials > 0 {
            let Some(addr) = self.candidates.take(now) else { return };
            let Some(peer) = self.new_key() else { return };
            let others = self.candidates.any_due(now);
            let timeout = if others { DIAL_TIMEOUT } else { PATIENT_DIAL_TIMEOUT };
            let mut member = Member::new(addr, now);
            member.candidate = Some(addr);
            self.members.insert(peer, member);
            self.actions.push_back(Action::Dial { peer, addr, timeout });
            half_open += 1;
            self.gate.dials -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{Config, TICK};
    use super::super::event::{Input, Origin};
    use super::*;
    use crate::id::Id160;

    /// A crowd in which everyone is full and says so at once is not dialled as fast as it refuses.
    #[test]
    fn who_is_refused_at_once_does_not_dial_at_once() {
        let mut now = Instant::now();
        let mut swarm = Swarm::new(Id160([7; 20]), Config::new(Id160([1; 20])), [3; 32], now);
        // Enough others that it is one among many.
        for n in 0..FEW_MEMBERS as u8 {
            assert!(swarm.accept(now, SocketAddr::from(([9, 9, 9, n], 1))).is_some());
        }
        let crowd = (0..1500_u32).map(|n| SocketAddr::from(((0x0b00_0000 + n).to_be_bytes(), 6881)));
        swarm.handle(now, Input::Candidates(crowd.collect(), Origin::Dht));
        let mut dialled = Vec::new();
        for _ in 0..4 {
            let mut count = 0;
            while let Some(action) = swarm.poll_action() {
                if let Action::Dial { peer, .. } = action {
                    count += 1;
                    swarm.handle(now, Input::DialFailed(peer));
                }
            }
            dialled.push(count);
            now += TICK;
            swarm.handle_timeout(now);
        }
        assert_eq!(dialled, [MAX_HALF_OPEN, DIALS_A_SECOND, DIALS_A_SECOND, DIALS_A_SECOND]);
    }

    #[test]
    fn whoever_has_a_network_of_addresses_does_not_take_all_places() {
        let now = Instant::now();
        let mut swarm = Swarm::new(Id160([7; 20]), Config::new(Id160([1; 20])), [3; 32], now);
        let of = |site: u16, host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, site, 0, 0, 0, host], 1));
        let keys: Vec<_> = (1..200).filter_map(|host| swarm.accept(now, of(1, host))).collect();
        assert_eq!(keys.len(), MAX_PER_SITE);
        assert!(swarm.accept(now, of(2, 1)).is_some());
        swarm.handle(now, Input::Closed(keys[0]));
        assert!(swarm.accept(now, of(1, 300)).is_some() && swarm.accept(now, of(1, 301)).is_none());
    }

    #[test]
    fn who_has_left_makes_room() {
        let now = Instant::now();
        let mut swarm = Swarm::new(Id160([7; 20]), Config::new(Id160([1; 20])), [3; 32], now);
        let addr = |port| SocketAddr::from(([9, 9, 9, 9], port));
        let keys: Vec<_> = (1..20).filter_map(|port| swarm.accept(now, addr(port))).collect();
        assert_eq!(keys.len(), MAX_PER_ADDRESS);
        swarm.handle(now, Input::Closed(keys[0]));
        assert!(swarm.accept(now, addr(100)).is_some() && swarm.accept(now, addr(101)).is_none());
    }
}
