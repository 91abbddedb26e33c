//! Local service discovery (BEP 14) as a machine: when to announce which torrent to the local network, and which
//! announces of others to believe.
//!
//! Owns pace and bounds for all torrents of a client. Must not know sockets, nor what becomes of whom it finds.
//! Drain [`Neighbours::poll_announce`] and [`Neighbours::poll_found`] after each input.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::config::{LSD_AT_MOST, LSD_EVERY, MAX_NEIGHBOURS};
use crate::id::InfoHash;
use crate::wire::lsd::{Announce, MAX_LSD_HASHES};
use crate::wire::reach::is_dialable;

#[derive(Debug, Default)]
struct Torrent {
    /// None once it is no longer shared; it stays until it may be announced again.
    next: Option<Instant>,
    last: Option<Instant>,
    /// Who shares it, and when he was last passed on.
    heard: BTreeMap<SocketAddr, Instant>,
}

/// The machine.
#[derive(Debug)]
pub struct Neighbours {
    port: u16,
    cookie: String,
    torrents: BTreeMap<InfoHash, Torrent>,
    found: VecDeque<(InfoHash, SocketAddr)>,
}

impl Neighbours {
    /// Nothing to share yet; peers are taken on `port`, and `cookie` tells our announces from others'.
    pub fn new(port: u16, cookie: u64) -> Self {
        Self { port, cookie: format!("{cookie:016x}"), torrents: BTreeMap::new(), found: VecDeque::new() }
    }

    /// A torrent is shared or wanted from now on.
    pub fn add(&mut self, now: Instant, hash: InfoHash) {
        let torrent = self.torrents.entry(hash).or_default();
        if torrent.next.is_none() {
            torrent.next = Some(torrent.last.map_or(now, |last| now.max(last + LSD_AT_MOST)));
        }
    }

    /// It is no more.
    pub fn remove(&mut self, hash: InfoHash) {
        if let Some(torrent) = self.torrents.get_mut(&hash) {
            (torrent.next, torrent.heard) = (None, BTreeMap::new());
        }
    }

    /// Somebody has sent this to the group.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let Some(announce) = Announce::parse(bytes).filter(|a| a.cookie != self.cookie) else { return };
        let addr = SocketAddr::new(from.ip().to_canonical(), announce.port);
        if !is_dialable(addr) {
            return;
        }
        for hash in announce.hashes {
            let Some(torrent) = self.torrents.get_mut(&hash).filter(|t| t.next.is_some()) else { continue };
            torrent.heard.retain(|_, at| now.saturating_duration_since(*at) < LSD_AT_MOST);
            if torrent.heard.len() < MAX_NEIGHBOURS && !torrent.heard.contains_key(&addr) {
                torrent.heard.insert(addr, now);
                self.found.push_back((hash, addr));
            }
        }
    }

    /// What is to be announced now.
    pub fn poll_announce(&mut self, now: Instant) -> Option<Announce> {
        self.torrents.retain(|_, t| {
            t.next.is_some() || t.last.is_some_and(|at| now.saturating_duration_since(at) < LSD_AT_MOST)
        });
        let mut hashes = Vec::new();
        for (hash, torrent) in &mut self.torrents {
            if hashes.len() < MAX_LSD_HASHES && torrent.next.is_some_and(|at| at <= now) {
                (torrent.next, torrent.last) = (Some(now + LSD_EVERY), Some(now));
                hashes.push(*hash);
            }
        }
        let (port, cookie) = (self.port, self.cookie.clone());
        (!hashes.is_empty()).then_some(Announce { port, hashes, cookie })
    }

    /// Who shares one of our torrents nearby.
    pub fn poll_found(&mut self) -> Option<(InfoHash, SocketAddr)> {
        self.found.pop_front()
    }

    /// When there is something to announce next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.torrents.values().filter_map(|t| t.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;
    use std::time::Duration;

    const HASH: InfoHash = Id160([7; 20]);

    fn announced(hash: InfoHash, cookie: &str) -> Vec<u8> {
        Announce { port: 6881, hashes: vec![hash], cookie: cookie.into() }.emit(true)
    }

    #[test]
    fn a_torrent_is_announced_at_once_then_each_five_minutes_and_never_twice_a_minute() {
        let (mut n, start) = (Neighbours::new(6881, 5), Instant::now());
        assert_eq!((n.poll_timeout(), n.poll_announce(start)), (None, None));
        n.add(start, HASH);
        let first = n.poll_announce(start).unwrap();
        assert_eq!((first.port, &first.hashes[..]), (6881, &[HASH][..]));
        assert_eq!(n.poll_announce(start), None);
        assert_eq!(n.poll_timeout(), Some(start + LSD_EVERY));
        assert!(n.poll_announce(start + LSD_EVERY).is_some());
        // Left and taken up again.
        let again = start + LSD_EVERY + Duration::from_secs(10);
        n.remove(HASH);
        assert_eq!((n.poll_timeout(), n.poll_announce(again)), (None, None));
        n.add(again, HASH);
        assert_eq!(n.poll_announce(again), None);
        assert_eq!(n.poll_timeout(), Some(start + LSD_EVERY + LSD_AT_MOST));
        assert!(n.poll_announce(start + LSD_EVERY + LSD_AT_MOST).is_some());
        n.remove(HASH);
        assert_eq!(n.poll_announce(start + 3 * LSD_EVERY), None);
        assert!(n.torrents.is_empty());
    }

    #[test]
    fn many_torrents_take_several_datagrams() {
        let (mut n, now) = (Neighbours::new(6881, 5), Instant::now());
        (0..45).for_each(|b| n.add(now, Id160([b; 20])));
        let sizes: Vec<usize> = std::iter::from_fn(|| n.poll_announce(now)).map(|a| a.hashes.len()).collect();
        assert_eq!(sizes, [20, 20, 5]);
    }

    #[test]
    fn others_are_found_and_ourselves_are_not() {
        let (mut n, now) = (Neighbours::new(6881, 5), Instant::now());
        n.add(now, HASH);
        let from: SocketAddr = "192.168.1.9:6771".parse().unwrap();
        let ours = n.poll_announce(now).unwrap();
        n.handle_datagram(now, from, &ours.emit(true));
        n.handle_datagram(now, from, &announced(Id160([8; 20]), "other"));
        n.handle_datagram(now, "224.0.0.1:6771".parse().unwrap(), &announced(HASH, "other"));
        n.handle_datagram(now, from, b"BT-SEARCH * HTTP/1.1\r\n\r\n");
        assert_eq!(n.poll_found(), None);
        for _ in 0..3 {
            n.handle_datagram(now, from, &announced(HASH, "other"));
        }
        assert_eq!(n.poll_found(), Some((HASH, "192.168.1.9:6881".parse().unwrap())));
        assert_eq!(n.poll_found(), None);
        n.handle_datagram(now + LSD_AT_MOST, from, &announced(HASH, ""));
        assert!(n.poll_found().is_some());
        n.remove(HASH);
        n.handle_datagram(now + 2 * LSD_AT_MOST, from, &announced(HASH, ""));
        assert_eq!(n.poll_found(), None);
    }

    #[test]
    fn a_flood_of_senders_is_bounded() {
        let (mut n, now) = (Neighbours::new(6881, 5), Instant::now());
        n.add(now, HASH);
        for host in 0..10_000u32 {
            n.handle_datagram(
                now,
                SocketAddr::from((host.wrapping_add(0x0a00_0001).to_be_bytes(), 1)),
                &announced(HASH, "x"),
            );
        }
        assert_eq!(std::iter::from_fn(|| n.poll_found()).count(), MAX_NEIGHBOURS);
    }

    proptest::proptest! {
        #[test]
        fn it_speaks_of_no_torrent_twice_a_minute_whatever_is_done(
            steps in proptest::collection::vec((0u8..4, 0u8..4, 0u64..200), 0..200),
        ) {
            let (mut n, mut now) = (Neighbours::new(6881, 5), Instant::now());
            let mut last: BTreeMap<InfoHash, Instant> = BTreeMap::new();
            for (what, which, seconds) in steps {
                let hash = Id160([which; 20]);
                match what {
                    0 | 1 => n.add(now, hash),
                    2 => n.remove(hash),
                    _ => now += Duration::from_secs(seconds),
                }
                while let Some(announce) = n.poll_announce(now) {
                    for hash in announce.hashes {
                        let before = last.insert(hash, now);
                        proptest::prop_assert!(before.is_none_or(|at| now - at >= LSD_AT_MOST));
                    }
                }
            }
        }
    }
}
