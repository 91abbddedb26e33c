//! A transfer's figures in words: what it is doing, and why nothing moves.
//!
//! Owns the sentences and units, as pure functions of [`Status`], and [`Patience`], which says when
//! to give up. Must not print.

use std::time::{Duration, Instant};

use super::error::{CliError, Code};
use crate::client::{DhtTrouble, Stage, Status};

/// Quiet for this long while connected is worth a word; shorter gaps are normal between requests.
const SILENCE: Duration = Duration::from_secs(5);

/// Where nobody asks the DHT.
const WITHOUT_DHT: &str = "waiting for peers: the DHT is not used, so only those that are named (`--peer`, `x.pe`), \
                           the local network and whoever connects to us count";

/// The stage as JSON names it.
pub fn stage_name(status: &Status) -> &'static str {
    match status.stage {
        Stage::JoiningDht if status.dht_trouble == Some(DhtTrouble::Unused) => "looking_for_peers",
        Stage::JoiningDht => "joining_dht",
        Stage::LookingForPeers => "looking_for_peers",
        Stage::Connecting => "connecting",
        Stage::Metadata => "metadata",
        Stage::Checking => "checking",
        Stage::Downloading => "downloading",
        Stage::Seeding => "seeding",
        Stage::Finished => "finished",
    }
}

/// Whether these are figures yet: of a run without the DHT, what stands there before the first of them would say that it is
/// being joined.
pub fn is_told(status: &Status, no_dht: bool) -> bool {
    !no_dht || status.dht_trouble.is_some()
}

/// One sentence: what happens now, or why nothing does.
pub fn words(status: &Status) -> String {
    if let Some(trouble) = &status.disk_trouble {
        return format!("waiting for the disk: {trouble}");
    }
    let mut words = stage_words(status);
    if let Some(cause) = &status.unreadable {
        words.push_str(&format!("; {cause}"));
    }
    match status.peers_banned {
        banned @ 1.. if status.peers_connected == 0 => {
            format!("{words}; {} banned for what they sent", count(banned, "peer"))
        }
        _ => words,
    }
}

fn stage_words(status: &Status) -> String {
    match status.stage {
        Stage::JoiningDht => joining(status),
        Stage::LookingForPeers => looking(status),
        Stage::Connecting => connecting(status),
        Stage::Metadata => metadata(status),
        Stage::Checking => {
            let (done, total) = status.checked;
            format!("checking what is here: {} of {}", bytes(done), bytes(total))
        }
        Stage::Downloading => downloading(status),
        Stage::Seeding => {
            let peers = count(status.peers_connected, "peer");
            format!("seeding to {peers}, {} sent", bytes(status.uploaded))
        }
        Stage::Finished => "done".to_owned(),
    }
}

fn joining(status: &Status) -> String {
    let nodes = count(status.dht_nodes, "node");
    match &status.dht_trouble {
        Some(DhtTrouble::Unused) => looking(status),
        Some(DhtTrouble::Unreachable(trouble)) => format!("joining the DHT ({nodes}; {trouble})"),
        None => format!("joining the DHT ({nodes})"),
    }
}

fn looking(status: &Status) -> String {
    if status.private {
        return "waiting for peers: this torrent is private, so the DHT is not asked; `--peer HOST:PORT` names one".into();
    }
    let (asked, answered) = status.dht_asked;
    let asked_words = count(asked as usize, "node");
    match (asked, answered, &status.dht_trouble) {
        (_, _, Some(DhtTrouble::Unused)) => WITHOUT_DHT.to_owned(),
        (0, _, Some(DhtTrouble::Unreachable(trouble))) => {
            format!("looking for peers: the DHT is out of reach ({trouble})")
        }
        (0, _, None) => format!("looking for peers ({} in the table)", count(status.dht_nodes, "node")),
        (_, 0, _) => format!("looking for peers: {asked_words} asked, none has answered yet"),
        _ => format!("looking for peers: {asked_words} asked, none has seen this hash"),
    }
}

fn connecting(status: &Status) -> String {
    let known = count(status.peers_known, "peer");
    let Some(failed) = Some(status.dials_failed).filter(|failed| *failed > 0) else {
        return format!("connecting to {known}");
    };
    let trouble = match &status.dht_trouble {
        Some(DhtTrouble::Unused) => "; the DHT, which might know more, is not used".to_owned(),
        Some(DhtTrouble::Unreachable(trouble)) => format!("; the DHT is out of reach ({trouble})"),
        None => String::new(),
    };
    format!("connecting: {known} known, {} failed{trouble}", count(failed, "dial"))
}

fn metadata(status: &Status) -> String {
    let peers = count(status.peers_connected, "peer");
    match (status.metadata_blocks, status.peers_connected) {
        (_, 0) => format!("waiting for the metadata: no peer is connected; {}", connecting(status)),
        ((_, 0), _) => format!("asking {peers} for the metadata, none has offered it yet"),
        ((have, all), _) => format!("metadata {have}/{all} blocks from {peers}"),
    }
}

fn downloading(status: &Status) -> String {
    let peers = count(status.peers_connected, "peer");
    let has_all = status.total > 0 && status.verified >= status.total;
    if status.unread > 0 && has_all {
        return format!("waiting for whoever reads stdout, {} are ready", bytes(status.unread));
    }
    if status.peers_connected == 0 {
        return if status.peers_known == 0 { looking(status) } else { connecting(status) };
    }
    if status.download_rate > 0 && status.idle < SILENCE {
        return format!("downloading from {peers}");
    }
    if status.unread > 0 && status.verified > 0 && status.download_rate == 0 {
        return format!("waiting for whoever reads stdout, {} are ready", bytes(status.unread));
    }
    if status.peers_interesting == 0 {
        return format!("{peers} connected, none has a piece that is missing here");
    }
    if status.peers_unchoking == 0 {
        return format!("{peers} connected, all of them choke us");
    }
    if status.idle >= SILENCE {
        return format!("{peers} connected, nothing has arrived for {}", seconds(status.idle));
    }
    format!("downloading from {peers}")
}

/// The whole state in one line, for logs.
pub fn line(status: &Status) -> String {
    let mut line = words(status);
    if status.stage == Stage::Downloading && status.total > 0 {
        let percent = status.verified as f64 * 100.0 / status.total as f64;
        line = format!("{percent:.1} % of {}, {line}", bytes(status.total));
    }
    if status.download_rate > 0 || status.upload_rate > 0 {
        let (down, up) = (bytes(status.download_rate), bytes(status.upload_rate));
        line.push_str(&format!(", {down}/s down, {up}/s up"));
    }
    match eta(status) {
        Some(left) => format!("{line}, {} left", seconds(left)),
        None => line,
    }
}

/// The time that is left at this rate.
pub fn eta(status: &Status) -> Option<Duration> {
    let left = status.total.checked_sub(status.verified).filter(|&l| l > 0)?;
    let moving = status.stage == Stage::Downloading && status.download_rate > 0;
    moving.then(|| Duration::from_secs(left.div_ceil(status.download_rate)))
}

/// Bytes as a person reads them: `512 B`, `1.5 MiB`.
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{value} B") } else { format!("{scaled:.1} {unit}") }
}

/// A time as a person reads it: `40 ms`, `1.5 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0 => format!("{:.0} ms", time.as_secs_f64() * 1000.0),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `1 peer`, `3 peers`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Sent for each byte of the torrent; 0 for an empty one.
pub fn ratio(uploaded: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { uploaded as f64 / total as f64 }
}

/// Watches that something arrives; `--stop-timeout`.
#[derive(Debug)]
pub struct Patience {
    limit: Option<Duration>,
    /// Peers were named.
    named: bool,
    since: Instant,
    seen: (u64, u64, u64, (u32, u32)),
}

impl Patience {
    /// Begins to wait; no limit means for ever.
    pub fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, named: false, since: now, seen: Default::default() }
    }

    /// The same, of a run that was given peers, or none.
    pub fn with_peers(self, named: bool) -> Self {
        Self { named, ..self }
    }

    /// Takes note of `status`; an error once nothing has changed for the limit.
    pub fn check(&mut self, now: Instant, status: &Status) -> Result<(), CliError> {
        let seen = (status.verified, status.downloaded, status.checked.0, status.metadata_blocks);
        // A reader may take his time.
        if seen != self.seen || status.unread > 0 {
            self.seen = seen;
            self.since = now;
        }
        let waited = now.saturating_duration_since(self.since);
        let Some(limit) = self.limit.filter(|&l| waited >= l) else { return Ok(()) };
        let no_peer = status.peers_connected == 0 && status.downloaded == 0;
        let code = match status.disk_trouble {
            Some(_) => Code::DiskFull,
            None if status.total == 0 || no_peer => Code::NotFound,
            None => Code::Timeout,
        };
        let message = format!("gave up after {} without progress: {}", seconds(limit), words(status));
        let hint = match code {
            Code::DiskFull => "make room and run the same command again: it continues where it stopped",
            Code::Timeout if status.unreadable.is_some() => {
                "see to the disk, and run the same command again: it continues where it stopped"
            }
            Code::NotFound if status.dht_trouble == Some(DhtTrouble::Unused) && !status.private => {
                if self.named {
                    "is the peer that was named there, with this torrent? Without --no-dht the DHT is asked for others"
                } else {
                    "name a peer that has it with `--peer HOST:PORT`, or leave --no-dht out"
                }
            }
            Code::NotFound if self.named => {
                "is anybody sharing it now, and is the peer that was named there?"
            }
            Code::NotFound => "is anybody sharing it now? `--peer HOST:PORT` dials a peer that you know",
            _ => "run the same command again later: it continues where it stopped",
        };
        Err(CliError::new(code, message).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock;

    #[test]
    fn each_standstill_has_its_sentence() {
        let s = |stage| Status { stage, ..Status::default() };
        let trouble = Some(DhtTrouble::Unreachable("router.example did not resolve".to_owned()));
        let unused = Some(DhtTrouble::Unused);
        for (status, wanted) in [
            (
                Status { dht_trouble: trouble, ..s(Stage::JoiningDht) },
                "joining the DHT (0 nodes; router.example did not resolve)",
            ),
            (Status { dht_trouble: unused.clone(), ..s(Stage::JoiningDht) }, WITHOUT_DHT),
            (Status { dht_trouble: unused.clone(), ..s(Stage::Downloading) }, WITHOUT_DHT),
            (
                Status { dht_trouble: unused, peers_known: 1, dials_failed: 2, ..s(Stage::Connecting) },
                "connecting: 1 peer known, 2 dials failed; the DHT, which might know more, is not used",
            ),
            (
                Status { dht_asked: (41, 30), ..s(Stage::LookingForPeers) },
                "looking for peers: 41 nodes asked, none has seen this hash",
            ),
            (
                Status { dht_asked: (1, 0), ..s(Stage::LookingForPeers) },
                "looking for peers: 1 node asked, none has answered yet",
            ),
            (
                Status { peers_known: 3, dials_failed: 1, ..s(Stage::Connecting) },
                "connecting: 3 peers known, 1 dial failed",
            ),
            (
                Status { unread: 1 << 20, total: 9, verified: 9, peers_known: 1, ..s(Stage::Downloading) },
                "waiting for whoever reads stdout, 1.0 MiB are ready",
            ),
            (
                Status { metadata_blocks: (2, 3), peers_connected: 2, ..s(Stage::Metadata) },
                "metadata 2/3 blocks from 2 peers",
            ),
            (
                Status { peers_connected: 12, peers_interesting: 3, ..s(Stage::Downloading) },
                "12 peers connected, all of them choke us",
            ),
            (
                Status { peers_connected: 12, ..s(Stage::Downloading) },
                "12 peers connected, none has a piece that is missing here",
            ),
            (
                Status { disk_trouble: Some("no space left".into()), ..s(Stage::Downloading) },
                "waiting for the disk: no space left",
            ),
            (
                Status { unreadable: Some("/d/top cannot be read: gone".into()), ..s(Stage::Seeding) },
                "seeding to 0 peers, 0 B sent; /d/top cannot be read: gone",
            ),
        ] {
            assert_eq!(words(&status), wanted);
        }
    }

    #[test]
    fn without_the_dht_nobody_is_told_of_it() {
        let status = Status { dht_trouble: Some(DhtTrouble::Unused), ..Status::default() };
        assert_eq!(
            (stage_name(&status), stage_name(&Status::default())),
            ("looking_for_peers", "joining_dht")
        );
        let start = clock::now();
        let hint = |named, status| {
            let mut patience = Patience::new(Some(Duration::ZERO), start).with_peers(named);
            patience.check(start, status).unwrap_err().hint.unwrap()
        };
        assert!(hint(true, &status).contains("Without --no-dht") && !hint(true, &status).contains("`--peer"));
        assert!(hint(false, &status).contains("`--peer HOST:PORT`"));
        assert!(!hint(true, &Status::default()).contains("--"));
    }

    #[test]
    fn units_are_readable() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(1 << 20)],
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB"]
        );
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(seconds(Duration::from_millis(400)), "400 ms");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(seconds(Duration::from_secs(200)), "3 min 20 s");
    }

    #[test]
    fn patience_ends_with_the_code_that_fits() {
        let start = clock::now();
        let at = |s| start + Duration::from_secs(s);
        let mut patience = Patience::new(Some(Duration::from_secs(10)), start);
        let mut status = Status::default();
        assert!(patience.check(at(9), &status).is_ok());
        assert_eq!(patience.check(at(10), &status).unwrap_err().code, Code::NotFound);
        status = Status { total: 100, downloaded: 5, peers_connected: 1, ..status };
        assert!(patience.check(at(11), &status).is_ok());
        assert!(patience.check(at(20), &status).is_ok());
        assert_eq!(patience.check(at(21), &status).unwrap_err().code, Code::Timeout);
        // What cannot be read for others is no lack of room.
        status = Status { unreadable: Some("/d/top cannot be read: gone".into()), ..status };
        let error = patience.check(at(22), &status).unwrap_err();
        assert_eq!(error.code, Code::Timeout);
        assert!(error.message.contains("cannot be read") && !error.message.contains("waiting for the disk"));
        assert!(error.hint.unwrap().contains("see to the disk"));
        status.disk_trouble = Some("no space left".into());
        let error = patience.check(at(23), &status).unwrap_err();
        assert!(error.code == Code::DiskFull && error.hint.unwrap().contains("make room"));
        assert!(Patience::new(None, start).check(at(1 << 30), &status).is_ok());
    }
}
