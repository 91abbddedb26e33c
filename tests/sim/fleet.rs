//! A fleet of machines with equal links, all of which start at once, and one that has the image: the main case of a private
//! network, against the theory.

use std::time::Duration;

use crate::crowd::links::LinkOptions;
use crate::crowd::{Role, Shape, World, t_min};
use crate::seed;

const PATIENCE: Duration = Duration::from_secs(2000);
/// Bytes a second of 40 Mbit/s, both ways.
const LINK: u64 = 40_000_000 / 8;

/// One image to `machines` over a switch; median and last, in times of the shortest possible.
fn distribute(seed: u64, machines: usize, link: u64, shape: Shape) -> (f64, f64) {
    // A round trip of one to two milliseconds.
    let delay = (Duration::from_micros(500), Duration::from_millis(1));
    let mut world = World::over(LinkOptions { seed, delay, loss: 0.0, window: 1 << 20 }, shape);
    world.add(Role::Seeder, link, link);
    for _ in 0..machines {
        world.add(Role::Leecher, link, link);
    }
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    let best = t_min(shape.0, link, &vec![link; machines], link, machines);
    let mut times: Vec<f64> =
        world.leechers().map(|n| world.peers[n].done.map_or(f64::MAX, |d| d.as_secs_f64())).collect();
    times.sort_unstable_by(f64::total_cmp);
    let (median, last) = (times[machines / 2], times[machines - 1]);
    let sent = world.stats(0).uploaded as f64 / shape.0 as f64;
    let wasted = world.leechers().map(|n| world.stats(n).wasted as f64).sum::<f64>()
        / shape.0 as f64
        / machines as f64;
    println!(
        "{machines:4} machines, {:3} Mbit/s: bound {best:6.2} s, median {:.2} last {:.2} of it, {sent:.2} copies from the sharer, {:.1} % wasted",
        link * 8 / 1_000_000,
        median / best,
        last / best,
        100.0 * wasted
    );
    (median / best, last / best)
}

/// 64 MiB, as the machines of the fleet's bench have it.
#[test]
fn the_last_machine_of_a_fleet_is_near_the_bound() {
    let seed = seed();
    let mut worst = 0.0_f64;
    for machines in [2, 5, 10, 20, 40] {
        let (_, last) = distribute(seed, machines, LINK, (64 << 20, 64 << 10));
        worst = worst.max(last);
    }
    assert!(worst <= 1.25, "{worst:.2}");
}
