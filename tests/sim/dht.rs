//! DHT nodes in virtual time: small networks that start all at once, and everyone finds everyone.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::dht::Network;
use dhtget::id::Id160;

use crate::seed;
use crate::world::{Fault, Options, World};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `count` nodes that know one, start at the same moment, and do nothing of their own accord.
fn still(count: usize, network: Network) -> Options {
    Options {
        seed: seed(),
        nodes: count,
        routers: 1,
        network,
        arrival: Duration::ZERO,
        sharers: 0.0,
        search_every: None,
        ..Options::default()
    }
}

/// What a run of many announces and searches came to.
struct Outcome {
    found: u64,
    searches: u64,
    hops: f64,
    asked: f64,
    median_ms: u32,
    trace: u64,
}

/// `count` nodes join at once; a fifth of them dies; the others announce, and then look for each other.
fn announce_and_find(count: usize, loss: f64, dead: f64) -> Outcome {
    let faults = vec![Fault::Death { at: secs(20), share: dead }];
    let mut world = World::new(Options { loss, faults, ..still(count, Network::Public) });
    world.run_for(secs(21));
    let alive: Vec<_> = world.up().collect();
    for &n in alive.iter().step_by(4) {
        world.announce(n);
    }
    world.run_for(secs(20));
    let tables = world.tables();
    println!("announced to {:.1} on average, smallest table {}", world.tally().told(), tables.smallest);
    let (sharers, seekers) = (alive.iter().step_by(4), alive.iter().skip(1).step_by(4));
    for (sharer, seeker) in sharers.zip(seekers) {
        world.search(*seeker, *sharer);
    }
    world.run_for(secs(20));
    let t = world.take_tally();
    Outcome {
        found: t.found,
        searches: t.searches,
        hops: t.hops(),
        asked: t.asked(),
        median_ms: t.total_ms(50),
        trace: world.trace(),
    }
}

#[test]
fn two_hundred_nodes_find_each_other_despite_loss_and_death() {
    let o = announce_and_find(200, 0.05, 0.2);
    println!(
        "{} of {} found; {:.1} hops, {:.1} asked, median {} ms to the end",
        o.found, o.searches, o.hops, o.asked, o.median_ms
    );
    assert!(o.searches >= 35 && o.found == o.searches);
    assert!(o.asked < 40.0 && o.median_ms < 2000);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (a, b) = (announce_and_find(60, 0.05, 0.2), announce_and_find(60, 0.05, 0.2));
    assert_eq!(a.trace, b.trace);
}

#[test]
fn tiny_networks_work() {
    for size in [2, 3, 5, 7] {
        let mut world = World::new(still(size, Network::Local));
        world.run_for(secs(3));
        (0..size as u32).for_each(|n| world.announce(n));
        world.run_for(secs(5));
        for sharer in 0..size as u32 {
            for seeker in (0..size as u32).filter(|&s| s != sharer) {
                world.search(seeker, sharer);
                world.run_for(secs(1));
                let t = world.take_tally();
                assert_eq!((t.searches, t.found), (1, 1), "{seeker} of {size}: {sharer}");
            }
        }
    }
}

#[test]
fn a_cold_network_serves_within_seconds() {
    let mut world = World::new(still(100, Network::Local));
    world.run_for(secs(4));
    println!("smallest table {}, {} datagrams", world.tables().smallest, world.tally().datagrams);
    (0..50).for_each(|n| world.announce(n));
    world.run_for(secs(2));
    (0..50).for_each(|n| world.search(n + 50, n));
    world.run_for(secs(2));
    let t = world.take_tally();
    assert_eq!((t.searches, t.found), (50, 50));
}

#[test]
fn a_search_of_ones_own_tells_its_peers_and_its_end() {
    let mut world = World::new(still(30, Network::Public));
    world.run_for(secs(10));
    let hash = Id160([9; 20]);
    world.with_node(3, |node, now| node.announce(now, hash, 7777));
    world.run_for(secs(5));
    let lookup = world.with_node(4, |node, now| node.get_peers(now, hash)).expect("is up").expect("not full");
    world.run_for(secs(5));
    let peer = SocketAddr::new(world.host(3).addr().ip(), 7777);
    assert_eq!(world.found(4, lookup), [peer]);
    assert_eq!(world.done(4, lookup).map(|(stats, _)| stats.peers), Some(1));
}
