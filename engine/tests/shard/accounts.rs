//! What a shard tells of the time that writes take.

use std::time::Duration;

use engine::shard::Stage;
use net::command::Expiry;

use crate::cluster::{Cluster, set};

const MS: u64 = 1_000_000;

/// The longest time on the first node, in milliseconds.
fn longest(cluster: &Cluster, stage: Stage) -> u64 {
    cluster.shards[0].accounts().stage(stage).max() / MS
}

#[test]
fn a_batch_waits_for_the_log_and_an_entry_for_the_slower_disk() {
    let mut cluster = Cluster::new();
    let before = cluster.shards[0].accounts().clone();
    cluster.slow = vec![(1, 5), (2, 20), (3, 20)];
    // Two flushes may be under way: the third command waits until the first is done.
    for (token, pause) in [(1, 1), (2, 1), (3, 0), (4, 100)] {
        cluster.ask(1, token, set(b"a", b"1", Expiry::Never));
        cluster.run(pause);
    }
    assert_eq!(cluster.replies.len(), 4, "{:?}", cluster.replies);
    assert_eq!(longest(&cluster, Stage::Batch), 3);
    assert_eq!(longest(&cluster, Stage::PeerWait), 15);
    let after = cluster.shards[0].accounts();
    assert_eq!(after.entries - before.entries, 3);
    assert_eq!(after.commands - before.commands, 4);
    assert_eq!(after.commands_per_entry.max(), 2);
    assert_eq!(after.commands_per_flush.max(), 2);
    assert_eq!(cluster.shards[1].accounts().entries, 0, "it leads nothing");
}

#[test]
fn an_entry_that_its_peers_had_first_waited_for_none_of_them() {
    let mut cluster = Cluster::new();
    cluster.slow = vec![(1, 50)];
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    cluster.run(200);
    assert_eq!(cluster.replies.len(), 1);
    assert_eq!(longest(&cluster, Stage::PeerWait), 0);
    let waits = cluster.shards[0].accounts().stage(Stage::PeerWait);
    assert!(waits.count() > 0);
}

#[test]
fn stretches_of_sealing_and_applying_are_told_to_who_looks_at_a_clock() {
    let mut cluster = Cluster::new();
    let clock = cluster.clock();
    let mut out = engine::shard::Output::default();
    let shard = &mut cluster.shards[0];
    let command = set(b"a", b"1", Expiry::Never);
    let (group, token) = (crate::cluster::GROUP, engine::shard::Token(1));
    let input = engine::shard::Input::Request {
        group,
        token,
        command,
    };
    shard.step(clock, input, &mut out);
    let mut laps = Vec::new();
    shard.settle_watched(clock, &mut out, &mut |stage| laps.push(stage));
    assert_eq!(laps, [None, Some(Stage::Serialise)]);
    let before = shard.accounts().stage(Stage::Apply).count();
    let spent = Duration::from_nanos(7);
    shard.accounts_mut().record(Stage::Apply, spent);
    assert_eq!(shard.accounts().stage(Stage::Apply).count(), before + 1);
}
