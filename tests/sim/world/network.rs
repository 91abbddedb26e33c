//! What every shard may look at and none may change: who is where, how far away, and who plots what.
//!
//! Knows hosts by number and nothing of their nodes.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::net::SocketAddrV4;
use std::time::Instant;

use siphasher::sip::SipHasher13;

use super::evil::Plot;
use super::queue::Datagram;
use super::{Options, address, micros};

/// No host: at an address that somebody has left, and the sender of what is forged.
pub const NOBODY: u32 = u32::MAX;

/// A host, and its one-way delay to the middle of the network in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub host: u32,
    pub access: u32,
}

pub struct Network {
    pub options: Options,
    pub epoch: Instant,
    /// By the serial number of an address.
    directory: Vec<Place>,
    /// The same for addresses outside the usual ones.
    named: BTreeMap<SocketAddrV4, Place>,
    /// The sides of the last partition, by host; until then they do not hear each other.
    sides: Vec<bool>,
    parted_until: u64,
    pub plot: Plot,
}

impl Network {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            epoch: Instant::now(),
            directory: Vec::new(),
            named: BTreeMap::new(),
            sides: Vec::new(),
            parted_until: 0,
            plot: Plot::default(),
        }
    }

    /// No datagram takes less: what one host does now is felt by another after so many microseconds at the earliest.
    pub fn lookahead(&self) -> u64 {
        2 * micros(self.options.access_min)
    }

    /// The number that the next address will have.
    pub fn next_serial(&self) -> u32 {
        self.directory.len() as u32
    }

    /// Gives that host an address of its own.
    pub fn move_in(&mut self, host: u32, access: u64) -> u32 {
        self.directory.push(Place { host, access: access as u32 });
        self.directory.len() as u32 - 1
    }

    pub fn move_out(&mut self, serial: u32) {
        self.directory[serial as usize].host = NOBODY;
    }

    /// Finds that host at another address, too.
    pub fn name(&mut self, addr: SocketAddrV4, host: u32, access: u64) {
        self.named.insert(addr, Place { host, access: access as u32 });
    }

    /// The host at an address, up or down.
    pub fn resolve(&self, addr: SocketAddrV4) -> Option<Place> {
        let place = match address::serial(addr) {
            Some(serial) => self.directory.get(serial as usize),
            None => self.named.get(&addr),
        };
        place.copied().filter(|place| place.host != NOBODY)
    }

    /// Whether there has never been a host at that address.
    pub fn is_outside(&self, addr: SocketAddrV4) -> bool {
        let serial = address::serial(addr);
        serial.is_none_or(|s| s as usize >= self.directory.len()) && !self.named.contains_key(&addr)
    }

    /// From now until then the hosts on one side do not hear those on the other.
    pub fn part(&mut self, until: u64, sides: Vec<bool>) {
        (self.parted_until, self.sides) = (until, sides);
    }

    /// Whether a partition keeps these apart.
    pub fn parts(&self, now: u64, one: u32, other: u32) -> bool {
        let side = |host: u32| self.sides.get(host as usize);
        now < self.parted_until && one != NOBODY && side(one) != side(other)
    }

    /// The fingerprint of a host's deliveries with one more: when, from whom, to whom, what.
    pub fn fingerprint(&self, before: u64, datagram: &Datagram) -> u64 {
        let mut trace = SipHasher13::new_with_keys(before, datagram.at);
        for addr in [datagram.from, datagram.to] {
            trace.write_u64(u64::from(u32::from(*addr.ip())) << 16 | u64::from(addr.port()));
        }
        trace.write(&datagram.payload);
        trace.finish()
    }
}
