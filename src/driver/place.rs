//! Taking a place on disk for a download: what is there, whether it is ours, and the claim that says so.
//!
//! The claim is a hidden file beside the target, `.<info-hash>.dhtget`. It holds the torrent, so that a
//! second run knows the metadata and that what lies there is its own; it goes when the download is complete.
//! What is known of its pieces stands in a second file beside it (`resume`). Plain blocking code.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::choice::Chosen;
use super::lasting;
use super::parts::{PARTS, Parts};
use super::resume::ResumeFile;
use super::storage::{Present, Storage};
use super::transfer::{DiskOptions, Placement, TransferError, disk_full};
use crate::id::InfoHash;
use crate::peer::Bitfield;
use crate::swarm::{Sequence, Wanted, resume};
use crate::wire::bencode::{Limits, Value, Writer};
use crate::wire::metainfo::{FileKind, Info, MAX_METADATA_BYTES, Metainfo, PieceIndex};
use crate::wire::resume::Stamp;

/// How often a claim is tried while another run takes its way.
const CLAIM_TRIES: usize = 10;

/// A place that has been looked at.
#[derive(Debug)]
pub struct Place {
    /// The files.
    pub storage: Arc<Storage>,
    /// Pieces of which something is on disk, to be verified.
    pub to_check: Vec<PieceIndex>,
    /// Pieces that the last run saved and nobody has touched.
    pub trusted: Bitfield,
    /// The files as they were found.
    pub stamps: Vec<Option<Stamp>>,
    /// What is known of the pieces is kept here; nothing is for data that is only read.
    pub resume: Option<Arc<ResumeFile>>,
    /// The last run ended in order, and its state says so.
    pub reopened: bool,
    /// Existing files with content, of which a piece must verify unless they are ours for sure.
    doubtful: Vec<usize>,
    /// Files at the target that nobody asked for.
    beside: Vec<usize>,
    /// An earlier run has claimed the place.
    ours: bool,
    /// What is there was said to be this torrent's: where some of it is, the rest is repaired.
    repair: bool,
    /// Files of ours that are longer than they must be.
    too_long: Vec<usize>,
    claim: Option<PathBuf>,
    chosen: Chosen,
    /// Where bytes of other files are kept meanwhile, or were in an earlier run.
    parts: Option<PathBuf>,
    /// Something is or will be here that a later run could not know for this torrent's, because it is not whole or
    /// smaller than a piece: the claim goes on saying whose it is.
    keeps_claim: bool,
}

/// Looks at the place without changing anything in it, except that missing folders above it are made.
pub fn look(
    placement: &Placement,
    info: &Info,
    chosen: &Chosen,
    options: DiskOptions,
) -> Result<Option<Place>, TransferError> {
    match placement {
        Placement::Nowhere => Ok(None),
        Placement::InPlace(path) => {
            let storage = Storage::in_place(path, info).map_err(|e| disk_error(path, &e))?;
            let mut place = Place::new(storage, info, chosen);
            place.trusted = Bitfield::all(info.layout().count());
            Ok(Some(place))
        }
        Placement::Stream { dir, .. } => {
            let storage = Storage::for_download(dir, None, info)
                .and_then(|storage| Ok(storage.with_parts(Some(Parts::unnamed(dir, info)?))))
                .map_err(|e| disk_error(dir, &e))?;
            let mut place = Place::new(storage, info, chosen);
            place.to_check = padding(info).collect();
            Ok(Some(place))
        }
        Placement::Folder { dir, name, overwrite } => {
            let claim = claim_path(dir, &info.hash());
            let parts = claim.with_extension("dhtget-parts");
            let storage = Storage::for_download(dir, name.as_deref(), info)
                .map_err(|e| disk_error(dir, &e))?
                .with_parts(Parts::beside(parts.clone(), info, chosen));
            // A claim under another name says nothing about what stands under this one.
            let claimed = claimed_name(&claim).as_deref() == Some(storage.name());
            let mut place = Place::new(storage.allocating(options.allocation), info, chosen);
            let resume = Arc::new(ResumeFile::beside(&claim));
            if options.check {
                // Whatever comes of this run, its word is not believed again.
                resume.forget().map_err(|e| disk_error(dir, &e))?;
            }
            let saved = if claimed { resume.load() } else { None };
            (place.claim, place.parts, place.resume) = (Some(claim), Some(parts), Some(resume));
            (place.ours, place.repair) = (claimed, options.check);
            place.reopened = saved.as_ref().is_some_and(|s| s.clean);
            let beside = place.survey(info, *overwrite || claimed)?;
            let verdict = resume::judge(info, place.storage.name(), saved.as_ref(), &place.stamps);
            place.trusted = verdict.trusted;
            place.to_check = place.also(info, verdict.check, &beside);
            Ok(Some(place))
        }
    }
}

/// Pieces that are nothing but padding (BEP 47): nobody need send them.
fn padding(info: &Info) -> impl Iterator<Item = PieceIndex> + '_ {
    let (all, layout) = (Wanted::files(info, |_| true, |_| false), info.layout());
    let pads = info.files().iter().filter(|f| f.kind == FileKind::Pad);
    let touched = pads.flat_map(|f| layout.touching(f.offset, f.length));
    touched.filter(move |p| all.bytes_of(layout, *p) == 0)
}

impl Place {
    fn new(storage: Storage, info: &Info, chosen: &Chosen) -> Self {
        Self {
            storage: Arc::new(storage),
            to_check: Vec::new(),
            trusted: Bitfield::none(info.layout().count()),
            stamps: Vec::new(),
            resume: None,
            reopened: false,
            doubtful: Vec::new(),
            beside: Vec::new(),
            ours: false,
            repair: false,
            too_long: Vec::new(),
            claim: None,
            chosen: chosen.clone(),
            parts: None,
            keeps_claim: false,
        }
    }

    /// The files that go here.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Pieces to be checked: these, and those `beside` them that are neither trusted nor among them.
    fn also(&self, info: &Info, mut check: Vec<PieceIndex>, beside: &Bitfield) -> Vec<PieceIndex> {
        let mut all = self.trusted.clone();
        check.iter().for_each(|piece| {
            all.set(piece.get(), true);
        });
        let more = beside.iter().filter(|index| !all.has(*index));
        check.extend(more.filter_map(|index| info.layout().piece(index)));
        check.sort_unstable();
        check
    }

    /// Looks at each file; returns the pieces that are worth a look beside those of the files that were found.
    fn survey(&mut self, info: &Info, ours: bool) -> Result<Bitfield, TransferError> {
        let mut beside = Bitfield::none(info.layout().count());
        padding(info).for_each(|piece| {
            beside.set(piece.get(), true);
        });
        let kept = self.storage.parts().is_some_and(Parts::exists);
        self.stamps = vec![None; self.storage.len()];
        for index in 0..self.storage.len() {
            let Some((_, length)) = self.storage.range(index) else { continue };
            if !self.chosen.has(index) {
                self.survey_unwanted(info, index, kept, &mut beside);
                continue;
            }
            let found = self.storage.look(index).map_err(|e| disk_error(&self.storage.path(index), &e))?;
            let stamp = match found {
                Present::Nothing => continue,
                Present::InTheWay(what) => return Err(in_the_way(&self.storage.path(index), what)),
                Present::File(stamp) => stamp,
            };
            if stamp.size > length && !ours && !self.repair {
                let what = format!("a file of {} bytes is there, and the torrent's has {length}", stamp.size);
                return Err(in_the_way(&self.storage.path(index), what));
            }
            if stamp.size > length {
                self.too_long.push(index);
            }
            if stamp.size > 0 && !ours {
                self.doubtful.push(index);
            }
            self.stamps[index] = Some(stamp);
        }
        Ok(beside)
    }

    /// A file that nobody asked for now: it may be here from an earlier run, or its neighbours' pieces may hold parts of it, where
    /// some are `kept` apart.
    fn survey_unwanted(&mut self, info: &Info, index: usize, kept: bool, beside: &mut Bitfield) {
        let Some((offset, length)) = self.storage.range(index).filter(|(_, length)| *length > 0) else {
            return;
        };
        let Some(parts) = self.storage.parts() else { return };
        let found = match self.storage.look(index) {
            Ok(Present::File(stamp)) if stamp.size == length => Some(stamp),
            _ => None,
        };
        if found.is_some() {
            parts.set_out(index, false);
            self.stamps[index] = found;
            // Whatever a claim says, nobody asked for this file to be written: its pieces must all be right.
            self.beside.push(index);
        } else if kept {
            let wanted = |p: &PieceIndex| parts.hold(index, info.layout().offset(*p).max(offset)).0;
            for piece in info.layout().touching(offset, length).filter(wanted) {
                beside.set(piece.get(), true);
            }
        }
    }

    /// Whether a later run can tell a fetched file by a piece that lies wholly in files at the target.
    fn is_known_again(&self, info: &Info, file: usize) -> bool {
        let Some((offset, length)) = self.storage.range(file).filter(|(_, length)| *length > 0) else {
            return true;
        };
        if self.storage.parts().is_none() {
            return true;
        }
        let layout = info.layout();
        let is_out = |piece: PieceIndex| {
            let mut segments = self.storage.segments(layout.offset(piece), u64::from(layout.len_of(piece)));
            segments.any(|segment| segment.file == Some(PARTS))
        };
        layout.touching(offset, length).any(|piece| !is_out(piece))
    }

    /// Files at the target that nobody asked for are written by nobody: where a wanted piece of one is not right, the file counts as
    /// somebody else's, and what was right in its wanted pieces is fetched again, to be kept apart.
    fn leave_alone(&mut self, info: &Info, wanted: &Wanted, have: &mut Bitfield) {
        let (layout, Some(parts)) = (info.layout(), self.storage.parts()) else { return };
        for index in std::mem::take(&mut self.beside) {
            let Some((offset, length)) = self.storage.range(index) else { continue };
            let touching = || layout.touching(offset, length).filter(|p| wanted.has(*p));
            if touching().all(|piece| have.has(piece.get())) {
                continue;
            }
            parts.set_out(index, true);
            self.stamps[index] = None;
            // It may be an earlier run's, of which nothing else would tell.
            self.keeps_claim |= self.ours;
            for piece in touching() {
                have.set(piece.get(), false);
                self.trusted.set(piece.get(), false);
            }
        }
    }

    /// Once the pieces have been checked: refuses what is not ours, then claims the place.
    pub fn claim(&mut self, info: &Info, have: &mut Bitfield) -> Result<(), TransferError> {
        let wanted = self.chosen.wanted(info, Sequence::Rarest);
        self.leave_alone(info, &wanted, have);
        let have: &Bitfield = have;
        let is_here = |p: PieceIndex| have.has(p.get());
        let known = |index: usize| {
            let (offset, length) = self.storage.range(index).unwrap_or_default();
            info.layout().touching(offset, length).any(is_here)
        };
        let some = self.doubtful.iter().any(|&index| known(index));
        let strange = self.doubtful.iter().copied().find(|&index| !known(index));
        if let Some(index) = strange.filter(|_| !(self.repair && some)) {
            let what = match some {
                true => {
                    "no whole piece of this file is right, though files beside it are this torrent's; --check-integrity repairs it"
                }
                false => "a file is there that has nothing of this torrent in it",
            };
            return Err(in_the_way(&self.storage.path(index), what.to_owned()));
        }
        for index in (0..self.storage.len()).filter(|index| !self.chosen.has(*index)) {
            let begun = self.storage.parts().is_some_and(|parts| !parts.is_out(index));
            let Some((offset, length)) = self.storage.range(index).filter(|_| begun) else { continue };
            if !info.layout().touching(offset, length).all(is_here) {
                self.keeps_claim = true;
            }
        }
        let hidden = |file: usize| !self.is_known_again(info, file);
        if self.chosen.indices().any(hidden) {
            self.keeps_claim = true;
        }
        let layout = info.layout();
        let lacking: Vec<PieceIndex> = layout.pieces().filter(|p| !is_here(*p) && wanted.has(*p)).collect();
        if let Some(free) = self.storage.free_space() {
            self.fits(info, &lacking, free)?;
        }
        let Some(claim) = &self.claim else { return Ok(()) };
        if lacking.is_empty() {
            return self.release();
        }
        let (temporary, bytes) = (claim.with_extension("dhtget-new"), claim_bytes(info, self.storage.name()));
        let mut replaced = Ok(());
        for _ in 0..CLAIM_TRIES {
            replaced = lasting::replace(&temporary, claim, &bytes);
            // Another run, of other files of the torrent perhaps, claims the same place by the same way.
            if !matches!(&replaced, Err(e) if e.kind() == io::ErrorKind::NotFound) {
                break;
            }
        }
        replaced.map_err(|e| disk_error(claim, &e))
    }

    /// Whether these pieces can be written where so much is `free`. What files were given beforehand, by an earlier run or by
    /// whoever made them, is not asked for again.
    fn fits(&self, info: &Info, lacking: &[PieceIndex], free: u64) -> Result<(), TransferError> {
        let layout = info.layout();
        let missing: u64 = lacking.iter().map(|p| u64::from(layout.len_of(*p))).sum();
        // Most places have room; only elsewhere is it worth a look at each file.
        if missing <= free {
            return Ok(());
        }
        let mut in_file: BTreeMap<usize, u64> = BTreeMap::new();
        for piece in lacking {
            for segment in self.storage.segments(layout.offset(*piece), u64::from(layout.len_of(*piece))) {
                if let Some(file) = segment.file {
                    *in_file.entry(file).or_default() += segment.length;
                }
            }
        }
        let needed = |(file, missing): (usize, u64)| {
            let Some((_, length)) = self.storage.range(file) else { return missing };
            // Where nothing can be said of a file, all of it may be needed.
            let taken = self.storage.room_taken(file).unwrap_or(0);
            missing.min(length.saturating_sub(taken))
        };
        let needed: u64 = in_file.into_iter().map(needed).sum();
        if needed <= free {
            return Ok(());
        }
        let cause = format!("no space left: {needed} bytes are needed and {free} are free");
        Err(TransferError::Disk { path: shown(self.storage.root()), cause, full: true })
    }

    /// Creates the files of no bytes, which no piece ever brings, and cuts those that are too long. The
    /// place must be claimed.
    pub fn create_empty_files(&self) -> Result<(), TransferError> {
        for index in self.chosen.indices().filter(|_| self.claim.is_some()) {
            if matches!(self.storage.range(index), Some((_, 0))) || self.too_long.contains(&index) {
                self.storage.file(index).map_err(|e| disk_error(&self.storage.path(index), &e))?;
            }
        }
        Ok(())
    }

    /// The download is complete: the claim goes, and what was kept of the pieces.
    pub fn release(&self) -> Result<(), TransferError> {
        if let (Some(resume), Some(claim)) = (&self.resume, &self.claim) {
            resume.remove().map_err(|e| disk_error(claim, &e))?;
        }
        if self.keeps_claim {
            return Ok(());
        }
        match self.claim.as_ref().map(|claim| (claim, std::fs::remove_file(claim))) {
            Some((claim, Err(e))) if e.kind() != io::ErrorKind::NotFound => Err(disk_error(claim, &e)),
            _ => Ok(()),
        }
    }

    /// The download is complete and its process is about to end: what was kept for its sake goes.
    pub fn leave(&self) {
        // Where it cannot be removed, it is no harm to the data.
        let _ = self.parts.as_ref().map(std::fs::remove_file);
    }
}

/// The metadata of an earlier run in this folder, if there was one.
pub fn claimed_metadata(dir: &Path, hash: InfoHash) -> Option<Info> {
    let metainfo = Metainfo::parse(&read_claim(&claim_path(dir, &hash))?).ok()?;
    (metainfo.info.hash() == hash).then_some(metainfo.info)
}

/// A torrent file, with the name under which the data was put beside the dictionary.
fn claim_bytes(info: &Info, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(info.raw().len() + 512);
    Writer::new(&mut out)
        .begin_dict()
        .bytes(b"info")
        .raw(info.raw())
        .bytes(b"name")
        .bytes(name.as_bytes())
        .end();
    out
}

fn claimed_name(claim: &Path) -> Option<String> {
    let bytes = read_claim(claim)?;
    Some(Value::parse(&bytes, Limits::TORRENT).ok()?.get(b"name")?.text()?.to_owned())
}

fn read_claim(claim: &Path) -> Option<Bytes> {
    let mut bytes = Vec::new();
    std::fs::File::open(claim).ok()?.take(MAX_METADATA_BYTES as u64 + 1024).read_to_end(&mut bytes).ok()?;
    Some(bytes.into())
}

fn claim_path(dir: &Path, hash: &InfoHash) -> PathBuf {
    dir.join(format!(".{hash}.dhtget"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn in_the_way(path: &Path, what: String) -> TransferError {
    TransferError::TargetExists { path: shown(path), what }
}

fn disk_error(path: &Path, error: &io::Error) -> TransferError {
    TransferError::Disk { path: shown(path), cause: error.to_string(), full: disk_full(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::{Digest as _, Sha1};
    use std::os::unix::fs::FileExt as _;

    /// With every file.
    fn look(placement: &Placement, info: &Info) -> Result<Option<Place>, TransferError> {
        super::look(placement, info, &Chosen::all(info), DiskOptions::default())
    }

    fn info(content: &[u8]) -> Info {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(content.len() as i64).bytes(b"name").bytes(b"x");
        w.bytes(b"piece length").int(16384).bytes(b"pieces").bytes(&Sha1::digest(content)).end();
        Info::parse(out.into()).unwrap()
    }

    fn folder(dir: &Path, overwrite: bool) -> Placement {
        Placement::Folder { dir: dir.to_owned(), name: None, overwrite }
    }

    #[test]
    fn a_strangers_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let info = info(b"content");
        std::fs::write(dir.path().join("x"), b"letter!").unwrap();
        let mut place = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        assert_eq!(place.to_check.len(), 1);
        let refused = place.claim(&info, &mut Bitfield::none(1));
        assert!(matches!(refused, Err(TransferError::TargetExists { .. })), "{refused:?}");
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"letter!");
        assert!(
            look(&folder(dir.path(), true), &info)
                .unwrap()
                .unwrap()
                .claim(&info, &mut Bitfield::none(1))
                .is_ok()
        );
        std::fs::write(dir.path().join("x"), b"longer than the torrent's").unwrap();
        std::fs::remove_file(claim_path(dir.path(), &info.hash())).unwrap();
        assert!(matches!(look(&folder(dir.path(), false), &info), Err(TransferError::TargetExists { .. })));
    }

    /// Two files that share a piece, and one of a piece of its own.
    fn three_files() -> (Info, [Vec<u8>; 3]) {
        let files = [vec![1; 16384], vec![2; 100], vec![3; 16384 - 100]];
        let whole = files.concat();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (name, file) in ["a", "b", "c"].iter().zip(&files) {
            w.begin_dict().bytes(b"length").int(file.len() as i64).bytes(b"path").begin_list();
            w.bytes(name.as_bytes()).end().end();
        }
        w.end().bytes(b"name").bytes(b"n").bytes(b"piece length").int(16384).bytes(b"pieces");
        w.bytes(&whole.chunks(16384).flat_map(Sha1::digest).collect::<Vec<u8>>()).end();
        (Info::parse(out.into()).unwrap(), files)
    }

    /// A finished download of which a small file was lost, changed, or grew.
    #[test]
    fn what_was_said_to_be_ours_is_repaired_where_some_of_it_is() {
        let (info, files) = three_files();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("n");
        std::fs::create_dir(&root).unwrap();
        let claim = |check: bool, have: &[u32]| {
            let options = DiskOptions { check, ..DiskOptions::default() };
            let mut place =
                super::look(&folder(dir.path(), false), &info, &Chosen::all(&info), options)?.unwrap();
            let mut field = Bitfield::none(2);
            have.iter().for_each(|&p| assert!(field.set(p, true)));
            place.claim(&info, &mut field)?;
            place.release()
        };
        std::fs::write(root.join("a"), &files[0]).unwrap();
        for damaged in [vec![2; 100], vec![7; 100], vec![2; 101]] {
            std::fs::write(root.join("b"), damaged).unwrap();
            let refused = claim(false, &[0]);
            assert!(matches!(&refused, Err(TransferError::TargetExists { .. })), "{refused:?}");
            claim(true, &[0]).unwrap();
            // Where nothing at all is right, it is somebody else's folder.
            assert!(claim(true, &[]).is_err());
        }
    }

    /// Many runs may claim one place at the same time.
    #[test]
    fn runs_that_claim_one_place_together_all_do() {
        let (info, _) = three_files();
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let mut place = look(&folder(dir.path(), false), &info).unwrap().unwrap();
                        place.claim(&info, &mut Bitfield::none(2)).unwrap();
                    }
                });
            }
        });
        assert_eq!(claimed_metadata(dir.path(), info.hash()).unwrap().hash(), info.hash());
    }

    #[test]
    fn a_folder_in_the_files_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let refused = look(&folder(dir.path(), true), &info(b"content"));
        assert!(matches!(refused, Err(TransferError::TargetExists { what, .. }) if what.contains("folder")));
    }

    /// Two pieces in one file; nothing of it is right.
    #[test]
    fn room_that_a_file_has_taken_already_need_not_be_free() {
        let content: Vec<u8> =
            (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(1_000_000).bytes(b"name").bytes(b"x");
        w.bytes(b"piece length").int(524_288).bytes(b"pieces").bytes(&[7; 40]).end();
        let info = Info::parse(out.into()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let lacking: Vec<PieceIndex> = info.layout().pieces().collect();
        let needs = |lacking: &[PieceIndex], free: u64| {
            let place = look(&folder(dir.path(), true), &info).unwrap().unwrap();
            match place.fits(&info, lacking, free) {
                Ok(()) => None,
                Err(TransferError::Disk { full, cause, .. }) => Some((full, cause)),
                Err(other) => panic!("{other}"),
            }
        };
        let (full, cause) = needs(&lacking, 999_999).unwrap();
        assert!(full && cause.contains("1000000 bytes are needed"), "{cause}");
        assert_eq!(needs(&lacking, 1_000_000), None);
        // A hole has taken nothing.
        let file = std::fs::File::create(dir.path().join("x")).unwrap();
        file.set_len(1_000_000).unwrap();
        assert!(needs(&lacking, 999_999).is_some());
        // What is verified has taken its room, and is not counted twice.
        file.write_all_at(&content[..524_288], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(needs(&lacking[1..], 475_712), None);
        assert!(needs(&lacking[1..], 470_000).unwrap().1.contains("475712 bytes are needed"));
        // All the room there is, as `--file-allocation full` or another client leaves it.
        file.write_all_at(&content[524_288..], 524_288).unwrap();
        file.sync_all().unwrap();
        assert_eq!(needs(&lacking[1..], 0), None);
        assert_eq!(needs(&lacking, 0), None);
    }

    #[test]
    fn an_unwritable_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let refused = look(&folder(&dir.path().join("file/below"), false), &info(b"content"));
        assert!(
            matches!(refused, Err(TransferError::Disk { path, full: false, .. }) if path.contains("below"))
        );
    }

    #[test]
    fn a_claim_keeps_the_metadata_and_the_right_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let info = info(b"content");
        let mut place = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        place.claim(&info, &mut Bitfield::none(1)).unwrap();
        assert_eq!(claimed_metadata(dir.path(), info.hash()), Some(info.clone()));
        std::fs::write(dir.path().join("x"), b"half").unwrap();
        let mut again = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        again.claim(&info, &mut Bitfield::none(1)).unwrap();
        // The same torrent under another name: what stands there is somebody's.
        std::fs::write(dir.path().join("notes"), b"letter!").unwrap();
        let named =
            Placement::Folder { dir: dir.path().to_owned(), name: Some("notes".into()), overwrite: false };
        let mut other = look(&named, &info).unwrap().unwrap();
        assert!(matches!(
            other.claim(&info, &mut Bitfield::none(1)),
            Err(TransferError::TargetExists { .. })
        ));
        again.release().unwrap();
        again.release().unwrap();
        assert_eq!(claimed_metadata(dir.path(), info.hash()), None);
    }
}
