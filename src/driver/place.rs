//! Taking a place on disk for a download: what is there, whether it is ours, and the claim that says so.
//!
//! The claim is a hidden file beside the target, `.<info-hash>.dhtget`. It holds the torrent, so that a
//! second run knows the metadata and that what lies there is its own; it goes when the download is complete.
//! What is known of its pieces stands in a second file beside it (`resume`). Plain blocking code.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::resume::ResumeFile;
use super::storage::{Present, Storage};
use super::transfer::{DiskOptions, Placement, TransferError, disk_full};
use crate::id::InfoHash;
use crate::peer::Bitfield;
use crate::swarm::resume;
use crate::wire::bencode::{Limits, Value, Writer};
use crate::wire::metainfo::{Info, MAX_METADATA_BYTES, Metainfo, PieceIndex};
use crate::wire::resume::Stamp;

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
    /// Files of ours that are longer than they must be.
    too_long: Vec<usize>,
    claim: Option<PathBuf>,
}

/// Looks at the place without changing anything in it, except that missing folders above it are made.
pub fn look(
    placement: &Placement,
    info: &Info,
    options: DiskOptions,
) -> Result<Option<Place>, TransferError> {
    match placement {
        Placement::Nowhere => Ok(None),
        Placement::InPlace(path) => {
            let storage = Storage::in_place(path, info).map_err(|e| disk_error(path, &e))?;
            Ok(Some(Place {
                storage: Arc::new(storage),
                to_check: vec![],
                trusted: Bitfield::all(info.layout().count()),
                stamps: vec![],
                resume: None,
                reopened: false,
                doubtful: vec![],
                too_long: vec![],
                claim: None,
            }))
        }
        Placement::Folder { dir, name, overwrite } => {
            let storage =
                Storage::for_download(dir, name.as_deref(), info).map_err(|e| disk_error(dir, &e))?;
            let claim = claim_path(dir, &info.hash());
            // A claim under another name says nothing about what stands under this one.
            let claimed = claimed_name(&claim).as_deref() == Some(storage.name());
            let resume = Arc::new(ResumeFile::beside(&claim));
            let saved = if claimed && !options.check { resume.load() } else { None };
            let mut place = Place {
                storage: Arc::new(storage.allocating(options.allocation)),
                to_check: Vec::new(),
                trusted: Bitfield::none(info.layout().count()),
                stamps: Vec::new(),
                resume: Some(resume),
                reopened: saved.as_ref().is_some_and(|s| s.clean),
                doubtful: Vec::new(),
                too_long: Vec::new(),
                claim: Some(claim),
            };
            place.survey(*overwrite || claimed)?;
            let verdict = resume::judge(info, place.storage.name(), saved.as_ref(), &place.stamps);
            (place.trusted, place.to_check) = (verdict.trusted, verdict.check);
            Ok(Some(place))
        }
    }
}

impl Place {
    fn survey(&mut self, ours: bool) -> Result<(), TransferError> {
        self.stamps = vec![None; self.storage.len()];
        for index in 0..self.storage.len() {
            let Some((_, length)) = self.storage.range(index) else { continue };
            let found = self.storage.look(index).map_err(|e| disk_error(&self.storage.path(index), &e))?;
            let stamp = match found {
                Present::Nothing => continue,
                Present::InTheWay(what) => return Err(in_the_way(&self.storage.path(index), what)),
                Present::File(stamp) => stamp,
            };
            if stamp.size > length && !ours {
                let what = format!("a file of {} bytes is there, and the torrent's has {length}", stamp.size);
                return Err(in_the_way(&self.storage.path(index), what));
            }
            if stamp.size > length {
                self.too_long.push(index);
            } else if stamp.size > 0 && !ours {
                self.doubtful.push(index);
            }
            self.stamps[index] = Some(stamp);
        }
        Ok(())
    }

    /// Once the pieces have been checked: refuses what is not ours, then claims the place.
    pub fn claim(&self, info: &Info, have: &Bitfield) -> Result<(), TransferError> {
        for &index in &self.doubtful {
            let Some((offset, length)) = self.storage.range(index) else { continue };
            if !info.layout().touching(offset, length).any(|p| have.has(p.get())) {
                let what = "a file is there that has nothing of this torrent in it".to_owned();
                return Err(in_the_way(&self.storage.path(index), what));
            }
        }
        let Some(claim) = &self.claim else { return Ok(()) };
        let missing: u64 = info
            .layout()
            .pieces()
            .filter(|p| !have.has(p.get()))
            .map(|p| u64::from(info.layout().len_of(p)))
            .sum();
        if missing == 0 {
            return self.release();
        }
        if let Some(free) = self.storage.free_space().filter(|&free| free < missing) {
            let cause = format!("no space left: {missing} bytes are missing and {free} are free");
            return Err(TransferError::Disk { path: shown(self.storage.root()), cause, full: true });
        }
        let temporary = claim.with_extension("dhtget-new");
        std::fs::write(&temporary, claim_bytes(info, self.storage.name()))
            .and_then(|()| std::fs::rename(&temporary, claim))
            .map_err(|e| disk_error(claim, &e))
    }

    /// Creates the files of no bytes, which no piece ever brings, and cuts those that are too long. The
    /// place must be claimed.
    pub fn create_empty_files(&self) -> Result<(), TransferError> {
        for index in (0..self.storage.len()).filter(|_| self.claim.is_some()) {
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
        match self.claim.as_ref().map(|claim| (claim, std::fs::remove_file(claim))) {
            Some((claim, Err(e))) if e.kind() != io::ErrorKind::NotFound => Err(disk_error(claim, &e)),
            _ => Ok(()),
        }
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

    fn info(content: &[u8]) -> Info {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(content.len() as i64).bytes(b"name").bytes(b"x");
        w.bytes(b"piece length").int(16384).bytes(b"pieces").bytes(&Sha1::digest(content)).end();
        Info::parse(out.into()).unwrap()
    }

    fn look(placement: &Placement, info: &Info) -> Result<Option<Place>, TransferError> {
        super::look(placement, info, DiskOptions::default())
    }

    fn folder(dir: &Path, overwrite: bool) -> Placement {
        Placement::Folder { dir: dir.to_owned(), name: None, overwrite }
    }

    #[test]
    fn a_strangers_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let info = info(b"content");
        std::fs::write(dir.path().join("x"), b"letter!").unwrap();
        let place = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        assert_eq!(place.to_check.len(), 1);
        let refused = place.claim(&info, &Bitfield::none(1));
        assert!(matches!(refused, Err(TransferError::TargetExists { .. })), "{refused:?}");
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"letter!");
        assert!(
            look(&folder(dir.path(), true), &info).unwrap().unwrap().claim(&info, &Bitfield::none(1)).is_ok()
        );
        std::fs::write(dir.path().join("x"), b"longer than the torrent's").unwrap();
        std::fs::remove_file(claim_path(dir.path(), &info.hash())).unwrap();
        assert!(matches!(look(&folder(dir.path(), false), &info), Err(TransferError::TargetExists { .. })));
    }

    #[test]
    fn a_folder_in_the_files_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let refused = look(&folder(dir.path(), true), &info(b"content"));
        assert!(matches!(refused, Err(TransferError::TargetExists { what, .. }) if what.contains("folder")));
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
        let place = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        place.claim(&info, &Bitfield::none(1)).unwrap();
        assert_eq!(claimed_metadata(dir.path(), info.hash()), Some(info.clone()));
        std::fs::write(dir.path().join("x"), b"half").unwrap();
        let again = look(&folder(dir.path(), false), &info).unwrap().unwrap();
        again.claim(&info, &Bitfield::none(1)).unwrap();
        // The same torrent under another name: what stands there is somebody's.
        std::fs::write(dir.path().join("notes"), b"letter!").unwrap();
        let named =
            Placement::Folder { dir: dir.path().to_owned(), name: Some("notes".into()), overwrite: false };
        let other = look(&named, &info).unwrap().unwrap();
        assert!(matches!(other.claim(&info, &Bitfield::none(1)), Err(TransferError::TargetExists { .. })));
        again.release().unwrap();
        again.release().unwrap();
        assert_eq!(claimed_metadata(dir.path(), info.hash()), None);
    }
}
