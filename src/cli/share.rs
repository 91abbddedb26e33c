//! `dhtget share`: makes a torrent of each path, prints its magnet link, serves until told to stop.
//!
//! Owns the order of that. Hashing happens on other threads, so that the node joins the DHT meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::error::{CliError, Code};
use super::get::{goodbye, has_served};
use super::info::write_torrent;
use super::json::{Event, MetadataEvent};
use super::plan::SharePlan;
use super::progress::{bytes, count, is_told, ratio};
use super::report::Reporter;
use super::signals::Signals;
use crate::client::{Client, Job, Placement, Source, Status, Transfer, TransferEvent};
use crate::driver::clock;
use crate::driver::create::{Content, CreateError};
use crate::wire::magnet::Magnet;
use crate::wire::metainfo::{Info, Metainfo};

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// Skipped files named one by one; the rest is a number.
const MAX_NAMED: usize = 5;

/// Shares `plan`.
pub async fn run(plan: &SharePlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let contents = plan.paths.iter().map(|p| Content::scan(p)).collect::<Result<Vec<_>, _>>()?;
    for content in &contents {
        warn_of_skipped(content, reporter);
    }
    let outs = torrent_paths(plan, &contents)?;
    let client = Client::start(plan.client.clone()).await?;
    reporter.tell(&Event::Started {
        command: "share",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: None,
        port: Some(client.port()),
    });
    reporter.detail(&format!("listening on port {}", client.port()));
    let mut transfers = Vec::new();
    let result = share_all(plan, contents, &outs, &client, &mut transfers, reporter, signals).await;
    reporter.clear();
    let sum = sum(&transfers);
    if !transfers.is_empty() {
        let ratio = ratio(sum.uploaded, sum.total);
        reporter.tell(&Event::Seeded { uploaded: sum.uploaded, ratio });
        reporter.note(&format!("seeded: {} sent, ratio {ratio:.2}", bytes(sum.uploaded)));
    }
    goodbye(client, transfers).await;
    result
}

async fn share_all(
    plan: &SharePlan,
    contents: Vec<Content>,
    outs: &[Option<PathBuf>],
    client: &Client,
    transfers: &mut Vec<Transfer>,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    for (content, out) in contents.into_iter().zip(outs) {
        let root = content.root().to_owned();
        let info = Arc::new(hash(content, reporter, signals).await?);
        if let Some(out) = out {
            // Our own of the last run, or another torrent: replaced. Anything else is somebody's file.
            let is_torrent = |old: Vec<u8>| Metainfo::parse(&old.into()).is_ok();
            let replace = out.is_file() && std::fs::read(out).is_ok_and(is_torrent);
            write_torrent(&info, out, replace).map_err(|error| match error.code {
                // There is no `--overwrite` here.
                Code::TargetExists => error.hint("choose another name, or move away what stands there"),
                _ => error,
            })?;
        }
        transfers.push(client.add(Job {
            source: Source::Info(Arc::clone(&info)),
            placement: Placement::InPlace(root.clone()),
            peers: plan.peers.clone(),
            seed: true,
            super_seed: plan.super_seed,
        }));
        announce(plan, &info, &root, out.as_deref(), reporter)?;
    }
    serve(plan, transfers, reporter, signals).await
}

fn warn_of_skipped(content: &Content, reporter: &Reporter) {
    let skipped = content.skipped();
    for path in skipped.iter().take(MAX_NAMED) {
        reporter.note(&format!("warning: {}: not a file or folder (a link?), left out", path.display()));
    }
    if let Some(more @ 1..) = skipped.len().checked_sub(MAX_NAMED) {
        reporter.note(&format!("warning: {more} more were left out"));
    }
}

/// Where each `.torrent` goes: OUT itself for one path, `OUT/NAME.torrent` for several or for a folder.
fn torrent_paths(plan: &SharePlan, contents: &[Content]) -> Result<Vec<Option<PathBuf>>, CliError> {
    let Some(out) = &plan.torrent else { return Ok(vec![None; contents.len()]) };
    if !out.is_dir() && contents.len() == 1 {
        return Ok(vec![Some(out.clone())]);
    }
    if !out.is_dir() {
        let message = format!("--torrent {}: not a folder, and several PATHs are shared", out.display());
        return Err(CliError::new(Code::BadOption, message).hint("make that folder first"));
    }
    let paths: Vec<_> = contents.iter().map(|c| Some(out.join(format!("{}.torrent", c.name())))).collect();
    match paths.iter().enumerate().find(|(i, path)| paths[..*i].contains(path)) {
        None => Ok(paths),
        Some((_, twice)) => {
            let shown = twice.as_deref().unwrap_or(out).display();
            let message = format!("--torrent: two of the PATHs would be written to {shown}");
            Err(CliError::new(Code::BadOption, message).hint("share them one by one"))
        }
    }
}

/// Hashes on other threads while the runtime goes on.
async fn hash(content: Content, reporter: &mut Reporter, signals: &Signals) -> Result<Info, CliError> {
    let (name, total) = (content.name().to_owned(), content.total());
    let done = Arc::new(AtomicU64::new(0));
    let (seen, stop) = (Arc::clone(&done), signals.flag());
    let mut work = tokio::task::spawn_blocking(move || {
        content.hash(
            &|now, _| {
                seen.fetch_max(now, Ordering::Relaxed);
            },
            &stop,
        )
    });
    let mut tick = interval(TICK);
    let joined = loop {
        tokio::select! {
            joined = &mut work => break joined,
            _ = tick.tick() => reporter.working(clock::now(), &name, done.load(Ordering::Relaxed), total),
        }
    };
    reporter.clear();
    match joined {
        Ok(Err(CreateError::Cancelled)) => Err(signals.clone().next().await),
        Ok(result) => Ok(result?),
        Err(panic) => Err(CliError::new(Code::Unknown, format!("{name}: hashing failed: {panic}"))),
    }
}

/// The magnet link on stdout, the rest on stderr.
fn announce(
    plan: &SharePlan,
    info: &Info,
    root: &Path,
    out: Option<&Path>,
    reporter: &Reporter,
) -> Result<(), CliError> {
    let mut magnet = Magnet::new(info.hash());
    magnet.name = Some(info.name().to_owned());
    magnet.peers.clone_from(&plan.x_pe);
    let about = MetadataEvent::new(info, false);
    let files = about.files;
    let event = Event::Shared {
        info_hash: about.info_hash,
        name: info.name(),
        size: about.size,
        files,
        pieces: about.pieces,
        magnet: magnet.to_string(),
        path: root.display().to_string(),
        torrent: out.map(|p| p.display().to_string()),
    };
    let (shown, size) = (count(files, "file"), bytes(info.layout().total()));
    reporter.note(&format!("sharing {}: {shown}, {size}; Ctrl-C ends it", info.name()));
    let printed = if reporter.json() { reporter.event(&event) } else { reporter.data(&magnet.to_string()) };
    match printed.map_err(|e| CliError::of_stdout(&e)) {
        // Sharing is what was asked for; the link is still told to whoever reads stderr.
        Err(error) if error.code == Code::ReaderGone => {
            reporter.note(&format!("nobody reads stdout; the link is {magnet}"));
            Ok(())
        }
        other => other,
    }
}

/// Until every torrent has served enough.
async fn serve(
    plan: &SharePlan,
    transfers: &mut [Transfer],
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let start = clock::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            stop = signals.next() => return Err(stop),
            event = first_event(transfers) => match event {
                Some(TransferEvent::Failed(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(CliError::new(Code::Unknown, "a shared torrent stopped by itself")),
            },
            _ = tick.tick() => {
                let now = clock::now();
                let figures = sum(transfers);
                if is_told(&figures, plan.client.no_dht) {
                    reporter.status(now, &figures, None);
                }
                let served = now.saturating_duration_since(start);
                let enough = |t: &Transfer| {
                    let status = t.status();
                    let status = status.borrow();
                    has_served(&plan.seed, served, status.uploaded, status.total)
                };
                if transfers.iter().all(enough) {
                    return Ok(());
                }
            }
        }
    }
}

/// The next event of any transfer.
async fn first_event(transfers: &mut [Transfer]) -> Option<TransferEvent> {
    let mut pending: Vec<_> = transfers.iter_mut().map(|t| Box::pin(t.next())).collect();
    std::future::poll_fn(|context| {
        let ready = pending.iter_mut().map(|event| event.as_mut().poll(context)).find(|p| p.is_ready());
        ready.unwrap_or(std::task::Poll::Pending)
    })
    .await
}

/// All transfers as one.
fn sum(transfers: &[Transfer]) -> Status {
    let mut sum = Status::default();
    for transfer in transfers {
        let receiver = transfer.status();
        let status = receiver.borrow();
        sum.stage = status.stage;
        sum.total += status.total;
        sum.verified += status.verified;
        sum.pieces_verified += status.pieces_verified;
        sum.uploaded += status.uploaded;
        sum.upload_rate += status.upload_rate;
        sum.peers_known += status.peers_known;
        sum.peers_connected += status.peers_connected;
        sum.announced_to += status.announced_to;
        sum.dht_nodes = status.dht_nodes;
        sum.dht_asked = status.dht_asked;
        sum.dht_trouble.clone_from(&status.dht_trouble);
    }
    sum
}
