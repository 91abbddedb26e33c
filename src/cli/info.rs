//! `dhtget info`: what a torrent holds, from its file or from peers, without its data.
//!
//! Owns that description and the writing of a `.torrent`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::error::{CliError, Code};
use super::get::goodbye;
use super::json::{Event, MetadataEvent};
use super::plan::InfoPlan;
use super::pointer;
use super::progress::{Patience, bytes, is_told};
use super::report::Reporter;
use super::signals::Signals;
use super::target::Target;
use super::text::visible;
use crate::client::{Client, Job, Placement, Transfer, TransferEvent};
use crate::driver::clock;
use crate::wire::magnet::Magnet;
use crate::wire::metainfo::{FileEntry, FileKind, Info, Metainfo};

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);

/// Describes `plan`.
pub async fn run(plan: &InfoPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    plan.target.lost().iter().for_each(|n| reporter.note(n));
    let info = match &plan.target {
        Target::Torrent { info, .. } => {
            started(plan, reporter, None);
            Arc::clone(info)
        }
        _ => ask_peers(plan, reporter, signals).await?,
    };
    let told = reporter.event(&Event::Metadata(MetadataEvent::new(&info, true)));
    if let Some(out) = &plan.torrent {
        write_torrent(&info, out, plan.overwrite)?;
        reporter.note(&format!("wrote {}", out.display()));
    }
    told.and_then(|()| reporter.data(description(&info).trim_end())).map_err(|e| CliError::of_stdout(&e))
}

fn started(plan: &InfoPlan, reporter: &Reporter, port: Option<u16>) {
    let info_hash = plan.target.torrent().map(|t| t.hash.to_string());
    reporter.tell(&Event::Started { command: "info", version: env!("CARGO_PKG_VERSION"), info_hash, port });
}

async fn ask_peers(
    plan: &InfoPlan,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<Arc<Info>, CliError> {
    let client = Client::start(plan.client.clone()).await?;
    started(plan, reporter, Some(client.port()));
    let torrent = match pointer::settle(&client, &plan.target, reporter, signals).await {
        Ok(torrent) => torrent,
        Err(error) => {
            goodbye(client, Vec::new()).await;
            return Err(error);
        }
    };
    let mut transfer = client.add(Job {
        source: torrent.source,
        placement: Placement::Nowhere,
        peers: plan.peers.clone(),
        seed: false,
        super_seed: false,
    });
    let result = wait(plan, &mut transfer, reporter, signals).await;
    reporter.clear();
    goodbye(client, vec![transfer]).await;
    result
}

async fn wait(
    plan: &InfoPlan,
    transfer: &mut Transfer,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<Arc<Info>, CliError> {
    let status = transfer.status();
    let mut patience = Patience::new(plan.stop_timeout, clock::now()).with_peers(!plan.peers.is_empty());
    let name = plan.target.name().map(visible);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            stop = signals.next() => return Err(stop),
            event = transfer.next() => match event {
                Some(TransferEvent::Metadata(info)) => return Ok(info),
                Some(TransferEvent::Failed(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(CliError::new(Code::NotFound, "the transfer ended without the metadata")),
            },
            _ = tick.tick() => {
                let (now, status) = (clock::now(), status.borrow().clone());
                if !is_told(&status, plan.client.no_dht) {
                    continue;
                }
                reporter.status(now, &status, name.as_deref());
                patience.check(now, &status)?;
            }
        }
    }
}

/// What stdout shows.
fn description(info: &Info) -> String {
    let layout = info.layout();
    let files = info.files().iter().zip(1..).filter(|(f, _)| f.kind == FileKind::Regular);
    let files: Vec<(&FileEntry, usize)> = files.collect();
    let mut magnet = Magnet::new(info.hash());
    magnet.name = Some(info.name().to_owned());
    let (total, piece) = (layout.total(), u64::from(layout.piece_length()));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "name:     {}", info.name());
    let _ = writeln!(out, "hash:     {}", info.hash());
    let _ = writeln!(out, "magnet:   {magnet}");
    let _ = writeln!(out, "size:     {total} bytes ({})", bytes(total));
    let _ = writeln!(out, "pieces:   {} of {}", layout.count(), bytes(piece));
    let _ = writeln!(out, "private:  {}", if info.is_private() { "yes" } else { "no" });
    let _ = writeln!(out, "files:    {}", files.len());
    for (file, number) in files {
        let folder = if info.is_multi_file() { format!("{}/", info.name()) } else { String::new() };
        let _ = writeln!(out, "{number:>5} {:>15}  {folder}{}", file.length, file.path);
    }
    out
}

/// Writes a `.torrent` beside its place and moves it there, so that no half file is ever seen.
pub fn write_torrent(info: &Info, out: &Path, overwrite: bool) -> Result<(), CliError> {
    let bytes = Metainfo::emit(info);
    // A pipe would be read without end.
    let is_ours = || out.is_file() && std::fs::read(out).ok().as_deref() == Some(&bytes);
    if out.is_dir() || (!overwrite && out.exists() && !is_ours()) {
        let (what, hint) = match out.is_dir() {
            true => ("a folder", "choose another name, or move the folder away"),
            false => ("a different file", "choose another name, or give --overwrite"),
        };
        let message = format!("--torrent {}: {what} stands there already", out.display());
        return Err(CliError::new(Code::TargetExists, message).hint(hint));
    }
    let failed = |error: std::io::Error| {
        let full =
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let code = if full { Code::DiskFull } else { Code::Unknown };
        CliError::new(code, format!("--torrent {}: {error}", out.display()))
            .hint("check that its folder exists, may be written and has room")
    };
    let mut part = out.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create_new(&part)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, out)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&part);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;

    fn sample() -> Info {
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"length").int(5).bytes(b"name").bytes(b"a.txt");
        w.bytes(b"piece length").int(16_384).bytes(b"pieces").bytes(&[7; 20]);
        w.bytes(b"private").int(1).end();
        Info::parse(raw.into()).unwrap()
    }

    #[test]
    fn a_description_names_everything() {
        let text = description(&sample());
        for word in ["a.txt", "5 bytes", "1 of 16.0 KiB", "private:  yes", "magnet:?xt=urn:btih:"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_torrent_file_is_never_written_over_silently() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a.torrent");
        write_torrent(&sample(), &out, false).unwrap();
        write_torrent(&sample(), &out, false).unwrap();
        std::fs::write(&out, "mine").unwrap();
        assert_eq!(write_torrent(&sample(), &out, false).unwrap_err().code, Code::TargetExists);
        write_torrent(&sample(), &out, true).unwrap();
        assert_eq!(Metainfo::parse(&std::fs::read(&out).unwrap().into()).unwrap().info, sample());
        assert_eq!(write_torrent(&sample(), dir.path(), true).unwrap_err().code, Code::TargetExists);
        assert_eq!(write_torrent(&sample(), &dir.path().join("no/x"), true).unwrap_err().code, Code::Unknown);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
