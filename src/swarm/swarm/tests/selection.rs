//! Some pieces only: whom that makes interesting, what is asked for, and what peers are told at the end.

use super::*;
use crate::swarm::{Report, Sequence, Wanted};

/// A table at which only the first two of four pieces are wanted.
fn wanting_two(have: Bitfield, sequence: Sequence) -> Table {
    let mut table = Table::new();
    table.swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [1; 32], table.now);
    table.swarm.handle(table.now, Input::Info(info()));
    let wanted = Wanted::of_pieces(&[true, true, false, false], &[false; 4]).in_sequence(sequence);
    table.swarm.handle(table.now, Input::Wanted(wanted));
    table.swarm.handle(table.now, Input::DiskReady(have));
    table
}

#[test]
fn only_what_is_wanted_is_asked_for_and_then_no_more() {
    for sequence in [Sequence::Rarest, Sequence::InOrder] {
        let mut table = wanting_two(Bitfield::none(PIECES), sequence);
        let key = table.join(1, Reserved::OURS);
        let mut asked = Vec::new();
        for _ in 0..40 {
            for (key, block) in table.requests() {
                asked.push(block.index);
                table.say(key, &[Table::block(block)]);
            }
            table.pass(Duration::from_millis(300));
        }
        asked.sort_unstable();
        assert_eq!(asked, [0, 0, 0, 0, 1, 1, 1, 1], "{sequence:?}");
        assert!(table.swarm.is_complete());
        assert!(!table.swarm.pieces.as_ref().unwrap().is_whole());
        // A seed that wants nothing and we who want nothing have no use for each other.
        assert_eq!(table.closed, [(key, CloseReason::BothComplete)]);
    }
}

#[test]
fn a_peer_with_nothing_that_is_wanted_is_not_interesting() {
    let mut table = wanting_two(Bitfield::none(PIECES), Sequence::Rarest);
    let key = table.join(1, Reserved::OURS);
    table.requests();
    let mut rest = Bitfield::none(PIECES);
    rest.set(3, true);
    table.say(key, &[Message::Bitfield(rest.to_wire())]);
    assert_eq!(table.swarm.members[&key].wanted, 0);
    assert_eq!(table.swarm.stats(table.now).interesting, 0);
    table.say(key, &[Message::Have(1)]);
    assert_eq!(table.swarm.members[&key].wanted, 1);
    // One that we do not want changes nothing, and neither does its loss.
    table.say(key, &[Message::Have(2)]);
    assert_eq!(table.swarm.members[&key].wanted, 1);
}

#[test]
fn who_has_all_that_it_wants_is_complete_and_says_so() {
    let mut have = Bitfield::none(PIECES);
    [0, 1].iter().for_each(|&piece| {
        have.set(piece, true);
    });
    let mut table = wanting_two(have, Sequence::Rarest);
    let reports: Vec<Action> = std::iter::from_fn(|| table.swarm.poll_action()).collect();
    assert!(reports.iter().any(|a| matches!(a, Action::Report(Report::Complete))));
    let addr = SocketAddr::from(([10, 0, 0, 9], 7));
    assert!(table.swarm.settings(addr).upload_only);
    let key = table.swarm.accept(table.now, addr).unwrap();
    table.ears.insert(key, Ear::default());
    let mut hello = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id: Id160([9; 20]) }
        .emit(&mut hello);
    Message::HaveNone.emit(&mut hello);
    table.swarm.handle(table.now, Input::Received(key, hello.into()));
    let mut said = Vec::new();
    while let Some(action) = table.swarm.poll_action() {
        if let Action::Send(to, bytes) = action {
            said.extend(table.ears.get_mut(&to).unwrap().hear(&bytes));
        }
    }
    // Half of it is here, so it must not claim everything.
    assert!(said.iter().any(|m| matches!(m, Message::Bitfield(bits) if bits[0] == 0b1100_0000)), "{said:?}");
}
