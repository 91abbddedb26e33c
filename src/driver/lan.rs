//! Members of one's own network on the local links, found without any address to start from: carries messages of
//! multicast DNS between the links and one [`Vicinity`].
//!
//! Owns the sockets, and which interfaces are used. Must not decide when to speak or whom to believe.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use if_addrs::Interface;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::clock;
use super::udp::SleepWatch;
use crate::dht::vicinity::{Link, MAX_LINKS, Vicinity};
use crate::wire::advert::MAX_ADVERT_BYTES;
pub use crate::wire::badge::LanIdentity;

/// The groups and the port of multicast DNS (RFC 6762, 3).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// Said by all who speak there (RFC 6762, 11); no router passes the groups on.
const HOPS: u32 = 255;
/// How often interfaces are looked at: who is plugged in elsewhere is back in seconds, and a look takes microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Addresses waiting to be taken; one that is lost is named again.
const MAX_FOUND: usize = 256;

/// A node that makes itself known to its network's members nearby. Dropping it ends that, with a goodbye if the
/// runtime goes on for a moment; [`Lan::leave`] waits for it.
#[derive(Debug)]
pub struct Lan {
    stop: oneshot::Sender<oneshot::Sender<()>>,
}

impl Lan {
    /// Begins, within a tokio runtime: on all links that carry multicast, or, where one address is listened on, on the
    /// link of that address alone. Our DHT node's port is `port`; addresses of members come as they are found. Where
    /// there is no such link, it waits for one.
    pub fn spawn(
        identity: LanIdentity,
        port: u16,
        listen: Option<SocketAddr>,
        seed: [u8; 32],
    ) -> (Self, mpsc::Receiver<SocketAddr>) {
        let (stop, stopped) = oneshot::channel();
        let (found, finds) = mpsc::channel(MAX_FOUND);
        let now = clock::now();
        let task = Task {
            vicinity: Vicinity::new(identity, port, seed),
            listen: listen.map(|addr| addr.ip()),
            links: BTreeMap::new(),
            found,
            sleep: SleepWatch::new(now, clock::with_sleep()),
            look_at: now,
        };
        tokio::spawn(task.run(stopped));
        (Self { stop }, finds)
    }

    /// Says goodbye and ends.
    pub async fn leave(self) {
        let (answer, left) = oneshot::channel();
        if self.stop.send(answer).is_ok() {
            // An error means that the runtime is ending.
            let _ = left.await;
        }
    }
}

/// A link with a socket in the group of each family that has an address there.
struct Open {
    link: Link,
    sockets: Vec<UdpSocket>,
}

struct Task {
    vicinity: Vicinity,
    listen: Option<IpAddr>,
    links: BTreeMap<u32, Open>,
    found: mpsc::Sender<SocketAddr>,
    sleep: SleepWatch,
    look_at: Instant,
}

impl Task {
    async fn run(mut self, mut stopped: oneshot::Receiver<oneshot::Sender<()>>) {
        // One byte more than is looked at, so that a longer message is seen to be one.
        let mut buffer = [0; MAX_ADVERT_BYTES + 1];
        loop {
            self.on_time();
            self.drain();
            let due = self.vicinity.poll_timeout().map_or(self.look_at, |at| at.min(self.look_at));
            tokio::select! {
                biased;
                answer = &mut stopped => {
                    self.vicinity.leave();
                    self.drain();
                    // None where the handle was dropped.
                    let _ = answer.map(|answer| answer.send(()));
                    return;
                }
                () = tokio::time::sleep_until(due.into()) => {}
                (index, received) = receive(&self.links, &mut buffer) => match received {
                    Ok(length) => self.vicinity.handle_datagram(clock::now(), index, &buffer[..length]),
                    Err(error) => {
                        // Such as an interface that is gone. The next look opens it again if it is still there, so that
                        // an error that stays does not spin.
                        debug!(%error, "a link is given up");
                        self.links.remove(&index);
                        self.tell_links(clock::now());
                    }
                },
            }
        }
    }

    fn on_time(&mut self) {
        let now = clock::now();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.look(now);
        }
        if self.vicinity.poll_timeout().is_some_and(|at| at <= now) {
            self.vicinity.handle_timeout(now);
        }
    }

    /// Interfaces come and go.
    fn look(&mut self, now: Instant) {
        if self.sleep.observe(now, clock::with_sleep()).is_some() {
            self.vicinity.handle_sleep(now);
        }
        let wanted = match if_addrs::get_if_addrs() {
            Ok(interfaces) => links(&interfaces, self.listen),
            Err(error) => return debug!(%error, "the interfaces cannot be listed"),
        };
        self.links.retain(|_, open| wanted.contains(&open.link));
        for link in wanted {
            if self.links.contains_key(&link.index) {
                continue;
            }
            let sockets = open(&link);
            if !sockets.is_empty() {
                self.links.insert(link.index, Open { link, sockets });
            }
        }
        self.tell_links(now);
    }

    fn tell_links(&mut self, now: Instant) {
        let links: Vec<Link> = self.links.values().map(|open| open.link.clone()).collect();
        self.vicinity.set_links(now, &links);
    }

    fn drain(&mut self) {
        while let Some((index, bytes)) = self.vicinity.poll_transmit() {
            for socket in self.links.get(&index).into_iter().flat_map(|open| &open.sockets) {
                // A datagram for which there is no room may be lost as any other.
                let sent =
                    group_of(socket, index).and_then(|to| SockRef::from(socket).send_to(&bytes, &to.into()));
                if let Err(error) = sent {
                    debug!(%error, "nothing is said on a link");
                }
            }
        }
        while let Some(addr) = self.vicinity.poll_found() {
            debug!(%addr, "a member nearby");
            // Whoever takes them is too busy or has gone: a member that stays speaks again.
            let _ = self.found.try_send(addr);
        }
    }
}

/// The next message on any link.
async fn receive(links: &BTreeMap<u32, Open>, buffer: &mut [u8]) -> (u32, io::Result<usize>) {
    poll_fn(|cx| {
        for (index, open) in links {
            for socket in &open.sockets {
                if let Poll::Ready(received) = poll_socket(socket, cx, buffer) {
                    return Poll::Ready((*index, received));
                }
            }
        }
        Poll::Pending
    })
    .await
}

fn poll_socket(socket: &UdpSocket, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    socket.poll_recv_from(cx, &mut buffer).map_ok(|_| buffer.filled().len())
}

/// The links to use, in order: those of multicast interfaces that are up, or that of the address listened on.
fn links(interfaces: &[Interface], listen: Option<IpAddr>) -> Vec<Link> {
    let usable = |interface: &&Interface| match listen {
        Some(own) if !own.is_unspecified() => own == interface.ip(),
        any => {
            let family = any.is_none_or(|any| any.is_ipv4() == interface.ip().is_ipv4());
            family && interface.is_oper_up() && !interface.is_loopback() && !interface.is_p2p()
        }
    };
    let mut links: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for interface in interfaces.iter().filter(usable) {
        // Without its link such an address means nothing, and a contact of the DHT has no room for that.
        let scoped = matches!(interface.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        if let Some(index) = interface.index.filter(|_| !scoped) {
            links.entry(index).or_default().push(interface.ip());
        }
    }
    let link = |(index, mut addresses): (u32, Vec<IpAddr>)| {
        // The same order at each look.
        addresses.sort();
        addresses.dedup();
        Link { index, addresses }
    };
    links.into_iter().take(MAX_LINKS).map(link).collect()
}

/// Sockets in the groups of a link; those that can be had.
fn open(link: &Link) -> Vec<UdpSocket> {
    let v4 = link
        .addresses
        .iter()
        .find_map(|ip| if let IpAddr::V4(v4) = ip { Some(join_v4(*v4, link.index)) } else { None });
    let v6 = link.addresses.iter().any(IpAddr::is_ipv6).then(|| join_v6(link.index));
    let mut sockets = Vec::new();
    for joined in v4.into_iter().chain(v6) {
        match joined.and_then(|socket| UdpSocket::from_std(socket.into())) {
            Ok(socket) => sockets.push(socket),
            Err(error) => debug!(%error, index = link.index, "no multicast on a link"),
        }
    }
    sockets
}

fn group_v6(index: u32) -> SocketAddr {
    SocketAddrV6::new(GROUP_V6, PORT, 0, index).into()
}

fn group_of(socket: &UdpSocket, index: u32) -> io::Result<SocketAddr> {
    let v4 = socket.local_addr()?.is_ipv4();
    Ok(if v4 { SocketAddr::from((GROUP_V4, PORT)) } else { group_v6(index) })
}

/// A socket that shares the port with other programs of this machine. Where the system allows it, only what was sent
/// to the group comes in.
fn bind(group: SocketAddr, any: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if group.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&if cfg!(unix) { group } else { any }.into())?;
    Ok(socket)
}

fn join_v4(own: Ipv4Addr, index: u32) -> io::Result<Socket> {
    let socket = bind((GROUP_V4, PORT).into(), (Ipv4Addr::UNSPECIFIED, PORT).into())?;
    // Else it also hears what comes in on links that other sockets have joined on.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    Ok(socket)
}

fn join_v6(index: u32) -> io::Result<Socket> {
    let socket = bind(group_v6(index), (Ipv6Addr::UNSPECIFIED, PORT).into())?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_multicast_all_v6(false)?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(HOPS)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr};

    const HERE: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

    async fn within<T>(what: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::time::timeout(Duration::from_secs(20), what).await.unwrap_or(None)
    }

    /// Over real sockets: loopback carries multicast where one listens there.
    #[tokio::test]
    async fn members_find_each_other_and_strangers_do_not() {
        let seed = clock::entropy_seed().unwrap();
        let (ours, theirs) = (LanIdentity::new(seed), LanIdentity::new([seed[0]; 32]));
        let (stranger, mut strange) = Lan::spawn(theirs, 7003, HERE, [3; 32]);
        let (first, mut one) = Lan::spawn(ours.clone(), 7001, HERE, seed);
        let (second, mut two) = Lan::spawn(ours, 7002, HERE, [2; 32]);
        assert_eq!(within(one.recv()).await, Some(([127, 0, 0, 1], 7002).into()));
        assert_eq!(within(two.recv()).await, Some(([127, 0, 0, 1], 7001).into()));
        assert!(one.try_recv().is_err() && two.try_recv().is_err(), "nobody finds himself");
        first.leave().await;
        drop(second);
        assert_eq!(within(two.recv()).await, None, "the task ends with its handle");
        assert!(strange.try_recv().is_err());
        stranger.leave().await;
        assert_eq!(within(strange.recv()).await, None);
    }

    fn interface(name: &str, index: u32, ip: IpAddr, up: bool, p2p: bool) -> Interface {
        let addr = match ip {
            IpAddr::V4(ip) => {
                IfAddr::V4(Ifv4Addr { ip, netmask: Ipv4Addr::UNSPECIFIED, prefixlen: 8, broadcast: None })
            }
            IpAddr::V6(ip) => {
                IfAddr::V6(Ifv6Addr { ip, netmask: Ipv6Addr::UNSPECIFIED, prefixlen: 8, broadcast: None })
            }
        };
        let oper_status = if up { IfOperStatus::Up } else { IfOperStatus::Unknown };
        Interface { name: name.into(), addr, index: Some(index), oper_status, is_p2p: p2p }
    }

    #[test]
    fn links_are_those_that_may_have_neighbours() {
        let parse = |a: &str| a.parse::<IpAddr>().unwrap();
        let all = [
            interface("lo", 1, parse("127.0.0.1"), true, false),
            interface("eth0", 2, parse("fe80::1"), true, false),
            interface("eth0", 2, parse("fd00::1"), true, false),
            interface("eth0", 2, parse("10.0.0.1"), true, false),
            interface("eth1", 3, parse("10.1.0.1"), false, false),
            interface("tun0", 4, parse("10.2.0.1"), true, true),
            interface("wlan0", 5, parse("fe80::2"), true, false),
        ];
        let eth0 =
            |addresses: &[&str]| Link { index: 2, addresses: addresses.iter().map(|a| parse(a)).collect() };
        assert_eq!(links(&all, None), [eth0(&["10.0.0.1", "fd00::1"])]);
        assert_eq!(links(&all, Some(parse("0.0.0.0"))), [eth0(&["10.0.0.1"])]);
        assert_eq!(links(&all, Some(parse("::"))), [eth0(&["fd00::1"])]);
        assert_eq!(links(&all, Some(parse("10.0.0.1"))), [eth0(&["10.0.0.1"])]);
        assert_eq!(links(&all, Some(parse("10.2.0.1")))[0].index, 4, "somebody has chosen it");
        assert_eq!(links(&all, Some(parse("10.9.0.1"))), []);
    }
}
