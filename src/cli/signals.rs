//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once.
//!
//! Owns a thread of its own, so that the second signal works even while the main thread waits for a
//! disk. Must not know what is being ended.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Starts to listen. Where that fails, signals keep their usual effect.
    pub fn listen(quiet: bool) -> Self {
        let (sender, first) = watch::channel(None);
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let thread = std::thread::Builder::new().name("signals".to_owned()).stack_size(256 << 10);
        let spawned = thread.spawn(move || {
            if let Err(error) = run(&sender, &flag, quiet) {
                tracing::debug!(%error, "no orderly end on signals");
            }
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread for signals");
        }
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
    let by = if code == Code::Terminated { "SIGTERM" } else { "Ctrl-C" };
    CliError::new(code, format!("stopped by {by}"))
}

fn run(sender: &watch::Sender<Option<Code>>, flag: &AtomicBool, quiet: bool) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let code = either(&mut interrupt, &mut terminate).await;
        flag.store(true, Ordering::Relaxed);
        sender.send_replace(Some(code));
        if !quiet {
            let _ = writeln!(std::io::stderr(), "\nstopping; once more to leave at once");
        }
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
