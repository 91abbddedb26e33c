//! Pieces in order: how soon the beginning is there, and what that costs.

use std::time::Duration;

use dhtget::swarm::{Sequence, Wanted};

use crate::crowd::{KIB, Role, Shape, World};
use crate::seed;

const PATIENCE: Duration = Duration::from_secs(2000);
const SHAPE: Shape = (24 << 20, 128 << 10);
/// Sharers of all speeds, in bytes a second.
const UPS: [u64; 8] = [512 * KIB, 256 * KIB, 256 * KIB, 64 * KIB, 64 * KIB, 32 * KIB, 16 * KIB, 8 * KIB];
const DOWN: u64 = 4096 * KIB;

struct Measured {
    /// Seconds until this many eighths of the torrent were here, from the first byte on.
    eighths: [f64; 8],
    wasted: u64,
}

impl Measured {
    fn line(&self) -> String {
        let times: Vec<String> = self.eighths.iter().map(|s| format!("{s:6.1}")).collect();
        format!("{} | wasted {:4} KiB", times.join(" "), self.wasted >> 10)
    }
}

fn measure(sequence: Sequence, seed: u64, falls_silent: bool) -> Measured {
    let mut world = World::new(seed, 0.0, SHAPE);
    let leecher = world.add(Role::Leecher, 64 * KIB, DOWN);
    world.peers[leecher].wanted = Wanted::default().in_sequence(sequence);
    let sharers: Vec<usize> = UPS.iter().map(|up| world.add(Role::Seeder, *up, DOWN)).collect();
    world.introduce();
    let count = SHAPE.0.div_ceil(SHAPE.1) as u32;
    let (mut eighths, mut next, mut at) = ([0.0; 8], 0, 0);
    let mut silent = !falls_silent;
    world.run(PATIENCE, |w| {
        let here = &w.peers[leecher].verified;
        while here.contains(&next) {
            next += 1;
        }
        while at < 8 && next >= count * (at as u32 + 1) / 8 {
            eighths[at] = w.elapsed().as_secs_f64();
            at += 1;
        }
        if !silent && next >= count / 4 {
            silent = true;
            w.vanish(sharers[0]);
        }
        at == 8
    });
    Measured { eighths, wasted: world.stats(leecher).wasted }
}

/// A reader who begins at once never waits long: each eighth is there about when all sharers together could have sent so
/// much, though some of them need minutes for one piece.
#[test]
fn a_download_in_order_can_be_read_while_it_comes() {
    let rate = UPS.iter().sum::<u64>() as f64;
    let best: Vec<f64> = (1..=8).map(|n| SHAPE.0 as f64 * f64::from(n) / 8.0 / rate).collect();
    let ordered = measure(Sequence::InOrder, seed(), false);
    let rarest = measure(Sequence::Rarest, seed(), false);
    println!("shortest  {}", best.iter().map(|s| format!("{s:6.1}")).collect::<Vec<_>>().join(" "));
    println!("in order  {}", ordered.line());
    println!("rarest    {}", rarest.line());
    for (got, best) in ordered.eighths.iter().zip(&best) {
        assert!(*got <= best * 1.35 + 6.0, "{got:.1} s where {best:.1} s are possible");
    }
    assert!(ordered.eighths[0] * 3.0 < rarest.eighths[0]);
    assert!(ordered.wasted <= (SHAPE.0 / 20) as u64, "{} bytes wasted", ordered.wasted);
    // Nobody pays for the order at the end.
    assert!(ordered.eighths[7] <= rarest.eighths[7] * 1.15 + 3.0);
}

/// The fastest sharer, who has the most urgent pieces, falls silent; nobody is told.
#[test]
fn a_reader_waits_little_for_a_sharer_that_falls_silent() {
    let rate = UPS[1..].iter().sum::<u64>() as f64;
    let ordered = measure(Sequence::InOrder, seed(), true);
    println!("in order  {}", ordered.line());
    for (n, pair) in ordered.eighths[1..].windows(2).enumerate() {
        let best = SHAPE.0 as f64 / 8.0 / rate;
        assert!(pair[1] - pair[0] <= best * 2.0 + 10.0, "eighth {}: {:.1} s", n + 3, pair[1] - pair[0]);
    }
    assert!(ordered.wasted <= (SHAPE.0 / 20) as u64, "{} bytes wasted", ordered.wasted);
}

/// A reader who stands still has only so much fetched ahead of him.
#[test]
fn what_nobody_reads_is_not_fetched_far_ahead() {
    let mut world = World::new(seed(), 0.0, SHAPE);
    let leecher = world.add(Role::Leecher, 64 * KIB, DOWN);
    let ahead = 2 << 20;
    world.peers[leecher].wanted = Wanted::default().in_sequence(Sequence::Reader(ahead));
    for up in UPS {
        world.add(Role::Seeder, up, DOWN);
    }
    world.introduce();
    world.run(PATIENCE, |w| w.elapsed() > Duration::from_secs(60));
    let verified = world.stats(leecher).verified;
    assert!(verified >= ahead && verified <= ahead + SHAPE.1 as u64, "{verified} bytes");
    world.consume(leecher, 5 << 20);
    world.run(PATIENCE, |w| w.elapsed() > Duration::from_secs(120));
    let verified = world.stats(leecher).verified;
    assert!(verified >= (7 << 20) && verified <= (7 << 20) + SHAPE.1 as u64, "{verified} bytes");
    world.consume(leecher, SHAPE.0 as u64);
    world.run(PATIENCE, |w| w.all_done());
}
