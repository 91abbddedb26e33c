//! Threads that run shards while the coordinator runs its own.
//!
//! A shard goes to a worker and comes back; who holds it owns it, so nobody waits on a lock. What a worker has not
//! begun when the coordinator is through with its own shard, the coordinator takes back and does itself: where
//! other programs have the cores, a world on two threads is about as fast as on one, and not slower. Knows nothing of what
//! a shard does.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::network::Network;
use super::shard::Shard;

/// Looks at a lane before the core is offered to others: some ten microseconds, where a window takes hundreds.
const SPINS: u32 = 500;

/// What stands in a lane.
const NOTHING: u8 = 0;
const OFFER: u8 = 1;
const WORK: u8 = 2;
const RESULT: u8 = 3;
/// No more offers.
const END: u8 = 4;

/// A shard that is to run until then, or has.
struct Job {
    shard: Shard,
    /// Given back with the result, since the coordinator changes it between windows.
    network: Option<Arc<Network>>,
    end: u64,
}

impl Job {
    fn run(&mut self) {
        if let Some(network) = self.network.take() {
            self.shard.run(&network, self.end);
        }
    }
}

/// Between the coordinator and one worker.
#[derive(Default)]
struct Lane {
    state: AtomicU8,
    job: Mutex<Option<Job>>,
}

impl Lane {
    fn wait_for(&self, wanted: [u8; 2]) -> u8 {
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if wanted.contains(&state) {
                return state;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Whether the lane was in that state, and is in this one now.
    fn pass(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn put(&self, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
    }

    fn take(&self) -> Option<Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn work(&self) {
        /// Says that it is over even where a node panics, or the coordinator would wait for ever.
        struct Over<'a>(&'a Lane);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.pass(WORK, RESULT);
            }
        }
        while self.wait_for([OFFER, END]) == OFFER {
            if self.pass(OFFER, WORK) {
                let _over = Over(self);
                if let Some(mut job) = self.take() {
                    job.run();
                    self.put(job);
                }
            }
        }
    }

    /// What was offered, done by whom ever.
    fn result(&self) -> Shard {
        let is_ours = self.pass(OFFER, NOTHING);
        if !is_ours {
            self.wait_for([RESULT, RESULT]);
            self.pass(RESULT, NOTHING);
        }
        let Some(mut job) = self.take() else { panic!("a worker has panicked") };
        job.run();
        job.shard
    }
}

/// The workers' lanes, one for each shard but the first.
pub struct Crew {
    lanes: Vec<Lane>,
}

impl Crew {
    /// Starts the workers, and stops them after `body`.
    pub fn with(workers: usize, body: impl FnOnce(&Self)) {
        /// Stops the workers even where `body` panics, or the scope would wait for ever.
        struct Stop<'a>(&'a Crew);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.lanes.iter().for_each(|lane| lane.state.store(END, Ordering::Release));
            }
        }
        let crew = Self { lanes: (0..workers).map(|_| Lane::default()).collect() };
        std::thread::scope(|scope| {
            for lane in &crew.lanes {
                scope.spawn(|| lane.work());
            }
            let _stop = Stop(&crew);
            body(&crew);
        });
    }

    /// Runs all shards until `end`, the first one here.
    pub fn run(&self, shards: &mut Vec<Shard>, network: &Arc<Network>, end: u64) {
        for (lane, shard) in self.lanes.iter().zip(shards.drain(1..)) {
            lane.put(Job { shard, network: Some(Arc::clone(network)), end });
            lane.state.store(OFFER, Ordering::Release);
        }
        shards[0].run(network, end);
        shards.extend(self.lanes.iter().map(Lane::result));
    }
}
