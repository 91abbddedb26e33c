//! A fleet: machines with equal links, all of which start at once, and one that has the image.

use std::time::Duration;

use super::links::LinkOptions;
use super::{Role, Shape, World, t_min};

const PATIENCE: Duration = Duration::from_secs(20_000);
/// How often it is looked at.
const STEP: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    pub machines: usize,
    /// Bytes a second, both ways.
    pub link: u64,
    pub shape: Shape,
    /// How many others each machine is told of at first; all where none is said.
    pub known: Option<usize>,
    /// Short messages come once in this time, for the sake of thousands.
    pub tick: Option<Duration>,
}

/// In times of the shortest possible.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The shortest possible, in seconds.
    pub bound: f64,
    pub median: f64,
    pub last: f64,
}

impl Fleet {
    /// Brings the image to all of them, over a switch; prints and returns how long that took.
    pub fn distribute(&self, seed: u64) -> Arrival {
        self.watch(seed, |_| ())
    }

    /// The same one, looked at on the way.
    pub fn watch(&self, seed: u64, mut look: impl FnMut(&World)) -> Arrival {
        // A round trip of one to two milliseconds.
        let delay = (Duration::from_micros(500), Duration::from_millis(1));
        let options = LinkOptions { seed, delay, loss: 0.0, window: 1 << 20 };
        let mut world = World::over(options, self.shape);
        self.tick.into_iter().for_each(|length| world.tick(length));
        world.add(Role::Seeder, self.link, self.link);
        for _ in 0..self.machines {
            world.add(Role::Leecher, self.link, self.link);
        }
        match self.known {
            Some(known) => world.introduce_some(known),
            None => world.introduce(),
        }
        while !world.all_done() {
            let next = world.elapsed() + STEP;
            world.run(PATIENCE, |w| w.elapsed() >= next || w.is_quiet());
            look(&world);
        }
        self.arrival(&world)
    }

    fn arrival(&self, world: &World) -> Arrival {
        let bound = t_min(self.shape.0, self.link, &vec![self.link; self.machines], self.link, self.machines);
        let done = world.leechers().filter_map(|n| world.peers[n].done);
        let mut times: Vec<f64> = done.map(|d| d.as_secs_f64() / bound).collect();
        times.sort_unstable_by(f64::total_cmp);
        let (size, count) = (self.shape.0 as f64, self.machines as f64);
        let wasted = world.leechers().map(|n| world.stats(n).wasted as f64).sum::<f64>();
        let arrival = Arrival { bound, median: times[times.len() / 2], last: times[times.len() - 1] };
        println!(
            "{:5} machines, {} MiB, {:4.1} Mbit/s: bound {bound:6.2} s, median {:.2} and last {:.2} of it, {:.2} copies from the sharer, {:.1} % wasted",
            self.machines,
            self.shape.0 >> 20,
            self.link as f64 * 8.0 / 1e6,
            arrival.median,
            arrival.last,
            world.stats(0).uploaded as f64 / size,
            100.0 * wasted / size / count
        );
        arrival
    }
}
