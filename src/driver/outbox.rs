//! What waits to be sent on one connection: bytes, and stretches of files, which the system takes from its own memory.
//!
//! Owns their order. Must not know what they mean.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;

use bytes::{Buf as _, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::stored::Stretch;

/// Pieces of output given to the system in one call.
const SLICES: usize = 64;
/// Padding of a torrent goes out from here.
const ZEROS: &[u8] = &[0; 16 * 1024];

/// One thing to send.
#[derive(Debug)]
pub enum Out {
    /// These bytes.
    Bytes(Bytes),
    /// These of a file, or zeros.
    Stored(Stretch),
}

impl Out {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Stored(stretch) => usize::try_from(stretch.length).unwrap_or(usize::MAX),
        }
    }
}

/// What waits, in order.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<Out>);

impl Outbox {
    /// Adds what is to be sent last.
    pub fn push(&mut self, out: Out) {
        if out.len() > 0 {
            self.0.push_back(out);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the first things that wait, as many as one look takes.
    pub fn bytes(&self) -> usize {
        self.0.iter().take(SLICES).map(Out::len).sum()
    }

    /// Gives the socket as much as it takes without waiting, `most` bytes at most. An error of the kind `WouldBlock` where
    /// it takes nothing; `UnexpectedEof` where a file has become shorter.
    pub fn send(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let mut sent = 0;
        while sent < most && !self.0.is_empty() {
            match self.send_first(&socket, most - sent) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// The first stretch, or all bytes before it.
    fn send_first(&mut self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        if let Some(Out::Stored(stretch)) = self.0.front_mut() {
            let length = most.min(usize::try_from(stretch.length).unwrap_or(usize::MAX));
            let count = match &stretch.file {
                Some(file) => from_file(socket, file, stretch.offset, length)?,
                None => rustix::net::send(socket, &ZEROS[..length.min(ZEROS.len())], SendFlags::NOSIGNAL)?,
            };
            stretch.offset += count as u64;
            stretch.length -= count as u64;
            if stretch.length == 0 {
                self.0.pop_front();
            }
            return Ok(count);
        }
        let (mut slices, mut room, mut more) = (Vec::with_capacity(self.0.len().min(SLICES)), most, false);
        for out in &self.0 {
            let Out::Bytes(bytes) = out else {
                more = true;
                break;
            };
            if room == 0 || slices.len() == SLICES {
                break;
            }
            slices.push(IoSlice::new(&bytes[..bytes.len().min(room)]));
            room -= bytes.len().min(room);
        }
        // A header belongs into one segment with the payload behind it.
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let count = rustix::net::sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags)?;
        self.consume(count);
        Ok(count)
    }

    /// Moves the first bytes into `room`, as many as there are and fit; for whoever has to change them before they are sent.
    /// An error as of [`send`](Self::send) where a file has become shorter.
    pub fn take(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            let room = &mut room[filled..];
            filled += match self.0.front_mut() {
                None => break,
                Some(Out::Bytes(bytes)) => {
                    let count = bytes.len().min(room.len());
                    bytes.copy_to_slice(&mut room[..count]);
                    count
                }
                Some(Out::Stored(stretch)) => {
                    let count = room.len().min(usize::try_from(stretch.length).unwrap_or(usize::MAX));
                    match &stretch.file {
                        Some(file) => file.read_exact_at(&mut room[..count], stretch.offset)?,
                        None => room[..count].fill(0),
                    }
                    stretch.offset += count as u64;
                    stretch.length -= count as u64;
                    count
                }
            };
            if self.0.front().is_some_and(|out| out.len() == 0) {
                self.0.pop_front();
            }
        }
        Ok(filled)
    }

    fn consume(&mut self, mut sent: usize) {
        while let Some(Out::Bytes(first)) = self.0.front_mut() {
            if first.len() > sent {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            self.0.pop_front();
        }
    }
}

/// Sends a part of a file without a copy.
#[cfg(target_os = "linux")]
fn from_file(socket: &impl AsFd, file: &std::fs::File, mut offset: u64, length: usize) -> io::Result<usize> {
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), length)?)
}

#[cfg(not(target_os = "linux"))]
fn from_file(socket: &impl AsFd, file: &std::fs::File, offset: u64, length: usize) -> io::Result<usize> {
    let mut bytes = vec![0; length.min(ZEROS.len())];
    let count = file.read_at(&mut bytes, offset)?;
    if count == 0 {
        return Ok(0);
    }
    Ok(rustix::net::send(socket, &bytes[..count], SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::handles::OpenFile;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn file(bytes: &[u8]) -> Arc<OpenFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file.into())
    }

    #[test]
    fn everything_goes_out_in_order_in_portions_of_any_size() {
        let stored: Vec<u8> = (0..50_000_u32).map(|n| n as u8).collect();
        let source = file(&stored);
        for most in [1, 7, 4096, usize::MAX] {
            let length = if most < 8 { 100 } else { 40_000 };
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut outbox = Outbox::default();
            outbox.push(Out::Bytes(Bytes::from_static(b"head")));
            outbox.push(Out::Bytes(Bytes::new()));
            outbox.push(Out::Bytes(Bytes::from_static(b"er")));
            outbox.push(Out::Stored(Stretch { file: Some(source.clone()), offset: 1000, length }));
            outbox.push(Out::Stored(Stretch { file: None, offset: 0, length: length / 2 }));
            outbox.push(Out::Bytes(Bytes::from_static(b"end")));
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                theirs.read_to_end(&mut got).unwrap();
                got
            });
            while !outbox.is_empty() {
                let sent = outbox.send(&ours, most).unwrap();
                assert!((1..=most).contains(&sent));
            }
            drop(ours);
            let mut wanted = b"header".to_vec();
            wanted.extend_from_slice(&stored[1000..1000 + length as usize]);
            wanted.resize(wanted.len() + length as usize / 2, 0);
            wanted.extend_from_slice(b"end");
            assert!(reader.join().unwrap() == wanted, "in portions of {most}");
        }
    }

    #[test]
    fn everything_is_taken_in_order_in_portions_of_any_size() {
        let stored: Vec<u8> = (0..500_u32).map(|n| n as u8).collect();
        for portion in [1, 7, 64, 5000] {
            let mut outbox = Outbox::default();
            outbox.push(Out::Bytes(Bytes::from_static(b"head")));
            outbox.push(Out::Stored(Stretch { file: Some(file(&stored)), offset: 100, length: 300 }));
            outbox.push(Out::Stored(Stretch { file: None, offset: 0, length: 90 }));
            outbox.push(Out::Bytes(Bytes::from_static(b"end")));
            let (mut got, mut room) = (Vec::new(), vec![9; portion]);
            while !outbox.is_empty() {
                let count = outbox.take(&mut room).unwrap();
                assert!(count > 0 && (count == portion || outbox.is_empty()));
                got.extend_from_slice(&room[..count]);
            }
            assert_eq!(got, [b"head", &stored[100..400], &[0; 90], b"end"].concat());
            assert_eq!(outbox.take(&mut room).unwrap(), 0);
            outbox.push(Out::Stored(Stretch { file: Some(file(b"short")), offset: 0, length: 6 }));
            assert_eq!(outbox.take(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_full_socket_keeps_the_rest_and_a_short_file_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        outbox.push(Out::Bytes(vec![7; 4 << 20].into()));
        let mut sent = outbox.send(&ours, usize::MAX).unwrap();
        assert!(sent > 0 && !outbox.is_empty());
        assert_eq!(outbox.send(&ours, usize::MAX).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut some = vec![0; 4 << 20];
        let mut received = 0;
        while received < 4 << 20 {
            received += theirs.read(&mut some).unwrap();
            match outbox.send(&ours, usize::MAX) {
                Ok(count) => sent += count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(sent == received && outbox.is_empty());
        outbox.push(Out::Stored(Stretch { file: Some(file(b"short")), offset: 0, length: 6 }));
        assert_eq!(outbox.send(&ours, usize::MAX).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
