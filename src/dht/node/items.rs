//! Items of the DHT's store, put and got for the user, and kept for others (BEP 44).

use std::net::SocketAddr;
use std::time::Instant;

use super::search::{Kind, Search};
use super::{Node, Purpose};
use crate::dht::announced::Peer;
use crate::dht::config::{ANNOUNCE_EXPIRY, MAX_ITEM_PAYLOAD};
use crate::dht::event::{Event, Full, LookupId, Stored, StoredPeer};
use crate::dht::inflight::Pending;
use crate::dht::items::PutError;
use crate::dht::traffic::BAD_TOKEN;
use crate::id::Id160;
use crate::wire::compact;
use crate::wire::item::{self, Item, ItemError, MutableItem};
use crate::wire::krpc::{Method, Put, Reply, Signed, Want, code};

/// What a search for an item, or for a place to put one, has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct ItemSearch {
    salt: Vec<u8>,
    best: Option<Item>,
    /// What to put at the end, and the version it replaces.
    put: Option<(Item, Option<i64>)>,
}

impl ItemSearch {
    /// The query that stores it.
    pub(super) fn put_method<'a>(&'a self, token: &'a [u8]) -> Option<Method<'a>> {
        let (item, cas) = self.put.as_ref()?;
        let (signed, salt): (_, &[u8]) = match item {
            Item::Immutable { .. } => (None, &[]),
            Item::Mutable(m) => {
                (Some(Signed { key: &m.key, seq: m.seq, signature: &m.signature }), m.salt.as_slice())
            }
        };
        Some(Method::Put(Put { token, value: item.value(), signed, cas: *cas, salt }))
    }

    /// The item in a reply, if its hash or signature holds and it is newer than what was found before.
    fn take(&mut self, target: Id160, reply: &Reply<'_>) -> Option<Item> {
        let found = read(target, &self.salt, reply)?;
        let newer = match &self.best {
            None => true,
            Some(best) => found.seq() > best.seq(),
        };
        // The signature is what costs: it is checked last.
        (newer && found.check().is_ok()).then(|| {
            self.best = Some(found.clone());
            found
        })
    }
}

fn read(target: Id160, salt: &[u8], reply: &Reply<'_>) -> Option<Item> {
    let value = Some(reply.value).filter(|v| !v.is_empty() && v.len() <= item::MAX_VALUE)?;
    let found = match reply.signed {
        None => Item::Immutable { value: value.to_vec() },
        Some(Signed { key, seq, signature }) => Item::Mutable(MutableItem {
            key: *key,
            salt: salt.to_vec(),
            seq,
            signature: *signature,
            value: value.to_vec(),
        }),
    };
    (found.target() == target).then_some(found)
}

impl Node {
    /// Searches for an item. Of a mutable one, `salt` must be known; every newer version found is an event.
    pub fn get_item(&mut self, now: Instant, target: Id160, salt: &[u8]) -> Result<LookupId, Full> {
        let own = self.items.get(now, &target).cloned();
        let item = ItemSearch { salt: salt.to_vec(), best: own.clone(), put: None };
        let id = self.search_item(now, target, Kind::GetItem, item)?;
        if let Some(item) = own {
            self.on_item(now, id, item);
        }
        Ok(id)
    }

    /// Puts an item on the nodes closest to its target; with `cas`, only where that version is in store.
    ///
    /// An item that nobody would take is refused here.
    pub fn put_item(
        &mut self,
        now: Instant,
        item: Item,
        cas: Option<i64>,
    ) -> Result<Result<LookupId, Full>, ItemError> {
        item.check()?;
        let target = item.target();
        let salt = if let Item::Mutable(m) = &item { m.salt.clone() } else { Vec::new() };
        let search = ItemSearch { salt, best: None, put: Some((item, cas)) };
        Ok(self.search_item(now, target, Kind::PutItem, search))
    }

    fn search_item(
        &mut self,
        now: Instant,
        target: Id160,
        kind: Kind,
        item: ItemSearch,
    ) -> Result<LookupId, Full> {
        let id = self.search(now, target, kind)?;
        if let Some(search) = self.searches.iter_mut().find(|s| s.id() == id) {
            search.item = Some(Box::new(item));
        }
        Ok(id)
    }

    /// Looks at a reply to `get`.
    pub(super) fn on_item_reply(&mut self, now: Instant, id: LookupId, reply: &Reply<'_>) {
        let Some(search) = self.searches.iter_mut().find(|s| s.id() == id) else { return };
        let target = search.target();
        let found = search.item.as_mut().and_then(|i| i.take(target, reply));
        if let Some(item) = found {
            self.on_item(now, id, item);
        }
    }

    fn on_item(&mut self, now: Instant, id: LookupId, item: Item) {
        // What cannot change needs no second opinion.
        let over = item.seq().is_none();
        let mine = |s: &&mut Box<Search>| s.id() == id && s.is_get_item();
        if let Some(search) = self.searches.iter_mut().find(mine) {
            search.is_satisfied |= over;
            self.push_event(Event::Item { lookup: id, item });
            self.drive(now, id);
        }
    }

    /// Remembers why a node did not store.
    pub(super) fn note_refusal(&mut self, query: &Pending<Purpose>, code: i64) {
        if let Purpose::Announce(id) = query.purpose
            && let Some(search) = self.searches.iter_mut().find(|s| s.id() == id)
        {
            search.refused = Some(code);
        }
    }

    pub(super) fn serve_get(
        &mut self,
        now: Instant,
        from: SocketAddr,
        tid: &[u8],
        (target, seq): (Id160, Option<i64>),
        want: Want,
    ) {
        let closest = self.closest_compact(from, target, want);
        let token = self.tokens.issue(from.ip());
        let found = self.items.get(now, &target).cloned();
        let mut reply = Reply { token: Some(&token), ..Reply::default() };
        if let Some(item) = &found {
            // Who has this version already is told its number only (BEP 44, "get").
            reply.seq = item.seq();
            let is_news = item.seq().is_none() || seq.is_none_or(|seq| item.seq() > Some(seq));
            if is_news && self.may_tell_item() {
                reply.value = item.value();
                if let Item::Mutable(m) = item {
                    reply.signed = Some(Signed { key: &m.key, seq: m.seq, signature: &m.signature });
                }
            }
        }
        let mut bare = Vec::with_capacity(MAX_ITEM_PAYLOAD);
        self.reply_message(from, tid, reply).emit(&mut bare);
        // A big value leaves room for a few nodes only: "5:nodes" and "6:nodes6" with their lengths.
        let room = MAX_ITEM_PAYLOAD.saturating_sub(bare.len() + 24);
        let Reply { mut nodes, mut nodes6, .. } = closest.reply();
        nodes = &nodes[..nodes.len().min(room / compact::NODE_V4 * compact::NODE_V4)];
        let room = room - nodes.len();
        nodes6 = &nodes6[..nodes6.len().min(room / compact::NODE_V6 * compact::NODE_V6)];
        self.answer(from, tid, Reply { nodes, nodes6, ..reply });
    }

    pub(super) fn serve_put(&mut self, now: Instant, from: SocketAddr, tid: &[u8], put: &Put<'_>) {
        if !self.tokens.accepts(from.ip(), put.token) {
            return self.refuse(from, tid, code::PROTOCOL, BAD_TOKEN);
        }
        if put.value.len() > item::MAX_VALUE {
            return self.refuse(from, tid, code::TOO_BIG, "value too big");
        }
        if put.signed.is_some() && put.salt.len() > item::MAX_SALT {
            return self.refuse(from, tid, code::SALT, "salt too big");
        }
        let value = put.value.to_vec();
        let item = match put.signed {
            None => Item::Immutable { value },
            Some(Signed { key, seq, signature }) => {
                let salt = put.salt.to_vec();
                Item::Mutable(MutableItem { key: *key, salt, seq, signature: *signature, value })
            }
        };
        let (code, text) = match self.items.put(now, from.ip(), item, put.cas) {
            Ok(()) => return self.answer(from, tid, Reply::default()),
            Err(PutError::Invalid(ItemError::ValueTooBig)) => (code::TOO_BIG, "value too big"),
            Err(PutError::Invalid(ItemError::SaltTooBig)) => (code::SALT, "salt too big"),
            Err(PutError::Invalid(ItemError::Signature)) => (code::SIGNATURE, "invalid signature"),
            Err(PutError::Invalid(ItemError::NotCanonical)) => (code::PROTOCOL, "v is not canonical"),
            Err(PutError::Cas) => (code::CAS, "cas does not match"),
            Err(PutError::OldSeq) => (code::OLD_SEQ, "a newer seq is in store"),
            Err(PutError::Busy) => (code::SERVER, "busy"),
        };
        self.refuse(from, tid, code, text);
    }

    /// What strangers entrusted to us.
    pub fn stored(&self, now: Instant) -> Stored {
        let peer = |(hash, p): (_, Peer)| {
            let age = now.saturating_duration_since(p.at);
            StoredPeer { hash, addr: p.addr, seed: p.seed, age }
        };
        let items = self.items.export(now).map(|(item, age)| (item.clone(), age));
        Stored { peers: self.announced.export(now).map(peer).collect(), items: items.collect() }
    }

    /// Takes back what strangers entrusted to an earlier run; what is too old by now is left out.
    pub fn restore(&mut self, now: Instant, stored: Stored) {
        for StoredPeer { hash, addr, seed, age } in stored.peers {
            if age < ANNOUNCE_EXPIRY && self.config.accepts(addr, addr.ip()) {
                self.announced.insert(now.checked_sub(age).unwrap_or(now), hash, addr, seed);
            }
        }
        for (item, age) in stored.items {
            self.items.restore(now, item, age);
        }
    }
}
