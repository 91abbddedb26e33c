//! What a sender has said, so that nothing counts twice.
//!
//! A sender draws a random name at its start and stamps all that it says with its wall time in microseconds, each stamp
//! later than the one before. Two rules follow: a stamp too far from our own time is refused whoever sent it
//! ([`FRESH_US`]); and of one sender no stamp is taken twice, nor one older than the last few.
//!
//! The bound: where more than the remembered number of senders speak within [`FRESH_US`], or after a restart, one
//! recorded datagram can count once more within that time.

use crate::rng::Rng;

/// How far a stamp may be from our own clock, in microseconds: five minutes, as Kerberos bears it.
pub const FRESH_US: u64 = 5 * 60 * 1_000_000;
/// Stamps of one sender that are remembered one by one: datagrams overtake each other by fewer.
const RECENT: usize = 32;

/// The random name of a sender.
pub type SenderName = [u8; 16];

/// What one sender has said lately.
#[derive(Clone, Debug)]
pub struct Window {
    /// Nothing up to this is taken.
    floor: u64,
    recent: [u64; RECENT],
    len: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { floor: 0, recent: [0; RECENT], len: 0 }
    }
}

impl Window {
    /// Whether this stamp was not taken before.
    pub fn is_new(&self, stamp: u64) -> bool {
        stamp > self.floor && !self.recent[..self.len].contains(&stamp)
    }

    /// Takes a stamp. False, and nothing changes, if it is not new.
    pub fn take(&mut self, stamp: u64) -> bool {
        if !self.is_new(stamp) {
            return false;
        }
        if self.len < RECENT {
            self.recent[self.len] = stamp;
            self.len += 1;
            return true;
        }
        let oldest = (0..RECENT).min_by_key(|at| self.recent[*at]).unwrap_or(0);
        if stamp < self.recent[oldest] {
            self.floor = stamp;
        } else {
            self.floor = self.recent[oldest];
            self.recent[oldest] = stamp;
        }
        true
    }
}

/// How much later than ours a sender's clock is, in microseconds.
pub fn ahead(stamp: u64, now_us: u64) -> i64 {
    let apart = i64::try_from(stamp.abs_diff(now_us)).unwrap_or(i64::MAX);
    if stamp >= now_us { apart } else { -apart }
}

/// Whether a stamp is near enough to our time.
pub fn is_fresh(stamp: u64, now_us: u64) -> bool {
    stamp.abs_diff(now_us) <= FRESH_US
}

/// A clock that falls back by more than this, in microseconds, makes a new sender of us: else nobody would listen until it
/// has caught up.
const FALL_US: u64 = 60_000_000;

/// The stamps that we put on what we say: wall time, but always later than the last one of the same name, whatever the
/// clock does.
#[derive(Clone, Debug)]
pub struct Stamps {
    name: SenderName,
    last: u64,
    names: Rng,
}

impl Stamps {
    /// Of a sender that is new.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut names = Rng::from_seed(seed);
        Self { name: names.bytes(), last: 0, names }
    }

    /// Our name.
    pub fn name(&self) -> &SenderName {
        &self.name
    }

    /// The next one; the name may be another from then on.
    pub fn next(&mut self, now_us: u64) -> u64 {
        if self.last > now_us.saturating_add(FALL_US) {
            (self.name, self.last) = (self.names.bytes(), 0);
        }
        self.last = now_us.max(self.last.saturating_add(1));
        self.last
    }

    /// Whether it is one that we gave within the last `within_us`.
    pub fn gave(&self, stamp: u64, now_us: u64, within_us: u64) -> bool {
        stamp <= self.last && stamp.saturating_add(within_us) >= now_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Whatever order stamps come in, none is taken twice, and none of those that are only a little late is lost.
        #[test]
        fn no_stamp_counts_twice(stamps in prop::collection::vec(1u64..200, 1..400)) {
            let (mut window, mut taken) = (Window::default(), BTreeSet::new());
            for stamp in stamps {
                let later = taken.range(stamp..).count();
                let took = window.take(stamp);
                prop_assert!(!took || taken.insert(stamp));
                prop_assert!(took || taken.contains(&stamp) || later >= RECENT);
            }
        }
    }

    #[test]
    fn stamps_rise_though_the_clock_falls() {
        let mut stamps = Stamps::new([1; 32]);
        assert_eq!(
            (stamps.next(100), stamps.next(100), stamps.next(50), stamps.next(200)),
            (100, 101, 102, 200)
        );
        assert!(stamps.gave(200, 210, 10) && !stamps.gave(200, 211, 10) && !stamps.gave(201, 201, 10));
        // Back from a time that was wrong.
        let name = *stamps.name();
        assert!(stamps.next(200 + 2 * FALL_US) > 200 && *stamps.name() == name);
        assert!(stamps.next(300) == 300 && *stamps.name() != name);
        assert!(is_fresh(0, FRESH_US) && !is_fresh(0, FRESH_US + 1) && is_fresh(FRESH_US, 0));
        assert_eq!((ahead(5, 3), ahead(3, 5)), (2, -2));
    }
}
