//! The extension protocol on one connection (BEP 10): the extended handshake of both sides, and the messages
//! that travel under the ids it names.

use bytes::Bytes;

use super::Connection;
use crate::peer::event::{Event, ProtocolError};
use crate::peer::patience::{BLOCK_SENT, METADATA_ASKED};
use crate::wire::extended::{
    ExtendedHandshake, MetadataMessage, OUR_DONT_HAVE_ID, OUR_METADATA_ID, OUR_PEX_ID, OUR_REQUEST_QUEUE,
    OUR_UPLOAD_ONLY_ID,
};
use crate::wire::peer::Message;
use crate::wire::pex::PexMessage;

/// Extended handshakes one peer may send: first, metadata known, upload-only, and some to spare.
pub(super) const MAX_EXTENDED_HANDSHAKES: u32 = 64;

impl Connection {
    // ---- what we know of the peer

    /// Whether the peer takes metadata requests (BEP 9).
    pub fn serves_metadata(&self) -> bool {
        self.takes_metadata() && self.extended.metadata_size.is_some()
    }

    /// Whether the peer takes peer exchange messages, and we do (BEP 11).
    pub fn exchanges_peers(&self) -> bool {
        self.settings.pex && self.extended.pex_id.is_some_and(|id| id != 0)
    }

    /// Whether the peer wants no payload (BEP 21).
    pub fn is_upload_only(&self) -> bool {
        self.extended.upload_only.unwrap_or(false)
    }

    // ---- commands

    /// What follows the bitfield: the extended handshake, and our DHT port.
    pub fn introduce(&mut self) {
        let Some(remote) = self.remote else { return };
        if remote.reserved.extended() {
            self.send_extended_handshake();
        }
        if let (true, Some(port)) = (remote.reserved.dht(), self.settings.dht_port) {
            self.send(&Message::Port(port));
        }
    }

    /// Whether the peer can be sent metadata, or a refusal.
    pub fn takes_metadata(&self) -> bool {
        self.extended.metadata_id.is_some_and(|id| id != 0)
    }

    /// Sends a metadata message under the id that the peer chose, if it has chosen one.
    pub fn send_metadata(&mut self, message: &MetadataMessage) {
        if let Some(id) = self.extended.metadata_id.filter(|&id| id != 0) {
            match message {
                MetadataMessage::Request { .. } => self.patience.earn(METADATA_ASKED),
                MetadataMessage::Data { .. } => self.patience.earn(BLOCK_SENT),
                MetadataMessage::Reject { .. } => {}
            }
            self.send(&Message::Extended { id, payload: message.emit().into() });
        }
    }

    /// Sends a peer exchange message, if the peer takes them.
    pub fn send_peers(&mut self, message: &PexMessage) {
        if let Some(id) = self.extended.pex_id.filter(|_| self.exchanges_peers()) {
            self.send(&Message::Extended { id, payload: message.emit().into() });
        }
    }

    /// Tells the peer that we have the metadata now (BEP 10: the handshake may come again), and what follows from
    /// it: peers of a private torrent are not exchanged.
    pub fn announce_metadata(&mut self, size: u64, private: bool) {
        self.settings.metadata_size = Some(size);
        self.settings.pex &= !private;
        self.settings.dht_port = self.settings.dht_port.filter(|_| !private);
        self.introduce_again();
    }

    /// Tells the peer that we want no payload any more (BEP 21).
    pub fn announce_upload_only(&mut self) {
        if !std::mem::replace(&mut self.settings.upload_only, true) {
            self.introduce_again();
        }
    }

    // ---- inside

    fn introduce_again(&mut self) {
        if self.remote.is_some_and(|r| r.reserved.extended()) {
            self.send_extended_handshake();
        }
    }

    fn send_extended_handshake(&mut self) {
        let handshake = ExtendedHandshake {
            metadata_id: Some(OUR_METADATA_ID),
            // 0 takes back what an earlier handshake said.
            pex_id: Some(if self.settings.pex { OUR_PEX_ID } else { 0 }),
            upload_only_id: Some(OUR_UPLOAD_ONLY_ID),
            dont_have_id: Some(OUR_DONT_HAVE_ID),
            metadata_size: self.settings.metadata_size,
            request_queue: Some(OUR_REQUEST_QUEUE),
            port: self.settings.listen_port,
            client: Some(concat!("dhtget ", env!("CARGO_PKG_VERSION")).to_owned()),
            upload_only: self.settings.upload_only.then_some(true),
            your_ip: self.settings.peer_ip,
        };
        self.send(&Message::Extended { id: 0, payload: handshake.emit().into() });
    }

    pub(super) fn on_extended(&mut self, id: u8, payload: &Bytes) -> Result<(), ProtocolError> {
        match id {
            0 => {
                self.extended_handshakes += 1;
                if self.extended_handshakes > MAX_EXTENDED_HANDSHAKES {
                    return Err(ProtocolError::Handshakes);
                }
                let news = ExtendedHandshake::parse(payload).ok_or(ProtocolError::Extension)?;
                merge(&mut self.extended, news);
                self.events.push_back(Event::Extended);
            }
            OUR_METADATA_ID => {
                if let Some(message) = MetadataMessage::parse(payload) {
                    self.events.push_back(Event::Metadata(message));
                }
            }
            OUR_PEX_ID if self.settings.pex => {
                let message = PexMessage::parse(payload).ok_or(ProtocolError::Extension)?;
                self.events.push_back(Event::Peers(message));
            }
            OUR_UPLOAD_ONLY_ID => {
                let said = payload.iter().any(|&byte| byte != 0);
                if self.extended.upload_only.replace(said).unwrap_or(false) != said {
                    self.events.push_back(Event::UploadOnly);
                }
            }
            OUR_DONT_HAVE_ID => {
                let index = payload.as_ref().try_into().map_err(|_| ProtocolError::Extension)?;
                self.events.push_back(Event::DontHave(u32::from_be_bytes(index)));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A later handshake adds to and overrides an earlier one (BEP 10).
fn merge(known: &mut ExtendedHandshake, news: ExtendedHandshake) {
    known.metadata_id = news.metadata_id.or(known.metadata_id);
    known.pex_id = news.pex_id.or(known.pex_id);
    known.upload_only_id = news.upload_only_id.or(known.upload_only_id);
    known.dont_have_id = news.dont_have_id.or(known.dont_have_id);
    known.metadata_size = news.metadata_size.or(known.metadata_size);
    known.request_queue = news.request_queue.or(known.request_queue);
    known.port = news.port.or(known.port);
    known.upload_only = news.upload_only.or(known.upload_only);
    known.your_ip = news.your_ip.or(known.your_ip);
    if news.client.is_some() {
        known.client = news.client;
    }
}
