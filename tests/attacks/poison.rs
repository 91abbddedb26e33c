//! One node whose neighbours name addresses that must not be sent to, and one that is given items without end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dhtget::dht::config::STORE_BYTES;
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;
use dhtget::wire::krpc::{Body, Message, Method, Put, Reply, code};

use crate::{COLUMNS, MAX_HELD, OWN, Victim, alone, query};

/// What liars name: places where nobody can be, where only the node's own neighbours can be, and the node itself.
const POISON: [&str; 21] = [
    "9.8.7.6:6881",
    "9.8.7.6:80",
    "8.8.8.8:0",
    "0.0.0.0:6881",
    "0.1.2.3:6881",
    "127.0.0.1:6881",
    "127.9.9.9:53",
    "10.1.2.3:6881",
    "172.16.0.1:80",
    "192.168.1.1:80",
    "169.254.169.254:80",
    "100.64.0.1:6881",
    "198.18.0.1:6881",
    "224.0.0.1:6881",
    "239.255.255.250:1900",
    "240.0.0.1:6881",
    "255.255.255.255:6881",
    "[::1]:6881",
    "[::ffff:127.0.0.1]:6881",
    "[ff02::1]:5353",
    "[fe80::1]:6881",
];

/// Told from the addresses alone, without the machine's own judgement.
pub fn is_forbidden(addr: SocketAddr) -> bool {
    let ip = match addr.ip().to_canonical() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            return addr.port() == 0 || first >= 0xfc00 || first == 0;
        }
    };
    let site = match ip {
        [0 | 10 | 127 | 224.., ..] | [169, 254, ..] | [192, 168, ..] | [198, 18 | 19, ..] => true,
        [172, b, ..] => (16..32).contains(&b),
        [100, b, ..] => (64..128).contains(&b),
        _ => false,
    };
    site || addr.port() == 0 || ip == OWN
}

#[test]
fn nothing_is_ever_sent_to_an_address_that_liars_named() {
    let _alone = alone();
    let poison: Vec<SocketAddr> = POISON.iter().map(|text| text.parse().unwrap()).collect();
    assert!(poison.iter().all(|addr| is_forbidden(*addr)));
    for ipv6 in [true, false] {
        let mut victim = Victim::with(ipv6);
        victim.strict = true;
        let own = victim.node.id();
        let mut rng = Rng::from_u64(11);
        let (mut named, mut searches) = (0, 0);
        for second in 0..600u32 {
            let target = Id160::random(&mut rng);
            if second % 10 == 0 {
                searches += usize::from(victim.node.get_peers(victim.now, target).is_ok());
            }
            victim.drain();
            for (to, payload) in std::mem::take(&mut victim.out) {
                let Some(honest) = victim.others.iter().find(|c| c.addr == to).copied() else { continue };
                let wanted = target_of(&payload).unwrap_or(target);
                // Next to the target, so that they would be asked before all others; some under our own id.
                let mut lie = || {
                    named += 1;
                    let id = if rng.chance(0.1) { own } else { wanted.random_with_prefix(30, &mut rng) };
                    Contact { id, addr: poison[rng.below(poison.len())] }
                };
                let lies: Vec<_> = (0..8).map(|_| lie()).collect();
                victim.answer_with(honest.id, to, &payload, &lies);
            }
            victim.pass(Duration::from_secs(1));
        }
        assert!(searches > 50 && named > 3000, "{searches} searches, {named} lies");
        let snapshot = victim.node.snapshot(victim.now);
        assert!(snapshot.nodes_v4.iter().chain(&snapshot.nodes_v6).all(|c| !is_forbidden(c.addr)));
        assert!(snapshot.nodes_v4.len() >= 50, "the table has suffered: {}", snapshot.nodes_v4.len());
        assert!(victim.peak < MAX_HELD, "{} bytes held", victim.peak);
    }
}

fn target_of(payload: &[u8]) -> Option<Id160> {
    let Body::Query(query) = Message::parse(payload).ok()?.body else { return None };
    match query.method {
        Method::FindNode { target } => Some(target),
        Method::GetPeers { info_hash, .. } => Some(info_hash),
        _ => None,
    }
}

/// The reply to the last query, read by `read`.
fn last<T>(victim: &Victim, read: impl Fn(&Body<'_>) -> Option<T>) -> Option<T> {
    let (_, payload) = victim.out.last()?;
    read(&Message::parse(payload).ok()?.body)
}

fn token(victim: &mut Victim, rng: &mut Rng, from: SocketAddr) -> Option<Vec<u8>> {
    let get = Method::Get { target: Id160::random(rng), seq: None };
    victim.take(from, &query(Id160::random(rng), get));
    last(victim, |body| match body {
        Body::Reply(Reply { token, .. }) => token.map(<[u8]>::to_vec),
        _ => None,
    })
}

fn put(victim: &mut Victim, rng: &mut Rng, from: SocketAddr, put: Put<'_>) -> Option<i64> {
    victim.take(from, &query(Id160::random(rng), Method::Put(put)));
    last(victim, |body| match body {
        Body::Error(error) => Some(error.code),
        _ => None,
    })
}

#[test]
fn items_without_end_fill_no_memory_and_too_long_ones_are_refused() {
    let _alone = alone();
    let mut victim = Victim::new();
    let mut rng = Rng::from_u64(12);
    let (mut too_long, mut taken) = (0, 0);
    for n in 0..30_000u32 {
        let [_, a, b, c] = n.wrapping_mul(0x9E37_79B1).to_be_bytes();
        let from = SocketAddr::from(([11 + (n % 60) as u8, c, a, b], 6881));
        let Some(token) = token(&mut victim, &mut rng, from) else { continue };
        // A thousand bytes at most (BEP 44), each item another; a tenth are longer.
        let long = n % 10 == 0;
        let length = if long { 1000 + rng.below(20_000) } else { 900 };
        let mut value = format!("{length}:{n:08}").into_bytes();
        value.resize(value.len() + length - 8, b'x');
        let salt = if n % 3 == 0 { vec![b's'; 65] } else { Vec::new() };
        let forged = dhtget::wire::krpc::Signed { key: &[3; 32], seq: i64::from(n), signature: &[4; 64] };
        let signed = (n % 3 == 0).then_some(forged);
        let item = Put { token: &token, value: &value, signed, cas: None, salt: &salt };
        let refused = put(&mut victim, &mut rng, from, item);
        if long {
            assert_eq!(refused, Some(code::TOO_BIG), "{length} bytes");
            too_long += 1;
        } else {
            assert_eq!(refused.is_some(), signed.is_some(), "{refused:?}");
            taken += u32::from(refused.is_none());
        }
        victim.out.clear();
        if n % 16 == 0 {
            victim.pass(Duration::from_millis(2));
        }
    }
    let stored = victim.node.report(victim.now).stored;
    let row = victim.row("30,000 items, a tenth too long");
    assert!(too_long > 2500 && taken > 15_000, "{too_long} {taken}: the attack must get through");
    assert!(stored.items > 1000 && stored.bytes <= STORE_BYTES, "{stored:?}");
    assert!(victim.peak < MAX_HELD, "{row}");
    crate::check("items", COLUMNS, &[row]);
}
