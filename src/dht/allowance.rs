//! How much longer than the questions the answers may be.
//!
//! Owns a balance of bytes for each recent address and one for all together. Must not know what was asked.
//! A sender's address can be forged, so every byte that goes out beyond a small multiple of those that came in
//! may be an attack on somebody else: where the balance is low, answers get shorter instead.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::config::{
    ALLOWANCE_BURST, ALLOWANCE_BURST_ALL, ALLOWANCE_PER_SECOND, ALLOWANCE_PER_SECOND_ALL, AMPLIFICATION,
    Config, LIMITER_ENTRIES, MAX_ITEM_PAYLOAD,
};
use super::recent::{Recent, host_key};

/// Bytes to give away, and when that was counted.
#[derive(Clone, Copy, Debug)]
struct Balance {
    bytes: usize,
    at: Instant,
}

impl Balance {
    fn refill(&mut self, now: Instant, per_second: usize, cap: usize) {
        let elapsed = now.saturating_duration_since(self.at).as_secs();
        // Whole seconds only; the rest is counted with the next one.
        if elapsed > 0 {
            let earned = usize::try_from(elapsed).unwrap_or(cap).min(cap).saturating_mul(per_second);
            self.bytes = self.bytes.saturating_add(earned).min(cap);
            self.at += Duration::from_secs(elapsed);
        }
    }
}

/// Keeps what goes out in proportion to what comes in.
#[derive(Debug)]
pub struct Allowance {
    by_ip: Recent<u64, Balance>,
    all: Balance,
    config: Config,
}

impl Allowance {
    /// Nobody has asked yet. The secret keeps strangers from guessing where they are noted down.
    pub fn new(now: Instant, config: &Config, secret: u64) -> Self {
        Self {
            by_ip: Recent::new(LIMITER_ENTRIES, secret),
            all: Balance { bytes: ALLOWANCE_BURST_ALL, at: now },
            config: config.clone(),
        }
    }

    fn is_exempt(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.config.trusts(ip)
    }

    /// How long the answer to a query of `received` bytes may be; [`MAX_ITEM_PAYLOAD`] at most.
    pub fn room(&mut self, now: Instant, ip: IpAddr, received: usize) -> usize {
        let earned = received.saturating_mul(AMPLIFICATION);
        if earned >= MAX_ITEM_PAYLOAD || self.is_exempt(ip) {
            return MAX_ITEM_PAYLOAD;
        }
        self.forget_full(now);
        self.all.refill(now, ALLOWANCE_PER_SECOND_ALL, ALLOWANCE_BURST_ALL);
        let own = self.by_ip.get_or_insert(host_key(ip), Balance { bytes: ALLOWANCE_BURST, at: now });
        own.refill(now, ALLOWANCE_PER_SECOND, ALLOWANCE_BURST);
        (earned + own.bytes.min(self.all.bytes)).min(MAX_ITEM_PAYLOAD)
    }

    /// Lets go of those who have been silent until their balance was full again: two at most for each that may be
    /// added, so that no turn is long and the map shrinks in quiet times.
    fn forget_full(&mut self, now: Instant) {
        const REFILL_SECONDS: u64 = (ALLOWANCE_BURST / ALLOWANCE_PER_SECOND) as u64;
        for _ in 0..2 {
            let oldest = self.by_ip.peek_oldest().map(|balance| balance.at);
            if oldest.is_some_and(|at| now.saturating_duration_since(at).as_secs() > REFILL_SECONDS) {
                self.by_ip.pop_oldest();
            }
        }
    }

    /// An answer of `sent` bytes has gone out to a query of `received` bytes.
    pub fn spend(&mut self, ip: IpAddr, received: usize, sent: usize) {
        let beyond = sent.saturating_sub(received.saturating_mul(AMPLIFICATION));
        if beyond > 0 && !self.is_exempt(ip) {
            self.all.bytes = self.all.bytes.saturating_sub(beyond);
            if let Some(own) = self.by_ip.get_mut(host_key(ip)) {
                own.bytes = own.bytes.saturating_sub(beyond);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: usize = 95;

    /// Bytes out over bytes in of a flood of queries that could each be answered with a full datagram.
    fn ratio(mut ip: impl FnMut(u32) -> IpAddr, count: u32, per_second: u32) -> f64 {
        let start = Instant::now();
        let mut allowance = Allowance::new(start, &Config::default(), 7);
        let mut out = 0;
        for n in 0..count {
            let now = start + Duration::from_millis(u64::from(n) * 1000 / u64::from(per_second));
            let room = allowance.room(now, ip(n), QUERY);
            assert!((QUERY * AMPLIFICATION..=MAX_ITEM_PAYLOAD).contains(&room));
            allowance.spend(ip(n), QUERY, room);
            out += room;
        }
        out as f64 / (count as usize * QUERY) as f64
    }

    #[test]
    fn a_sustained_flood_of_one_or_of_many_is_hardly_amplified() {
        let one = ratio(|_| [9, 9, 9, 9].into(), 10_000, 20);
        let many = ratio(
            |n| (0x0900_0000 + n.wrapping_mul(0x9E37_79B1) % (1 << 24)).to_be_bytes().into(),
            200_000,
            2000,
        );
        assert!(one < AMPLIFICATION as f64 + 0.1 && many < AMPLIFICATION as f64 + 0.1, "{one} {many}");
    }

    #[test]
    fn who_asks_now_and_then_gets_full_answers_and_so_does_loopback() {
        assert!(ratio(|n| [9, 9, 1, n as u8].into(), 200, 1) > 10.0);
        assert!(ratio(|_| [127, 0, 0, 1].into(), 10_000, 1000) > 10.0);
    }
}
