//! One bucket of the routing table: entries, their evidence, and verified spares.
//!
//! Owns who stays and who goes among nodes of one distance. Must not know the own id, other buckets or
//! the network. Everyone in here has answered us at least once; that is the condition of entry.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::{DOUBT_BASE, FAILED_DOUBT, GOOD_FOR, LARGE_BUCKET, MAX_FAILURES, REPLACEMENTS};
use super::moment::{Moment, Place, Short};
use crate::id::NodeId;
use crate::wire::compact::Contact;

/// A node and what we know of it first hand.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it first answered us.
    pub since: Moment,
    /// When it last answered us.
    pub answered: Moment,
    /// When it last asked us something.
    pub asked_us: Option<Moment>,
    /// When we last checked on it.
    pub checked: Moment,
    /// Its last round trip.
    rtt: Short,
    /// Who.
    pub id: NodeId,
    /// Where.
    place: Place,
    /// Queries it left unanswered since its last answer.
    pub failures: u8,
    /// Whether its id follows from its address, or need not (BEP 42).
    pub bound: bool,
}

impl Entry {
    /// A node that has just answered.
    pub fn new(now: Moment, contact: Contact, rtt: Duration) -> Self {
        Self {
            since: now,
            answered: now,
            asked_us: None,
            checked: now,
            rtt: rtt.into(),
            id: contact.id,
            place: contact.addr.into(),
            failures: 0,
            bound: true,
        }
    }

    /// It has answered again.
    pub fn on_answer(&mut self, now: Moment, rtt: Duration) {
        (self.answered, self.checked, self.failures) = (now, now, 0);
        self.rtt = rtt.into();
    }

    /// Who and where.
    pub fn contact(&self) -> Contact {
        Contact { id: self.id, addr: self.addr() }
    }

    /// Where.
    pub fn addr(&self) -> SocketAddr {
        self.place.addr()
    }

    /// The same without the port.
    pub fn ip(&self) -> IpAddr {
        self.place.ip()
    }

    /// Whether it is the node of that id at that address.
    pub fn is(&self, contact: &Contact) -> bool {
        self.id == contact.id && self.is_at(contact.addr)
    }

    /// Whether it lives there.
    pub fn is_at(&self, addr: SocketAddr) -> bool {
        self.place == Place::from(addr)
    }

    /// Its last round trip.
    pub fn rtt(&self) -> Duration {
        self.rtt.into()
    }

    /// Good: answered lately, or has answered once and asked lately (BEP 5, "Routing Table").
    pub fn is_good(&self, now: Moment) -> bool {
        let lately = |at: Moment| now.since(at) < GOOD_FOR;
        self.failures == 0 && (lately(self.answered) || self.asked_us.is_some_and(lately))
    }

    /// How doubtful it is that the node is still there: its silence in proportion to the time it has been seen
    /// to stay, since session lengths are heavy-tailed, and who has been there for long stays for long.
    pub fn doubt(&self, now: Moment) -> f64 {
        let heard = self.asked_us.map_or(self.answered, |at| at.max(self.answered));
        let silence = now.since(heard.max(self.checked));
        let stayed = heard.since(self.since) + DOUBT_BASE;
        // One that has failed is asked again before any other.
        let failed = if self.failures > 0 { FAILED_DOUBT } else { 1.0 };
        failed * silence.as_secs_f64() / stayed.as_secs_f64()
    }

    /// Worth handing to others and asking in a search.
    pub fn is_usable(&self) -> bool {
        self.failures < 2
    }
}

/// Entries in a row, and a part of each id beside it, so that one is found without a look at all of them.
#[derive(Clone, Debug, Default)]
struct Row {
    entries: Vec<Entry>,
    marks: Vec<u32>,
}

/// Marks that are compared without a look at the result.
const CHUNK: usize = 32;

/// All ids in a bucket begin alike; these bits tell them apart.
fn mark(id: &NodeId) -> u32 {
    let [.., a, b, c, d, _, _, _, _] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl Row {
    fn position(&self, contact: &Contact) -> Option<usize> {
        let wanted = mark(&contact.id);
        for (chunk, marks) in self.marks.chunks(CHUNK).enumerate() {
            // Without a branch inside, eight of them are compared at a time.
            if marks.iter().fold(false, |hit, m| hit | (*m == wanted)) {
                let alike = (chunk * CHUNK..).zip(marks).filter(|(_, m)| **m == wanted);
                if let Some((at, _)) = alike.into_iter().find(|(at, _)| self.entries[*at].is(contact)) {
                    return Some(at);
                }
            }
        }
        None
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            // An eighth more each time: entries are most of what a node weighs, and a bucket stops growing.
            let more = self.entries.len() / 8 + 4;
            self.entries.reserve_exact(more);
            self.marks.reserve_exact(more);
        }
        self.marks.push(mark(&entry.id));
        self.entries.push(entry);
    }

    fn replace(&mut self, at: usize, entry: Entry) -> Entry {
        self.marks[at] = mark(&entry.id);
        std::mem::replace(&mut self.entries[at], entry)
    }

    fn remove(&mut self, at: usize) {
        self.marks.remove(at);
        self.entries.remove(at);
    }

    fn swap_remove(&mut self, at: usize) {
        self.marks.swap_remove(at);
        self.entries.swap_remove(at);
    }
}

/// Nodes of one distance from us.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    row: Row,
    spares: Vec<Entry>,
}

/// What a query without an answer has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing yet.
    Stays,
    /// The node is out.
    Out,
    /// The node is out, and this one has its place.
    Replaced(Contact),
}

impl Bucket {
    /// Who is in.
    pub fn entries(&self) -> &[Entry] {
        &self.row.entries
    }

    /// Verified spares.
    pub fn spares(&self) -> &[Entry] {
        &self.spares
    }

    /// Who is in and who waits to be.
    pub fn everyone(&self) -> impl Iterator<Item = &Entry> {
        self.row.entries.iter().chain(&self.spares)
    }

    /// Forgets a node.
    pub fn remove(&mut self, contact: &Contact) {
        if let Some(at) = self.row.position(contact) {
            self.row.remove(at);
        }
        self.spares.retain(|e| !e.is(contact));
    }

    /// Everyone, spares last.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.row.entries.into_iter().chain(self.spares)
    }

    /// The entry of that node, if it is in.
    pub fn entry(&self, contact: &Contact) -> Option<&Entry> {
        self.row.position(contact).map(|at| &self.row.entries[at])
    }

    /// What is known of that node, in or spare. Who and where it is stays as it is.
    pub fn entry_mut(&mut self, contact: &Contact) -> Option<&mut Entry> {
        match self.row.position(contact) {
            Some(at) => self.row.entries.get_mut(at),
            None => self.spares.iter_mut().find(|e| e.is(contact)),
        }
    }

    /// Takes a node that has answered; into the spares where the bucket is full of better ones. Returns who has
    /// lost his place to it.
    ///
    /// Where `prefer_fast`, the younger half of a full bucket is held by round trip: the older half stays,
    /// since who has been there for long stays for long, and no newcomer can drive it out by being near.
    pub fn insert(
        &mut self,
        now: Moment,
        entry: Entry,
        capacity: usize,
        prefer_fast: bool,
    ) -> Option<Contact> {
        let entries = &self.row.entries;
        if entries.len() < capacity {
            self.row.push(entry);
            return None;
        }
        // One that has failed already goes at once, the worst of them first.
        let failed = entries.iter().enumerate().filter(|(_, e)| e.failures > 0);
        if let Some((worst, _)) = failed.max_by_key(|(_, e)| e.failures) {
            return Some(self.row.replace(worst, entry).contact());
        }
        // BEP 42: an id that anyone can choose gives way to one that comes with an address.
        let made_up = entry.bound.then(|| entries.iter().position(|e| !e.bound)).flatten();
        let slow = || {
            let slow = if prefer_fast && entry.bound { self.slowest_newcomer() } else { None };
            slow.filter(|&at| is_faster(&entry, &entries[at]))
        };
        let Some(out) = made_up.or_else(slow) else {
            self.insert_spare(now, entry);
            return None;
        };
        let out = self.row.replace(out, entry);
        let contact = out.contact();
        self.insert_spare(now, out);
        Some(contact)
    }

    /// The slowest of the younger half.
    fn slowest_newcomer(&self) -> Option<usize> {
        let entries = &self.row.entries;
        let mut ages: Vec<_> = entries.iter().map(|e| e.since).collect();
        let half = ages.len() / 2;
        let (_, median, _) = ages.select_nth_unstable(half);
        let median = *median;
        let young = entries.iter().enumerate().filter(|(_, e)| e.since >= median);
        young.max_by_key(|(_, e)| e.rtt()).map(|(at, _)| at)
    }

    fn insert_spare(&mut self, now: Moment, entry: Entry) {
        if self.spares.len() < REPLACEMENTS {
            self.spares.push(entry);
        } else if let Some(oldest) = self.spares.iter_mut().min_by_key(|e| e.answered)
            && (oldest.failures > 0 || !oldest.is_good(now) || oldest.rtt() > entry.rtt())
        {
            *oldest = entry;
        }
    }

    /// Notes an unanswered query.
    pub fn on_failure(&mut self, contact: &Contact) -> Failed {
        self.spares.retain(|e| !e.is(contact));
        let Some(at) = self.row.position(contact) else { return Failed::Stays };
        // Where many are known, a place is worth more to somebody else than a doubtful one in it.
        let patience = if self.row.entries.len() > LARGE_BUCKET { 1 } else { MAX_FAILURES };
        let entry = &mut self.row.entries[at];
        entry.failures = entry.failures.saturating_add(1);
        let failures = entry.failures;
        let fresh = self.spares.iter().enumerate().max_by_key(|(_, e)| e.answered).map(|(i, _)| i);
        if let Some(spare) = fresh {
            let spare = self.spares.swap_remove(spare);
            let contact = spare.contact();
            self.row.replace(at, spare);
            Failed::Replaced(contact)
        } else if failures >= patience {
            self.row.swap_remove(at);
            Failed::Out
        } else {
            Failed::Stays
        }
    }
}

/// Clearly faster: a place changes hands for more than jitter.
fn is_faster(a: &Entry, b: &Entry) -> bool {
    a.rtt() + a.rtt() / 4 < b.rtt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;

    fn entry(now: Moment, n: u8) -> Entry {
        let contact = Contact { id: Id160([n; 20]), addr: ([127, 0, 0, n], 1).into() };
        Entry::new(now, contact, Duration::from_millis(n.into()))
    }

    #[test]
    fn a_first_failure_lets_a_waiting_spare_in() {
        let now = Moment::FIRST;
        let mut bucket = Bucket::default();
        for n in 1..=3 {
            bucket.insert(now, entry(now, n), 2, false);
        }
        assert_eq!((bucket.row.entries.len(), bucket.spares.len()), (2, 1));
        assert_eq!(bucket.on_failure(&entry(now, 1).contact()), Failed::Replaced(entry(now, 3).contact()));
        assert_eq!(bucket.entries()[0].contact(), entry(now, 3).contact());
    }

    #[test]
    fn a_fast_newcomer_takes_a_young_slow_place_and_never_an_old_one() {
        let now = Moment::FIRST;
        let mut bucket = Bucket::default();
        let at = |seconds, n| entry(now.after(Duration::from_secs(seconds)), n);
        // The two that came first are the slowest.
        for (seconds, n) in [(0, 200), (1, 190), (2, 150), (3, 100)] {
            bucket.insert(now, at(seconds, n), 4, true);
        }
        bucket.insert(now, at(4, 140), 4, true);
        assert!(bucket.entry_mut(&at(2, 150).contact()).is_some(), "140 ms are not clearly faster");
        for n in 10..60 {
            bucket.insert(now, at(u64::from(n), n), 4, true);
        }
        let rtts: Vec<_> = bucket.entries().iter().map(|e| e.rtt().as_millis()).collect();
        assert_eq!(rtts[..2], [200, 190]);
        assert!(rtts[2..].iter().all(|ms| *ms < 60), "{rtts:?}");
    }

    #[test]
    fn without_a_spare_it_takes_three() {
        let now = Moment::FIRST;
        let mut bucket = Bucket::default();
        bucket.insert(now, entry(now, 1), 2, false);
        let contact = entry(now, 1).contact();
        let turns = [(); 3].map(|()| bucket.on_failure(&contact));
        assert_eq!(turns, [Failed::Stays, Failed::Stays, Failed::Out]);
        assert!(bucket.entries().is_empty());
    }

    /// BEP 42: whoever can choose his id freely must not be able to push out those who cannot.
    #[test]
    fn a_made_up_id_gives_way_and_never_takes_a_place() {
        let now = Moment::FIRST;
        let mut bucket = Bucket::default();
        let made_up = |n| Entry { bound: false, ..entry(now, n) };
        bucket.insert(now, made_up(1), 2, true);
        bucket.insert(now, entry(now, 99), 2, true);
        bucket.insert(now, made_up(2), 2, true);
        assert_eq!(bucket.spares[0].contact(), entry(now, 2).contact());
        bucket.insert(now, entry(now, 98), 2, true);
        let ids: Vec<_> = bucket.row.entries.iter().map(|e| e.contact()).collect();
        assert_eq!(ids, [entry(now, 98).contact(), entry(now, 99).contact()]);
    }

    #[test]
    fn in_a_large_bucket_a_single_failure_is_enough() {
        let now = Moment::FIRST;
        let mut bucket = Bucket::default();
        for n in 0..=LARGE_BUCKET as u8 {
            bucket.insert(now, entry(now, n), 512, false);
        }
        assert_eq!(bucket.on_failure(&entry(now, 0).contact()), Failed::Out);
        assert_eq!(bucket.on_failure(&entry(now, 1).contact()), Failed::Stays);
        assert_eq!(bucket.entries().len(), LARGE_BUCKET);
    }

    #[test]
    fn newcomers_are_doubted_sooner_than_old_acquaintances_and_failures_first_of_all() {
        let now = Moment::FIRST;
        let later = |minutes: u64| now.after(Duration::from_secs(60 * minutes));
        let (mut old, new) = (entry(now, 1), entry(later(600), 2));
        (old.answered, old.checked) = (later(600), later(600));
        assert!(new.doubt(later(610)) > 10.0 * old.doubt(later(610)));
        assert!(old.doubt(later(700)) > new.doubt(later(601)));
        // Who has asked us is there, though we have not asked him.
        let mut asking = new.clone();
        asking.asked_us = Some(later(609));
        assert!(asking.doubt(later(610)) < new.doubt(later(610)) / 5.0);
        old.failures = 1;
        assert!(old.doubt(later(610)) > new.doubt(later(610)));
    }

    /// Thousands of nodes share a cache; entries are most of what each weighs.
    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
    }

    #[test]
    fn good_needs_recent_evidence() {
        let now = Moment::FIRST;
        let mut e = entry(now, 1);
        let later = now.after(GOOD_FOR);
        assert!(e.is_good(now) && !e.is_good(later));
        e.asked_us = Some(later);
        assert!(e.is_good(later));
        e.failures = 1;
        assert!(!e.is_good(later));
    }
}
