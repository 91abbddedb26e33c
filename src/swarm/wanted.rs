//! Which pieces are wanted, which of them first, and in what order.
//!
//! Owns the step from files to pieces: a piece is wanted when it holds a byte of a wanted file, and first when it
//! holds one of a preferred file. Padding is wanted by nobody (BEP 47): it is known to be zeros. Must not know what is
//! here already, or peers.

use std::ops::Range;

use crate::peer::Bitfield;
use crate::wire::metainfo::{FileKind, Info, PieceIndex, PieceLayout};

/// How much a piece is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High,
    /// In its turn.
    Normal,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// In what order wanted pieces are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sequence {
    /// Rarest first: the best for everybody.
    #[default]
    Rarest,
    /// From the first to the last, as far as the peers allow; the rarest where these have nothing that is due.
    InOrder,
    /// The same, and never more than this many bytes past where a reader stands.
    Reader(u64),
}

/// What is wanted of one torrent.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Pieces; none: all of them.
    pieces: Option<Bitfield>,
    /// Pieces of these that come first; none: none of them.
    high: Option<Bitfield>,
    /// Bytes of wanted files, in order and apart; none: all.
    bytes: Option<Vec<Range<u64>>>,
    sequence: Sequence,
}

impl Wanted {
    /// The files that pass `is_chosen`, those that pass `is_high` before the others. Both are given a file's number in
    /// [`Info::files`].
    pub fn files(info: &Info, is_chosen: impl Fn(usize) -> bool, is_high: impl Fn(usize) -> bool) -> Self {
        let layout = info.layout();
        let mut wanted = Self::default();
        let regular = |file: usize| info.files()[file].kind != FileKind::Pad;
        let chosen = |file: usize| regular(file) && is_chosen(file);
        if !(0..info.files().len()).all(chosen) {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for (_, file) in info.files().iter().enumerate().filter(|(n, f)| f.length > 0 && chosen(*n)) {
                let end = file.offset + file.length;
                match ranges.last_mut().filter(|last| last.end == file.offset) {
                    Some(last) => last.end = end,
                    None => ranges.push(file.offset..end),
                }
            }
            wanted.pieces = Some(touched(layout, &ranges));
            wanted.bytes = Some(ranges);
        }
        let high: Vec<Range<u64>> = (info.files().iter().enumerate())
            .filter(|(n, f)| f.length > 0 && chosen(*n) && is_high(*n))
            .map(|(_, f)| f.offset..f.offset + f.length)
            .collect();
        wanted.high = (!high.is_empty()).then(|| touched(layout, &high));
        wanted
    }

    /// Pieces, one by one.
    #[cfg(test)]
    pub(super) fn of_pieces(wanted: &[bool], high: &[bool]) -> Self {
        let field = |bits: &[bool]| {
            let mut field = Bitfield::none(bits.len() as u32);
            bits.iter().enumerate().filter(|(_, b)| **b).for_each(|(at, _)| {
                field.set(at as u32, true);
            });
            field
        };
        Self { pieces: Some(field(wanted)), high: Some(field(high)), ..Self::default() }
    }

    /// The same in this order.
    pub fn in_sequence(self, sequence: Sequence) -> Self {
        Self { sequence, ..self }
    }

    /// Whether a byte of this piece is wanted.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.pieces.as_ref().is_none_or(|pieces| pieces.has(piece.get()))
    }

    /// How much, where it is.
    pub fn priority(&self, piece: PieceIndex) -> Priority {
        match &self.high {
            Some(high) if high.has(piece.get()) => Priority::High,
            _ => Priority::Normal,
        }
    }

    /// In what order.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Bytes of wanted files in all.
    pub fn total(&self, layout: &PieceLayout) -> u64 {
        match &self.bytes {
            Some(ranges) => ranges.iter().map(|r| r.end - r.start).sum(),
            None => layout.total(),
        }
    }

    /// Bytes of wanted files in one piece.
    pub fn bytes_of(&self, layout: &PieceLayout, piece: PieceIndex) -> u64 {
        let (begin, length) = (layout.offset(piece), u64::from(layout.len_of(piece)));
        let Some(ranges) = &self.bytes else { return length };
        let end = begin + length;
        let first = ranges.partition_point(|r| r.end <= begin);
        let here = ranges[first..].iter().take_while(|r| r.start < end);
        here.map(|r| r.end.min(end) - r.start.max(begin)).sum()
    }

    /// Wanted bytes of the pieces that are here.
    pub fn verified(&self, layout: &PieceLayout, have: &Bitfield) -> u64 {
        let had = layout.pieces().filter(|p| have.has(p.get()));
        had.map(|p| self.bytes_of(layout, p)).sum()
    }
}

fn touched(layout: &PieceLayout, ranges: &[Range<u64>]) -> Bitfield {
    let mut pieces = Bitfield::none(layout.count());
    for range in ranges {
        for piece in layout.touching(range.start, range.end - range.start) {
            pieces.set(piece.get(), true);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;

    const PIECE: u64 = 16384;

    /// Files of these lengths; `p` before a length makes it padding.
    pub(super) fn info(files: &[(&str, u64)]) -> Info {
        let total: u64 = files.iter().map(|f| f.1).sum();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (name, length) in files {
            w.begin_dict();
            if *name == "p" {
                w.bytes(b"attr").bytes(b"p");
            }
            w.bytes(b"length")
                .int(*length as i64)
                .bytes(b"path")
                .begin_list()
                .bytes(name.as_bytes())
                .end()
                .end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&vec![0; 20 * total.div_ceil(PIECE) as usize]).end();
        Info::parse(out.into()).unwrap()
    }

    fn wanted_pieces(info: &Info, wanted: &Wanted) -> Vec<u32> {
        info.layout().pieces().filter(|p| wanted.has(*p)).map(PieceIndex::get).collect()
    }

    #[test]
    fn a_piece_that_two_files_share_is_wanted_for_one_of_them() {
        let info = info(&[("a", PIECE + 5), ("b", 2 * PIECE), ("c", PIECE)]);
        let wanted = Wanted::files(&info, |f| f == 1, |_| false);
        assert_eq!(wanted_pieces(&info, &wanted), [1, 2, 3]);
        assert_eq!(wanted.total(info.layout()), 2 * PIECE);
        let bytes: Vec<u64> = info.layout().pieces().map(|p| wanted.bytes_of(info.layout(), p)).collect();
        assert_eq!(bytes, [0, PIECE - 5, PIECE, 5, 0]);
        assert_eq!(wanted.verified(info.layout(), &Bitfield::all(5)), 2 * PIECE);
    }

    #[test]
    fn nobody_wants_padding() {
        let info = info(&[("a", 5), ("p", 3 * PIECE - 5), ("b", 7)]);
        let all = Wanted::files(&info, |_| true, |_| false);
        assert_eq!((wanted_pieces(&info, &all), all.total(info.layout())), (vec![0, 3], 12));
    }

    #[test]
    fn what_is_preferred_must_be_wanted_too() {
        let info = info(&[("a", PIECE), ("b", PIECE), ("c", PIECE)]);
        let wanted = Wanted::files(&info, |f| f != 0, |f| f < 2);
        let high: Vec<_> = info.layout().pieces().map(|p| wanted.priority(p)).collect();
        assert_eq!(high, [Priority::Normal, Priority::High, Priority::Normal]);
        assert!(Wanted::files(&info, |_| true, |_| false).pieces.is_none());
    }
}
