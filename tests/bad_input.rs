//! Torrents and places that are wrong: each is a clear error with its exit code and a hint, nothing of the
//! user's is touched, and nothing is written outside the target. What is wrong with a TARGET stands in `cli.rs`.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use dhtget::id::Id160;
use dhtget::rng::Rng;
use dhtget::wire::bencode::Writer;
use dhtget::wire::extended::{ExtendedHandshake, METADATA_BLOCK_LEN, MetadataMessage};
use dhtget::wire::metainfo::hash_of;
use dhtget::wire::peer::{Frames, HANDSHAKE_LEN, Handshake, Message, Reserved};
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

const PIECE: usize = 32 << 10;

/// A torrent as its maker wrote it, sound or not.
struct Torrent {
    raw: Vec<u8>,
    content: Vec<u8>,
}

impl Torrent {
    /// Several files below `name`; each path is a list of components.
    fn folder(name: &[u8], files: &[(&[&[u8]], usize)]) -> Self {
        let content = random(files.iter().map(|f| f.1).sum());
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"files").begin_list();
        for (path, length) in files {
            w.begin_dict().bytes(b"length").int(*length as i64).bytes(b"path").begin_list();
            path.iter().for_each(|component| {
                w.bytes(component);
            });
            w.end().end();
        }
        w.end().bytes(b"name").bytes(name).bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&hashes(&content)).end();
        Self { raw, content }
    }

    fn file(name: &[u8], length: usize) -> Self {
        let content = random(length);
        let mut raw = Vec::new();
        let mut w = Writer::new(&mut raw);
        w.begin_dict().bytes(b"length").int(length as i64).bytes(b"name").bytes(name);
        w.bytes(b"piece length").int(PIECE as i64).bytes(b"pieces").bytes(&hashes(&content)).end();
        Self { raw, content }
    }

    fn hash(&self) -> Id160 {
        hash_of(&self.raw)
    }

    fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}", self.hash())
    }

    /// A peer that serves metadata and data to everyone; where it listens.
    fn serve(&self, metadata: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (hash, content) = (self.hash(), self.content.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // An error is the victim's goodbye.
                let _ = converse(stream, hash, &metadata, &content);
            }
        });
        addr
    }
}

fn random(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    Rng::from_u64(length as u64).fill(&mut out);
    out
}

fn hashes(content: &[u8]) -> Vec<u8> {
    content.chunks(PIECE).flat_map(Sha1::digest).collect()
}

fn converse(mut stream: TcpStream, info_hash: Id160, metadata: &[u8], content: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::new();
    Handshake { reserved: Reserved::OURS, info_hash, peer_id: Id160([b'h'; 20]) }.emit(&mut out);
    let size = Some(metadata.len() as u64);
    let hello = ExtendedHandshake { metadata_id: Some(3), metadata_size: size, ..Default::default() };
    Message::HaveAll.emit(&mut out);
    Message::Extended { id: 0, payload: hello.emit().into() }.emit(&mut out);
    Message::Unchoke.emit(&mut out);
    stream.write_all(&out)?;
    stream.read_exact(&mut [0; HANDSHAKE_LEN])?;
    let mut frames = Frames::default();
    let mut buffer = vec![0; 65_536];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        frames.push(buffer[..count].to_vec().into());
        while let Some(message) = frames.next_message().unwrap() {
            let mut out = Vec::new();
            match message {
                Message::Request(b) => {
                    let begin = b.index as usize * PIECE + b.begin as usize;
                    let data = content[begin..begin + b.length as usize].to_vec().into();
                    Message::Piece { index: b.index, begin: b.begin, data }.emit(&mut out);
                }
                Message::Extended { id: 3, payload } => {
                    let Some(MetadataMessage::Request { block }) = MetadataMessage::parse(&payload) else {
                        continue;
                    };
                    let begin = (block * METADATA_BLOCK_LEN) as usize;
                    let end = metadata.len().min(begin + METADATA_BLOCK_LEN as usize);
                    let data = metadata[begin..end].to_vec().into();
                    let answer = MetadataMessage::Data { block, total_size: metadata.len() as u64, data };
                    Message::Extended { id: 1, payload: answer.emit().into() }.emit(&mut out);
                }
                _ => {}
            }
            stream.write_all(&out)?;
        }
    }
}

/// A folder with a `.torrent` and a place to fetch into.
struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new(torrent: &Torrent) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("here")).unwrap();
        let file = [b"d4:info", torrent.raw.as_slice(), b"e"].concat();
        fs::write(dir.path().join("a.torrent"), file).unwrap();
        Self { dir }
    }

    fn here(&self) -> PathBuf {
        self.dir.path().join("here")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo_bin!("dhtget"));
        self.dress(&mut command);
        command.args(self.args(args));
        command
    }

    fn dress(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env("HOME", self.dir.path());
        command.env("XDG_STATE_HOME", self.dir.path().join("state"));
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let fixed = ["--no-dht", "--listen", "127.0.0.1:0"];
        let mut args: Vec<String> =
            fixed.into_iter().chain(more.iter().copied()).map(str::to_owned).collect();
        for (option, value) in [("--dir", "here"), ("--stop-timeout", "5")] {
            if !more.contains(&option) {
                args.extend([option.to_owned(), value.to_owned()]);
            }
        }
        args
    }

    /// Runs to the end; exit code and stderr.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Runs, and expects an error of this code that names `object` and has a hint.
    fn fails(&self, args: &[&str], code: i32, object: &str) -> String {
        let (exit, stderr) = self.run(args);
        assert_eq!(exit, code, "{stderr}");
        assert!(stderr.contains("error: ") && stderr.contains(object), "no `{object}` in: {stderr}");
        assert!(stderr.contains("\n\nhint: "), "{stderr}");
        stderr
    }

    /// Everything below the folder, with contents.
    fn snapshot(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        let mut open = vec![self.here()];
        while let Some(path) = open.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                all.push((path.clone(), meta.is_file().then(|| fs::read(&path).unwrap())));
                if meta.is_dir() {
                    open.push(path);
                }
            }
        }
        all.sort();
        all
    }
}

// ---- what stands at the target

#[test]
fn a_folder_where_the_file_must_go_is_13() {
    let lab = Lab::new(&Torrent::file(b"data.bin", 100_000));
    fs::create_dir(lab.here().join("data.bin")).unwrap();
    for args in [&["a.torrent"][..], &["a.torrent", "--overwrite"]] {
        let before = lab.snapshot();
        let stderr = lab.fails(args, 13, "here/data.bin");
        assert!(stderr.contains("a folder stands where a file must go"), "{stderr}");
        assert_eq!(lab.snapshot(), before);
    }
}

#[test]
fn a_file_where_the_folder_must_go_is_13() {
    let lab = Lab::new(&Torrent::folder(b"top", &[(&[b"a.bin"], 1000)]));
    fs::write(lab.here().join("top"), "mine").unwrap();
    let before = lab.snapshot();
    lab.fails(&["a.torrent"], 13, "here/top");
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_file_of_another_content_is_13_and_untouched() {
    let torrent = Torrent::file(b"data.bin", 100_000);
    // Shorter, as long, longer: each must keep its length too.
    for length in [1, 40_000, 100_000, 100_001] {
        let lab = Lab::new(&torrent);
        fs::write(lab.here().join("data.bin"), vec![b'm'; length]).unwrap();
        let before = lab.snapshot();
        assert!(lab.fails(&["a.torrent"], 13, "here/data.bin").contains("--overwrite"));
        assert!(lab.snapshot() == before, "a stranger's file of {length} bytes was changed");
    }
}

#[test]
fn a_strangers_file_among_missing_ones_is_13_and_nothing_is_created() {
    let torrent =
        Torrent::folder(b"top", &[(&[b"a.bin"], 10_000), (&[b"b.bin"], 50_000), (&[b"d", b"c.bin"], 9)]);
    let lab = Lab::new(&torrent);
    fs::create_dir(lab.here().join("top")).unwrap();
    fs::write(lab.here().join("top/b.bin"), "mine").unwrap();
    let before = lab.snapshot();
    lab.fails(&["a.torrent"], 13, "top/b.bin");
    assert_eq!(lab.snapshot(), before);
}

// ---- where nothing can be written

#[test]
fn a_folder_below_a_file_is_1_and_named() {
    let lab = Lab::new(&Torrent::file(b"data.bin", 1000));
    fs::write(lab.dir.path().join("file"), "").unwrap();
    lab.fails(&["a.torrent", "--dir", "file/below"], 1, "file/below");
}

#[test]
fn a_folder_that_must_not_be_written_is_1_and_named() {
    let lab = Lab::new(&Torrent::file(b"data.bin", 1000));
    fs::set_permissions(lab.here(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(lab.here().join("probe"), "").is_err() {
        lab.fails(&["a.torrent"], 1, "here");
        return;
    }
    fs::remove_file(lab.here().join("probe")).unwrap();
    // Permissions do not bind root: a read-only mount does.
    let (code, stderr) =
        in_namespace(&lab, "mount --bind here here && mount -o remount,bind,ro here", &["a.torrent"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("here") && stderr.contains("Read-only") && stderr.contains("\n\nhint: "),
        "{stderr}"
    );
}

/// Runs in a mount namespace of its own, after `prepare`; exit code and stderr.
fn in_namespace(lab: &Lab, prepare: &str, args: &[&str]) -> (i32, String) {
    let output = namespaced(lab, prepare, args).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

fn namespaced(lab: &Lab, prepare: &str, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{prepare} || exit 99; exec \"$0\" \"$@\"");
    command.args(["--mount", "--map-root-user", "sh", "-c", &script]).arg(cargo_bin!("dhtget"));
    lab.dress(&mut command);
    command.args(lab.args(args)).stdin(Stdio::null());
    command
}

/// Says why, where the system gives no namespaces: a container without them cannot have a small disk.
fn can_mount() -> bool {
    let script = "mount -t tmpfs -o size=64k none /mnt";
    let tried = Command::new("unshare").args(["--mount", "--map-root-user", "sh", "-c", script]).output();
    let ok = tried.as_ref().is_ok_and(|o| o.status.success());
    if !ok {
        eprintln!("NOT TESTED: no mount namespace here, so no disk that can be filled: {tried:?}");
    }
    ok
}

#[test]
fn a_disk_too_small_is_9_before_anything_is_fetched() {
    let lab = Lab::new(&Torrent::file(b"data.bin", 3 << 20));
    if can_mount() {
        let (code, stderr) = in_namespace(&lab, "mount -t tmpfs -o size=1m none here", &["a.torrent"]);
        assert_eq!(code, 9, "{stderr}");
        assert!(stderr.contains("here/data.bin") && stderr.contains("3145728 bytes are needed"), "{stderr}");
        assert!(stderr.contains("\n\nhint: make room"), "{stderr}");
    }
}

/// A running dhtget whose JSON lines are read as they come.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads events until one has `words`; `--stop-timeout` bounds the wait.
    fn until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(words) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("no `{words}` in:\n{seen}");
    }

    /// The target folder as this process sees it.
    fn folder(&self, lab: &Lab) -> PathBuf {
        let inside = lab.here().canonicalize().unwrap();
        Path::new(&format!("/proc/{}/root", self.child.id())).join(inside.strip_prefix("/").unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, where the test got that far.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SMALL_DISK: &str = "mount -t tmpfs -o size=4m none here";

/// A download on a disk of 4 MiB that somebody else fills meanwhile.
fn on_a_disk_that_fills(lab: &Lab, torrent: &Torrent) -> (Running, PathBuf) {
    let peer = torrent.serve(torrent.raw.clone()).to_string();
    let args = ["a.torrent", "--peer", &peer, "--limit-rate", "1m", "--json"];
    let mut running = Running::start(namespaced(lab, SMALL_DISK, &args));
    running.until("\"event\":\"checked\"");
    let filler = running.folder(lab).join("filler");
    let full = fs::write(&filler, vec![0; 4 << 20]);
    assert!(full.is_err(), "the disk took more than it has: {}", filler.display());
    (running, filler)
}

#[test]
fn a_disk_that_fills_up_pauses_and_goes_on_when_there_is_room() {
    if can_mount() {
        let torrent = Torrent::file(b"data.bin", 3 << 20);
        let lab = Lab::new(&torrent);
        let (mut running, filler) = on_a_disk_that_fills(&lab, &torrent);
        running.until("waiting for the disk");
        let target = running.folder(&lab).join("data.bin");
        // Held open: the mount is gone with the process.
        let mut fetched = fs::File::open(target).unwrap();
        fs::remove_file(filler).unwrap();
        running.until("\"event\":\"finished\"");
        assert!(running.child.wait().unwrap().success());
        let mut bytes = Vec::new();
        fetched.read_to_end(&mut bytes).unwrap();
        assert!(bytes == torrent.content);
    }
}

#[test]
fn a_disk_that_stays_full_is_9_after_the_stop_timeout() {
    if can_mount() {
        let torrent = Torrent::file(b"data.bin", 3 << 20);
        let lab = Lab::new(&torrent);
        let (mut running, _) = on_a_disk_that_fills(&lab, &torrent);
        let error = running.until("\"event\":\"error\"");
        assert!(error.contains("\"code\":9") && error.contains("waiting for the disk"), "{error}");
        assert_eq!(running.child.wait().unwrap().code(), Some(9));
    }
}

// ---- names that lead outside

fn climbing() -> Vec<(&'static str, Torrent)> {
    vec![
        ("..", Torrent::folder(b"top", &[(&[b"..", b"..", b"evil"], 10)])),
        ("absolute", Torrent::folder(b"top", &[(&[b"/etc/evil"], 10)])),
        ("slash", Torrent::folder(b"top", &[(&[b"a/../../evil"], 10)])),
        ("NUL", Torrent::folder(b"top", &[(&[b"a\0b"], 10)])),
        ("empty component", Torrent::folder(b"top", &[(&[b"a", b"", b"b"], 10)])),
        ("empty path", Torrent::folder(b"top", &[(&[], 10)])),
        ("name ..", Torrent::folder(b"..", &[(&[b"evil"], 10)])),
        ("name absolute", Torrent::file(b"/etc/evil", 10)),
        ("name empty", Torrent::file(b"", 10)),
        ("name NUL", Torrent::file(b"a\0", 10)),
    ]
}

#[test]
fn names_that_lead_outside_are_27_in_a_torrent_file() {
    for (what, torrent) in climbing() {
        let lab = Lab::new(&torrent);
        println!("{what}");
        lab.fails(&["a.torrent"], 27, "a.torrent");
        assert_eq!(lab.snapshot(), [], "{what}");
    }
}

#[test]
fn names_that_lead_outside_are_27_in_metadata_from_peers() {
    for (what, torrent) in climbing() {
        let lab = Lab::new(&torrent);
        let peer = torrent.serve(torrent.raw.clone()).to_string();
        println!("{what}");
        lab.fails(&[&torrent.magnet(), "--peer", &peer], 27, "metadata of this torrent");
        assert_eq!(lab.snapshot(), [], "{what}");
        assert!(!lab.dir.path().join("evil").exists());
    }
}

#[test]
fn a_symbolic_link_in_the_way_is_13_and_nothing_is_written_behind_it() {
    let torrent = Torrent::folder(b"top", &[(&[b"a.bin"], 1000), (&[b"sub", b"b.bin"], 1000)]);
    for link in ["top", "top/sub", "top/sub/b.bin", "top/a.bin"] {
        for dangling in [false, true] {
            let lab = Lab::new(&torrent);
            let outside = lab.dir.path().join("outside");
            match (dangling, link.ends_with(".bin")) {
                (true, _) => {}
                (false, true) => fs::write(&outside, "mine").unwrap(),
                (false, false) => fs::create_dir(&outside).unwrap(),
            }
            let at = lab.here().join(link);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            symlink(&outside, &at).unwrap();
            let before = lab.snapshot();
            let peer = torrent.serve(torrent.raw.clone()).to_string();
            for args in [&["a.torrent", "--peer", &peer][..], &["a.torrent", "--overwrite", "--peer", &peer]]
            {
                let stderr = lab.fails(args, 13, "here/top");
                assert!(stderr.contains("hint: move away") && !stderr.contains("--overwrite"), "{stderr}");
                assert_eq!(lab.snapshot(), before, "{link}");
                assert_eq!(outside.exists(), !dangling);
                if outside.is_file() {
                    assert_eq!(fs::read(&outside).unwrap(), b"mine");
                } else if outside.is_dir() {
                    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
                }
            }
        }
    }
}

/// BEP 47 symbolic links are never made: they could point anywhere.
#[test]
fn a_torrent_cannot_make_a_symbolic_link() {
    let content = random(1000);
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"files").begin_list();
    w.begin_dict().bytes(b"length").int(1000).bytes(b"path").begin_list().bytes(b"a").end().end();
    w.begin_dict().bytes(b"attr").bytes(b"l").bytes(b"length").int(0).bytes(b"path");
    w.begin_list().bytes(b"link").end().bytes(b"symlink path").begin_list().bytes(b"..").end().end();
    w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(PIECE as i64);
    w.bytes(b"pieces").bytes(&hashes(&content)).end();
    let torrent = Torrent { raw, content };
    let lab = Lab::new(&torrent);
    let peer = torrent.serve(torrent.raw.clone()).to_string();
    let (code, stderr) = lab.run(&["a.torrent", "--peer", &peer]);
    assert_eq!(code, 0, "{stderr}");
    let paths: Vec<_> = lab.snapshot().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, [lab.here().join("top"), lab.here().join("top/a")]);
}

// ---- metadata that is not what it should be

#[test]
fn metadata_that_does_not_hash_is_never_used_and_ends_in_3() {
    let torrent = Torrent::file(b"data.bin", 1000);
    let lab = Lab::new(&torrent);
    let other = Torrent::file(b"evil.bin", 1000);
    let peer = torrent.serve(other.raw).to_string();
    let stderr = lab.fails(&[&torrent.magnet(), "--peer", &peer, "--stop-timeout", "2"], 3, "gave up");
    assert!(stderr.contains("1 peer banned"), "{stderr}");
    assert_eq!(lab.snapshot(), []);
}

#[test]
fn authentic_metadata_that_no_reader_can_use_is_27() {
    let sound = Torrent::file(b"data.bin", 100_000);
    let text = String::from_utf8_lossy(&sound.raw).into_owned();
    assert!(text.contains("6:lengthi100000e"));
    let swap = |from: &[u8], to: &[u8]| {
        let at = sound.raw.windows(from.len()).position(|w| w == from).unwrap();
        [&sound.raw[..at], to, &sound.raw[at + from.len()..]].concat()
    };
    for (what, raw) in [
        ("a negative length", swap(b"i100000e", b"i-1e")),
        ("a length of 2^63", swap(b"i100000e", b"i9223372036854775807e")),
        ("more bytes than hashes", swap(b"i100000e", b"i1000000e")),
        ("a piece length of 0", swap(b"i32768e", b"i0e")),
        ("10,000 nested lists", [b"d4:name".to_vec(), vec![b'l'; 10_000], vec![b'e'; 10_001]].concat()),
        ("not a dictionary", b"le".to_vec()),
        ("cut short", sound.raw[..60].to_vec()),
    ] {
        let torrent = Torrent { raw, content: Vec::new() };
        let lab = Lab::new(&torrent);
        let peer = torrent.serve(torrent.raw.clone()).to_string();
        println!("{what}");
        lab.fails(&[&torrent.magnet(), "--peer", &peer], 27, "metadata of this torrent");
        lab.fails(&["a.torrent"], 27, "a.torrent");
        assert_eq!(lab.snapshot(), [], "{what}");
    }
}
