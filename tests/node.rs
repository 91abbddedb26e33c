//! `dhtget node` as its operator sees it: real processes on loopback, their figures, files and signals.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dhtget::network::PrivateNetwork;
use dhtget::rng::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

fn dhtget(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dhtget"));
    command.current_dir(dir).env("XDG_STATE_HOME", dir.join("state")).env("HOME", dir);
    command
}

/// A running `dhtget node`, killed if it is still there at the end.
struct Node {
    child: Child,
    events: BufReader<ChildStdout>,
    stderr: PathBuf,
    port: u16,
    status: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    /// Runs in `dir` on any free port; returns once it serves what `args` ask for.
    fn start(dir: &Path, args: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let stderr = dir.join(format!("stderr-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        let mut command = dhtget(dir);
        command.args(["node", "--json"]).args(args);
        if !args.contains(&"--config") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        let mut node = Self { child, events, stderr, port: 0, status: None, metrics: None };
        node.port = node.event("started")["port"].as_u64().unwrap().try_into().unwrap();
        let serving = node.event("serving");
        let addr = |url: &Value| {
            url.as_str().map(|u| u.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap())
        };
        (node.status, node.metrics) = (addr(&serving["status"]), addr(&serving["metrics"]));
        node
    }

    fn event(&mut self, name: &str) -> Value {
        let mut line = String::new();
        while self.events.read_line(&mut line).unwrap() > 0 {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
            line.clear();
        }
        panic!("no `{name}`; stderr: {}", self.words());
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code.
    fn wait(&mut self) -> i32 {
        until("the process ends", || self.child.try_wait().unwrap()).code().unwrap()
    }

    fn figures(&self) -> Value {
        let (code, _, body) = get(self.status.unwrap(), "/status.json", "localhost");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Samples of `/metrics` by name and labels, the grammar checked on the way.
    fn samples(&self) -> BTreeMap<String, f64> {
        let (code, head, body) = get(self.metrics.unwrap(), "/metrics", "127.0.0.1");
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let (mut samples, mut declared) = (BTreeMap::new(), String::new());
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<_> = comment.splitn(3, ' ').collect();
                assert!(["HELP", "TYPE"].contains(&words[0]) && words.len() == 3, "{line}");
                declared = words[1].to_owned();
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(series.split('{').next().unwrap(), declared, "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
        samples
    }
}

/// Waits for what has to come.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waiting in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Code, head in small letters and body of `path`, asked for under the name `host`.
fn get(addr: SocketAddr, path: &str, host: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = dhtget(dir).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// An address that nobody answers at, for as long as the socket lives.
fn silence() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// Two nodes that know each other; the second one is looked at.
fn pair(dir: &Path, args: &[&str]) -> (Node, Node) {
    let (_silent, nobody) = silence();
    let first = Node::start(dir, &["--no-state", "--bootstrap", &nobody, "--status", "127.0.0.1:0"]);
    let mut all =
        vec!["--bootstrap".to_owned(), first.address(), "--status".to_owned(), "127.0.0.1:0".to_owned()];
    all.extend(args.iter().map(ToString::to_string));
    let second = Node::start(dir, &all.iter().map(String::as_str).collect::<Vec<_>>());
    until("they know each other", || {
        let known = [&first, &second].map(|n| n.figures()["families"][0]["good"].as_u64().unwrap());
        (known == [1, 1]).then_some(())
    });
    (first, second)
}

#[test]
fn health_is_503_with_a_reason_until_somebody_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let metrics = ["--metrics", "127.0.0.1:0"];
    let alone = Node::start(dir.path(), &[&["--no-state", "--bootstrap", &nobody], &metrics[..]].concat());
    let health = || get(alone.metrics.unwrap(), "/healthz", "127.0.0.1:1");
    let words = until("the start is seen to be silent", || {
        let (code, _, words) = health();
        assert_eq!(code, 503, "{words}");
        words.contains("1 bootstrap addresses are silent").then_some(words)
    });
    assert!(words.starts_with("no node is known"), "{words}");
    assert_eq!(get(alone.metrics.unwrap(), "/", "localhost").0, 404, "metrics alone serve no page");
    let entry = alone.address();
    let _other = Node::start(dir.path(), &["--no-state", "--bootstrap", &entry, "--status", "127.0.0.1:0"]);
    until("somebody is known", || (health().0 == 200).then_some(()));
    assert!(health().2.contains("1 nodes in the table"), "{:?}", health());
}

#[test]
fn what_comes_in_is_counted_by_kind_and_what_is_refused_by_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (first, node) = pair(dir.path(), &["--no-state", "--metrics", "127.0.0.1:0"]);
    assert_eq!(run(dir.path(), &["ping", &node.address()]).0, 0);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let id = "2:id20:abcdefghij0123456789";
    let announce = format!(
        "d1:ad{id}9:info_hash20:mnopqrstuvwxyz1234564:porti7e5:token4:nopee1:q13:announce_peer1:t1:a1:y1:qe"
    );
    let stray = format!("d1:rd{id}e1:t4:xxxx1:y1:re");
    let unknown = format!("d1:ad{id}e1:q5:vote!1:t1:a1:y1:qe");
    for datagram in ["rubbish", "d1:ade1:q4:ping1:t1:a1:y1:qe", &announce, &stray, &unknown] {
        stranger.send_to(datagram.as_bytes(), node.address()).unwrap();
    }
    let refused = |reason: &str| format!("dhtget_refused_total{{reason=\"{reason}\"}}");
    let samples = until("all of them are counted", || {
        let samples = node.samples();
        (samples[&refused("unknown_method")] == 1.0).then_some(samples)
    });
    for reason in ["malformed", "bad_query", "bad_token", "unmatched"] {
        assert_eq!(samples[&refused(reason)], 1.0, "{reason}");
    }
    assert_eq!(samples[&refused("rate_limit")], 0.0);
    for (series, value) in [
        ("dhtget_queries_total{direction=\"in\",method=\"ping\"}", 1.0),
        ("dhtget_queries_total{direction=\"in\",method=\"announce_peer\"}", 1.0),
        ("dhtget_errors_total{direction=\"out\",code=\"203\"}", 2.0),
        ("dhtget_errors_total{direction=\"out\",code=\"204\"}", 1.0),
        ("dhtget_nodes{family=\"IPv4\",state=\"good\"}", 1.0),
        ("dhtget_bootstrap{state=\"answered\"}", 1.0),
        ("dhtget_stored_peers", 0.0),
    ] {
        assert_eq!(samples[series], value, "{series}");
    }
    // Whoever is asked counts it as received, whoever asks as sent.
    let sent = node.figures()["traffic"]["queries_out"]["find_node"].as_u64().unwrap();
    assert!(sent > 0 && first.figures()["traffic"]["queries_in"]["find_node"].as_u64().unwrap() > 0);
    assert!(samples["dhtget_bytes_total{direction=\"in\"}"] > 0.0);
}

#[test]
fn the_figures_tell_the_table_the_entries_and_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ["--no-state", "--limit-queries", "777", "--limit-bytes", "1M", "--memory", "2M"];
    let (first, node) = pair(dir.path(), &limits);
    let (of_first, figures) = (first.figures(), node.figures());
    let contact = &figures["families"][0]["buckets"][0]["contacts"][0];
    assert_eq!((&contact["id"], &contact["state"]), (&of_first["id"], &"good".into()));
    assert_eq!(contact["address"], first.address());
    assert_eq!(figures["bootstrap"][0]["state"], "answered");
    assert_eq!(figures["health"]["ok"], true);
    assert_eq!(
        (&figures["limits"]["queries"], &figures["limits"]["answer_bytes"]),
        (&777.into(), &1_048_576.into())
    );
    assert_eq!(figures["stored"]["limit_bytes"], 2 << 20);
    assert_eq!(figures["port"], node.port);
    assert!(figures["resident_bytes"].as_u64().unwrap() > 0 && figures["uptime_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_answers_to_no_borrowed_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let args =
        ["--no-state", "--bootstrap", &nobody, "--status", "127.0.0.1:0", "--allow-host", "node.example"];
    let both = [&args[..], &["--metrics", "127.0.0.1:0"]].concat();
    let node = Node::start(dir.path(), &both);
    let addr = node.status.unwrap();
    assert_eq!(node.metrics, Some(addr), "the same address is one server");
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let (code, head, body) = get(addr, path, "127.0.0.1");
        assert_eq!(code, 200, "{path}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff") && !head.contains("set-cookie"), "{head}");
        // Names of XML vocabularies are no addresses.
        let body = body.replace("http://www.w3.org/2000/svg", "");
        assert!(!body.contains("//www") && !body.contains("http:") && !body.contains("https:"), "{path}");
    }
    for path in ["/", "/status.json", "/metrics", "/healthz"] {
        for host in ["evil.example", "127.0.0.1.evil.example:80", ""] {
            let (code, _, body) = get(addr, path, host);
            assert_eq!(code, 421, "{path} {host}");
            assert!(body.contains("--allow-host"), "{body}");
        }
        assert_ne!(get(addr, path, "Node.Example:6880").0, 421, "{path}");
    }
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"POST /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[test]
fn sigterm_ends_it_with_the_state_saved_and_the_next_run_is_the_same_node() {
    let dir = tempfile::tempdir().unwrap();
    let state = ["--state-dir", "kept"];
    let (first, mut node) = pair(dir.path(), &state);
    let id = node.figures()["id"].clone();
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), 143);
    let network = std::fs::read_dir(dir.path().join("kept")).unwrap().next().unwrap().unwrap();
    assert!(network.path().join("dht.state").is_file());
    let entry = first.address();
    let again = Node::start(
        dir.path(),
        &["--bootstrap", &entry, "--state-dir", "kept", "--status", "127.0.0.1:0", "--quiet"],
    );
    assert_eq!(again.figures()["id"], id);
}

#[test]
fn sighup_follows_the_file_and_says_what_it_cannot_follow() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let (_other, nobody_else) = silence();
    let write = |text: &str| std::fs::write(dir.path().join("node.toml"), text).unwrap();
    let same = "status = \"127.0.0.1:0\"\nno-state = true";
    let at = |listen: &str| format!("{same}\nlisten = \"{listen}\"\n");
    write(&format!("{}limit-queries = 5\nbootstrap = [\"{nobody}\"]", at("127.0.0.1:0")));
    let mut node = Node::start(dir.path(), &["--config", "node.toml"]);
    let reload = |words: &str| {
        node.signal(Signal::HUP);
        until(words, || node.words().contains(words).then_some(()));
    };
    assert_eq!(node.figures()["limits"]["queries"], 5);
    write(&format!(
        "{}limit-queries = 6\nmemory = \"1M\"\nbootstrap = [\"{nobody_else}\"]",
        at("127.0.0.1:0")
    ));
    reload("changed: limits and bootstrap");
    let figures = until("the figures are fresh", || {
        let figures = node.figures();
        (figures["limits"]["queries"] == 6).then_some(figures)
    });
    assert_eq!(figures["stored"]["limit_bytes"], 1 << 20);
    assert_eq!(figures["bootstrap"].as_array().unwrap().len(), 1, "{figures}");
    assert_eq!(figures["bootstrap"][0]["address"], nobody_else);
    write(&format!("{}bootstrap = [\"{nobody_else}\"]", at("127.0.0.1:1")));
    reload("needs a restart to change: listen");
    write("limit-quries = 1");
    reload("unknown key `limit-quries`");
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), 143);
}

#[test]
fn sighup_takes_a_key_that_came_with_another_network_first() {
    let dir = tempfile::tempdir().unwrap();
    let write = |network: &PrivateNetwork| {
        std::fs::write(dir.path().join("corp.network"), network.to_toml()).unwrap();
    };
    let mut corp = PrivateNetwork::new("corp", true, &mut Rng::from_u64(1)).unwrap();
    let other = PrivateNetwork::new("other", true, &mut Rng::from_u64(2)).unwrap();
    write(&corp);
    let mut node =
        Node::start(dir.path(), &["--network", "corp.network", "--no-state", "--status", "127.0.0.1:0"]);
    let reload = |words: &str| {
        node.signal(Signal::HUP);
        until(words, || node.words().contains(words).then_some(()));
    };
    corp.rotate(None, &mut Rng::from_u64(3));
    write(&PrivateNetwork { id: other.id, ..corp.clone() });
    reload("needs a restart to change: network");
    write(&corp);
    reload("changed: keys");
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), 143);
}

#[test]
fn sigusr1_prints_every_contact() {
    let dir = tempfile::tempdir().unwrap();
    let (first, node) = pair(dir.path(), &["--no-state", "--quiet"]);
    node.signal(Signal::USR1);
    let id = first.figures()["id"].as_str().unwrap().to_owned();
    let words = until("the last part is there", || Some(node.words()).filter(|w| w.contains("\nstart ")));
    assert!(words.contains("IPv4 table: 1 nodes, 1 good"), "{words}");
    let contact = words.lines().find(|line| line.contains(&id)).unwrap();
    assert!(contact.contains(&first.address()) && contact.contains("good"), "{contact}");
    assert!(
        words.contains("refused  nothing") && words.contains("stored   0 peers of 0 info-hashes, 0 items"),
        "{words}"
    );
}

#[test]
fn a_log_in_json_is_json_in_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let (first, mut node) = pair(dir.path(), &["--no-state", "--log-format", "json"]);
    node.signal(Signal::USR1);
    until("the tables are there", || node.words().contains("\"tables\"").then_some(()));
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), 143);
    let words = node.words();
    let lines: Vec<Value> =
        words.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).expect(l)).collect();
    assert!(lines[0]["message"].as_str().unwrap().starts_with("listening on"), "{words}");
    assert!(lines.iter().all(|l| l["level"].is_string()));
    let tables = lines.iter().find(|l| l["message"] == "tables").unwrap();
    assert_eq!(tables["tables"]["families"][0]["buckets"][0]["contacts"][0]["id"], first.figures()["id"]);
    let last = lines.last().unwrap();
    assert_eq!((&last["level"], &last["code"]), (&"ERROR".into(), &143.into()));
}

#[test]
fn a_printed_configuration_can_be_fed_back() {
    let dir = tempfile::tempdir().unwrap();
    let line = [
        "node",
        "--bootstrap",
        "127.0.0.1:1,a.example:2",
        "--limit-queries",
        "9",
        "--limit-bytes",
        "64k",
        "--memory",
        "3M",
        "--status",
        "--metrics",
        "127.0.0.1:9100",
        "--state-dir",
        "s",
        "-vv",
        "--print-config",
    ];
    let (code, first, stderr) = run(dir.path(), &line);
    assert_eq!((code, stderr.as_str()), (0, ""));
    std::fs::write(dir.path().join("node.toml"), &first).unwrap();
    let again = ["node", "--config", "node.toml", "--print-config"];
    assert_eq!(run(dir.path(), &again), (0, first.clone(), String::new()));
    for part in
        ["limit-bytes = 65536", "memory = 3145728", "status = \"127.0.0.1:6880\"", "limit-queries = 9"]
    {
        assert!(first.contains(part), "{first}");
    }
    std::fs::write(dir.path().join("node.toml"), "listen = \"127.0.0.1:0\"\nmetrix = 1\n").unwrap();
    let (code, stdout, stderr) = run(dir.path(), &["node", "--config", "node.toml"]);
    assert_eq!((code, stdout.as_str()), (28, ""));
    assert!(
        stderr.contains("node.toml: line 2: unknown key `metrix`") && stderr.contains("\n\nhint: "),
        "{stderr}"
    );
}

#[test]
fn node_status_prints_a_running_node_and_says_where_none_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (first, node) = pair(dir.path(), &["--no-state", "--metrics", "127.0.0.1:0"]);
    let address = node.status.unwrap().to_string();
    let (code, stdout, stderr) = run(dir.path(), &["node", "status", &address]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let id = node.figures()["id"].as_str().unwrap().to_owned();
    for words in [&id, "IPv4 table: 1 nodes, 1 good", "find_node", "refused  nothing", "start    127.0.0.1:"]
    {
        assert!(stdout.contains(words), "{stdout}");
    }
    assert!(!stdout.contains(first.figures()["id"].as_str().unwrap()), "contacts are for SIGUSR1");
    let (code, stdout, _) = run(dir.path(), &["node", "status", &address, "--json"]);
    let figures: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &figures["id"]), (0, &id.into()));
    drop(node);
    for no_node in [address, first.address()] {
        let (code, stdout, stderr) = run(dir.path(), &["node", "status", &no_node]);
        assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
        assert!(stderr.contains("no node tells its state at") && stderr.contains("--status"), "{stderr}");
    }
}

#[test]
fn connections_are_bounded_and_room_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let node = Node::start(dir.path(), &["--no-state", "--bootstrap", &nobody, "--status", "127.0.0.1:0"]);
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
    };
    let first_byte = |stream: &mut TcpStream| stream.read_exact(&mut [0]);
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(node.status.unwrap()).unwrap();
        ask(&mut stream).unwrap();
        first_byte(&mut stream).unwrap();
        open.push(stream);
    }
    let mut waiting = TcpStream::connect(node.status.unwrap()).unwrap();
    ask(&mut waiting).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(first_byte(&mut waiting).is_err(), "more connections are served than there is room for");
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    open.pop();
    first_byte(&mut waiting).unwrap();
}

#[test]
fn a_limit_on_everyone_holds_and_shows() {
    let dir = tempfile::tempdir().unwrap();
    let (_first, node) =
        pair(dir.path(), &["--no-state", "--limit-queries", "5", "--metrics", "127.0.0.1:0"]);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t1:a1:y1:qe";
    let pings = 200;
    for _ in 0..pings {
        stranger.send_to(ping, node.address()).unwrap();
    }
    let count = |samples: &BTreeMap<String, f64>, series: &str| samples[series] as u64;
    until("all are counted", || {
        let samples = node.samples();
        let served = count(&samples, "dhtget_queries_total{direction=\"in\",method=\"ping\"}");
        let refused = count(&samples, "dhtget_refused_total{reason=\"rate_limit\"}");
        assert!(served < pings, "the limit does nothing");
        (served + refused >= pings).then_some(())
    });
}

#[test]
fn drips_do_not_keep_health_from_answering() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let node = Node::start(dir.path(), &["--no-state", "--bootstrap", &nobody, "--status", "127.0.0.1:0"]);
    let addr = node.status.unwrap();
    // More than there are places, each with a request that never ends.
    let mut drips: Vec<_> = (0..70).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for drip in &mut drips {
        drip.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    }
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let dripping = std::thread::spawn(move || {
        let each = Duration::from_millis(500);
        while stopped.recv_timeout(each) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // The server closes them one after the other.
            drips.iter_mut().for_each(|drip| drop(drip.write_all(b"x")));
        }
    });
    let (code, _, words) = get(addr, "/healthz", "localhost");
    assert!(code == 503 && words.contains("no node is known"), "{words}");
    drop(stop);
    dripping.join().unwrap();
}

#[test]
fn a_run_for_its_events_ends_when_nobody_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let key = "12".repeat(32);
    for command in [&["node"][..], &["follow", &key], &["lookup", &key[..40]], &["item", "get", &key]] {
        let common = ["--json", "--no-state", "--listen", "127.0.0.1:0", "--bootstrap", &nobody];
        let mut child = dhtget(dir.path())
            .args(command)
            .args(common)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("started"), "{line}");
        let ended = until("the process ends", || child.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0), "{command:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn whoever_types_a_value_may_change_his_mind() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let mut child = dhtget(dir.path())
        .args(["item", "put", "-", "--key", "key", "--listen", "127.0.0.1:0", "--bootstrap", &nobody])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"half a val").unwrap();
    // SIGINT is caught once its bit stands in this mask.
    let status = format!("/proc/{}/status", child.id());
    until("signals are caught", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap().trim();
        (u64::from_str_radix(mask, 16).unwrap() & 2 != 0).then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(until("the process ends", || child.try_wait().unwrap()).code(), Some(130));
    assert!(!dir.path().join("key").exists(), "nothing was begun");
    drop(stdin);
}

#[test]
fn figures_without_a_node_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        for body in ["{}", "{\"id\":\"\\u001b[2J\"}"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
        }
    });
    for format in [&["node", "status", &address][..], &["node", "status", &address, "--json"]] {
        let (code, _, stderr) = run(dir.path(), format);
        assert!(code == 3, "{stderr}");
    }
    server.join().unwrap();
}

#[test]
fn the_first_machine_of_a_network_may_start_at_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, own) = silence();
    drop(socket);
    let text =
        format!("listen = \"{own}\"\nbootstrap = [\"{own}\"]\nno-state = true\nstatus = \"127.0.0.1:0\"");
    std::fs::write(dir.path().join("node.toml"), text).unwrap();
    let node = Node::start(dir.path(), &["--config", "node.toml"]);
    until("it has heard itself", || (node.figures()["bootstrap"][0]["state"] == "answered").then_some(()));
}

#[test]
fn a_second_run_and_a_folder_that_keeps_nothing_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_silent, nobody) = silence();
    let args = ["--bootstrap", &nobody, "--status", "127.0.0.1:0", "--state-dir"];
    let first = Node::start(dir.path(), &[&args[..], &["kept"]].concat());
    let second = Node::start(dir.path(), &[&args[..], &["kept"]].concat());
    until("it says so", || second.words().contains("another run holds the node id").then_some(()));
    assert!(!first.words().contains("WARN"), "{}", first.words());
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let (code, _, stderr) = run(
        dir.path(),
        &[
            "lookup",
            &"12".repeat(20),
            "--listen",
            "127.0.0.1:0",
            "--bootstrap",
            &first.address(),
            "--state-dir",
            "file",
        ],
    );
    assert!(code == 3 && stderr.contains("nothing can be kept in the state folder"), "{stderr}");
}

#[test]
fn a_supervisor_hears_when_it_is_ready_alive_and_leaving() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_silent, nobody) = silence();
    let mut command = dhtget(dir.path());
    command.args(["node", "--no-state", "--listen", "127.0.0.1:0", "--bootstrap", &nobody]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "500000").env_remove("WATCHDOG_PID");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let hear = || {
        let mut words = [0; 512];
        let length = supervisor.recv(&mut words).expect("the node says something");
        String::from_utf8(words[..length].to_vec()).unwrap().trim_end().to_owned()
    };
    assert_eq!(hear(), "READY=1");
    let heard: Vec<String> = (0..4).map(|_| hear()).collect();
    assert_eq!(heard.iter().filter(|h| *h == "WATCHDOG=1").count(), 3, "{heard:?}");
    assert!(heard.iter().any(|h| h.starts_with("STATUS=joining the DHT (0 nodes")), "{heard:?}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    while hear() != "STOPPING=1" {}
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
