//! What an operator asks of a running node: to be looked at, and to take other limits or entry points.
//!
//! Owns also the watch for a machine that has slept. Must not know who asks or how it is shown.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::task::{Command, Task};
use super::{Dht, resolve};
use crate::dht::{self, Limits};
use crate::driver::clock;
use crate::driver::listen::machine_ips;
use crate::network::Keys;

/// How often this machine's addresses are looked at: one question to the system.
const ADDRESSES_EVERY: Duration = Duration::from_secs(5);

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

    /// Tells the node when this machine has another address than before.
    pub(super) fn notice_move(&mut self, now: Instant) {
        if self.addresses.is_due(now) && self.addresses.observe(machine_ips()) {
            tracing::info!("this machine has a new address; telling the closest nodes");
            self.node.handle_address_change(now, self.addresses.ips.clone());
        }
    }

    /// Tells the node when the machine has slept.
    pub(super) fn notice_sleep(&mut self, now: Instant) {
        if let Some(slept) = self.sleep.observe(now, clock::with_sleep()) {
            tracing::info!(seconds = slept.as_secs(), "the machine has slept; asking the table again");
            self.node.handle_sleep(now, slept);
        }
    }
}

/// This machine's addresses, looked at now and then.
#[derive(Debug)]
pub(super) struct AddressWatch {
    ips: Vec<IpAddr>,
    /// None: the sockets are bound to one address, whatever others there are.
    next: Option<Instant>,
}

impl AddressWatch {
    /// Of sockets bound to these addresses.
    pub(super) fn new(now: Instant, bound: &[IpAddr]) -> Self {
        let anywhere = bound.iter().any(IpAddr::is_unspecified);
        let ips = if anywhere { machine_ips() } else { Vec::new() };
        Self { ips, next: anywhere.then(|| now + ADDRESSES_EVERY) }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = Some(now + ADDRESSES_EVERY);
        }
        due
    }

    /// Whether there is one that was not there before: who has just lost one has nothing to tell yet.
    fn observe(&mut self, ips: Vec<IpAddr>) -> bool {
        let is_new = ips.iter().any(|ip| !self.ips.contains(ip));
        self.ips = ips;
        is_new
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

    #[test]
    fn only_an_address_that_was_not_there_before_is_told() {
        let (now, s) = (clock::now(), Duration::from_secs);
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        assert!(!AddressWatch::new(now, &[ip(1)]).is_due(now + s(60)));
        let mut watch = AddressWatch::new(now, &[[0, 0, 0, 0].into()]);
        assert!(!watch.is_due(now + s(4)) && watch.is_due(now + s(5)) && !watch.is_due(now + s(6)));
        watch.ips = vec![ip(1), ip(2)];
        assert!(!watch.observe(vec![ip(2)]) && !watch.observe(vec![]));
        assert!(watch.observe(vec![ip(3)]) && !watch.observe(vec![ip(3)]));
    }
}
