//! `dhtget demo`: a whole network in one process, on loopback sockets: 64 DHT nodes, three sharers, one
//! download by bare magnet link, every byte compared.
//!
//! Owns the play and its timeline. Uses the client as any program would; nothing here has a short cut.

mod payload;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};

use self::payload::{TempFolder, Verdict};
use super::error::{CliError, Code};
use super::get::goodbye;
use super::json::Event;
use super::progress::{Patience, bytes, count};
use super::report::Reporter;
use super::signals::Signals;
use crate::client::{Client, ClientConfig, Job, Placement, Source, Status, Transfer, TransferEvent};
use crate::dht;
use crate::driver::clock;
use crate::driver::create::{Content, CreateError};
use crate::driver::listen::{UdpSockets, udp_socket};
use crate::driver::udp::{Dht, SearchEvent};
use crate::rng::Rng;
use crate::wire::magnet::Magnet;
use crate::wire::metainfo::Info;

/// Nodes of the private DHT, besides those of the sharers and the download.
const NODES: usize = 64;
/// Clients that have the whole payload.
const SHARERS: usize = 3;
/// Nodes that the others start from.
const ROUTERS: usize = 3;
/// Each step of the play may take this long.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Without a byte for this long, the download has failed.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// Figures are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// The name of what is shared.
const NAME: &str = "dhtget demo";

/// Plays it with `size` bytes in a temporary folder below `dir`.
pub async fn run(
    size: u64,
    dir: &Path,
    reporter: &mut Reporter,
    signals: &mut Signals,
) -> Result<(), CliError> {
    reporter.tell(&Event::Started {
        command: "demo",
        version: env!("CARGO_PKG_VERSION"),
        info_hash: None,
        port: None,
    });
    let seed = clock::entropy_seed().map_err(|e| failed("the system has no random bytes", &e))?;
    let mut rng = Rng::from_seed(seed);
    let folder = TempFolder::new(dir, &mut rng).map_err(|e| {
        failed(&format!("{}: no temporary folder", dir.display()), &e).hint("choose another place with --dir")
    })?;
    let mut play = Play { begun: clock::now(), folder: &folder, size, rng, reporter };
    let result = play.perform(signals).await;
    play.reporter.clear();
    result
}

fn failed(what: &str, cause: &dyn std::fmt::Display) -> CliError {
    CliError::new(Code::Unknown, format!("{what}: {cause}"))
}

/// The stage, and who speaks.
struct Play<'a> {
    begun: Instant,
    folder: &'a TempFolder,
    size: u64,
    rng: Rng,
    reporter: &'a mut Reporter,
}

impl Play<'_> {
    async fn perform(&mut self, signals: &mut Signals) -> Result<(), CliError> {
        let source = self.folder.path().join(NAME);
        let info = self.prepare(&source, signals).await?;
        let copy = tokio::select! {
            biased;
            stop = signals.next() => Err(stop),
            copy = self.on_the_network(&info, &source) => copy,
        }?;
        let (size, stop) = (self.size, signals.flag());
        self.reporter.step(clock::now(), "comparing");
        let verdict = blocking(signals, move || payload::compare(&source, &copy, size, &stop)).await?;
        match verdict.map_err(|e| failed("comparing", &e))? {
            Verdict::Same(all) => {
                self.milestone("compared", &format!("all {all} bytes are the same"));
                Ok(())
            }
            Verdict::Different(why) => {
                Err(CliError::new(Code::Checksum, format!("the copy is wrong: {why}")))
            }
        }
    }

    /// A line of the timeline.
    fn milestone(&self, name: &str, detail: &str) {
        let at = clock::now().saturating_duration_since(self.begun).as_secs_f64();
        // A timeline that nobody reads any more does not stop the play.
        let _ = self.reporter.data(&format!("{at:7.2} s  {name:<13} {detail}"));
        self.reporter.tell(&Event::Milestone { name, detail: detail.to_owned() });
    }

    /// Generates the payload and makes its torrent.
    async fn prepare(&mut self, source: &Path, signals: &mut Signals) -> Result<Arc<Info>, CliError> {
        self.reporter.step(clock::now(), "generating the payload");
        let (root, size, stop) = (source.to_owned(), self.size, signals.flag());
        let mut rng = Rng::from_seed(self.rng.child());
        let made = blocking(signals, move || payload::generate(&root, size, &mut rng, &stop)).await?;
        made.map_err(|e| {
            let full =
                matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
            let code = if full { Code::DiskFull } else { Code::Unknown };
            CliError::new(code, format!("{}: {e}", source.display()))
                .hint("the demo needs twice its --size of room; --dir chooses another place")
        })?;
        let files = payload::files(self.size).len();
        self.milestone("generated", &format!("{} in {}", bytes(self.size), count(files, "file")));
        let (root, stop) = (source.to_owned(), signals.flag());
        let hashed = blocking(signals, move || Content::scan(&root)?.hash(&|_, _| {}, &stop)).await?;
        let info = match hashed {
            Err(CreateError::Cancelled) => return Err(signals.next().await),
            other => Arc::new(other?),
        };
        let layout = info.layout();
        let (pieces, length) = (count(layout.count() as usize, "piece"), u64::from(layout.piece_length()));
        self.milestone("hashed", &format!("{pieces} of {}", bytes(length)));
        Ok(info)
    }

    /// Everything that needs sockets; returns where the copy stands.
    async fn on_the_network(&mut self, info: &Arc<Info>, source: &Path) -> Result<PathBuf, CliError> {
        let (nodes, bootstrap) = self.start_nodes().await?;
        let mut sharers = Vec::new();
        for _ in 0..SHARERS {
            sharers.push(start_sharer(&bootstrap, info, source).await?);
        }
        self.wait_for_announces(&sharers).await?;
        self.search(&nodes, info).await?;
        let magnet = Magnet::new(info.hash()).to_string();
        self.milestone("fetching", &magnet);
        let copy = self.fetch(&magnet, &bootstrap).await?;
        for (client, transfer) in sharers {
            goodbye(client, vec![transfer]).await;
        }
        for node in nodes {
            node.shutdown().await;
        }
        Ok(copy)
    }

    async fn start_nodes(&mut self) -> Result<(Vec<Dht>, Vec<String>), CliError> {
        let mut sockets = Vec::new();
        for _ in 0..NODES {
            let socket = udp_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            sockets.push(socket.map_err(|e| failed("no loopback UDP socket", &e))?);
        }
        let addrs = sockets.iter().take(ROUTERS).map(|s| s.local_addr().map(|a| a.to_string()));
        let bootstrap: Vec<String> =
            addrs.collect::<Result<_, _>>().map_err(|e| failed("no loopback UDP socket", &e))?;
        let mut nodes = Vec::new();
        for socket in sockets {
            let config = dht::Config { network: dht::Network::Local, ..dht::Config::default() };
            let sockets = UdpSockets { v4: Some(socket), v6: None };
            let node = Dht::spawn(config, sockets, self.rng.child(), None, bootstrap.clone());
            nodes.push(node.map_err(|e| failed("a DHT node cannot start", &e))?);
        }
        let joined = async {
            for node in &nodes {
                // An error means that the node has ended, which the next step will notice.
                let _ = node.status().wait_for(|s| s.bootstrapped).await;
            }
        };
        self.reporter.step(clock::now(), "waiting for the nodes to find each other");
        timeout(STEP_LIMIT, joined).await.map_err(|_| too_slow("the DHT nodes did not find each other"))?;
        let mut known: Vec<usize> = nodes.iter().map(|n| n.status().borrow().nodes_v4).collect();
        known.sort_unstable();
        let (least, most) = (known.first().copied().unwrap_or(0), known.last().copied().unwrap_or(0));
        self.milestone("bootstrapped", &format!("{NODES} DHT nodes, each knows {least} to {most} others"));
        Ok((nodes, bootstrap))
    }

    async fn wait_for_announces(&mut self, sharers: &[(Client, Transfer)]) -> Result<(), CliError> {
        let mut holders = Vec::new();
        self.reporter.step(clock::now(), "waiting for the sharers' announces");
        for (_, transfer) in sharers {
            let mut status = transfer.status();
            let announced = timeout(STEP_LIMIT, status.wait_for(|s| s.announced_to > 0)).await;
            let announced = announced.map_err(|_| too_slow("a sharer could not announce itself"))?;
            let status = announced.map_err(|_| failed("a sharer", &"it ended by itself"))?;
            holders.push(status.announced_to.to_string());
        }
        self.milestone("announced", &format!("{SHARERS} sharers, to {} nodes", holders.join(" + ")));
        Ok(())
    }

    /// One lookup on its own, from a node that knows nothing of the torrent.
    async fn search(&mut self, nodes: &[Dht], info: &Info) -> Result<(), CliError> {
        let Some(node) = nodes.last() else { return Ok(()) };
        let mut search = node.get_peers(info.hash());
        let done = async {
            while let Some(event) = search.next().await {
                if let SearchEvent::Done(stats) = event {
                    return Some(stats);
                }
            }
            None
        };
        let stats = timeout(STEP_LIMIT, done).await.map_err(|_| too_slow("a lookup did not end"))?;
        let stats = stats.ok_or_else(|| failed("a lookup", &"it ended by itself"))?;
        let (peers, hops) = (count(stats.peers as usize, "peer"), count(stats.hops as usize, "hop"));
        let messages = stats.asked + stats.answered;
        let ms = stats.elapsed.as_secs_f64() * 1000.0;
        self.milestone("lookup", &format!("{peers} in {hops}, {messages} messages, {ms:.1} ms"));
        Ok(())
    }

    /// The download, by the text of a bare magnet link.
    async fn fetch(&mut self, magnet: &str, bootstrap: &[String]) -> Result<PathBuf, CliError> {
        let magnet: Magnet = magnet.parse().map_err(|e| failed("the magnet link", &e))?;
        let begun = clock::now();
        let client = Client::start(local_client(bootstrap)).await?;
        let dir = self.folder.path().join("copy");
        let mut transfer = client.add(Job {
            source: Source::Hash(magnet.hash),
            placement: Placement::Folder { dir: dir.clone(), name: None, overwrite: false },
            peers: Vec::new(),
            seed: false,
            super_seed: false,
        });
        let result = self.watch(&mut transfer, begun).await;
        goodbye(client, vec![transfer]).await;
        result.map(|path| path.unwrap_or_else(|| dir.join(NAME)))
    }

    async fn watch(&mut self, transfer: &mut Transfer, begun: Instant) -> Result<Option<PathBuf>, CliError> {
        let status = transfer.status();
        let mut path = None;
        let mut patience = Patience::new(Some(STALL_LIMIT), begun);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = transfer.next() => match event {
                    Some(TransferEvent::Complete) => {
                        self.on_complete(begun, &status.borrow().clone());
                        return Ok(path);
                    }
                    Some(TransferEvent::Half) => {
                        let rate = status.borrow().download_rate;
                        self.since("half", begun, &format!("at {}/s", bytes(rate)));
                    }
                    Some(TransferEvent::Failed(error)) => return Err(error.into()),
                    Some(TransferEvent::Checked { path: at, .. }) => path = Some(at),
                    Some(event) => self.on_event(begun, &event),
                    None => return Err(failed("the download", &"it ended by itself")),
                },
                _ = tick.tick() => {
                    let now = status.borrow().clone();
                    self.reporter.status(clock::now(), &now, None);
                    patience.check(clock::now(), &now)?;
                }
            }
        }
    }

    fn on_event(&self, begun: Instant, event: &TransferEvent) {
        match event {
            TransferEvent::FirstPeer(peer) => self.since("first peer", begun, &peer.to_string()),
            TransferEvent::Metadata(info) => {
                let name = info.name();
                self.since("metadata", begun, &format!("{name:?}, {} bytes of it", info.raw().len()));
            }
            TransferEvent::FirstPiece => self.since("first piece", begun, "verified"),
            _ => {}
        }
    }

    fn on_complete(&self, begun: Instant, status: &Status) {
        let rate =
            status.total as f64 / clock::now().saturating_duration_since(begun).as_secs_f64().max(0.001);
        let (all, rate) = (bytes(status.total), bytes(rate as u64));
        let (peers, wasted) = (count(status.sources, "peer"), bytes(status.wasted));
        self.since("done", begun, &format!("{all} at {rate}/s from {peers}, {wasted} wasted"));
    }

    /// A milestone with the time since the download began.
    fn since(&self, name: &str, begun: Instant, detail: &str) {
        let ms = clock::now().saturating_duration_since(begun).as_millis();
        self.milestone(name, &format!("{detail} ({ms} ms after the start of the download)"));
    }
}

fn too_slow(what: &str) -> CliError {
    CliError::new(Code::Timeout, what.to_owned()).hint("is loopback traffic filtered here? -vv tells more")
}

fn local_client(bootstrap: &[String]) -> ClientConfig {
    ClientConfig {
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        bootstrap: bootstrap.to_vec(),
        private_network: true,
        ..ClientConfig::default()
    }
}

async fn start_sharer(
    bootstrap: &[String],
    info: &Arc<Info>,
    source: &Path,
) -> Result<(Client, Transfer), CliError> {
    let client = Client::start(local_client(bootstrap)).await?;
    let transfer = client.add(Job {
        source: Source::Info(Arc::clone(info)),
        placement: Placement::InPlace(source.to_owned()),
        peers: Vec::new(),
        seed: true,
        super_seed: false,
    });
    Ok((client, transfer))
}

/// Blocking work on its own thread, waited for to its end, so that nothing writes into a folder that is
/// being removed; the work looks at the signals' flag itself.
async fn blocking<T: Send + 'static>(
    signals: &mut Signals,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CliError> {
    let flag = signals.flag();
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| failed("a thread of the demo", &e))?;
    if flag.load(std::sync::atomic::Ordering::Relaxed) { Err(signals.next().await) } else { Ok(done) }
}
