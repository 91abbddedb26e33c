//! The main case of a private network against the theory: one image for all machines of a fleet.

use crate::crowd::fleet::Fleet;
use crate::seed;

/// Bytes a second of a megabit a second.
const MBIT: u64 = 1_000_000 / 8;
/// As the machines of the fleet's bench have it.
const IMAGE: (usize, usize) = (64 << 20, 64 << 10);
/// The last machine's time, in times of the shortest possible.
const GOAL: f64 = 1.25;

fn last(machines: usize, mbit: u64, seed: u64) -> f64 {
    Fleet { machines, link: mbit * MBIT, shape: IMAGE, known: None, tick: None }.distribute(seed).last
}

#[test]
fn the_last_machine_of_a_small_fleet_is_near_the_bound() {
    let seed = seed();
    for machines in [2, 5, 10, 20] {
        let last = last(machines, 40, seed);
        assert!(last <= GOAL, "{machines}: {last:.2}");
    }
}

#[test]
fn the_last_of_forty_machines_is_near_the_bound() {
    let last = last(40, 40, seed());
    assert!(last <= GOAL, "{last:.2}");
}

#[test]
#[ignore = "minutes; run it optimized: cargo test --release --test sim -- --ignored --nocapture fleets"]
fn fleets_on_other_links_are_near_the_bound() {
    let seed = seed();
    for mbit in [20, 50] {
        for machines in [2, 5, 10, 20, 40] {
            let last = last(machines, mbit, seed);
            assert!(last <= GOAL, "{machines} with {mbit} Mbit/s: {last:.2}");
        }
    }
}
