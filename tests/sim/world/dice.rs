//! A host's own luck: eight bytes, so that ten thousand of them do not crowd the nodes out of the caches.
//!
//! Each host draws from its own, so what befalls its datagrams does not depend on what other hosts do at the same time.

/// SplitMix64: fit for losses and delays, not for ids.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of that host.
    pub fn of(seed: u64, host: u32) -> Self {
        let start = Self(seed).roll() ^ u64::from(host);
        Self(Self(start).roll())
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform in `0..bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        ((self.roll() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair_enough() {
        let mut dice = Dice::of(1, 0);
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[dice.below(7) as usize] += 1);
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let hits = (0..10_000).filter(|_| dice.chance(0.01)).count();
        assert!((60..140).contains(&hits), "{hits}");
    }
}
