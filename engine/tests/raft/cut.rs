//! Replicas whose logs are cut while others need what was in them.

use std::time::Duration;

use engine::Time;
use engine::raft::{Log, Members, Message, Outbox, Raft, Settings, Window};
use wal::{FlushNumber, HardState, LogIndex, ReplicaId, Term};

const TERM: Term = Term::from_raw(2);

fn index(raw: u64) -> LogIndex {
    LogIndex::from_raw(raw)
}

/// One of three, with ten entries that are durable, and none of them in memory.
fn replica(commit: u64) -> Raft {
    let members = Members {
        voters: (1..=3).map(ReplicaId::from_raw).collect(),
        observers: vec![],
    };
    let settings = Settings {
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        pre_vote: true,
        check_quorum: true,
        window: Window {
            bytes_max: 1 << 16,
            messages_max: 16,
        },
        append_bytes_max: 1 << 16,
        seed: 7,
    };
    let hard_state = HardState {
        term: TERM,
        vote: None,
        commit: index(commit),
    };
    let log = Log::new(
        (LogIndex::ZERO, Term::ZERO),
        vec![(index(1), TERM)],
        index(10),
        vec![],
    );
    let wait = Duration::from_millis(100);
    let id = ReplicaId::from_raw(1);
    Raft::new(
        id,
        members,
        settings,
        hard_state,
        log,
        Time::default(),
        wait,
    )
}

/// A damaged peer that holds entries up to `after`, and the tenth.
fn is_asked(raft: &mut Raft, from: u32, after: u64) -> Outbox {
    let question = Message::Repair {
        term: TERM,
        round: 1,
        after: index(after),
        after_term: TERM,
        held: Some((index(10), TERM)),
    };
    let mut out = Outbox::new();
    let from = ReplicaId::from_raw(from);
    raft.step(Time::default(), from, question, &mut out);
    out
}

#[test]
fn what_has_left_the_log_is_not_read_for_a_peer_that_had_asked_before() {
    let mut raft = replica(10);
    is_asked(&mut raft, 2, 3);
    is_asked(&mut raft, 3, 9);
    assert_eq!(raft.fetch_wanted(), Some((index(4), index(10))));
    raft.snapshot_taken(index(8), TERM);
    raft.compact(index(8));
    assert_eq!(raft.fetch_wanted(), Some((index(10), index(10))));
}

#[test]
fn a_log_that_begins_anew_is_not_read_for_a_peer_that_had_asked_before() {
    let mut raft = replica(0);
    is_asked(&mut raft, 2, 3);
    let term = TERM.next();
    assert!(raft.install(index(20), term, None, &mut Outbox::new()));
    raft.take_floor().expect("the log begins anew");
    let flush = FlushNumber::from_raw(1);
    raft.submit(flush, usize::MAX, |_| (), |_| ());
    raft.written(flush, &mut Outbox::new());
    assert_eq!(raft.log().persisted(), index(20));
    assert_eq!(raft.fetch_wanted(), None);
    // It asks again, and hears of the snapshot.
    let answers = is_asked(&mut raft, 2, 3);
    let offers = answers.iter();
    let offers = offers.filter(|(_, message)| matches!(message, Message::Offer { .. }));
    assert_eq!(offers.count(), 1);
}
