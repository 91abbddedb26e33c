//! What peers may say beyond BEP 3: that they want nothing, that they have lost a piece, that a piece may be asked
//! for in spite of a choke.

use super::*;
use crate::swarm::member::Has;
use crate::swarm::{Origin, Report};
use crate::wire::extended::{ExtendedHandshake, OUR_DONT_HAVE_ID, OUR_PEX_ID, OUR_UPLOAD_ONLY_ID};
use crate::wire::pex::PexMessage;

/// A seed's table: everything is on its disk.
fn seeding() -> Table {
    holding(Bitfield::all(PIECES))
}

fn holding(have: Bitfield) -> Table {
    let mut table = Table::new();
    table.swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [1; 32], table.now);
    table.swarm.handle(table.now, Input::Info(info()));
    table.swarm.handle(table.now, Input::DiskReady(have));
    table
}

/// All but the last piece.
fn nearly_all() -> Bitfield {
    let mut have = Bitfield::all(PIECES);
    have.set(PIECES - 1, false);
    have
}

impl Table {
    /// A peer that says only this.
    fn guest(&mut self, id: u8, messages: &[Message]) -> PeerKey {
        let addr = SocketAddr::from(([10, 0, 0, id], 7));
        let key = self.swarm.accept(self.now, addr).unwrap();
        self.ears.insert(key, Ear::default());
        let mut hello = Vec::new();
        let peer_id = Id160([100 + id; 20]);
        Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id }.emit(&mut hello);
        self.swarm.handle(self.now, Input::Received(key, hello.into()));
        self.say(key, messages);
        key
    }

    /// What each peer has been sent since the last call.
    fn heard(&mut self) -> Vec<(PeerKey, Message)> {
        let mut heard = Vec::new();
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Send(key, bytes) => {
                    let Some(ear) = self.ears.get_mut(&key) else { continue };
                    heard.extend(ear.hear(&bytes).into_iter().map(|message| (key, message)));
                }
                Action::Read { peer, piece, begin, length } => {
                    let data = Some(Bytes::from(vec![0; length as usize]).into());
                    self.swarm.handle(self.now, Input::Read { peer, piece, begin, data });
                }
                Action::Close(key, reason) => self.closed.push((key, reason)),
                _ => {}
            }
        }
        heard
    }
}

fn handshake(upload_only: Option<bool>) -> Message {
    let handshake = ExtendedHandshake { upload_only, ..ExtendedHandshake::default() };
    Message::Extended { id: 0, payload: handshake.emit().into() }
}

fn extension(id: u8, payload: &[u8]) -> Message {
    Message::Extended { id, payload: Bytes::copy_from_slice(payload) }
}

fn dont_have(index: u32) -> Message {
    extension(OUR_DONT_HAVE_ID, &index.to_be_bytes())
}

fn block(index: u32, begin: u32) -> BlockRef {
    BlockRef { index, begin, length: BLOCK_LEN }
}

// ---- BEP 21

#[test]
fn who_wants_nothing_is_not_unchoked_until_it_wants_something() {
    let mut table = Table::new();
    for form in [handshake(Some(true)), extension(OUR_UPLOAD_ONLY_ID, &[1])] {
        let key = table.guest(1, &[Message::HaveNone, form, Message::Interested]);
        table.pass(CHOKE_ROUND);
        assert!(!table.heard().contains(&(key, Message::Unchoke)));
        table.say(key, &[extension(OUR_UPLOAD_ONLY_ID, &[0])]);
        assert!(table.heard().contains(&(key, Message::Unchoke)));
        table.say(key, &[handshake(Some(true))]);
        assert!(table.heard().contains(&(key, Message::Choke)));
        table.swarm.handle(table.now, Input::Closed(key));
    }
}

#[test]
fn two_that_want_nothing_part() {
    let mut table = seeding();
    let partial = table.guest(1, &[Message::Have(0), handshake(Some(true))]);
    let message = table.guest(2, &[Message::HaveNone, extension(OUR_UPLOAD_ONLY_ID, &[1])]);
    let hungry = table.guest(3, &[Message::HaveNone, handshake(Some(false))]);
    table.heard();
    assert_eq!(table.closed, [partial, message].map(|key| (key, CloseReason::BothComplete)));
    assert!(table.swarm.members.contains_key(&hungry));
    // Without everything, we can still use one that wants nothing.
    let mut table = Table::new();
    let key = table.guest(1, &[Message::HaveAll, handshake(Some(true)), Message::Unchoke]);
    assert!(table.requests().iter().all(|(from, _)| *from == key));
    assert!(table.closed.is_empty());
}

#[test]
fn peers_learn_that_we_want_nothing_at_the_handshake_and_when_we_are_done() {
    let says = |heard: &[(PeerKey, Message)]| -> Vec<bool> {
        let handshake = |message: &Message| match message {
            Message::Extended { id: 0, payload } => ExtendedHandshake::parse(payload),
            _ => None,
        };
        heard.iter().filter_map(|(_, m)| handshake(m)).map(|h| h.upload_only == Some(true)).collect()
    };
    let mut table = seeding();
    table.guest(1, &[Message::HaveNone]);
    assert_eq!(says(&table.heard()), [true]);
    let mut table = Table::new();
    table.guest(1, &[Message::HaveNone]);
    assert_eq!(says(&table.heard()), [false]);
    for piece in info().layout().pieces() {
        // As if each had been fetched.
        table.swarm.pieces.as_mut().unwrap().ask_among(PeerKey(NonZeroU32::MIN), &[piece], 1);
        table.swarm.handle(table.now, Input::Hashed(piece, true));
    }
    assert_eq!(says(&table.heard()), [true], "once, at the end");
}

// ---- BEP 54

#[test]
fn a_lost_piece_is_asked_of_others() {
    let mut table = Table::new();
    let forgetful = table.join(1, Reserved::OURS);
    let asked = table.requests();
    let lost: Vec<BlockRef> = asked.iter().map(|(_, b)| *b).filter(|b| b.index == asked[0].1.index).collect();
    let other = table.join(2, Reserved::OURS);
    table.requests();
    table.swarm.members.get_mut(&other).unwrap().depth = 16;
    table.say(forgetful, &[dont_have(lost[0].index)]);
    let again = table.requests();
    for block in &lost {
        assert!(again.contains(&(other, *block)), "{block:?} of {again:?}");
        assert!(!again.contains(&(forgetful, *block)));
    }
    let availability = |table: &mut Table, index| {
        let piece = info().layout().piece(index).unwrap();
        table.swarm.pieces.as_mut().unwrap().picker_mut().availability(piece)
    };
    assert_eq!(availability(&mut table, lost[0].index), 1);
    table.say(forgetful, &[dont_have(lost[0].index), Message::Have(lost[0].index)]);
    assert_eq!(availability(&mut table, lost[0].index), 2);
}

#[test]
fn a_seed_that_loses_pieces_is_one_no_more() {
    let mut table = Table::new();
    let key = table.guest(1, &[Message::HaveAll, dont_have(2)]);
    assert_eq!(table.swarm.members[&key].wanted, PIECES - 1);
    table.say(key, &(0..PIECES).map(dont_have).collect::<Vec<_>>());
    assert_eq!(table.swarm.members[&key].wanted, 0);
    assert_eq!(table.heard().last(), Some(&(key, Message::NotInterested)));
    table.say(key, &[dont_have(PIECES)]);
    table.heard();
    assert_eq!(table.closed, [(key, CloseReason::Impossible("have"))]);
}

#[test]
fn what_is_lost_before_the_metadata_is_not_forgotten() {
    let mut table = Table::new();
    table.swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [1; 32], table.now);
    let key = table.guest(1, &[Message::HaveAll, dont_have(1), dont_have(2), Message::Have(2)]);
    let odd = table.guest(2, &[dont_have(u32::MAX)]);
    let flood = table.guest(3, &vec![dont_have(1); MAX_EARLY_HAVES + 1]);
    table.swarm.handle(table.now, Input::Info(info()));
    table.swarm.handle(table.now, Input::DiskReady(Bitfield::none(PIECES)));
    table.heard();
    assert_eq!(table.swarm.members[&key].wanted, PIECES - 1);
    let impossible = CloseReason::Impossible("number of haves");
    assert_eq!(table.closed, [(odd, impossible), (flood, impossible)]);
}

// ---- BEP 6

#[test]
fn a_newcomer_is_told_what_it_may_take_and_given_that_much() {
    let mut table = holding(nearly_all());
    // Enough others, so that it stays choked.
    for id in 1..=UPLOAD_SLOTS as u8 + 1 {
        table.guest(id, &[Message::HaveNone, Message::Interested]);
    }
    table.heard();
    let newcomer = table.guest(9, &[Message::HaveNone, Message::Interested]);
    let heard = table.heard();
    let mut set: Vec<u32> = Vec::new();
    for (key, message) in &heard {
        if let (true, Message::AllowedFast(index)) = (*key == newcomer, message) {
            set.push(*index);
        }
    }
    set.sort_unstable();
    assert_eq!(set, [0, 1, 2, 3], "all of a torrent this small");
    assert!(!heard.contains(&(newcomer, Message::Unchoke)));
    table.say(newcomer, &[Message::Request(block(2, 0))]);
    assert!(matches!(table.heard()[..], [(_, Message::Piece { index: 2, begin: 0, .. })]));
    // A choke ends nothing that was allowed.
    let most = ALLOWED_FAST_BYTES / u64::from(BLOCK_LEN) - 1;
    let mut served = 0;
    for _ in 0..most + 10 {
        table.say(newcomer, &[Message::Request(block(2, 0))]);
        match &table.heard()[..] {
            [(_, Message::Piece { .. })] => served += 1,
            [(_, Message::Reject(_))] => {}
            other => panic!("{other:?}"),
        }
        let unsent = table.swarm.members[&newcomer].unsent;
        table.swarm.handle(table.now, Input::Sent(newcomer, unsent));
    }
    assert_eq!(served, most);
}

#[test]
fn who_has_enough_or_cannot_be_told_is_offered_nothing() {
    let mut table = holding(nearly_all());
    table.guest(1, &[]);
    let addr = "[2600::1]:7".parse().unwrap();
    let sixth = table.swarm.accept(table.now, addr).unwrap();
    table.ears.insert(sixth, Ear::default());
    let mut hello = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id: Id160([3; 20]) }
        .emit(&mut hello);
    Message::HaveNone.emit(&mut hello);
    table.swarm.handle(table.now, Input::Received(sixth, hello.into()));
    let choked = table.guest(2, &[Message::HaveNone]);
    let offers = table.heard().into_iter().filter(|(_, m)| matches!(m, Message::AllowedFast(_)));
    assert!(offers.into_iter().all(|(key, _)| key == choked));
    // A seed has better to do, and with nothing to give, nothing is offered.
    let mut table = seeding();
    table.guest(1, &[Message::HaveNone]);
    assert!(!table.heard().iter().any(|(_, m)| matches!(m, Message::AllowedFast(_))));
    let mut table = Table::new();
    table.guest(1, &[Message::HaveNone]);
    assert!(!table.heard().iter().any(|(_, m)| matches!(m, Message::AllowedFast(_))));
}

#[test]
fn what_a_choking_peer_allows_is_asked_for_until_it_refuses() {
    let mut table = Table::new();
    let bits = Bitfield::from_wire(&[0b0110_0000], PIECES).unwrap();
    // It lacks piece 0, and piece 9 is none; the rest of a flood is not kept.
    let mut hello = vec![Message::Bitfield(bits.to_wire())];
    hello.extend([0, 1, 2, 9].map(Message::AllowedFast));
    hello.extend((100..1000).map(Message::AllowedFast));
    let key = table.guest(1, &hello);
    let asked = table.requests();
    assert!(!asked.is_empty() && asked.len() <= ALLOWED_FAST_DEPTH);
    assert!(asked.iter().all(|(_, b)| b.index == 1 || b.index == 2));
    let piece = |index: u32| -> Vec<BlockRef> {
        asked.iter().map(|(_, b)| *b).filter(|b| b.index == index).collect()
    };
    let (given, refused) = (piece(1), piece(2));
    table.say(key, &given.iter().map(|b| Table::block(*b)).collect::<Vec<_>>());
    table.say(key, &refused.iter().map(|b| Message::Reject(*b)).collect::<Vec<_>>());
    for _ in 0..3 {
        assert_eq!(table.requests(), [], "no question without end");
        table.say(key, &[Message::AllowedFast(2)]);
        table.pass(Duration::from_secs(1));
    }
    assert_eq!(table.swarm.stats(table.now).pieces, 1);
    // An unchoke opens the rest.
    table.say(key, &[Message::Unchoke]);
    let rest: Vec<BlockRef> = table.requests().iter().map(|(_, b)| *b).collect();
    assert!(!rest.is_empty() && refused.starts_with(&rest), "{rest:?}");
}

// ---- BEP 27

#[test]
fn a_magnet_that_turns_out_private_uses_only_who_is_named() {
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"length").int(5).bytes(b"name").bytes(b"n").bytes(b"piece length").int(16384);
    w.bytes(b"pieces").bytes(&[1; 20]).bytes(b"private").int(1).end();
    let info = Arc::new(Info::parse(raw.into()).unwrap());
    let now = Instant::now();
    let config = Config { dht_port: Some(6881), ..Config::new(Id160([1; 20])) };
    let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
    let from = |net: u8, count: usize| -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(([net, 1, (n / 200) as u8, (n % 200) as u8], 6881))).collect()
    };
    let dialled = |swarm: &mut Swarm| -> Vec<PeerKey> {
        let actions = std::iter::from_fn(|| swarm.poll_action());
        let dial = |action| if let Action::Dial { peer, .. } = action { Some(peer) } else { None };
        actions.filter_map(dial).collect()
    };
    swarm.handle(now, Input::Candidates(from(8, 2 * MAX_HALF_OPEN), Origin::Dht));
    let under_way = dialled(&mut swarm);
    assert_eq!(under_way.len(), MAX_HALF_OPEN);
    swarm.handle(now, Input::Info(info.clone()));
    for peer in under_way {
        swarm.handle(now, Input::DialFailed(peer));
    }
    swarm.handle(now, Input::Candidates(from(9, 10), Origin::Dht));
    swarm.handle(now, Input::Candidates(from(9, 10), Origin::Pex));
    assert_eq!(dialled(&mut swarm), []);
    swarm.handle(now, Input::Candidates(from(7, 1), Origin::User));
    let named = dialled(&mut swarm);
    assert_eq!(named.len(), 1);
    // To that one, neither PORT nor peer exchange is spoken, and from it neither is heard.
    swarm.handle(now, Input::Connected(named[0]));
    let mut hello = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash: info.hash(), peer_id: Id160([2; 20]) }.emit(&mut hello);
    let theirs = ExtendedHandshake { pex_id: Some(1), ..ExtendedHandshake::default() };
    extension(0, &theirs.emit()).emit(&mut hello);
    Message::Port(6881).emit(&mut hello);
    let named_by_it = PexMessage { added: vec![(from(9, 1)[0], 0)], dropped: Vec::new() };
    extension(OUR_PEX_ID, &named_by_it.emit()).emit(&mut hello);
    swarm.handle(now, Input::Received(named[0], hello.into()));
    swarm.accept(now, from(6, 1)[0]);
    swarm.handle_timeout(now + TICK);
    let mut frames = Frames::default();
    let mut greeted = 0;
    while let Some(action) = swarm.poll_action() {
        match action {
            Action::Send(_, bytes) => {
                let skip = (HANDSHAKE_LEN - greeted).min(bytes.len());
                greeted += skip;
                frames.push(bytes.slice(skip..));
            }
            Action::Dial { .. } | Action::Report(Report::DhtNode(_)) => panic!("{action:?}"),
            _ => {}
        }
    }
    let said: Vec<Message> = std::iter::from_fn(|| frames.next_message().unwrap()).collect();
    assert!(!said.iter().any(|m| matches!(m, Message::Port(_))), "{said:?}");
    let handshakes = said.iter().filter_map(|m| match m {
        Message::Extended { id: 0, payload } => ExtendedHandshake::parse(payload),
        _ => None,
    });
    assert!(handshakes.into_iter().all(|h| h.pex_id == Some(0)));
}

// ---- all of it

proptest::proptest! {
    #[test]
    fn nothing_that_peers_say_in_any_order_upsets_the_books(
        steps in proptest::collection::vec((0u8..3, 0u8..12, 0u32..6), 0..120),
    ) {
        let mut table = Table::new();
        let mut peers: Vec<PeerKey> = (1..=3).map(|id| table.guest(id, &[])).collect();
        for (who, kind, index) in steps {
            let at = usize::from(who);
            if !table.swarm.members.contains_key(&peers[at]) {
                // Whoever was banned comes back from elsewhere.
                let id = 10 + (table.closed.len() % 200) as u8;
                peers[at] = table.guest(id, &[]);
            }
            let bits = Bitfield::from_wire(&[(index as u8) << 4], PIECES).unwrap();
            table.say(peers[at], &[match kind {
                0 => Message::HaveAll,
                1 => Message::HaveNone,
                2 => Message::Bitfield(bits.to_wire()),
                3 => Message::Have(index),
                4 => dont_have(index),
                5 => Message::AllowedFast(index),
                6 => Message::Choke,
                7 => Message::Unchoke,
                8 => Message::Request(block(index, 0)),
                9 => extension(OUR_UPLOAD_ONLY_ID, &[index as u8 & 1]),
                10 => Message::Interested,
                _ => Message::Have(index % PIECES),
            }]);
            let asked = table.requests();
            for (number, (key, block)) in asked.into_iter().enumerate() {
                if number % 2 == 0 {
                    table.say(key, &[Table::block(block)]);
                } else {
                    table.say(key, &[Message::Reject(block)]);
                }
            }
            table.pass(Duration::from_millis(300));
        }
        // Rarity counts exactly those that have not everything.
        for piece in info().layout().pieces() {
            let has = |m: &Member| matches!(&m.has, Has::Some(field) if field.has(piece.get()));
            let expected = table.swarm.members.values().filter(|m| has(m)).count();
            let pieces = table.swarm.pieces.as_mut().unwrap();
            proptest::prop_assert_eq!(pieces.picker_mut().availability(piece) as usize, expected);
        }
        for member in table.swarm.members.values() {
            let missing = |i: &u32| !table.swarm.pieces.as_ref().unwrap().have().has(*i);
            let expected = match &member.has {
                Has::Some(field) => field.iter().filter(missing).count(),
                Has::All => (0..PIECES).filter(missing).count(),
                Has::Early { .. } => 0,
            };
            proptest::prop_assert_eq!(member.wanted as usize, expected);
        }
    }
}
