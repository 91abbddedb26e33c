//! From what was typed to what will be done: every default filled in, every path absolute.
//!
//! Owns [`Env`], all that a run learns of its machine, so that a test can make one up, and [`Plan`].
//! Reads the files that flags name; must not open a socket or print.

mod small;

use std::ffi::OsString;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{
    Command, GetArgs, InfoArgs, ItemCommand, NetworkArgs, ReportArgs, SeedArgs, ShareArgs, TransferArgs,
};
use super::error::{CliError, Code};
use super::network::args::NetworkCommand;
use super::network::enter;
use super::node::flags::LogFormat;
use super::node::{self, plan::NodePlan};
use super::select;
use super::target::Target;
use crate::client::{Choice, ClientConfig, DiskOptions, Placement, Presence};
use crate::driver::bootstrap;
use crate::network::PrivateNetwork;
use crate::wire::allow::AllowList;
use crate::wire::magnet::HostPort;

pub use self::small::{
    FollowPlan, ItemGetPlan, ItemName, ItemPutPlan, PublishPlan, VerifyPlan, value_of_stdin,
};

/// Bytes read of a bootstrap file: thousands of entries, more than a join can use.
const MAX_BOOTSTRAP_BYTES: u64 = 256 << 10;

/// What a run knows of its machine.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// Relative paths start here.
    pub cwd: PathBuf,
    /// Where state goes by default; none: the system names no place.
    pub state_dir: Option<PathBuf>,
    /// Where the user's configuration is; none: the system names no place.
    pub config_dir: Option<PathBuf>,
    /// The private network that this machine lives in, where nothing else is typed.
    pub network: Option<OsString>,
    /// Temporary folders go here.
    pub temp_dir: PathBuf,
    /// stderr is a terminal.
    pub terminal: bool,
    /// Colours are welcome there.
    pub colour: bool,
}

impl Env {
    /// The machine as it is.
    pub fn of_process() -> Self {
        use std::io::IsTerminal as _;
        let dirs = directories::ProjectDirs::from("", "", "dhtget");
        let terminal = std::io::stderr().is_terminal();
        Self {
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            config_dir: dirs.as_ref().map(|d| d.config_dir().to_owned()),
            network: std::env::var_os("DHTGET_NETWORK").filter(|value| !value.is_empty()),
            state_dir: dirs.map(|d| d.state_dir().unwrap_or_else(|| d.data_local_dir()).to_owned()),
            temp_dir: std::env::temp_dir(),
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

/// How to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Output {
    /// NDJSON on stdout.
    pub json: bool,
    /// Errors only on stderr.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// What holds a transfer up is said unasked.
    pub explain: bool,
    /// Bars may be drawn on stderr.
    pub terminal: bool,
    /// Colours may be used on stderr.
    pub colour: bool,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// When a seed leaves; with neither bound, when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SeedGoal {
    /// After this long.
    pub time: Option<Duration>,
    /// After so many times the size.
    pub ratio: Option<f64>,
}

/// A run of `get`.
#[derive(Debug)]
pub struct GetPlan {
    /// What.
    pub target: Target,
    /// Where to.
    pub placement: Placement,
    /// Which files, and in what order.
    pub choice: Choice,
    /// What of the link would have been used if it could be read, in words.
    pub lost: Vec<String>,
    /// Peers to dial at once, the link's own too.
    pub peers: Vec<String>,
    /// Whether and how long to seed.
    pub seed: Option<SeedGoal>,
    /// Whether to seed by BEP 16.
    pub super_seed: bool,
    /// How long nothing may arrive.
    pub stop_timeout: Option<Duration>,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `share`.
#[derive(Debug)]
pub struct SharePlan {
    /// What, each a torrent of its own.
    pub paths: Vec<PathBuf>,
    /// Where the `.torrent` goes.
    pub torrent: Option<PathBuf>,
    /// Addresses for the magnet link.
    pub x_pe: Vec<HostPort>,
    /// Peers to dial at once.
    pub peers: Vec<String>,
    /// How long to seed.
    pub seed: SeedGoal,
    /// Whether to seed by BEP 16.
    pub super_seed: bool,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `info`.
#[derive(Debug)]
pub struct InfoPlan {
    /// What.
    pub target: Target,
    /// Where the `.torrent` goes.
    pub torrent: Option<PathBuf>,
    /// It may be written over.
    pub overwrite: bool,
    /// Peers to dial at once.
    pub peers: Vec<String>,
    /// How long nothing may arrive.
    pub stop_timeout: Option<Duration>,
    /// The node.
    pub client: ClientConfig,
}

/// A run of `lookup`.
#[derive(Debug)]
pub struct LookupPlan {
    /// What.
    pub target: Target,
    /// Count instead of listing.
    pub scrape: bool,
    /// The node.
    pub client: ClientConfig,
}

/// What to do, resolved.
#[derive(Debug)]
pub enum Action {
    /// Fetch.
    Get(Box<GetPlan>),
    /// Make and serve.
    Share(Box<SharePlan>),
    /// Describe.
    Info(Box<InfoPlan>),
    /// Compare.
    Verify(VerifyPlan),
    /// Take part.
    Node(Box<NodePlan>),
    /// Tell of a node that runs.
    NodeStatus(SocketAddr),
    /// Print a configuration file.
    PrintConfig(String),
    /// Print peers.
    Lookup(Box<LookupPlan>),
    /// Store a value.
    ItemPut(Box<ItemPutPlan>),
    /// Read a value.
    ItemGet(Box<ItemGetPlan>),
    /// Make a link point somewhere.
    Publish(Box<PublishPlan>),
    /// See where a link points.
    Follow(Box<FollowPlan>),
    /// Ask one node.
    Ping(HostPort, Option<Box<PrivateNetwork>>),
    /// Ask one node what it knows.
    Sample(HostPort, Option<Box<PrivateNetwork>>),
    /// Make, join or look at a private network.
    Network(Box<NetworkCommand>, Box<Env>),
    /// Show it all.
    Demo {
        /// Bytes of payload.
        size: u64,
        /// Where the temporary folder goes.
        dir: PathBuf,
    },
}

/// A resolved command line.
#[derive(Debug)]
pub struct Plan {
    /// What.
    pub action: Action,
    /// How to report.
    pub output: Output,
}

impl Plan {
    /// The command's name, for `started`.
    pub fn command(&self) -> &'static str {
        match self.action {
            Action::Get(_) => "get",
            Action::Share(_) => "share",
            Action::Info(_) => "info",
            Action::Verify(_) => "verify",
            Action::Node(_) | Action::NodeStatus(_) | Action::PrintConfig(_) => "node",
            Action::Lookup(_) => "lookup",
            Action::ItemPut(_) | Action::ItemGet(_) => "item",
            Action::Publish(_) => "publish",
            Action::Follow(_) => "follow",
            Action::Ping(..) => "ping",
            Action::Sample(..) => "sample",
            Action::Network(..) => "network",
            Action::Demo { .. } => "demo",
        }
    }

    /// Fills in what was left out.
    pub fn resolve(command: Command, env: &Env) -> Result<Self, CliError> {
        let explain = match &command {
            Command::Get(args) => args.transfer.explain,
            Command::Share(args) => args.transfer.explain,
            _ => false,
        };
        let (action, report) = match command {
            Command::Get(args) => (Action::Get(Box::new(get(&args, env)?)), args.report),
            Command::Share(args) => (Action::Share(Box::new(share(&args, env)?)), args.report),
            Command::Info(args) => (Action::Info(Box::new(info(&args, env)?)), args.report),
            Command::Verify(args) => (Action::Verify(small::verify(&args, env)?), args.report),
            Command::Node(args) => node::plan::action(*args, env)?,
            Command::Lookup(args) => {
                needs_dht(&args.network)?;
                let target = Target::resolve(&args.target, &env.cwd)?;
                let config = asking(&args.network, target.nodes(), env)?;
                let plan = LookupPlan { target, scrape: args.scrape, client: config };
                (Action::Lookup(Box::new(plan)), args.report)
            }
            Command::Item(ItemCommand::Put(args)) => {
                (Action::ItemPut(Box::new(small::item_put(&args, env)?)), args.report)
            }
            Command::Item(ItemCommand::Get(args)) => {
                (Action::ItemGet(Box::new(small::item_get(&args, env)?)), args.report)
            }
            Command::Publish(args) => (Action::Publish(Box::new(small::publish(&args, env)?)), args.report),
            Command::Follow(args) => (Action::Follow(Box::new(small::follow(&args, env)?)), args.report),
            Command::Ping(args) => {
                (Action::Ping(args.address, enter::chosen(&args.choice, env)?.map(Box::new)), args.report)
            }
            Command::Sample(args) => {
                (Action::Sample(args.address, enter::chosen(&args.choice, env)?.map(Box::new)), args.report)
            }
            Command::Network(command) => {
                let report = command.report();
                (Action::Network(Box::new(command), Box::new(env.clone())), report)
            }
            Command::Demo(args) => {
                if args.size == 0 {
                    return Err(bad_option("--size 0: there would be nothing to fetch", "give --size 64M"));
                }
                let dir = args.dir.map_or_else(|| env.temp_dir.clone(), |d| env.cwd.join(d));
                (Action::Demo { size: args.size, dir }, args.report)
            }
        };
        let mut output = Output { explain, ..output(&report, env) };
        if let Action::Node(plan) = &action {
            output.log_format = plan.settings.log_format;
        }
        Ok(Self { action, output })
    }
}

fn output(report: &ReportArgs, env: &Env) -> Output {
    let ReportArgs { json, quiet, verbose } = *report;
    let log_format = LogFormat::default();
    let terminal = env.terminal && !quiet;
    Output { json, quiet, verbose, explain: false, terminal, colour: env.colour, log_format }
}

fn bad_option(message: impl Into<String>, hint: &str) -> CliError {
    CliError::new(Code::BadOption, message).hint(hint)
}

/// What only the DHT can answer is not asked without it.
fn needs_dht(network: &NetworkArgs) -> Result<(), CliError> {
    if network.no_dht {
        return Err(bad_option("--no-dht: only the DHT can tell this", "leave --no-dht out"));
    }
    Ok(())
}

fn needs_dht_to_follow(target: &Target, network: &NetworkArgs) -> Result<(), CliError> {
    if matches!(target, Target::Pointer(..)) { needs_dht(network) } else { Ok(()) }
}

fn get(args: &GetArgs, env: &Env) -> Result<GetPlan, CliError> {
    let placement = placement(args, env)?;
    let target = Target::resolve(&args.target, &env.cwd)?;
    needs_dht_to_follow(&target, &args.network)?;
    let goal = goal(&args.seeding);
    let seed = (args.seed || goal != SeedGoal::default()).then_some(goal);
    let mut client = client(&args.network, &args.transfer, target.nodes(), env)?;
    client.disk = args.disk.options();
    // Who stays to seed is no passer-by.
    client.presence = if seed.is_some() { Presence::Serving } else { Presence::ServingIfReachable };
    let peers = peers(&args.transfer.peer, &target);
    let choice = select::choice(&args.selection, &target)?;
    // What is typed beats the link.
    let selection = if args.selection.select_file.is_empty() { target.lost_selection() } else { None };
    let lost = target.lost().into_iter().chain(selection).collect();
    Ok(GetPlan {
        target,
        placement,
        choice,
        lost,
        peers,
        seed,
        super_seed: args.seeding.super_seed,
        stop_timeout: args.patience.stop_timeout,
        client,
    })
}

fn share(args: &ShareArgs, env: &Env) -> Result<SharePlan, CliError> {
    Ok(SharePlan {
        paths: args.paths.iter().map(|p| env.cwd.join(p)).collect(),
        torrent: args.torrent.as_ref().map(|p| env.cwd.join(p)),
        x_pe: args.x_pe.clone(),
        peers: args.transfer.peer.iter().map(ToString::to_string).collect(),
        seed: goal(&args.seeding),
        super_seed: args.seeding.super_seed,
        client: client(&args.network, &args.transfer, &[], env)?,
    })
}

fn info(args: &InfoArgs, env: &Env) -> Result<InfoPlan, CliError> {
    let target = Target::resolve(&args.target, &env.cwd)?;
    needs_dht_to_follow(&target, &args.network)?;
    Ok(InfoPlan {
        torrent: args.torrent.as_ref().map(|p| env.cwd.join(p)),
        overwrite: args.overwrite,
        peers: peers(&args.peer, &target),
        stop_timeout: args.patience.stop_timeout,
        client: asking(&args.network, target.nodes(), env)?,
        target,
    })
}

fn goal(args: &SeedArgs) -> SeedGoal {
    SeedGoal { time: args.seed_time, ratio: args.seed_ratio }
}

fn peers(given: &[HostPort], target: &Target) -> Vec<String> {
    let mut peers: Vec<String> = given.iter().map(ToString::to_string).collect();
    peers.extend(target.peers());
    peers
}

/// `-o` may hold folders, as wget's does; they are below `-d`.
fn placement(args: &GetArgs, env: &Env) -> Result<Placement, CliError> {
    let mut dir = args.dir.as_ref().map_or_else(|| env.cwd.clone(), |d| env.cwd.join(d));
    let mut name = None;
    if let Some(output) = &args.output {
        if output == Path::new("-") {
            select::refuse_with_stdout(args.report.json, args.overwrite)?;
            let dir = args.dir.as_ref().map_or_else(|| env.temp_dir.clone(), |d| env.cwd.join(d));
            return Ok(Placement::Stream { dir, sink: select::stdout()? });
        }
        let file_name = output.file_name().and_then(|n| n.to_str());
        let Some(file_name) = file_name else {
            let message = format!("--output {}: not the name of a file or folder", output.display());
            return Err(bad_option(message, "give a name such as `-o film.mkv`, and the folder with --dir"));
        };
        name = Some(file_name.to_owned());
        if let Some(parent) = output.parent() {
            dir = dir.join(parent);
        }
    }
    Ok(Placement::Folder { dir, name, overwrite: args.overwrite })
}

fn is_public_or_name(node: &str) -> bool {
    node.parse::<SocketAddr>().map_or(true, |addr| !crate::dht::config::is_private(addr.ip()))
}

pub(super) fn client(
    network: &NetworkArgs,
    transfer: &TransferArgs,
    nodes: &[String],
    env: &Env,
) -> Result<ClientConfig, CliError> {
    let private = enter::chosen(&network.choice, env)?;
    if private.is_none() && network.lan {
        return Err(bad_option(
            "--lan: members of which network? None was chosen",
            "give --network NAME.network as well; `dhtget network create NAME --lan` makes one",
        ));
    }
    let own = !network.bootstrap.is_empty() || network.bootstrap_file.is_some();
    let mut bootstrap: Vec<String> = network.bootstrap.iter().map(ToString::to_string).collect();
    if let Some(file) = &network.bootstrap_file {
        bootstrap.extend(read_bootstrap(&env.cwd.join(file))?);
    }
    if !own && !network.no_dht && private.is_none() {
        bootstrap = bootstrap::default_nodes();
        // A stranger's file must not point us at machines of this network.
        bootstrap.extend(nodes.iter().filter(|n| is_public_or_name(n)).cloned());
    }
    let state_dir = match &network.state_dir {
        _ if network.no_state || network.no_dht => None,
        Some(dir) => Some(env.cwd.join(dir)),
        None => env.state_dir.clone(),
    };
    let mut config = ClientConfig {
        allow: AllowList::default(),
        listen: network.listen,
        bootstrap,
        private_network: own || network.no_dht,
        network: None,
        presence: Presence::Serving,
        no_dht: network.no_dht,
        lsd: !transfer.no_lsd,
        lan: None,
        state_dir,
        dht_limits: crate::dht::Limits::default(),
        max_memory: transfer.max_memory,
        limit_download: transfer.limit_rate,
        limit_upload: transfer.limit_upload,
        disk: DiskOptions::default(),
    };
    if let Some(private) = private {
        enter::enter(&mut config, private, network)?;
    }
    Ok(config)
}

/// Of a run that shares nothing, so that nobody nearby need know of it.
fn no_transfers() -> TransferArgs {
    TransferArgs { no_lsd: true, ..TransferArgs::default() }
}

/// A run that asks, and is gone.
fn asking(network: &NetworkArgs, nodes: &[String], env: &Env) -> Result<ClientConfig, CliError> {
    let config = client(network, &no_transfers(), nodes, env)?;
    Ok(ClientConfig { presence: Presence::ReadOnly, ..config })
}

fn read_bootstrap(path: &Path) -> Result<Vec<String>, CliError> {
    let refuse = |why: String| {
        bad_option(
            format!("--bootstrap-file {}: {why}", path.display()),
            "the file holds one HOST:PORT a line; `#` begins a comment",
        )
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| refuse(e.to_string()))?;
    // One more than allowed, so that a longer file is seen to be one.
    file.take(MAX_BOOTSTRAP_BYTES + 1).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    if text.len() as u64 > MAX_BOOTSTRAP_BYTES {
        return Err(refuse(format!("larger than {MAX_BOOTSTRAP_BYTES} bytes")));
    }
    bootstrap::parse_list(&text).map_err(|e| refuse(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::CommandLine;
    use clap::Parser as _;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    fn plan_in(cwd: &Path, line: &str) -> Result<Plan, CliError> {
        let env = Env { cwd: cwd.to_owned(), state_dir: Some("/state".into()), ..Env::default() };
        let words = std::iter::once("dhtget").chain(line.split_whitespace());
        Plan::resolve(CommandLine::try_parse_from(words).unwrap().command, &env)
    }

    fn get_plan(line: &str) -> GetPlan {
        match plan_in(Path::new("/home/u"), &format!("get {HEX} {line}")).unwrap().action {
            Action::Get(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_goes_where_wget_would_put_it() {
        for (flags, folder, file) in [
            ("", "/home/u", None),
            ("-d a", "/home/u/a", None),
            ("-o b", "/home/u/", Some("b")),
            ("-O b", "/home/u/", Some("b")),
            ("-d a -o b/c", "/home/u/a/b", Some("c")),
            ("-d a -o /b/c", "/b", Some("c")),
        ] {
            let Placement::Folder { dir, name, .. } = get_plan(flags).placement else { panic!() };
            assert_eq!((dir.as_path(), name.as_deref()), (Path::new(folder), file), "{flags}");
        }
        for flags in ["-o - --overwrite", "-o - --json", "-o ..", "-o /"] {
            let error = plan_in(Path::new("/"), &format!("get {HEX} {flags}")).unwrap_err();
            assert_eq!(error.code, Code::BadOption, "{flags}");
        }
    }

    #[test]
    fn a_bootstrap_list_replaces_the_default_one() {
        let plan = get_plan("--bootstrap 127.0.0.1:1,a.example:2 --bootstrap [::1]:3");
        assert_eq!(plan.client.bootstrap, ["127.0.0.1:1", "a.example:2", "[::1]:3"]);
        assert!(plan.client.private_network);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("list"), "# ours\n\n10.0.0.1:5 # first\nrouter.example:6\n").unwrap();
        let plan = plan_in(dir.path(), "node --bootstrap-file list").unwrap();
        let Action::Node(node) = plan.action else { panic!() };
        assert_eq!(node.client.bootstrap, ["10.0.0.1:5", "router.example:6"]);
        std::fs::write(dir.path().join("list"), "\nnonsense\n").unwrap();
        let error = plan_in(dir.path(), "node --bootstrap-file list").unwrap_err();
        assert!(error.code == Code::BadOption && error.message.contains("line 2"), "{error}");
        std::fs::write(dir.path().join("list"), "10.0.0.1:5\n".repeat(30_000)).unwrap();
        let error = plan_in(dir.path(), "node --bootstrap-file list").unwrap_err();
        assert!(error.code == Code::BadOption && error.message.contains("larger than"), "{error}");
        assert!(!get_plan("").client.private_network);
        let plan = get_plan("--no-dht");
        assert!(plan.client.bootstrap.is_empty() && plan.client.state_dir.is_none());
    }

    #[test]
    fn state_seed_and_limits() {
        assert_eq!(get_plan("").client.state_dir, Some("/state".into()));
        assert_eq!(get_plan("--state-dir s").client.state_dir, Some("/home/u/s".into()));
        assert_eq!(get_plan("--no-state").client.state_dir, None);
        assert_eq!(get_plan("").seed, None);
        assert_eq!(get_plan("--seed").seed, Some(SeedGoal::default()));
        assert_eq!(get_plan("--seed-ratio 1.5").seed, Some(SeedGoal { ratio: Some(1.5), time: None }));
        let plan = get_plan("--limit-rate 2M --limit-upload 16k --stop-timeout 90");
        assert_eq!((plan.client.limit_download, plan.client.limit_upload), (Some(2 << 20), Some(16 << 10)));
        assert_eq!(plan.stop_timeout, Some(Duration::from_secs(90)));
    }
}
