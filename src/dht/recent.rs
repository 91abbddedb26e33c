//! What is remembered of those who were there lately: a bounded map in the order of use.
//!
//! Owns the order and the room. Must not know what is remembered. All of it lies in two arrays, so that a look costs
//! a few near reads, and nothing is allocated for each entry.

use std::net::IpAddr;

/// No slot.
const NONE: u16 = u16::MAX;
/// So many slots are kept even if they are empty: moving less is not worth it.
const FEW: usize = 32;

/// An address as a key: of IPv6 the /64, since all of it is one host's.
pub fn host_key(ip: IpAddr) -> u64 {
    match ip {
        // Under ff00::/8, where nobody sends from.
        IpAddr::V4(v4) => 0xff << 56 | u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[derive(Clone, Debug)]
struct Slot<K, V> {
    key: K,
    /// Towards the oldest, and towards the newest; of free slots, the next free one.
    older: u16,
    newer: u16,
    value: V,
}

/// At most so many values; the one that was not used for longest goes first.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    slots: Vec<Slot<K, V>>,
    /// Slots by hash, each in its place or the next free one behind; at most half of it is used.
    places: Vec<u16>,
    oldest: u16,
    newest: u16,
    free: u16,
    len: usize,
    capacity: usize,
    /// Strangers choose the keys: without it they could choose such as share one place.
    secret: u64,
}

impl<K: Copy + Eq + Into<u128>, V: Clone> Recent<K, V> {
    /// Nobody yet; of at most `capacity`, which is 32,768 at most.
    pub fn new(capacity: usize, secret: u64) -> Self {
        let capacity = capacity.clamp(1, 1 << 15);
        let (slots, places) = (Vec::new(), Vec::new());
        Self { slots, places, oldest: NONE, newest: NONE, free: NONE, len: 0, capacity, secret }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key; its age stays.
    pub fn peek(&self, key: K) -> Option<&V> {
        self.find(key).map(|(_, at)| &self.slot(at).value)
    }

    /// The value of a key, which is the newest now.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (_, at) = self.find(key)?;
        self.unlink(at);
        self.link(at);
        Some(&mut self.slot_mut(at).value)
    }

    /// The same, with a first value if there is none; the oldest makes room for it.
    pub fn get_or_insert(&mut self, key: K, first: V) -> &mut V {
        let at = match self.find(key) {
            Some((_, at)) => {
                self.unlink(at);
                at
            }
            None => self.insert(key, first),
        };
        self.link(at);
        &mut self.slot_mut(at).value
    }

    /// The value that was not used for longest.
    pub fn peek_oldest(&self) -> Option<&V> {
        (self.oldest != NONE).then(|| &self.slot(self.oldest).value)
    }

    /// Forgets that one.
    pub fn pop_oldest(&mut self) {
        if self.oldest == NONE {
            return;
        }
        let at = self.oldest;
        if let Some((place, _)) = self.find(self.slot(at).key) {
            self.vacate(place);
        }
        self.unlink(at);
        self.slot_mut(at).older = self.free;
        self.free = at;
        self.len -= 1;
        if self.slots.len() > FEW && self.len * 8 < self.slots.len() {
            self.shrink();
        }
    }

    fn insert(&mut self, key: K, value: V) -> u16 {
        if self.len >= self.capacity {
            self.pop_oldest();
        }
        if self.places.len() < 2 * (self.len + 1) {
            self.places = vec![NONE; (4 * (self.len + 1)).next_power_of_two().max(16)];
            let mut at = self.oldest;
            while at != NONE {
                let place = self.place_for(self.slot(at).key);
                self.places[place] = at;
                at = self.slot(at).newer;
            }
        }
        let slot = Slot { key, older: NONE, newer: NONE, value };
        let at = self.free;
        let at = if at == NONE {
            self.slots.push(slot);
            (self.slots.len() - 1) as u16
        } else {
            self.free = self.slot(at).older;
            *self.slot_mut(at) = slot;
            at
        };
        let place = self.place_for(key);
        self.places[place] = at;
        self.len += 1;
        at
    }

    /// A flood is over: what it took is given back.
    fn shrink(&mut self) {
        let mut small = Self::new(self.capacity, self.secret);
        let mut at = self.oldest;
        while at != NONE {
            let slot = self.slot(at);
            small.get_or_insert(slot.key, slot.value.clone());
            at = slot.newer;
        }
        *self = small;
    }

    fn slot(&self, at: u16) -> &Slot<K, V> {
        &self.slots[usize::from(at)]
    }

    fn slot_mut(&mut self, at: u16) -> &mut Slot<K, V> {
        &mut self.slots[usize::from(at)]
    }

    // ---- order

    fn unlink(&mut self, at: u16) {
        let Slot { older, newer, .. } = *self.slot(at);
        if older == NONE {
            self.oldest = newer
        } else {
            self.slot_mut(older).newer = newer
        }
        if newer == NONE { self.newest = older } else { self.slot_mut(newer).older = older }
    }

    /// Makes it the newest.
    fn link(&mut self, at: u16) {
        let before = std::mem::replace(&mut self.newest, at);
        (self.slot_mut(at).older, self.slot_mut(at).newer) = (before, NONE);
        if before == NONE { self.oldest = at } else { self.slot_mut(before).newer = at }
    }

    // ---- places

    fn home(&self, key: K) -> usize {
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            (wide >> 64) as u64 ^ wide as u64
        };
        let key: u128 = key.into();
        let mixed = fold(key as u64 ^ self.secret, 0x9e37_79b9_7f4a_7c15) ^ (key >> 64) as u64;
        fold(mixed ^ self.secret.rotate_left(32), self.secret | 1) as usize & (self.places.len() - 1)
    }

    /// Where a key is: its place and its slot.
    fn find(&self, key: K) -> Option<(usize, u16)> {
        if self.places.is_empty() {
            return None;
        }
        let mut place = self.home(key);
        loop {
            let at = self.places[place];
            if at == NONE {
                return None;
            }
            if self.slot(at).key == key {
                return Some((place, at));
            }
            place = (place + 1) & (self.places.len() - 1);
        }
    }

    /// The first free place for a key.
    fn place_for(&self, key: K) -> usize {
        let mut place = self.home(key);
        while self.places[place] != NONE {
            place = (place + 1) & (self.places.len() - 1);
        }
        place
    }

    /// Frees a place, and moves up whoever had to take one behind it.
    fn vacate(&mut self, place: usize) {
        let mask = self.places.len() - 1;
        let (mut hole, mut place) = (place, place);
        loop {
            place = (place + 1) & mask;
            let at = self.places[place];
            if at == NONE {
                break;
            }
            let home = self.home(self.slot(at).key);
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.places[hole] = at;
                hole = place;
            }
        }
        self.places[hole] = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn it_does_what_a_list_in_the_order_of_use_does() {
        for capacity in [1, 2, 7, 40, 300] {
            let mut rng = Rng::from_u64(capacity as u64);
            let mut recent = Recent::new(capacity, rng.u64());
            let mut list: Vec<(u64, u32)> = Vec::new();
            for turn in 0..20_000 {
                // More come at some times than at others, so that it grows and shrinks.
                let key = rng.below(if turn / 2000 % 2 == 0 { 2 * capacity } else { 3 }) as u64;
                let known = list.iter().position(|(k, _)| *k == key);
                match rng.below(10) {
                    0..4 => {
                        recent.pop_oldest();
                        if !list.is_empty() {
                            list.remove(0);
                        }
                    }
                    4 => assert_eq!(recent.peek(key).copied(), known.map(|at| list[at].1)),
                    5 => {
                        let known = known.map(|at| list.remove(at));
                        list.extend(known);
                        assert_eq!(recent.get_mut(key).copied(), known.map(|(_, value)| value));
                    }
                    _ => {
                        let value = known.map_or(turn, |at| list.remove(at).1);
                        if list.len() == capacity {
                            list.remove(0);
                        }
                        list.push((key, value));
                        assert_eq!(*recent.get_or_insert(key, turn), value);
                    }
                }
                assert_eq!(recent.len(), list.len());
                assert_eq!(recent.peek_oldest(), list.first().map(|(_, value)| value));
            }
        }
    }

    #[test]
    fn what_a_flood_took_is_given_back() {
        let mut recent = Recent::new(4096, 0x1234_5678_9abc_def1);
        for key in 0..100_000u64 {
            recent.get_or_insert(key, ());
        }
        assert_eq!((recent.len(), recent.slots.len()), (4096, 4096));
        (0..4090).for_each(|_| recent.pop_oldest());
        assert!(recent.len() == 6 && recent.slots.len() < 100 && recent.places.len() < 300);
        assert!((99_994..100_000).all(|key| recent.peek(key).is_some()));
    }

    #[test]
    fn keys_of_both_families_differ() {
        let key = |text: &str| host_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        let others = ["2001:db8:1::1", "1.2.3.4", "1.2.3.5", "::1.2.3.4", "0:0:102:304::"].map(key);
        assert!(others.iter().enumerate().all(|(at, key)| !others[..at].contains(key)));
    }
}
