//! What the tests of this folder share: a torrent, a swarm that has it, and peers that speak real wire bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Action, Config, Input, PeerKey, Swarm};
use crate::id::Id160;
use crate::peer::Bitfield;
use crate::wire::bencode::Writer;
use crate::wire::metainfo::Info;
use crate::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};

/// Pieces of the torrent, of 64 KiB each.
pub(super) const PIECES: u32 = 40;

pub(super) fn info() -> Arc<Info> {
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"length").int(i64::from(PIECES) * 65536).bytes(b"name").bytes(b"n");
    w.bytes(b"piece length").int(65536).bytes(b"pieces").bytes(&[1; 20 * PIECES as usize]).end();
    Arc::new(Info::parse(raw.into()).unwrap())
}

/// A swarm that has everything.
pub(super) fn seed_with(now: Instant, adjust: impl FnOnce(&mut Config)) -> Swarm {
    let mut config = Config::new(Id160([1; 20]));
    adjust(&mut config);
    let mut swarm = Swarm::new(info().hash(), config, [1; 32], now);
    swarm.handle(now, Input::Info(info()));
    swarm.handle(now, Input::DiskReady(Bitfield::all(PIECES)));
    swarm
}

/// A peer that has nothing and wants everything.
pub(super) fn join(swarm: &mut Swarm, id: u8, now: Instant) -> PeerKey {
    let key = swarm.accept(now, SocketAddr::from(([10, 0, 0, id], 7))).unwrap();
    let mut hello = Vec::new();
    let peer_id = Id160([100 + id; 20]);
    Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id }.emit(&mut hello);
    [Message::HaveNone, Message::Interested].iter().for_each(|m| m.emit(&mut hello));
    swarm.handle(now, Input::Received(key, hello.into()));
    key
}

/// What has been said to a peer, and what is to be read for it.
pub(super) fn drain(swarm: &mut Swarm, key: PeerKey, greeted: bool) -> (Vec<Message>, Vec<BlockRef>) {
    let (mut frames, mut skip) = (Frames::default(), if greeted { 0 } else { HANDSHAKE_LEN });
    let (mut said, mut reads) = (Vec::new(), Vec::new());
    while let Some(action) = swarm.poll_action() {
        match action {
            Action::Send(to, bytes) if to == key => {
                let passed = skip.min(bytes.len());
                skip -= passed;
                frames.push(bytes.slice(passed..));
                said.extend(std::iter::from_fn(|| frames.next_message().unwrap()));
            }
            Action::Read { piece, begin, length, .. } => {
                reads.push(BlockRef { index: piece.get(), begin, length });
            }
            _ => {}
        }
    }
    (said, reads)
}
