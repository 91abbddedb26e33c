//! Datagrams in batches: one system call for many of them, where the system can do that.
//!
//! Owns the buffers that datagrams are received into. Must not know what they say. On Linux a batch is one
//! `recvmmsg` or `sendmmsg`; elsewhere it is a loop over single calls with the same outcome.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use crate::dht::Transmit;

#[cfg(any(target_os = "linux", target_os = "android"))]
use self::many as system;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use self::single as system;

/// Datagrams taken or given with one call: beyond this the call's own cost is no longer seen.
pub(super) const BATCH: usize = 64;
/// The largest datagram that is read whole: nothing honest comes near it.
const MAX_DATAGRAM: usize = 2048;

/// Datagrams received together.
pub(super) struct Batch {
    /// Room for [`BATCH`] of them. Pages that no batch was long enough for are never touched.
    buffers: Vec<u8>,
    /// Whence, and how long.
    heads: Vec<(SocketAddr, usize)>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { buffers: vec![0; BATCH * MAX_DATAGRAM], heads: Vec::with_capacity(BATCH) }
    }

    /// Takes what is waiting, up to [`BATCH`]. True if more may be waiting: a batch that is not full has
    /// emptied the socket, and the next look at it can wait until the system says so.
    pub(super) fn receive(&mut self, socket: &UdpSocket, ipv6: bool) -> io::Result<bool> {
        self.heads.clear();
        match system::receive(socket, ipv6, &mut self.buffers, &mut self.heads) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(self.heads.len() == BATCH),
        }
    }

    /// Has each datagram changed in its place by `open`, which says how long it is then. What becomes empty counts as not
    /// received.
    pub(super) fn open(&mut self, mut open: impl FnMut(SocketAddr, &mut [u8]) -> usize) {
        for ((from, length), buffer) in self.heads.iter_mut().zip(self.buffers.chunks_exact_mut(MAX_DATAGRAM))
        {
            let received = (*length).min(MAX_DATAGRAM);
            *length = open(*from, &mut buffer[..received]);
        }
    }

    /// What was received, in order.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.heads.iter().zip(self.buffers.chunks_exact(MAX_DATAGRAM)).map(|((from, length), buffer)| {
            // What did not fit was cut off by the system.
            (*from, &buffer[..(*length).min(MAX_DATAGRAM)])
        })
    }
}

/// Sends the first of `queue`, and as many of those behind it as the socket takes at once; says how many.
/// An error concerns the first one.
pub(super) fn send(socket: &UdpSocket, queue: &VecDeque<Transmit>) -> io::Result<usize> {
    if queue.is_empty() {
        return Ok(0);
    }
    system::send(socket, queue)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod many {
    use std::cell::RefCell;
    use std::io::{IoSlice, IoSliceMut};
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{
        MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg,
    };

    use tokio::io::Interest;

    use super::*;

    /// The headers of a batch point into it while a call lasts. Between calls they are only memory, kept for
    /// each thread because what holds pointers cannot move to another one with the task. One set receives and
    /// another one sends, always: sending leaves pointers to its own addresses behind, which receiving would
    /// write to.
    struct Headers<S> {
        receiving: RefCell<MultiHeaders<S>>,
        sending: RefCell<MultiHeaders<S>>,
    }

    impl<S: SockaddrLike + Copy> Headers<S> {
        fn new() -> Self {
            let headers = || RefCell::new(MultiHeaders::preallocate(BATCH, None));
            Self { receiving: headers(), sending: headers() }
        }
    }

    thread_local! {
        static V4: Headers<SockaddrIn> = Headers::new();
        static V6: Headers<SockaddrIn6> = Headers::new();
    }

    pub(super) fn receive(
        socket: &UdpSocket,
        ipv6: bool,
        buffers: &mut [u8],
        heads: &mut Vec<(SocketAddr, usize)>,
    ) -> io::Result<()> {
        socket.try_io(Interest::READABLE, || {
            if ipv6 {
                V6.with(|headers| receive_into(socket, headers, buffers, heads))?;
            } else {
                V4.with(|headers| receive_into(socket, headers, buffers, heads))?;
            }
            // A short batch has emptied the socket. What comes after it raises a new signal, so the old one
            // can be put away without asking once more.
            if heads.len() < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
    }

    fn receive_into<S>(
        socket: &UdpSocket,
        headers: &Headers<S>,
        buffers: &mut [u8],
        heads: &mut Vec<(SocketAddr, usize)>,
    ) -> io::Result<()>
    where
        S: SockaddrLike + Copy,
        SocketAddr: From<S>,
    {
        let mut headers = headers.receiving.borrow_mut();
        let mut chunks = buffers.chunks_exact_mut(MAX_DATAGRAM);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)?;
        // Without an address nothing can be made of one; UDP names it always.
        heads.extend(received.filter_map(|one| Some((one.address?.into(), one.bytes))));
        Ok(())
    }

    pub(super) fn send(socket: &UdpSocket, queue: &VecDeque<Transmit>) -> io::Result<usize> {
        let ipv6 = queue.front().is_some_and(|t| t.to.is_ipv6());
        socket.try_io(Interest::WRITABLE, || {
            if ipv6 {
                V6.with(|headers| send_from(socket, headers, queue, v6))
            } else {
                V4.with(|headers| send_from(socket, headers, queue, v4))
            }
        })
    }

    fn v4(to: SocketAddr) -> Option<SockaddrIn> {
        if let SocketAddr::V4(to) = to { Some(to.into()) } else { None }
    }

    fn v6(to: SocketAddr) -> Option<SockaddrIn6> {
        if let SocketAddr::V6(to) = to { Some(to.into()) } else { None }
    }

    fn send_from<S: SockaddrLike + Copy>(
        socket: &UdpSocket,
        headers: &Headers<S>,
        queue: &VecDeque<Transmit>,
        addr: impl Fn(SocketAddr) -> Option<S>,
    ) -> io::Result<usize> {
        let mut headers = headers.sending.borrow_mut();
        let count = queue.len().min(BATCH);
        let nth = |n: usize| queue.get(n).filter(|_| n < count);
        let addrs: [Option<S>; BATCH] = std::array::from_fn(|n| nth(n).and_then(|t| addr(t.to)));
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|n| [IoSlice::new(nth(n).map_or(&[], |t| &t.payload))]);
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices[..count], &addrs[..count], [], flags)?;
        Ok(sent.count())
    }
}

#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod single {
    use super::*;

    pub(super) fn receive(
        socket: &UdpSocket,
        _ipv6: bool,
        buffers: &mut [u8],
        heads: &mut Vec<(SocketAddr, usize)>,
    ) -> io::Result<()> {
        for buffer in buffers.chunks_exact_mut(MAX_DATAGRAM) {
            match socket.try_recv_from(buffer) {
                Ok((length, from)) => heads.push((from, length)),
                // It comes again with the next call, or was about an earlier datagram and concerns nobody.
                Err(_) if !heads.is_empty() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn send(socket: &UdpSocket, queue: &VecDeque<Transmit>) -> io::Result<usize> {
        for (sent, transmit) in queue.iter().take(BATCH).enumerate() {
            match socket.try_send_to(&transmit.payload, transmit.to) {
                Ok(_) => {}
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
        Ok(queue.len().min(BATCH))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Receive = fn(&UdpSocket, bool, &mut [u8], &mut Vec<(SocketAddr, usize)>) -> io::Result<()>;
    type Send = fn(&UdpSocket, &VecDeque<Transmit>) -> io::Result<usize>;

    async fn pair(addr: &str) -> Option<(UdpSocket, UdpSocket)> {
        let (a, b) = (UdpSocket::bind(addr).await.ok()?, UdpSocket::bind(addr).await.ok()?);
        Some((a, b))
    }

    /// Every length from nothing to too much, more than two batches of them, in order and unharmed.
    async fn carries(addr: &str, send: Send, receive: Receive) {
        let Some((a, b)) = pair(addr).await else { return };
        let to = b.local_addr().unwrap();
        let payload = |n: usize| vec![n as u8; n * 15];
        let count = 2 * BATCH + 20;
        let mut queue: VecDeque<_> = (0..count).map(|n| Transmit { to, payload: payload(n) }).collect();
        let mut batch = Batch::new();
        let mut received = Vec::new();
        while received.len() < count {
            if !queue.is_empty() {
                a.writable().await.unwrap();
                let sent = send(&a, &queue).unwrap_or(0);
                assert!(sent <= BATCH);
                queue.drain(..sent);
            }
            tokio::time::timeout(Duration::from_secs(30), b.readable()).await.unwrap().unwrap();
            batch.heads.clear();
            let _ = receive(&b, to.is_ipv6(), &mut batch.buffers, &mut batch.heads);
            assert!(batch.datagrams().all(|(from, _)| from == a.local_addr().unwrap()));
            received.extend(batch.datagrams().map(|(_, bytes)| bytes.to_vec()));
        }
        let expected: Vec<_> = (0..count).map(|n| payload(n.min(count))).collect();
        let cut = |bytes: &Vec<u8>| bytes[..bytes.len().min(MAX_DATAGRAM)].to_vec();
        assert!(received == expected.iter().map(cut).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn batches_and_single_datagrams_carry_the_same() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            carries(addr, system::send, system::receive).await;
            carries(addr, single::send, single::receive).await;
            carries(addr, system::send, single::receive).await;
        }
    }

    #[tokio::test]
    async fn an_empty_socket_says_so_and_wakes_for_the_next_datagram() {
        let (a, b) = pair("127.0.0.1:0").await.unwrap();
        let to = b.local_addr().unwrap();
        let mut batch = Batch::new();
        for n in 0..3u8 {
            let queue = VecDeque::from([Transmit { to, payload: vec![n] }]);
            a.writable().await.unwrap();
            assert_eq!(super::send(&a, &queue).unwrap(), 1);
            tokio::time::timeout(Duration::from_secs(30), b.readable()).await.unwrap().unwrap();
            while batch.datagrams().count() == 0 {
                assert!(!batch.receive(&b, false).unwrap(), "one datagram is no full batch");
                tokio::task::yield_now().await;
            }
            assert_eq!(batch.datagrams().next().unwrap().1, [n]);
            assert!(!batch.receive(&b, false).unwrap() && batch.datagrams().count() == 0);
        }
    }

    #[tokio::test]
    async fn an_error_concerns_the_first_datagram_only() {
        let (a, b) = pair("127.0.0.1:0").await.unwrap();
        let one = |to: SocketAddr| Transmit { to, payload: vec![1] };
        // From a socket on loopback nothing can go to the world.
        let bad = one(([192, 0, 2, 1], 9).into());
        let good = one(b.local_addr().unwrap());
        for send in [system::send as Send, single::send] {
            a.writable().await.unwrap();
            let queue = VecDeque::from([good.clone(), bad.clone(), good.clone()]);
            assert_eq!(send(&a, &queue).unwrap(), 1);
            assert!(send(&a, &VecDeque::from([bad.clone(), good.clone()])).is_err());
        }
    }
}
