//! Byte rates that a user sets: one bucket for each direction, shared by all connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock;

/// How much time's worth of bytes may be saved up: long enough for few wake-ups, short enough to be smooth.
const BURST: Duration = Duration::from_millis(100);
/// A burst below this would cost more in wake-ups than it smooths.
const MIN_BURST: f64 = 1024.0;

#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: f64,
    at: Instant,
}

/// A limit, or none.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    bucket: Mutex<Bucket>,
    /// Held by whoever waits for the bucket to fill; the rest queue behind him in the order they came. Without it
    /// a connection that always wants more can keep the few bytes of another waiting for a minute.
    turn: tokio::sync::Mutex<()>,
}

impl Throttle {
    /// At most `rate` bytes a second; no limit where there is none.
    pub fn new(rate: Option<u64>) -> Self {
        let bucket = |rate: u64| Bucket { rate: rate.max(1) as f64, level: 0.0, at: clock::now() };
        let shared = |rate| Shared { bucket: Mutex::new(bucket(rate)), turn: tokio::sync::Mutex::new(()) };
        Self(rate.map(|r| Arc::new(shared(r))))
    }

    /// The limit in bytes a second, if there is one.
    pub fn rate(&self) -> Option<u64> {
        let bucket = self.0.as_ref()?.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        Some(bucket.rate as u64)
    }

    /// Waits until at least one of `wanted` bytes may pass and returns how many may.
    pub async fn take(&self, wanted: usize) -> usize {
        let Some(Shared { bucket, turn }) = self.0.as_deref() else { return wanted };
        let _turn = turn.lock().await;
        loop {
            let wait = {
                let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                bucket.refill();
                // In portions: a byte at a time would be exact as well, and cost a system call each.
                let portion = bucket.burst().min(wanted as f64).max(1.0);
                if bucket.level >= portion {
                    let granted = bucket.level.min(wanted as f64).floor();
                    bucket.level -= granted;
                    return granted as usize;
                }
                Duration::from_secs_f64((portion - bucket.level) / bucket.rate)
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Gives back what was granted and not used.
    pub fn give_back(&self, unused: usize) {
        if let Some(shared) = &self.0 {
            shared.bucket.lock().unwrap_or_else(PoisonError::into_inner).level += unused as f64;
        }
    }
}

impl Bucket {
    fn burst(&self) -> f64 {
        (self.rate * BURST.as_secs_f64()).max(MIN_BURST)
    }

    fn refill(&mut self) {
        let now = clock::now();
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.level = (self.level + gained).min(2.0 * self.burst());
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_exact_even_below_one_block() {
        for rate in [700u64, 16_000, 2_000_000] {
            let throttle = Throttle::new(Some(rate));
            let start = clock::now();
            let mut passed = 0;
            while clock::now() - start < Duration::from_secs(20) {
                passed += throttle.take(16_384).await as u64;
            }
            let per_second = passed / 20;
            assert!(per_second.abs_diff(rate) <= rate / 20 + 100, "{per_second} for {rate}");
        }
        assert_eq!(Throttle::new(None).take(5).await, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_little_does_not_wait_behind_who_wants_much_for_ever() {
        let throttle = Throttle::new(Some(20_000));
        let greedy = |name: u64| {
            let throttle = throttle.clone();
            tokio::spawn(async move {
                loop {
                    throttle.take(262_144).await;
                    // What it takes to be handed on.
                    tokio::time::sleep(Duration::from_millis(name)).await;
                }
            })
        };
        let much: Vec<_> = (1..4).map(greedy).collect();
        for _ in 0..20 {
            let asked = clock::now();
            let granted = throttle.take(262_144).await;
            throttle.give_back(granted - 68);
            assert!(clock::now() - asked < Duration::from_secs(1), "{:?}", clock::now() - asked);
        }
        much.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
