//! The figures of a swarm, for people and for the layer above.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::pieces::Pieces;
use super::swarm::Swarm;

/// The figures of a swarm at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Addresses known.
    pub known: usize,
    /// Connections past the handshake.
    pub connected: usize,
    /// Of these, peers that let us request.
    pub unchoking: usize,
    /// Of these, peers that have something we lack.
    pub interesting: usize,
    /// Dials and handshakes that failed so far.
    pub failures: usize,
    /// Peers banned so far: they sent what is false or impossible.
    pub banned: usize,
    /// Payload bytes received.
    pub downloaded: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received in vain.
    pub wasted: u64,
    /// Payload bytes a second.
    pub download_rate: u64,
    /// Payload bytes a second.
    pub upload_rate: u64,
    /// Wanted bytes of verified pieces.
    pub verified: u64,
    /// Wanted bytes in all; 0 before the disk is ready.
    pub wanted: u64,
    /// Verified pieces.
    pub pieces: u32,
    /// Peers that have given payload so far.
    pub sources: usize,
    /// Metadata blocks here and in all.
    pub metadata_blocks: (u32, u32),
}

impl Swarm {
    /// The figures at this moment.
    pub fn stats(&self, now: Instant) -> Stats {
        let window = Duration::from_secs(5);
        let open = || self.members.values().filter(|m| m.is_open());
        Stats {
            known: self.candidates.len(),
            connected: open().count(),
            unchoking: open().filter(|m| m.conn.as_ref().is_some_and(|c| !c.is_choked())).count(),
            interesting: open().filter(|m| m.wanted > 0).count(),
            failures: self.failures,
            banned: self.banned,
            downloaded: self.down.total(),
            uploaded: self.up.total(),
            wasted: self.wasted,
            sources: self.sources,
            download_rate: self.down.per_second(now, window),
            upload_rate: self.up.per_second(now, window),
            verified: self.verified(),
            wanted: self.wanted_bytes(),
            pieces: self.pieces.as_ref().map_or(0, |p| p.have().ones()),
            metadata_blocks: self.metadata.progress(),
        }
    }

    fn wanted_bytes(&self) -> u64 {
        let (Some(info), Some(pieces)) = (&self.info, &self.pieces) else { return 0 };
        pieces.wanted().total(info.layout())
    }

    /// Wanted bytes of verified pieces.
    pub fn verified(&self) -> u64 {
        self.pieces.as_ref().map_or(0, Pieces::verified)
    }

    /// Payload received from and sent to each connected peer.
    pub fn peers(&self) -> impl Iterator<Item = (SocketAddr, u64, u64)> + '_ {
        let open = self.members.values().filter(|m| m.is_open());
        open.map(|m| (m.candidate.unwrap_or(m.addr), m.down.total(), m.up.total()))
    }
}
