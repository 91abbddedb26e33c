//! What is to happen, in order of time and then of its making.
//!
//! Knows times and numbers, not what they mean: the heap holds small entries, the rest lies still.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A place in the queue: a timer of a host, or something that lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ticket {
    Timer(u32),
    Slot(u32),
}

/// What has come due.
#[derive(Debug)]
pub enum Due<T> {
    /// A host's timer.
    Timer(u32),
    /// Something else.
    Thing(T),
}

/// Times are microseconds from the start.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<(u64, u64, Ticket)>>,
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    fn insert(&mut self, at: u64, ticket: Ticket) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, ticket)));
    }

    pub fn push_timer(&mut self, at: u64, host: u32) {
        self.insert(at, Ticket::Timer(host));
    }

    pub fn push(&mut self, at: u64, thing: T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(thing);
        self.insert(at, Ticket::Slot(slot));
    }

    /// The next thing until `end`.
    pub fn pop_until(&mut self, end: u64) -> Option<(u64, Due<T>)> {
        if self.heap.peek().is_none_or(|Reverse((at, ..))| *at > end) {
            return None;
        }
        let Reverse((at, _, ticket)) = self.heap.pop()?;
        match ticket {
            Ticket::Timer(host) => Some((at, Due::Timer(host))),
            Ticket::Slot(slot) => {
                self.free.push(slot);
                self.slots[slot as usize].take().map(|thing| (at, Due::Thing(thing)))
            }
        }
    }
}
