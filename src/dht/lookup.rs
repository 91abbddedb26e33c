//! The iterative search of Kademlia, as a pure iterator.
//!
//! Owns the candidates round one target in one address family, and the decision whom to ask next and when
//! it is over. Must not know messages, sockets, the table or what is searched for.
//!
//! # Whom to ask
//!
//! A query in flight is worth the chance that it is answered: the share of named nodes that have answered in
//! this search, less the longer it has been silent (Bayes, with the measured round trips). While few answers
//! are to be expected from nodes about as close as the next candidate, that one is asked too. Near the target,
//! where everyone must be heard anyway, nobody waits for anybody.
//!
//! # When it is over
//!
//! When the [`K`] closest candidates that neither failed nor stalled have all answered, and no question aside
//! is open. Stalled are those who are silent for longer than answers take; they still count if they answer late.
//!
//! So, at the end, *whoever was named by any answer and is nearer than the farthest of the K has answered, or
//! was asked and failed to*. For let X be such a node. It became a candidate with the answer that named it
//! (unless its address or id is another's, or its network has its share). It has not been dropped for room before
//! it was asked: that hits those who failed or are silent, and the farthest of those not asked in favour of a nearer one. If it has not failed or stalled, it is
//! among the K closest that have not, since it is nearer than one of them; all of these have answered. And if
//! it has failed or stalled, it was asked. A test draws networks at random and checks the sentence.
//!
//! # Two races
//!
//! Ids that are bound to their address (BEP 42) and those that are not are counted apart: the [`K`] closest of
//! each sort must have answered. Whoever makes up ids next to a target wins the second race only. Where all ids
//! are of one sort, which includes every private network, there is one race. Nor does one region of the
//! address space win either alone (see `quorum`).

mod admission;
mod likely;
mod sight;

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::sight::{Sight, Window};
use super::candidate::{Candidate, State, candidate, has_region};
use super::config::{
    Config, K, LOOKUP_TIMEOUT, MAX_ATTEMPTS, MAX_CANDIDATES, MAX_LONELY_ATTEMPTS, MAX_TOKEN_LEN, PATIENCE,
    SLOTS_MAX,
};
use super::moment::{Epoch, Moment, Place};
use super::pace::Pace;
use super::rules::{Flight, LookupRules, Stall};
use crate::id::{Distance, Id160, NodeId};
use crate::wire::compact::Contact;

/// What the driver of a lookup is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this node, whose id is not known if it is an address to start from; then call again.
    Query {
        /// Where.
        addr: SocketAddr,
        /// Who should be there.
        id: Option<NodeId>,
        /// Which nodes to ask it for, if not those closest to the target.
        aside: Option<Id160>,
    },
    /// Nothing to do before an answer comes or that time does.
    Wait(Instant),
    /// It is over.
    Done,
}

/// One search in one family.
#[derive(Clone, Debug)]
pub struct Lookup {
    target: Id160,
    started: Instant,
    /// The same, for the candidates' times.
    epoch: Epoch,
    rules: LookupRules,
    /// Nodes as close as this are expected to be among the closest living.
    radius: Option<Distance>,
    /// Stalls that make room for one more query each.
    extra_slots: usize,
    /// Questions about the nodes beside the target.
    asides: usize,
    /// Questions about nodes anywhere else.
    beyonds: usize,
    candidates: Vec<Candidate>,
    widened: bool,
    asked: u32,
    answered: u32,
    stalls: u32,
    /// Of the nodes that others named: how many answered, how many were silent.
    named: (u32, u32),
}

impl Lookup {
    /// A search that knows nobody yet.
    pub fn new(now: Instant, target: Id160, rules: LookupRules) -> Self {
        Self {
            target,
            started: now,
            epoch: Epoch::new(now),
            rules,
            radius: None,
            extra_slots: 0,
            asides: 0,
            beyonds: 0,
            candidates: Vec::new(),
            widened: false,
            asked: 0,
            answered: 0,
            stalls: 0,
            named: (0, 0),
        }
    }

    /// Tells the search how far from the target the [`K`] closest living nodes usually reach; without it,
    /// every candidate may be one of them.
    pub fn expect_within(&mut self, radius: Option<Distance>) {
        self.radius = radius;
    }

    /// How far from the target the [`K`] closest nodes that answered reach.
    pub fn reach(&self) -> Option<Distance> {
        self.closest().nth(K - 1).map(|(contact, _)| contact.id.distance(&self.target))
    }

    /// Nodes asked, each counted once.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    /// Nodes that answered.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Queries that stalled.
    pub fn stalls(&self) -> u32 {
        self.stalls
    }

    /// Steps to the farthest node that answered.
    pub fn hops(&self) -> u32 {
        let answered = self.candidates.iter().filter(|c| c.state == State::Answered);
        answered.map(|c| c.hop.into()).max().unwrap_or(0)
    }

    /// The closest nodes that answered, with the tokens they gave.
    pub fn closest(&self) -> impl Iterator<Item = (Contact, Option<&[u8]>)> {
        let answered = self.candidates.iter().filter(|c| c.state == State::Answered);
        answered.filter_map(|c| Some((Contact { id: c.id?, addr: c.addr() }, c.token.as_deref())))
    }

    /// The [`K`] closest nodes of either sort that answered.
    pub fn closest_set(&self) -> impl Iterator<Item = (Contact, Option<&[u8]>)> {
        let chosen = self.chosen(K, |c| (c.state == State::Answered).then_some(1.0)).map(|(_, c)| c);
        chosen.filter_map(|c| Some((Contact { id: c.id?, addr: c.addr() }, c.token.as_deref())))
    }

    /// An address to start from.
    pub fn offer_address(&mut self, now: Instant, addr: SocketAddr) {
        if self.position(addr).is_none() && self.candidates.len() < MAX_CANDIDATES {
            self.insert(candidate(self.epoch.moment(now), None, addr, 1));
        }
    }

    /// A node to start from.
    pub fn offer(&mut self, now: Instant, contact: Contact, config: &Config) {
        self.add(now, contact, 1, None, config);
    }

    /// A node to start from that has answered us before, with the round trip to it.
    pub fn offer_known(&mut self, now: Instant, contact: Contact, rtt: Duration, config: &Config) {
        let cost = self.rules.cost(&self.target, &contact.id, rtt);
        // Beyond half an hour it makes no difference.
        let cost = cost.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        self.add(now, contact, 1, Some(cost), config);
    }

    /// Goes on with these, once, however far they are; false if that has been, or nobody new is among them.
    ///
    /// A search may end among nodes that know only each other, by bad luck or by a plot of theirs: whoever was
    /// asked first has named them all. Others to start from find out.
    pub fn widen(&mut self, now: Instant, contacts: impl Iterator<Item = Contact>, config: &Config) -> bool {
        if std::mem::replace(&mut self.widened, true) {
            return false;
        }
        for contact in contacts {
            self.add(now, contact, 1, None, config);
            if let Some(at) = self.position(contact.addr) {
                self.candidates[at].required = true;
            }
        }
        self.candidates.iter().any(|c| c.required && c.state == State::New)
    }

    fn add(&mut self, now: Instant, contact: Contact, hop: u8, cost: Option<i32>, config: &Config) {
        let distance = Some(contact.id.distance(&self.target));
        // Whoever is merely named holds no id: else one liar could keep the true holder out.
        let same_id = |c: &Candidate| c.id == Some(contact.id) && c.state == State::Answered;
        if self.position(contact.addr).is_some() || self.candidates.iter().any(same_id) {
            return;
        }
        if !self.is_diverse(contact.addr, config) || !self.make_room(distance) {
            return;
        }
        let (is_bound, has_region) = (config.is_bound(&contact), has_region(contact.addr, config));
        let candidate = candidate(self.epoch.moment(now), Some(contact.id), contact.addr, hop);
        self.insert(Candidate { cost, is_bound, has_region, ..candidate });
    }

    fn insert(&mut self, candidate: Candidate) {
        let key = |c: &Candidate| (c.distance(&self.target), c.place);
        let wanted = key(&candidate);
        let at = self.candidates.partition_point(|c| key(c) < wanted);
        self.candidates.insert(at, candidate);
    }

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        let place = Place::from(addr);
        self.candidates.iter().position(|c| c.place == place)
    }

    /// A node has answered, with the nodes it named and the token it gave.
    pub fn on_reply(
        &mut self,
        now: Instant,
        from: Contact,
        token: Option<&[u8]>,
        closer: &[Contact],
        config: &Config,
    ) {
        let Some(at) = self.position(from.addr) else { return };
        // A second address of an id that has answered is no second node, nor is one host too many of a subnet.
        let answered = |c: &Candidate| c.state == State::Answered && c.addr() != from.addr;
        let twin = self.candidates.iter().any(|c| c.id == Some(from.id) && answered(c))
            || !self.is_proven_diverse(from.addr, config);
        let candidate = &mut self.candidates[at];
        if candidate.state != State::Answered {
            self.answered += 1;
            self.extra_slots = self.extra_slots.saturating_sub(1);
            if candidate.hop > 1 {
                self.named.0 += 1;
                self.named.1 -= u32::from(candidate.state == State::Stalled && candidate.attempts == 1);
            }
        }
        candidate.state = if twin { State::Failed } else { State::Answered };
        candidate.aside = None;
        // An answer about the nodes beside the target brings no token, and takes none away.
        candidate.token =
            token.filter(|t| t.len() <= MAX_TOKEN_LEN).map(Box::from).or(candidate.token.take());
        let hop = candidate.hop.saturating_add(1);
        // Bootstrap addresses have no id yet, and others may have been named under a false one.
        if candidate.id != Some(from.id) {
            let mut candidate = self.candidates.remove(at);
            candidate.id = Some(from.id);
            candidate.is_bound = config.is_bound(&from);
            candidate.has_region = has_region(from.addr, config);
            self.insert(candidate);
        }
        for contact in closer {
            self.add(now, *contact, hop, None, config);
        }
    }

    /// A node has failed for good, or refused.
    pub fn on_failure(&mut self, from: SocketAddr) {
        if let Some(at) = self.position(from) {
            self.candidates[at].aside = None;
            if self.candidates[at].state != State::Answered {
                self.candidates[at].state = State::Failed;
            }
        }
    }

    /// A node was not asked after all, since it may not be before that time.
    pub fn on_postponed(&mut self, addr: SocketAddr, until: Instant) {
        let Some(at) = self.position(addr) else { return };
        let until = self.epoch.moment(until);
        let candidate = &mut self.candidates[at];
        candidate.aside = None;
        if candidate.state == State::Waiting {
            // Like one who is silent: it holds nobody up, and its turn comes where there is nobody else.
            candidate.attempts = candidate.attempts.saturating_sub(1);
            self.asked -= u32::from(candidate.attempts == 0);
            (candidate.state, candidate.stalls_at) = (State::Stalled, until);
        }
    }

    /// What to do now, when answers take as long as `pace` says.
    pub fn next(&mut self, now: Instant, pace: &Pace) -> Step {
        if now >= self.started + LOOKUP_TIMEOUT {
            return Step::Done;
        }
        self.step(self.epoch.moment(now), pace)
    }

    fn step(&mut self, now: Moment, pace: &Pace) -> Step {
        let sight = self.look_over(now, pace);
        if let Some(step) = self.look_aside(now, pace) {
            return step;
        }
        // Most turns need it, some twice, and it is dear.
        let window = OnceCell::new();
        if let Some(at) = self.choose(now, pace, &sight, || *window.get_or_init(|| self.window())) {
            return self.ask(now, at, pace);
        }
        if let Some(step) = self.look_beyond(now, pace) {
            return step;
        }
        let window = *window.get_or_init(|| self.window());
        if let Some(at) = self.wait_for_answers(now, pace, window).into_iter().chain(sight.aside).min() {
            return Step::Wait(self.epoch.instant(at));
        }
        let is_patient = self.answered == 0 && self.epoch.instant(now) < self.started + PATIENCE;
        if is_patient { Step::Wait(self.started + PATIENCE) } else { Step::Done }
    }

    fn choose(&self, now: Moment, pace: &Pace, sight: &Sight, window: impl Fn() -> Window) -> Option<usize> {
        if sight.waiting >= SLOTS_MAX {
            return None;
        }
        if sight.required.is_some() {
            return sight.required;
        }
        let (new, may_ask_more) = match self.rules.flight {
            Flight::Slots { count, overtaken_count, grows } => {
                let busy = if overtaken_count { sight.waiting } else { window().waiting };
                let slots = count + if grows { self.extra_slots } else { 0 };
                (window().new, busy < slots)
            }
            Flight::Likely { answers, slack, wide_end } => {
                let new = self.next_likely(now, pace);
                let near = |at: usize| {
                    self.radius.is_none_or(|r| self.candidates[at].distance(&self.target) <= Some(r))
                };
                let at_end = wide_end && new.is_some_and(near);
                let few = || new.map_or(0.0, |at| self.hopes(now, pace, at, slack)) < answers;
                (new, at_end || few())
            }
        };
        if new.is_some() || !may_ask_more || self.is_served(window()) {
            return new.filter(|_| may_ask_more);
        }
        let unasked = |c: &Candidate| c.id.is_none() && c.state == State::New;
        let again = |c: &Candidate| self.may_retry(c) && c.stalls_at <= now;
        let seed = self.candidates.iter().position(unasked);
        seed.or_else(|| self.candidates.iter().position(again))
    }

    /// Whom to ask next, if more are wanted: the cheapest to start from, then the closest one among those
    /// who, as far as can be told, include as many living ones as must answer.
    fn next_likely(&self, now: Moment, pace: &Pace) -> Option<usize> {
        if self.answered == 0 {
            let starts = self.candidates.iter().enumerate().filter(|(_, c)| c.id.is_some());
            let starts = starts.filter(|(_, c)| c.state == State::New && c.cost.is_some());
            if let Some((at, _)) = starts.min_by_key(|(_, c)| c.cost) {
                return Some(at);
            }
        }
        let life = |c: &Candidate| c.is_hopeful().then(|| self.life(now, pace, c));
        self.chosen(self.rules.quorum, life).find(|(_, c)| c.state == State::New).map(|(at, _)| at)
    }

    /// Whether a full set has answered, or is about to.
    fn is_served(&self, window: Window) -> bool {
        self.answered > 0 && window.count >= K
    }

    fn may_retry(&self, candidate: &Candidate) -> bool {
        let attempts = match candidate.id {
            _ if self.answered == 0 => MAX_LONELY_ATTEMPTS,
            Some(_) => MAX_ATTEMPTS,
            // An address to start from has nothing to add once others have answered.
            None => 1,
        };
        candidate.state == State::Stalled && candidate.attempts < attempts
    }

    fn stall(&self, pace: &Pace) -> Duration {
        match self.rules.stall {
            Stall::After(time) => time,
            Stall::Measured => pace.stall(),
        }
    }

    fn ask(&mut self, now: Moment, at: usize, pace: &Pace) -> Step {
        let stall = self.stall(pace);
        let candidate = &mut self.candidates[at];
        if candidate.attempts == 0 {
            self.asked += 1;
        }
        candidate.state = State::Waiting;
        candidate.sent = now;
        candidate.stalls_at = now.after(patience(stall, candidate.attempts));
        candidate.attempts += 1;
        Step::Query { addr: candidate.addr(), id: candidate.id, aside: None }
    }

    /// When the next query that matters stalls, may be repeated, or has become less likely to be answered.
    fn wait_for_answers(&self, now: Moment, pace: &Pace, window: Window) -> Option<Moment> {
        let is_served = self.is_served(window);
        let stall = if is_served && window.new.is_none() {
            let required = self.candidates.iter().filter(|c| c.required && c.state == State::Waiting);
            required.map(|c| c.stalls_at).chain(window.stalls_at).min()
        } else {
            // Without a full set, or a free slot, every query under way matters, and silent nodes do too.
            let again = |c: &Candidate| !is_served && self.may_retry(c) && c.stalls_at > now;
            let matters = |c: &&Candidate| c.state == State::Waiting || again(c);
            self.candidates.iter().filter(matters).map(|c| c.stalls_at).min()
        }?;
        if matches!(self.rules.flight, Flight::Slots { .. }) {
            return Some(stall);
        }
        let waiting = self.candidates.iter().filter(|c| c.state == State::Waiting);
        let marks = waiting.filter_map(|c| {
            let mark = pace.next_mark(now.since(c.sent))?;
            Some(c.sent.after(mark))
        });
        Some(marks.min().map_or(stall, |mark| mark.min(stall)))
    }
}
/// How long the query after so many others may be silent.
fn patience(stall: Duration, attempts: u8) -> Duration {
    stall * (1 << attempts.min(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::Network;
    use crate::rng::Rng;

    const STALL: Duration = Duration::from_millis(100);

    /// Answers take a millisecond.
    fn pace() -> Pace {
        let mut pace = Pace::default();
        (0..10).for_each(|_| pace.add(Duration::from_millis(1)));
        pace
    }

    fn local() -> Config {
        Config { network: Network::Local, ..Config::default() }
    }

    fn contacts(count: usize, seed: u64) -> Vec<Contact> {
        let mut rng = Rng::from_u64(seed);
        let addr = |n: usize| SocketAddr::from(([127, 0, (n >> 8) as u8, n as u8], 1));
        (0..count).map(|n| Contact { id: Id160::random(&mut rng), addr: addr(n) }).collect()
    }

    /// Runs a lookup in a world where everyone alive knows everyone; returns it and the time it took.
    fn run(all: &[Contact], dead: impl Fn(usize) -> bool, target: Id160) -> (Lookup, Duration) {
        let (start, config) = (Instant::now(), local());
        let mut now = start;
        let mut lookup = Lookup::new(now, target, config.lookup);
        lookup.offer_address(now, all[0].addr);
        for _ in 0..10_000 {
            match lookup.next(now, &pace()) {
                Step::Query { addr, .. } => {
                    let at = all.iter().position(|c| c.addr == addr).unwrap();
                    if !dead(at) {
                        let mut near = all.to_vec();
                        near.sort_by_key(|c| c.id.distance(&target));
                        near.truncate(K);
                        lookup.on_reply(now, all[at], Some(b"token"), &near, &config);
                    }
                }
                Step::Wait(at) => {
                    assert!(at > now, "waiting for the past");
                    now = at;
                }
                Step::Done => return (lookup, now - start),
            }
        }
        panic!("does not end");
    }

    #[test]
    fn the_closest_living_nodes_are_found() {
        let all = contacts(100, 1);
        let target = Id160([0x55; 20]);
        let (lookup, took) = run(&all, |_| false, target);
        let mut near = all.clone();
        near.sort_by_key(|c| c.id.distance(&target));
        let found: Vec<_> = lookup.closest().map(|(c, _)| c).take(K).collect();
        assert_eq!(found, near[..K]);
        assert_eq!((took, lookup.hops()), (Duration::ZERO, 2));
        assert!(lookup.asked() <= 1 + K as u32);
    }

    #[test]
    fn tiny_networks_end_soon_even_with_a_dead_node() {
        for size in 1..=7 {
            let all = contacts(size, 2);
            let (lookup, took) = run(&all, |n| n == 1, Id160::ZERO);
            assert_eq!(lookup.closest().count(), if size == 1 { 1 } else { size - 1 });
            assert!(took <= STALL * 4, "{took:?}");
        }
    }

    #[test]
    fn with_no_answer_it_stays_open_for_as_long_as_patience_lasts() {
        let (lookup, took) = run(&contacts(1, 3), |_| true, Id160::ZERO);
        assert_eq!((took, lookup.answered(), lookup.asked()), (PATIENCE, 0, 1));
    }

    #[test]
    fn a_late_answer_counts() {
        let (now, config, all) = (Instant::now(), local(), contacts(2, 4));
        let mut lookup = Lookup::new(now, Id160::ZERO, config.lookup);
        lookup.offer(now, all[0], &config);
        assert!(matches!(lookup.next(now, &pace()), Step::Query { .. }));
        assert!(matches!(lookup.next(now, &pace()), Step::Wait(at) if at > now && at <= now + STALL));
        let late = now + STALL * 2;
        assert!(matches!(lookup.next(late, &pace()), Step::Query { .. }));
        lookup.on_reply(late, all[0], None, &all, &config);
        assert!(matches!(lookup.next(late, &pace()), Step::Query { addr, .. } if addr == all[1].addr));
        assert_eq!((lookup.stalls(), lookup.answered()), (1, 1));
    }

    /// A small network in which short runs come and go: half of what everyone knows is dead.
    #[test]
    fn the_living_of_a_small_network_are_found_behind_its_dead() {
        for seed in 0..50 {
            let all = contacts(24, seed);
            let (now, config, mut rng) = (Instant::now(), local(), Rng::from_u64(seed));
            let target = Id160::random(&mut rng);
            let mut lookup = Lookup::new(now, target, config.lookup);
            lookup.offer_address(now, all[0].addr);
            let mut now = now;
            let found = loop {
                match lookup.next(now, &pace()) {
                    Step::Query { addr, aside, .. } => {
                        let at = all.iter().position(|c| c.addr == addr).unwrap();
                        let mut near = all.clone();
                        near.sort_by_key(|c| c.id.distance(&aside.unwrap_or(target)));
                        if at < 12 {
                            lookup.on_reply(now, all[at], Some(b"token"), &near[..K], &config);
                        }
                    }
                    Step::Wait(at) => now = at,
                    Step::Done => break lookup.closest().count(),
                }
            };
            assert!(found >= K, "seed {seed}: {found} of 12");
        }
    }

    /// Runs a lookup in a network where each node knows some others, and answers take their time.
    fn wander(all: &[Contact], known: usize, dead: u64, seed: u64) -> (Lookup, Vec<Contact>) {
        let (start, config, mut rng) = (Instant::now(), local(), Rng::from_u64(seed));
        let target = Id160::random(&mut rng);
        let mut lookup = Lookup::new(start, target, config.lookup);
        lookup.expect_within(rng.chance(0.5).then(|| all[0].id.distance(&target)));
        lookup.offer(start, all[0], &config);
        lookup.offer_known(start, all[all.len() - 1], Duration::from_millis(3), &config);
        let (mut now, mut named, mut under_way) = (start, Vec::new(), Vec::new());
        for _ in 0..10_000 {
            match lookup.next(now, &pace()) {
                Step::Query { addr, aside, .. } => {
                    let at = all.iter().position(|c| c.addr == addr).unwrap();
                    let takes = Duration::from_millis(1 + rng.below(150) as u64);
                    if u64::from(all[at].id.0[7]) * 100 / 256 >= dead {
                        under_way.push((now + takes, at, aside));
                    }
                }
                Step::Wait(at) => {
                    assert!(at > now, "waiting for the past");
                    under_way.sort_by_key(|(at, ..)| *at);
                    if under_way.first().is_none_or(|(first, ..)| *first > at) {
                        now = at;
                        continue;
                    }
                    let (at, from, aside) = under_way.remove(0);
                    now = at;
                    let mut some: Vec<_> =
                        (0..known).map(|n| all[(from * 7 + n * n * 3) % all.len()]).collect();
                    some.sort_by_key(|c| c.id.distance(&aside.unwrap_or(target)));
                    some.truncate(K);
                    named.extend(some.iter().copied());
                    let token = aside.is_none().then_some(b"token".as_slice());
                    lookup.on_reply(now, all[from], token, &some, &config);
                }
                Step::Done => return (lookup, named),
            }
        }
        panic!("does not end");
    }

    /// Of the [`K`] closest, how many a search finds in which everyone is honest but the one who answers first,
    /// and who names this of the closest ones. Twenty honest nodes to start from.
    fn found_despite(names: impl Fn(usize, Contact) -> Contact) -> usize {
        let (start, config) = (Instant::now(), Config::default());
        let (mut now, mut rng) = (start, Rng::from_u64(8));
        let target = Id160([0x55; 20]);
        let addr = |n: usize| SocketAddr::from(([20, (n >> 8) as u8, n as u8, 1], 6881));
        let mut all: Vec<_> =
            (0..500).map(|n| Contact { id: Id160::random(&mut rng), addr: addr(n) }).collect();
        all.sort_by_key(|c| c.id.distance(&target));
        let lies: Vec<_> = (0..K).map(|n| names(n, all[n])).collect();
        let mut lookup = Lookup::new(now, target, config.lookup);
        let liar = all[300];
        for contact in std::iter::once(&liar).chain(&all[400..420]) {
            lookup.offer(now, *contact, &config);
        }
        let mut first = true;
        loop {
            match lookup.next(now, &pace()) {
                Step::Query { addr, .. } => {
                    if std::mem::take(&mut first) {
                        lookup.on_reply(now, liar, Some(b"token"), &lies, &config);
                    }
                    if let Some(one) = all.iter().find(|c| c.addr == addr && c.addr != liar.addr) {
                        lookup.on_reply(now, *one, Some(b"token"), &all[..K], &config);
                    }
                }
                Step::Wait(at) => now = at,
                Step::Done => break,
            }
        }
        let heard: Vec<_> = lookup.closest().map(|(c, _)| c).collect();
        all[..K].iter().filter(|c| heard.contains(c)).count()
    }

    /// Whoever names ids, addresses or hosts of others falsely must not keep the true holders out.
    #[test]
    fn nothing_is_reserved_by_naming_it() {
        let nobody = |n: usize| SocketAddr::from(([66, n as u8, 1, 1], 6881));
        assert_eq!(found_despite(|_, c| c), K);
        assert_eq!(found_despite(|n, c| Contact { addr: nobody(n), ..c }), K, "true ids elsewhere");
        let beside = |c: Contact| Id160(c.id.0.map(|b| b ^ 1));
        assert_eq!(found_despite(|_, c| Contact { id: beside(c), ..c }), K, "true addresses, false ids");
        let port = |c: Contact, port| SocketAddr::new(c.addr.ip(), port);
        assert_eq!(found_despite(|_, c| Contact { addr: port(c, 1), ..c }), K, "another port");
        let neighbour = |c: Contact| {
            let std::net::IpAddr::V4(ip) = c.addr.ip() else { unreachable!() };
            SocketAddr::from(([ip.octets()[0], ip.octets()[1], ip.octets()[2], 9], 1))
        };
        assert_eq!(found_despite(|_, c| Contact { addr: neighbour(c), ..c }), K, "another host of the /24");
    }

    /// Nodes that name only each other end a search among themselves, until somebody else is asked.
    #[test]
    fn a_search_among_plotters_goes_on_with_others() {
        let (mut now, config, all) = (Instant::now(), local(), contacts(200, 10));
        let target = Id160([0x55; 20]);
        let (honest, plot) = all.split_at(100);
        let nearest = |of: &[Contact]| {
            let mut near = of.to_vec();
            near.sort_by_key(|c| c.id.distance(&target));
            near.truncate(K);
            near
        };
        let mut lookup = Lookup::new(now, target, config.lookup);
        lookup.offer(now, plot[0], &config);
        let mut ends = 0;
        loop {
            match lookup.next(now, &pace()) {
                Step::Query { addr, .. } => {
                    let one = *all.iter().find(|c| c.addr == addr).unwrap();
                    let names = nearest(if honest.contains(&one) { &all } else { plot });
                    lookup.on_reply(now, one, Some(b"token"), &names, &config);
                }
                Step::Wait(at) => now = at,
                Step::Done => {
                    let heard: Vec<_> = lookup.closest().map(|(c, _)| c).take(K).collect();
                    ends += 1;
                    if !lookup.widen(now, honest[..3].iter().copied(), &config) {
                        assert_eq!(heard, nearest(&all));
                        break;
                    }
                    assert_eq!(heard, nearest(plot));
                }
            }
        }
        assert_eq!(ends, 2);
    }

    /// However many are named next to the target, those who are really there are heard, and in time.
    #[test]
    fn a_crowd_of_made_up_names_does_not_keep_a_search_from_ending() {
        let (start, config, all) = (Instant::now(), local(), contacts(100, 9));
        let (mut now, mut made_up) = (start, 0u32);
        let target = Id160([0x55; 20]);
        let mut lookup = Lookup::new(now, target, config.lookup);
        for contact in &all[..20] {
            lookup.offer(now, *contact, &config);
        }
        loop {
            match lookup.next(now, &pace()) {
                Step::Query { addr, .. } => {
                    let Some(at) = all.iter().position(|c| c.addr == addr) else { continue };
                    let mut near = all.to_vec();
                    near.sort_by_key(|c| c.id.distance(&target));
                    near.truncate(K);
                    if at % 2 == 0 {
                        near = (0..20)
                            .map(|_| {
                                made_up += 1;
                                let mut id = target;
                                id.0[16..].copy_from_slice(&made_up.to_be_bytes());
                                Contact { id, addr: (made_up.to_be_bytes(), 7).into() }
                            })
                            .collect();
                    }
                    lookup.on_reply(now, all[at], Some(b"token"), &near, &config);
                }
                Step::Wait(at) => now = at,
                Step::Done => break,
            }
        }
        assert!(now - start <= LOOKUP_TIMEOUT && lookup.candidates.len() <= MAX_CANDIDATES);
        let mut near = all.clone();
        near.sort_by_key(|c| c.id.distance(&target));
        let heard: Vec<_> = lookup.closest().map(|(c, _)| c).collect();
        let found = near[..K].iter().filter(|c| heard.contains(c)).count();
        assert!(found >= K - 1, "{found}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn at_the_end_whoever_was_named_nearer_has_been_asked(
            size in 2usize..150, known in 1usize..40, dead in 0u64..90, seed: u64
        ) {
            let all = contacts(size, seed);
            let (lookup, named) = wander(&all, known, dead, seed);
            let target = lookup.target;
            let reach = lookup.reach();
            let mut answered = 0;
            for candidate in &lookup.candidates {
                answered += u32::from(candidate.state == State::Answered);
                proptest::prop_assert!(candidate.state != State::Answered || candidate.token.is_some());
            }
            proptest::prop_assert_eq!(answered, lookup.answered());
            for contact in named.iter().filter(|c| reach.is_none_or(|r| c.id.distance(&target) < r)) {
                let at = lookup.position(contact.addr);
                let state = at.map(|at| lookup.candidates[at].state);
                let heard = matches!(state, Some(State::Answered | State::Stalled | State::Failed));
                proptest::prop_assert!(heard, "{:?} is {:?}", contact, state);
            }
        }

        #[test]
        fn any_share_of_dead_nodes_ends_and_finds_the_living(size in 1usize..60, seed: u64, dead in 0u64..90) {
            let all = contacts(size, seed);
            let is_dead = |n: usize| n > 0 && (all[n].id.0[7] as u64 * 100 / 256) < dead;
            let (lookup, took) = run(&all, is_dead, Id160([seed as u8; 20]));
            // Everyone names the same eight; those of them who live must have been heard.
            let mut near: Vec<usize> = (0..size).collect();
            near.sort_by_key(|&n| all[n].id.distance(&Id160([seed as u8; 20])));
            let heard: Vec<_> = lookup.closest().map(|(c, _)| c).collect();
            for &n in near.iter().take(K).filter(|&&n| !is_dead(n)) {
                proptest::prop_assert!(heard.contains(&all[n]));
            }
            proptest::prop_assert!(took <= STALL * 8);
        }
    }
}
