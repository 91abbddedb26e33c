//! Networks in which a part of the nodes lies, or a cloud of them sits round one torrent.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::id::Id160;
use dhtget::rng::Rng;

use crate::world::{COLUMNS, Malice, Options, Row, World};
use crate::{HEAP, MAX_HELD, alone, seed};

fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

fn network(malice: Option<(f64, Malice)>) -> Options {
    Options {
        seed: seed(),
        nodes: 400,
        search_every: Some(minutes(6)),
        loss: 0.01,
        malice,
        ..Options::default()
    }
}

/// A host in the middle of it whose memory is weighed.
const OBSERVED: u32 = 0;

#[test]
fn honest_searches_succeed_with_a_fifth_of_all_nodes_malicious() {
    let _alone = alone();
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    let mut run = |name: &str, malice: Option<(f64, Malice)>| {
        let mut world = World::new(network(malice));
        world.weigh_host(OBSERVED, || HEAP.current_usage());
        world.run_for(minutes(6));
        world.take_tally();
        let mut peak = 0;
        for _ in 0..6 {
            world.run_for(minutes(1));
            peak = peak.max(world.held());
        }
        let (tally, tables) = (world.take_tally(), world.tables());
        let row = Row(name, &tally, &tables).to_string();
        println!("{row}  {peak}");
        if tally.searches < 100 || tally.success() < 95.0 || peak > MAX_HELD as isize {
            missed.push(row.clone());
        }
        rows.push(row);
    };
    run("all honest", None);
    for (name, kind) in [
        ("20 % name only each other", Malice::Collude),
        ("20 % take any id that is wanted", Malice::Invent),
        ("20 % name nodes that do not exist", Malice::Phantom),
        ("20 % swallow queries", Malice::Swallow),
        ("20 % malicious, mixed", Malice::Mixed),
    ] {
        run(name, Some((0.2, kind)));
    }
    crate::check("malicious", COLUMNS, &rows);
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Ids that a cloud of nodes gives itself.
#[derive(Clone, Copy)]
enum Ids {
    /// As near to the target as bits say, whatever the address.
    MadeUp(usize),
    /// The nearest of those that the address permits (BEP 42).
    Permitted,
}

impl Ids {
    fn draw(self, target: Id160, addr: SocketAddr, rng: &mut Rng) -> Id160 {
        match self {
            Ids::MadeUp(bits) => target.random_with_prefix(bits, rng),
            // Eight choices; enough draws to see each.
            Ids::Permitted => (0..64)
                .map(|_| Id160::random_for(addr.ip(), rng))
                .min_by_key(|id| id.distance(&target))
                .unwrap_or(target),
        }
    }
}

/// 256 nodes next to one info-hash, each at an address of its own in as many networks as said.
fn cloud(name: &str, (ids, malice): (Ids, Malice), address: fn(u8) -> [u8; 4]) -> (f64, String) {
    let mut world = World::new(Options { search_every: None, ..network(None) });
    world.options.malice = Some((0.0, malice));
    world.weigh_host(OBSERVED, || HEAP.current_usage());
    let mut peak = 0;
    world.run_for(minutes(4));
    let hash = Id160([0x5A; 20]);
    let mut rng = Rng::from_u64(seed());
    for n in 0..=255u8 {
        let addr = SocketAddr::from((address(n), 6881));
        world.add_named(addr, ids.draw(hash, addr, &mut rng), true);
    }
    world.run_for(minutes(5));
    world.take_tally();
    // Twenty honest hosts share it; others look for each of them.
    let honest: Vec<u32> = world.up().filter(|n| !world.hosts[*n as usize].is_malicious).collect();
    for sharer in &honest[10..30] {
        world.announce_as(*sharer, hash);
    }
    world.run_for(minutes(1));
    for (n, seeker) in honest[40..240].iter().enumerate() {
        let sharer = honest[10 + n % 20];
        let peer = SocketAddr::new(world.hosts[sharer as usize].addr().ip(), crate::world::PEER_PORT);
        world.search_for(*seeker, hash, peer);
        world.run_for(Duration::from_secs(1));
        peak = peak.max(world.held());
    }
    assert!(peak > 10_000 && peak < MAX_HELD as isize, "{name}: {peak} bytes held");
    world.run_for(minutes(1));
    let (tally, tables) = (world.take_tally(), world.tables());
    (tally.success(), Row(name, &tally, &tables).to_string())
}

#[test]
fn a_cloud_of_nodes_round_one_torrent_hides_it_from_few() {
    let _alone = alone();
    let mut rows = Vec::new();
    let mut missed = Vec::new();
    // Bound ids cannot be had next to a target at will, only eight at each address. In so small a network these
    // are more than all honest ones near it; in one of millions they are next to nothing.
    let (swallow, collude) = (Malice::Swallow, Malice::Collude);
    for (name, ids, malice, address) in [
        ("256 next to it, one /16", Ids::MadeUp(28), swallow, (|n| [80, 1, n, 7]) as fn(u8) -> [u8; 4]),
        ("256 next to it, 256 /16", Ids::MadeUp(28), swallow, |n| [80, n, 1, 7]),
        ("256 near it, 256 /16", Ids::MadeUp(8), swallow, |n| [80, n, 1, 7]),
        ("256 with permitted ids, 256 /16", Ids::Permitted, swallow, |n| [80, n, 1, 7]),
        ("the same, and name each other", Ids::Permitted, collude, |n| [80, n, 1, 7]),
    ] {
        let (success, row) = cloud(name, (ids, malice), address);
        println!("{row}");
        if success < 90.0 {
            missed.push(row.clone());
        }
        rows.push(row);
    }
    crate::check("cloud", COLUMNS, &rows);
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn poisoned_answers_send_hardly_a_datagram_to_their_victim() {
    let _alone = alone();
    let victim = [77, 7, 7, 7];
    let mut world = World::new(network(Some((0.2, Malice::Poison(victim)))));
    world.weigh_host(OBSERVED, || HEAP.current_usage());
    let mut peak = 0;
    for _ in 0..20 {
        world.run_for(minutes(1));
        peak = peak.max(world.held());
    }
    assert!(peak > 10_000 && peak < MAX_HELD as isize, "{peak} bytes held");
    let hits: u64 =
        world.strays.iter().filter(|(a, _)| a.ip() == std::net::IpAddr::from(victim)).map(|(_, n)| n).sum();
    let names = world.poisoned;
    let tally = world.take_tally();
    println!(
        "{hits} datagrams to the victim, {names} times named, {} searches, {:.1} % found",
        tally.searches,
        tally.success()
    );
    assert!(names > 5000, "the attack must take place");
    assert!((hits as f64) < names as f64 * 0.05, "{hits} of {names}");
    assert!(tally.success() >= 95.0);
}
