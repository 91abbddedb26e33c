//! The search for a transfer's peers, again and again, and its announces.
//!
//! Owns the task that carries wishes to the DHT node and peers to the transfer. When to search is the rhythm's
//! decision; whom to ask is the node's.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::driver::transfer::{DhtTrouble, Finding, Stage, Status};
use crate::driver::{Dht, SearchEvent, clock};
use crate::id::InfoHash;
use crate::swarm::{Origin, Rhythm, Standing};
use crate::wire::entry::EntryPoint;

/// Searches the DHT for a transfer's peers, again and again, and announces it.
pub(super) struct Finder {
    pub(super) dht: Dht,
    pub(super) hash: InfoHash,
    /// The port to announce; none: search only.
    pub(super) announce: Option<u16>,
    /// The network is a private one.
    pub(super) is_private: bool,
    pub(super) candidates: mpsc::Sender<(Vec<SocketAddr>, Origin)>,
    pub(super) finding: watch::Sender<Finding>,
    pub(super) status: watch::Receiver<Status>,
}

impl Finder {
    pub(super) async fn run(self) {
        let mut rhythm = Rhythm::new(clock::now(), self.is_private);
        // As what we were announced last.
        let mut announced = None;
        loop {
            let renewals = self.dht.status().borrow().renewals;
            let seeding = self.is_seeding();
            let is_due = rhythm.announces(clock::now());
            let announce =
                self.announce.filter(|_| is_due || announced.is_some_and(|as_seed| as_seed != seeding));
            let found = self.search(announce, seeding).await;
            if self.candidates.is_closed() || self.status.borrow().private {
                return;
            }
            announced = announce.map(|_| seeding).or(announced);
            // Who shares is complete a moment after the first search has begun: others count seeds (BEP 33).
            if announced == Some(false) && self.is_seeding() {
                continue;
            }
            let pause = rhythm.pause(clock::now(), self.standing(found));
            debug!(?pause, found, "searching the DHT again later");
            if self.rest(pause, renewals).await {
                rhythm.on_change();
            }
            if self.status.borrow().private {
                return;
            }
        }
    }

    fn is_seeding(&self) -> bool {
        self.status.borrow().stage == Stage::Seeding
    }

    fn standing(&self, found: usize) -> Standing {
        let status = self.status.borrow();
        Standing {
            is_seeding: status.stage == Stage::Seeding,
            connected: status.peers_connected,
            interesting: status.peers_interesting,
            is_announced: self.announce.is_none() || self.finding.borrow().announced_to > 0,
            found,
        }
    }

    /// One search, which announces us at that port, as a seed or not; how many peers it found.
    async fn search(&self, announce: Option<u16>, seeding: bool) -> usize {
        let mut found = 0;
        let mut search = match announce {
            Some(port) => self.dht.get_peers_and_announce(self.hash, port, seeding),
            None => self.dht.get_peers(self.hash),
        };
        let mut status = self.dht.status();
        loop {
            tokio::select! {
                event = search.next() => match event {
                    Some(SearchEvent::Peers(peers)) => {
                        found += peers.len();
                        if self.candidates.send((peers, Origin::Dht)).await.is_err() {
                            return found;
                        }
                    }
                    Some(SearchEvent::Progress { asked, answered }) => {
                        self.finding.send_modify(|f| f.asked = (asked, answered));
                    }
                    Some(SearchEvent::Done(stats)) => {
                        debug!(?stats, "a search has ended");
                        self.finding.send_modify(|f| {
                            f.asked = (stats.asked, stats.answered);
                            if announce.is_some() {
                                f.announced_to = stats.announced_to;
                            }
                        });
                        return found;
                    }
                    Some(SearchEvent::Item(_) | SearchEvent::Scrape { .. }) => {}
                    None => return found,
                },
                Ok(()) = status.changed() => self.note_status(&mut status),
                // The search ends with its handle, and nothing is announced.
                () = self.private() => return found,
            }
        }
    }

    /// Until the metadata says that only who is named may be asked (BEP 27).
    async fn private(&self) {
        let mut status = self.status.clone();
        if status.wait_for(|s| s.private).await.is_err() {
            // The transfer has ended; whoever waits notices that elsewhere.
            std::future::pending::<()>().await;
        }
    }

    /// Waits, and ends the wait early when a lonely transfer's network has just come up, when the network has changed
    /// since it was so often renewed, or this machine has slept or moved; true for the latter.
    async fn rest(&self, pause: Duration, renewals: u64) -> bool {
        let mut status = self.dht.status();
        let was_empty = { self.finding.borrow().nodes == 0 };
        let deadline = clock::now() + pause;
        loop {
            if status.borrow().renewals != renewals {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => return false,
                () = self.candidates.closed() => return false,
                () = self.private() => return false,
                Ok(()) = status.changed() => {
                    self.note_status(&mut status);
                    if was_empty && self.finding.borrow().nodes > 0 {
                        return false;
                    }
                }
            }
        }
    }

    fn note_status(&self, status: &mut watch::Receiver<crate::driver::DhtStatus>) {
        let status = status.borrow_and_update().clone();
        let nodes = status.nodes_v4 + status.nodes_v6;
        let unanswering: Vec<String> = status.unanswering.iter().map(ToString::to_string).collect();
        let clock = status.clock_trouble();
        // To whoever has another key, a keyed network is as silent as one that is not there.
        let silent = match status.sealed {
            Some(_) => {
                "does not answer, or does not know this network's key (`dhtget network check` tells which)"
            }
            None => "does not answer",
        };
        let (services, names): (Vec<_>, Vec<_>) =
            status.unresolved.into_iter().partition(|n| EntryPoint::is_service(n));
        let parts = [
            ("does not resolve", names.join(", ")),
            ("has no SRV records that lead to a host", services.join(", ")),
            (silent, unanswering.join(", ")),
        ];
        let said = parts.into_iter().filter(|(_, who)| !who.is_empty());
        let said = said.map(|(what, who)| format!("{who} {what}"));
        let said: Vec<String> = said.chain(status.bad_bootstrap).chain(clock).collect();
        let trouble = (nodes == 0 && !said.is_empty()).then(|| DhtTrouble::Unreachable(said.join("; ")));
        self.finding.send_if_modified(|f| {
            let changed = f.nodes != nodes || f.trouble != trouble || f.external != status.external;
            (f.nodes, f.trouble, f.external) = (nodes, trouble, status.external);
            changed
        });
    }
}
