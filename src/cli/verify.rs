//! `dhtget verify`: compares what lies on disk with a torrent, without changing it.
//!
//! Owns the summary of each file. Must not open a socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::interval;

use super::error::{CliError, Code};
use super::json::{Event, VerifiedFileEvent};
use super::plan::VerifyPlan;
use super::progress::{bytes, count};
use super::report::Reporter;
use super::signals::Signals;
use super::text::visible;
use crate::driver::clock;
use crate::driver::storage::Storage;
use crate::driver::verify::{self, FileReport, FileState};

/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(250);

/// Verifies `plan`.
pub async fn run(plan: &VerifyPlan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    let info = Arc::clone(&plan.info);
    let info_hash = Some(info.hash().to_string());
    reporter.tell(&Event::Started {
        command: "verify",
        version: env!("CARGO_PKG_VERSION"),
        info_hash,
        port: None,
    });
    let storage = Storage::in_place(&plan.path, &info).map_err(|error| absent(plan, &error))?;
    let done = Arc::new(AtomicU64::new(0));
    let (seen, stop, torrent) = (Arc::clone(&done), signals.flag(), Arc::clone(&info));
    let mut work = tokio::task::spawn_blocking(move || {
        let count = |bytes| {
            seen.fetch_add(bytes, Ordering::Relaxed);
        };
        let found = verify::pieces(&storage, &torrent, &count, &stop)?;
        Some(verify::files(&storage, &torrent, &found))
    });
    let begun = clock::now();
    let mut tick = interval(TICK);
    let total = info.layout().total();
    let joined = loop {
        tokio::select! {
            joined = &mut work => break joined,
            // At once: a disk that does not answer would hold the thread that looks at it.
            stop = signals.next() => {
                reporter.clear();
                return Err(stop);
            }
            _ = tick.tick() => reporter.working(clock::now(), info.name(), done.load(Ordering::Relaxed), total),
        }
    };
    reporter.clear();
    let files = match joined {
        Ok(Some(files)) => files,
        Ok(None) => return Err(signals.clone().next().await),
        Err(panic) => return Err(CliError::new(Code::Unknown, format!("verifying failed: {panic}"))),
    };
    tell(&files, reporter).map_err(|e| CliError::of_stdout(&e))?;
    let took = clock::now().saturating_duration_since(begun).as_secs_f64().max(0.001);
    let bad = files.iter().filter(|f| f.state != FileState::Right).count();
    reporter.tell(&Event::Verified { files: files.len(), bad, bytes: total });
    let (all, size) = (count(files.len(), "file"), bytes(total));
    let rate = bytes((total as f64 / took) as u64);
    if bad == 0 {
        reporter.note(&format!("{}: {all}, {size}, all right ({rate}/s)", visible(info.name())));
        return Ok(());
    }
    let message = format!("{}: {bad} of {all} not right", plan.path.display());
    let hint = match files.iter().any(|f| f.state == FileState::Unreadable) {
        true => "see to what cannot be read, or move away what stands in a file's place, and verify again",
        false => "`dhtget TARGET --check-integrity` fetches what is missing or wrong",
    };
    Err(CliError::new(Code::Checksum, message).hint(hint))
}

/// One line, or event, a file; of files that are right only where that was asked for.
fn tell(files: &[FileReport], reporter: &Reporter) -> io::Result<()> {
    for file in files {
        if reporter.json() {
            reporter.event(&Event::File(VerifiedFileEvent::new(file)))?;
        } else if file.state != FileState::Right || reporter.is_verbose() {
            reporter.data(&line(file))?;
        }
    }
    Ok(())
}

fn line(file: &FileReport) -> String {
    let path = visible(&file.path.display().to_string());
    let of = |bad: u32, what: &str| format!("{bad} of {} pieces {what}", file.pieces);
    let mut why: Vec<String> = file.cause.iter().map(|cause| visible(cause)).collect();
    if file.damaged > 0 {
        why.push(of(file.damaged, "damaged"));
    }
    if file.missing > 0 && file.state != FileState::Missing {
        why.push(of(file.missing, "missing"));
    }
    if file.surplus > 0 {
        why.push(format!("{} bytes too long", file.surplus));
    }
    if file.state == FileState::Unproven {
        why.push("shared with files that are not right".into());
    }
    let why = if why.is_empty() { String::new() } else { format!("  ({})", why.join(", ")) };
    format!("{:<8}  {path}{why}", word(file.state))
}

/// As `--json` has it.
pub fn word(state: FileState) -> &'static str {
    match state {
        FileState::Right => "ok",
        FileState::Missing => "missing",
        FileState::Damaged => "damaged",
        FileState::Unreadable => "unreadable",
        FileState::Unproven => "unproven",
    }
}

fn absent(plan: &VerifyPlan, error: &io::Error) -> CliError {
    let message = format!("{}: {error}", plan.path.display());
    CliError::new(Code::Checksum, message).hint("name the file or folder: dhtget verify TARGET PATH")
}
