//! How long answers take, from the latest round trips.
//!
//! Owns the distribution and what a silence means by it. Must not know queries.

use std::collections::VecDeque;
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

/// The latest round trips.
#[derive(Clone, Debug)]
pub struct Pace {
    samples: VecDeque<Duration>,
    marks: [Duration; MARKS.len()],
    stall: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let marks = MARKS.map(|percent| STALL_MAX * percent as u32 / 100);
        Self { samples: VecDeque::with_capacity(RTT_SAMPLES), marks, stall: STALL_MAX }
    }
}

impl Pace {
    /// Takes a measured round trip.
    pub fn add(&mut self, sample: Duration) {
        if self.samples.len() == RTT_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        if self.samples.len() >= MIN_SAMPLES {
            let mut sorted: Vec<_> = self.samples.iter().copied().collect();
            sorted.sort_unstable();
            let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
            self.marks = MARKS.map(at);
            let p95 = self.marks[MARKS.len() - 1];
            // A quarter on top, or every twentieth honest answer would come "late".
            self.stall = (p95 + p95 / 4).clamp(STALL_MIN, STALL_MAX);
        } else if self.samples.len() >= FIRST_SAMPLES {
            let longest = self.samples.iter().copied().max().unwrap_or(STALL_MAX);
            self.stall = (longest * FIRST_FACTOR).clamp(2 * STALL_MIN, STALL_MAX);
        }
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
