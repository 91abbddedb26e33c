//! Metadata and other talk about the torrent rather than its payload: extended handshakes (BEP 10),
//! metadata both ways (BEP 9), DHT ports (BEP 5).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::config::{MAX_DHT_PORTS, MAX_METADATA_QUEUE, METADATA_AHEAD, METADATA_SERVINGS, UPLOAD_AHEAD};
use super::event::{Action, CloseReason, Input, Origin, PeerKey, Report};
use super::metadata::Outcome;
use super::swarm::Swarm;
use crate::wire::extended::{METADATA_BLOCK_LEN, MetadataMessage};
use crate::wire::metainfo::{Info, MAX_METADATA_BYTES};

impl Swarm {
    pub(super) fn on_extended(&mut self, now: Instant, key: PeerKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_ref() else { return };
        let (size, port) = (conn.extended().metadata_size, conn.extended().port);
        let your_ip = conn.extended().your_ip;
        let upload_only = conn.extended().upload_only.is_some();
        let (serves, incoming, round_trip) = (conn.serves_metadata(), conn.is_incoming(), member.round_trip);
        if let (true, None, Some(port)) = (incoming, member.candidate, port) {
            let addr = SocketAddr::new(member.addr.ip(), port);
            member.candidate = Some(addr);
            self.candidates.add(addr, Origin::Itself);
            self.candidates.on_incoming(addr);
        }
        if let Some(said) = your_ip {
            self.on_your_ip(key, said);
        }
        self.begin_exchange(now, key);
        if upload_only {
            self.on_upload_only(now, key);
        }
        if serves {
            // It has the metadata by now, from somebody else.
            self.metadata_queue.retain(|(waiting, _)| *waiting != key);
        }
        if self.info.is_none() && size.is_some_and(|s| s > MAX_METADATA_BYTES as u64) {
            return self.close(now, key, CloseReason::Impossible("metadata size"));
        }
        if let (None, true, Some(size)) = (&self.info, serves, size)
            && self.metadata.claim(key, size, round_trip)
        {
            self.ask_metadata_of(now, key);
        }
    }

    /// A peer has said whether it wants payload (BEP 21).
    pub(super) fn on_upload_only(&mut self, now: Instant, key: PeerKey) {
        self.on_interest(now, key);
        self.update_interest(now, key);
    }

    /// Asks every peer that has something to give, where a wait has run out.
    pub(super) fn ask_metadata(&mut self, now: Instant) {
        if self.info.is_some() {
            return;
        }
        self.metadata_offered = now;
        for key in self.keys() {
            self.ask_metadata_of(now, key);
            self.flush(now, key);
        }
    }

    fn ask_metadata_of(&mut self, now: Instant, key: PeerKey) {
        if self.info.is_some() || !self.members.contains_key(&key) {
            return;
        }
        for block in self.metadata.ask(key, now) {
            if let Some(conn) = self.conn(key) {
                conn.send_metadata(&MetadataMessage::Request { block });
            }
        }
    }

    pub(super) fn on_metadata(&mut self, now: Instant, key: PeerKey, message: MetadataMessage) {
        match message {
            MetadataMessage::Request { block } => self.serve_metadata(now, key, block),
            MetadataMessage::Reject { block } => {
                // Once for each request of ours, so that a flood of them costs nothing.
                if self.metadata.on_reject(key, block, now) {
                    self.ask_metadata(now);
                }
            }
            MetadataMessage::Data { .. } if self.info.is_some() => {}
            MetadataMessage::Data { block, total_size, data } => {
                match self.metadata.on_data(key, block, total_size, &data) {
                    Outcome::Ignored => {}
                    Outcome::Stored => self.ask_metadata_of(now, key),
                    Outcome::Complete(raw) => match Info::parse(raw) {
                        Ok(info) => {
                            let info = Arc::new(info);
                            self.actions.push_back(Action::Report(Report::Metadata(info.clone())));
                            self.handle(now, Input::Info(info));
                        }
                        Err(error) => self.actions.push_back(Action::Report(Report::BadMetadata(error))),
                    },
                    Outcome::Failed(liars) => {
                        for liar in liars {
                            self.close(now, liar, CloseReason::Liar);
                        }
                        self.ask_metadata(now);
                    }
                    Outcome::Violation => self.close(now, key, CloseReason::Impossible("metadata block")),
                }
            }
        }
    }

    /// Queues a block for a peer. A flash crowd asks a seed for the same blocks at the same moment: those who asked
    /// first get theirs whole, and serve the next ones.
    fn serve_metadata(&mut self, now: Instant, key: PeerKey, block: u32) {
        let blocks = self.info.as_ref().map_or(0, |i| (i.raw().len() as u32).div_ceil(METADATA_BLOCK_LEN));
        let full = self.metadata_queue.len() >= MAX_METADATA_QUEUE;
        let Some(member) = self.members.get_mut(&key) else { return };
        // Who has named no id for it cannot be answered.
        if member.conn.as_ref().is_none_or(|c| !c.takes_metadata()) {
            return;
        }
        member.metadata_served += 1;
        let most = blocks.saturating_mul(METADATA_SERVINGS).max(16);
        let fits = block < blocks && member.metadata_served <= most;
        // TCP loses nothing: what is on its way need not be sent again.
        let coming = member.metadata_unsent > 0 && member.metadata_last == block;
        if fits && (coming || self.metadata_queue.contains(&(key, block))) {
            return;
        }
        // Who asks faster than he reads may ask again later.
        if !fits || full || member.unsent >= UPLOAD_AHEAD {
            // Sent with what else the peer's bytes have set off: thousands of such answers are one buffer, not thousands.
            if let Some(conn) = member.conn.as_mut() {
                conn.send_metadata(&MetadataMessage::Reject { block });
            }
            return;
        }
        self.metadata_queue.push_back((key, block));
        self.pump_metadata(now);
    }

    /// Sends metadata as long as little of it waits for the sockets.
    pub(super) fn pump_metadata(&mut self, now: Instant) {
        // Called for all that leaves for a peer; as a rule nobody waits.
        if self.metadata_queue.is_empty() {
            return;
        }
        let Some(raw) = self.info.as_ref().map(|i| i.raw().clone()) else { return };
        while !self.metadata_queue.is_empty() {
            let unsent: usize = self.members.values().map(|m| m.metadata_waiting(now)).sum();
            if unsent >= METADATA_AHEAD {
                return;
            }
            let Some((key, block)) = self.metadata_queue.pop_front() else { return };
            let Some(member) = self.members.get_mut(&key) else { continue };
            let Some(conn) = member.conn.as_mut() else { continue };
            let begin = block as usize * METADATA_BLOCK_LEN as usize;
            let end = raw.len().min(begin + METADATA_BLOCK_LEN as usize);
            let total_size = raw.len() as u64;
            conn.send_metadata(&MetadataMessage::Data { block, total_size, data: raw.slice(begin..end) });
            (member.metadata_last, member.metadata_moved) = (block, now);
            member.metadata_unsent += end - begin;
            self.flush(now, key);
        }
    }

    /// The torrent has turned out private (BEP 27): only those who are named, or come by themselves, are dealt with
    /// from now on. Whoever gave the metadata stays.
    pub(super) fn seclude(&mut self, now: Instant) {
        self.config.dht_port = None;
        let dialled = self.members.iter().filter(|(_, m)| m.conn.is_none());
        let found = dialled.filter(|(_, m)| m.candidate.is_some_and(|addr| self.candidates.is_found(addr)));
        let dials: Vec<_> = found.map(|(key, _)| *key).collect();
        self.candidates.forget_found();
        for key in dials {
            self.close(now, key, CloseReason::Private);
        }
    }

    pub(super) fn on_dht_port(&mut self, key: PeerKey, port: u16) {
        if self.is_private() {
            return;
        }
        let Some(member) = self.members.get_mut(&key).filter(|_| port != 0) else { return };
        if member.dht_ports < MAX_DHT_PORTS {
            member.dht_ports += 1;
            let node = SocketAddr::new(member.addr.ip(), port);
            self.actions.push_back(Action::Report(Report::DhtNode(node)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id160;
    use crate::peer::{Bitfield, ProtocolError};
    use crate::swarm::Config;
    use crate::swarm::config::MAX_UNSENT;
    use crate::wire::bencode::Writer;
    use crate::wire::extended::ExtendedHandshake;
    use crate::wire::peer::{BlockRef, Handshake, Message, Reserved};
    use bytes::Bytes;
    use std::time::Duration;

    /// A seeding swarm with 8 MiB of metadata, and a peer that has shaken hands.
    fn seeder(now: Instant) -> (Swarm, PeerKey) {
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"junk").bytes(&vec![b'x'; 8 << 20]).bytes(b"length").int(5).bytes(b"name");
        w.bytes(b"n").bytes(b"piece length").int(16384).bytes(b"pieces").bytes(&[1; 20]).end();
        let info = Arc::new(Info::parse(raw.into()).unwrap());
        let config = Config::new(Id160([1; 20]));
        let mut swarm = Swarm::new(info.hash(), config, [1; 32], now);
        swarm.handle(now, Input::Info(info.clone()));
        swarm.handle(now, Input::DiskReady(Bitfield::all(1)));
        let key = swarm.accept(now, "8.8.8.8:1".parse().unwrap()).unwrap();
        let mut hello = Vec::new();
        Handshake { reserved: Reserved::OURS, info_hash: info.hash(), peer_id: Id160([2; 20]) }
            .emit(&mut hello);
        let extended = ExtendedHandshake { metadata_id: Some(3), ..ExtendedHandshake::default() };
        Message::Extended { id: 0, payload: extended.emit().into() }.emit(&mut hello);
        swarm.handle(now, Input::Received(key, hello.into()));
        (swarm, key)
    }

    /// What a message sent many times over by a peer that reads nothing makes us queue, and our goodbye.
    fn flood(message: &Message, turns: u64, pause: u32) -> (usize, Option<CloseReason>) {
        let start = Instant::now();
        let (mut swarm, key) = seeder(start);
        let mut chunk = Vec::new();
        (0..400).for_each(|_| message.emit(&mut chunk));
        let (mut queued, mut closed) = (0, None);
        for turn in 0..turns {
            let now = start + Duration::from_secs(turn) * pause;
            swarm.handle(now, Input::Received(key, Bytes::copy_from_slice(&chunk)));
            while let Some(action) = swarm.poll_action() {
                match action {
                    Action::Send(_, bytes) => queued += bytes.len(),
                    Action::Close(_, reason) => assert!(closed.replace(reason).is_none(), "closed twice"),
                    _ => {}
                }
            }
        }
        (queued, closed)
    }

    #[test]
    fn metadata_is_not_piled_up_for_a_peer_that_does_not_read() {
        let request = MetadataMessage::Request { block: 0 }.emit();
        let (queued, closed) = flood(&Message::Extended { id: 1, payload: request.into() }, 4, 0);
        assert!(queued < UPLOAD_AHEAD + 200_000, "{queued} bytes queued");
        assert_eq!(closed, None);
    }

    #[test]
    fn a_peer_that_asks_for_ever_and_never_reads_is_dropped() {
        let block = BlockRef { index: 0, begin: 0, length: u32::MAX };
        let (queued, closed) = flood(&Message::Request(block), 1000, 1);
        assert!(queued <= MAX_UNSENT + 100_000, "{queued} bytes queued");
        assert_eq!(closed, Some(CloseReason::Deaf));
    }

    #[test]
    fn a_peer_that_floods_us_is_dropped_before_it_costs_much() {
        let block = BlockRef { index: 0, begin: 0, length: u32::MAX };
        let (queued, closed) = flood(&Message::Request(block), 1000, 0);
        assert!(queued <= 1 << 20, "{queued} bytes queued");
        assert_eq!(closed, Some(CloseReason::Protocol(ProtocolError::Flood)));
    }

    #[test]
    fn the_dht_ports_of_a_peer_are_reported_and_not_without_end() {
        let now = Instant::now();
        let (mut swarm, key) = seeder(now);
        let mut bytes = Vec::new();
        (0..100).for_each(|port| Message::Port(port).emit(&mut bytes));
        swarm.handle(now, Input::Received(key, bytes.into()));
        let mut nodes = Vec::new();
        while let Some(action) = swarm.poll_action() {
            if let Action::Report(Report::DhtNode(node)) = action {
                nodes.push(node);
            }
        }
        assert_eq!(nodes[0], "8.8.8.8:1".parse().unwrap());
        assert_eq!(nodes.len(), usize::from(MAX_DHT_PORTS));
    }
}

/// What peers wait for, and may keep from others.
#[cfg(test)]
mod serving_tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::id::Id160;
    use crate::peer::Bitfield;
    use crate::swarm::config::{Config, METADATA_AHEAD, METADATA_STALL};
    use crate::wire::bencode::Writer;
    use crate::wire::extended::OUR_METADATA_ID;
    use crate::wire::peer::{Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};

    /// Thirteen blocks of metadata.
    fn info() -> Arc<Info> {
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"length").int(65536).bytes(b"name").bytes(b"n");
        w.bytes(b"piece length").int(65536).bytes(b"pieces").bytes(&[1; 20]);
        w.bytes(b"x").bytes(&vec![7; 200_000]).end();
        Arc::new(Info::parse(raw.into()).unwrap())
    }

    fn seed(now: Instant) -> Swarm {
        let mut swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [1; 32], now);
        swarm.handle(now, Input::Info(info()));
        swarm.handle(now, Input::DiskReady(Bitfield::all(1)));
        swarm
    }

    /// A peer that asks for the first `blocks` blocks; with an id to answer under, or without.
    fn ask(swarm: &mut Swarm, number: u8, has_id: bool, blocks: u32, now: Instant) -> PeerKey {
        let hello = has_id.then(|| (0, Bytes::from_static(b"d1:md11:ut_metadatai1eee")));
        let requests =
            (0..blocks).map(|block| (OUR_METADATA_ID, MetadataMessage::Request { block }.emit().into()));
        connect(swarm, number, hello.into_iter().chain(requests), now)
    }

    /// A peer that shakes hands and says these messages of the extension protocol.
    fn connect(
        swarm: &mut Swarm,
        number: u8,
        messages: impl Iterator<Item = (u8, Bytes)>,
        now: Instant,
    ) -> PeerKey {
        let key = swarm.accept(now, SocketAddr::from(([10, 0, 0, number], 7))).unwrap();
        let mut said = Vec::new();
        let peer_id = Id160([100 + number; 20]);
        Handshake { reserved: Reserved::OURS, info_hash: info().hash(), peer_id }.emit(&mut said);
        messages.for_each(|(id, payload)| Message::Extended { id, payload }.emit(&mut said));
        swarm.handle(now, Input::Received(key, said.into()));
        key
    }

    /// Bytes that were sent to a peer since the last look.
    fn sent(swarm: &mut Swarm, key: PeerKey) -> usize {
        let actions = std::iter::from_fn(|| swarm.poll_action());
        actions
            .map(|a| if let Action::Send(to, bytes) = a { bytes.len() * usize::from(to == key) } else { 0 })
            .sum()
    }

    /// Who is asked for metadata, and for which block, since the last look.
    fn questions(swarm: &mut Swarm) -> Vec<(PeerKey, u32)> {
        let mut asked = Vec::new();
        while let Some(action) = swarm.poll_action() {
            let Action::Send(to, bytes) = action else { continue };
            let mut frames = Frames::default();
            // The first one said begins with a handshake.
            let skip = if bytes.starts_with(b"\x13BitTorrent protocol") { HANDSHAKE_LEN } else { 0 };
            frames.push(bytes.slice(skip..));
            while let Ok(Some(message)) = frames.next_message() {
                let Message::Extended { id: 1, payload } = message else { continue };
                let Some(MetadataMessage::Request { block }) = MetadataMessage::parse(&payload) else {
                    continue;
                };
                asked.push((to, block));
            }
        }
        asked
    }

    #[test]
    fn who_rejects_makes_way_for_the_next_at_once() {
        let now = Instant::now();
        let mut swarm = Swarm::new(info().hash(), Config::new(Id160([1; 20])), [1; 32], now);
        let size = info().raw().len();
        let claim = Bytes::from(format!("d1:md11:ut_metadatai1ee13:metadata_sizei{size}ee"));
        let claims = || std::iter::once((0, claim.clone()));
        let keys = [1, 2, 3, 4, 5, 6].map(|number| connect(&mut swarm, number, claims(), now));
        let honest = keys[5];
        let mut asked_of_honest = Vec::new();
        loop {
            let asked = questions(&mut swarm);
            if asked.is_empty() {
                break;
            }
            for (key, block) in asked {
                let reply = match key == honest {
                    true => {
                        asked_of_honest.push(block);
                        let begin = block as usize * METADATA_BLOCK_LEN as usize;
                        let end = size.min(begin + METADATA_BLOCK_LEN as usize);
                        let data = info().raw().slice(begin..end);
                        MetadataMessage::Data { block, total_size: size as u64, data }
                    }
                    false => MetadataMessage::Reject { block },
                };
                let mut bytes = Vec::new();
                Message::Extended { id: OUR_METADATA_ID, payload: reply.emit().into() }.emit(&mut bytes);
                swarm.handle(now, Input::Received(key, bytes.into()));
            }
        }
        assert!(swarm.info.is_some(), "only blocks {asked_of_honest:?} were asked for");
    }

    #[test]
    fn who_cannot_be_answered_keeps_metadata_from_nobody() {
        let now = Instant::now();
        let mut swarm = seed(now);
        for number in 1..=5 {
            ask(&mut swarm, number, false, 13, now);
        }
        assert!(swarm.metadata_queue.is_empty());
        let key = ask(&mut swarm, 9, true, 1, now);
        assert!(sent(&mut swarm, key) > METADATA_BLOCK_LEN as usize);
    }

    #[test]
    fn who_reads_nothing_keeps_metadata_from_others_for_seconds_only() {
        let now = Instant::now();
        let mut swarm = seed(now);
        let deaf = ask(&mut swarm, 1, true, 13, now);
        let first = sent(&mut swarm, deaf);
        assert!(
            (METADATA_AHEAD..METADATA_AHEAD + 2 * METADATA_BLOCK_LEN as usize).contains(&first),
            "{first}"
        );
        let key = ask(&mut swarm, 2, true, 2, now);
        assert!(sent(&mut swarm, key) < METADATA_BLOCK_LEN as usize);
        let later = now + METADATA_STALL + Duration::from_secs(1);
        swarm.handle_timeout(later);
        let mut got = sent(&mut swarm, key);
        for tick in 1..20 {
            swarm.handle_timeout(later + Duration::from_secs(tick * 3));
            got += sent(&mut swarm, key);
        }
        assert!(got > 2 * METADATA_BLOCK_LEN as usize, "{got} bytes");
    }

    #[test]
    fn what_a_gone_peer_waited_for_makes_room_at_once() {
        let now = Instant::now();
        let mut swarm = seed(now);
        let gone = ask(&mut swarm, 1, true, 13, now);
        let key = ask(&mut swarm, 2, true, 2, now);
        sent(&mut swarm, key);
        swarm.handle(now, Input::Closed(gone));
        assert!(swarm.metadata_queue.iter().all(|(waiting, _)| *waiting == key));
        swarm.handle_timeout(now + Duration::from_secs(1));
        assert!(sent(&mut swarm, key) > 2 * METADATA_BLOCK_LEN as usize);
    }
}
