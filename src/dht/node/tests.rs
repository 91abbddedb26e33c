use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::dht::config::{ASK_BURST, ASK_EVERY, K, MAX_PAYLOAD, MAX_TRANSMITS, Network, VERSION};
use crate::wire::krpc::{Query, Want};

mod extensions;

const HASH: InfoHash = Id160([0xab; 20]);

fn local() -> Config {
    Config { network: Network::Local, ipv6: false, ..Config::default() }
}

fn at(n: u8) -> SocketAddr {
    ([127, 0, 0, n], 6881).into()
}

/// A node with an `n`-seeded identity.
fn node(n: u8, now: Instant) -> Node {
    Node::new(local(), [n; 32], now)
}

/// Delivers everything between nodes, `nodes[i]` living at `at(i + 1)`, until all are quiet.
fn settle(nodes: &mut [Node], now: Instant) {
    for _ in 0..10_000 {
        let mut quiet = true;
        for i in 0..nodes.len() {
            while let Some(t) = nodes[i].poll_transmit() {
                quiet = false;
                let from = at(i as u8 + 1);
                if let Some(to) = (0..nodes.len()).find(|&j| at(j as u8 + 1) == t.to) {
                    nodes[to].handle_datagram(now, from, &t.payload);
                }
            }
        }
        if quiet {
            return;
        }
    }
    panic!("never quiet");
}

fn events(node: &mut Node) -> Vec<Event> {
    std::iter::from_fn(|| node.poll_event()).collect()
}

/// What a node answers to raw bytes.
fn ask(node: &mut Node, now: Instant, bytes: &[u8]) -> Option<String> {
    node.handle_datagram(now, at(99), bytes);
    node.poll_transmit().map(|t| String::from_utf8_lossy(&t.payload).into_owned())
}

#[test]
fn saved_nodes_are_asked_at_once_though_the_search_has_begun() {
    let now = Instant::now();
    let mut n = node(1, now);
    // Names that do not resolve: the search for the neighbourhood has nobody to ask.
    n.add_bootstrap(now, []);
    assert!(n.poll_transmit().is_none());
    n.add_saved(now, (2..5).map(|i| Contact { id: Id160([i; 20]), addr: at(i) }));
    let asked: BTreeSet<_> = std::iter::from_fn(|| n.poll_transmit()).map(|t| t.to).collect();
    assert_eq!(asked, (2..5).map(at).collect());
}

/// An address is asked less than once a second for long, however many searches want it.
#[test]
fn one_who_is_close_to_everything_is_still_asked_politely_and_every_search_ends() {
    let start = Instant::now();
    for (network, is_paced) in [(Network::Public, true), (Network::Local, false)] {
        let mut n = Node::new(Config { network, ipv6: false, ..Config::default() }, [1; 32], start);
        let router: SocketAddr = ([8, 8, 8, 8], 6881).into();
        n.add_bootstrap(start, [router]);
        let (mut asked, mut started, mut ended, mut found) = (0, 0, 0, 0);
        for ms in 0..200_000u64 {
            let now = start + Duration::from_millis(ms);
            if ms % 200 == 0 && ms < 60_000 {
                started += usize::from(n.get_peers(now, Id160([(ms / 200) as u8; 20])).is_ok());
            }
            if n.poll_timeout().is_some_and(|(at, _)| at <= now) {
                n.handle_timeout(now);
            }
            while let Some(t) = n.poll_transmit() {
                assert_eq!(t.to, router);
                asked += 1;
                let message = Message::parse(&t.payload).unwrap();
                let body = Body::Reply(Reply { id: Id160([7; 20]), ..Reply::default() });
                let mut out = Vec::new();
                Message { version: None, ip: None, body, ..message }.emit(&mut out);
                n.handle_datagram(now, router, &out);
            }
            for event in std::iter::from_fn(|| n.poll_event()) {
                if let Event::Done { stats, .. } = event {
                    (ended, found) = (ended + 1, found + stats.answered);
                }
            }
            let allowed = u64::from(ASK_BURST) + ms / ASK_EVERY.as_millis() as u64;
            assert!(!is_paced || asked <= allowed, "{asked} queries in {ms} ms");
        }
        // Those that had to wait had their turn.
        assert_eq!(started, ended, "{network:?}");
        assert!(
            found as usize * 4 >= started && (is_paced || asked >= 200),
            "{found} of {started}, {asked} asked"
        );
    }
}

#[test]
fn two_nodes_find_what_one_announced_to_the_other() {
    let now = Instant::now();
    let mut nodes = [node(1, now), node(2, now)];
    nodes[1].add_bootstrap(now, [at(1)]);
    settle(&mut nodes, now);
    nodes[1].announce(now, HASH, 7000).unwrap();
    settle(&mut nodes, now);
    let done = events(&mut nodes[1]);
    assert!(matches!(done.last(), Some(Event::Done { stats, .. }) if stats.announced_to == 1), "{done:?}");
    // The node that was told finds it in its own store, before it has asked anyone.
    nodes[0].get_peers(now, HASH).unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 2], 7000));
    assert!(matches!(&events(&mut nodes[0])[0], Event::Peers { peers, .. } if *peers == [peer]));
}

/// A node that answers under another id than the one it was named under is not where the search wanted it.
#[test]
fn an_answer_under_another_id_does_not_count_as_the_one_that_was_named() {
    let now = Instant::now();
    let mut asker = node(1, now);
    asker.add_bootstrap(now, [at(2)]);
    asker.get_peers(now, HASH).unwrap();
    let mut rng = crate::rng::Rng::from_u64(9);
    let (liar, honest) = (Id160::random(&mut rng), Id160::random(&mut rng));
    // The liar names an honest node, at(3), as if it stood right beside the target.
    let false_id = HASH.random_with_prefix(100, &mut rng);
    for _ in 0..100 {
        while let Some(t) = asker.poll_transmit() {
            let Ok(query) = Message::parse(&t.payload) else { continue };
            let (id, nodes) = if t.to == at(2) { (liar, Some((false_id, at(3)))) } else { (honest, None) };
            let mut compact = Vec::new();
            if let Some((id, addr)) = nodes {
                crate::wire::compact::write_node(&Contact { id, addr }, &mut compact);
            }
            let mut reply = b"d1:rd2:id20:".to_vec();
            reply.extend_from_slice(id.as_bytes());
            reply.extend_from_slice(format!("5:nodes{}:", compact.len()).as_bytes());
            reply.extend_from_slice(&compact);
            reply.extend_from_slice(format!("e1:t{}:", query.transaction.len()).as_bytes());
            reply.extend_from_slice(query.transaction);
            reply.extend_from_slice(b"1:y1:re");
            asker.handle_datagram(now, t.to, &reply);
        }
    }
    let mut done = false;
    for second in 0..40 {
        asker.handle_timeout(now + Duration::from_secs(second));
        while asker.poll_transmit().is_some() {}
        for event in events(&mut asker) {
            if let Event::Done { closest, .. } = event {
                done = true;
                assert!(closest.iter().all(|c| c.id != false_id), "{closest:?}");
            }
        }
    }
    assert!(done);
}

#[test]
fn a_search_on_an_empty_table_goes_straight_to_addresses_that_come_later() {
    let now = Instant::now();
    let mut nodes = [node(1, now), node(2, now)];
    let lookup = nodes[1].get_peers(now, HASH).unwrap();
    assert!(nodes[1].poll_transmit().is_none());
    nodes[1].add_bootstrap(now, [at(1)]);
    let first = nodes[1].transmits.front().unwrap();
    assert!(String::from_utf8_lossy(&first.payload).contains("9:get_peers"));
    settle(&mut nodes, now);
    let done =
        |e: &Event| matches!(e, Event::Done { lookup: l, stats, .. } if *l == lookup && stats.answered == 1);
    assert!(events(&mut nodes[1]).iter().any(done));
}

#[test]
fn malformed_unknown_and_unpermitted_queries_get_their_errors() {
    let now = Instant::now();
    let mut n = node(1, now);
    let id = "2:id20:abcdefghij0123456789";
    for (query, answer) in [
        (format!("d1:ad{id}e1:q4:ping1:t13:0123456789abc1:y1:qe"), "1:t13:0123456789abc1:v4:dg"),
        ("d1:ad2:id1:xe1:q4:ping1:t1:a1:y1:qe".into(), "eli203e"),
        (format!("d1:ad{id}e1:q5:hello1:t1:a1:y1:qe"), "eli204e"),
        (format!("d1:ad{id}6:target20:abcdefghij0123456789e1:q5:hello1:t1:a1:y1:qe"), "1:rd2:id20:"),
        (
            format!(
                "d1:ad{id}9:info_hash20:abcdefghij01234567894:porti9e5:token1:xe1:q13:announce_peer1:t1:a1:y1:qe"
            ),
            "eli203e9:bad token",
        ),
    ] {
        let got = ask(&mut n, now, query.as_bytes()).unwrap();
        assert!(got.contains(answer), "{query} -> {got}");
    }
    assert_eq!(ask(&mut n, now, b"rubbish"), None);
    assert_eq!(ask(&mut n, now, b"d1:eli201e1:xe1:t1:a1:y1:ee"), None);
}

#[test]
fn a_reply_with_many_peers_fits_and_carries_nodes() {
    let now = Instant::now();
    let mut n = node(1, now);
    for i in 0..=255u8 {
        n.announced.insert(now, HASH, ([10, 0, 0, i], 80).into(), false);
        let contact = Contact { id: Id160([i; 20]), addr: at(i) };
        n.tables[0].on_answer(now, contact, Duration::ZERO, &n.config);
    }
    let method = Method::GetPeers { info_hash: HASH, scrape: false, no_seeds: false };
    let body = Body::Query(Query { id: Id160([7; 20]), want: Want::default(), method });
    let mut query = Vec::new();
    Message { transaction: b"abcd", version: None, ip: None, read_only: true, body }.emit(&mut query);
    n.handle_datagram(now, at(99), &query);
    let payload = n.poll_transmit().unwrap().payload;
    assert!(payload.len() <= MAX_PAYLOAD && payload.len() > MAX_PAYLOAD - 16, "{}", payload.len());
    let Body::Reply(reply) = Message::parse(&payload).unwrap().body else { panic!() };
    assert_eq!(reply.contacts().count(), 8);
    assert!(reply.peers().count() > 80);
}

#[test]
fn a_querier_enters_only_after_it_answered_and_a_read_only_one_never() {
    let now = Instant::now();
    for (ro, enters) in [(false, true), (true, false)] {
        let mut nodes = [node(1, now), Node::new(Config { read_only: ro, ..local() }, [2; 32], now)];
        nodes[1].ping(now, at(1)).unwrap();
        settle(&mut nodes, now);
        assert_eq!(nodes[0].table_sizes().0, 0);
        let later = now + Duration::from_secs(1);
        nodes[0].handle_timeout(later);
        settle(&mut nodes, later);
        assert_eq!(nodes[0].table_sizes().0, usize::from(enters));
        assert!(matches!(events(&mut nodes[1])[..], [Event::Pong { version: Some(VERSION), .. }]));
    }
}

#[test]
fn an_answer_from_elsewhere_or_from_ourselves_counts_for_nothing() {
    let now = Instant::now();
    let mut n = node(1, now);
    n.ping(now, at(2)).unwrap();
    let query = n.poll_transmit().unwrap();
    let tid = Message::parse(&query.payload).unwrap().transaction.to_vec();
    let reply = |id| {
        let body = Body::Reply(Reply { id, ..Reply::default() });
        let mut out = Vec::new();
        Message { transaction: &tid, version: None, ip: None, read_only: false, body }.emit(&mut out);
        out
    };
    n.handle_datagram(now, at(3), &reply(Id160([3; 20])));
    assert!(n.poll_event().is_none());
    n.handle_datagram(now, at(2), &reply(n.id));
    assert!(matches!(n.poll_event(), Some(Event::PingFailed { .. })));
    assert_eq!(n.table_sizes(), (0, 0));
}

#[test]
fn an_idle_node_asks_less_than_one_query_in_five_seconds() {
    let mut now = Instant::now();
    let mut nodes: Vec<_> = (1..=40).map(|n| node(n, now)).collect();
    for n in &mut nodes {
        n.add_bootstrap(now, [at(1)]);
    }
    let mut after_ten_minutes = 0;
    let start = now;
    while now < start + Duration::from_secs(1200) {
        settle(&mut nodes, now);
        now = nodes.iter().filter_map(|n| n.poll_timeout()).map(|(at, _)| at).min().unwrap().max(now);
        for n in &mut nodes {
            if n.poll_timeout().is_some_and(|(at, _)| at <= now) {
                n.handle_timeout(now);
            }
        }
        if now < start + Duration::from_secs(600) {
            after_ten_minutes = nodes[7].counters().queries_out;
        }
    }
    let per_second = (nodes[7].counters().queries_out - after_ten_minutes) as f64 / 600.0;
    assert!(per_second <= 0.2, "{per_second}");
    assert!(nodes.iter().all(|n| n.table_sizes().0 > 30));
}

proptest::proptest! {
    #[test]
    fn no_datagram_harms_a_node(datagrams: Vec<Vec<u8>>) {
        let now = Instant::now();
        let mut n = node(1, now);
        for bytes in datagrams {
            n.handle_datagram(now, at(9), &bytes);
        }
        proptest::prop_assert!(n.transmits.len() < MAX_TRANSMITS);
    }
}

#[test]
fn a_ping_to_where_nothing_can_be_sent_fails_at_once() {
    let now = Instant::now();
    let mut node = node(1, now);
    for addr in ["127.0.0.1:0", "224.0.0.1:5", "0.0.0.0:5"] {
        let ping = node.ping(now, addr.parse().unwrap()).unwrap();
        assert_eq!(events(&mut node), [Event::PingFailed { ping }]);
        assert!(node.poll_transmit().is_none(), "{addr}");
    }
}

#[test]
fn a_lost_announce_is_sent_again_twice() {
    let now = Instant::now();
    let mut nodes = [node(1, now), node(2, now)];
    nodes[0].add_bootstrap(now, [at(2)]);
    settle(&mut nodes, now);
    nodes[0].announce(now, HASH, 7000).unwrap();
    let (mut time, mut sent) = (now, 0);
    while time < now + Duration::from_secs(10) {
        while let Some(t) = nodes[0].poll_transmit() {
            let is_announce = t.payload.windows(13).any(|w| w == b"announce_peer");
            sent += u32::from(is_announce);
            if !is_announce {
                nodes[1].handle_datagram(time, at(1), &t.payload);
            }
        }
        while let Some(t) = nodes[1].poll_transmit() {
            nodes[0].handle_datagram(time, at(2), &t.payload);
        }
        time = nodes[0].poll_timeout().map_or(time, |(at, _)| at).max(time + Duration::from_millis(1));
        nodes[0].handle_timeout(time);
    }
    let over = |e: &Event| matches!(e, Event::Done { stats, .. } if stats.announced_to == 0);
    assert_eq!((sent, events(&mut nodes[0]).iter().any(over)), (3, true));
}

/// Who answered a search and is gone when it is to be told, costs no copy: the next closest is told instead.
#[test]
fn the_next_closest_is_told_in_place_of_one_who_left() {
    let mut time = Instant::now();
    let mut nodes: Vec<Node> = (1..=14).map(|n| node(n, time)).collect();
    let known: Vec<_> =
        nodes.iter().zip(1..14).map(|(node, n)| Contact { id: node.id(), addr: at(n) }).collect();
    nodes[13].add_saved(time, known);
    settle(&mut nodes, time);
    nodes[13].announce(time, HASH, 7000).unwrap();
    let mut gone = BTreeSet::new();
    let done = (0..2000).find_map(|_| {
        // Three take the search's questions, and are never heard again.
        let sent: Vec<_> = std::iter::from_fn(|| nodes[13].poll_transmit()).collect();
        for t in sent {
            let is_announce = t.payload.windows(13).any(|w| w == b"announce_peer");
            if is_announce && gone.len() < 3 {
                gone.insert(t.to);
            }
            if let Some(to) = (0..13).find(|&n| at(n as u8 + 1) == t.to && !gone.contains(&t.to)) {
                nodes[to].handle_datagram(time, at(14), &t.payload);
            }
        }
        for n in 0..13 {
            for t in std::iter::from_fn(|| nodes[n].poll_transmit()).collect::<Vec<_>>() {
                if t.to == at(14) {
                    nodes[13].handle_datagram(time, at(n as u8 + 1), &t.payload);
                }
            }
        }
        time += Duration::from_millis(20);
        nodes[13].handle_timeout(time);
        events(&mut nodes[13]).into_iter().find_map(|e| match e {
            Event::Done { stats, .. } => Some(stats.announced_to),
            _ => None,
        })
    });
    assert_eq!((done, gone.len()), (Some(K as u32), 3));
}

/// Who was a node once, and now refuses whatever it is asked, is no contact to keep or to name.
#[test]
fn one_who_answers_nothing_but_errors_leaves_the_table() {
    let start = Instant::now();
    let mut n = node(1, start);
    n.add_bootstrap(start, [at(2)]);
    let mut most = 0;
    for s in 0..7200 {
        let now = start + Duration::from_secs(s);
        n.handle_timeout(now);
        while let Some(t) = n.poll_transmit() {
            let message = Message::parse(&t.payload).unwrap();
            let body = match s {
                0..60 => Body::Reply(Reply { id: Id160([7; 20]), ..Reply::default() }),
                _ => Body::Error(crate::wire::krpc::ErrorBody { code: 202, text: b"no" }),
            };
            let mut out = Vec::new();
            Message { version: None, ip: None, body, ..message }.emit(&mut out);
            n.handle_datagram(now, at(2), &out);
        }
        most = most.max(n.table_sizes().0);
    }
    assert_eq!((most, n.table_sizes().0), (1, 0));
}
