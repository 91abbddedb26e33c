//! The pieces that a peer may ask for while it is choked, as BEP 6 computes them from its address: whoever comes
//! back from there is allowed the same few again, so that nobody gains by reconnecting.

use std::net::Ipv4Addr;

use sha1::{Digest as _, Sha1};

use crate::id::InfoHash;

/// Rounds of five draws. Ten pieces out of ten take about six; nobody can choose an address that needs many more.
const MAX_ROUNDS: usize = 1000;

/// The first `count` distinct pieces, or all where there are fewer.
pub fn allowed_fast(info_hash: InfoHash, ip: Ipv4Addr, pieces: u32, count: usize) -> Vec<u32> {
    let count = count.min(pieces as usize);
    let mut set = Vec::with_capacity(count);
    let [a, b, c, _] = ip.octets();
    let mut x = [&[a, b, c, 0], info_hash.as_bytes().as_slice()].concat();
    for _ in 0..MAX_ROUNDS {
        if set.len() >= count {
            break;
        }
        x = Sha1::digest(&x).to_vec();
        for word in x.chunks_exact(4) {
            let drawn = word.iter().fold(0, |n, &byte| n << 8 | u32::from(byte));
            // No piece, no set: `count` is 0 then.
            let index = drawn.checked_rem(pieces).unwrap_or(0);
            if set.len() < count && !set.contains(&index) {
                set.push(index);
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;

    #[test]
    fn the_beps_own_example_holds() {
        let (hash, ip) = (Id160([0xaa; 20]), Ipv4Addr::new(80, 4, 4, 200));
        let seven = [1059, 431, 808, 1217, 287, 376, 1188];
        assert_eq!(allowed_fast(hash, ip, 1313, 7), seven);
        assert_eq!(allowed_fast(hash, ip, 1313, 9), [&seven[..], &[353, 508]].concat());
        assert_eq!(allowed_fast(hash, Ipv4Addr::new(80, 4, 4, 7), 1313, 7), seven, "a /24 shares its set");
    }

    proptest::proptest! {
        #[test]
        fn it_ends_with_distinct_pieces_of_the_torrent(ip: u32, hash: [u8; 20], pieces in 0u32..40) {
            let mut set = allowed_fast(Id160(hash), ip.into(), pieces, 10);
            assert_eq!(set.len(), pieces.min(10) as usize);
            set.sort_unstable();
            set.dedup();
            assert_eq!(set.len(), pieces.min(10) as usize);
            assert!(set.iter().all(|&index| index < pieces));
        }
    }
}
