//! Who we are to others: an id bound to our address, and whether we can be reached at all.
//!
//! Owns what follows from the votes on our address (BEP 42) and from nobody being able to ask us (BEP 43).
//! Votes are counted in [`crate::dht::external`].

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{Node, family};
use crate::dht::config::{Network, is_private};
use crate::id::Id160;

impl Node {
    /// Our own address as others see it, IPv4 and IPv6.
    pub fn external(&self) -> [Option<IpAddr>; 2] {
        [0, 1].map(|at| self.external[at].address())
    }

    /// A node that answered has said where it saw our query come from.
    pub(super) fn on_vote(&mut self, now: Instant, voter: SocketAddr, said: Option<SocketAddr>) {
        let Some(said) = said else { return };
        if !self.external[family(voter)].on_vote(now, voter, said) {
            return;
        }
        tracing::info!("others see this node at another address than before: its id follows if it must");
        // One id serves both families: bound to the IPv4 address where there is one, as scarcer.
        let [v4, v6] = [0, 1].map(|at| self.external[at].address());
        if let Some(ip) = v4.or(v6)
            && self.config.network == Network::Public
            && !self.id.is_bound_to(ip)
        {
            let id = Id160::random_for(ip, &mut self.rng);
            self.change_id(now, id);
        }
    }

    /// Takes another id; everyone known is kept, in the bucket where he belongs now.
    fn change_id(&mut self, now: Instant, id: Id160) {
        self.id = id;
        for table in &mut self.tables {
            table.rebucket(now, id, &self.config);
        }
        self.rejoin_soon(now);
    }

    /// Whether we neither answer nor want to be known (BEP 43): by the user's will, or because a NAT keeps
    /// strangers from reaching a run that is over soon.
    pub(super) fn is_read_only(&self) -> bool {
        self.config.read_only || self.config.read_only_behind_nat && self.is_behind_nat()
    }

    /// Others see us at an address that is none of this machine's, and no stranger has ever got through.
    fn is_behind_nat(&self) -> bool {
        let mut seen = self.external.iter().filter_map(|e| e.address()).peekable();
        seen.peek().is_some() && !self.was_reached && seen.all(|ip| !self.config.local_ips.contains(&ip))
    }

    /// A query has come in and is within the limits, since to look through what is known takes time: if we had not
    /// asked there before, we can be reached.
    pub(super) fn note_reached(&mut self, from: SocketAddr) {
        // To all others it makes no difference.
        let matters = self.config.read_only_behind_nat && !self.config.read_only && !self.was_reached;
        if matters && !is_private(from.ip()) && !self.inflight.has_asked(from) {
            self.was_reached = self.tables[family(from)].entries().all(|e| !e.is_at(from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::{Config, Limits};

    /// A flood must not cost a look through the table for each datagram.
    #[test]
    fn only_what_is_within_the_limits_tells_that_we_can_be_reached() {
        let (now, stranger) = (Instant::now(), SocketAddr::from(([8, 8, 8, 8], 5)));
        for (queries_per_second, reached) in [(Some(0), false), (None, true)] {
            let limits = Limits { queries_per_second, ..Limits::default() };
            let config = Config { read_only_behind_nat: true, limits, ..Config::default() };
            let mut node = Node::new(config, [1; 32], now);
            let query = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
            node.handle_datagram(now, stranger, query);
            assert_eq!((node.was_reached, node.poll_transmit().is_some()), (reached, reached));
        }
    }
}
