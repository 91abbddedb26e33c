//! How many queries strangers may ask, by address and by network.
//!
//! Owns one token bucket for each recent address and /16 (IPv6: /32). Must not know what was asked. An
//! address gets a NAT's worth of queries, since many nodes may stand behind it.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use lru::LruCache;

use super::config::{BURST_SECONDS, Config, LIMITER_ENTRIES, Limits, Network, is_private};

/// Tokens left, in thousandths, and when that was counted.
type Level = (u64, Instant);

/// Admits or refuses queries.
#[derive(Debug)]
pub struct Limiter {
    by_ip: LruCache<IpAddr, Level>,
    by_net: LruCache<(bool, [u8; 4]), Level>,
    exempt_private: bool,
    limits: Limits,
}

impl Limiter {
    /// Nobody has asked yet.
    pub fn new(config: &Config) -> Self {
        let entries = NonZeroUsize::new(LIMITER_ENTRIES).unwrap_or(NonZeroUsize::MIN);
        Self {
            by_ip: LruCache::sparse(entries),
            by_net: LruCache::sparse(entries),
            exempt_private: config.network == Network::Local,
            limits: config.limits,
        }
    }

    /// Whether one more query from there is looked at.
    pub fn admits(&mut self, now: Instant, ip: IpAddr) -> bool {
        // In a local network everybody is known, and hundreds of nodes may share one address. On
        // loopback nobody gains from flooding himself.
        if ip.is_loopback() || (self.exempt_private && is_private(ip)) {
            return true;
        }
        let net = match ip {
            IpAddr::V4(v4) => [v4.octets()[0], v4.octets()[1], 0, 0],
            IpAddr::V6(v6) => [v6.octets()[0], v6.octets()[1], v6.octets()[2], v6.octets()[3]],
        };
        forget_full(&mut self.by_ip, now);
        forget_full(&mut self.by_net, now);
        let (per_ip, per_net) = (self.limits.queries_per_ip, self.limits.queries_per_net);
        if !take(self.by_ip.get_or_insert_mut(ip, || full(now, per_ip)), now, per_ip) {
            return false;
        }
        let net_level = self.by_net.get_or_insert_mut((ip.is_ipv4(), net), || full(now, per_net));
        take(net_level, now, per_net)
    }
}

/// A burst, in thousandths of a query.
fn burst(per_second: u32) -> u64 {
    u64::from(per_second) * u64::from(BURST_SECONDS) * 1000
}

/// Lets go of those who have been silent for so long that they are as good as new: two at most for each that may
/// be added, so that no turn is long and the map shrinks in quiet times.
fn forget_full<K: Hash + Eq>(levels: &mut LruCache<K, Level>, now: Instant) {
    let refilled =
        |level: &Level| now.saturating_duration_since(level.1).as_secs() > u64::from(BURST_SECONDS);
    for _ in 0..2 {
        if levels.peek_lru().is_some_and(|(_, level)| refilled(level)) {
            levels.pop_lru();
        }
    }
}

fn full(now: Instant, per_second: u32) -> Level {
    (burst(per_second), now)
}

fn take(level: &mut Level, now: Instant, per_second: u32) -> bool {
    let elapsed_ms = now.saturating_duration_since(level.1).as_millis().min(1_000_000) as u64;
    if elapsed_ms > 0 {
        level.0 = (level.0 + elapsed_ms * u64::from(per_second)).min(burst(per_second));
        level.1 = now;
    }
    let admitted = level.0 >= 1000;
    if admitted {
        level.0 -= 1000;
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::{LIMIT_PER_IP, LIMIT_PER_NET};
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_to_the_rate_and_others_are_not_touched() {
        let now = Instant::now();
        let mut limiter = Limiter::new(&Config::default());
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
        let mut limiter = Limiter::new(&Config::default());
        let from = |n: u32| -> IpAddr { [8, 8, (n >> 8) as u8, n as u8].into() };
        let admitted = (0..60_000).filter(|n| limiter.admits(now, from(n % 60_000))).count();
        assert_eq!(admitted, (LIMIT_PER_NET * BURST_SECONDS) as usize);
    }

    #[test]
    fn loopback_is_exempt() {
        let mut limiter = Limiter::new(&Config::default());
        assert!((0..100_000).all(|_| limiter.admits(Instant::now(), [127, 0, 0, 1].into())));
    }
}
