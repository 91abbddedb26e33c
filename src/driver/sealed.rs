//! Connections between members of a keyed network: a Noise handshake on a socket, then frames.
//!
//! Owns what both directions of a connection hold back: the part of a frame that has arrived, and the part that has not
//! been sent. Must not know what is inside the frames.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::net::TcpStream;

use super::chunks::{CHUNK_LEN, Chunk};
use super::clock;
use super::outbox::Outbox;
use crate::id::Id160;
use crate::network::noise::{FIRST_LEN, FRAME_HEAD, FRAME_OVERHEAD, MAX_PAYLOAD, SECOND_LEN, frame_len};
use crate::network::{Keys, Noise, Session};
use crate::rng::Rng;
use crate::wire::peer::{Handshake, Reserved};

/// The most frames that are sealed before the system is called. What it does not take is kept, for each connection, and so many
/// are sealed only where the last ones were taken at once.
const FRAMES: usize = 8;

/// What all connections of a client share.
pub struct Seals {
    noise: Mutex<Noise>,
    /// Where frames lie while they are sealed; used between two waits, never across one.
    desk: Mutex<Box<[u8]>>,
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seals")
    }
}

/// Both directions of an open connection.
#[derive(Debug)]
pub struct Channel {
    /// What comes in.
    pub inlet: Inlet,
    /// What goes out.
    pub outlet: Outlet,
}

/// Opens frames as they come.
#[derive(Debug)]
pub struct Inlet {
    session: Arc<Session>,
    number: u64,
    /// The beginning of a frame.
    part: Vec<u8>,
    /// A frame did not open: nothing behind it can be read.
    broken: bool,
}

/// Seals what is sent.
#[derive(Debug)]
pub struct Outlet {
    session: Arc<Session>,
    seals: Arc<Seals>,
    number: u64,
    /// How many frames to seal next.
    frames: usize,
    /// Sealed, and not taken by the system yet.
    rest: Vec<u8>,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came does not open with this network's key")
}

impl Seals {
    /// For the members that have these keys.
    pub fn new(keys: Keys, seed: [u8; 32]) -> Arc<Self> {
        let desk = vec![0; FRAMES * (MAX_PAYLOAD + FRAME_OVERHEAD)].into_boxed_slice();
        Arc::new(Self { noise: Mutex::new(Noise::new(keys, seed)), desk: Mutex::new(desk) })
    }

    /// Puts other keys in force, for connections that begin from now on.
    pub fn set_keys(&self, keys: Keys) {
        self.noise().set_keys(keys);
    }

    fn noise(&self) -> MutexGuard<'_, Noise> {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self) -> MutexGuard<'_, Box<[u8]>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes ourselves known to a member we have dialled.
    pub async fn greet(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Channel> {
        let (dialling, first) = self.noise().dial(clock::unix_us()).map_err(io::Error::other)?;
        send_all(stream, &first).await?;
        let mut second = [0; SECOND_LEN];
        receive_exactly(stream, &mut second).await?;
        Ok(self.channel(dialling.finish(&second).map_err(|_| damaged())?))
    }

    /// Answers whoever has dialled us, if that is a member. Nothing is sent to anyone else.
    pub async fn answer(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Channel> {
        let mut first = [0; FIRST_LEN];
        receive_exactly(stream, &mut first).await?;
        let answered = self.noise().answer(clock::unix_us(), &first);
        let (session, second) = answered.map_err(|error| {
            tracing::debug!("a connection is dropped without an answer: {error}");
            damaged()
        })?;
        send_all(stream, &second).await?;
        Ok(self.channel(session))
    }

    fn channel(self: &Arc<Self>, session: Session) -> Channel {
        let session = Arc::new(session);
        let inlet = Inlet { session: session.clone(), number: 0, part: Vec::new(), broken: false };
        let outlet = Outlet { session, seals: self.clone(), number: 0, frames: 1, rest: Vec::new() };
        Channel { inlet, outlet }
    }
}

/// What dialling an address has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A member answers the handshake, or, where there is no key, somebody listens.
    Open,
    /// Somebody listens and does not answer as a member.
    Foreign,
    /// Nothing listens.
    Refused,
    /// No word in time.
    Silent,
    /// The system says why not.
    Unreachable(String),
}

/// Dials an address to see who is there, and hangs up.
pub async fn probe(addr: SocketAddr, keys: Option<Keys>, patience: Duration) -> Probe {
    let stream = match tokio::time::timeout(patience, TcpStream::connect(addr)).await {
        Err(_) => return Probe::Silent,
        Ok(Err(error)) => {
            return match error.kind() {
                io::ErrorKind::ConnectionRefused => Probe::Refused,
                io::ErrorKind::TimedOut => Probe::Silent,
                _ => Probe::Unreachable(error.to_string()),
            };
        }
        Ok(Ok(stream)) => stream,
    };
    let Ok(seed) = clock::entropy_seed() else { return Probe::Unreachable("no randomness".to_owned()) };
    let known = match keys {
        Some(keys) => tokio::time::timeout(patience, Seals::new(keys, seed).greet(&stream))
            .await
            .is_ok_and(|g| g.is_ok()),
        None => tokio::time::timeout(patience, is_plain(&stream, seed)).await.is_ok(),
    };
    if known { Probe::Open } else { Probe::Foreign }
}

/// Comes back when somebody who speaks plain BitTorrent has turned down a torrent that nobody has; a member of a keyed network
/// waits for the rest of a longer message instead.
async fn is_plain(stream: &TcpStream, seed: [u8; 32]) {
    let mut rng = Rng::from_seed(seed);
    let (info_hash, peer_id) = (Id160::random(&mut rng), Id160::random(&mut rng));
    let mut handshake = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash, peer_id }.emit(&mut handshake);
    let _ = send_all(stream, &handshake).await;
    // A word or the end, either will do.
    let _ = receive_exactly(stream, &mut [0]).await;
}

async fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn receive_exactly(stream: &TcpStream, mut room: &mut [u8]) -> io::Result<()> {
    while !room.is_empty() {
        stream.readable().await?;
        match stream.try_read(room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => room = &mut room[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Inlet {
    /// Whether nothing more can come.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes what the socket has, `most` bytes of it, into `chunk`, which is empty, and opens every frame there that is whole. Says
    /// how many bytes were taken, and how it ended: well at the end of the stream, else with an error, `WouldBlock` if there
    /// is only nothing more.
    pub fn fill(&mut self, stream: &TcpStream, most: usize, chunk: &mut Chunk) -> (usize, io::Result<()>) {
        let room = chunk.spare(CHUNK_LEN);
        let before = self.part.len();
        room[..before].copy_from_slice(&self.part);
        let limit = room.len().min(before.saturating_add(most));
        let mut filled = before;
        let mut end = loop {
            if filled == limit {
                break Err(io::ErrorKind::WouldBlock.into());
            }
            match stream.try_read(&mut room[filled..limit]) {
                Ok(0) => break Ok(()),
                Ok(count) => filled += count,
                Err(error) => break Err(error),
            }
        };
        let (opened, payload, is_broken) = self.open(&mut room[..filled]);
        self.part.clear();
        self.part.extend_from_slice(&room[opened..filled]);
        chunk.advance(payload);
        if is_broken {
            (end, self.broken) = (Err(damaged()), true);
        }
        (filled - before, end)
    }

    /// Opens whole frames and moves their payloads to the beginning; says how many bytes the frames were, how many their payloads,
    /// and whether the next one does not open.
    fn open(&mut self, room: &mut [u8]) -> (usize, usize, bool) {
        let (mut at, mut payload) = (0, 0);
        while let Some(length) = frame_len(&room[at..]).filter(|length| at + length <= room.len()) {
            let frame = &mut room[payload..at + length];
            let Ok(opened) = self.session.open(self.number, frame, at + FRAME_HEAD - payload) else {
                return (at, payload, true);
            };
            payload += opened;
            self.number += 1;
            at += length;
        }
        (at, payload, false)
    }
}

impl Outlet {
    /// Whether something was sealed that the system has not taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Like [`Outbox::send`], through frames: says how many bytes of the outbox were taken, which may be none when only
    /// what was held back has gone.
    pub fn send(&mut self, outbox: &mut Outbox, socket: &TcpStream, most: usize) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            match self.send_rest(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                result => result?,
            }
            if taken >= most || outbox.is_empty() {
                return Ok(taken);
            }
            taken += self.seal(outbox, socket, most - taken)?;
        }
    }

    fn send_rest(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.rest.is_empty() {
            let count = send_some(socket, &self.rest)?;
            self.rest.drain(..count);
        }
        // A connection that is quiet for hours keeps nothing.
        self.rest = Vec::new();
        Ok(())
    }

    /// Seals a few frames and gives them to the system; keeps what it does not take.
    fn seal(&mut self, outbox: &mut Outbox, socket: &TcpStream, most: usize) -> io::Result<usize> {
        let seals = self.seals.clone();
        let mut sealed = seals.desk();
        let (mut taken, mut length) = (0, 0);
        for _ in 0..self.frames {
            let room = &mut sealed[length..];
            let payload = outbox.take(&mut room[FRAME_HEAD..][..MAX_PAYLOAD.min(most - taken)])?;
            if payload == 0 {
                break;
            }
            length += self.session.seal(self.number, payload, room).map_err(io::Error::other)?;
            self.number += 1;
            taken += payload;
        }
        let sent = match send_some(socket, &sealed[..length]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        if sent < length {
            self.frames = (sent / MAX_PAYLOAD).max(1);
        } else if length > (self.frames - 1) * MAX_PAYLOAD {
            self.frames = FRAMES.min(self.frames * 2);
        }
        self.rest.extend_from_slice(&sealed[sent..length]);
        Ok(taken)
    }
}

fn send_some(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::chunks::Chunks;
    use crate::driver::outbox::Out;
    use crate::network::NetworkKey;
    use bytes::Bytes;
    use tokio::io::Interest;
    use tokio::net::TcpListener;

    fn seals(key: u64) -> Arc<Seals> {
        Seals::new(Keys::new(NetworkKey::random(&mut Rng::from_u64(key))), clock::entropy_seed().unwrap())
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn everything_arrives_in_order_and_nothing_is_readable_on_the_way() {
        let (ours, theirs) = pair().await;
        let (us, them) = (seals(1), seals(1));
        let (sending, receiving) = tokio::join!(us.greet(&ours), them.answer(&theirs));
        let (mut outlet, mut inlet) = (sending.unwrap().outlet, receiving.unwrap().inlet);
        let data: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut outbox = Outbox::default();
        data.chunks(100_003).for_each(|part| outbox.push(Out::Bytes(Bytes::copy_from_slice(part))));
        let send = async {
            let mut sent = 0;
            // In portions such as a limit makes them, too.
            for most in (1..).map(|n| if n < 200 { n * 7 } else { usize::MAX }) {
                if outbox.is_empty() && outlet.is_empty() {
                    break;
                }
                ours.writable().await.unwrap();
                match ours.try_io(Interest::WRITABLE, || outlet.send(&mut outbox, &ours, most)) {
                    Ok(count) => sent += count,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(sent, data.len());
        };
        let receive = async {
            let (chunks, mut got, mut portion) = (Chunks::default(), Vec::new(), 1);
            while got.len() < data.len() {
                theirs.readable().await.unwrap();
                let mut chunk = chunks.take().await.unwrap();
                let (taken, end) = inlet.fill(&theirs, portion, &mut chunk);
                assert!(taken <= portion && end.unwrap_err().kind() == io::ErrorKind::WouldBlock);
                got.extend_from_slice(chunk.as_ref());
                portion = (portion * 2).min(CHUNK_LEN);
            }
            assert!(got == data);
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn a_stranger_gets_not_one_byte() {
        let member = seals(1);
        let (ours, theirs) = pair().await;
        let stranger = seals(2);
        let answer = async {
            assert!(member.answer(&theirs).await.is_err());
            drop(theirs);
        };
        let (dialled, ()) = tokio::join!(stranger.greet(&ours), answer);
        assert!(dialled.is_err());
        let mut bytes = [0; 100];
        assert!(matches!(ours.try_read(&mut bytes), Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn a_damaged_frame_ends_the_connection() {
        let (ours, theirs) = pair().await;
        let (us, them) = (seals(1), seals(1));
        let (sending, receiving) = tokio::join!(us.greet(&ours), them.answer(&theirs));
        drop(sending);
        let mut inlet = receiving.unwrap().inlet;
        ours.try_write(&[0, 40, 1, 2, 3, 4, 5]).unwrap();
        ours.try_write(&[9; 60]).unwrap();
        let mut chunk = Chunks::default().take().await.unwrap();
        let mut end: io::Result<()> = Err(io::ErrorKind::WouldBlock.into());
        while matches!(&end, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            theirs.readable().await.unwrap();
            end = inlet.fill(&theirs, CHUNK_LEN, &mut chunk).1;
        }
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(chunk.is_empty());
    }
}
