//! How long answers take, from the latest round trips.
//!
//! Owns the distribution and what a silence means by it. Must not know queries.

use std::time::Duration;

use super::config::{RTT_SAMPLES, STALL_MAX, STALL_MIN};

/// Fewer samples say nothing about a 95th percentile.
const MIN_SAMPLES: usize = 8;
/// From so many on, a multiple of the longest of them does better than the guess before.
const FIRST_SAMPLES: usize = 3;
/// That multiple.
const FIRST_FACTOR: u32 = 5;

/// The percentiles after which the chances of a silent node are thought over.
const MARKS: [usize; 4] = [50, 70, 85, 95];

/// The latest round trips, in whole microseconds: finer than that no network is.
#[derive(Clone, Debug)]
pub struct Pace {
    /// At most [`RTT_SAMPLES`], in a ring.
    latest: Vec<u32>,
    /// The place of the oldest, once the ring is full.
    oldest: usize,
    /// The same, the shortest first: kept so, since one comes and one goes at a time.
    sorted: Vec<u32>,
    marks: [Duration; MARKS.len()],
    stall: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(STALL_MAX)
    }
}

impl Pace {
    /// Nothing measured yet; until then answers are waited for that long.
    pub fn new(stall: Duration) -> Self {
        let marks = MARKS.map(|percent| stall * percent as u32 / 100);
        Self { latest: Vec::new(), oldest: 0, sorted: Vec::new(), marks, stall }
    }

    /// Takes a measured round trip.
    pub fn add(&mut self, sample: Duration) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX);
        let to = self.sorted.partition_point(|s| *s < sample);
        if self.latest.len() < RTT_SAMPLES {
            self.latest.push(sample);
            self.sorted.insert(to, sample);
        } else {
            let old = std::mem::replace(&mut self.latest[self.oldest], sample);
            self.oldest = (self.oldest + 1) % RTT_SAMPLES;
            self.replace(old, sample, to);
        }
        let length = self.sorted.len();
        let at = |place: usize| Duration::from_micros(self.sorted[place.min(length - 1)].into());
        if length >= MIN_SAMPLES {
            self.marks = MARKS.map(|percent| at(length * percent / 100));
            let p95 = self.marks[MARKS.len() - 1];
            // A quarter on top, or every twentieth honest answer would come "late".
            self.stall = (p95 + p95 / 4).clamp(STALL_MIN, STALL_MAX);
        } else if length >= FIRST_SAMPLES {
            self.stall = (at(length - 1) * FIRST_FACTOR).clamp(2 * STALL_MIN, STALL_MAX);
        }
    }

    /// Puts a sample in the place of another; only those between the two move. `to` is where it would be inserted.
    fn replace(&mut self, old: u32, new: u32, to: usize) {
        let from = self.sorted.partition_point(|s| *s < old);
        let to = if from < to {
            self.sorted.copy_within(from + 1..to, from);
            to - 1
        } else {
            self.sorted.copy_within(to..from, to + 1);
            to
        };
        self.sorted[to] = new;
    }

    /// Silence after which an answer has become unlikely.
    pub fn stall(&self) -> Duration {
        self.stall
    }

    /// The share of answers that take longer than this.
    pub fn still_due(&self, silence: Duration) -> f64 {
        let passed = self.marks.iter().rposition(|mark| silence >= *mark);
        passed.map_or(1.0, |at| (100 - MARKS[at]) as f64 / 100.0)
    }

    /// The silence at which [`Pace::still_due`] changes next.
    pub fn next_mark(&self, silence: Duration) -> Option<Duration> {
        self.marks.iter().copied().find(|mark| *mark > silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stall_follows_the_measured_round_trips() {
        let mut pace = Pace::default();
        (0..2).for_each(|_| pace.add(Duration::from_millis(1)));
        assert_eq!(pace.stall(), STALL_MAX);
        pace.add(Duration::from_millis(80));
        assert_eq!(pace.stall(), Duration::from_millis(400));
        (0..4).for_each(|_| pace.add(Duration::from_millis(1)));
        (0..50).for_each(|_| pace.add(Duration::from_millis(1)));
        assert_eq!(pace.stall(), STALL_MIN);
        (0..RTT_SAMPLES).for_each(|_| pace.add(Duration::from_millis(400)));
        assert_eq!(pace.stall(), Duration::from_millis(500));
    }

    #[test]
    fn the_sorted_samples_are_the_latest_ones() {
        let mut rng = crate::rng::Rng::from_u64(1);
        let (mut pace, mut all) = (Pace::default(), Vec::new());
        for _ in 0..10 * RTT_SAMPLES {
            let sample = rng.below(300) as u32;
            pace.add(Duration::from_micros(sample.into()));
            all.push(sample);
            let mut latest = all[all.len().saturating_sub(RTT_SAMPLES)..].to_vec();
            latest.sort_unstable();
            assert_eq!(pace.sorted, latest);
        }
    }

    #[test]
    fn silence_makes_an_answer_less_likely_step_by_step() {
        let mut pace = Pace::default();
        (1..=100).for_each(|ms| pace.add(Duration::from_millis(ms)));
        let mut silence = Duration::ZERO;
        let mut due = pace.still_due(silence);
        assert_eq!(due, 1.0);
        while let Some(mark) = pace.next_mark(silence) {
            assert!(mark > silence && pace.still_due(mark) < due);
            (silence, due) = (mark, pace.still_due(mark));
        }
        assert_eq!(due, 0.05);
    }
}
