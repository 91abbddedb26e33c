//! What a person types after `dhtget node`.
//!
//! Owns spelling and help texts; each flag has a key of the same name in the configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::cli::args::{NetworkArgs, ReportArgs};
use crate::cli::values::{rate, size};
use crate::web::DEFAULT_ADDRESS;

/// `dhtget node`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    /// Look at a node that runs, instead of being one.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// Take settings from this TOML file; flags beat it, SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print all settings as such a file, and do nothing else
    #[arg(long)]
    pub print_config: bool,
    /// What strangers may take.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Who may look.
    #[command(flatten)]
    pub web: WebArgs,
    /// How to join.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
    /// How the log on stderr is written [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub log_format: Option<LogFormat>,
}

/// Commands below `node`.
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// Print the state of a running node that was started with --status
    Status(StatusArgs),
}

/// `dhtget node status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The node's --status address; a port alone is one of this machine
    #[arg(value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS, value_parser = status_address)]
    pub address: SocketAddr,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// What strangers may take.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Serve at most so many queries a second, of everyone together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_queries: Option<u32>,
    /// Serve at most so many queries a second of one address [default: 25]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit_queries_per_address: Option<u32>,
    /// Answer with at most so many bytes a second (k, M, G: 1024-based)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit_bytes: Option<u64>,
    /// Keep at most so many bytes of what strangers announce [default: 8M]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
}

/// Who may look.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Status")]
pub struct WebArgs {
    /// Serve a live page about this node [without ADDR: 127.0.0.1:6880]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = DEFAULT_ADDRESS)]
    pub status: Option<SocketAddr>,
    /// Serve /metrics for Prometheus, and /healthz [without ADDR: 127.0.0.1:6880]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = DEFAULT_ADDRESS)]
    pub metrics: Option<SocketAddr>,
    /// Answer under this host name too, not only under addresses and localhost; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub allow_host: Vec<String>,
}

/// The least that strangers may take: less would hold a few torrents, and each would drive out the last.
const MIN_MEMORY: u64 = 64 << 10;

/// A size that a store can live in.
pub fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        MIN_MEMORY.. => size(text),
        _ => Err(format!("`{text}` is too little: 64k is the least a node can serve others with")),
    }
}

fn status_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        Err(_) => text.parse().map_err(|_| "not ADDR:PORT, localhost:PORT or a port".to_owned()),
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_address_may_be_short() {
        for text in ["127.0.0.1:6880", "localhost:6880", "6880"] {
            assert_eq!(status_address(text).unwrap().to_string(), DEFAULT_ADDRESS);
        }
        assert_eq!(status_address("[::1]:5").unwrap().to_string(), "[::1]:5");
        assert!(["localhost", "example.org:1", "", "66000"].iter().all(|text| status_address(text).is_err()));
    }
}
