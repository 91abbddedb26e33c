//! When the node wants to be called next.
//!
//! Owns the answer to that, once found, until something happens that it depends on: queries under way, searches,
//! upkeep, secrets. Most of what comes in is a stranger's query and changes none of them. Must not know what is then
//! to be done.

use std::time::Instant;

use super::Node;
use crate::dht::event::Reason;

impl Node {
    /// When to call [`Node::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if let Some(due) = self.due.get() {
            debug_assert_eq!(Some(due), self.find_due(), "what is due has changed unnoticed");
            return Some(due);
        }
        let due = self.find_due();
        self.due.set(due);
        due
    }

    /// What is due next may be something else now.
    pub(super) fn forget_due(&self) {
        self.due.set(None);
    }

    fn find_due(&self) -> Option<(Instant, Reason)> {
        let searches = self.searches.iter().filter_map(|s| s.wake()).min();
        [
            self.inflight.next_deadline().map(|at| (at, Reason::Query)),
            searches.map(|at| (at, Reason::Lookup)),
            Some((self.tokens.rotate_at(), Reason::Tokens)),
            self.join_at().map(|at| (at, Reason::Join)),
            self.upkeep_at().map(|at| (at, Reason::Upkeep)),
            self.reach_at().map(|at| (at, Reason::Reach)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}
