//! Keeping what is verified: carries the ledger's plans to the disk, and its answers back.

use tracing::{debug, warn};

use super::Download;
use crate::driver::clock;
use crate::driver::disk::Done;
use crate::driver::resume::{Ground, SaveError};
use crate::driver::transfer::{TransferError, disk_full};
use crate::peer::Bitfield;
use crate::swarm::resume::Ledger;
use crate::wire::metainfo::PieceIndex;
use crate::wire::resume::Stamp;

impl Download {
    /// The place is claimed, and `have` is verified or trusted there.
    pub(super) fn begin_keeping(&mut self, have: &Bitfield) {
        let (Some(place), Some(info)) = (&mut self.place, &self.info) else { return };
        if place.resume.is_none() || have.is_complete() {
            return;
        }
        let trusted = std::mem::take(&mut place.trusted);
        let (stamps, name) = (std::mem::take(&mut place.stamps), place.storage.name().to_owned());
        let reopened = place.reopened;
        self.ledger = Some(Ledger::new(clock::now(), info.clone(), name, stamps, trusted, have, reopened));
    }

    /// Starts a sync where one is due.
    pub(super) fn keep(&mut self) {
        let Some(plan) = self.ledger.as_mut().and_then(|l| l.poll_save(clock::now())) else { return };
        let (Some(ground), Some((disk, _))) = (self.ground(), &mut self.disk) else { return };
        if let Err(error) = disk.save(plan, || ground) {
            self.on_saved(Err(SaveError::State(error)));
        }
    }

    fn ground(&self) -> Option<Ground> {
        let place = self.place.as_ref()?;
        Some(Ground::new(place.storage.clone(), place.resume.clone()?))
    }

    pub(super) fn note_written(&mut self, piece: PieceIndex) {
        if let Some(ledger) = &mut self.ledger {
            ledger.on_write(piece);
        }
    }

    pub(super) fn note_verified(&mut self, piece: PieceIndex) {
        if let Some(ledger) = &mut self.ledger {
            ledger.on_verified(clock::now(), piece);
        }
    }

    pub(super) fn on_saved(&mut self, outcome: Result<Vec<Option<Stamp>>, SaveError>) {
        let Some(ledger) = &mut self.ledger else { return };
        match outcome {
            Ok(stamps) => ledger.on_saved(clock::now(), Some(stamps)),
            // The old state stands, and the next one claims what this one would have.
            Err(SaveError::State(error)) => {
                warn!("what is verified cannot be noted for the next run: {error}");
                ledger.on_saved(clock::now(), None);
            }
            // The system may have dropped what it had taken: nothing of it is vouched for any more.
            Err(SaveError::Data(error)) => {
                self.ledger = None;
                let path = self.place.as_ref().map(|p| p.storage.root().display().to_string());
                let (cause, full) = (format!("cannot be synced: {error}"), disk_full(&error));
                self.fail(TransferError::Disk { path: path.unwrap_or_default(), cause, full });
            }
        }
    }

    /// Lets the disk finish what it was given; then the next run may believe what this one has verified.
    pub(super) async fn end_disk(&mut self) {
        let Some((disk, mut answers)) = self.disk.take() else { return };
        // A full disk never finishes; what it was given is not lost knowledge, only unwritten.
        if self.waiting_threads > 0 {
            return;
        }
        let ground = tokio::task::spawn_blocking(move || disk.finish()).await;
        let Ok(ground) = ground else {
            return debug!("a disk thread did not end well");
        };
        while let Ok(done) = answers.try_recv() {
            match done {
                Done::Hashed(piece, true) => self.note_verified(piece),
                Done::Failed(..) | Done::Saved(Err(SaveError::Data(_))) => self.ledger = None,
                _ => {}
            }
        }
        let plan = self.ledger.as_mut().and_then(Ledger::last);
        if let (Some(plan), Some(mut ground)) = (plan, ground.or_else(|| self.ground())) {
            let saved = tokio::task::spawn_blocking(move || ground.save(plan)).await;
            if let Ok(Err(SaveError::Data(error) | SaveError::State(error))) = saved {
                warn!("the next run verifies what is on disk: {error}");
            }
        }
    }
}
