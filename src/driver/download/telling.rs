//! What a transfer tells its owner: milestones at once, figures four times a second, failures once.

use std::time::{Duration, Instant};

use tracing::debug;

use super::Download;
use crate::driver::clock;
use crate::driver::place::Place;
use crate::driver::strain::Work;
use crate::driver::transfer::{Bottleneck, Stage, Status, TransferError, TransferEvent};
use crate::swarm::explain::is_used_up;
use crate::wire::metainfo::PieceIndex;

/// How often figures are published while they change.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// A network that waits for the disk threads this share of the time is held up by it; in between, queues are only full now and then.
const DISK_WAIT_PERCENT: u32 = 20;
/// A thread that is busy this share of the time can do little more.
const BUSY_PERCENT: u32 = 90;

/// Where nobody is asked any more, and a reader has not taken what is ready, it is him for whom everything waits.
fn held_by_reader(said: Bottleneck, unread: u64) -> Option<Bottleneck> {
    let rests = matches!(
        said,
        Bottleneck::NothingToAsk { .. } | Bottleneck::NobodyAsks { .. } | Bottleneck::Receivers { .. }
    );
    (rests && unread > 0).then_some(Bottleneck::Reader { unread })
}

impl Download {
    pub(super) fn fail(&mut self, error: TransferError) {
        if !self.ended {
            self.tell(TransferEvent::Failed(error));
            self.ended = true;
        }
    }

    /// What the swarm says, unless what it stands on is the cause.
    fn bottleneck(&self, now: Instant) -> Option<Bottleneck> {
        let said = self.swarm.bottleneck(now)?;
        let unread = self.stream.as_ref().map_or(0, |(stream, _)| stream.unread());
        if let Some(reader) = held_by_reader(said, unread) {
            return Some(reader);
        }
        if matches!(said, Bottleneck::NobodyAsks { .. } | Bottleneck::NoPeers) {
            return Some(said);
        }
        if let Some(threads) = held_by(self.strain.held_percent(), self.strain.work()) {
            return Some(threads);
        }
        if let (Bottleneck::Receivers { rate, .. }, Some(limit)) = (said, self.around.links.upload.rate())
            && is_used_up(rate, limit)
        {
            return Some(Bottleneck::UploadLimit { rate, limit });
        }
        let percent = self.strain.cpu_percent();
        let flows = matches!(
            said,
            Bottleneck::Senders { .. } | Bottleneck::Pipeline { .. } | Bottleneck::Receivers { .. }
        );
        Some(if flows && percent >= BUSY_PERCENT { Bottleneck::Processor { percent } } else { said })
    }

    pub(super) fn on_verified(&mut self, piece: PieceIndex) {
        if let Some((stream, _)) = &mut self.stream {
            stream.on_verified(piece);
        }
        if !self.first_piece_told {
            self.first_piece_told = true;
            self.publish(true);
            self.tell(TransferEvent::FirstPiece);
        }
        let (verified, total) = (self.swarm.verified(), self.total());
        if !self.half_told && verified * 2 >= total {
            self.half_told = true;
            self.publish(true);
            self.tell(TransferEvent::Half);
        }
    }

    pub(super) fn on_complete(&mut self) {
        if self.stream.as_ref().is_some_and(|(stream, _)| !stream.is_done()) {
            // Complete is what the reader has; he is still at it.
            return;
        }
        self.ledger = None;
        if let Some(Err(error)) = self.place.as_ref().map(Place::release) {
            return self.fail(error);
        }
        self.stage = Stage::Seeding;
        self.publish(true);
        self.tell(TransferEvent::Complete);
        self.ended = !self.job.seed;
    }

    pub(super) fn tell(&self, event: TransferEvent) {
        // Milestones are few; an owner that reads none of sixty has lost interest.
        if self.events.try_send(event).is_err() {
            debug!("nobody listens to this transfer's milestones");
        }
    }

    pub(super) fn publish(&mut self, at_once: bool) {
        let now = clock::now();
        if now < self.publish_at && !at_once {
            return;
        }
        self.publish_at = now + PUBLISH_EVERY;
        let (stats, finding) = (self.swarm.stats(now), self.finding.borrow().clone());
        let stage = match self.stage {
            Stage::JoiningDht if stats.connected > 0 => Stage::Metadata,
            Stage::JoiningDht if stats.known > 0 => Stage::Connecting,
            Stage::JoiningDht if finding.nodes > 0 => Stage::LookingForPeers,
            other => other,
        };
        self.strain.look(now, self.disk.as_ref().map(|(disk, _)| disk.toil()));
        let status = Status {
            bottleneck: self.bottleneck(now),
            stage,
            total: self.total(),
            verified: stats.verified,
            pieces_verified: stats.pieces,
            downloaded: stats.downloaded,
            uploaded: stats.uploaded,
            sources: stats.sources,
            wasted: stats.wasted,
            download_rate: stats.download_rate,
            upload_rate: stats.upload_rate,
            peers_known: stats.known,
            peers_connected: stats.connected,
            peers_unchoking: stats.unchoking,
            peers_interesting: stats.interesting,
            dials_failed: stats.failures,
            peers_banned: stats.banned,
            metadata_blocks: stats.metadata_blocks,
            checked: self.check.as_ref().map_or((0, 0), |c| c.bytes),
            dht_nodes: finding.nodes,
            dht_trouble: finding.trouble,
            dht_asked: finding.asked,
            announced_to: finding.announced_to,
            disk_trouble: self.disk_trouble.clone(),
            unreadable: self.unreadable.clone(),
            private: self.info.as_ref().is_some_and(|i| i.is_private()),
            unread: self.stream.as_ref().map_or(0, |(stream, _)| stream.unread()),
            // Whole seconds: a figure that always moves would wake watchers for nothing.
            idle: Duration::from_secs(now.saturating_duration_since(self.last_arrival).as_secs()),
        };
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

/// Which of a disk thread's two tasks the network waits for, if for any. A write that takes seconds is only known when it ends,
/// so hashing must have taken its part of the wait to be the cause.
fn held_by(percent: u32, work: Work) -> Option<Bottleneck> {
    if percent < DISK_WAIT_PERCENT {
        return None;
    }
    let hashes = work.hashing > work.moving && work.hashing * 2 >= u64::from(percent);
    let busy = (work.hashing + work.moving).max(1);
    let share = u32::try_from(work.hashing * 100 / busy).unwrap_or(100);
    Some(match hashes {
        true => Bottleneck::Hashing { percent, share, rate: work.hashed },
        false => Bottleneck::Disk { percent },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_is_named_only_where_all_else_rests() {
        let (idle, done) = (Bottleneck::NothingToAsk { peers: 2 }, Bottleneck::NobodyAsks { peers: 0 });
        assert_eq!(held_by_reader(idle, 9), Some(Bottleneck::Reader { unread: 9 }));
        assert_eq!(held_by_reader(done, 9), Some(Bottleneck::Reader { unread: 9 }));
        assert_eq!(held_by_reader(idle, 0), None);
        assert_eq!(held_by_reader(Bottleneck::Choked { peers: 2 }, 9), None);
    }

    #[test]
    fn hashing_and_writing_are_told_apart() {
        let rate = 400 << 20;
        let held = |percent, hashing, moving| held_by(percent, Work { hashing, moving, hashed: rate });
        assert_eq!(held(19, 200, 0), None, "the network hardly waits");
        assert_eq!(held(60, 150, 50), Some(Bottleneck::Hashing { percent: 60, share: 75, rate }));
        assert_eq!(held(60, 50, 150), Some(Bottleneck::Disk { percent: 60 }));
        assert_eq!(held(60, 50, 50), Some(Bottleneck::Disk { percent: 60 }));
        // A write that has not come back yet has no time; a little hashing does not explain the wait.
        assert_eq!(held(90, 5, 0), Some(Bottleneck::Disk { percent: 90 }));
        assert_eq!(held(90, 0, 0), Some(Bottleneck::Disk { percent: 90 }));
        assert_eq!(held(90, 45, 0), Some(Bottleneck::Hashing { percent: 90, share: 100, rate }));
    }
}
