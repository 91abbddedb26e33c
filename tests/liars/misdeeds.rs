//! What each liar does on a connection, until it is thrown out.
//!
//! A misdeed plays by hand on the socket and is told nothing of the others.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dhtget::wire::extended::{
    ExtendedHandshake, METADATA_BLOCK_LEN, MetadataMessage, OUR_DONT_HAVE_ID, OUR_METADATA_ID, OUR_PEX_ID,
    OUR_UPLOAD_ONLY_ID,
};
use dhtget::wire::peer::{BlockRef, HANDSHAKE_LEN, Message};
use dhtget::wire::pex::PexMessage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::{PIECE, Stage};
use crate::wire::Wire;

/// Bytes of a flood written at once.
const FLOOD: usize = 64 << 10;

/// Whom a misdeed is played to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    Leech,
    Seed,
    Both,
}

/// What must have become of a liar's connection when all is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Ended by the victim, again and again if it comes back.
    Gone,
    /// Of no use and no harm: it may stay.
    Useless,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    FalseBlocks,
    FalseNowAndThen,
    ShortBlocks,
    LongBlocks,
    UnaskedBlocks,
    HalfABlock,
    DrippedBlocks,
    SilentUnchoker,
    Rejector,
    Chokes,
    Haves,
    HaveOutOfRange,
    HavesLostAndFound,
    SpareBits,
    Bitfields,
    FastFlood,
    Handshakes,
    LargeHandshakes,
    FalseMetadata,
    MetadataOfAnotherSize,
    MetadataRejected,
    MetadataRequests,
    Pex,
    KeepAlives,
    UnknownMessages,
    Ports,
    UploadOnly,
    SlowHandshake,
    SlowFrame,
    LargeHalfFrame,
    ComesAndGoes,
    Interests,
    ImpossibleRequests,
    ImpossibleRequestsUnread,
    LargeRequests,
    RequestsUnread,
    RequestsCancelled,
    InterestedInNothing,
}

use Against::{Both, Leech, Seed};
use Fate::{Gone, Useless};
use Misdeed::*;

/// Who is played to, and what becomes of it.
pub const ALL: &[(Misdeed, Against, Fate)] = &[
    (FalseBlocks, Leech, Gone),
    (FalseNowAndThen, Leech, Gone),
    (ShortBlocks, Leech, Useless),
    (LongBlocks, Leech, Gone),
    (UnaskedBlocks, Both, Gone),
    (HalfABlock, Leech, Useless),
    (DrippedBlocks, Leech, Useless),
    (SilentUnchoker, Leech, Useless),
    (Rejector, Leech, Useless),
    (Chokes, Both, Gone),
    (Haves, Both, Gone),
    (HaveOutOfRange, Both, Gone),
    (HavesLostAndFound, Both, Gone),
    (SpareBits, Both, Gone),
    (Bitfields, Both, Gone),
    (FastFlood, Both, Gone),
    (Handshakes, Both, Gone),
    (LargeHandshakes, Both, Gone),
    (FalseMetadata, Leech, Useless),
    (MetadataOfAnotherSize, Leech, Useless),
    (MetadataRejected, Leech, Useless),
    (MetadataRequests, Both, Gone),
    (Pex, Both, Gone),
    (KeepAlives, Both, Gone),
    (UnknownMessages, Both, Gone),
    (Ports, Both, Gone),
    (UploadOnly, Both, Gone),
    (SlowHandshake, Both, Gone),
    (SlowFrame, Both, Useless),
    (LargeHalfFrame, Both, Useless),
    (ComesAndGoes, Both, Useless),
    (Interests, Both, Gone),
    (ImpossibleRequests, Both, Gone),
    (ImpossibleRequestsUnread, Both, Gone),
    (LargeRequests, Both, Gone),
    (RequestsUnread, Seed, Useless),
    (RequestsCancelled, Both, Gone),
    (InterestedInNothing, Seed, Useless),
];

impl Misdeed {
    /// Before the handshake: whoever does not finish one plays another game.
    pub fn is_before_the_handshake(self) -> bool {
        self == SlowHandshake
    }

    /// Begins a handshake, a byte a second.
    pub async fn dawdle(stream: &mut tokio::net::TcpStream, stage: &Stage) {
        let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".to_vec();
        hello.extend_from_slice(stage.info.hash().as_bytes());
        hello.resize(HANDSHAKE_LEN, b'x');
        for byte in hello {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let _ = stream.read(&mut [0; 1]).await;
    }

    /// After the handshake, until the victim has had enough.
    pub async fn play(self, mut wire: Wire, stage: &Stage) {
        match self {
            FalseBlocks => wire.seed(|block| vec![0; block.length as usize]).await,
            FalseNowAndThen => {
                let lie = |block: &BlockRef| block.begin == 0 && block.index.is_multiple_of(4);
                wire.seed(
                    |block| if lie(block) { vec![0; block.length as usize] } else { stage.block(block) },
                )
                .await;
            }
            ShortBlocks => wire.seed(|block| stage.block(block)[1..].to_vec()).await,
            LongBlocks => wire.seed(|block| [&stage.block(block)[..], b"x"].concat()).await,
            UnaskedBlocks => {
                let piece = |index| Message::Piece {
                    index,
                    begin: 0,
                    data: stage.block(&BlockRef { index, begin: 0, length: 16_384 }).into(),
                };
                flood(wire, &(0..4).map(piece).collect::<Vec<_>>()).await;
            }
            HalfABlock => drip(wire, stage, Duration::from_secs(3600)).await,
            DrippedBlocks => drip(wire, stage, Duration::from_secs(1)).await,
            SilentUnchoker => {
                wire.send(&Message::HaveAll).await;
                wire.send(&Message::Unchoke).await;
                read_on(&mut wire).await;
            }
            Rejector => {
                wire.send(&Message::HaveAll).await;
                wire.send(&Message::Unchoke).await;
                while let Some(message) = wire.next().await {
                    if let Message::Request(block) = message {
                        wire.send(&Message::Reject(block)).await;
                    }
                }
            }
            FalseMetadata | MetadataOfAnotherSize | MetadataRejected => self.metadata(wire, stage).await,
            SlowFrame | LargeHalfFrame => self.dawdle_in_a_frame(wire).await,
            ComesAndGoes => {
                wire.send(&Message::HaveAll).await;
            }
            ImpossibleRequestsUnread => {
                let out = written(&[request(9999, 0, 0)]);
                while wire.raw(&out).await {}
            }
            RequestsUnread => {
                wire.send(&Message::HaveNone).await;
                wire.send(&Message::Interested).await;
                for index in 0..stage.pieces().saturating_sub(1) {
                    let blocks = (0..PIECE as u32 / 16_384).map(|b| request(index, b * 16_384, 16_384));
                    wire.raw(&written_once(&blocks.collect::<Vec<_>>())).await;
                }
                stay_deaf(wire).await;
            }
            InterestedInNothing => {
                wire.send(&Message::HaveNone).await;
                wire.send(&Message::Interested).await;
                read_on(&mut wire).await;
            }
            _ => {
                let messages = self.storm(stage);
                // Says what it has first: what nobody wants anything of is of less concern.
                wire.send(&Message::HaveNone).await;
                flood(wire, &messages).await;
            }
        }
    }

    /// What is said again and again, as fast as it is taken.
    fn storm(self, stage: &Stage) -> Vec<Message> {
        let last = stage.pieces() - 1;
        let handshake = |padding: usize| ExtendedHandshake {
            metadata_id: Some(3),
            client: Some("x".repeat(padding)),
            ..Default::default()
        };
        match self {
            Chokes => vec![Message::Unchoke, Message::Choke],
            Haves => vec![Message::Have(0)],
            HaveOutOfRange => vec![Message::Have(last + 1)],
            HavesLostAndFound => {
                let lost = |i: u32| extended(OUR_DONT_HAVE_ID, i.to_be_bytes().to_vec());
                (0..=last).flat_map(|i| [Message::Have(i), lost(i)]).collect()
            }
            SpareBits => vec![Message::Bitfield(vec![0xff; last as usize / 8 + 1].into())],
            Bitfields => vec![Message::HaveNone, Message::HaveAll],
            FastFlood => {
                let of_piece = |i| [Message::Suggest(i), Message::AllowedFast(i), Message::Reject(block(i))];
                (0..=last).flat_map(of_piece).collect()
            }
            Handshakes => vec![extended(0, handshake(0).emit())],
            LargeHandshakes => vec![extended(0, handshake(100_000).emit())],
            MetadataRequests => {
                let ask = |block| extended(OUR_METADATA_ID, MetadataMessage::Request { block }.emit());
                [vec![extended(0, handshake(0).emit())], (0..3000).map(|n| ask(n % 3)).collect()].concat()
            }
            Pex => {
                let at = |n: u8| (SocketAddr::from(([127, 0, 9, n], 9)), 0);
                let named = PexMessage { added: (1..50).map(at).collect(), dropped: Vec::new() };
                vec![extended(OUR_PEX_ID, named.emit())]
            }
            KeepAlives => vec![Message::KeepAlive],
            UnknownMessages => vec![Message::Unknown(99), extended(77, vec![7; 10_000])],
            Ports => vec![Message::Port(1), Message::Port(0)],
            UploadOnly => vec![extended(OUR_UPLOAD_ONLY_ID, vec![1]), extended(OUR_UPLOAD_ONLY_ID, vec![0])],
            Interests => vec![Message::Interested, Message::NotInterested],
            ImpossibleRequests => vec![request(last + 1, 0, 16_384), request(0, u32::MAX, u32::MAX)],
            LargeRequests => vec![request(0, 0, 1 << 20)],
            RequestsCancelled => vec![Message::Interested, request(0, 0, 16_384), Message::Cancel(block(0))],
            other => unreachable!("{other:?} is no storm"),
        }
    }

    /// Offers metadata, and gives none that is right.
    async fn metadata(self, mut wire: Wire, stage: &Stage) {
        let mut bytes = stage.info.raw().to_vec();
        bytes[40] ^= 1;
        let size = bytes.len() as u64;
        match self {
            FalseMetadata => wire.serve_metadata(size, &bytes).await,
            MetadataOfAnotherSize => {
                wire.serve_metadata(40 * u64::from(METADATA_BLOCK_LEN), &[7; 40 << 14]).await;
            }
            _ => {
                let hello = ExtendedHandshake {
                    metadata_id: Some(3),
                    metadata_size: Some(size),
                    ..Default::default()
                };
                wire.extended(0, hello.emit()).await;
                while let Some(message) = wire.next().await {
                    let Message::Extended { id: 3, payload } = message else { continue };
                    if let Some(MetadataMessage::Request { block }) = MetadataMessage::parse(&payload) {
                        wire.extended(OUR_METADATA_ID, MetadataMessage::Reject { block }.emit()).await;
                    }
                }
            }
        }
        read_on(&mut wire).await;
    }

    /// Begins a frame; the rest comes a byte a second, or never.
    async fn dawdle_in_a_frame(self, mut wire: Wire) {
        let mut frame = Vec::new();
        extended(0, vec![b'd'; 120_000]).emit(&mut frame);
        let first = if self == SlowFrame { 8 } else { frame.len() - 1000 };
        let (begun, rest) = frame.split_at(first);
        wire.raw(begun).await;
        for byte in rest {
            tokio::select! {
                () = read_on(&mut wire) => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if !wire.raw(&[*byte]).await {
                return;
            }
        }
    }
}

fn extended(id: u8, payload: impl Into<Bytes>) -> Message {
    Message::Extended { id, payload: payload.into() }
}

fn block(index: u32) -> BlockRef {
    BlockRef { index, begin: 0, length: 16_384 }
}

fn request(index: u32, begin: u32, length: u32) -> Message {
    Message::Request(BlockRef { index, begin, length })
}

fn written_once(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|m| m.emit(&mut out));
    out
}

fn written(messages: &[Message]) -> Vec<u8> {
    let once = written_once(messages);
    once.repeat(FLOOD.div_ceil(once.len()))
}

/// Writes as fast as it goes, and reads what comes, so that nothing can be held against it but what it says.
async fn flood(wire: Wire, messages: &[Message]) {
    let (mut reading, mut writing) = wire.stream.into_split();
    let read = async {
        let mut buffer = vec![0; FLOOD];
        while reading.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let write = async {
        let out = written(messages);
        while writing.write_all(&out).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

async fn read_on(wire: &mut Wire) {
    while wire.next().await.is_some() {}
}

/// Reads nothing; only a write tells that the other side has left.
async fn stay_deaf(mut wire: Wire) {
    while wire.send(&Message::KeepAlive).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Answers the first request with a block of which a byte comes, then one in each `pause`.
async fn drip(mut wire: Wire, stage: &Stage, pause: Duration) {
    wire.send(&Message::HaveAll).await;
    wire.send(&Message::Unchoke).await;
    let Some(asked) = first_request(&mut wire).await else { return };
    let mut out = Vec::new();
    let data = stage.block(&asked).into();
    Message::Piece { index: asked.index, begin: asked.begin, data }.emit(&mut out);
    let (begun, rest) = out.split_at(8000);
    wire.raw(begun).await;
    for byte in rest {
        tokio::select! {
            () = read_on(&mut wire) => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !wire.raw(&[*byte]).await {
            return;
        }
    }
}

async fn first_request(wire: &mut Wire) -> Option<BlockRef> {
    loop {
        if let Message::Request(block) = wire.next().await? {
            return Some(block);
        }
    }
}
