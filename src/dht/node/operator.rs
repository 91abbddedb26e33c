//! What an operator gives a node: addresses to start from, and limits. Both may change while it runs.
//!
//! Must not know where the values come from.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Node;
use crate::dht::config::{ITEM_SHARE, Limits, MAX_BOOTSTRAP, Network};
use crate::dht::event::BootstrapState;
use crate::wire::allow::AllowList;
use crate::wire::compact::{Contact, canonical};

impl Node {
    /// Adds addresses to start from, for example as names resolve; running searches take them up.
    pub fn add_bootstrap(&mut self, now: Instant, addrs: impl IntoIterator<Item = SocketAddr>) {
        self.add_starts(now, addrs, false);
    }

    /// Adds well-known routers to start from. They serve everyone's start, so they stay out of the table
    /// and are asked only while too few others are known.
    pub fn add_routers(&mut self, now: Instant, addrs: impl IntoIterator<Item = SocketAddr>) {
        self.add_starts(now, addrs, true);
    }

    fn add_starts(&mut self, now: Instant, addrs: impl IntoIterator<Item = SocketAddr>, router: bool) {
        self.forget_due();
        for addr in addrs.into_iter().map(canonical) {
            let known = self.bootstrap.iter().any(|b| b.addr == addr);
            // The user named it, so it may be private; it still must be sendable and of our family.
            if known || self.bootstrap.len() >= MAX_BOOTSTRAP || !self.config.accepts(addr, addr.ip()) {
                continue;
            }
            if self.config.network == Network::Local && !router {
                self.reach.name(now, addr);
            }
            self.bootstrap.push(BootstrapState { addr, router, asked: false, answered: false });
            self.seed_searches(now, addr);
        }
        self.join_now(now);
    }

    /// Adds nodes of an earlier run; they are asked before any other.
    pub fn add_saved(&mut self, now: Instant, contacts: impl IntoIterator<Item = Contact>) {
        self.forget_due();
        for contact in contacts {
            if self.config.accepts(contact.addr, contact.addr.ip()) && contact.id != self.id {
                self.remember_saved(contact);
                if self.config.network == Network::Local {
                    self.reach.recall(now, contact);
                }
            }
        }
        self.seed_searches_with_saved(now);
        self.join_now(now);
    }

    /// Tries an address at which a node may be, such as a peer's (BEP 5, "PORT").
    pub fn add_contact(&mut self, now: Instant, addr: SocketAddr) {
        let addr = canonical(addr);
        if self.config.accepts(addr, addr.ip()) {
            self.verify_soon(now, addr, None, Duration::ZERO);
            self.seed_searches(now, addr);
            self.join_now(now);
        }
    }

    /// Marks an address to start from as answering; true for a router, which stays out of the table.
    pub(super) fn note_bootstrap(&mut self, from: SocketAddr) -> bool {
        let Some(state) = self.bootstrap.iter_mut().find(|b| b.addr == from) else { return false };
        state.answered = true;
        state.router
    }

    /// Who belongs to the network.
    pub fn allow(&self) -> &AllowList {
        &self.config.allow
    }

    /// Puts other limits in force. A smaller store lets go of what is too much at once.
    pub fn set_limits(&mut self, limits: Limits) {
        self.config.limits = limits;
        self.limiter.set_limits(limits);
        let item_bytes = (limits.store_bytes as f64 * ITEM_SHARE) as usize;
        self.announced.set_cap(limits.store_bytes - item_bytes);
        self.items.set_cap(item_bytes);
    }

    /// Forgets the addresses to start from that are not among these; the others keep what is known of
    /// them. New ones come in with [`Node::add_bootstrap`].
    pub fn retain_bootstrap(&mut self, keep: &[SocketAddr]) {
        let is_kept = |at: SocketAddr| keep.iter().any(|addr| canonical(*addr) == at);
        self.bootstrap.retain(|b| is_kept(b.addr));
        self.forget_due();
        self.reach.retain_named(is_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::config::Config;
    use crate::id::Id160;

    #[test]
    fn a_smaller_store_and_a_shorter_list_take_effect_at_once() {
        let now = Instant::now();
        let mut node = Node::new(Config::default(), [1; 32], now);
        for n in 0..1000u32 {
            let hash = Id160([(n >> 8) as u8 ^ n as u8; 20]);
            node.announced.insert(now, hash, (n.to_be_bytes(), 7).into(), false);
        }
        let at = |n: u8| SocketAddr::from(([8, 8, 8, n], 6881));
        node.add_bootstrap(now, [at(1), at(2)]);
        let limits = Limits { store_bytes: 4096, queries_per_second: Some(0), ..Limits::default() };
        node.set_limits(limits);
        node.retain_bootstrap(&[at(2), at(3)]);
        assert!(node.announced.memory().0 <= 4096 && node.announced.hashes() > 1);
        assert_eq!(node.bootstrap().iter().map(|b| b.addr).collect::<Vec<_>>(), [at(2)]);
        assert!(!node.limiter.admits(now, [8, 8, 8, 8].into()));
    }
}
