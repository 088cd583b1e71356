//! Groups in which nothing happens.

use engine::shard::Outcome;
use net::command::Expiry;
use net::{Command, Reply};

use crate::cluster::{Cluster, node, set};

fn quiet() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.run(3000);
    cluster
}

#[test]
fn an_idle_group_says_nothing() {
    let mut cluster = quiet();
    let before = cluster.messages;
    cluster.run(60_000);
    assert_eq!(cluster.messages, before);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
}

#[test]
fn a_write_wakes_it_and_it_falls_silent_again() {
    let mut cluster = quiet();
    cluster.ask(1, 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
    cluster.run(3000);
    assert_eq!(
        cluster.keys_on(3),
        1,
        "the others know that it is committed"
    );
    let before = cluster.messages;
    cluster.run(10_000);
    assert_eq!(cluster.messages, before);
}

#[test]
fn the_followers_of_a_node_that_is_gone_elect_another() {
    let mut cluster = quiet();
    cluster.cut_off = vec![1];
    cluster.run(5000);
    let leader = cluster.leader_as_seen_by(2).unwrap();
    assert_ne!(leader, node(1));
    cluster.ask(leader.to_raw(), 1, set(b"a", b"1", Expiry::Never));
    assert_eq!(cluster.answer(1), Some(Outcome::Reply(Reply::Ok)));
    cluster.cut_off.clear();
    cluster.run(3000);
    assert_eq!(cluster.keys_on(1), 1, "it learns what it missed");
}

/// The leader knows that its followers hold everything, but not any more whether they live.
#[test]
fn a_read_that_a_lost_majority_leaves_unanswered_is_given_back() {
    let mut cluster = quiet();
    cluster.cut_off = vec![2, 3];
    cluster.run(5000);
    cluster.ask(1, 1, Command::Get { key: b"a" });
    cluster.run(5000);
    assert_eq!(cluster.answer(1), Some(Outcome::NoLeader));
    assert_eq!(cluster.leader_as_seen_by(1), None);
    cluster.cut_off.clear();
    cluster.run(5000);
    let leader = cluster.leader_as_seen_by(1).expect("all are there again");
    cluster.ask(leader.to_raw(), 2, Command::Get { key: b"a" });
    assert_eq!(cluster.answer(2), Some(Outcome::Reply(Reply::Nil)));
}

#[test]
fn a_follower_that_was_cut_off_deposes_nobody() {
    let mut cluster = quiet();
    cluster.cut_off = vec![3];
    cluster.run(5000);
    let term = cluster.shards[0].status()[0].term;
    cluster.cut_off.clear();
    cluster.run(5000);
    assert_eq!(cluster.leader_as_seen_by(3), Some(node(1)));
    assert_eq!(cluster.shards[2].status()[0].term, term);
}

#[test]
fn a_follower_that_slept_through_a_change_of_leaders_wakes() {
    let mut cluster = quiet();
    // It hears neither the handover nor what the new leader says.
    cluster.cut_off = vec![3];
    cluster.give(
        1,
        engine::shard::Input::Transfer {
            group: crate::cluster::GROUP,
            to: Some(node(2)),
        },
    );
    cluster.run(300);
    assert_eq!(cluster.leader_as_seen_by(1), Some(node(2)));
    cluster.cut_off.clear();
    cluster.run(5000);
    let led = cluster.leader_as_seen_by(1);
    assert_eq!(cluster.leader_as_seen_by(3), led);
}
