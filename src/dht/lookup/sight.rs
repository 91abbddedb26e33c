//! What a look over the candidates shows: who has become silent, and who must answer.

use super::{Candidate, Lookup, State, patience};
use crate::dht::moment::Moment;
use crate::dht::pace::Pace;
use crate::dht::quorum::Quorum;

/// What one look over all candidates shows.
pub(super) struct Sight {
    /// Queries under way.
    pub(super) waiting: usize,
    /// The first who must be asked, however far he is.
    pub(super) required: Option<usize>,
    /// When the next question aside stalls.
    pub(super) aside: Option<Moment>,
}

/// The candidates that must answer.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) count: usize,
    /// Those who were asked, and when the first of them stalls.
    pub(super) waiting: usize,
    pub(super) stalls_at: Option<Moment>,
    /// The closest who was not.
    pub(super) new: Option<usize>,
}

impl Lookup {
    /// Notes who has been silent for too long.
    pub(super) fn look_over(&mut self, now: Moment, pace: &Pace) -> Sight {
        let stall = self.stall(pace);
        let mut sight = Sight { waiting: 0, required: None, aside: None };
        for (at, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.state == State::Waiting {
                // What was asked before anything was measured is not waited for any longer than what is asked now.
                let patience = patience(stall, candidate.attempts.saturating_sub(1));
                candidate.stalls_at = candidate.stalls_at.min(candidate.sent.after(patience));
            }
            candidate.aside = candidate.aside.filter(|at| *at > now);
            if candidate.state == State::Waiting && candidate.stalls_at <= now {
                candidate.state = State::Stalled;
                self.stalls += 1;
                self.extra_slots += 1;
                self.named.1 += u32::from(candidate.hop > 1 && candidate.attempts == 1);
            }
            sight.waiting += usize::from(candidate.state == State::Waiting);
            if candidate.required && candidate.state == State::New && sight.required.is_none() {
                sight.required = Some(at);
            }
            sight.aside = sight.aside.into_iter().chain(candidate.aside).min();
        }
        sight
    }

    /// The closest candidates not known to be dead or silent, as many of either sort as must answer.
    pub(super) fn window(&self) -> Window {
        let mut window = Window { count: 0, waiting: 0, new: None, stalls_at: None };
        for (at, c) in self.chosen(self.rules.quorum, |c| c.is_hopeful().then_some(1.0)) {
            window.count += 1;
            match c.state {
                State::New if window.new.is_none() => window.new = Some(at),
                State::Waiting => {
                    window.waiting += 1;
                    window.stalls_at = window.stalls_at.into_iter().chain([c.stalls_at]).min();
                }
                _ => {}
            }
        }
        window
    }

    /// Of those who have a weight, the closest that must answer.
    pub(super) fn chosen(
        &self,
        count: usize,
        weight: impl Fn(&Candidate) -> Option<f64>,
    ) -> impl Iterator<Item = (usize, &Candidate)> {
        let known = self.candidates.iter().enumerate().filter(|(_, c)| c.id.is_some());
        let (mut quorum, matters) = (Quorum::new(count), self.is_spread());
        known.filter(move |(_, c)| {
            let region = if matters { c.region() } else { None };
            match weight(c) {
                Some(weight) => quorum.choose(c.is_bound, region, weight),
                None => {
                    quorum.pass(c.is_bound, region);
                    false
                }
            }
        })
    }

    /// Whether there are nodes in more than one region.
    fn is_spread(&self) -> bool {
        let mut regions = self.candidates.iter().filter(|c| c.id.is_some()).map(Candidate::region);
        let first = regions.next();
        regions.any(|region| Some(region) != first)
    }
}
