//! The usable nodes of one table, sorted by id, in the very bytes in which they go over the wire.
//!
//! Owns a copy that answers to strangers are written from: the closest nodes to any target are found in a few
//! steps and copied, nothing is sorted or allocated. Must not know buckets; the table says who comes and goes.

use std::net::SocketAddr;

use super::config::{K, is_private};
use crate::id::Id160;
use crate::wire::compact::{self, Contact, NODE_V6, PEER_V6};

/// The most that is looked for at a time: a reply's worth, and the asker himself, whom it leaves out.
pub const MAX_CLOSEST: usize = K + 1;

/// A node as it goes over the wire.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    compact: [u8; NODE_V6],
    length: u8,
    private: bool,
}

impl Listed {
    fn new(contact: &Contact) -> Self {
        let mut compact = [0; NODE_V6];
        let (addr, addr_length) = compact::peer_bytes(contact.addr);
        compact[..20].copy_from_slice(contact.id.as_bytes());
        compact[20..20 + PEER_V6].copy_from_slice(&addr);
        Self { compact, length: 20 + addr_length as u8, private: is_private(contact.addr.ip()) }
    }

    /// 26 or 38 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.compact[..usize::from(self.length)]
    }

    /// Whether its address means nothing to the world.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// Whether it lives there.
    pub fn is_at(&self, addr: SocketAddr) -> bool {
        let (bytes, length) = compact::peer_bytes(addr);
        self.bytes()[20..] == bytes[..length]
    }

    fn id(&self) -> &[u8] {
        &self.compact[..20]
    }

    fn bit(&self, index: usize) -> bool {
        self.compact[index / 8] & (0x80 >> (index % 8)) != 0
    }
}

/// The sorted copy.
#[derive(Debug)]
pub struct Directory {
    nodes: Vec<Listed>,
    /// The first eight bytes of each id: all that most comparisons need.
    keys: Vec<u64>,
    /// How many ids begin with a smaller byte, for each byte.
    starts: [u16; 256],
}

impl Default for Directory {
    fn default() -> Self {
        Self { nodes: Vec::new(), keys: Vec::new(), starts: [0; 256] }
    }
}

fn key(id: &[u8]) -> u64 {
    id.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

impl Directory {
    /// Takes a node in, or lets go of the one of that id.
    pub fn note(&mut self, contact: &Contact, is_usable: bool) {
        let id = contact.id.as_bytes().as_slice();
        let wanted = key(id);
        let mut at = self.keys.partition_point(|k| *k < wanted);
        while self.keys.get(at) == Some(&wanted) && self.nodes[at].id() < id {
            at += 1;
        }
        let is_in = self.nodes.get(at).is_some_and(|n| n.id() == id);
        let later = &mut self.starts[usize::from(id[0]) + 1..];
        // A table holds fewer than 2,000: no count overflows.
        match (is_in, is_usable) {
            (true, true) => self.nodes[at] = Listed::new(contact),
            (true, false) => {
                self.keys.remove(at);
                self.nodes.remove(at);
                later.iter_mut().for_each(|start| *start -= 1);
            }
            (false, true) => {
                if self.nodes.len() == self.nodes.capacity() {
                    let more = self.nodes.len() / 8 + 8;
                    self.nodes.reserve_exact(more);
                    self.keys.reserve_exact(more);
                }
                self.keys.insert(at, wanted);
                self.nodes.insert(at, Listed::new(contact));
                later.iter_mut().for_each(|start| *start += 1);
            }
            (false, false) => {}
        }
    }

    /// The `count` nodes closest to `target` ([`MAX_CLOSEST`] at most), closest first.
    pub fn closest(&self, target: &Id160, count: usize) -> impl Iterator<Item = &Listed> {
        let (mut found, mut length) = ([0u16; MAX_CLOSEST], 0);
        let count = count.min(MAX_CLOSEST);
        let mut take = |range: std::ops::Range<usize>| {
            for at in range.take(MAX_CLOSEST - length) {
                found[length] = at as u16;
                length += 1;
            }
            length
        };
        // The nodes that share ever more leading bits with the target. Where those of the target's own half
        // are too few, all of them are in, and what lacks comes from the other half in the same manner.
        let (mut taken, mut range) = (0, 0..self.nodes.len());
        for bit in 0..160 {
            if range.len() <= count - taken {
                break;
            }
            let middle = self.split(&range, bit);
            let (zeros, ones) = (range.start..middle, middle..range.end);
            let (near, far) = if target.bit(bit) { (ones, zeros) } else { (zeros, ones) };
            if near.len() >= count - taken {
                range = near;
            } else {
                taken = take(near);
                range = far;
            }
        }
        let rest = range.start..range.end.min(range.start + count - taken);
        let length = take(rest);
        self.sort(target, &mut found[..length]);
        found.into_iter().take(length).filter_map(|at| self.nodes.get(usize::from(at)))
    }

    /// Where the ids begin whose bit is set, among some that are alike in all bits before it.
    fn split(&self, range: &std::ops::Range<usize>, bit: usize) -> usize {
        let Some(keys) = self.keys.get(range.clone()) else { return range.start };
        match bit {
            0..8 => {
                let first = keys.first().map_or(0, |k| (k >> 56) as u8);
                let boundary = first & !(0xff >> bit) | 0x80 >> bit;
                usize::from(self.starts[usize::from(boundary)]).clamp(range.start, range.end)
            }
            8..64 => range.start + keys.partition_point(|k| k >> (63 - bit) & 1 == 0),
            _ => range.start + self.nodes[range.clone()].partition_point(|n| !n.bit(bit)),
        }
    }

    /// Insertion: they are few, and nearly in order.
    fn sort(&self, target: &Id160, found: &mut [u16]) {
        let wanted = key(target.as_bytes());
        let is_closer = |a: u16, b: u16| {
            let (a, b) = (usize::from(a), usize::from(b));
            match (self.keys[a] ^ wanted).cmp(&(self.keys[b] ^ wanted)) {
                std::cmp::Ordering::Equal => {
                    let distance =
                        |at: usize| Id160::from_slice(self.nodes[at].id()).map(|id| id.distance(target));
                    distance(a) < distance(b)
                }
                order => order.is_lt(),
            }
        };
        for end in 1..found.len() {
            let mut at = end;
            while at > 0 && is_closer(found[at], found[at - 1]) {
                found.swap(at, at - 1);
                at -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::compact::write_node;

    fn contacts(ids: impl Iterator<Item = Id160>) -> Vec<Contact> {
        let addr = |n: usize| ([8, 8, (n >> 8) as u8, n as u8], 1 + n as u16).into();
        ids.enumerate().map(|(n, id)| Contact { id, addr: addr(n) }).collect()
    }

    fn assert_closest(contacts: &[Contact], directory: &Directory, target: Id160, count: usize) {
        let mut all = contacts.to_vec();
        all.sort_by_key(|c| c.id.distance(&target));
        let mut expected = Vec::new();
        all.iter().take(count).for_each(|c| write_node(c, &mut expected));
        let found: Vec<u8> = directory.closest(&target, count).flat_map(|l| l.bytes().to_vec()).collect();
        assert_eq!(found, expected, "{} nodes, {target}", contacts.len());
    }

    #[test]
    fn closest_is_what_sorting_everything_gives() {
        let mut rng = Rng::from_u64(5);
        let own = Id160::random(&mut rng);
        for size in [0, 1, 2, 8, 9, 10, 100, 1000] {
            // Half of them share long prefixes, some beyond what the keys hold.
            let mut ids: Vec<_> = (0..size)
                .map(|n| own.random_with_prefix(if n % 2 == 0 { 0 } else { rng.below(150) }, &mut rng))
                .collect();
            ids.sort();
            ids.dedup();
            rng.shuffle(&mut ids);
            let mut contacts = contacts(ids.into_iter());
            let mut directory = Directory::default();
            contacts.iter().for_each(|c| directory.note(c, true));
            // Some go, some of them twice, and some come who are in.
            let gone: Vec<_> = contacts.iter().copied().step_by(7).collect();
            gone.iter().chain(&gone[..gone.len() / 2]).for_each(|c| directory.note(c, false));
            contacts.retain(|c| !gone.contains(c));
            contacts.iter().step_by(5).for_each(|c| directory.note(c, true));
            for bits in (0..160).chain([0; 100]) {
                let target = own.random_with_prefix(bits, &mut rng);
                assert_closest(&contacts, &directory, target, MAX_CLOSEST);
                assert_closest(&contacts, &directory, target, K / 2);
            }
            for target in contacts.iter().map(|c| c.id).take(20).chain([own, Id160::ZERO]) {
                assert_closest(&contacts, &directory, target, K);
            }
        }
    }

    #[test]
    fn a_listed_node_knows_its_address() {
        for text in ["8.8.8.8:5", "[2001:db8::1]:5"] {
            let addr: SocketAddr = text.parse().unwrap();
            let contact = Contact { id: Id160([3; 20]), addr };
            let listed = Listed::new(&contact);
            let other = SocketAddr::new(addr.ip(), 6);
            assert!(listed.is_at(addr) && !listed.is_at(other) && !listed.is_private());
        }
        let contact = Contact { id: Id160::ZERO, addr: ([10, 0, 0, 1], 5).into() };
        assert!(Listed::new(&contact).is_private());
    }
}
