//! From the settings of a node to what it will do; again, when they are read again.
//!
//! Must not open a socket or print.

use std::path::{Path, PathBuf};

use super::flags::{NodeArgs, NodeCommand};
use super::settings::Settings;
use crate::cli::args::{ReportArgs, TransferArgs};
use crate::cli::error::{CliError, Code};
use crate::cli::plan::{self, Action, Env};
use crate::client::ClientConfig;
use crate::dht::Limits;
use crate::network::invite::is_like_invite;
use crate::web::WebConfig;

/// A run of `node`.
#[derive(Debug)]
pub struct NodePlan {
    /// The node.
    pub client: ClientConfig,
    /// Who may look at it.
    pub web: WebConfig,
    /// All of it, as it was set.
    pub settings: Settings,
    args: NodeArgs,
    env: Env,
}

/// What `dhtget node` was asked to do.
pub fn action(args: NodeArgs, env: &Env) -> Result<(Action, ReportArgs), CliError> {
    if let Some(NodeCommand::Status(status)) = args.command {
        return Ok((Action::NodeStatus(status.address), status.report));
    }
    let print = args.print_config;
    let node = NodePlan::new(args, env)?;
    let report = node.settings.report();
    if print && node.client.network.is_some() && node.settings.network.as_deref().is_some_and(is_secret) {
        let words = "--print-config: the network was given as an invite, which is never printed";
        return Err(CliError::new(Code::BadOption, words)
            .hint("`dhtget network join` keeps it; then give its name with --network"));
    }
    let action =
        if print { Action::PrintConfig(node.in_force().to_toml()?) } else { Action::Node(Box::new(node)) };
    Ok((action, report))
}

/// An invite, or what stands in the place of one.
fn is_secret(network: &Path) -> bool {
    network.to_str().is_some_and(is_like_invite) || network.starts_with("/proc/self/fd")
}

impl NodePlan {
    fn new(args: NodeArgs, env: &Env) -> Result<Self, CliError> {
        let mut settings = Settings::resolve(&args, &env.cwd)?;
        settings.network = settings.network.or_else(|| env.network.clone().map(PathBuf::from));
        let mut client = plan::client(&settings.network(), &TransferArgs::default(), &[], env)?;
        let default = Limits::default();
        client.dht_limits = Limits {
            queries_per_ip: settings.limit_queries_per_address.unwrap_or(default.queries_per_ip),
            queries_per_second: settings.limit_queries,
            bytes_per_second: settings.limit_bytes,
            store_bytes: settings
                .memory
                .map_or(default.store_bytes, |m| usize::try_from(m).unwrap_or(usize::MAX)),
            ..default
        };
        let web = WebConfig {
            status: settings.status,
            metrics: settings.metrics,
            hosts: settings.allow_host.clone(),
        };
        Ok(Self { client, web, settings, args, env: env.clone() })
    }

    /// The same command line, with the files it names as they are now.
    pub fn again(&self) -> Result<Self, CliError> {
        Self::new(self.args.clone(), &self.env)
    }

    /// The settings with what was left out filled in.
    fn in_force(&self) -> Settings {
        let limits = &self.client.dht_limits;
        Settings {
            state_dir: self.client.state_dir.clone(),
            limit_queries_per_address: Some(limits.queries_per_ip),
            memory: Some(limits.store_bytes as u64),
            ..self.settings.clone()
        }
    }

    /// The keys that differ in `new` and that a running node cannot follow.
    pub fn fixed_changes(&self, new: &Self) -> Vec<&'static str> {
        let (old, now) = (&self.settings, &new.settings);
        // Its key may change while the node runs, and its entry points.
        let id = |plan: &Self| plan.client.network.as_ref().map(|n| (n.id, n.is_keyed()));
        let report = |s: &Settings| (s.json, s.quiet, s.verbose, s.log_format);
        [
            ("listen", old.listen != now.listen),
            ("no-dht", old.no_dht != now.no_dht),
            // The built-in list leads to the public network, any other to a private one.
            ("bootstrap", self.client.private_network != new.client.private_network),
            ("network", id(self) != id(new)),
            ("allow", self.client.allow != new.client.allow),
            ("lan", self.client.lan.is_some() != new.client.lan.is_some()),
            ("state-dir", self.client.state_dir != new.client.state_dir),
            ("status", old.status != now.status),
            ("metrics", old.metrics != now.metrics),
            ("allow-host", old.allow_host != now.allow_host),
            ("json, quiet, verbose or log-format", report(old) != report(now)),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::CommandLine;
    use clap::Parser as _;

    fn action_of(line: &str, env: &Env) -> Action {
        let words = ["dhtget", "node"].into_iter().chain(line.split_whitespace());
        let command = CommandLine::try_parse_from(words).unwrap().command;
        crate::cli::plan::Plan::resolve(command, env).unwrap().action
    }

    #[test]
    fn a_printed_configuration_means_the_same_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env { cwd: dir.path().to_owned(), state_dir: Some("/state".into()), ..Env::default() };
        let line = "--bootstrap 127.0.0.1:1 --limit-bytes 64k --memory 2M --metrics --log-format json -v";
        let Action::Node(typed) = action_of(line, &env) else { panic!() };
        let Action::PrintConfig(text) = action_of(&format!("{line} --print-config"), &env) else { panic!() };
        std::fs::write(dir.path().join("node.toml"), &text).unwrap();
        let Action::Node(read) = action_of("--config node.toml", &env) else { panic!() };
        assert_eq!(format!("{:?}", typed.client), format!("{:?}", read.client));
        assert_eq!((&typed.web, typed.settings.log_format), (&read.web, read.settings.log_format));
        let Action::PrintConfig(again) = action_of("--config node.toml --print-config", &env) else {
            panic!()
        };
        assert_eq!(text, again);
    }

    #[test]
    fn what_cannot_change_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env { cwd: dir.path().to_owned(), ..Env::default() };
        let write = |text: &str| std::fs::write(dir.path().join("node.toml"), text).unwrap();
        write("limit-queries = 5\nbootstrap = [\"a:1\"]");
        let Action::Node(old) = action_of("--config node.toml", &env) else { panic!() };
        write("limit-queries = 6\nbootstrap = [\"b:1\"]\nmemory = \"1M\"");
        let new = old.again().unwrap();
        assert_eq!(old.fixed_changes(&new), [""; 0]);
        assert_eq!(new.client.dht_limits.queries_per_second, Some(6));
        write("listen = \"127.0.0.1:1\"\nverbose = 1");
        let new = old.again().unwrap();
        let changed = ["listen", "bootstrap", "json, quiet, verbose or log-format"];
        assert_eq!(old.fixed_changes(&new), changed);
        write("nonsense = 1");
        assert!(old.again().is_err());
    }
}
