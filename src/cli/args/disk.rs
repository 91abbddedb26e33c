//! Flags about what lies on disk: how `get` treats it, `verify`, and the folder of `demo`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{ReportArgs, size};
use crate::client::{Allocation, DiskOptions};

/// How a download treats the disk.
#[derive(Debug, Clone, Default, Args)]
pub struct DiskArgs {
    /// How files get their length: `none` (as written), `sparse`, or `full` (room is taken at once)
    #[arg(long, value_name = "HOW", default_value = "sparse", value_parser = allocation)]
    pub file_allocation: Allocation,
    /// Verify all that is there, whatever an earlier run has noted of it
    #[arg(long)]
    pub check_integrity: bool,
}

impl DiskArgs {
    /// As the client takes them.
    pub fn options(&self) -> DiskOptions {
        DiskOptions { check: self.check_integrity, allocation: self.file_allocation }
    }
}

/// `dhtget verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Path of a .torrent; magnet link or info-hash of a download that was begun beside PATH
    pub target: OsString,
    /// The file or folder [default: the torrent's name, in the current folder]
    pub path: Option<PathBuf>,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `dhtget demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Bytes to generate, share and fetch (k, M, G: 1024-based)
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub size: u64,
    /// Make the temporary folder here [default: the system's]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

fn allocation(text: &str) -> Result<Allocation, String> {
    match text {
        "none" => Ok(Allocation::None),
        "sparse" => Ok(Allocation::Sparse),
        "full" => Ok(Allocation::Full),
        _ => Err("it is none, sparse or full".to_owned()),
    }
}
