//! Our own address as others see it (BEP 42).
//!
//! Owns the votes of one address family and what follows from them. Must not know our id. One stranger's
//! word proves nothing: each /24 (IPv6: /64) has one voice, the latest one counts, and an address is
//! believed when [`MIN_VOTES`] agree on it and most of all voices do. Another one takes its place when three
//! quarters of all voices, and [`MIN_VOTES_TO_CHANGE`] at least, have come to say so.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::{
    ADDRESS_HOLDS, MAX_VOTES, MIN_VOTES, MIN_VOTES_TO_CHANGE, is_private, is_sendable, subnet,
};

/// Votes about one family's address.
#[derive(Debug, Default)]
pub struct External {
    /// Who has spoken, the oldest first. Apart from what he said, since everyone who answers is looked for here.
    voices: VecDeque<[u8; 8]>,
    /// What each of them said.
    said: VecDeque<IpAddr>,
    believed: Option<IpAddr>,
    changed: Option<Instant>,
}

impl External {
    /// The address that is believed to be ours.
    pub fn address(&self) -> Option<IpAddr> {
        self.believed
    }

    /// Votes that are remembered.
    pub fn votes(&self) -> usize {
        self.voices.len()
    }

    /// A node has told us our address; true if another one is believed now.
    pub fn on_vote(&mut self, now: Instant, voter: SocketAddr, said: SocketAddr) -> bool {
        let ip = said.ip();
        let strange =
            voter.is_ipv4() != said.is_ipv4() || is_private(ip) || !is_sendable(SocketAddr::new(ip, 1));
        if strange || is_private(voter.ip()) {
            return false;
        }
        let voice = subnet(voter.ip());
        let spoken = self.voices.iter().position(|v| *v == voice);
        if let Some(at) = spoken.or((self.voices.len() == MAX_VOTES).then_some(0)) {
            self.voices.remove(at);
            self.said.remove(at);
        }
        self.voices.push_back(voice);
        self.said.push_back(ip);
        if self.believed == Some(ip) {
            return false;
        }
        let agree = self.said.iter().filter(|said| **said == ip).count();
        let wins = match self.believed {
            None => agree >= MIN_VOTES && agree * 2 > self.said.len(),
            // Who is behind two addresses by turns keeps the one he has.
            Some(_) => {
                agree >= MIN_VOTES_TO_CHANGE && agree * 4 >= self.said.len() * 3 && self.may_change(now)
            }
        };
        if wins {
            (self.believed, self.changed) = (Some(ip), Some(now));
        }
        wins
    }

    fn may_change(&self, now: Instant) -> bool {
        self.changed.is_none_or(|at| now.saturating_duration_since(at) >= ADDRESS_HOLDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: u8) -> SocketAddr {
        ([n, n, n, 1], 6881).into()
    }

    fn said(n: u8) -> SocketAddr {
        ([80, 1, 1, n], 6881).into()
    }

    #[test]
    fn it_takes_many_strangers_to_be_believed() {
        let (mut external, now) = (External::default(), Instant::now());
        // One /24, however loud, is one voice.
        for host in 1..=50 {
            assert!(!external.on_vote(now, ([60, 1, 1, host], 6881).into(), said(9)));
        }
        assert_eq!(external.votes(), 1);
        let turns: Vec<bool> = (21..=25).map(|n| external.on_vote(now, from(n), said(1))).collect();
        assert_eq!(turns, [false, false, false, false, true]);
        assert_eq!(external.address(), Some(said(1).ip()));
        assert!(!external.on_vote(now, from(26), said(1)));
    }

    #[test]
    fn a_few_liars_change_nothing_and_a_new_address_is_followed() {
        let (mut external, now) = (External::default(), Instant::now());
        assert_eq!((20..40).filter(|n| external.on_vote(now, from(*n), said(1))).count(), 1);
        assert!((40..55).all(|n| !external.on_vote(now, from(n), said(2))));
        assert_eq!(external.address(), Some(said(1).ip()));
        assert!((20..40).all(|n| !external.on_vote(now, from(n), said(2))), "not so soon");
        let now = now + ADDRESS_HOLDS;
        assert!((20..40).any(|n| external.on_vote(now, from(n), said(2))));
        assert_eq!(external.address(), Some(said(2).ip()));
    }

    #[test]
    fn what_cannot_be_an_address_of_ours_is_no_vote() {
        let (mut external, now) = (External::default(), Instant::now());
        let words =
            ["10.0.0.1:1", "127.0.0.1:1", "0.0.0.0:1", "255.255.255.255:1", "224.0.0.1:1", "[2001:db8::1]:1"];
        for word in words {
            assert!((20..40).all(|n| !external.on_vote(now, from(n), word.parse().unwrap())));
        }
        assert!((1..40).all(|n| !external.on_vote(now, ([10, 0, n, 1], 1).into(), said(1))));
        assert_eq!((external.address(), external.votes()), (None, 0));
    }
}
