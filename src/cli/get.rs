//! `dhtget get`: fetches one torrent, shows how, and seeds where that was asked for.
//!
//! Owns the order of a run: start, watch, say goodbye. Must not know sockets or files; the client does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::error::{CONTINUES, CliError, Code};
use super::json::{Event, MetadataEvent};
use super::plan::{GetPlan, SeedGoal};
use super::pointer;
use super::progress::{Patience, bytes, count, is_told, ratio, seconds};
use super::report::Reporter;
use super::signals::Signals;
use super::text::visible;
use crate::client::{Client, Job, Placement, Status, Transfer, TransferEvent};
use crate::driver::clock;
use crate::wire::metainfo::{FileKind, Info};

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// Goodbyes take no longer than this: a peer or disk that hangs must not hold us.
const GOODBYE: Duration = Duration::from_secs(10);

/// Said once for a private torrent (BEP 27).
const PRIVATE: &str = "this torrent is private: it is neither looked up nor announced, and trackers are not supported; \
                       peers that are named can be reached (`--peer HOST:PORT`, or `x.pe` in the link)";

/// What a run has learnt so far.
struct Run<'a> {
    plan: &'a GetPlan,
    reporter: &'a mut Reporter,
    name: Option<String>,
    path: Option<PathBuf>,
    patience: Patience,
    complete: Option<Instant>,
}

/// Fetches `plan`.
pub async fn run(plan: &GetPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    plan.lost.iter().for_each(|n| reporter.note(n));
    plan.target.unused().iter().for_each(|n| reporter.detail(n));
    let client = Client::start(plan.client.clone()).await?;
    reporter.tell(&Event::Started {
        command: "get",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: plan.target.torrent().map(|t| t.hash.to_string()),
        port: Some(client.port()),
    });
    reporter.detail(&format!("listening on port {}", client.port()));
    let torrent = match pointer::settle(&client, &plan.target, reporter, signals).await {
        Ok(torrent) => torrent,
        Err(error) => {
            goodbye(client, Vec::new()).await;
            return Err(error);
        }
    };
    let job = Job {
        source: torrent.source,
        placement: plan.placement.clone(),
        peers: plan.peers.clone(),
        seed: plan.seed.is_some(),
        super_seed: plan.super_seed,
    };
    let mut transfer = client.add_chosen(job, plan.choice.clone());
    let name = plan.target.name().map(visible);
    let patience = Patience::new(plan.stop_timeout, clock::now()).with_peers(!plan.peers.is_empty());
    let mut run = Run { plan, reporter, name, path: None, patience, complete: None };
    let result = run.watch(&mut transfer, signals).await;
    let is_stream = matches!(plan.placement, Placement::Stream { .. });
    let result = result.map_err(|error| if is_stream { error.of_a_stream() } else { error });
    run.reporter.clear();
    let status = transfer.status().borrow().clone();
    goodbye(client, vec![transfer]).await;
    if run.complete.is_some() && plan.seed.is_some() {
        let ratio = ratio(status.uploaded, status.total);
        run.reporter.tell(&Event::Seeded { uploaded: status.uploaded, ratio });
        run.reporter.note(&format!("seeded: {} sent, ratio {ratio:.2}", bytes(status.uploaded)));
    }
    result
}

/// Flushes and closes, within [`GOODBYE`].
pub async fn goodbye(client: Client, transfers: Vec<Transfer>) {
    let farewell = async {
        for transfer in transfers {
            transfer.stop().await;
        }
        client.shutdown().await;
    };
    if timeout(GOODBYE, farewell).await.is_err() {
        tracing::warn!("the goodbye took too long; the next run verifies what is on disk");
    }
}

impl Run<'_> {
    /// Until it is complete and has seeded enough, or cannot go on.
    async fn watch(&mut self, transfer: &mut Transfer, signals: &mut Signals) -> Result<(), CliError> {
        let status = transfer.status();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                stop = signals.next() => return Err(self.stopped(stop)),
                event = transfer.next() => {
                    let now = status.borrow().clone();
                    if self.on_event(event, &now)? {
                        return Ok(());
                    }
                }
                _ = tick.tick() => {
                    let now = status.borrow().clone();
                    if self.on_tick(clock::now(), &now)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// True once the run is over.
    fn on_event(&mut self, event: Option<TransferEvent>, status: &Status) -> Result<bool, CliError> {
        match event {
            Some(TransferEvent::FirstPeer(peer)) => tracing::debug!(%peer, "first peer"),
            Some(TransferEvent::Metadata(info)) => self.on_metadata(&info),
            Some(TransferEvent::Chosen { files, bytes }) => self.on_chosen(&files, bytes),
            Some(TransferEvent::Checked { verified, path }) => {
                self.reporter.tell(&Event::Checked { verified, path: path.display().to_string() });
                if verified > 0 {
                    let (have, all) = (bytes(verified), bytes(status.total));
                    self.reporter.note(&format!("{have} of {all} are here already and verified"));
                }
                // A stream leaves nothing there.
                self.path = Some(path).filter(|_| !matches!(self.plan.placement, Placement::Stream { .. }));
            }
            Some(TransferEvent::FirstPiece) => self.reporter.first_piece(status),
            Some(TransferEvent::Half) => {}
            Some(TransferEvent::Complete) => {
                self.on_complete(status);
                return Ok(self.plan.seed.is_none());
            }
            Some(TransferEvent::Failed(error)) => return Err(error.into()),
            None if self.complete.is_some() => return Ok(true),
            None => return Err(CliError::new(Code::Unknown, "the transfer ended before it was complete")),
        }
        Ok(false)
    }

    fn on_metadata(&mut self, info: &Arc<Info>) {
        self.name = Some(info.name().to_owned());
        self.reporter.tell(&Event::Metadata(MetadataEvent::new(info, false)));
        let files = info.files().iter().filter(|f| f.kind == FileKind::Regular).count();
        let layout = info.layout();
        let (files, size) = (count(files, "file"), bytes(layout.total()));
        let pieces = count(layout.count() as usize, "piece");
        self.reporter.note(&format!("{}: {files}, {size} in {pieces}", info.name()));
        if info.is_private() {
            self.reporter.note(PRIVATE);
        }
    }

    fn on_chosen(&mut self, files: &[usize], size: u64) {
        let numbers: Vec<usize> = files.iter().map(|file| file + 1).collect();
        self.reporter.note(&format!("selected: {}, {}", count(files.len(), "file"), bytes(size)));
        self.reporter.tell(&Event::Selected { numbers, size });
    }

    fn on_complete(&mut self, status: &Status) {
        let now = clock::now();
        self.complete = Some(now);
        self.reporter.last_status(status);
        let ratio = ratio(status.uploaded, status.total);
        let path = self.path.as_ref().map(|p| p.display().to_string());
        self.reporter.tell(&Event::Finished {
            bytes: status.total,
            downloaded: status.downloaded,
            uploaded: status.uploaded,
            wasted: status.wasted,
            ratio,
            path: path.clone(),
        });
        let took = now.saturating_duration_since(self.reporter.start());
        let rate = bytes((status.downloaded as f64 / took.as_secs_f64().max(0.001)) as u64);
        let (total, took) = (bytes(status.total), seconds(took));
        let to = path.map(|p| format!(" -> {p}")).unwrap_or_default();
        self.reporter.note(&format!("done: {total} in {took}, {rate}/s, ratio {ratio:.2}{to}"));
    }

    /// True once a seed has served enough.
    fn on_tick(&mut self, now: Instant, status: &Status) -> Result<bool, CliError> {
        if !is_told(status, self.plan.client.no_dht) {
            return Ok(false);
        }
        self.reporter.status(now, status, self.name.as_deref());
        match self.complete {
            Some(since) => {
                let goal = self.plan.seed.unwrap_or_default();
                Ok(has_served(&goal, now.saturating_duration_since(since), status.uploaded, status.total))
            }
            None => self.patience.check(now, status).map(|()| false),
        }
    }

    fn stopped(&self, stop: CliError) -> CliError {
        match self.complete {
            Some(_) => stop,
            None => stop.hint(format!("run the same command again: {CONTINUES}")),
        }
    }
}

/// Whether a seed may leave.
pub fn has_served(goal: &SeedGoal, served: Duration, uploaded: u64, total: u64) -> bool {
    goal.time.is_some_and(|time| served >= time)
        || goal.ratio.is_some_and(|wanted| total == 0 || ratio(uploaded, total) >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_leaves_when_either_goal_is_reached() {
        let goal = SeedGoal { time: Some(Duration::from_secs(10)), ratio: Some(2.0) };
        assert!(!has_served(&goal, Duration::from_secs(9), 199, 100));
        assert!(has_served(&goal, Duration::from_secs(10), 0, 100));
        assert!(has_served(&goal, Duration::ZERO, 200, 100));
        assert!(!has_served(&SeedGoal::default(), Duration::MAX, u64::MAX, 1));
    }
}
