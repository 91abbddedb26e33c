//! Sockets of the peer wire: dialling, accepting, and one reading and one writing task for each connection.
//!
//! They move bytes and decide nothing. Readers wait when their receiver is busy or no buffer is free, so a
//! slow disk slows the network instead of filling the memory.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;
use tracing::{debug, trace};

use super::chunks::{CHUNK_LEN, Chunks};
use super::clock;
use super::outbox::{Out, Outbox};
use super::throttle::Throttle;
use crate::id::InfoHash;
use crate::peer::connection::{HANDSHAKE_TIMEOUT, SILENCE_TIMEOUT};
use crate::swarm::PeerKey;
use crate::wire::allow::AllowList;
use crate::wire::peer::{HANDSHAKE_LEN, Handshake};

/// Incoming connections that have not yet said which torrent they want; past it the oldest is dropped.
const MAX_GREETING: usize = 128;
/// Things to send that a writer takes from its queue before it writes.
const MAX_PENDING: usize = 64;
/// How long the last bytes of a connection that we end may take to leave.
const LINGER: Duration = Duration::from_secs(5);

/// What all connections of a client share.
#[derive(Debug, Clone)]
pub struct Links {
    /// Receive buffers.
    pub chunks: Chunks,
    /// The user's download limit.
    pub download: Throttle,
    /// The user's upload limit.
    pub upload: Throttle,
    /// The address that dials come from, where the user chose one.
    pub source: Option<std::net::IpAddr>,
    /// Who may be dialled.
    pub allow: AllowList,
}

/// What happened on the network.
#[derive(Debug)]
pub enum Net {
    /// A dial succeeded.
    Connected(PeerKey, Link),
    /// A dial failed.
    DialFailed(PeerKey),
    /// Bytes came.
    Received(PeerKey, Bytes),
    /// Bytes have been given to the system.
    Sent(PeerKey, usize),
    /// The connection has ended.
    Closed(PeerKey),
}

/// A connection's writing end. Dropping it sends what is queued, then closes.
#[derive(Debug)]
pub struct Link {
    queue: mpsc::UnboundedSender<Out>,
    reader: AbortHandle,
    writer: AbortHandle,
    /// Its end tells a writer that waits for a peer to read that we have left.
    _held: oneshot::Sender<()>,
}

impl Link {
    /// Queues output. The swarm bounds what is unsent for each peer.
    pub fn send(&self, out: Out) {
        // The writer has ended with its connection, which is told by `Net::Closed`.
        let _ = self.queue.send(out);
    }

    /// Closes at once: what is queued for a peer that reads nothing, and comes back again and again, would add up.
    pub fn cut(self) {
        self.writer.abort();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Links {
    /// Connects to a peer; the outcome comes as [`Net::Connected`] or [`Net::DialFailed`].
    pub fn dial(
        &self,
        peer: PeerKey,
        addr: SocketAddr,
        timeout: Duration,
        net: mpsc::Sender<Net>,
    ) -> AbortHandle {
        let links = self.clone();
        let task = async move {
            let outcome = match tokio::time::timeout(timeout, links.connect(addr)).await {
                Ok(Ok(stream)) => Net::Connected(peer, links.attach(peer, stream, net.clone())),
                Ok(Err(error)) => {
                    debug!(%error, "a dial failed");
                    Net::DialFailed(peer)
                }
                Err(_) => Net::DialFailed(peer),
            };
            // The transfer has ended if nobody listens.
            let _ = net.send(outcome).await;
        };
        tokio::spawn(task).abort_handle()
    }

    async fn connect(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        // The swarm knows the list too; what it should overlook goes no further.
        if !self.allow.allows(addr.ip()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source.filter(|ip| ip.is_ipv4() == addr.is_ipv4()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(addr).await
    }

    /// Starts the two tasks of an open connection.
    pub fn attach(&self, peer: PeerKey, stream: TcpStream, net: mpsc::Sender<Net>) -> Link {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY is not available");
        }
        let stream = Arc::new(stream);
        let (queue, queued) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(peer, stream.clone(), self.clone(), net.clone())).abort_handle();
        let (held, left) = oneshot::channel();
        let writer = tokio::spawn(write(peer, stream, queued, left, self.upload.clone(), net)).abort_handle();
        Link { queue, reader, writer, _held: held }
    }
}

async fn read(peer: PeerKey, stream: Arc<TcpStream>, links: Links, net: mpsc::Sender<Net>) {
    loop {
        match read_some(&stream, &links).await {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => {
                if net.send(Net::Received(peer, bytes)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                trace!(%error, "a connection ended");
                break;
            }
        }
    }
    let _ = net.send(Net::Closed(peer)).await;
}

/// What the socket has, up to one buffer; nothing at its end.
async fn read_some(stream: &TcpStream, links: &Links) -> io::Result<Bytes> {
    loop {
        stream.readable().await?;
        let allowed = links.download.take(CHUNK_LEN).await;
        let Some(mut chunk) = links.chunks.take().await else { return Ok(Bytes::new()) };
        let end = loop {
            let room = chunk.spare(allowed - chunk.len());
            if room.is_empty() {
                break Ok(());
            }
            match stream.try_read(room) {
                Ok(0) => break Ok(()),
                Ok(count) => chunk.advance(count),
                Err(error) => break Err(error),
            }
        };
        links.download.give_back(allowed - chunk.len());
        match end {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && chunk.is_empty() => return Err(error),
            // A wake-up for nothing.
            Err(_) if chunk.is_empty() => {}
            _ => return Ok(chunk.freeze()),
        }
    }
}

async fn write(
    peer: PeerKey,
    stream: Arc<TcpStream>,
    mut queued: mpsc::UnboundedReceiver<Out>,
    mut left: oneshot::Receiver<()>,
    limit: Throttle,
    net: mpsc::Sender<Net>,
) {
    let mut pending = Outbox::default();
    let mut leave_at = None;
    while let Some(first) = queued.recv().await {
        pending.push(first);
        while !pending.is_empty() {
            while pending.len() < MAX_PENDING
                && let Ok(more) = queued.try_recv()
            {
                pending.push(more);
            }
            // A peer that takes nothing for minutes is gone; one that we leave gets seconds.
            let deadline = leave_at.unwrap_or_else(|| clock::now() + SILENCE_TIMEOUT);
            let written = tokio::select! {
                biased;
                _ = &mut left, if leave_at.is_none() => {
                    leave_at = Some(clock::now() + LINGER);
                    continue;
                }
                written = timeout_at(deadline.into(), write_some(&stream, &mut pending, &limit)) => written,
            };
            let Ok(Ok(written)) = written else {
                let _ = net.send(Net::Closed(peer)).await;
                return;
            };
            if net.send(Net::Sent(peer, written)).await.is_err() {
                return;
            }
        }
    }
}

/// Gives the system as much as it takes, and the limit allows.
async fn write_some(stream: &TcpStream, pending: &mut Outbox, limit: &Throttle) -> io::Result<usize> {
    let allowed = limit.take(pending.bytes()).await;
    loop {
        stream.writable().await?;
        match stream.try_io(Interest::WRITABLE, || pending.send(stream, allowed)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(written) => {
                limit.give_back(allowed - written);
                return Ok(written);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A peer that dialled us and has named a torrent of ours.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub stream: TcpStream,
    /// Where from.
    pub addr: SocketAddr,
    /// The handshake's bytes.
    pub greeting: Bytes,
}

/// Which transfer takes which incoming connections.
#[derive(Debug, Clone, Default)]
pub struct Doors(Arc<Mutex<BTreeMap<InfoHash, mpsc::Sender<Incoming>>>>);

impl Doors {
    /// Peers that ask for `hash` are sent to `door`.
    pub fn open(&self, hash: InfoHash, door: mpsc::Sender<Incoming>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, door);
    }

    /// Peers that ask for `hash` are turned away.
    pub fn close(&self, hash: &InfoHash) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    fn find(&self, hash: &InfoHash) -> Option<mpsc::Sender<Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    /// Accepts connections from those who may come, for as long as the task lives. Others are closed before a
    /// byte is read.
    pub async fn listen(self, listener: TcpListener, allow: AllowList) {
        let mut greeting: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let (stream, addr) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !allow.allows(addr.ip()) {
                debug!("a connection from outside the allow-list is closed");
                continue;
            }
            greeting.retain(|task| !task.is_finished());
            if greeting.len() >= MAX_GREETING
                && let Some(slowest) = greeting.pop_front()
            {
                // Who dawdles makes room: many that never finish must not keep out one that would.
                slowest.abort();
            }
            let doors = self.clone();
            let task = tokio::spawn(async move {
                let greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(&stream)).await;
                if let Ok(Some((handshake, greeting))) = greeted
                    && let Some(door) = doors.find(&handshake.info_hash)
                {
                    // Full: the transfer has more than enough peers at its door.
                    let _ = door.try_send(Incoming { stream, addr, greeting });
                }
            });
            greeting.push_back(task.abort_handle());
        }
    }
}

/// Reads a handshake; none from who does not speak it, told by the first wrong byte.
async fn greet(stream: &TcpStream) -> Option<(Handshake, Bytes)> {
    let mut greeting = [0; HANDSHAKE_LEN];
    let mut filled = 0;
    loop {
        stream.readable().await.ok()?;
        match stream.try_read(&mut greeting[filled..]) {
            Ok(0) => return None,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if let Some(handshake) = Handshake::parse(&greeting[..filled]).ok()? {
            return Some((handshake, Bytes::copy_from_slice(&greeting)));
        }
    }
}
