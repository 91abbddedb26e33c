//! BEPs 33, 42, 43, 44 and 51, between machines.

use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::*;
use crate::dht::config::{MAX_ITEM_PAYLOAD, MAX_SAMPLES};
use crate::wire::item::{Item, MutableItem};
use crate::wire::krpc::{ErrorBody, Put, Signed, code};

fn owned(seq: i64, value: &[u8]) -> Item {
    Item::Mutable(MutableItem::sign(&SigningKey::from_bytes(&[9; 32]), b"salt", seq, value).unwrap())
}

/// Five nodes that know each other.
fn five(now: Instant) -> Vec<Node> {
    let mut nodes: Vec<_> = (1..=5).map(|n| node(n, now)).collect();
    (1..5).for_each(|n| nodes[n].add_bootstrap(now, [at(1)]));
    for step in 0..50 {
        let now = now + Duration::from_millis(10) * step;
        nodes.iter_mut().for_each(|n| n.handle_timeout(now));
        settle(&mut nodes, now);
    }
    nodes.iter_mut().for_each(|n| drop(events(n)));
    nodes
}

fn put(nodes: &mut [Node], at: usize, now: Instant, item: Item, cas: Option<i64>) -> LookupStatsOf {
    nodes[at].put_item(now, item, cas).unwrap().unwrap();
    settle(nodes, now);
    match events(&mut nodes[at]).pop() {
        Some(Event::Done { stats, .. }) => (stats.announced_to, stats.refused),
        other => panic!("{other:?}"),
    }
}

/// How many nodes stored, and the last error.
type LookupStatsOf = (u32, Option<i64>);

fn get(nodes: &mut [Node], at: usize, now: Instant, target: Id160, salt: &[u8]) -> Vec<Item> {
    nodes[at].get_item(now, target, salt).unwrap();
    settle(nodes, now);
    let found = events(&mut nodes[at]).into_iter();
    found.filter_map(|e| if let Event::Item { item, .. } = e { Some(item) } else { None }).collect()
}

#[test]
fn an_immutable_item_is_put_and_found_by_its_hash() {
    let now = Instant::now();
    let mut nodes = five(now);
    let item = Item::Immutable { value: [b"996:".as_slice(), &[7; 996]].concat() };
    assert_eq!(put(&mut nodes, 1, now, item.clone(), None), (4, None));
    assert_eq!(get(&mut nodes, 3, now, item.target(), b""), std::slice::from_ref(&item));
    // Whoever has it in his own store asks nobody.
    assert_eq!(get(&mut nodes, 2, now, item.target(), b""), [item]);
    assert!(get(&mut nodes, 3, now, HASH, b"").is_empty());
}

#[test]
fn a_mutable_item_moves_forward_only() {
    let now = Instant::now();
    let mut nodes = five(now);
    assert_eq!(put(&mut nodes, 1, now, owned(1, b"i1e"), None), (4, None));
    assert_eq!(put(&mut nodes, 2, now, owned(2, b"i2e"), Some(1)).0, 4);
    assert_eq!(put(&mut nodes, 2, now, owned(2, b"i3e"), None), (0, Some(code::OLD_SEQ)));
    assert_eq!(put(&mut nodes, 2, now, owned(3, b"i3e"), Some(1)), (0, Some(code::CAS)));
    let found = get(&mut nodes, 4, now, owned(1, b"i1e").target(), b"salt");
    assert_eq!(found.last(), Some(&owned(2, b"i2e")));
    // Without the salt nobody can tell whose it is.
    nodes.push(node(6, now));
    nodes[5].add_bootstrap(now, [at(1)]);
    settle(&mut nodes, now);
    assert!(get(&mut nodes, 5, now, owned(1, b"i1e").target(), b"").is_empty());
    assert_eq!(get(&mut nodes, 5, now, owned(1, b"i1e").target(), b"salt").len(), 1);
}

/// One query to a node, and its answer.
fn exchange(node: &mut Node, now: Instant, method: Method<'_>) -> Vec<u8> {
    let body = Body::Query(Query { id: Id160([7; 20]), want: Want { v4: true, v6: true }, method });
    let mut query = Vec::new();
    Message { transaction: b"abcd", version: None, ip: None, read_only: true, body }.emit(&mut query);
    node.handle_datagram(now, at(99), &query);
    node.poll_transmit().unwrap().payload
}

fn body(payload: &[u8]) -> Body<'_> {
    Message::parse(payload).unwrap().body
}

#[test]
fn a_put_that_must_not_be_is_refused_with_its_own_error() {
    let now = Instant::now();
    let mut n = node(1, now);
    let token = n.tokens.issue(at(99).ip());
    let Item::Mutable(m) = owned(1, b"i1e") else { unreachable!() };
    let signed = Some(Signed { key: &m.key, seq: 1, signature: &m.signature });
    let big = [b"1000:".as_slice(), &[0; 1000]].concat();
    let good = Put { token: &token, value: &m.value, signed, cas: None, salt: b"salt" };
    for (put, expected) in [
        (Put { token: b"12345678", ..good }, code::PROTOCOL),
        (Put { value: &big, ..good }, code::TOO_BIG),
        (Put { salt: &[b'x'; 65], ..good }, code::SALT),
        (Put { salt: b"other", ..good }, code::SIGNATURE),
        (Put { signed: None, value: b"d1:bi1e1:ai2ee", ..good }, code::PROTOCOL),
    ] {
        let answer = exchange(&mut n, now, Method::Put(put));
        assert!(matches!(body(&answer), Body::Error(e) if e.code == expected), "{expected}");
    }
    assert_eq!(n.items.len(), 0);
    assert!(matches!(body(&exchange(&mut n, now, Method::Put(good))), Body::Reply(_)));
    // Whoever has this version is told its number, not its value.
    let target = owned(1, b"i1e").target();
    for (seq, value) in [(None, true), (Some(0), true), (Some(1), false), (Some(2), false)] {
        let answer = exchange(&mut n, now, Method::Get { target, seq });
        let Body::Reply(reply) = body(&answer) else { panic!() };
        assert_eq!((reply.seq, !reply.value.is_empty(), reply.signed.is_some()), (Some(1), value, value));
    }
}

#[test]
fn the_largest_item_leaves_room_for_some_nodes_and_fits() {
    let now = Instant::now();
    let mut n = Node::new(Config { network: Network::Local, ..Config::default() }, [1; 32], now);
    for i in 0..=255u8 {
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(i)], 1));
        for addr in [at(i), v6] {
            let contact = Contact { id: Id160([i; 20]), addr };
            n.tables[family(addr)].on_answer(now, contact, Duration::ZERO, &n.config);
        }
    }
    let value = [b"996:".as_slice(), &[7; 996]].concat();
    let item =
        Item::Mutable(MutableItem::sign(&SigningKey::from_bytes(&[9; 32]), &[1; 64], 1, &value).unwrap());
    let target = item.target();
    n.items.put(now, at(1).ip(), item, None).unwrap();
    let answer = exchange(&mut n, now, Method::Get { target, seq: None });
    assert!(answer.len() <= MAX_ITEM_PAYLOAD, "{}", answer.len());
    let Body::Reply(reply) = body(&answer) else { panic!() };
    assert!(reply.value == value && reply.contacts().count() >= 3, "{}", reply.contacts().count());
}

#[test]
fn a_scrape_counts_seeds_and_leechers_over_all_nodes() {
    let now = Instant::now();
    let mut nodes = five(now);
    // Two nodes know ten addresses each, five of them both.
    for (node, from) in [(1, 0), (2, 5)] {
        for n in from..from + 10 {
            nodes[node].announced.insert(now, HASH, ([20, 0, 0, n], 7).into(), n % 5 == 0);
        }
    }
    nodes[4].scrape(now, HASH).unwrap();
    settle(&mut nodes, now);
    let told = events(&mut nodes[4]);
    let scrape = told.iter().find_map(|e| match e {
        Event::Scrape { seeds, leechers, .. } => Some((*seeds, *leechers)),
        _ => None,
    });
    assert_eq!(scrape, Some((3, 12)));
    assert!(matches!(told.last(), Some(Event::Done { .. })));
    let method = Method::GetPeers { info_hash: HASH, scrape: true, no_seeds: true };
    let answer = exchange(&mut nodes[1], now, method);
    let Body::Reply(reply) = body(&answer) else { panic!() };
    assert!(answer.len() <= MAX_PAYLOAD && reply.contacts().count() >= 4);
    assert_eq!(reply.peers().count(), 8);
}

#[test]
fn seeds_announce_that_they_are() {
    let now = Instant::now();
    let mut nodes = [node(1, now), node(2, now)];
    nodes[1].add_bootstrap(now, [at(1)]);
    settle(&mut nodes, now);
    nodes[1].announce_seed(now, HASH, 7000).unwrap();
    settle(&mut nodes, now);
    let [seeds, others] = nodes[0].announced.filters(now, &HASH).unwrap();
    assert_eq!((seeds.estimate().round(), others.estimate().round()), (1.0, 0.0));
}

#[test]
fn a_node_names_a_sample_of_what_it_stores() {
    let now = Instant::now();
    let mut nodes = five(now);
    for n in 0..100 {
        nodes[0].announced.insert(now, Id160([n; 20]), at(50), false);
    }
    nodes[1].sample_infohashes(now, at(1), HASH).unwrap();
    settle(&mut nodes, now);
    let told = events(&mut nodes[1]).pop();
    let Some(Event::Samples { hashes, num: 100, interval, nodes: near, .. }) = told else {
        panic!("{told:?}")
    };
    assert_eq!((hashes.len(), near.len()), (MAX_SAMPLES, 3));
    assert_eq!(interval, crate::dht::config::SAMPLE_INTERVAL);
    // A node that has nothing says so.
    nodes[1].sample_infohashes(now, at(3), HASH).unwrap();
    settle(&mut nodes, now);
    assert!(matches!(events(&mut nodes[1])[..], [Event::Samples { num: 0, .. }]));
}

/// Answers everything the node asks from strangers all over the world who see it at `seen`.
fn answer_all(n: &mut Node, now: Instant, seen: SocketAddr) {
    while let Some(t) = n.poll_transmit() {
        let Ok(Message { transaction, body: Body::Query(_), .. }) = Message::parse(&t.payload) else {
            continue;
        };
        let std::net::IpAddr::V4(ip) = t.to.ip() else { continue };
        let body = Body::Reply(Reply { id: Id160([ip.octets()[0]; 20]), ..Reply::default() });
        let mut out = Vec::new();
        Message { transaction, version: None, ip: Some(seen), read_only: false, body }.emit(&mut out);
        n.handle_datagram(now, t.to, &out);
    }
}

fn strangers() -> impl Iterator<Item = SocketAddr> {
    (20..40u8).map(|n| ([n, n, n, n], 6881).into())
}

#[test]
fn the_id_follows_the_address_that_strangers_see() {
    let now = Instant::now();
    let mut n = Node::new(Config { ipv6: false, ..Config::default() }, [1; 32], now);
    let first = n.id();
    let seen: SocketAddr = "80.1.2.3:6881".parse().unwrap();
    strangers().for_each(|s| assert!(n.ping(now, s).is_ok()));
    answer_all(&mut n, now, seen);
    assert!(n.id() != first && n.id().is_bound_to(seen.ip()));
    // Everyone is still known, each in the bucket where he belongs now.
    assert_eq!(n.table_sizes().0, 20);
    let near: Vec<_> = n.tables[0].closest(&n.id(), 20);
    assert!(near.is_sorted_by_key(|c| c.id.distance(&n.id())));
    let (second, moved) = (n.id(), "90.1.2.3:6881".parse().unwrap());
    let now = now + crate::dht::config::ADDRESS_HOLDS;
    strangers().for_each(|s| assert!(n.ping(now, s).is_ok()));
    answer_all(&mut n, now, moved);
    assert!(n.id() != second && n.id().is_bound_to(moved.ip()));
    assert_eq!(n.snapshot(now).external[0], Some(moved.ip()));
}

#[test]
fn nodes_that_refuse_an_id_tell_which_address_it_should_follow() {
    let now = Instant::now();
    let mut n = Node::new(Config { ipv6: false, ..Config::default() }, [1; 32], now);
    let seen: SocketAddr = "80.1.2.3:6881".parse().unwrap();
    strangers().for_each(|s| assert!(n.ping(now, s).is_ok()));
    while let Some(t) = n.poll_transmit() {
        let transaction = Message::parse(&t.payload).unwrap().transaction;
        let body = Body::Error(ErrorBody { code: code::PROTOCOL, text: b"invalid node ID" });
        let mut refusal = Vec::new();
        Message { transaction, version: None, ip: Some(seen), read_only: false, body }.emit(&mut refusal);
        n.handle_datagram(now, t.to, &refusal);
    }
    assert!(n.id().is_bound_to(seen.ip()));
    assert_eq!(n.table_sizes(), (0, 0));
}

#[test]
fn behind_a_nat_a_short_run_is_read_only_until_a_stranger_gets_through() {
    let now = Instant::now();
    let config = Config { ipv6: false, read_only_behind_nat: true, ..Config::default() };
    let seen: SocketAddr = "80.1.2.3:6881".parse().unwrap();
    let asks_read_only = |n: &mut Node| {
        n.ping(now, "50.1.1.1:1".parse().unwrap()).unwrap();
        let sent: Vec<_> = std::iter::from_fn(|| n.poll_transmit()).collect();
        Message::parse(&sent.last().unwrap().payload).unwrap().read_only
    };
    for (local_ips, expected) in [(vec!["192.168.1.5".parse().unwrap()], true), (vec![seen.ip()], false)] {
        let mut n = Node::new(Config { local_ips, ..config.clone() }, [1; 32], now);
        assert!(!asks_read_only(&mut n));
        strangers().for_each(|s| assert!(n.ping(now, s).is_ok()));
        answer_all(&mut n, now, seen);
        assert_eq!(asks_read_only(&mut n), expected);
        let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
        // Someone we have asked gets through any NAT; a stranger does not.
        n.handle_datagram(now, "21.21.21.21:6881".parse().unwrap(), ping);
        assert_eq!(asks_read_only(&mut n), expected);
        n.handle_datagram(now, "70.1.1.1:6881".parse().unwrap(), ping);
        n.handle_datagram(now, "70.1.1.1:6881".parse().unwrap(), ping);
        assert!(!asks_read_only(&mut n));
    }
}
