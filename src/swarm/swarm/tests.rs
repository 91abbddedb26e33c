//! One leecher's swarm against scripted peers, which speak real wire bytes.

use super::*;
use crate::id::Id160;
use crate::peer::Bitfield;
use crate::wire::bencode::Writer;
use crate::wire::metainfo::BLOCK_LEN;
use crate::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};

const PIECES: u32 = 4;

fn info() -> Arc<Info> {
    info_of(PIECES)
}

fn info_of(pieces: u32) -> Arc<Info> {
    info_with(pieces, 65536)
}

fn info_with(pieces: u32, piece_length: i64) -> Arc<Info> {
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"length").int(i64::from(pieces) * piece_length).bytes(b"name").bytes(b"n");
    w.bytes(b"piece length").int(piece_length).bytes(b"pieces").bytes(&vec![1; 20 * pieces as usize]).end();
    Arc::new(Info::parse(raw.into()).unwrap())
}

/// What a scripted peer has been sent.
#[derive(Default)]
struct Ear {
    greeted: usize,
    frames: Frames,
}

impl Ear {
    /// The messages that these bytes complete.
    fn hear(&mut self, bytes: &Bytes) -> Vec<Message> {
        let skip = (HANDSHAKE_LEN - self.greeted).min(bytes.len());
        self.greeted += skip;
        self.frames.push(bytes.slice(skip..));
        std::iter::from_fn(|| self.frames.next_message().unwrap()).collect()
    }
}

struct Table {
    info: Arc<Info>,
    swarm: Swarm,
    now: Instant,
    ears: BTreeMap<PeerKey, Ear>,
    hashing: Vec<PieceIndex>,
    closed: Vec<(PeerKey, CloseReason)>,
}

impl Table {
    fn new() -> Self {
        Self::of(PIECES)
    }

    fn of(pieces: u32) -> Self {
        Self::with(info_of(pieces))
    }

    fn with(info: Arc<Info>) -> Self {
        let (now, pieces) = (Instant::now(), info.layout().count());
        let config = Config::new(Id160([1; 20]));
        let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
        swarm.handle(now, Input::Info(info.clone()));
        swarm.handle(now, Input::DiskReady(Bitfield::none(pieces)));
        Self { info, swarm, now, ears: BTreeMap::new(), hashing: Vec::new(), closed: Vec::new() }
    }

    /// A peer that has everything and unchokes us.
    fn join(&mut self, id: u8, reserved: Reserved) -> PeerKey {
        let addr = SocketAddr::from(([10, 0, 0, id], 7));
        let key = self.swarm.accept(self.now, addr).unwrap();
        self.ears.insert(key, Ear::default());
        let mut hello = Vec::new();
        let (info_hash, count) = (self.info.hash(), self.info.layout().count());
        Handshake { reserved, info_hash, peer_id: Id160([100 + id; 20]) }.emit(&mut hello);
        let field = Message::Bitfield(Bitfield::all(count).to_wire());
        [field, Message::Unchoke].iter().for_each(|m| m.emit(&mut hello));
        self.swarm.handle(self.now, Input::Received(key, hello.into()));
        key
    }

    fn say(&mut self, key: PeerKey, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|m| m.emit(&mut bytes));
        self.swarm.handle(self.now, Input::Received(key, bytes.into()));
    }

    /// The requests that peers have been sent since the last call.
    fn requests(&mut self) -> Vec<(PeerKey, BlockRef)> {
        let mut requests = Vec::new();
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Send(key, bytes) => {
                    let Some(ear) = self.ears.get_mut(&key) else { continue };
                    for message in ear.hear(&bytes) {
                        if let Message::Request(block) = message {
                            requests.push((key, block));
                        }
                    }
                }
                Action::Hash(piece) => self.hashing.push(piece),
                Action::Close(key, reason) => self.closed.push((key, reason)),
                _ => {}
            }
        }
        for piece in std::mem::take(&mut self.hashing) {
            self.swarm.handle(self.now, Input::Hashed(piece, true));
        }
        requests
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.swarm.handle_timeout(self.now);
    }

    fn is_complete(&self) -> bool {
        self.swarm.stats(self.now).pieces == PIECES
    }

    fn block(block: BlockRef) -> Message {
        let data = Bytes::from(vec![0; block.length as usize]);
        Message::Piece { index: block.index, begin: block.begin, data }
    }
}

/// Who owes us blocks and sends none for a minute snubs us: it has no slot but by chance.
#[test]
fn who_sends_nothing_for_a_minute_snubs_us() {
    let mut table = Table::new();
    let [mean, fair] = [1, 2].map(|id| table.join(id, Reserved::OURS));
    let mut owed = Vec::new();
    for second in 0..60 {
        let snubs = |key| table.swarm.members[&key].snubs(table.now);
        assert!(!snubs(mean) && !snubs(fair), "after {second} s");
        owed.extend(table.requests().into_iter().filter(|(key, _)| *key == fair));
        // One block each ten seconds is little, and something.
        if second % 10 == 0 && !owed.is_empty() {
            let (_, block) = owed.remove(0);
            table.say(fair, &[Table::block(block)]);
        }
        table.pass(Duration::from_secs(1));
    }
    let snubs = |key| table.swarm.members[&key].snubs(table.now);
    assert!(snubs(mean) && !snubs(fair));
}

/// A full disk is nobody's fault, however long somebody needs to make room.
#[test]
fn nobody_is_blamed_for_silence_while_nothing_is_read() {
    let mut table = Table::new();
    let key = table.join(1, Reserved::OURS);
    let asked = table.requests();
    table.swarm.handle(table.now, Input::Held(true));
    (0..300).for_each(|_| table.pass(Duration::from_secs(1)));
    table.swarm.handle(table.now, Input::Held(false));
    assert!(table.closed.is_empty(), "{:?}", table.closed);
    // It is asked for no more than before, and what comes now is welcome.
    assert_eq!(table.requests(), []);
    let blocks: Vec<Message> = asked.iter().map(|(_, block)| Table::block(*block)).collect();
    table.say(key, &blocks);
    assert_eq!(table.swarm.stats(table.now).wasted, 0);
    // From now on it counts again.
    (0..130).for_each(|_| table.pass(Duration::from_secs(1)));
    table.requests();
    assert!(matches!(table.closed[..], [(closed, _)] if closed == key), "{:?}", table.closed);
}

#[test]
fn a_peer_that_rejects_everything_does_not_keep_the_rest_from_others() {
    let mut table = Table::new();
    let mean = table.join(1, Reserved::OURS);
    table.join(2, Reserved::OURS);
    for _ in 0..40 {
        let asked = table.requests();
        assert!(asked.len() <= 64, "{} requests at once", asked.len());
        // All at once, so that what is free again goes to whoever is filled first.
        let rejects: Vec<Message> =
            asked.iter().filter(|(key, _)| *key == mean).map(|(_, b)| Message::Reject(*b)).collect();
        table.say(mean, &rejects);
        for (key, block) in asked.into_iter().filter(|(key, _)| *key != mean) {
            table.say(key, &[Table::block(block)]);
        }
        table.pass(Duration::from_millis(100));
    }
    assert!(table.is_complete(), "{:?}", table.swarm.stats(table.now));
}

#[test]
fn a_storm_of_chokes_does_not_keep_the_rest_from_others() {
    let mut table = Table::new();
    let stormy = table.join(1, Reserved::default());
    table.join(2, Reserved::OURS);
    for _ in 0..40 {
        for (key, block) in table.requests() {
            if key != stormy {
                table.say(key, &[Table::block(block)]);
            }
        }
        table.say(stormy, &[Message::Choke, Message::Unchoke]);
        table.pass(Duration::from_millis(100));
    }
    assert!(table.is_complete());
}

#[test]
fn requests_that_a_peer_has_lost_are_sent_again_in_the_end() {
    let mut table = Table::new();
    let forgetful = table.join(1, Reserved::OURS);
    assert!(!table.requests().is_empty());
    // Nothing comes of them. Then it wakes up, and answers what it is asked from now on.
    for _ in 0..90 {
        table.say(forgetful, &[Message::KeepAlive]);
        for (key, block) in table.requests() {
            table.say(key, &[Table::block(block)]);
        }
        table.pass(Duration::from_secs(1));
    }
    assert!(table.is_complete(), "{:?}", table.swarm.stats(table.now));
}

#[test]
fn a_piece_for_one_peer_alone_goes_to_another_when_that_peer_chokes() {
    let mut table = Table::new();
    let first = table.join(1, Reserved::OURS);
    let blocks = table.requests();
    assert!(blocks.iter().all(|(_, b)| b.length == BLOCK_LEN));
    // A piece fails with two authors.
    let second = table.join(2, Reserved::OURS);
    let shared: Vec<BlockRef> =
        blocks.iter().map(|(_, b)| *b).filter(|b| b.index == blocks[0].1.index).collect();
    let piece = info().layout().piece(shared[0].index).unwrap();
    let pieces = table.swarm.pieces.as_mut().unwrap();
    for (number, block) in shared.iter().enumerate() {
        pieces.on_block(if number == 0 { second } else { first }, piece, block.begin / BLOCK_LEN);
    }
    table.swarm.handle(table.now, Input::Hashed(piece, false));
    for _ in 0..30 {
        for (key, block) in table.requests() {
            // Who is asked for it first chokes, and says nothing more.
            if key == first {
                table.say(first, &[Message::Choke]);
            } else {
                table.say(key, &[Table::block(block)]);
            }
        }
        table.pass(Duration::from_secs(1));
    }
    assert!(table.is_complete(), "{:?}", table.swarm.stats(table.now));
}

#[test]
fn a_users_limit_bounds_what_all_peers_together_are_asked_for() {
    let mut table = Table::new();
    table.swarm.config.download_limit = Some(16 * 1024);
    (1..=8).for_each(|id| {
        table.join(id, Reserved::OURS);
    });
    let asked = table.requests();
    assert!(!asked.is_empty() && asked.len() as u64 <= LIMIT_SECONDS, "{} requests", asked.len());
    for _ in 0..60 {
        table.pass(Duration::from_secs(1));
        // One block a second is all that the limit lets through.
        if let Some((key, block)) = table.requests().first().copied() {
            table.say(key, &[Table::block(block)]);
        }
    }
    assert!(table.swarm.stats(table.now).wasted == 0);
}

mod explain;
mod extensions;
mod liars;
mod selection;
