//! The events of `--json`: one object a line on stdout, the schema of docs/CLI.md.
//!
//! Owns their names, fields and units: bytes, bytes a second, seconds. Must not decide when to say them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::error::CliError;
use super::verify::word;
use crate::client::Status;
use crate::driver::clock;
use crate::driver::verify::FileReport;
use crate::network::{PrivateNetwork, date};
use crate::wire::metainfo::{FileEntry, FileKind, Info};

/// One event.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub enum Event<'a> {
    Started {
        command: &'a str,
        version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        info_hash: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    Dht {
        nodes: usize,
        asked: u32,
        answered: u32,
        announced_to: u32,
    },
    Peers {
        known: usize,
        connected: usize,
        unchoking: usize,
        interesting: usize,
    },
    Metadata(MetadataEvent),
    Selected {
        numbers: Vec<usize>,
        size: u64,
    },
    Checked {
        verified: u64,
        path: String,
    },
    Hashing {
        name: &'a str,
        done: u64,
        total: u64,
    },
    File(VerifiedFileEvent),
    Verified {
        files: usize,
        bad: usize,
        bytes: u64,
    },
    Progress(ProgressEvent),
    Explain {
        cause: &'static str,
        why: &'a str,
        figures: &'a BTreeMap<&'static str, u64>,
    },
    Shared {
        info_hash: String,
        name: &'a str,
        size: u64,
        files: usize,
        pieces: u32,
        magnet: String,
        path: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        torrent: Option<String>,
    },
    Finished {
        bytes: u64,
        downloaded: u64,
        uploaded: u64,
        wasted: u64,
        ratio: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    Seeded {
        uploaded: u64,
        ratio: f64,
    },
    Peer {
        address: String,
    },
    Lookup {
        peers: usize,
        asked: u32,
        answered: u32,
        hops: u32,
        lookup_s: f64,
    },
    Scrape {
        seeds: u32,
        leechers: u32,
        answered: u32,
    },
    Samples {
        address: String,
        hashes: Vec<String>,
        num: u64,
        interval_s: u64,
    },
    Item {
        target: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<i64>,
        bencoded_hex: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
    },
    Stored {
        target: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<i64>,
        nodes: u32,
    },
    Pointer {
        magnet: String,
        info_hash: String,
        seq: i64,
    },
    Node {
        nodes_v4: usize,
        nodes_v6: usize,
        bootstrapped: bool,
        queries_in: u64,
        queries_out: u64,
    },
    Serving {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<String>,
    },
    Pong {
        address: String,
        id: String,
        rtt_s: f64,
        version: Option<String>,
    },
    Network(NetworkEvent),
    NetworkCreated(NetworkEvent),
    NetworkJoined(NetworkEvent),
    NetworkRotated(NetworkEvent),
    NetworkNode(NetworkNodeEvent),
    NetworkFinding {
        what: &'a str,
        mend: &'a str,
    },
    Milestone {
        name: &'a str,
        detail: String,
    },
    Error {
        code: u8,
        message: &'a str,
        hint: Option<&'a str>,
    },
}

/// What a torrent holds.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct MetadataEvent {
    pub info_hash: String,
    pub name: String,
    pub size: u64,
    pub files: usize,
    pub pieces: u32,
    pub piece_length: u32,
    pub private: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_list: Option<Vec<FileEvent>>,
}

/// A private network, without its secrets.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct NetworkEvent {
    pub name: String,
    pub id: String,
    pub kind: &'static str,
    pub bootstrap: Vec<String>,
    pub allow: Vec<String>,
    pub lan: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_key_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl NetworkEvent {
    /// Of this network, and where its file is.
    pub fn new(network: &PrivateNetwork, path: Option<&Path>) -> Self {
        let old = network.keys.as_ref().and_then(|keys| keys.old.as_ref());
        Self {
            name: network.name.clone(),
            id: network.id.to_string(),
            kind: if network.is_keyed() { "keyed" } else { "open" },
            bootstrap: network.bootstrap.clone(),
            allow: network.allow.clone(),
            lan: network.lan,
            old_key_until: old.map(|old| date::written(old.until_s)),
            path: path.map(|path| path.display().to_string()),
        }
    }
}

/// One address of a private network as `check` found it.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct NetworkNodeEvent {
    pub entry: String,
    pub address: String,
    pub bootstrap: bool,
    pub answers: bool,
    pub rtt_s: Option<f64>,
    pub version: Option<String>,
    pub clock_ahead_s: Option<f64>,
    pub tcp: bool,
}

/// One file as `verify` found it.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct VerifiedFileEvent {
    pub path: String,
    pub length: u64,
    pub state: &'static str,
    pub pieces: u32,
    pub missing: u32,
    pub damaged: u32,
    pub surplus: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl VerifiedFileEvent {
    /// The event of a report.
    pub fn new(report: &FileReport) -> Self {
        let FileReport { length, surplus, pieces, missing, damaged, state, .. } = *report;
        let path = report.path.display().to_string();
        let cause = report.cause.clone();
        Self { path, length, state: word(state), pieces, missing, damaged, surplus, cause }
    }
}

/// One file of it.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct FileEvent {
    pub number: usize,
    pub path: String,
    pub length: u64,
}

impl MetadataEvent {
    /// The event of `info`, with every file's name where `list` says so.
    pub fn new(info: &Info, list: bool) -> Self {
        let files = || info.files().iter().filter(|f| f.kind == FileKind::Regular);
        let numbered = || info.files().iter().zip(1..).filter(|(f, _)| f.kind == FileKind::Regular);
        let event = |(f, number): (&FileEntry, usize)| FileEvent {
            number,
            path: f.path.to_string(),
            length: f.length,
        };
        let listed = || numbered().map(event).collect();
        Self {
            info_hash: info.hash().to_string(),
            name: info.name().to_owned(),
            size: info.layout().total(),
            files: files().count(),
            pieces: info.layout().count(),
            piece_length: info.layout().piece_length(),
            private: info.is_private(),
            file_list: list.then(listed),
        }
    }
}

/// The figures of a transfer.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "docs/CLI.md describes each field")]
pub struct ProgressEvent {
    pub stage: &'static str,
    pub why: String,
    pub verified: u64,
    pub total: u64,
    pub pieces_verified: u32,
    pub downloaded: u64,
    pub uploaded: u64,
    pub wasted: u64,
    pub download_rate: u64,
    pub upload_rate: u64,
}

impl ProgressEvent {
    /// The event of `status`.
    pub fn new(status: &Status) -> Self {
        Self {
            stage: super::progress::stage_name(status),
            why: super::progress::words(status),
            verified: status.verified,
            total: status.total,
            pieces_verified: status.pieces_verified,
            downloaded: status.downloaded,
            uploaded: status.uploaded,
            wasted: status.wasted,
            download_rate: status.download_rate,
            upload_rate: status.upload_rate,
        }
    }
}

impl<'a> Event<'a> {
    /// The event of an error.
    pub fn error(error: &'a CliError) -> Self {
        Self::Error { code: error.code as u8, message: &error.message, hint: error.hint.as_deref() }
    }
}

/// Writes `event` as one line with the seconds since `start`.
pub fn emit(out: &mut dyn Write, start: Instant, event: &Event<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        event: &'a Event<'a>,
        elapsed_s: f64,
    }
    let elapsed_s = clock::now().saturating_duration_since(start).as_micros() as f64 / 1e6;
    let mut line = serde_json::to_vec(&Line { event, elapsed_s })?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Code;

    fn line(event: &Event<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        emit(&mut out, clock::now(), event).unwrap();
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_line_names_its_event_and_time() {
        let value = line(&Event::Progress(ProgressEvent::new(&Status {
            verified: 5,
            total: 9,
            ..Status::default()
        })));
        assert_eq!(
            (&value["event"], &value["verified"], &value["total"]),
            (&"progress".into(), &5.into(), &9.into())
        );
        assert!(value["elapsed_s"].as_f64().unwrap() >= 0.0);
        let error = CliError::new(Code::BadTarget, "a\nb").hint("c");
        let value = line(&Event::error(&error));
        assert_eq!(
            (&value["code"], &value["message"], &value["hint"]),
            (&27.into(), &"a\nb".into(), &"c".into())
        );
        let value = line(&Event::Peers { known: 3, connected: 2, unchoking: 1, interesting: 0 });
        assert_eq!((&value["event"], &value["known"]), (&"peers".into(), &3.into()));
    }
}
