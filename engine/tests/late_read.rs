//! A read of the log that comes back after the log was overwritten.

use std::time::Duration;

use engine::raft::{Message, Role};
use engine::shard::{GroupOptions, Input, Member, Options, Output, ReadLog, Shard, SnapshotPolicy};
use engine::{Clock, Time};
use wal::{
    Entry, EntryKind, FlushNumber, GroupId, HardState, LogIndex, NodeId, Payload, RecoveredLog,
    ReplicaId, Term,
};

const GROUP: GroupId = GroupId::from_raw(0);

fn node(raw: u32) -> NodeId {
    NodeId::from_raw(raw)
}

fn noop(index: u64, term: u64) -> Entry {
    Entry {
        term: Term::from_raw(term),
        index: LogIndex::from_raw(index),
        kind: EntryKind::Noop,
        payload: Payload::from([]),
    }
}

/// Node 1 of three; five entries of term 1 are on its disk, none is in memory or known to be
/// committed.
fn shard() -> Shard {
    let options = Options {
        node: node(1),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        route_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        mark_after: Duration::from_millis(10),
        flushes_in_flight_max: 2,
        flush_beside_bytes_min: 0,
        flush_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 18,
        window_bytes_max: 1 << 22,
        window_messages_max: 256,
        pending_bytes_max: 1 << 16,
        pending_requests_max: 1 << 12,
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: 0,
        snapshots: SnapshotPolicy::BY_HAND,
        seed: 7,
    };
    let member = |id| Member {
        replica: ReplicaId::from_raw(id),
        node: node(id),
        voter: true,
    };
    let group = GroupOptions {
        group: GROUP,
        members: (1..=3).map(member).collect(),
        noted: None,
        slots: (0, 16383),
        preferred: None,
        snapshot: None,
        recovered: RecoveredLog {
            hard_state: HardState {
                term: Term::from_raw(1),
                ..HardState::default()
            },
            terms: vec![(LogIndex::from_raw(1), Term::from_raw(1))],
            last: LogIndex::from_raw(5),
            ..RecoveredLog::default()
        },
    };
    Shard::new(
        options,
        Clock::default(),
        vec![group],
        FlushNumber::from_raw(1),
    )
}

/// Gives a burst of inputs, each from node 2 if it is a message; every flush is durable at once.
fn give(shard: &mut Shard, clock: Clock, inputs: Vec<Input<'_>>) -> Output {
    let mut all = Output::default();
    for input in inputs {
        shard.step(clock, input, &mut all);
    }
    shard.settle(clock, &mut all);
    while let Some(flush) = all.flushes.pop() {
        let flush = flush.number;
        shard.step(clock, Input::Written { flush }, &mut all);
        shard.settle(clock, &mut all);
    }
    all
}

fn from_node_2(message: Message) -> Input<'static> {
    Input::Message {
        from: node(2),
        group: GROUP,
        message,
    }
}

#[test]
fn what_was_overwritten_meanwhile_is_not_applied() {
    let mut shard = shard();
    let clock = Clock {
        now: Time::from_nanos(3_000_000_000),
        unix_ms: 0,
    };
    give(&mut shard, Clock::default(), vec![]);
    // Node 1 is elected with the vote of node 2, which turns out to hold nothing.
    let out = give(&mut shard, clock, vec![Input::Wake]);
    let asked = out
        .messages
        .iter()
        .find_map(|(_, _, message)| match *message {
            Message::RequestVote { life, .. } => Some(life),
            _ => None,
        });
    let life = asked.expect("it asks for votes");
    let term = Term::from_raw(2);
    for pre in [true, false] {
        let granted = true;
        let vote = Message::Vote {
            term,
            pre,
            granted,
            life,
        };
        give(&mut shard, clock, vec![from_node_2(vote)]);
    }
    assert_eq!(shard.status()[0].role, Role::Leader);
    let out = give(
        &mut shard,
        clock,
        vec![from_node_2(Message::Rejected {
            term,
            previous_index: LogIndex::from_raw(5),
            hint_index: LogIndex::ZERO,
            hint_term: Term::ZERO,
        })],
    );
    let wanted = out.reads.first().copied();
    let Some(ReadLog { from, .. }) = wanted else {
        panic!("node 2 lacks entries that are only on disk");
    };
    assert_eq!(from, LogIndex::from_raw(1));

    // Before they are read, node 2 leads and commits others in their place.
    let append = Message::Append {
        term: Term::from_raw(3),
        previous_index: LogIndex::ZERO,
        previous_term: Term::ZERO,
        commit: LogIndex::from_raw(2),
        entries: vec![noop(1, 3), noop(2, 3)],
    };
    let late = Input::Log {
        group: GROUP,
        entries: (1..=5).map(|index| noop(index, 1)).collect(),
    };
    give(&mut shard, clock, vec![from_node_2(append), late]);
    let status = &shard.status()[0];
    assert_eq!(status.term, Term::from_raw(3));
    assert_eq!(status.applied, LogIndex::from_raw(2));
    assert_eq!(status.last, LogIndex::from_raw(2));
}
