//! One host: where it is, its node while it is up, and what it keeps while it is down.
//!
//! Knows no other host and no queue.

use std::collections::VecDeque;
use std::net::IpAddr;

use dhtget::dht::{Node, Stored};
use dhtget::id::{Id160, InfoHash, NodeId};
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;

/// Contacts that a host saves: enough to start from, few enough for a hundred thousand hosts.
const SAVED: usize = 64;

/// What a host keeps while it is down.
#[derive(Debug)]
pub struct Saved {
    pub id: NodeId,
    pub contacts: Vec<Contact>,
    pub stored: Stored,
    pub at: std::time::Instant,
}

#[derive(Debug)]
pub struct Host {
    /// Number of its address; a stranger who takes its place gets a new one.
    pub serial: u32,
    /// An address outside the usual ones.
    pub own_addr: Option<std::net::SocketAddr>,
    pub node: Option<Box<Node>>,
    /// What is saved while it is down.
    pub saved: Option<Saved>,
    /// Counts its sessions, so that what was meant for one does not befall the next.
    pub session: u32,
    /// When its timer is in the queue, in microseconds.
    pub due: u64,
    /// One-way delay to the middle of the network, in microseconds.
    pub access: u64,
    /// How far its clock is ahead, in microseconds.
    pub ahead: u64,
    pub nat: Option<Nat>,
    pub side: bool,
    pub is_malicious: bool,
    pub shares: bool,
    /// Whether its torrent was announced in this session, and to how many.
    pub announced_to: u32,
}

impl Host {
    pub fn addr(&self) -> std::net::SocketAddr {
        self.own_addr.unwrap_or_else(|| super::address::of(self.serial))
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// The torrent it shares.
    pub fn torrent(&self) -> InfoHash {
        Id160(Rng::from_u64(u64::from(self.serial) ^ 0x7011_e47b).bytes())
    }

    /// Puts down what a restart would find.
    pub fn save(&mut self, now: std::time::Instant) {
        if let Some(node) = &self.node {
            let snapshot = node.snapshot(now);
            let contacts = snapshot.nodes_v4.into_iter().take(SAVED).collect();
            self.saved = Some(Saved { id: snapshot.id, contacts, stored: node.stored(now), at: now });
        }
    }
}

/// Address-restricted: lets in whom the host has sent to, for a while.
#[derive(Clone, Debug, Default)]
pub struct Nat {
    pinholes: VecDeque<(IpAddr, u64)>,
}

impl Nat {
    pub fn on_send(&mut self, now: u64, to: IpAddr, lifetime: u64) {
        while self.pinholes.front().is_some_and(|(_, at)| at + lifetime <= now) {
            self.pinholes.pop_front();
        }
        if self.pinholes.back().is_none_or(|(ip, at)| *ip != to || *at != now) {
            self.pinholes.push_back((to, now));
        }
    }

    pub fn admits(&self, now: u64, from: IpAddr, lifetime: u64) -> bool {
        self.pinholes.iter().any(|(ip, at)| *ip == from && at + lifetime > now)
    }
}
