//! The program as scripts see it: exit codes, streams, hints and JSON lines.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use dhtget::dht;
use dhtget::driver::Dht;
use dhtget::driver::listen::{UdpSockets, udp_socket};
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::{Info, MAX_TORRENT_BYTES, Metainfo};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha1::{Digest as _, Sha1};

const KEY_LINK: &str = "magnet:?xs=urn:btpk:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

fn dhtget(dir: &Path) -> Command {
    let mut command = cargo_bin_cmd!("dhtget");
    command.current_dir(dir).env("XDG_STATE_HOME", dir.join("state")).env("HOME", dir);
    command.timeout(Duration::from_secs(30));
    command
}

/// Exit code, stdout and stderr of `dhtget args`.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = dhtget(dir).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn sample() -> Info {
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"files").begin_list();
    for (length, name) in [(20_000, "first.bin"), (0, "leer.txt")] {
        w.begin_dict().bytes(b"length").int(length).bytes(b"path");
        w.begin_list().bytes("ünter".as_bytes()).bytes(name.as_bytes()).end().end();
    }
    w.end().bytes(b"name").bytes(b"sample").bytes(b"piece length").int(16_384);
    w.bytes(b"pieces").bytes(&[7; 40]).bytes(b"private").int(1).end();
    Info::parse(raw.into()).unwrap()
}

#[test]
fn a_bad_target_is_27_and_has_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("damaged.torrent"), "d4:infod4:name").unwrap();
    std::fs::File::create(dir.path().join("large.torrent")).unwrap().set_len(MAX_TORRENT_BYTES + 1).unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    for (target, words) in [
        ("magnet:", "not a magnet link"),
        ("magnet:?dn=a", "names no torrent"),
        ("magnet:?xt=urn:btmh:1220caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e", "v2"),
        ("magnet:?xt=urn:btih:0123456789abcdef", "this one has 16"),
        ("magnet:?xt=urn:btih:zz23456789abcdef0123456789abcdef01234567", "not hexadecimal"),
        ("0123456789abcdef0123456789abcdef0123456", "this one has 39"),
        ("absent.torrent", "No such file"),
        ("damaged.torrent", "not a usable .torrent"),
        ("", "TARGET is empty"),
        ("large.torrent", "larger than"),
        ("folder", "a folder"),
    ] {
        for args in [&[target][..], &["info", target], &["lookup", target]] {
            let (code, stdout, stderr) = run(dir.path(), args);
            assert_eq!((code, stdout.as_str()), (27, ""), "{args:?}: {stderr}");
            assert!(stderr.starts_with("error: ") && stderr.contains(words), "{args:?}: {stderr}");
            assert!(stderr.contains("\n\nhint: "), "{args:?}: {stderr}");
        }
    }
}

#[test]
fn a_bad_option_is_28_and_has_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["get"],
        &["--no-such-flag", HEX],
        &[HEX, "too", "many"],
        &[HEX, "--limit-rate", "fast"],
        &[HEX, "--limit-rate", "0"],
        &[HEX, "--stop-timeout", "soon"],
        &[HEX, "--peer", "1.2.3.4"],
        &[HEX, "--bootstrap", "::1:5"],
        &[HEX, "--bootstrap-file", "absent"],
        &[HEX, "--listen", "nowhere"],
        &[HEX, "-q", "-v"],
        &[HEX, "--no-state", "--state-dir", "s"],
        &[HEX, "-o", "-", "--overwrite"],
        &[HEX, "--select-file", "0"],
        &[HEX, "--select-file", "1,["],
        &[HEX, "-o", ".."],
        &["share"],
        &["ping"],
        &["ping", "1.2.3.4:0"],
        &["demo", "--size", "0"],
        &["lookup", HEX, "--no-dht"],
        &["item", "put", "x", "--no-dht"],
        &["item", "get", HEX, "--no-dht"],
        &["publish", HEX, "--key", "k", "--no-dht"],
        &["follow", KEY_LINK, "--no-dht"],
        &[KEY_LINK, "--no-dht"],
        &["info", KEY_LINK, "--no-dht"],
        &["node", "--memory", "1k"],
        &["node", "status", "nowhere"],
    ] {
        let (code, stdout, stderr) = run(dir.path(), args);
        assert_eq!((code, stdout.as_str()), (28, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("error: ") && stderr.contains("\n\nhint: "), "{args:?}: {stderr}");
    }
    let (_, _, stderr) = run(dir.path(), &[HEX, "--select-file", "3-2"]);
    assert!(stderr.contains("--select-file: `3-2`") && stderr.contains("dhtget info"), "{stderr}");
    for (args, help) in [
        (&["item", "put"][..], "`dhtget item put --help`"),
        (&["item", "get", "--bad"], "`dhtget item get --help`"),
        (&["node", "status", "--bad"], "`dhtget node status --help`"),
        (&["node", "--bad"], "`dhtget node --help`"),
    ] {
        let (_, _, stderr) = run(dir.path(), args);
        assert!(stderr.contains(help), "{args:?}: {stderr}");
    }
}

#[test]
fn what_was_asked_for_is_0_and_on_stdout() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["--version"], &["get", "--help"], &["help", "share"], &[HEX, "-h"]] {
        let (code, stdout, stderr) = run(dir.path(), args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        assert!(stdout.contains("dhtget"), "{args:?}: {stdout}");
    }
}

#[test]
fn sharing_what_is_not_there_says_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for (path, words) in [("absent", "No such file"), ("empty", "nothing to share")] {
        let (code, stdout, stderr) = run(dir.path(), &["share", path]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("\n\nhint: "), "{stderr}");
    }
}

#[test]
fn info_reads_a_torrent_file_offline() {
    let dir = tempfile::tempdir().unwrap();
    let info = sample();
    std::fs::write(dir.path().join("a.torrent"), Metainfo::emit(&info)).unwrap();
    let (code, stdout, stderr) = run(dir.path(), &["info", "a.torrent", "--torrent", "copy.torrent"]);
    assert_eq!(code, 0, "{stderr}");
    for words in ["sample", "20000 bytes", "2 of 16.0 KiB", "private:  yes", "sample/ünter/leer.txt"] {
        assert!(stdout.contains(words), "{stdout}");
    }
    let copy = std::fs::read(dir.path().join("copy.torrent")).unwrap();
    assert_eq!(Metainfo::parse(&copy.into()).unwrap().info, info);
    std::fs::write(dir.path().join("copy.torrent"), "mine").unwrap();
    let (code, _, stderr) = run(dir.path(), &["info", "a.torrent", "--torrent", "copy.torrent"]);
    assert_eq!(code, 13, "{stderr}");
    assert!(!dir.path().join("state").exists(), "an offline run leaves no state");
}

#[test]
fn json_lines_are_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let info = sample();
    std::fs::write(dir.path().join("a.torrent"), Metainfo::emit(&info)).unwrap();
    let (code, stdout, _) = run(dir.path(), &["info", "a.torrent", "--json"]);
    assert_eq!(code, 0);
    let events: Vec<Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["started", "metadata"]);
    assert!(events.iter().all(|e| e["elapsed_s"].as_f64().is_some()));
    let metadata = &events[1];
    assert_eq!(metadata["info_hash"], info.hash().to_string());
    assert_eq!(
        (&metadata["size"], &metadata["files"], &metadata["pieces"]),
        (&20_000.into(), &2.into(), &2.into())
    );
    assert_eq!(metadata["file_list"][1]["path"], "ünter/leer.txt");
}

#[test]
fn errors_are_events_too() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code) in
        [(&["magnet:?dn=a", "--json"][..], 27), (&["--json", HEX, "--bad"], 28), (&["--json"], 28)]
    {
        let (exit, stdout, stderr) = run(dir.path(), args);
        assert_eq!(exit, code, "{stderr}");
        let event: Value = serde_json::from_str(stdout.trim_end()).unwrap();
        assert_eq!((&event["event"], &event["code"]), (&"error".into(), &code.into()), "{args:?}");
        assert!(event["message"].is_string() && event["hint"].is_string());
    }
}

/// A DHT node of this test on loopback; its address and id.
fn node() -> (String, String) {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap().to_string();
            let config = dht::Config { network: dht::Network::Local, ..dht::Config::default() };
            let sockets = UdpSockets { v4: Some(socket), v6: None };
            let node = Dht::spawn(config, sockets, [1; 32], None, Vec::new()).unwrap();
            sender.send((address, node.snapshot().await.id.to_string())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

#[test]
fn ping_tells_who_answers_and_gives_up_on_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (address, id) = node();
    let (code, stdout, stderr) = run(dir.path(), &["ping", &address]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with(&format!("id {id}, rtt ")) && stdout.contains(", version dg"), "{stdout}");
    let (code, stdout, _) = run(dir.path(), &["ping", &address, "--json"]);
    let pong: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!((code, &pong["event"], &pong["id"]), (0, &"pong".into(), &id.into()));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (code, stdout, stderr) = run(dir.path(), &["ping", &silent.local_addr().unwrap().to_string()]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("no answer within") && stderr.contains("\n\nhint: "), "{stderr}");
}

/// Alone on loopback: nobody is found, and nothing is kept.
const ALONE: [&str; 5] = ["--no-dht", "--no-state", "--no-lsd", "--listen", "127.0.0.1:0"];

#[test]
fn a_log_line_that_cannot_be_written_is_lost_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&[HEX, "-vv", "--peer", "127.0.0.1:9", "--stop-timeout", "1"][..], &["info", HEX, "--bad"]] {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("dhtget"));
        let alone = if args[0] == HEX { &ALONE[..] } else { &[] };
        command.current_dir(dir.path()).args(args).args(alone);
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let status = command.stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(if args[0] == HEX { 3 } else { 28 }), "{args:?}: {status}");
    }
}

/// Starts a command with events on stdout, and waits for the first of them.
fn started(dir: &Path, args: &[&str]) -> (std::process::Child, std::io::Lines<BufReader<ChildStdout>>) {
    let program = assert_cmd::cargo::cargo_bin!("dhtget");
    let mut command = std::process::Command::new(program);
    if hangups_are_ignored() {
        command = std::process::Command::new("env");
        command.arg("--default-signal=HUP").arg(program);
    }
    command.current_dir(dir).env("XDG_STATE_HOME", dir.join("state")).env("HOME", dir);
    command.args(args).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"started\""));
    (child, lines)
}

/// Whether the tests run under `nohup` or the like, which every child inherits (Linux; elsewhere they are taken not to).
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// As a terminal that is closed sends it, and the shell in it.
#[test]
fn a_hangup_ends_a_run_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, lines) = started(dir.path(), &[&[HEX], &ALONE[..]].concat());
    for _ in 0..2 {
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["code"]), (&"error".into(), &129.into()), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(129));
}

#[test]
fn a_hangup_that_is_ignored_from_the_start_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    command.current_dir(dir.path()).env("HOME", dir.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let program = assert_cmd::cargo::cargo_bin!("dhtget");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(program).arg(HEX).args(ALONE);
    let mut child = command.args(["--json", "--stop-timeout", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"started\""));
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert!(lines.last().unwrap().unwrap().contains("\"code\":3"));
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

/// A folder `top` of two files with its torrent beside it.
fn folder(dir: &Path) -> Info {
    let content = [7; 30_000];
    let mut raw = Vec::new();
    let mut w = Writer::new(&mut raw);
    w.begin_dict().bytes(b"files").begin_list();
    for (length, name) in [(16_384, "first.bin"), (13_616, "second.bin")] {
        w.begin_dict().bytes(b"length").int(length).bytes(b"path");
        w.begin_list().bytes(name.as_bytes()).end().end();
    }
    let hashes: Vec<u8> = content.chunks(16_384).flat_map(Sha1::digest).collect();
    w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(16_384);
    w.bytes(b"pieces").bytes(&hashes).end();
    let info = Info::parse(raw.into()).unwrap();
    std::fs::create_dir(dir.join("top")).unwrap();
    std::fs::write(dir.join("top/first.bin"), &content[..16_384]).unwrap();
    std::fs::write(dir.join("top/second.bin"), &content[16_384..]).unwrap();
    std::fs::write(dir.join("a.torrent"), Metainfo::emit(&info)).unwrap();
    info
}

#[test]
fn verify_tells_what_cannot_be_read_from_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let file = dir.path().join("top/second.bin");
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (code, stdout, stderr) = run(dir.path(), &["verify", "a.torrent"]);
    assert_eq!(code, 32, "{stderr}");
    let words = "top/second.bin  (it is neither a file nor a folder)";
    assert!(stdout.starts_with("unreadable") && stdout.trim_end().ends_with(words), "{stdout}");
    assert!(stderr.contains("1 of 2 files not right") && !stderr.contains("fetches"), "{stderr}");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let (code, stdout, _) = run(dir.path(), &["verify", "a.torrent", "--json"]);
    let event = stdout.lines().find(|line| line.contains("second.bin")).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!((code, &event["state"], &event["damaged"]), (32, &"unreadable".into(), &0.into()));
    assert!(event["cause"].as_str().unwrap().contains("a folder stands"), "{event}");
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, [7; 13_616]).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::File::open(&file).is_ok() {
        return eprintln!("NOT TESTED: whoever runs this may read everything");
    }
    let (code, stdout, _) = run(dir.path(), &["verify", "a.torrent"]);
    assert!(code == 32 && stdout.contains("(cannot be read: Permission denied"), "{stdout}");
}

#[test]
fn a_link_is_not_misread_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let notes = |more: &str, args: &[&str]| {
        let link = format!("magnet:?xt=urn:btih:{HEX}{more}");
        let (code, _, stderr) =
            run(dir.path(), &[&[&link, "--stop-timeout", "1"], &ALONE[..], args].concat());
        assert_eq!(code, 3, "{stderr}");
        stderr
    };
    let stderr = notes("&so=3-1", &[]);
    assert!(stderr.contains("warning: `so=`") && stderr.contains("`3-1`"), "{stderr}");
    assert!(stderr.contains("every file is meant"), "{stderr}");
    assert!(!notes("&so=3-1", &["--select-file", "1"]).contains("so="));
    assert!(notes("&x.pe=nowhere", &[]).contains("`x.pe`: `nowhere`"));
    assert!(!notes("&so=0,2-4&x.pe=127.0.0.1:9&tr=http://a", &[]).contains("warning: `so=`"));
}

/// What a command ends with that writes to a pipe which nobody reads.
fn unread(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("dhtget"));
    command.current_dir(dir).env("XDG_STATE_HOME", dir.join("state")).env("HOME", dir);
    let output = command.args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_closed_stdout_ends_what_only_prints_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let quietly = (Some(141), String::new());
    for args in [
        &["info", "a.torrent"][..],
        &["info", "a.torrent", "--json"],
        &["verify", "a.torrent", "-v"],
        &["verify", "a.torrent", "--json"],
    ] {
        assert_eq!(unread(dir.path(), args), quietly, "{args:?}");
    }
    for json in [&[][..], &["--json"]] {
        let args = [&["share", "top", "--seed-time", "1"], &ALONE[..], json].concat();
        let (code, stderr) = unread(dir.path(), &args);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("the link is magnet:?xt=") && stderr.contains("seeded: "), "{stderr}");
    }
}

#[test]
fn a_stream_that_is_stopped_is_not_said_to_continue() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("dhtget"));
    command.current_dir(dir.path()).args([HEX, "-o", "-", "-v"]).args(ALONE);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("listening on port")));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.iter().any(|line| line.contains("it begins anew, because `-o -`")), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn share_never_suggests_an_option_that_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    std::fs::write(dir.path().join("mine"), "mine").unwrap();
    let args = [&["share", "top", "--torrent", "mine"], &ALONE[..]].concat();
    let (code, _, stderr) = run(dir.path(), &args);
    assert_eq!(code, 13, "{stderr}");
    assert!(stderr.contains("hint: ") && !stderr.contains("--overwrite"), "{stderr}");
}

#[test]
fn without_the_dht_nothing_is_said_of_joining_it() {
    let dir = tempfile::tempdir().unwrap();
    let given: Vec<&str> = [&[HEX, "--stop-timeout", "3", "--json"], &ALONE[..]].concat();
    let (code, stdout, stderr) = run(dir.path(), &given);
    assert_eq!(code, 3);
    let all = format!("{stdout}{stderr}");
    assert!(all.contains("the DHT is not used") && !all.contains("joining"), "{all}");
    assert!(!all.contains("in the table"), "{all}");
    assert!(stderr.contains("hint: name a peer"), "{stderr}");
    let (_, _, stderr) = run(dir.path(), &[&given[..], &["--peer", "127.0.0.1:9"]].concat());
    assert!(stderr.contains("hint: is the peer that was named there"), "{stderr}");
}
