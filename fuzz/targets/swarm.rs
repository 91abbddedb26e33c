//! A swarm among strangers: each step is an address, a connection, bytes of a peer, an answer of the
//! disk, or the passing of time. The script's side keeps the books and checks that the swarm's agree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dhtget::id::Id160;
use dhtget::peer::Bitfield;
use dhtget::peer::Payload;
use dhtget::swarm::config::{MAX_CONNECTIONS, MAX_UNSENT};
use dhtget::swarm::{Action, Config, Input, Origin, PeerKey, Report, Sequence, Swarm, Wanted};
use dhtget::wire::bencode::Writer;
use dhtget::wire::extended::{ExtendedHandshake, METADATA_BLOCK_LEN, MetadataMessage};
use dhtget::wire::metainfo::{BLOCK_LEN, Info, PieceIndex};
use dhtget::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, MAX_REQUEST_LEN, Message, Reserved};
use dhtget::wire::pex::PexMessage;

use super::script::{Script, Trace};

/// Steps of one script; more add nothing but time.
const MAX_STEPS: usize = 600;
const PIECE_LENGTH: u64 = 40_000;
const TOTAL: u64 = 310_000;
const FILES: [(&[u8], i64); 3] = [(b"a", 110_000), (b"b", 50_000), (b"c", 150_000)];
/// Actions that one step may set off: one small message to each peer for each of many causes.
const MAX_ACTIONS: usize = 20_000;

/// A peer as the script sees it.
struct Peer {
    connected: bool,
    sent: usize,
    /// Bytes of the swarm's handshake that are still to come.
    greeting: usize,
    frames: Option<Frames>,
    asked: VecDeque<BlockRef>,
    metadata_asked: VecDeque<u32>,
}

struct World {
    swarm: Swarm,
    info: Arc<Info>,
    info_known: bool,
    disk_ready: bool,
    now: Instant,
    start: Instant,
    peers: BTreeMap<PeerKey, Peer>,
    ever: BTreeSet<PeerKey>,
    have: Bitfield,
    written: BTreeMap<PieceIndex, BTreeSet<u32>>,
    hashing: VecDeque<PieceIndex>,
    digesting: VecDeque<PieceIndex>,
    reads: VecDeque<(PeerKey, PieceIndex, u32, u32)>,
    /// Blocks that were said to be on disk.
    stored: BTreeSet<(PeerKey, PieceIndex)>,
    wanted: Wanted,
    trace: Trace,
}

/// How often a message is sent: a few times, or a flood.
fn repeats(byte: u8) -> usize {
    if byte == 255 { 2048 } else { 1 + usize::from(byte / 32) }
}

/// A dictionary that takes two metadata blocks, of three files that share pieces.
fn info(private: bool) -> Arc<Info> {
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.begin_dict().bytes(b"files").begin_list();
    for (name, length) in FILES {
        w.begin_dict().bytes(b"length").int(length).bytes(b"path").begin_list().bytes(name).end().end();
    }
    w.end().bytes(b"junk").bytes(&[b'x'; 18_000]);
    w.bytes(b"name").bytes(b"n").bytes(b"piece length").int(PIECE_LENGTH as i64);
    w.bytes(b"pieces").bytes(&[1; 20 * TOTAL.div_ceil(PIECE_LENGTH) as usize]);
    if private {
        w.bytes(b"private").int(1);
    }
    w.end();
    Arc::new(Info::parse(out.into()).expect("a valid dictionary"))
}

pub fn run(data: &[u8]) -> u64 {
    let mut script = Script::new(data);
    let (flags, have, start) = (script.u8(), script.u8(), Instant::now());
    let info = info(flags & 64 != 0);
    let config = Config {
        peer_id: Id160([50; 20]),
        listen_port: Some(6881),
        dht_port: Some(6882),
        metadata_only: flags & 12 == 12,
        download_limit: (flags & 16 != 0).then_some(1 << 20),
        // With none at all nobody is served.
        upload_limit: (flags & 128 != 0).then_some(u64::from(flags & 16) << 12),
        super_seed: flags & 32 != 0,
        allow: dhtget::wire::allow::AllowList::default(),
        shared_addresses: false,
    };
    let mut world = World {
        swarm: Swarm::new(info.hash(), config, [flags; 32], start),
        have: Bitfield::from_wire(&[have], info.layout().count()).expect("eight pieces"),
        info,
        info_known: false,
        disk_ready: false,
        now: start,
        start,
        peers: BTreeMap::new(),
        ever: BTreeSet::new(),
        written: BTreeMap::new(),
        hashing: VecDeque::new(),
        digesting: VecDeque::new(),
        reads: VecDeque::new(),
        stored: BTreeSet::new(),
        wanted: Wanted::default(),
        trace: Trace::default(),
    };
    if flags & 2 == 2 {
        world.choose(script.u8());
    }
    if flags & 1 == 1 {
        world.learn(Some(world.info.clone()));
    }
    for _ in 0..MAX_STEPS {
        if script.is_over() {
            break;
        }
        world.step(&mut script);
    }
    world.finish();
    world.trace.finish()
}

impl World {
    fn handle(&mut self, input: Input) {
        self.swarm.handle(self.now, input);
        self.drain();
    }

    /// Some files, some of them first, in some order.
    fn choose(&mut self, what: u8) {
        let sequence =
            [Sequence::Rarest, Sequence::InOrder, Sequence::Reader(60_000)][usize::from(what >> 6) % 3];
        let has = |bits: u8| move |file: usize| bits & (1 << file) != 0;
        self.wanted = Wanted::files(&self.info, has(what & 7), has(what >> 3 & 7)).in_sequence(sequence);
        self.handle(Input::Wanted(self.wanted.clone()));
    }

    /// What befalls a swarm beside peers.
    fn surprise(&mut self, script: &mut Script<'_>) {
        match script.u8() % 6 {
            0 => self.handle(Input::Consumed(u64::from(script.u16()) * 8)),
            1 => self.handle(Input::Held(true)),
            2 => self.handle(Input::Held(false)),
            3 => {
                let told = [script.addr(), script.addr()].map(|addr| addr.ip());
                let of = |is_ipv4| told.into_iter().find(|ip| ip.is_ipv4() == is_ipv4);
                self.handle(Input::External([of(true), of(false)]));
            }
            _ => {
                let Some(piece) = self.hashing.pop_front() else { return };
                self.written.remove(&piece);
                self.handle(Input::Lost(piece));
            }
        }
        self.trace.note(format!("{:?}", self.swarm.bottleneck(self.now)));
    }

    fn learn(&mut self, info: Option<Arc<Info>>) {
        self.info_known = true;
        if let Some(info) = info {
            self.handle(Input::Info(info));
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.u8() % 20 {
            0 => {
                let addrs = (0..script.u8() % 8).map(|_| script.addr()).collect();
                let origin = [Origin::User, Origin::Dht, Origin::Itself][script.index(3)];
                self.handle(Input::Candidates(addrs, origin));
            }
            1 => self.accept(script.addr()),
            2 => {
                let Some(key) = self.some(script, |p| !p.connected) else { return };
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.connected = true;
                }
                self.handle(Input::Connected(key));
            }
            3 => {
                let Some(key) = self.some(script, |p| !p.connected) else { return };
                self.peers.remove(&key);
                self.handle(Input::DialFailed(key));
            }
            4 => {
                let id = script.u8();
                let reserved = if id & 1 == 1 { Reserved::OURS } else { Reserved::default() };
                let (info_hash, peer_id) = (self.info.hash(), Id160([id; 20]));
                let mut out = Vec::new();
                Handshake { reserved, info_hash, peer_id }.emit(&mut out);
                self.receive(script, out.into());
            }
            5 => {
                let bytes = Bytes::copy_from_slice(script.slice(1));
                self.receive(script, bytes);
            }
            6..=9 => {
                let message = self.message(script);
                let mut out = Vec::new();
                for _ in 0..repeats(script.u8()) {
                    message.emit(&mut out);
                }
                self.receive(script, out.into());
            }
            10 | 11 => self.give_block(script),
            12 => self.give_metadata(script),
            13 => self.hashed(!script.u8().is_multiple_of(8)),
            14 => self.read(script.u8()),
            15 => {
                let Some(key) = self.some(script, |p| p.connected) else { return };
                let count = usize::from(script.u16());
                let Some(peer) = self.peers.get_mut(&key) else { return };
                let count = count.min(peer.sent);
                peer.sent -= count;
                self.handle(Input::Sent(key, count));
            }
            16 => {
                let Some(key) = self.some(script, |p| p.connected) else { return };
                self.peers.remove(&key);
                self.handle(Input::Closed(key));
            }
            17 => {
                if self.info_known && !self.disk_ready {
                    self.disk_ready = true;
                    self.handle(Input::DiskReady(self.have.clone()));
                } else {
                    self.surprise(script);
                }
            }
            18 => self.pass(Duration::from_millis(u64::from(script.u16()) / 16)),
            _ => self.pass(Duration::from_secs(u64::from(script.u8() % 64))),
        }
    }

    fn some(&self, script: &mut Script<'_>, fits: impl Fn(&Peer) -> bool) -> Option<PeerKey> {
        let keys: Vec<_> = self.peers.iter().filter(|(_, p)| fits(p)).map(|(k, _)| *k).collect();
        if keys.is_empty() { None } else { Some(keys[script.index(keys.len())]) }
    }

    fn add(&mut self, key: PeerKey, connected: bool) {
        assert!(self.ever.insert(key), "a key was used twice");
        let peer = Peer {
            connected,
            sent: 0,
            greeting: HANDSHAKE_LEN,
            frames: Some(Frames::default()),
            asked: VecDeque::new(),
            metadata_asked: VecDeque::new(),
        };
        self.peers.insert(key, peer);
    }

    fn accept(&mut self, addr: SocketAddr) {
        if let Some(key) = self.swarm.accept(self.now, addr) {
            self.add(key, true);
            self.drain();
        }
    }

    fn receive(&mut self, script: &mut Script<'_>, bytes: Bytes) {
        if let Some(key) = self.some(script, |p| p.connected) {
            self.handle(Input::Received(key, bytes));
        }
    }

    fn message(&self, script: &mut Script<'_>) -> Message {
        let (kind, index) = (script.u8(), u32::from(script.u8() % 10));
        let begin = u32::from(script.u8() % 4) * 8192;
        let length = [16384, 1, 0, 7232, MAX_REQUEST_LEN, u32::MAX][script.index(6)];
        let block = BlockRef { index, begin, length };
        match kind % 18 {
            0 => Message::Choke,
            1 | 2 => Message::Unchoke,
            3 => Message::Interested,
            4 => Message::NotInterested,
            5 => Message::Have(index),
            6 => Message::Bitfield(Bytes::copy_from_slice(&[script.u8()])),
            7 => Message::HaveAll,
            8 => Message::HaveNone,
            9 | 10 => Message::Request(block),
            11 => Message::Cancel(block),
            12 => Message::Reject(block),
            13 => Message::AllowedFast(index),
            14 => Message::Port(script.u16()),
            15 => {
                let block = u32::from(script.u8() % 3);
                Message::Extended { id: 1, payload: MetadataMessage::Request { block }.emit().into() }
            }
            16 => {
                let (id, of_pex) = (2 + script.u8() % 3, script.u8() % 20);
                let added = (0..of_pex).map(|n| (SocketAddr::from(([10, 0, n, script.u8()], 6881)), n));
                let payload = match id {
                    2 => PexMessage { added: added.collect(), dropped: Vec::new() }.emit(),
                    3 => vec![script.u8() % 2],
                    _ => index.to_be_bytes().to_vec(),
                };
                Message::Extended { id, payload: payload.into() }
            }
            _ => {
                let size = [self.info.raw().len() as u64, 100, 1 << 40, 0][script.index(4)];
                let handshake = ExtendedHandshake {
                    metadata_id: Some(script.u8() % 4),
                    pex_id: Some(script.u8() % 3),
                    upload_only: [None, Some(false), Some(true)][script.index(3)],
                    metadata_size: Some(size),
                    request_queue: Some(u32::from(script.u16())),
                    port: Some(script.u16()),
                    ..ExtendedHandshake::default()
                };
                Message::Extended { id: 0, payload: handshake.emit().into() }
            }
        }
    }

    /// A peer answers the oldest, or another, request of the swarm.
    fn give_block(&mut self, script: &mut Script<'_>) {
        let Some(key) = self.some(script, |p| !p.asked.is_empty()) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut out = Vec::new();
        for _ in 0..1 + script.u8() % 8 {
            let at = if script.u8() < 200 { 0 } else { peer.asked.len().saturating_sub(1) };
            let Some(block) = peer.asked.remove(at) else { break };
            let data = Bytes::from(vec![0; block.length as usize]);
            Message::Piece { index: block.index, begin: block.begin, data }.emit(&mut out);
        }
        self.handle(Input::Received(key, out.into()));
    }

    fn give_metadata(&mut self, script: &mut Script<'_>) {
        let Some(key) = self.some(script, |p| !p.metadata_asked.is_empty()) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(block) = peer.metadata_asked.pop_front() else { return };
        let raw = self.info.raw();
        let begin = (block as usize * METADATA_BLOCK_LEN as usize).min(raw.len());
        let data = raw.slice(begin..raw.len().min(begin + METADATA_BLOCK_LEN as usize));
        let message = match script.u8() % 8 {
            0 => MetadataMessage::Reject { block },
            1 => MetadataMessage::Data { block, total_size: 100, data: Bytes::from_static(&[7; 100]) },
            2 => {
                let junk = Bytes::from(vec![7; data.len()]);
                MetadataMessage::Data { block, total_size: raw.len() as u64, data: junk }
            }
            _ => MetadataMessage::Data { block, total_size: raw.len() as u64, data },
        };
        let mut out = Vec::new();
        Message::Extended { id: 1, payload: message.emit().into() }.emit(&mut out);
        self.handle(Input::Received(key, out.into()));
    }

    fn hashed(&mut self, valid: bool) {
        let Some(piece) = self.hashing.pop_front() else { return };
        if valid {
            assert!(self.have.set(piece.get(), true), "a piece was verified twice");
        } else {
            self.written.remove(&piece);
        }
        self.handle(Input::Hashed(piece, valid));
        // A false piece differs from the true one in its first block.
        while let Some(piece) = self.digesting.pop_front() {
            let blocks = u64::from(self.info.layout().blocks_of(piece));
            let first = u64::from(self.have.has(piece.get()));
            self.handle(Input::Digested(
                piece,
                (0..blocks).map(|b| if b == 0 { first } else { b }).collect(),
            ));
        }
    }

    fn read(&mut self, how: u8) {
        let Some((peer, piece, begin, length)) = self.reads.pop_front() else { return };
        let data = match how % 16 {
            0 => None,
            1..=7 => Some(Bytes::from(vec![0; length as usize]).into()),
            _ => Some(Payload::Stored(length)),
        };
        if matches!(data, Some(Payload::Stored(_))) {
            self.stored.insert((peer, piece));
        }
        self.handle(Input::Read { peer, piece, begin, data });
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for turn in 0.. {
            self.swarm.handle_timeout(self.now);
            self.drain();
            match self.swarm.poll_timeout() {
                Some(at) if at <= self.now => assert!(turn < 8, "a timeout is due for ever"),
                _ => break,
            }
        }
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(action) = self.swarm.poll_action() {
            count += 1;
            self.on_action(action);
        }
        assert!(count <= MAX_ACTIONS, "{count} actions at once");
        // Who makes room for another is closed by then.
        assert!(self.peers.len() <= MAX_CONNECTIONS);
        let stats = self.swarm.stats(self.now);
        assert!(stats.connected <= self.peers.len() && stats.verified <= TOTAL);
        if self.disk_ready {
            assert_eq!(stats.pieces, self.have.ones());
        }
        let due = self.swarm.poll_timeout().map(|at| at.saturating_duration_since(self.start));
        self.trace.note((count, stats.known, stats.connected, stats.wasted, stats.pieces, due));
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::Dial { peer, addr, .. } => {
                assert!(addr.port() != 0 && !addr.ip().is_multicast() && !addr.ip().is_unspecified());
                self.trace.note(addr);
                self.add(peer, false);
            }
            Action::Close(key, reason) => {
                assert!(self.peers.remove(&key).is_some(), "closed twice: {reason}");
                self.trace.note(reason.to_string());
            }
            Action::Send(key, bytes) => self.on_send(key, &bytes),
            Action::SendStored(key, block) => {
                let piece = self.info.layout().piece(block.index).expect("a piece of this torrent");
                assert!(self.stored.contains(&(key, piece)), "not said to be on disk");
                let peer = self.peers.get_mut(&key).expect("a block for a peer that is gone");
                peer.sent += block.length as usize;
                // What follows does not read as whole messages.
                peer.frames = None;
            }
            Action::Write { piece, begin, data } => {
                let end = begin + data.len() as u32;
                assert!(begin % BLOCK_LEN == 0 && end <= self.info.layout().len_of(piece));
                assert!(!self.have.has(piece.get()), "a verified piece is overwritten");
                assert!(!self.hashing.contains(&piece), "a piece is overwritten while it is hashed");
                self.written.entry(piece).or_default().insert(begin / BLOCK_LEN);
            }
            Action::Hash(piece) => {
                let here = self.written.get(&piece).map_or(0, BTreeSet::len);
                assert_eq!(here, self.info.layout().blocks_of(piece) as usize, "hashed before it is whole");
                self.hashing.push_back(piece);
            }
            Action::Digest(piece) => self.digesting.push_back(piece),
            Action::Read { peer, piece, begin, length } => {
                assert!(self.peers.contains_key(&peer) && self.have.has(piece.get()));
                assert!(begin + length <= self.info.layout().len_of(piece));
                self.reads.push_back((peer, piece, begin, length));
            }
            Action::Report(Report::Metadata(info)) => {
                assert_eq!(info.hash(), self.info.hash());
                self.learn(None);
            }
            Action::Report(Report::BadMetadata(error)) => panic!("{error}"),
            Action::Report(Report::Verified(piece)) => assert!(self.have.has(piece.get())),
            Action::Report(Report::Complete) => {
                let pieces = self.info.layout().pieces();
                assert!(pieces.filter(|p| self.wanted.has(*p)).all(|p| self.have.has(p.get())));
            }
            Action::Report(Report::DhtNode(addr)) => assert!(addr.port() != 0),
        }
    }

    /// What the swarm sends must read as a valid stream, and stay within what one peer may cost.
    fn on_send(&mut self, key: PeerKey, bytes: &Bytes) {
        let peer = self.peers.get_mut(&key).expect("bytes for a peer that is gone");
        assert!(peer.connected);
        peer.sent += bytes.len();
        assert!(peer.sent <= MAX_UNSENT + 2 * MAX_REQUEST_LEN as usize, "{} bytes unsent", peer.sent);
        self.trace.note(bytes);
        let mut bytes = bytes.clone();
        let greeting = bytes.split_to(peer.greeting.min(bytes.len()));
        peer.greeting -= greeting.len();
        let Some(frames) = &mut peer.frames else { return };
        frames.push(bytes);
        loop {
            match frames.next_message() {
                Ok(Some(Message::Request(block))) => {
                    let piece = self.info.layout().piece(block.index).expect("a piece of this torrent");
                    assert!(self.wanted.has(piece), "asked for what nobody wants");
                    assert_eq!(block.length, self.info.layout().block_len(piece, block.begin / BLOCK_LEN));
                    peer.asked.push_back(block);
                }
                Ok(Some(Message::Cancel(block))) => peer.asked.retain(|b| *b != block),
                Ok(Some(Message::Extended { id: 1.., payload })) => {
                    if let Some(MetadataMessage::Request { block }) = MetadataMessage::parse(&payload) {
                        peer.metadata_asked.push_back(block);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                // Blocks larger than we ask for ourselves are served, and end this reader.
                Err(error) => {
                    assert!(error.to_string().starts_with("message 7 of"), "{error}");
                    peer.frames = None;
                    break;
                }
            }
        }
    }

    /// Everyone leaves: nothing may be left under way.
    fn finish(&mut self) {
        while !self.reads.is_empty() {
            self.read(1);
        }
        while !self.hashing.is_empty() {
            self.hashed(true);
        }
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.remove(&key) {
                self.handle(if peer.connected { Input::Closed(key) } else { Input::DialFailed(key) });
            }
        }
        assert_eq!(self.swarm.peers().count(), 0);
        self.pass(Duration::from_secs(1));
    }
}
