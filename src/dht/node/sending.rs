//! Datagrams on their way out, and the buffers they are written into.
//!
//! Owns who gets which buffer. Must not know what is sent: a buffer that comes back serves any other message.

use std::net::SocketAddr;

use super::Node;
use crate::dht::config::{MAX_SPARE_PAYLOADS, MAX_TRANSMITS};
use crate::dht::event::Transmit;
use crate::wire::krpc::Message;

impl Node {
    /// Takes back the payload of a datagram that was sent, so that the next one needs no new buffer.
    pub fn recycle(&mut self, mut payload: Vec<u8>) {
        if self.spare.len() < MAX_SPARE_PAYLOADS {
            payload.clear();
            self.spare.push(payload);
        }
    }

    /// Queues a message and tells its size.
    pub(super) fn send(&mut self, to: SocketAddr, message: Message<'_>) -> usize {
        // Beyond the bound the driver has stopped draining; a datagram more or less is no loss then.
        if self.transmits.len() >= MAX_TRANSMITS {
            return 0;
        }
        let mut payload = self.spare_payload();
        message.emit(&mut payload);
        let bytes = payload.len();
        self.counters.traffic.on_send(bytes);
        self.transmits.push_back(Transmit { to, payload });
        bytes
    }

    pub(super) fn spare_payload(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(256))
    }
}
