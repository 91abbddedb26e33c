//! The flood of `dht_flood.py`: queries from many addresses to one node, and a bare echo to compare it with.
//!
//! `dht_flood load TARGET PID SECONDS KIND...` plays 200 nodes that the target can fill its table with and 256
//! addresses that ask, keeps a window of queries open, and prints a line of JSON for each kind: answers, seconds, and
//! what CPU time the process PID has spent meanwhile. `dht_flood echo ADDR` sends everything back, in batches.

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the flood needs Linux: many source addresses for one socket");
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo", addr] => flood::echo(addr.parse()?),
        ["load", target, pid, seconds, ref kinds @ ..] => {
            flood::load(target.parse()?, pid.parse()?, seconds.parse()?, kinds)
        }
        _ => Err("dht_flood load TARGET PID SECONDS KIND... | dht_flood echo ADDR".into()),
    }
}

#[cfg(target_os = "linux")]
mod flood {
    use std::error::Error;
    use std::io::{IoSlice, IoSliceMut};
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
    use std::os::fd::AsRawFd as _;
    use std::time::{Duration, Instant};

    use dhtget::id::Id160;
    use dhtget::rng::Rng;
    use dhtget::wire::compact::{self, Contact};
    use dhtget::wire::krpc::{Body, Message, Method, Query, Reply, Want};
    use nix::libc::{in_addr, in_pktinfo};
    use nix::sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg,
        setsockopt, sockopt,
    };

    /// Datagrams a call.
    const BATCH: usize = 64;
    /// Queries under way: enough that the target need not wait, few enough for its socket.
    const WINDOW: usize = 256;
    /// Consecutive queries of one address, sent with one call.
    const IN_A_ROW: u32 = 16;
    /// Addresses that ask: 127.2.x.y.
    const SOURCES: u32 = 256;
    /// Nodes that answer: 127.1.x.y.
    const NODES: u32 = 200;
    /// All of them have this port.
    const PORT: u16 = 7000;
    /// After this long an answer counts as lost.
    const LOST: Duration = Duration::from_millis(250);
    /// For the target's table to fill.
    const SETTLE: Duration = Duration::from_secs(5);
    const MAX_DATAGRAM: usize = 2048;

    type Outcome = Result<(), Box<dyn Error>>;

    fn source(n: u32) -> u32 {
        0x7f02_0001 + n % SOURCES
    }

    fn node(n: u32) -> Contact {
        let ip = 0x7f01_0001 + n % NODES;
        Contact { id: id_of(ip), addr: (Ipv4Addr::from_bits(ip), PORT).into() }
    }

    fn id_of(ip: u32) -> Id160 {
        Id160::random(&mut Rng::from_u64(ip.into()))
    }

    fn socket(addr: SocketAddrV4) -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(addr)?;
        let large = 8 << 20;
        // The system's ceiling holds; what is lost is counted.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &large);
        let _ = setsockopt(&socket, sockopt::SndBuf, &large);
        socket.set_read_timeout(Some(Duration::from_millis(2)))?;
        Ok(socket)
    }

    fn is_quiet(error: nix::Error) -> bool {
        matches!(error, nix::Error::EAGAIN | nix::Error::EINTR)
    }

    pub fn echo(addr: SocketAddrV4) -> Outcome {
        let socket = socket(addr)?;
        let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut buffers = vec![[0u8; MAX_DATAGRAM]; BATCH];
        let (mut from, mut lengths) = (vec![None; BATCH], vec![0; BATCH]);
        loop {
            let count = {
                let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
                let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
                match recvmmsg(fd, &mut incoming, slices.iter_mut(), flags, None) {
                    Ok(received) => received
                        .zip(from.iter_mut().zip(&mut lengths))
                        .map(|(one, (from, length))| (*from, *length) = (one.address, one.bytes))
                        .count(),
                    Err(error) if is_quiet(error) => 0,
                    Err(error) => return Err(error.into()),
                }
            };
            let slices: Vec<_> =
                buffers.iter().zip(&lengths).map(|(b, n)| [IoSlice::new(&b[..*n])]).collect();
            if count > 0 {
                let fd = socket.as_raw_fd();
                sendmmsg(fd, &mut outgoing, &slices[..count], &from[..count], [], MsgFlags::empty())?;
            }
        }
    }

    /// A query under way.
    #[derive(Clone, Copy)]
    struct Slot {
        since: Option<Instant>,
        generation: u16,
        source: u32,
        /// An answer to this one brings a token, with which this is announced.
        announces: Option<Id160>,
    }

    /// What goes out next: all to the target, all from one address.
    struct Outgoing {
        target: SocketAddrV4,
        headers: MultiHeaders<SockaddrIn>,
        source: u32,
        payloads: Vec<Vec<u8>>,
        count: usize,
    }

    impl Outgoing {
        fn push(&mut self, socket: &UdpSocket, source: u32, message: &Message<'_>) -> nix::Result<()> {
            if self.count == BATCH || self.count > 0 && source != self.source {
                self.flush(socket)?;
            }
            self.source = source;
            self.payloads[self.count].clear();
            message.emit(&mut self.payloads[self.count]);
            self.count += 1;
            Ok(())
        }

        fn flush(&mut self, socket: &UdpSocket) -> nix::Result<()> {
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: self.source.to_be() },
                ipi_addr: in_addr { s_addr: 0 },
            };
            let slices: Vec<_> = self.payloads[..self.count].iter().map(|p| [IoSlice::new(p)]).collect();
            let to = vec![Some(SockaddrIn::from(self.target)); self.count];
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            if self.count > 0 {
                let fd = socket.as_raw_fd();
                sendmmsg(fd, &mut self.headers, &slices, &to, control, MsgFlags::empty())?;
            }
            self.count = 0;
            Ok(())
        }
    }

    struct Flood {
        socket: UdpSocket,
        out: Outgoing,
        incoming: MultiHeaders<SockaddrIn>,
        buffers: Vec<[u8; MAX_DATAGRAM]>,
        slots: Vec<Slot>,
        free: Vec<u16>,
        rng: Rng,
        turn: u32,
        answered: u64,
        errors: u64,
        lost: u64,
    }

    impl Flood {
        fn new(target: SocketAddrV4) -> Result<Self, Box<dyn Error>> {
            let socket = socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            let headers = || MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(in_pktinfo)));
            let (payloads, slot) =
                (vec![Vec::new(); BATCH], Slot { since: None, generation: 0, source: 0, announces: None });
            Ok(Self {
                socket,
                out: Outgoing { target, headers: headers(), source: 0, payloads, count: 0 },
                incoming: headers(),
                buffers: vec![[0; MAX_DATAGRAM]; BATCH],
                slots: vec![slot; WINDOW],
                free: (0..WINDOW as u16).collect(),
                rng: Rng::from_u64(1),
                turn: 0,
                answered: 0,
                errors: 0,
                lost: 0,
            })
        }

        fn ask(
            &mut self,
            at: u16,
            now: Instant,
            source: u32,
            method: Method<'_>,
            announces: Option<Id160>,
        ) -> nix::Result<()> {
            let slot = &mut self.slots[usize::from(at)];
            let generation = slot.generation.wrapping_add(1);
            *slot = Slot { since: Some(now), generation, source, announces };
            let [a, b] = at.to_be_bytes();
            let [c, d] = generation.to_be_bytes();
            let query = Query { id: id_of(source), want: Want::default(), method };
            let body = Body::Query(query);
            let message =
                Message { transaction: &[a, b, c, d], version: None, ip: None, read_only: false, body };
            self.out.push(&self.socket, source, &message)
        }

        /// Fills the window.
        fn ask_all(&mut self, now: Instant, kind: &str) -> nix::Result<()> {
            while let Some(at) = self.free.pop() {
                self.turn = self.turn.wrapping_add(1);
                let target = Id160::random(&mut self.rng);
                let announces = (kind == "announce").then_some(target);
                let method = match kind {
                    "ping" => Method::Ping,
                    "find_node" | "echo" => Method::FindNode { target },
                    _ => Method::GetPeers { info_hash: target, scrape: false, no_seeds: false },
                };
                self.ask(at, now, source(self.turn / IN_A_ROW), method, announces)?;
            }
            self.out.flush(&self.socket)
        }

        fn receive(&mut self, kind: &str) -> nix::Result<()> {
            let mut buffers = std::mem::take(&mut self.buffers);
            let received: Vec<(usize, u32)> = {
                let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
                let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
                match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), flags, None) {
                    Ok(received) => received
                        .map(|one| {
                            let to = one.cmsgs().ok().and_then(|mut all| {
                                all.find_map(|c| match c {
                                    ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_addr.s_addr),
                                    _ => None,
                                })
                            });
                            (one.bytes, u32::from_be(to.unwrap_or(0)))
                        })
                        .collect(),
                    Err(error) if is_quiet(error) => Vec::new(),
                    Err(error) => return Err(error),
                }
            };
            let now = Instant::now();
            for ((length, to), buffer) in received.into_iter().zip(&buffers) {
                if let Ok(message) = Message::parse(&buffer[..length]) {
                    self.take(now, to, &message, kind)?;
                }
            }
            self.buffers = buffers;
            self.out.flush(&self.socket)
        }

        fn take(&mut self, now: Instant, to: u32, message: &Message<'_>, kind: &str) -> nix::Result<()> {
            let token = match &message.body {
                Body::Query(_) if kind != "echo" => return self.answer(to, message.transaction),
                Body::Reply(reply) => reply.token,
                Body::Error(_) => {
                    self.errors += 1;
                    None
                }
                Body::Query(_) => None,
            };
            let [a, b, c, d] = *message.transaction else { return Ok(()) };
            let (at, generation) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let Some(slot) = self.slots.get_mut(usize::from(at)) else { return Ok(()) };
            if slot.since.is_none() || slot.generation != generation {
                return Ok(());
            }
            slot.since = None;
            self.answered += 1;
            let (source, announces) = (slot.source, slot.announces);
            match (token, announces) {
                (Some(token), Some(info_hash)) => {
                    let (port, implied_port, seed) = (6881, false, false);
                    let method = Method::AnnouncePeer { info_hash, port, implied_port, seed, token };
                    self.ask(at, now, source, method, None)
                }
                _ => {
                    self.free.push(at);
                    Ok(())
                }
            }
        }

        /// The target asks one of ours: he lives, and names eight others.
        fn answer(&mut self, to: u32, transaction: &[u8]) -> nix::Result<()> {
            let mut nodes = Vec::new();
            for _ in 0..8 {
                compact::write_node(&node(self.rng.u32()), &mut nodes);
            }
            let body = Body::Reply(Reply { id: id_of(to), nodes: &nodes, ..Reply::default() });
            let message = Message { transaction, version: None, ip: None, read_only: false, body };
            self.out.push(&self.socket, to, &message)
        }

        fn settle(&mut self) -> nix::Result<()> {
            let end = Instant::now() + SETTLE;
            for n in 0..NODES {
                let contact = node(n);
                let SocketAddr::V4(addr) = contact.addr else { continue };
                let query = Query { id: contact.id, want: Want::default(), method: Method::Ping };
                let body = Body::Query(query);
                let message =
                    Message { transaction: b"hello", version: None, ip: None, read_only: false, body };
                self.out.push(&self.socket, addr.ip().to_bits(), &message)?;
            }
            while Instant::now() < end {
                self.receive("settle")?;
            }
            Ok(())
        }

        fn run(&mut self, kind: &str, seconds: f64) -> nix::Result<f64> {
            let start = Instant::now();
            (self.answered, self.errors, self.lost) = (0, 0, 0);
            let mut swept = start;
            loop {
                let now = Instant::now();
                if (now - start).as_secs_f64() >= seconds {
                    return Ok((now - start).as_secs_f64());
                }
                if now - swept > LOST / 10 {
                    swept = now;
                    for (at, slot) in self.slots.iter_mut().enumerate() {
                        if slot.since.is_some_and(|since| now - since > LOST) {
                            slot.since = None;
                            self.lost += 1;
                            self.free.push(at as u16);
                        }
                    }
                }
                self.ask_all(now, kind)?;
                self.receive(kind)?;
            }
        }
    }

    /// User and system time of a process, in hundredths of a second.
    fn cpu(pid: u32) -> Result<u64, Box<dyn Error>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything: state, then twelve others, then the two times.
        let rest = text.rsplit_once(')').ok_or("no name in stat")?.1;
        let field = |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
        Ok(field(11).ok_or("no user time")? + field(12).ok_or("no system time")?)
    }

    pub fn load(target: SocketAddrV4, pid: u32, seconds: f64, kinds: &[&str]) -> Outcome {
        let mut flood = Flood::new(target)?;
        if !kinds.contains(&"echo") {
            flood.settle()?;
        }
        for kind in kinds {
            // What is still under way from the kind before must not count.
            flood.run(kind, seconds / 10.0)?;
            let before = cpu(pid)?;
            let elapsed = flood.run(kind, seconds)?;
            let cpu_s = (cpu(pid)? - before) as f64 / 100.0;
            let Flood { answered, errors, lost, .. } = flood;
            println!(
                r#"{{"kind":"{kind}","answered":{answered},"errors":{errors},"lost":{lost},"seconds":{elapsed:.3},"cpu_s":{cpu_s:.2}}}"#
            );
        }
        Ok(())
    }
}
