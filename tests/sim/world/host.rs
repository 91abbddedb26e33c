//! One host: where it is, its node while it is up, and what it keeps while it is down.
//!
//! Knows no other host and no queue.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use dhtget::dht::{Node, Stored};
use dhtget::id::{Id160, InfoHash, NodeId};
use dhtget::rng::Rng;
use dhtget::wire::compact::Contact;

use super::dice::Dice;

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

/// What each delivery touches stands first.
#[derive(Debug)]
pub struct Host {
    pub node: Option<Box<Node>>,
    pub address: SocketAddrV4,
    pub is_malicious: bool,
    pub shares: bool,
    /// When its node wants to be called, in microseconds.
    pub wake: u64,
    /// The earliest of its entries in the queue.
    pub queued: u64,
    /// When it announces its torrent next.
    pub announces_at: u64,
    /// How far its clock is ahead, in microseconds.
    pub ahead: u64,
    /// One-way delay to the middle of the network, in microseconds.
    pub access: u64,
    /// What happens to the datagrams it sends.
    pub dice: Dice,
    /// Datagrams sent.
    pub sent: u32,
    /// Counts its sessions, so that what was meant for one does not befall the next.
    pub session: u32,
    /// A fingerprint of all that was delivered to it.
    pub trace: u64,
    pub nat: Option<Nat>,
    /// Number of its address; a stranger who takes its place gets a new one.
    pub serial: u32,
    /// To how many its torrent was announced in this session.
    pub announced_to: u32,
    /// What is saved while it is down.
    pub saved: Option<Box<Saved>>,
}

impl Host {
    pub fn new(serial: u32, access: u64, dice: Dice) -> Self {
        Self {
            node: None,
            address: super::address::of(serial),
            is_malicious: false,
            shares: false,
            wake: u64::MAX,
            queued: u64::MAX,
            announces_at: u64::MAX,
            ahead: 0,
            access,
            dice,
            sent: 0,
            session: 0,
            trace: 0,
            nat: None,
            serial,
            announced_to: 0,
            saved: None,
        }
    }

    /// Becomes a stranger at another address.
    pub fn replace(&mut self, serial: u32, access: u64) {
        (self.serial, self.address, self.access) = (serial, super::address::of(serial), access);
        (self.saved, self.ahead) = (None, 0);
        self.nat = self.nat.take().map(|_| Nat::default());
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::V4(self.address)
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
            self.saved =
                Some(Box::new(Saved { id: snapshot.id, contacts, stored: node.stored(now), at: now }));
        }
    }
}

/// Address-restricted: lets in whom the host has sent to, for a while.
#[derive(Clone, Debug, Default)]
pub struct Nat {
    pinholes: VecDeque<(u64, Ipv4Addr)>,
}

impl Nat {
    pub fn on_send(&mut self, now: u64, to: Ipv4Addr, lifetime: u64) {
        while self.pinholes.front().is_some_and(|(at, _)| at + lifetime <= now) {
            self.pinholes.pop_front();
        }
        if self.pinholes.back() != Some(&(now, to)) {
            self.pinholes.push_back((now, to));
        }
    }

    /// Most of what comes in answers what has just gone out, so the youngest are looked at first.
    pub fn admits(&self, now: u64, from: Ipv4Addr, lifetime: u64) -> bool {
        let mut open = self.pinholes.iter().rev().take_while(|(at, _)| at + lifetime > now);
        open.any(|(_, ip)| *ip == from)
    }
}
