//! What an operator may change in a running node: limits, and the addresses to start from.
//!
//! Must not know where the new values come from.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use crate::dht::config::Limits;
use crate::wire::compact::canonical;

impl Node {
    /// Puts other limits in force. A smaller store lets go of what is too much at once.
    pub fn set_limits(&mut self, limits: Limits) {
        self.config.limits = limits;
        self.limiter.set_limits(limits);
        self.announced.set_cap(limits.store_bytes);
    }

    /// Forgets the addresses to start from that are not among these; the others keep what is known of
    /// them. New ones come in with [`Node::add_bootstrap`].
    pub fn retain_bootstrap(&mut self, keep: &[SocketAddr]) {
        self.bootstrap.retain(|b| keep.iter().any(|addr| canonical(*addr) == b.addr));
    }

    /// Looks for the own neighbourhood again at once, for a changed list of addresses to start from.
    pub fn rejoin(&mut self, now: Instant) {
        self.join_now(now);
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
            node.announced.insert(now, hash, (n.to_be_bytes(), 7).into());
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
