//! What three shards do together, by hand.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "shard/accounts.rs"]
mod accounts;
#[path = "shard/cache.rs"]
mod cache;
#[path = "shard/cluster.rs"]
mod cluster;
#[path = "shard/commits.rs"]
mod commits;
#[path = "shard/disks.rs"]
mod disks;
#[path = "shard/matrix.rs"]
mod matrix;
#[path = "shard/quiet.rs"]
mod quiet;
#[path = "shard/snapshots.rs"]
mod snapshots;

use engine::shard::{Input, Outcome};
use net::command::{Expiry, List};
use net::{Command, ErrorReply, Reply};

use cluster::{Cluster, GROUP, node, set};

#[test]
fn the_preferred_node_leads_and_answers_what_was_written() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
    cluster.ask(1, 2, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(2), Some(Outcome::Reply(Reply::bulk(*b"1"))));

    cluster.run(200);
    let hashes: Vec<_> = cluster
        .shards
        .iter()
        .map(|shard| shard.hash(GROUP))
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn a_follower_names_the_leader_and_gives_the_request_back() {
    let mut cluster = Cluster::new();
    cluster.ask(2, 1, Command::Get { key: b"a" });
    let Some(Outcome::Redirect { leader, command }) = cluster.answer(1) else {
        panic!()
    };
    assert_eq!(leader, node(1));
    assert_eq!(
        Command::decode(&command).unwrap(),
        Command::Get { key: b"a" }
    );
}

#[test]
fn nothing_is_acknowledged_before_a_quorum_of_disks_has_it() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![2, 3];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.run(50);
    assert_eq!(cluster.answer(1), None);
    cluster.stalled.clear();
    let newest = cluster
        .flushes
        .iter()
        .filter(|flush| flush.0 == 2)
        .map(|flush| flush.1)
        .max();
    cluster.give(
        2,
        Input::Written {
            flush: newest.unwrap(),
        },
    );
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
}

#[test]
fn without_a_quorum_reads_and_writes_end_and_say_how() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![1];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.ask(1, 2, Command::Get { key: b"a" });
    cluster.run(6000);
    assert_eq!(
        cluster.answer(1),
        Some(Outcome::Unknown),
        "it is in a log: it may take effect"
    );
    assert_eq!(cluster.answer(2), Some(Outcome::NoLeader));
    assert_ne!(
        cluster.leader_as_seen_by(2),
        Some(node(1)),
        "the others went on without it"
    );

    // Once it is back, it leads again, and what it had alone is gone.
    cluster.cut_off.clear();
    cluster.run(20_000);
    assert_eq!(cluster.leader_as_seen_by(2), Some(node(1)));
    cluster.ask(1, 3, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(3), Some(Outcome::Reply(Reply::Nil)));
}

#[test]
fn too_many_waiting_bytes_are_refused() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![1, 2, 3];
    let value = vec![7; 10_000];
    for token in 1..=20 {
        cluster.ask(1, token, set(b"a", &value, Expiry::Never));
    }
    let busy = cluster
        .replies
        .iter()
        .filter(|reply| reply.1 == Outcome::Busy)
        .count();
    assert!((10..20).contains(&busy), "{busy} of 20 refused");
}

#[test]
fn requests_beyond_the_number_that_may_wait_are_refused_and_nothing_happens() {
    let mut cluster = Cluster::with(|options| options.pending_requests_max = 8);
    cluster.slow = vec![(1, 50), (2, 50), (3, 50)];
    let (key, delta) = (b"a".as_slice(), 1);
    for token in 1..=20 {
        cluster.ask(1, token, Command::Increment { key, delta });
    }
    let busy = |reply: &&(_, Outcome)| reply.1 == Outcome::Busy;
    assert_eq!(cluster.replies.iter().filter(busy).count(), 12);
    cluster.run(500);
    cluster.replies.clear();
    // What had waited was done, and there is room again; a group without a leader has as much.
    cluster.ask(1, 21, Command::Increment { key, delta });
    cluster.run(200);
    assert_eq!(cluster.answer(21), Some(Outcome::Reply(Reply::Integer(9))));
    cluster.cut_off = vec![2];
    cluster.run(10_000);
    for token in 31..=50 {
        cluster.ask(2, token, Command::Get { key });
    }
    assert_eq!(cluster.replies.iter().filter(busy).count(), 12);
}

#[test]
fn large_answers_are_spread_over_turns_and_none_is_left_out() {
    let mut cluster = Cluster::with(|options| options.pending_bytes_max = 1 << 20);
    let value = vec![7; 200_000];
    cluster.ask(1, 1, set(b"a", &value, Expiry::Never));
    let asked = 100..180;
    // Nobody confirms that it leads until all are asked.
    cluster.cut_off = vec![1];
    for token in asked.clone() {
        cluster.ask(1, token, Command::Get { key: b"a" });
    }
    assert_eq!(cluster.answer(100), None);
    cluster.cut_off.clear();
    cluster.run(300);
    for token in asked {
        let answer = Outcome::Reply(Reply::bulk(value.clone()));
        assert!(cluster.answer(token) == Some(answer), "request {token}");
    }
    // 4 MiB, and what is looked up together.
    let most = cluster.replies_of_a_turn;
    assert!((16..=38).contains(&most), "{most} in one turn");
}

#[test]
fn keys_expire_through_the_log_although_nobody_asks() {
    let mut cluster = Cluster::new();
    cluster.ask(1, 1, set(b"a", b"1", Expiry::After(300)));
    cluster.run(200);
    assert_eq!(cluster.keys_on(2), 1);
    cluster.run(400);
    assert_eq!(cluster.keys_on(2), 0);
}

#[test]
fn an_idle_shard_marks_its_last_flush_once() {
    let mut cluster = Cluster::new();
    let before = cluster.marks_of(1);
    assert!(before > 0);
    cluster.run(1000);
    assert_eq!(cluster.marks_of(1), before);
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.run(100);
    assert_eq!(cluster.marks_of(1), before + 1);
}

#[test]
fn a_shard_whose_disk_is_slow_sleeps_until_it_is_done() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![1];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.ask(1, 2, set(b"a", b"2", Expiry::Never));
    let flushes = cluster
        .flushes
        .iter()
        .filter(|flush| flush.0 == 1)
        .map(|flush| flush.1);
    let (newest, before) = (
        flushes.clone().max().unwrap(),
        flushes.rev().nth(1).unwrap(),
    );
    assert_eq!(before.next(), newest);
    // The first is done; the mark would be due long before the second is.
    cluster.give(1, Input::Written { flush: before });
    cluster.run(100);
}

#[test]
fn a_draining_node_hands_over_and_leads_no_more() {
    let mut cluster = Cluster::new();
    cluster.give(1, Input::Drain);
    cluster.run(20_000);
    assert_ne!(cluster.leader_as_seen_by(2), Some(node(1)));
    assert!(cluster.leader_as_seen_by(2).is_some());
}

#[test]
fn data_beyond_its_limit_is_refused_until_some_is_deleted() {
    let mut cluster = Cluster::with(|options| options.data_bytes_max = 2000);
    let value = [7; 500];
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    for (token, key) in (0..).zip(keys) {
        cluster.ask(1, token, set(key, &value, Expiry::Never));
        assert_eq!(cluster.answer(token), Some(Outcome::Reply(Reply::Ok)));
    }
    let full = || Some(Outcome::Reply(ErrorReply::DataFull.into()));
    cluster.ask(1, 10, set(b"a", &value, Expiry::Never));
    assert_eq!(cluster.answer(10), full());
    cluster.ask(1, 11, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(11), Some(Outcome::Reply(Reply::bulk(value))));
    let keys = List::Arguments(&[b"a"]);
    cluster.ask(1, 12, Command::Delete { keys });
    assert_eq!(cluster.answer(12), Some(Outcome::Reply(Reply::Integer(1))));
    cluster.ask(1, 13, set(b"e", b"1", Expiry::Never));
    assert_eq!(cluster.answer(13), Some(Outcome::Reply(Reply::Ok)));
}

/// Two rounds may be under way. Here the answer to a heartbeat confirms both, and nothing else happens.
#[test]
fn reads_that_wait_for_a_round_begin_one_as_soon_as_there_is_room() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![2, 3];
    for token in 1..=3 {
        cluster.ask(1, token, Command::Get { key: b"a" });
    }
    cluster.cut_off = vec![3];
    let nil = Some(Outcome::Reply(Reply::Nil));
    let answered = (0..200).any(|_| {
        cluster.run(1);
        cluster.answer(1) == nil
    });
    assert!(answered);
    assert_eq!(
        [2, 3].map(|token| cluster.answer(token)),
        [nil.clone(), nil]
    );
}
