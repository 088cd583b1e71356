//! A node whose data are lost begins with a backup.

use std::fs;

use crate::cluster::{Cluster, until};
use crate::import::{Import, export};

/// Snapshots that a node was sent by its peers since it started.
fn received(cluster: &Cluster, node: u16) -> f64 {
    let metrics = cluster.metrics(node);
    let lines = metrics.lines();
    let counts = lines.filter(|line| line.starts_with("drakkar_snapshots_received_total{"));
    let counts = counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    counts.sum()
}

/// A backup, and the words with which node 3 is to begin with it.
fn back_up(cluster: &Cluster) -> [String; 6] {
    let backup = cluster.directory().join("backup");
    let backup = backup.to_str().unwrap();
    let create = ["backup", "create", "--to", backup, "--endpoint"];
    cluster.says(&[&create[..], &[&cluster.admins()]].concat(), 0, "");
    let config = cluster.config(3);
    let config = config.to_str().unwrap();
    ["repair", "rejoin", "--config", config, "--from", backup].map(str::to_owned)
}

#[test]
fn a_wiped_node_that_begins_with_a_backup_is_sent_only_what_is_newer() {
    let mut cluster = Cluster::start("[snapshot]\nkeep = 1");
    cluster.write(1, "key", 200);
    cluster.await_equal(1, 3);
    // Nobody's log begins where that of an empty node does.
    cluster.says(
        &["snapshot", "create", "--endpoint", &cluster.admins()],
        0,
        "SNAPSHOT",
    );
    let cut = |node| {
        let groups = cluster.groups(node);
        !groups.is_empty() && groups.iter().all(|it| it["floor"].as_u64() > Some(0))
    };
    until("the logs are cut", || [1, 2, 3].into_iter().all(cut));
    let rejoin = back_up(&cluster);
    let rejoin = rejoin.each_ref().map(String::as_str);
    cluster.write(1, "later", 50);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data(3)).unwrap();
    let nowhere = [&rejoin[..5], &["/nowhere"]].concat();
    cluster.says(&nowhere, 66, "is no backup");
    // What was broken off can be said again.
    for _ in 0..2 {
        cluster.says(&rejoin, 0, "It begins with the snapshots of 2 groups");
    }
    cluster.run(3);
    cluster.await_equal(3, 1);
    assert_eq!(received(&cluster, 3), 0.0, "it was sent a snapshot");
    cluster.kill(2);
    cluster.write(1, "last", 10);
    let keys = [("key", 200), ("later", 50), ("last", 10)];
    let missing = keys.map(|(prefix, keys)| cluster.missing(3, prefix, keys));
    assert_eq!(missing, [0; 3]);
    println!("a wiped node that began with a backup: nothing was lost");
}

#[test]
fn a_backup_of_another_history_is_no_beginning() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 20);
    let rejoin = back_up(&cluster);
    let rejoin = rejoin.each_ref().map(String::as_str);
    let exported = export(&cluster, "export");
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    for node in [1, 2, 3] {
        let import = Import::new(&cluster, node, &exported, &[1, 2, 3]);
        cluster.says(&import.words(&[]), 0, "");
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data(3)).unwrap();
    cluster.says(&rejoin, 4, "epoch 0, and a repair began epoch 1 since");

    // Another cluster may have the same id: one that was begun anew, or that the backup was restored into.
    for node in [1, 2] {
        cluster.kill(node);
        fs::remove_dir_all(cluster.data(node)).unwrap();
    }
    for node in [1, 2, 3] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    cluster.kill(3);
    fs::remove_dir_all(cluster.data(3)).unwrap();
    cluster.says(&rejoin, 4, "it may be of another history");
    assert!(!cluster.data(3).exists(), "nothing was changed");
    cluster.says(&rejoin[..4], 0, "comes back with instance");
}
