//! Logs that are cut behind snapshots, and replicas that need what was cut.

use engine::shard::{Input, Outcome, SnapshotPolicy};
use net::Reply;
use net::command::Expiry;

use crate::cluster::{Cluster, GROUP, set};

/// Writes keys on the leader, of which each node that is not cut off has a snapshot then.
fn write(cluster: &mut Cluster, leader: u32, keys: std::ops::Range<u64>) {
    for token in keys {
        let key = format!("key {token}");
        cluster.ask(leader, token, set(key.as_bytes(), b"value", Expiry::Never));
        cluster.run(1);
        assert_eq!(cluster.answer(token), Some(Outcome::Reply(Reply::Ok)));
    }
    cluster.run(200);
}

fn states(cluster: &Cluster) -> Vec<(wal::LogIndex, u64)> {
    let hash = |shard: &engine::shard::Shard| shard.hash(GROUP).unwrap();
    cluster.shards.iter().map(hash).collect()
}

#[test]
fn a_follower_that_lacks_what_was_cut_gets_the_leaders_snapshot_and_goes_on() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![3];
    write(&mut cluster, 1, 0..20);
    cluster.snapshot(1, true);
    let leader = &cluster.shards[0].status()[0];
    assert_eq!(leader.floor, leader.applied, "all is in the snapshot");
    write(&mut cluster, 1, 20..22);

    cluster.cut_off.clear();
    cluster.run(1000);
    let follower = cluster.shards[2].status().remove(0);
    assert_eq!(follower.keys, 22);
    assert_eq!(follower.persisted, follower.last);
    write(&mut cluster, 1, 22..30);
    let states = states(&cluster);
    assert_eq!(states[0], states[2]);
    assert_eq!(states[1], states[2]);
}

#[test]
fn the_log_keeps_what_follows_the_snapshot_before_the_newest() {
    let mut cluster = Cluster::new();
    write(&mut cluster, 1, 0..5);
    cluster.snapshot(1, false);
    let first = cluster.shards[0].status().remove(0);
    assert_eq!((first.floor.to_raw(), first.snapshot), (0, first.applied));
    write(&mut cluster, 1, 5..9);
    cluster.snapshot(1, false);
    let second = cluster.shards[0].status().remove(0);
    assert_eq!(
        (second.floor, second.snapshot),
        (first.applied, second.applied)
    );
}

#[test]
fn a_log_that_is_to_be_kept_is_cut_for_no_snapshot() {
    let mut cluster = Cluster::with(|options| options.snapshots.keeps_log = true);
    for round in 0..3 {
        write(&mut cluster, 1, round * 5..round * 5 + 5);
        cluster.snapshot(1, round == 2);
    }
    let status = cluster.shards[0].status().remove(0);
    assert_eq!(
        (status.floor.to_raw(), status.snapshot),
        (0, status.applied)
    );
    assert_eq!(cluster.files.len(), 3);
}

#[test]
fn nothing_is_snapshotted_twice() {
    let mut cluster = Cluster::new();
    write(&mut cluster, 1, 0..5);
    cluster.snapshot(1, false);
    cluster.snapshot(1, false);
    assert_eq!(cluster.files.len(), 1);
}

#[test]
fn the_outcome_of_a_write_that_a_snapshot_overtook_is_unknown() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![1];
    // More than the others will write, so that at the snapshot's end there is another entry.
    for token in 100..140 {
        cluster.ask(1, token, set(b"lost", b"value", Expiry::Never));
        cluster.run(1);
    }
    cluster.run(3000);
    let leader = cluster.leader_as_seen_by(2).unwrap().to_raw();
    write(&mut cluster, leader, 0..20);
    cluster.snapshot(leader, true);
    cluster.cut_off.clear();
    cluster.run(1000);
    assert_eq!(cluster.answer(100), Some(Outcome::Unknown));
    let status = cluster.shards[0].status().remove(0);
    assert_eq!(
        (status.last, status.floor),
        (status.applied, status.snapshot)
    );
    let states = states(&cluster);
    assert_eq!(states[0], states[1]);
    assert_eq!(cluster.keys_on(1), 20);
}

#[test]
fn what_nobody_commits_is_written_anew_when_the_log_is_to_be_released() {
    let mut cluster = Cluster::new();
    write(&mut cluster, 1, 0..3);
    cluster.snapshot(1, true);
    cluster.cut_off = vec![1];
    cluster.ask(1, 7, set(b"pending", b"value", Expiry::Never));
    cluster.run(5);
    let flushes = cluster.flushes.len();
    cluster.snapshot(1, true);
    let records: Vec<usize> = cluster.flushes[flushes..].iter().map(|it| it.2).collect();
    assert_eq!(records, [1], "the entry, once");
    cluster.run(1);
    cluster.cut_off.clear();
    cluster.run(3000);
    assert_eq!(cluster.answer(7), Some(Outcome::Reply(Reply::Ok)));
}

#[test]
fn a_snapshot_is_due_when_the_log_has_outgrown_the_state() {
    let mut cluster = Cluster::with(|options| {
        options.snapshots = SnapshotPolicy {
            bytes: 1000,
            ..SnapshotPolicy::BY_HAND
        };
    });
    let value = [7; 500];
    let mut taken = vec![];
    for token in 0..8u64 {
        let key = token.to_le_bytes();
        cluster.ask(1, token, set(&key, &value, Expiry::Never));
        cluster.run(1);
        taken.push(cluster.files.keys().filter(|file| file.0 == 1).count());
    }
    // The first when the least is reached, the next after twice as many bytes as that had.
    assert_eq!(taken, [0, 1, 1, 1, 1, 2, 2, 2]);
}

#[test]
fn a_follower_that_cannot_take_the_snapshot_it_is_offered_gets_a_later_one() {
    let mut cluster = Cluster::with(|options| {
        options.snapshots = SnapshotPolicy {
            entries: 5,
            keeps_previous: false,
            ..SnapshotPolicy::BY_HAND
        };
    });
    cluster.cut_off = vec![3];
    write(&mut cluster, 1, 0..12);
    cluster.files.clear();
    cluster.cut_off.clear();
    write(&mut cluster, 1, 12..18);
    assert_eq!(cluster.keys_on(3), 0, "the snapshot that it needs is gone");
    write(&mut cluster, 1, 18..40);
    cluster.run(1000);
    assert_eq!(cluster.keys_on(3), 40);
}

#[test]
fn a_snapshot_that_cannot_be_read_is_taken_again_although_nothing_was_written_since() {
    let mut cluster = Cluster::new();
    cluster.cut_off = vec![3];
    write(&mut cluster, 1, 0..12);
    cluster.snapshot(1, true);
    let before = cluster.files.len();
    cluster.files.clear();
    cluster.cut_off.clear();
    cluster.run(2000);
    assert_eq!(cluster.keys_on(3), 0, "the snapshot that it needs is gone");
    cluster.give(1, Input::SnapshotLost { group: GROUP });
    cluster.run(2000);
    assert_eq!(cluster.keys_on(3), 12);
    assert_eq!(before, 1);
    let taken = cluster.files.keys().filter(|file| file.0 == 1);
    assert_eq!(taken.count(), 1, "once");
}
