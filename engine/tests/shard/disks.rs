//! Disks that fail, are full, or become slow.

use std::time::Duration;

use engine::shard::{DiskState, Input, Outcome, SnapshotPolicy};
use net::command::Expiry;
use net::{Command, ErrorReply, Reply};

use crate::cluster::{Cluster, node, set};

fn write(cluster: &mut Cluster, id: u32, token: u64) {
    cluster.ask(id, token, set(b"a", &token.to_le_bytes(), Expiry::Never));
}

fn done() -> Option<Outcome> {
    Some(Outcome::Reply(Reply::Ok))
}

fn refused(error: ErrorReply) -> Option<Outcome> {
    Some(Outcome::Reply(error.into()))
}

fn state(cluster: &Cluster, id: u32) -> DiskState {
    cluster.shards[id as usize - 1].disk().state
}

fn handovers(cluster: &Cluster) -> u64 {
    let shards = cluster.shards.iter();
    shards.map(|shard| shard.disk().handovers).sum()
}

/// Writes to whoever leads, every so many milliseconds, so that disks have something to do.
fn keep_writing(cluster: &mut Cluster, ms: u64, every: u64) {
    for token in 0..ms / every {
        if let Some(leader) = cluster.leader_as_seen_by(3) {
            write(cluster, leader.to_raw(), 1_000_000 + token);
        }
        cluster.run(every);
    }
}

#[test]
fn a_leader_whose_disk_fails_hands_over_and_names_the_next_one() {
    let mut cluster = Cluster::new();
    cluster.broken = vec![1];
    write(&mut cluster, 1, 1);
    // Two other disks hold it: that the leader's own does not is no reason to say no.
    assert_eq!(cluster.answer(1), done());
    cluster.run(20);
    let leader = cluster.leader_as_seen_by(1).expect("a successor");
    assert_ne!(leader, node(1));
    assert_eq!(state(&cluster, 1), DiskState::Failed);
    write(&mut cluster, 1, 2);
    assert!(matches!(cluster.answer(2), Some(Outcome::Redirect { .. })));
    write(&mut cluster, leader.to_raw(), 3);
    assert_eq!(cluster.answer(3), done());
    // It is the preferred leader, and is never asked to lead again.
    let flushes = cluster.flushes.iter().filter(|flush| flush.0 == 1).count();
    keep_writing(&mut cluster, 30_000, 100);
    assert_eq!(cluster.leader_as_seen_by(2), Some(leader));
    let after = cluster.flushes.iter().filter(|flush| flush.0 == 1).count();
    assert_eq!(flushes, after, "a disk that failed is asked for nothing");
}

#[test]
fn a_follower_whose_disk_failed_neither_acknowledges_nor_votes() {
    let mut cluster = Cluster::new();
    cluster.broken = vec![2];
    write(&mut cluster, 1, 1);
    assert_eq!(cluster.answer(1), done(), "the third disk has it");
    cluster.cut_off = vec![3];
    write(&mut cluster, 1, 2);
    cluster.run(500);
    assert_eq!(cluster.answer(2), None, "only the leader's disk has it");
    // Without the leader, the third would need the vote of the second.
    cluster.cut_off = vec![1];
    cluster.run(10_000);
    for id in 2..=3 {
        assert_eq!(cluster.leader_as_seen_by(id), None);
    }
    write(&mut cluster, 2, 3);
    cluster.run(2000);
    assert_eq!(cluster.answer(3), refused(ErrorReply::DiskFailed));
}

#[test]
fn what_is_written_after_a_failed_flush_is_never_acknowledged() {
    let mut cluster = Cluster::new();
    cluster.stalled = vec![2, 3];
    write(&mut cluster, 1, 1);
    let mut flushes = cluster.flushes.iter().filter(|flush| flush.0 == 2);
    let newest = flushes.next_back().expect("it flushes the write").1;
    cluster.give(2, Input::WriteFailed { flush: newest });
    cluster.give(2, Input::Written { flush: newest });
    cluster.run(100);
    assert_eq!(cluster.answer(1), None);
    assert_eq!(state(&cluster, 2), DiskState::Failed);
}

#[test]
fn a_leader_that_nobody_can_replace_steps_down_when_its_disk_fails() {
    let mut cluster = Cluster::new();
    cluster.broken = vec![1, 2, 3];
    write(&mut cluster, 1, 1);
    cluster.run(5000);
    for id in 1..=3 {
        assert_eq!(cluster.leader_as_seen_by(id), None, "node {id}");
    }
    assert_eq!(cluster.answer(1), Some(Outcome::Unknown));
    cluster.ask(1, 2, Command::Get { key: b"a" });
    cluster.run(2000);
    assert_eq!(cluster.answer(2), refused(ErrorReply::DiskFailed));
}

#[test]
fn a_leader_whose_disk_is_full_lets_one_with_space_lead() {
    let mut cluster = Cluster::new();
    cluster.give(1, Input::Space { full: true });
    write(&mut cluster, 1, 1);
    assert_eq!(cluster.answer(1), refused(ErrorReply::DiskFull));
    cluster.run(500);
    let leader = cluster.leader_as_seen_by(3).expect("somebody leads");
    assert_ne!(leader, node(1));
    write(&mut cluster, leader.to_raw(), 2);
    assert_eq!(cluster.answer(2), done());
    cluster.run(30_000);
    assert_eq!(cluster.leader_as_seen_by(3), Some(leader));
    // With space again, the preferred node leads again.
    cluster.give(1, Input::Space { full: false });
    cluster.run(30_000);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
}

#[test]
fn while_all_disks_are_full_writes_are_refused_and_reads_answered() {
    let mut cluster = Cluster::new();
    write(&mut cluster, 1, 1);
    assert_eq!(cluster.answer(1), done());
    for id in 1..=3 {
        cluster.give(id, Input::Space { full: true });
    }
    cluster.run(5000);
    assert_eq!(handovers(&cluster), 0, "there is nobody to hand over to");
    write(&mut cluster, 1, 2);
    assert_eq!(cluster.answer(2), refused(ErrorReply::DiskFull));
    cluster.ask(1, 3, Command::Get { key: b"a" });
    let value = Reply::bulk(1u64.to_le_bytes());
    assert_eq!(cluster.answer(3), Some(Outcome::Reply(value)));
    for id in 1..=3 {
        cluster.give(id, Input::Space { full: false });
    }
    cluster.run(200);
    write(&mut cluster, 1, 4);
    assert_eq!(cluster.answer(4), done());
}

#[test]
fn on_a_full_disk_a_snapshot_is_only_taken_if_it_is_asked_for_and_lets_go_of_all_that_it_holds() {
    let mut cluster = Cluster::with(|options| {
        options.snapshots = SnapshotPolicy {
            interval: Duration::from_secs(1),
            ..SnapshotPolicy::BY_HAND
        };
    });
    write(&mut cluster, 1, 1);
    cluster.give(1, Input::Space { full: true });
    cluster.run(5000);
    let taken = |cluster: &Cluster| cluster.files.keys().filter(|file| file.0 == 1).count();
    assert_eq!(taken(&cluster), 0);
    cluster.snapshot(1, false);
    cluster.run(10);
    assert_eq!(taken(&cluster), 1);
    let status = &cluster.shards[0].status()[0];
    assert_eq!(status.floor, status.applied, "its log may make space");
}

#[test]
fn writes_are_refused_while_a_majority_of_disks_is_full() {
    let mut cluster = Cluster::new();
    cluster.give(2, Input::Space { full: true });
    cluster.run(200);
    write(&mut cluster, 1, 1);
    assert_eq!(cluster.answer(1), done(), "two disks have space");
    cluster.give(3, Input::Space { full: true });
    cluster.run(200);
    write(&mut cluster, 1, 2);
    assert_eq!(cluster.answer(2), refused(ErrorReply::DiskFull));
}

#[test]
fn a_leader_whose_disk_became_slow_hands_over_once() {
    let mut cluster = Cluster::new();
    keep_writing(&mut cluster, 1000, 20);
    cluster.slow = vec![(1, 200)];
    keep_writing(&mut cluster, 1500, 20);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)), "not at once");
    keep_writing(&mut cluster, 60_000, 20);
    let leader = cluster.leader_as_seen_by(3).expect("somebody leads");
    assert_ne!(leader, node(1), "it stays away while it is slow");
    assert_eq!(handovers(&cluster), 1);
    assert_eq!(state(&cluster, 1), DiskState::Slow);
    // Well again, and for a while, the preferred node leads again.
    cluster.slow.clear();
    keep_writing(&mut cluster, 5_000, 20);
    assert_eq!(cluster.leader_as_seen_by(3), Some(leader), "not at once");
    keep_writing(&mut cluster, 25_000, 20);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    assert_eq!(handovers(&cluster), 1);
    assert_eq!(state(&cluster, 1), DiskState::Well);
}

#[test]
fn a_leader_stays_where_all_disks_are_as_slow() {
    let mut cluster = Cluster::new();
    keep_writing(&mut cluster, 1000, 20);
    cluster.slow = vec![(1, 200), (2, 150), (3, 100)];
    keep_writing(&mut cluster, 30_000, 20);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    assert_eq!(handovers(&cluster), 0);
}

#[test]
fn a_disk_that_stalls_now_and_then_costs_no_leadership() {
    let mut cluster = Cluster::new();
    for _ in 0..20 {
        keep_writing(&mut cluster, 2000, 20);
        cluster.slow = vec![(1, 900)];
        keep_writing(&mut cluster, 40, 20);
        cluster.slow.clear();
    }
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    assert_eq!(handovers(&cluster), 0);
}
