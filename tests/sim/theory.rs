//! Crowds against the theory: the last finisher's time over the least that any protocol could need, and how busy the
//! uplinks were meanwhile.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::crowd::{KIB, Role, Shape, World, t_min};
use crate::seed;

/// Longer than any crowd takes.
const PATIENCE: Duration = Duration::from_secs(20_000);
/// Uplinks of a home, in bytes a second.
const UP: u64 = 128 * KIB;
const DOWN: u64 = 4096 * KIB;
/// Small enough for every `cargo test`, with as many pieces as torrents have.
const SMALL: Shape = (8 << 20, 16 << 10);

/// What befalls a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Calm,
    /// The seeder leaves when one copy of everything is out.
    SeederLeaves,
    /// They come one by one within half of the shortest time.
    OneByOne,
}

struct Case {
    name: &'static str,
    leechers: usize,
    /// Uplinks of the leechers, in turn.
    ups: &'static [u64],
    seeder_up: u64,
    fate: Fate,
}

impl Case {
    fn ups(&self) -> Vec<u64> {
        (0..self.leechers).map(|n| self.ups[n % self.ups.len()]).collect()
    }
}

const EQUAL: &[u64] = &[UP];
const MIXED: &[u64] = &[UP / 4, UP, UP, 4 * UP];

fn case(name: &'static str, leechers: usize, ups: &'static [u64], seeder_up: u64, fate: Fate) -> Case {
    Case { name, leechers, ups, seeder_up, fate }
}

/// `many` is the size of the larger crowds.
fn cases(many: usize) -> Vec<Case> {
    use Fate::{Calm, OneByOne, SeederLeaves};
    vec![
        case("alike, one", 1, EQUAL, UP, Calm),
        case("alike, ten", 10, EQUAL, UP, Calm),
        case("alike, many", many, EQUAL, UP, Calm),
        case("mixed uplinks, many", many, MIXED, UP, Calm),
        case("fast seeder, ten", 10, EQUAL, 2 * UP, Calm),
        case("one by one, ten", 10, EQUAL, UP, OneByOne),
        case("the seeder leaves, ten", 10, EQUAL, UP, SeederLeaves),
    ]
}

struct Measured {
    ratio: f64,
    line: String,
}

fn measure(case: &Case, shape: Shape, seed: u64) -> Measured {
    let mut world = World::new(seed, 0.0, shape);
    let ups = case.ups();
    world.add(Role::Seeder, case.seeder_up, DOWN);
    for up in &ups {
        world.add(Role::Leecher, *up, DOWN);
    }
    let best = t_min(shape.0, case.seeder_up, &ups, DOWN);
    match case.fate {
        Fate::OneByOne => world.introduce_over(Duration::from_secs_f64(best / 2.0)),
        Fate::Calm | Fate::SeederLeaves => world.introduce(),
    }
    if case.fate == Fate::SeederLeaves {
        let count = shape.0.div_ceil(shape.1);
        world.run(PATIENCE, |w| {
            let all: BTreeSet<u32> = w.leechers().flat_map(|n| w.peers[n].verified.iter().copied()).collect();
            all.len() == count
        });
        world.leave(0);
    }
    world.run(PATIENCE, |w| w.all_done());
    let done: Vec<f64> =
        world.leechers().filter_map(|n| world.peers[n].done).map(|d| d.as_secs_f64()).collect();
    let (first, last) =
        (done.iter().copied().fold(f64::MAX, f64::min), done.iter().copied().fold(0.0, f64::max));
    let sent = |n: usize| world.stats(n).uploaded as f64;
    let busy = (1..=ups.len()).map(sent).sum::<f64>() / ups.iter().sum::<u64>() as f64 / last;
    let wasted = world.leechers().map(|n| world.stats(n).wasted as f64).sum::<f64>()
        / shape.0 as f64
        / ups.len() as f64;
    let line = format!(
        "{:24}{best:8.1}{first:8.1}{last:8.1}{:8.2}{:10.2}{:10.1}{:10.1}",
        case.name,
        last / best,
        sent(0) / shape.0 as f64,
        100.0 * busy,
        100.0 * wasted
    );
    println!("{line}");
    Measured { ratio: last / best, line }
}

const COLUMNS: &str =
    "                        T_min s first s  last s  T/T_min    copies    busy %  wasted %";

/// How near a crowd comes to `max(F/us, F/dmin, N·F/(us+Σui))`.
#[test]
fn a_crowd_comes_near_the_shortest_time() {
    let seed = seed();
    let mut text = format!("{COLUMNS}\n");
    for case in cases(25) {
        let measured = measure(&case, SMALL, seed);
        let _ = writeln!(text, "{}", measured.line);
        assert!(measured.ratio <= 1.6, "{}: {:.2}", case.name, measured.ratio);
    }
    if seed == 1 {
        insta::assert_snapshot!(text);
    }
}

/// The same with a torrent of a size that people share.
#[test]
#[ignore = "minutes; run it optimized: cargo test --release --test sim -- --ignored --nocapture big_crowds"]
fn big_crowds_come_nearer() {
    println!("{COLUMNS}");
    for case in cases(50) {
        let ratio = measure(&case, (64 << 20, 64 << 10), seed()).ratio;
        assert!(case.name != "alike, many" || ratio <= 1.10, "{}: {ratio:.2}", case.name);
    }
}

/// Fifty who come at once must not drown a home uplink in requests for the same few blocks of metadata.
#[test]
fn a_flash_crowd_has_the_metadata_soon() {
    let mut world = World::new(seed(), 0.0, SMALL);
    world.add(Role::Seeder, UP, DOWN);
    for _ in 0..50 {
        world.add(Role::Leecher, UP, DOWN);
    }
    world.introduce();
    world.run(PATIENCE, |w| w.leechers().all(|n| w.peers[n].info.is_some()));
    assert!(world.elapsed() <= Duration::from_secs(15), "{:?}", world.elapsed());
}
