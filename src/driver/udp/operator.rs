//! What an operator asks of a running node: to be looked at, and to take other limits or entry points.
//!
//! Owns also the watch for a machine that has slept. Must not know who asks or how it is shown.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::task::{Command, Task};
use super::{Dht, resolve};
use crate::dht::{self, Limits};
use crate::driver::clock;
use crate::network::Keys;

/// A wish of the operator.
#[derive(Debug)]
pub(super) enum Operator {
    Report(oneshot::Sender<dht::Report>),
    Limits(Limits),
    Keys(Keys),
    Bootstrap { addrs: Vec<SocketAddr>, names: Vec<String>, bad: Vec<String> },
}

impl Dht {
    /// All there is to see of the node; nothing when it has stopped.
    pub async fn report(&self) -> Option<dht::Report> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Operator(Operator::Report(reply))).await.ok()?;
        answer.await.ok()
    }

    /// Puts other limits in force.
    pub async fn set_limits(&self, limits: Limits) {
        // A node that has stopped needs no limits.
        let _ = self.commands.send(Command::Operator(Operator::Limits(limits))).await;
    }

    /// Puts other keys of the same network in force.
    pub async fn set_keys(&self, keys: Keys) {
        // A node that has stopped seals nothing.
        let _ = self.commands.send(Command::Operator(Operator::Keys(keys))).await;
    }

    /// Starts from these from now on, and forgets other addresses that were given to start from.
    pub async fn set_bootstrap(&self, list: Vec<String>) {
        let resolve::Sorted { addrs, names, bad } = resolve::sort_out(list);
        // A node that has stopped starts from nowhere.
        let command = Operator::Bootstrap { addrs, names, bad };
        let _ = self.commands.send(Command::Operator(command)).await;
    }
}

impl Task {
    pub(super) fn on_operator(&mut self, now: Instant, wish: Operator) {
        match wish {
            // Whoever asked may have gone meanwhile.
            Operator::Report(reply) => drop(reply.send(self.node.report(now))),
            Operator::Limits(limits) => self.node.set_limits(limits),
            // An open network has no seal that could get a key.
            Operator::Keys(keys) => self.seal.iter_mut().for_each(|seal| seal.set_keys(keys.clone())),
            Operator::Bootstrap { addrs, names, bad } => {
                let mut list = resolve::Sorted { addrs, names, bad };
                list.keep_out(self.node.allow());
                let resolve::Sorted { addrs, names, bad } = list;
                self.resolvers.want(&names);
                self.status.send_modify(|status| (status.unresolved, status.bad_bootstrap) = (names, bad));
                self.node.retain_bootstrap(&addrs);
                self.node.add_bootstrap(now, addrs);
            }
        }
    }

    /// Those of a name's addresses that belong to the network; where none does, the operator is told.
    pub(super) fn inside(&self, name: &str, addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let allow = self.node.allow();
        let (inside, outside): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|a| allow.allows(a.ip()));
        if let (true, Some(addr)) = (inside.is_empty(), outside.first()) {
            let why = format!("{name}: {}", resolve::outside_of(allow, addr));
            self.status.send_modify(|status| status.bad_bootstrap.push(why));
        }
        inside
    }

    /// Tells the node when the machine has slept.
    pub(super) fn notice_sleep(&mut self, now: Instant) {
        if let Some(slept) = self.sleep.observe(now, clock::with_sleep()) {
            tracing::info!(seconds = slept.as_secs(), "the machine has slept; asking the table again");
            self.node.handle_sleep(now, slept);
        }
    }
}

/// Two clocks side by side, one of which stands still while the machine sleeps.
#[derive(Debug)]
pub(in crate::driver) struct SleepWatch {
    awake: Instant,
    all: Duration,
}

impl SleepWatch {
    pub(in crate::driver) fn new(awake: Instant, all: Duration) -> Self {
        Self { awake, all }
    }

    /// How long the machine has slept since the last look, where that is worth a word.
    pub(in crate::driver) fn observe(&mut self, awake: Instant, all: Duration) -> Option<Duration> {
        let ran = awake.saturating_duration_since(self.awake);
        let slept = all.saturating_sub(self.all).saturating_sub(ran);
        (self.awake, self.all) = (awake, all);
        (slept > dht::config::SLEPT).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_what_one_clock_counts_and_the_other_does_not() {
        let (start, s) = (clock::now(), Duration::from_secs);
        let mut watch = SleepWatch::new(start, s(1000));
        assert_eq!(watch.observe(start + s(500), s(1500)), None);
        assert_eq!(watch.observe(start + s(505), s(1505) + s(3600)), Some(s(3600)));
        assert_eq!(watch.observe(start + s(510), s(1510) + s(3600)), None);
        // A clock that is set back is no sleep, nor is a second here or there.
        assert_eq!(watch.observe(start + s(515), s(7)), None);
        assert_eq!(watch.observe(start + s(520), s(14)), None);
    }
}
