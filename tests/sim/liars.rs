//! One honest peer among fifty who lie or fall silent: how much longer a fetch takes, in virtual time.

use std::time::Duration;

use dhtget::swarm::CloseReason;

use crate::crowd::links::LinkOptions;
use crate::crowd::{KIB, Role, World};
use crate::seed;

const PATIENCE: Duration = Duration::from_secs(1200);
/// As many, and as many bytes, as in `tests/liars/` over real sockets.
const LIARS: usize = 50;
const SHAPE: (usize, usize) = ((8 << 20) + 4321, 64 << 10);
const RATE: u64 = 4096 * KIB;

/// How long one leecher takes, and what it wastes.
fn fetch(seed: u64, liars: impl Iterator<Item = Role>) -> (Duration, u64) {
    let delay = (Duration::from_micros(100), Duration::from_millis(2));
    let mut world = World::over(LinkOptions { seed, delay, loss: 0.0, window: 4 << 20 }, SHAPE);
    let leecher = world.add(Role::Leecher, RATE, 100 * RATE);
    for liar in liars {
        world.add(liar, RATE, 100 * RATE);
    }
    let honest = world.add(Role::Seeder, RATE, 100 * RATE);
    // For its sake the honest peer is asked for what it names first.
    world.add(Role::FreeRider, RATE, 4 * KIB);
    world.introduce();
    world.run(PATIENCE, |w| w.peers[leecher].done.is_some());
    let addr = world.peers[honest].addr;
    let banned = |(who, why, _): &(_, CloseReason, _)| *who == addr && why.is_for_ever();
    assert!(!world.peers[leecher].closed.iter().any(banned), "the honest peer was banned");
    (world.elapsed(), world.stats(leecher).wasted)
}

/// Of each mixture, some seeds: the last pieces must not stay with one liar after the other, who are all asked before the
/// honest peer, since they are known longer.
#[test]
fn a_fetch_among_fifty_liars_takes_at_most_twice_as_long() {
    use Role::{Fading, Liar, LiarNowAndThen, Silent};
    let first = seed();
    let (alone, _) = fetch(first, std::iter::empty());
    let mut worst = 0.0_f64;
    for kinds in [
        &[Liar, LiarNowAndThen, Silent, Silent][..],
        &[LiarNowAndThen, Silent],
        &[Fading],
        &[Fading, Silent],
        &[Fading, LiarNowAndThen],
    ] {
        for seed in first..first + 3 {
            let (among, wasted) = fetch(seed, kinds.iter().copied().cycle().take(LIARS));
            let ratio = among.as_secs_f64() / alone.as_secs_f64();
            println!("{kinds:?}, seed {seed}: {ratio:.2} x {alone:.2?}, {} KiB wasted", wasted >> 10);
            worst = worst.max(ratio);
        }
    }
    assert!(worst <= 2.0, "{worst:.2}");
}
