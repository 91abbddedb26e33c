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
use super::sealed::{Channel, Inlet, Outlet, Seals};
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
    /// Of a keyed network: what every connection is sealed with.
    pub seals: Option<Arc<Seals>>,
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
            let outcome = match tokio::time::timeout(timeout, links.reach(addr)).await {
                Ok(Ok((stream, channel))) => {
                    Net::Connected(peer, links.attach(peer, stream, channel, net.clone()))
                }
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

    /// A connection on which the peer's handshake can begin.
    async fn reach(&self, addr: SocketAddr) -> io::Result<(TcpStream, Option<Channel>)> {
        let stream = self.connect(addr).await?;
        let channel = match &self.seals {
            None => None,
            Some(seals) => Some(seals.greet(&stream).await?),
        };
        Ok((stream, channel))
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

    /// Starts the two tasks of an open connection, which is sealed where it has a channel.
    pub fn attach(
        &self,
        peer: PeerKey,
        stream: TcpStream,
        channel: Option<Channel>,
        net: mpsc::Sender<Net>,
    ) -> Link {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY is not available");
        }
        let stream = Arc::new(stream);
        let (inlet, outlet) = channel.map(|c| (c.inlet, c.outlet)).unzip();
        let (queue, queued) = mpsc::unbounded_channel();
        let reader = read(peer, stream.clone(), inlet, self.clone(), net.clone());
        let reader = tokio::spawn(reader).abort_handle();
        let (held, left) = oneshot::channel();
        let out = Sending { stream, outlet, pending: Outbox::default(), limit: self.upload.clone() };
        let writer = tokio::spawn(write(peer, out, queued, left, net)).abort_handle();
        Link { queue, reader, writer, _held: held }
    }
}

async fn read(
    peer: PeerKey,
    stream: Arc<TcpStream>,
    mut inlet: Option<Inlet>,
    links: Links,
    net: mpsc::Sender<Net>,
) {
    loop {
        let some = match &mut inlet {
            None => read_some(&stream, &links).await,
            Some(inlet) => read_sealed(&stream, inlet, &links).await,
        };
        match some {
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

/// The same as [`read_some`], out of frames.
async fn read_sealed(stream: &TcpStream, inlet: &mut Inlet, links: &Links) -> io::Result<Bytes> {
    loop {
        // What came before the damage was handed on with the last look.
        if inlet.is_broken() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.readable().await?;
        let allowed = links.download.take(CHUNK_LEN).await;
        let Some(mut chunk) = links.chunks.take().await else { return Ok(Bytes::new()) };
        let (taken, end) = inlet.fill(stream, allowed, &mut chunk);
        links.download.give_back(allowed - taken);
        match end {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && chunk.is_empty() => return Err(error),
            // Less than a frame.
            Err(_) if chunk.is_empty() => {}
            _ => return Ok(chunk.freeze()),
        }
    }
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

/// The writing end of a connection.
struct Sending {
    stream: Arc<TcpStream>,
    outlet: Option<Outlet>,
    pending: Outbox,
    limit: Throttle,
}

async fn write(
    peer: PeerKey,
    mut out: Sending,
    mut queued: mpsc::UnboundedReceiver<Out>,
    mut left: oneshot::Receiver<()>,
    net: mpsc::Sender<Net>,
) {
    let mut leave_at = None;
    while let Some(first) = queued.recv().await {
        out.pending.push(first);
        while out.has_more() {
            while out.pending.len() < MAX_PENDING
                && let Ok(more) = queued.try_recv()
            {
                out.pending.push(more);
            }
            // A peer that takes nothing for minutes is gone; one that we leave gets seconds.
            let deadline = leave_at.unwrap_or_else(|| clock::now() + SILENCE_TIMEOUT);
            let written = tokio::select! {
                biased;
                _ = &mut left, if leave_at.is_none() => {
                    leave_at = Some(clock::now() + LINGER);
                    continue;
                }
                written = timeout_at(deadline.into(), out.write_some()) => written,
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

impl Sending {
    fn has_more(&self) -> bool {
        !self.pending.is_empty() || self.outlet.as_ref().is_some_and(|outlet| !outlet.is_empty())
    }

    /// Gives the system as much as it takes, and the limit allows.
    async fn write_some(&mut self) -> io::Result<usize> {
        let Self { stream, outlet, pending, limit } = self;
        let allowed = match pending.is_empty() {
            true => 0,
            false => limit.take(pending.bytes()).await,
        };
        loop {
            stream.writable().await?;
            let sent = stream.try_io(Interest::WRITABLE, || match outlet {
                None => pending.send(&**stream, allowed),
                Some(outlet) => outlet.send(pending, stream, allowed),
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(written) => {
                    limit.give_back(allowed - written);
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A peer that dialled us and has named a torrent of ours.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub stream: TcpStream,
    /// Its seal, in a keyed network.
    pub channel: Option<Channel>,
    /// Where from.
    pub addr: SocketAddr,
    /// The handshake's bytes, and what came with them.
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
    pub async fn listen(self, listener: TcpListener, links: Links) {
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
            if !links.allow.allows(addr.ip()) {
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
            let (doors, links) = (self.clone(), links.clone());
            let task = tokio::spawn(async move {
                let greeted = async {
                    match &links.seals {
                        None => greet(&stream).await,
                        Some(seals) => greet_sealed(&stream, seals, &links.chunks).await,
                    }
                };
                if let Ok(Some(greeted)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, greeted).await
                    && let Some(door) = doors.find(&greeted.handshake.info_hash)
                {
                    let Greeted { channel, greeting, .. } = greeted;
                    // Full: the transfer has more than enough peers at its door.
                    let _ = door.try_send(Incoming { stream, channel, addr, greeting });
                }
            });
            greeting.push_back(task.abort_handle());
        }
    }
}

/// Somebody who has said what he wants.
struct Greeted {
    channel: Option<Channel>,
    handshake: Handshake,
    greeting: Bytes,
}

/// Reads a handshake; none from who does not speak it, told by the first wrong byte.
async fn greet(stream: &TcpStream) -> Option<Greeted> {
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
            return Some(Greeted { channel: None, handshake, greeting: Bytes::copy_from_slice(&greeting) });
        }
    }
}

/// The same of a member, behind its Noise handshake.
async fn greet_sealed(stream: &TcpStream, seals: &Arc<Seals>, chunks: &Chunks) -> Option<Greeted> {
    let mut channel = seals.answer(stream).await.ok()?;
    let mut greeting = Vec::new();
    loop {
        stream.readable().await.ok()?;
        // On loan for as long as nobody waits.
        let mut chunk = chunks.take().await?;
        let (_, end) = channel.inlet.fill(stream, CHUNK_LEN, &mut chunk);
        greeting.extend_from_slice(chunk.as_ref());
        if let Some(handshake) = Handshake::parse(&greeting).ok()? {
            return Some(Greeted { channel: Some(channel), handshake, greeting: greeting.into() });
        }
        match end {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return None,
        }
    }
}
