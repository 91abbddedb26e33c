//! What a transfer tells its owner: milestones at once, figures four times a second, failures once.

use std::time::{Duration, Instant};

use tracing::debug;

use super::Download;
use crate::driver::clock;
use crate::driver::place::Place;
use crate::driver::transfer::{Bottleneck, Stage, Status, TransferError, TransferEvent};
use crate::swarm::explain::is_used_up;
use crate::wire::metainfo::PieceIndex;

/// How often figures are published while they change.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// A network that waits for the disk this share of the time is held up by it; in between, queues are only full now and then.
const DISK_WAIT_PERCENT: u32 = 20;
/// A thread that is busy this share of the time can do little more.
const BUSY_PERCENT: u32 = 90;

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
        if matches!(said, Bottleneck::NobodyAsks { .. } | Bottleneck::NoPeers) {
            return Some(said);
        }
        let percent = self.strain.disk_percent();
        if percent >= DISK_WAIT_PERCENT {
            return Some(Bottleneck::Disk { percent });
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
        self.strain.look(now);
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
