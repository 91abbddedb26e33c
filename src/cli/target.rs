//! What TARGET means: a magnet link, an info-hash, or the path of a `.torrent`.
//!
//! Owns the decision and its errors (exit code 27). Reads a torrent file, within its bound. Must not
//! know what is done with the torrent.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::error::{CliError, Code};
use super::progress::{bytes as bytes_in_words, count};
use super::text::visible;
use crate::client::Source;
use crate::id::InfoHash;
use crate::wire::magnet::{Ignored, LeftOut, MAX_RANGES, Magnet, MagnetError};
use crate::wire::metainfo::{Info, MAX_TORRENT_BYTES, Metainfo, MetainfoError};
use crate::wire::pointer::Pointer;

/// What may stand there.
const WHAT_IT_IS: &str = "TARGET is a magnet link (in quotes), an info-hash, or the path of a .torrent file";
/// What helps where the file is damaged.
const AGAIN: &str = "get the .torrent file again, or use its magnet link";

/// A torrent that was named on the command line.
#[derive(Debug, Clone)]
pub enum Target {
    /// A magnet link.
    Magnet(Magnet),
    /// A pointer to a torrent that may change (BEP 46), and what else its link says.
    Pointer(Pointer, Magnet),
    /// A bare info-hash.
    Hash(InfoHash),
    /// A `.torrent` file.
    Torrent {
        /// Its info dictionary.
        info: Arc<Info>,
        /// DHT nodes that it names.
        nodes: Vec<String>,
    },
}

/// A torrent whose hash is known.
#[derive(Debug, Clone)]
pub struct Torrent {
    /// Its hash.
    pub hash: InfoHash,
    /// What the client is asked for.
    pub source: Source,
}

impl Target {
    /// Decides what `text` is; paths are relative to `cwd`.
    pub fn resolve(text: &OsStr, cwd: &Path) -> Result<Self, CliError> {
        if let Some(text) = text.to_str() {
            if Magnet::looks_like(text) {
                if let Some((pointer, link)) = Pointer::with_link(text).map_err(|e| bad_magnet(&e))? {
                    return Ok(Self::Pointer(pointer, link));
                }
                return text.parse().map(Self::Magnet).map_err(|e| bad_magnet(&e));
            }
            if let Ok(hash) = text.trim().parse() {
                return Ok(Self::Hash(hash));
            }
        }
        if text.to_string_lossy().trim().is_empty() {
            return Err(CliError::new(Code::BadTarget, "TARGET is empty").hint(WHAT_IT_IS));
        }
        let path = cwd.join(text);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                let message = format!("{}: a folder, not a .torrent file", text.display());
                Err(CliError::new(Code::BadTarget, message).hint("to share a folder: dhtget share FOLDER"))
            }
            Ok(_) => read_torrent(&path),
            Err(cause) => Err(no_target(text, &cause)),
        }
    }

    /// The torrent; none of a pointer, which has to be followed first.
    pub fn torrent(&self) -> Option<Torrent> {
        let (hash, source) = match self {
            Self::Pointer(..) => return None,
            Self::Magnet(magnet) => (magnet.hash, Source::Hash(magnet.hash)),
            Self::Hash(hash) => (*hash, Source::Hash(*hash)),
            Self::Torrent { info, .. } => (info.hash(), Source::Info(Arc::clone(info))),
        };
        Some(Torrent { hash, source })
    }

    /// The link, where it is one.
    pub fn link(&self) -> Option<&Magnet> {
        match self {
            Self::Magnet(magnet) | Self::Pointer(_, magnet) => Some(magnet),
            Self::Hash(_) | Self::Torrent { .. } => None,
        }
    }

    /// The name, where it is known; in a magnet link it is a stranger's claim.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Torrent { info, .. } => Some(info.name()),
            _ => self.link().and_then(|link| link.name.as_deref()),
        }
    }

    /// Peers that the link names.
    pub fn peers(&self) -> Vec<String> {
        self.link().iter().flat_map(|link| &link.peers).map(ToString::to_string).collect()
    }

    /// DHT nodes that the torrent file names.
    pub fn nodes(&self) -> &[String] {
        match self {
            Self::Torrent { nodes, .. } => nodes,
            _ => &[],
        }
    }

    /// What of the link is not used, in a sentence.
    pub fn unused(&self) -> Option<String> {
        let ignored = &self.link()?.ignored;
        let malformed = [&ignored.peers, &ignored.ranges].map(|left| left.unread + left.excess);
        let note = format!(
            "not used of the magnet link: {} trackers, {} web seeds, {} other hashes, {} malformed parts",
            ignored.trackers,
            ignored.web_seeds,
            ignored.topics,
            malformed.iter().sum::<usize>()
        );
        (*ignored != Ignored::default()).then_some(note)
    }

    /// What of the link would have been used if it could be, for whoever expects it to be: another torrent, and peers
    /// that cannot be read.
    pub fn lost(&self) -> Option<String> {
        let ignored = &self.link()?.ignored;
        let mut lost = Vec::new();
        if ignored.torrents > 0 {
            let more = count(ignored.torrents, "more torrent");
            lost.push(format!("it names {more} (`xt`), and only the first is meant"));
        }
        if ignored.peers.unread > 0 {
            lost.push(format!("`x.pe`: {}", left_out(&ignored.peers, "HOST:PORT")));
        }
        (!lost.is_empty()).then(|| format!("warning: the magnet link: {}", lost.join("; ")))
    }

    /// What of the link's own selection of files is left out, and what that means.
    pub fn lost_selection(&self) -> Option<String> {
        let link = self.link()?;
        let ranges = &link.ignored.ranges;
        let mut lost = Vec::new();
        if ranges.unread > 0 {
            lost.push(left_out(ranges, "numbers of files"));
        }
        if ranges.excess > 0 {
            lost.push(format!("the first {MAX_RANGES} parts count, {} more are left out", ranges.excess));
        }
        if link.select.is_empty() {
            lost.push("nothing of the selection can be read, so every file is meant".to_owned());
        }
        let any = ranges.unread + ranges.excess > 0;
        any.then(|| format!("warning: `so=` of the magnet link: {}", lost.join("; ")))
    }
}

/// The first of them by their words.
fn left_out(left: &LeftOut, wanted: &str) -> String {
    let examples: Vec<String> = left.examples.iter().map(|text| format!("`{}`", visible(text))).collect();
    let more = match left.unread.saturating_sub(left.examples.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let are = if left.unread == 1 { "is" } else { "are" };
    format!("{}{more} {are} not understood as {wanted}, and left out", examples.join(", "))
}

fn bad_magnet(error: &MagnetError) -> CliError {
    let hint = match error {
        MagnetError::V2Only => "only v1 and hybrid torrents are supported: look for a link with `urn:btih:`",
        MagnetError::NotMagnet | MagnetError::TooLong(_) => {
            "a magnet link looks like magnet:?xt=urn:btih:HASH"
        }
        MagnetError::NoTopic => "put the link in quotes: the shell cuts it at each `&`",
        MagnetError::Key | MagnetError::Salt(_) => {
            "copy the link again, whole; `dhtget publish` prints such links"
        }
        MagnetError::Hash(_) => "copy the link again: 40 hex or 32 base32 digits follow `urn:btih:`",
    };
    CliError::new(Code::BadTarget, error.to_string()).hint(hint)
}

fn no_target(text: &OsStr, cause: &std::io::Error) -> CliError {
    let shown = text.to_string_lossy();
    let length = shown.chars().count();
    let word = !shown.is_empty() && shown.bytes().all(|b| b.is_ascii_alphanumeric());
    let (message, hint) = if word && (30..=70).contains(&length) {
        let v2 = length == 64 || length == 68;
        let hint = if v2 {
            "64 digits are a v2 hash (BEP 52); only v1 and hybrid torrents are supported"
        } else {
            "copy it again, whole"
        };
        (
            format!(
                "`{shown}`: an info-hash has 40 hex or 32 base32 digits, this one has {length} characters"
            ),
            hint,
        )
    } else if shown.starts_with("http://") || shown.starts_with("https://") {
        (
            format!("`{shown}`: a web address is not a target"),
            "download the .torrent first, then give its path",
        )
    } else {
        let message = format!("`{shown}`: neither a magnet link nor an info-hash, and as a path: {cause}");
        (message, WHAT_IT_IS)
    };
    CliError::new(Code::BadTarget, message).hint(hint)
}

fn read_torrent(path: &Path) -> Result<Target, CliError> {
    let refuse = |why: String, hint: &str| {
        CliError::new(Code::BadTarget, format!("{}: {why}", path.display())).hint(hint)
    };
    let unread = |error: std::io::Error| refuse(error.to_string(), AGAIN);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    file.take(MAX_TORRENT_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MAX_TORRENT_BYTES {
        let most = bytes_in_words(MAX_TORRENT_BYTES);
        return Err(refuse(format!("larger than {most}, the most that is read of a .torrent file"), AGAIN));
    }
    let metainfo = Metainfo::parse(&bytes.into())
        .map_err(|e| refuse(format!("not a usable .torrent file: {e}"), torrent_hint(&e)))?;
    Ok(Target::Torrent { info: Arc::new(metainfo.info), nodes: metainfo.nodes })
}

/// What helps; another copy of the same torrent does not where it was made like this.
fn torrent_hint(error: &MetainfoError) -> &'static str {
    match error {
        MetainfoError::V2Only => "look for a BitTorrent v1 or hybrid torrent of the same content",
        MetainfoError::UnsafePath(_) => {
            "the torrent itself is made like this and cannot be used: it would write outside its folder, or under no name; \
             another torrent of the same content may do"
        }
        _ => AGAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::info::write_torrent;
    use crate::wire::bencode::Writer;

    fn fails(text: &str, cwd: &Path) -> CliError {
        Target::resolve(OsStr::new(text), cwd).unwrap_err()
    }

    #[test]
    fn every_bad_target_is_code_27_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bad.torrent"), b"d4:infoi1ee").unwrap();
        let large = File::create(dir.path().join("large.torrent")).unwrap();
        large.set_len(MAX_TORRENT_BYTES + 1).unwrap();
        for (text, word) in [
            ("magnet:?dn=x", "names no torrent"),
            ("magnet:?xt=urn:btmh:1220aa", "v2"),
            ("magnet:?xt=urn:btih:abc", "this one has 3"),
            ("magnet:?xs=urn:btpk:abc", "64 hex digits"),
            (&"a".repeat(39), "this one has 39"),
            (&"a".repeat(64), "this one has 64"),
            ("https://example.org/a.torrent", "web address"),
            ("absent.torrent", "neither a magnet link"),
            ("", "TARGET is empty"),
            (" \n", "TARGET is empty"),
            (".", "folder"),
            ("bad.torrent", "no valid `info`"),
            ("large.torrent", "larger than"),
        ] {
            let error = fails(text, dir.path());
            assert_eq!(error.code, Code::BadTarget, "{text}");
            assert!(error.message.contains(word) && error.hint.is_some(), "{text}: {error}");
        }
    }

    /// As `share --torrent` writes one for a folder of very many files.
    #[test]
    fn a_torrent_of_a_hundred_thousand_files_is_read_back() {
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"files").begin_list();
        for number in 0..100_000 {
            let (folder, name) = (format!("{:050}", number / 1000), format!("{number:069}"));
            w.begin_dict().bytes(b"length").int(1).bytes(b"path").begin_list();
            w.bytes(folder.as_bytes()).bytes(name.as_bytes()).end().end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(1 << 17);
        w.bytes(b"pieces").bytes(&[7; 20]).end();
        let info = Info::parse(raw.into()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("many.torrent");
        write_torrent(&info, &path, false).unwrap();
        assert!(path.metadata().unwrap().len() > 12_000_000);
        let target = Target::resolve(OsStr::new("many.torrent"), dir.path()).unwrap();
        assert_eq!(target.torrent().unwrap().hash, info.hash());
    }

    #[test]
    fn a_hash_and_a_link_are_told_apart() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        let link = format!("magnet:?xt=urn:btih:{hex}&x.pe=1.2.3.4:5&tr=http://a&so=1");
        let cwd = Path::new("/");
        let target = Target::resolve(OsStr::new(&link), cwd).unwrap();
        let hash = target.torrent().unwrap().hash.to_string();
        assert_eq!((hash.as_str(), target.peers()), (hex, vec!["1.2.3.4:5".to_owned()]));
        assert!(target.unused().unwrap().contains("1 trackers"));
        let link = format!("magnet:?xs=urn:btpk:{}&x.pe=1.2.3.4:5", "ab".repeat(32));
        let target = Target::resolve(OsStr::new(&link), cwd).unwrap();
        assert!(matches!(target, Target::Pointer(..)) && target.torrent().is_none());
        assert_eq!(target.peers(), ["1.2.3.4:5"]);
        assert!(matches!(Target::resolve(OsStr::new(hex), cwd), Ok(Target::Hash(_))));
    }

    #[test]
    fn what_of_a_link_cannot_be_read_is_named() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        let target = |rest: &str| {
            let link = format!("magnet:?xt=urn:btih:{hex}{rest}");
            Target::resolve(OsStr::new(&link), Path::new("/")).unwrap()
        };
        let selection = |rest: &str| target(rest).lost_selection();
        let all = "nothing of the selection can be read, so every file is meant";
        for (rest, part) in [("&so=a", "`a` is"), ("&so=0-", "`0-` is"), ("&so=3-1", "`3-1` is")] {
            let note = selection(rest).unwrap();
            assert!(note.contains(part) && note.ends_with(all), "{note}");
        }
        let note = selection("&so=0,zz").unwrap();
        assert!(note.contains("`zz` is not understood") && !note.contains(all), "{note}");
        let note = selection("&so=a,b,c,d,e,f%1b[0m").unwrap();
        assert!(note.contains("`a`, `b`, `c`, `d` and 2 more are not"), "{note}");
        assert_eq!((selection("&so=0,2-4"), selection("&so=")), (None, None));
        assert_eq!(target("&so=a&tr=http://a&xt=urn:btmh:1220aa").lost(), None);
        let note = target(&format!("&xt=urn:btih:{}&x.pe=1.2.3.4", "f".repeat(40))).lost().unwrap();
        assert!(note.contains("1 more torrent (`xt`)") && note.contains("`1.2.3.4` is not"), "{note}");
    }

    #[test]
    fn a_torrent_that_can_never_be_used_is_not_to_be_fetched_again() {
        for (error, words) in [
            (MetainfoError::V2Only, "v1 or hybrid"),
            (MetainfoError::UnsafePath("..".into()), "cannot be used"),
            (MetainfoError::Missing("info"), "again"),
        ] {
            assert!(torrent_hint(&error).contains(words), "{error}");
        }
    }
}
