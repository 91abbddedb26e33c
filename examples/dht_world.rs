//! A DHT of thousands of real nodes in virtual time, with people who come and go.
//!
//! `cargo run --release --example dht_world -- --nodes 10000 --hours 24 --seed 1`. A line for each hour says how
//! searches went, what the nodes sent, how true their tables are and what one of them weighs; the last
//! one sums up. The same arguments print the same figures, and the same fingerprint of every datagram.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;

#[path = "../tests/sim/world/mod.rs"]
mod world;

use world::{COLUMNS, Churn, Fault, Malice, Options, Row, Tables, Tally, World};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const USAGE: &str =
    "usage: dht_world [--nodes N] [--hours H] [--minutes M] [--seed N] [--loss SHARE] [--nat SHARE]
                 [--malicious SHARE] [--still] [--faults] [--search-every SECONDS]
                 [--threads N]
  --still   no comings and goings        --faults  also a partition, sleeping laptops and a rolling upgrade";

struct Arguments {
    options: Options,
    time: Duration,
    every: Duration,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let churn = Some(Churn::default());
    let mut options = Options { threads, nodes: 1000, loss: 0.01, nat: 0.3, churn, ..Options::default() };
    let (mut time, mut faults) = (Duration::from_secs(3600), false);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--still" => options.churn = None,
            "--faults" => faults = true,
            _ => {
                let value = args.next().ok_or_else(|| format!("{flag} wants a value"))?;
                let number: f64 = value.parse().map_err(|_| format!("{flag} {value}: not a number"))?;
                match flag.as_str() {
                    "--nodes" => options.nodes = (number as usize).max(4),
                    "--hours" => time = Duration::from_secs_f64(number * 3600.0),
                    "--minutes" => time = Duration::from_secs_f64(number * 60.0),
                    "--threads" => options.threads = (number as usize).max(1),
                    "--seed" => options.seed = number as u64,
                    "--loss" => options.loss = number,
                    "--nat" => options.nat = number,
                    "--malicious" => options.malice = Some((number, Malice::Mixed)),
                    "--search-every" => options.search_every = Some(Duration::from_secs_f64(number)),
                    _ => return Err(format!("{flag}: unknown")),
                }
            }
        }
    }
    if faults {
        options.faults = vec![
            Fault::Partition { at: time / 4, lasts: time / 24, share: 0.5 },
            Fault::ClockJump { at: time / 2, share: 0.2, ahead: Duration::from_secs(8 * 3600) },
            Fault::Upgrade { at: time * 3 / 4, over: time / 12, down: Duration::from_secs(5) },
        ];
    }
    let every = Duration::from_secs(3600).min(time / 4);
    Ok(Arguments { options, time, every })
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) => run(arguments),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(arguments: Arguments) {
    let Arguments { options, time, every } = arguments;
    println!("{} nodes, {:?} of virtual time, seed {}", options.nodes, time, options.seed);
    println!("{COLUMNS}");
    let (began, before) = (Instant::now(), HEAP.current_usage());
    let mut world = World::new(options);
    let mut all = Tally::default();
    while world.elapsed() < time {
        world.run_for(every.min(time - world.elapsed()));
        let tally = world.take_tally();
        let tables = world.tables();
        let name = format!(
            "{:.1} h, {} up, {} s",
            world.elapsed().as_secs_f64() / 3600.0,
            world.up().count(),
            began.elapsed().as_secs()
        );
        println!("{}", Row(&name, &tally, &tables));
        all.add(tally);
    }
    sum_up(&world, &all, before, began.elapsed());
}

fn sum_up(world: &World, all: &Tally, before: usize, took: Duration) {
    let tables: Tables = world.tables();
    println!("{}", Row("in all", all, &tables));
    let up = world.up().count();
    let held = HEAP.current_usage().saturating_sub(before);
    println!(
        "tables hold {:.0} on average, {} at least; {:.1} % of the entries are up, {:.1} % are up and behind a NAT",
        tables.mean(),
        tables.smallest,
        tables.quality(),
        100.0 * tables.natted as f64 / tables.entries.max(1) as f64,
    );
    println!(
        "{:.1} of 8 nodes took an announce; {} datagrams in {} networks",
        all.told(),
        all.datagrams,
        world.networks()
    );
    println!(
        "{} bytes a node with its share of the network, {:.2} GiB at the peak; {:.0} s, {:.0} datagrams a second",
        held / up.max(1),
        HEAP.peak_usage() as f64 / f64::from(1 << 30),
        took.as_secs_f64(),
        all.datagrams as f64 / took.as_secs_f64(),
    );
    println!("trace {:016x}", world.trace());
}
