//! Interrupted downloads: stopped, killed, damaged meanwhile; run again, they end with the right bytes.
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

mod runtime;

use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dhtget::client::DiskOptions;
use dhtget::client::{Client, ClientConfig, Job, Placement, Source, Stage, Status, Transfer, TransferEvent};
use dhtget::driver::choice::Chosen;
use dhtget::driver::place;
use dhtget::rng::Rng;
use dhtget::wire::bencode::Writer;
use dhtget::wire::metainfo::Info;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;

const PIECE: u64 = 32 << 10;
/// Two files, the second begins within a piece; the last piece is short.
const FILES: [(&str, u64); 2] = [("a.bin", 1_500_001), ("sub/b.bin", 600_000)];
const SIZE: u64 = FILES[0].1 + FILES[1].1;
const PATIENCE: Duration = Duration::from_secs(40);

fn run(test: impl Future<Output = ()>) {
    runtime::run_within(PATIENCE, test);
}

/// A torrent with its data in `seed/`, and an empty `here/` to fetch it into.
struct Lab {
    dir: TempDir,
    info: Arc<Info>,
    content: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let mut content = vec![0; SIZE as usize];
        Rng::from_u64(3).fill(&mut content);
        let hashes: Vec<u8> = content.chunks(PIECE as usize).flat_map(Sha1::digest).collect();
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.begin_dict().bytes(b"files").begin_list();
        for (path, length) in FILES {
            w.begin_dict().bytes(b"length").int(length as i64).bytes(b"path").begin_list();
            path.split('/').for_each(|c| {
                w.bytes(c.as_bytes());
            });
            w.end().end();
        }
        w.end().bytes(b"name").bytes(b"top").bytes(b"piece length").int(PIECE as i64);
        w.bytes(b"pieces").bytes(&hashes).end();
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
            info: Arc::new(Info::parse(out.into()).unwrap()),
            content,
        };
        lab.put(&lab.dir.path().join("seed"));
        fs::create_dir(lab.here()).unwrap();
        lab
    }

    fn here(&self) -> PathBuf {
        self.dir.path().join("here")
    }

    fn file(&self, index: usize) -> PathBuf {
        self.here().join("top").join(FILES[index].0)
    }

    fn claim(&self) -> PathBuf {
        self.here().join(format!(".{}.dhtget", self.info.hash()))
    }

    /// Writes the whole content below `folder`.
    fn put(&self, folder: &Path) {
        let (a, b) = self.content.split_at(FILES[0].1 as usize);
        fs::create_dir_all(folder.join("top/sub")).unwrap();
        fs::write(folder.join("top/a.bin"), a).unwrap();
        fs::write(folder.join("top/sub/b.bin"), b).unwrap();
    }

    fn assert_whole(&self) {
        let whole = [fs::read(self.file(0)).unwrap(), fs::read(self.file(1)).unwrap()].concat();
        assert!(whole == self.content, "wrong bytes");
        assert!(!self.claim().exists(), "the claim is still there");
        let names: Vec<_> = fs::read_dir(self.here()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["top"], "something is left behind");
    }

    async fn client(limits: (Option<u64>, Option<u64>)) -> Client {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let config = ClientConfig {
            listen,
            private_network: true,
            limit_download: limits.0,
            limit_upload: limits.1,
            ..ClientConfig::default()
        };
        Client::start(config).await.unwrap()
    }

    async fn seed(&self) -> (Client, Transfer, String) {
        let client = Self::client((None, None)).await;
        let transfer = client.add(Job {
            source: Source::Info(self.info.clone()),
            placement: Placement::InPlace(self.dir.path().join("seed/top")),
            peers: vec![],
            seed: true,
            super_seed: false,
        });
        let addr = format!("127.0.0.1:{}", client.port());
        (client, transfer, addr)
    }

    async fn fetch(&self, peers: &[String], limit: Option<u64>) -> (Client, Transfer) {
        let client = Self::client((limit, None)).await;
        let transfer = client.add(Job {
            source: Source::Hash(self.info.hash()),
            placement: Placement::Folder { dir: self.here(), name: None, overwrite: false },
            peers: peers.to_vec(),
            seed: false,
            super_seed: false,
        });
        (client, transfer)
    }

    /// Fetches until `bytes` are verified, then stops in peace; how many were.
    async fn interrupt_at(&self, peer: &str, bytes: u64) -> u64 {
        let (_client, transfer) = self.fetch(&[peer.to_owned()], Some(1 << 20)).await;
        let mut status = transfer.status();
        let seen = status.wait_for(|s| s.verified >= bytes).await.unwrap().verified;
        assert!(seen < SIZE, "too late to interrupt");
        transfer.stop().await;
        seen
    }

    /// Fetches to the end; what was found on disk, and the last figures.
    async fn finish(&self, peers: &[String]) -> (u64, Status) {
        let (_client, mut transfer) = self.fetch(peers, None).await;
        let mut found = 0;
        loop {
            match transfer.next().await.expect("ended early") {
                TransferEvent::Checked { verified, .. } => found = verified,
                TransferEvent::Complete => break,
                TransferEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
        self.assert_whole();
        let status = transfer.status().borrow().clone();
        (found, status)
    }
}

#[test]
fn a_stopped_download_goes_on_and_fetches_no_piece_twice() {
    for part in [PIECE, SIZE / 3, SIZE * 4 / 5] {
        run(async {
            let lab = Lab::new();
            let (_client, _seed, peer) = lab.seed().await;
            let seen = lab.interrupt_at(&peer, part).await;
            assert!(lab.claim().exists());
            let (found, status) = lab.finish(&[peer]).await;
            assert!(found >= seen, "{seen} were verified, {found} are found");
            assert_eq!(status.downloaded - status.wasted, SIZE - found);
        });
    }
}

#[test]
fn what_a_stopped_download_has_verified_is_not_read_again_unless_asked_for() {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        let seen = lab.interrupt_at(&peer, SIZE / 2).await;
        let placement = Placement::Folder { dir: lab.here(), name: None, overwrite: false };
        let look =
            |options| place::look(&placement, &lab.info, &Chosen::all(&lab.info), options).unwrap().unwrap();
        let place = look(DiskOptions::default());
        assert_eq!(place.to_check, []);
        assert!(u64::from(place.trusted.ones()) * PIECE >= seen);
        let place = look(DiskOptions { check: true, ..DiskOptions::default() });
        assert!(!place.to_check.is_empty() && place.trusted.ones() == 0);
        // The resume file's word holds for the files it saw.
        fs::File::options().write(true).open(lab.file(0)).unwrap().set_len(FILES[0].1).unwrap();
        let place = look(DiskOptions::default());
        assert_eq!(place.trusted.iter().filter(|p| u64::from(*p) * PIECE < FILES[0].1).count(), 0);
        fs::write(lab.claim().with_extension("dhtget-resume"), b"d5:cleani1e").unwrap();
        assert_eq!(look(DiskOptions::default()).trusted.ones(), 0);
        let (found, _) = lab.finish(&[peer]).await;
        assert!(found >= seen);
    });
}

#[test]
fn a_download_stopped_again_and_again_ends() {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        let mut last = 0;
        for part in 1..6 {
            let seen = lab.interrupt_at(&peer, (SIZE * part / 8).max(last + PIECE)).await;
            assert!(seen >= last);
            last = seen;
        }
        let (found, _) = lab.finish(&[peer]).await;
        assert!(found >= last);
    });
}

#[test]
fn the_metadata_is_kept_between_runs() {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        lab.interrupt_at(&peer, PIECE).await;
        let (_client, mut transfer) = lab.fetch(&[], None).await;
        while !matches!(transfer.next().await.unwrap(), TransferEvent::Checked { verified: 1.., .. }) {}
        transfer.stop().await;
    });
}

#[test]
fn a_complete_file_needs_no_peer() {
    run(async {
        let lab = Lab::new();
        lab.put(&lab.here());
        let (_client, mut transfer) = lab.fetch(&[], None).await;
        // Without a claim and without peers even the metadata is unknown; the .torrent's owner knows it.
        assert!(matches!(transfer.status().borrow().total, 0));
        transfer.stop().await;
        let client = Lab::client((None, None)).await;
        let source = Source::Info(lab.info.clone());
        let placement = Placement::Folder { dir: lab.here(), name: None, overwrite: false };
        transfer = client.add(Job { source, placement, peers: vec![], seed: false, super_seed: false });
        while !matches!(transfer.next().await.unwrap(), TransferEvent::Complete) {}
        assert!(transfer.next().await.is_none());
        assert_eq!(transfer.status().borrow().downloaded, 0);
        lab.assert_whole();
    });
}

/// Changes what an interrupted run has left, and expects the next run to fetch what is wrong and no more.
fn heals(damage: impl Fn(&Lab), at_most: u64) {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        let seen = lab.interrupt_at(&peer, SIZE * 3 / 4).await;
        damage(&lab);
        let (found, status) = lab.finish(&[peer]).await;
        assert!(found < SIZE && found + at_most >= seen, "{seen} before, {found} after");
        assert_eq!(status.downloaded - status.wasted, SIZE - found);
    });
}

/// A byte within a piece that the interrupted run had verified becomes another.
fn flip_a_verified_byte(lab: &Lab) {
    let mut file = fs::read(lab.file(0)).unwrap();
    let right = |piece: &usize| {
        let at = piece * PIECE as usize;
        file[at..at + PIECE as usize] == lab.content[at..at + PIECE as usize]
    };
    let piece = (0..40).find(right).expect("a whole piece is there");
    file[piece * PIECE as usize + 777] ^= 4;
    fs::write(lab.file(0), file).unwrap();
}

#[test]
fn a_flipped_byte_is_noticed_and_healed() {
    heals(flip_a_verified_byte, PIECE);
}

#[test]
fn a_flipped_byte_is_noticed_where_size_and_time_say_nothing() {
    heals(
        |lab| {
            let before = fs::metadata(lab.file(0)).unwrap().modified().unwrap();
            flip_a_verified_byte(lab);
            fs::File::options().write(true).open(lab.file(0)).unwrap().set_modified(before).unwrap();
        },
        PIECE,
    );
}

#[test]
fn a_truncated_file_is_healed() {
    heals(
        |lab| fs::File::options().write(true).open(lab.file(0)).unwrap().set_len(FILES[0].1 / 2).unwrap(),
        FILES[0].1 / 2 + 2 * PIECE,
    );
}

#[test]
fn an_over_long_file_is_cut_to_its_length() {
    heals(
        |lab| {
            let file = fs::File::options().write(true).open(lab.file(0)).unwrap();
            file.write_all_at(b"behind the end", FILES[0].1 + 100).unwrap();
        },
        0,
    );
}

#[test]
fn an_over_long_file_with_every_piece_right_is_cut_without_a_peer() {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        lab.interrupt_at(&peer, PIECE).await;
        lab.put(&lab.here());
        let file = fs::File::options().write(true).open(lab.file(1)).unwrap();
        file.write_all_at(b"behind the end", FILES[1].1 + 100).unwrap();
        let (found, _) = lab.finish(&[]).await;
        assert_eq!(found, SIZE);
    });
}

#[test]
fn a_missing_file_is_fetched_again() {
    heals(|lab| fs::remove_file(lab.file(0)).unwrap(), FILES[0].1 + PIECE);
}

#[test]
fn a_damaged_claim_costs_the_metadata_and_nothing_else() {
    heals(|lab| fs::write(lab.claim(), b"d4:infod").unwrap(), 0);
}

// ---- the binary

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Ended already, where the test got that far.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dhtget(lab: &Lab, peer: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dhtget"));
    command.arg(lab.info.hash().to_string()).args([
        "--no-dht",
        "--listen",
        "127.0.0.1:0",
        "-q",
        "--peer",
        peer,
    ]);
    command.arg("--dir").arg(lab.here()).args(more);
    command.env("HOME", lab.dir.path()).env("XDG_STATE_HOME", lab.dir.path().join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Bytes of whole pieces that lie right on disk.
fn right_on_disk(lab: &Lab) -> u64 {
    let mut data = Vec::new();
    for (index, (_, length)) in FILES.iter().enumerate() {
        let mut file = fs::read(lab.file(index)).unwrap_or_default();
        file.resize(*length as usize, 0);
        data.extend(file);
    }
    let pairs = data.chunks(PIECE as usize).zip(lab.content.chunks(PIECE as usize));
    pairs.filter(|(is, should)| is == should).map(|(is, _)| is.len() as u64).sum()
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_cannot_use() {
    for part in [0, SIZE / 8, SIZE / 2] {
        run(async {
            let lab = Lab::new();
            let (_client, _seed, peer) = lab.seed().await;
            for round in 1..3 {
                let before = right_on_disk(&lab);
                let mut child = Killed(dhtget(&lab, &peer, &["--limit-rate", "600k"]).spawn().unwrap());
                let start = Instant::now();
                // SIGKILL once this much more has reached the disk; at once for 0.
                while right_on_disk(&lab) < (before + part / round).min(SIZE * 4 / 5) {
                    assert!(start.elapsed() < PATIENCE / 3, "nothing arrives");
                    assert!(child.0.try_wait().unwrap().is_none(), "it ended before it was killed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                child.0.kill().unwrap();
                child.0.wait().unwrap();
                assert!(right_on_disk(&lab) >= before, "what was right is wrong now");
            }
            let right = right_on_disk(&lab);
            let (found, status) = lab.finish(&[peer]).await;
            assert_eq!(found, right);
            assert_eq!(status.downloaded - status.wasted, SIZE - found);
        });
    }
}

#[test]
fn the_same_command_again_finishes_what_was_killed_and_then_has_nothing_to_do() {
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        let mut child = Killed(dhtget(&lab, &peer, &["--limit-rate", "600k"]).spawn().unwrap());
        while right_on_disk(&lab) < SIZE / 4 {
            assert!(child.0.try_wait().unwrap().is_none(), "it ended before it was killed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let again = |lab: &Lab| {
            let mut command = dhtget(lab, &peer, &["--stop-timeout", "20"]);
            tokio::task::spawn_blocking(move || command.status().unwrap())
        };
        assert!(again(&lab).await.unwrap().success());
        lab.assert_whole();
        assert!(again(&lab).await.unwrap().success());
        lab.assert_whole();
    });
}

// ---- files that go away

/// A seed whose files are gone says so while that is true, and never that it waits for room.
#[test]
fn what_a_seed_cannot_read_is_said_until_it_can() {
    run(async {
        let lab = Lab::new();
        let (_client, seed, peer) = lab.seed().await;
        let (there, away) = (lab.dir.path().join("seed/top"), lab.dir.path().join("seed/away"));
        let mut status = seed.status();
        status.wait_for(|s| s.stage == Stage::Seeding).await.unwrap();
        fs::rename(&there, &away).unwrap();
        let (_first, _vain) = lab.fetch(std::slice::from_ref(&peer), None).await;
        let seen = status.wait_for(|s| s.unreadable.is_some()).await.unwrap().clone();
        assert!(seen.unreadable.unwrap().contains("seed/top cannot be read"));
        assert_eq!((seen.disk_trouble, seen.stage), (None, Stage::Seeding));
        fs::rename(&away, &there).unwrap();
        drop((_first, _vain));
        let (_second, _fetch) = lab.fetch(&[peer], None).await;
        let seen = status.wait_for(|s| s.uploaded > 0 && s.unreadable.is_none()).await.unwrap().clone();
        assert_eq!(seen.disk_trouble, None);
    });
}

// ---- a full disk

/// Mounts a small disk of its own over `$0`, runs the rest there, and compares what it fetched with `$SEED`.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=4m none "$0" || exit 99
"$@" || exit $?
cmp "$SEED/a.bin" "$0/top/a.bin" && cmp "$SEED/sub/b.bin" "$0/top/sub/b.bin" || exit 98"#;

fn may_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-r", "-m", "mount", "-t", "tmpfs", "none"]).arg(dir.path()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Fills the disk with something else until nothing more goes in.
fn fill(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    for size in [64 << 10, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

async fn a_full_disk_is_waited_for(allocation: &str) {
    let lab = Lab::new();
    let (_client, _seed, peer) = lab.seed().await;
    let mut command = Command::new("unshare");
    command.args(["-r", "-m", "sh", "-c", ON_A_SMALL_DISK]).arg(lab.here());
    command.arg(env!("CARGO_BIN_EXE_dhtget")).arg(lab.info.hash().to_string()).arg("--dir").arg(lab.here());
    command.args(["--no-dht", "--no-state", "--listen", "127.0.0.1:0", "--json", "--limit-rate", "400k"]);
    command.args(["--stop-timeout", "30", "--peer", &peer, "--file-allocation", allocation]);
    command.env("SEED", lab.dir.path().join("seed/top"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Killed(command.spawn().unwrap());
    let (lines, mut events) = tokio::sync::mpsc::unbounded_channel();
    let stdout = child.0.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).all(|line| lines.send(line).is_ok())
    });
    let mut until = async |what: &str| loop {
        let line = events.recv().await.unwrap_or_else(|| panic!("it ended before `{what}`"));
        if line.contains(what) {
            break;
        }
    };
    until(r#""event":"checked""#).await;
    let root = PathBuf::from(format!("/proc/{}/root", child.0.id()));
    let ballast = root.join(lab.here().strip_prefix("/").unwrap()).join("ballast");
    fill(&ballast);
    until("waiting for the disk").await;
    fs::remove_file(&ballast).unwrap();
    until(r#""event":"finished""#).await;
    let ended = tokio::task::spawn_blocking(move || child.0.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{allocation}");
}

#[test]
fn a_download_waits_for_room_says_so_and_goes_on() {
    if !may_mount() {
        println!("skipped: no disk can be mounted here (unshare -r -m mount)");
        return;
    }
    for allocation in ["sparse", "full", "none"] {
        run(a_full_disk_is_waited_for(allocation));
    }
}

/// Takes all the room of both files, is stopped, and goes on without being told how, on a disk that somebody else has filled but for what
/// the claim needs.
const FULL_AND_AGAIN: &str = r#"mount -t tmpfs -o size=4m none "$0" || exit 99
"$@" --file-allocation full --limit-rate 400k & run=$!
for try in $(seq 200); do [ -s "$0/top/a.bin" ] && [ -s "$0/top/sub/b.bin" ] && break; sleep 0.05; done
kill -TERM $run; wait $run; [ $? = 143 ] || exit 97
head -c 65536 /dev/zero > "$0/spare"; dd if=/dev/zero of="$0/ballast" bs=64k 2>/dev/null; rm "$0/spare"
"$@" || exit $?
cmp "$SEED/a.bin" "$0/top/a.bin" && cmp "$SEED/sub/b.bin" "$0/top/sub/b.bin" || exit 98"#;

#[test]
fn a_download_that_took_its_room_goes_on_where_no_more_is_left() {
    if !may_mount() {
        println!("skipped: no disk can be mounted here (unshare -r -m mount)");
        return;
    }
    run(async {
        let lab = Lab::new();
        let (_client, _seed, peer) = lab.seed().await;
        let mut command = Command::new("unshare");
        command.args(["-r", "-m", "sh", "-c", FULL_AND_AGAIN]).arg(lab.here());
        command.arg(env!("CARGO_BIN_EXE_dhtget")).arg(lab.info.hash().to_string());
        command.arg("--dir").arg(lab.here()).args(["--no-dht", "--no-state", "--listen", "127.0.0.1:0"]);
        command.args(["--stop-timeout", "20", "--peer", &peer]);
        command.env("SEED", lab.dir.path().join("seed/top"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = Killed(command.spawn().unwrap());
        let ended = tokio::task::spawn_blocking(move || child.0.wait().unwrap()).await.unwrap();
        assert_eq!(ended.code(), Some(0));
    });
}
