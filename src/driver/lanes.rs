//! SHA-1 of several inputs at once, on one core.
//!
//! Owns the arithmetic of up to four hashes side by side, and which inputs go together. Knows neither pieces nor files.
//!
//! Each step of SHA-1 needs the one before it: a core with SHA instructions waits for its own results two thirds of the
//! time. Steps of other hashes fill these gaps: two lanes take 0.58 of the time of one after the other, four take 0.42
//! (an EPYC with SHA-NI; docs/PERFORMANCE.md). Without such instructions the inputs are hashed in turn, by `sha1`, as are what
//! remains below a block and the padding (FIPS 180-4, 5.1.1 and 6.1).
#![allow(unsafe_code, reason = "a function for SHA instructions is called where the processor has them")]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use sha1::block_api::compress;

/// Bytes of a block of SHA-1.
const BLOCK: usize = 64;
/// Lanes that fit the registers; with more than that, none gains.
pub const LANES: usize = 4;
/// What a hash begins with.
const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// A hash under way.
#[derive(Debug, Clone)]
pub struct Hasher {
    state: [u32; 5],
    length: u64,
    /// What is less than a block, and how much of it is filled.
    rest: [u8; BLOCK],
    filled: usize,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { state: START, length: 0, rest: [0; BLOCK], filled: 0 }
    }
}

impl Hasher {
    /// Takes what follows.
    pub fn update(&mut self, data: &[u8]) {
        let (blocks, end) = self.begin(data).as_chunks::<BLOCK>();
        compress(&mut self.state, blocks);
        self.keep(end);
    }

    /// The SHA-1 of everything that was taken.
    pub fn finish(mut self) -> [u8; 20] {
        let bits = self.length.wrapping_mul(8).to_be_bytes();
        // One bit, and zeros until only the length is missing from a block.
        let zeros = (BLOCK * 2 - 1 - 8 - self.filled) % BLOCK;
        let mut padding = [0; BLOCK * 2];
        padding[0] = 0x80;
        padding[1 + zeros..][..8].copy_from_slice(&bits);
        self.update(&padding[..1 + zeros + 8]);
        let mut out = [0; 20];
        for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        out
    }

    /// Completes a block that had been begun; what is left begins a block, or is nothing.
    fn begin<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        self.length += data.len() as u64;
        if self.filled == 0 {
            return data;
        }
        let (now, later) = data.split_at(data.len().min(BLOCK - self.filled));
        self.rest[self.filled..][..now.len()].copy_from_slice(now);
        self.filled += now.len();
        if self.filled == BLOCK {
            compress(&mut self.state, &[self.rest]);
            self.filled = 0;
        }
        later
    }

    /// Puts aside less than a block, where nothing was put aside before.
    fn keep(&mut self, end: &[u8]) {
        if !end.is_empty() {
            self.rest[..end.len()].copy_from_slice(end);
            self.filled = end.len();
        }
    }
}

/// One hash, and what it is to take next.
#[derive(Debug)]
pub struct Lane<'a> {
    number: usize,
    hasher: &'a mut Hasher,
    /// What follows `now`.
    parts: VecDeque<&'a [u8]>,
    /// Whole blocks.
    now: &'a [[u8; BLOCK]],
}

impl<'a> Lane<'a> {
    /// A hash that takes these in turn.
    pub fn new(hasher: &'a mut Hasher, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { number: 0, hasher, parts: parts.into_iter().collect(), now: &[] }
    }

    fn left(&self) -> usize {
        self.now.len() * BLOCK + self.parts.iter().map(|p| p.len()).sum::<usize>()
    }

    /// Whether there is a block to hash; what is less has been put aside.
    fn is_ready(&mut self) -> bool {
        while self.now.is_empty() {
            let Some(part) = self.parts.pop_front() else { return false };
            let (blocks, end) = self.hasher.begin(part).as_chunks();
            self.now = blocks;
            // The next part, if any, completes it: nothing of this one is hashed after its end.
            if !end.is_empty() {
                compress(&mut self.hasher.state, blocks);
                self.now = &[];
                self.hasher.keep(end);
            }
        }
        true
    }
}

/// Hashes all of it, up to [`LANES`] at a time, the longest first so that few are left alone at the end.
pub fn hash(lanes: Vec<Lane<'_>>) {
    hash_in_company(lanes, 0);
}

/// The same, but where fewer than [`LANES`] are there and have at most `hold` bytes together, these are left as they are: others
/// may come. Returns how many bytes each has left.
pub fn hash_in_company(mut waiting: Vec<Lane<'_>>, hold: usize) -> Vec<usize> {
    let mut left = vec![0; waiting.len()];
    waiting.iter_mut().enumerate().for_each(|(number, lane)| lane.number = number);
    waiting.sort_by_cached_key(Lane::left);
    let mut live: Vec<Lane<'_>> = Vec::with_capacity(LANES);
    loop {
        live.retain_mut(Lane::is_ready);
        while live.len() < LANES {
            let Some(mut next) = waiting.pop() else { break };
            if next.is_ready() {
                live.push(next);
            }
        }
        if live.len() < LANES && live.iter().map(Lane::left).sum::<usize>() <= hold {
            for lane in live {
                left[lane.number] = lane.left();
                // What of it has begun a part counts when it is taken again.
                lane.hasher.length -= (lane.now.len() * BLOCK) as u64;
            }
            return left;
        }
        match &mut live[..] {
            [a, b, c, d] => step([a, b, c, d]),
            [a, b, c] => step([a, b, c]),
            [a, b] => step([a, b]),
            // Not more than [`LANES`] are pushed; a single one needs no other's time.
            others => others.iter_mut().for_each(|lane| {
                compress(&mut lane.hasher.state, std::mem::take(&mut lane.now));
            }),
        }
    }
}

/// Numbers from zero on, handed out to threads in runs that are hashed together.
#[derive(Debug)]
pub struct Groups {
    next: AtomicU32,
    count: u32,
    threads: u32,
}

impl Groups {
    /// The numbers below `count`, for so many threads.
    pub fn new(count: u32, threads: usize) -> Self {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        Self { next: AtomicU32::new(0), count, threads }
    }

    /// The next few, at most [`LANES`], so that other threads get as many; empty when all are given out.
    pub fn take(&self) -> Range<u32> {
        let size =
            |next: u32| ((self.count - next) / self.threads).clamp(1, LANES as u32).min(self.count - next);
        let taken =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some(next + size(next)));
        let next = taken.unwrap_or(self.count);
        next..next + size(next)
    }
}

/// Hashes as much as each of them has.
fn step<const N: usize>(mut lanes: [&mut Lane<'_>; N]) {
    let count = lanes.iter().map(|lane| lane.now.len()).min().unwrap_or_default();
    let blocks = lanes.each_mut().map(|lane| {
        let (now, later) = lane.now.split_at(count);
        lane.now = later;
        now
    });
    let mut states = lanes.each_ref().map(|lane| lane.hasher.state);
    compress_all(&mut states, blocks);
    for (lane, state) in lanes.into_iter().zip(states) {
        lane.hasher.state = state;
    }
}

/// Takes as many blocks into each state.
fn compress_all<const N: usize>(states: &mut [[u32; 5]; N], blocks: [&[[u8; BLOCK]]; N]) {
    #[cfg(target_arch = "x86_64")]
    if x86::can() {
        // SAFETY: the function takes no pointers and has no requirement but these instructions, which the processor
        // has just said that it has.
        unsafe { x86::compress(states, blocks) };
        return;
    }
    for (state, blocks) in states.iter_mut().zip(blocks) {
        compress(state, blocks);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha1msg1_epu32,
        _mm_sha1msg2_epu32, _mm_sha1nexte_epu32, _mm_sha1rnds4_epu32, _mm_xor_si128,
    };

    use super::BLOCK;

    /// Whether this processor has what [`compress`] is made of; asked once, then remembered by the standard library.
    pub fn can() -> bool {
        is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1")
    }

    /// Four words of a block, the first in the highest place.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn words(block: &[u8; BLOCK], four: usize) -> __m128i {
        let (halves, _) = block.as_chunks::<8>();
        let half = |at: usize| i64::from_be_bytes(halves[at]);
        // The halves are read big-endian, and so are the words in them.
        _mm_set_epi64x(half(2 * four), half(2 * four + 1))
    }

    /// The compression function (FIPS 180-4, 6.1.2) of `N` hashes; every list of blocks is as long as the first.
    ///
    /// Four rounds are one `sha1rnds4`. The words of the schedule stand in a ring of four registers: those that were
    /// used make room for the ones sixteen further.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub fn compress<const N: usize>(states: &mut [[u32; 5]; N], blocks: [&[[u8; BLOCK]]; N]) {
        let mut abcd = states.map(|s| {
            let [a, b, c, d, _] = s.map(u32::cast_signed);
            _mm_set_epi32(a, b, c, d)
        });
        let mut e = states.map(|s| _mm_set_epi32(s[4].cast_signed(), 0, 0, 0));
        let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or_default();
        for at in 0..count {
            let (abcd_before, e_before) = (abcd, e);
            let mut ring = blocks.map(|blocks| {
                let block = &blocks[at];
                [words(block, 0), words(block, 1), words(block, 2), words(block, 3)]
            });
            macro_rules! rounds {
                ($function:literal: $($four:literal)*) => {$(
                    for lane in 0..N {
                        let ring = &mut ring[lane];
                        let word = ring[$four % 4];
                        let sum = match $four {
                            0 => _mm_add_epi32(e[lane], word),
                            _ => _mm_sha1nexte_epu32(e[lane], word),
                        };
                        e[lane] = abcd[lane];
                        abcd[lane] = _mm_sha1rnds4_epu32::<$function>(abcd[lane], sum);
                        if $four < 16 {
                            let mixed = _mm_sha1msg1_epu32(word, ring[($four + 1) % 4]);
                            let mixed = _mm_xor_si128(mixed, ring[($four + 2) % 4]);
                            ring[$four % 4] = _mm_sha1msg2_epu32(mixed, ring[($four + 3) % 4]);
                        }
                    }
                )*};
            }
            rounds!(0: 0 1 2 3 4);
            rounds!(1: 5 6 7 8 9);
            rounds!(2: 10 11 12 13 14);
            rounds!(3: 15 16 17 18 19);
            for lane in 0..N {
                e[lane] = _mm_sha1nexte_epu32(e[lane], e_before[lane]);
                abcd[lane] = _mm_add_epi32(abcd[lane], abcd_before[lane]);
            }
        }
        for (state, (abcd, e)) in states.iter_mut().zip(abcd.into_iter().zip(e)) {
            let words = [
                _mm_extract_epi32::<3>(abcd),
                _mm_extract_epi32::<2>(abcd),
                _mm_extract_epi32::<1>(abcd),
                _mm_extract_epi32::<0>(abcd),
                _mm_extract_epi32::<3>(e),
            ];
            *state = words.map(i32::cast_unsigned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::{Digest as _, Sha1};

    fn bytes(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|at| ((at + seed).wrapping_mul(0x9e37_79b9) >> 11) as u8).collect()
    }

    fn sha1(data: &[u8]) -> [u8; 20] {
        Sha1::digest(data).into()
    }

    #[test]
    fn every_length_in_two_parts_has_its_sha1() {
        let data = bytes(300, 1);
        for length in 0..=data.len() {
            for cut in [0, 1, 63, 64, 65, 130].map(|cut: usize| cut.min(length)) {
                let mut hasher = Hasher::default();
                hasher.update(&data[..cut]);
                hasher.update(&data[cut..length]);
                assert_eq!(hasher.finish(), sha1(&data[..length]), "{length} bytes, cut at {cut}");
            }
        }
    }

    #[test]
    fn the_words_of_fips_180() {
        let mut hasher = Hasher::default();
        hasher.update(b"abc");
        let hex: String = hasher.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    /// Any number of lanes, of any lengths, in parts of any length, again and again.
    #[test]
    fn lanes_do_not_disturb_each_other() {
        for count in 0..=9 {
            for (unit, parts) in [(64, 7), (16_384, 3), (100, 5), (1, 200), (63, 9)] {
                let mut hashers = vec![Hasher::default(); count];
                let mut all = vec![Vec::new(); count];
                for turn in 0..3 {
                    let data: Vec<Vec<Vec<u8>>> = (0..count)
                        .map(|n| {
                            (0..(parts + n * turn) % 11).map(|p| bytes(unit * (1 + p % 3), n + p)).collect()
                        })
                        .collect();
                    let lanes = hashers.iter_mut().zip(&data);
                    hash(lanes.map(|(h, parts)| Lane::new(h, parts.iter().map(|p| &p[..]))).collect());
                    all.iter_mut().zip(&data).for_each(|(all, parts)| all.extend(parts.concat()));
                }
                let found: Vec<_> = hashers.into_iter().map(Hasher::finish).collect();
                let right: Vec<_> = all.iter().map(|data| sha1(data)).collect();
                assert_eq!(found, right, "{count} lanes of {unit}");
            }
        }
    }

    /// Whatever is left when too few are there is what was not hashed.
    #[test]
    fn a_few_wait_for_company() {
        for (lengths, hold, expected) in [
            (vec![640, 6400], 10_000, vec![640, 6400]),
            (vec![640, 6400], 5800, vec![0, 5760]),
            (vec![640, 6400], 100, vec![0, 0]),
            (vec![128, 1024, 2048], 3199, vec![0, 896, 1920]),
            (vec![128, 1024, 2048], 2000, vec![0, 0, 1024]),
            (vec![64, 128, 192, 256, 320], 1000, vec![0, 0, 0, 64, 128]),
            (vec![0, 64], 64, vec![0, 64]),
            // What is no whole number of blocks waits for nobody.
            (vec![0, 77], 77, vec![0, 0]),
        ] {
            let data: Vec<_> = lengths.iter().map(|&length| bytes(length, length)).collect();
            let mut hashers = vec![Hasher::default(); data.len()];
            let lanes = hashers.iter_mut().zip(&data).map(|(h, d)| Lane::new(h, d.chunks(1024)));
            let left = hash_in_company(lanes.collect(), hold);
            assert_eq!(left, expected, "{lengths:?} with {hold}");
            for ((mut hasher, data), left) in hashers.into_iter().zip(&data).zip(left) {
                hasher.update(&data[data.len() - left..]);
                assert_eq!(hasher.finish(), sha1(data));
            }
        }
    }

    #[test]
    fn every_number_is_given_out_once_and_evenly() {
        let taken = |count, threads| {
            let groups = Groups::new(count, threads);
            std::iter::from_fn(|| Some(groups.take()).filter(|g| !g.is_empty())).collect::<Vec<_>>()
        };
        for (count, threads) in [(0, 2), (1, 2), (7, 1), (8, 2), (100, 3), (5, 16), (3, 0)] {
            let all = taken(count, threads);
            assert!(all.iter().cloned().flatten().eq(0..count), "{count} for {threads}: {all:?}");
            assert!(all.iter().all(|g| g.len() <= LANES));
        }
        assert_eq!(taken(4, 2), [0..2, 2..3, 3..4]);
        assert_eq!(taken(9, 2), [0..4, 4..6, 6..7, 7..8, 8..9]);
    }

    /// Where the processor has no SHA instructions, both sides are the same code.
    #[test]
    fn together_is_what_each_alone_is() {
        let data: [Vec<u8>; 3] = [1, 2, 3].map(|seed| bytes(640, seed));
        let blocks = data.each_ref().map(|d| d.as_chunks::<BLOCK>().0);
        let mut together = [START; 3];
        compress_all(&mut together, blocks);
        let alone = blocks.map(|blocks| {
            let mut state = START;
            compress(&mut state, blocks);
            state
        });
        assert_eq!(together, alone);
    }
}
