//! What a person types: subcommands and flags, as clap reads them.
//!
//! Owns spelling, help texts and the value parsers of single flags. Must not resolve anything against
//! the machine (paths, defaults, state folders): that is `plan`.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};

use super::network::args::{ChoiceArgs, NetworkCommand};
use super::node::flags::NodeArgs;
use super::select::SelectArgs;
use super::values::{duration, entry_point, host_port, memory, rate, ratio, size};
use crate::wire::entry::EntryPoint;
use crate::wire::magnet::HostPort;

mod disk;

pub use self::disk::{DemoArgs, DiskArgs, VerifyArgs};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    propagate_version = true,
    name = "dhtget",
    version,
    about = "Fetch and share torrents without trackers: from a magnet link to verified files",
    override_usage = "dhtget [OPTIONS] <TARGET>\n       dhtget <COMMAND>",
    after_help = "`dhtget TARGET` is the same as `dhtget get TARGET`; `dhtget get --help` lists its options.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch a torrent: TARGET is a magnet link, an info-hash or a .torrent file
    Get(GetArgs),
    /// Make a torrent of each file or folder, print its magnet link and serve it
    Share(ShareArgs),
    /// Show what a torrent holds, without fetching it
    Info(InfoArgs),
    /// Compare what lies on disk with a torrent, changing nothing
    Verify(VerifyArgs),
    /// Take part in the DHT until stopped
    Node(Box<NodeArgs>),
    /// Print the peers that the DHT knows for a torrent
    Lookup(LookupArgs),
    /// Put small values into the DHT, or get them (BEP 44)
    #[command(subcommand)]
    Item(ItemCommand),
    /// Publish a link that stays the same while the torrent behind it changes (BEP 46)
    Publish(PublishArgs),
    /// Print the torrent that such a link points at, and each new one
    Follow(FollowArgs),
    /// Make, join and check private networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Ask one DHT node whether it is there
    Ping(PingArgs),
    /// Ask one DHT node which torrents it knows peers of (BEP 51)
    Sample(SampleArgs),
    /// A whole network in one process: 64 nodes, three sharers, one download, every byte compared
    Demo(DemoArgs),
}

/// How to report; every command has these.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct ReportArgs {
    /// One JSON object a line on stdout (docs/CLI.md has the schema)
    #[arg(long)]
    pub json: bool,
    /// Nothing on stderr but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Tell more on stderr; twice for decisions and addresses
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// How to join the network.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Which network.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Find members of the private network on the local links, without any address
    #[arg(long)]
    pub lan: bool,
    /// Enter the DHT here and nowhere else; repeatable, commas too. A name such as _dhtget._udp.example.org stands for
    /// the hosts of its SRV records
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = entry_point)]
    pub bootstrap: Vec<EntryPoint>,
    /// Enter the DHT at the addresses of this file, one a line, and nowhere else
    #[arg(long, value_name = "FILE")]
    pub bootstrap_file: Option<PathBuf>,
    /// Enter no DHT: no bootstrap node is asked, no saved node, no state is kept
    #[arg(long, conflicts_with_all = ["bootstrap", "bootstrap_file", "state_dir"])]
    pub no_dht: bool,
    /// Listen here, TCP and UDP [default: the first free port of 6881-6889, else any]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Keep the node id and known nodes in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "no_state")]
    pub state_dir: Option<PathBuf>,
    /// Keep nothing of this run but the files it fetched
    #[arg(long)]
    pub no_state: bool,
}

/// Limits and peers of transfers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Transfer")]
pub struct TransferArgs {
    /// Dial this peer at once; repeatable, commas too
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = host_port)]
    pub peer: Vec<HostPort>,
    /// Neither look for peers in the local network nor be found there
    #[arg(long)]
    pub no_lsd: bool,
    /// Receive at most so many bytes a second (k, M, G: 1024-based)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit_rate: Option<u64>,
    /// Send at most so many bytes a second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit_upload: Option<u64>,
    /// Use at most so much memory, slower if need be (12M at least)
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub max_memory: Option<u64>,
    /// Say what holds the transfer up, as it changes (Enter asks at any time)
    #[arg(long)]
    pub explain: bool,
}

/// When to give up.
#[derive(Debug, Clone, Default, Args)]
pub struct PatienceArgs {
    /// Give up after so many seconds in which nothing arrived (units: s, m, h)
    #[arg(long, value_name = "SEC", value_parser = duration)]
    pub stop_timeout: Option<Duration>,
}

/// When a seed has served enough.
#[derive(Debug, Clone, Default, Args)]
pub struct SeedArgs {
    /// Serve for this long, then leave: 60, 60s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub seed_time: Option<Duration>,
    /// Serve until so many times the torrent's size was sent, then leave
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub seed_ratio: Option<f64>,
    /// Seed as if we had nothing, and show each peer a few pieces at a time, until two copies are out (BEP 16)
    #[arg(long)]
    pub super_seed: bool,
}

/// `dhtget get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Magnet link, info-hash (40 hex or 32 base32 digits) or path of a .torrent
    pub target: OsString,
    /// Put the file or folder into this folder [default: .]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Give the file or top folder this name instead of its own; `-` writes one file to stdout
    #[arg(short, long, short_alias = 'O', value_name = "NAME")]
    pub output: Option<PathBuf>,
    /// Write over files that are there already and are not this torrent's
    #[arg(long)]
    pub overwrite: bool,
    /// Which files, and in what order.
    #[command(flatten)]
    pub selection: SelectArgs,
    /// How to treat the disk.
    #[command(flatten)]
    pub disk: DiskArgs,
    /// Stay and serve others when it is complete
    #[arg(long)]
    pub seed: bool,
    /// When to stop seeding.
    #[command(flatten)]
    pub seeding: SeedArgs,
    /// When to give up.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// Peers and limits.
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget share`.
#[derive(Debug, Args)]
pub struct ShareArgs {
    /// Files and folders; each becomes a torrent of its own, all served by this process
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Write the .torrent here (a folder where several PATHs are shared)
    #[arg(long, value_name = "OUT")]
    pub torrent: Option<PathBuf>,
    /// Put this address of ours into the magnet link (x.pe); repeatable, commas too
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = host_port)]
    pub x_pe: Vec<HostPort>,
    /// When to stop seeding.
    #[command(flatten)]
    pub seeding: SeedArgs,
    /// Peers and limits.
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Magnet link, info-hash (40 hex or 32 base32 digits) or path of a .torrent
    pub target: OsString,
    /// Write the .torrent here
    #[arg(long, value_name = "OUT")]
    pub torrent: Option<PathBuf>,
    /// Write over OUT if it is there already
    #[arg(long)]
    pub overwrite: bool,
    /// Dial this peer at once; repeatable, commas too
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = host_port)]
    pub peer: Vec<HostPort>,
    /// When to give up.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// Info-hash (40 hex or 32 base32 digits), magnet link or path of a .torrent
    #[arg(value_name = "INFOHASH")]
    pub target: OsString,
    /// Count seeds and leechers instead of listing them (BEP 33)
    #[arg(long)]
    pub scrape: bool,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget item`.
#[derive(Debug, Subcommand)]
pub enum ItemCommand {
    /// Store a value of up to 1000 bytes when bencoded (996 of text) for two hours; prints its name
    Put(ItemPutArgs),
    /// Print a value
    Get(ItemGetArgs),
}

/// `dhtget item put`.
#[derive(Debug, Args)]
pub struct ItemPutArgs {
    /// The value, stored as a byte string; `-` reads it from stdin
    pub value: OsString,
    /// The value is bencoded already
    #[arg(long)]
    pub bencoded: bool,
    /// Sign it with the secret key in this file, so that it can be replaced; made if it is not there
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Tells several items of one key apart
    #[arg(long, value_name = "TEXT", requires = "key")]
    pub salt: Option<String>,
    /// Give the version this number [default: one more than the version in store]
    #[arg(long, value_name = "N", requires = "key")]
    pub seq: Option<i64>,
    /// Replace this version and no other
    #[arg(long, value_name = "N", requires = "key")]
    pub cas: Option<i64>,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget item get`.
#[derive(Debug, Args)]
pub struct ItemGetArgs {
    /// The item's name (40 hex digits), a public key (64), or a magnet link with `xs=urn:btpk:`
    pub name: String,
    /// The salt it was put with
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
    /// Print the value bencoded, whatever it is
    #[arg(long)]
    pub bencoded: bool,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// What the link shall point at: magnet link, info-hash or path of a .torrent
    pub target: OsString,
    /// The secret key; made if it is not there. Whoever has it can change where the link points
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Tells several links of one key apart
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
    /// Publish and leave; it is forgotten after two hours, unless published again
    #[arg(long)]
    pub once: bool,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget follow`.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Magnet link with `xs=urn:btpk:`, or a public key (64 hex digits)
    pub link: String,
    /// The salt it was published with, where the link has none
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
    /// Print what it points at now, and leave
    #[arg(long)]
    pub once: bool,
    /// Look again after this long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub interval: Duration,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// In which network.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// The node
    #[arg(value_name = "HOST:PORT", value_parser = host_port)]
    pub address: HostPort,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// In which network.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// The node
    #[arg(value_name = "HOST:PORT", value_parser = host_port)]
    pub address: HostPort,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Moves the subcommand to the front, and puts `get` there where none was typed, so that
/// `dhtget -v TARGET` and `dhtget --json node` mean what they say.
pub fn with_subcommand(args: Vec<OsString>) -> Vec<OsString> {
    let command = CommandLine::command();
    let is_subcommand =
        |arg: &OsStr| arg == "help" || command.get_subcommands().any(|c| arg == OsStr::new(c.get_name()));
    let Some(first) = args.get(1).and_then(|a| a.to_str()) else { return args };
    if is_subcommand(OsStr::new(first)) || matches!(first, "-h" | "--help" | "-V" | "--version") {
        return args;
    }
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        let text = arg.to_string_lossy();
        if text == "--" {
            break;
        } else if let Some(long) = text.strip_prefix("--") {
            at += if takes_value(&command, |a| a.get_long() == Some(long)) { 2 } else { 1 };
        } else if let Some(shorts) = text.strip_prefix('-') {
            let last = shorts.chars().next_back();
            at += if takes_value(&command, |a| a.get_short() == last) { 2 } else { 1 };
        } else {
            break;
        }
    }
    let mut out = args;
    let word = match out.get(at) {
        Some(arg) if is_subcommand(arg) => out.remove(at),
        _ => OsString::from("get"),
    };
    out.insert(1, word);
    out
}

/// The subcommand that these arguments lead to, in words: `item put`.
pub fn innermost(args: &[OsString]) -> String {
    let line = CommandLine::command();
    let (mut command, mut words) = (&line, Vec::new());
    for word in args.iter().skip(1) {
        let Some(below) = command.find_subcommand(word) else { break };
        command = below;
        words.push(below.get_name());
    }
    words.join(" ")
}

fn takes_value(command: &clap::Command, is: impl Fn(&clap::Arg) -> bool) -> bool {
    command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .any(|arg| is(arg) && arg.get_action().takes_values() && needs_value(arg) && !arg.is_positional())
}

/// Whether the word after it can only be its value.
fn needs_value(arg: &clap::Arg) -> bool {
    arg.get_num_args().is_none_or(|values| values.min_values() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        with_subcommand(args).join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn a_target_alone_is_fetched_and_a_subcommand_may_stand_later() {
        for (typed, meant) in [
            ("dhtget magnet:?xt", "dhtget get magnet:?xt"),
            ("dhtget -v -d dir x", "dhtget get -v -d dir x"),
            ("dhtget -qd node x", "dhtget get -qd node x"),
            ("dhtget --json lookup x", "dhtget lookup --json x"),
            ("dhtget --listen 1.2.3.4:5 node", "dhtget node --listen 1.2.3.4:5"),
            ("dhtget --listen=1.2.3.4:5 node", "dhtget node --listen=1.2.3.4:5"),
            ("dhtget --status node", "dhtget node --status"),
            ("dhtget node --status 1.2.3.4:5", "dhtget node --status 1.2.3.4:5"),
            ("dhtget -- node", "dhtget get -- node"),
            ("dhtget --help", "dhtget --help"),
            ("dhtget node", "dhtget node"),
            ("dhtget", "dhtget"),
        ] {
            assert_eq!(moved(typed), meant);
        }
    }

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }
}
