//! Tit-for-tat (BEP 3, "choking"): who may download from us.
//!
//! The best four by rate, and one more by chance, so that newcomers get their first piece. Must not know
//! connections; it ranks what it is shown.

use std::time::{Duration, Instant};

use super::config::{CHOKE_ROUND, MAX_UPLOAD_SLOTS, OPTIMISTIC_ROUNDS, UPLOAD_SLOTS};
use super::event::PeerKey;
use crate::rng::Rng;

/// A peer younger than this counts as a newcomer: thrice as likely to be tried.
const NEWCOMER: Duration = Duration::from_secs(60);

/// A peer as the choker sees it.
#[derive(Debug, Clone, Copy)]
pub struct Contender {
    /// Who.
    pub peer: PeerKey,
    /// Whether it wants pieces of ours.
    pub interested: bool,
    /// Bytes a second that it gives us; that it takes, where we are a seed.
    pub rate: u64,
    /// Whether it owes us blocks and sends none.
    pub snubbed: bool,
    /// When it connected.
    pub since: Instant,
}

/// Chooses the unchoked.
#[derive(Debug)]
pub struct Choker {
    next_round: Instant,
    rounds_left: u32,
    optimistic: Option<PeerKey>,
    unchoked: Vec<PeerKey>,
    /// Regular slots; with none, nobody is served.
    slots: usize,
}

impl Choker {
    /// A choker whose first round is due now.
    pub fn new(now: Instant) -> Self {
        Self { next_round: now, rounds_left: 0, optimistic: None, unchoked: Vec::new(), slots: UPLOAD_SLOTS }
    }

    /// Whether ten seconds have passed since the last round.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_round
    }

    /// How many peers are served from the next round on, beside the optimistic one.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Holds a round and returns who is unchoked from now on.
    pub fn round(&mut self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> &[PeerKey] {
        self.next_round = now + CHOKE_ROUND;
        let mut ranked: Vec<&Contender> = contenders.iter().filter(|c| c.interested && !c.snubbed).collect();
        // Among equals, who came first: no flapping without a reason.
        ranked.sort_by_key(|c| (std::cmp::Reverse(c.rate), c.since, c.peer));
        self.unchoked = ranked.iter().take(self.slots).map(|c| c.peer).collect();
        let still_wanted = |peer| contenders.iter().any(|c| c.interested && c.peer == peer);
        self.rounds_left = self.rounds_left.saturating_sub(1);
        if self.slots == 0 {
            return &self.unchoked;
        }
        if self.rounds_left == 0 || !self.optimistic.is_some_and(still_wanted) {
            self.optimistic = self.draw(now, contenders, rng);
            self.rounds_left = OPTIMISTIC_ROUNDS;
        }
        if let Some(peer) = self.optimistic.filter(|p| !self.unchoked.contains(p)) {
            self.unchoked.push(peer);
        }
        &self.unchoked
    }

    /// A peer became interested between rounds: takes it at once where a slot is free, or `idle`.
    pub fn admit(&mut self, peer: PeerKey, idle: usize) -> bool {
        let most = (self.slots + 1 + idle).min(MAX_UPLOAD_SLOTS.max(self.slots + 1));
        let free = self.slots > 0 && self.unchoked.len() < most;
        if free && !self.unchoked.contains(&peer) {
            self.unchoked.push(peer);
        }
        free
    }

    /// A peer has gone or lost interest; its slot is free.
    pub fn release(&mut self, peer: PeerKey) {
        self.unchoked.retain(|&p| p != peer);
        if self.optimistic == Some(peer) {
            self.optimistic = None;
        }
    }

    fn draw(&self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> Option<PeerKey> {
        let mut tickets = Vec::new();
        for c in contenders.iter().filter(|c| c.interested && !self.unchoked.contains(&c.peer)) {
            let newcomer = now.saturating_duration_since(c.since) < NEWCOMER;
            tickets.extend(std::iter::repeat_n(c.peer, if newcomer { 3 } else { 1 }));
        }
        rng.choose(&tickets).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn contenders(now: Instant, rates: &[u64]) -> Vec<Contender> {
        let one = |(i, &rate): (usize, &u64)| Contender {
            peer: PeerKey(NonZeroU32::new(i as u32 + 1).unwrap()),
            interested: true,
            rate,
            snubbed: false,
            since: now,
        };
        rates.iter().enumerate().map(one).collect()
    }

    #[test]
    fn the_best_four_and_one_by_chance() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut choker = Choker::new(now);
        let crowd = contenders(now, &[1, 9, 8, 7, 6, 5, 0, 0]);
        let chosen: Vec<u32> = choker.round(now, &crowd, &mut rng).iter().map(|p| p.0.get()).collect();
        assert_eq!(chosen[..4], [2, 3, 4, 5]);
        assert_eq!(chosen.len(), 5);
        assert!(!choker.is_due(now) && choker.is_due(now + CHOKE_ROUND));
    }

    #[test]
    fn the_optimistic_slot_reaches_everyone_in_time() {
        let (start, mut rng) = (Instant::now(), Rng::from_u64(2));
        let mut choker = Choker::new(start);
        let crowd = contenders(start, &[9, 9, 9, 9, 0, 0, 0, 0]);
        let mut tried = std::collections::BTreeSet::new();
        for round in 0..200 {
            let now = start + CHOKE_ROUND * round;
            tried.extend(choker.round(now, &crowd, &mut rng).iter().copied());
        }
        assert_eq!(tried.len(), 8);
    }

    #[test]
    fn a_free_slot_is_given_at_once_and_a_lost_one_freed() {
        let now = Instant::now();
        let mut choker = Choker::new(now);
        let crowd = contenders(now, &[0; 6]);
        for c in &crowd[..5] {
            assert!(choker.admit(c.peer, 0));
        }
        assert!(!choker.admit(crowd[5].peer, 0));
        choker.release(crowd[0].peer);
        assert!(choker.admit(crowd[5].peer, 0));
    }
}
