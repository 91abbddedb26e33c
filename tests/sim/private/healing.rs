//! What a private network survives: being cut in two, losing its bootstrap, sleep, and new addresses.

use std::time::Duration;

use crate::lan::users::User;
use crate::lan::{Lan, member, private, torrent};
use crate::seed;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A network of two halves of that size which share what they have, cut for an hour; how long after it has healed
/// everyone who looks finds what the other half has come to share meanwhile.
fn cut_for_an_hour(seed: u64, half: usize) {
    let mut lan = Lan::of(seed, 2 * half);
    lan.run_for(secs(60));
    lan.cut(|host| host % 2 == 1);
    // On each side one shares what nobody shared before, and all the time somebody looks for the other's.
    let hashes = [torrent(1), torrent(2)];
    let mut users: Vec<_> =
        (0..2).map(|side| User::new(&lan, 2 * half - 2 + side, hashes[side], true)).collect();
    lan.run_users(&mut users, secs(1));
    // Between searches nothing happens to transfers: their steps are long meanwhile.
    for _ in 0..60 {
        lan.run_for(secs(58));
        lan.run_users(&mut users, secs(1));
    }
    let apart: Vec<_> =
        (0..2).map(|side| lan.finds(side, hashes[1 - side], member(2 * half - 1 - side), SECOND)).collect();
    assert_eq!(apart, [false, false], "they are apart");
    lan.heal();
    let healed = lan.elapsed();
    let mut since = Vec::new();
    let seekers = half.min(10);
    while lan.elapsed() < healed + secs(60) {
        lan.run_users(&mut users, SECOND);
        let begun = lan.elapsed() - healed;
        let mut found = 0;
        for n in 0..seekers {
            for side in 0..2 {
                let host = side + 2 * (n * half / seekers);
                found +=
                    usize::from(lan.finds(host, hashes[1 - side], member(2 * half - 1 - side), secs(1) / 20));
            }
        }
        since.push(found);
        if since.len() >= 3 && since[since.len() - 3..].iter().all(|n| *n == 2 * seekers) {
            println!("{half}+{half}, seed {seed}: together after {begun:?}, {since:?}");
            return;
        }
    }
    panic!("{half}+{half}, seed {seed}: not together after a minute, {since:?} of {}", 2 * seekers);
}

#[test]
fn two_halves_of_two_find_together() {
    for n in 0..5 {
        cut_for_an_hour(seed() + n, 2);
    }
}

#[test]
fn two_halves_of_twenty_find_together() {
    for n in 0..2 {
        cut_for_an_hour(seed() + n, 20);
    }
}

#[test]
fn two_halves_of_two_hundred_find_together() {
    cut_for_an_hour(seed(), 200);
}

/// The machines that everybody started from are gone for good; then everyone restarts, one after the other.
#[test]
fn a_network_outlives_its_bootstrap() {
    let mut lan = Lan::new(seed());
    let (boots, size) = (2, 30);
    for n in 0..size {
        lan.add(vec![member(n)], private(), (0..boots).map(member).collect());
    }
    lan.run_for(secs(60));
    (0..boots).for_each(|n| lan.die(n));
    lan.run_for(HOUR);
    for host in boots..size {
        lan.stop(host);
        lan.run_for(secs(20));
        lan.start(host);
        lan.run_for(secs(2));
        assert!(lan.known(host) >= 8, "{host} knows {}", lan.known(host));
    }
    let sharer = size - 1;
    lan.announce(sharer, torrent(1));
    lan.run_for(SECOND);
    for host in boots..sharer {
        assert!(lan.finds(host, torrent(1), member(sharer), SECOND), "{host}");
    }
    // A newcomer who is named any of those that live, beside those that are gone.
    let host = lan.add(vec![member(size)], private(), vec![member(0), member(1), member(17)]);
    assert!(lan.finds(host, torrent(1), member(sharer), SECOND), "the newcomer");
}

#[test]
fn who_slept_for_an_hour_is_back_within_seconds() {
    for size in [2, 20, 100] {
        let mut lan = Lan::of(seed(), size);
        lan.run_for(secs(60));
        lan.sleep(1, HOUR);
        let mut users = vec![User::new(&lan, 1, torrent(1), true)];
        lan.run_users(&mut users, 2 * SECOND);
        for host in [0, size - 1].into_iter().filter(|host| *host != 1) {
            assert!(lan.finds(host, torrent(1), member(1), SECOND), "{host} of {size} finds the sleeper's");
        }
        lan.announce(0, torrent(2));
        lan.run_for(SECOND);
        assert!(lan.finds(1, torrent(2), member(0), SECOND), "the sleeper finds");
    }
}

#[test]
fn who_has_a_new_address_is_back_within_seconds() {
    for size in [2, 20, 100] {
        let mut lan = Lan::of(seed(), size);
        lan.run_for(secs(60));
        let mut users = vec![User::new(&lan, 1, torrent(1), true)];
        lan.run_users(&mut users, SECOND);
        let moved = member(5000);
        lan.move_to(1, moved);
        lan.input(1, |node, now| node.handle_address_change(now, vec![moved.ip()]));
        lan.run_users(&mut users, 2 * SECOND);
        for host in [0, size - 1].into_iter().filter(|host| *host != 1) {
            assert!(lan.finds(host, torrent(1), moved, SECOND), "{host} of {size} finds it where it is");
        }
        // Within seconds it has its place at those nearest to it, too, and the old one is gone.
        lan.run_users(&mut users, secs(10));
        let id = lan.hosts[1].node.as_ref().expect("is up").id();
        let lookup = lan.input(0, |node, now| node.find_node(now, id)).expect("is up").expect("not full");
        lan.run_for(SECOND);
        let closest = &lan.found(0, lookup).closest;
        assert_eq!(
            closest.iter().filter(|c| c.id == id).map(|c| c.addr).collect::<Vec<_>>(),
            [moved],
            "of {size}"
        );
    }
}
