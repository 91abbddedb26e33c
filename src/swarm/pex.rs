//! Peer exchange (BEP 11): telling each peer who else is here, and hearing it.
//!
//! Only peers are told of whose listening address is known: those we dialled, and those that named their port.
//! What others tell is filtered and bounded, since whoever is connected may name anybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{MAX_CONNECTIONS, MAX_PEX_A_MINUTE, PEX_AGAIN, PEX_EVERY};
use super::event::{CloseReason, PeerKey};
use super::swarm::Swarm;
use crate::wire::pex::{MAX_PEX_ENTRIES, PEX_REACHABLE, PEX_SEED, PexMessage};
use crate::wire::reach::may_be_exchanged;

const MINUTE: Duration = Duration::from_secs(60);

/// What one peer has been told, and when it spoke.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    told: BTreeSet<SocketAddr>,
    /// When it is to be told next; none where it does not listen.
    next: Option<Instant>,
    /// When its messages of the last minute came.
    heard: VecDeque<Instant>,
}

impl Exchange {
    /// Whether one more message may come now.
    fn may_speak(&mut self, now: Instant) -> bool {
        self.heard.retain(|&at| now.saturating_duration_since(at) < MINUTE);
        self.heard.push_back(now);
        self.heard.len() <= MAX_PEX_A_MINUTE
    }

    /// What has changed since it was told last, with those that are `here`.
    fn news(&mut self, here: &BTreeMap<SocketAddr, u8>) -> PexMessage {
        let gone = self.told.iter().filter(|a| !here.contains_key(a)).take(MAX_PEX_ENTRIES);
        let dropped: Vec<SocketAddr> = gone.copied().collect();
        self.told.retain(|a| !dropped.contains(a));
        let room = MAX_PEX_ENTRIES.min(MAX_CONNECTIONS.saturating_sub(self.told.len()));
        let new = here.iter().filter(|(a, _)| !self.told.contains(a)).take(room);
        let added: Vec<(SocketAddr, u8)> = new.map(|(a, flags)| (*a, *flags)).collect();
        self.told.extend(added.iter().map(|(a, _)| *a));
        PexMessage { added, dropped }
    }
}

impl Swarm {
    /// The peer has introduced itself: it is told who is here with the next second.
    pub(super) fn begin_exchange(&mut self, now: Instant, key: PeerKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if member.conn.as_ref().is_some_and(|c| c.exchanges_peers()) {
            member.exchange.next.get_or_insert(now);
        }
    }

    /// Tells every peer that is due who came and who went.
    pub(super) fn exchange_peers(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.is_private() || !self.members.values().any(|m| due(m.exchange.next)) {
            return;
        }
        let here: BTreeMap<SocketAddr, u8> = self.members.values().filter_map(described).collect();
        for member in self.members.values_mut().filter(|m| due(m.exchange.next)) {
            let Some(conn) = member.conn.as_mut() else { continue };
            let (host, itself) = (member.addr.ip(), [Some(member.addr), member.candidate]);
            let others =
                here.iter().filter(|(a, _)| !itself.contains(&Some(**a)) && may_be_exchanged(**a, host));
            let news = member.exchange.news(&others.map(|(a, flags)| (*a, *flags)).collect());
            let nothing = news == PexMessage::default();
            member.exchange.next = Some(now + if nothing { PEX_AGAIN } else { PEX_EVERY });
            if !nothing {
                conn.send_peers(&news);
            }
        }
    }

    /// A peer names others.
    pub(super) fn on_peers(&mut self, now: Instant, key: PeerKey, message: &PexMessage) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let host = member.addr.ip().to_canonical();
        if !member.exchange.may_speak(now) {
            return self.close(now, key, CloseReason::Talkative);
        }
        if self.is_private() {
            return;
        }
        let complete = self.pieces.as_ref().is_some_and(|p| p.is_complete());
        for (addr, flags) in &message.added {
            // Two seeds have nothing to give each other.
            let in_vain = complete && flags & PEX_SEED != 0;
            if !in_vain && may_be_exchanged(*addr, host) {
                self.dial_soon |= self.candidates.add_named(*addr, host);
            }
        }
    }
}

/// Where a peer can be dialled, and what is known of it; none where it is not known.
fn described(member: &super::member::Member) -> Option<(SocketAddr, u8)> {
    let conn = member.conn.as_ref().filter(|_| member.is_open())?;
    let addr = member.candidate?;
    let seed = member.has.is_complete() || conn.is_upload_only();
    let reachable = !conn.is_incoming();
    Some((addr, if seed { PEX_SEED } else { 0 } | if reachable { PEX_REACHABLE } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;
    use crate::swarm::{Action, Config, Input, Origin};
    use crate::wire::allow::AllowList;
    use crate::wire::extended::{ExtendedHandshake, OUR_PEX_ID};
    use crate::wire::peer::{Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};

    const THEIR_PEX_ID: u8 = 9;

    struct Room {
        swarm: Swarm,
        now: Instant,
        guests: u8,
    }

    impl Room {
        fn new() -> Self {
            let now = Instant::now();
            let config = Config::new(Id160([1; 20]));
            Self { swarm: Swarm::new(Id160([7; 20]), config, [1; 32], now), now, guests: 0 }
        }

        fn hello(&mut self, port: Option<u16>) -> bytes::Bytes {
            self.guests += 1;
            let mut hello = Vec::new();
            let peer_id = Id160([100 + self.guests; 20]);
            Handshake { reserved: Reserved::OURS, info_hash: Id160([7; 20]), peer_id }.emit(&mut hello);
            let extended = ExtendedHandshake { pex_id: Some(THEIR_PEX_ID), port, ..Default::default() };
            Message::Extended { id: 0, payload: extended.emit().into() }.emit(&mut hello);
            hello.into()
        }

        /// A peer that dials us from `from`, and listens on `port`.
        fn guest(&mut self, from: &str, port: Option<u16>) -> PeerKey {
            let key = self.swarm.accept(self.now, from.parse().unwrap()).unwrap();
            let hello = self.hello(port);
            self.swarm.handle(self.now, Input::Received(key, hello));
            key
        }

        /// A peer that we dial.
        fn host(&mut self, at: &str) -> PeerKey {
            self.swarm.handle(self.now, Input::Candidates(vec![at.parse().unwrap()], Origin::User));
            let key = *self.swarm.members.keys().last().unwrap();
            self.swarm.handle(self.now, Input::Connected(key));
            let hello = self.hello(None);
            self.swarm.handle(self.now, Input::Received(key, hello));
            key
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                for key in self.swarm.keys() {
                    self.swarm.handle(self.now, Input::Received(key, vec![0; 4].into()));
                }
                self.swarm.handle_timeout(self.now);
            }
        }

        /// The messages sent since the last call.
        fn told(&mut self) -> Vec<(PeerKey, PexMessage)> {
            let mut streams: BTreeMap<PeerKey, Vec<u8>> = BTreeMap::new();
            while let Some(action) = self.swarm.poll_action() {
                if let Action::Send(key, bytes) = action {
                    streams.entry(key).or_default().extend_from_slice(&bytes);
                }
            }
            let mut told = Vec::new();
            for (key, bytes) in streams {
                let greeting = if bytes.starts_with(b"\x13Bit") { HANDSHAKE_LEN } else { 0 };
                let mut frames = Frames::default();
                frames.push(bytes::Bytes::from(bytes).slice(greeting..));
                while let Some(message) = frames.next_message().unwrap() {
                    if let Message::Extended { id: THEIR_PEX_ID, payload } = message {
                        told.push((key, PexMessage::parse(&payload).unwrap()));
                    }
                }
            }
            told
        }

        fn hear(&mut self, key: PeerKey, added: &[SocketAddr]) {
            let message = PexMessage { added: added.iter().map(|a| (*a, 0)).collect(), dropped: Vec::new() };
            let mut bytes = Vec::new();
            Message::Extended { id: OUR_PEX_ID, payload: message.emit().into() }.emit(&mut bytes);
            self.swarm.handle(self.now, Input::Received(key, bytes.into()));
        }
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn everyone_is_told_of_who_can_be_dialled_and_of_who_left() {
        let mut room = Room::new();
        let first = room.host("8.8.8.8:6881");
        let second = room.guest("9.9.9.9:50000", Some(6882));
        let hidden = room.guest("7.7.7.7:50000", None);
        let sixth = room.guest("[2600::1]:50000", Some(6886));
        let local = room.guest("192.168.1.2:50000", Some(6883));
        room.pass(1);
        let told: BTreeMap<_, _> = room.told().into_iter().collect();
        let world =
            [(addr("8.8.8.8:6881"), PEX_REACHABLE), (addr("9.9.9.9:6882"), 0), (addr("[2600::1]:6886"), 0)];
        let without = |this: usize| -> Vec<_> {
            world.iter().enumerate().filter(|(i, _)| *i != this).map(|(_, w)| *w).collect()
        };
        assert_eq!(told[&first].added, without(0));
        assert_eq!(told[&second].added, without(1));
        assert_eq!(told[&sixth].added, without(2));
        assert_eq!(told[&hidden].added, world, "who hides is told, and not told of");
        assert_eq!(told[&local].added, world, "a stranger learns nothing of our site");
        room.swarm.handle(room.now, Input::Closed(second));
        room.pass(58);
        assert_eq!(room.told(), []);
        room.pass(2);
        let told: BTreeMap<_, _> = room.told().into_iter().collect();
        assert_eq!(told[&first], PexMessage { added: vec![], dropped: vec![addr("9.9.9.9:6882")] });
        room.pass(120);
        assert_eq!(room.told(), [], "without news, no message");
    }

    #[test]
    fn a_crowd_is_told_in_parts() {
        let mut room = Room::new();
        let keys: Vec<_> = (0..120).map(|n| room.guest(&format!("8.8.{n}.8:50000"), Some(6881))).collect();
        let mut known = BTreeSet::new();
        for expected in [50, 50, 19, 0] {
            room.pass(60);
            let told: Vec<_> = room.told().into_iter().filter(|(key, _)| *key == keys[0]).collect();
            assert!(told.len() <= 1);
            let added = told.into_iter().flat_map(|(_, m)| m.added).map(|(a, _)| a).collect::<Vec<_>>();
            assert_eq!(added.len(), expected);
            assert!(added.into_iter().all(|a| known.insert(a)));
        }
    }

    #[test]
    fn what_peers_name_is_filtered_and_dialled() {
        let mut room = Room::new();
        let key = room.guest("9.9.9.9:50000", None);
        let names =
            ["8.8.8.8:6881", "10.0.0.1:6881", "127.0.0.1:6881", "224.0.0.1:6881", "8.8.4.4:1", "8.8.4.4:0"];
        room.hear(key, &names.map(addr));
        let mut dialled = Vec::new();
        while let Some(action) = room.swarm.poll_action() {
            if let Action::Dial { addr, .. } = action {
                dialled.push(addr);
            }
        }
        assert_eq!(dialled, [addr("8.8.8.8:6881")]);
    }

    #[test]
    fn a_closed_network_deals_with_its_own_only() {
        let mut room = Room::new();
        let mut config = Config::new(Id160([1; 20]));
        config.allow = AllowList::parse(&["10.0.0.0/8".to_owned()]).unwrap();
        room.swarm = Swarm::new(Id160([7; 20]), config, [1; 32], room.now);
        assert_eq!(room.swarm.accept(room.now, addr("8.8.8.8:50000")), None);
        assert_eq!(room.swarm.accept(room.now, addr("[::ffff:8.8.8.8]:50000")), None);
        let inside = room.guest("10.0.0.1:50000", Some(6881));
        let other = room.guest("[::ffff:10.0.0.2]:50000", Some(6881));
        room.hear(inside, &["8.8.4.4:6881", "11.0.0.1:6881", "10.0.0.3:6881"].map(addr));
        for (n, origin) in [Origin::User, Origin::Lan, Origin::Dht, Origin::Pex].into_iter().enumerate() {
            let both = [[9, 0, 0, n as u8], [10, 9, 0, n as u8]].map(|ip| (ip, 6881).into());
            room.swarm.handle(room.now, Input::Candidates(both.to_vec(), origin));
        }
        let (mut dialled, mut seen) = (BTreeSet::new(), Vec::new());
        while let Some(action) = room.swarm.poll_action() {
            match action {
                Action::Dial { addr, .. } => drop(dialled.insert(addr)),
                action => seen.push(action),
            }
        }
        let expected = ["10.0.0.3:6881", "10.9.0.0:6881", "10.9.0.1:6881", "10.9.0.2:6881", "10.9.0.3:6881"];
        assert_eq!(dialled, expected.map(addr).into());
        assert!(!seen.is_empty());
        room.pass(1);
        let told: BTreeMap<_, _> = room.told().into_iter().collect();
        assert_eq!(told[&other].added, [(addr("10.0.0.1:6881"), 0)]);
    }

    #[test]
    fn who_names_peers_without_end_is_let_go() {
        let mut room = Room::new();
        let key = room.guest("9.9.9.9:50000", None);
        for _ in 0..20 {
            room.pass(11);
            room.hear(key, &[]);
        }
        assert!(room.swarm.members.contains_key(&key), "a message each 11 seconds is borne");
        for n in 0..MAX_PEX_A_MINUTE as u8 {
            room.hear(key, &[SocketAddr::from(([8, 8, 8, n], 6881))]);
        }
        assert!(!room.swarm.members.contains_key(&key));
        assert!(room.swarm.accept(room.now, addr("9.9.9.9:50001")).is_some(), "it is not banned for that");
    }
}
