//! What transfers do in a private network, as the client's `Finder` does it: search in the rhythm of a transfer,
//! announce with some of the searches, and begin anew when the network has changed.

use std::net::SocketAddr;
use std::time::Duration;

use dhtget::dht::LookupId;
use dhtget::id::InfoHash;
use dhtget::swarm::{Rhythm, Standing};

use super::{Lan, PEER_PORT};

/// How finely transfers look at their clocks.
const STEP: Duration = Duration::from_millis(10);

/// One transfer.
pub struct User {
    pub host: usize,
    pub hash: InfoHash,
    pub is_seeding: bool,
    rhythm: Rhythm,
    search: Option<LookupId>,
    found: Vec<SocketAddr>,
    next: Duration,
    renewals: u64,
    /// When it first heard of that peer.
    pub heard: Vec<(Duration, SocketAddr)>,
    pub searches: u64,
}

impl User {
    pub fn new(lan: &Lan, host: usize, hash: InfoHash, is_seeding: bool) -> Self {
        Self {
            host,
            hash,
            is_seeding,
            rhythm: Rhythm::new(lan.clock(), true),
            search: None,
            found: Vec::new(),
            next: lan.elapsed(),
            renewals: 0,
            heard: Vec::new(),
            searches: 0,
        }
    }

    /// When it heard of the transfer at that address.
    pub fn heard_of(&self, addr: SocketAddr) -> Option<Duration> {
        self.heard.iter().find(|(_, peer)| peer.ip() == addr.ip()).map(|(at, _)| *at)
    }

    fn step(&mut self, lan: &mut Lan) {
        if let Some(search) = self.search {
            self.look_at(lan, search);
        }
        let renewals = lan.hosts[self.host].node.as_ref().map(|node| node.renewals());
        let Some(renewals) = renewals else { return };
        let is_changed = self.search.is_none() && renewals != self.renewals;
        if is_changed {
            self.rhythm.on_change();
        }
        if self.search.is_none() && (is_changed || self.next <= lan.elapsed()) {
            self.renewals = renewals;
            self.searches += 1;
            let (now, hash) = (lan.clock(), self.hash);
            let search = match self.rhythm.announces(now) {
                true => lan.input(self.host, |node, now| node.announce(now, hash, PEER_PORT)),
                false => lan.input(self.host, |node, now| node.get_peers(now, hash)),
            };
            self.search = search.and_then(Result::ok);
        }
    }

    fn look_at(&mut self, lan: &mut Lan, search: LookupId) {
        let Some(found) = lan.hosts[self.host].found.get(&search) else { return };
        self.found.clone_from(&found.peers);
        for peer in &self.found {
            if self.heard.iter().all(|(_, known)| known != peer) {
                self.heard.push((lan.elapsed(), *peer));
            }
        }
        if found.done.is_some() {
            lan.hosts[self.host].found.remove(&search);
            self.search = None;
            let standing = Standing {
                is_seeding: self.is_seeding,
                is_announced: true,
                found: self.found.len(),
                ..Standing::default()
            };
            self.next = lan.elapsed() + self.rhythm.pause(lan.clock(), standing);
        }
    }
}

impl Lan {
    /// Lets time pass while these transfers go on.
    pub fn run_users(&mut self, users: &mut [User], time: Duration) {
        let end = self.elapsed() + time;
        while self.elapsed() < end {
            users.iter_mut().for_each(|user| user.step(self));
            self.run_for(STEP);
        }
    }
}
