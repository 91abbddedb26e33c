//! Receive buffers that are used again: payload is hashed and written straight from them.
//!
//! Their number is the bound on payload in memory: a reader that finds none waits, and TCP makes the peer
//! wait with it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one buffer: a read takes what a fast link has ready, and it still fits the core's cache.
pub const CHUNK_LEN: usize = 256 * 1024;
/// Buffers of one process, where nobody says how much memory it may use: 12 MiB.
const CHUNKS: usize = 48;
/// The fewest: with less, a fast link and the disk would wait for each other at every block.
const MIN_CHUNKS: usize = 4;
/// The most: more of what has arrived and waits makes nothing faster.
const MAX_CHUNKS: usize = 256;
/// What a process needs beside its buffers: its code and threads, a full table of peers, the torrent's hashes.
const REST: u64 = 10 << 20;
/// The least memory that a bound may name.
pub const MIN_MEMORY: u64 = REST + (2 << 20);
/// A buffer filled less than this is copied out and kept: a few bytes must not hold a whole buffer.
const COPY_BELOW: usize = 64 * 1024;

/// The buffers of one process.
#[derive(Debug, Clone)]
pub struct Chunks {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
    permits: Arc<Semaphore>,
    count: usize,
}

/// One buffer on loan.
#[derive(Debug)]
pub struct Chunk {
    bytes: Box<[u8]>,
    filled: usize,
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
    _permit: OwnedSemaphorePermit,
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new(CHUNKS)
    }
}

impl Chunks {
    fn new(count: usize) -> Self {
        Self { free: Arc::default(), permits: Arc::new(Semaphore::new(count)), count }
    }

    /// As many as a process has room for that may use `memory` bytes in all.
    pub fn within(memory: Option<u64>) -> Self {
        let Some(memory) = memory else { return Self::default() };
        let fit = memory.saturating_sub(REST) / CHUNK_LEN as u64;
        Self::new(usize::try_from(fit).unwrap_or(MAX_CHUNKS).clamp(MIN_CHUNKS, MAX_CHUNKS))
    }

    /// Bytes that may wait to be written: less than the buffers hold, so that readers always find one that is free.
    pub fn unwritten(&self) -> usize {
        self.count * CHUNK_LEN / 3 * 2
    }

    /// An empty buffer, as soon as there is one.
    pub async fn take(&self) -> Option<Chunk> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        let used = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = used.unwrap_or_else(|| vec![0; CHUNK_LEN].into_boxed_slice());
        Some(Chunk { bytes, filled: 0, free: self.free.clone(), _permit: permit })
    }
}

impl Chunk {
    /// Where the next read goes, `most` bytes of it.
    pub fn spare(&mut self, most: usize) -> &mut [u8] {
        let end = self.bytes.len().min(self.filled.saturating_add(most));
        &mut self.bytes[self.filled..end]
    }

    /// That many bytes have been read.
    pub fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }

    /// Bytes read so far.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The bytes, in this buffer or, where they are few, in one of their own.
    pub fn freeze(self) -> Bytes {
        if self.filled < COPY_BELOW { Bytes::copy_from_slice(self.as_ref()) } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_number_follows_the_memory_that_is_allowed() {
        let count = |memory| Chunks::within(memory).count;
        assert_eq!(count(None), CHUNKS);
        assert_eq!((count(Some(0)), count(Some(MIN_MEMORY)), count(Some(22 << 20))), (4, 8, 48));
        assert_eq!(count(Some(u64::MAX)), MAX_CHUNKS);
        assert_eq!(Chunks::default().unwritten(), 8 << 20);
    }

    #[tokio::test]
    async fn buffers_come_back_and_their_number_is_bounded() {
        let chunks = Chunks::default();
        let mut held = Vec::new();
        for _ in 0..CHUNKS {
            let mut chunk = chunks.take().await.unwrap();
            chunk.advance(CHUNK_LEN);
            held.push(chunk.freeze());
        }
        assert_eq!(chunks.permits.available_permits(), 0);
        drop(held.pop());
        let mut chunk = chunks.take().await.unwrap();
        chunk.spare(3).copy_from_slice(b"abc");
        chunk.advance(3);
        assert_eq!(chunk.freeze(), Bytes::from_static(b"abc"));
        // Few bytes do not hold a buffer.
        assert_eq!(chunks.permits.available_permits(), 1);
    }
}
