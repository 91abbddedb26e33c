//! A thousand nodes among people who come and go, and what each fault does to them.
//!
//! Every scenario asserts what must hold, and its figures stand in a table that a reviewer sees change.

use std::time::Duration;

use crate::seed;
use crate::world::{COLUMNS, Churn, Fault, Malice, Options, Row, Tables, Tally, World, side_by_side};

fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// A network in which nothing goes wrong but that people search a lot: more figures in less time.
fn calm(nodes: usize) -> Options {
    Options { seed: seed(), nodes, search_every: Some(minutes(10)), ..Options::default() }
}

/// Lets the network settle, and then counts for a while.
fn observe(options: Options, settle: Duration, count: Duration) -> (World, Tally, Tables) {
    let mut world = World::new(options);
    world.run_for(settle);
    world.take_tally();
    world.run_for(count);
    let (tally, tables) = (world.take_tally(), world.tables());
    (world, tally, tables)
}

/// A table is right for its seed only; another one is looked at, not compared.
fn check(name: &str, rows: &[String]) {
    let table = format!("{COLUMNS}\n{}\n", rows.join("\n"));
    println!("{table}");
    if seed() == 1 {
        insta::assert_snapshot!(name, table);
    }
}

#[test]
fn a_thousand_nodes_with_every_fault_of_a_normal_day() {
    let options = Options { loss: 0.02, nat: 0.3, churn: Some(Churn::default()), ..calm(1000) };
    let (world, tally, tables) = observe(options, minutes(5), minutes(10));
    let row = Row("1,000 nodes, a normal day", &tally, &tables).to_string();
    check("thousand", &[row]);
    assert!(world.networks() > 500);
    assert!(tally.searches > 500 && tally.success() >= 99.0, "{}", tally.success());
    assert!(tables.quality() >= 90.0 && tally.told() > 7.0, "{tables:?}");
}

/// A scenario: at least so many percent of its searches must succeed, and so many of the tables' entries be live,
/// counted after some minutes, for some minutes.
struct Scenario {
    name: &'static str,
    goals: (f64, f64),
    options: Options,
    minutes: (u64, u64),
}

/// What a scenario came to, and what it missed.
fn outcome(scenario: &Scenario) -> (String, Option<String>) {
    let Scenario { name, goals: (success, live), options, minutes: (settle, count) } = scenario;
    let (_, tally, tables) = observe(options.clone(), minutes(*settle), minutes(*count));
    let short = tally.searches < 50 || tally.success() < *success || tables.quality() < *live;
    let missed = short.then(|| format!("{name}: wanted {success} % found and {live} % live"));
    (Row(name, &tally, &tables).to_string(), missed)
}

/// Runs all scenarios, as many at a time as there are cores; each is a world of its own.
fn run_all(scenarios: &[Scenario]) -> (Vec<String>, Vec<String>) {
    let all = side_by_side(scenarios.len(), |at| outcome(&scenarios[at]));
    let (rows, missed): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    (rows, missed.into_iter().flatten().collect())
}

#[test]
fn each_fault_costs_what_the_table_says() {
    let mut all = Vec::new();
    let mut run = |name, goals, options, minutes| all.push(Scenario { name, goals, options, minutes });
    let base = || calm(300);
    let churn = Some(Churn::default());
    let wild = Some(Churn { median: minutes(10), ..Churn::default() });
    let jump = vec![Fault::ClockJump { at: minutes(16), share: 0.3, ahead: minutes(8 * 60) }];
    let parted = vec![Fault::Partition { at: minutes(16), lasts: minutes(5), share: 0.5 }];
    let upgrade = vec![Fault::Upgrade { at: minutes(16), over: minutes(5), down: Duration::from_secs(5) }];
    let death = vec![Fault::Death { at: minutes(16), share: 0.4 }];

    run("nothing goes wrong", (100.0, 100.0), base(), (12, 8));
    run("1 % loss", (99.0, 99.0), Options { loss: 0.01, ..base() }, (12, 8));
    run("10 % loss", (97.0, 99.0), Options { loss: 0.1, ..base() }, (12, 8));
    run("30 % behind a NAT", (98.0, 99.0), Options { nat: 0.3, ..base() }, (12, 8));
    run("70 % behind a NAT", (95.0, 95.0), Options { nat: 0.7, ..base() }, (12, 8));
    run("sessions of 1 h", (99.0, 90.0), Options { churn, ..base() }, (25, 8));
    run("sessions of 10 min", (95.0, 60.0), Options { churn: wild, ..base() }, (25, 8));
    run("clocks jump 8 h, 30 % of hosts", (97.0, 99.0), Options { faults: jump, ..base() }, (12, 8));
    let faults = parted;
    run("two halves for 5 min", (90.0, 95.0), Options { faults: faults.clone(), ..base() }, (16, 5));
    run("and after they met again", (97.0, 95.0), Options { faults, ..base() }, (22, 8));
    let faults = upgrade;
    run("all restart within 5 min", (75.0, 95.0), Options { faults: faults.clone(), ..base() }, (16, 5));
    run("and after that", (99.0, 98.0), Options { faults, ..base() }, (22, 8));
    run("40 % die at once", (95.0, 60.0), Options { faults: death, ..base() }, (16, 8));
    let (rows, missed) = run_all(&all);
    check("faults", &rows);
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_day_of_faults_replays_byte_for_byte() {
    let run = |seed| {
        let faults = vec![
            Fault::Partition { at: minutes(2), lasts: minutes(1), share: 0.5 },
            Fault::ClockJump { at: minutes(3), share: 0.2, ahead: minutes(60) },
            Fault::Upgrade { at: minutes(4), over: minutes(1), down: Duration::from_secs(5) },
        ];
        let churn = Some(Churn { median: minutes(5), ..Churn::default() });
        let options = Options { seed, loss: 0.05, nat: 0.3, churn, faults, ..calm(100) };
        let (world, tally, _) = observe(options, minutes(1), minutes(5));
        (world.trace(), tally.datagrams, tally.bytes)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let run = |threads| {
        let faults = vec![
            Fault::Partition { at: minutes(2), lasts: minutes(1), share: 0.5 },
            Fault::Upgrade { at: minutes(3), over: minutes(1), down: Duration::from_secs(5) },
        ];
        let churn = Some(Churn { median: minutes(5), ..Churn::default() });
        let malice = Some((0.1, Malice::Mixed));
        let options = Options { threads, loss: 0.05, nat: 0.3, churn, faults, malice, ..calm(100) };
        let (world, tally, tables) = observe(options, minutes(1), minutes(4));
        assert!(tally.searches > 20 && tally.lost > 1000 && world.networks() > 50);
        (world.trace(), tally, tables)
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn at_night_fewer_are_up() {
    let churn = Churn { median: minutes(20), away: 3.0, swing: 0.8, ..Churn::default() };
    let options = Options { churn: Some(churn), search_every: None, sharers: 0.0, ..calm(40) };
    let mut world = World::new(options);
    let mut up = |hours: u64| {
        world.run_for(minutes(hours * 60));
        world.up().count()
    };
    // The busy hours are the first half of the day.
    let (day, night) = (up(9), up(12));
    assert!(day as f64 > night as f64 * 1.3, "{day} by day, {night} by night");
}
