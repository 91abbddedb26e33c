//! What the DHT stores, through the program: items, links that move, scrapes and samples, on a private network.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::OnceLock;

use assert_cmd::cargo::cargo_bin_cmd;
use dhtget::dht::{Config, Network};
use dhtget::driver::Dht;
use dhtget::driver::listen::{UdpSockets, udp_socket};
use dhtget::id::Id160;
use serde_json::Value;

const NODES: u8 = 12;

/// The addresses of a private DHT in this process, which lives as long as the tests do.
fn network() -> &'static [String] {
    static NETWORK: OnceLock<Vec<String>> = OnceLock::new();
    NETWORK.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut nodes: Vec<Dht> = Vec::new();
                let mut addresses: Vec<String> = Vec::new();
                for seed in 1..=NODES {
                    let socket = udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
                    let address = socket.local_addr().unwrap().to_string();
                    let config = Config { network: Network::Local, ..Config::default() };
                    let sockets = UdpSockets { v4: Some(socket), v6: None };
                    let known = addresses.first().cloned().into_iter().collect();
                    nodes.push(Dht::spawn(config, sockets, [seed; 32], None, known).unwrap());
                    addresses.push(address);
                }
                for node in &nodes[1..] {
                    let _ = node.status().wait_for(|s| s.bootstrapped && s.nodes_v4 >= 8).await;
                }
                sender.send(addresses).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receiver.recv().unwrap()
    })
}

/// Exit code, stdout and stderr of `dhtget args` in the private network.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = cargo_bin_cmd!("dhtget");
    command.current_dir(dir).env("HOME", dir).timeout(std::time::Duration::from_secs(60)).args(args);
    if args[0] != "sample" {
        let known = network()[..3].join(",");
        command.args(["--listen", "127.0.0.1:0", "--no-state", "--bootstrap", &known]);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn an_item_is_put_and_got_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    // On a busy machine a node may answer too late; the same item put again is the same item.
    let mut puts = std::iter::repeat_with(|| run(dir.path(), &["item", "put", "hello, world"])).take(5);
    let put = puts.find(|(code, _, stderr)| *code == 0 && stderr.contains("stored on 8 nodes"));
    let (_, name, _) = put.unwrap();
    let (code, value, _) = run(dir.path(), &["item", "get", name.trim()]);
    assert_eq!((code, value.as_str()), (0, "hello, world"));
    let (_, value, _) = run(dir.path(), &["item", "get", name.trim(), "--bencoded"]);
    assert_eq!(value, "12:hello, world");
    let (_, events, _) = run(dir.path(), &["item", "get", name.trim(), "--json"]);
    let item: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!((&item["event"], &item["text"]), (&"item".into(), &"hello, world".into()));
    let (code, _, stderr) = run(dir.path(), &["item", "get", &"12".repeat(20)]);
    assert!(code == 3 && stderr.contains("no item 1212"), "{stderr}");
}

#[test]
fn a_signed_item_is_replaced_by_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let put =
        |words: &[&str]| run(dir.path(), &[&["item", "put", "--key", "key", "--salt", "s"], words].concat());
    let (code, key, stderr) = put(&["first"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("made a new key") && stderr.contains("as version 1 on 8 nodes"), "{stderr}");
    let get = || run(dir.path(), &["item", "get", key.trim(), "--salt", "s"]).1;
    assert_eq!(get(), "first");
    let (code, again, stderr) = put(&["second"]);
    assert!(code == 0 && again == key && stderr.contains("version 2"), "{stderr}");
    assert_eq!(get(), "second");
    for refused in [&["third", "--seq", "1"][..], &["third", "--cas", "1"]] {
        let (code, _, stderr) = put(refused);
        assert!(code == 1 && stderr.contains("version 2 or a newer one is there"), "{stderr}");
    }
    assert_eq!(get(), "second");
    // Without the salt it is another item.
    assert_eq!(run(dir.path(), &["item", "get", key.trim()]).0, 3);
}

#[test]
fn a_link_follows_what_is_published_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = ("ab".repeat(20), "cd".repeat(20));
    let publish = |hash: &str| run(dir.path(), &["publish", hash, "--key", "key", "--salt", "n", "--once"]);
    let (code, link, stderr) = publish(&first);
    assert_eq!(code, 0, "{stderr}");
    assert!(link.starts_with("magnet:?xs=urn:btpk:") && link.trim_end().ends_with("&s=6e"), "{link}");
    let follow = || run(dir.path(), &["follow", link.trim(), "--once"]).1;
    assert_eq!(follow().trim(), format!("magnet:?xt=urn:btih:{first}"));
    // The same again is no new version.
    let stderr = publish(&first).2;
    assert!(stderr.contains("version 1 is on"), "{stderr}");
    let stderr = publish(&second).2;
    assert!(stderr.contains("version 2 is on"), "{stderr}");
    assert_eq!(follow().trim(), format!("magnet:?xt=urn:btih:{second}"));
    // The link is a target wherever a torrent is.
    let (code, _, stderr) = run(dir.path(), &["lookup", link.trim()]);
    assert!(code == 3 && stderr.contains(&format!("the link points at {second}")), "{stderr}");
    let (code, _, stderr) = run(dir.path(), &["get", link.trim(), "--stop-timeout", "1"]);
    assert!(code == 3 && stderr.contains(&second), "{stderr}");
    let (code, _, stderr) = run(dir.path(), &["follow", &"12".repeat(32), "--once"]);
    assert!(code == 3 && stderr.contains("nothing is published"), "{stderr}");
}

#[test]
fn a_follower_outlasts_a_version_that_points_at_no_torrent() {
    let dir = tempfile::tempdir().unwrap();
    let (code, key, stderr) = run(dir.path(), &["item", "put", "no torrent", "--key", "key"]);
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = run(dir.path(), &["follow", key.trim(), "--once"]);
    assert!(code == 27 && stderr.contains("points at no torrent"), "{stderr}");
    let mut follower = std::process::Command::new(env!("CARGO_BIN_EXE_dhtget"))
        .args(["follow", key.trim(), "--interval", "1s", "--listen", "127.0.0.1:0", "--no-state"])
        .args(["--bootstrap", &network()[..3].join(",")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = |reader: Box<dyn std::io::Read>| BufReader::new(reader).lines().map(Result::unwrap);
    let mut notes = lines(Box::new(follower.stderr.take().unwrap()));
    assert!(notes.any(|note| note.contains("points at no torrent") && note.contains("looking again")));
    let hash = "ef".repeat(20);
    let (code, _, stderr) = run(dir.path(), &["publish", &hash, "--key", "key", "--once"]);
    assert!(code == 0 && stderr.contains("version 2 is on"), "{stderr}");
    let mut links = lines(Box::new(follower.stdout.take().unwrap()));
    assert_eq!(links.next(), Some(format!("magnet:?xt=urn:btih:{hash}")));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn a_swarm_is_counted_and_a_node_names_what_it_stores() {
    let hash = Id160([0x5c; 20]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Two seeds and a leecher on one address each, as far as loopback has addresses.
        for (host, seed) in [(2, true), (3, true), (4, false)] {
            let socket = udp_socket(([127, 0, 0, host], 0).into()).unwrap();
            let sockets = UdpSockets { v4: Some(socket), v6: None };
            let config = Config { network: Network::Local, ..Config::default() };
            let node = Dht::spawn(config, sockets, [100 + host; 32], None, network()[..3].to_vec()).unwrap();
            node.status().wait_for(|s| s.bootstrapped).await.unwrap();
            let mut search = node.get_peers_and_announce(hash, 7000, seed);
            while search.next().await.is_some() {}
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let (code, counted, stderr) = run(dir.path(), &["lookup", &hash.to_string(), "--scrape"]);
    assert_eq!((code, counted.trim()), (0, "2 seeds, 1 leecher"), "{stderr}");
    let stored = network().iter().filter(|node| {
        let (code, hashes, stderr) = run(dir.path(), &["sample", node]);
        assert!(code == 0 && stderr.contains("info-hashes; the same ones for 600 s"), "{stderr}");
        hashes.lines().any(|line| line == hash.to_string())
    });
    assert!(stored.count() >= 8);
}
