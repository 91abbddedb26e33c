//! Canonical peer priority (BEP 40): both ends of a connection give it the same rank, so that those who are full
//! agree on whom to keep, and nobody can choose a better one than his address gives him.
//!
//! Also our own address, without which there is no rank: as the DHT knows it, or else as peers see us.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::{DISPLACE_AFTER, MAX_OWN_VOTES, MIN_OWN_VOTES};
use super::event::{CloseReason, PeerKey};
use super::member::Member;
use super::swarm::Swarm;
use crate::wire::reach::{Reach, is_dialable};

/// The rank of a connection between two addresses; higher is better. Of both families, there is none: 0.
pub(super) fn priority(a: SocketAddr, b: SocketAddr) -> u32 {
    let (x, y) = match (a.ip(), b.ip()) {
        (x, y) if x == y => {
            let (x, y) = (a.port().min(b.port()), a.port().max(b.port()));
            return crc32c::crc32c(&[x.to_be_bytes(), y.to_be_bytes()].concat());
        }
        (IpAddr::V4(x), IpAddr::V4(y)) => masked(&x.octets(), &y.octets(), 2),
        (IpAddr::V6(x), IpAddr::V6(y)) => masked(&x.octets(), &y.octets(), 6),
        _ => return 0,
    };
    crc32c::crc32c(&if x <= y { [x, y] } else { [y, x] }.concat())
}

/// Of the bytes behind the first `whole`, half of the bits; but those that both share, and one more, are kept, so
/// that neighbours have ranks of their own.
fn masked(x: &[u8], y: &[u8], whole: usize) -> (Vec<u8>, Vec<u8>) {
    let shared = x.iter().zip(y).take_while(|(x, y)| x == y).count();
    let whole = if shared >= whole { shared + 1 } else { whole };
    let mask = |bytes: &[u8]| {
        bytes.iter().enumerate().map(|(at, b)| if at < whole { *b } else { b & 0x55 }).collect()
    };
    (mask(x), mask(y))
}

/// Our own address, one of each family.
#[derive(Debug, Default)]
pub(super) struct Own {
    told: [Option<IpAddr>; 2],
    /// Which network said what, the oldest first.
    votes: VecDeque<([u8; 8], IpAddr)>,
}

impl Own {
    /// What is known: the DHT's finding, or what most peers say.
    pub(super) fn address(&self, v4: bool) -> Option<IpAddr> {
        self.told[usize::from(!v4)].or_else(|| self.elected(v4))
    }

    /// The DHT has found out, IPv4 and IPv6.
    pub(super) fn on_told(&mut self, told: [Option<IpAddr>; 2]) {
        self.told = told;
    }

    /// A peer says where it sees us.
    pub(super) fn on_vote(&mut self, voter: IpAddr, said: IpAddr) {
        let strange = voter.is_ipv4() != said.is_ipv4()
            || Reach::of(voter) != Reach::of(said)
            || !is_dialable(SocketAddr::new(said, 2));
        if strange {
            return;
        }
        let network = network(voter);
        self.votes.retain(|(n, _)| *n != network);
        self.votes.push_back((network, said));
        if self.votes.len() > MAX_OWN_VOTES {
            self.votes.pop_front();
        }
    }

    fn elected(&self, v4: bool) -> Option<IpAddr> {
        let said = || self.votes.iter().map(|(_, said)| *said).filter(|said| said.is_ipv4() == v4);
        let votes = |ip| said().filter(|said| *said == ip).count();
        let winner = said().max_by_key(|ip| (votes(*ip), *ip))?;
        (votes(winner) >= MIN_OWN_VOTES && votes(winner) * 2 > said().count()).then_some(winner)
    }
}

/// Whoever has one address in a /24, or a /64, has many.
fn network(ip: IpAddr) -> [u8; 8] {
    let mut out = [0; 8];
    match ip {
        IpAddr::V4(v4) => out[..3].copy_from_slice(&v4.octets()[..3]),
        IpAddr::V6(v6) => out.copy_from_slice(&v6.octets()[..8]),
    }
    out
}

impl Swarm {
    /// The DHT knows our address.
    pub(super) fn on_external(&mut self, told: [Option<IpAddr>; 2]) {
        self.own.on_told(told);
        self.rank_anew();
    }

    /// A peer has told us where it sees us.
    pub(super) fn on_your_ip(&mut self, key: PeerKey, said: IpAddr) {
        let Some(member) = self.members.get(&key) else { return };
        self.own.on_vote(member.addr.ip().to_canonical(), said.to_canonical());
        self.rank_anew();
    }

    fn rank_anew(&mut self) {
        let port = self.config.listen_port.unwrap_or(0);
        let own = [true, false].map(|v4| self.own.address(v4).map(|ip| SocketAddr::new(ip, port)));
        self.candidates.rank_from(own);
    }

    /// Makes room for a peer at `addr`: ends the connection of lowest rank among those of no use, if the new one's
    /// rank is higher. Only among `incoming` ones where there are too many of those.
    pub(super) fn displace(&mut self, now: Instant, addr: SocketAddr, incoming: bool) -> bool {
        let Some(rank) = self.candidates.rank_of(addr) else { return false };
        let waits = |key| self.metadata_queue.iter().any(|(waiting, _)| *waiting == key);
        let knows = self.info.is_some();
        let useless =
            self.members.iter().filter(|(key, m)| m.is_useless(now, incoming, knows) && !waits(**key));
        let ranked = useless.filter_map(|(key, m)| Some((self.candidates.rank_of(m.addr)?, *key)));
        let Some((_, key)) = ranked.min().filter(|(lowest, _)| *lowest < rank) else { return false };
        self.close(now, key, CloseReason::Displaced);
        true
    }
}

impl Member {
    /// Whether nothing goes on between us, and nothing will soon.
    fn is_useless(&self, now: Instant, incoming: bool, knows_metadata: bool) -> bool {
        let Some(conn) = self.conn.as_ref().filter(|_| self.is_open()) else { return false };
        let rests = now.saturating_duration_since(self.since) >= DISPLACE_AFTER;
        let metadata = self.metadata_unsent > 0 || conn.serves_metadata() && !knows_metadata;
        let idle = !metadata
            && self.wanted == 0
            && conn.is_choking()
            && conn.requests() == 0
            && self.queue.is_empty();
        rests && idle && (conn.is_incoming() || !incoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;
    use crate::swarm::config::MAX_INCOMING;
    use crate::swarm::{Action, Config, Input, Origin};
    use crate::wire::peer::{Handshake, Reserved};
    use std::time::Duration;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_beps_own_examples_hold() {
        let of = |a: &str, b: &str| priority(addr(a), addr(b));
        assert_eq!(of("123.213.32.10:1", "98.76.54.32:2"), 0xec2d_7224);
        assert_eq!(of("98.76.54.32:2", "123.213.32.10:1"), 0xec2d_7224);
        assert_eq!(of("123.213.32.10:1", "123.213.32.234:2"), 0x9956_8189);
        // Another host of the same far /16, by the bits that are not looked at.
        assert_eq!(of("123.213.32.10:1", "98.76.252.32:2"), of("123.213.32.10:1", "98.76.84.32:2"));
        assert_ne!(of("1.2.3.4:1", "1.2.3.4:2"), of("1.2.3.4:1", "1.2.3.4:3"), "one host: the ports tell");
        assert_eq!(of("1.2.3.4:1", "1.2.3.4:2"), of("1.2.3.4:2", "1.2.3.4:1"));
        assert_eq!(of("1.2.3.4:1", "[2600::1]:1"), 0);
        assert_ne!(of("[2600::1]:1", "[2600::2]:1"), of("[2600::1]:1", "[2600::3]:1"));
        assert_eq!(of("[2600::1]:1", "[2601::2]:1"), of("[2600::1]:1", "[2601::a8]:1"));
    }

    #[test]
    fn our_address_is_what_several_networks_say_and_the_dht_knows_better() {
        let (ours, false_one) = (IpAddr::from([80, 1, 1, 1]), IpAddr::from([80, 6, 6, 6]));
        let mut own = Own::default();
        for host in 1..=100 {
            own.on_vote([60, 1, 1, host].into(), false_one);
        }
        assert_eq!(own.address(true), None, "one network, however loud");
        for n in 1..MIN_OWN_VOTES as u8 {
            own.on_vote([61, 1, n, 1].into(), ours);
        }
        assert_eq!(own.address(true), None);
        own.on_vote([62, 1, 1, 1].into(), ours);
        assert_eq!(own.address(true), Some(ours));
        for n in 1..=10 {
            own.on_vote([10, 1, n, 1].into(), [10, 0, 0, 1].into());
            own.on_vote([63, 1, n, 1].into(), [10, 0, 0, 1].into());
            own.on_vote([63, 1, n, 1].into(), "2600::1".parse().unwrap());
        }
        assert_eq!(own.address(false), None);
        own.on_told([Some(false_one), None]);
        assert_eq!(own.address(true), Some(false_one));
        for n in 0..=255 {
            own.on_vote([64, 1, n, 1].into(), ours);
        }
        assert!(own.votes.len() <= MAX_OWN_VOTES);
    }

    fn swarm(now: Instant) -> Swarm {
        let config = Config { listen_port: Some(6881), ..Config::new(Id160([1; 20])) };
        let mut swarm = Swarm::new(Id160([7; 20]), config, [1; 32], now);
        swarm.handle(now, Input::External([Some([123, 213, 32, 10].into()), None]));
        swarm
    }

    #[test]
    fn of_equals_the_one_of_highest_priority_is_dialled_first_and_never_ourselves() {
        let now = Instant::now();
        let mut swarm = swarm(now);
        let own = addr("123.213.32.10:6881");
        let others: Vec<SocketAddr> = (1..=50).map(|n| SocketAddr::from(([98, n, 54, 32], 6881))).collect();
        swarm.handle(now, Input::Candidates([&others[..], &[own]].concat(), Origin::Dht));
        let mut dialled = Vec::new();
        while let Some(action) = swarm.poll_action() {
            if let Action::Dial { addr, .. } = action {
                dialled.push(addr);
            }
        }
        let mut expected = others;
        expected.sort_by_key(|a| std::cmp::Reverse(priority(own, *a)));
        assert_eq!(dialled, expected);
    }

    #[test]
    fn who_is_full_lets_go_of_the_lowest_of_no_use_for_a_higher_one() {
        let now = Instant::now();
        let mut swarm = swarm(now);
        let own = addr("123.213.32.10:6881");
        let from = |n: usize| SocketAddr::from(([98, (n / 250) as u8, (n % 250) as u8, 32], 5000));
        for n in 0..MAX_INCOMING {
            let key = swarm.accept(now, from(n)).unwrap();
            let mut hello = Vec::new();
            let mut peer_id = Id160([9; 20]);
            peer_id.0[..8].copy_from_slice(&(n as u64).to_be_bytes());
            Handshake { reserved: Reserved::OURS, info_hash: Id160([7; 20]), peer_id }.emit(&mut hello);
            swarm.handle(now, Input::Received(key, hello.into()));
        }
        let mut others: Vec<SocketAddr> = (0..200).map(|n| SocketAddr::from(([99, n, 1, 1], 5000))).collect();
        others.sort_by_key(|a| priority(own, *a));
        let (low, high) = (others[0], others[199]);
        assert_eq!(swarm.accept(now, high), None, "those who just came may stay");
        let now = now + DISPLACE_AFTER;
        assert_eq!(swarm.accept(now, low), None);
        let lowest = *swarm.members.iter().min_by_key(|(_, m)| priority(own, m.addr)).unwrap().0;
        assert!(swarm.accept(now, high).is_some());
        assert!(!swarm.members.contains_key(&lowest));
        assert_eq!(swarm.members.len(), MAX_INCOMING);
        // Who is of use stays, whatever his rank.
        swarm.members.values_mut().for_each(|m| m.wanted = 1);
        assert_eq!(swarm.accept(now + Duration::from_secs(1), others[198]), None);
    }
}
