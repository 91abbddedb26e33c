//! How soon and how far the pipeline of one leecher grows, over links with a rate and a round trip.

use std::time::Duration;

use crate::crowd::links::LinkOptions;
use crate::crowd::{KIB, Role, World};
use crate::seed;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(600);
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// Links of the same delay for everyone, whose windows are no bottleneck.
fn links() -> LinkOptions {
    let delay = (ROUND_TRIP / 2, ROUND_TRIP / 2);
    LinkOptions { seed: seed(), delay, loss: 0.0, window: 64 << 20 }
}

/// Bytes that a leecher has got, each tenth of a second.
fn growth(world: &mut World, leecher: usize) -> Vec<u64> {
    let mut got = Vec::new();
    while !world.all_done() {
        let next = world.elapsed() + Duration::from_millis(100);
        world.run(PATIENCE, |w| w.elapsed() >= next || w.all_done());
        got.push(world.stats(leecher).downloaded);
    }
    got
}

/// 25 MiB are under way then: 1,600 blocks, of the 2,000 that both sides queue.
#[test]
fn one_peer_gives_250_mib_a_second_over_a_tenth_of_a_second() {
    const LINK: u64 = 250 * MIB;
    let mut world = World::over(links(), (512 << 20, 1 << 20));
    world.add(Role::Seeder, LINK, LINK);
    let leecher = world.add(Role::Leecher, LINK, LINK);
    world.introduce();
    let got = growth(&mut world, leecher);
    let tenth = LINK / 10;
    let first = got.iter().position(|&b| b > 0).expect("something came");
    let full = got.windows(2).position(|w| w[1] - w[0] >= tenth * 9 / 10).expect("never at full rate");
    let (from, to) = (full + 1, got.len() - 2);
    let share = (got[to] - got[from]) as f64 / ((to - from) as u64 * tenth) as f64;
    println!(
        "full after {} ms from the first bytes; {share:.3} of the link from then on",
        (full - first) * 100
    );
    assert!(share >= 0.9, "{share:.3} of the link");
    // From 16 blocks to 1,600 by doubling takes seven round trips.
    assert!(full - first <= 10, "slow start took {} round trips", full - first);
    assert!(to - from >= 10, "measured over {} tenths of a second only", to - from);
}

/// 64 MiB through 100 Mbit/s, from twelve who send 20 Mbit/s each.
#[test]
fn a_dozen_slow_sharers_fill_a_fast_line() {
    const DOWN: u64 = 100_000_000 / 8;
    const UP: u64 = 20_000_000 / 8;
    let mut world = World::over(links(), (64 << 20, 256 << 10));
    for _ in 0..12 {
        world.add(Role::Seeder, UP, DOWN);
    }
    let leecher = world.add(Role::Leecher, 1024 * KIB, DOWN);
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    let best = (64 * MIB) as f64 / DOWN as f64;
    let took = world.elapsed().as_secs_f64();
    let wasted = world.stats(leecher).wasted as f64 / (64 * MIB) as f64;
    println!("{took:.2} s, {:.3} of the link's {best:.2} s, {:.2} % wasted", took / best, 100.0 * wasted);
    assert!(took / best <= 1.25, "{:.3} of the link's time", took / best);
    assert!(wasted <= 0.02, "{wasted:.3} wasted");
}
