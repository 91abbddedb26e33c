use super::*;
use crate::id::Id160;
use crate::wire::extended::{OUR_DONT_HAVE_ID, OUR_PEX_ID};
use crate::wire::peer::PeerWireError;
use crate::wire::pex::PexMessage;

fn settings(id: u8) -> Settings {
    Settings {
        info_hash: Id160([9; 20]),
        peer_id: Id160([id; 20]),
        listen_port: Some(6881),
        dht_port: Some(6882),
        metadata_size: Some(100),
        pex: true,
        upload_only: false,
        peer_ip: Some([10, 0, 0, 3 - id.min(2)].into()),
    }
}

fn pump(from: &mut Connection, to: &mut Connection, now: Instant) -> Result<Vec<Event>, ProtocolError> {
    while let Some(transmit) = from.poll_transmit(now) {
        let Transmit::Bytes(bytes) = transmit else { panic!("{transmit:?}") };
        to.handle_bytes(now, bytes)?;
    }
    Ok(std::iter::from_fn(|| to.poll_event()).collect())
}

fn pair(now: Instant) -> (Connection, Connection) {
    let mut a = Connection::new(settings(1), false, now);
    let mut b = Connection::new(settings(2), true, now);
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![Event::Handshaken]));
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::Handshaken]));
    (a, b)
}

#[test]
fn two_sides_shake_hands_and_trade_a_block() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    b.send(&Message::HaveAll);
    b.introduce();
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::HaveAll, Event::Extended, Event::DhtPort(6882)]));
    assert!(a.serves_metadata() && a.is_fast() && a.request_limit() == 2000);
    assert_eq!(a.extended().your_ip, Some([10, 0, 0, 1].into()));
    a.introduce();
    a.express_interest(true);
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![Event::Extended, Event::DhtPort(6882), Event::Interested]));
    b.choke(false);
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::Unchoked]));
    let block = BlockRef { index: 0, begin: 0, length: 4 };
    a.request(block);
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![Event::Request(block)]));
    b.send_block(0, 0, Bytes::from_static(b"data").into());
    let got = Event::Block { block, data: Bytes::from_static(b"data") };
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![got]));
    assert_eq!(a.requests(), 0);
    b.send_block(0, 0, Bytes::from_static(b"data").into());
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::Unrequested(4)]));
}

#[test]
fn a_block_on_disk_goes_out_behind_its_header_and_in_order() {
    let now = Instant::now();
    let (mut a, _) = pair(now);
    a.send(&Message::Have(7));
    a.send_block(3, 16384, Payload::Stored(5));
    a.send(&Message::Have(8));
    let out: Vec<Transmit> = std::iter::from_fn(|| a.poll_transmit(now)).collect();
    let [Transmit::Bytes(before), Transmit::Stored(block), Transmit::Bytes(after)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(*block, BlockRef { index: 3, begin: 16384, length: 5 });
    assert!(before.ends_with(&piece_header(3, 16384, 5)) && before.len() == 9 + 13);
    assert_eq!(after.len(), 9);
}

#[test]
fn a_zero_length_block_is_bitcomets_reject() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let block = BlockRef { index: 3, begin: 16384, length: 16384 };
    a.request(block);
    b.send_block(3, 16384, Bytes::new().into());
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::Rejected(block)]));
}

#[test]
fn another_torrent_and_ourselves_are_refused() {
    let now = Instant::now();
    let mut a = Connection::new(Settings { info_hash: Id160([8; 20]), ..settings(1) }, false, now);
    let mut b = Connection::new(settings(2), true, now);
    assert_eq!(pump(&mut a, &mut b, now), Err(ProtocolError::OtherTorrent));
    let mut a = Connection::new(settings(2), false, now);
    let mut b = Connection::new(settings(2), true, now);
    assert_eq!(pump(&mut a, &mut b, now), Err(ProtocolError::Ourselves));
    assert_eq!(pump(&mut b, &mut a, now), Err(ProtocolError::Ourselves));
}

#[test]
fn silence_and_slow_handshakes_end_a_connection_and_keepalives_prevent_it() {
    let now = Instant::now();
    let mut alone = Connection::new(settings(1), true, now);
    assert_eq!(alone.poll_timeout(), now + HANDSHAKE_TIMEOUT);
    assert_eq!(alone.handle_timeout(now + HANDSHAKE_TIMEOUT), Err(ProtocolError::HandshakeTimeout));
    let (mut a, mut b) = pair(now);
    let later = now + KEEPALIVE_AFTER;
    assert_eq!(a.handle_timeout(later), Ok(()));
    assert_eq!(pump(&mut a, &mut b, later), Ok(vec![]));
    assert_eq!(b.handle_timeout(now + SILENCE_TIMEOUT), Ok(()));
    assert_eq!(a.handle_timeout(now + SILENCE_TIMEOUT), Err(ProtocolError::Silent));
}

#[test]
fn a_second_bitfield_is_taken_and_floods_are_refused() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    b.send(&Message::HaveNone);
    b.send(&Message::Have(1));
    b.send(&Message::HaveAll);
    let news = vec![Event::HaveNone, Event::Have(1), Event::HaveAll];
    assert_eq!(pump(&mut b, &mut a, now), Ok(news));
    for _ in 0..MAX_FIELDS {
        b.send(&Message::HaveAll);
    }
    assert_eq!(pump(&mut b, &mut a, now), Err(ProtocolError::Bitfields));
    let (mut a, mut b) = pair(now);
    for _ in 0..=MAX_EXTENDED_HANDSHAKES {
        b.introduce();
    }
    assert_eq!(pump(&mut b, &mut a, now), Err(ProtocolError::Handshakes));
    let (mut a, mut b) = pair(now);
    for _ in 0..=MAX_UNREQUESTED {
        b.send_block(0, 0, Bytes::from_static(b"x").into());
    }
    assert_eq!(pump(&mut b, &mut a, now), Err(ProtocolError::Unrequested));
}

#[test]
fn peers_are_exchanged_until_the_torrent_turns_out_private() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let message = PexMessage { added: vec![("1.2.3.4:5".parse().unwrap(), 2)], dropped: Vec::new() };
    // Nobody has named an id yet.
    a.send_peers(&message);
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![]));
    b.introduce();
    assert!(pump(&mut b, &mut a, now).is_ok() && a.exchanges_peers());
    a.send_peers(&message);
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![Event::Peers(message.clone())]));
    b.announce_metadata(100, true);
    assert_eq!(pump(&mut b, &mut a, now), Ok(vec![Event::Extended]));
    assert!(!a.exchanges_peers());
    a.send(&Message::Extended { id: OUR_PEX_ID, payload: message.emit().into() });
    assert_eq!(pump(&mut a, &mut b, now), Ok(vec![]));
}

#[test]
fn malformed_extension_messages_end_the_connection() {
    for (id, payload) in [(OUR_PEX_ID, &b"le"[..]), (OUR_DONT_HAVE_ID, b"123"), (0, b"i7e")] {
        let now = Instant::now();
        let (mut a, mut b) = pair(now);
        a.send(&Message::Extended { id, payload: Bytes::from_static(payload) });
        assert_eq!(pump(&mut a, &mut b, now), Err(ProtocolError::Extension));
    }
}

#[test]
fn an_encrypted_stream_is_refused_at_its_first_byte() {
    let now = Instant::now();
    let mut b = Connection::new(settings(2), true, now);
    let refused = b.handle_bytes(now, Bytes::from_static(b"\x42\x42"));
    assert_eq!(refused, Err(ProtocolError::Wire(PeerWireError::NotBitTorrent)));
}

proptest::proptest! {
    #[test]
    fn never_panics_whatever_comes(chunks: Vec<Vec<u8>>) {
        let now = Instant::now();
        let (_, mut b) = pair(now);
        for chunk in chunks {
            if b.handle_bytes(now, chunk.into()).is_err() {
                break;
            }
            while b.poll_event().is_some() {}
        }
    }
}

#[test]
fn a_byte_now_and_then_is_no_sign_of_life_and_a_slow_block_is_one() {
    let start = Instant::now();
    let (_, mut dawdler) = pair(start);
    let (_, mut slow) = pair(start);
    let mut frame = Vec::new();
    Message::Piece { index: 0, begin: 0, data: Bytes::from(vec![0; 16_384]) }.emit(&mut frame);
    for second in 1..=SILENCE_TIMEOUT.as_secs() {
        let (now, at) = (start + Duration::from_secs(second), second as usize - 1);
        assert_eq!(dawdler.handle_bytes(now, Bytes::copy_from_slice(&frame[at..=at])), Ok(()));
        assert_eq!(slow.handle_bytes(now, Bytes::copy_from_slice(&frame[at * 50..at * 50 + 50])), Ok(()));
    }
    let now = start + SILENCE_TIMEOUT;
    assert_eq!(dawdler.handle_timeout(now), Err(ProtocolError::Silent));
    assert_eq!(slow.handle_timeout(now), Ok(()));
}

#[test]
fn blocks_that_come_late_are_no_flood_and_blocks_nobody_asked_for_are() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let block = |index| BlockRef { index, begin: 0, length: 16_384 };
    let data = Bytes::from(vec![0; 16_384]);
    let mut give = |a: &mut Connection, index| {
        b.send_block(index, 0, data.clone().into());
        pump(&mut b, a, now)
    };
    for index in 0..2000 {
        a.request(block(index));
        a.cancel(block(index));
    }
    for index in 0..2000 {
        assert_eq!(give(&mut a, index), Ok(vec![Event::Unrequested(16_384)]));
    }
    let more = (0..).take_while(|&index| give(&mut a, index).is_ok()).count();
    assert!(more < 200, "{more} blocks");
}

#[test]
fn a_flood_of_tiny_messages_leaves_no_room_behind() {
    let now = Instant::now();
    let (_, mut b) = pair(now);
    let mut flood = Vec::new();
    (0..20_000).for_each(|_| Message::Interested.emit(&mut flood));
    assert_eq!(b.handle_bytes(now, flood.into()), Ok(()));
    while b.poll_event().is_some() {}
    assert!(b.events.capacity() <= MAX_IDLE_EVENTS);
}
