//! Why is it slow? One sentence with the figures behind it, for people and for programs.
//!
//! Owns the words for each cause, as pure functions of [`Status`], and what is read of the keyboard. What the cause is, the
//! machines say.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::progress::{bytes, count, seconds, words};
use crate::client::{Bottleneck, Stage, Status};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The cause, as JSON names it.
    pub cause: &'static str,
    /// The answer in words.
    pub sentence: String,
    /// The same in figures: bytes, bytes a second, milliseconds, percent, or a number of things.
    pub figures: BTreeMap<&'static str, u64>,
}

impl Explanation {
    /// What holds this transfer up.
    pub fn of(status: &Status) -> Self {
        let figures = BTreeMap::from([("rate", rate(status)), ("peers", status.peers_connected as u64)]);
        if status.disk_trouble.is_some() {
            return Self { cause: "disk_trouble", sentence: words(status), figures };
        }
        // Who is served gets nothing from there; who fetches is not held up.
        if status.unreadable.is_some() && status.stage == Stage::Seeding {
            return Self { cause: "unreadable", sentence: words(status), figures };
        }
        let Some(bottleneck) = status.bottleneck.filter(|b| *b != Bottleneck::NoPeers) else {
            return Self { cause: waiting(status.stage), sentence: words(status), figures };
        };
        let (cause, sentence, own) = explain(&bottleneck);
        Self { cause, sentence, figures: figures.into_iter().chain(own).collect() }
    }
}

fn rate(status: &Status) -> u64 {
    if status.stage == Stage::Seeding { status.upload_rate } else { status.download_rate }
}

fn waiting(stage: Stage) -> &'static str {
    match stage {
        Stage::JoiningDht | Stage::LookingForPeers => "no_peers_known",
        Stage::Connecting => "no_peers_connected",
        Stage::Metadata => "metadata",
        Stage::Checking => "checking",
        Stage::Downloading | Stage::Seeding => "no_peers",
        Stage::Finished => "finished",
    }
}

type Said = (&'static str, String, Vec<(&'static str, u64)>);

fn explain(bottleneck: &Bottleneck) -> Said {
    match *bottleneck {
        Bottleneck::NoPeers => ("no_peers", "no peer is connected".into(), vec![]),
        Bottleneck::NobodyHas { peers, missing } => nobody_has(peers, missing),
        Bottleneck::Choked { peers } => choked(peers),
        Bottleneck::Refused { peers } => {
            let sentence = format!(
                "{} turned our requests down; they are asked again within seconds",
                count(peers, "peer")
            );
            ("refused", sentence, vec![("refusing", peers as u64)])
        }
        Bottleneck::Silent { peers, blocks } => silent(peers, blocks),
        Bottleneck::DownloadLimit { rate, limit } => limited("--limit-rate", "download_limit", rate, limit),
        Bottleneck::UploadLimit { rate, limit } => limited("--limit-upload", "upload_limit", rate, limit),
        Bottleneck::LastBlocks { blocks, peers } => {
            let sentence =
                format!("the end: {} on the way from {}", count(blocks, "last block"), count(peers, "peer"));
            ("last_blocks", sentence, vec![("blocks", blocks as u64), ("asked", peers as u64)])
        }
        Bottleneck::NothingToAsk { peers } => nothing_to_ask(peers),
        Bottleneck::Reader { unread } => {
            let sentence = format!("whoever reads stdout: {} are ready and not taken", bytes(unread));
            ("reader", sentence, vec![("unread", unread)])
        }
        Bottleneck::Verifying => (
            "verifying",
            "everything has arrived; the last pieces are being hashed and written".into(),
            vec![],
        ),
        Bottleneck::Disk { percent } => {
            let sentence = format!("the disk: the network waited for it {percent} % of the last second");
            ("disk", sentence, vec![("percent", u64::from(percent))])
        }
        Bottleneck::Hashing { percent, share, rate } => hashing(percent, share, rate),
        Bottleneck::Processor { percent } => {
            let sentence = format!("this machine: one core is {percent} % busy with the network");
            ("processor", sentence, vec![("percent", u64::from(percent))])
        }
        Bottleneck::Pipeline { peers, depth, round_trip, rate } => pipeline(peers, depth, round_trip, rate),
        Bottleneck::Senders { peers, rate, fastest, choking } => senders(peers, rate, fastest, choking),
        Bottleneck::NobodyAsks { peers } => nobody_asks(peers),
        Bottleneck::PassingOn { peers } => passing_on(peers),
        Bottleneck::Receivers { peers, rate, waiting } => receivers(peers, rate, waiting),
    }
}

fn nobody_has(peers: usize, missing: u32) -> Said {
    let (peers_words, pieces) = (connected(peers), count(missing as usize, "missing piece"));
    let sentence = format!("{peers_words}, and none has any of the {pieces}: somebody who does must come");
    ("nobody_has", sentence, vec![("missing_pieces", u64::from(missing))])
}

fn choked(peers: usize) -> Said {
    let whom = if peers == 1 { "the one peer that has" } else { "all the peers that have" };
    let sentence = format!(
        "{whom} what is missing ({peers}) choke us: they serve others first, and look again each ten seconds"
    );
    ("choked", sentence, vec![("choking", peers as u64)])
}

fn silent(peers: usize, blocks: usize) -> Said {
    let sentence = format!(
        "{} that {} asked for; nothing comes yet",
        count(blocks, "block"),
        if peers == 1 { "one peer was".to_owned() } else { format!("{peers} peers were") }
    );
    ("silent", sentence, vec![("asked", peers as u64), ("blocks", blocks as u64)])
}

fn nothing_to_ask(peers: usize) -> Said {
    let sentence = format!(
        "{} would send, and what is missing is asked of others, or being verified",
        count(peers, "peer")
    );
    ("nothing_to_ask", sentence, vec![("idle", peers as u64)])
}

fn nobody_asks(peers: usize) -> Said {
    let sentence = match peers {
        0 => "nobody is connected".to_owned(),
        _ => format!("{}, and none asks for anything", connected(peers)),
    };
    ("nobody_asks", sentence, vec![])
}

fn passing_on(peers: usize) -> Said {
    let sentence = format!(
        "super-seeding: {} must pass on what we have shown before more is shown",
        count(peers, "peer")
    );
    ("passing_on", sentence, vec![("passing_on", peers as u64)])
}

fn receivers(peers: usize, rate: u64, waiting: usize) -> Said {
    let wait = if waiting == 0 { String::new() } else { format!("; {waiting} more wait for their turn") };
    let sentence = format!("{} take what they can, {}/s in all{wait}", count(peers, "peer"), bytes(rate));
    ("receivers", sentence, vec![("served", peers as u64), ("waiting", waiting as u64)])
}

fn hashing(percent: u32, share: u32, rate: u64) -> Said {
    let sentence = format!(
        "hashing: the network waited for it {percent} % of the last second; this machine hashes {}/s",
        bytes(rate)
    );
    let figures = vec![("percent", u64::from(percent)), ("share", u64::from(share)), ("hashed", rate)];
    ("hashing", sentence, figures)
}

fn pipeline(peers: usize, depth: usize, round_trip: Duration, rate: u64) -> Said {
    let whom = if peers == 1 { "a peer queues".to_owned() } else { format!("{peers} peers queue") };
    let sentence = format!(
        "{whom} no more than {} at a time, with {} there and back: that makes {}/s",
        count(depth, "request"),
        seconds(round_trip),
        bytes(rate)
    );
    let round_trip = round_trip.as_millis() as u64;
    let figures = vec![("limited", peers as u64), ("queue", depth as u64), ("round_trip_ms", round_trip)];
    ("pipeline", sentence, figures)
}

fn senders(peers: usize, rate: u64, fastest: u64, choking: usize) -> Said {
    let choked = match choking {
        0 => String::new(),
        _ => format!("; {choking} more have something for us and choke us"),
    };
    let sentence = match peers {
        1 => format!("one peer sends all it can, {}/s{choked}", bytes(rate)),
        _ => {
            let (all, best) = (bytes(rate), bytes(fastest));
            format!("{peers} peers send all they can, {all}/s in all, the fastest {best}/s{choked}")
        }
    };
    ("senders", sentence, vec![("sending", peers as u64), ("fastest", fastest), ("choking", choking as u64)])
}

fn limited(flag: &str, cause: &'static str, rate: u64, limit: u64) -> Said {
    let sentence = format!("our own limit: {}/s of the {}/s of `{flag}`", bytes(rate), bytes(limit));
    (cause, sentence, vec![("limit", limit)])
}

fn connected(peers: usize) -> String {
    format!("{} connected", count(peers, "peer"))
}

/// Whether somebody has pressed Enter since the last look. Never waits, and never reads while another process has the
/// terminal: that would stop us.
pub fn enter_was_pressed() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::{process, termios};
    let input = io::stdin();
    let ours = || termios::tcgetpgrp(&input).is_ok_and(|owner| owner == process::getpgrp());
    if !input.is_terminal() || !ours() {
        return false;
    }
    let mut fds = [PollFd::new(&input, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if !matches!(poll(&mut fds, Some(&at_once)), Ok(1..)) || !fds[0].revents().contains(PollFlags::IN) {
        return false;
    }
    let mut line = [0; 256];
    matches!(rustix::io::read(&input, &mut line), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bottleneck: Bottleneck) -> Explanation {
        let stage = Stage::Downloading;
        let status = Status { stage, bottleneck: Some(bottleneck), peers_connected: 3, ..Status::default() };
        Explanation::of(&status)
    }

    #[test]
    fn every_cause_has_its_sentence_and_figures() {
        let mib = 1 << 20;
        let cases = [
            (Bottleneck::NobodyHas { peers: 3, missing: 1 }, "nobody_has", "1 missing piece:"),
            (Bottleneck::Choked { peers: 2 }, "choked", "(2) choke us"),
            (Bottleneck::Refused { peers: 1 }, "refused", "1 peer turned"),
            (Bottleneck::Silent { peers: 1, blocks: 16 }, "silent", "16 blocks that one peer was asked for"),
            (
                Bottleneck::DownloadLimit { rate: mib, limit: 2 * mib },
                "download_limit",
                "1.0 MiB/s of the 2.0 MiB/s",
            ),
            (Bottleneck::UploadLimit { rate: mib, limit: mib }, "upload_limit", "`--limit-upload`"),
            (
                Bottleneck::LastBlocks { blocks: 4, peers: 2 },
                "last_blocks",
                "4 last blocks on the way from 2 peers",
            ),
            (Bottleneck::NothingToAsk { peers: 2 }, "nothing_to_ask", "2 peers would send"),
            (Bottleneck::Reader { unread: mib }, "reader", "1.0 MiB are ready"),
            (Bottleneck::PassingOn { peers: 2 }, "passing_on", "2 peers must pass on"),
            (Bottleneck::Verifying, "verifying", "hashed and written"),
            (Bottleneck::Disk { percent: 40 }, "disk", "40 %"),
            (
                Bottleneck::Hashing { percent: 60, share: 75, rate: 400 * mib },
                "hashing",
                "hashes 400.0 MiB/s",
            ),
            (Bottleneck::Processor { percent: 97 }, "processor", "97 % busy"),
            (Bottleneck::Senders { peers: 1, rate: mib, fastest: mib, choking: 2 }, "senders", "2 more have"),
            (
                Bottleneck::Senders { peers: 5, rate: mib, fastest: 1024, choking: 0 },
                "senders",
                "fastest 1.0 KiB/s",
            ),
            (Bottleneck::NobodyAsks { peers: 0 }, "nobody_asks", "nobody is connected"),
            (Bottleneck::Receivers { peers: 4, rate: mib, waiting: 2 }, "receivers", "2 more wait"),
        ];
        for (bottleneck, cause, words) in cases {
            let explanation = of(bottleneck);
            assert_eq!(explanation.cause, cause);
            assert!(explanation.sentence.contains(words), "{}", explanation.sentence);
            assert_eq!(explanation.figures["peers"], 3);
        }
        let round_trip = Duration::from_millis(100);
        let hashing = of(Bottleneck::Hashing { percent: 60, share: 75, rate: mib }).figures;
        assert_eq!((hashing["percent"], hashing["share"], hashing["hashed"]), (60, 75, mib));
        let pipeline = of(Bottleneck::Pipeline { peers: 1, depth: 250, round_trip, rate: 40 * mib });
        let figures = &pipeline.figures;
        assert_eq!((figures["queue"], figures["round_trip_ms"]), (250, 100));
        assert!(pipeline.sentence.contains("250 requests at a time, with 100 ms"), "{}", pipeline.sentence);
    }

    #[test]
    fn what_cannot_be_read_is_why_nobody_is_served() {
        let unreadable = Some("/d/top cannot be read: gone".to_owned());
        let seed = Status { stage: Stage::Seeding, unreadable, ..Status::default() };
        let explanation = Explanation::of(&seed);
        assert_eq!((explanation.cause, explanation.sentence), ("unreadable", words(&seed)));
        let bottleneck = Some(Bottleneck::Choked { peers: 2 });
        let fetching = Status { stage: Stage::Downloading, bottleneck, ..seed };
        assert_eq!(Explanation::of(&fetching).cause, "choked");
    }

    #[test]
    fn before_the_download_the_stage_is_the_cause() {
        let status = Status { stage: Stage::Metadata, ..Status::default() };
        let explanation = Explanation::of(&status);
        assert_eq!((explanation.cause, explanation.sentence), ("metadata", words(&status)));
        let disk_trouble = Some("no space left".to_owned());
        let full = Status { stage: Stage::Downloading, disk_trouble, ..Status::default() };
        assert_eq!(Explanation::of(&full).cause, "disk_trouble");
        let lonely = Status { bottleneck: Some(Bottleneck::NoPeers), stage: Stage::Downloading, ..full };
        assert!(Explanation::of(&lonely).sentence.contains("no space left"));
    }
}
