//! Of several peers who gave blocks of one piece, the liar alone is banned.

use super::*;

/// A piece of four blocks from these authors does not hash; what each block was is remembered.
fn fail(table: &mut Table, authors: [PeerKey; 4], leaves: Option<PeerKey>) -> PieceIndex {
    let index = table.requests().first().expect("something is asked for").1.index;
    let piece = info().layout().piece(index).unwrap();
    for (block, author) in authors.iter().enumerate() {
        table.swarm.pieces.as_mut().unwrap().on_block(*author, piece, block as u32);
        table.swarm.members.get_mut(author).unwrap().down.record(table.now, 1);
    }
    leaves.into_iter().for_each(|key| table.swarm.handle(table.now, Input::Closed(key)));
    table.swarm.handle(table.now, Input::Hashed(piece, false));
    table.swarm.handle(table.now, Input::Digested(piece, vec![1, 2, 3, 4]));
    piece
}

/// Everything is fetched; then the disk says what the blocks of the failed piece are in truth.
fn judge(table: &mut Table, piece: PieceIndex, truth: [u64; 4]) {
    for _ in 0..60 {
        for (key, block) in table.requests() {
            table.say(key, &[Table::block(block)]);
        }
        table.pass(Duration::from_secs(1));
    }
    assert!(table.is_complete(), "{:?}", table.swarm.stats(table.now));
    table.swarm.handle(table.now, Input::Digested(piece, truth.to_vec()));
    table.requests();
}

/// The disk's fault is not the peer's.
#[test]
fn a_piece_that_cannot_be_read_back_is_asked_for_again_of_the_same_peer() {
    let mut table = Table::new();
    let only = table.join(1, Reserved::OURS);
    let index = table.requests().first().expect("something is asked for").1.index;
    let piece = info().layout().piece(index).unwrap();
    for block in 0..4 {
        table.swarm.pieces.as_mut().unwrap().on_block(only, piece, block);
        table.swarm.members.get_mut(&only).unwrap().down.record(table.now, 1);
    }
    table.swarm.handle(table.now, Input::Lost(piece));
    let wasted = table.swarm.stats(table.now).wasted;
    assert_eq!(wasted, u64::from(info().layout().len_of(piece)));
    // Twice makes no difference: nobody waits for it any more.
    table.swarm.handle(table.now, Input::Lost(piece));
    assert_eq!(table.swarm.stats(table.now).wasted, wasted);
    judge(&mut table, piece, [1, 2, 3, 4]);
    assert!(liars(&table).is_empty());
    assert_eq!(table.swarm.stats(table.now).banned, 0);
}

fn liars(table: &Table) -> Vec<PeerKey> {
    let liars = table.closed.iter().filter(|(_, reason)| *reason == CloseReason::Liar);
    liars.map(|(key, _)| *key).collect()
}

#[test]
fn of_three_authors_only_the_liar_is_banned() {
    let mut table = Table::new();
    let [first, liar, third] = [1, 2, 3].map(|id| table.join(id, Reserved::OURS));
    let piece = fail(&mut table, [first, liar, third, first], None);
    assert!(liars(&table).is_empty(), "nobody is banned on suspicion");
    judge(&mut table, piece, [1, 0, 3, 4]);
    assert_eq!(table.swarm.stats(table.now).banned, 1);
    let banned = |id| table.swarm.candidates.is_banned(SocketAddr::from(([10, 0, 0, id], 7)));
    assert_eq!([1, 2, 3].map(banned), [false, true, false]);
}

#[test]
fn a_liar_that_has_left_is_banned_all_the_same() {
    let mut table = Table::new();
    let [first, liar] = [1, 2].map(|id| table.join(id, Reserved::OURS));
    let piece = fail(&mut table, [first, first, liar, first], Some(liar));
    judge(&mut table, piece, [1, 2, 0, 4]);
    assert_eq!(table.swarm.stats(table.now).banned, 1);
    assert_eq!(table.swarm.accept(table.now, SocketAddr::from(([10, 0, 0, 2], 9))), None);
    assert!(table.swarm.accept(table.now, SocketAddr::from(([10, 0, 0, 1], 9))).is_some());
}

#[test]
fn a_liar_that_sends_the_truth_the_second_time_is_banned_for_the_first() {
    let mut table = Table::new();
    let [first, liar] = [1, 2].map(|id| table.join(id, Reserved::OURS));
    let piece = fail(&mut table, [liar, first, first, first], None);
    // Whoever is asked for it again, all is true now.
    table.say(first, &[Message::Choke]);
    judge(&mut table, piece, [0, 2, 3, 4]);
    assert_eq!(table.swarm.stats(table.now).banned, 1);
    assert!(table.swarm.candidates.is_banned(SocketAddr::from(([10, 0, 0, 2], 7))));
}

/// Each second one block of `slow` comes, and everything of `fast`; how many seconds until all is here.
fn seconds_with_a_slow_one(table: &mut Table, slow: PeerKey, fast: PeerKey) -> u32 {
    let mut owed: Vec<BlockRef> = Vec::new();
    for tenth in 0..1000 {
        if table.swarm.is_complete() {
            return tenth / 10;
        }
        for (key, block) in table.requests() {
            match key == fast {
                true => table.say(fast, &[Table::block(block)]),
                false => owed.push(block),
            }
        }
        if tenth % 10 == 0 && !owed.is_empty() {
            table.say(slow, &[Table::block(owed.remove(0))]);
        }
        table.pass(Duration::from_millis(100));
    }
    panic!("not complete: {:?}", table.swarm.stats(table.now));
}

/// All pieces of two authors, one of whom has lied: of 64 blocks each.
fn failed(pieces: u32, choked: bool) -> (Table, PeerKey, PeerKey) {
    let mut table = Table::with(info_with(pieces, 1 << 20));
    let [slow, fast] = [1, 2].map(|id| table.join(id, Reserved::OURS));
    table.swarm.members.get_mut(&fast).unwrap().proven = true;
    table.swarm.members.get_mut(&fast).unwrap().down.record(table.now, 4 << 20);
    let index = table.requests()[0].1.index;
    let piece = table.info.layout().piece(index).unwrap();
    for block in 0..64 {
        let author = if block % 2 == 0 { slow } else { fast };
        table.swarm.pieces.as_mut().unwrap().on_block(author, piece, block);
    }
    if choked {
        let owed = table.swarm.conn(fast).unwrap().pending().map(|block| Message::Reject(*block));
        let said: Vec<Message> = std::iter::once(Message::Choke).chain(owed).collect();
        table.say(fast, &said);
    }
    table.swarm.handle(table.now, Input::Hashed(piece, false));
    table.swarm.handle(table.now, Input::Digested(piece, (0..64).collect()));
    (table, slow, fast)
}

/// A piece that failed has one author from then on: not a slow one where there is a faster.
#[test]
fn a_slow_peer_does_not_take_a_failed_piece_from_a_fast_one() {
    let (mut table, slow, fast) = failed(3, false);
    let seconds = seconds_with_a_slow_one(&mut table, slow, fast);
    assert!(seconds <= 10, "{seconds} s");
}

/// Where a slow one has it already, an idle fast one takes it over.
#[test]
fn a_failed_piece_does_not_wait_for_a_slow_owner() {
    let (mut table, slow, fast) = failed(1, true);
    for _ in 0..30 {
        let asked = table.requests();
        assert!(asked.iter().all(|(key, _)| *key == slow));
        asked.iter().take(1).for_each(|(_, block)| table.say(slow, &[Table::block(*block)]));
        table.pass(Duration::from_millis(100));
    }
    table.say(fast, &[Message::Unchoke]);
    let seconds = seconds_with_a_slow_one(&mut table, slow, fast);
    assert!(seconds <= 10, "{seconds} s");
}
