//! When followers learn of a commit. No heartbeat is due while a test looks.

use std::time::Duration;

use engine::shard::{Input, Outcome};
use net::Reply;
use net::command::Expiry;

use crate::cluster::{Cluster, GROUP, node, set};

/// A cluster that says nothing by itself for longer than a test takes.
fn without_heartbeats() -> Cluster {
    let change = |options: &mut engine::shard::Options| {
        options.heartbeat_interval = Duration::from_secs(100);
        options.election_timeout = Duration::from_secs(200);
    };
    let mut cluster = Cluster::starting(change, |_| Default::default());
    cluster.run(40_000);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    cluster
}

fn keys(cluster: &Cluster) -> [u64; 3] {
    [1, 2, 3].map(|id| cluster.keys_on(id))
}

#[test]
fn followers_are_told_once_the_log_is_idle() {
    let mut cluster = without_heartbeats();
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
    assert_eq!(keys(&cluster), [1; 3]);
}

#[test]
fn followers_are_told_when_the_leaders_own_disk_is_done() {
    let mut cluster = without_heartbeats();
    cluster.slow = vec![(1, 5)];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(keys(&cluster), [1, 0, 0], "more may be about to be sent");
    cluster.run(5);
    assert_eq!(keys(&cluster), [1; 3]);
}

#[test]
fn followers_are_told_although_the_leaders_disk_failed_meanwhile() {
    let mut cluster = without_heartbeats();
    cluster.slow = vec![(1, 5)];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(keys(&cluster), [1, 0, 0]);
    let flush = cluster.flushes.iter().rfind(|flush| flush.0 == 1).unwrap();
    let flush = flush.1;
    cluster.give(1, Input::WriteFailed { flush });
    assert_eq!(keys(&cluster), [1; 3]);
}

#[test]
fn followers_are_told_by_the_next_leader_if_the_last_one_did_not() {
    let mut cluster = without_heartbeats();
    cluster.slow = vec![(1, 5)];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(keys(&cluster), [1, 0, 0]);
    let to = Some(node(2));
    cluster.give(1, Input::Transfer { group: GROUP, to });
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(2)));
    assert_eq!(keys(&cluster), [1; 3]);
}

#[test]
fn a_follower_without_room_for_more_is_told_when_it_has_room_again() {
    let change = |options: &mut engine::shard::Options| {
        options.heartbeat_interval = Duration::from_secs(100);
        options.election_timeout = Duration::from_secs(200);
        options.window_messages_max = 1;
    };
    let mut cluster = Cluster::starting(change, |_| Default::default());
    cluster.run(40_000);
    cluster.slow = vec![(3, 5)];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(keys(&cluster), [1, 1, 0]);
    cluster.run(5);
    assert_eq!(keys(&cluster), [1; 3]);
}
