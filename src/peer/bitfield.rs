//! A set of pieces, laid out as the wire has it: most significant bit first (BEP 3, "bitfield").

use bytes::Bytes;

/// Which of a fixed number of pieces are present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitfield {
    bits: Vec<u8>,
    len: u32,
    ones: u32,
}

impl Bitfield {
    /// `len` pieces, none present.
    pub fn none(len: u32) -> Self {
        Self { bits: vec![0; (len as usize).div_ceil(8)], len, ones: 0 }
    }

    /// `len` pieces, all present.
    pub fn all(len: u32) -> Self {
        let mut field = Self { bits: vec![0xff; (len as usize).div_ceil(8)], len, ones: len };
        if let (Some(last), spare @ 1..) = (field.bits.last_mut(), len % 8) {
            *last = 0xffu8 << (8 - spare);
        }
        field
    }

    /// Reads the wire's form; refuses a wrong length and spare bits that are set.
    pub fn from_wire(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.len() != (len as usize).div_ceil(8) {
            return None;
        }
        let ones = bytes.iter().map(|b| b.count_ones()).sum();
        let spare_clear = len.is_multiple_of(8) || bytes.last().is_none_or(|b| b << (len % 8) == 0);
        spare_clear.then(|| Self { bits: bytes.to_vec(), len, ones })
    }

    /// The wire's form.
    pub fn to_wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bits)
    }

    /// How many pieces there are, present or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no pieces at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are present.
    pub fn ones(&self) -> u32 {
        self.ones
    }

    /// Whether every piece is present.
    pub fn is_complete(&self) -> bool {
        self.ones == self.len
    }

    /// Whether this piece is present; false past the end.
    pub fn has(&self, index: u32) -> bool {
        let byte = self.bits.get(index as usize / 8);
        index < self.len && byte.is_some_and(|b| b & (0x80 >> (index % 8)) != 0)
    }

    /// Marks a piece; says whether that changed anything.
    pub fn set(&mut self, index: u32, present: bool) -> bool {
        if index >= self.len || self.has(index) == present {
            return false;
        }
        if let Some(byte) = self.bits.get_mut(index as usize / 8) {
            *byte ^= 0x80 >> (index % 8);
        }
        self.ones = if present { self.ones + 1 } else { self.ones - 1 };
        true
    }

    /// Pieces that are present here and in `other`, in order, of those from about `from` to about `to`; eight bytes at a time, so
    /// that two million are looked through in microseconds.
    pub fn common<'a>(&'a self, other: &'a Self, from: u32, to: u32) -> impl Iterator<Item = u32> + 'a {
        let bytes = self.bits.len().min(other.bits.len());
        let end = (to as usize).div_ceil(64).saturating_mul(8).min(bytes);
        let first = (from as usize / 64 * 8).min(end);
        let (ours, our_rest) = self.bits[first..end].as_chunks();
        let (theirs, their_rest) = other.bits[first..end].as_chunks();
        let words = ours.iter().zip(theirs).map(|(a, b)| u64::from_be_bytes(*a) & u64::from_be_bytes(*b));
        let both = words.chain([word(our_rest) & word(their_rest)]).zip(first as u32 / 8..);
        both.filter(|(both, _)| *both != 0).flat_map(|(mut both, at)| {
            std::iter::from_fn(move || {
                let bit = both.leading_zeros();
                both &= !(1 << 63 >> bit.min(63));
                (bit < 64).then_some(at * 64 + bit)
            })
        })
    }

    /// The pieces that are present, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).filter(|&i| self.has(i))
    }
}

/// Up to eight bytes as one number, the first piece in its highest bit.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().zip((0..64).step_by(8)).map(|(byte, at)| u64::from(*byte) << 56 >> at).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_two_have_in_common_is_found(a: Vec<bool>, b: Vec<bool>, from in 0u32..200, to in 0u32..200) {
            let field = |bits: &[bool]| {
                let mut field = Bitfield::none(150);
                for (index, bit) in bits.iter().enumerate() {
                    field.set(index as u32, *bit);
                }
                field
            };
            let (a, b) = (field(&a), field(&b));
            let range = from / 64 * 64..(to.div_ceil(64) * 64).min(150);
            let both: Vec<u32> = range.filter(|i| a.has(*i) && b.has(*i)).collect();
            prop_assert_eq!(a.common(&b, from, to).collect::<Vec<_>>(), both);
        }
    }

    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        assert!(Bitfield::from_wire(&[0xff, 0x80], 9).is_some_and(|f| f.is_complete()));
        assert_eq!(Bitfield::from_wire(&[0xff, 0xc0], 9), None);
        assert_eq!(Bitfield::from_wire(&[0xff], 9), None);
        assert_eq!(Bitfield::all(9).to_wire(), Bytes::from_static(&[0xff, 0x80]));
        assert_eq!(Bitfield::all(16).to_wire(), Bytes::from_static(&[0xff, 0xff]));
    }

    #[test]
    fn counts_follow_changes() {
        let mut field = Bitfield::none(10);
        assert!(field.set(9, true) && !field.set(9, true) && !field.set(10, true));
        assert_eq!((field.ones(), field.has(9), field.has(10)), (1, true, false));
        assert_eq!(field.iter().collect::<Vec<_>>(), [9]);
        assert!(field.set(9, false) && field.ones() == 0);
    }
}
