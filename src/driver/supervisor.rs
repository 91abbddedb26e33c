//! What systemd, or another supervisor that speaks its protocol, is told of a long-lived process: ready, alive, stopping.
//!
//! Owns the words of `sd_notify(3)` and how often they are said. Must not know what the process does. Without
//! a supervisor nothing is sent.

use std::time::{Duration, Instant};

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// What the process does is told this often: often enough for a person who looks with `systemctl status`.
const TELL_EACH: Duration = Duration::from_secs(10);

/// The side of the supervised.
pub struct Supervisor {
    /// It is ended as hung when it is not heard of for this long.
    patience: Option<Duration>,
    alive_at: Option<Instant>,
    told_at: Option<Instant>,
    /// A supervisor that cannot be reached is complained of once.
    silent: bool,
}

impl Supervisor {
    /// Whoever the environment names.
    pub fn from_environment() -> Self {
        let patience = watchdog_enabled().filter(|p| !p.is_zero());
        Self { patience, alive_at: None, told_at: None, silent: false }
    }

    /// The sockets are open: whatever waits for this service may start.
    pub fn ready(&mut self) {
        self.say(&[NotifyState::Ready]);
    }

    /// To be called by each turn of the loop that would hang; `doing` is asked only when it is told.
    pub fn alive(&mut self, now: Instant, doing: impl FnOnce() -> String) {
        // Twice as often as it must be, as sd_watchdog_enabled(3) recommends.
        if self.patience.is_some_and(|patience| due(self.alive_at, now, patience / 2)) {
            self.alive_at = Some(now);
            self.say(&[NotifyState::Watchdog]);
        }
        if due(self.told_at, now, TELL_EACH) {
            self.told_at = Some(now);
            self.say(&[NotifyState::Status(&doing())]);
        }
    }

    /// Ends in order: not a failure, and not to be hurried.
    pub fn stopping(&mut self) {
        self.say(&[NotifyState::Stopping]);
    }

    fn say(&mut self, words: &[NotifyState<'_>]) {
        if let Err(error) = notify(words)
            && !std::mem::replace(&mut self.silent, true)
        {
            tracing::warn!("the supervisor named by NOTIFY_SOCKET does not hear: {error}");
        }
    }
}

fn due(last: Option<Instant>, now: Instant, each: Duration) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_told_at_once_and_then_at_half_of_its_patience() {
        let mut supervisor = Supervisor {
            patience: Some(Duration::from_secs(4)),
            alive_at: None,
            told_at: None,
            silent: false,
        };
        let begun = Instant::now();
        let mut alive = Vec::new();
        let mut told = 0;
        for quarter in 0..=48 {
            let now = begun + quarter * Duration::from_millis(250);
            supervisor.alive(now, || {
                told += 1;
                String::new()
            });
            if supervisor.alive_at == Some(now) {
                alive.push(quarter / 4);
            }
        }
        assert_eq!(alive, [0, 2, 4, 6, 8, 10, 12]);
        assert_eq!(told, 2, "at once and after ten seconds");
    }
}
