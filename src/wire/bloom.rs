//! The Bloom filter in which a swarm's members are counted without being named (BEP 33).
//!
//! Owns the filter's layout and the estimate. Must not know whose addresses go in.

use std::net::IpAddr;

use sha1::{Digest as _, Sha1};

/// Bytes of a filter (BEP 33, "Bloom Filters").
pub const FILTER_BYTES: usize = 256;
/// Its bits, called m in the BEP.
const BITS: usize = FILTER_BYTES * 8;
/// Bits set for each address, called k in the BEP.
const PER_ADDRESS: f64 = 2.0;

/// A set of addresses, of which only the size can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bloom {
    bits: [u8; FILTER_BYTES],
}

impl Default for Bloom {
    fn default() -> Self {
        Self { bits: [0; FILTER_BYTES] }
    }
}

impl Bloom {
    /// Adds an address, without its port.
    pub fn insert(&mut self, ip: IpAddr) {
        let hash = match ip {
            IpAddr::V4(ip) => Sha1::digest(ip.octets()),
            IpAddr::V6(ip) => Sha1::digest(ip.octets()),
        };
        for pair in [[hash[0], hash[1]], [hash[2], hash[3]]] {
            let bit = usize::from(u16::from_le_bytes(pair)) % BITS;
            self.bits[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Adds everyone who is in another filter.
    pub fn merge(&mut self, other: &[u8; FILTER_BYTES]) {
        self.bits.iter_mut().zip(other).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// As it goes over the wire.
    pub fn as_bytes(&self) -> &[u8; FILTER_BYTES] {
        &self.bits
    }

    /// How many addresses were most likely added (BEP 33, "Estimating the size of the swarm"); at most
    /// about 7,800, where one bit only is left.
    pub fn estimate(&self) -> f64 {
        let (bits, zeros) = (BITS as f64, self.bits.iter().map(|b| b.count_zeros()).sum::<u32>());
        let zeros = f64::from(zeros.max(1)).min(bits);
        (zeros / bits).ln() / (PER_ADDRESS * (1.0 - 1.0 / bits).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXUPPER;

    /// BEP 33, "Test vectors".
    #[test]
    fn the_beps_own_example_holds() {
        let mut bloom = Bloom::default();
        assert_eq!(bloom.estimate(), 0.0);
        (0..=255).for_each(|n| bloom.insert([192, 0, 2, n].into()));
        (0..=0x3e7u16).for_each(|n| bloom.insert([0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into()));
        let expected = "F6C3F5EAA07FFD91BDE89F777F26FB2BFF37BDB8FB2BBAA2FD3DDDE7BACFFF75EE7CCBAE\
            FE5EEDB1FBFAFF67F6ABFF5E43DDBCA3FD9B9FFDF4FFD3E9DFF12D1BDF59DB53DBE9FA5B\
            7FF3B8FDFCDE1AFB8BEDD7BE2F3EE71EBBBFE93BCDEEFE148246C2BC5DBFF7E7EFDCF24F\
            D8DC7ADFFD8FFFDFDDFFF7A4BBEEDF5CB95CE81FC7FCFF1FF4FFFFDFE5F7FDCBB7FD79B3\
            FA1FC77BFE07FFF905B7B7FFC7FEFEFFE0B8370BB0CD3F5B7F2BD93FEB4386CFDD6F7FD5\
            BFAF2E9EBFFFFEECD67ADBF7C67F17EFD5D75EBA6FFEBA7FFF47A91EB1BFBB53E8ABFB57\
            62ABE8FF237279BFEFBFEEF5FFC5FEBFDFE5ADFFADFEE1FB737FFFFBFD9F6AEFFEEE76B6\
            FD8F72EF";
        assert_eq!(HEXUPPER.encode(bloom.as_bytes()), expected);
        assert!((bloom.estimate() - 1224.9308).abs() < 0.001, "{}", bloom.estimate());
    }

    #[test]
    fn a_union_counts_everyone_once_and_a_full_filter_is_finite() {
        let (mut a, mut b) = (Bloom::default(), Bloom::default());
        (0..100).for_each(|n| a.insert([10, 0, 0, n].into()));
        (50..150).for_each(|n| b.insert([10, 0, 0, n].into()));
        a.merge(b.as_bytes());
        assert!((a.estimate() - 150.0).abs() < 15.0, "{}", a.estimate());
        a.merge(&[0xff; FILTER_BYTES]);
        assert!((7000.0..9000.0).contains(&a.estimate()), "{}", a.estimate());
    }
}
