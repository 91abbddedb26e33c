//! A node with a well-filled table, and the questions that strangers ask it.

use std::net::SocketAddr;
use std::time::Instant;

use dhtget::dht::{Config, Event, Limits, Network, Node};
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::krpc::{Body, Message, Method, Query, Reply, Want};

/// Who asks: in no table of ours.
pub fn stranger(network: Network, n: u32) -> SocketAddr {
    let first = if network == Network::Local { 127 } else { 9 };
    ([first, 9, (n >> 8) as u8, n as u8], 7000).into()
}

fn message<'a>(transaction: &'a [u8], body: Body<'a>) -> Vec<u8> {
    let mut out = Vec::new();
    Message { transaction, version: None, ip: None, read_only: false, body }.emit(&mut out);
    out
}

/// A node whose table 1,000 others have tried to enter by answering a ping.
pub fn full_node(now: Instant, network: Network) -> Node {
    // What is measured is an answer, not a refusal; the looking up is the same.
    let limits = Limits { queries_per_ip: 1_000_000, queries_per_net: 1_000_000, ..Limits::default() };
    let config = Config { network, ipv6: false, limits, ..Config::default() };
    let (mut node, mut rng) = (Node::new(config, [7; 32], now), Rng::from_u64(7));
    for n in 0..1000u32 {
        let first = if network == Network::Local { 127 } else { 8 };
        let addr = SocketAddr::from(([first, (n >> 8) as u8, n as u8, 1], 6881));
        // Near and far, so that more than the first few buckets fill.
        let bits = if n.is_multiple_of(2) { 0 } else { rng.below(8) };
        let id = node.id().random_with_prefix(bits, &mut rng);
        node.ping(now, addr).expect("pings are answered at once");
        while let Some(query) = node.poll_transmit() {
            let Ok(query) = Message::parse(&query.payload) else { continue };
            let reply = message(query.transaction, Body::Reply(Reply { id, ..Reply::default() }));
            node.handle_datagram(now, addr, &reply);
        }
        while node.poll_event().is_some_and(|e| matches!(e, Event::Pong { .. })) {}
    }
    node
}

/// Every kind of question, by name.
pub const KINDS: [&str; 6] =
    ["ping", "find_node", "get_peers", "get_peers of a known hash", "announce_peer", "unknown"];

/// The info-hash that peers are announced for.
pub const KNOWN: Id160 = Id160([0xab; 20]);

/// The `n`th question of a kind; `token` is the asker's.
pub fn question(kind: &str, n: u32, token: &[u8]) -> Vec<u8> {
    let mut rng = Rng::from_u64(n.into());
    let (id, target) = (Id160::random(&mut rng), Id160::random(&mut rng));
    let method = match kind {
        "ping" => Method::Ping,
        "find_node" => Method::FindNode { target },
        "get_peers" => Method::GetPeers { info_hash: target, scrape: false, no_seeds: false },
        "get_peers of a known hash" => Method::GetPeers { info_hash: KNOWN, scrape: false, no_seeds: false },
        "announce_peer" => {
            Method::AnnouncePeer { info_hash: KNOWN, port: 9, implied_port: false, seed: false, token }
        }
        name => Method::Other { name: name.as_bytes(), target: Some(target) },
    };
    message(&n.to_be_bytes(), Body::Query(Query { id, want: Want::default(), method }))
}

/// The token that a node gives to that address.
pub fn token(node: &mut Node, now: Instant, from: SocketAddr) -> Vec<u8> {
    node.handle_datagram(now, from, &question("get_peers", 0, b""));
    let answer = node.poll_transmit().expect("an answer");
    match Message::parse(&answer.payload) {
        Ok(Message { body: Body::Reply(Reply { token: Some(token), .. }), .. }) => token.to_vec(),
        other => panic!("no token in {other:?}"),
    }
}
