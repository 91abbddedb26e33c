//! Ctrl-C, SIGTERM and the terminal that is closed (SIGHUP): the first asks for an orderly end, the second ends at once.
//!
//! Owns a thread of its own, so that the second signal works even while the main thread waits for a
//! disk. Must not know what is being ended.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::error::{CliError, Code};

/// The first signal, for whoever waits for it.
#[derive(Debug, Clone)]
pub struct Signals {
    first: watch::Receiver<Option<Code>>,
    stopped: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen; `hangups` too, unless the command has another use for them or the process was started to
    /// ignore them (`nohup`). Where that fails, signals keep their usual effect.
    pub fn listen(quiet: bool, hangups: bool) -> Self {
        let (sender, first) = watch::channel(None);
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let (ready, is_ready) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("signals".to_owned()).stack_size(256 << 10);
        let spawned = thread.spawn(move || {
            if let Err(error) = run(&sender, &flag, quiet, hangups && !is_hangup_ignored(), &ready) {
                tracing::debug!(%error, "no orderly end on signals");
            }
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread for signals");
        }
        // What is begun from here on is ended in order. Where nobody listens, the other end is gone, and nothing is waited for.
        let _ = is_ready.recv();
        Self { first, stopped }
    }

    /// Waits for the first signal and returns what the run ends with.
    pub async fn next(&mut self) -> CliError {
        match self.first.wait_for(Option::is_some).await.map(|code| *code) {
            Ok(Some(code)) => interrupted(code),
            // Nobody listens any more: there will be no signal.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Set once a signal has come, for threads.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopped)
    }
}

fn interrupted(code: Code) -> CliError {
    let by = match code {
        Code::Terminated => "SIGTERM",
        Code::HungUp => "SIGHUP: its terminal is gone",
        _ => "Ctrl-C",
    };
    CliError::new(code, format!("stopped by {by}"))
}

fn run(
    sender: &watch::Sender<Option<Code>>,
    flag: &AtomicBool,
    quiet: bool,
    hangups: bool,
    ready: &mpsc::SyncSender<()>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = if hangups { Some(signal(SignalKind::hangup())?) } else { None };
        let _ = ready.send(());
        let code = tokio::select! {
            code = either(&mut interrupt, &mut terminate) => code,
            Some(()) = next_of(hangup.as_mut()) => Code::HungUp,
        };
        flag.store(true, Ordering::Relaxed);
        sender.send_replace(Some(code));
        if !quiet {
            let _ = writeln!(std::io::stderr(), "\nstopping; once more to leave at once");
        }
        // A closed terminal is told by the shell and by the kernel: that is one wish, not two.
        let code = either(&mut interrupt, &mut terminate).await;
        std::process::exit(code as i32)
    })
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> Code {
    tokio::select! {
        _ = interrupt.recv() => Code::Interrupted,
        _ = terminate.recv() => Code::Terminated,
    }
}

async fn next_of(signal: Option<&mut Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether whoever started us wants us to outlive the terminal. Only Linux tells; elsewhere it is taken not to be so.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // SIGHUP is signal 1: the lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
