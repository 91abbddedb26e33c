//! How likely answers are, and the questions aside and beyond.

use super::{Candidate, Lookup, State, Step};
use crate::dht::config::{ASIDE_PLAN, K, MAX_BEYOND, PRIOR, VERIFIED_LIFE};
use crate::dht::moment::Moment;
use crate::dht::pace::Pace;

impl Lookup {
    /// How likely it is that a candidate answers, or has.
    pub(super) fn life(&self, now: Moment, pace: &Pace, candidate: &Candidate) -> f64 {
        let (answered, silent) = (f64::from(self.named.0), f64::from(self.named.1));
        let prior = match candidate.cost {
            Some(_) => VERIFIED_LIFE,
            None => (answered + PRIOR) / (answered + silent + 2.0 * PRIOR),
        };
        match candidate.state {
            State::New => prior,
            State::Answered => 1.0,
            State::Failed | State::Stalled => 0.0,
            State::Waiting => {
                // Bayes: the dead are silent for sure, the living for as long as answers take.
                let due = prior * pace.still_due(now.since(candidate.sent));
                due / (due + 1.0 - prior)
            }
        }
    }

    /// Answers to be expected from queries in flight that serve as well as asking `new` would.
    pub(super) fn hopes(&self, now: Moment, pace: &Pace, new: usize, slack: u32) -> f64 {
        let bits = |c: &Candidate| c.distance(&self.target).map_or(0, |d| d.leading_zeros());
        let enough = bits(&self.candidates[new]);
        let waiting = self.candidates.iter().filter(|c| c.state == State::Waiting);
        let as_good = waiting.filter(|c| self.answered == 0 || bits(c) + slack >= enough);
        as_good.map(|c| self.life(now, pace, c)).sum()
    }

    /// Asks one who is near for the nodes beside the target.
    ///
    /// An answer holds eight nodes, dead ones among them, so all that are near name the same few on the
    /// target's side and leave out those who are next on the other. Asked for that side, one of them names it
    /// whole.
    pub(super) fn look_aside(&mut self, now: Moment, pace: &Pace) -> Option<Step> {
        let bits = self.radius?.leading_zeros();
        if self.asides >= self.rules.asides || bits >= 160 || self.answered == 0 {
            return None;
        }
        let target = self.target;
        let near = |c: &Candidate| c.distance(&target).is_some_and(|d| d.leading_zeros() >= bits);
        let stalls_at = now.after(self.stall(pace));
        let nth = self.asides;
        let fit =
            |c: &&mut Candidate| c.state == State::Answered && c.aside.is_none() && !c.was_aside && near(c);
        let candidate = self.candidates.iter_mut().find(fit)?;
        (candidate.aside, candidate.was_aside) = (Some(stalls_at), true);
        self.asides += 1;
        let mut beside = self.target;
        let bit = (bits as usize).saturating_sub(ASIDE_PLAN[nth % ASIDE_PLAN.len()]);
        beside.set_bit(bit, !beside.bit(bit));
        Some(Step::Query { addr: candidate.addr(), id: candidate.id, aside: Some(beside) })
    }

    /// The candidates not known to be dead or silent, closest first.
    fn hopeful(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        self.candidates.iter().enumerate().filter(|(_, c)| c.id.is_some() && c.is_hopeful())
    }

    /// Asks for nodes far from the target where fewer than [`K`] have answered and some are silent.
    ///
    /// In a small network everyone is among the closest to anything. But the dead fill places in each answer,
    /// and what lives behind them, on the other side of the key space, is never named unless it is asked for:
    /// the other half first, then the quarter beside the target, and so on.
    pub(super) fn look_beyond(&mut self, now: Moment, pace: &Pace) -> Option<Step> {
        let heard = |c: &Candidate| c.state == State::Answered;
        let is_open = self.rules.asides > 0 && self.beyonds < MAX_BEYOND && self.answered > 0;
        let someone_is_silent = || self.candidates.iter().any(|c| c.id.is_some() && !c.is_hopeful());
        let nobody_is_left = || self.hopeful().all(|(_, c)| heard(c));
        if !is_open || !someone_is_silent() || !nobody_is_left() || self.hopeful().count() >= K {
            return None;
        }
        let fit: Vec<_> = self.candidates.iter().filter(|c| heard(c) && c.aside.is_none()).collect();
        let addr = fit.get(self.beyonds % fit.len().max(1))?.addr();
        let at = self.position(addr)?;
        self.candidates[at].aside = Some(now.after(self.stall(pace)));
        let mut beyond = self.target;
        beyond.set_bit(self.beyonds, !beyond.bit(self.beyonds));
        self.beyonds += 1;
        Some(Step::Query { addr, id: self.candidates[at].id, aside: Some(beyond) })
    }
}
