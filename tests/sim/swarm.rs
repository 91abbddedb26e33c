//! Swarms of real machines on their worst days, measured against the theory.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dhtget::id::Id160;
use dhtget::peer::Bitfield;
use dhtget::swarm::{Action, CloseReason, Config, Input, Origin, Swarm};
use dhtget::wire::peer::{Handshake, Message, Reserved};

use crate::crowd::{KIB, Outcome, PIECE, Role, SIZE, World, info, t_min};
use crate::seed;

const UP: u64 = 128 * KIB;
const DOWN: u64 = 1024 * KIB;
const SEEDER_UP: u64 = 256 * KIB;
const PATIENCE: Duration = Duration::from_secs(1200);

/// One seeder and `leechers` of equal rates, introduced to each other.
fn swarm_of(seed: u64, leechers: usize, loss: f64) -> (World, f64) {
    let mut world = World::new(seed, loss, (SIZE, PIECE));
    world.add(Role::Seeder, SEEDER_UP, DOWN);
    for _ in 0..leechers {
        world.add(Role::Leecher, UP, DOWN);
    }
    (world, t_min(SIZE, SEEDER_UP, &vec![UP; leechers], DOWN, leechers))
}

fn plain(seed: u64, loss: f64, name: &str) -> Outcome {
    let (mut world, best) = swarm_of(seed, 10, loss);
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    for leecher in world.leechers().collect::<Vec<_>>() {
        assert!(world.stats(leecher).uploaded > 0, "{leecher} gave nothing");
        assert_eq!(world.stats(leecher).verified, SIZE as u64);
    }
    world.outcome(name, best)
}

#[test]
fn a_swarm_finishes_near_the_shortest_time_and_replays() {
    let seed = seed();
    let first = plain(seed, 0.0, "plain");
    assert!(first.ratio <= 1.6, "{}", first.ratio);
    assert_eq!(plain(seed, 0.0, "plain again").trace, first.trace, "the same seed, another trace");
    assert_ne!(plain(seed + 1, 0.0, "plain, next seed").trace, first.trace);
}

#[test]
fn a_swarm_finishes_over_links_that_lose() {
    let outcome = plain(seed(), 0.02, "2 % of segments late");
    assert!(outcome.ratio <= 1.8, "{}", outcome.ratio);
}

#[test]
fn a_liar_is_banned_and_costs_little() {
    let (mut world, best) = swarm_of(seed(), 10, 0.0);
    let liar = world.add(Role::Liar, SEEDER_UP, DOWN);
    let liar_addr = world.peers[liar].addr;
    world.introduce();
    world.run(PATIENCE, |w| w.all_done());
    let mut caught = 0;
    for leecher in world.leechers().collect::<Vec<_>>() {
        let peer = &world.peers[leecher];
        let liars = peer.closed.iter().filter(|(_, reason, _)| *reason == CloseReason::Liar);
        let accused: Vec<(SocketAddr, u64)> = liars.map(|(addr, _, wasted)| (*addr, *wasted)).collect();
        assert!(accused.iter().all(|(addr, _)| *addr == liar_addr), "an honest peer was banned: {accused:?}");
        // The piece that gave it away, and what it had sent of others.
        assert!(accused.iter().all(|(_, wasted)| *wasted <= 3 * PIECE as u64), "a dear ban: {accused:?}");
        assert!(accused.len() <= 1, "{leecher} banned the liar {} times", accused.len());
        caught += accused.len();
        assert!(accused.is_empty() || !world.is_connected(leecher, liar), "a banned peer is back");
    }
    let outcome = world.outcome("a liar", best);
    println!("{caught} of 10 caught the liar");
    assert!(caught >= 5, "only {caught} caught the liar");
    assert!(outcome.wasted <= (SIZE / 6) as u64, "{} bytes wasted", outcome.wasted);
    assert!(outcome.ratio <= 1.8, "{}", outcome.ratio);
}

#[test]
fn peers_that_leave_or_fall_silent_hold_nobody_up() {
    let (mut world, best) = swarm_of(seed(), 14, 0.0);
    world.introduce();
    let half = |w: &mut World| w.stats(5).verified > SIZE as u64 / 2;
    world.run(PATIENCE, half);
    world.vanish(1);
    world.leave(2);
    world.vanish(3);
    world.leave(4);
    world.run(PATIENCE, |w| w.all_done());
    let outcome = world.outcome("4 of 14 vanish", best);
    assert!(outcome.ratio <= 2.0, "{}", outcome.ratio);
}

#[test]
fn one_copy_is_enough_when_the_seeder_leaves() {
    let (mut world, best) = swarm_of(seed(), 10, 0.0);
    world.introduce();
    let count = world.info.layout().count() as usize;
    world.run(PATIENCE, |w| {
        let out: BTreeSet<u32> = w.leechers().flat_map(|n| w.peers[n].verified.iter().copied()).collect();
        out.len() == count
    });
    let (left, sent) = (world.links.elapsed(), world.stats(0).uploaded);
    println!("the seeder leaves after {left:?}, having sent {:.2} copies", sent as f64 / SIZE as f64);
    world.leave(0);
    world.run(PATIENCE, |w| w.all_done());
    let outcome = world.outcome("the seeder leaves", best);
    assert!(outcome.ratio <= 2.0, "{}", outcome.ratio);
    assert!(sent < 4 * SIZE as u64, "rarest first should spread a copy sooner: {sent}");
}

#[test]
fn metadata_comes_from_a_peer_slower_than_every_wait() {
    let mut world = World::new(seed(), 0.0, (SIZE, PIECE));
    world.add(Role::Seeder, 4 * KIB, DOWN);
    world.add(Role::Leecher, UP, DOWN);
    world.introduce();
    world.run(PATIENCE, |w| w.peers[1].info.is_some());
    assert!(world.links.elapsed() < Duration::from_secs(30), "{:?}", world.links.elapsed());
}

/// A peer that dialled us and never named its port is banned like any other.
#[test]
fn an_incoming_peer_that_breaks_the_rules_does_not_come_back() {
    let content = vec![7; PIECE * 3];
    let (info, now) = (Arc::new(info(&content, PIECE)), Instant::now());
    let config = Config::new(Id160([1; 20]));
    let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
    swarm.handle(now, Input::Info(info.clone()));
    swarm.handle(now, Input::DiskReady(Bitfield::none(3)));
    let addr: SocketAddr = "10.1.1.1:50000".parse().unwrap();
    let key = swarm.accept(now, addr).unwrap();
    let mut bytes = Vec::new();
    let greeting =
        Handshake { reserved: Reserved::default(), info_hash: info.hash(), peer_id: Id160([2; 20]) };
    greeting.emit(&mut bytes);
    Message::Have(3).emit(&mut bytes);
    swarm.handle(now, Input::Received(key, bytes.into()));
    let actions: Vec<Action> = std::iter::from_fn(|| swarm.poll_action()).collect();
    assert!(actions.iter().any(|a| matches!(a, Action::Close(k, CloseReason::Impossible(_)) if *k == key)));
    assert_eq!(swarm.stats(now).banned, 1);
    assert_eq!(swarm.accept(now, "10.1.1.1:50001".parse().unwrap()), None);
}

/// Peer ids are no secret: a stranger that repeats one must not take its owner's connection.
#[test]
fn a_peer_that_steals_an_id_displaces_nobody() {
    let (info, now) = (info(&[7; PIECE], PIECE), Instant::now());
    let config = Config::new(Id160([9; 20]));
    let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
    let mut greeting = Vec::new();
    Handshake { reserved: Reserved::default(), info_hash: info.hash(), peer_id: Id160([2; 20]) }
        .emit(&mut greeting);
    let honest: SocketAddr = "10.1.1.1:6881".parse().expect("an address");
    swarm.handle(now, Input::Candidates(vec![honest], Origin::Dht));
    let Some(Action::Dial { peer, .. }) = swarm.poll_action() else { panic!("no dial") };
    swarm.handle(now, Input::Connected(peer));
    swarm.handle(now, Input::Received(peer, greeting.clone().into()));
    for (from, itself) in [("10.6.6.6:5000", false), ("10.1.1.1:5000", true)] {
        let thief = swarm.accept(now, from.parse().expect("an address")).expect("room");
        swarm.handle(now, Input::Received(thief, greeting.clone().into()));
        let actions = std::iter::from_fn(|| swarm.poll_action());
        let closed = actions
            .filter_map(|a| if let Action::Close(key, reason) = a { Some((key, reason)) } else { None });
        // From its own host it is the peer itself, and both sides keep the same one of two connections.
        let expected = itself.then_some((peer, CloseReason::Duplicate));
        assert_eq!(closed.collect::<Vec<_>>(), Vec::from_iter(expected), "{from}");
    }
}
