//! A file written out in order while it is fetched: each piece once it is verified, as fast as its reader takes it.
//!
//! Owns the thread that waits for the reader, and how far he has come. What he has not taken lies on disk; in memory
//! there is one buffer. Must not know the swarm.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::mpsc as tokio_mpsc;

use super::parts::PARTS;
use super::storage::Storage;
use crate::peer::Bitfield;
use crate::wire::metainfo::{Info, PieceIndex};

/// Bytes fetched ahead of the reader: seconds of a fast line, and little to throw away where he stops.
pub const READ_AHEAD: u64 = 64 << 20;
/// Bytes read and written at once.
const BUFFER: usize = 256 << 10;
/// Bytes ordered at once: an answer comes for each.
const ORDER: u64 = 1 << 20;

/// Where a stream goes.
#[derive(Clone)]
pub struct Sink(Arc<Mutex<dyn Write + Send>>);

impl Sink {
    /// Whatever can be written to; it may block.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(out)))
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sink")
    }
}

/// How an order went.
#[derive(Debug)]
pub enum Taken {
    /// The reader has taken everything before this byte of the whole.
    To(u64),
    /// He has gone.
    Gone,
    /// What lies on disk cannot be read.
    Unreadable(io::Error),
    /// Where it goes, nothing more can be written.
    Refused(io::Error),
}

/// A stream under way. Dropping it ends its thread, once the reader lets go of it.
#[derive(Debug)]
pub struct Stream {
    orders: mpsc::Sender<Range<u64>>,
    info: Arc<Info>,
    have: Bitfield,
    /// The bytes of the file that the reader has not taken, as they stand in the whole.
    left: Range<u64>,
    /// Everything before this byte is verified.
    verified: u64,
    busy: bool,
}

impl Stream {
    /// Streams `range` of the whole, of which `have` is here.
    pub fn start(
        storage: Arc<Storage>,
        info: Arc<Info>,
        sink: Sink,
        range: Range<u64>,
        have: Bitfield,
    ) -> io::Result<(Self, tokio_mpsc::UnboundedReceiver<Taken>)> {
        let (orders, incoming) = mpsc::channel();
        // One answer to an order, and one order at a time.
        let (answer, answers) = tokio_mpsc::unbounded_channel();
        std::thread::Builder::new().name("stream".into()).spawn(move || {
            while let Ok(order) = incoming.recv() {
                let taken = deliver(&storage, &sink, order);
                let over = !matches!(taken, Taken::To(_));
                if answer.send(taken).is_err() || over {
                    return;
                }
            }
        })?;
        let verified = range.start;
        let mut stream = Self { orders, info, have, left: range, verified, busy: false };
        stream.look_on();
        Ok((stream, answers))
    }

    /// A piece was verified.
    pub fn on_verified(&mut self, piece: PieceIndex) {
        self.have.set(piece.get(), true);
        self.look_on();
    }

    /// The reader has come so far.
    pub fn on_taken(&mut self, to: u64) {
        self.busy = false;
        self.left.start = to;
        self.look_on();
    }

    /// Whether the reader has everything.
    pub fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Bytes that he could take.
    pub fn unread(&self) -> u64 {
        self.verified.saturating_sub(self.left.start)
    }

    fn look_on(&mut self) {
        let layout = *self.info.layout();
        let piece_length = u64::from(layout.piece_length());
        while self.verified < self.left.end {
            let piece = layout.piece((self.verified / piece_length) as u32);
            let Some(piece) = piece.filter(|p| self.have.has(p.get())) else { break };
            self.verified = (layout.offset(piece) + u64::from(layout.len_of(piece))).min(self.left.end);
        }
        if !self.busy && self.unread() > 0 {
            let end = self.verified.min(self.left.start + ORDER);
            self.busy = self.orders.send(self.left.start..end).is_ok();
        }
    }
}

/// Blocks while the reader does.
fn deliver(storage: &Storage, sink: &Sink, mut order: Range<u64>) -> Taken {
    let file = match storage.file(PARTS) {
        Ok(file) => file,
        Err(error) => return Taken::Unreadable(error),
    };
    let mut out = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; BUFFER];
    while !order.is_empty() {
        let length = BUFFER.min((order.end - order.start) as usize);
        if let Err(error) = file.read_exact_at(&mut buffer[..length], order.start) {
            return Taken::Unreadable(error);
        }
        match out.write_all(&buffer[..length]).and_then(|()| out.flush()) {
            Ok(()) => order.start += length as u64,
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Taken::Gone,
            Err(error) => return Taken::Refused(error),
        }
    }
    Taken::To(order.end)
}
