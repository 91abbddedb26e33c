//! Which files a transfer fetches, and the stream that one of them may go to.

use super::Download;
use crate::driver::choice::Chosen;
use crate::driver::clock;
use crate::driver::stream::{READ_AHEAD, Stream, Taken};
use crate::driver::transfer::{Placement, TransferError, TransferEvent, disk_full};
use crate::peer::Bitfield;
use crate::swarm::{Input, Sequence};
use crate::wire::metainfo::{FileKind, Info};

impl Download {
    /// Bytes that are fetched, found or not; 0 before the metadata.
    pub(super) fn total(&self) -> u64 {
        self.info.as_ref().map_or(0, |info| self.wanted.total(info.layout()))
    }

    /// What was asked for, in this torrent; the transfer ends where it cannot be had.
    pub(super) fn choose(&mut self, info: &Info) -> Option<Chosen> {
        let streams = matches!(self.job.placement, Placement::Stream { .. });
        let chosen = match self.choice.resolve(info, streams) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.fail(error.into());
                return None;
            }
        };
        let sequence = if streams { Sequence::Reader(READ_AHEAD) } else { self.choice.sequence };
        self.wanted = chosen.wanted(info, sequence);
        let all = info.files().iter().filter(|f| f.kind == FileKind::Regular).count();
        if chosen.count() < all {
            let bytes = self.wanted.total(info.layout());
            self.tell(TransferEvent::Chosen { files: chosen.indices().collect(), bytes });
        }
        Some(chosen)
    }

    /// What is here already can be read at once.
    pub(super) fn begin_stream(&mut self, have: &Bitfield) {
        let (Placement::Stream { sink, .. }, Some(info), Some(place)) =
            (&self.job.placement, &self.info, &self.place)
        else {
            return;
        };
        let file = place.chosen().indices().next().and_then(|file| info.files().get(file));
        let range = file.map_or(0..0, |file| file.offset..file.offset + file.length);
        let (storage, sink) = (place.storage.clone(), sink.clone());
        match Stream::start(storage, info.clone(), sink, range, have.clone()) {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => self.fail(stream_error(&error)),
        }
    }

    /// The reader has taken something, or has gone.
    pub(super) fn on_taken(&mut self, taken: Taken) {
        let Some((stream, _)) = &mut self.stream else { return };
        match taken {
            Taken::To(to) => {
                stream.on_taken(to);
                let done = stream.is_done();
                self.swarm.handle(clock::now(), Input::Consumed(to));
                if done {
                    self.on_complete();
                }
            }
            Taken::Gone => self.fail(TransferError::ReaderGone),
            Taken::Unreadable(error) => self.fail(stream_error(&error)),
            Taken::Refused(error) => {
                self.fail(TransferError::Output { cause: error.to_string(), full: disk_full(&error) });
            }
        }
    }
}

fn stream_error(error: &std::io::Error) -> TransferError {
    TransferError::Disk {
        path: "what was fetched for the stream".into(),
        cause: error.to_string(),
        full: disk_full(error),
    }
}
