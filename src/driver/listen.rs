//! Sockets to listen on: TCP and UDP, IPv4 and IPv6, all on one port.
//!
//! Owns which port it becomes and what is tried where a system lacks something. Must not know what the
//! sockets are for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// The ports BitTorrent clients use, tried in this order.
const USUAL_PORTS: std::ops::RangeInclusive<u16> = 6881..=6889;
/// Attempts at a port of the system's choice: it must be free for four sockets at once.
const ANY_PORT_ATTEMPTS: usize = 32;
/// Connections waiting to be accepted: a swarm's start comes in one burst.
const BACKLOG: i32 = 1024;
/// Socket buffers asked for: a burst of small datagrams must outlast a busy moment of ours.
const UDP_BUFFER: usize = 1 << 20;

/// UDP sockets of one node, non-blocking.
#[derive(Debug, Default)]
pub struct UdpSockets {
    /// IPv4.
    pub v4: Option<UdpSocket>,
    /// IPv6 only.
    pub v6: Option<UdpSocket>,
}

/// Everything bound to one port, non-blocking.
#[derive(Debug)]
pub struct Listening {
    /// For peers; one for each family.
    pub tcp: Vec<TcpListener>,
    /// For the DHT.
    pub udp: UdpSockets,
    /// The port they share.
    pub port: u16,
}

/// Why nothing listens.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address that was asked for is in use.
    #[error("cannot listen on {addr}: it is in use by another program")]
    InUse {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The address that was asked for cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Unusable {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No port could be bound at all.
    #[error("no port to listen on could be found: {0}")]
    NoPort(io::Error),
}

/// Binds exactly `addr`, or by default the first port free in all families and protocols.
pub fn listen(addr: Option<SocketAddr>) -> Result<Listening, ListenError> {
    match addr {
        Some(addr) => listen_exactly(addr),
        None => listen_anywhere(),
    }
}

fn listen_exactly(addr: SocketAddr) -> Result<Listening, ListenError> {
    let attempts = if addr.port() == 0 { ANY_PORT_ATTEMPTS } else { 1 };
    let mut last = None;
    for _ in 0..attempts {
        match bind_pair(addr) {
            Ok((tcp, udp)) => {
                let port = tcp.local_addr().map_err(|source| ListenError::Unusable { addr, source })?.port();
                let udp = match addr.ip() {
                    IpAddr::V4(_) => UdpSockets { v4: Some(udp), v6: None },
                    IpAddr::V6(_) => UdpSockets { v4: None, v6: Some(udp) },
                };
                return Ok(Listening { tcp: vec![tcp], udp, port });
            }
            Err(error) => last = Some(error),
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr, source },
        _ => ListenError::Unusable { addr, source },
    })
}

fn listen_anywhere() -> Result<Listening, ListenError> {
    let any = std::iter::repeat_n(0, ANY_PORT_ATTEMPTS);
    let mut last = None;
    for port in USUAL_PORTS.chain(any) {
        match bind_both_families(port) {
            Ok(listening) => return Ok(listening),
            Err(error) => last = Some(error),
        }
    }
    Err(ListenError::NoPort(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into())))
}

/// IPv4 and IPv6 on one port; either alone where the system has only one of them.
fn bind_both_families(port: u16) -> io::Result<Listening> {
    let mut listening = Listening { tcp: Vec::new(), udp: UdpSockets::default(), port };
    let mut lacking = None;
    match bind_pair(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Ok((tcp, udp)) => {
            listening.port = tcp.local_addr()?.port();
            listening.tcp.push(tcp);
            listening.udp.v4 = Some(udp);
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "no IPv4 sockets");
            lacking = Some(error);
        }
    }
    match bind_pair(SocketAddr::from((Ipv6Addr::UNSPECIFIED, listening.port))) {
        Ok((tcp, udp)) => {
            listening.port = tcp.local_addr()?.port();
            listening.tcp.push(tcp);
            listening.udp.v6 = Some(udp);
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "no IPv6 sockets");
            if let Some(lacking) = lacking {
                return Err(lacking);
            }
        }
    }
    Ok(listening)
}

fn bind_pair(addr: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let tcp = tcp_listener(addr)?;
    let udp = udp_socket(SocketAddr::new(addr.ip(), tcp.local_addr()?.port()))?;
    Ok((tcp, udp))
}

fn tcp_listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    v6_only(&socket, addr)?;
    // A restart must not wait for the old connections' TIME_WAIT. Where this is Windows, the option
    // would let two programs share the port, so it is left out there.
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A UDP socket for DHT traffic.
pub fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    v6_only(&socket, addr)?;
    socket.set_nonblocking(true)?;
    for result in [socket.set_recv_buffer_size(UDP_BUFFER), socket.set_send_buffer_size(UDP_BUFFER)] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffers stay as they are");
        }
    }
    unfragmented(&socket, addr);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// What the DHT sends fits any usual path, tunnels included, so nobody on the way need cut it up. It then also
/// needs no number by which the pieces would be told, which costs the system more than one would think.
fn unfragmented(socket: &Socket, addr: SocketAddr) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if addr.is_ipv4() {
        let whole = rustix::net::sockopt::Ipv4PathMtuDiscovery::PROBE;
        if let Err(error) = rustix::net::sockopt::set_ip_mtu_discover(socket, whole) {
            tracing::debug!(%error, "datagrams may be fragmented");
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, addr);
}

/// The addresses from which this machine would speak to the world; nothing is sent to learn them. Where
/// it listens on one address only, it speaks from there.
pub fn local_ips(listen: Option<SocketAddr>) -> Vec<IpAddr> {
    if let Some(addr) = listen.filter(|addr| !addr.ip().is_unspecified()) {
        return vec![addr.ip()];
    }
    // Addresses for documentation (RFC 5737, RFC 3849): the default route decides, and nobody is there.
    let pairs = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let ask = |(from, to): (&str, &str)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    pairs.into_iter().filter_map(ask).collect()
}

/// The addresses of this machine by which other machines may know it, in order. Links that have none but their
/// own are left out.
pub fn machine_ips() -> Vec<IpAddr> {
    let mut all = interface_ips().unwrap_or_else(|| local_ips(None));
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn interface_ips() -> Option<Vec<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?.filter_map(|interface| interface.address);
    let ips = addresses.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    let of_link = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    Some(ips.filter(|ip| !of_link(ip)).collect())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn interface_ips() -> Option<Vec<IpAddr>> {
    None
}

fn v6_only(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_and_udp_share_a_port_and_a_second_one_is_told_so() {
        let first = listen(Some("127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], first.port));
        assert_eq!(first.udp.v4.as_ref().unwrap().local_addr().unwrap(), addr);
        assert_eq!(first.tcp[0].local_addr().unwrap(), addr);
        let error = listen(Some(addr)).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
        assert!(error.to_string().contains(&addr.to_string()));
    }

    #[test]
    fn a_chosen_address_is_the_one_this_machine_speaks_from() {
        let chosen: SocketAddr = "203.0.113.9:6881".parse().unwrap();
        assert_eq!(local_ips(Some(chosen)), [chosen.ip()]);
        assert_eq!(local_ips(Some("0.0.0.0:6881".parse().unwrap())), local_ips(None));
    }

    #[test]
    fn the_default_finds_another_port_for_a_second_node() {
        let (first, second) = (listen(None).unwrap(), listen(None).unwrap());
        assert_ne!(first.port, second.port);
        assert!(!first.tcp.is_empty());
    }

    #[test]
    fn an_address_of_elsewhere_is_refused_with_a_hint() {
        let error = listen(Some("192.0.2.1:7000".parse().unwrap())).unwrap_err();
        assert!(matches!(error, ListenError::Unusable { .. }), "{error}");
    }
}
