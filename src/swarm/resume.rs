//! What may be believed of an interrupted download, and when the next state is saved.
//!
//! Owns two decisions. [`judge`]: which pieces of an earlier run are trusted, and which are verified again.
//! [`Ledger`]: when data is synced, which files, and which pieces the resume file may claim after it. A piece
//! is claimed only once its bytes were synced. Pieces that nobody wants are simply never verified; nothing
//! here waits for them. Must not know how anything is synced or saved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::peer::Bitfield;
use crate::wire::metainfo::{FileKind, Info, PieceIndex};
use crate::wire::resume::{Saved, Stamp};

/// What was verified is synced after this long: so much a power cut may cost.
pub const SYNC_EVERY: Duration = Duration::from_secs(30);
/// Or as soon as it is so many bytes: a second's work of the fastest network.
pub const SYNC_BYTES: u64 = 1 << 30;

/// What is believed at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Pieces that are here, without a look at their bytes.
    pub trusted: Bitfield,
    /// Pieces of which something is here, to be verified.
    pub check: Vec<PieceIndex>,
}

/// Compares what an earlier run saved with the files as they are: `present` has a row for each.
///
/// A piece is trusted where it was claimed and none of its files has changed. What was not claimed is
/// skipped only where that run ended in order, and none of its files has changed.
pub fn judge(info: &Info, name: &str, saved: Option<&Saved>, present: &[Option<Stamp>]) -> Verdict {
    let layout = info.layout();
    let mut verdict = Verdict { trusted: Bitfield::none(layout.count()), check: Vec::new() };
    let mut touched = Bitfield::none(layout.count());
    for (file, stamp) in info.files().iter().zip(present) {
        if file.kind == FileKind::Regular && stamp.is_some_and(|s| s.size > 0) {
            for piece in layout.touching(file.offset, file.length) {
                touched.set(piece.get(), true);
            }
        }
    }
    let saved = saved.filter(|s| s.hash == info.hash() && s.name == name && s.stamps.len() == present.len());
    let claimed = saved.and_then(|s| Some((s, Bitfield::from_wire(&s.pieces, layout.count())?)));
    for piece in touched.iter().filter_map(|i| layout.piece(i)) {
        let Some((saved, claimed)) = &claimed else {
            verdict.check.push(piece);
            continue;
        };
        let claimed = claimed.has(piece.get());
        let changed = files_of(info, piece).any(|file| saved.stamps.get(file) != present.get(file));
        let here = files_of(info, piece).all(|file| present.get(file).is_some_and(Option::is_some));
        if claimed && here && !changed {
            verdict.trusted.set(piece.get(), true);
        } else if claimed || changed || !saved.clean {
            verdict.check.push(piece);
        }
    }
    verdict
}

/// The files with bytes in a piece; pads and links have none on disk.
fn files_of(info: &Info, piece: PieceIndex) -> impl Iterator<Item = usize> + '_ {
    let layout = info.layout();
    let (offset, length) = (layout.offset(piece), u64::from(layout.len_of(piece)));
    let files = info.files();
    let first = files.partition_point(|f| f.offset + f.length <= offset);
    let touched = files.iter().enumerate().skip(first).take_while(move |(_, f)| f.offset < offset + length);
    touched.filter(|(_, f)| f.length > 0 && f.kind == FileKind::Regular).map(|(index, _)| index)
}

/// A state to be saved: first these files are synced and looked at, then it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Files whose bytes the state speaks for and that may have changed since the last one, in order.
    pub files: Vec<usize>,
    /// The state; the stamps of [`Plan::files`] are to be filled in.
    pub saved: Saved,
}

/// What of one download is verified, what is synced, and what is saved.
#[derive(Debug)]
pub struct Ledger {
    info: Arc<Info>,
    name: String,
    /// Pieces whose bytes are synced.
    synced: Bitfield,
    /// Pieces verified since the last plan.
    fresh: BTreeSet<PieceIndex>,
    fresh_bytes: u64,
    /// When the next plan is due, if something is to be saved.
    due: Option<Instant>,
    /// Pieces of the plan under way.
    under_way: Option<BTreeSet<PieceIndex>>,
    stamps: Vec<Option<Stamp>>,
    /// Pieces of which something was written in this run: their files' stamps are out of date at its end.
    written: Bitfield,
    /// A state lies on disk, or lay there at the start.
    on_disk: bool,
}

impl Ledger {
    /// A download that begins with `have`, of which `trusted` needs no sync; `stamps` are the files as they
    /// were before anything was verified. `reopened`: the state on disk says that its run ended in order.
    pub fn new(
        now: Instant,
        info: Arc<Info>,
        name: String,
        stamps: Vec<Option<Stamp>>,
        trusted: Bitfield,
        have: &Bitfield,
        reopened: bool,
    ) -> Self {
        let count = info.layout().count();
        let mut ledger = Self {
            name,
            on_disk: trusted.ones() > 0 || reopened,
            synced: trusted,
            fresh: BTreeSet::new(),
            fresh_bytes: 0,
            // From now on the state must not say that nothing was written after it.
            due: reopened.then_some(now),
            under_way: None,
            stamps,
            written: Bitfield::none(count),
            info,
        };
        let layout = *ledger.info.layout();
        for piece in have.iter().filter_map(|i| layout.piece(i)) {
            if !ledger.synced.has(piece.get()) {
                ledger.on_verified(now, piece);
            }
        }
        ledger
    }

    /// Bytes of this piece go to disk.
    pub fn on_write(&mut self, piece: PieceIndex) {
        self.written.set(piece.get(), true);
    }

    /// The piece's bytes were given to the system and are right.
    pub fn on_verified(&mut self, now: Instant, piece: PieceIndex) {
        if self.fresh.insert(piece) {
            self.fresh_bytes += u64::from(self.info.layout().len_of(piece));
        }
        let latest = if self.fresh_bytes >= SYNC_BYTES { now } else { now + SYNC_EVERY };
        self.due = Some(self.due.map_or(latest, |due| due.min(latest)));
    }

    /// What to sync and save now, if it is time and nothing is under way.
    pub fn poll_save(&mut self, now: Instant) -> Option<Plan> {
        if self.under_way.is_some() || self.due.is_none_or(|due| now < due) {
            return None;
        }
        let fresh = std::mem::take(&mut self.fresh);
        self.fresh_bytes = 0;
        self.due = None;
        self.on_disk = true;
        let plan = self.plan(&fresh, fresh.iter().copied(), false);
        self.under_way = Some(fresh);
        Some(plan)
    }

    /// The plan under way has ended: with the files' new stamps, or, where nothing was saved, with none.
    pub fn on_saved(&mut self, now: Instant, stamps: Option<Vec<Option<Stamp>>>) {
        let Some(pieces) = self.under_way.take() else { return };
        match stamps {
            Some(stamps) => {
                self.stamps = stamps;
                for piece in pieces {
                    self.synced.set(piece.get(), true);
                }
            }
            None => {
                self.fresh.extend(pieces);
                self.due = Some(now + SYNC_EVERY);
            }
        }
    }

    /// The run ends and nothing is written any more: the state that says so. None where there is nothing to say.
    pub fn last(&mut self) -> Option<Plan> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.extend(self.under_way.take().into_iter().flatten());
        if fresh.is_empty() && self.synced.ones() == 0 && !self.on_disk {
            return None;
        }
        let layout = *self.info.layout();
        let written: Vec<_> = self.written.iter().filter_map(|i| layout.piece(i)).collect();
        Some(self.plan(&fresh, fresh.iter().copied().chain(written), true))
    }

    fn plan(
        &self,
        fresh: &BTreeSet<PieceIndex>,
        touched: impl Iterator<Item = PieceIndex>,
        clean: bool,
    ) -> Plan {
        let mut pieces = self.synced.clone();
        for piece in fresh {
            pieces.set(piece.get(), true);
        }
        let files: BTreeSet<_> = touched.flat_map(|piece| files_of(&self.info, piece)).collect();
        let saved = Saved {
            hash: self.info.hash(),
            name: self.name.clone(),
            clean,
            pieces: pieces.to_wire().to_vec(),
            stamps: self.stamps.clone(),
        };
        Plan { files: files.into_iter().collect(), saved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;

    const PIECE: u64 = 16384;

    /// Files `0`, `1`, ... of these lengths in pieces of 16 KiB.
    fn info(lengths: &[u64]) -> Arc<Info> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (index, length) in lengths.iter().enumerate() {
            w.begin_dict().bytes(b"length").int(*length as i64).bytes(b"path").begin_list();
            w.bytes(index.to_string().as_bytes()).end().end();
        }
        let pieces = lengths.iter().sum::<u64>().div_ceil(PIECE) as usize;
        w.end().bytes(b"name").bytes(b"n").bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&vec![0; 20 * pieces]).end();
        Arc::new(Info::parse(out.into()).unwrap())
    }

    fn stamp(size: u64, time: i64) -> Option<Stamp> {
        Some(Stamp { size, mtime_ns: time, ctime_ns: time })
    }

    fn saved(info: &Info, pieces: &[u32], clean: bool, stamps: &[Option<Stamp>]) -> Saved {
        let mut field = Bitfield::none(info.layout().count());
        pieces.iter().for_each(|&i| {
            field.set(i, true);
        });
        let pieces = field.to_wire().to_vec();
        Saved { hash: info.hash(), name: "n".into(), clean, pieces, stamps: stamps.to_vec() }
    }

    fn shown(verdict: &Verdict) -> (Vec<u32>, Vec<u32>) {
        (verdict.trusted.iter().collect(), verdict.check.iter().map(|p| p.get()).collect())
    }

    #[test]
    fn only_claims_on_files_that_nobody_touched_are_trusted() {
        // Pieces 0-1 are the first file's, 2 is both files', 3-4 are the second's.
        let info = info(&[PIECE * 5 / 2, PIECE * 5 / 2]);
        let then = [stamp(40960, 1), stamp(40960, 2)];
        let before = saved(&info, &[0, 2, 3], true, &then);
        let judged = |saved: &Saved, now: &[Option<Stamp>]| shown(&judge(&info, "n", Some(saved), now));
        assert_eq!(judged(&before, &then), (vec![0, 2, 3], vec![]));
        let unclean = Saved { clean: false, ..before.clone() };
        assert_eq!(judged(&unclean, &then), (vec![0, 2, 3], vec![1, 4]));
        assert_eq!(judged(&before, &[then[0], stamp(40960, 3)]), (vec![0], vec![2, 3, 4]));
        assert_eq!(judged(&before, &[stamp(40961, 1), then[1]]), (vec![3], vec![0, 1, 2]));
        assert_eq!(judged(&before, &[then[0], None]), (vec![0], vec![2]), "nothing is left of 3 and 4");
        assert_eq!(judged(&before, &[None, None]), (vec![], vec![]));
    }

    #[test]
    fn another_torrents_or_names_claims_say_nothing() {
        let info = info(&[PIECE]);
        let then = [stamp(PIECE, 1)];
        let right = saved(&info, &[0], true, &then);
        let everything = (vec![], vec![0]);
        assert_eq!(shown(&judge(&info, "n", None, &then)), everything);
        assert_eq!(shown(&judge(&info, "m", Some(&right), &then)), everything);
        let other = Saved { hash: crate::id::Id160([1; 20]), ..right.clone() };
        assert_eq!(shown(&judge(&info, "n", Some(&other), &then)), everything);
        let short = Saved { pieces: vec![], ..right.clone() };
        assert_eq!(shown(&judge(&info, "n", Some(&short), &then)), everything);
        let fewer = Saved { stamps: vec![], ..right };
        assert_eq!(shown(&judge(&info, "n", Some(&fewer), &then)), everything);
    }

    #[test]
    fn a_state_is_due_when_its_time_has_come_and_one_at_a_time() {
        let start = Instant::now();
        let info = info(&[PIECE * 3, PIECE]);
        let none = Bitfield::none(4);
        let mut ledger =
            Ledger::new(start, info.clone(), "n".into(), vec![None; 2], none.clone(), &none, false);
        assert_eq!(ledger.poll_save(start + SYNC_EVERY * 9), None, "there is nothing to say");
        assert!(ledger.last().is_none());
        let piece = |index| info.layout().piece(index).unwrap();
        ledger.on_verified(start, piece(0));
        ledger.on_verified(start + SYNC_EVERY / 2, piece(1));
        assert_eq!(ledger.poll_save(start + SYNC_EVERY / 2), None);
        let plan = ledger.poll_save(start + SYNC_EVERY).unwrap();
        assert_eq!((plan.files.as_slice(), plan.saved.pieces.as_slice()), (&[0][..], &[0xc0][..]));
        let late = start + SYNC_EVERY * 4;
        ledger.on_verified(start + SYNC_EVERY, piece(3));
        assert_eq!(ledger.poll_save(late), None, "one is under way");
        ledger.on_saved(late, None);
        let later = late + SYNC_EVERY;
        assert_eq!(ledger.poll_save(later).unwrap().files, [0, 1], "what failed comes again");
        ledger.on_saved(late, Some(vec![stamp(9, 9), stamp(8, 8)]));
        ledger.on_verified(late, piece(2));
        let last = ledger.last().unwrap();
        assert!(last.saved.clean && last.saved.pieces == [0xf0] && last.saved.stamps[1] == stamp(8, 8));
    }

    #[test]
    fn many_bytes_are_not_left_waiting() {
        let start = Instant::now();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(3 << 29).bytes(b"name").bytes(b"n");
        w.bytes(b"piece length").int(1 << 29).bytes(b"pieces").bytes(&[0; 60]).end();
        let info = Arc::new(Info::parse(out.into()).unwrap());
        let none = Bitfield::none(3);
        let mut ledger = Ledger::new(start, info.clone(), "n".into(), vec![None], none.clone(), &none, false);
        let pieces: Vec<_> = info.layout().pieces().collect();
        ledger.on_verified(start, pieces[0]);
        assert!(ledger.poll_save(start).is_none());
        ledger.on_verified(start, pieces[1]);
        assert!(ledger.poll_save(start).is_some());
    }

    #[test]
    fn a_run_that_begins_again_says_at_once_that_it_is_not_over() {
        let start = Instant::now();
        let info = info(&[PIECE * 2]);
        let mut trusted = Bitfield::none(2);
        trusted.set(0, true);
        let mut ledger =
            Ledger::new(start, info, "n".into(), vec![stamp(1, 1)], trusted.clone(), &trusted, true);
        let plan = ledger.poll_save(start).unwrap();
        assert!(!plan.saved.clean && plan.files.is_empty() && plan.saved.pieces == [0x80]);
    }
}
