//! Counting swarms (BEP 33) and naming what is stored (BEP 51), asked and answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::search::Kind;
use super::serve::REPLY_FRAME;
use super::{Node, Purpose};
use crate::dht::config::{MAX_PAYLOAD, MAX_SAMPLES, SAMPLE_INTERVAL};
use crate::dht::event::{Event, Full, LookupId, PingId};
use crate::id::{Id160, InfoHash};
use crate::wire::krpc::{Method, Reply, Samples, Want};

/// The longest interval a node may ask for (BEP 51, "Message format").
const MAX_INTERVAL: Duration = Duration::from_secs(21_600);

impl Node {
    /// Counts the peers of a torrent, without joining them (BEP 33).
    pub fn scrape(&mut self, now: Instant, hash: InfoHash) -> Result<LookupId, Full> {
        self.search(now, hash, Kind::Scrape)
    }

    /// Asks one node which torrents it has peers of, and for nodes close to `target` (BEP 51).
    pub fn sample_infohashes(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        target: Id160,
    ) -> Result<PingId, Full> {
        self.question(now, addr, Method::SampleInfohashes { target }, Purpose::Sample)
    }

    pub(super) fn on_samples(&mut self, ping: PingId, from: SocketAddr, reply: &Reply<'_>) {
        self.pings -= 1;
        let nodes = self.acceptable(from, reply);
        let event = match reply.samples {
            // Nodes that do not know the query answer it as find_node.
            None => Event::PingFailed { ping },
            Some(Samples { interval, num, hashes }) => Event::Samples {
                ping,
                hashes: hashes.as_chunks::<20>().0.iter().map(|h| Id160(*h)).collect(),
                num: num.try_into().unwrap_or(0),
                interval: Duration::from_secs(interval.try_into().unwrap_or(0)).min(MAX_INTERVAL),
                nodes,
            },
        };
        self.push_event(event);
    }

    pub(super) fn serve_samples(
        &mut self,
        now: Instant,
        from: SocketAddr,
        tid: &[u8],
        target: Id160,
        want: Want,
    ) {
        let nodes = self.closest_compact(from, target, want);
        let mut hashes = Vec::with_capacity(20 * MAX_SAMPLES);
        // "8:interval", "3:num", "7:samples" and their numbers take 60 bytes.
        let taken = REPLY_FRAME + self.echo + nodes.len() + 60;
        let fit = self.answer_room.min(MAX_PAYLOAD).saturating_sub(taken) / 20;
        for hash in self.announced.samples(now, &mut self.rng).iter().take(fit) {
            hashes.extend_from_slice(hash.as_bytes());
        }
        let num = self.announced.hashes() as i64;
        let samples = Samples { interval: SAMPLE_INTERVAL.as_secs() as i64, num, hashes: &hashes };
        let reply = Reply { samples: Some(samples), ..nodes.reply() };
        self.answer(from, tid, reply);
    }
}
