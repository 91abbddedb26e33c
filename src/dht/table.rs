//! The routing table of one address family: 160 buckets by the length of the prefix shared with us.
//!
//! Owns who is known and which of them are closest to a target. Must not know queries, sockets or why a
//! node answered. Only nodes that answered are let in; addresses are kept diverse where that matters.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Entry};
use super::config::{Config, K, MAX_PER_SUBNET, ROOT_BUCKETS, subnet};
use crate::id::{Id160, NodeId};
use crate::wire::compact::Contact;

/// Known nodes of one family.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    root: [usize; ROOT_BUCKETS.len()],
    buckets: Vec<Bucket>,
}

impl Table {
    /// An empty table round `own`.
    pub fn new(own: NodeId) -> Self {
        Self::with_root(own, ROOT_BUCKETS)
    }

    /// The same with these capacities of the buckets nearest the root.
    pub fn with_root(own: NodeId, root: [usize; ROOT_BUCKETS.len()]) -> Self {
        Self { own, root, buckets: vec![Bucket::default(); 160] }
    }

    fn capacity(&self, index: usize) -> usize {
        self.root.get(index).copied().unwrap_or(K)
    }

    /// Entries, spares not counted.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|b| b.entries().len()).sum()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|b| b.entries().is_empty())
    }

    /// Every entry, far buckets first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|b| b.entries())
    }

    fn index(&self, id: &NodeId) -> Option<usize> {
        let shared = self.own.shared_prefix(id) as usize;
        (shared < 160).then_some(shared)
    }

    /// Whether a node of this id would find room, were it to answer.
    pub fn has_room(&self, id: &NodeId) -> bool {
        self.index(id).is_some_and(|at| {
            let entries = self.buckets[at].entries();
            entries.len() < self.capacity(at) || entries.iter().any(|e| e.failures > 0)
        })
    }

    /// Whether exactly this contact is known.
    pub fn contains(&self, contact: &Contact) -> bool {
        self.index(&contact.id)
            .is_some_and(|at| self.buckets[at].entries().iter().any(|e| e.contact == *contact))
    }

    /// A node has answered us.
    pub fn on_answer(&mut self, now: Instant, contact: Contact, rtt: Duration, config: &Config) {
        let Some(at) = self.index(&contact.id) else { return };
        if let Some(entry) = self.buckets[at].entry_mut(&contact) {
            (entry.answered, entry.checked, entry.failures, entry.rtt) = (now, now, 0, rtt);
            return;
        }
        // An id that moved is believed only when its old place has failed.
        let moved = self.buckets[at].entries().iter().find(|e| e.contact.id == contact.id);
        if let Some(old) = moved {
            if old.failures == 0 {
                return;
            }
            let old = old.contact;
            while self.contains(&old) && !self.buckets[at].on_failure(&old) {}
        }
        if self.is_diverse(&contact, at, config) {
            let capacity = self.capacity(at);
            // Near our own id completeness counts, not speed.
            let fast = config.lookup.prefer_fast && at < self.root.len();
            self.buckets[at].insert(now, Entry::new(now, contact, rtt), capacity, fast);
        }
    }

    fn is_diverse(&self, contact: &Contact, at: usize, config: &Config) -> bool {
        let ip: IpAddr = contact.addr.ip();
        if !config.wants_diversity(ip) {
            return true;
        }
        let net = subnet(ip);
        let same =
            |e: &&Entry| e.contact.addr.is_ipv4() == ip.is_ipv4() && subnet(e.contact.addr.ip()) == net;
        self.buckets[at].entries().iter().filter(same).count() < MAX_PER_SUBNET
            && !self.entries().any(|e| e.contact.addr.ip() == ip)
    }

    /// A node has asked us something: evidence of life only for one that has answered before.
    pub fn on_query(&mut self, now: Instant, contact: &Contact) -> bool {
        let Some(at) = self.index(&contact.id) else { return false };
        self.buckets[at].entry_mut(contact).map(|e| e.asked_us = Some(now)).is_some()
    }

    /// A node has left a query unanswered.
    pub fn on_failure(&mut self, contact: &Contact) {
        if let Some(at) = self.index(&contact.id) {
            self.buckets[at].on_failure(contact);
        }
    }

    /// The entry longest without a check, and an id in its bucket to ask it about.
    pub fn least_recently_checked(&self) -> Option<&Entry> {
        self.entries().min_by_key(|e| (e.checked, e.contact.id))
    }

    /// Notes that a check is under way.
    pub fn on_check(&mut self, now: Instant, contact: &Contact) {
        if let Some(at) = self.index(&contact.id)
            && let Some(entry) = self.buckets[at].entry_mut(contact)
        {
            entry.checked = now;
        }
    }

    /// The `count` usable nodes closest to `target`, closest first.
    ///
    /// Bucket by bucket in order of distance: the target's own, then all deeper ones (which share the
    /// same prefix with it), then outwards.
    pub fn closest(&self, target: &Id160, count: usize) -> Vec<Contact> {
        self.closest_entries(target, count).into_iter().map(|e| e.contact).collect()
    }

    /// The `count` usable nodes to which `cost` gives the lowest number.
    pub fn cheapest(&self, count: usize, cost: impl Fn(&Entry) -> i64) -> Vec<&Entry> {
        let mut all: Vec<_> = self.entries().filter(|e| e.is_usable()).map(|e| (cost(e), e)).collect();
        all.sort_by_key(|(cost, e)| (*cost, e.contact.addr));
        all.into_iter().take(count).map(|(_, e)| e).collect()
    }

    /// The same as [`Table::closest`], with what is known of them.
    pub fn closest_entries(&self, target: &Id160, count: usize) -> Vec<&Entry> {
        let own = self.index(target).unwrap_or(159);
        let mut out: Vec<&Entry> = Vec::with_capacity(count);
        let groups = std::iter::once(own..own + 1)
            .chain(std::iter::once(own + 1..160))
            .chain((0..own).rev().map(|i| i..i + 1));
        for group in groups {
            let start = out.len();
            let usable = self.buckets[group].iter().flat_map(|b| b.entries()).filter(|e| e.is_usable());
            out.extend(usable);
            out[start..].sort_unstable_by_key(|e| e.contact.id.distance(target));
            if out.len() >= count {
                break;
            }
        }
        out.truncate(count);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::Network;
    use crate::rng::Rng;

    fn contact(rng: &mut Rng, n: usize) -> Contact {
        Contact { id: Id160::random(rng), addr: ([10, 0, (n >> 8) as u8, n as u8], 1 + n as u16).into() }
    }

    #[test]
    fn closest_is_what_sorting_everything_gives() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(3));
        let mut table = Table::new(Id160::random(&mut rng));
        let config = Config { network: Network::Local, ..Config::default() };
        for n in 0..2000 {
            table.on_answer(now, contact(&mut rng, n), Duration::ZERO, &config);
        }
        for bits in 0..20 {
            let target = table.own.random_with_prefix(bits, &mut rng);
            let mut all: Vec<_> = table.entries().map(|e| e.contact).collect();
            all.sort_by_key(|c| c.id.distance(&target));
            all.truncate(16);
            assert_eq!(table.closest(&target, 16), all);
        }
        assert_eq!(table.closest(&table.own.clone(), 4).len(), 4);
    }

    #[test]
    fn in_public_one_address_holds_one_entry_and_a_subnet_few() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(4));
        let mut table = Table::new(Id160::ZERO);
        let config = Config::default();
        for host in [1u8, 1, 2, 3, 4] {
            let mut id = Id160::random(&mut rng);
            id.set_bit(0, true);
            let addr = ([8, 8, 8, host], u16::from(host)).into();
            table.on_answer(now, Contact { id, addr }, Duration::ZERO, &config);
        }
        assert_eq!(table.len(), MAX_PER_SUBNET);
    }

    #[test]
    fn our_own_id_and_a_moved_id_stay_out() {
        let now = Instant::now();
        let mut table = Table::new(Id160::ZERO);
        let config = Config::default();
        let at = |ip: [u8; 4], id| Contact { id, addr: (ip, 9).into() };
        table.on_answer(now, at([8, 8, 8, 8], Id160::ZERO), Duration::ZERO, &config);
        assert!(table.is_empty());
        table.on_answer(now, at([8, 8, 8, 8], Id160([1; 20])), Duration::ZERO, &config);
        table.on_answer(now, at([9, 9, 9, 9], Id160([1; 20])), Duration::ZERO, &config);
        assert_eq!(table.closest(&Id160::ZERO, 8), [at([8, 8, 8, 8], Id160([1; 20]))]);
    }
}
