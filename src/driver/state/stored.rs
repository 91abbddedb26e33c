//! How announced peers and items stand in the state file.
//!
//! Peers are packed, since there may be a hundred thousand; items are rare and stand key by key. Ages are
//! whole seconds at the time of saving; the time the node slept is added when they are read.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::dht::{Stored, StoredPeer};
use crate::id::Id160;
use crate::wire::compact;
use crate::wire::item::{Item, MutableItem};

/// Peers that are saved; the ones of torrents least recently asked for go first.
const MAX_PEERS: usize = 1_000_000;
/// Items that are saved, likewise.
const MAX_ITEMS: usize = 16_384;
/// In the byte before a peer: it has everything.
const SEED: u8 = 1;
/// In the byte before a peer: its address has 16 bytes.
const V6: u8 = 2;

/// The peers of one torrent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Swarm {
    hash: ByteBuf,
    /// For each: flags, age in seconds (two bytes), compact address.
    peers: ByteBuf,
}

/// One item.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredItem {
    age_s: u64,
    value: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<ByteBuf>,
}

pub(super) fn encode(stored: &Stored) -> (Vec<Swarm>, Vec<StoredItem>) {
    let mut swarms: Vec<Swarm> = Vec::new();
    let mut last = None;
    for peer in stored.peers.iter().skip(stored.peers.len().saturating_sub(MAX_PEERS)) {
        if last != Some(peer.hash) {
            last = Some(peer.hash);
            let hash = ByteBuf::from(peer.hash.as_bytes().as_slice());
            swarms.push(Swarm { hash, peers: ByteBuf::new() });
        }
        let Some(swarm) = swarms.last_mut() else { continue };
        let v6 = if peer.addr.is_ipv6() { V6 } else { 0 };
        let age = u16::try_from(peer.age.as_secs()).unwrap_or(u16::MAX);
        swarm.peers.push(v6 | if peer.seed { SEED } else { 0 });
        swarm.peers.extend_from_slice(&age.to_be_bytes());
        compact::write_peer(peer.addr, &mut swarm.peers);
    }
    let items = stored.items.iter().skip(stored.items.len().saturating_sub(MAX_ITEMS));
    (swarms, items.map(|(item, age)| encode_item(item, *age)).collect())
}

fn encode_item(item: &Item, age: Duration) -> StoredItem {
    let (age_s, value) = (age.as_secs(), ByteBuf::from(item.value()));
    let bytes = |b: &[u8]| Some(ByteBuf::from(b));
    match item {
        Item::Immutable { .. } => {
            StoredItem { age_s, value, key: None, salt: None, seq: None, signature: None }
        }
        Item::Mutable(m) => StoredItem {
            age_s,
            value,
            key: bytes(&m.key),
            salt: bytes(&m.salt),
            seq: Some(m.seq),
            signature: bytes(&m.signature),
        },
    }
}

/// What cannot be read is left out: signatures and hashes are checked again by the node.
pub(super) fn decode(swarms: &[Swarm], items: Vec<StoredItem>, asleep: Duration) -> Stored {
    let mut peers = Vec::new();
    for swarm in swarms {
        let Some(hash) = Id160::from_slice(&swarm.hash) else { continue };
        let mut rest = swarm.peers.as_slice();
        while let [flags, high, low, tail @ ..] = rest {
            let length = if flags & V6 == V6 { compact::PEER_V6 } else { compact::PEER_V4 };
            let Some((addr, tail)) = tail.split_at_checked(length) else { break };
            rest = tail;
            let age = asleep + Duration::from_secs(u16::from_be_bytes([*high, *low]).into());
            if peers.len() >= MAX_PEERS {
                break;
            }
            if let Some(addr) = compact::peer(addr) {
                peers.push(StoredPeer { hash, addr, seed: flags & SEED == SEED, age });
            }
        }
    }
    let items = items.into_iter().take(MAX_ITEMS).filter_map(|item| {
        let age = asleep.saturating_add(Duration::from_secs(item.age_s));
        Some((decode_item(item)?, age))
    });
    Stored { peers, items: items.collect() }
}

fn decode_item(item: StoredItem) -> Option<Item> {
    let value = item.value.into_vec();
    let Some(key) = item.key else { return Some(Item::Immutable { value }) };
    Some(Item::Mutable(MutableItem {
        key: key.as_slice().try_into().ok()?,
        salt: item.salt.unwrap_or_default().into_vec(),
        seq: item.seq?,
        signature: item.signature?.as_slice().try_into().ok()?,
        value,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    #[test]
    fn everything_comes_back_and_is_older_by_the_time_asleep() {
        let peer = |hash: u8, addr: &str, seed, age_s| StoredPeer {
            hash: Id160([hash; 20]),
            addr: addr.parse().unwrap(),
            seed,
            age: Duration::from_secs(age_s),
        };
        let mutable = MutableItem::sign(&SigningKey::from_bytes(&[3; 32]), b"s", -4, b"i1e").unwrap();
        let mut stored = Stored {
            peers: vec![
                peer(1, "1.2.3.4:5", true, 0),
                peer(1, "[2001:db8::1]:6", false, 3000),
                peer(2, "1.2.3.4:5", false, 7),
            ],
            items: vec![
                (Item::Immutable { value: b"2:hi".to_vec() }, Duration::from_secs(9)),
                (Item::Mutable(mutable), Duration::from_secs(100_000)),
            ],
        };
        let (swarms, items) = encode(&stored);
        assert_eq!(swarms.len(), 2);
        let slept = Duration::from_secs(50);
        let back = decode(&swarms, items, slept);
        stored.peers.iter_mut().for_each(|p| p.age += slept);
        stored.items.iter_mut().for_each(|(_, age)| *age += slept);
        assert_eq!(back, stored);
    }

    #[test]
    fn a_damaged_record_costs_itself_only() {
        let hash = ByteBuf::from([1; 20]);
        let peers = ByteBuf::from([0, 0, 1, 1, 2, 3, 4, 0, 5, V6, 0, 1, 9]);
        let swarms = [Swarm { hash: ByteBuf::from([1; 19]), peers: peers.clone() }, Swarm { hash, peers }];
        let item = StoredItem {
            age_s: u64::MAX,
            value: ByteBuf::from(*b"i1e"),
            key: Some(ByteBuf::from([1; 31])),
            salt: None,
            seq: None,
            signature: None,
        };
        let stored = decode(&swarms, vec![item], Duration::ZERO);
        assert_eq!((stored.peers.len(), stored.items.len()), (1, 0));
    }
}
