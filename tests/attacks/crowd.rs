//! Networks in which a part of the nodes lies, or a cloud of them sits round one torrent.

use std::net::{SocketAddr, SocketAddrV4};
use std::process::Command;
use std::time::Duration;

use dhtget::id::Id160;
use dhtget::rng::Rng;

use crate::world::{COLUMNS, Malice, Options, PEER_PORT, Row, World, side_by_side};
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

/// What came of one network.
struct Outcome {
    searches: u64,
    success: f64,
    /// Bytes that the observed node held at most.
    peak: isize,
    row: String,
}

/// The word before an outcome on the standard output of a process.
const MARK: &str = "outcome:";
/// Which network a process is to try.
const WHICH: &str = "ATTACK_ROW";

impl Outcome {
    fn print(&self) {
        println!("{MARK}{}|{}|{}|{}", self.searches, self.success, self.peak, self.row);
    }

    fn parse(output: &str) -> Option<Self> {
        let line = output.lines().find_map(|line| Some(line.split_once(MARK)?.1))?;
        let mut parts = line.splitn(4, '|');
        Some(Self {
            searches: parts.next()?.parse().ok()?,
            success: parts.next()?.parse().ok()?,
            peak: parts.next()?.parse().ok()?,
            row: parts.next()?.to_owned(),
        })
    }
}

/// Tries `count` networks by the test of that name, each in a process of its own, since the heap is counted for a
/// whole process; as many at a time as there are cores.
fn each_in_a_process(test: &str, count: usize) -> Vec<Outcome> {
    let run = |at: usize| {
        let program = std::env::current_exe().expect("our own path");
        let arguments = ["--exact", test, "--ignored", "--nocapture"];
        let output =
            Command::new(program).args(arguments).env(WHICH, at.to_string()).output().expect("starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        Outcome::parse(&text).expect("an outcome")
    };
    side_by_side(count, run)
}

/// Holds a table's networks to their goals.
fn judge(name: &str, outcomes: &[Outcome], success: f64) {
    let rows: Vec<_> = outcomes.iter().map(|o| o.row.clone()).collect();
    let fails = |o: &&Outcome| {
        o.searches < 100 || o.success < success || !(10_000..MAX_HELD as isize).contains(&o.peak)
    };
    let missed: Vec<_> = outcomes.iter().filter(fails).map(|o| (&o.row, o.peak)).collect();
    crate::check(name, COLUMNS, &rows);
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The row that this process is to try, if any.
fn which<T: Copy>(all: &[T]) -> Option<T> {
    all.get(std::env::var(WHICH).ok()?.parse::<usize>().ok()?).copied()
}

const LIARS: [(&str, Option<Malice>); 6] = [
    ("all honest", None),
    ("20 % name only each other", Some(Malice::Collude)),
    ("20 % take any id that is wanted", Some(Malice::Invent)),
    ("20 % name nodes that do not exist", Some(Malice::Phantom)),
    ("20 % swallow queries", Some(Malice::Swallow)),
    ("20 % malicious, mixed", Some(Malice::Mixed)),
];

#[test]
fn honest_searches_succeed_with_a_fifth_of_all_nodes_malicious() {
    let _alone = alone();
    judge("malicious", &each_in_a_process("crowd::one_network_of_liars", LIARS.len()), 95.0);
}

#[test]
#[ignore = "one line of a table, for the test of that table"]
fn one_network_of_liars() {
    let Some((name, malice)) = which(&LIARS) else { return };
    let mut world = World::new(network(malice.map(|kind| (0.2, kind))));
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
    Outcome { searches: tally.searches, success: tally.success(), peak, row }.print();
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

/// A cloud: its ids, what it does, and the addresses of its 256 nodes.
type Cloud = (&'static str, Ids, Malice, fn(u8) -> [u8; 4]);

// Bound ids cannot be had next to a target at will, only eight at each address. In so small a network these are
// more than all honest ones near it; in one of millions they are next to nothing.
const CLOUDS: [Cloud; 5] = [
    ("256 next to it, one /16", Ids::MadeUp(28), Malice::Swallow, |n| [80, 1, n, 7]),
    ("256 next to it, 256 /16", Ids::MadeUp(28), Malice::Swallow, |n| [80, n, 1, 7]),
    ("256 near it, 256 /16", Ids::MadeUp(8), Malice::Swallow, |n| [80, n, 1, 7]),
    ("256 with permitted ids, 256 /16", Ids::Permitted, Malice::Swallow, |n| [80, n, 1, 7]),
    ("the same, and name each other", Ids::Permitted, Malice::Collude, |n| [80, n, 1, 7]),
];

#[test]
fn a_cloud_of_nodes_round_one_torrent_hides_it_from_few() {
    let _alone = alone();
    judge("cloud", &each_in_a_process("crowd::one_cloud", CLOUDS.len()), 90.0);
}

#[test]
#[ignore = "one line of a table, for the test of that table"]
fn one_cloud() {
    let Some((name, ids, malice, address)) = which(&CLOUDS) else { return };
    let mut world = World::new(Options { search_every: None, ..network(None) });
    world.options_mut().malice = Some((0.0, malice));
    world.weigh_host(OBSERVED, || HEAP.current_usage());
    let mut peak = 0;
    world.run_for(minutes(4));
    let hash = Id160([0x5A; 20]);
    let mut rng = Rng::from_u64(seed());
    for n in 0..=255u8 {
        let addr = SocketAddrV4::new(address(n).into(), 6881);
        world.add_named(addr, ids.draw(hash, addr.into(), &mut rng), true);
    }
    world.run_for(minutes(5));
    world.take_tally();
    // Twenty honest hosts share it; others look for each of them.
    let honest: Vec<u32> = world.up().filter(|n| !world.host(*n).is_malicious).collect();
    for sharer in &honest[10..30] {
        world.announce_as(*sharer, hash);
    }
    world.run_for(minutes(1));
    for (n, seeker) in honest[40..240].iter().enumerate() {
        let sharer = honest[10 + n % 20];
        let peer = SocketAddr::new(world.host(sharer).addr().ip(), PEER_PORT);
        world.search_for(*seeker, hash, peer);
        world.run_for(Duration::from_secs(1));
        peak = peak.max(world.held());
    }
    world.run_for(minutes(1));
    let (tally, tables) = (world.take_tally(), world.tables());
    let row = Row(name, &tally, &tables).to_string();
    Outcome { searches: tally.searches, success: tally.success(), peak, row }.print();
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
    let tally = world.take_tally();
    let (hits, names) = (tally.hits, tally.poisoned);
    println!(
        "{hits} datagrams to the victim, {names} times named, {} searches, {:.1} % found",
        tally.searches,
        tally.success()
    );
    assert!(names > 5000, "the attack must take place");
    assert!((hits as f64) < names as f64 * 0.1, "{hits} of {names}");
    assert!(tally.success() >= 95.0);
}
