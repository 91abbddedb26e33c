//! How much a peer may say that brings us nothing.
//!
//! Payload that was asked for costs nothing; all else costs our time, and a peer that floods us with it keeps that time
//! from others. Each message has a price; what we owe a peer for its talk (its blocks, our own questions) pays it
//! back. Must not know what a message means.

use std::time::{Duration, Instant};

use crate::wire::extended::METADATA_BLOCK_LEN;
use crate::wire::peer::Message;

/// What may be said at once: every have before the metadata is known, or a full pipeline of requests dropped a dozen
/// times, and far from a second of our time.
const MOST: u64 = 2 << 20;
/// What is forgiven each second: four hundred messages, where honest peers say a few.
const FORGIVEN_A_SECOND: u64 = 32 << 10;
/// What any message costs: about its bytes, and as much again for the handling.
pub const MESSAGE: u64 = 80;
/// What a have costs: nine bytes, and a peer that hashes what it had sends thousands at once.
pub const HAVE: u64 = 16;
/// What a message costs that we do not know: it may have had 16 KiB.
const UNKNOWN: u64 = 1024;
/// A request and its cancel, for each block that we send.
pub const BLOCK_SENT: u64 = 2 * MESSAGE;
/// The answer to a metadata request of ours, with its dictionary.
pub const METADATA_ASKED: u64 = METADATA_BLOCK_LEN as u64 + 4 * MESSAGE;

/// What is left of it for one peer.
#[derive(Debug)]
pub struct Patience {
    left: u64,
    at: Instant,
}

impl Patience {
    /// A peer that has said nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { left: MOST, at: now }
    }

    /// It has said something that costs `price`; false where that is too much.
    pub fn spend(&mut self, now: Instant, price: u64) -> bool {
        let passed = now.saturating_duration_since(self.at);
        if passed >= Duration::from_millis(100) {
            self.at = now;
            let forgiven = passed.as_millis().min(u128::from(u32::MAX)) as u64 * FORGIVEN_A_SECOND / 1000;
            self.earn(forgiven);
        }
        let enough = self.left >= price;
        self.left = self.left.saturating_sub(price);
        enough
    }

    /// What it said, or will say, is of use.
    pub fn earn(&mut self, amount: u64) {
        self.left = (self.left + amount).min(MOST);
    }
}

/// What a message costs until it turns out to be of use.
pub fn price(message: &Message) -> u64 {
    match message {
        // Whether it was asked for decides.
        Message::Piece { .. } => 0,
        // Large by nature, and bounded in number.
        Message::Bitfield(bits) => MESSAGE + bits.len() as u64 / 8,
        Message::Extended { payload, .. } => MESSAGE + payload.len() as u64,
        Message::Unknown(_) => UNKNOWN,
        Message::Have(_) => HAVE,
        _ => MESSAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_too_much_and_talk_is_not() {
        let start = Instant::now();
        let mut flooded = Patience::new(start);
        let taken = (0..).take_while(|_| flooded.spend(start, MESSAGE)).count() as u64;
        assert_eq!(taken, MOST / MESSAGE);
        let mut talked = Patience::new(start);
        // A day of three hundred messages a second.
        for second in 0..86_400 {
            let now = start + Duration::from_secs(second);
            assert!(talked.spend(now, 300 * MESSAGE));
        }
    }

    #[test]
    fn what_is_of_use_costs_nothing_and_is_not_saved_up() {
        let now = Instant::now();
        let mut patience = Patience::new(now);
        for _ in 0..1_000_000 {
            assert!(patience.spend(now, MESSAGE));
            patience.earn(MESSAGE);
        }
        patience.earn(u64::from(u32::MAX));
        assert!(!patience.spend(now, MOST + 1));
    }
}
