//! What is to happen to the hosts of a shard, in order of time.
//!
//! The order of what happens to one host at the same moment is stated in full (its timer, then datagrams by their
//! sender and by that one's count), so that it does not depend on how hosts are split over shards.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::SocketAddrV4;

/// On its way.
#[derive(Debug)]
pub struct Datagram {
    /// When it gets there, in microseconds from the start.
    pub at: u64,
    /// The hosts that it comes from and goes to, by number.
    pub sender: u32,
    pub receiver: u32,
    /// The sender's count.
    pub count: u32,
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub payload: Vec<u8>,
}

impl Datagram {
    fn key(&self) -> (u64, u32, u32, u32) {
        (self.at, self.receiver, self.sender, self.count)
    }
}

impl PartialEq for Datagram {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Datagram {}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What has come due.
#[derive(Debug)]
pub enum Due {
    Timer { at: u64, host: u32 },
    Datagram(Datagram),
}

/// Timers are many and small, datagrams few at any moment: two heaps, so that neither drags the other along.
#[derive(Debug, Default)]
pub struct Queue {
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    datagrams: BinaryHeap<Reverse<Datagram>>,
}

impl Queue {
    pub fn push_timer(&mut self, at: u64, host: u32) {
        self.timers.push(Reverse((at, host)));
    }

    pub fn push(&mut self, datagram: Datagram) {
        self.datagrams.push(Reverse(datagram));
    }

    fn next_timer(&self) -> u64 {
        self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at)
    }

    fn next_datagram(&self) -> u64 {
        self.datagrams.peek().map_or(u64::MAX, |Reverse(datagram)| datagram.at)
    }

    /// When something is due.
    pub fn next(&self) -> u64 {
        self.next_timer().min(self.next_datagram())
    }

    /// The next thing before `end`.
    pub fn pop_before(&mut self, end: u64) -> Option<Due> {
        let (timer, datagram) = (self.next_timer(), self.next_datagram());
        if timer.min(datagram) >= end {
            None
        } else if timer <= datagram {
            self.timers.pop().map(|Reverse((at, host))| Due::Timer { at, host })
        } else {
            self.datagrams.pop().map(|Reverse(datagram)| Due::Datagram(datagram))
        }
    }
}
