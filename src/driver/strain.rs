//! How strained a transfer's surroundings are: the share of the time in which the network waited for the disk, and in
//! which its thread was busy.
//!
//! Owns the sums and their window. Must not decide what they mean.

use std::time::{Duration, Instant};

use super::clock;

/// Shares are taken over this long.
const WINDOW: Duration = Duration::from_secs(1);

/// The sums of the window that runs, and the shares of the last one that is full.
#[derive(Debug)]
pub struct Strain {
    since: Instant,
    cpu: Duration,
    held: Duration,
    disk_percent: u32,
    cpu_percent: u32,
}

impl Strain {
    /// Nothing measured yet.
    pub fn new(now: Instant) -> Self {
        Self { since: now, cpu: clock::thread_cpu(), held: Duration::ZERO, disk_percent: 0, cpu_percent: 0 }
    }

    /// The network has waited for the disk.
    pub fn on_held(&mut self, time: Duration) {
        self.held += time;
    }

    /// Ends the window where it is full. Called on the network's thread.
    pub fn look(&mut self, now: Instant) {
        self.look_at(now, clock::thread_cpu());
    }

    fn look_at(&mut self, now: Instant, cpu: Duration) {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        // On a runtime of several threads this may be another thread than the last time: then it says nothing.
        self.cpu_percent = percent(cpu.saturating_sub(self.cpu), passed);
        self.disk_percent = percent(std::mem::take(&mut self.held), passed);
        (self.since, self.cpu) = (now, cpu);
    }

    /// Percent of the time in which the network waited for the disk.
    pub fn disk_percent(&self) -> u32 {
        self.disk_percent
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
        let base = strain.cpu;
        strain.on_held(Duration::from_millis(600));
        strain.look_at(start + WINDOW / 2, base + WINDOW / 2);
        assert_eq!((strain.disk_percent(), strain.cpu_percent()), (0, 0), "the window is not full");
        strain.look_at(start + 2 * WINDOW, base + WINDOW);
        assert_eq!((strain.disk_percent(), strain.cpu_percent()), (30, 50));
        strain.look_at(start + 3 * WINDOW, base);
        assert_eq!((strain.disk_percent(), strain.cpu_percent()), (0, 0), "another thread's clock");
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
