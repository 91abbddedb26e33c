//! Reads the tree and fails, with file and line, on what the house rules forbid.
//!
//! Each rule is a function from one file's text to its violations, a test over the tree, and a case in
//! [`each_rule_catches_its_violation`]. Comments and strings are blanked before a rule looks, so that
//! prose may name what code may not do; `#[cfg(test)]` code is left out where a rule is about the rest.

use std::fmt;
use std::path::Path;

/// Floors from the ground up: an arrow runs to a lower one, or within its own room.
const FLOORS: [&[&str]; 9] = [
    &["id", "rng"],
    &["wire"],
    &["dht", "network", "peer", "swarm"],
    &["driver"],
    &["client"],
    &["web"],
    &["cli"],
    &["lib"],
    &["main"],
];
/// Arrows between rooms of one floor. `id` draws random ids.
const SIDEWAYS: [(&str, &str); 2] = [("id", "rng"), ("swarm", "peer")];
/// Rooms of the machines and below: no world here.
const PURE: [&str; 7] = ["id", "rng", "wire", "network", "dht", "peer", "swarm"];
/// Rooms whose state machines must behave the same with the same seed.
const MACHINES: [&str; 4] = ["dht", "network", "peer", "swarm"];
/// Where the clock may be read: the one clock, and the start of the process.
const CLOCKS: [&str; 2] = ["src/driver/clock.rs", "src/main.rs"];
/// Files that may hold a `HashMap` in a machine, each with its reason in the file. None does.
const HASH_MAPS: [&str; 0] = [];
/// Files that may hold `unsafe`, each with its reason in the file and tests that `.ci/run` repeats: `lanes` under the
/// address sanitizer, `resident` under valgrind.
const UNSAFE: [&str; 2] = ["src/driver/lanes.rs", "src/driver/resident.rs"];
/// Lines of one file before its tests.
const MAX_FILE_LINES: usize = 500;
/// Lines of one function.
const MAX_FUNCTION_LINES: usize = 70;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helpers", "common", "misc", "manager"];

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// One file, as the rules see it.
struct Source {
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked; lines stay where they are.
    code: Vec<String>,
    /// Whether a line is inside `#[cfg(test)]`.
    test: Vec<bool>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let whole_file =
            path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        let test = if whole_file { vec![true; code.len()] } else { test_lines(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, test }
    }

    /// Lines outside tests, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.code.iter().enumerate().filter(|(at, _)| !self.test[*at]);
        numbered.map(|(at, line)| (at + 1, line.as_str()))
    }

    /// The first folder or file below `src`.
    fn room(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    fn violation(&self, line: usize, what: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, what: what.into() }
    }

    /// A violation for each line outside tests that holds one of the words.
    fn words(&self, words: &[&str], why: &str) -> Vec<Violation> {
        let found = |line: &str| words.iter().copied().find(|w| has_word(line, w));
        let hits = self.lines().filter_map(|(at, line)| Some((at, found(line)?)));
        hits.map(|(at, word)| self.violation(at, format!("`{word}` {why}"))).collect()
    }
}

/// Replaces comments, strings and character literals by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            [b'/', b'*', ..] => find(bytes, at + 2, b"*/").map_or(bytes.len(), |e| e + 2),
            [b'r', b'"' | b'#', ..] if at == 0 || !is_name(bytes[at - 1]) || bytes[at - 1] == b'b' => {
                let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
                if bytes.get(at + 1 + hashes) != Some(&b'"') {
                    at += 1;
                    continue;
                }
                let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
                find(bytes, at + 2 + hashes, &close).map_or(bytes.len(), |e| e + close.len())
            }
            [b'"', ..] => quoted(bytes, at, b'"'),
            // A character, not a lifetime.
            [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] => quoted(bytes, at, b'\''),
            _ => {
                at += 1;
                continue;
            }
        };
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|w| w == what).map(|at| from + at)
}

fn quoted(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += 1 + usize::from(bytes[at] == b'\\');
    }
    (at + 1).min(bytes.len())
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `word` stands in `line` and is no part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|i| line.as_bytes()[i]);
        let after = line.as_bytes().get(at + word.len()).copied();
        let joins =
            |edge: Option<u8>, outer: Option<u8>| edge.is_some_and(is_name) && outer.is_some_and(is_name);
        !joins(word.bytes().next(), before) && !joins(word.bytes().last(), after)
    })
}

/// The line on which the item that begins at `from` ends: with its brace, or with a semicolon before one.
fn item_end(code: &[String], from: usize) -> usize {
    let mut depth = 0usize;
    let mut parens = 0usize;
    for (at, line) in code.iter().enumerate().skip(from) {
        for byte in line.bytes() {
            match byte {
                b'(' | b'[' => parens += 1,
                b')' | b']' => parens = parens.saturating_sub(1),
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at;
                    }
                }
                b';' if depth == 0 && parens == 0 => return at,
                _ => {}
            }
        }
    }
    code.len().saturating_sub(1)
}

fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    for at in 0..code.len() {
        if code[at].trim_start().starts_with("#[cfg(test)]") {
            let end = item_end(code, at);
            test[at..=end].fill(true);
        }
    }
    test
}

// ---- rules

/// Every path from the crate's root on a line: `crate::a::b`, and each of `crate::{a, b}`.
fn arrows(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for (at, root) in line.match_indices("crate::") {
        let rest = &line[at + root.len()..];
        if at > 0 && line.as_bytes()[at - 1] == b'$' {
            continue;
        }
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or(group).split(',').collect(),
            None => vec![rest],
        };
        let first = |name: &&str| name.trim().bytes().take_while(|b| is_name(*b)).count();
        rooms.extend(names.iter().map(|name| &name.trim()[..first(name)]).filter(|name| !name.is_empty()));
    }
    rooms
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn floors(source: &Source) -> Vec<Violation> {
    let from = source.room();
    let Some(own) = floor(from) else {
        return vec![
            source
                .violation(1, format!("the room `{from}` stands on no floor: give it one in tests/tidy.rs")),
        ];
    };
    let runs_down =
        |to: &str| to == from || SIDEWAYS.contains(&(from, to)) || floor(to).is_some_and(|f| f < own);
    // A group may span lines; test code may look upward.
    let joined = source.lines().map(|(at, line)| (at, line.to_owned())).collect::<Vec<_>>();
    let mut out = Vec::new();
    for (index, (at, line)) in joined.iter().enumerate() {
        let mut line = line.clone();
        if line.trim_end().ends_with("crate::{") {
            let group = joined[index + 1..].iter().map(|(_, l)| l.as_str());
            line.extend(group.take_while(|l| !l.trim_start().starts_with("};")));
        }
        for to in arrows(&line).into_iter().filter(|to| !runs_down(to)) {
            out.push(source.violation(*at, format!("an arrow from `{from}` up or across to `{to}`")));
        }
    }
    out
}

fn purity(source: &Source) -> Vec<Violation> {
    if !PURE.contains(&source.room()) {
        return Vec::new();
    }
    let world = [
        "tokio",
        "TcpStream",
        "UdpSocket",
        "TcpListener",
        "ToSocketAddrs",
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "File",
        "Instant::now",
        "SystemTime",
        "SysRng",
        "OsRng",
        "ThreadRng",
        "thread_rng",
        "rand::rng",
        "getrandom",
        "RandomState",
        "socket2",
        "rustix",
    ];
    source.words(&world, "touches the world below src/driver/")
}

fn clocks(source: &Source) -> Vec<Violation> {
    if CLOCKS.contains(&source.path.as_str()) {
        return Vec::new();
    }
    source.words(&["Instant::now", "SystemTime::now"], "reads a clock beside src/driver/clock.rs")
}

fn hash_maps(source: &Source) -> Vec<Violation> {
    if !MACHINES.contains(&source.room()) || HASH_MAPS.contains(&source.path.as_str()) {
        return Vec::new();
    }
    source.words(&["HashMap", "HashSet"], "has no order that a seed repeats: use a BTreeMap")
}

fn file_size(source: &Source) -> Vec<Violation> {
    if source.test.iter().all(|t| *t) {
        return Vec::new();
    }
    let lines = source.test.iter().position(|t| *t).unwrap_or(source.test.len());
    if lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    vec![source.violation(lines, format!("{lines} lines before the tests, {MAX_FILE_LINES} at most"))]
}

fn function_size(source: &Source) -> Vec<Violation> {
    let mut out = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        if !has_word(line, "fn") || !line.contains('(') {
            continue;
        }
        // A type `fn(...)` is no function, nor is a macro's pattern.
        let Some(name) = line.split("fn ").nth(1).filter(|n| n.bytes().next().is_some_and(is_name)) else {
            continue;
        };
        let length = item_end(&source.code, at) - at + 1;
        if length > MAX_FUNCTION_LINES {
            let name: String = name.bytes().take_while(|b| is_name(*b)).map(char::from).collect();
            let what = format!("`{name}` has {length} lines, {MAX_FUNCTION_LINES} at most");
            out.push(source.violation(at + 1, what));
        }
    }
    out
}

fn unfinished(source: &Source) -> Vec<Violation> {
    source.words(&["todo!", "dbg!", "unimplemented!", ".unwrap()"], "has no place outside tests")
}

/// These panic where nothing can be written, and a panic ends the process at once.
fn panicking_prints(source: &Source) -> Vec<Violation> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    source.words(
        &["print!", "println!", "eprint!", "eprintln!"],
        "panics on a full disk or closed pipe: use `writeln!`",
    )
}

fn names(source: &Source) -> Vec<Violation> {
    let stem = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let mut out: Vec<_> = stem
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| source.violation(1, format!("`{part}` says nothing about what is inside")))
        .collect();
    let kinds = ["mod ", "struct ", "enum ", "trait ", "type "];
    for (at, line) in source.lines() {
        for name in kinds.iter().filter_map(|kind| {
            let (before, rest) = line.split_once(kind)?;
            (!before.bytes().last().is_some_and(is_name)).then_some(rest)
        }) {
            let name: String = name.bytes().take_while(|b| is_name(*b)).map(char::from).collect();
            let lower = name.to_ascii_lowercase();
            if EMPTY_NAMES.contains(&lower.as_str()) || lower.ends_with("manager") || lower.ends_with("utils")
            {
                out.push(source.violation(at, format!("`{name}` says nothing about what is inside")));
            }
        }
    }
    out
}

fn opening(source: &Source) -> Vec<Violation> {
    if source.path.ends_with("/tests.rs") || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![source.violation(1, "a file opens with `//!`: what it owns and what it must not know")]
}

fn unsafety(source: &Source) -> Vec<Violation> {
    if UNSAFE.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let lines = source.code.iter().enumerate().filter(|(_, line)| has_word(line, "unsafe"));
    lines.map(|(at, _)| source.violation(at + 1, "`unsafe` outside the allow-list")).collect()
}

/// Links of a page to files beside it that are not there.
fn dead_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Violation> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut out = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        for rest in line.split("](").skip(1).filter(|_| !fenced) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !elsewhere && !exists(&folder.join(target)) {
                let what = format!("a link to `{target}`, which does not exist");
                out.push(Violation { path: path.to_owned(), line: at + 1, what });
            }
        }
    }
    out
}

// ---- the tree

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &str, ext: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a folder's entry").path();
            let name =
                path.strip_prefix(root()).ok().and_then(Path::to_str).expect("a plain name").to_owned();
            if path.is_dir() && !["target", "corpus", "artifacts"].iter().any(|skip| path.ends_with(skip)) {
                open.push(path);
            } else if name.ends_with(ext) && path.is_file() {
                out.push((name, std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    out.sort();
    out
}

fn check(folders: &[&str], rule: impl Fn(&Source) -> Vec<Violation>) {
    let files: Vec<_> = folders.iter().flat_map(|folder| files_below(folder, ".rs")).collect();
    assert!(!files.is_empty(), "nothing was read");
    report(files.iter().flat_map(|(path, text)| rule(&Source::new(path, text))).collect());
}

fn report(violations: Vec<Violation>) {
    let lines: Vec<_> = violations.iter().map(Violation::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

const EVERYWHERE: [&str; 5] = ["src", "tests", "benches", "examples", "fuzz"];

#[test]
fn arrows_run_down_only() {
    check(&["src"], floors);
}

#[test]
fn the_machines_and_what_is_below_touch_no_world() {
    check(&["src"], purity);
}

#[test]
fn one_file_reads_the_clock() {
    check(&["src"], clocks);
}

#[test]
fn machines_hold_no_hash_map() {
    check(&["src"], hash_maps);
}

#[test]
fn files_are_short() {
    check(&["src"], file_size);
}

#[test]
fn functions_are_short() {
    check(&EVERYWHERE, function_size);
}

#[test]
fn nothing_is_left_unfinished() {
    check(&["src"], unfinished);
}

#[test]
fn nothing_panics_for_want_of_a_stream() {
    check(&["src"], panicking_prints);
}

#[test]
fn names_say_what_is_inside() {
    check(&EVERYWHERE, names);
}

#[test]
fn files_open_with_what_they_own() {
    check(&["src"], opening);
}

#[test]
fn nothing_is_unsafe() {
    check(&EVERYWHERE, unsafety);
}

#[test]
fn links_lead_somewhere() {
    let mut pages = files_below("docs", ".md");
    pages.push(("README.md".to_owned(), std::fs::read_to_string(root().join("README.md")).unwrap()));
    let exists = |path: &Path| root().join(path).exists();
    report(pages.iter().flat_map(|(path, text)| dead_links(path, text, exists)).collect());
}

// ---- the rules themselves

/// The lines on which `rule` finds something in `text`, were it the file `path`.
fn lines_of(rule: impl Fn(&Source) -> Vec<Violation>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|v| v.line).collect()
}

#[test]
fn an_arrow_up_or_across_is_caught() {
    let text = "//! x\nuse crate::id::Id160;\nuse crate::driver::tcp;\nuse crate::{wire, client::Client};\n";
    assert_eq!(lines_of(floors, "src/dht/node.rs", text), [3, 4]);
    assert_eq!(lines_of(floors, "src/dht/x.rs", "use crate::peer::Rate;\nuse crate::swarm::Swarm;"), [1, 2]);
    assert_eq!(lines_of(floors, "src/peer/x.rs", "fn f() { crate::swarm::config::TICK }"), [1]);
    assert_eq!(lines_of(floors, "src/swarm/x.rs", "use crate::peer::Rate;\nuse crate::dht::Node;"), [2]);
    assert_eq!(lines_of(floors, "src/wire/x.rs", "use crate::{\n    id::Id160,\n    cli::get,\n};"), [1]);
    assert_eq!(lines_of(floors, "src/client.rs", "use crate::dht::Node;\nuse crate::cli::json;"), [2]);
    assert_eq!(lines_of(floors, "src/cellar/x.rs", ""), [1]);
    assert_eq!(lines_of(floors, "src/main.rs", "use crate::cli::run;"), [0usize; 0]);
    assert_eq!(
        lines_of(floors, "src/rng.rs", "// crate::cli\n#[cfg(test)]\nmod tests { use crate::cli; }"),
        [0usize; 0]
    );
}

#[test]
fn the_world_in_a_machine_is_caught() {
    let text = "use tokio::net::UdpSocket;\nuse std::net::SocketAddr;\nuse std::fs::read;\nlet t = Instant::now();\n";
    assert_eq!(lines_of(purity, "src/dht/node.rs", text), [1, 3, 4]);
    assert_eq!(
        lines_of(purity, "src/wire/x.rs", "rand::rngs::SysRng;\nOsRng\nstd::net::TcpStream"),
        [1, 2, 3]
    );
    assert_eq!(lines_of(purity, "src/driver/udp.rs", text), [0usize; 0]);
    let prose =
        "//! no tokio here\nlet s = \"std::fs\";\n#[cfg(test)]\nmod tests {\n Instant::now();\n}\nOsRng";
    assert_eq!(lines_of(purity, "src/dht/node.rs", prose), [7]);
}

#[test]
fn a_second_clock_is_caught() {
    let text = "let a = Instant::now();\nlet b = SystemTime::now();\nlet c = clock::now();";
    assert_eq!(lines_of(clocks, "src/cli/get.rs", text), [1, 2]);
    assert_eq!(lines_of(clocks, "src/driver/udp.rs", "tokio::time::Instant::now()"), [1]);
    assert_eq!(lines_of(clocks, "src/driver/clock.rs", text), [0usize; 0]);
}

#[test]
fn a_hash_map_in_a_machine_is_caught() {
    assert_eq!(lines_of(hash_maps, "src/swarm/x.rs", "use std::collections::HashMap;\nBTreeMap"), [1]);
    assert_eq!(lines_of(hash_maps, "src/driver/x.rs", "HashMap"), [0usize; 0]);
}

#[test]
fn a_long_file_and_a_long_function_are_caught() {
    let long = "x\n".repeat(MAX_FILE_LINES + 1);
    assert_eq!(lines_of(file_size, "src/x.rs", &long), [MAX_FILE_LINES + 1]);
    assert_eq!(lines_of(file_size, "src/x/tests.rs", &long), [0usize; 0]);
    let tests = format!("x\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(lines_of(file_size, "src/x.rs", &tests), [0usize; 0]);
    let body = |lines: usize| {
        format!("\npub fn f(\n    x: [u8; 3],\n) {{\n{}}}\nfn g() {{}}\n", "  h();\n".repeat(lines))
    };
    assert_eq!(lines_of(function_size, "src/x.rs", &body(MAX_FUNCTION_LINES - 4)), [0usize; 0]);
    assert_eq!(lines_of(function_size, "src/x.rs", &body(MAX_FUNCTION_LINES - 3)), [2]);
}

#[test]
fn what_is_unfinished_is_caught() {
    let text = "todo!()\ndbg!(x)\nunimplemented!()\nx.unwrap()\nx.unwrap_or(0)\n// todo!()\n\"dbg!\"\n";
    assert_eq!(lines_of(unfinished, "src/x.rs", text), [1, 2, 3, 4]);
    let tests = "#[cfg(test)]\nmod tests {\n  fn f() { x.unwrap() }\n}\nx.unwrap();";
    assert_eq!(lines_of(unfinished, "src/x.rs", tests), [5]);
    assert_eq!(lines_of(unfinished, "src/x/tests.rs", "x.unwrap();"), [0usize; 0]);
    assert_eq!(lines_of(unfinished, "src/x/tests/y.rs", "x.unwrap();"), [0usize; 0]);
}

#[test]
fn a_print_that_may_panic_is_caught() {
    let text = "println!()\neprintln!(x)\nprint!()\nwriteln!(x)\n// println!()\n";
    assert_eq!(lines_of(panicking_prints, "src/x.rs", text), [1, 2, 3]);
    assert_eq!(lines_of(panicking_prints, "examples/x.rs", text), [0usize; 0]);
}

#[test]
fn an_empty_name_is_caught() {
    assert_eq!(lines_of(names, "src/util.rs", ""), [1]);
    assert_eq!(
        lines_of(names, "src/helpers/mod.rs", "mod helpers;\nstruct PeerManager;\nenum Common {}"),
        [1, 1, 2, 3]
    );
    assert_eq!(lines_of(names, "src/x.rs", "// a manager\nlet common = 1;\nstruct Uncommon;"), [0usize; 0]);
}

#[test]
fn a_file_without_its_prose_is_caught() {
    assert_eq!(lines_of(opening, "src/x.rs", "use y;\n//! late"), [1]);
    assert_eq!(lines_of(opening, "src/x.rs", "//! Owns x."), [0usize; 0]);
    assert_eq!(lines_of(opening, "src/x/tests.rs", "use super::*;"), [0usize; 0]);
}

#[test]
fn unsafe_code_is_caught_in_tests_too() {
    let text = "// unsafe\n#[deny(unsafe_code)]\n#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }";
    assert_eq!(lines_of(unsafety, "src/x.rs", text), [4]);
}

#[test]
fn a_dead_link_is_caught() {
    let text =
        "[a](GONE.md) [b](CLI.md#json) [c](https://x/y) [d](#here)\n```\n[e](GONE.md)\n```\n[f](../gone.rs)";
    let found = dead_links("docs/X.md", text, |path| path == Path::new("docs/CLI.md"));
    assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [1, 5]);
}

#[test]
fn comments_strings_and_characters_are_blanked() {
    let code = blank("a // b\n\"c\\\"d\" e r#\"f\"g\"# '\\'' 'h' &'i j /* k\nl */ m");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "&'i", "j", "m"]);
    assert_eq!(code.lines().count(), 3);
}
