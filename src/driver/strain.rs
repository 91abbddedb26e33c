//! How strained a transfer's surroundings are: the share of the time in which the network waited for the disk threads, what
//! these were busy with, and how busy its own thread was.
//!
//! Owns the sums and their window. Must not decide what they mean.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock;

/// Shares are taken over this long.
const WINDOW: Duration = Duration::from_secs(1);

/// What the disk threads have done since they began, all together.
#[derive(Debug, Default)]
pub struct Toil {
    hashing_us: AtomicU64,
    moving_us: AtomicU64,
    hashed: AtomicU64,
}

impl Toil {
    /// So many bytes were hashed.
    pub fn on_hashed(&self, time: Duration, bytes: usize) {
        self.hashing_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        self.hashed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Something was written, or read to be hashed.
    pub fn on_moved(&self, time: Duration) {
        self.moving_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn work(&self) -> Work {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Work { hashing: of(&self.hashing_us), moving: of(&self.moving_us), hashed: of(&self.hashed) }
    }
}

/// What disk threads do. More than 100 percent is several threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Percent of the time that went into hashing.
    pub hashing: u64,
    /// Percent of the time that went into writing, and reading back.
    pub moving: u64,
    /// Bytes hashed a second.
    pub hashed: u64,
}

/// The sums of the window that runs, and the shares of the last one that is full.
#[derive(Debug)]
pub struct Strain {
    since: Instant,
    cpu: Duration,
    held: Duration,
    /// The disk threads' sums when it began: microseconds and bytes.
    toil: Work,
    held_percent: u32,
    cpu_percent: u32,
    work: Work,
}

impl Strain {
    /// Nothing measured yet.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            cpu: clock::thread_cpu(),
            held: Duration::ZERO,
            toil: Work::default(),
            held_percent: 0,
            cpu_percent: 0,
            work: Work::default(),
        }
    }

    /// The network has waited for the disk threads.
    pub fn on_held(&mut self, time: Duration) {
        self.held += time;
    }

    /// Ends the window where it is full. Called on the network's thread.
    pub fn look(&mut self, now: Instant, toil: Option<&Toil>) {
        self.look_at(now, clock::thread_cpu(), toil.map(Toil::work).unwrap_or_default());
    }

    fn look_at(&mut self, now: Instant, cpu: Duration, toil: Work) {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        // On a runtime of several threads this may be another thread than the last time: then it says nothing.
        self.cpu_percent = percent(cpu.saturating_sub(self.cpu), passed);
        self.held_percent = percent(std::mem::take(&mut self.held), passed);
        let passed_us = (passed.as_micros() as u64).max(1);
        let share = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(100) / passed_us;
        self.work = Work {
            hashing: share(toil.hashing, self.toil.hashing),
            moving: share(toil.moving, self.toil.moving),
            hashed: toil.hashed.saturating_sub(self.toil.hashed).saturating_mul(1_000_000) / passed_us,
        };
        (self.since, self.cpu, self.toil) = (now, cpu, toil);
    }

    /// Percent of the time in which the network waited for the disk threads.
    pub fn held_percent(&self) -> u32 {
        self.held_percent
    }

    /// What the disk threads did meanwhile.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Percent of the time in which the network's thread was busy.
    pub fn cpu_percent(&self) -> u32 {
        self.cpu_percent
    }
}

fn percent(part: Duration, whole: Duration) -> u32 {
    (part.as_micros() * 100).checked_div(whole.as_micros()).map_or(0, |p| p.min(100) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_last_full_window() {
        let start = clock::now();
        let mut strain = Strain::new(start);
        let (base, toil) = (strain.cpu, Toil::default());
        strain.on_held(Duration::from_millis(600));
        toil.on_hashed(Duration::from_millis(1500), 3 << 20);
        toil.on_hashed(Duration::from_millis(1500), 1 << 20);
        toil.on_moved(Duration::from_millis(500));
        strain.look_at(start + WINDOW / 2, base + WINDOW / 2, toil.work());
        assert_eq!((strain.held_percent(), strain.cpu_percent()), (0, 0), "the window is not full");
        strain.look_at(start + 2 * WINDOW, base + WINDOW, toil.work());
        assert_eq!((strain.held_percent(), strain.cpu_percent()), (30, 50));
        assert_eq!(strain.work(), Work { hashing: 150, moving: 25, hashed: 2 << 20 });
        strain.look_at(start + 3 * WINDOW, base, toil.work());
        assert_eq!((strain.held_percent(), strain.cpu_percent()), (0, 0), "another thread's clock");
        assert_eq!(strain.work(), Work::default());
    }

    #[test]
    fn a_busy_thread_shows() {
        let before = clock::thread_cpu();
        let mut sum = 0_u64;
        while clock::thread_cpu() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(clock::thread_cpu() > before);
    }
}
