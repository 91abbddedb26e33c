//! Short messages of a very large crowd, brought once a tick: all that a host gets in that time together.
//!
//! Thousands of hosts tell each other of each piece. Event by event, each of these messages finds another host's memory
//! cold; this way they cost a tenth, and come up to a tick late. Only what travels alone goes this way: behind payload a
//! message waits its turn in the links. Takes no part of any link's rate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::links::StreamId;

/// Longer ones take time on a link.
const SHORT: usize = 128;

/// What one host gets in a tick: on which streams, what.
pub type Post = Vec<(StreamId, Bytes)>;

#[derive(Debug)]
pub struct Ticks {
    start: Instant,
    length: Duration,
    /// By the tick's end, then by host.
    due: BTreeMap<Instant, BTreeMap<usize, Post>>,
}

impl Ticks {
    pub fn new(start: Instant, length: Duration) -> Self {
        Self { start, length, due: BTreeMap::new() }
    }

    /// Takes a message that would arrive at `at` at the soonest; when it will be there, or nothing where it is too long.
    pub fn post(&mut self, at: Instant, to: usize, stream: StreamId, bytes: &Bytes) -> Option<Instant> {
        if bytes.len() > SHORT {
            return None;
        }
        let ticks = (at - self.start).as_nanos() / self.length.as_nanos() + 1;
        let due = self.start + self.length * u32::try_from(ticks).expect("a world of days");
        self.due.entry(due).or_default().entry(to).or_default().push((stream, bytes.clone()));
        Some(due)
    }

    /// When something comes next.
    pub fn next_at(&self) -> Option<Instant> {
        self.due.first_key_value().map(|(at, _)| *at)
    }

    /// What has come by now, host by host.
    pub fn receive(&mut self, now: Instant) -> Option<(usize, Post)> {
        let mut tick = self.due.first_entry().filter(|tick| *tick.key() <= now)?;
        let post = tick.get_mut().pop_first();
        if tick.get().is_empty() {
            tick.remove();
        }
        post
    }
}
