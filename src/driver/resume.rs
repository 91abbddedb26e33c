//! The resume file: syncing data, then saving what may be claimed of it, in an order that survives a power cut.
//!
//! Owns the order ([`sync_data`], [`put`]), which knows a disk only as [`Medium`], so that the same code runs
//! on a simulated one that loses what was not synced; the file itself; and the thread that does it beside the
//! disk threads, which never wait for a sync. What to claim is decided in `swarm::resume`.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::mpsc as tokio_mpsc;

use super::disk::Done;
use super::lasting;
use super::storage::Storage;
use crate::swarm::resume::Plan;
use crate::wire::resume::{Saved, Stamp};

#[cfg(test)]
mod tests;

/// Beyond so many files one sync of the whole file system costs less than one of each.
const MANY_FILES: usize = 64;
/// A resume file larger than this is none of ours: that of the largest torrent we read is smaller.
const MAX_BYTES: u64 = 64 << 20;

/// What saving needs of a disk.
pub trait Medium {
    /// Makes a file's bytes and size last. A file that is gone is no failure.
    fn sync_file(&mut self, file: usize) -> io::Result<()>;
    /// Makes the names of these files last, with their folders.
    fn sync_names(&mut self, files: &[usize]) -> io::Result<()>;
    /// Makes everything last that was written; false where the system has no such call.
    fn sync_everything(&mut self) -> io::Result<bool>;
    /// A file as it is; none where there is none.
    fn stamp(&mut self, file: usize) -> io::Result<Option<Stamp>>;
    /// Writes the new state beside the old one.
    fn write_beside(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the new state's bytes last.
    fn sync_beside(&mut self) -> io::Result<()>;
    /// Puts the new state into the old one's place.
    fn replace(&mut self) -> io::Result<()>;
    /// Makes that replacement last.
    fn sync_place(&mut self) -> io::Result<()>;
}

/// Makes the data last that a plan speaks for; the state that may be saved then.
pub fn sync_data(medium: &mut impl Medium, plan: Plan) -> io::Result<Saved> {
    let Plan { files, mut saved } = plan;
    if files.len() <= MANY_FILES || !medium.sync_everything()? {
        for &file in &files {
            medium.sync_file(file)?;
        }
        medium.sync_names(&files)?;
    }
    // What is written from here on moves the times, and is verified again after a crash.
    for &file in &files {
        if let Some(stamp) = saved.stamps.get_mut(file) {
            *stamp = medium.stamp(file)?;
        }
    }
    Ok(saved)
}

/// Saves a state whose data lasts.
pub fn put(medium: &mut impl Medium, saved: &Saved) -> io::Result<()> {
    medium.write_beside(&saved.encode())?;
    medium.sync_beside()?;
    medium.replace()?;
    medium.sync_place()
}

/// Where a download's resume file stands, until the download is complete.
#[derive(Debug)]
pub struct ResumeFile {
    path: PathBuf,
    /// Once removed it does not come back, whatever is under way.
    removed: Mutex<bool>,
}

impl ResumeFile {
    /// Beside a claim file of this name.
    pub fn beside(claim: &Path) -> Self {
        Self { path: claim.with_extension("dhtget-resume"), removed: Mutex::new(false) }
    }

    /// What an earlier run saved, if it can be believed to be whole.
    pub fn load(&self) -> Option<Saved> {
        let mut bytes = Vec::new();
        File::open(&self.path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let saved = Saved::decode(&bytes);
        if saved.is_none() {
            tracing::warn!(file = %self.path.display(), "the resume file is damaged: everything is verified");
        }
        saved
    }

    /// The download is complete.
    pub fn remove(&self) -> io::Result<()> {
        *self.removed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.forget()
    }

    /// What an earlier run saved is not believed any more.
    pub fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.path.with_extension("dhtget-resume-new")
    }
}

/// Why nothing was saved.
#[derive(Debug)]
pub enum SaveError {
    /// Data could not be synced: what the system took may be lost.
    Data(io::Error),
    /// The state could not be written: the old one stands.
    State(io::Error),
}

/// The disk as it is.
#[derive(Debug)]
pub struct Ground {
    storage: Arc<Storage>,
    place: Arc<ResumeFile>,
    /// Files whose names this run has synced.
    named: std::collections::BTreeSet<usize>,
}

impl Ground {
    /// The files of `storage`, and their resume file.
    pub fn new(storage: Arc<Storage>, place: Arc<ResumeFile>) -> Self {
        Self { storage, place, named: std::collections::BTreeSet::new() }
    }

    /// Does what a plan says; the stamps it found.
    pub fn save(&mut self, plan: Plan) -> Result<Vec<Option<Stamp>>, SaveError> {
        let saved = sync_data(self, plan).map_err(SaveError::Data)?;
        let place = self.place.clone();
        let removed = place.removed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*removed && let Err(error) = put(self, &saved) {
            let _ = fs::remove_file(place.temporary());
            return Err(SaveError::State(error));
        }
        Ok(saved.stamps)
    }
}

impl Medium for Ground {
    fn sync_file(&mut self, file: usize) -> io::Result<()> {
        match self.storage.file_as_it_is(file).and_then(|f| f.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_names(&mut self, files: &[usize]) -> io::Result<()> {
        let new: Vec<_> = files.iter().copied().filter(|f| !self.named.contains(f)).collect();
        self.storage.sync_names(&new)?;
        self.named.extend(new);
        Ok(())
    }

    fn sync_everything(&mut self) -> io::Result<bool> {
        self.storage.sync_everything()
    }

    fn stamp(&mut self, file: usize) -> io::Result<Option<Stamp>> {
        self.storage.stamp(file)
    }

    fn write_beside(&mut self, bytes: &[u8]) -> io::Result<()> {
        File::create(self.place.temporary())?.write_all(bytes)
    }

    fn sync_beside(&mut self) -> io::Result<()> {
        File::open(self.place.temporary())?.sync_all()
    }

    fn replace(&mut self) -> io::Result<()> {
        fs::rename(self.place.temporary(), &self.place.path)
    }

    fn sync_place(&mut self) -> io::Result<()> {
        lasting::sync_folder_of(&self.place.path);
        Ok(())
    }
}

/// The thread that syncs and saves for one download.
#[derive(Debug)]
pub struct Keeper {
    queue: mpsc::Sender<Plan>,
    thread: std::thread::JoinHandle<Ground>,
}

impl Keeper {
    /// Starts it; each plan is answered with [`Done::Saved`].
    pub fn start(mut ground: Ground, done: tokio_mpsc::UnboundedSender<Done>) -> io::Result<Self> {
        let (queue, plans) = mpsc::channel::<Plan>();
        let thread = std::thread::Builder::new().name("disk-sync".into()).spawn(move || {
            while let Ok(plan) = plans.recv() {
                let _ = done.send(Done::Saved(ground.save(plan)));
            }
            ground
        })?;
        Ok(Self { queue, thread })
    }

    /// Hands over a plan.
    pub fn send(&self, plan: Plan) {
        // A thread that is gone has left its answer out; the run's end saves what there is.
        let _ = self.queue.send(plan);
    }

    /// Waits for what is under way. Blocks.
    pub fn finish(self) -> Option<Ground> {
        drop(self.queue);
        self.thread.join().ok()
    }
}
