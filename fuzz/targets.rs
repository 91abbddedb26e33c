//! What each fuzz target does with its bytes, and what must hold whatever they are.
//!
//! One body for two callers: `fuzz/fuzz_targets/` feeds it from libFuzzer, `tests/corpus.rs` replays
//! `fuzz/corpus/` with it. A property that fails panics; nothing here measures time. The two machines
//! return a fingerprint of everything they said, which has to be the same in a second run.

#[path = "targets/dht_node.rs"]
mod dht_node_script;
#[path = "targets/script.rs"]
mod script;
#[path = "targets/swarm.rs"]
mod swarm_script;

use std::time::{Duration, Instant};

use bytes::Bytes;
use dhtget::dht::vicinity::{Link, Vicinity};
use dhtget::id::Id160;
use dhtget::peer::{Bitfield, Connection, Settings, Transmit};
use dhtget::wire::advert::{Advert, Heard, MAX_ADDRESSES, MAX_KNOWN};
use dhtget::wire::badge::LanIdentity;
use dhtget::wire::bencode::{Limits, Value, Writer};
use dhtget::wire::compact::{self, Contact};
use dhtget::wire::extended::{ExtendedHandshake, MetadataMessage};
use dhtget::wire::krpc::{self, Body};
use dhtget::wire::magnet::{self, Magnet};
use dhtget::wire::metainfo::{self, FileKind, Info, Metainfo};
use dhtget::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, Message, PeerWireError};
use dhtget::wire::pex::PexMessage;

/// Runs one input.
pub type Target = fn(&[u8]) -> u64;

/// All targets by name, as `fuzz/corpus/` has its folders. The number is the fingerprint, 0 where a
/// target keeps no state.
pub const TARGETS: [(&str, Target); 8] = [
    ("bencode", |data| stateless(bencode, data)),
    ("krpc", |data| stateless(krpc, data)),
    ("peer_wire", |data| stateless(peer_wire, data)),
    ("metainfo", |data| stateless(metainfo, data)),
    ("magnet", |data| stateless(magnet, data)),
    ("advert", |data| stateless(advert, data)),
    ("dht_node", dht_node),
    ("swarm", swarm),
];

fn stateless(target: fn(&[u8]), data: &[u8]) -> u64 {
    target(data);
    0
}

/// A sequence of datagrams, wishes and timeouts into [`dhtget::dht::Node`].
pub fn dht_node(data: &[u8]) -> u64 {
    dht_node_script::run(data)
}

/// A sequence of inputs into [`dhtget::swarm::Swarm`].
pub fn swarm(data: &[u8]) -> u64 {
    swarm_script::run(data)
}

// ---- bencode

/// Any bytes: what parses is written again, and reads as the same value.
pub fn bencode(data: &[u8]) {
    for limits in [Limits::MESSAGE, Limits::TORRENT] {
        let Ok((value, rest)) = Value::parse_prefix(data, limits) else { continue };
        assert_eq!(value.raw().len() + rest.len(), data.len());
        assert_eq!(Value::parse(value.raw(), limits), Ok(value));
        let mut out = Vec::new();
        let mut tokens = 0;
        rewrite(value, &mut Writer::new(&mut out), 0, &mut tokens, limits);
        let again = Value::parse(&out, limits).expect("what we write, we read");
        let mut twice = Vec::new();
        rewrite(again, &mut Writer::new(&mut twice), 0, &mut 0, limits);
        assert_eq!(out, twice);
    }
}

/// Writes `value` with the minimal spelling of each length; recursion is bounded by the limit on depth.
fn rewrite(value: Value<'_>, w: &mut Writer<'_>, depth: usize, tokens: &mut usize, limits: Limits) {
    *tokens += 1;
    assert!(depth <= limits.depth && *tokens <= limits.tokens);
    let kinds = [value.bytes().is_some(), value.int().is_some(), value.is_list(), value.is_dict()];
    assert_eq!(kinds.iter().filter(|k| **k).count(), 1, "a value is of one kind");
    if let Some(bytes) = value.bytes() {
        assert_eq!(value.text(), std::str::from_utf8(bytes).ok());
        w.bytes(bytes);
    } else if let Some(int) = value.int() {
        assert_eq!(value.uint(), u64::try_from(int).ok());
        w.int(int);
    } else if value.is_list() {
        w.begin_list();
        value.list().for_each(|item| rewrite(item, w, depth + 1, tokens, limits));
        w.end();
    } else {
        w.begin_dict();
        for (index, (key, item)) in value.dict().enumerate() {
            *tokens += 1;
            w.bytes(key);
            rewrite(item, w, depth + 1, tokens, limits);
            if index == 0 {
                assert_eq!(value.get(key), Some(item));
            }
        }
        w.end();
    }
}

// ---- krpc

/// One datagram: a message that parses is written and read as itself, and its lists stay in its bounds.
pub fn krpc(data: &[u8]) {
    let Ok(message) = krpc::Message::parse(data) else { return };
    let mut out = Vec::new();
    message.emit(&mut out);
    assert_eq!(krpc::Message::parse(&out), Ok(message), "{}", out.escape_ascii());
    let Body::Reply(reply) = message.body else { return };
    assert!(reply.contacts().count() * compact::NODE_V4 <= data.len());
    assert!(reply.peers().count() * compact::PEER_V4 <= data.len());
    for contact in reply.contacts() {
        assert_eq!(contact.addr, compact::canonical(contact.addr));
        let mut bytes = Vec::new();
        compact::write_node(&contact, &mut bytes);
        let back: Vec<Contact> = match contact.addr.is_ipv4() {
            true => compact::nodes_v4(&bytes).collect(),
            false => compact::nodes_v6(&bytes).collect(),
        };
        assert_eq!(back, [contact]);
    }
}

// ---- the peer wire

/// A stream, cut into chunks as its first byte says: frames do not depend on the cuts, messages are
/// written and read as themselves, and a connection survives all of it.
pub fn peer_wire(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let (whole, error) = frames(stream, stream.len().max(1));
    assert_eq!(frames(stream, usize::from(cut).max(1)), (whole.clone(), error));
    for message in &whole {
        let mut out = Vec::new();
        message.emit(&mut out);
        assert_eq!(frames(&out, out.len()), (vec![message.clone()], None));
        match message {
            Message::Piece { data, .. } => assert!(data.len() <= metainfo::BLOCK_LEN as usize),
            Message::Bitfield(bits) => field(bits),
            Message::Extended { payload, .. } => extended(payload),
            _ => {}
        }
    }
    if let Ok(Some(handshake)) = Handshake::parse(stream) {
        let mut out = Vec::new();
        handshake.emit(&mut out);
        assert_eq!(out, stream[..HANDSHAKE_LEN]);
    }
    connection(stream, usize::from(cut).max(1));
}

fn frames(stream: &[u8], chunk: usize) -> (Vec<Message>, Option<PeerWireError>) {
    let (mut frames, mut out) = (Frames::default(), Vec::new());
    for bytes in stream.chunks(chunk) {
        frames.push(Bytes::copy_from_slice(bytes));
        loop {
            match frames.next_message() {
                Ok(Some(message)) => out.push(message),
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, None)
}

/// A bitfield of any length that fits it keeps its bits.
fn field(bits: &Bytes) {
    for spare in 0..8 {
        let len = (bits.len() as u32 * 8).saturating_sub(spare);
        if let Some(field) = Bitfield::from_wire(bits, len) {
            assert_eq!(field.to_wire(), *bits);
            assert_eq!(field.iter().count() as u32, field.ones());
            assert!(field.ones() <= len && !field.has(len));
        }
    }
}

fn extended(payload: &Bytes) {
    if let Some(handshake) = ExtendedHandshake::parse(payload) {
        let again = ExtendedHandshake::parse(&handshake.emit());
        assert_eq!(
            again.as_ref().map(|h| (h.metadata_id, h.metadata_size, h.request_queue, h.port)),
            Some((handshake.metadata_id, handshake.metadata_size, handshake.request_queue, handshake.port))
        );
    }
    if let Some(message) = PexMessage::parse(payload) {
        // Addresses mapped into IPv6 come back among the others, so only their number is the same.
        let again = PexMessage::parse(&message.emit()).map(|m| (m.added.len(), m.dropped.len()));
        assert_eq!(again, Some((message.added.len(), message.dropped.len())));
    }
    if let Some(message) = MetadataMessage::parse(payload) {
        assert_eq!(MetadataMessage::parse(&message.emit().into()), Some(message));
    }
}

/// Both directions of a connection: what it emits is itself a valid stream, and what it holds is bounded.
fn connection(stream: &[u8], chunk: usize) {
    let start = Instant::now();
    let settings = Settings {
        info_hash: Id160([9; 20]),
        peer_id: Id160([1; 20]),
        listen_port: Some(6881),
        dht_port: Some(6881),
        metadata_size: Some(300),
        pex: true,
        upload_only: false,
        peer_ip: Some([1, 2, 3, 4].into()),
    };
    for incoming in [false, true] {
        let mut conn = Connection::new(settings.clone(), incoming, start);
        let hello = [b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".as_slice(), &[9; 20], &[2; 20]].concat();
        assert_eq!(conn.handle_bytes(start, hello.into()), Ok(()));
        let asked: Vec<_> =
            (0..3).map(|i| BlockRef { index: 0, begin: i * metainfo::BLOCK_LEN, length: 2 }).collect();
        asked.iter().for_each(|block| conn.request(*block));
        conn.introduce();
        let mut sent = Vec::new();
        for (turn, bytes) in stream.chunks(chunk).enumerate() {
            let now = start + Duration::from_millis(turn as u64);
            if conn.handle_bytes(now, Bytes::copy_from_slice(bytes)).is_err() {
                break;
            }
            let events = std::iter::from_fn(|| conn.poll_event()).count();
            // The shortest message has four bytes, and what a chunk completes may have begun before it.
            assert!(events <= 2 + bytes.len() / 4);
            assert!(conn.requests() <= asked.len());
            assert!((1..=2000).contains(&conn.request_limit()));
            while let Some(out) = conn.poll_transmit(now) {
                let Transmit::Bytes(out) = out else { panic!("no block is on disk") };
                sent.extend_from_slice(&out);
            }
        }
        if !sent.is_empty() {
            assert_eq!(frames(&sent[HANDSHAKE_LEN..], sent.len()).1, None);
        }
        assert!(conn.poll_timeout() > start);
    }
}

// ---- metainfo

/// A `.torrent` or an info dictionary: sizes add up, no path leaves its folder, no two files share one.
pub fn metainfo(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(torrent) = Metainfo::parse(&data) {
        check(&torrent.info);
        assert!(torrent.nodes.len() <= 64);
        let again = Metainfo::parse(&Metainfo::emit(&torrent.info).into()).expect("what we write, we read");
        assert_eq!(again.info, torrent.info);
    }
    if let Ok(info) = Info::parse(data.clone()) {
        check(&info);
        assert_eq!(info.raw(), &data);
        assert_eq!(Info::parse_expecting(data, info.hash()).as_ref(), Ok(&info));
    }
}

fn check(info: &Info) {
    let mut offset = 0;
    let mut paths = std::collections::BTreeSet::new();
    for file in info.files() {
        assert_eq!(file.offset, offset);
        offset += file.length;
        if file.kind != FileKind::Regular {
            assert!(file.path.as_str().is_empty());
            continue;
        }
        assert!((1..=metainfo::MAX_PATH_DEPTH).contains(&file.path.components().count()));
        file.path.as_str().split('/').for_each(safe);
        assert!(paths.insert(file.path.components().collect::<Vec<_>>()), "two files at {:?}", file.path);
    }
    for path in &paths {
        let below = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        let next = paths.range::<Vec<&str>, _>(below).next();
        assert!(next.is_none_or(|next| !next.starts_with(path)), "a file where a folder must be: {path:?}");
    }
    safe(info.name());
    let layout = info.layout();
    assert_eq!(layout.total(), offset);
    let Some(last) = layout.count().checked_sub(1).and_then(|i| layout.piece(i)) else {
        return assert_eq!(offset, 0);
    };
    assert!(layout.piece(layout.count()).is_none());
    assert!((1..=layout.piece_length()).contains(&layout.len_of(last)));
    assert_eq!(layout.offset(last) + u64::from(layout.len_of(last)), offset);
    let blocks = layout.blocks_of(last);
    assert!(layout.block_len(last, blocks - 1) > 0);
    assert_eq!(layout.block_len(last, blocks), 0);
    for file in info.files() {
        let mut touched = layout.touching(file.offset, file.length);
        assert_eq!(touched.next().is_some(), file.length > 0);
    }
}

fn safe(name: &str) {
    assert!(!name.is_empty() && name != "." && name != "..", "{name:?}");
    assert!(!name.contains(['/', '\\', '\0']) && !name.chars().any(char::is_control), "{name:?}");
    assert!(name.len() <= 255, "{name:?}");
}

// ---- magnet

/// A text: a link that parses is written and read as itself; what it holds is bounded.
pub fn magnet(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(id) = text.parse::<Id160>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(host) = text.parse::<magnet::HostPort>() {
        assert!(host.port() != 0);
        assert_eq!(host.to_string().parse(), Ok(host));
    }
    let Ok(link) = text.parse::<Magnet>() else { return };
    assert!(Magnet::looks_like(&text));
    assert!(link.peers.len() <= magnet::MAX_PEERS && link.select.len() <= magnet::MAX_RANGES);
    assert!(link.peers.iter().all(|p| p.port() != 0));
    assert!(link.select.iter().all(|range| !range.is_empty()));
    assert!(link.name.as_ref().is_none_or(|n| !n.is_empty() && n.len() <= magnet::MAX_NAME_BYTES));
    let mut again: Magnet = link.to_string().parse().expect("what we write, we read");
    again.ignored = link.ignored.clone();
    assert_eq!(again, link);
}

// ---- advert

/// What somebody says to everybody on a link: what is read is written and read as itself, and a node that hears it
/// believes it only with the badge of its own network.
pub fn advert(data: &[u8]) {
    let identity = LanIdentity::new([7; 32]);
    let (now, addresses) = (Instant::now(), vec![[10, 0, 0, 9].into()]);
    let mut node = Vicinity::new(identity.clone(), 6881, [1; 32]);
    node.set_links(now, &[Link { index: 1, addresses }]);
    node.handle_datagram(now, 1, data);
    let named = std::iter::from_fn(|| node.poll_found()).count();
    match Heard::parse(data) {
        Some(Heard::Advert(advert)) => {
            assert!((1..=MAX_ADDRESSES).contains(&advert.addresses.len()));
            let Advert { nonce, badge, port, addresses, .. } = &advert;
            assert!(
                named <= addresses.len()
                    && (named == 0 || identity.recognises(badge, nonce, *port, addresses))
            );
            assert_eq!(Heard::parse(&advert.emit()), Some(Heard::Advert(advert)));
        }
        Some(Heard::Question(question)) => assert!(named == 0 && question.known.len() <= MAX_KNOWN),
        None => assert_eq!(named, 0),
    }
    node.handle_timeout(now + Duration::from_secs(1));
    while let Some((link, bytes)) = node.poll_transmit() {
        assert_eq!(link, 1);
        assert!(Heard::parse(&bytes).is_some(), "what we say, we understand");
    }
}
