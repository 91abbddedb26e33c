//! One connection of the peer wire as a machine: bytes in, events and bytes out.
//!
//! Owns the handshake, choke and interest of both sides, and the requests under way; what travels in extension
//! messages stands in `connection/extensions.rs`. Must not know other peers, the disk, or how many pieces there are.
//!
//! After each `handle_` or command, drain [`Connection::poll_event`] and [`Connection::poll_transmit`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::event::{Event, Payload, ProtocolError, Settings, Transmit};
use super::patience::{BLOCK_SENT, HAVE, MESSAGE, Patience, price};
use crate::wire::extended::{ExtendedHandshake, OUR_REQUEST_QUEUE};
use crate::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, Message, Reserved, piece_header};

mod extensions;

#[cfg(test)]
use self::extensions::MAX_EXTENDED_HANDSHAKES;

/// How long a handshake may take (libtorrent: 10 s).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer silent for this long is gone; BEP 3 asks for a sign of life every two minutes.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(125);
/// Room for events that is kept while there are none: a flood of tiny messages makes thousands of one buffer, and
/// hundreds of peers might each hold room for as many.
const MAX_IDLE_EVENTS: usize = 64;
/// Blocks that may come late, after they were cancelled or given up: a long pipeline.
const MAX_LATE: usize = 4096;
/// Bytes of an unfinished message that are a sign of life too: a byte now and then would hold a place for ever.
const SIGN_OF_LIFE: usize = 1024;
/// After this long without sending, a keep-alive goes out: well before the other side's two minutes.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// What a peer that names no queue length is trusted to queue (libtorrent and others: 250).
const DEFAULT_REQUEST_QUEUE: u32 = 250;
/// Blocks that come without ever being asked for before the connection ends, beside those that are late.
const MAX_UNREQUESTED: u32 = 512;
/// Bitfields a peer may send at once, beside one a second: aria2 sends one in place of several haves, at any time.
const MAX_FIELDS: u64 = 16;
/// The same where they are small: of a fetch of a small torrent within seconds it makes some seventy.
const MAX_SMALL_FIELDS: u64 = 80;
/// Up to so many bytes a bitfield is small.
const SMALL_FIELD: usize = 1024;

/// One connection. See the module's page for the polling order.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    incoming: bool,
    opened: Instant,
    /// When the last whole message came, or as much of one as counts.
    last_received: Instant,
    /// Bytes of an unfinished message since then.
    unheard: usize,
    last_sent: Instant,
    remote: Option<Handshake>,
    extended: ExtendedHandshake,
    extended_handshakes: u32,
    /// Handshake bytes, until all 68 are here.
    greeting: Vec<u8>,
    frames: Frames,
    fields: u64,
    choking: bool,
    interested: bool,
    choked: bool,
    peer_interested: bool,
    asked: VecDeque<BlockRef>,
    unrequested: u32,
    /// Blocks that were asked for and given up: they may be on their way.
    late: usize,
    patience: Patience,
    small: Vec<u8>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Connection {
    /// A connection that just opened. The dialling side speaks first.
    pub fn new(settings: Settings, incoming: bool, now: Instant) -> Self {
        let mut connection = Self {
            settings,
            incoming,
            opened: now,
            last_received: now,
            unheard: 0,
            last_sent: now,
            remote: None,
            extended: ExtendedHandshake::default(),
            extended_handshakes: 0,
            greeting: Vec::new(),
            frames: Frames::default(),
            fields: 0,
            choking: true,
            interested: false,
            choked: true,
            peer_interested: false,
            asked: VecDeque::new(),
            unrequested: 0,
            late: 0,
            patience: Patience::new(now),
            small: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        if !incoming {
            connection.greet();
        }
        connection
    }

    // ---- input

    /// Takes the next bytes of the stream. An error is final.
    pub fn handle_bytes(&mut self, now: Instant, mut bytes: Bytes) -> Result<(), ProtocolError> {
        if self.remote.is_none() {
            let missing = (HANDSHAKE_LEN - self.greeting.len()).min(bytes.len());
            self.greeting.extend_from_slice(&bytes.split_to(missing));
            match Handshake::parse(&self.greeting)? {
                Some(handshake) => {
                    self.last_received = now;
                    self.on_handshake(handshake)?;
                }
                None => return Ok(()),
            }
        }
        self.unheard += bytes.len();
        if self.unheard >= SIGN_OF_LIFE {
            self.hear(now);
        }
        self.frames.push(bytes);
        while let Some(message) = self.frames.next_message()? {
            self.hear(now);
            self.bear(price(&message))?;
            self.on_message(message)?;
        }
        Ok(())
    }

    /// Acts on the passing of time.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.remote.is_none() {
            let late = now.saturating_duration_since(self.opened) >= HANDSHAKE_TIMEOUT;
            return if late { Err(ProtocolError::HandshakeTimeout) } else { Ok(()) };
        }
        if now.saturating_duration_since(self.last_received) >= SILENCE_TIMEOUT {
            return Err(ProtocolError::Silent);
        }
        if now.saturating_duration_since(self.last_sent) >= KEEPALIVE_AFTER {
            self.send(&Message::KeepAlive);
        }
        Ok(())
    }

    /// Nothing was read from it for so long: its silence meanwhile does not count.
    pub fn forgive(&mut self, now: Instant, time: Duration) {
        self.opened = (self.opened + time).min(now);
        self.last_received = (self.last_received + time).min(now);
    }

    // ---- output

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > MAX_IDLE_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// What to send, in order.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.seal();
        }
        let transmit = self.transmits.pop_front()?;
        self.last_sent = now;
        Some(transmit)
    }

    /// When [`Connection::handle_timeout`] has work to do next.
    pub fn poll_timeout(&self) -> Instant {
        match self.remote {
            None => self.opened + HANDSHAKE_TIMEOUT,
            Some(_) => (self.last_received + SILENCE_TIMEOUT).min(self.last_sent + KEEPALIVE_AFTER),
        }
    }

    // ---- what we know of the peer

    /// The peer's handshake, once it is here.
    pub fn remote(&self) -> Option<&Handshake> {
        self.remote.as_ref()
    }

    /// The peer's extended handshake; empty before it came.
    pub fn extended(&self) -> &ExtendedHandshake {
        &self.extended
    }

    /// Whether the peer dialled us.
    pub fn is_incoming(&self) -> bool {
        self.incoming
    }

    /// Whether both sides speak the fast extension (BEP 6).
    pub fn is_fast(&self) -> bool {
        self.remote.is_some_and(|r| r.reserved.fast())
    }

    /// Whether we choke the peer.
    pub fn is_choking(&self) -> bool {
        self.choking
    }

    /// Whether the peer chokes us.
    pub fn is_choked(&self) -> bool {
        self.choked
    }

    /// Whether the peer is interested in us.
    pub fn is_peer_interested(&self) -> bool {
        self.peer_interested
    }

    /// The most requests this peer is known to queue.
    pub fn request_limit(&self) -> usize {
        self.extended.request_queue.unwrap_or(DEFAULT_REQUEST_QUEUE).clamp(1, OUR_REQUEST_QUEUE) as usize
    }

    /// How many requests of ours are under way.
    pub fn requests(&self) -> usize {
        self.asked.len()
    }

    /// The requests under way, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &BlockRef> {
        self.asked.iter()
    }

    // ---- commands

    /// Chokes or unchokes the peer.
    pub fn choke(&mut self, choking: bool) {
        if self.choking != choking {
            self.choking = choking;
            self.send(if choking { &Message::Choke } else { &Message::Unchoke });
        }
    }

    /// Says whether we want pieces of the peer's.
    pub fn express_interest(&mut self, interested: bool) {
        if self.interested != interested {
            self.interested = interested;
            self.send(if interested { &Message::Interested } else { &Message::NotInterested });
        }
    }

    /// Asks for a block.
    pub fn request(&mut self, block: BlockRef) {
        self.asked.push_back(block);
        self.send(&Message::Request(block));
    }

    /// Takes a request back, where it is still under way.
    pub fn cancel(&mut self, block: BlockRef) {
        if self.forget(&block) {
            self.late = (self.late + 1).min(MAX_LATE);
            self.send(&Message::Cancel(block));
        }
    }

    /// Forgets every request under way and returns them, oldest first.
    pub fn take_requests(&mut self) -> Vec<BlockRef> {
        self.late = (self.late + self.asked.len()).min(MAX_LATE);
        self.asked.drain(..).collect()
    }

    /// Sends a message that changes nothing here: haves, bitfields, rejects.
    pub fn send(&mut self, message: &Message) {
        message.emit(&mut self.small);
    }

    /// Answers a request; the data is not copied.
    pub fn send_block(&mut self, index: u32, begin: u32, payload: Payload) {
        self.small.extend_from_slice(&piece_header(index, begin, payload.len()));
        self.seal();
        self.transmits.push_back(match payload {
            Payload::Bytes(bytes) => Transmit::Bytes(bytes),
            Payload::Stored(length) => Transmit::Stored(BlockRef { index, begin, length }),
        });
        self.patience.earn(BLOCK_SENT);
    }

    /// The have that the peer has just sent was news.
    pub fn welcome_have(&mut self) {
        self.patience.earn(HAVE);
    }

    // ---- inside

    fn greet(&mut self) {
        let handshake = Handshake {
            reserved: Reserved::OURS,
            info_hash: self.settings.info_hash,
            peer_id: self.settings.peer_id,
        };
        handshake.emit(&mut self.small);
    }

    fn on_handshake(&mut self, handshake: Handshake) -> Result<(), ProtocolError> {
        if handshake.info_hash != self.settings.info_hash {
            return Err(ProtocolError::OtherTorrent);
        }
        if self.incoming {
            // Before the next check: our other end learns from it that it has dialled itself.
            self.greet();
        }
        if handshake.peer_id == self.settings.peer_id {
            return Err(ProtocolError::Ourselves);
        }
        self.remote = Some(handshake);
        self.greeting = Vec::new();
        self.events.push_back(Event::Handshaken);
        Ok(())
    }

    fn hear(&mut self, now: Instant) {
        (self.last_received, self.unheard) = (now, 0);
    }

    /// Something was said that is of no use so far.
    fn bear(&mut self, price: u64) -> Result<(), ProtocolError> {
        if self.patience.spend(self.last_received, price) { Ok(()) } else { Err(ProtocolError::Flood) }
    }

    fn on_message(&mut self, message: Message) -> Result<(), ProtocolError> {
        if matches!(message, Message::Bitfield(_) | Message::HaveAll | Message::HaveNone) {
            self.fields += 1;
            let age = self.last_received.saturating_duration_since(self.opened).as_secs();
            let small = matches!(&message, Message::Bitfield(bits) if bits.len() <= SMALL_FIELD);
            let most = if small { MAX_SMALL_FIELDS } else { MAX_FIELDS };
            if self.fields > most + age {
                return Err(ProtocolError::Bitfields);
            }
        }
        let event = match message {
            Message::KeepAlive | Message::Unknown(_) => return Ok(()),
            Message::Suggest(index) => Event::Suggested(index),
            Message::Bitfield(bits) => Event::Bitfield(bits),
            Message::HaveAll => Event::HaveAll,
            Message::HaveNone => Event::HaveNone,
            Message::Choke => {
                self.choked = true;
                Event::Choked
            }
            Message::Unchoke => {
                self.choked = false;
                Event::Unchoked
            }
            Message::Interested => {
                self.peer_interested = true;
                Event::Interested
            }
            Message::NotInterested => {
                self.peer_interested = false;
                Event::NotInterested
            }
            Message::Have(index) => Event::Have(index),
            Message::Request(block) => Event::Request(block),
            Message::Cancel(block) => Event::Cancel(block),
            Message::Piece { index, begin, data } => return self.on_block(index, begin, data),
            Message::Reject(block) => match self.forget(&block) {
                true => {
                    self.patience.earn(MESSAGE);
                    Event::Rejected(block)
                }
                false => return Ok(()),
            },
            Message::AllowedFast(index) => Event::AllowedFast(index),
            Message::Port(port) => Event::DhtPort(port),
            Message::Extended { id, payload } => return self.on_extended(id, &payload),
        };
        self.events.push_back(event);
        Ok(())
    }

    fn on_block(&mut self, index: u32, begin: u32, data: Bytes) -> Result<(), ProtocolError> {
        let block = BlockRef { index, begin, length: data.len() as u32 };
        if self.forget(&block) {
            // Blocks that were on their way when we cancelled or were choked: forgiven as long as most are wanted.
            self.unrequested = self.unrequested.saturating_sub(1);
            self.events.push_back(Event::Block { block, data });
            return Ok(());
        }
        // BitComet answers what it will not serve with a block of no bytes.
        let rejected = self.asked.iter().find(|a| data.is_empty() && (a.index, a.begin) == (index, begin));
        if let Some(asked) = rejected.copied() {
            self.forget(&asked);
            self.events.push_back(Event::Rejected(asked));
            return Ok(());
        }
        self.events.push_back(Event::Unrequested(block.length));
        if self.late > 0 {
            self.late -= 1;
            return Ok(());
        }
        self.bear(MESSAGE + u64::from(block.length))?;
        self.unrequested += 1;
        if self.unrequested > MAX_UNREQUESTED { Err(ProtocolError::Unrequested) } else { Ok(()) }
    }

    /// Removes a request under way. Answers come in order as a rule, so the search ends at once.
    fn forget(&mut self, block: &BlockRef) -> bool {
        let at = self.asked.iter().position(|a| a == block);
        at.is_some_and(|at| self.asked.remove(at).is_some())
    }

    /// Closes the run of small messages, so that what follows stays in order.
    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.transmits.push_back(Transmit::Bytes(std::mem::take(&mut self.small).into()));
        }
    }
}

#[cfg(test)]
mod tests;
