//! How often each remote address is asked.
//!
//! Owns the time until which each address that was asked lately has had its share. Must not know what is
//! asked. Named by a thousand liars, or close to a hundred targets, an address still gets less than one query a
//! second from us.

use std::net::IpAddr;
use std::time::Instant;

use super::config::{ASK_BURST, ASK_EVERY, ASKED_ADDRESSES};
use super::recent::Recent;

/// Spaces out the queries to each address.
#[derive(Debug)]
pub struct Courtesy {
    /// When all that was asked there would have been asked at the sustained pace.
    paid_by: Recent<u128, Instant>,
}

fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Courtesy {
    /// Nobody was asked yet. The secret keeps strangers from guessing where they are noted down.
    pub fn new(secret: u64) -> Self {
        Self { paid_by: Recent::new(ASKED_ADDRESSES, secret) }
    }

    /// When a query may go there: now, or not before that time.
    pub fn ready(&self, now: Instant, ip: IpAddr) -> Result<(), Instant> {
        let debt = ASK_EVERY * (ASK_BURST - 1);
        match self.paid_by.peek(key(ip)) {
            Some(paid_by) if *paid_by > now + debt => Err(*paid_by - debt),
            _ => Ok(()),
        }
    }

    /// A query goes there.
    pub fn on_query(&mut self, now: Instant, ip: IpAddr) {
        // Who has been left alone for long is as good as new: two at most for each that may be added.
        for _ in 0..2 {
            if self.paid_by.peek_oldest().is_some_and(|paid_by| *paid_by <= now) {
                self.paid_by.pop_oldest();
            }
        }
        let paid_by = self.paid_by.get_or_insert(key(ip), now);
        *paid_by = (*paid_by).max(now) + ASK_EVERY;
    }

    /// Addresses that are remembered.
    pub fn len(&self) -> usize {
        self.paid_by.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.paid_by.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn after_a_burst_an_address_is_asked_less_than_once_a_second() {
        let (start, ip) = (Instant::now(), IpAddr::from([8, 8, 8, 8]));
        let mut courtesy = Courtesy::new(7);
        let mut asked = 0;
        for ms in 0..100_000 {
            let now = start + Duration::from_millis(ms);
            match courtesy.ready(now, ip) {
                Ok(()) => {
                    courtesy.on_query(now, ip);
                    asked += 1;
                }
                Err(until) => assert!(until > now && until <= now + ASK_EVERY),
            }
            assert!(asked <= u64::from(ASK_BURST) + ms / 1001, "{asked} in {ms} ms");
        }
        assert!(asked > 70, "{asked}");
        assert_eq!(courtesy.ready(start, [8, 8, 8, 9].into()), Ok(()));
    }

    #[test]
    fn the_record_is_bounded_and_shrinks_in_quiet_times() {
        let now = Instant::now();
        let mut courtesy = Courtesy::new(7);
        for n in 0..100_000u32 {
            courtesy.on_query(now, n.to_be_bytes().into());
        }
        assert_eq!(courtesy.len(), ASKED_ADDRESSES);
        let later = now + Duration::from_secs(60);
        for n in 0..ASKED_ADDRESSES as u32 {
            courtesy.on_query(later + Duration::from_secs(u64::from(n)), n.to_be_bytes().into());
        }
        assert!(courtesy.len() < 8, "{}", courtesy.len());
    }
}
