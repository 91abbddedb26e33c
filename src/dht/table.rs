//! The routing table of one address family: up to 160 buckets by the length of the prefix shared with us.
//!
//! Owns who is known and which of them are closest to a target. Must not know queries, sockets or why a
//! node answered. Only nodes that answered are let in; addresses are kept diverse where that matters.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Entry};
use super::config::{Config, DIRECTORY_PATIENCE, K, MAX_PER_SUBNET, NEAR_DOUBT, ROOT_BUCKETS, subnet};
use super::directory::Directory;
use crate::id::{Id160, NodeId};
use crate::wire::compact::Contact;

/// Known nodes of one family.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    root: [usize; ROOT_BUCKETS.len()],
    /// As far as anyone was ever let in: of 160, a network of a million fills twenty.
    buckets: Versioned<Vec<Bucket>>,
    directory: Directory,
    /// The version that the directory shows, and how often it was asked for since it is out of date.
    listed: Option<u64>,
    missed: u32,
}

/// A value that counts how often it may have been changed: what was made from it knows when it is out of date.
#[derive(Debug)]
struct Versioned<T> {
    value: T,
    version: u64,
}

impl<T> std::ops::Deref for Versioned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> std::ops::DerefMut for Versioned<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.version += 1;
        &mut self.value
    }
}

impl Table {
    /// An empty table round `own`.
    pub fn new(own: NodeId) -> Self {
        Self::with_root(own, ROOT_BUCKETS)
    }

    /// The same with these capacities of the buckets nearest the root.
    pub fn with_root(own: NodeId, root: [usize; ROOT_BUCKETS.len()]) -> Self {
        let buckets = Versioned { value: Vec::new(), version: 0 };
        Self { own, root, buckets, directory: Directory::default(), listed: None, missed: 0 }
    }

    /// Entries that a bucket takes.
    pub fn capacity(&self, index: usize) -> usize {
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

    /// The buckets, far ones first.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Takes another own id; everyone stays who finds room in his new bucket.
    pub fn rebucket(&mut self, now: Instant, own: NodeId, config: &Config) {
        let root = self.root;
        let old = std::mem::replace(self, Self::with_root(own, root));
        for entry in old.buckets.value.into_iter().flat_map(Bucket::into_entries) {
            if let Some(at) = self.index(&entry.contact.id)
                && self.is_diverse(&entry.contact, at, config)
            {
                self.insert(now, entry, at, config);
            }
        }
    }

    /// The bucket of that index, which is there from now on.
    fn grown_to(&mut self, at: usize) -> &mut Bucket {
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Bucket::default);
        }
        &mut self.buckets[at]
    }

    fn index(&self, id: &NodeId) -> Option<usize> {
        let shared = self.own.shared_prefix(id) as usize;
        (shared < 160).then_some(shared)
    }

    fn entries_of(&self, at: usize) -> &[Entry] {
        self.buckets.get(at).map_or(&[], |bucket| bucket.entries())
    }

    /// Whether a node of this id would find room, were it to answer.
    pub fn has_room(&self, id: &NodeId) -> bool {
        self.index(id).is_some_and(|at| {
            let entries = self.entries_of(at);
            entries.len() < self.capacity(at) || entries.iter().any(|e| e.failures > 0)
        })
    }

    /// Whether exactly this contact is known.
    pub fn contains(&self, contact: &Contact) -> bool {
        self.index(&contact.id).is_some_and(|at| self.entries_of(at).iter().any(|e| e.contact == *contact))
    }

    /// A node has answered us.
    pub fn on_answer(&mut self, now: Instant, contact: Contact, rtt: Duration, config: &Config) {
        let Some(at) = self.index(&contact.id) else { return };
        if let Some(entry) = self.grown_to(at).entry_mut(&contact) {
            (entry.answered, entry.checked, entry.failures, entry.rtt) = (now, now, 0, rtt);
            return;
        }
        // Who answers from an address has no other id there any more.
        let former = self.buckets.value.iter().flat_map(Bucket::everyone);
        let former = former.map(|e| e.contact).find(|c| c.addr == contact.addr);
        if let Some(former) = former
            && let Some(at) = self.index(&former.id)
        {
            self.buckets[at].remove(&former);
        }
        // An id that moved is believed only when its old place has failed.
        let moved = self.buckets[at].everyone().find(|e| e.contact.id == contact.id);
        if let Some(old) = moved {
            if old.failures == 0 {
                return;
            }
            let old = old.contact;
            self.buckets[at].remove(&old);
        }
        if self.is_diverse(&contact, at, config) {
            let bound = config.is_bound(&contact);
            self.insert(now, Entry { bound, ..Entry::new(now, contact, rtt) }, at, config);
        }
    }

    fn insert(&mut self, now: Instant, entry: Entry, at: usize, config: &Config) {
        let capacity = self.capacity(at);
        // Near our own id completeness counts, not speed.
        let fast = config.lookup.prefer_fast && at < self.root.len();
        self.grown_to(at).insert(now, entry, capacity, fast);
    }

    fn is_diverse(&self, contact: &Contact, at: usize, config: &Config) -> bool {
        let ip: IpAddr = contact.addr.ip();
        if !config.wants_diversity(ip) {
            return true;
        }
        let net = subnet(ip);
        let same =
            |e: &&Entry| e.contact.addr.is_ipv4() == ip.is_ipv4() && subnet(e.contact.addr.ip()) == net;
        // Spares too: each of them may become an entry without a further look.
        let here = self.buckets.get(at).into_iter().flat_map(Bucket::everyone);
        here.filter(same).count() < MAX_PER_SUBNET
            && !self.buckets.iter().flat_map(Bucket::everyone).any(|e| e.contact.addr.ip() == ip)
    }

    /// A node has asked us something: evidence of life only for one that has answered before.
    pub fn on_query(&mut self, now: Instant, contact: &Contact) -> bool {
        // Past the count of changes: who is handed on does not depend on who has asked.
        let bucket = self.index(&contact.id).and_then(|at| self.buckets.value.get_mut(at));
        bucket.and_then(|b| b.entry_mut(contact)).map(|e| e.asked_us = Some(now)).is_some()
    }

    /// When a node last answered us.
    pub fn last_answer(&self, contact: &Contact) -> Option<Instant> {
        let everyone = self.index(&contact.id).and_then(|at| self.buckets.get(at))?.everyone();
        everyone.filter(|e| e.contact == *contact).map(|e| e.answered).next()
    }

    /// A node has left a query unanswered.
    pub fn on_failure(&mut self, contact: &Contact) {
        if let Some(bucket) = self.index(&contact.id).and_then(|at| self.buckets.get_mut(at)) {
            bucket.on_failure(contact);
        }
    }

    /// The entry longest without a check, and an id in its bucket to ask it about.
    pub fn least_recently_checked(&self) -> Option<&Entry> {
        self.entries().min_by_key(|e| (e.checked, e.contact.id))
    }

    /// The `count` entries that need a check most, the most doubtful first, each with its doubt.
    pub fn most_doubtful(&self, now: Instant, count: usize) -> Vec<(f64, Contact)> {
        let weight = |at: usize| if at < self.root.len() { 1.0 } else { NEAR_DOUBT };
        let all =
            self.buckets.iter().enumerate().flat_map(|(at, b)| b.entries().iter().map(move |e| (at, e)));
        let mut all: Vec<_> = all.map(|(at, e)| (e.doubt(now) * weight(at), e.contact)).collect();
        let order = |a: &(f64, Contact), b: &(f64, Contact)| b.0.total_cmp(&a.0).then(a.1.id.cmp(&b.1.id));
        if all.len() > count {
            all.select_nth_unstable_by(count, order);
            all.truncate(count);
        }
        all.sort_unstable_by(order);
        all
    }

    /// Whether an entry has been silent since then, as far as is known.
    pub fn is_silent_since(&self, contact: &Contact, since: Instant) -> bool {
        let entry =
            self.index(&contact.id).and_then(|at| self.entries_of(at).iter().find(|e| e.contact == *contact));
        entry.is_some_and(|e| e.answered.max(e.checked) <= since && e.asked_us.is_none_or(|at| at <= since))
    }

    /// Notes that a check is under way.
    pub fn on_check(&mut self, now: Instant, contact: &Contact) {
        let bucket = self.index(&contact.id).and_then(|at| self.buckets.get_mut(at));
        if let Some(entry) = bucket.and_then(|b| b.entry_mut(contact)) {
            entry.checked = now;
        }
    }

    /// The usable nodes in a form from which answers are written fastest. `None` shortly after each change: a
    /// table that is still filling is not copied for every answer, and [`Table::closest`] serves as well.
    pub fn directory(&mut self) -> Option<&Directory> {
        if self.listed != Some(self.buckets.version) {
            self.missed += 1;
            if self.missed < DIRECTORY_PATIENCE {
                return None;
            }
            self.directory.renew(self.buckets.iter().flat_map(|b| b.entries()));
            (self.listed, self.missed) = (Some(self.buckets.version), 0);
        }
        Some(&self.directory)
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
        // Whatever is deeper than the last bucket has the same order of distance.
        let last = self.buckets.len();
        let own = self.index(target).unwrap_or(last).min(last);
        let mut out: Vec<&Entry> = Vec::with_capacity(count);
        let groups = std::iter::once(own..last.min(own + 1))
            .chain(std::iter::once(last.min(own + 1)..last))
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
    fn the_directory_is_never_older_than_the_table() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(6));
        let mut table = Table::new(Id160::random(&mut rng));
        let config = Config { network: Network::Local, ..Config::default() };
        let contacts: Vec<_> = (0..300).map(|n| contact(&mut rng, n)).collect();
        let mut seen = 0;
        for _ in 0..5000 {
            let one = contacts[rng.below(contacts.len())];
            match rng.below(100) {
                0..3 => table.on_answer(now, one, Duration::ZERO, &config),
                3 => table.on_failure(&one),
                4 => table.on_check(now, &one),
                _ => drop(table.on_query(now, &one)),
            }
            let target = Id160::random(&mut rng);
            let mut expected = Vec::new();
            table.closest(&target, K).iter().for_each(|c| crate::wire::compact::write_node(c, &mut expected));
            if let Some(directory) = table.directory() {
                let found: Vec<u8> = directory.closest(&target, K).flat_map(|l| l.bytes().to_vec()).collect();
                assert_eq!(found, expected);
                seen += 1;
            }
        }
        assert!(seen > 500, "{seen}");
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
