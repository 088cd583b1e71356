//! How much of its groups' logs a shard keeps in memory.

use std::collections::{BTreeMap, VecDeque};

use engine::shard::{GroupOptions, Input, Member, Options, Outcome, Output, ReadLog, Shard, Token};
use engine::{Clock, Time};
use net::Reply;
use net::command::Expiry;
use wal::{Entry, FlushNumber, GroupId, LogIndex, Record, RecoveredLog, ReplicaId};

use crate::cluster::{node, options, set};

const GROUPS: u32 = 4;
const CACHE_BYTES: usize = 64 << 10;
const VALUE: [u8; 1 << 10] = [7; 1 << 10];
/// More than the payload of an entry with one value.
const ENTRY_BYTES: usize = VALUE.len() + 128;

/// What is to be given to which shard.
type Events = VecDeque<(usize, Input<'static>)>;

/// Three shards with all groups, of which the last is not there from the start. The first leads.
struct Nodes {
    shards: Vec<Shard>,
    /// How many of them run.
    up: usize,
    now_ms: u64,
    /// What the leader has on its disk.
    disk: BTreeMap<(GroupId, LogIndex), Entry>,
    /// Entries that the leader had to read.
    read: usize,
    answers: usize,
}

/// A node that has nothing.
fn shard(id: u32) -> Shard {
    let member = |id| Member {
        replica: ReplicaId::from_raw(id),
        node: node(id),
        voter: true,
    };
    let group = |group| GroupOptions {
        group: GroupId::from_raw(group),
        members: (1..=3).map(member).collect(),
        noted: None,
        slots: (0, 16383),
        preferred: Some(node(1)),
        recovered: RecoveredLog::default(),
        snapshot: None,
    };
    let options = Options {
        cache_bytes: CACHE_BYTES,
        ..options(id)
    };
    let groups = (0..GROUPS).map(group).collect();
    Shard::new(options, Clock::default(), groups, FlushNumber::from_raw(1))
}

impl Nodes {
    fn new() -> Self {
        let mut nodes = Self {
            shards: (1..=3).map(shard).collect(),
            up: 2,
            now_ms: 0,
            disk: BTreeMap::new(),
            read: 0,
            answers: 0,
        };
        nodes.run(400);
        nodes
    }

    /// Gives a shard an input, and does all that follows from it.
    fn give(&mut self, at: usize, input: Input<'_>) {
        let mut events = VecDeque::new();
        self.step(at, input, &mut events);
        while let Some((at, input)) = events.pop_front() {
            self.step(at, input, &mut events);
        }
    }

    fn step(&mut self, at: usize, input: Input<'_>, events: &mut Events) {
        let clock = Clock {
            now: Time::from_nanos(self.now_ms * 1_000_000),
            unix_ms: 1_000_000 + self.now_ms,
        };
        let mut out = Output::default();
        self.shards[at].step(clock, input, &mut out);
        self.shards[at].settle(clock, &mut out);
        let ok = |(_, outcome): &(Token, Outcome)| *outcome == Outcome::Reply(Reply::Ok);
        assert!(out.replies.iter().all(ok), "{:?}", out.replies);
        self.answers += out.replies.len();
        for flush in out.flushes {
            for record in flush.records {
                if let Record::Entry { group, entry } = record
                    && at == 0
                {
                    self.disk.insert((group, entry.index), entry);
                }
            }
            let flush = flush.number;
            events.push_back((at, Input::Written { flush }));
        }
        for ReadLog { group, from, .. } in out.reads {
            // One at a time: so each that is not in memory is counted.
            self.read += 1;
            let entries = vec![self.disk[&(group, from)].clone()];
            events.push_back((at, Input::Log { group, entries }));
        }
        for (to, group, message) in out.messages {
            let (from, to) = (node(at as u32 + 1), to.to_raw() as usize - 1);
            let input = Input::Message {
                from,
                group,
                message,
            };
            events.extend((to < self.up).then_some((to, input)));
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            (0..self.up).for_each(|at| self.give(at, Input::Wake));
        }
    }

    /// Writes an entry to a group.
    fn write(&mut self, group: u32) {
        let before = self.answers;
        self.give(
            0,
            Input::Request {
                group: GroupId::from_raw(group),
                token: Token(0),
                command: set(b"a", &VALUE, Expiry::Never),
            },
        );
        assert_eq!(self.answers, before + 1, "a write is answered at once");
    }

    /// Payload in the leader's memory, of all groups: what it does not have to read for a node that
    /// has nothing yet.
    fn cached_bytes(mut self) -> usize {
        self.up = 3;
        self.run(1000);
        let ends = self.shards.iter().map(|shard| {
            let groups = shard.status().into_iter();
            groups.map(|group| group.persisted).collect::<Vec<_>>()
        });
        let ends: Vec<_> = ends.collect();
        assert_eq!(ends[2], ends[0], "the last one has everything");
        (self.disk.len() - self.read) * VALUE.len()
    }
}

#[test]
fn the_bound_holds_over_all_groups() {
    let mut nodes = Nodes::new();
    for _ in 0..200 {
        (0..GROUPS).for_each(|group| nodes.write(group));
    }
    let cached = nodes.cached_bytes();
    let slack = GROUPS as usize * ENTRY_BYTES;
    assert!(
        cached <= CACHE_BYTES + slack,
        "{cached} bytes are in memory"
    );
    assert!(cached >= CACHE_BYTES / 2, "only {cached} bytes are");
}

#[test]
fn a_group_that_is_busy_alone_may_use_it_all() {
    let mut nodes = Nodes::new();
    (0..200).for_each(|_| nodes.write(2));
    let cached = nodes.cached_bytes();
    let slack = GROUPS as usize * ENTRY_BYTES;
    assert!(cached <= CACHE_BYTES + slack, "{cached} bytes are");
    assert!(cached >= CACHE_BYTES - slack, "only {cached} bytes are");
}

#[test]
fn groups_that_are_busy_one_after_the_other_keep_twice_as_much_at_most() {
    let mut nodes = Nodes::new();
    for group in 0..GROUPS {
        (0..200).for_each(|_| nodes.write(group));
    }
    let cached = nodes.cached_bytes();
    let slack = GROUPS as usize * ENTRY_BYTES;
    assert!(
        cached <= 2 * CACHE_BYTES + slack,
        "{cached} bytes are in memory"
    );
}

#[test]
fn what_every_follower_has_is_not_kept() {
    let mut nodes = Nodes::new();
    nodes.up = 3;
    nodes.run(1000);
    (0..200).for_each(|_| nodes.write(2));
    nodes.shards[2] = shard(3);
    (0..GROUPS).for_each(|group| nodes.write(group));
    let cached = nodes.cached_bytes();
    let slack = 2 * GROUPS as usize * ENTRY_BYTES;
    assert!(cached <= CACHE_BYTES / 64 + slack, "{cached} bytes are");
}
