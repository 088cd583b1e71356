//! What happens when: a queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use engine::raft::Message;
use engine::shard::{FetchSnapshot, Outcome, Token};
use wal::{Entry, FlushNumber, GroupId};

use crate::client::Request;
use crate::standing::Standing;

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
        /// As what the sender came.
        caller: Rc<Standing>,
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
    /// The members of a group are to change.
    Change {
        group: GroupId,
    },
    /// A disk has space again.
    Space {
        node: usize,
    },
    /// Somebody restarts a node because its disk is full.
    Restart {
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
    /// Whoever runs the cluster gives up what is lost.
    Repair {
        survivors: Vec<usize>,
    },
    /// A node that was stopped for long is started.
    Return {
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

/// When something happens, what keeps the order at the same moment, and the place of the event: one
/// number, for sorting them is a good part of the work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled(u128);

/// Bits of the place of an event, and above them of what keeps the order.
const PLACE_BITS: u32 = 24;
const SEQUENCE_BITS: u32 = 40;

impl Scheduled {
    fn new(at: u64, sequence: u64, place: usize) -> Self {
        assert!(place >> PLACE_BITS == 0, "{place} events are planned");
        assert!(sequence >> SEQUENCE_BITS == 0, "{sequence} were planned");
        let order = u128::from(sequence << PLACE_BITS | place as u64);
        Self(u128::from(at) << u64::BITS | order)
    }

    fn at(self) -> u64 {
        u64::try_from(self.0 >> u64::BITS).expect("the upper half")
    }

    fn place(self) -> usize {
        usize::try_from(self.0 & ((1 << PLACE_BITS) - 1)).expect("few bits")
    }
}

/// What is going to happen. Events stay in their places: they are larger than what has to be sorted.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    places: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
}

impl Queue {
    /// Plans an event.
    pub(crate) fn plan_at(&mut self, at: u64, event: Event) {
        let sequence = self.moment();
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(Some(event));
        } else {
            self.places[place] = Some(event);
        }
        self.heap.push(Reverse(Scheduled::new(at, sequence, place)));
    }

    /// The next event and when it happens.
    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse(next) = self.heap.pop()?;
        self.free.push(next.place());
        let event = self.places[next.place()].take();
        Some((next.at(), event.expect("planned once")))
    }

    /// A moment that orders events planned for the same time, and the calls and returns of clients.
    pub(crate) fn moment(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}
