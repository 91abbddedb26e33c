//! Hashing pieces, and choosing blocks in a large torrent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dhtget::id::Id160;
use dhtget::peer::Bitfield;
use dhtget::swarm::{Action, Config, Input, PeerKey, Swarm};
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{BLOCK_LEN, Info};
use dhtget::wire::peer::{Handshake, Message, Reserved};
use divan::counter::BytesCount;
use sha1::{Digest as _, Sha1};

fn main() {
    divan::main();
}

#[divan::bench(args = [256, 1024, 4096])]
fn sha1_of_a_piece_of_kib(bencher: divan::Bencher<'_, '_>, kib: usize) {
    let piece = vec![0x5a; kib << 10];
    bencher.counter(BytesCount::of_slice(&piece)).bench_local(|| Sha1::digest(divan::black_box(&piece)));
}

fn info(pieces: usize) -> Arc<Info> {
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    let piece_length = 16 * i64::from(BLOCK_LEN);
    w.begin_dict().bytes(b"length").int(piece_length * pieces as i64).bytes(b"name").bytes(b"n");
    w.bytes(b"piece length").int(piece_length).bytes(b"pieces").bytes(&vec![1; 20 * pieces]).end();
    Arc::new(Info::parse(out.into()).expect("a valid dictionary"))
}

/// A swarm that lacks everything, and one peer with every second piece that lets it request.
fn swarm(info: &Arc<Info>, now: Instant) -> (Swarm, PeerKey) {
    let config = Config::new(Id160([1; 20]));
    let mut swarm = Swarm::new(info.hash(), config, [3; 32], now);
    swarm.handle(now, Input::Info(info.clone()));
    swarm.handle(now, Input::DiskReady(Bitfield::none(info.layout().count())));
    let peer = swarm.accept(now, SocketAddr::from(([8, 8, 8, 8], 6881))).expect("room for one");
    let mut hello = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash: info.hash(), peer_id: Id160([2; 20]) }.emit(&mut hello);
    let bits = vec![0xaa; (info.layout().count() as usize).div_ceil(8)];
    Message::Bitfield(bits.into()).emit(&mut hello);
    swarm.handle(now, Input::Received(peer, hello.into()));
    while swarm.poll_action().is_some() {}
    (swarm, peer)
}

fn framed(message: &Message) -> Bytes {
    let mut out = Vec::new();
    message.emit(&mut out);
    out.into()
}

const PIECES: [usize; 2] = [10_000, 1_000_000];

/// Sixteen blocks chosen by rarity and asked for.
#[divan::bench(args = PIECES, max_time = 2)]
fn ask_a_new_peer(bencher: divan::Bencher<'_, '_>, pieces: usize) {
    let (info, now) = (info(pieces & !7), Instant::now());
    let unchoke = framed(&Message::Unchoke);
    bencher.with_inputs(|| swarm(&info, now)).bench_local_values(|(mut swarm, peer)| {
        swarm.handle(now, Input::Received(peer, unchoke.clone()));
        let sent =
            std::iter::from_fn(|| swarm.poll_action()).filter(|a| matches!(a, Action::Send(..))).count();
        (sent, swarm)
    });
}

/// A peer whose only pieces are under way with another, and who says something a hundred times: each time it is looked at
/// what it could be asked for.
#[divan::bench(args = PIECES, max_time = 2)]
fn a_hundred_looks_in_vain(bencher: divan::Bencher<'_, '_>, pieces: usize) {
    let (info, now) = (info(pieces & !7), Instant::now());
    let inputs = || {
        let (mut swarm, first) = swarm(&info, now);
        swarm.handle(now, Input::Received(first, framed(&Message::Unchoke)));
        let requested = |a: Action| match a {
            Action::Send(_, bytes) => Some(bytes),
            _ => None,
        };
        let sent: Vec<u8> =
            std::iter::from_fn(|| swarm.poll_action()).filter_map(requested).flatten().collect();
        // The first request's piece, behind its length and kind.
        let at = sent.windows(5).position(|w| w == [0, 0, 0, 13, 6]).expect("a request");
        let index = u32::from_be_bytes(sent[at + 5..at + 9].try_into().expect("four bytes"));
        // The first of these is asked for the rest of it.
        let [_, idle] = [3, 4].map(|id| {
            let peer = swarm.accept(now, SocketAddr::from(([9, 9, 9, id], 6881))).expect("room for three");
            let mut said = Vec::new();
            let peer_id = Id160([id; 20]);
            Handshake { reserved: Reserved::OURS, info_hash: info.hash(), peer_id }.emit(&mut said);
            [Message::Have(index), Message::Unchoke].iter().for_each(|m| m.emit(&mut said));
            swarm.handle(now, Input::Received(peer, said.into()));
            peer
        });
        (swarm, idle)
    };
    let word = framed(&Message::KeepAlive);
    bencher.with_inputs(inputs).bench_local_values(|(mut swarm, peer)| {
        for _ in 0..100 {
            swarm.handle(now, Input::Received(peer, word.clone()));
        }
        swarm
    });
}

/// A have of each second piece: what a long download sees most of.
#[divan::bench(args = PIECES, max_time = 2)]
fn a_thousand_haves(bencher: divan::Bencher<'_, '_>, pieces: usize) {
    let (info, now) = (info(pieces & !7), Instant::now());
    let haves: Bytes = (0..1000).flat_map(|i| framed(&Message::Have(i * 2 + 1))).collect::<Vec<_>>().into();
    bencher.with_inputs(|| swarm(&info, now)).bench_local_values(|(mut swarm, peer)| {
        swarm.handle(now, Input::Received(peer, haves.clone()));
        swarm
    });
}
