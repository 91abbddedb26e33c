//! The task of one transfer: it carries bytes, time and disk answers into one [`Swarm`], and its actions out.
//!
//! Owns the swarm, its connections' writing ends and its disk threads; no mutex stands round them. Must not
//! decide anything the swarm could, and must not know the DHT: addresses come in on a channel.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::debug;

use super::choice::Choice;
use super::clock;
use super::disk::{Disk, Done, Job as DiskJob};
use super::outbox::Out;
use super::place::Place;
use super::stored::Stored;
use super::strain::Strain;
use super::stream::{Stream, Taken};
use super::tcp::{Doors, Incoming, Link, Links, Net};
use super::transfer::{
    DiskOptions, Finding, Job, Placement, Source, Stage, Status, TransferError, TransferEvent,
};
use crate::peer::Payload;
use crate::swarm::resume::Ledger;
use crate::swarm::{Action, Config, Input, Origin, PeerKey, Report, Swarm, Wanted};
use crate::wire::metainfo::Info;
use crate::wire::peer::BlockRef;

mod choosing;
mod keeping;
mod placing;
mod telling;

use self::placing::Check;

/// Network events waiting for the task; readers wait beyond it.
const MAX_NET: usize = 64;
/// Events taken in one turn, before timers and the disk are looked at again.
const BUDGET: usize = 32;
/// Incoming connections waiting to be taken in.
const MAX_DOOR: usize = 64;
/// Milestones waiting for the owner; few ever happen.
const MAX_EVENTS: usize = 64;

/// What a transfer shares with the rest of its client.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Sockets and limits.
    pub links: Links,
    /// Where incoming connections are told apart.
    pub doors: Doors,
    /// The port of TCP and UDP.
    pub port: u16,
    /// Whether a DHT node runs on that port.
    pub dht: bool,
    /// The network is a private one.
    pub private_network: bool,
    /// How downloads treat the disk.
    pub disk: DiskOptions,
}

/// The ends that the owner of a transfer holds.
#[derive(Debug)]
pub struct Ends {
    /// Milestones.
    pub events: mpsc::Receiver<TransferEvent>,
    /// Figures.
    pub status: watch::Receiver<Status>,
    /// Addresses of peers, from whoever finds them.
    pub candidates: mpsc::Sender<(Vec<SocketAddr>, Origin)>,
    /// How the search for peers goes, for the figures.
    pub finding: watch::Sender<Finding>,
    /// DHT nodes that peers run.
    pub dht_nodes: mpsc::Receiver<SocketAddr>,
    /// Asks the transfer to flush and end; answered when it has.
    pub stop: oneshot::Sender<oneshot::Sender<()>>,
}

/// Starts the task of a transfer.
pub fn spawn(job: Job, choice: Choice, around: Surroundings, seed: [u8; 32]) -> Ends {
    let (events_in, events) = mpsc::channel(MAX_EVENTS);
    let (status_in, status) = watch::channel(Status::default());
    let (candidates, candidates_out) = mpsc::channel(MAX_NET);
    let (finding, finding_out) = watch::channel(Finding::default());
    let (dht_nodes_in, dht_nodes) = mpsc::channel(MAX_NET);
    let (stop, stop_out) = oneshot::channel();
    let mut task = Download::new(job, around, seed, events_in, status_in, finding_out, dht_nodes_in);
    task.choice = choice;
    tokio::spawn(task.run(candidates_out, stop_out));
    Ends { events, status, candidates, finding, dht_nodes, stop }
}

/// What the task wakes up for, in this order of priority.
enum Wake {
    Stop(Option<oneshot::Sender<()>>),
    Timer,
    Disk(Done),
    Placed(Result<Option<Place>, TransferError>),
    Taken(Taken),
    Net(Net),
    Incoming(Incoming),
    Candidates(Vec<SocketAddr>, Origin),
}

struct Download {
    job: Job,
    around: Surroundings,
    swarm: Swarm,
    info: Option<Arc<Info>>,
    choice: Choice,
    wanted: Wanted,
    stream: Option<(Stream, mpsc::UnboundedReceiver<Taken>)>,
    place: Option<Place>,
    placing: Option<oneshot::Receiver<Result<Option<Place>, TransferError>>>,
    check: Option<Check>,
    ledger: Option<Ledger>,
    disk: Option<(Disk, mpsc::UnboundedReceiver<Done>)>,
    unwritten: usize,
    /// What the disk has made ready, and where in its piece it begins, while the swarm is told.
    stored: Option<(u32, Stored)>,
    links: BTreeMap<PeerKey, Link>,
    dials: BTreeMap<PeerKey, AbortHandle>,
    net: mpsc::Sender<Net>,
    net_out: Option<mpsc::Receiver<Net>>,
    events: mpsc::Sender<TransferEvent>,
    status: watch::Sender<Status>,
    finding: watch::Receiver<Finding>,
    dht_nodes: mpsc::Sender<SocketAddr>,
    stage: Stage,
    /// Why the disk holds us up, and how many of its threads wait for room.
    disk_trouble: Option<String>,
    waiting_threads: usize,
    /// What could not be read for a peer, until something can.
    unreadable: Option<String>,
    first_peer_told: bool,
    first_piece_told: bool,
    half_told: bool,
    last_arrival: Instant,
    publish_at: Instant,
    strain: Strain,
    ended: bool,
}

impl Download {
    fn new(
        job: Job,
        around: Surroundings,
        seed: [u8; 32],
        events: mpsc::Sender<TransferEvent>,
        status: watch::Sender<Status>,
        finding: watch::Receiver<Finding>,
        dht_nodes: mpsc::Sender<SocketAddr>,
    ) -> Self {
        let now = clock::now();
        let mut rng = crate::rng::Rng::from_seed(seed);
        let hash = job.source.hash();
        let mut peer_id: [u8; 20] = rng.bytes();
        peer_id[..8].copy_from_slice(b"-DG0100-");
        let private = matches!(&job.source, Source::Info(info) if info.is_private());
        let config = Config {
            peer_id: crate::id::Id160(peer_id),
            listen_port: Some(around.port),
            dht_port: (around.dht && !private).then_some(around.port),
            metadata_only: matches!(job.placement, Placement::Nowhere),
            download_limit: around.links.download.rate(),
            upload_limit: around.links.upload.rate(),
            allow: around.links.allow.clone(),
            shared_addresses: around.private_network,
            super_seed: job.super_seed,
        };
        let (net, net_out) = mpsc::channel(MAX_NET);
        Self {
            swarm: Swarm::new(hash, config, rng.child(), now),
            job,
            around,
            info: None,
            choice: Choice::default(),
            wanted: Wanted::default(),
            stream: None,
            place: None,
            placing: None,
            check: None,
            ledger: None,
            disk: None,
            unwritten: 0,
            stored: None,
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            net,
            net_out: Some(net_out),
            events,
            status,
            finding,
            dht_nodes,
            stage: Stage::JoiningDht,
            disk_trouble: None,
            waiting_threads: 0,
            unreadable: None,
            first_peer_told: false,
            first_piece_told: false,
            half_told: false,
            last_arrival: now,
            publish_at: now,
            strain: Strain::new(now),
            ended: false,
        }
    }

    async fn run(
        mut self,
        mut candidates: mpsc::Receiver<(Vec<SocketAddr>, Origin)>,
        mut stop: oneshot::Receiver<oneshot::Sender<()>>,
    ) {
        let hash = self.job.source.hash();
        let (door, mut incoming) = mpsc::channel(MAX_DOOR);
        self.around.doors.open(hash, door);
        let Some(mut net) = self.net_out.take() else { return };
        if let Source::Info(info) = self.job.source.clone() {
            self.swarm.handle(clock::now(), Input::Info(info.clone()));
            self.on_info(info);
        }
        let mut answer = None;
        while !self.ended {
            self.look_at_finding();
            self.act();
            self.publish(false);
            self.keep();
            let held_since = (!self.room()).then(clock::now);
            let wake = self.wake(&mut candidates, &mut stop, &mut incoming, &mut net).await;
            if let Some(since) = held_since {
                self.strain.on_held(clock::now().saturating_duration_since(since));
            }
            match wake {
                Wake::Stop(reply) => {
                    answer = reply;
                    self.ended = true;
                }
                Wake::Timer => self.swarm.handle_timeout(clock::now()),
                Wake::Disk(done) => self.on_disk_batch(done),
                Wake::Placed(outcome) => self.on_placed(outcome),
                Wake::Taken(taken) => self.on_taken(taken),
                Wake::Net(event) => {
                    self.on_net(event);
                    for _ in 0..BUDGET {
                        self.act();
                        let Some(event) = self.room().then(|| net.try_recv().ok()).flatten() else { break };
                        self.on_net(event);
                    }
                }
                Wake::Incoming(peer) => self.on_incoming(peer),
                Wake::Candidates(addrs, origin) => self.on_candidates(addrs, origin),
            }
        }
        self.around.doors.close(&hash);
        self.end(answer).await;
    }

    async fn wake(
        &mut self,
        candidates: &mut mpsc::Receiver<(Vec<SocketAddr>, Origin)>,
        stop: &mut oneshot::Receiver<oneshot::Sender<()>>,
        incoming: &mut mpsc::Receiver<Incoming>,
        net: &mut mpsc::Receiver<Net>,
    ) -> Wake {
        let room = self.room();
        let deadline = self.swarm.poll_timeout().map_or(self.publish_at, |t| t.min(self.publish_at));
        let disk = async {
            match &mut self.disk {
                Some((_, answers)) => answers.recv().await,
                None => None,
            }
        };
        let placed = async {
            match &mut self.placing {
                Some(outcome) => outcome.await.ok(),
                None => None,
            }
        };
        let taken = async {
            match &mut self.stream {
                Some((_, answers)) => answers.recv().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            reply = &mut *stop => Wake::Stop(reply.ok()),
            () = tokio::time::sleep_until(deadline.into()) => Wake::Timer,
            Some(done) = disk => Wake::Disk(done),
            Some(outcome) = placed => Wake::Placed(outcome),
            Some(taken) = taken => Wake::Taken(taken),
            // Rare, and never to be starved by payload.
            Some(peer) = incoming.recv() => Wake::Incoming(peer),
            Some((addrs, origin)) = candidates.recv() => Wake::Candidates(addrs, origin),
            Some(event) = net.recv(), if room => Wake::Net(event),
        }
    }

    /// Whether the disk keeps up; readers wait otherwise.
    fn room(&self) -> bool {
        self.unwritten < self.around.links.chunks.unwritten()
    }

    // ---- inputs

    /// The search for peers may have taught us our own address.
    fn look_at_finding(&mut self) {
        if self.finding.has_changed().unwrap_or(false) {
            let external = self.finding.borrow_and_update().external;
            self.swarm.handle(clock::now(), Input::External(external));
        }
    }

    fn on_candidates(&mut self, mut addrs: Vec<SocketAddr>, origin: Origin) {
        addrs.retain(|addr| self.around.links.allow.allows(addr.ip()));
        if let (false, Some(first)) = (self.first_peer_told, addrs.first()) {
            self.first_peer_told = true;
            self.tell(TransferEvent::FirstPeer(*first));
        }
        self.swarm.handle(clock::now(), Input::Candidates(addrs, origin));
    }

    fn on_incoming(&mut self, peer: Incoming) {
        let now = clock::now();
        let Some(key) = self.swarm.accept(now, peer.addr) else { return };
        let link = self.around.links.attach(key, peer.stream, peer.channel, self.net.clone());
        self.links.insert(key, link);
        self.swarm.handle(now, Input::Received(key, peer.greeting));
    }

    fn on_net(&mut self, event: Net) {
        let now = clock::now();
        match event {
            Net::Connected(key, link) => {
                self.dials.remove(&key);
                self.links.insert(key, link);
                self.swarm.handle(now, Input::Connected(key));
            }
            Net::DialFailed(key) => {
                self.dials.remove(&key);
                self.swarm.handle(now, Input::DialFailed(key));
            }
            // What still comes of a connection that we have ended is nobody's.
            Net::Received(key, bytes) if self.links.contains_key(&key) => {
                if bytes.len() > 1024 {
                    self.last_arrival = now;
                }
                self.swarm.handle(now, Input::Received(key, bytes));
            }
            Net::Sent(key, bytes) => self.swarm.handle(now, Input::Sent(key, bytes)),
            Net::Closed(key) => {
                self.links.remove(&key);
                self.swarm.handle(now, Input::Closed(key));
            }
            Net::Received(..) => {}
        }
    }

    fn on_disk_batch(&mut self, first: Done) {
        let mut next = Some(first);
        while let Some(done) = next.filter(|_| !self.ended) {
            self.on_disk(done);
            self.act();
            next = self.disk.as_mut().and_then(|(_, answers)| answers.try_recv().ok());
        }
    }

    fn on_disk(&mut self, done: Done) {
        let now = clock::now();
        match done {
            Done::Wrote(bytes) => self.unwritten = self.unwritten.saturating_sub(bytes),
            Done::Hashed(piece, valid) => {
                if valid {
                    self.note_verified(piece);
                }
                self.swarm.handle(now, Input::Hashed(piece, valid));
            }
            Done::Lost(piece) => self.swarm.handle(now, Input::Lost(piece)),
            Done::Checked(piece, valid) => self.on_checked(piece, valid),
            Done::Digested(piece, digests) => self.swarm.handle(now, Input::Digested(piece, digests)),
            Done::Read(peer, piece, begin, stored) => {
                let data = stored.as_ref().map(|s| Payload::Stored(s.len() as u32));
                if data.is_some() {
                    self.unreadable = None;
                }
                self.swarm.handle(now, Input::Read { peer, piece, begin, data });
                // Its blocks go out now, or never.
                self.stored = stored.map(|s| (begin, s));
                self.act();
                self.stored = None;
            }
            Done::Full(cause) => {
                self.waiting_threads += 1;
                self.disk_trouble = Some(cause);
                self.swarm.handle(now, Input::Held(true));
                self.publish(true);
            }
            Done::RoomAgain => {
                self.waiting_threads = self.waiting_threads.saturating_sub(1);
                if self.waiting_threads == 0 {
                    self.disk_trouble = None;
                    self.swarm.handle(now, Input::Held(false));
                }
            }
            Done::Saved(outcome) => self.on_saved(outcome),
            Done::Unreadable(cause) => self.unreadable = Some(cause),
            Done::Failed(path, cause) => self.fail(TransferError::Disk { path, cause, full: false }),
        }
    }

    // ---- actions

    fn act(&mut self) {
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Dial { peer, addr, timeout } => {
                    let dial = self.around.links.dial(peer, addr, timeout, self.net.clone());
                    self.dials.insert(peer, dial);
                }
                Action::Close(peer, reason) => {
                    debug!(%reason, "closing a connection");
                    if let Some(link) = self.links.remove(&peer).filter(|_| reason.is_fault()) {
                        link.cut();
                    }
                    if let Some(dial) = self.dials.remove(&peer) {
                        dial.abort();
                    }
                }
                Action::Send(peer, bytes) => {
                    if let Some(link) = self.links.get(&peer) {
                        link.send(Out::Bytes(bytes));
                    }
                }
                Action::SendStored(peer, block) => self.send_stored(peer, &block),
                Action::Write { piece, begin, data } => {
                    self.unwritten += data.len();
                    self.note_written(piece);
                    self.to_disk(DiskJob::Write(piece, begin, data));
                }
                Action::Hash(piece) => self.to_disk(DiskJob::Hash(piece)),
                Action::Digest(piece) => self.to_disk(DiskJob::Digest(piece)),
                Action::Read { peer, piece, begin, length } => {
                    self.to_disk(DiskJob::Read(peer, piece, begin, length));
                }
                Action::Report(report) => self.on_report(report),
            }
        }
    }

    fn send_stored(&self, peer: PeerKey, block: &BlockRef) {
        let (Some(link), Some((begin, stored))) = (self.links.get(&peer), &self.stored) else { return };
        for stretch in stored.cut(u64::from(block.begin.saturating_sub(*begin)), u64::from(block.length)) {
            link.send(Out::Stored(stretch));
        }
    }

    fn to_disk(&self, job: DiskJob) {
        if let Some((disk, _)) = &self.disk {
            disk.send(job);
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Metadata(info) => self.on_info(info),
            Report::BadMetadata(error) => self.fail(error.into()),
            Report::Verified(piece) => self.on_verified(piece),
            Report::Complete => self.on_complete(),
            Report::DhtNode(addr) => {
                // A hint; where nobody has time for it, it is lost.
                let _ = self.dht_nodes.try_send(addr);
            }
        }
    }

    // ---- the end

    /// Lets the disk finish what it was given, then says so to whoever waits.
    async fn end(mut self, answer: Option<oneshot::Sender<()>>) {
        if self.stage != Stage::Seeding {
            self.stage = Stage::Finished;
        }
        self.publish(true);
        self.links.clear();
        self.dials.values().for_each(AbortHandle::abort);
        self.end_disk().await;
        if let (Stage::Seeding, Some(place)) = (self.stage, &self.place) {
            place.leave();
        }
        if let Some(answer) = answer {
            let _ = answer.send(());
        }
    }
}
