//! The long memory of a private network: members that have answered once, whether the table has a place for
//! them or not, and when to try again one that has fallen silent.
//!
//! Two halves of a network that was cut, or a machine that was away, find together by it. Must not know the
//! table, nor what is asked.

use std::net::SocketAddr;
use std::time::Instant;

use super::config::{
    FORGET_AFTER, LOST_AFTER, MAX_REMEMBERED, NEWCOMER_LUCK, REACH_AGAIN_MAX, REACH_AGAIN_MIN,
    REACH_AGAIN_NAMED, REACH_ALIVE, REACH_LOOK, REACH_SHARE,
};
use crate::id::NodeId;
use crate::rng::Rng;
use crate::wire::compact::Contact;

/// One that is remembered.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    addr: SocketAddr,
    /// None: an address to start from that has not answered yet.
    id: Option<NodeId>,
    /// When it last answered, or was first heard of.
    heard: Instant,
    /// When it last failed to answer, if not since it answered.
    missed: Option<Instant>,
    /// When it was last tried for being out of the table.
    tried: Option<Instant>,
    /// By the user: never forgotten, and never left alone for long.
    is_named: bool,
}

impl Remembered {
    /// When it should be tried again, were it not in the table.
    fn due_at(&self, now: Instant) -> Instant {
        let silence = now.saturating_duration_since(self.heard);
        let most = if self.is_named { REACH_AGAIN_NAMED } else { REACH_AGAIN_MAX };
        let wait = (silence / REACH_SHARE).clamp(REACH_AGAIN_MIN, most);
        match (self.id, self.missed.max(self.tried)) {
            (_, None) if self.id.is_none() => self.heard,
            // It answers and has no place: that is looked into now and then.
            (Some(_), at) if self.missed.is_none() => at.unwrap_or(self.heard).max(self.heard) + REACH_ALIVE,
            (_, at) => at.unwrap_or(self.heard) + wait,
        }
    }
}

/// Members of the own network, at most [`MAX_REMEMBERED`].
#[derive(Clone, Debug, Default)]
pub struct Memory {
    all: Vec<Remembered>,
}

impl Memory {
    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those that have answered once, the latest first.
    pub fn contacts(&self) -> Vec<Contact> {
        let mut all: Vec<_> = self.all.iter().filter_map(|r| Some((r.heard, r.id?, r.addr))).collect();
        all.sort_by_key(|(heard, id, _)| (std::cmp::Reverse(*heard), *id));
        all.into_iter().map(|(_, id, addr)| Contact { id, addr }).collect()
    }

    /// How many have not answered when they were last asked.
    pub fn lost(&self) -> usize {
        self.all.iter().filter(|r| r.missed.is_some()).count()
    }

    /// The user has named an address to start from.
    pub fn name(&mut self, now: Instant, addr: SocketAddr, rng: &mut Rng) {
        match self.position(addr) {
            Some(at) => self.all[at].is_named = true,
            None => self.insert(now, addr, None, true, rng),
        }
    }

    /// An earlier run has known this one; nothing is known of it since.
    pub fn recall(&mut self, now: Instant, contact: Contact, rng: &mut Rng) {
        if self.position(contact.addr).is_none() {
            self.insert(now, contact.addr, Some(contact.id), false, rng);
            if let Some(at) = self.position(contact.addr) {
                self.all[at].missed = Some(now);
            }
        }
    }

    /// A node has answered; true if it had been lost.
    pub fn on_answer(&mut self, now: Instant, contact: Contact, rng: &mut Rng) -> bool {
        if let Some(at) = self.position(contact.addr) {
            let known = &mut self.all[at];
            let silence = now.saturating_duration_since(known.heard);
            let was_lost = known.missed.is_some() && silence >= LOST_AFTER;
            (known.id, known.heard, known.missed) = (Some(contact.id), now, None);
            return was_lost;
        }
        // Who has moved is no longer where he was.
        let same = |r: &Remembered| r.id == Some(contact.id) && r.addr.is_ipv4() == contact.addr.is_ipv4();
        if let Some(at) = self.all.iter().position(|r| same(r) && r.missed.is_some() && !r.is_named) {
            self.all.swap_remove(at);
        }
        self.insert(now, contact.addr, Some(contact.id), false, rng);
        false
    }

    /// A node was asked and has not answered.
    pub fn on_silence(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(at) = self.position(addr) {
            self.all[at].missed = Some(now);
        }
    }

    /// Forgets an address, such as our own.
    pub fn forget(&mut self, addr: SocketAddr) {
        self.all.retain(|r| r.addr != addr);
    }

    /// Of the addresses that were named only these are, from now on.
    pub fn retain_named(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.all.iter_mut().for_each(|r| r.is_named &= keep(r.addr));
        self.all.retain(|r| r.is_named || r.id.is_some());
    }

    /// The one to be tried now, if any, of those that are not at hand, and when to ask again.
    pub fn reach_out(
        &mut self,
        now: Instant,
        is_at_hand: impl Fn(SocketAddr, Option<NodeId>) -> bool,
    ) -> (Option<(SocketAddr, Option<NodeId>)>, Instant) {
        let mut next = now + REACH_LOOK;
        let mut due: Vec<(Instant, usize)> = Vec::new();
        for (at, one) in self.all.iter().enumerate() {
            match one.due_at(now) {
                later if later > now => next = next.min(later),
                since => due.push((since, at)),
            }
        }
        due.sort_unstable();
        let mut due = due.into_iter().map(|(_, at)| at);
        let mut first = None;
        for at in due.by_ref() {
            let one = &mut self.all[at];
            // Either way it has been looked at.
            one.tried = Some(now);
            if !is_at_hand(one.addr, one.id) {
                first = Some((one.addr, one.id));
                break;
            }
        }
        (first, if due.len() > 0 { now } else { next })
    }

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        self.all.iter().position(|r| r.addr == addr)
    }

    fn insert(&mut self, now: Instant, addr: SocketAddr, id: Option<NodeId>, is_named: bool, rng: &mut Rng) {
        let one = Remembered { addr, id, heard: now, missed: None, tried: None, is_named };
        if self.all.len() < MAX_REMEMBERED {
            return self.all.push(one);
        }
        let may_go = self.all.iter().enumerate().filter(|(_, r)| !r.is_named);
        let Some((at, oldest)) = may_go.min_by_key(|(_, r)| r.heard) else { return };
        if is_named || now.saturating_duration_since(oldest.heard) >= FORGET_AFTER {
            self.all[at] = one;
        } else if rng.chance(NEWCOMER_LUCK) {
            // Anyone may have to go, or an hour among one half of a network would wipe out the other half.
            let at = rng.below(self.all.len());
            if !self.all[at].is_named {
                self.all[at] = one;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;
    use std::time::Duration;

    fn contact(n: u32) -> Contact {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Contact { id: Id160(id), addr: ((n + (10 << 24)).to_be_bytes(), 6881).into() }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// When one that is away is tried within that time.
    fn tries(memory: &mut Memory, start: Instant, time: Duration) -> Vec<u64> {
        let (mut at, mut tries) = (start, Vec::new());
        while at < start + time {
            let (one, next) = memory.reach_out(at, |_, _| false);
            if let Some((addr, _)) = one {
                memory.on_silence(at, addr);
                tries.push(at.saturating_duration_since(start).as_secs());
            }
            assert!(next > at || one.is_some());
            at = next.max(at + secs(1));
        }
        tries
    }

    #[test]
    fn who_is_silent_for_longer_is_tried_less_often() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut memory = Memory::default();
        memory.on_answer(now, contact(1), &mut rng);
        memory.on_silence(now, contact(1).addr);
        let first = tries(&mut memory, now, secs(600));
        assert!(first.len() >= 50 && first[0] <= 10, "{first:?}");
        let later = tries(&mut memory, now + secs(3600), secs(3600));
        assert!((50..=100).contains(&later.len()), "{later:?}");
        let after_days = tries(&mut memory, now + secs(7 * 86_400), secs(86_400));
        assert!((12..=25).contains(&after_days.len()), "{after_days:?}");
        // What the user named is tried twice a minute for ever.
        memory.name(now, contact(1).addr, &mut rng);
        let named = tries(&mut memory, now + secs(9 * 86_400), secs(3600));
        assert!(named.len() >= 100, "{}", named.len());
    }

    #[test]
    fn a_whole_half_that_is_lost_outlives_an_hour_among_the_other() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(2));
        let mut memory = Memory::default();
        memory.name(now, contact(9999).addr, &mut rng);
        for n in 0..256 {
            memory.on_answer(now, contact(n), &mut rng);
        }
        (0..256).for_each(|n| memory.on_silence(now, contact(n).addr));
        for n in 0..2000 {
            memory.on_answer(now + secs(60 + n), contact(1000 + n as u32), &mut rng);
        }
        assert_eq!(memory.len(), MAX_REMEMBERED);
        assert!((40..256).contains(&memory.lost()), "{}", memory.lost());
        let back = (0..256).filter(|n| memory.on_answer(now + secs(3600), contact(*n), &mut rng)).count();
        assert!(back >= 40, "{back}");
        // A day later the silent ones give way first.
        for n in 0..3000 {
            memory.on_answer(now + secs(2 * 86_400 + n), contact(5000 + n as u32), &mut rng);
        }
        assert!(memory.all.iter().all(|r| r.is_named || r.heard > now + secs(86_400)));
        assert!(memory.position(contact(9999).addr).is_some());
    }

    #[test]
    fn who_is_at_hand_is_left_alone_and_who_moved_is_not_looked_for_where_he_was() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(3));
        let mut memory = Memory::default();
        assert!(!memory.on_answer(now, contact(1), &mut rng));
        memory.on_silence(now, contact(1).addr);
        assert_eq!(memory.reach_out(now + secs(3600), |_, _| true).0, None);
        // It was at hand a moment ago; its turn comes when it would have come.
        assert!(memory.reach_out(now + secs(3640), |_, _| false).0.is_some());
        let moved = Contact { addr: ([10, 9, 9, 9], 6881).into(), ..contact(1) };
        memory.on_answer(now + secs(3641), moved, &mut rng);
        assert_eq!(memory.contacts(), [moved]);
        memory.forget(moved.addr);
        assert!(memory.is_empty());
    }
}
