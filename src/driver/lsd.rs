//! Local service discovery (BEP 14): carries announces between the groups of the local network and one
//! [`Neighbours`].
//!
//! Owns its sockets. Must not decide when to speak or whom to believe.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tracing::debug;

use super::clock;
use crate::id::InfoHash;
use crate::swarm::{Neighbours, Origin};
use crate::wire::lsd::{LSD_GROUP_V4, LSD_GROUP_V6, LSD_PORT, MAX_LSD_BYTES};

/// Wishes waiting for the task; few transfers start at once.
const MAX_COMMANDS: usize = 64;
/// Routers an announce may pass: none.
const HOPS: u32 = 1;

/// Where the peers of a transfer go.
pub type Candidates = mpsc::Sender<(Vec<SocketAddr>, Origin)>;

enum Command {
    Add(InfoHash, Candidates),
    Remove(InfoHash),
}

/// A running discovery. Cheap to clone; it ends with its last handle.
#[derive(Debug, Clone)]
pub struct Lsd {
    commands: mpsc::Sender<Command>,
}

impl Lsd {
    /// Joins the groups, within a tokio runtime: from the address that is listened on, or from `local`, those this
    /// machine speaks from. None where there is no group to join, as on loopback.
    pub fn spawn(port: u16, local: &[IpAddr], cookie: u64) -> Option<Self> {
        let mut sockets = Vec::new();
        for ip in local.iter().filter(|ip| !ip.is_loopback()) {
            match join(*ip).and_then(UdpSocket::from_std) {
                Ok(socket) => sockets.push((socket, ip.is_ipv4())),
                Err(error) => debug!(%error, "no discovery in the local network"),
            }
        }
        let mut sockets = sockets.into_iter();
        let first = sockets.next()?;
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let neighbours = Neighbours::new(port, cookie);
        let task = Task { neighbours, first, second: sockets.next(), transfers: BTreeMap::new() };
        tokio::spawn(task.run(inbox));
        Some(Self { commands })
    }

    /// Announces a torrent from now on; who shares it nearby goes to `candidates`.
    pub async fn add(&self, hash: InfoHash, candidates: Candidates) {
        // Its task ends only with the runtime.
        let _ = self.commands.send(Command::Add(hash, candidates)).await;
    }

    /// Announces it no more.
    pub async fn remove(&self, hash: InfoHash) {
        let _ = self.commands.send(Command::Remove(hash)).await;
    }
}

struct Task {
    neighbours: Neighbours,
    first: (UdpSocket, bool),
    second: Option<(UdpSocket, bool)>,
    transfers: BTreeMap<InfoHash, Candidates>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let (mut one, mut two) = ([0; MAX_LSD_BYTES + 1], [0; MAX_LSD_BYTES + 1]);
        loop {
            self.forget_ended();
            self.speak().await;
            let deadline = self.neighbours.poll_timeout();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let second = async {
                match &self.second {
                    Some((socket, _)) => socket.recv_from(&mut two).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                () = timer => {}
                received = self.first.0.recv_from(&mut one) => self.hear(&one, received).await,
                received = second => self.hear(&two, received).await,
            }
        }
    }

    /// A transfer that has ended takes no more candidates.
    fn forget_ended(&mut self) {
        let neighbours = &mut self.neighbours;
        self.transfers.retain(|hash, candidates| {
            let ended = candidates.is_closed();
            if ended {
                neighbours.remove(*hash);
            }
            !ended
        });
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Add(hash, candidates) => {
                self.transfers.insert(hash, candidates);
                self.neighbours.add(clock::now(), hash);
            }
            Command::Remove(hash) => {
                self.transfers.remove(&hash);
                self.neighbours.remove(hash);
            }
        }
    }

    async fn hear(&mut self, buffer: &[u8], received: io::Result<(usize, SocketAddr)>) {
        match received {
            Ok((length, from)) => {
                self.neighbours.handle_datagram(clock::now(), from, &buffer[..length]);
                while let Some((hash, addr)) = self.neighbours.poll_found() {
                    if let Some(candidates) = self.transfers.get(&hash) {
                        // A transfer that is too busy will hear of it again.
                        let _ = candidates.try_send((vec![addr], Origin::Lan));
                    }
                }
            }
            Err(error) => {
                debug!(%error, "a socket of the local network fails");
                // Errors that stay must not spin.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }

    async fn speak(&mut self) {
        while let Some(announce) = self.neighbours.poll_announce(clock::now()) {
            for (socket, v4) in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
                if let Err(error) = socket.send_to(&announce.emit(*v4), group(*v4)).await {
                    debug!(%error, "an announce to the local network is not sent");
                }
            }
        }
    }
}

fn group(v4: bool) -> SocketAddr {
    let ip = if v4 { IpAddr::V4(LSD_GROUP_V4) } else { IpAddr::V6(LSD_GROUP_V6) };
    SocketAddr::new(ip, LSD_PORT)
}

/// A socket in the group of its family, speaking from `ip`. Other programs on this machine are in it too.
fn join(ip: IpAddr) -> io::Result<std::net::UdpSocket> {
    let group = group(ip.is_ipv4());
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Where the system allows it, only what was sent to the group comes in.
    let any = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let bound = if cfg!(unix) { group } else { SocketAddr::new(any, LSD_PORT) };
    match ip {
        IpAddr::V4(ip) => {
            socket.bind(&bound.into())?;
            socket.join_multicast_v4(&LSD_GROUP_V4, &ip)?;
            socket.set_multicast_if_v4(&ip)?;
            socket.set_multicast_ttl_v4(HOPS)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.bind(&bound.into())?;
            socket.join_multicast_v6(&LSD_GROUP_V6, 0)?;
            socket.set_multicast_hops_v6(HOPS)?;
        }
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_has_no_neighbours() {
        assert!(Lsd::spawn(6881, &[], 1).is_none());
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        assert!(Lsd::spawn(6881, &own, 1).is_none());
    }
}
