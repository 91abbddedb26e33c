//! The async face of the library: a node, its transfers, and what they report.
//!
//! The only place where the DHT meets the swarm. Must run inside a tokio runtime (a current-thread one is
//! enough and the fastest). Must not print, parse a command line, or decide anything a machine decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

mod finder;

use self::finder::Finder;
use crate::dht;
pub use crate::driver::choice::{Choice, ChoiceError, Pattern};
use crate::driver::chunks::Chunks;
use crate::driver::download::{self, Surroundings};
use crate::driver::lan::Lan;
pub use crate::driver::lan::LanIdentity;
use crate::driver::listen::{ListenError, listen, local_ips};
use crate::driver::lsd::Lsd;
use crate::driver::sealed::Seals;
use crate::driver::state::StateFolder;
pub use crate::driver::stream::Sink;
use crate::driver::tcp::{Doors, Links};
use crate::driver::throttle::Throttle;
pub use crate::driver::transfer::{
    Allocation, Bottleneck, DhtTrouble, DiskOptions, Finding, Job, Placement, Source, Stage, Status,
    TransferError, TransferEvent,
};
use crate::driver::{Dht, clock, place, state};
use crate::id::InfoHash;
use crate::network::{Keys, PrivateNetwork};
use crate::rng::Rng;
use crate::swarm::Origin;
pub use crate::swarm::Sequence;
use crate::wire::allow::{AllowError, AllowList};

/// Descriptors asked for; more than any transfer needs.
const MAX_FILES: u64 = 65_536;

/// How a client joins the world.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// Address and port of TCP and UDP; none: the first free port of 6881-6889 on every address.
    pub listen: Option<SocketAddr>,
    /// Entry points of the DHT, `host:port`. None means nobody, not the public routers: those are
    /// [`crate::driver::bootstrap::default_nodes`].
    pub bootstrap: Vec<String>,
    /// The bootstrap list is the user's own: private addresses are as good as any.
    pub private_network: bool,
    /// The private network that this is about; with its keys, if it has some, all is sealed. What else such a network
    /// asks for is in other fields: [`ClientConfig::enter`] fills in all of them.
    pub network: Option<Arc<PrivateNetwork>>,
    /// Who belongs to the network: nobody else is asked, answered, dialled, let in or named to anyone.
    pub allow: AllowList,
    /// What others get from the DHT node.
    pub presence: Presence,
    /// Stay out of the DHT: only peers that are named, and whoever finds us.
    pub no_dht: bool,
    /// Look for peers in the local network, and be found there (BEP 14).
    pub lsd: bool,
    /// Look for members of this network on the local links, and be found there: needs no entry point.
    pub lan: Option<LanIdentity>,
    /// Where the node id and known nodes outlive the process; none: nowhere.
    pub state_dir: Option<PathBuf>,
    /// What strangers may take of the DHT node.
    pub dht_limits: dht::Limits,
    /// Bytes of memory for the whole process; the payload that waits is cut to fit. None: as much as makes it fast, some 25 MiB.
    pub max_memory: Option<u64>,
    /// Bytes a second, all transfers together; none: no limit. 0 is refused: no handshake would pass.
    pub limit_download: Option<u64>,
    /// The same of what is sent. It counts handshakes and requests too, so that 0 is refused: nothing could be fetched either.
    pub limit_upload: Option<u64>,
    /// How downloads treat the disk.
    pub disk: DiskOptions,
}

impl ClientConfig {
    /// Puts the client into a private network: its keys, its entry points (beside those that are set already), its
    /// allow-list, and the local links where the network or `lan` says so. Torrents are no longer announced to
    /// everybody near (BEP 14). Set `no_dht` before, if at all.
    ///
    /// # Errors
    /// What is wrong with the network's allow-list.
    pub fn enter(&mut self, network: PrivateNetwork, lan: bool) -> Result<(), AllowError> {
        self.allow = AllowList::parse(&network.allow)?;
        if !network.is_keyed() && network.allow.is_empty() {
            debug!("an open network without an allow-list is kept apart by its entry points alone");
        }
        if !self.no_dht {
            // What was typed comes on top: a machine that just came up, say.
            self.bootstrap.splice(..0, network.bootstrap.iter().chain(&network.members).cloned());
        }
        self.private_network = true;
        // Announcing torrents to everybody near is not for a network that others shall not see.
        self.lsd = false;
        self.lan =
            (network.lan || lan).then(|| LanIdentity::new(network.lan_secret(clock::unix_time().as_secs())));
        self.network = Some(Arc::new(network));
        Ok(())
    }
}

/// Whether a run's DHT node answers others and lets itself be remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    #[default]
    Serving,
    /// Unless a NAT keeps strangers out: the run will be over before anyone has use of it (BEP 43).
    ServingIfReachable,
    /// It does not: the run is over within seconds, and would only be one more dead contact (BEP 43).
    ReadOnly,
}

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No port to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gives no sockets or no entropy.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A limit in [`ClientConfig`] lets nothing pass.
    #[error("`{0}` is 0 bytes a second: not even a handshake would pass; None is no limit")]
    ZeroLimit(&'static str),
}

/// One node with its transfers.
#[derive(Debug)]
pub struct Client {
    dht: Dht,
    around: Surroundings,
    lsd: Option<Lsd>,
    lan: Option<Lan>,
    seeds: std::sync::Mutex<Rng>,
    state: Option<Arc<StateFolder>>,
    listeners: Vec<AbortHandle>,
}

impl Client {
    /// Binds, starts the DHT and listens for peers.
    pub async fn start(config: ClientConfig) -> Result<Self, StartError> {
        let limits = [("limit_download", config.limit_download), ("limit_upload", config.limit_upload)];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(StartError::ZeroLimit(name));
        }
        let listening = listen(config.listen)?;
        let mut rng = Rng::from_seed(clock::entropy_seed()?);
        let network = network_of(&config);
        let state = config.state_dir.as_deref().map(|dir| StateFolder::open(dir, network.as_deref()));
        let saved = state.as_ref().and_then(|s| s.load(&mut rng));
        let is_private = network.is_some();
        let network = if is_private { dht::Network::Local } else { dht::Network::Public };
        let dht_config = dht::Config {
            network,
            allow: config.allow.clone(),
            read_only: config.no_dht || config.presence == Presence::ReadOnly,
            read_only_behind_nat: config.presence == Presence::ServingIfReachable,
            local_ips: local_ips(config.listen),
            limits: config.dht_limits,
            ..dht::Config::default()
        };
        let state = state.map(Arc::new);
        let keys = config.network.as_ref().and_then(|network| network.keys.clone());
        let seals = keys.clone().map(|keys| Seals::new(keys, rng.child()));
        let dht = Dht::spawn_sealed(dht_config, listening.udp, rng.child(), saved, config.bootstrap, keys)?;
        let doors = Doors::default();
        let source = config.listen.map(|a| a.ip()).filter(|ip| !ip.is_unspecified());
        let links = Links {
            chunks: Chunks::within(config.max_memory),
            download: Throttle::new(config.limit_download),
            upload: Throttle::new(config.limit_upload),
            source,
            allow: config.allow,
            seals,
        };
        let mut listeners = Vec::new();
        for listener in listening.tcp {
            let listener = TcpListener::from_std(listener)?;
            listeners.push(tokio::spawn(doors.clone().listen(listener, links.clone())).abort_handle());
        }
        let (port, dht_on, disk) = (listening.port, !config.no_dht, config.disk);
        let around = Surroundings { links, doors, port, dht: dht_on, private_network: is_private, disk };
        let locals = if config.lsd { local_ips(config.listen) } else { Vec::new() };
        let lsd = Lsd::spawn(listening.port, &locals, rng.u64());
        let lan = config.lan.filter(|_| !config.no_dht).map(|identity| {
            let (lan, members) = Lan::spawn(identity, listening.port, config.listen, rng.child());
            listeners.push(tokio::spawn(pass_nodes(members, dht.clone())).abort_handle());
            lan
        });
        raise_file_limit();
        Ok(Self { dht, around, lsd, lan, seeds: std::sync::Mutex::new(rng), state, listeners })
    }

    /// The port of TCP and UDP.
    pub fn port(&self) -> u16 {
        self.around.port
    }

    /// Whether another run holds the node id: this one keeps nothing.
    pub fn is_guest(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.is_guest())
    }

    /// Puts other keys of the private network in force, for everything that is said from now on; connections that are
    /// open stay as they are.
    pub async fn set_keys(&self, keys: Keys) {
        if let Some(seals) = &self.around.links.seals {
            seals.set_keys(keys.clone());
            self.dht.set_keys(keys).await;
        }
    }

    /// The DHT node.
    pub fn dht(&self) -> &Dht {
        &self.dht
    }

    /// Starts a transfer of everything in a torrent.
    pub fn add(&self, job: Job) -> Transfer {
        self.add_chosen(job, Choice::default())
    }

    /// Starts a transfer of what is chosen.
    pub fn add_chosen(&self, mut job: Job, choice: Choice) -> Transfer {
        let hash = job.source.hash();
        // An earlier run may have left the metadata beside the data.
        if let (Source::Hash(_), Placement::Folder { dir, .. }) = (&job.source, &job.placement)
            && let Some(info) = place::claimed_metadata(dir, hash)
        {
            job.source = Source::Info(Arc::new(info));
        }
        let private = matches!(&job.source, Source::Info(info) if info.is_private());
        let announce = (!matches!(job.placement, Placement::Nowhere)).then_some(self.around.port);
        let seed = self.seeds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).child();
        let peers = std::mem::take(&mut job.peers);
        let ends = download::spawn(job, choice, self.around.clone(), seed);
        if !self.around.dht {
            ends.finding.send_modify(|finding| finding.trouble = Some(DhtTrouble::Unused));
        }
        // Whoever shares a torrent most likely runs a node on the same port.
        let dht = (!private && self.around.dht).then(|| self.dht.clone());
        let named = resolve_peers(peers, self.around.links.allow.clone(), ends.candidates.clone(), dht);
        let mut helpers = vec![tokio::spawn(named).abort_handle()];
        if let Some(lsd) = self.lsd.clone().filter(|_| !private) {
            let meet = meet_neighbours(lsd, hash, ends.candidates.clone(), ends.status.clone());
            helpers.push(tokio::spawn(meet).abort_handle());
        }
        if !private && self.around.dht {
            helpers.push(tokio::spawn(pass_nodes(ends.dht_nodes, self.dht.clone())).abort_handle());
            let finder = Finder {
                dht: self.dht.clone(),
                hash,
                announce,
                is_private: self.around.private_network,
                candidates: ends.candidates,
                finding: ends.finding,
                status: ends.status.clone(),
            };
            helpers.push(tokio::spawn(finder.run()).abort_handle());
        }
        Transfer { events: ends.events, status: ends.status, stop: Some(ends.stop), helpers }
    }

    /// Writes what the DHT node keeps to the state folder, where there is one.
    pub async fn save_state(&self) {
        if self.state.is_some()
            && let Some(saved) = self.dht.saved().await
        {
            self.store(saved).await;
        }
    }

    /// Says goodbye: saves the DHT's nodes, closes the sockets.
    pub async fn shutdown(mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
        if let Some(lan) = self.lan.take() {
            lan.leave().await;
        }
        if let Some(saved) = self.dht.shutdown().await {
            self.store(saved).await;
        }
    }

    async fn store(&self, saved: state::SavedNodes) {
        if let Some(state) = self.state.clone() {
            // Megabytes to write and to sync: not beside the sockets.
            let written = tokio::task::spawn_blocking(move || state.store(&saved)).await;
            if let Err(error) = written {
                warn!("the state could not be saved: {error}");
            }
        }
    }
}

/// What tells the run's network from the public one, if anything: its entry points, or the address that
/// reaches no other machine.
fn network_of(config: &ClientConfig) -> Option<Vec<String>> {
    if let Some(network) = &config.network {
        return Some(network.state_name().to_vec());
    }
    if config.private_network {
        return Some(config.bootstrap.clone());
    }
    let isolated = config.listen.map(|addr| addr.ip()).filter(|ip| dht::config::is_isolated(*ip));
    isolated.map(|ip| vec![ip.to_string()])
}

/// Every connection and every file of a torrent takes a descriptor: as many as the system lets us have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            debug!(%error, "the number of open files stays as it is");
        }
    }
}

/// A running transfer. Dropping it stops it without waiting for the disk; [`Transfer::stop`] waits.
#[derive(Debug)]
pub struct Transfer {
    events: mpsc::Receiver<TransferEvent>,
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
    helpers: Vec<AbortHandle>,
}

impl Transfer {
    /// The next milestone; none once the transfer has ended.
    pub async fn next(&mut self) -> Option<TransferEvent> {
        self.events.recv().await
    }

    /// The figures as they change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends the transfer; what has arrived is on disk when this returns.
    pub async fn stop(mut self) {
        let (answer, ended) = oneshot::channel();
        if let Some(stop) = self.stop.take()
            && stop.send(answer).is_ok()
        {
            // An error means that it had ended by itself.
            let _ = ended.await;
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.helpers.iter().for_each(AbortHandle::abort);
    }
}

/// Peers that the user or a link named: addresses at once, names as they resolve. Each is tried as a DHT
/// node too.
async fn resolve_peers(
    peers: Vec<String>,
    allow: AllowList,
    candidates: mpsc::Sender<(Vec<SocketAddr>, Origin)>,
    dht: Option<Dht>,
) {
    let pass_on = async |mut addrs: Vec<SocketAddr>| {
        addrs.retain(|addr| {
            let belongs = allow.allows(addr.ip());
            if !belongs {
                warn!("the peer {addr} is not asked: this network consists of {allow}");
            }
            belongs
        });
        if addrs.is_empty() {
            return true;
        }
        if let Some(dht) = &dht {
            addrs.iter().for_each(|addr| dht.add_contact(*addr));
        }
        candidates.send((addrs, Origin::User)).await.is_ok()
    };
    let (addrs, names): (Vec<_>, Vec<_>) =
        peers.into_iter().map(|p| p.parse().map_err(|_| p)).partition(Result::is_ok);
    let addrs: Vec<SocketAddr> = addrs.into_iter().flatten().collect();
    if !addrs.is_empty() && !pass_on(addrs).await {
        return;
    }
    for name in names.into_iter().filter_map(Result::err) {
        match tokio::net::lookup_host(&name).await {
            Ok(addrs) => {
                if !pass_on(addrs.collect()).await {
                    return;
                }
            }
            Err(error) => warn!("the peer `{name}` cannot be found: {error}"),
        }
    }
}

/// Shares a transfer with the local network until it ends or turns out private (BEP 27).
async fn meet_neighbours(
    lsd: Lsd,
    hash: InfoHash,
    candidates: mpsc::Sender<(Vec<SocketAddr>, Origin)>,
    mut status: watch::Receiver<Status>,
) {
    lsd.add(hash, candidates).await;
    if status.wait_for(|s| s.private).await.is_ok() {
        lsd.remove(hash).await;
    }
}

async fn pass_nodes(mut nodes: mpsc::Receiver<SocketAddr>, dht: Dht) {
    while let Some(addr) = nodes.recv().await {
        dht.add_contact(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Everything that a run keeps goes to its own network's folder, while it runs too.
    #[tokio::test]
    async fn what_a_private_network_saves_stays_in_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let here = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let config = ClientConfig { listen: Some(here(0)), private_network: true, ..ClientConfig::default() };
        let first = Client::start(config.clone()).await.unwrap();
        let bootstrap = vec![here(first.port()).to_string()];
        let config = ClientConfig { bootstrap, state_dir: Some(dir.path().to_owned()), ..config };
        let second = Client::start(config).await.unwrap();
        let mut status = second.dht().status();
        let joined = status.wait_for(|s| s.nodes_v4 > 0);
        tokio::time::timeout(Duration::from_secs(20), joined).await.unwrap().unwrap();
        second.save_state().await;
        assert!(!dir.path().join(state::FILE_NAME).exists());
        let folders: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(folders.len() == 1 && folders[0].join(state::FILE_NAME).exists(), "{folders:?}");
        second.shutdown().await;
        first.shutdown().await;
    }

    /// A bucket that never fills would hold up handshakes too, for ever and without a word.
    #[tokio::test]
    async fn a_limit_of_nothing_is_refused_by_name() {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let plain = ClientConfig { listen, private_network: true, ..ClientConfig::default() };
        let down = ClientConfig { limit_download: Some(0), ..plain.clone() };
        let up = ClientConfig { limit_upload: Some(0), ..plain.clone() };
        for (config, name) in [(down, "limit_download"), (up, "limit_upload")] {
            let refused = Client::start(config).await.unwrap_err();
            assert!(matches!(refused, StartError::ZeroLimit(which) if which == name), "{refused}");
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let one = ClientConfig { limit_download: Some(1), limit_upload: Some(1), ..plain };
        Client::start(one).await.unwrap().shutdown().await;
    }

    #[test]
    fn an_address_that_reaches_no_other_machine_is_a_network_of_its_own() {
        let listen = |text: &str| ClientConfig { listen: text.parse().ok(), ..ClientConfig::default() };
        assert_eq!(network_of(&ClientConfig::default()), None);
        assert_eq!(network_of(&listen("0.0.0.0:6881")), None);
        assert_eq!(network_of(&listen("192.168.1.2:6881")), None);
        assert_eq!(network_of(&listen("127.0.0.1:0")), Some(vec!["127.0.0.1".to_owned()]));
        let bootstrap = vec!["10.0.0.1:5".to_owned()];
        let own =
            ClientConfig { bootstrap: bootstrap.clone(), private_network: true, ..listen("127.0.0.1:0") };
        assert_eq!(network_of(&own), Some(bootstrap));
    }

    #[tokio::test]
    async fn a_named_peer_is_tried_as_a_dht_node() {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = ClientConfig { listen, private_network: true, ..ClientConfig::default() };
        let first = Client::start(config.clone()).await.unwrap();
        let second = Client::start(config).await.unwrap();
        let transfer = second.add(Job {
            source: Source::Hash(crate::id::Id160([7; 20])),
            placement: Placement::Nowhere,
            peers: vec![format!("127.0.0.1:{}", first.port())],
            seed: false,
            super_seed: false,
        });
        joins_and_ends(second, transfer, first).await;
    }

    /// The second client gets to know the first one's node; then both end.
    async fn joins_and_ends(second: Client, transfer: Transfer, first: Client) {
        let mut status = second.dht().status();
        let known = status.wait_for(|s| s.nodes_v4 == 1);
        tokio::time::timeout(Duration::from_secs(30), known).await.unwrap().unwrap();
        transfer.stop().await;
        second.shutdown().await;
        first.shutdown().await;
    }

    #[tokio::test]
    async fn a_peers_dht_port_leads_into_the_dht() {
        use crate::wire::peer::{Handshake, Message, Reserved};
        use tokio::io::AsyncWriteExt as _;
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = ClientConfig { listen, private_network: true, ..ClientConfig::default() };
        let (first, second) =
            (Client::start(config.clone()).await.unwrap(), Client::start(config).await.unwrap());
        let hash = crate::id::Id160([7; 20]);
        let source = Source::Hash(hash);
        let transfer = second.add(Job {
            source,
            placement: Placement::Nowhere,
            peers: Vec::new(),
            seed: false,
            super_seed: false,
        });
        let mut hello = Vec::new();
        let peer_id = crate::id::Id160([8; 20]);
        Handshake { reserved: Reserved::OURS, info_hash: hash, peer_id }.emit(&mut hello);
        Message::Port(first.port()).emit(&mut hello);
        let mut peer = tokio::net::TcpStream::connect(("127.0.0.1", second.port())).await.unwrap();
        peer.write_all(&hello).await.unwrap();
        joins_and_ends(second, transfer, first).await;
    }

    #[tokio::test]
    async fn a_magnet_that_turns_out_private_leaves_the_dht_alone() {
        use sha1::{Digest as _, Sha1};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, b"hello").unwrap();
        let mut raw = Vec::new();
        let mut w = crate::wire::bencode::Writer::new(&mut raw);
        w.begin_dict().bytes(b"length").int(5).bytes(b"name").bytes(b"n").bytes(b"piece length").int(16384);
        w.bytes(b"pieces").bytes(&Sha1::digest(b"hello")).bytes(b"private").int(1).end();
        let info = Arc::new(crate::wire::metainfo::Info::parse(raw.into()).unwrap());
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = ClientConfig { listen, private_network: true, ..ClientConfig::default() };
        let first = Client::start(config.clone()).await.unwrap();
        let bootstrap = vec![format!("127.0.0.1:{}", first.port())];
        let second = Client::start(ClientConfig { bootstrap, ..config }).await.unwrap();
        let hash = info.hash();
        let source = Source::Info(info);
        let placement = Placement::InPlace(path);
        let sharer = first.add(Job { source, placement, peers: Vec::new(), seed: true, super_seed: false });
        assert_eq!(sharer.helpers.len(), 1, "nobody looks for peers of it");
        let placement = Placement::Folder { dir: dir.path().join("out"), name: None, overwrite: false };
        let peers = vec![format!("127.0.0.1:{}", first.port())];
        let getter =
            second.add(Job { source: Source::Hash(hash), placement, peers, seed: true, super_seed: false });
        let mut status = getter.status();
        let told = status.wait_for(|s| s.private && s.stage == Stage::Seeding);
        tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
        for _ in 0..100 {
            if getter.helpers[2].is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(getter.helpers[2].is_finished(), "the search for peers has ended");
        getter.stop().await;
        sharer.stop().await;
        second.shutdown().await;
        first.shutdown().await;
    }
}
