//! How many queries strangers may ask, by address and by network.
//!
//! Owns one token bucket for each recent address and /16 (IPv6: /48), and one for everyone together where
//! the operator wants that. Must not know what was asked. An address gets a NAT's worth of queries, since
//! many nodes may stand behind it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::config::{
    BURST_SECONDS, Config, LIMIT_PER_IP, LIMIT_PER_IP_PRIVATE, LIMITER_ENTRIES, Limits, MAX_ITEM_PAYLOAD,
};
use super::recent::{Recent, host_key};

/// Tokens left, in thousandths, and when that was counted.
type Level = (u64, Instant);

/// Admits or refuses queries.
#[derive(Debug)]
pub struct Limiter {
    by_ip: Recent<u64, Level>,
    by_net: Recent<u64, Level>,
    queries: Option<Level>,
    answers: Option<Level>,
    config: Config,
    limits: Limits,
}

impl Limiter {
    /// Nobody has asked yet. The secret keeps strangers from guessing where they are noted down.
    pub fn new(config: &Config, secret: u64) -> Self {
        Self {
            by_ip: Recent::new(LIMITER_ENTRIES, secret),
            by_net: Recent::new(LIMITER_ENTRIES, secret),
            queries: None,
            answers: None,
            config: config.clone(),
            limits: config.limits,
        }
    }

    /// Puts other limits in force; what was taken under the old ones counts.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether one more query from there is looked at.
    pub fn admits(&mut self, now: Instant, ip: IpAddr) -> bool {
        self.admits_source(now, ip) && self.admits_any(now)
    }

    /// Charges the bytes of an answer.
    pub fn on_answer(&mut self, bytes: usize) {
        if let Some(level) = &mut self.answers {
            level.0 = level.0.saturating_sub(bytes as u64 * 1000);
        }
    }

    /// What the operator gives to everyone together. He named the figure, so it holds on loopback too.
    fn admits_any(&mut self, now: Instant) -> bool {
        if let Some(rate) = self.limits.bytes_per_second {
            // How long the answer becomes is not known yet: there must be room for the longest.
            let (longest, full) =
                (MAX_ITEM_PAYLOAD as u64 * 1000, rate.max(MAX_ITEM_PAYLOAD as u64).saturating_mul(1000));
            let level = self.answers.get_or_insert((full, now));
            refill(level, now, rate, full);
            if level.0 < longest {
                return false;
            }
        }
        let Some(rate) = self.limits.queries_per_second else { return true };
        let full = u64::from(rate) * 1000;
        take_of(self.queries.get_or_insert((full, now)), now, rate, full)
    }

    /// In a private network hundreds of nodes may share one address, and all of it may be one /16. What is left is
    /// the guard against one that is broken and asks without end.
    fn admits_member(&mut self, now: Instant, ip: IpAddr) -> bool {
        forget_full(&mut self.by_ip, now);
        // A figure that the operator has named holds.
        let named = self.limits.queries_per_ip;
        let per_ip = if named == LIMIT_PER_IP { LIMIT_PER_IP_PRIVATE } else { named };
        take(self.by_ip.get_or_insert(member_key(ip), full(now, per_ip)), now, per_ip)
    }

    fn admits_source(&mut self, now: Instant, ip: IpAddr) -> bool {
        // On loopback nobody gains from flooding himself.
        if ip.is_loopback() {
            return true;
        }
        if self.config.trusts(ip) {
            return self.admits_member(now, ip);
        }
        let ip = host_key(ip);
        let net = ip >> 16;
        forget_full(&mut self.by_ip, now);
        forget_full(&mut self.by_net, now);
        let (per_ip, per_net) = (self.limits.queries_per_ip, self.limits.queries_per_net);
        take(self.by_ip.get_or_insert(ip, full(now, per_ip)), now, per_ip)
            && take(self.by_net.get_or_insert(net, full(now, per_net)), now, per_net)
    }
}

/// The whole address as a key: in a private network a /64 is not one host's but everybody's.
fn member_key(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(_) => host_key(ip),
        IpAddr::V6(v6) => host_key(ip) ^ (v6.to_bits() as u64).rotate_left(1),
    }
}

/// A burst, in thousandths of a query.
fn burst(per_second: u32) -> u64 {
    u64::from(per_second) * u64::from(BURST_SECONDS) * 1000
}

/// Lets go of those who have been silent for so long that they are as good as new: two at most for each that may
/// be added, so that no turn is long and the map shrinks in quiet times.
fn forget_full(levels: &mut Recent<u64, Level>, now: Instant) {
    let refilled =
        |level: &Level| now.saturating_duration_since(level.1).as_secs() > u64::from(BURST_SECONDS);
    for _ in 0..2 {
        if levels.peek_oldest().is_some_and(refilled) {
            levels.pop_oldest();
        }
    }
}

fn full(now: Instant, per_second: u32) -> Level {
    (burst(per_second), now)
}

fn take(level: &mut Level, now: Instant, per_second: u32) -> bool {
    take_of(level, now, per_second, burst(per_second))
}

fn take_of(level: &mut Level, now: Instant, per_second: u32, full: u64) -> bool {
    refill(level, now, u64::from(per_second), full);
    let admitted = level.0 >= 1000;
    if admitted {
        level.0 -= 1000;
    }
    admitted
}

fn refill(level: &mut Level, now: Instant, per_second: u64, full: u64) {
    let elapsed_ms = u64::try_from(now.saturating_duration_since(level.1).as_millis()).unwrap_or(u64::MAX);
    if elapsed_ms > 0 {
        level.0 = level.0.saturating_add(elapsed_ms.saturating_mul(per_second)).min(full);
        // What is left of a millisecond is counted with the next one.
        level.1 += Duration::from_millis(elapsed_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::{LIMIT_PER_NET, Network};

    #[test]
    fn a_flood_is_cut_to_the_rate_and_others_are_not_touched() {
        let now = Instant::now();
        let mut limiter = Limiter::new(&Config::default(), 7);
        let ip: IpAddr = [8, 8, 8, 8].into();
        let admitted = (0..10_000).filter(|_| limiter.admits(now, ip)).count();
        assert_eq!(admitted, (LIMIT_PER_IP * BURST_SECONDS) as usize);
        let later = now + Duration::from_secs(2);
        let admitted = (0..10_000).filter(|_| limiter.admits(later, ip)).count();
        assert_eq!(admitted, 2 * LIMIT_PER_IP as usize);
        assert!(limiter.admits(now, [8, 8, 8, 9].into()));
    }

    #[test]
    fn a_network_of_many_addresses_is_limited_too() {
        let now = Instant::now();
        let mut limiter = Limiter::new(&Config::default(), 7);
        let from = |n: u32| -> IpAddr { [8, 8, (n >> 8) as u8, n as u8].into() };
        let admitted = (0..60_000).filter(|n| limiter.admits(now, from(n % 60_000))).count();
        assert_eq!(admitted, (LIMIT_PER_NET * BURST_SECONDS) as usize);
    }

    #[test]
    fn a_private_network_bears_hundreds_behind_one_address_and_not_one_that_is_broken() {
        let now = Instant::now();
        let mut limiter = Limiter::new(&Config { network: Network::Local, ..Config::default() }, 7);
        let gateway: IpAddr = [10, 0, 0, 1].into();
        assert!((0..200 * 50).all(|_| limiter.admits(now, gateway)), "two hundred nodes that start at once");
        assert!((0..100_000).any(|_| !limiter.admits(now, gateway)));
        let others = |n: u32| -> IpAddr { [10, 0, (n >> 8) as u8, n as u8].into() };
        assert!((2..4000).all(|n| limiter.admits(now, others(n))), "a /16 is the whole network");
        let v6 = |n: u16| -> IpAddr { std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into() };
        assert!((0..60_000u32).all(|n| limiter.admits(now, v6((n % 3000) as u16))), "a /64 is, too");
        // A stranger from the internet is one, where no list and no key keeps him out.
        assert_eq!((0..10_000).filter(|_| limiter.admits(now, [8, 8, 8, 8].into())).count(), 250);
        let mut config = Config { network: Network::Local, is_sealed: true, ..Config::default() };
        let mut sealed = Limiter::new(&config, 7);
        assert_eq!((0..100_000).filter(|_| sealed.admits(now, [8, 8, 8, 8].into())).count(), 20_000);
        config.limits.queries_per_ip = 5;
        let mut named = Limiter::new(&config, 7);
        assert_eq!((0..100_000).filter(|_| named.admits(now, gateway)).count(), 50);
    }

    #[test]
    fn loopback_is_exempt() {
        let mut limiter = Limiter::new(&Config::default(), 7);
        assert!((0..100_000).all(|_| limiter.admits(Instant::now(), [127, 0, 0, 1].into())));
    }

    #[test]
    fn the_operator_s_own_limits_hold_for_everyone_together() {
        let now = Instant::now();
        let mut config = Config::default();
        config.limits.queries_per_second = Some(30);
        let mut limiter = Limiter::new(&config, 7);
        let from = |n: u32| -> IpAddr { [127, (n >> 16) as u8, (n >> 8) as u8, n as u8].into() };
        assert_eq!((0..1000).filter(|n| limiter.admits(now, from(*n))).count(), 30);
        let later = now + Duration::from_millis(500);
        assert_eq!((0..1000).filter(|n| limiter.admits(later, from(*n))).count(), 15);
        config.limits.queries_per_second = Some(10);
        limiter.set_limits(config.limits);
        let later = later + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|n| limiter.admits(later, from(*n))).count(), 10);
    }

    #[test]
    fn answers_stay_within_their_bytes_a_second() {
        let now = Instant::now();
        let mut config = Config::default();
        config.limits.bytes_per_second = Some(2000);
        let mut limiter = Limiter::new(&config, 7);
        let mut served = 0;
        for millisecond in 0..10_000 {
            if limiter.admits(now + Duration::from_millis(millisecond), [127, 0, 0, 1].into()) {
                limiter.on_answer(300);
                served += 300;
            }
        }
        // A second's worth at once and what ten seconds bring, less the room kept for a longest answer.
        assert!((20_000..=22_000).contains(&served), "{served}");
    }
}
