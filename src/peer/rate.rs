//! Bytes a second over the last seconds, in a fixed ring of one-second bins.

use std::time::{Duration, Instant};

/// Bins kept: tit-for-tat compares rates over 20 s.
const BINS: usize = 20;

/// How many bytes went by, and how fast.
#[derive(Debug, Clone)]
pub struct Rate {
    start: Instant,
    /// The second that the newest bin stands for, counted from `start`.
    second: u64,
    bins: [u64; BINS],
    total: u64,
}

impl Rate {
    /// A meter that begins now.
    pub fn new(now: Instant) -> Self {
        Self { start: now, second: 0, bins: [0; BINS], total: 0 }
    }

    /// Counts `bytes`.
    pub fn record(&mut self, now: Instant, bytes: u64) {
        self.advance(now);
        self.bins[(self.second % BINS as u64) as usize] += bytes;
        self.total += bytes;
    }

    /// Bytes counted in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes a second over the last `window`, up to 20 s; over less where the meter is younger.
    pub fn per_second(&self, now: Instant, window: Duration) -> u64 {
        let age = now.saturating_duration_since(self.start);
        let (now_second, bins) = (age.as_secs(), window.as_secs().clamp(1, BINS as u64 - 1));
        // The current second has only begun: count it and as many whole ones before it.
        let oldest = now_second.saturating_sub(bins);
        let newest_kept = self.second.saturating_sub(BINS as u64 - 1);
        let sum: u64 = (oldest.max(newest_kept)..=self.second.min(now_second))
            .map(|s| self.bins[(s % BINS as u64) as usize])
            .sum();
        let span = age.saturating_sub(Duration::from_secs(oldest)).max(Duration::from_millis(250));
        (sum as f64 / span.as_secs_f64()) as u64
    }

    fn advance(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        if second > self.second {
            for s in (self.second + 1..=second).take(BINS) {
                self.bins[(s % BINS as u64) as usize] = 0;
            }
            // A pause longer than the ring has cleared every bin above.
            self.second = second;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_shows_its_rate_and_a_pause_forgets_it() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for tenth in 0..300 {
            rate.record(start + Duration::from_millis(100 * tenth), 1000);
        }
        let end = start + Duration::from_secs(30);
        let shown = rate.per_second(end, Duration::from_secs(20));
        assert!((9_000..=11_000).contains(&shown), "{shown}");
        assert_eq!(rate.per_second(end + Duration::from_secs(40), Duration::from_secs(20)), 0);
        rate.record(end + Duration::from_secs(100), 500);
        assert_eq!(rate.per_second(end + Duration::from_secs(100), Duration::from_secs(20)), 26);
        assert_eq!(rate.total(), 300_500);
    }
}
