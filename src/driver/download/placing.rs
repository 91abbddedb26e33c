//! From the metadata to the first request: the place on disk is looked at, checked and claimed.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Download;
use crate::driver::clock;
use crate::driver::disk::{Disk, Job as DiskJob};
use crate::driver::place::{self, Place};
use crate::driver::transfer::{Placement, Stage, TransferError, TransferEvent};
use crate::peer::Bitfield;
use crate::swarm::Input;
use crate::wire::metainfo::{Info, PieceIndex};

/// Pieces under check at once.
const CHECK_WINDOW: usize = 64;

/// What is being looked at on disk before the download begins.
#[derive(Debug)]
pub(super) struct Check {
    next: usize,
    done: usize,
    have: Bitfield,
    pub(super) bytes: (u64, u64),
}

impl Download {
    pub(super) fn on_info(&mut self, info: Arc<Info>) {
        self.info = Some(info.clone());
        self.last_arrival = clock::now();
        self.tell(TransferEvent::Metadata(info.clone()));
        if matches!(self.job.placement, Placement::Nowhere) {
            self.ended = true;
            return;
        }
        let Some(chosen) = self.choose(&info) else { return };
        self.stage = Stage::Checking;
        let (placement, options) = (self.job.placement.clone(), self.around.disk);
        let (answer, outcome) = oneshot::channel();
        self.placing = Some(outcome);
        tokio::task::spawn_blocking(move || {
            // Nobody listens when the transfer has ended meanwhile.
            let _ = answer.send(place::look(&placement, &info, &chosen, options));
        });
    }

    pub(super) fn on_placed(&mut self, outcome: Result<Option<Place>, TransferError>) {
        self.placing = None;
        let (place, info) = match (outcome, self.info.clone()) {
            (Ok(Some(place)), Some(info)) => (place, info),
            (Err(error), _) => return self.fail(error),
            _ => return,
        };
        let unwritten = self.around.links.chunks.unwritten();
        match Disk::start(place.storage.clone(), info.clone(), unwritten) {
            Ok(disk) => self.disk = Some(disk),
            Err(error) => {
                let path = place.storage.root().display().to_string();
                return self.fail(TransferError::Disk { path, cause: error.to_string(), full: false });
            }
        }
        let have = place.trusted.clone();
        let bytes = place.to_check.iter().map(|&p| u64::from(info.layout().len_of(p))).sum();
        self.place = Some(place);
        self.check = Some(Check { next: 0, done: 0, have, bytes: (0, bytes) });
        self.check_more();
    }

    pub(super) fn on_checked(&mut self, piece: PieceIndex, valid: bool) {
        let (Some(check), Some(info)) = (&mut self.check, &self.info) else { return };
        check.done += 1;
        check.have.set(piece.get(), valid);
        check.bytes.0 += u64::from(info.layout().len_of(piece));
        self.last_arrival = clock::now();
        self.check_more();
    }

    pub(super) fn check_more(&mut self) {
        let (Some(check), Some(place), Some((disk, _))) = (&mut self.check, &self.place, &self.disk) else {
            return;
        };
        while check.next < place.to_check.len() && check.next - check.done < CHECK_WINDOW {
            disk.send(DiskJob::Check(place.to_check[check.next]));
            check.next += 1;
        }
        if check.done == place.to_check.len() {
            self.begin();
        }
    }

    /// Everything on disk is known: the download begins.
    pub(super) fn begin(&mut self) {
        let (Some(mut check), Some(place), Some(info)) = (self.check.take(), &mut self.place, &self.info)
        else {
            return;
        };
        if let Err(error) = place.claim(info, &mut check.have).and_then(|()| place.create_empty_files()) {
            return self.fail(error);
        }
        let verified = self.wanted.verified(info.layout(), &check.have);
        let path = place.storage.root().to_owned();
        self.begin_keeping(&check.have);
        self.stage = Stage::Downloading;
        // Whoever hears of it looks at the figures.
        self.publish(true);
        self.tell(TransferEvent::Checked { verified, path });
        self.begin_stream(&check.have);
        self.swarm.handle(clock::now(), Input::Wanted(self.wanted.clone()));
        self.swarm.handle(clock::now(), Input::DiskReady(check.have));
    }
}
