//! One node against floods, forged senders, nonsense, and attempts to fill its memory.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::dht::config::{BURST_SECONDS, LIMIT_PER_IP, LIMIT_PER_NET, MAX_PAYLOAD};
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::krpc::{Body, Message, Method};

use crate::{COLUMNS, HEAP, MAX_HELD, Victim, alone, query};

/// Bytes out over bytes in that a sustained flood may come to.
const MAX_RATIO: f64 = 3.0;

fn get_peers(rng: &mut Rng, hash: Id160) -> Vec<u8> {
    query(Id160::random(rng), Method::GetPeers { info_hash: hash, scrape: false, no_seeds: false })
}

/// Peers for one torrent from as many addresses as a reply could ever hold, so that its answers are the largest.
fn popular(victim: &mut Victim, hash: Id160) {
    let mut rng = Rng::from_u64(5);
    for n in 0..200u8 {
        let from = SocketAddr::from(([150, n, 1, 1], 6881));
        announce(victim, &mut rng, from, hash, 7000);
        victim.pass(Duration::from_millis(100));
    }
    (victim.bytes_in, victim.bytes_out, victim.sent, victim.largest) = (0, 0, 0, 0);
    victim.out.clear();
}

/// Asks for a token and announces with it; whether that was accepted.
fn announce(victim: &mut Victim, rng: &mut Rng, from: SocketAddr, hash: Id160, port: u16) -> bool {
    victim.out.clear();
    victim.take(from, &get_peers(rng, hash));
    let Some(token) = victim.out.iter().find_map(|(_, payload)| token_of(payload)) else { return false };
    announce_with(victim, rng, from, hash, port, &token)
}

fn announce_with(
    victim: &mut Victim,
    rng: &mut Rng,
    from: SocketAddr,
    info_hash: Id160,
    port: u16,
    token: &[u8],
) -> bool {
    victim.out.clear();
    let method = Method::AnnouncePeer { info_hash, port, implied_port: false, seed: false, token };
    victim.take(from, &query(Id160::random(rng), method));
    let accepted = |bytes: &[u8]| matches!(Message::parse(bytes), Ok(Message { body: Body::Reply(_), .. }));
    victim.out.iter().any(|(to, payload)| *to == from && accepted(payload))
}

fn token_of(payload: &[u8]) -> Option<Vec<u8>> {
    match Message::parse(payload).ok()?.body {
        Body::Reply(reply) => reply.token.map(<[u8]>::to_vec),
        _ => None,
    }
}

/// A flood of a thousand queries a second for a while, from wherever `from` says.
fn flood(
    victim: &mut Victim,
    seconds: u64,
    rate: u64,
    mut from: impl FnMut(&mut Rng) -> SocketAddr,
    bytes: impl Fn(&mut Rng) -> Vec<u8>,
) {
    let mut rng = Rng::from_u64(9);
    for _ in 0..seconds {
        for _ in 0..rate {
            let addr = from(&mut rng);
            let bytes = bytes(&mut rng);
            victim.take(addr, &bytes);
        }
        victim.pass(Duration::from_secs(1));
    }
}

#[test]
fn floods_get_little_and_cost_little() {
    let _alone = alone();
    let hash = Id160([0x33; 20]);
    let mut rows = Vec::new();
    let one = |_: &mut Rng| SocketAddr::from(([9, 9, 9, 9], 6881));
    let sixteen =
        |rng: &mut Rng| SocketAddr::from(([9, 9, rng.below(256) as u8, rng.below(256) as u8], 6881));
    let anyone = |rng: &mut Rng| {
        let b: [u8; 4] = rng.bytes();
        SocketAddr::from(([1 + b[0] % 100, b[1], b[2], b[3]], 1024 + u16::from(b[1])))
    };
    let find = |rng: &mut Rng| query(Id160::random(rng), Method::FindNode { target: Id160::random(rng) });
    let get = move |rng: &mut Rng| get_peers(rng, hash);

    let mut run = |name: &str, limit: Option<u32>, f: &mut dyn FnMut(&mut Victim)| {
        let mut victim = Victim::new();
        popular(&mut victim, hash);
        let answered = victim.node.counters();
        f(&mut victim);
        println!("{}", victim.row(name));
        assert!(victim.peak < MAX_HELD, "{name}: {} bytes held", victim.peak);
        assert!(victim.largest <= MAX_PAYLOAD, "{name}: {} bytes in one answer", victim.largest);
        assert!(victim.queue <= 4, "{name}: {} queued", victim.queue);
        let ratio = victim.bytes_out as f64 / victim.bytes_in as f64;
        assert!(ratio <= MAX_RATIO, "{name}: {ratio:.2} bytes out for each that came in");
        if let Some(limit) = limit {
            let looked_at = victim.node.counters().queries_in - answered.queries_in;
            assert!(
                looked_at <= u64::from(limit) * (60 + u64::from(BURST_SECONDS)) + 1,
                "{name}: {looked_at}"
            );
        }
        rows.push(victim.row(name));
    };
    run("1,000/s from one address, find_node", Some(LIMIT_PER_IP), &mut |v| flood(v, 60, 1000, one, find));
    run("1,000/s from one address, get_peers", Some(LIMIT_PER_IP), &mut |v| flood(v, 60, 1000, one, get));
    run("3,000/s from a /16, get_peers", Some(LIMIT_PER_NET), &mut |v| flood(v, 60, 3000, sixteen, get));
    run("20/s as one victim, get_peers", None, &mut |v| flood(v, 300, 20, one, get));
    run("20/s as one victim, find_node", None, &mut |v| flood(v, 300, 20, one, find));
    run("2,000/s as anyone, find_node", None, &mut |v| flood(v, 60, 2000, anyone, find));
    run("2,000/s as anyone, get_peers", None, &mut |v| flood(v, 60, 2000, anyone, get));
    crate::check("floods", COLUMNS, &rows);
}

#[test]
fn nothing_goes_to_an_address_that_cannot_receive() {
    let _alone = alone();
    let mut victim = Victim::new();
    let mut rng = Rng::from_u64(4);
    let before = victim.sent;
    let nowhere = [
        "0.0.0.0:5",
        "0.1.2.3:5",
        "224.0.0.1:5",
        "239.1.2.3:5",
        "255.255.255.255:5",
        "8.8.8.8:0",
        "[ff02::1]:5",
        "[::]:5",
    ];
    for from in nowhere {
        let from = from.parse().unwrap();
        for bytes in [
            query(Id160::random(&mut rng), Method::Ping),
            get_peers(&mut rng, Id160::ZERO),
            query(Id160::random(&mut rng), Method::Other { name: b"what", target: None }),
            b"d1:ade1:q4:ping1:t2:aa1:y1:qe".to_vec(),
        ] {
            victim.take(from, &bytes);
        }
    }
    assert_eq!(victim.sent, before);
    // Nor is anyone there asked later, not even to see whether he may enter the table.
    victim.pass(Duration::from_secs(600));
    let there = |to: &SocketAddr| nowhere.iter().any(|n| n.parse() == Ok(*to));
    assert!(!victim.out.iter().any(|(to, _)| there(to)));
    assert!(victim.peak < MAX_HELD, "{} bytes held", victim.peak);
}

#[test]
fn a_token_is_worth_nothing_elsewhere_or_later() {
    let _alone = alone();
    let mut victim = Victim::new();
    let (mut rng, hash) = (Rng::from_u64(4), Id160([5; 20]));
    let (here, elsewhere) = (SocketAddr::from(([9, 9, 9, 9], 1)), SocketAddr::from(([9, 9, 9, 8], 1)));
    victim.take(here, &get_peers(&mut rng, hash));
    let token = victim.out.iter().find_map(|(_, p)| token_of(p)).unwrap();
    let mut refused = 0;
    for n in 0..200u8 {
        let from = SocketAddr::from(([100, n, 1, 1], 1));
        refused += usize::from(!announce_with(&mut victim, &mut rng, from, hash, 7, &token));
    }
    assert_eq!(refused, 200);
    assert_eq!(victim.node.snapshot(victim.now).stored_hashes, 0);
    assert!(!announce_with(&mut victim, &mut rng, elsewhere, hash, 7, &token));
    assert!(announce_with(&mut victim, &mut rng, here, hash, 7, &token));
    victim.pass(Duration::from_secs(601));
    assert!(!announce_with(&mut victim, &mut rng, here, hash, 7, &token));
    assert!(victim.peak < MAX_HELD, "{} bytes held", victim.peak);
}

/// Announces of as many torrents from as many addresses, each with its own token.
fn fill(count: u32) -> Victim {
    let mut victim = Victim::new();
    let mut rng = Rng::from_u64(6);
    for n in 0..count {
        // Spread thinly, so that no limit for an address or a network stands in the way.
        let [_, a, b, c] = n.wrapping_mul(0x9E37_79B1).to_be_bytes();
        let from = SocketAddr::from(([11 + (n % 60) as u8, c, a, b], 6881));
        // Half of them for a few torrents, which have a bound of their own.
        let hash = if n % 2 == 0 { Id160::random(&mut rng) } else { Id160([(n % 64) as u8; 20]) };
        announce(&mut victim, &mut rng, from, hash, 7000);
        if n % 16 == 0 {
            victim.pass(Duration::from_millis(2));
        }
    }
    victim
}

#[test]
fn announces_without_end_fill_no_memory() {
    let _alone = alone();
    let victim = fill(100_000);
    let row = victim.row("100,000 announces");
    assert!(victim.peak < MAX_HELD, "{row}");
    assert!(victim.node.snapshot(victim.now).stored_hashes > 10_000, "the attack must get through");
    crate::check("announces", COLUMNS, &[row]);
}

#[test]
#[ignore = "minutes; run it optimized: cargo test --release --test attacks -- --ignored ten_million"]
fn ten_million_announces_fill_no_memory() {
    let _alone = alone();
    let victim = fill(10_000_000);
    println!("{COLUMNS}\n{}", victim.row("10,000,000 announces"));
    assert!(victim.peak < MAX_HELD, "{} bytes held", victim.peak);
    let held = HEAP.current_usage() - victim.before;
    println!("{held} bytes held at the end, {} torrents", victim.node.snapshot(victim.now).stored_hashes);
}

#[test]
fn malformed_datagrams_of_every_kind_change_nothing() {
    let _alone = alone();
    let mut victim = Victim::new();
    let known = victim.node.table_sizes();
    let mut rng = Rng::from_u64(8);
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/krpc");
    let mut files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20);
    let good = get_peers(&mut rng, Id160::ZERO);
    let mut cases: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    // Every way to cut a good one short, to change one byte of it, and to nest too deep.
    cases.extend((0..good.len()).map(|at| good[..at].to_vec()));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << rng.below(8);
        cases.push(bytes);
    }
    cases.extend([
        vec![b'd'; 65_000],
        vec![b'l'; 65_000],
        b"i".repeat(9000),
        b"99999999999:".to_vec(),
        Vec::new(),
    ]);
    for round in 0..20u8 {
        for (n, case) in cases.iter().enumerate() {
            let from = SocketAddr::from(([90 + round, n as u8, (n >> 8) as u8, 1], 6881));
            victim.take(from, case);
        }
        victim.pass(Duration::from_secs(1));
    }
    let row = victim.row("malformed datagrams of every kind");
    println!("{row}");
    assert!(victim.peak < MAX_HELD, "{row}");
    assert!(victim.node.counters().malformed > 1000);
    assert_eq!(victim.node.table_sizes(), known);
    crate::check("malformed", COLUMNS, &[row]);
}
