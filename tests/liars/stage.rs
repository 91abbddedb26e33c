//! The torrent, the honest peer and the victim: real `dhtget` processes on loopback.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dhtget::rng::Rng;
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{Info, Metainfo};
use dhtget::wire::peer::BlockRef;
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

pub const PIECE: usize = 64 << 10;

/// A torrent and its data.
pub struct Stage {
    dir: TempDir,
    pub content: Vec<u8>,
    pub info: Info,
}

impl Stage {
    pub fn new(size: usize) -> Self {
        let mut content = vec![0; size];
        Rng::from_u64(7).fill(&mut content);
        let hashes: Vec<u8> = content.chunks(PIECE).flat_map(Sha1::digest).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(size as i64).bytes(b"name").bytes(b"data.bin");
        w.bytes(b"piece length").int(PIECE as i64).bytes(b"pieces").bytes(&hashes);
        // Three blocks of metadata, so that liars may give some of them.
        w.bytes(b"x-filler").bytes(&vec![b'x'; 40_000]).end();
        let info = Info::parse(out.into()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("seed")).unwrap();
        std::fs::write(dir.path().join("seed/data.bin"), &content).unwrap();
        std::fs::write(dir.path().join("t.torrent"), Metainfo::emit(&info)).unwrap();
        Self { dir, content, info }
    }

    pub fn pieces(&self) -> u32 {
        self.content.len().div_ceil(PIECE) as u32
    }

    pub fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}", self.info.hash())
    }

    pub fn torrent(&self) -> String {
        self.dir.path().join("t.torrent").display().to_string()
    }

    /// What a true peer would answer.
    pub fn block(&self, block: &BlockRef) -> Vec<u8> {
        let begin = (block.index as usize * PIECE + block.begin as usize).min(self.content.len());
        self.content[begin..self.content.len().min(begin + block.length as usize)].to_vec()
    }

    /// Whoever has everything, `upload` bytes a second of it.
    pub fn seed(&self, upload: Option<u64>) -> Program {
        let limit = upload.map(|rate| rate.to_string());
        let mut args = vec!["--seed-time", "1h"];
        args.extend(limit.iter().flat_map(|rate| ["--limit-upload", rate]));
        let torrent = self.torrent();
        Program::start(self.dir.path(), &[&[&torrent, "-d", "seed"], &args[..]].concat())
    }

    /// Whoever fetches `target` into a folder of its own, from these peers, at most so many bytes a second.
    pub fn leech(&self, folder: &str, target: &str, peers: &[SocketAddr], rate: Option<u64>) -> Program {
        let limit = rate.map(|rate| rate.to_string());
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let mut args = vec![target, "-d", folder, "--seed-time", "1h"];
        args.extend(peers.iter().flat_map(|peer| ["--peer", peer]));
        args.extend(limit.iter().flat_map(|rate| ["--limit-rate", rate]));
        Program::start(self.dir.path(), &args)
    }

    /// What was fetched is right.
    pub fn compare(&self, folder: &str) {
        let path: PathBuf = self.dir.path().join(folder).join("data.bin");
        assert!(std::fs::read(path).unwrap() == self.content, "the bytes differ");
    }
}

/// A running `dhtget`; ended when it goes out of scope.
pub struct Program {
    child: Child,
    pub started: Instant,
    events: Arc<Mutex<Vec<(Instant, Value)>>>,
}

impl Program {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dhtget"));
        command.args(["get", "--json", "--no-dht", "--no-lsd", "--no-state", "--listen", "127.0.0.1:0"]);
        command.args(args).current_dir(dir).env("HOME", dir).env("XDG_STATE_HOME", dir.join("state"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let events = Arc::<Mutex<Vec<(Instant, Value)>>>::default();
        let (sink, lines) = (events.clone(), BufReader::new(child.stdout.take().unwrap()).lines());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::Null);
                sink.lock().unwrap().push((Instant::now(), event));
            }
        });
        Self { child, started: Instant::now(), events }
    }

    /// The last event of that name so far.
    pub fn last(&self, name: &str) -> Option<(Instant, Value)> {
        self.events.lock().unwrap().iter().rev().find(|(_, e)| e["event"] == name).cloned()
    }

    /// The first event of that name; its absence after `patience` is a failure.
    pub fn wait_for(&mut self, name: &str, patience: Duration) -> (Instant, Value) {
        let until = Instant::now() + patience;
        loop {
            let found = self.events.lock().unwrap().iter().find(|(_, e)| e["event"] == name).cloned();
            if let Some(found) = found {
                return found;
            }
            let gone = self.child.try_wait().unwrap();
            assert!(gone.is_none(), "it has left: {gone:?}, {:?}", self.last("error"));
            assert!(Instant::now() < until, "no `{name}` in {patience:?}; {:?}", self.last("progress"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn addr(&mut self) -> SocketAddr {
        let (_, event) = self.wait_for("started", Duration::from_secs(20));
        ([127, 0, 0, 1], event["port"].as_u64().unwrap() as u16).into()
    }

    /// The time from the start to the last byte.
    pub fn finish(&mut self, patience: Duration) -> Duration {
        self.wait_for("finished", patience).0 - self.started
    }

    /// Bytes that it has allocated and touched, at the most so far: its code is the same whoever attacks.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        kib("VmHWM:") - kib("RssFile:")
    }

    /// Files and sockets that it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Seconds of both cores that it has used.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
        // Linux counts in hundredths here, whatever its own tick is.
        ticks as f64 / 100.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
