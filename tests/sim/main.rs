//! The world in a box: machines in virtual time, from a seed that is printed and can be replayed with
//! `SIM_SEED`.

mod crowd;
mod dht;
mod faults;
mod fleet;
mod in_order;
mod lan;
mod liars;
mod million;
mod pipeline;
mod private;
mod swarm;
mod theory;
mod world;

/// The seed of this run, printed so that a failure can be replayed.
fn seed() -> u64 {
    let seed = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("SIM_SEED={seed}");
    seed
}
