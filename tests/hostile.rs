//! Peers that lie, flood, stall or talk nonsense, on real sockets: the download ends right, they are let go.
//!
//! Each test plays one misdeed by hand on plain TCP against a real [`Client`]. The honest peer, another
//! [`Client`] that seeds, joins when the misdeed is done, or stands beside it from the start.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

mod runtime;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dhtget::cli::progress::words;
use dhtget::client::{Client, ClientConfig, Job, Placement, Source, Stage, Status, Transfer, TransferEvent};
use dhtget::rng::Rng;
use dhtget::wire::bencode::Writer;
use dhtget::wire::extended::{ExtendedHandshake, MetadataMessage};
use dhtget::wire::metainfo::Info;
use dhtget::wire::peer::{BlockRef, HANDSHAKE_LEN, Message, Reserved};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use wire::Wire;

const SIZE: usize = (4 << 20) + 4321;
const PIECE: usize = 64 << 10;
/// The longest any test may wait: a handshake's ten seconds and some.
const PATIENCE: Duration = Duration::from_secs(40);

fn run(test: impl Future<Output = ()>) {
    runtime::run_within(PATIENCE, test);
}

// ---- the stage

/// A torrent, its data, and a folder to fetch it into.
struct Lab {
    dir: TempDir,
    content: Vec<u8>,
    info: Arc<Info>,
}

impl Lab {
    fn new() -> Self {
        let mut content = vec![0; SIZE];
        Rng::from_u64(7).fill(&mut content);
        let hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(SIZE as i64).bytes(b"name").bytes(b"data.bin");
        w.bytes(b"piece length").int(PIECE as i64).bytes(b"pieces").bytes(&hashes);
        // Three blocks of metadata.
        w.bytes(b"x-filler").bytes(&vec![b'x'; 40_000]).end();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("seed")).unwrap();
        std::fs::write(dir.path().join("seed/data.bin"), &content).unwrap();
        Self { dir, content, info: Arc::new(Info::parse(out.into()).unwrap()) }
    }

    async fn client(&self, limit_upload: Option<u64>) -> Client {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let config = ClientConfig { listen, private_network: true, limit_upload, ..ClientConfig::default() };
        Client::start(config).await.unwrap()
    }

    fn known(&self) -> Source {
        Source::Info(self.info.clone())
    }

    fn magnet(&self) -> Source {
        Source::Hash(self.info.hash())
    }

    /// The client under attack.
    async fn victim(&self, source: Source, peers: &[SocketAddr], seed: bool) -> Victim {
        let client = self.client(None).await;
        let dir = self.dir.path().join("fetched");
        let transfer = client.add(Job {
            source,
            placement: Placement::Folder { dir, name: None, overwrite: false },
            peers: peers.iter().map(ToString::to_string).collect(),
            seed,
            super_seed: false,
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], client.port()));
        Victim { addr, transfer, _client: client }
    }

    /// A seed that dials `victim`.
    async fn honest(&self, victim: SocketAddr, limit_upload: Option<u64>) -> (Client, Transfer) {
        let client = self.client(limit_upload).await;
        let transfer = client.add(Job {
            source: self.known(),
            placement: Placement::InPlace(self.dir.path().join("seed/data.bin")),
            peers: vec![victim.to_string()],
            seed: true,
            super_seed: false,
        });
        (client, transfer)
    }

    /// The victim finishes, and every byte is right.
    async fn finish(&self, victim: &mut Victim) {
        loop {
            match victim.transfer.next().await.expect("the transfer ended early") {
                TransferEvent::Complete => break,
                TransferEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert!(std::fs::read(self.dir.path().join("fetched/data.bin")).unwrap() == self.content);
        let status = victim.status();
        assert_eq!((status.verified, status.total), (SIZE as u64, SIZE as u64));
    }

    fn block(&self, block: &BlockRef) -> Vec<u8> {
        let begin = block.index as usize * PIECE + block.begin as usize;
        self.content[begin..begin + block.length as usize].to_vec()
    }
}

struct Victim {
    addr: SocketAddr,
    transfer: Transfer,
    _client: Client,
}

impl Victim {
    fn status(&self) -> Status {
        self.transfer.status().borrow().clone()
    }

    async fn until(&self, what: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.transfer.status();
        status.wait_for(what).await.unwrap().clone()
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A misdeed on a connection that the victim dialled, after which it must drop us; then the honest peer comes.
fn dropped_after(source: fn(&Lab) -> Source, reserved: Reserved, misdeed: impl AsyncFnOnce(&mut Wire)) {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(source(&lab), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, reserved).await;
        misdeed(&mut wire).await;
        wire.dropped().await;
        assert_eq!(victim.status().verified, 0);
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
    });
}

/// A misdeed that goes on beside an honest peer until the victim is done.
fn disturbs_nobody(source: fn(&Lab) -> Source, misdeed: impl AsyncFnOnce(&mut Wire)) {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(source(&lab), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        misdeed(&mut wire).await;
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
        wire.dropped().await;
    });
}

/// All but the fast extension.
const SLOW: Reserved = Reserved([0, 0, 0, 0, 0, 0x10, 0, 0]);

// ---- frames

#[test]
fn a_length_of_4_gib_is_refused_at_the_prefix() {
    for id in [0u8, 5, 7, 20, 99] {
        dropped_after(Lab::known, Reserved::OURS, async move |wire| {
            wire.raw(&[0xff, 0xff, 0xff, 0xff, id]).await;
        });
    }
}

#[test]
fn an_encrypted_handshake_is_closed_at_its_first_byte() {
    run(async {
        let lab = Lab::new();
        let mut victim = lab.victim(lab.known(), &[], false).await;
        let mut stream = TcpStream::connect(victim.addr).await.unwrap();
        stream.write_all(&[0x5a]).await.unwrap();
        let mut buffer = [0; 8];
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap();
        assert_eq!(end.unwrap_or(0), 0, "nothing is said to who does not speak the protocol");
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
    });
}

#[test]
fn a_dialled_peer_that_answers_in_another_protocol_is_dropped() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.known(), &[addr], false).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.len() <= HANDSHAKE_LEN);
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
    });
}

#[test]
fn slow_lorises_and_silent_ones_keep_nobody_out() {
    run(async {
        let lab = Lab::new();
        let mut victim = lab.victim(lab.known(), &[], false).await;
        let mut crowd = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(victim.addr).await.unwrap();
            // Half of them begin a handshake, byte by byte; the others say nothing.
            if number % 2 == 0 {
                stream.write_all(b"\x13").await.unwrap();
            }
            crowd.push(stream);
        }
        let _honest = lab.honest(victim.addr, None).await;
        let finish = tokio::time::timeout(Duration::from_secs(8), lab.finish(&mut victim));
        finish.await.expect("the honest peer waits behind those that dawdle");
        for stream in crowd.iter_mut().step_by(2) {
            let _ = stream.write_all(b"B").await;
        }
    });
}

#[test]
fn a_dialled_peer_that_says_nothing_is_dropped_after_ten_seconds() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.known(), &[addr], true).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest));
        let _ = end.await.expect("still open");
        assert_eq!(rest.len(), HANDSHAKE_LEN);
    });
}

// ---- extension messages and metadata

#[test]
fn ten_thousand_nested_lists_end_the_connection() {
    for source in [Lab::known, Lab::magnet] {
        dropped_after(source, Reserved::OURS, async |wire| {
            let deep = [b"d1:m".to_vec(), vec![b'l'; 10_000], vec![b'e'; 10_001]].concat();
            wire.extended(0, deep).await;
        });
    }
}

#[test]
fn extended_handshakes_without_end_are_cut_off() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| {
        let hello = ExtendedHandshake { metadata_id: Some(3), ..Default::default() }.emit();
        while wire.extended(0, hello.clone()).await {}
    });
}

#[test]
fn metadata_of_4_gib_is_not_believed() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| wire.serve_metadata(1 << 32, b"").await);
}

#[test]
fn metadata_of_a_wrong_size_and_junk_is_a_lie() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| wire.serve_metadata(100, &[b'x'; 100]).await);
}

#[test]
fn metadata_that_does_not_hash_is_a_lie() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| {
        let mut bytes = Lab::new().info.raw().to_vec();
        bytes[20] ^= 1;
        wire.serve_metadata(bytes.len() as u64, &bytes).await;
    });
}

#[test]
fn metadata_blocks_shorter_than_claimed_are_a_lie() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| wire.serve_metadata(40_000, b"short").await);
}

#[test]
fn a_true_and_a_false_giver_of_metadata_at_once_end_in_the_truth() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.magnet(), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        let mut false_info = lab.info.raw().to_vec();
        false_info.iter_mut().for_each(|b| *b ^= 1);
        let size = false_info.len() as u64;
        let liar = async { wire.serve_metadata(size, &false_info).await };
        let _honest = lab.honest(victim.addr, None).await;
        tokio::join!(lab.finish(&mut victim), liar);
    });
}

#[test]
fn metadata_that_is_offered_and_never_given_comes_from_another() {
    disturbs_nobody(Lab::magnet, async |wire| {
        let size = Lab::new().info.raw().len() as u64;
        let hello =
            ExtendedHandshake { metadata_id: Some(3), metadata_size: Some(size), ..Default::default() };
        wire.extended(0, hello.emit()).await;
        wire.wait_for(|m| matches!(m, Message::Extended { id: 3, .. })).await;
        wire.extended(1, MetadataMessage::Reject { block: 1 }.emit()).await;
    });
}

#[test]
fn metadata_nobody_asked_for_changes_nothing() {
    disturbs_nobody(Lab::magnet, async |wire| {
        for block in [0, 1, u32::MAX] {
            let data = Bytes::from(vec![0; 16_384]);
            wire.extended(1, MetadataMessage::Data { block, total_size: 1 << 40, data }.emit()).await;
            wire.extended(1, MetadataMessage::Request { block }.emit()).await;
        }
    });
}

// ---- pieces

#[test]
fn false_pieces_from_one_alone_are_a_lie() {
    dropped_after(Lab::known, Reserved::OURS, async |wire| {
        wire.seed(|block| vec![0; block.length as usize]).await;
    });
}

#[test]
fn false_pieces_beside_true_ones_end_in_the_truth_and_a_ban() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.known(), &[addr], false).await;
        // Slow enough that the liar has its say.
        let _honest = lab.honest(victim.addr, Some(1 << 20)).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        let liar = wire.seed(|block| {
            let mut data = lab.block(block);
            data[0] ^= 0x80;
            data
        });
        tokio::join!(lab.finish(&mut victim), liar);
        let status = victim.status();
        assert_eq!(status.peers_banned, 1);
        // It may have sent all of it before the first verdict, and nothing twice.
        assert!(status.wasted <= lab.info.layout().total(), "{} bytes wasted", status.wasted);
    });
}

#[test]
fn blocks_nobody_asked_for_are_counted_then_cut_off() {
    dropped_after(Lab::known, Reserved::OURS, async |wire| {
        wire.send(&Message::HaveAll).await;
        let mut number = 0u32;
        while wire
            .send(&Message::Piece { index: number, begin: u32::MAX, data: Bytes::from_static(b"x") })
            .await
        {
            number += 1;
            assert!(number < 1_000_000, "a flood is not noticed");
        }
    });
}

#[test]
fn requests_out_of_range_end_a_connection_without_the_fast_extension() {
    for (index, begin, length) in impossible_requests() {
        dropped_after(Lab::known, SLOW, async move |wire| {
            wire.send(&Message::Interested).await;
            wire.send(&Message::Request(BlockRef { index, begin, length })).await;
        });
    }
}

#[test]
fn requests_out_of_range_are_rejected_with_the_fast_extension() {
    disturbs_nobody(Lab::known, async |wire| {
        wire.send(&Message::Interested).await;
        for (index, begin, length) in impossible_requests() {
            let block = BlockRef { index, begin, length };
            wire.send(&Message::Request(block)).await;
            wire.wait_for(|m| *m == Message::Reject(block)).await;
        }
    });
}

fn impossible_requests() -> [(u32, u32, u32); 7] {
    let max = u32::MAX;
    [
        (max, 0, 16_384),
        (0, max, 16_384),
        (0, 0, max),
        (0, 0, 0),
        (0, 65_535, 2),
        (64, 4320, 2),
        (max, max, max),
    ]
}

#[test]
fn who_asks_without_end_and_reads_nothing_is_let_go() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.known(), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        let mut flood = Vec::new();
        for _ in 0..4096 {
            Message::Request(BlockRef { index: 9999, begin: 0, length: 0 }).emit(&mut flood);
        }
        let mut sent = 0;
        while wire.raw(&flood).await {
            sent += flood.len();
            assert!(sent < 64 << 20, "answers without end are kept for who reads none");
        }
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
    });
}

#[test]
fn a_leech_that_never_reads_keeps_nobody_from_being_served() {
    run(async {
        let lab = Lab::new();
        let mut seed = lab.victim(lab.known(), &[], true).await;
        let _honest = lab.honest(seed.addr, None).await;
        lab.finish(&mut seed).await;
        for _ in 0..5 {
            let stream = TcpStream::connect(seed.addr).await.unwrap();
            let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
            wire.send(&Message::HaveNone).await;
            wire.send(&Message::Interested).await;
            for index in 0..64 {
                for begin in (0..4).map(|b| b * 16_384) {
                    wire.send(&Message::Request(BlockRef { index, begin, length: 16_384 })).await;
                }
            }
            std::mem::forget(wire);
        }
        let other = Lab::new();
        let mut leech = other.victim(other.known(), &[seed.addr], false).await;
        other.finish(&mut leech).await;
    });
}

// ---- what a peer has and wants

#[test]
fn a_have_out_of_range_ends_the_connection() {
    for index in [65, u32::MAX] {
        dropped_after(Lab::known, Reserved::OURS, async move |wire| {
            wire.send(&Message::Have(index)).await;
        });
    }
}

#[test]
fn a_bitfield_of_the_wrong_length_ends_the_connection() {
    for bytes in [0, 1, 8, 10, 100_000] {
        dropped_after(Lab::known, Reserved::OURS, async move |wire| {
            wire.send(&Message::Bitfield(vec![0; bytes].into())).await;
        });
    }
}

#[test]
fn a_bitfield_with_spare_bits_ends_the_connection() {
    dropped_after(Lab::known, Reserved::OURS, async |wire| {
        wire.send(&Message::Bitfield(vec![0xff; 9].into())).await;
    });
}

#[test]
fn bitfields_without_end_end_the_connection() {
    // One after other messages is fine: aria2 sends it in place of several haves.
    dropped_after(Lab::known, Reserved::OURS, async |wire| {
        wire.send(&Message::Have(0)).await;
        for _ in 0..1000 {
            wire.send(&Message::HaveNone).await;
        }
    });
}

#[test]
fn a_bitfield_that_cannot_be_true_is_found_when_the_metadata_comes() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.magnet(), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        wire.send(&Message::Bitfield(vec![0xff; 200_000].into())).await;
        victim.until(|s| s.peers_connected == 1).await;
        let _honest = lab.honest(victim.addr, None).await;
        lab.finish(&mut victim).await;
        wire.dropped().await;
        assert_eq!(victim.status().peers_banned, 1);
    });
}

#[test]
fn haves_without_end_before_the_metadata_are_cut_off() {
    dropped_after(Lab::magnet, Reserved::OURS, async |wire| {
        let mut index = 0;
        while wire.send(&Message::Have(index)).await {
            index += 1;
            assert!(index < 2_000_000, "haves are remembered without bound");
        }
    });
}

#[test]
fn a_storm_of_chokes_and_unchokes_holds_nothing_up() {
    for reserved in [SLOW, Reserved::OURS] {
        run(async {
            let lab = Lab::new();
            let (listener, addr) = listener().await;
            let mut victim = lab.victim(lab.known(), &[addr], false).await;
            let (stream, _) = listener.accept().await.unwrap();
            let mut wire = Wire::greet(stream, &lab.info, reserved).await;
            wire.send(&Message::Bitfield(all_pieces())).await;
            let mut storm = Vec::new();
            for _ in 0..2000 {
                Message::Unchoke.emit(&mut storm);
                Message::Choke.emit(&mut storm);
            }
            // Never reads: what we would ask of it must not pile up either.
            for _ in 0..50 {
                wire.raw(&storm).await;
            }
            let _honest = lab.honest(victim.addr, None).await;
            lab.finish(&mut victim).await;
        });
    }
}

#[test]
fn a_peer_that_unchokes_and_sends_nothing_holds_nothing_up() {
    run(async {
        let lab = Lab::new();
        let (listener, addr) = listener().await;
        let mut victim = lab.victim(lab.known(), &[addr], false).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
        wire.send(&Message::HaveAll).await;
        wire.send(&Message::Unchoke).await;
        wire.wait_for(|m| matches!(m, Message::Request(_))).await;
        let _honest = lab.honest(victim.addr, None).await;
        let finish = tokio::time::timeout(Duration::from_secs(10), lab.finish(&mut victim));
        finish.await.expect("blocks are held for a peer that never sends them");
    });
}

fn all_pieces() -> Bytes {
    let mut bits = vec![0xff; 9];
    bits[8] = 0x80;
    bits.into()
}

// ---- nobody is honest

#[test]
fn with_liars_alone_nothing_is_finished_and_the_status_says_why() {
    run(async {
        let lab = Lab::new();
        let (first, a) = listener().await;
        let (second, b) = listener().await;
        let victim = lab.victim(lab.known(), &[a, b], false).await;
        for listener in [first, second] {
            let (stream, _) = listener.accept().await.unwrap();
            let mut wire = Wire::greet(stream, &lab.info, Reserved::OURS).await;
            wire.seed(|block| vec![0; block.length as usize]).await;
        }
        let status = victim.until(|s| s.peers_banned == 2 && s.peers_connected == 0).await;
        assert_eq!((status.stage, status.verified), (Stage::Downloading, 0));
        assert!(status.wasted > 0);
        let words = words(&status);
        assert!(words.contains("2 peers banned"), "{words}");
    });
}
