//! Sealing on the sockets of a keyed network's node.
//!
//! Owns when the operator is told of clocks that differ. What opens and what does not is decided in `network::seal`.

use std::time::{Duration, Instant};

use super::batch::{BATCH, Batch};
use crate::dht::Transmit;
use crate::driver::clock;
use crate::network::seal::{Refused, SealCounters};
use crate::network::{Keys, Sealer};

/// Time between two warnings of the same kind: a clock that is wrong stays so until somebody reads this.
const WARN_EVERY: Duration = Duration::from_secs(600);

/// Who was heard within this time shares our idea of what time it is.
const HEARD_FOR: Duration = Duration::from_secs(60);

/// The seal of one node.
#[derive(Debug)]
pub(super) struct Seal {
    sealer: Sealer,
    /// Of each datagram of the batch that was opened last: how much its sender's clock is ahead.
    ahead_us: Vec<i64>,
    our_clock_us: Option<i64>,
    /// When somebody was heard last.
    heard_at: Option<Instant>,
    warn_at: [Instant; 2],
}

impl Seal {
    pub(super) fn new(keys: Keys, seed: [u8; 32]) -> Self {
        let now = clock::now();
        let sealer = Sealer::new(keys, seed);
        Self {
            sealer,
            ahead_us: Vec::with_capacity(BATCH),
            our_clock_us: None,
            heard_at: None,
            warn_at: [now; 2],
        }
    }

    pub(super) fn set_keys(&mut self, keys: Keys) {
        self.sealer.set_keys(keys);
    }

    pub(super) fn counters(&self) -> SealCounters {
        self.sealer.counters()
    }

    /// What members said of our clock.
    pub(super) fn our_clock_us(&self) -> Option<i64> {
        self.our_clock_us
    }

    /// Of the datagram at this place in the batch.
    pub(super) fn ahead_us(&self, at: usize) -> i64 {
        self.ahead_us.get(at).copied().unwrap_or(0)
    }

    pub(super) fn seal(&mut self, message: &mut Vec<u8>) {
        self.sealer.seal(clock::unix_us(), message);
    }

    /// Opens a batch in its place; what does not open becomes empty. Gives the notices that are to be sent.
    pub(super) fn open(&mut self, batch: &mut Batch) -> impl Iterator<Item = Transmit> + use<> {
        let (now_us, now) = (clock::unix_us(), clock::now());
        let mut notices = Vec::new();
        self.ahead_us.clear();
        batch.open(|from, datagram| {
            let opened = self.sealer.open(now_us, datagram);
            self.ahead_us.push(opened.as_ref().map_or(0, |o| o.ahead_us));
            match opened {
                Ok(opened) => {
                    (self.our_clock_us, self.heard_at) = (None, Some(now));
                    let length = opened.message.len();
                    datagram.copy_within(opened.message, 0);
                    return length;
                }
                Err(Refused::Skewed(ahead_us, notice)) => {
                    notices.extend(notice.map(|payload| Transmit { to: from, payload }));
                    let warn = self.warns(0);
                    if warn {
                        tracing::warn!("a member is not heard, because its clock is {} this machine's", apart(ahead_us));
                    }
                    tracing::debug!(%from, ahead_us, "a clock differs too much");
                }
                // Where others hear us, it is the one clock that is wrong which says so.
                Err(Refused::OurClock(_)) if self.heard_at.is_some_and(|at| now < at + HEARD_FOR) => {}
                Err(Refused::OurClock(ahead_us)) => {
                    self.our_clock_us = Some(ahead_us);
                    if self.warns(1) {
                        tracing::warn!(
                            "the clock of this machine is wrong: that of another member is {} it; members that differ by \
                             more than five minutes do not hear each other",
                            apart(ahead_us)
                        );
                    }
                }
                Err(refused) => tracing::trace!(%from, ?refused, "a datagram is dropped"),
            }
            0
        });
        notices.into_iter()
    }

    fn warns(&mut self, kind: usize) -> bool {
        let now = clock::now();
        let due = now >= self.warn_at[kind];
        if due {
            self.warn_at[kind] = now + WARN_EVERY;
        }
        due
    }
}

/// How one clock stands to another: `3 h 2 min ahead of`.
pub fn apart(ahead_us: i64) -> String {
    let seconds = ahead_us.unsigned_abs() / 1_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let words = match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {hours} h"),
        (0, 1.., _) => format!("{hours} h {minutes} min"),
        (0, 0, 1..) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{:.1} s", ahead_us.unsigned_abs() as f64 / 1e6),
    };
    format!("{words} {}", if ahead_us < 0 { "behind" } else { "ahead of" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_in_words() {
        for (ahead_us, words) in [
            (10_921_000_000, "3 h 2 min ahead of"),
            (-61_000_000, "1 min 1 s behind"),
            (1_500_000, "1.5 s ahead of"),
            (200_000_000_000, "2 d 7 h ahead of"),
            (0, "0.0 s ahead of"),
        ] {
            assert_eq!(apart(ahead_us), words);
        }
    }
}
