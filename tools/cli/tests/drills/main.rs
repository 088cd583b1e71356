//! What an operator does after a loss, acted out with real processes. Each drill says what was lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

mod cluster;
mod damage;
mod drive;
mod group;
mod import;
mod load;
mod member;
mod members;
mod seed;
mod shrink;
mod standby;

use std::fs;
use std::thread;

use cluster::{Cluster, ELECTION_TIMEOUT, copy, until};
use serde_json::Value;

#[test]
fn a_wiped_node_is_refused_and_comes_back_when_it_says_what_it_lost() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 50);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data(3)).unwrap();
    cluster.refuses(3, 78, "this data directory is empty");
    cluster.refuses(3, 78, "drakkar repair rejoin");

    let config = cluster.config(3);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 0, "node 3 comes back with instance");
    // While a voter is missing that could tell what it promised, it makes no majority, however often it
    // starts.
    cluster.kill(2);
    for _ in 0..2 {
        cluster.run(3);
        until("it is connected", || {
            cluster.connected(3) == 1 && cluster.connected(1) == 1
        });
        thread::sleep(4 * ELECTION_TIMEOUT);
        let asks = |it: &Value| it["health"] == "asking-for-terms";
        assert!(
            cluster.groups(3).iter().all(asks),
            "{:#?}",
            cluster.groups(3)
        );
        let answer = cluster.ask(1, &["SET", "unsure", "value"]);
        assert_ne!(answer.as_deref(), Some("+OK"), "a majority of one");
        cluster.kill(3);
    }
    cluster.run(3);
    cluster.run(2);
    cluster.await_equal(3, 1);
    cluster.says(&rejoin, 4, "stop it first");
    // It counts again: without it there is no majority.
    cluster.kill(2);
    cluster.write(1, "later", 10);
    let missing = cluster.missing(3, "key", 50) + cluster.missing(3, "later", 10);
    assert_eq!(missing, 0);
    cluster.kill(3);
    cluster.says(&rejoin, 4, "holds data");
    println!("a wiped node: nothing was lost");
}

#[test]
fn a_majority_that_was_wiped_does_not_begin_anew_without_the_node_that_holds_data() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 10);
    cluster.await_equal(1, 2);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    for node in [2, 3] {
        fs::remove_dir_all(cluster.data(node)).unwrap();
        cluster.run(node);
    }
    until("both have found each other", || {
        let connected = |node| cluster.connected(node) == 1;
        connected(2) && connected(3)
    });
    assert_eq!(
        cluster.ask(2, &["SET", "key0", "other"]).unwrap(),
        "-CLUSTERDOWN No Raft leader"
    );
    cluster.run(1);
    for node in [2, 3] {
        let (code, log) = cluster.ended(node);
        assert_eq!(code, 78, "{log}");
    }
    // What is left goes on alone.
    cluster.kill(1);
    let config = cluster.config(1);
    let config = config.to_str().unwrap();
    let shrink = [
        "repair",
        "shrink",
        "--config",
        config,
        "--survivors",
        "1",
        "--apply",
    ];
    cluster.says(&shrink, 0, "node 1 is of epoch 1");
    cluster.run(1);
    cluster.await_leaders(&[1]);
    assert_eq!(cluster.missing(1, "key", 10), 0);
    println!("two of three wiped: nothing was lost");
}

#[test]
fn the_directory_that_a_wiped_node_had_never_comes_back_beside_its_successor() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 5);
    cluster.kill(3);
    let (data, old) = (cluster.data(3), cluster.directory().join("old"));
    fs::rename(&data, &old).unwrap();
    let config = cluster.config(3);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 0, "comes back");
    cluster.run(3);
    cluster.await_equal(3, 1);
    cluster.kill(3);
    fs::rename(&data, cluster.directory().join("new")).unwrap();
    fs::rename(&old, &data).unwrap();
    cluster.refuses(3, 78, "was replaced by");
}

#[test]
fn a_copied_data_directory_does_not_start_beside_its_original() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 10);
    cluster.kill(3);
    let (data, original) = (cluster.data(3), cluster.directory().join("original"));
    fs::rename(&data, &original).unwrap();
    copy(&original, &data);
    cluster.refuses(3, 78, "copied data directory");
    // A directory that was only renamed is what it was.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&original, &data).unwrap();
    cluster.run(3);
    cluster.await_equal(3, 1);
    // Moved to another disk while it was stopped, it is used when the operator says so.
    cluster.kill(3);
    copy(&data, &original);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&original, &data).unwrap();
    cluster.refuses(3, 78, "drakkar repair moved");
    let config = cluster.config(3);
    let moved = ["repair", "moved", "--config", config.to_str().unwrap()];
    cluster.says(&moved, 0, "node 3 is at");
    cluster.run(3);
    cluster.await_equal(3, 1);
    println!("a copied data directory: nothing was lost");
}

#[test]
fn a_cluster_that_was_lost_as_a_whole_is_restored_from_a_backup() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 30);
    let backup = cluster.directory().join("backup");
    let place = backup.to_str().unwrap();
    let endpoints = [1, 2, 3].map(|node| cluster.admin(node)).join(",");
    let create = ["backup", "create", "--endpoint", &endpoints, "--to", place];
    cluster.says(&create, 0, "30 keys");
    cluster.write(1, "lost", 10);
    for node in [1, 2, 3] {
        cluster.kill(node);
        fs::remove_dir_all(cluster.data(node)).unwrap();
    }
    // Nobody is left who knows them: they begin anew.
    for node in [1, 2, 3] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    let to = cluster.endpoint(1);
    let restore = ["backup", "restore", "--from", place, "--to", &to];
    cluster.says(&restore, 0, "30 keys were written");
    assert_eq!(cluster.missing(1, "kept", 30), 0);
    let lost = cluster.missing(2, "lost", 10);
    assert_eq!(lost, 10, "they are newer than the backup");
    println!("total loss and restore: lost {lost} writes that were newer than the backup");
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_is_kept_comes_back_by_itself() {
    let mut cluster = Cluster::start("[snapshot]\nkeep = 1");
    cluster.write(1, "early", 20);
    cluster.await_equal(3, 1);
    cluster.kill(3);
    cluster.write(1, "late", 40);
    let endpoints = [1, 2].map(|node| cluster.admin(node)).join(",");
    let create = ["snapshot", "create", "--endpoint", &endpoints];
    cluster.says(&create, 0, "SNAPSHOT");
    // What the snapshots hold has left the logs.
    let cut = |node| {
        let groups = cluster.groups(node);
        !groups.is_empty() && groups.iter().all(|it| it["floor"].as_u64() > Some(20))
    };
    until("the logs are cut", || cut(1) && cut(2));
    cluster.run(3);
    cluster.await_equal(3, 1);
    let log = fs::read_to_string(cluster.directory().join("n3.log")).unwrap();
    assert!(log.contains("snapshot.fetched"), "{log}");
    assert_eq!(
        cluster.missing(3, "early", 20) + cluster.missing(3, "late", 40),
        0
    );
    println!("a node that was away: nothing was lost");
}
