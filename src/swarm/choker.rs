//! Who may download from us: tit-for-tat (BEP 3, "choking") while we fetch, turns once we have everything.
//!
//! While we fetch: the best by what they give, and one more by chance, so that newcomers get their first piece. As a
//! seed: those who pass on what they get and take fastest, and among those who take alike the one who has waited longest. Must not know
//! connections; it ranks what it is shown.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::{
    CHOKE_ROUND, MAX_IDLE_SLOTS, MAX_UPLOAD_SLOTS, MIN_UPLOAD_SLOTS, OPTIMISTIC_ROUNDS, SEED_TRIAL,
    SEED_TURN, SLOT_RATE, UPLOAD_SLOTS,
};
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
    /// Whether it keeps to itself what a seed gives it.
    pub hoards: bool,
    /// When it connected.
    pub since: Instant,
}

/// What a seed remembers of whom it served.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Since when it is served, or since when no more.
    since: Instant,
    served: bool,
    /// How fast it took, at the best.
    rate: u64,
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
    /// At most one for each connection.
    turns: BTreeMap<PeerKey, Turn>,
}

/// How many peers to serve at once, beside the optimistic one: the square root of the rate in units of [`SLOT_RATE`].
pub fn upload_slots(limit: Option<u64>, rate: u64) -> usize {
    let least = match limit {
        Some(0) => return 0,
        Some(_) => MIN_UPLOAD_SLOTS,
        // Nobody has asked for anything yet.
        None if rate == 0 => UPLOAD_SLOTS,
        None => MIN_UPLOAD_SLOTS,
    };
    // What was measured is payload, and somewhat less than the link carries.
    let rate = limit.unwrap_or(rate + rate / 8);
    ((rate / SLOT_RATE).isqrt() as usize).clamp(least, MAX_UPLOAD_SLOTS)
}

impl Choker {
    /// A choker whose first round is due now.
    pub fn new(now: Instant, slots: usize) -> Self {
        let (unchoked, turns) = (Vec::new(), BTreeMap::new());
        Self { next_round: now, rounds_left: 0, optimistic: None, unchoked, slots, turns }
    }

    /// Whether ten seconds have passed since the last round.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_round
    }

    /// How many peers are served from the next round on, beside the optimistic one.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// At least so many peers are served from now on.
    pub fn add_slots(&mut self, slots: usize) {
        self.slots = self.slots.max(slots);
    }

    /// Holds a round while we fetch, and returns who is unchoked from now on.
    pub fn round(&mut self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> &[PeerKey] {
        self.turns.clear();
        let mut ranked: Vec<&Contender> = contenders.iter().filter(|c| c.interested && !c.snubbed).collect();
        // Among equals, who came first: no flapping without a reason.
        ranked.sort_by_key(|c| (Reverse(c.rate), c.since, c.peer));
        self.unchoked = ranked.iter().take(self.slots).map(|c| c.peer).collect();
        self.close_round(now, contenders, rng)
    }

    /// Holds a round as a seed, and returns who is unchoked from now on.
    pub fn seed_round(&mut self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> &[PeerKey] {
        for c in contenders {
            let served = self.unchoked.contains(&c.peer);
            let new = Turn { since: if served { now } else { c.since }, served, rate: 0 };
            let turn = self.turns.entry(c.peer).or_insert(new);
            // Slowly forgotten: who was alone once took more than anybody can now.
            turn.rate = c.rate.max(turn.rate / 4 * 3);
        }
        let fastest = self.turns.values().map(|t| t.rate).max().unwrap_or(0);
        // The optimistic one has a slot of its own, as long as it stays.
        let apart = self.optimistic.filter(|_| self.rounds_left > 1);
        let contends = |c: &&Contender| c.interested && Some(c.peer) != apart;
        let mut ranked: Vec<_> = contenders.iter().filter(contends).collect();
        ranked.sort_by_key(|c| {
            let turn = self.turns.get(&c.peer);
            // Who was never served may be fast. Within a factor of two, all take alike.
            let slow = turn.is_some_and(|t| t.rate < fastest / 2 && (t.served || t.rate > 0));
            // Slots hold long enough for whole pieces.
            let most = if slow { SEED_TRIAL } else { SEED_TURN };
            let keeps = turn.is_some_and(|t| t.served && now.saturating_duration_since(t.since) < most);
            let since = turn.map_or(c.since, |t| if t.served { now } else { t.since });
            (c.hoards, !keeps, slow, since, c.peer)
        });
        self.unchoked = ranked.iter().take(self.slots).map(|c| c.peer).collect();
        for (peer, turn) in &mut self.turns {
            let served = self.unchoked.contains(peer);
            if served != turn.served || apart == Some(*peer) {
                (turn.since, turn.served) = (now, served);
            }
        }
        self.close_round(now, contenders, rng)
    }

    fn close_round(&mut self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> &[PeerKey] {
        self.next_round = now + CHOKE_ROUND;
        if self.slots == 0 {
            return &self.unchoked;
        }
        let still_wanted = |peer| contenders.iter().any(|c| c.interested && c.peer == peer);
        self.rounds_left = self.rounds_left.saturating_sub(1);
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
        let most = (self.slots + 1 + idle).min(MAX_IDLE_SLOTS.max(self.slots + 1));
        let free = self.slots > 0 && self.unchoked.len() < most;
        if free && !self.unchoked.contains(&peer) {
            self.unchoked.push(peer);
            // Its turn begins with the next round.
            self.turns.remove(&peer);
        }
        free
    }

    /// A peer has gone or lost interest; its slot is free.
    pub fn release(&mut self, peer: PeerKey) {
        self.unchoked.retain(|&p| p != peer);
        self.turns.remove(&peer);
        if self.optimistic == Some(peer) {
            self.optimistic = None;
        }
    }

    /// A peer lets its slot lie idle: others come first, and its turn is over.
    pub fn set_aside(&mut self, now: Instant, peer: PeerKey) {
        self.unchoked.retain(|&p| p != peer);
        if let Some(turn) = self.turns.get_mut(&peer) {
            (turn.since, turn.served) = (now, false);
        } else {
            self.turns.insert(peer, Turn { since: now, served: false, rate: 0 });
        }
        if self.optimistic == Some(peer) {
            self.optimistic = None;
        }
    }

    fn draw(&self, now: Instant, contenders: &[Contender], rng: &mut Rng) -> Option<PeerKey> {
        let mut tickets = Vec::new();
        for c in contenders.iter().filter(|c| c.interested && !self.unchoked.contains(&c.peer)) {
            let newcomer = now.saturating_duration_since(c.since) < NEWCOMER;
            let weight = if c.hoards { 1 } else { 3 } * if newcomer { 3 } else { 1 };
            tickets.extend(std::iter::repeat_n(c.peer, weight));
        }
        rng.choose(&tickets).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    fn contenders(now: Instant, rates: &[u64]) -> Vec<Contender> {
        let one = |(i, &rate): (usize, &u64)| Contender {
            peer: PeerKey(NonZeroU32::new(i as u32 + 1).unwrap()),
            interested: true,
            rate,
            snubbed: false,
            hoards: false,
            since: now,
        };
        rates.iter().enumerate().map(one).collect()
    }

    #[test]
    fn the_best_four_and_one_by_chance() {
        let (now, mut rng) = (Instant::now(), Rng::from_u64(1));
        let mut choker = Choker::new(now, UPLOAD_SLOTS);
        let crowd = contenders(now, &[1, 9, 8, 7, 6, 5, 0, 0]);
        let chosen: Vec<u32> = choker.round(now, &crowd, &mut rng).iter().map(|p| p.0.get()).collect();
        assert_eq!(chosen[..4], [2, 3, 4, 5]);
        assert_eq!(chosen.len(), 5);
        assert!(!choker.is_due(now) && choker.is_due(now + CHOKE_ROUND));
    }

    #[test]
    fn the_optimistic_slot_reaches_everyone_in_time() {
        let (start, mut rng) = (Instant::now(), Rng::from_u64(2));
        let mut choker = Choker::new(start, UPLOAD_SLOTS);
        let crowd = contenders(start, &[9, 9, 9, 9, 0, 0, 0, 0]);
        let mut tried = BTreeSet::new();
        for round in 0..200 {
            let now = start + CHOKE_ROUND * round;
            tried.extend(choker.round(now, &crowd, &mut rng).iter().copied());
        }
        assert_eq!(tried.len(), 8);
    }

    /// BEP 3: who came within the last minute is thrice as likely to be tried.
    #[test]
    fn newcomers_are_tried_thrice_as_often() {
        let (start, mut rng) = (Instant::now(), Rng::from_u64(4));
        let now = start + NEWCOMER;
        let mut crowd = contenders(start, &[5, 5, 5, 5, 0, 0]);
        crowd[5].since = now;
        let [mut old, mut new] = [0, 0];
        for _ in 0..4000 {
            // Each time the first draw of a choker.
            let mut choker = Choker::new(now, UPLOAD_SLOTS);
            let tried = choker.round(now, &crowd, &mut rng)[UPLOAD_SLOTS];
            *(if tried == crowd[5].peer { &mut new } else { &mut old }) += 1;
        }
        assert!((2800..3200).contains(&new) && new + old == 4000, "{new} and {old} of 4000");
    }

    #[test]
    fn a_free_slot_is_given_at_once_and_a_lost_one_freed() {
        let now = Instant::now();
        let mut choker = Choker::new(now, UPLOAD_SLOTS);
        let crowd = contenders(now, &[0; 6]);
        for c in &crowd[..5] {
            assert!(choker.admit(c.peer, 0));
        }
        assert!(!choker.admit(crowd[5].peer, 0));
        choker.release(crowd[0].peer);
        assert!(choker.admit(crowd[5].peer, 0));
    }

    #[test]
    fn slots_grow_with_the_square_root_of_the_rate() {
        let kib = |n: u64| Some(n << 10);
        let slots = [0, 1, 32, 128, 512, 4096, 1 << 20].map(|n| upload_slots(kib(n), 0));
        assert_eq!(slots, [0, 2, 2, 4, 8, 22, 50]);
        assert_eq!((upload_slots(None, 0), upload_slots(None, 2 << 20)), (4, 16));
    }

    #[test]
    fn slots_grow_between_rounds_and_shrink_with_one() {
        let now = Instant::now();
        let mut choker = Choker::new(now, UPLOAD_SLOTS);
        let crowd = contenders(now, &[0; 9]);
        let admit_all = |choker: &mut Choker| {
            crowd.iter().for_each(|c| _ = choker.admit(c.peer, 0));
            choker.unchoked.len()
        };
        assert_eq!(admit_all(&mut choker), UPLOAD_SLOTS + 1);
        choker.add_slots(UPLOAD_SLOTS + 2);
        choker.add_slots(UPLOAD_SLOTS);
        assert_eq!(admit_all(&mut choker), UPLOAD_SLOTS + 3);
        choker.set_slots(UPLOAD_SLOTS);
        assert_eq!(choker.round(now, &crowd, &mut Rng::from_u64(1)).len(), UPLOAD_SLOTS + 1);
    }

    #[test]
    fn with_no_slots_nobody_is_served() {
        let now = Instant::now();
        let (mut choker, crowd) = (Choker::new(now, 0), contenders(now, &[9; 3]));
        assert!(choker.round(now, &crowd, &mut Rng::from_u64(1)).is_empty());
        assert!(choker.seed_round(now, &crowd, &mut Rng::from_u64(1)).is_empty());
        assert!(!choker.admit(crowd[0].peer, 5));
    }

    #[test]
    fn a_seed_prefers_who_takes_fast_and_still_tries_the_slow() {
        let (start, mut rng) = (Instant::now(), Rng::from_u64(3));
        let mut choker = Choker::new(start, UPLOAD_SLOTS);
        let speeds = [900, 1000, 800, 1100, 90, 80, 70, 60];
        let mut rounds = [0u32; 8];
        let mut crowd = contenders(start, &[0; 8]);
        for round in 0..120 {
            let chosen = choker.seed_round(start + CHOKE_ROUND * round, &crowd, &mut rng).to_vec();
            for (nth, c) in crowd.iter_mut().enumerate() {
                let served = chosen.contains(&c.peer);
                c.rate = if served { speeds[nth] } else { 0 };
                rounds[nth] += u32::from(served);
            }
        }
        assert!(rounds[..4].iter().all(|n| *n >= 100), "{rounds:?}");
        assert!(rounds[4..].iter().all(|n| (3..=60).contains(n)), "{rounds:?}");
    }

    proptest! {
        /// Whatever peers give: no more than the slots and one, only who wants, nobody who snubs but by chance, and
        /// nobody left out who gives more than one who is in.
        #[test]
        fn tit_for_tat_serves_the_best(
            peers in prop::collection::vec((0u64..5, any::<bool>(), any::<bool>()), 0..40), seed: u64, slots in 1usize..12,
        ) {
            let (now, mut rng) = (Instant::now(), Rng::from_u64(seed));
            let mut choker = Choker::new(now, slots);
            let mut crowd = contenders(now, &peers.iter().map(|p| p.0).collect::<Vec<_>>());
            for (c, (_, interested, snubbed)) in crowd.iter_mut().zip(&peers) {
                (c.interested, c.snubbed) = (*interested, *snubbed);
            }
            let chosen = choker.round(now, &crowd, &mut rng).to_vec();
            prop_assert!(chosen.len() <= slots + 1);
            let of = |p: &PeerKey| crowd.iter().find(|c| c.peer == *p).unwrap();
            prop_assert!(chosen.iter().all(|p| of(p).interested));
            let regular: Vec<_> = chosen.iter().take(slots).map(of).filter(|c| !c.snubbed).collect();
            let least = regular.iter().map(|c| c.rate).min().unwrap_or(0);
            let out = crowd.iter().filter(|c| c.interested && !c.snubbed && !chosen.contains(&c.peer));
            prop_assert!(regular.len() < slots || out.map(|c| c.rate).all(|rate| rate <= least));
        }

        /// As a seed: all who take alike are served in turn, and who is served stays for a while.
        #[test]
        fn all_who_take_alike_have_their_turn(count in 1usize..60, slots in 1usize..10, seed: u64) {
            let (start, mut rng) = (Instant::now(), Rng::from_u64(seed));
            let mut choker = Choker::new(start, slots);
            let mut crowd = contenders(start, &vec![0; count]);
            let (mut tried, mut regular) = (BTreeSet::new(), BTreeMap::<PeerKey, u32>::new());
            let turn = (SEED_TURN.as_secs() / CHOKE_ROUND.as_secs()) as u32;
            for round in 0..turn * (count.div_ceil(slots) as u32 + 1) {
                let chosen = choker.seed_round(start + CHOKE_ROUND * round, &crowd, &mut rng).to_vec();
                prop_assert!(chosen.len() <= slots + 1);
                let slotted = &chosen[..slots.min(chosen.len())];
                for (peer, since) in &regular {
                    prop_assert!(round - since >= turn || slotted.contains(peer), "{peer:?} lost its slot");
                }
                regular.retain(|peer, _| slotted.contains(peer));
                slotted.iter().for_each(|p| { regular.entry(*p).or_insert(round); });
                tried.extend(chosen.iter().copied());
                for c in &mut crowd {
                    c.rate = if chosen.contains(&c.peer) { 1000 + rng.below(900) as u64 } else { 0 };
                }
            }
            prop_assert_eq!(tried.len(), count);
        }
    }
}
