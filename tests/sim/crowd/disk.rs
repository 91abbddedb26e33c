//! A host's disk: which blocks are there, and those among them that are false.
//!
//! True bytes are the torrent's own, which all hosts of a world share: thousands of hosts would not fit otherwise. Knows
//! bytes by their place; not who wrote them.

use std::collections::BTreeMap;

use bytes::Bytes;
use dhtget::wire::metainfo::BLOCK_LEN;
use sha1::{Digest as _, Sha1};

#[derive(Debug)]
pub struct Disk {
    content: Bytes,
    /// Of each block, whether its bytes are here.
    here: Vec<bool>,
    /// Blocks whose bytes are not the torrent's.
    wrong: BTreeMap<usize, Bytes>,
}

impl Disk {
    /// With all of it, or nothing.
    pub fn new(content: &Bytes, whole: bool) -> Self {
        let blocks = content.len().div_ceil(BLOCK_LEN as usize);
        Self { content: content.clone(), here: vec![whole; blocks], wrong: BTreeMap::new() }
    }

    /// Takes a block.
    pub fn write(&mut self, at: usize, data: Bytes) {
        let block = at / BLOCK_LEN as usize;
        assert!(at.is_multiple_of(BLOCK_LEN as usize), "{at} is no block's place");
        self.here[block] = true;
        if data == self.content[at..at + data.len()] {
            self.wrong.remove(&block);
        } else {
            self.wrong.insert(block, data);
        }
    }

    /// Bytes that are true.
    pub fn read(&self, at: usize, length: usize) -> Bytes {
        assert!(self.is_true(at, length), "{length} bytes at {at} are not here");
        self.content.slice(at..at + length)
    }

    /// Whether all of it is here, and true.
    pub fn is_true(&self, at: usize, length: usize) -> bool {
        let blocks = at / BLOCK_LEN as usize..(at + length).div_ceil(BLOCK_LEN as usize);
        self.here[blocks.clone()].iter().all(|here| *here) && self.wrong.range(blocks).next().is_none()
    }

    /// Whether everything is here, and true.
    pub fn is_whole(&self) -> bool {
        self.is_true(0, self.content.len())
    }

    /// A digest of each block.
    pub fn digests(&self, at: usize, length: usize) -> Vec<u64> {
        let block = |at: usize| {
            let end = self.content.len().min(at + BLOCK_LEN as usize);
            let bytes = self.wrong.get(&(at / BLOCK_LEN as usize)).map_or(&self.content[at..end], |b| &b[..]);
            Sha1::digest(bytes)[..8].iter().fold(0, |digest, byte| digest << 8 | u64::from(*byte))
        };
        (at..at + length).step_by(BLOCK_LEN as usize).map(block).collect()
    }
}
