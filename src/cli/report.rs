//! Where a run's words go: bars or lines on stderr, data or JSON events on stdout.
//!
//! Owns both streams and the pace of what is said. The log goes through the same bar, so that neither
//! tears the other. Must not decide anything about a transfer.

use std::cell::Cell;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::error::CliError;
use super::explain::{self, Explanation};
use super::json::{self, Event, ProgressEvent};
use super::node::flags::LogFormat;
use super::plan::Output;
use super::progress;
use super::text::visible;
use crate::client::Status;
use crate::driver::udp::DhtStatus;

/// Without a terminal, a line this often.
const LINE_EACH: Duration = Duration::from_secs(10);
/// The first of them comes after this: work that is over sooner needs none.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// Events of figures are this far apart.
const EVENT_EACH: Duration = Duration::from_secs(1);

/// The figures that were last told, and when.
#[derive(Debug, Default)]
struct Told {
    line: Option<Instant>,
    events: Option<Instant>,
    dht: Option<(usize, u32, u32, u32)>,
    peers: Option<(usize, usize, usize, usize)>,
    first_piece: bool,
    /// The cause that was named last, in words and as an event.
    why: [Option<&'static str>; 2],
    whys: Option<Instant>,
}

/// The mouth of a run.
#[derive(Debug)]
pub struct Reporter {
    output: Output,
    start: Instant,
    bar: ProgressBar,
    told: Told,
    /// Whoever read stdout has gone.
    unread: Cell<bool>,
    /// Events are all that a run is for: it ends with its reader.
    for_reader: bool,
}

impl Reporter {
    /// Speaks as `output` says; `start` is when the process began. Sets up the log as well.
    pub fn new(output: Output, start: Instant) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let line = start.checked_sub(LINE_EACH - FIRST_LINE);
        let reporter = Self {
            output,
            start,
            bar,
            told: Told { line, ..Told::default() },
            unread: Cell::new(false),
            for_reader: false,
        };
        reporter.start_log();
        reporter
    }

    fn start_log(&self) {
        let (ours, others) = match (self.output.quiet, self.output.verbose) {
            (true, _) => (LevelFilter::ERROR, LevelFilter::ERROR),
            // What people are told in words is in this log too.
            (false, 0) if self.logs_json() => (LevelFilter::INFO, LevelFilter::WARN),
            (false, 0) => (LevelFilter::WARN, LevelFilter::WARN),
            (false, 1) => (LevelFilter::INFO, LevelFilter::WARN),
            (false, 2) => (LevelFilter::DEBUG, LevelFilter::WARN),
            (false, _) => (LevelFilter::TRACE, LevelFilter::WARN),
        };
        let levels = Targets::new().with_default(others).with_target("dhtget", ours);
        let writer = BarLog(self.bar.clone());
        // A line that cannot be written is lost, and the run goes on: the crate would say so with `eprintln!`, which
        // panics on the same stderr.
        let log =
            tracing_subscriber::fmt().with_max_level(ours).with_writer(writer).log_internal_errors(false);
        // A second call, as in tests, leaves the first log in place.
        let _ = match self.output.log_format {
            LogFormat::Text => {
                let log = log.with_ansi(self.output.colour).with_target(self.output.verbose > 1);
                log.finish().with(levels).try_init()
            }
            LogFormat::Json => log.json().flatten_event(true).finish().with(levels).try_init(),
        };
    }

    /// Whether every line of stderr is a JSON object.
    fn logs_json(&self) -> bool {
        self.output.log_format == LogFormat::Json
    }

    /// When the process began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Whether more is to be told.
    pub fn is_verbose(&self) -> bool {
        self.output.verbose > 0
    }

    /// Whether stdout carries events.
    pub fn json(&self) -> bool {
        self.output.json
    }

    /// A sentence for the person, on stderr.
    pub fn note(&self, text: &str) {
        if self.logs_json() {
            tracing::info!("{text}");
        } else if !self.output.quiet {
            self.bar.suspend(|| {
                let _ = writeln!(io::stderr(), "{text}");
            });
        }
    }

    /// A sentence for the person who asked for more with `-v`.
    pub fn detail(&self, text: &str) {
        if self.output.verbose > 0 {
            self.note(text);
        }
    }

    /// Data, on stdout, where no events go there.
    pub fn data(&self, text: &str) -> io::Result<()> {
        if self.output.json {
            return Ok(());
        }
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.write_all(b"\n")?;
            out.flush()
        })
    }

    /// What was asked for by a signal, on stderr however quiet the run is; `json` is the same as one object.
    pub fn dump(&self, text: &str, json: &serde_json::Value) {
        let line = if self.logs_json() { json.to_string() } else { text.trim_end().to_owned() };
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    /// A whole answer on stdout, which carries its own format.
    pub fn raw(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// An event on stdout, where events go there.
    pub fn event(&self, event: &Event<'_>) -> io::Result<()> {
        if !self.output.json {
            return Ok(());
        }
        self.bar.suspend(|| json::emit(&mut io::stdout().lock(), self.start, event))
    }

    /// From now on the process ends, content, when nobody reads its events any more.
    pub fn end_with_reader(&mut self) {
        self.for_reader = true;
    }

    /// Whether somebody who read the events has gone.
    pub fn is_unread(&self) -> bool {
        self.unread.get()
    }

    /// An event whose loss does not matter to the run, unless all events do.
    pub fn tell(&self, event: &Event<'_>) {
        if let Err(error) = self.event(event) {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.unread.set(true);
                if self.for_reader {
                    // Whoever read us has seen enough, as `head` does.
                    std::process::exit(0);
                }
            }
            tracing::debug!(%error, "stdout takes no events");
        }
    }

    /// The error that ends the run.
    pub fn error(&mut self, error: &CliError) {
        self.clear();
        self.tell(&Event::error(error));
        if self.logs_json() {
            tracing::error!(code = error.code as u8, hint = error.hint.as_deref(), "{}", error.message);
            return;
        }
        let _ = writeln!(io::stderr(), "{error}");
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// The figures of a transfer, as often as each stream wants them.
    pub fn status(&mut self, now: Instant, status: &Status, name: Option<&str>) {
        if self.output.json && is_due(&mut self.told.events, now, EVENT_EACH) {
            self.status_events(status);
            self.explain_event(now, status);
        }
        let asked = self.output.terminal && explain::enter_was_pressed();
        if asked {
            // Enter has moved the cursor below the bar; back, so that the bar is drawn where it was.
            let _ = write!(io::stderr(), "\x1b[A");
            self.note(&Explanation::of(status).sentence);
        }
        if self.output.terminal {
            let mut words = terminal_words(status);
            if self.output.explain {
                words = format!("{words}\n{}", Explanation::of(status).sentence);
            }
            self.draw(status.verified, status.total, &words, name);
        } else if is_due(&mut self.told.line, now, LINE_EACH) {
            self.note(&progress::line(status));
            self.explain_line(now, status, true);
        } else {
            self.explain_line(now, status, false);
        }
    }

    /// What holds it up, in a line of its own: when that changes, and beside each line of figures.
    fn explain_line(&mut self, now: Instant, status: &Status, beside_figures: bool) {
        if self.output.explain && !self.output.json {
            let explanation = Explanation::of(status);
            let changed = self.told.why[0] != Some(explanation.cause);
            if beside_figures || changed && is_due(&mut self.told.whys, now, EVENT_EACH) {
                (self.told.why[0], self.told.whys) = (Some(explanation.cause), Some(now));
                self.note(&format!("why: {}", explanation.sentence));
            }
        }
    }

    /// The same as an event: when the cause changes, and now and then where it was asked for.
    fn explain_event(&mut self, now: Instant, status: &Status) {
        let explanation = Explanation::of(status);
        let changed = self.told.why[1].replace(explanation.cause) != Some(explanation.cause);
        let again = self.output.explain && is_due(&mut self.told.whys, now, LINE_EACH);
        if changed || again {
            self.told.whys = Some(now);
            let Explanation { cause, sentence, figures } = &explanation;
            self.tell(&Event::Explain { cause, why: sentence, figures });
        }
    }

    /// The first verified piece does not wait for its second.
    pub fn first_piece(&mut self, status: &Status) {
        if !std::mem::replace(&mut self.told.first_piece, true) {
            self.tell(&Event::Progress(ProgressEvent::new(status)));
        }
    }

    /// The figures once more, now: what comes next must not contradict them.
    pub fn last_status(&mut self, status: &Status) {
        if self.output.json {
            self.status_events(status);
        }
    }

    fn status_events(&mut self, status: &Status) {
        let (asked, answered) = status.dht_asked;
        let dht = (status.dht_nodes, asked, answered, status.announced_to);
        if self.told.dht.replace(dht) != Some(dht) {
            let (nodes, asked, answered, announced_to) = dht;
            self.tell(&Event::Dht { nodes, asked, answered, announced_to });
        }
        let peers =
            (status.peers_known, status.peers_connected, status.peers_unchoking, status.peers_interesting);
        if self.told.peers.replace(peers) != Some(peers) {
            let (known, connected, unchoking, interesting) = peers;
            self.tell(&Event::Peers { known, connected, unchoking, interesting });
        }
        if status.total > 0 {
            self.tell(&Event::Progress(ProgressEvent::new(status)));
        }
    }

    /// Local work with a known end, such as hashing.
    pub fn working(&mut self, now: Instant, name: &str, done: u64, total: u64) {
        if self.output.json && is_due(&mut self.told.events, now, EVENT_EACH) {
            self.tell(&Event::Hashing { name, done, total });
        }
        let words = format!("hashing {} of {}", progress::bytes(done), progress::bytes(total));
        if self.output.terminal {
            self.draw(done, total, &words, Some(name));
        } else if is_due(&mut self.told.line, now, LINE_EACH) {
            self.note(&format!("{name}: {words}"));
        }
    }

    /// A node at work; `words` say how it fares.
    pub fn node(&mut self, now: Instant, status: &DhtStatus, words: &str) {
        let nodes = status.nodes_v4 + status.nodes_v6;
        if self.output.json && is_due(&mut self.told.events, now, EVENT_EACH) {
            let dht = (nodes, 0, 0, 0);
            if self.told.dht.replace(dht) != Some(dht) {
                self.tell(&Event::Dht { nodes, asked: 0, answered: 0, announced_to: 0 });
            }
            self.tell(&Event::Node {
                nodes_v4: status.nodes_v4,
                nodes_v6: status.nodes_v6,
                bootstrapped: status.bootstrapped,
                queries_in: status.queries_in,
                queries_out: status.queries_out,
            });
        }
        self.step(now, words);
    }

    /// Work without figures of its own.
    pub fn step(&mut self, now: Instant, words: &str) {
        if self.output.terminal {
            self.draw(0, 0, words, None);
        } else if is_due(&mut self.told.line, now, LINE_EACH) {
            self.note(words);
        }
    }

    fn draw(&mut self, done: u64, total: u64, words: &str, name: Option<&str>) {
        let template = match (name.is_some(), total > 0) {
            (true, true) => "{prefix}\n[{wide_bar}] {percent:>3}%\n{msg}",
            (true, false) => "{prefix}\n{spinner} {msg}",
            (false, _) => "{spinner} {msg}",
        };
        // The templates are ours, and a test reads each.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_prefix(visible(name.unwrap_or_default()));
        self.bar.set_message(words.to_owned());
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        }
        self.bar.tick();
    }
}

/// Whether `each` has gone by since the last time; if so, that time is now.
fn is_due(last: &mut Option<Instant>, now: Instant, each: Duration) -> bool {
    let due = last.is_none_or(|last| now.saturating_duration_since(last) >= each);
    if due {
        *last = Some(now);
    }
    due
}

fn terminal_words(status: &Status) -> String {
    let mut words = progress::words(status);
    if status.total > 0 && status.verified < status.total {
        words = format!("{} of {}, {words}", progress::bytes(status.verified), progress::bytes(status.total));
    }
    if status.download_rate > 0 || status.upload_rate > 0 {
        let (down, up) = (progress::bytes(status.download_rate), progress::bytes(status.upload_rate));
        words.push_str(&format!("  {down}/s down  {up}/s up"));
    }
    match progress::eta(status) {
        Some(left) => format!("{words}  {} left", progress::seconds(left)),
        None => words,
    }
}

/// Log lines, written above the bar.
#[derive(Debug, Clone)]
struct BarLog(ProgressBar);

impl Write for BarLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for BarLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock;

    #[test]
    fn what_is_due_waits_its_time() {
        let (mut last, now) = (None, clock::now());
        assert!(is_due(&mut last, now, LINE_EACH));
        assert!(!is_due(&mut last, now + Duration::from_secs(9), LINE_EACH));
        assert!(is_due(&mut last, now + LINE_EACH, LINE_EACH));
    }

    #[test]
    fn a_bar_can_be_drawn_in_every_state() {
        let mut reporter = Reporter::new(Output { quiet: true, ..Output::default() }, clock::now());
        for (total, name) in [(0, None), (0, Some("a")), (10, Some("a")), (10, None)] {
            reporter.draw(0, total, "words", name);
        }
        reporter.clear();
    }
}
