//! Bytes as a script: small numbers, addresses and slices, and zeros when they run out.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{Ipv6Addr, SocketAddr};

/// The rest of a script.
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        head
    }

    /// As many bytes as the next one says, times `unit`.
    pub fn slice(&mut self, unit: usize) -> &'a [u8] {
        let count = usize::from(self.u8()) * unit;
        self.take(count)
    }

    /// An index into something with `len` elements, which must not be empty.
    pub fn index(&mut self, len: usize) -> usize {
        usize::from(self.u8()) % len
    }

    /// An address of a small world: a few hosts, public and private, and some that nobody may send to.
    pub fn addr(&mut self) -> SocketAddr {
        let (kind, host, port) = (self.u8(), self.u8(), self.u8());
        let port = if port == 0 { 0 } else { 6880 + u16::from(port) };
        match kind % 8 {
            0..=2 => SocketAddr::from(([8, kind, host, host], port)),
            3 => SocketAddr::from(([127, 0, 0, host], port)),
            4 => SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, host.into(), 0, 0, 0, 1), port)),
            5 => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            6 => SocketAddr::from((std::net::Ipv4Addr::new(8, 0, host, host).to_ipv6_mapped(), port)),
            _ => SocketAddr::from(([[0, 1, 1, 1], [224, 0, 0, 1], [255; 4]][usize::from(host % 3)], port)),
        }
    }

    /// An id of a small world; its neighbours share long prefixes.
    pub fn id(&mut self) -> [u8; 20] {
        let mut id = [self.u8(); 20];
        id[19] = self.u8();
        id
    }
}

/// A fingerprint of all that a machine said.
#[derive(Default)]
pub struct Trace(DefaultHasher);

impl Trace {
    pub fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.0);
    }

    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}
