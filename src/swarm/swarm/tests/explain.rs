//! What the swarm says holds it up, as scripted peers bring it about.

use super::*;
use crate::swarm::explain::Bottleneck;
use crate::swarm::{Sequence, Wanted};
use crate::wire::extended::ExtendedHandshake;

impl Table {
    fn why(&self) -> Bottleneck {
        self.swarm.bottleneck(self.now).unwrap()
    }
}

#[test]
fn each_cause_is_named_when_it_is_the_one() {
    let mut table = Table::new();
    assert_eq!(table.why(), Bottleneck::NoPeers);
    let key = table.join(1, Reserved::OURS);
    table.say(key, &[Message::Choke]);
    for (_, block) in table.requests() {
        table.say(key, &[Message::Reject(block)]);
    }
    assert_eq!(table.why(), Bottleneck::Choked { peers: 1 });
    table.pass(Duration::from_secs(2));
    table.say(key, &[Message::Unchoke]);
    let asked = table.requests();
    assert_eq!(table.why(), Bottleneck::Silent { peers: 1, blocks: asked.len() });
    for (_, block) in &asked {
        table.say(key, &[Message::Reject(*block)]);
    }
    table.requests();
    assert_eq!(table.why(), Bottleneck::Refused { peers: 1 });
    table.pass(Duration::from_secs(40));
    let asked = table.requests();
    assert!(!asked.is_empty());
    table.pass(Duration::from_secs(3));
    assert!(matches!(table.why(), Bottleneck::Silent { peers: 1, .. }), "{:?}", table.why());
    table.swarm.config.download_limit = Some(1);
    asked.iter().take(4).for_each(|(_, block)| table.say(key, &[Table::block(*block)]));
    assert!(matches!(table.why(), Bottleneck::DownloadLimit { limit: 1, .. }), "{:?}", table.why());
    table.swarm.config.download_limit = None;
    for (_, block) in asked {
        table.say(key, &[Table::block(block)]);
    }
    for _ in 0..40 {
        for (key, block) in table.requests() {
            table.say(key, &[Table::block(block)]);
        }
        table.pass(Duration::from_millis(100));
    }
    assert!(table.is_complete());
    assert_eq!(table.why(), Bottleneck::NobodyAsks { peers: 0 }, "the other seed was of no more use");
}

/// The last blocks are told from what is only being verified, and a seed's receivers from those who wait for them.
#[test]
fn the_end_and_what_follows_are_told_apart() {
    let mut table = Table::of(1);
    let [first, second] = [1, 2].map(|id| table.join(id, Reserved::OURS));
    let asked = table.requests();
    let of = |who| asked.iter().filter(move |(key, _)| *key == who).map(|(_, block)| *block);
    let giver = if of(first).count() > 0 { first } else { second };
    let blocks: Vec<BlockRef> = of(giver).collect();
    table.say(giver, &[Table::block(blocks[0])]);
    let why = table.why();
    assert!(matches!(why, Bottleneck::LastBlocks { blocks: 1.., peers: 1.. }), "{why:?}");
    blocks[1..].iter().for_each(|block| table.say(giver, &[Table::block(*block)]));
    assert_eq!(table.why(), Bottleneck::Verifying);
    table.requests();
    assert!(table.swarm.is_complete());
    assert_eq!(table.why(), Bottleneck::NobodyAsks { peers: 0 }, "two seeds are of no more use");
    // Who lacks it asks for it.
    let taker = table.swarm.accept(table.now, SocketAddr::from(([10, 0, 0, 9], 7))).unwrap();
    let mut hello = Vec::new();
    let (info_hash, peer_id) = (table.info.hash(), Id160([9; 20]));
    Handshake { reserved: Reserved::OURS, info_hash, peer_id }.emit(&mut hello);
    [Message::HaveNone, Message::Interested].iter().for_each(|m| m.emit(&mut hello));
    table.swarm.handle(table.now, Input::Received(taker, hello.into()));
    assert!(matches!(table.why(), Bottleneck::Receivers { peers: 1, waiting: 0, .. }), "{:?}", table.why());
}

/// Nobody is asked for anything once whoever reads has as much ahead of him as he may.
#[test]
fn a_full_window_leaves_nothing_to_ask() {
    let (now, info) = (Instant::now(), info_of(400));
    let mut table = Table::with(info.clone());
    table.swarm = Swarm::new(info.hash(), Config::new(Id160([1; 20])), [1; 32], now);
    table.swarm.handle(now, Input::Info(info));
    table.swarm.handle(now, Input::Wanted(Wanted::default().in_sequence(Sequence::Reader(1 << 20))));
    table.swarm.handle(now, Input::DiskReady(Bitfield::none(400)));
    table.now = now;
    table.join(1, Reserved::OURS);
    for _ in 0..200 {
        for (key, block) in table.requests() {
            table.say(key, &[Table::block(block)]);
        }
        table.pass(Duration::from_millis(100));
    }
    let had = table.swarm.stats(table.now).pieces;
    assert!((16..=17).contains(&had), "{had} pieces of 64 KiB");
    assert_eq!(table.why(), Bottleneck::NothingToAsk { peers: 1 });
    table.swarm.handle(table.now, Input::Consumed(1 << 20));
    assert!(!table.requests().is_empty(), "he has read on");
}

/// Under a low limit a block comes each eight seconds; between two of them nobody is silent.
#[test]
fn a_low_limit_is_the_cause_between_two_blocks_too() {
    for (limit, between) in [(2048, 8), (8192, 2)] {
        let mut table = Table::of(400);
        table.swarm.config.download_limit = Some(limit);
        let key = table.join(1, Reserved::OURS);
        let mut waiting = table.requests();
        for second in 1..=80 {
            let why = table.why();
            assert!(matches!(why, Bottleneck::DownloadLimit { .. }), "{second}: {why:?}");
            table.pass(Duration::from_secs(1));
            if second % between == 0 {
                let (_, block) = waiting.remove(0);
                table.say(key, &[Table::block(block)]);
            }
            waiting.extend(table.requests());
        }
        // Who sends nothing for longer than the limit explains is silent.
        table.pass(Duration::from_secs(20));
        assert!(matches!(table.why(), Bottleneck::Silent { .. }), "{:?}", table.why());
    }
}

/// Who sends less than a limit would let through is not held back by it.
#[test]
fn a_slow_peer_is_told_from_a_limit() {
    let mut table = Table::of(400);
    table.swarm.config.download_limit = Some(64 << 10);
    let key = table.join(1, Reserved::OURS);
    let mut waiting = table.requests();
    for second in 1..=40 {
        table.pass(Duration::from_millis(500));
        if second % 2 == 0 {
            let (_, block) = waiting.remove(0);
            table.say(key, &[Table::block(block)]);
        }
        waiting.extend(table.requests());
        assert!(!matches!(table.why(), Bottleneck::DownloadLimit { .. }), "{second}: {:?}", table.why());
    }
}

#[test]
fn peers_without_what_is_missing_are_told_from_none() {
    let mut table = Table::new();
    let key = table.swarm.accept(table.now, SocketAddr::from(([10, 0, 0, 9], 7))).unwrap();
    let mut hello = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id: Id160([9; 20]) }
        .emit(&mut hello);
    Message::HaveNone.emit(&mut hello);
    table.swarm.handle(table.now, Input::Received(key, hello.into()));
    assert_eq!(table.why(), Bottleneck::NobodyHas { peers: 1, missing: PIECES });
}

#[test]
fn a_short_queue_at_the_other_end_of_a_long_way_is_told_from_a_slow_sender() {
    let mut table = Table::of(400);
    let key = table.join(1, Reserved::OURS);
    let queues = |blocks| {
        let handshake = ExtendedHandshake { request_queue: Some(blocks), ..ExtendedHandshake::default() };
        [Message::Extended { id: 0, payload: handshake.emit().into() }]
    };
    table.say(key, &queues(20));
    // Twenty blocks each 100 ms: all that it queues, once for each way there and back.
    let mut waiting: Vec<BlockRef> = table.requests().into_iter().map(|(_, b)| b).collect();
    for _ in 0..60 {
        for block in std::mem::take(&mut waiting) {
            table.say(key, &[Table::block(block)]);
        }
        waiting.extend(table.requests().into_iter().map(|(_, b)| b));
        table.pass(Duration::from_millis(100));
        waiting.extend(table.requests().into_iter().map(|(_, b)| b));
    }
    let Bottleneck::Pipeline { peers: 1, depth: 20, round_trip, .. } = table.why() else {
        panic!("{:?}", table.why())
    };
    assert!((80..=140).contains(&round_trip.as_millis()), "{round_trip:?}");
    // The same peer, with room for more, is as fast as it is.
    table.say(key, &queues(2000));
    for _ in 0..60 {
        waiting.extend(table.requests().into_iter().map(|(_, b)| b));
        let now: Vec<BlockRef> = waiting.drain(..waiting.len().min(4)).collect();
        now.into_iter().for_each(|block| table.say(key, &[Table::block(block)]));
        table.pass(Duration::from_millis(100));
    }
    assert!(matches!(table.why(), Bottleneck::Senders { peers: 1, choking: 0, .. }), "{:?}", table.why());
}
