//! Why a swarm is not faster: the one thing that holds it up now, read off the machine's own state.
//!
//! Owns the order in which causes are looked for: what makes the rest irrelevant comes first. Must not know the disk or
//! the processor, which the driver adds, nor words.

use std::time::{Duration, Instant};

use super::config::SNUB_AFTER;
use super::member::Member;
use super::pieces::Pieces;
use super::swarm::Swarm;
use crate::wire::metainfo::BLOCK_LEN;

/// Rates are taken over this long: short enough to follow a change, long enough not to flicker.
const WINDOW: Duration = Duration::from_secs(5);
/// The longest time over which a rate is known.
const LONG_WINDOW: Duration = Duration::from_secs(19);
/// Fewer blocks make no rate: one more or less would change it too much.
const BLOCKS_FOR_A_RATE: u32 = 8;
/// A user's limit of which so many percent are used is what holds us up; sockets and buckets take the rest.
const LIMIT_USED_PERCENT: u64 = 85;
/// Nothing for this long is silence.
const SILENCE: Duration = Duration::from_secs(2);

/// What holds a transfer up, with the figures behind it. Rates are payload bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// No peer is connected.
    NoPeers,
    /// Nobody who is connected has a piece that is missing here.
    NobodyHas {
        /// Peers connected.
        peers: usize,
        /// Pieces missing.
        missing: u32,
    },
    /// All who have something for us choke us.
    Choked {
        /// How many they are.
        peers: usize,
    },
    /// All who let us ask have turned requests down, and are left alone for a moment.
    Refused {
        /// How many they are.
        peers: usize,
    },
    /// Requests are out, and nothing comes, or not yet.
    Silent {
        /// Peers that were asked.
        peers: usize,
        /// Blocks they were asked for.
        blocks: usize,
    },
    /// The user's own limit on receiving.
    DownloadLimit {
        /// The rate.
        rate: u64,
        /// The limit.
        limit: u64,
    },
    /// The user's own limit on sending. The driver's, as the two below.
    UploadLimit {
        /// The rate.
        rate: u64,
        /// The limit.
        limit: u64,
    },
    /// Peers queue too few requests for the length of the way to them.
    Pipeline {
        /// How many such peers.
        peers: usize,
        /// What the fastest of them queues, in blocks.
        depth: usize,
        /// The way to it and back.
        round_trip: Duration,
        /// What they send.
        rate: u64,
    },
    /// Every missing block has been asked for: those that are on their way decide.
    LastBlocks {
        /// How many they are.
        blocks: usize,
        /// From how many peers.
        peers: usize,
    },
    /// Peers let us ask, and there is nothing to ask for at this moment: what is missing is with others, or whoever reads has
    /// as much ahead of him as he may.
    NothingToAsk {
        /// How many they are.
        peers: usize,
    },
    /// Whoever reads the stream has not taken what is ready. The driver's.
    Reader {
        /// Bytes that are ready.
        unread: u64,
    },
    /// Everything has arrived; the last pieces are being hashed and written.
    Verifying,
    /// Peers send what they are able to send.
    Senders {
        /// Peers that send.
        peers: usize,
        /// What they send.
        rate: u64,
        /// What the fastest of them sends.
        fastest: u64,
        /// Peers that have something for us and choke us.
        choking: usize,
    },
    /// The disk takes what has arrived more slowly than it arrives.
    Disk {
        /// Percent of the time in which the network waited for it.
        percent: u32,
    },
    /// What has arrived is hashed more slowly than it arrives.
    Hashing {
        /// Percent of the time in which the network waited for it.
        percent: u32,
        /// Percent of the disk threads' work that was hashing; the rest was writing.
        share: u32,
        /// Bytes hashed a second.
        rate: u64,
    },
    /// The thread that serves the sockets is busy.
    Processor {
        /// Percent of the time.
        percent: u32,
    },
    /// Complete, and nobody asks for anything.
    NobodyAsks {
        /// Peers connected.
        peers: usize,
    },
    /// Super-seeding (BEP 16): all who want something have what they were shown, and others must have it from them first.
    PassingOn {
        /// How many they are.
        peers: usize,
    },
    /// Complete; peers take what they are able to take.
    Receivers {
        /// Peers that are served.
        peers: usize,
        /// What they take.
        rate: u64,
        /// Peers that wait for a slot.
        waiting: usize,
    },
}

impl Swarm {
    /// What holds us up now; none before the disk has told what is there.
    pub fn bottleneck(&self, now: Instant) -> Option<Bottleneck> {
        let pieces = self.pieces.as_ref()?;
        let open = || self.members.values().filter(|m| m.is_open());
        let peers = open().count();
        if pieces.is_complete() {
            return Some(self.serving_bottleneck(now, peers));
        }
        if peers == 0 {
            return Some(Bottleneck::NoPeers);
        }
        if pieces.nothing_missing() {
            return Some(Bottleneck::Verifying);
        }
        let rate = self.down.per_second(now, WINDOW);
        if let Some(limit) = self.config.download_limit
            && let Some(rate) = self.used_of(now, limit)
        {
            return Some(Bottleneck::DownloadLimit { rate, limit });
        }
        let having: Vec<&Member> = open().filter(|m| m.wanted > 0).collect();
        if having.is_empty() {
            let missing = pieces.missing();
            return Some(Bottleneck::NobodyHas { peers, missing });
        }
        Some(fetching_bottleneck(now, pieces, &having, rate))
    }

    /// The rate, where the user's limit on receiving is what holds it down. Under a low one blocks come rarely: their rate is taken
    /// over a longer time, and where even that is too short, or too few have come, it is enough that nothing more may be asked for and that
    /// the last block came no longer ago than two of them take.
    fn used_of(&self, now: Instant, limit: u64) -> Option<u64> {
        let block_time = time_under(limit);
        let long = (block_time * BLOCKS_FOR_A_RATE).clamp(WINDOW, LONG_WINDOW);
        let rates = [WINDOW, long].map(|window| self.down.per_second(now, window));
        if let Some(rate) = rates.into_iter().find(|rate| is_used_up(*rate, limit)) {
            return Some(rate);
        }
        let recent = |m: &Member| now.saturating_duration_since(m.last_block) < block_time * 2;
        let asked = |m: &&Member| m.requests() > 0;
        let flows = || self.members.values().filter(asked).any(recent);
        let few = self.down.total() < u64::from(BLOCKS_FOR_A_RATE * BLOCK_LEN);
        let rare = few || block_time * BLOCKS_FOR_A_RATE > LONG_WINDOW;
        (rare && self.room_under_limit() == 0 && flows()).then_some(rates[1])
    }

    fn serving_bottleneck(&self, now: Instant, peers: usize) -> Bottleneck {
        let rate = self.up.per_second(now, WINDOW);
        let wants = |m: &&Member| {
            m.conn.as_ref().is_some_and(|c| m.is_open() && c.is_peer_interested() && !c.is_upload_only())
        };
        let asking = || self.members.values().filter(wants);
        let served = asking().filter(|m| m.conn.as_ref().is_some_and(|c| !c.is_choking())).count();
        let lacks = |m: &&Member| m.is_open() && !m.named.is_empty() && !m.has.is_complete();
        let passing_on = self.members.values().filter(lacks).count();
        match asking().count() {
            0 if passing_on > 0 && self.is_super_seeding() => Bottleneck::PassingOn { peers: passing_on },
            0 => Bottleneck::NobodyAsks { peers },
            all => Bottleneck::Receivers { peers: served, rate, waiting: all - served },
        }
    }
}

/// What one block takes under a limit.
pub(super) fn time_under(limit: u64) -> Duration {
    Duration::from_millis(u64::from(BLOCK_LEN) * 1000 / limit.max(1))
}

/// Whether a limit is what holds a rate down.
pub fn is_used_up(rate: u64, limit: u64) -> bool {
    rate.saturating_mul(100) >= limit.saturating_mul(LIMIT_USED_PERCENT)
}

/// Of those who have something for us, what keeps it from coming.
fn fetching_bottleneck(now: Instant, pieces: &Pieces, having: &[&Member], rate: u64) -> Bottleneck {
    let choking = having.iter().filter(|m| m.conn.as_ref().is_some_and(|c| c.is_choked())).count();
    let asked: Vec<&&Member> = having.iter().filter(|m| m.requests() > 0).collect();
    let blocks = asked.iter().map(|m| m.requests()).sum();
    let sends = |m: &Member| m.down.per_second(now, WINDOW);
    let silent = |m: &Member| now.saturating_duration_since(m.last_block) >= SILENCE;
    if asked.is_empty() {
        let resting = |m: &&&Member| m.rests_until.is_some_and(|t| t > now);
        let refused = having.iter().filter(resting).count();
        return match refused {
            0 if choking < having.len() => Bottleneck::NothingToAsk { peers: having.len() - choking },
            0 => Bottleneck::Choked { peers: choking },
            _ => Bottleneck::Refused { peers: refused },
        };
    }
    if asked.iter().all(|m| m.stalled || silent(m) || sends(m) == 0) {
        return Bottleneck::Silent { peers: asked.len(), blocks };
    }
    if pieces.nothing_free() {
        return Bottleneck::LastBlocks { blocks, peers: asked.len() };
    }
    // Who queues less than his rate would need can be asked for no more, however fast his link.
    let full = |m: &&&&Member| {
        let limit = m.conn.as_ref().map_or(0, |c| c.request_limit());
        m.depth > limit && m.requests() * 8 >= limit * 7
    };
    let held: Vec<&&&Member> = asked.iter().filter(full).collect();
    let held_rate: u64 = held.iter().map(|m| sends(m)).sum();
    if let Some(fastest) = held.iter().max_by_key(|m| sends(m)).filter(|_| held_rate * 2 >= rate) {
        let depth = fastest.conn.as_ref().map_or(0, |c| c.request_limit());
        // By Little's law, what the queue holds at this rate is the time that it covers.
        let covers = depth as u64 * u64::from(BLOCK_LEN) * 1000 / sends(fastest).max(1);
        let round_trip = fastest.round_trip.max(Duration::from_millis(covers)).min(SNUB_AFTER);
        return Bottleneck::Pipeline { peers: held.len(), depth, round_trip, rate: held_rate };
    }
    let senders = asked.iter().filter(|m| sends(m) > 0);
    let fastest = senders.clone().map(|m| sends(m)).max().unwrap_or(0);
    Bottleneck::Senders { peers: senders.count(), rate, fastest, choking }
}
