//! Torrent files and info dictionaries (BEP 3, BEP 47), and the arithmetic of pieces and blocks.
//!
//! Owns [`Info`], [`PieceLayout`] and [`PieceIndex`]; an index can only be had from a layout, so one that
//! exists is valid. File paths come from strangers: what could leave the target folder is refused, what
//! is merely odd is changed visibly. Must not know disk, peers or the DHT.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use super::bencode::{BencodeError, Limits, Value, Writer};
use crate::id::{Id160, InfoHash};

/// Blocks are asked for in this size, which every client serves (BEP 3: "2^14").
pub const BLOCK_LEN: u32 = 16 * 1024;
/// An info dictionary may be this large, from peers and in a file: real ones reach 14 MB.
pub const MAX_METADATA_BYTES: usize = 32 << 20;
/// A `.torrent` larger than this is not read: the largest info dictionary, and room for trackers and the piece layers of
/// a hybrid (BEP 52) beside it.
pub const MAX_TORRENT_BYTES: u64 = MAX_METADATA_BYTES as u64 + (8 << 20);
/// More pieces than this are refused: bitfields and hashes would no longer be small.
pub const MAX_PIECES: u64 = 2_097_152;
/// Piece lengths above this are refused: one piece must fit a verification in memory terms (real ones end at 64 MiB).
pub const MAX_PIECE_LENGTH: u64 = 1 << 29;
/// Folders deep a file may lie.
pub const MAX_PATH_DEPTH: usize = 100;
/// Bytes of one path component; file systems end at 255, and a suffix must still fit.
pub const MAX_NAME_BYTES: usize = 240;

/// Why an info dictionary or torrent file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetainfoError {
    /// Not bencoded.
    #[error("not bencoded: {0}")]
    Bencode(#[from] BencodeError),
    /// A required key is absent or of the wrong type.
    #[error("no valid `{0}`")]
    Missing(&'static str),
    /// A number is out of its range.
    #[error("`{0}` is out of range")]
    Range(&'static str),
    /// The number of piece hashes does not fit the sizes.
    #[error("{hashes} piece hashes for {pieces} pieces")]
    Hashes {
        /// Hashes present.
        hashes: u64,
        /// Hashes the sizes ask for.
        pieces: u64,
    },
    /// A path that could leave the target folder, is empty, or hides a NUL.
    #[error("unsafe file path {0:?}")]
    UnsafePath(String),
    /// Only version 2 pieces (BEP 52).
    #[error("a v2-only torrent (BEP 52); only v1 and hybrid torrents are supported")]
    V2Only,
    /// The bytes do not hash to the wanted info-hash.
    #[error("the info dictionary hashes to {found}, not to {wanted}")]
    WrongHash {
        /// What was asked for.
        wanted: InfoHash,
        /// What came.
        found: InfoHash,
    },
}

/// A piece of one layout; valid by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The index as the wire writes it.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The index into a table with a row for each piece.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// How bytes are cut into pieces and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceLayout {
    total: u64,
    piece_length: u32,
    count: u32,
}

impl PieceLayout {
    /// A layout of `total` bytes in pieces of `piece_length`.
    pub fn new(total: u64, piece_length: u64) -> Result<Self, MetainfoError> {
        if piece_length == 0 || piece_length > MAX_PIECE_LENGTH {
            return Err(MetainfoError::Range("piece length"));
        }
        let count = total.div_ceil(piece_length);
        if count > MAX_PIECES {
            return Err(MetainfoError::Range("pieces"));
        }
        Ok(Self { total, piece_length: piece_length as u32, count: count as u32 })
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of every piece but the last.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Pieces in all.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The piece with this number, if there is one.
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.count).then_some(PieceIndex(index))
    }

    /// Every piece, in order.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.count).map(PieceIndex)
    }

    /// Where a piece begins in the whole, in bytes.
    pub fn offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// Bytes of this piece.
    pub fn len_of(&self, piece: PieceIndex) -> u32 {
        (self.total - self.offset(piece)).min(u64::from(self.piece_length)) as u32
    }

    /// Blocks of this piece.
    pub fn blocks_of(&self, piece: PieceIndex) -> u32 {
        self.len_of(piece).div_ceil(BLOCK_LEN)
    }

    /// Bytes of block `block` of a piece; 0 past its end.
    pub fn block_len(&self, piece: PieceIndex, block: u32) -> u32 {
        let begin = u64::from(block) * u64::from(BLOCK_LEN);
        u64::from(self.len_of(piece)).saturating_sub(begin).min(u64::from(BLOCK_LEN)) as u32
    }

    /// The pieces that a byte range touches.
    pub fn touching(&self, offset: u64, length: u64) -> impl Iterator<Item = PieceIndex> + use<> {
        let size = u64::from(self.piece_length);
        let end = if length == 0 { offset } else { offset.saturating_add(length) };
        let (first, last) = (offset / size, end.div_ceil(size).min(u64::from(self.count)));
        (first..if length == 0 { first } else { last }).map(|i| PieceIndex(i as u32))
    }
}

/// What stands at a file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file to write.
    Regular,
    /// Zeros that align the next file (BEP 47, attribute `p`); never written.
    Pad,
    /// A symbolic link (BEP 47, attribute `l`); never created, because it could point anywhere.
    Symlink,
}

/// Safe components below the target folder, in one piece, since a torrent may have very many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath(Box<str>);

impl FilePath {
    /// Joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One after the other; none for what is never written.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }

    /// The folders, joined by `/`, and the last component.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it lies; for a single file, its name alone.
    pub path: FilePath,
    /// Bytes.
    pub length: u64,
    /// Where it begins in the whole, in bytes.
    pub offset: u64,
    /// What it is.
    pub kind: FileKind,
}

/// A checked info dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    raw: Bytes,
    hash: InfoHash,
    name: String,
    layout: PieceLayout,
    hashes: Bytes,
    files: Arc<[FileEntry]>,
    multi_file: bool,
    private: bool,
}

impl Info {
    /// Reads an info dictionary from its raw bytes, which are kept: the hash is over them.
    pub fn parse(raw: Bytes) -> Result<Self, MetainfoError> {
        let dict = Value::parse(&raw, Limits::TORRENT)?;
        if !dict.is_dict() {
            return Err(MetainfoError::Missing("info"));
        }
        let name = text_of(&dict, b"name.utf-8", b"name").ok_or(MetainfoError::Missing("name"))?;
        let name = safe_component(&name)?;
        let piece_length =
            dict.get(b"piece length").and_then(|v| v.uint()).ok_or(MetainfoError::Missing("piece length"))?;
        let (files, multi_file) = read_files(&dict, &name)?;
        let total = files.last().map_or(0, |f| f.offset + f.length);
        let layout = PieceLayout::new(total, piece_length)?;
        let hashes = match dict.get(b"pieces").and_then(|v| v.bytes()) {
            Some(h) => raw.slice_ref(h),
            None if dict.get(b"file tree").is_some() => return Err(MetainfoError::V2Only),
            None => return Err(MetainfoError::Missing("pieces")),
        };
        if hashes.len() as u64 != u64::from(layout.count()) * 20 {
            return Err(MetainfoError::Hashes {
                hashes: hashes.len() as u64 / 20,
                pieces: u64::from(layout.count()),
            });
        }
        let private = dict.get(b"private").and_then(|v| v.int()) == Some(1);
        let hash = hash_of(&raw);
        Ok(Self { hash, name, layout, hashes, files: files.into(), multi_file, private, raw })
    }

    /// Like [`Info::parse`], and refuses bytes that are not what was asked for.
    pub fn parse_expecting(raw: Bytes, wanted: InfoHash) -> Result<Self, MetainfoError> {
        let found = hash_of(&raw);
        if found != wanted {
            return Err(MetainfoError::WrongHash { wanted, found });
        }
        Self::parse(raw)
    }

    /// The dictionary's bytes as they came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// SHA-1 of [`Info::raw`].
    pub fn hash(&self) -> InfoHash {
        self.hash
    }

    /// The suggested name, made safe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes.
    pub fn layout(&self) -> &PieceLayout {
        &self.layout
    }

    /// All files, pads too, in the order of their bytes.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The same, to be held beside it.
    pub fn shared_files(&self) -> Arc<[FileEntry]> {
        self.files.clone()
    }

    /// Whether the files lie in a folder of the torrent's name.
    pub fn is_multi_file(&self) -> bool {
        self.multi_file
    }

    /// Whether only its trackers may name peers (BEP 27).
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// SHA-1 that a piece must have.
    pub fn piece_hash(&self, piece: PieceIndex) -> [u8; 20] {
        let at = piece.at() * 20;
        self.hashes.get(at..at + 20).and_then(|h| h.try_into().ok()).unwrap_or_default()
    }
}

/// The info-hash of an info dictionary's raw bytes.
pub fn hash_of(raw: &[u8]) -> InfoHash {
    Id160(Sha1::digest(raw).into())
}

fn text_of(dict: &Value<'_>, utf8_key: &[u8], key: &[u8]) -> Option<String> {
    let bytes = dict.get(utf8_key).and_then(|v| v.bytes()).or_else(|| dict.get(key)?.bytes())?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn kind_of(dict: &Value<'_>) -> FileKind {
    match dict.get(b"attr").and_then(|v| v.bytes()) {
        Some(attr) if attr.contains(&b'p') => FileKind::Pad,
        Some(attr) if attr.contains(&b'l') => FileKind::Symlink,
        _ => FileKind::Regular,
    }
}

fn read_files(dict: &Value<'_>, name: &str) -> Result<(Vec<FileEntry>, bool), MetainfoError> {
    let Some(list) = dict.get(b"files").filter(Value::is_list) else {
        let length = dict.get(b"length").and_then(|v| v.uint());
        if length.is_none() && dict.get(b"file tree").is_some() {
            return Err(MetainfoError::V2Only);
        }
        let length = length.ok_or(MetainfoError::Missing("length"))?;
        let file = FileEntry { path: FilePath(name.into()), length, offset: 0, kind: FileKind::Regular };
        return Ok((vec![file], false));
    };
    let mut files = Vec::new();
    let mut offset = 0u64;
    for entry in list.list() {
        let length = entry.get(b"length").and_then(|v| v.uint()).ok_or(MetainfoError::Missing("length"))?;
        let kind = kind_of(&entry);
        let path = match kind {
            FileKind::Regular => read_path(&entry)?,
            FileKind::Pad | FileKind::Symlink => FilePath(Box::default()),
        };
        let end = offset.checked_add(length).filter(|&e| e <= i64::MAX as u64);
        files.push(FileEntry { path, length, offset, kind });
        offset = end.ok_or(MetainfoError::Range("length"))?;
    }
    if files.is_empty() {
        return Err(MetainfoError::Missing("files"));
    }
    separate_duplicates(&mut files);
    Ok((files, true))
}

fn read_path(entry: &Value<'_>) -> Result<FilePath, MetainfoError> {
    let list = entry.get(b"path.utf-8").filter(Value::is_list).or_else(|| entry.get(b"path"));
    let list = list.filter(Value::is_list).ok_or(MetainfoError::Missing("path"))?;
    let mut path = String::new();
    for (depth, component) in list.list().enumerate() {
        let bytes = component.bytes().ok_or(MetainfoError::Missing("path"))?;
        if depth >= MAX_PATH_DEPTH {
            return Err(MetainfoError::Range("path"));
        }
        if depth > 0 {
            path.push('/');
        }
        path.push_str(&safe_component(&String::from_utf8_lossy(bytes))?);
    }
    if path.is_empty() {
        return Err(MetainfoError::UnsafePath(String::new()));
    }
    Ok(FilePath(path.into()))
}

/// Refuses what could climb or be cut short; replaces control characters and shortens what no file system takes.
fn safe_component(name: &str) -> Result<String, MetainfoError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(MetainfoError::UnsafePath(name.to_owned()));
    }
    let shown: String = name
        .chars()
        .map(|c| if c.is_control() || c == '\\' || c == char::REPLACEMENT_CHARACTER { '_' } else { c })
        .collect();
    if shown.len() <= MAX_NAME_BYTES {
        return Ok(shown);
    }
    let extension = match shown.rfind('.') {
        Some(dot) if shown.len() - dot <= 16 => &shown[dot..],
        _ => "",
    };
    let keep = shown.floor_char_boundary(MAX_NAME_BYTES - extension.len() - 1);
    Ok(format!("{}~{extension}", &shown[..keep]))
}

/// Two files never share a path, and no file stands where another needs a folder.
fn separate_duplicates(files: &mut [FileEntry]) {
    if !has_duplicates(files) {
        return;
    }
    // NUL, which no component holds, sorts before everything: in order, what lies in a folder follows it at once. A set of all
    // folders would cost depth times more.
    let key = |path: &str| path.replace('/', "\0");
    let regular = files.iter().filter(|f| f.kind == FileKind::Regular);
    let wanted: BTreeSet<String> = regular.map(|f| key(f.path.as_str())).collect();
    let is_folder = |path: &str| {
        let next = wanted.range::<str, _>((Bound::Excluded(path), Bound::Unbounded)).next();
        next.and_then(|next| next.strip_prefix(path)).is_some_and(|rest| rest.starts_with('\0'))
    };
    let mut taken = BTreeSet::new();
    let mut next_suffix: BTreeMap<FilePath, u32> = BTreeMap::new();
    for file in files.iter_mut().filter(|f| f.kind == FileKind::Regular) {
        let wanted = file.path.clone();
        loop {
            let path = key(file.path.as_str());
            if !is_folder(&path) && taken.insert(path) {
                break;
            }
            let suffix = next_suffix.entry(wanted.clone()).or_insert(1);
            *suffix += 1;
            file.path = FilePath(format!("{wanted}~{suffix}").into());
        }
    }
}

/// Whether two files have one path, or one lies in another.
fn has_duplicates(files: &[FileEntry]) -> bool {
    let mut paths: Vec<&FilePath> =
        files.iter().filter(|f| f.kind == FileKind::Regular).map(|f| &f.path).collect();
    paths.sort_unstable_by(|a, b| a.components().cmp(b.components()));
    paths.windows(2).any(|pair| {
        let [first, second] = pair else { return false };
        let rest = second.as_str().strip_prefix(first.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A `.torrent` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// The info dictionary.
    pub info: Info,
    /// DHT nodes that the file names (BEP 5, "Torrent File Extensions"), as `host:port`.
    pub nodes: Vec<String>,
}

impl Metainfo {
    /// DHT nodes kept of one file; more help nobody.
    const MAX_NODES: usize = 64;

    /// Reads a `.torrent`.
    pub fn parse(bytes: &Bytes) -> Result<Self, MetainfoError> {
        if bytes.len() as u64 > MAX_TORRENT_BYTES {
            return Err(MetainfoError::Range("size"));
        }
        let (dict, _) = Value::parse_prefix(bytes, Limits::TORRENT)?;
        let info = dict.get(b"info").filter(Value::is_dict).ok_or(MetainfoError::Missing("info"))?;
        let nodes = dict.get(b"nodes").into_iter().flat_map(|v| v.list());
        let nodes = nodes.filter_map(|pair| {
            let mut pair = pair.list();
            let (host, port) = (pair.next()?.text()?, pair.next()?.uint()?);
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (1..=65535).contains(&port).then(|| format!("{host}:{port}"))
        });
        Ok(Self {
            info: Info::parse(bytes.slice_ref(info.raw()))?,
            nodes: nodes.take(Self::MAX_NODES).collect(),
        })
    }

    /// Writes a `.torrent` around an info dictionary, byte for byte.
    pub fn emit(info: &Info) -> Vec<u8> {
        let mut out = Vec::with_capacity(info.raw.len() + 32);
        Writer::new(&mut out).begin_dict().bytes(b"info").raw(&info.raw).end();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(name: &[u8], length: i64, piece_length: i64, hashes: usize) -> Bytes {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"length").int(length).bytes(b"name").bytes(name);
        w.bytes(b"piece length").int(piece_length).bytes(b"pieces").bytes(&vec![1; hashes * 20]).end();
        out.into()
    }

    fn multi(paths: &[&[&str]]) -> Bytes {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for path in paths {
            w.begin_dict().bytes(b"length").int(1).bytes(b"path").begin_list();
            for component in *path {
                w.bytes(component.as_bytes());
            }
            w.end().end();
        }
        w.end().bytes(b"name").bytes(b"n").bytes(b"piece length").int(16384);
        w.bytes(b"pieces").bytes(&[0; 20]).end();
        out.into()
    }

    #[test]
    fn a_single_file_and_its_short_last_piece() {
        let info = Info::parse(single(b"a.bin", 40_000, 16_384, 3)).unwrap();
        let layout = info.layout();
        let last = layout.piece(2).unwrap();
        assert_eq!((layout.len_of(last), layout.blocks_of(last), layout.block_len(last, 0)), (7232, 1, 7232));
        assert!(layout.piece(3).is_none());
        assert_eq!(layout.touching(16_383, 2).map(PieceIndex::get).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(layout.touching(16_384, 0).count(), 0);
        assert!(!info.is_multi_file());
    }

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        for path in [&["..", "x"][..], &["a", ".."], &["/etc", "passwd"], &["a/b"], &["a\0b"], &[""], &[]] {
            assert!(matches!(Info::parse(multi(&[path])), Err(MetainfoError::UnsafePath(_))), "{path:?}");
        }
        assert!(matches!(Info::parse(single(b"../x", 1, 16_384, 1)), Err(MetainfoError::UnsafePath(_))));
    }

    #[test]
    fn odd_names_are_changed_visibly_and_never_merged() {
        let info = Info::parse(multi(&[&["a\nb"], &["same"], &["same"], &["same", "inner"]])).unwrap();
        let paths: Vec<_> = info.files().iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a_b", "same~2", "same~3", "same/inner"]);
        let long = "x".repeat(300) + ".tar";
        let info = Info::parse(multi(&[&[&long]])).unwrap();
        let path = info.files()[0].path.as_str();
        assert!(path.len() <= MAX_NAME_BYTES && path.ends_with("~.tar"));
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        assert!(matches!(
            Info::parse(single(b"a", 40_000, 16_384, 2)),
            Err(MetainfoError::Hashes { hashes: 2, pieces: 3 })
        ));
        assert_eq!(Info::parse(single(b"a", -1, 16_384, 1)), Err(MetainfoError::Missing("length")));
        assert_eq!(Info::parse(single(b"a", 1, 0, 1)), Err(MetainfoError::Range("piece length")));
        assert_eq!(Info::parse(single(b"a", i64::MAX, 16_384, 1)), Err(MetainfoError::Range("pieces")));
        assert_eq!(Info::parse(single(b"a", 1, 1 << 40, 1)), Err(MetainfoError::Range("piece length")));
    }

    #[test]
    fn a_torrent_file_round_trips_its_raw_info() {
        let info = Info::parse(single(b"a", 5, 16_384, 1)).unwrap();
        let bytes = Bytes::from(Metainfo::emit(&info));
        assert_eq!(Metainfo::parse(&bytes).unwrap().info.hash(), info.hash());
        assert_eq!(
            Info::parse_expecting(info.raw().clone(), InfoHash::ZERO).unwrap_err(),
            MetainfoError::WrongHash { wanted: InfoHash::ZERO, found: info.hash() }
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = Metainfo::parse(&Bytes::from(bytes));
        }
    }
}
