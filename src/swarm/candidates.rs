//! Addresses of possible peers: which to dial next, which to leave alone.
//!
//! Must not know connections beyond their outcome.

mod order;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use self::order::Order;
use super::config::{
    Config, MAX_BANNED, MAX_BANNED_OF_A_SITE, MAX_CANDIDATES, MAX_NAMED_BY_ONE, MAX_NAMED_PORTS,
    MAX_PEX_CANDIDATES,
};
use super::event::Origin;
use super::priority::priority;
use crate::wire::allow::AllowList;
use crate::wire::compact::peer_bytes;

/// After the first failure; doubles with each.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest wait between two dials of one address.
const RETRY_AT_MOST: Duration = Duration::from_secs(600);
/// The same for peers the user named: a seeder that has just started refuses for a moment.
const RETRY_USER_AFTER: Duration = Duration::from_secs(1);
/// Peers the user named are tried again this often at least.
const RETRY_USER_AT_MOST: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { not_before: Option<Instant> },
    Busy,
}

#[derive(Debug)]
struct Candidate {
    origin: Origin,
    state: State,
    failures: u32,
    /// Which peer named it, where nobody else has.
    named_by: Option<IpAddr>,
    /// Among equals, higher ones are dialled first.
    rank: u32,
}

/// The addresses known of one swarm.
#[derive(Debug, Default)]
pub struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    /// All who are known, as they are.
    order: Order,
    banned: Banned,
    /// Our own, IPv4 and IPv6, where they are known.
    own: [Option<SocketAddr>; 2],
    /// Orders those that have no rank, by chance.
    salt: u32,
    /// Found addresses are not wanted (BEP 27).
    secluded: bool,
    /// Who belongs to the network; nobody else is wanted, whoever names him.
    allow: AllowList,
    /// Behind one address may be a whole site.
    shared: bool,
}

impl Candidates {
    /// Nobody yet, and none but these at any time; `salt` is what chance has to say.
    pub fn new(salt: u32, config: &Config) -> Self {
        Self { salt, allow: config.allow.clone(), shared: config.shared_addresses, ..Self::default() }
    }

    /// Whether all that is at this address is one host.
    pub fn is_one_host(&self, ip: IpAddr) -> bool {
        !self.shared && !ip.to_canonical().is_loopback()
    }

    /// Whether this address belongs to the network.
    pub fn allows(&self, addr: SocketAddr) -> bool {
        self.allow.allows(addr.ip())
    }

    /// Orders everyone by their priority to these addresses of ours (BEP 40).
    pub fn rank_from(&mut self, own: [Option<SocketAddr>; 2]) {
        if own == self.own {
            return;
        }
        self.own = own;
        for addr in own.into_iter().flatten() {
            self.remove(addr);
        }
        for addr in self.known.keys().copied().collect::<Vec<_>>() {
            let rank = rank(&own, self.salt, addr);
            self.change(addr, |candidate| candidate.rank = rank);
        }
    }

    /// The priority of a connection to this address, where our own is known.
    pub fn rank_of(&self, addr: SocketAddr) -> Option<u32> {
        let addr = canonical(addr);
        own_beside(&self.own, addr).map(|own| priority(own, addr))
    }

    /// Learns an address; says whether it is new and usable.
    pub fn add(&mut self, addr: SocketAddr, origin: Origin) -> bool {
        let addr = canonical(addr);
        if self.secluded && origin.is_found() {
            return false;
        }
        if !usable(addr) || !self.allows(addr) || self.is_banned(addr) || self.own.contains(&Some(addr)) {
            return false;
        }
        if let Some(known) = self.known.get(&addr) {
            if origin < known.origin {
                self.change(addr, |known| (known.origin, known.named_by) = (origin, None));
            }
            return false;
        }
        if self.known.len() >= MAX_CANDIDATES && !self.forget_worst(|_| true) {
            return false;
        }
        let (state, rank) = (State::Idle { not_before: None }, rank(&self.own, self.salt, addr));
        let candidate = Candidate { origin, state, failures: 0, named_by: None, rank };
        self.order.list(addr, &candidate);
        self.known.insert(addr, candidate);
        true
    }

    /// Learns an address that the peer at `by` has named (BEP 11), where that peer and all others have not named
    /// too many; says whether it is new and usable.
    pub fn add_named(&mut self, addr: SocketAddr, by: IpAddr) -> bool {
        let (addr, by) = (canonical(addr), site(by));
        // Nobody makes room for one who will not be let in.
        if self.known.contains_key(&addr) || !self.allows(addr) {
            return false;
        }
        let host = SocketAddr::new(addr.ip(), 0)..=SocketAddr::new(addr.ip(), u16::MAX);
        if self.is_one_host(addr.ip()) && self.known.range(host).count() >= MAX_NAMED_PORTS {
            return false;
        }
        // Who names many must do without those that could not be reached.
        if self.order.named_by(by) >= MAX_NAMED_BY_ONE && !self.forget_worst(|c| c.named_by == Some(by)) {
            return false;
        }
        if self.order.named() >= MAX_PEX_CANDIDATES && !self.forget_worst(|c| c.origin == Origin::Pex) {
            return false;
        }
        let new = self.add(addr, Origin::Pex);
        if new {
            self.change(addr, |candidate| candidate.named_by = Some(by));
        }
        new
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether one could be dialled now.
    pub fn any_due(&mut self, now: Instant) -> bool {
        while let Some(addr) = self.order.rested(now) {
            self.change(addr, |candidate| candidate.state = State::Idle { not_before: None });
        }
        self.order.next().is_some()
    }

    /// The best address to dial now; it counts as busy until its outcome is told.
    pub fn take(&mut self, now: Instant) -> Option<SocketAddr> {
        let addr = if self.any_due(now) { self.order.next() } else { None }?;
        self.change(addr, |candidate| candidate.state = State::Busy);
        Some(addr)
    }

    /// The address has a connection that it opened itself.
    pub fn on_incoming(&mut self, addr: SocketAddr) {
        self.change(canonical(addr), |candidate| candidate.state = State::Busy);
    }

    /// A dial or handshake failed.
    pub fn on_failure(&mut self, addr: SocketAddr, now: Instant) {
        self.let_go(addr);
        self.change(canonical(addr), |candidate| {
            let (first, most) = match candidate.origin {
                Origin::User => (RETRY_USER_AFTER, RETRY_USER_AT_MOST),
                _ => (RETRY_AFTER, RETRY_AT_MOST),
            };
            let wait = first.saturating_mul(1 << candidate.failures.min(10)).min(most);
            candidate.failures += 1;
            candidate.state = State::Idle { not_before: Some(now + wait) };
        });
    }

    /// A connection that had worked has ended; the address may be dialled again after `wait`.
    pub fn on_closed(&mut self, addr: SocketAddr, now: Instant, wait: Duration) {
        self.let_go(addr);
        self.change(canonical(addr), |candidate| {
            candidate.failures = 0;
            candidate.state = State::Idle { not_before: Some(now + wait) };
        });
    }

    /// Once found addresses are not wanted, they go when they are not dealt with any more.
    fn let_go(&mut self, addr: SocketAddr) {
        if self.secluded && self.is_found(addr) {
            self.remove(canonical(addr));
        }
    }

    /// Whether neither the user named this address nor a connection of its own.
    pub fn is_found(&self, addr: SocketAddr) -> bool {
        self.known.get(&canonical(addr)).is_some_and(|c| c.origin.is_found())
    }

    /// Whether the user named this address.
    pub fn is_users(&self, addr: SocketAddr) -> bool {
        self.known.get(&canonical(addr)).is_some_and(|c| c.origin == Origin::User)
    }

    /// Forgets everyone whom neither the user named nor a connection of his own, those being dealt with as soon as they
    /// are not, and learns of no others.
    pub fn forget_found(&mut self) {
        self.secluded = true;
        let going = self.known.iter().filter(|(_, c)| c.origin.is_found() && c.state != State::Busy);
        for addr in going.map(|(addr, _)| *addr).collect::<Vec<_>>() {
            self.remove(addr);
        }
    }

    /// Never deals with this address again; on networks where one host is one peer, with its host.
    pub fn ban(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        self.remove(addr);
        // Port 0 stands for all of a host.
        let port = if self.is_one_host(addr.ip()) { 0 } else { addr.port() };
        self.banned.add(SocketAddr::new(addr.ip(), port));
    }

    /// Whether this address or its host has been banned.
    pub fn is_banned(&self, addr: SocketAddr) -> bool {
        self.banned.covers(canonical(addr))
    }

    /// What kept an address from being dialled is over.
    pub fn wake(&mut self, addr: SocketAddr) {
        self.change(canonical(addr), |candidate| {
            if candidate.state != State::Busy {
                candidate.state = State::Idle { not_before: None };
            }
        });
    }

    /// Forgets an address that turned out to be our own.
    pub fn forget(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        self.remove(addr);
        self.banned.add(addr);
    }

    /// Makes room: among those that `may_go`, one that could not be reached. The user's stay.
    fn forget_worst(&mut self, may_go: impl Fn(&Candidate) -> bool) -> bool {
        let may_go = |addr: &SocketAddr| self.known.get(addr).is_some_and(&may_go);
        let worst = self.order.worst().find(may_go);
        worst.is_some_and(|addr| self.remove(addr))
    }

    /// Whatever changes a candidate, its place in the orders changes with it.
    fn change(&mut self, addr: SocketAddr, how: impl FnOnce(&mut Candidate)) {
        if let Some(candidate) = self.known.get_mut(&addr) {
            self.order.strike(addr, candidate);
            how(candidate);
            self.order.list(addr, candidate);
        }
    }

    /// Says whether it was known.
    fn remove(&mut self, addr: SocketAddr) -> bool {
        let candidate = self.known.remove(&addr);
        candidate.iter().for_each(|candidate| self.order.strike(addr, candidate));
        candidate.is_some()
    }
}

/// Who is not dealt with. The latest [`MAX_BANNED`] are remembered.
#[derive(Debug, Default)]
struct Banned {
    addrs: BTreeSet<SocketAddr>,
    order: VecDeque<SocketAddr>,
    /// How many they are of each /64: whoever has one has all of its addresses.
    sites: BTreeMap<IpAddr, usize>,
}

impl Banned {
    fn add(&mut self, addr: SocketAddr) {
        if !self.addrs.insert(addr) {
            return;
        }
        self.order.push_back(addr);
        *self.sites.entry(site(addr.ip())).or_default() += 1;
        while self.order.len() > MAX_BANNED {
            let Some(oldest) = self.order.pop_front() else { return };
            self.addrs.remove(&oldest);
            take_one(&mut self.sites, site(oldest.ip()));
        }
    }

    fn covers(&self, addr: SocketAddr) -> bool {
        let many = || self.sites.get(&site(addr.ip())).is_some_and(|n| *n >= MAX_BANNED_OF_A_SITE);
        self.addrs.contains(&addr)
            || self.addrs.contains(&SocketAddr::new(addr.ip(), 0))
            || (has_a_site(addr.ip()) && many())
    }
}

impl Candidate {
    /// Whether it could not be reached, nobody deals with it, and the user has not named it.
    fn may_go(&self) -> bool {
        self.state != State::Busy && self.failures > 0 && self.origin != Origin::User
    }
}

/// Canonical where our own address is known, else by chance.
fn rank(own: &[Option<SocketAddr>; 2], salt: u32, addr: SocketAddr) -> u32 {
    let (bytes, length) = peer_bytes(addr);
    let by_chance = || crc32c::crc32c_append(salt, &bytes[..length]);
    own_beside(own, addr).map_or_else(by_chance, |own| priority(own, addr))
}

fn own_beside(own: &[Option<SocketAddr>; 2], addr: SocketAddr) -> Option<SocketAddr> {
    own.iter().flatten().copied().find(|own| own.is_ipv4() == addr.is_ipv4())
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn usable(addr: SocketAddr) -> bool {
    let broadcast = matches!(addr.ip(), IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() && !broadcast
}

/// One less; says whether there was one.
pub(super) fn take_one(counts: &mut BTreeMap<IpAddr, usize>, of: IpAddr) -> bool {
    let Some(count) = counts.get_mut(&of) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(&of);
    }
    true
}

/// Whether whoever has this address may have all of its /64: not in a local network, whose machines share one.
pub(super) fn has_a_site(ip: IpAddr) -> bool {
    matches!(ip.to_canonical(), IpAddr::V6(v6) if v6.segments()[0] & 0xe000 == 0x2000)
}

/// The address, or the /64 that one host has to itself.
pub(super) fn site(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn impossible_addresses_are_not_kept_and_mapped_ones_are_one() {
        let mut c = Candidates::default();
        for bad in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:5", "255.255.255.255:5", "[::]:1", "[ff02::1]:1"] {
            assert!(!c.add(addr(bad), Origin::Dht), "{bad}");
        }
        assert!(c.add(addr("1.2.3.4:5"), Origin::Dht));
        assert!(!c.add(addr("[::ffff:1.2.3.4]:5"), Origin::Dht));
    }

    #[test]
    fn the_users_peers_come_first_and_failures_wait_longer() {
        let (mut c, now) = (Candidates::default(), Instant::now());
        c.add(addr("1.1.1.1:1"), Origin::Dht);
        c.add(addr("2.2.2.2:2"), Origin::User);
        assert_eq!(c.take(now), Some(addr("2.2.2.2:2")));
        assert_eq!(c.take(now), Some(addr("1.1.1.1:1")));
        assert_eq!(c.take(now), None);
        c.on_failure(addr("1.1.1.1:1"), now);
        assert_eq!(c.take(now), None);
        assert_eq!(c.take(now + RETRY_AFTER), Some(addr("1.1.1.1:1")));
    }

    #[test]
    fn a_ban_outlives_new_mentions_and_memory_is_bounded() {
        let mut c = Candidates::default();
        c.ban(addr("9.9.9.9:9"));
        assert!(!c.add(addr("9.9.9.9:10"), Origin::User));
        for i in 0..10_000u32 {
            c.add(SocketAddr::new(IpAddr::V4(i.wrapping_add(0x0a00_0001).into()), 1), Origin::Dht);
        }
        assert_eq!(c.len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_liar_with_a_thousand_addresses_is_banned_with_all_of_them() {
        let mut c = Candidates::default();
        let of = |site: u16, host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, site, 0, 0, 0, host], 6881));
        (1..=MAX_BANNED_OF_A_SITE as u16).for_each(|host| c.ban(of(1, host)));
        assert!(c.is_banned(of(1, 999)) && !c.is_banned(of(2, 999)) && c.is_banned(of(1, 1)));
        // Machines of a local network share a /64: each answers for itself.
        let local = |host: u16| SocketAddr::from(([0xfd00, 0, 0, 1, 0, 0, 0, host], 6881));
        (1..100).for_each(|host| c.ban(local(host)));
        assert!(c.is_banned(local(99)) && !c.is_banned(local(100)));
    }

    #[test]
    fn the_latest_bans_are_remembered() {
        let mut c = Candidates::default();
        let host = |n: u32| SocketAddr::new(IpAddr::V4((0x0b00_0000 + n).into()), 6881);
        (0..5000).for_each(|n| c.ban(host(n)));
        assert!(c.is_banned(host(4999)) && c.is_banned(host(4000)) && !c.is_banned(host(3999)));
        assert_eq!((c.banned.addrs.len(), c.banned.sites.len()), (MAX_BANNED, MAX_BANNED));
    }

    #[test]
    fn where_a_site_shares_an_address_one_liar_is_not_all_of_it() {
        let config = Config { shared_addresses: true, ..Config::new(crate::id::Id160::ZERO) };
        let mut c = Candidates::new(1, &config);
        let by = IpAddr::from([10, 0, 0, 1]);
        assert_eq!((2..202).filter(|&p| c.add_named(SocketAddr::new(by, p), by)).count(), 200);
        c.ban(addr("10.0.0.1:5"));
        assert!(c.is_banned(addr("10.0.0.1:5")) && !c.is_banned(addr("10.0.0.1:6")));
    }

    #[test]
    fn what_peers_name_comes_last_and_is_bounded_in_every_way() {
        let (mut c, now) = (Candidates::default(), Instant::now());
        let by = |n: u8| IpAddr::from([9, 9, 9, n]);
        let named = |n: u32| SocketAddr::new(IpAddr::V4((0x0b00_0000 + n).into()), 6881);
        assert!(c.add_named(addr("1.1.1.1:7"), by(1)) && !c.add_named(addr("1.1.1.1:7"), by(2)));
        c.add(addr("2.2.2.2:7"), Origin::Dht);
        assert_eq!(c.take(now), Some(addr("2.2.2.2:7")));
        // One host by many ports.
        assert_eq!(
            (1..100).filter(|&p| c.add_named(SocketAddr::new(by(77), p), by(1))).count(),
            MAX_NAMED_PORTS
        );
        // One peer, then many peers that name many.
        let rest = MAX_NAMED_BY_ONE - 1 - MAX_NAMED_PORTS;
        assert_eq!((0..5000).filter(|&n| c.add_named(named(n), by(1))).count(), rest);
        let all: usize = (2..20)
            .map(|b| (0..5000).filter(|&n| c.add_named(named(10_000 * b + n), by(b as u8))).count())
            .sum();
        assert_eq!(all, MAX_PEX_CANDIDATES - MAX_NAMED_BY_ONE);
        assert!(c.add(named(1_000_000), Origin::Dht), "others still find room");
        // What could not be reached gives way.
        while let Some(taken) = c.take(now) {
            c.on_failure(taken, now);
        }
        assert!(c.add_named(named(1_000_001), by(1)));
        // Named again by the DHT, an address is no longer the peer's.
        assert!(!c.add(named(1_000_001), Origin::Dht));
        assert!(c.add_named(named(1_000_002), by(1)));
    }
}
