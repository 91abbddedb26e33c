//! The routing table of one address family: up to 160 buckets by the length of the prefix shared with us.
//!
//! Owns who is known and which of them are closest to a target. Must not know queries, sockets or why a
//! node answered. Only nodes that answered are let in; addresses are kept diverse where that matters.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Entry, Failed};
use super::config::{Config, K, MAX_PER_SUBNET, NEAR_DOUBT, ROOT_BUCKETS, subnet};
use super::directory::Directory;
use super::moment::{Epoch, Moment};
use crate::id::{Id160, NodeId};
use crate::wire::compact::Contact;

/// Known nodes of one family.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    epoch: Epoch,
    root: [usize; ROOT_BUCKETS.len()],
    /// As far as anyone was ever let in: of 160, a network of a million fills twenty.
    buckets: Vec<Bucket>,
    /// Entries of all buckets.
    len: usize,
    /// Those who are handed to others.
    directory: Directory,
}

impl Table {
    /// An empty table round `own`.
    pub fn new(own: NodeId, now: Instant) -> Self {
        Self::with_root(own, ROOT_BUCKETS, Epoch::new(now))
    }

    /// The same with these capacities of the buckets nearest the root.
    pub fn with_root(own: NodeId, root: [usize; ROOT_BUCKETS.len()], epoch: Epoch) -> Self {
        Self { own, epoch, root, buckets: Vec::new(), len: 0, directory: Directory::default() }
    }

    /// Entries that a bucket takes.
    pub fn capacity(&self, index: usize) -> usize {
        self.root.get(index).copied().unwrap_or(K)
    }

    /// Entries, spares not counted.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the times of its entries are counted from.
    pub fn epoch(&self) -> Epoch {
        self.epoch
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
        let moment = self.epoch.moment(now);
        let empty = Self::with_root(own, self.root, self.epoch);
        let old = std::mem::replace(self, empty);
        for entry in old.buckets.into_iter().flat_map(Bucket::into_entries) {
            if let Some(at) = self.index(&entry.id)
                && self.is_diverse(&entry.contact(), at, config)
            {
                self.insert(moment, entry, at, config);
            }
        }
    }

    /// Changes a bucket, which is there from now on, keeping count.
    fn change<T>(&mut self, at: usize, change: impl FnOnce(&mut Bucket) -> T) -> T {
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Bucket::default);
        }
        let bucket = &mut self.buckets[at];
        let before = bucket.entries().len();
        let out = change(bucket);
        self.len = self.len + bucket.entries().len() - before;
        out
    }

    /// Brings the directory up to date about one who may have come, gone, failed or recovered.
    fn relist(&mut self, at: usize, contact: &Contact) {
        let entry = self.buckets.get(at).and_then(|b| b.entry(contact));
        self.directory.note(contact, entry.is_some_and(Entry::is_usable));
    }

    fn remove(&mut self, contact: &Contact) {
        if let Some(at) = self.index(&contact.id) {
            self.change(at, |bucket| bucket.remove(contact));
            self.relist(at, contact);
        }
    }

    fn index(&self, id: &NodeId) -> Option<usize> {
        let shared = self.own.shared_prefix(id) as usize;
        (shared < 160).then_some(shared)
    }

    fn entries_of(&self, at: usize) -> &[Entry] {
        self.buckets.get(at).map_or(&[], |bucket| bucket.entries())
    }

    /// What is known of that very contact, if it has a place.
    fn entry(&self, contact: &Contact) -> Option<&Entry> {
        self.index(&contact.id).and_then(|at| self.buckets.get(at)?.entry(contact))
    }

    /// What is known of that very contact, with or without a place.
    fn entry_mut(&mut self, contact: &Contact) -> Option<&mut Entry> {
        self.index(&contact.id).and_then(|at| self.buckets.get_mut(at)?.entry_mut(contact))
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
        self.entry(contact).is_some()
    }

    fn find(&self, is_it: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        self.buckets.iter().flat_map(Bucket::everyone).find(|e| is_it(e))
    }

    /// A node has answered us.
    pub fn on_answer(&mut self, now: Instant, contact: Contact, rtt: Duration, config: &Config) {
        let Some(at) = self.index(&contact.id) else { return };
        let now = self.epoch.moment(now);
        if let Some(entry) = self.entry_mut(&contact) {
            let recovers = !entry.is_usable();
            entry.on_answer(now, rtt);
            if recovers {
                self.relist(at, &contact);
            }
            return;
        }
        // Who answers from an address has no other id there any more.
        if let Some(former) = self.find(|e| e.is_at(contact.addr)).map(Entry::contact) {
            self.remove(&former);
        }
        // An id that moved is believed only when its old place has failed.
        let moved = self.find(|e| e.id == contact.id).map(|e| (e.failures, e.contact()));
        match moved {
            Some((0, _)) => return,
            Some((_, old)) => self.remove(&old),
            None => {}
        }
        if self.is_diverse(&contact, at, config) {
            let bound = config.is_bound(&contact);
            let mut entry = Entry::new(now, contact, rtt);
            entry.bound = bound;
            self.insert(now, entry, at, config);
        }
    }

    fn insert(&mut self, now: Moment, entry: Entry, at: usize, config: &Config) {
        let (capacity, contact) = (self.capacity(at), entry.contact());
        // Near our own id completeness counts, not speed.
        let fast = config.lookup.prefer_fast && at < self.root.len();
        let out = self.change(at, |bucket| bucket.insert(now, entry, capacity, fast));
        for contact in out.into_iter().chain([contact]) {
            self.relist(at, &contact);
        }
    }

    fn is_diverse(&self, contact: &Contact, at: usize, config: &Config) -> bool {
        let ip: IpAddr = contact.addr.ip();
        if !config.wants_diversity(ip) {
            return true;
        }
        let net = subnet(ip);
        let same = |e: &&Entry| e.ip().is_ipv4() == ip.is_ipv4() && subnet(e.ip()) == net;
        // Spares too: each of them may become an entry without a further look.
        let here = self.buckets.get(at).into_iter().flat_map(Bucket::everyone);
        here.filter(same).count() < MAX_PER_SUBNET
            && !self.buckets.iter().flat_map(Bucket::everyone).any(|e| e.ip() == ip)
    }

    /// A node has asked us something: evidence of life only for one that has answered before.
    pub fn on_query(&mut self, now: Instant, contact: &Contact) -> bool {
        let now = self.epoch.moment(now);
        self.entry_mut(contact).map(|e| e.asked_us = Some(now)).is_some()
    }

    /// Whether a node has answered us since then.
    pub fn has_answered_since(&self, contact: &Contact, since: Instant) -> bool {
        let Some(bucket) = self.index(&contact.id).and_then(|at| self.buckets.get(at)) else { return false };
        let spare = || bucket.spares().iter().find(|e| e.is(contact));
        bucket.entry(contact).or_else(spare).is_some_and(|e| e.answered >= self.epoch.moment(since))
    }

    /// A node has left a query unanswered.
    pub fn on_failure(&mut self, contact: &Contact) {
        let Some(at) = self.index(&contact.id).filter(|at| *at < self.buckets.len()) else { return };
        let failed = self.change(at, |bucket| bucket.on_failure(contact));
        self.relist(at, contact);
        if let Failed::Replaced(other) = failed {
            self.relist(at, &other);
        }
    }

    /// The entry longest without a check, and when that was.
    pub fn least_recently_checked(&self) -> Option<(Instant, Contact)> {
        let oldest = self.entries().min_by_key(|e| (e.checked, e.id))?;
        Some((self.epoch.instant(oldest.checked), oldest.contact()))
    }

    /// The `count` entries that need a check most, the most doubtful first, each with its doubt.
    pub fn most_doubtful(&self, now: Instant, count: usize) -> Vec<(f64, Contact)> {
        let now = self.epoch.moment(now);
        let weight = |at: usize| if at < self.root.len() { 1.0 } else { NEAR_DOUBT };
        let all =
            self.buckets.iter().enumerate().flat_map(|(at, b)| b.entries().iter().map(move |e| (at, e)));
        let mut all: Vec<_> = all.map(|(at, e)| (e.doubt(now) * weight(at), e.contact())).collect();
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
        let (entry, since) = (self.entry(contact), self.epoch.moment(since));
        entry.is_some_and(|e| e.answered.max(e.checked) <= since && e.asked_us.is_none_or(|at| at <= since))
    }

    /// Notes that a check is under way.
    pub fn on_check(&mut self, now: Instant, contact: &Contact) {
        let now = self.epoch.moment(now);
        if let Some(entry) = self.entry_mut(contact) {
            entry.checked = now;
        }
    }

    /// The usable nodes in a form from which answers are written fastest.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The `count` usable nodes closest to `target`, closest first.
    ///
    /// Bucket by bucket in order of distance: the target's own, then all deeper ones (which share the
    /// same prefix with it), then outwards.
    pub fn closest(&self, target: &Id160, count: usize) -> Vec<Contact> {
        self.closest_entries(target, count).into_iter().map(Entry::contact).collect()
    }

    /// The `count` usable nodes to which `cost` gives the lowest number.
    pub fn cheapest(&self, count: usize, cost: impl Fn(&Entry) -> i64) -> Vec<&Entry> {
        let mut all: Vec<_> = self.entries().filter(|e| e.is_usable()).map(|e| (cost(e), e)).collect();
        all.sort_by_key(|(cost, e)| (*cost, e.addr()));
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
            out[start..].sort_unstable_by_key(|e| e.id.distance(target));
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
        let mut table = Table::new(Id160::random(&mut rng), now);
        let config = Config { network: Network::Local, ..Config::default() };
        for n in 0..2000 {
            table.on_answer(now, contact(&mut rng, n), Duration::ZERO, &config);
        }
        for bits in 0..20 {
            let target = table.own.random_with_prefix(bits, &mut rng);
            let mut all: Vec<_> = table.entries().map(|e| e.contact()).collect();
            all.sort_by_key(|c| c.id.distance(&target));
            all.truncate(16);
            assert_eq!(table.closest(&target, 16), all);
        }
        assert_eq!(table.closest(&table.own.clone(), 4).len(), 4);
    }

    #[test]
    fn the_directory_is_never_older_than_the_table() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(6));
        let mut table = Table::new(Id160::random(&mut rng), now);
        let config = Config { network: Network::Local, ..Config::default() };
        let contacts: Vec<_> = (0..300).map(|n| contact(&mut rng, n)).collect();
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
            let found = table.directory().closest(&target, K);
            assert_eq!(found.flat_map(|l| l.bytes().to_vec()).collect::<Vec<u8>>(), expected);
            assert_eq!(table.len(), table.entries().count());
        }
    }

    #[test]
    fn in_public_one_address_holds_one_entry_and_a_subnet_few() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(4));
        let mut table = Table::new(Id160::ZERO, now);
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
        let mut table = Table::new(Id160::ZERO, now);
        let config = Config::default();
        let at = |ip: [u8; 4], id| Contact { id, addr: (ip, 9).into() };
        table.on_answer(now, at([8, 8, 8, 8], Id160::ZERO), Duration::ZERO, &config);
        assert!(table.is_empty());
        table.on_answer(now, at([8, 8, 8, 8], Id160([1; 20])), Duration::ZERO, &config);
        table.on_answer(now, at([9, 9, 9, 9], Id160([1; 20])), Duration::ZERO, &config);
        assert_eq!(table.closest(&Id160::ZERO, 8), [at([8, 8, 8, 8], Id160([1; 20]))]);
    }
}
