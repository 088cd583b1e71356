//! What happens when: a queue of events in virtual time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

use engine::raft::Message;
use engine::shard::{FetchSnapshot, Outcome, Token};
use wal::{Entry, FlushNumber, GroupId};

use crate::client::Request;

/// Something that happens at a moment.
pub(crate) enum Event {
    /// A node works off its inbox.
    Turn {
        node: usize,
        life: u64,
    },
    Alarm {
        node: usize,
        life: u64,
    },
    Message {
        from: usize,
        to: usize,
        group: GroupId,
        message: Message,
    },
    Flushed {
        node: usize,
        life: u64,
        number: FlushNumber,
    },
    FlushFailed {
        node: usize,
        life: u64,
        number: FlushNumber,
    },
    /// A disk has space again.
    Space {
        node: usize,
    },
    /// A disk is as fast as usual again.
    Fast {
        node: usize,
    },
    Log {
        node: usize,
        life: u64,
        group: GroupId,
        entries: Vec<Entry>,
    },
    /// The next chunk of a snapshot is taken.
    Chunk {
        node: usize,
        life: u64,
        group: GroupId,
    },
    /// A snapshot that was taken is durable.
    Shelved {
        node: usize,
        life: u64,
        group: GroupId,
    },
    /// A peer's snapshot is here, or is not to be had.
    Fetched {
        node: usize,
        life: u64,
        fetch: FetchSnapshot,
    },
    /// A request reaches a node.
    Request {
        node: usize,
        token: Token,
        request: Rc<Request>,
    },
    /// An answer reaches its client.
    Answer {
        token: Token,
        outcome: Outcome,
    },
    /// A client's patience for an attempt ends.
    Impatience {
        token: Token,
    },
    /// A client does something new.
    Call {
        client: usize,
    },
    /// A client tries again, if it still waits for that attempt.
    Retry {
        token: Token,
    },
    Crash {
        node: usize,
        life: u64,
        torn: bool,
    },
    Start {
        node: usize,
    },
    /// A fault that is an event.
    Trouble,
    Heal {
        partition: u64,
    },
    /// Faults end, if all have happened.
    Calm,
    /// Histories are judged; once calm: is everything served and equal?
    Inspect,
}

struct Scheduled {
    at: u64,
    /// Keeps the order of what happens at the same moment.
    sequence: u64,
    event: Event,
}

/// What is going to happen.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
}

impl Queue {
    /// Plans an event.
    pub(crate) fn plan_at(&mut self, at: u64, event: Event) {
        let sequence = self.moment();
        self.heap.push(Reverse(Scheduled {
            at,
            sequence,
            event,
        }));
    }

    /// The next event and when it happens.
    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse(Scheduled { at, event, .. }) = self.heap.pop()?;
        Some((at, event))
    }

    /// A moment that orders events planned for the same time, and the calls and returns of clients.
    pub(crate) fn moment(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
