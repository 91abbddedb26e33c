//! What befalls hosts: sessions, absences, partitions, upgrades.
//!
//! Knows hosts by number, and nothing of messages. All of it happens between windows.

use std::time::Duration;

use super::{Fault, Thing, World, micros};

/// Sessions drawn to choose the one that is under way at the start: long ones are under way more often.
const DRAWS: usize = 32;
/// Microseconds of a day.
const DAY: f64 = 86_400e6;

impl World {
    pub(super) fn befall(&mut self, thing: Thing) {
        match thing {
            Thing::ComeUp(host) => {
                let h = self.host(host);
                if !h.is_up() && h.session == 0 && self.now < micros(self.options().arrival) {
                    self.come_up_first(host);
                } else if !h.is_up() {
                    self.come_up(host);
                    let session = self.draw_session();
                    self.end_after(host, session);
                }
            }
            Thing::GoDown { host, session } => {
                if self.host(host).session == session {
                    self.leave(host);
                }
            }
            Thing::Search => self.search_somewhere(),
            Thing::Fault(fault) => self.strike(fault),
        }
    }

    /// A host that is up when the world begins is somewhere within its session, most likely a long one.
    pub(super) fn come_up_first(&mut self, host: u32) {
        self.come_up(host);
        let sessions: Vec<_> = (0..DRAWS).map(|_| self.draw_session()).collect();
        let mut at = (self.rng.unit() * sessions.iter().sum::<u64>() as f64) as u64;
        let rest = sessions.iter().find_map(|s| match at.checked_sub(*s) {
            Some(left) => {
                at = left;
                None
            }
            None => Some(s - at),
        });
        self.end_after(host, rest.unwrap_or(0));
    }

    fn end_after(&mut self, host: u32, session_length: u64) {
        if self.options().churn.is_some() && host as usize >= self.options().routers {
            let session = self.host(host).session;
            self.at(self.now + session_length, Thing::GoDown { host, session });
        }
    }

    /// Microseconds, from the Weibull distribution.
    fn draw_session(&mut self) -> u64 {
        let Some(churn) = self.options().churn else { return 0 };
        let unit = 1.0 - self.rng.unit();
        let scale = micros(churn.median) as f64 / std::f64::consts::LN_2.powf(1.0 / churn.shape);
        (scale * (-unit.ln()).powf(1.0 / churn.shape)) as u64
    }

    /// The session is over: comes back some time, or a stranger does in its place.
    fn leave(&mut self, host: u32) {
        let Some(churn) = self.options().churn else { return };
        if self.rng.chance(churn.returns) {
            let now = self.clock(host);
            self.host_mut(host).save(now);
            self.go_down(host);
        } else {
            self.go_down(host);
            self.replace(host);
        }
        self.stay_away(host);
    }

    /// Schedules a host's return: exponential, faster at the busy hours.
    pub(super) fn stay_away(&mut self, host: u32) {
        let Some(churn) = self.options().churn else { return };
        // The mean of the Weibull distribution with this shape, as a multiple of its median.
        let mean = gamma(1.0 + 1.0 / churn.shape) / std::f64::consts::LN_2.powf(1.0 / churn.shape);
        let mean = micros(churn.median) as f64 * mean * churn.away;
        let busy = 1.0 + churn.swing * (std::f64::consts::TAU * self.now as f64 / DAY).sin();
        let away = -(1.0 - self.rng.unit()).ln() * mean / busy;
        self.at(self.now + away as u64, Thing::ComeUp(host));
    }

    fn strike(&mut self, fault: Fault) {
        let all = self.options().routers as u32..self.total;
        match fault {
            Fault::Partition { lasts, share, .. } => {
                let until = self.now + micros(lasts);
                let sides = (0..self.total).map(|host| all.contains(&host) && self.rng.chance(share));
                let sides = sides.collect();
                self.network_mut().part(until, sides);
            }
            Fault::ClockJump { share, ahead, .. } => {
                for host in all {
                    if self.rng.chance(share) {
                        let (shard, network) = self.around(host);
                        shard.host_mut(host).ahead += micros(ahead);
                        // What is due by the new clock is due now.
                        shard.drain(network, host);
                    }
                }
            }
            Fault::Upgrade { over, down, .. } => {
                for host in 0..self.total {
                    let at = self.now + self.rng.below(micros(over) as usize) as u64;
                    self.at(at, Thing::Fault(Fault::Restart { host, down }));
                }
            }
            Fault::Restart { host, down } => self.restart(host, down),
            Fault::Death { share, .. } => {
                for host in all {
                    if self.host(host).is_up() && self.rng.chance(share) {
                        self.go_down(host);
                    }
                }
            }
        }
    }

    fn restart(&mut self, host: u32, down: Duration) {
        if self.host(host).is_up() {
            let now = self.clock(host);
            self.host_mut(host).save(now);
            self.go_down(host);
            self.at(self.now + micros(down), Thing::ComeUp(host));
        }
    }
}

/// The gamma function for arguments from 1 to 4, by Stirling's series shifted by eight.
fn gamma(x: f64) -> f64 {
    let shifted = x + 8.0;
    let series = 1.0 / (12.0 * shifted) - 1.0 / (360.0 * shifted.powi(3));
    let log = (shifted - 0.5) * shifted.ln() - shifted + 0.5 * std::f64::consts::TAU.ln() + series;
    log.exp() / (0..8).map(|n| x + f64::from(n)).product::<f64>()
}

#[cfg(test)]
mod tests {
    #[test]
    fn gamma_is_a_factorial_between_the_integers() {
        for (x, want) in [(1.0, 1.0), (2.0, 1.0), (4.0, 6.0), (1.5, 0.886_226_925)] {
            assert!((super::gamma(x) - want).abs() < 1e-6, "{x}");
        }
    }
}
