//! The attacker's end of a peer connection, on plain TCP.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]
#![allow(dead_code, reason = "each test program plays its own misdeeds")]

use std::time::Duration;

use bytes::Bytes;
use dhtget::id::Id160;
use dhtget::wire::extended::{ExtendedHandshake, METADATA_BLOCK_LEN, MetadataMessage};
use dhtget::wire::metainfo::Info;
use dhtget::wire::peer::{BlockRef, Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The attacker's end of a connection.
pub struct Wire {
    pub stream: TcpStream,
    frames: Frames,
}

impl Wire {
    /// Greets and reads the victim's greeting.
    pub async fn greet(stream: TcpStream, info: &Info, reserved: Reserved) -> Self {
        Self::greet_as(Id160(*b"-XX0000-hostile-peer"), stream, info, reserved).await.unwrap()
    }

    /// The same under a name; none where the victim will not have us.
    pub async fn greet_as(
        peer_id: Id160,
        mut stream: TcpStream,
        info: &Info,
        reserved: Reserved,
    ) -> Option<Self> {
        let mut hello = Vec::new();
        Handshake { reserved, info_hash: info.hash(), peer_id }.emit(&mut hello);
        stream.write_all(&hello).await.ok()?;
        let mut theirs = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut theirs).await.ok()?;
        Some(Self { stream, frames: Frames::default() })
    }

    /// Writes; an error only says that we have been dropped, which the caller asks for separately.
    pub async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub async fn send(&mut self, message: &Message) -> bool {
        let mut out = Vec::new();
        message.emit(&mut out);
        self.raw(&out).await
    }

    pub async fn extended(&mut self, id: u8, payload: impl Into<Bytes>) -> bool {
        self.send(&Message::Extended { id, payload: payload.into() }).await
    }

    /// The victim's next message; none once it has dropped us.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return Some(message);
            }
            let mut buffer = vec![0; 65_536];
            let count = self.stream.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return None;
            }
            buffer.truncate(count);
            self.frames.push(buffer.into());
        }
    }

    pub async fn wait_for(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.next().await.expect("dropped too early");
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Reads until the end: the victim must end this connection, and soon.
    pub async fn dropped(&mut self) {
        let end = async { while self.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(15), end).await.expect("the victim keeps the connection");
    }

    /// Announces metadata of `size` bytes and serves it.
    pub async fn serve_metadata(&mut self, size: u64, bytes: &[u8]) {
        let hello =
            ExtendedHandshake { metadata_id: Some(3), metadata_size: Some(size), ..Default::default() };
        self.extended(0, hello.emit()).await;
        while let Some(message) = self.next().await {
            let Message::Extended { id: 3, payload } = message else { continue };
            let Some(MetadataMessage::Request { block }) = MetadataMessage::parse(&payload) else { continue };
            let begin = bytes.len().min((block * METADATA_BLOCK_LEN) as usize);
            let end = bytes.len().min(begin + METADATA_BLOCK_LEN as usize);
            let data = Bytes::copy_from_slice(&bytes[begin..end]);
            self.extended(1, MetadataMessage::Data { block, total_size: size, data }.emit()).await;
        }
    }

    /// Says that it has everything, then answers each request with what `block` makes of it.
    pub async fn seed(&mut self, block: impl Fn(&BlockRef) -> Vec<u8>) {
        self.send(&Message::HaveAll).await;
        self.send(&Message::Unchoke).await;
        while let Some(message) = self.next().await {
            if let Message::Request(asked) = message {
                let data = block(&asked).into();
                self.send(&Message::Piece { index: asked.index, begin: asked.begin, data }).await;
            }
        }
    }
}
