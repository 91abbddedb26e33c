//! An image for thousands of machines: real swarm machines in virtual time, all of which start at once, one of which has it.
//!
//! `cargo run --release --example fleet -- [MACHINES [MIB [MBIT]]]`: how many machines, how large an image, over which links.

#[path = "../tests/sim/crowd/mod.rs"]
mod crowd;

use std::time::Duration;

use crowd::fleet::Fleet;

/// As many others as a search of the DHT names.
const KNOWN: usize = 50;
/// Haves and the like come once in this time.
const TICK: Duration = Duration::from_millis(5);
/// A torrent has about so many pieces here, whatever its size.
const PIECES: usize = 256;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<f64>());
    let mut next = |or: f64| match args.next() {
        Some(Ok(number)) => number,
        None => or,
        Some(Err(_)) => {
            eprintln!("three numbers are understood: machines, MiB, Mbit/s");
            std::process::exit(2);
        }
    };
    let (machines, mib, mbit) = (next(1000.0), next(16.0), next(10.0));
    let size = (mib * f64::from(1 << 20)) as usize;
    let piece = (size / PIECES).next_power_of_two().max(16 << 10);
    let link = (mbit * 1e6 / 8.0) as u64;
    let fleet = Fleet {
        machines: machines as usize,
        link,
        shape: (size, piece),
        known: Some(KNOWN),
        tick: Some(TICK),
    };
    let mut told = 0;
    fleet.watch(1, |world| {
        let seconds = world.elapsed().as_secs();
        if seconds > told {
            told = seconds;
            let verified: usize = world.leechers().map(|n| world.peers[n].verified.len()).sum();
            let share =
                verified as f64 / world.leechers().count() as f64 / world.info.layout().count() as f64;
            let done = world.leechers().filter(|&n| world.peers[n].done.is_some()).count();
            eprintln!(
                "after {seconds:3} s of virtual time {:5.1} % is there, {done} machines have it all",
                100.0 * share
            );
        }
    });
}
