//! Members of one's own network on the links one is on, as a machine: when to make oneself known, when to ask, and
//! whom to believe.
//!
//! Owns pace and bounds. Everybody speaks when he comes and now and then later, so that who listens learns of him at
//! once; whoever comes asks too. A crowd neither answers nor greets in chorus: who has heard a dozen others answer keeps
//! quiet, and who knows enough members takes up few of those who come. Of strangers nothing is kept. Must not know
//! sockets, nor what becomes of whom it finds. Drain [`Vicinity::poll_transmit`] and [`Vicinity::poll_found`] after each
//! input.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::wire::advert::{Advert, Heard, MAX_ADDRESSES, Question, concerns_us};
use crate::wire::badge::{LanIdentity, Nonce};
use crate::wire::reach::is_dialable;

/// Links used: more interfaces than nearly any machine has.
pub const MAX_LINKS: usize = 16;
/// Members remembered, so as not to greet them at each word; in an open network a stranger can invent them.
const MAX_MEMBERS: usize = 512;
/// Addresses waiting to be taken; a hint that is lost comes again.
const MAX_FOUND: usize = 256;
/// Messages read in a second: a thousand nodes that start at once fit, and a flood costs a few hundredths of a core.
const MAX_HEARD_A_SECOND: u32 = 1000;
/// Spread of the first word, so that machines that start together do not speak in one instant.
const FIRST_WITHIN: Duration = Duration::from_millis(20);
/// The first word is said again after this: a datagram may be lost (RFC 6762, 8.3).
const SECOND_AFTER: Duration = Duration::from_secs(1);
/// Then each of a few members speaks this often, so that two halves of a network find together within a minute...
const SPEAK_EVERY: Duration = Duration::from_secs(30);
/// ...and each of many so that all of them together speak about once in this time.
const ONE_SPEAKS_EVERY: Duration = Duration::from_secs(1);
/// Members through whom one can enter the DHT, whatever happens to some of them: no need to ask again.
const ENOUGH_KNOWN: usize = 4;
/// Waits between questions while fewer have been heard; then whoever comes speaks of himself.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Answers to a question for everybody wait that long, spread over as much again (RFC 6762, 6).
const ANSWER_AFTER: Duration = Duration::from_millis(20);
/// See [`ANSWER_AFTER`].
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// A record is not said again on a link before this (RFC 6762, 6).
const SPEAK_AT_MOST: Duration = Duration::from_secs(1);
/// Voices that make an answer superfluous: whoever asked can enter the DHT through a few of them.
const ENOUGH_VOICES: usize = 12;
/// Members that are taken up without a thought; of more, each newcomer by chance.
const FEW_MEMBERS: usize = 16;
/// A member that goes on speaking is named again after this: the DHT may have lost him meanwhile.
const NAME_AGAIN: Duration = Duration::from_secs(5 * 60);
/// A member that has missed three of his turns is forgotten, so that he counts as new when he is back.
const MISSED_TURNS: u32 = 3;

/// An interface, with our addresses on it that others may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Our addresses there; at most [`MAX_ADDRESSES`] are made known.
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct State {
    addresses: Vec<IpAddr>,
    /// How often we have made ourselves known by ourselves, and when it is next due.
    spoken: u32,
    speak_at: Instant,
    /// When all of it was said last, for whatever reason.
    last: Option<Instant>,
    /// How often we have asked, and when to ask again.
    asked: usize,
    ask_at: Option<Instant>,
    /// An answer that waits, whether the question was for everybody, and who has answered meanwhile.
    answer_at: Option<Instant>,
    everybody: bool,
    voices: BTreeSet<Nonce>,
}

#[derive(Debug)]
struct Member {
    heard: Instant,
    /// When it was last decided whether to name him.
    weighed: Option<Instant>,
}

/// The machine.
#[derive(Debug)]
pub struct Vicinity {
    identity: LanIdentity,
    port: u16,
    nonce: Nonce,
    rng: Rng,
    links: BTreeMap<u32, State>,
    members: BTreeMap<Nonce, Member>,
    found: VecDeque<SocketAddr>,
    outbox: VecDeque<(u32, Vec<u8>)>,
    /// Messages read since then.
    heard: (Option<Instant>, u32),
}

impl Vicinity {
    /// On no link yet; our DHT node listens at `port`.
    pub fn new(identity: LanIdentity, port: u16, seed: [u8; 32]) -> Self {
        let mut rng = Rng::from_seed(seed);
        let nonce = rng.bytes();
        Self {
            identity,
            port,
            nonce,
            rng,
            links: BTreeMap::new(),
            members: BTreeMap::new(),
            found: VecDeque::new(),
            outbox: VecDeque::new(),
            heard: (None, 0),
        }
    }

    /// The links there are now. On those that are new or have other addresses we make ourselves known at once.
    pub fn set_links(&mut self, now: Instant, links: &[Link]) {
        let usable = || links.iter().filter(|l| !l.addresses.is_empty()).take(MAX_LINKS);
        let stays = |index: u32, s: &State| usable().any(|l| l.index == index && short(l) == s.addresses);
        self.links.retain(|index, state| stays(*index, state));
        for link in usable() {
            if !self.links.contains_key(&link.index) {
                let state = self.arrived(now, short(link).to_vec());
                self.links.insert(link.index, state);
            }
        }
    }

    /// The machine has slept: who knows what has changed meanwhile.
    pub fn handle_sleep(&mut self, now: Instant) {
        self.members.clear();
        for index in self.links.keys().copied().collect::<Vec<_>>() {
            let addresses = self.links.get(&index).map(|s| s.addresses.clone()).unwrap_or_default();
            let state = self.arrived(now, addresses);
            self.links.insert(index, state);
        }
    }

    fn arrived(&mut self, now: Instant, addresses: Vec<IpAddr>) -> State {
        let at = now + within(&mut self.rng, FIRST_WITHIN);
        State {
            addresses,
            spoken: 0,
            speak_at: at,
            last: None,
            asked: 0,
            ask_at: Some(at),
            answer_at: None,
            everybody: false,
            voices: BTreeSet::new(),
        }
    }

    /// Somebody on that link has sent this to everybody.
    pub fn handle_datagram(&mut self, now: Instant, link: u32, bytes: &[u8]) {
        if !self.links.contains_key(&link) || !concerns_us(bytes) || !self.has_time(now) {
            return;
        }
        match Heard::parse(bytes) {
            Some(Heard::Advert(advert)) => self.on_advert(now, link, advert),
            Some(Heard::Question(question)) => self.on_question(now, link, &question),
            None => {}
        }
    }

    fn has_time(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.heard;
        if since.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        *count <= MAX_HEARD_A_SECOND
    }

    fn on_advert(&mut self, now: Instant, link: u32, advert: Advert) {
        let Advert { nonce, badge, port, addresses, goodbye } = advert;
        if nonce == self.nonce || !self.identity.recognises(&badge, &nonce, port, &addresses) {
            return;
        }
        if goodbye {
            self.members.remove(&nonce);
            return;
        }
        if let Some(state) = self.links.get_mut(&link).filter(|s| s.everybody && s.answer_at.is_some()) {
            state.voices.insert(nonce);
            if state.voices.len() >= ENOUGH_VOICES {
                (state.answer_at, state.voices) = (None, BTreeSet::new());
            }
        }
        let known = self.members.len();
        if known >= MAX_MEMBERS && !self.members.contains_key(&nonce) {
            // Room for whoever speaks: words of those who have left may be said again by a stranger.
            let oldest = self.members.iter().min_by_key(|(_, m)| m.heard).map(|(nonce, _)| *nonce);
            oldest.and_then(|nonce| self.members.remove(&nonce));
        }
        let member = self.members.entry(nonce).or_insert(Member { heard: now, weighed: None });
        member.heard = now;
        if member.weighed.is_none_or(|at| now.saturating_duration_since(at) >= NAME_AGAIN) {
            member.weighed = Some(now);
            if known < FEW_MEMBERS || self.rng.chance(FEW_MEMBERS as f64 / known as f64) {
                self.name(port, &addresses);
            }
        }
    }

    fn name(&mut self, port: u16, addresses: &[IpAddr]) {
        for ip in addresses {
            let addr = SocketAddr::new(*ip, port);
            let own = port == self.port && self.links.values().any(|s| s.addresses.contains(ip));
            // An address of one link means nothing without the link, and contacts have no room for it (BEP 32).
            let scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if is_dialable(addr) && !own && !scoped && self.found.len() < MAX_FOUND {
                self.found.push_back(addr);
            }
        }
    }

    fn on_question(&mut self, now: Instant, link: u32, question: &Question) {
        let for_us = question.names.contains(&self.nonce);
        let Some(state) = self.links.get_mut(&link) else { return };
        if question.known.contains(&self.nonce) || !question.everybody && !for_us {
            return;
        }
        let soonest = state.last.map_or(now, |last| now.max(last + SPEAK_AT_MOST));
        let wait = if for_us { Duration::ZERO } else { ANSWER_AFTER + within(&mut self.rng, ANSWER_WITHIN) };
        match state.answer_at {
            Some(_) => state.everybody &= !for_us,
            None => {
                (state.everybody, state.voices) = (!for_us, BTreeSet::new());
                state.answer_at = Some(soonest.max(now + wait));
            }
        }
    }

    /// Something was due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let turn = self.turn();
        self.members.retain(|_, m| now.saturating_duration_since(m.heard) < turn * MISSED_TURNS);
        for (index, state) in &mut self.links {
            if state.ask_at.is_some_and(|at| at <= now) {
                if state.asked == 0 || self.members.len() < ENOUGH_KNOWN {
                    // We hear ourselves, and need no answer of ours. Whom else we know is nobody's business.
                    self.outbox.push_back((*index, Question::emit(&[self.nonce])));
                }
                state.ask_at = ASK_AGAIN.get(state.asked).map(|wait| now + *wait);
                state.asked += 1;
            }
            let speaks = state.speak_at <= now;
            if speaks {
                state.spoken += 1;
                let again = if state.spoken == 1 {
                    SECOND_AFTER
                } else {
                    // Half as often to half as rarely again: nobody keeps step with others.
                    turn / 2 + within(&mut self.rng, turn)
                };
                state.speak_at = now + again;
            }
            let lately = state.last.is_some_and(|last| now.saturating_duration_since(last) < SPEAK_AT_MOST);
            if speaks && !lately || state.answer_at.is_some_and(|at| at <= now) {
                (state.answer_at, state.last) = (None, Some(now));
                state.voices.clear();
                let (identity, nonce, port) = (&self.identity, self.nonce, self.port);
                let said = advert(identity, nonce, port, &state.addresses, false);
                self.outbox.push_back((*index, said));
            }
        }
    }

    /// Takes leave on all links.
    pub fn leave(&mut self) {
        for (index, state) in std::mem::take(&mut self.links) {
            let said = advert(&self.identity, self.nonce, self.port, &state.addresses, true);
            self.outbox.push_back((index, said));
        }
    }

    /// How long each member waits between words.
    fn turn(&self) -> Duration {
        SPEAK_EVERY.max(ONE_SPEAKS_EVERY * self.members.len() as u32)
    }

    /// What to send to everybody on a link.
    pub fn poll_transmit(&mut self) -> Option<(u32, Vec<u8>)> {
        self.outbox.pop_front()
    }

    /// An address of a member.
    pub fn poll_found(&mut self) -> Option<SocketAddr> {
        self.found.pop_front()
    }

    /// When something is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |s: &State| [Some(s.speak_at), s.ask_at, s.answer_at].into_iter().flatten().min();
        self.links.values().filter_map(due).min()
    }
}

fn advert(identity: &LanIdentity, nonce: Nonce, port: u16, addresses: &[IpAddr], goodbye: bool) -> Vec<u8> {
    let badge = identity.badge(&nonce, port, addresses);
    Advert { nonce, badge, port, addresses: addresses.to_vec(), goodbye }.emit()
}

fn short(link: &Link) -> &[IpAddr] {
    &link.addresses[..link.addresses.len().min(MAX_ADDRESSES)]
}

fn within(rng: &mut Rng, spread: Duration) -> Duration {
    spread.mul_f64(rng.unit())
}

#[cfg(test)]
mod tests;
