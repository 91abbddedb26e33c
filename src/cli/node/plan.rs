//! From the settings of a node to what it will do; again, when they are read again.
//!
//! Must not open a socket or print.

use super::flags::{NodeArgs, NodeCommand};
use super::settings::Settings;
use crate::cli::args::{ReportArgs, TransferArgs};
use crate::cli::error::CliError;
use crate::cli::plan::{self, Action, Env};
use crate::client::ClientConfig;
use crate::dht::Limits;
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
    let action =
        if print { Action::PrintConfig(node.in_force().to_toml()?) } else { Action::Node(Box::new(node)) };
    Ok((action, report))
}

impl NodePlan {
    fn new(args: NodeArgs, env: &Env) -> Result<Self, CliError> {
        let settings = Settings::resolve(&args, &env.cwd)?;
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
        let report = |s: &Settings| (s.json, s.quiet, s.verbose, s.log_format);
        [
            ("listen", old.listen != now.listen),
            ("no-dht", old.no_dht != now.no_dht),
            // The built-in list leads to the public network, any other to a private one.
            ("bootstrap", self.client.private_network != new.client.private_network),
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
