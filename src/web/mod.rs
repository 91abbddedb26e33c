//! A long-lived node seen from a browser and from a monitoring system.
//!
//! `serve` owns the HTTP server, its bounds and who may talk to it; `status` the figures as JSON, which
//! `dhtget node status` reads too; `metrics` the same as Prometheus text; `history` the rates of the last
//! minutes; `page` the files of the page, embedded. All of it only looks: nothing here changes the node.
//! Must not know the command line.

mod history;
pub mod metrics;
mod process;
mod serve;
pub mod status;

pub use serve::{Server, WebConfig, WebError};

/// Where the page is, unless told otherwise: nobody but this machine, next to BitTorrent's ports.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:6880";
