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
