//! The swarm of one torrent as a machine: wiring of the parts beside it, [`Input`] in, [`Action`] out.
//!
//! Owns who is connected and when things happen. Must not know sockets, the disk or the DHT. Fetching
//! stands in `fetch.rs`, serving in `serve.rs`, metadata in `exchange.rs`.
//!
//! After each [`Swarm::handle`] or [`Swarm::handle_timeout`], drain [`Swarm::poll_action`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::candidates::Candidates;
use super::choker::{Choker, upload_slots};
use super::config::*;
use super::event::{Action, CloseReason, Input, Origin, PeerKey};
use super::gate::Gate;
use super::member::Member;
use super::metadata::Metadata;
use super::pieces::Pieces;
use super::priority::Own;
use super::suggest::Suggestions;
use super::super_seed::SuperSeed;
use super::suspects::Suspect;
use super::twins::Twins;
use super::wanted::Wanted;
use crate::id::InfoHash;
use crate::peer::{Connection, Event, Rate, Settings, Transmit};
use crate::rng::Rng;
use crate::wire::metainfo::{Info, PieceIndex};

/// How long a peer that left in peace is left alone.
const REDIAL_AFTER: Duration = Duration::from_secs(20);
/// How long a peer is left alone when neither needs the other.
const REDIAL_SEED_AFTER: Duration = Duration::from_secs(1800);

/// The machine. See the module's page for the polling order.
#[derive(Debug)]
pub struct Swarm {
    pub(super) config: Config,
    pub(super) info_hash: InfoHash,
    pub(super) rng: Rng,
    pub(super) members: BTreeMap<PeerKey, Member>,
    pub(super) gate: Gate,
    pub(super) candidates: Candidates,
    pub(super) own: Own,
    pub(super) metadata: Metadata,
    pub(super) info: Option<Arc<Info>>,
    /// What is wanted, until `pieces` know it.
    pub(super) wanted: Wanted,
    /// None until the disk has told what is there.
    pub(super) pieces: Option<Pieces>,
    pub(super) choker: Choker,
    /// Once everything is here.
    pub(super) suggestions: Option<Suggestions>,
    pub(super) super_seed: SuperSeed,
    pub(super) actions: VecDeque<Action>,
    pub(super) down: Rate,
    pub(super) up: Rate,
    /// The most that it has been, slowly forgotten.
    pub(super) up_best: u64,
    pub(super) wasted: u64,
    /// Peers that have given payload so far.
    pub(super) sources: usize,
    /// Blocks became free: everyone may ask.
    pub(super) refill: bool,
    pub(super) failures: usize,
    pub(super) banned: usize,
    /// Pieces that failed with several authors, until they are verified.
    pub(super) suspects: BTreeMap<PieceIndex, Suspect>,
    /// Where peers were that gave payload and have gone.
    pub(super) departed: BTreeMap<PeerKey, SocketAddr>,
    /// Addresses of those who have another connection.
    pub(super) twins: Twins,
    /// While nothing is read from anybody: since when their silence has not been forgiven.
    held_since: Option<Instant>,
    /// Something has changed that may allow or ask for a dial.
    pub(super) dial_soon: bool,
    next_key: NonZeroU32,
    next_tick: Instant,
    /// When every peer was last offered the metadata blocks that are free.
    pub(super) metadata_offered: Instant,
    /// Metadata blocks that peers have asked for. At most [`MAX_METADATA_QUEUE`].
    pub(super) metadata_queue: VecDeque<(PeerKey, u32)>,
}

impl Swarm {
    /// A swarm that knows nobody yet.
    pub fn new(info_hash: InfoHash, config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = Rng::from_seed(seed);
        let choker = Choker::new(now, upload_slots(config.upload_limit, 0));
        Self {
            super_seed: SuperSeed::new(config.super_seed),
            candidates: Candidates::new(rng.u32(), &config),
            config,
            info_hash,
            rng,
            own: Own::default(),
            members: BTreeMap::new(),
            gate: Gate::default(),
            metadata: Metadata::new(info_hash),
            info: None,
            wanted: Wanted::default(),
            pieces: None,
            choker,
            suggestions: None,
            actions: VecDeque::new(),
            down: Rate::new(now),
            up: Rate::new(now),
            up_best: 0,
            wasted: 0,
            sources: 0,
            refill: false,
            failures: 0,
            banned: 0,
            suspects: BTreeMap::new(),
            departed: BTreeMap::new(),
            twins: Twins::default(),
            held_since: None,
            dial_soon: true,
            next_key: NonZeroU32::MIN,
            next_tick: now + TICK,
            metadata_offered: now,
            metadata_queue: VecDeque::new(),
        }
    }

    // ---- input

    /// Takes one input. Cannot fail: what peers do wrong ends their connection.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Candidates(_, origin) if self.is_private() && origin.is_found() => {}
            Input::Candidates(addrs, origin) => {
                if origin == Origin::User {
                    self.gate.on_named(addrs.len());
                }
                for addr in addrs {
                    self.candidates.add(addr, origin);
                }
                self.dial_soon = true;
            }
            Input::External(told) => self.on_external(told),
            Input::Connected(key) => self.on_connected(now, key),
            Input::DialFailed(key) => {
                if let Some(member) = self.members.remove(&key) {
                    self.failures += 1;
                    self.candidates.on_failure(member.addr, now);
                    self.dial_soon = true;
                }
            }
            Input::Received(key, bytes) => self.on_received(now, key, bytes),
            Input::Sent(key, bytes) => {
                if let Some(member) = self.members.get_mut(&key) {
                    member.on_sent(now, bytes);
                    self.pump(now, key);
                    self.pump_metadata(now);
                }
            }
            Input::Closed(key) => self.remove(now, key, None),
            Input::Info(info) => self.on_info(now, info),
            Input::Wanted(wanted) => self.wanted = wanted,
            Input::DiskReady(have) => self.on_disk_ready(now, have),
            Input::Consumed(to) => self.on_consumed(to),
            Input::Held(held) => self.on_held(now, held),
            Input::Hashed(piece, valid) => self.on_hashed(now, piece, valid),
            Input::Lost(piece) => self.on_lost(piece),
            Input::Digested(piece, digests) => self.on_digested(now, piece, digests),
            Input::Read { peer, piece, begin, data } => self.on_read(now, peer, piece, begin, data),
        }
        self.settle(now);
    }

    /// Acts on the passing of time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.ask_metadata(now);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        self.settle(now);
    }

    // ---- output

    /// What to do next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Swarm::handle_timeout`] has work to do next; `None` while there is nobody to deal with.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tick = (!self.members.is_empty() || !self.candidates.is_empty()).then_some(self.next_tick);
        let metadata = || self.metadata.poll_timeout(self.metadata_offered);
        let metadata = if self.info.is_none() { metadata() } else { None };
        [tick, metadata].into_iter().flatten().min()
    }

    // ---- connections

    pub(super) fn conn(&mut self, key: PeerKey) -> Option<&mut Connection> {
        self.members.get_mut(&key)?.conn.as_mut()
    }

    /// Whether only named peers may be dealt with (BEP 27); false before the metadata is known.
    pub(super) fn is_private(&self) -> bool {
        self.info.as_ref().is_some_and(|i| i.is_private())
    }

    /// Whether we have everything that is wanted.
    pub(super) fn is_complete(&self) -> bool {
        self.pieces.as_ref().is_some_and(Pieces::is_complete)
    }

    pub(super) fn keys(&self) -> Vec<PeerKey> {
        self.members.keys().copied().collect()
    }

    pub(super) fn new_key(&mut self) -> Option<PeerKey> {
        let key = PeerKey(self.next_key);
        self.next_key = self.next_key.checked_add(1)?;
        Some(key)
    }

    pub(super) fn settings(&self, peer: SocketAddr) -> Settings {
        Settings {
            info_hash: self.info_hash,
            peer_id: self.config.peer_id,
            listen_port: self.config.listen_port,
            dht_port: self.config.dht_port,
            metadata_size: self.info.as_ref().map(|i| i.raw().len() as u64),
            pex: !self.is_private(),
            upload_only: self.is_complete() && !self.is_super_seeding(),
            peer_ip: Some(peer.ip().to_canonical()),
        }
    }

    fn on_connected(&mut self, now: Instant, key: PeerKey) {
        let Some(settings) = self.members.get(&key).map(|m| self.settings(m.addr)) else { return };
        if let Some(member) = self.members.get_mut(&key) {
            member.round_trip = now.saturating_duration_since(member.since);
            member.since = now;
            member.conn = Some(Connection::new(settings, false, now));
            self.flush(now, key);
        }
    }

    fn on_received(&mut self, now: Instant, key: PeerKey, bytes: Bytes) {
        let Some(conn) = self.conn(key) else { return };
        let result = conn.handle_bytes(now, bytes);
        while let Some(event) = self.conn(key).and_then(Connection::poll_event) {
            self.on_event(now, key, event);
        }
        match result {
            Ok(()) => {
                self.fill(now, key);
                self.flush(now, key);
            }
            Err(error) => self.close(now, key, error.into()),
        }
    }

    fn on_event(&mut self, now: Instant, key: PeerKey, event: Event) {
        match event {
            Event::Handshaken => self.on_handshaken(now, key),
            Event::Extended => self.on_extended(now, key),
            Event::Metadata(message) => self.on_metadata(now, key, message),
            Event::Peers(message) => self.on_peers(now, key, &message),
            Event::DhtPort(port) => self.on_dht_port(key, port),
            Event::Interested | Event::NotInterested => self.on_interest(now, key),
            Event::Request(block) => self.on_request(now, key, block),
            Event::Cancel(block) => self.on_cancel(key, &block),
            Event::Block { block, data } => self.on_block(now, key, block, data),
            Event::Unrequested(length) => self.wasted += u64::from(length),
            Event::Rejected(block) => self.on_rejected(now, key, &block),
            Event::Choked => self.on_choked(now, key),
            Event::Unchoked => {}
            Event::Have(index) => self.on_have(now, key, index),
            Event::Bitfield(bits) => self.on_field(now, key, false, Some(bits)),
            Event::HaveAll => self.on_field(now, key, true, None),
            Event::HaveNone => self.on_field(now, key, false, None),
            Event::AllowedFast(index) => self.on_allowed_fast(key, index),
            Event::UploadOnly => self.on_upload_only(now, key),
            Event::DontHave(index) => self.on_dont_have(now, key, index),
            Event::Suggested(index) => self.on_suggested(now, key, index),
        }
    }

    fn on_handshaken(&mut self, now: Instant, key: PeerKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if member.round_trip.is_zero() {
            member.round_trip = now.saturating_duration_since(member.since);
        }
        let Some(remote) = member.conn.as_ref().and_then(|c| c.remote().copied()) else { return };
        let ours = member.conn.as_ref().is_some_and(|c| !c.is_incoming());
        // From another host it may be a stranger who repeats the id: it neither displaces anybody nor keeps anybody out.
        let host = member.addr.ip().to_canonical();
        let same = |m: &Member| m.peer_id() == Some(remote.peer_id) && m.addr.ip().to_canonical() == host;
        let twin = self.members.iter().find(|(k, m)| **k != key && same(m)).map(|(k, _)| *k);
        if let Some(twin) = twin {
            // Both sides dialled: keep the one that the smaller id dialled, as the other side will.
            let keep_dialled = self.config.peer_id < remote.peer_id;
            let twin_ours = self.conn(twin).is_some_and(|c| !c.is_incoming());
            let loser = if ours != twin_ours && ours == keep_dialled { twin } else { key };
            self.close(now, loser, CloseReason::Duplicate);
            if loser == key {
                return;
            }
        }
        self.send_field(key);
        if let Some(conn) = self.conn(key) {
            conn.introduce();
        }
    }

    /// Ends a connection for a reason of ours.
    pub(super) fn close(&mut self, now: Instant, key: PeerKey, reason: CloseReason) {
        self.flush(now, key);
        // What was left to say may have been too much for it already.
        if self.members.contains_key(&key) {
            self.actions.push_back(Action::Close(key, reason));
            self.remove(now, key, Some(reason));
        }
    }

    /// Forgets a connection and everything it owed.
    fn remove(&mut self, now: Instant, key: PeerKey, reason: Option<CloseReason>) {
        self.take_back(key, false);
        let Some(mut member) = self.members.remove(&key) else { return };
        if member.conn.as_ref().is_some_and(Connection::is_incoming) {
            self.gate.on_gone(member.addr.ip());
        }
        self.dial_soon = true;
        if reason != Some(CloseReason::Duplicate) {
            self.twins.leave(member.peer_id()).into_iter().for_each(|addr| self.candidates.wake(addr));
        }
        self.choker.release(key);
        self.suggestions.iter_mut().for_each(|s| s.on_gone(key));
        self.metadata_queue.retain(|(waiting, _)| *waiting != key);
        self.metadata.on_gone(key);
        if member.down.total() > 0 {
            self.departed.insert(key, member.candidate.unwrap_or(member.addr));
            while self.departed.len() > MAX_DEPARTED {
                self.departed.pop_first();
            }
        }
        let was_open = member.is_open();
        let lasted = now.saturating_duration_since(member.since) >= CHOKE_ROUND * 3;
        if let Some(conn) = member.conn.as_mut() {
            let requests = conn.take_requests();
            self.forget_pieces(key, &member.has, &requests);
        }
        self.ask_metadata(now);
        if reason.is_some_and(CloseReason::is_for_ever) {
            // Where it came from, and where it listens: one may be all that we know.
            self.banned += 1;
            self.candidates.ban(member.addr);
            member.candidate.iter().for_each(|&addr| self.candidates.ban(addr));
            return;
        }
        let Some(addr) = member.candidate else { return };
        match reason {
            Some(CloseReason::Protocol(crate::peer::ProtocolError::Ourselves)) => {
                self.candidates.forget(addr)
            }
            // The end of its other connection frees the address.
            Some(CloseReason::Duplicate) => {
                self.candidates.on_closed(addr, now, REDIAL_SEED_AFTER);
                self.twins.park(member.peer_id(), addr);
            }
            Some(CloseReason::Refresh) => self.candidates.on_closed(addr, now, Duration::ZERO),
            Some(CloseReason::BothComplete | CloseReason::Displaced) => {
                self.candidates.on_closed(addr, now, REDIAL_SEED_AFTER)
            }
            // One that shakes hands and leaves is full, or does not want us: each time it is left alone for longer.
            _ if was_open && (member.down.total() + member.up.total() > 0 || lasted) => {
                self.candidates.on_closed(addr, now, REDIAL_AFTER);
            }
            _ => {
                self.failures += 1;
                self.candidates.on_failure(addr, now);
            }
        }
    }

    pub(super) fn flush(&mut self, now: Instant, key: PeerKey) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let Some(conn) = member.conn.as_mut() else { return };
        while let Some(transmit) = conn.poll_transmit(now) {
            let (length, action) = match transmit {
                Transmit::Bytes(bytes) => (bytes.len(), Action::Send(key, bytes)),
                Transmit::Stored(block) => (block.length as usize, Action::SendStored(key, block)),
            };
            member.unsent += length;
            self.actions.push_back(action);
        }
        if member.unsent > MAX_UNSENT {
            self.actions.push_back(Action::Close(key, CloseReason::Deaf));
            self.remove(now, key, Some(CloseReason::Deaf));
        }
    }

    /// What every input may have set off.
    fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.refill) {
            for key in self.keys() {
                self.fill(now, key);
                self.flush(now, key);
            }
        }
        if std::mem::take(&mut self.dial_soon) {
            self.dial(now);
        }
    }

    /// Nothing is read from peers, or was until now: what they did not say meanwhile is not their fault.
    fn on_held(&mut self, now: Instant, held: bool) {
        if let Some(since) = self.held_since.take() {
            let time = now.saturating_duration_since(since);
            self.members.values_mut().for_each(|m| m.forgive(now, time));
        }
        self.held_since = held.then_some(now);
    }

    fn tick(&mut self, now: Instant) {
        self.gate.on_tick(self.members.len());
        self.on_held(now, self.held_since.is_some());
        self.dial_soon = true;
        for key in self.keys() {
            let Some(conn) = self.conn(key) else { continue };
            if let Err(error) = conn.handle_timeout(now) {
                self.close(now, key, error.into());
                continue;
            }
            self.check_progress(now, key);
            self.fill(now, key);
        }
        self.check_shown(now);
        self.suggest_all(now);
        if self.choker.is_due(now) {
            self.check_copies(now);
            self.part_twins(now);
            self.choke_round(now);
        } else if self.pieces.is_some() {
            self.fill_slots(now);
        }
        self.pump_metadata(now);
        self.exchange_peers(now);
        for key in self.keys() {
            self.flush(now, key);
        }
    }
}

#[cfg(test)]
mod tests;
