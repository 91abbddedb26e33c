//! Private networks through the program: made, joined, changed, left; and what a member with another key sees.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use dhtget::network::{INVITE_PREFIX, PrivateNetwork};

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(home: &Path, line: &str) -> Command {
    let mut command = Command::new(cargo_bin("dhtget"));
    command.current_dir(home).env("HOME", home).args(line.split_whitespace());
    for variable in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "DHTGET_NETWORK"] {
        command.env_remove(variable);
    }
    command
}

/// Exit code, stdout and stderr.
fn run(home: &Path, line: &str) -> (i32, String, String) {
    let output = command(home, line).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn start(home: &Path, line: &str) -> Running {
    let mut command = command(home, line);
    Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn key_of(path: &Path) -> String {
    let network = PrivateNetwork::parse(&fs::read_to_string(path).unwrap()).unwrap();
    network.keys.unwrap().current.expose()
}

/// A folder, and the invite to a network that was made in it.
fn created(flags: &str) -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = run(dir.path(), &format!("network create corp {flags}"));
    assert_eq!(code, 0, "{err}");
    let file = dir.path().join("corp.network");
    assert!(out.starts_with(INVITE_PREFIX) && out.lines().count() == 1, "{out}");
    (dir, file, out.trim().to_owned())
}

#[test]
fn a_network_is_made_once_and_its_key_is_shown_nowhere_else() {
    let (dir, file, invite) = created("--bootstrap 127.0.0.1:7001 --allow 127.0.0.0/8");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let key = key_of(&file);
    let (code, out, err) = run(dir.path(), "network create corp --bootstrap 127.0.0.1:7001");
    assert!(code == 13 && out.is_empty() && err.contains("is there already"), "{code} {err}");
    for line in [
        "network create other --bootstrap 127.0.0.1:1 --json -vv",
        "network rotate other.network --json -vv",
        "network check corp.network --json -vv",
        "node --network corp.network --print-config",
        "lookup 0123456789abcdef0123456789abcdef01234567 --network nowhere.network",
    ] {
        let (_, out, err) = run(dir.path(), line);
        let said = format!("{out}{err}").to_lowercase();
        assert!(!said.contains(&key) && !said.contains(INVITE_PREFIX), "{line}: {said}");
    }
    let (code, _, err) = run(dir.path(), &format!("node --network {invite} --print-config"));
    assert!(code == 28 && !err.contains(&invite[20..40]) && err.contains("hint:"), "{err}");
    for (line, words) in [
        ("network create Corp --bootstrap a:1", "`name`"),
        ("network create x", "names no `bootstrap`"),
        ("network create x --bootstrap a:1 --allow 10.0.0.1/8", "10.0.0.0/8"),
        ("node --lan", "which network"),
        ("node --network absent", "no network `absent`"),
        ("network rotate absent.network", "there is no file"),
    ] {
        let (code, _, err) = run(dir.path(), line);
        assert!(code == 28 && err.contains(words) && err.contains("hint:"), "{line}: {code} {err}");
    }
}

#[test]
fn a_network_is_joined_listed_changed_and_left() {
    let (maker, file, invite) = created("--bootstrap 127.0.0.1:7002 --lan");
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut join =
        command(home, "network join -").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut join.stdin.take().unwrap(), invite.as_bytes()).unwrap();
    assert!(join.wait().unwrap().success());
    let kept = home.join(".config/dhtget/networks/corp.network");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(key_of(&kept), key_of(&file));
    let (code, out, _) = run(home, "network list");
    assert!(code == 0 && out.starts_with("corp\tkeyed\t1 bootstrap node\t"), "{out}");
    // A change of the key comes with a new invite to the same network; another network of that name does not.
    let (code, _, err) = run(maker.path(), "network rotate corp.network --grace 1h");
    assert!(code == 0 && err.contains("until then all speak with the old key"), "{err}");
    let (code, _, err) = run(maker.path(), "network rotate corp.network");
    assert!(code == 28 && err.contains("--force"), "{err}");
    let (code, invite, _) = run(maker.path(), "network invite corp.network");
    assert_eq!(code, 0);
    assert_eq!(run(home, &format!("network join {}", invite.trim())).0, 0);
    assert_eq!(key_of(&kept), key_of(&file));
    let (_other, _, foreign) = created("--bootstrap 127.0.0.1:7003");
    let (code, _, err) = run(home, &format!("network join {foreign}"));
    assert!(code == 13 && err.contains("--name"), "{err}");
    assert_eq!(run(home, &format!("network join {foreign} --name second")).0, 0);
    for (line, words) in [
        (format!("network join {}", &foreign[..60]), "damaged"),
        (format!("network join {}x", foreign), "damaged"),
        ("network join hello".to_owned(), "no network `hello`"),
    ] {
        let (code, _, err) = run(home, &line);
        assert!(code == 28 && err.contains(words), "{code} {err}");
    }
    assert_eq!(run(home, "network leave corp").0, 0);
    assert!(!kept.exists());
    let (code, _, err) = run(home, "network leave corp");
    assert!(code == 28 && err.contains("second"), "{err}");
}

#[test]
fn members_share_and_a_stranger_learns_nothing() {
    let (dir, _, invite) = created("--bootstrap 127.0.0.1:7011");
    let home = dir.path();
    let payload: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(home.join("image"), &payload).unwrap();
    let _node = start(home, "node --network corp.network --listen 127.0.0.1:7011 --no-state");
    let mut sharer =
        start(home, &format!("share image --network {invite} --listen 127.0.0.1:7012 --no-state"));
    let mut magnet = String::new();
    BufReader::new(sharer.0.stdout.take().unwrap()).read_line(&mut magnet).unwrap();
    assert!(magnet.starts_with("magnet:?xt="), "{magnet}");
    let seen = fs::read(format!("/proc/{}/cmdline", sharer.0.id())).unwrap();
    assert!(
        !seen.windows(14).any(|w| w == &INVITE_PREFIX.as_bytes()[..14]),
        "an invite shows in the list of processes"
    );
    let magnet = magnet.trim();
    let line = format!(
        "{magnet} --network corp.network --listen 127.0.0.1:7013 --no-state -d got --stop-timeout 30"
    );
    let (code, _, err) = run(home, &line);
    assert_eq!(code, 0, "{err}");
    assert!(fs::read(home.join("got/image")).unwrap() == payload);
    let (code, out, err) = run(home, "network check corp.network --json");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains(r#""answers":true"#) && out.contains(r#""tcp":true"#), "{out}");
    // The same entry point, another key: silence, and a sentence that says what that may mean.
    let (stranger, _, _) = created("--bootstrap 127.0.0.1:7011");
    let line = format!("{magnet} --network corp.network --peer 127.0.0.1:7012 --stop-timeout 3 --no-state");
    let (code, _, err) = run(stranger.path(), &line);
    assert!(code == 3 && err.contains("127.0.0.1:7011"), "{code} {err}");
    let (code, _, err) = run(stranger.path(), "network check corp.network");
    assert!(code == 3 && err.contains("does not know this key"), "{code} {err}");
    // An open network meets a keyed one, and says so.
    let (open, _, _) = created("--bootstrap 127.0.0.1:7011 --open");
    let (code, out, err) = run(open.path(), "network check corp.network");
    assert!(code == 3 && err.contains("keyed network"), "{code} {out} {err}");
}
