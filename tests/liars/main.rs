//! One honest peer among fifty liars, on real sockets: the work is done, in bounded memory, and the liars are gone.
//!
//! The victim and the honest peer are `dhtget` processes, so that memory and CPU are the victim's alone. `misdeeds`
//! says what a liar does on a connection, `crowd` who the liars are, `stage` what is fetched. The honest peer's rate is
//! bounded as a link would bound it: what is compared is how long the liars hold the work up.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail that way")]

mod crowd;
mod misdeeds;
mod stage;
#[path = "../wire/mod.rs"]
mod wire;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crowd::Crowd;
use misdeeds::{ALL, Against, Fate, Misdeed};
use stage::{Program, Stage};

const LIARS: usize = 50;
/// What the victim may hold, whoever comes.
const MAX_MEMORY: u64 = 40 << 20;
/// The longest that a fetch of seconds may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the last connections may take to end: a handshake's ten seconds, and some.
const LEAVE: Duration = Duration::from_secs(15);

/// What came of one fetch.
struct Outcome {
    time: Duration,
    /// When the victim knew the torrent; nothing where it knew it at once.
    metadata: Duration,
    memory: u64,
    cpu: f64,
    wasted: u64,
    /// Liars that are connected and should not be, by misdeed.
    left: BTreeMap<String, usize>,
    sessions: usize,
}

fn outcome(victim: &Program, time: Duration, crowd: &Crowd) -> Outcome {
    let may_stay = |misdeed| ALL.iter().any(|(m, _, fate)| *m == misdeed && *fate == Fate::Useless);
    let mut left = BTreeMap::new();
    for misdeed in crowd.rest(LEAVE, may_stay) {
        *left.entry(format!("{misdeed:?}")).or_default() += 1;
    }
    let wasted = victim.last("progress").map_or(0, |(_, e)| e["wasted"].as_u64().unwrap_or(0));
    let sessions = crowd.liars.iter().map(|l| l.sessions.load(Ordering::Relaxed)).sum();
    let metadata = victim.last("metadata").map_or(Duration::ZERO, |(at, _)| at - victim.started);
    Outcome { time, metadata, memory: victim.peak(), cpu: victim.cpu(), wasted, left, sessions }
}

/// A port may come again, and what was fetched before would be there.
fn new_folder() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("fetched-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A leecher that is told of the liars first, and of one seed last.
fn leech(stage: &Arc<Stage>, rate: u64, misdeeds: impl Iterator<Item = Misdeed>) -> Outcome {
    let mut honest = stage.seed(Some(rate));
    let honest_addr = honest.addr();
    honest.wait_for("finished", PATIENCE);
    let crowd = Crowd::start(stage, misdeeds);
    let peers = [crowd.addrs(), vec![honest_addr]].concat();
    let folder = new_folder();
    let mut victim = stage.leech(&folder, &stage.magnet(), &peers, None);
    crowd.attack(victim.addr());
    let time = victim.finish(PATIENCE);
    stage.compare(&folder);
    outcome(&victim, time, &crowd)
}

/// A seed under attack, and then one leecher that is bounded by its own link.
fn seed(stage: &Arc<Stage>, rate: u64, misdeeds: impl Iterator<Item = Misdeed>) -> Outcome {
    let mut victim = stage.seed(None);
    let addr = victim.addr();
    victim.wait_for("finished", PATIENCE);
    let crowd = Crowd::start(stage, misdeeds);
    crowd.attack(addr);
    crowd.until_all_have_come();
    let folder = new_folder();
    let mut honest = stage.leech(&folder, &stage.torrent(), &[addr], Some(rate));
    let time = honest.finish(PATIENCE);
    stage.compare(&folder);
    outcome(&victim, time, &crowd)
}

type Scene = fn(&Arc<Stage>, u64, &mut dyn Iterator<Item = Misdeed>) -> Outcome;
const AS_LEECH: (&str, Against, Scene) = ("leech", Against::Leech, |s, r, m| leech(s, r, m));
const AS_SEED: (&str, Against, Scene) = ("seed", Against::Seed, |s, r, m| seed(s, r, m));

fn misdeeds_against(victim: Against) -> Vec<Misdeed> {
    ALL.iter().filter(|(_, against, _)| [victim, Against::Both].contains(against)).map(|(m, ..)| *m).collect()
}

fn line(name: &str, outcome: &Outcome, alone: Duration) {
    println!(
        "{name:32} {:6.2} s  {:5.2} x  metadata {:5.2} s  {:5.1} MiB  {:6.2} CPU s  {:6.2} MiB wasted  {:6} sessions  left {:?}",
        outcome.time.as_secs_f64(),
        outcome.time.as_secs_f64() / alone.as_secs_f64(),
        outcome.metadata.as_secs_f64(),
        outcome.memory as f64 / f64::from(1 << 20),
        outcome.cpu,
        outcome.wasted as f64 / f64::from(1 << 20),
        outcome.sessions,
        outcome.left,
    );
}

/// All misdeeds at once. The times are printed; that it ends at all, within the patience of the stage, is asserted.
fn among_all((name, against, scene): (&str, Against, Scene)) {
    let stage = Arc::new(Stage::new((8 << 20) + 4321));
    let rate = 4 << 20;
    let alone = scene(&stage, rate, &mut std::iter::empty());
    let all = misdeeds_against(against);
    let crowd = scene(&stage, rate, &mut all.into_iter().cycle().take(LIARS));
    line(&format!("{name}, alone"), &alone, alone.time);
    line(&format!("{name}, among {LIARS}"), &crowd, alone.time);
    is_bounded(&crowd);
}

fn is_bounded(outcome: &Outcome) {
    assert!(outcome.memory <= MAX_MEMORY, "{} bytes", outcome.memory);
    assert!(outcome.left.is_empty(), "{:?} are still here", outcome.left);
}

#[test]
fn a_leecher_finishes_among_fifty_liars() {
    among_all(AS_LEECH);
}

#[test]
fn a_seed_serves_among_fifty_liars() {
    among_all(AS_SEED);
}

/// Half of them begin a handshake, the others shake hands and fall silent; none is closed by its own side.
fn connect_often(victim: SocketAddr, count: usize, stage: &Stage, over: &AtomicBool) -> Vec<TcpStream> {
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".to_vec();
    hello.extend_from_slice(stage.info.hash().as_bytes());
    let mut held = Vec::new();
    for number in 0..count {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let Ok(mut stream) = TcpStream::connect_timeout(&victim, Duration::from_secs(1)) else { continue };
        let mut said = hello.clone();
        if number % 2 == 0 {
            said.extend_from_slice(format!("-XX0000-{number:012}").as_bytes());
        }
        let _ = stream.write_all(&said);
        held.push(stream);
    }
    held
}

#[test]
fn a_fetch_finishes_beside_five_thousand_connections() {
    let stage = Arc::new(Stage::new((8 << 20) + 4321));
    let rate = 4 << 20;
    let alone = leech(&stage, rate, std::iter::empty());
    let mut honest = stage.seed(Some(rate));
    let honest_addr = honest.addr();
    honest.wait_for("finished", PATIENCE);
    let mut victim = stage.leech("crowded", &stage.magnet(), &[honest_addr], None);
    let (addr, over) = (victim.addr(), AtomicBool::new(false));
    let count = connections_allowed();
    let (time, held, most) = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| connect_often(addr, count, &stage, &over));
        // All of them come, though the fetch be over before.
        let time = victim.finish(PATIENCE);
        let held = crowd.join().unwrap();
        (time, held, victim.descriptors())
    });
    over.store(true, Ordering::Relaxed);
    stage.compare("crowded");
    println!(
        "{} connections: {:.2} s instead of {:.2} s, {} descriptors, {:.1} MiB",
        held.len(),
        time.as_secs_f64(),
        alone.time.as_secs_f64(),
        most,
        victim.peak() as f64 / f64::from(1 << 20)
    );
    assert!(held.len() > count / 2, "{} of {count} came through", held.len());
    assert!(victim.peak() <= MAX_MEMORY, "{} bytes", victim.peak());
    assert!(most <= 500, "{most} descriptors");
}

/// As many as this process may hold, up to 5,000.
fn connections_allowed() -> usize {
    let wanted = 5000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = rustix::process::Rlimit { current: Some(most.min(wanted + 500)), maximum: limit.maximum };
    if limit.current.is_some_and(|current| current < wanted + 500) {
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    }
    let allowed = wanted.min(most.saturating_sub(500));
    if allowed < wanted {
        println!("{allowed} connections instead of {wanted}: the system allows {most} open files");
    }
    allowed as usize
}

/// The table of docs/PERFORMANCE.md. `LIARS_ONLY` names one misdeed; `LIARS_RATE` is the honest peer's rate in MiB/s.
#[test]
#[ignore = "minutes, fifty of each kind: cargo test --test liars -- --ignored --nocapture table"]
fn table() {
    let only = std::env::var("LIARS_ONLY").unwrap_or_default();
    let rate = std::env::var("LIARS_RATE").map_or(8, |r| r.parse().unwrap()) << 20;
    let stage = Arc::new(Stage::new((32 << 20) + 4321));
    for (name, against, scene) in [AS_LEECH, AS_SEED] {
        let alone = scene(&stage, rate, &mut std::iter::empty());
        line(&format!("{name}, alone"), &alone, alone.time);
        let all = misdeeds_against(against);
        if only.is_empty() {
            let outcome = scene(&stage, rate, &mut all.iter().copied().cycle().take(LIARS));
            line(&format!("{name}, all kinds"), &outcome, alone.time);
            is_bounded(&outcome);
        }
        for misdeed in all.into_iter().filter(|m| format!("{m:?}").contains(&only)) {
            let outcome = scene(&stage, rate, &mut std::iter::repeat_n(misdeed, LIARS));
            line(&format!("{name}, {misdeed:?}"), &outcome, alone.time);
            is_bounded(&outcome);
        }
    }
}
