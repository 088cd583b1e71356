//! Groups share the flushes of their shard.

use std::time::Duration;

use engine::raft::Message;
use engine::shard::{GroupOptions, Input, Member, Options, Output, Shard, SnapshotPolicy};
use engine::{Clock, Time};
use wal::{
    Entry, EntryKind, FlushNumber, GroupId, LogIndex, NodeId, Payload, Record, RecoveredLog,
    ReplicaId, Term,
};

fn node(raw: u32) -> NodeId {
    NodeId::from_raw(raw)
}

/// Node 1 of three, with two groups and small flushes.
fn shard() -> Shard {
    let options = Options {
        node: node(1),
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        route_wait: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        mark_after: Duration::from_millis(10),
        flushes_in_flight_max: 1,
        flush_beside_bytes_min: 0,
        flush_bytes_max: 64,
        batch_bytes_max: 64,
        window_bytes_max: 1 << 22,
        window_messages_max: 256,
        pending_bytes_max: 1 << 16,
        pending_requests_max: 1 << 12,
        answer_bytes_max: 1 << 20,
        data_bytes_max: 0,
        cache_bytes: 1 << 20,
        snapshots: SnapshotPolicy::BY_HAND,
        seed: 7,
    };
    let member = |id| Member {
        replica: ReplicaId::from_raw(id),
        node: node(id),
        voter: true,
    };
    let group = |id, slots| GroupOptions {
        group: GroupId::from_raw(id),
        members: (1..=3).map(member).collect(),
        noted: None,
        slots,
        preferred: None,
        recovered: RecoveredLog::default(),
        snapshot: None,
    };
    Shard::new(
        options,
        Clock::default(),
        vec![group(0, (0, 8191)), group(1, (8192, 16383))],
        FlushNumber::from_raw(1),
    )
}

fn give(shard: &mut Shard, input: Input<'_>, out: &mut Output) {
    let clock = Clock {
        now: Time::default(),
        unix_ms: 0,
    };
    shard.step(clock, input, out);
    shard.settle(clock, out);
}

#[test]
fn a_group_with_much_to_write_does_not_keep_another_from_voting() {
    let mut shard = shard();
    let mut out = Output::default();
    // The leader of the first group always has more to write than fits a flush.
    let mut last = 0;
    let mut fill = |shard: &mut Shard, out: &mut Output| {
        let entries = (last + 1..=last + 4).map(|index| Entry {
            term: Term::from_raw(1),
            index: LogIndex::from_raw(index),
            kind: EntryKind::Batch,
            payload: Payload::from([0; 32]),
        });
        let message = Message::Append {
            term: Term::from_raw(1),
            previous_index: LogIndex::from_raw(last),
            previous_term: Term::from_raw(last.min(1)),
            commit: LogIndex::ZERO,
            entries: entries.collect(),
        };
        last += 4;
        let group = GroupId::from_raw(0);
        let from = node(2);
        let input = Input::Message {
            from,
            group,
            message,
        };
        give(shard, input, out);
    };
    fill(&mut shard, &mut out);

    // Somebody asks the second group for a vote.
    let group = GroupId::from_raw(1);
    let message = Message::RequestVote {
        term: Term::from_raw(1),
        pre: false,
        last_index: LogIndex::ZERO,
        last_term: Term::ZERO,
        transfer: false,
        life: 0,
    };
    let from = node(3);
    let input = Input::Message {
        from,
        group,
        message,
    };
    give(&mut shard, input, &mut out);

    for _ in 0..4 {
        fill(&mut shard, &mut out);
        let flush = out.flushes.last().expect("there is more to write").number;
        give(&mut shard, Input::Written { flush }, &mut out);
    }
    let votes = out.flushes.iter().flat_map(|flush| &flush.records);
    let votes = votes.filter(|record| {
        matches!(record, Record::HardState { group: voting, state }
            if *voting == group && state.vote == Some(ReplicaId::from_raw(3)))
    });
    assert_eq!(votes.count(), 1, "the vote is on its way to the disk, once");
}
