//! Months, not minutes: a node that stays up while the others come and go, and what it holds.

use std::time::Duration;

use dhtget::rng::Rng;

use crate::world::{Churn, Fault, Options, World};
use crate::{HEAP, MAX_HELD, alone, seed};

const HOUR: Duration = Duration::from_secs(3600);
/// The node that stays up.
const OBSERVED: u32 = 0;

/// What one day came to.
struct Day {
    held: isize,
    success: f64,
    live: f64,
    stored: usize,
}

/// Lets `nodes` come and go for so many days of `hours`; laptops sleep and the network parts in between.
fn soak(nodes: usize, days: u32, hours: u32) -> (World, Vec<Day>) {
    let span = HOUR * days * hours;
    let faults = vec![
        Fault::ClockJump { at: span / 3, share: 0.2, ahead: HOUR * 8 },
        Fault::Partition { at: span * 2 / 3, lasts: HOUR / 4, share: 0.3 },
    ];
    let mut world = World::new(Options {
        seed: seed(),
        nodes,
        loss: 0.01,
        nat: 0.3,
        churn: Some(Churn::default()),
        search_every: Some(HOUR / 2),
        faults,
        ..Options::default()
    });
    world.weigh_host(OBSERVED, || HEAP.current_usage());
    let mut out = Vec::new();
    let mut rng = Rng::from_u64(seed());
    for day in 0..days {
        let mut held = 0;
        for _ in 0..hours {
            world.run_for(HOUR);
            // Its user looks for things, too.
            let up: Vec<u32> = world.up().collect();
            let sharer = rng.choose(&up).copied().filter(|n| *n != OBSERVED).unwrap_or(1);
            world.search(OBSERVED, sharer);
            held = held.max(world.held());
        }
        let (tally, tables) = (world.take_tally(), world.tables());
        let stored = world.with_node(OBSERVED, |node, now| node.snapshot(now).stored_hashes).unwrap_or(0);
        let d = Day { held, success: tally.success(), live: tables.quality(), stored };
        println!(
            "day {:>2}: {:>7} bytes held, {:>5.1} % found, {:>5.1} % live, {:>4} torrents stored, {} up",
            day + 1,
            d.held,
            d.success,
            d.live,
            d.stored,
            world.up().count()
        );
        out.push(d);
    }
    (world, out)
}

/// After the first days nothing may grow any more, and everything must still work.
fn check(days: &[Day], settle: usize) {
    let (early, late) = days.split_at(settle);
    let before = early.iter().map(|d| d.held).max().unwrap_or(0);
    let after = late.iter().map(|d| d.held).max().unwrap_or(0);
    assert!(before > 10_000 && after < MAX_HELD as isize);
    // A Vec doubles when it is full, once; a leak would go on.
    assert!(after <= before * 3 / 2, "{before} bytes held at first, {after} later");
    assert!(late.iter().all(|d| d.success >= 90.0 && d.live >= 75.0), "searches or tables have decayed");
    let half = late.len() / 2;
    let mean = |days: &[Day]| days.iter().map(|d| d.held).sum::<isize>() / days.len().max(1) as isize;
    let (first, second) = (mean(&late[..half]), mean(&late[half..]));
    assert!(second <= first * 11 / 10, "{first} bytes held in the first half, {second} in the second");
}

#[test]
fn what_a_node_holds_stays_the_same_for_a_day() {
    let _alone = alone();
    let (mut world, days) = soak(30, 8, 3);
    check(&days, 2);
    // The count by parts is what its end sets free, give or take what tests that watch over other processes allocate at that
    // moment.
    let (held, before) = (world.held(), HEAP.current_usage());
    world.go_down(OBSERVED);
    let freed = before.saturating_sub(HEAP.current_usage()) as isize;
    assert!((freed - held).abs() < 16 << 10, "{held} bytes counted, {freed} set free");
}

#[test]
#[ignore = "minutes; run it optimized: cargo test --release --test attacks -- --ignored --nocapture thirty_days"]
fn what_a_node_holds_stays_the_same_for_thirty_days() {
    let _alone = alone();
    let nodes = std::env::var("SOAK_NODES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let (_, days) = soak(nodes, 30, 24);
    check(&days, 3);
}
