//! What a person types after `dhtget network`, and `--network` everywhere else.
//!
//! Owns spelling and help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::args::ReportArgs;
use crate::cli::values::{duration, entry_point};
use crate::wire::entry::EntryPoint;

/// `dhtget network`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a private network: writes NAME.network and prints an invite
    Create(CreateArgs),
    /// Become a member: keeps the network under its name, for `--network NAME`
    Join(JoinArgs),
    /// Show the networks that this user has joined
    List(ListArgs),
    /// Forget a network, and what its node has learned
    Leave(LeaveArgs),
    /// Print an invite that names members which are alive
    Invite(InviteArgs),
    /// Give a keyed network a new key; members speak with the old one until all have the new one
    Rotate(RotateArgs),
    /// Ask the network's nodes who answers, and say what to mend
    Check(CheckArgs),
}

/// Which private network a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct ChoiceArgs {
    /// Take part in this private network: a NAME.network file, an invite, or the name of one that was joined; `public` for none
    /// [env: DHTGET_NETWORK]
    #[arg(long, value_name = "NETWORK", help_heading = "Network")]
    pub network: Option<OsString>,
}

/// `dhtget network create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The network's name: a-z, 0-9, `-`, `_`, `.`
    pub name: String,
    /// Members enter here; repeatable, commas too. A name such as _dhtget._udp.example.org stands for the hosts of its SRV
    /// records
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = entry_point)]
    pub bootstrap: Vec<EntryPoint>,
    /// No key: plain BitTorrent, so that other clients can take part; kept apart by its addresses alone
    #[arg(long)]
    pub open: bool,
    /// Talk to nobody outside these ranges (10.0.0.0/8); repeatable, commas too
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Members in one local network find each other without any address
    #[arg(long)]
    pub lan: bool,
    /// Write the file here [default: NAME.network]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The invite, or a NAME.network file; `-` reads it from stdin, where no list of processes or shell history shows it
    pub invite: OsString,
    /// Keep it under this name instead of its own
    #[arg(long)]
    pub name: Option<String>,
    /// In place of whatever is kept under that name, with its key
    #[arg(long)]
    pub force: bool,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// The name it was joined under
    pub name: String,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network invite`.
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// A NAME.network file, or the name of a network that was joined
    #[arg(value_name = "NETWORK")]
    pub network: OsString,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// A NAME.network file, or the name of a network that was joined
    #[arg(value_name = "NETWORK")]
    pub network: OsString,
    /// All members have the new file within this time: 12h, 7d; 0 for at once
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub grace: Duration,
    /// Even while an earlier change is under way: until the earlier grace period ends, members need the newest file
    #[arg(long)]
    pub force: bool,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget network check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A NAME.network file, an invite, or the name of a network that was joined
    #[arg(value_name = "NETWORK")]
    pub network: OsString,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

impl NetworkCommand {
    /// How to report.
    pub fn report(&self) -> ReportArgs {
        match self {
            Self::Create(args) => args.report.clone(),
            Self::Join(args) => args.report.clone(),
            Self::List(args) => args.report.clone(),
            Self::Leave(args) => args.report.clone(),
            Self::Invite(args) => args.report.clone(),
            Self::Rotate(args) => args.report.clone(),
            Self::Check(args) => args.report.clone(),
        }
    }
}
