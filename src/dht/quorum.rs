//! Which of a search's candidates, closest first, are the ones that must answer.
//!
//! Owns the counting: apart for ids that are bound to their address (BEP 42) and for others, and so that no region
//! of the address space makes up more than half. Must not know who is asked, or when.
//!
//! Bound ids cannot be chosen at will, but an address permits eight, so whoever has a few hundred addresses comes
//! close to any target. Rarely are they spread over the internet: where more than half of those nearest a
//! target are in one region, as many more from elsewhere are wanted as would make it half. Where all nodes
//! are in one region, as in a small network, or in none that matters, as in a private one, nothing changes.

use std::net::IpAddr;

use super::config::K;

/// A part of the address space in which one owner may have many networks: a /8, or a /32 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(u32);

impl Region {
    /// Where an address is.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(u32::from(v4.octets()[0])),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 96) as u32),
        }
    }
}

/// Regions told apart: twice what a full quorum can be in, and as many dead ones beside it.
const REGIONS: usize = 32;

/// One sort of ids.
#[derive(Clone, Copy, Debug)]
struct Sort {
    /// The regions met so far; how many nodes of each were seen, and how many of them count.
    regions: [Region; REGIONS],
    seen_in: [u16; REGIONS],
    counted_in: [f64; REGIONS],
    met: usize,
    seen: usize,
    most: usize,
    counted: f64,
    /// Chosen without being counted, since their region has its half. At most [`K`].
    extra: usize,
}

impl Sort {
    const EMPTY: Self = Self {
        regions: [Region(0); REGIONS],
        seen_in: [0; REGIONS],
        counted_in: [0.0; REGIONS],
        met: 0,
        seen: 0,
        most: 0,
        counted: 0.0,
        extra: 0,
    };

    /// The number of a region, given if there is one left; those without are few, and not limited.
    fn number(&mut self, region: Region) -> Option<usize> {
        let known = self.regions[..self.met].iter().position(|r| *r == region);
        if known.is_none() && self.met < REGIONS {
            self.regions[self.met] = region;
            self.met += 1;
            return Some(self.met - 1);
        }
        known
    }

    /// One more was seen; the number of its region.
    fn see(&mut self, region: Option<Region>) -> Option<usize> {
        self.seen += 1;
        let number = region.and_then(|r| self.number(r));
        if let Some(at) = number {
            self.seen_in[at] = self.seen_in[at].saturating_add(1);
            self.most = self.most.max(usize::from(self.seen_in[at]));
        }
        number
    }
}

/// Goes through candidates in order of distance and tells which of them must answer.
#[derive(Clone, Debug)]
pub struct Quorum {
    count: usize,
    sorts: [Sort; 2],
}

impl Quorum {
    /// Nobody chosen yet of `count`.
    pub fn new(count: usize) -> Self {
        Self { count, sorts: [Sort::EMPTY; 2] }
    }

    /// Passes one by who is silent or has failed.
    pub fn pass(&mut self, is_bound: bool, region: Option<Region>) {
        self.sorts[usize::from(is_bound)].see(region);
    }

    /// Whether the next one must answer. The weight says how likely it is that he does: those who are still silent
    /// may turn out dead.
    pub fn choose(&mut self, is_bound: bool, region: Option<Region>, weight: f64) -> bool {
        let (count, sort) = (self.count as f64, &mut self.sorts[usize::from(is_bound)]);
        let number = sort.see(region);
        let wanted = count + (2 * sort.most).saturating_sub(sort.seen).min(K) as f64;
        if sort.counted > wanted - 0.5 {
            return false;
        }
        if let Some(at) = number {
            if sort.counted_in[at] > count / 2.0 - 0.5 {
                sort.extra += 1;
                return sort.extra <= K;
            }
            sort.counted_in[at] += weight;
        }
        sort.counted += weight;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of those chosen among living and silent ones of these regions.
    fn chosen(all: impl Iterator<Item = (Option<u8>, bool)>) -> Vec<usize> {
        let mut quorum = Quorum::new(K);
        let region = |n: u8| Region::of([n, 1, 2, 3].into());
        let choose = |(at, (n, lives)): (usize, (Option<u8>, bool))| {
            let n = n.map(region);
            if !lives {
                quorum.pass(true, n);
            }
            (lives && quorum.choose(true, n, 1.0)).then_some(at)
        };
        all.enumerate().filter_map(choose).collect()
    }

    #[test]
    fn the_closest_are_chosen_where_no_region_has_more_than_half() {
        assert_eq!(chosen((0..50u8).map(|n| (Some(n % 3), true))), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chosen((0..50u8).map(|_| (None, true))), [0, 1, 2, 3, 4, 5, 6, 7]);
        // The dead are passed by, wherever they are.
        assert_eq!(chosen((0..50u8).map(|n| (Some(n % 4), n % 4 > 1)))[..4], [2, 3, 6, 7]);
    }

    #[test]
    fn a_cloud_in_one_region_is_not_taken_for_the_neighbourhood() {
        // Whether it answers or not, the search goes on behind it.
        for lives in [true, false] {
            let cloud = (0..100u8).map(|_| (Some(9), lives));
            let places = chosen(cloud.chain((0..50).map(|n| (Some(20 + n), true))));
            let honest = places.iter().filter(|at| **at >= 100).count();
            assert!(honest >= K + K / 2 && places.len() <= honest + K + K / 2, "{places:?}");
        }
    }

    #[test]
    fn ids_of_either_sort_are_counted_apart() {
        let mut quorum = Quorum::new(2);
        let mut choose = |is_bound| quorum.choose(is_bound, None, 1.0);
        assert_eq!(
            [true, true, true, false, false, false].map(&mut choose),
            [true, true, false, true, true, false]
        );
    }

    #[test]
    fn a_provider_s_ipv6_networks_are_one_region() {
        let region = |text: &str| Region::of(text.parse().unwrap());
        assert_eq!(region("2001:db8:1::1"), region("2001:db8:2::2"));
        assert_ne!(region("2001:db8::1"), region("2001:db9::1"));
    }
}
