//! The command line: what a person types becomes a plan, a plan becomes a run, a run an exit code.
//!
//! stdout is data (or events, with `--json`), stderr is for people. The pieces: `args` spells, `plan`
//! and `target` resolve, one file for each command runs, `report` speaks, `error` holds the exit codes.
//! Knows the client's face and nothing below it, except where a command is about the DHT itself.

pub mod args;
mod demo;
pub mod error;
mod explain;
mod get;
mod info;
mod item;
pub mod json;
mod lookup;
pub mod network;
pub mod node;
mod ping;
pub mod plan;
mod pointer;
pub mod progress;
mod report;
mod select;
mod share;
mod signals;
pub mod target;
mod text;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;
use std::time::Instant;

use clap::Parser as _;

use self::args::CommandLine;
use self::error::{CliError, Code};
use self::node::flags::LogFormat;
use self::plan::{Action, Env, Output, Plan};
use self::report::Reporter;
use self::signals::Signals;

/// Runs a whole command line and returns the exit code.
pub fn main(args: Vec<OsString>, env: &Env, start: Instant) -> u8 {
    // Errors of the command line itself come before `--json` is parsed.
    let json = args.iter().any(|a| a == "--json");
    let args = args::with_subcommand(args);
    let named = args::innermost(&args);
    let plan = match CommandLine::try_parse_from(&args) {
        Ok(line) => Plan::resolve(line.command, env),
        Err(error) if !error.use_stderr() => {
            // Help and version are what was asked for: data.
            let _ = error.print();
            return Code::Done as u8;
        }
        Err(error) => {
            if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                let _ = error.print();
                let _ = writeln!(std::io::stderr());
            }
            Err(error::of_clap(&error, &named))
        }
    };
    let (plan, mut reporter) = match plan {
        Ok(plan) => {
            let reporter = Reporter::new(plan.output, start);
            (plan, reporter)
        }
        Err(error) => {
            Reporter::new(Output { json, ..Output::default() }, start).error(&error);
            return error.code as u8;
        }
    };
    match run(&plan, &mut reporter) {
        Ok(()) => Code::Done as u8,
        Err(error) => {
            // Whoever closed the pipe knows.
            if error.code != Code::ReaderGone {
                reporter.error(&error);
            }
            error.code as u8
        }
    }
}

/// One thread runs everything; hashing and disks have their own.
fn run(plan: &Plan, reporter: &mut Reporter) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::new(Code::Unknown, format!("the runtime cannot start: {e}")))?;
    let in_words = plan.output.log_format == LogFormat::Text;
    // A node reads its configuration again on SIGHUP.
    let hangups = !matches!(plan.action, Action::Node(_));
    let mut signals = Signals::listen(plan.output.quiet || !in_words, hangups);
    let result = runtime.block_on(dispatch(plan, reporter, &mut signals));
    // A blocked thread (a disk that hangs) must not hold a run that is over.
    runtime.shutdown_background();
    result
}

async fn dispatch(plan: &Plan, reporter: &mut Reporter, signals: &mut Signals) -> Result<(), CliError> {
    if matches!(plan.command(), "lookup" | "item" | "publish" | "follow") {
        reporter.end_with_reader();
    }
    match &plan.action {
        Action::Get(plan) => get::run(plan, reporter, signals).await,
        Action::Share(plan) => share::run(plan, reporter, signals).await,
        Action::Info(plan) => info::run(plan, reporter, signals).await,
        Action::Node(plan) => node::run(plan, reporter, signals).await,
        Action::NodeStatus(address) => node::ask::run(*address, reporter, signals).await,
        Action::PrintConfig(text) => node::print_config(text, reporter),
        Action::Verify(plan) => verify::run(plan, reporter, signals).await,
        Action::Lookup(plan) => lookup::run(plan, reporter, signals).await,
        Action::ItemPut(plan) => item::put(plan, reporter, signals).await,
        Action::ItemGet(plan) => item::get(plan, reporter, signals).await,
        Action::Publish(plan) => pointer::publish(plan, reporter, signals).await,
        Action::Follow(plan) => pointer::follow(plan, reporter, signals).await,
        Action::Ping(address, network) => ping::run(address, network.as_deref(), reporter, signals).await,
        Action::Sample(address, network) => {
            ping::sample(address, network.as_deref(), reporter, signals).await
        }
        Action::Network(command, env) => network::run(command, env, reporter, signals).await,
        Action::Demo { size, dir } => demo::run(*size, dir, reporter, signals).await,
    }
}
