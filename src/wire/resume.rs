//! What an interrupted download keeps of its pieces: the bytes of the resume file.
//!
//! Owns the format: a bencoded dictionary with a checksum behind it, so that a file that was cut or mixed up
//! is told from a whole one. Must not know what of it may be believed: that is `swarm::resume`.

use sha1::{Digest as _, Sha1};

use super::bencode::{Limits, Value, Writer};
use crate::id::{Id160, InfoHash};

/// The format that is written; any other is ignored, and everything is verified again.
const VERSION: i64 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 20;
/// Bytes of one file's stamp: its size, its times, and whether there is one.
const STAMP: usize = 25;
/// A dictionary of a few strings.
const SHAPE: Limits = Limits { depth: 2, tokens: 32 };

/// What tells that a file was left alone. A change of content that keeps size and `mtime` still moves
/// `ctime`, which no program can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When it was last changed in any way.
    pub ctime_ns: i64,
}

/// A resume file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Which torrent.
    pub hash: InfoHash,
    /// The name under which its data stands.
    pub name: String,
    /// The run that wrote this had ended in order: nothing was written after it.
    pub clean: bool,
    /// Pieces that were verified and synced, as a bitfield on the wire.
    pub pieces: Vec<u8>,
    /// Each file as it was then; none where there was none.
    pub stamps: Vec<Option<Stamp>>,
}

impl Saved {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut stamps = Vec::with_capacity(self.stamps.len() * STAMP);
        for stamp in &self.stamps {
            let there = stamp.unwrap_or(Stamp { size: 0, mtime_ns: 0, ctime_ns: 0 });
            stamps.push(u8::from(stamp.is_some()));
            stamps.extend(there.size.to_be_bytes());
            stamps.extend(there.mtime_ns.to_be_bytes());
            stamps.extend(there.ctime_ns.to_be_bytes());
        }
        let mut out = Vec::with_capacity(stamps.len() + self.pieces.len() + 512);
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"clean").int(i64::from(self.clean)).bytes(b"files").bytes(&stamps);
        w.bytes(b"hash").bytes(self.hash.as_bytes()).bytes(b"name").bytes(self.name.as_bytes());
        w.bytes(b"pieces").bytes(&self.pieces).bytes(b"version").int(VERSION).end();
        let checksum = Sha1::digest(&out);
        out.extend(checksum);
        out
    }

    /// Reads a file; none where it is not, in every byte, what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
        if Sha1::digest(body).as_slice() != checksum {
            return None;
        }
        let dict = Value::parse(body, SHAPE).ok()?;
        if dict.get(b"version")?.int()? != VERSION {
            return None;
        }
        let files = dict.get(b"files")?.bytes()?;
        let number = |at: &[u8]| at.try_into().map(u64::from_be_bytes).ok();
        let stamps = files.chunks(STAMP).map(|chunk| {
            let (there, rest) = chunk.split_first()?;
            let stamp = Stamp {
                size: number(rest.get(..8)?)?,
                mtime_ns: number(rest.get(8..16)?)?.cast_signed(),
                ctime_ns: number(rest.get(16..24)?)?.cast_signed(),
            };
            Some((*there == 1).then_some(stamp))
        });
        Some(Self {
            hash: Id160::from_slice(dict.get(b"hash")?.bytes()?)?,
            name: dict.get(b"name")?.text()?.to_owned(),
            clean: dict.get(b"clean")?.int()? == 1,
            pieces: dict.get(b"pieces")?.bytes()?.to_vec(),
            stamps: stamps.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Saved {
        let stamp = Stamp { size: 5, mtime_ns: -1, ctime_ns: i64::MAX };
        Saved {
            hash: Id160([7; 20]),
            name: "n".into(),
            clean: true,
            pieces: vec![0xa0],
            stamps: vec![None, Some(stamp)],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for saved in [some(), Saved { clean: false, stamps: vec![], pieces: vec![], ..some() }] {
            assert_eq!(Saved::decode(&saved.encode()), Some(saved));
        }
    }

    #[test]
    fn a_cut_or_changed_file_is_not_believed() {
        let bytes = some().encode();
        for at in 0..bytes.len() {
            assert_eq!(Saved::decode(&bytes[..at]), None);
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Saved::decode(&changed), None);
        }
    }

    #[test]
    fn another_version_is_not_believed() {
        let mut body = some().encode();
        body.truncate(body.len() - CHECKSUM);
        let at = body.windows(3).position(|w| w == b"i1e").unwrap();
        assert_eq!(at, 8, "that is `clean`");
        let at = body.len() - 3;
        body[at] = b'2';
        let checksum = Sha1::digest(&body);
        body.extend(checksum);
        assert_eq!(Saved::decode(&body), None);
    }
}
