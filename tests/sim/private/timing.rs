//! In a private network whoever joins, and whatever appears, is found within a second.

use std::time::Duration;

use crate::lan::users::User;
use crate::lan::{Lan, member, private, torrent};
use crate::seed;

const SECOND: Duration = Duration::from_secs(1);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Whether a search by that node for the other's id ends with the other.
fn meets(lan: &mut Lan, host: usize, other: usize) -> bool {
    let id = lan.hosts[other].node.as_ref().expect("is up").id();
    let lookup = lan.input(host, |node, now| node.find_node(now, id)).expect("is up").expect("not full");
    lan.run_for(millis(400));
    lan.found(host, lookup).closest.iter().any(|c| c.id == id)
}

#[test]
fn one_who_joins_is_found_within_a_second() {
    for size in [1, 2, 8, 60, 400] {
        let mut lan = Lan::of(seed(), size);
        lan.run_for(Duration::from_secs(60));
        // Through the first, or the last.
        for (n, named) in [(size, 0), (size + 1, size - 1)] {
            let host = lan.add(vec![member(n)], private(), vec![member(named)]);
            lan.run_for(millis(200));
            for by in [0, size / 2, size - 1] {
                assert!(meets(&mut lan, by, host), "of {size}, through {named}, by {by}");
            }
        }
    }
}

#[test]
fn a_swarm_that_appears_is_found_within_a_second() {
    for size in [2, 30, 300] {
        let mut lan = Lan::of(seed(), size);
        lan.run_for(Duration::from_secs(30));
        let hash = torrent(1);
        // They do not start in step.
        let mut users = Vec::new();
        for host in 0..size / 2 {
            users.push(User::new(&lan, host, hash, false));
            lan.run_users(&mut users, millis(37));
        }
        lan.run_users(&mut users, Duration::from_secs(5));
        let appears = lan.elapsed();
        users.push(User::new(&lan, size - 1, hash, true));
        lan.run_users(&mut users, SECOND);
        let (seeder, waiting) = users.split_last().expect("some");
        let late: Vec<_> = waiting
            .iter()
            .filter(|user| user.heard_of(member(size - 1)).is_none_or(|at| at > appears + SECOND))
            .collect();
        let hears = seeder.heard.iter().filter(|(at, _)| *at < appears + SECOND).count();
        println!("of {size}: {} of {} are late; the seeder knows {hears}", late.len(), waiting.len());
        // By themselves; those whom the seeder has found it dials besides.
        assert!(late.is_empty() && hears >= waiting.len().min(100), "of {size}");
    }
}

/// What many who wait for one swarm ask of those closest to it.
#[test]
fn the_closest_nodes_bear_a_crowd_that_waits() {
    let size = 200;
    let mut lan = Lan::of(seed(), size);
    lan.run_for(Duration::from_secs(30));
    let hash = torrent(1);
    let mut users: Vec<_> = (0..size).map(|host| User::new(&lan, host, hash, false)).collect();
    lan.run_users(&mut users, Duration::from_secs(5));
    let before: Vec<_> = lan.hosts.iter().map(|h| h.received).collect();
    lan.run_users(&mut users, Duration::from_secs(10));
    let received = lan.hosts.iter().zip(before).map(|(h, before)| h.received - before);
    let mut each_second: Vec<_> = received.map(|n| n / 10).collect();
    each_second.sort_unstable();
    let (most, median) = (each_second[size - 1], each_second[size / 2]);
    println!("{size} wait: the busiest node gets {most} datagrams a second, the median one {median}");
    // Each searches twice a second, asks some beside the eight closest too, and announces each 20 seconds.
    assert!(most <= 4 * size as u64 && median <= 150, "{most}, {median}");
}

#[test]
fn a_thousand_machines_that_are_switched_on_together_serve_at_once() {
    let size = 1000;
    let mut lan = Lan::of(seed(), size);
    let joined = |lan: &Lan| lan.hosts.iter().all(|h| h.node.as_ref().is_some_and(|n| n.has_joined()));
    let all_joined = lan.run_until(Duration::from_secs(10), joined).expect("all join");
    println!("all have joined after {all_joined:?}");
    let (first, last) = (3, size - 2);
    let mut users = vec![User::new(&lan, first, torrent(1), true), User::new(&lan, last, torrent(1), false)];
    lan.run_users(&mut users, Duration::from_secs(5));
    let heard = users[1].heard_of(member(first));
    println!("a sharer is found {heard:?} after all were switched on");
    assert!(heard.is_some_and(|at| at < Duration::from_secs(4)));
}

#[test]
fn two_hundred_nodes_behind_one_address_are_no_flood() {
    let mut lan = Lan::new(seed());
    let at = |n: usize| std::net::SocketAddr::from(([10, 0, 0, 1], 20_000 + n as u16));
    for n in 0..200 {
        lan.add(vec![at(n)], private(), vec![at(0)]);
    }
    lan.run_for(Duration::from_secs(3));
    let hash = torrent(7);
    for n in 0..200 {
        let port = at(n).port();
        lan.input(n, |node, now| node.announce(now, hash, port)).expect("is up").expect("not full");
    }
    lan.run_for(SECOND);
    let lookup = lan.search(100, hash);
    lan.run_for(SECOND);
    let found = lan.found(100, lookup).peers.len();
    let limited: u64 = lan.hosts.iter().filter_map(|h| h.node.as_ref()).map(|n| n.counters().limited).sum();
    println!("{found} peers found, {limited} queries refused");
    // An answer names 150 of them, drawn by lot.
    assert!(found >= 190 && limited == 0);
}
