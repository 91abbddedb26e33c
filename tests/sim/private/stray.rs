//! One stray node that is in a private network and in the public one must not join them.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use dhtget::dht::{Config, Network};
use dhtget::id::Id160;
use dhtget::wire::compact::{self, Contact};
use dhtget::wire::krpc::{Body, Message};

use crate::lan::{Lan, Seen, closed, member, private, torrent};
use crate::seed;

const MEMBERS: usize = 20;
const OUTSIDERS: usize = 20;

/// Node number `n` of the public network.
fn outsider(n: usize) -> SocketAddr {
    ([8, n as u8, 1, 1], 6881).into()
}

/// What the members did about those outside.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Datagrams of members to outside addresses.
    sent: usize,
    /// Outside addresses in what members sent.
    named: usize,
    /// Outside addresses in what members were sent.
    heard: usize,
}

fn is_outside(ip: IpAddr) -> bool {
    !matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 10)
}

/// Outside addresses in a message, as nodes or peers.
fn outside_in(payload: &[u8]) -> usize {
    let Ok(Message { body: Body::Reply(reply), .. }) = Message::parse(payload) else { return 0 };
    let nodes = compact::nodes_v4(reply.nodes).map(|c| c.addr);
    nodes.chain(reply.peers()).filter(|addr| is_outside(addr.ip())).count()
}

fn count(counts: &mut Counts, seen: &Seen<'_>) {
    if seen.from < MEMBERS {
        counts.sent += usize::from(is_outside(seen.to.ip()));
        counts.named += outside_in(seen.payload);
    } else if !is_outside(seen.to.ip()) {
        counts.heard += outside_in(seen.payload);
    }
}

/// Members, some of whose machines have a public address too; a public network; and the stray in both. Everything
/// that could lead a member outside is tried.
fn two_networks(config: &Config) -> (Counts, Lan) {
    let mut lan = Lan::new(seed());
    let counts = Rc::new(RefCell::new(Counts::default()));
    let noted = Rc::clone(&counts);
    lan.watch(move |seen| count(&mut noted.borrow_mut(), seen));
    for n in 0..MEMBERS {
        let mut addrs = vec![member(n)];
        // Every third machine can be reached from outside, and is misconfigured to start from there too.
        let exposed = n % 3 == 1;
        addrs.extend(exposed.then(|| outsider(100 + n)));
        let mut bootstrap = vec![member(0)];
        bootstrap.extend(exposed.then(|| outsider(0)));
        lan.add(addrs, config.clone(), bootstrap);
    }
    let world = Config { network: Network::Public, ipv6: false, ..Config::default() };
    for n in 0..OUTSIDERS {
        // They know where some members can be reached.
        lan.add(vec![outsider(n)], world.clone(), vec![outsider(0), outsider(101), outsider(104)]);
    }
    let stray = lan.add(vec![member(200), outsider(200)], private(), vec![member(0), outsider(0)]);
    lan.run_for(Duration::from_secs(5));
    // What an earlier run may have saved, and what a peer's PORT message may name.
    let saved = (0..OUTSIDERS).map(|n| Contact { id: Id160([n as u8; 20]), addr: outsider(n) });
    lan.input(1, |node, now| node.add_saved(now, saved));
    lan.input(2, |node, now| node.add_contact(now, outsider(3)));
    lan.input(3, |node, now| node.ping(now, outsider(4))).expect("is up").expect("not full");
    // The same torrents are shared on both sides, and by the stray.
    for n in 0..5 {
        lan.announce(n, torrent(n));
        lan.announce(MEMBERS + n, torrent(n));
        lan.announce(stray, torrent(n));
    }
    lan.run_for(Duration::from_secs(5));
    for n in 0..5 {
        lan.search(MEMBERS - 1 - n, torrent(n));
        lan.search(stray, torrent(n));
        lan.search(MEMBERS + 10 + n, torrent(n));
    }
    lan.run_for(Duration::from_secs(20 * 60));
    let counts = *counts.borrow();
    (counts, lan)
}

#[test]
fn a_stray_in_both_networks_does_not_join_them() {
    let (counts, lan) = two_networks(&closed());
    println!("{counts:?}, {} datagrams", lan.sent);
    assert!(counts.heard > 100, "nobody tried: {counts:?}");
    assert_eq!((counts.sent, counts.named), (0, 0));
    let now = std::time::Instant::now();
    for host in &lan.hosts[..MEMBERS] {
        let node = host.node.as_ref().expect("is up");
        let snapshot = node.snapshot(now);
        // Everyone inside is known to everyone, the stray among them; nobody else is.
        assert_eq!(snapshot.nodes_v4.len(), MEMBERS);
        assert!(snapshot.nodes_v4.iter().all(|c| !is_outside(c.addr.ip())));
        assert!(node.stored(now).peers.iter().all(|p| !is_outside(p.addr.ip())));
        let found = host.found.values().flat_map(|f| &f.peers);
        assert!(found.clone().all(|peer| !is_outside(peer.ip())), "{:?}", host.found);
    }
    for n in 0..5 {
        let found = lan.hosts[MEMBERS - 1 - n].found.values().flat_map(|f| &f.peers).count();
        assert_eq!(found, 2, "the member and the stray");
    }
    // No member has come to be known outside either.
    for host in &lan.hosts[MEMBERS..MEMBERS + OUTSIDERS] {
        let nodes = host.node.as_ref().expect("is up").snapshot(now).nodes_v4;
        assert!(nodes.iter().all(|c| c.addr == outsider(200) || c.addr.ip() < outsider(OUTSIDERS).ip()));
    }
}

#[test]
fn without_a_list_it_would() {
    let (counts, _) = two_networks(&private());
    assert!(counts.sent > 100 && counts.named > 100, "{counts:?}");
}
