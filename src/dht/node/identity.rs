//! Who we are to others: an id bound to our address, and whether we can be reached at all.
//!
//! Owns what follows from the votes on our address (BEP 42) and from nobody being able to ask us (BEP 43).
//! Votes are counted in [`crate::dht::external`].

use std::net::SocketAddr;
use std::time::Instant;

use super::{Node, family};
use crate::dht::config::{Network, is_private};
use crate::id::Id160;

impl Node {
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

    /// A query has come in: if we had not asked there before, we can be reached.
    pub(super) fn note_reached(&mut self, from: SocketAddr) {
        if !self.was_reached && !is_private(from.ip()) && !self.inflight.has_asked(from) {
            self.was_reached = self.tables[family(from)].entries().all(|e| e.contact.addr != from);
        }
    }
}
