//! The items that others put here (BEP 44).
//!
//! Owns a bounded store and the rules of replacing. Must not know messages or tokens. Items least recently
//! asked for go first when room is needed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::config::{ITEM_EXPIRY, LIMITER_ENTRIES, SIGNATURES_PER_HOST, SIGNATURES_PER_SECOND};
use super::recent::{Recent, host_key};
use crate::id::Id160;
use crate::wire::item::{Item, ItemError};

/// What an item costs beside its value, with the map's share.
const ITEM_COST: usize = 320;

/// Items by target.
#[derive(Debug)]
pub struct Items {
    by_target: LruCache<Id160, (Item, Instant)>,
    bytes: usize,
    cap: usize,
    /// Signatures that may still be checked in the second that ends then, for everyone together and for each host.
    checks: Checks,
    checks_of: Recent<u64, Checks>,
}

/// So many more until then.
type Checks = (u32, Instant);

/// Takes one of so many a second.
fn take(checks: &mut Checks, now: Instant, per_second: u32) -> bool {
    if checks.1 <= now {
        *checks = (per_second, now + Duration::from_secs(1));
    }
    let left = checks.0;
    checks.0 = left.saturating_sub(1);
    left > 0
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    /// Nobody should take it.
    Invalid(ItemError),
    /// Another version is in store than the one to be replaced.
    Cas,
    /// A newer version is in store, or another value under the same number.
    OldSeq,
    /// Too many signatures to check just now.
    Busy,
}

impl Items {
    /// An empty store of at most `cap` bytes. The secret keeps strangers from guessing where they are noted down.
    pub fn new(now: Instant, cap: usize, secret: u64) -> Self {
        let checks_of = Recent::new(LIMITER_ENTRIES, secret);
        Self {
            by_target: LruCache::unbounded(),
            bytes: 0,
            cap,
            checks: (SIGNATURES_PER_SECOND, now),
            checks_of,
        }
    }

    /// Items in store.
    pub fn len(&self) -> usize {
        self.by_target.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }

    /// Bytes in store.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory taken, and the most it may become.
    pub fn memory(&self) -> (usize, usize) {
        (self.bytes, self.cap)
    }

    /// Sets the most memory it may take; what is too much goes at once.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
        self.shrink();
    }

    /// An item that has not expired.
    pub fn get(&mut self, now: Instant, target: &Id160) -> Option<&Item> {
        let (_, at) = self.by_target.peek(target)?;
        if now.saturating_duration_since(*at) >= ITEM_EXPIRY {
            self.remove(target);
            return None;
        }
        self.by_target.get(target).map(|(item, _)| item)
    }

    /// Takes an item or a newer version of it. With `cas`, only in place of that version.
    pub fn put(&mut self, now: Instant, from: IpAddr, item: Item, cas: Option<i64>) -> Result<(), PutError> {
        let target = item.target();
        // What has expired rules nobody any more.
        self.get(now, &target);
        if let Some((old, _)) = self.by_target.peek(&target)
            && let (Some(old_seq), Some(seq)) = (old.seq(), item.seq())
        {
            if cas.is_some_and(|cas| cas != old_seq) {
                return Err(PutError::Cas);
            }
            if seq < old_seq || seq == old_seq && old.value() != item.value() {
                return Err(PutError::OldSeq);
            }
        }
        // The costly check comes last, and not for what is in store word by word.
        let known = self.by_target.peek(&target).is_some_and(|(old, _)| *old == item);
        if !known {
            if item.seq().is_some() && !self.may_check(now, from) {
                return Err(PutError::Busy);
            }
            item.check().map_err(PutError::Invalid)?;
        }
        self.remove(&target);
        self.bytes += cost(&item);
        self.by_target.put(target, (item, now));
        self.shrink();
        Ok(())
    }

    fn shrink(&mut self) {
        while self.bytes > self.cap && self.by_target.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Whoever has used up his own share takes nothing of what is there for all.
    fn may_check(&mut self, now: Instant, from: IpAddr) -> bool {
        for _ in 0..2 {
            // Whose second is over is as good as new.
            if self.checks_of.peek_oldest().is_some_and(|(_, until)| *until <= now) {
                self.checks_of.pop_oldest();
            }
        }
        let own = self.checks_of.get_or_insert(host_key(from), (0, now));
        take(own, now, SIGNATURES_PER_HOST) && take(&mut self.checks, now, SIGNATURES_PER_SECOND)
    }

    /// Takes back what an earlier run had, as old as it is.
    pub fn restore(&mut self, now: Instant, item: Item, age: Duration) {
        let at = now.checked_sub(age).unwrap_or(now);
        let target = item.target();
        if age < ITEM_EXPIRY && !self.by_target.contains(&target) {
            let cost = cost(&item);
            // The signature is what costs: it is checked last.
            if self.bytes + cost <= self.cap && item.check().is_ok() {
                self.bytes += cost;
                self.by_target.put(target, (item, at));
            }
        }
    }

    /// Every item that has not expired with its age, least recently used first.
    pub fn export(&self, now: Instant) -> impl Iterator<Item = (&Item, Duration)> {
        let aged = self
            .by_target
            .iter()
            .rev()
            .map(move |(_, (item, at))| (item, now.saturating_duration_since(*at)));
        aged.filter(|(_, age)| *age < ITEM_EXPIRY)
    }

    /// Lets go of what has expired and nobody asks for, a few at a time.
    pub fn expire(&mut self, now: Instant) {
        // Bounded, so that a large store costs no single long turn.
        for _ in 0..16 {
            let Some((_, (_, at))) = self.by_target.peek_lru() else { return };
            if now.saturating_duration_since(*at) < ITEM_EXPIRY {
                return;
            }
            self.drop_oldest();
        }
    }

    fn remove(&mut self, target: &Id160) {
        if let Some((item, _)) = self.by_target.pop(target) {
            self.bytes -= cost(&item);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, (item, _))) = self.by_target.pop_lru() {
            self.bytes -= cost(&item);
        }
    }
}

fn cost(item: &Item) -> usize {
    let salt = if let Item::Mutable(item) = item { item.salt.len() } else { 0 };
    ITEM_COST + item.value().len() + salt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::item::MutableItem;
    use ed25519_dalek::SigningKey;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8));

    fn version(seq: i64, value: &str) -> Item {
        let owner = SigningKey::from_bytes(&[7; 32]);
        Item::Mutable(MutableItem::sign(&owner, b"salt", seq, value.as_bytes()).unwrap())
    }

    #[test]
    fn newer_versions_replace_older_ones_only() {
        let (now, mut items) = (Instant::now(), Items::new(Instant::now(), 100_000, 7));
        assert_eq!(items.put(now, FROM, version(5, "i5e"), None), Ok(()));
        assert_eq!(items.put(now, FROM, version(4, "i4e"), None), Err(PutError::OldSeq));
        assert_eq!(items.put(now, FROM, version(5, "i6e"), None), Err(PutError::OldSeq));
        assert_eq!(items.put(now, FROM, version(5, "i5e"), None), Ok(()));
        assert_eq!(items.put(now, FROM, version(6, "i6e"), Some(4)), Err(PutError::Cas));
        assert_eq!(items.put(now, FROM, version(6, "i6e"), Some(5)), Ok(()));
        let target = version(6, "i6e").target();
        assert_eq!(items.get(now, &target).unwrap().value(), b"i6e");
        assert_eq!(items.len(), 1);
        let Item::Mutable(mut forged) = version(7, "i7e") else { unreachable!() };
        forged.value = b"i8e".to_vec();
        let refused = items.put(now, FROM, Item::Mutable(forged), None);
        assert_eq!(refused, Err(PutError::Invalid(ItemError::Signature)));
    }

    #[test]
    fn items_expire_and_a_repeat_renews() {
        let (now, mut items) = (Instant::now(), Items::new(Instant::now(), 100_000, 7));
        let item = Item::Immutable { value: b"i1e".to_vec() };
        let target = item.target();
        items.put(now, FROM, item.clone(), None).unwrap();
        items.put(now + ITEM_EXPIRY / 2, FROM, item, None).unwrap();
        assert!(items.get(now + ITEM_EXPIRY, &target).is_some());
        assert!(items.get(now + ITEM_EXPIRY * 2, &target).is_none());
        assert_eq!((items.len(), items.bytes), (0, 0));
    }

    #[test]
    fn a_flood_stays_within_the_cap_and_ages_survive_a_restart() {
        let (now, mut items) = (Instant::now(), Items::new(Instant::now(), 10_000, 7));
        for n in 0..1000 {
            items.put(now, FROM, Item::Immutable { value: format!("i{n}e").into_bytes() }, None).unwrap();
        }
        assert!(items.bytes <= 10_000 && items.len() > 20);
        let later = now + ITEM_EXPIRY / 2;
        let saved: Vec<_> = items.export(later).map(|(i, age)| (i.clone(), age)).collect();
        let mut again = Items::new(now, 10_000, 7);
        saved.iter().for_each(|(item, age)| again.restore(later, item.clone(), *age));
        assert_eq!(again.export(later).map(|(i, age)| (i.clone(), age)).collect::<Vec<_>>(), saved);
        assert_eq!(again.export(now + ITEM_EXPIRY).count(), 0);
        again.expire(now + ITEM_EXPIRY);
        again.expire(now + ITEM_EXPIRY);
        assert_eq!((again.len(), again.bytes), (0, 0));
    }

    #[test]
    fn signatures_are_checked_at_a_bounded_rate() {
        let (now, mut items) = (Instant::now(), Items::new(Instant::now(), 1 << 20, 7));
        let forged = |n: i64| {
            let Item::Mutable(item) = version(1, "i1e") else { unreachable!() };
            Item::Mutable(MutableItem { seq: n, ..item })
        };
        let busy = |items: &mut Items, now, host: u32| {
            let from = IpAddr::from((0x0808_0000 | host).to_be_bytes());
            items.put(now, from, forged(9), None) == Err(PutError::Busy)
        };
        // One who floods uses up his own share, and leaves the rest to others.
        let refused = (0..10_000).filter(|_| busy(&mut items, now, 0)).count();
        assert_eq!(refused, 10_000 - SIGNATURES_PER_HOST as usize);
        assert!(!busy(&mut items, now, 1));
        let rest = SIGNATURES_PER_SECOND - SIGNATURES_PER_HOST - 1;
        let refused = (0..rest + 5).filter(|n| busy(&mut items, now, 2 + n)).count();
        assert_eq!(refused, 5);
        let later = now + Duration::from_secs(1);
        assert!(!busy(&mut items, later, 0) && !busy(&mut items, later, 1));
    }
}
