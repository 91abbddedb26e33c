//! Searches in a network of a million nodes, half of them dead, by the rules of three generations.

mod world;

use std::fmt::Write as _;
use std::time::Duration;

use dhtget::dht::{Config, Event, LookupRules};
use dhtget::id::Id160;

use self::world::{Run, World, WorldOptions};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Nodes under test, one after the other.
    runs: u64,
    /// Searches of each.
    searches: usize,
    /// Uptime before the first.
    warm: Duration,
}

const PAUSE: Duration = Duration::from_secs(20);

/// One search.
#[derive(Clone, Debug, Default)]
struct Outcome {
    first_peer: Option<Duration>,
    over: Duration,
    queries: u32,
    asked: u32,
    answered: u32,
    hops: u32,
    on_true: usize,
}

fn search(run: &mut Run<'_>) -> Outcome {
    let target = Id160::random(&mut run.rng);
    let started = run.elapsed();
    run.stored.insert(target, run.world.true_closest(&target, started));
    let wanted = run.node.announce(run.now(), target, 7000).expect("not full");
    let mut outcome = Outcome::default();
    run.run_until(run.now() + Duration::from_secs(60), |now, event| match event {
        Event::Peers { lookup, .. } if *lookup == wanted => {
            outcome.first_peer.get_or_insert(now - started);
            false
        }
        Event::Done { lookup, stats, .. } if *lookup == wanted => {
            (outcome.asked, outcome.answered, outcome.hops) = (stats.asked, stats.answered, stats.hops);
            true
        }
        _ => false,
    });
    let asked = run.asked.remove(&target).unwrap_or_default();
    outcome.queries = asked.queries;
    outcome.over = asked.announced_at.map_or(run.elapsed(), |at| at) - started;
    let ideal = run.stored.remove(&target).unwrap_or_default();
    outcome.on_true = ideal.iter().filter(|n| asked.holders.contains(n)).count();
    outcome
}

/// A node that has been up for a while, starting from one address.
fn warm<'w>(world: &'w World, config: &Config, own: u64, uptime: Duration) -> Run<'w> {
    let mut run = Run::new(world, config.clone(), own);
    let first = world.random_living(&mut run.rng, Duration::ZERO);
    run.node.add_bootstrap(run.now(), [world.addr(first)]);
    run.let_strangers_ask(Duration::from_secs(2));
    run.run_until(run.now() + uptime, |_, _| false);
    run
}

fn percentile<T: Ord + Copy>(values: &mut [T], percent: usize) -> Option<T> {
    values.sort_unstable();
    values.get(((values.len() * percent).div_ceil(100)).saturating_sub(1)).copied()
}

/// What many searches came to.
#[derive(Debug)]
struct Summary {
    first: [Duration; 3],
    over: [Duration; 3],
    queries: f64,
    answered: f64,
    hops: f64,
    found: f64,
    on_true: f64,
    table: f64,
    live: f64,
}

fn measure(world: &World, config: &Config, effort: Effort) -> Summary {
    let mut all = Vec::new();
    let (mut table, mut live) = (0, 0);
    for own in 0..effort.runs {
        let mut run = warm(world, config, own, effort.warm);
        table += run.node.table_sizes().0;
        let known = run.node.snapshot(run.now()).nodes_v4;
        live += known.iter().filter(|c| world.lives(c.addr, run.elapsed())).count();
        for _ in 0..effort.searches {
            all.push(search(&mut run));
            run.run_until(run.now() + PAUSE, |_, _| false);
        }
    }
    summarize(&all, effort, table, live)
}

fn summarize(all: &[Outcome], effort: Effort, table: usize, live: usize) -> Summary {
    let spread = |mut times: Vec<Duration>| {
        [50, 90, 99].map(|percent| percentile(&mut times, percent).unwrap_or_default())
    };
    let mean = |of: fn(&Outcome) -> u32| all.iter().map(of).sum::<u32>() as f64 / all.len() as f64;
    let first: Vec<_> = all.iter().filter_map(|o| o.first_peer).collect();
    Summary {
        found: first.len() as f64 / all.len() as f64,
        first: spread(first),
        over: spread(all.iter().map(|o| o.over).collect()),
        queries: mean(|o| o.queries),
        answered: mean(|o| o.answered),
        hops: mean(|o| o.hops),
        on_true: mean(|o| o.on_true as u32) / 8.0,
        table: table as f64 / effort.runs as f64,
        live: live as f64 / table.max(1) as f64,
    }
}

fn row(name: &str, s: &Summary) -> String {
    let ms = |t: &Duration| t.as_millis();
    let mut line = format!("{name:<34}");
    for t in s.first.iter().chain(&s.over) {
        let _ = write!(line, "{:>6}", ms(t));
    }
    let _ = write!(
        line,
        "{:>7.1}{:>6.1}{:>5.1}{:>8.2}{:>8.2}{:>7.0}{:>6.2}",
        s.queries,
        s.answered,
        s.hops,
        s.found * 100.0,
        s.on_true * 100.0,
        s.table,
        s.live
    );
    line
}

const HEAD: &str = "                                    first peer, ms     complete, ms   quer. answ. hops  found % true 8 %  table  live";

#[test]
fn million() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(or);
    let effort = Effort {
        runs: number("RUNS", 2),
        searches: number("SEARCHES", 20) as usize,
        warm: Duration::from_secs(number("WARM", 7200)),
    };
    let begun = std::time::Instant::now();
    let world = World::new(WorldOptions::default());
    println!("world {:?}", begun.elapsed());
    let config = Config { ipv6: false, ..Config::default() };
    println!("{HEAD}");
    let ours = LookupRules::default();
    let rules = [("three, 2 s", LookupRules::CLASSIC), ("five, 1 s", LookupRules::FIVE), ("ours", ours)];
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, lookup) in rules.iter().filter(|(name, _)| name.contains(&only)) {
        let config = Config { lookup: *lookup, ..config.clone() };
        println!("{}", row(name, &measure(&world, &config, effort)));
    }
    println!("{:?}", begun.elapsed());
}
