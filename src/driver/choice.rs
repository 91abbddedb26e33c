//! Which files of a torrent are meant: numbers and patterns become a choice once the metadata is there.
//!
//! Owns their meaning and what is wrong with them. Must not know flags or where the data goes.

use std::ops::RangeInclusive;

use globset::{GlobBuilder, GlobMatcher};

use crate::swarm::{Sequence, Wanted};
use crate::wire::metainfo::{FileEntry, FileKind, Info};

/// Files by number or by name.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// Places in the torrent's list, counted from 1; those past its end are an error.
    Numbers(RangeInclusive<u64>),
    /// The same, counted from 0, as a link says it (BEP 53); what is past the end is left out.
    Indices(RangeInclusive<u64>),
    /// A glob: with a `/` it is about the whole path below the torrent's folder, without one about the file's name.
    Glob(GlobMatcher),
}

/// Why a choice cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Not a pattern at all.
    #[error("`{0}` is not a pattern for files: {1}")]
    Pattern(String, String),
    /// A number that no file has.
    #[error("there is no file {number}: the torrent has {files}")]
    NoSuchNumber {
        /// The number.
        number: u64,
        /// How many there are, in words.
        files: String,
    },
    /// Numbers that are no files to fetch.
    #[error("{numbers}: {what}, not a file to fetch; the torrent has {files}")]
    NoFile {
        /// The numbers, in words.
        numbers: String,
        /// What they are.
        what: &'static str,
        /// How many files there are, in words.
        files: String,
    },
    /// A pattern that no file matches.
    #[error("no file matches `{0}`")]
    NoMatch(String),
    /// A link that selects nothing.
    #[error("the link selects no file: it names numbers past the end (`so=`), and the torrent has {0}")]
    Nothing(String),
    /// One file was needed.
    #[error("one file can be written to stdout, and {0}")]
    NotOne(String),
}

/// What is wanted of a torrent that may not be known yet.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// The files to fetch; none: all.
    pub files: Vec<Pattern>,
    /// Those to fetch first.
    pub first: Vec<Pattern>,
    /// In what order.
    pub sequence: Sequence,
}

/// A choice among the files of one torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    files: Vec<bool>,
    first: Vec<bool>,
}

impl Pattern {
    /// Reads `3`, `3-5` or a glob.
    pub fn parse(text: &str) -> Result<Self, ChoiceError> {
        let refuse = |why: &str| ChoiceError::Pattern(text.to_owned(), why.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if digits(first) && digits(last) {
            let number = |t: &str| t.parse::<u64>().map_err(|_| refuse("the number is too large"));
            let range = number(first)?..=number(last)?;
            return match (range.start(), range.is_empty()) {
                (0, _) => Err(refuse("files are counted from 1")),
                (_, true) => Err(refuse("the first number is larger than the last")),
                _ => Ok(Self::Numbers(range)),
            };
        }
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        let glob = GlobBuilder::new(text.strip_prefix("./").unwrap_or(text)).literal_separator(true).build();
        glob.map(|glob| Self::Glob(glob.compile_matcher())).map_err(|e| refuse(&e.kind().to_string()))
    }

    /// Marks the files that it means.
    fn mark(&self, info: &Info, marks: &mut [bool]) -> Result<(), ChoiceError> {
        let regular = |(_, f): &(usize, &FileEntry)| f.kind == FileKind::Regular;
        let count = info.files().len() as u64;
        let (first, last) = match self {
            Self::Glob(glob) => {
                let mut found = false;
                for (at, _) in
                    info.files().iter().enumerate().filter(regular).filter(|(_, f)| matches(glob, info, f))
                {
                    (marks[at], found) = (true, true);
                }
                return if found { Ok(()) } else { Err(ChoiceError::NoMatch(glob.glob().glob().to_owned())) };
            }
            Self::Numbers(numbers) => (*numbers.start() - 1, *numbers.end() - 1),
            Self::Indices(indices) => (*indices.start(), (*indices.end()).min(count.saturating_sub(1))),
        };
        let numbered = matches!(self, Self::Numbers(_));
        if numbered && last >= count {
            return Err(ChoiceError::NoSuchNumber { number: last + 1, files: files_of(info) });
        }
        let inside = (first.min(count) as usize)..(last.saturating_add(1).min(count) as usize);
        let mut found = false;
        for (at, _) in info.files().iter().enumerate().take(inside.end).skip(inside.start).filter(regular) {
            (marks[at], found) = (true, true);
        }
        if numbered && !found { Err(no_file(info, first, last)) } else { Ok(()) }
    }
}

/// These places of the list hold only padding, or links.
fn no_file(info: &Info, first: u64, last: u64) -> ChoiceError {
    let inside = info.files().iter().skip(first as usize).take((last - first) as usize + 1);
    let pads = inside.clone().all(|file| file.kind == FileKind::Pad);
    let what = match (pads, inside.clone().any(|file| file.kind == FileKind::Pad)) {
        (true, _) => "padding (BEP 47)",
        (_, true) => "padding and symbolic links (BEP 47)",
        _ => "a symbolic link (BEP 47)",
    };
    let numbers = match last - first {
        0 => format!("number {}", last + 1),
        _ => format!("numbers {}-{}", first + 1, last + 1),
    };
    ChoiceError::NoFile { numbers, what, files: files_of(info) }
}

fn matches(glob: &GlobMatcher, info: &Info, file: &FileEntry) -> bool {
    if !glob.glob().glob().contains('/') {
        return glob.is_match(file.path.split().1);
    }
    let path = file.path.as_str();
    glob.is_match(path) || glob.is_match(format!("{}/{path}", info.name()))
}

fn files_of(info: &Info) -> String {
    let files = info.files().iter().filter(|f| f.kind == FileKind::Regular).count();
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

impl Choice {
    /// Among the files of this torrent; `one` where a single one is needed.
    pub fn resolve(&self, info: &Info, one: bool) -> Result<Chosen, ChoiceError> {
        let regular = info.files().iter().map(|f| f.kind == FileKind::Regular);
        let mut files: Vec<bool> =
            if self.files.is_empty() { regular.collect() } else { vec![false; info.files().len()] };
        let mut first = vec![false; info.files().len()];
        self.files.iter().try_for_each(|pattern| pattern.mark(info, &mut files))?;
        self.first.iter().try_for_each(|pattern| pattern.mark(info, &mut first))?;
        let chosen = Chosen { files, first };
        match chosen.count() {
            0 if !self.files.is_empty() => Err(ChoiceError::Nothing(files_of(info))),
            count if one && count != 1 => {
                let all = self.files.is_empty();
                let what =
                    if all { format!("the torrent has {count}") } else { format!("{count} are selected") };
                Err(ChoiceError::NotOne(what))
            }
            _ => Ok(chosen),
        }
    }
}

impl Chosen {
    /// Everything.
    pub fn all(info: &Info) -> Self {
        let regular = info.files().iter().map(|f| f.kind == FileKind::Regular);
        Self { files: regular.collect(), first: vec![false; info.files().len()] }
    }

    /// Whether this file is to be fetched.
    pub fn has(&self, file: usize) -> bool {
        self.files.get(file).is_some_and(|chosen| *chosen)
    }

    /// How many files are.
    pub fn count(&self) -> usize {
        self.files.iter().filter(|chosen| **chosen).count()
    }

    /// Their places in the torrent's list, counted from 0.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.files.iter().enumerate().filter(|(_, chosen)| **chosen).map(|(at, _)| at)
    }

    /// What that makes of the pieces.
    pub fn wanted(&self, info: &Info, sequence: Sequence) -> Wanted {
        Wanted::files(info, |file| self.files[file], |file| self.first[file]).in_sequence(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bencode::Writer;

    /// Files with these paths; an empty one is padding.
    fn info(paths: &[&str]) -> Info {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for path in paths {
            w.begin_dict();
            if path.is_empty() {
                w.bytes(b"attr").bytes(b"p");
            }
            w.bytes(b"length").int(10).bytes(b"path").begin_list();
            path.split('/').for_each(|c| {
                w.bytes(c.as_bytes());
            });
            w.end().end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(16384);
        w.bytes(b"pieces").bytes(&[0; 20]).end();
        Info::parse(out.into()).unwrap()
    }

    fn resolve(info: &Info, patterns: &[&str]) -> Result<Vec<usize>, ChoiceError> {
        let files: Result<_, _> = patterns.iter().map(|p| Pattern::parse(p)).collect();
        let choice = Choice { files: files?, ..Choice::default() };
        choice.resolve(info, false).map(|chosen| chosen.indices().collect())
    }

    #[test]
    fn numbers_and_globs_choose_files() {
        let info = info(&["a.iso", "", "docs/b.txt", "docs/old/c.txt", "d.ISO"]);
        for (patterns, files) in [
            (&["1"][..], vec![0]),
            (&["1-3"], vec![0, 2]),
            (&["4", "1", "4-5"], vec![0, 3, 4]),
            (&["*.iso"], vec![0]),
            (&["c.*"], vec![3]),
            (&["docs/*"], vec![2]),
            (&["docs/**"], vec![2, 3]),
            (&["top/docs/b.txt"], vec![2]),
            (&["./?.iso", "*.{txt,ISO}"], vec![0, 2, 3, 4]),
            (&[], vec![0, 2, 3, 4]),
        ] {
            assert_eq!(resolve(&info, patterns).unwrap(), files, "{patterns:?}");
        }
    }

    #[test]
    fn what_means_no_file_says_so() {
        let info = info(&["a", "", "b"]);
        for (pattern, words) in [
            ("4", "no file 4: the torrent has 2 files"),
            ("2", "number 2: padding (BEP 47), not a file to fetch; the torrent has 2 files"),
            ("2-2", "number 2: padding"),
            ("1-18446744073709551615", "no file 18446744073709551615"),
            ("18446744073709551616", "too large"),
            ("0", "counted from 1"),
            ("3-2", "larger than the last"),
            ("*.foo", "no file matches `*.foo`"),
            ("", "empty"),
            ("[", "`[` is not a pattern"),
        ] {
            let error = resolve(&info, &[pattern]).unwrap_err().to_string();
            assert!(error.contains(words), "{pattern}: {error}");
        }
    }

    #[test]
    fn a_link_chooses_what_there_is_of_its_numbers() {
        let info = info(&["a", "", "b"]);
        let so = |ranges: &[RangeInclusive<u64>]| {
            let files = ranges.iter().cloned().map(Pattern::Indices).collect();
            Choice { files, ..Choice::default() }
                .resolve(&info, false)
                .map(|c| c.indices().collect::<Vec<_>>())
        };
        assert_eq!(so(&[0..=u64::MAX]), Ok(vec![0, 2]));
        assert_eq!(so(&[7..=9, 2..=2]), Ok(vec![2]));
        assert!(matches!(so(&[7..=9]), Err(ChoiceError::Nothing(_))));
    }

    #[test]
    fn a_stream_is_of_one_file() {
        let info = info(&["a", "", "b"]);
        let one = |patterns: &[&str]| {
            let files = patterns.iter().map(|p| Pattern::parse(p).unwrap()).collect();
            Choice { files, ..Choice::default() }.resolve(&info, true).map(|c| c.count())
        };
        assert_eq!((one(&["b"]), one(&["1"])), (Ok(1), Ok(1)));
        assert!(one(&[]).unwrap_err().to_string().contains("the torrent has 2"));
        assert!(one(&["1-3"]).unwrap_err().to_string().contains("2 are selected"));
    }
}
