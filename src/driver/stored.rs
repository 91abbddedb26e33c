//! Payload that stays on disk until the socket takes it: where it lies, and making sure that it is in memory by then.
//!
//! Owns no file; holds those open that it names. Must not know sockets, pieces or peers.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

use super::handles::OpenFile;

/// Bytes of one file that follow each other.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The file; none for padding, which is zeros.
    pub file: Option<Arc<OpenFile>>,
    /// Where in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A range of a torrent, file by file.
#[derive(Debug, Clone, Default)]
pub struct Stored(Vec<Stretch>);

impl Stored {
    /// Adds what follows.
    pub fn push(&mut self, stretch: Stretch) {
        self.0.push(stretch);
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|s| s.length).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part from `begin` on, `length` bytes of it, as far as it goes.
    pub fn cut(&self, begin: u64, length: u64) -> impl Iterator<Item = Stretch> + '_ {
        let end = begin.saturating_add(length);
        let mut at = 0;
        self.0.iter().filter_map(move |stretch| {
            let (from, to) = (at.max(begin), (at + stretch.length).min(end));
            let skipped = from.saturating_sub(at);
            at += stretch.length;
            let length = to.checked_sub(from).filter(|l| *l > 0)?;
            Some(Stretch { file: stretch.file.clone(), offset: stretch.offset + skipped, length })
        })
    }
}

/// Has the system bring a range of a file into its memory and waits for that. An error where the file is shorter.
///
/// The last byte is waited for, not each page: what lies between was asked for in the same breath, and a page that is still
/// missing when it is sent costs a short wait, no more.
pub fn warm(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let Some(length) = NonZeroU64::new(length) else { return Ok(()) };
    let last = offset + length.get() - 1;
    let here = |at| {
        let mut byte = [0];
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) == Ok(1)
    };
    if here(offset) && here(last) {
        return Ok(());
    }
    // Only advice: where it is not taken, the byte below still comes, and with it what the system reads ahead.
    let _ = rustix::fs::fadvise(file, offset, Some(length), Advice::WillNeed);
    file.read_exact_at(&mut [0], last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(file: Option<&Arc<OpenFile>>, offset: u64, length: u64) -> Stretch {
        Stretch { file: file.cloned(), offset, length }
    }

    #[test]
    fn a_block_is_cut_out_across_files_and_padding() {
        let file = Arc::new(OpenFile::from(tempfile::tempfile().unwrap()));
        let mut stored = Stored::default();
        stored.push(stretch(Some(&file), 100, 10));
        stored.push(stretch(None, 0, 6));
        stored.push(stretch(Some(&file), 0, 20));
        assert_eq!(stored.len(), 36);
        let cut = |begin, length| -> Vec<_> {
            stored.cut(begin, length).map(|s| (s.file.is_some(), s.offset, s.length)).collect()
        };
        assert_eq!(cut(0, 10), [(true, 100, 10)]);
        assert_eq!(cut(5, 20), [(true, 105, 5), (false, 0, 6), (true, 0, 9)]);
        assert_eq!(cut(30, 100), [(true, 14, 6)]);
        assert_eq!(cut(36, 1), []);
    }

    #[test]
    fn a_file_that_became_shorter_is_told_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        assert!(warm(&file, 0, 100).is_ok() && warm(&file, 99, 1).is_ok() && warm(&file, 100, 0).is_ok());
        assert_eq!(warm(&file, 50, 51).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
