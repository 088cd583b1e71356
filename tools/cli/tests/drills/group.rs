//! One group is lost on all nodes while the others serve: it comes back with an earlier export, they with
//! what they hold.

use std::fs;

use crate::cluster::{Cluster, until};
use crate::import::{Import, export, flip};

/// Group 1 has those from 8192 on.
fn slot(cluster: &Cluster, key: &str) -> u32 {
    let answer = cluster.ask(1, &["CLUSTER", "KEYSLOT", key]).unwrap();
    answer.trim_start_matches(':').parse().unwrap()
}

/// Removes the snapshots of group 1 on a stopped node, whose log begins behind them.
fn lose_group_1(cluster: &Cluster, node: u16) {
    let directory = cluster.data(node).join("shard-0/snapshots");
    let files = fs::read_dir(directory).unwrap().map(|it| it.unwrap());
    let mut lost = 0;
    for file in files {
        if file.file_name().to_string_lossy().starts_with("1-") {
            fs::remove_file(file.path()).unwrap();
            lost += 1;
        }
    }
    assert!(lost > 0, "n{node} has no snapshot of group 1");
}

/// Kills all nodes, lets some lose group 1, and starts all again.
fn restart_without_group_1(cluster: &mut Cluster, losers: &[u16]) {
    for node in 1..=3 {
        cluster.kill(node);
    }
    for &node in losers {
        lose_group_1(cluster, node);
    }
    for node in 1..=3 {
        cluster.run(node);
    }
}

#[test]
fn a_group_that_is_lost_comes_back_from_an_export_and_the_others_lose_nothing() {
    let mut cluster = Cluster::start("[snapshot]\nkeep = 1\nat_close = false");
    cluster.write(1, "kept", 30);
    let earlier = export(&cluster, "earlier");
    cluster.write(1, "later", 30);
    cluster.await_equal(2, 1);
    cluster.await_equal(3, 1);
    let endpoints = [1, 2, 3].map(|node| cluster.admin(node)).join(",");
    let create = ["snapshot", "create", "--endpoint", &endpoints];
    cluster.says(&create, 0, "");

    // While one node has it, nothing need be done.
    restart_without_group_1(&mut cluster, &[2, 3]);
    cluster.await_leaders(&[1, 2, 3]);
    for node in [2, 3] {
        cluster.await_equal(node, 1);
    }
    assert_eq!(cluster.missing(1, "later", 30), 0);

    cluster.says(&create, 0, "");
    let newer = (0..30).filter(|key| slot(&cluster, &format!("later{key}")) >= 8192);
    let newer = u32::try_from(newer.count()).unwrap();
    restart_without_group_1(&mut cluster, &[1, 2, 3]);
    cluster.await_leader_of(0);
    let still = (0..60).map(|key| format!("still{key}"));
    let still: Vec<String> = still.filter(|key| slot(&cluster, key) < 8192).collect();
    for key in &still {
        cluster.set(1, key, "value");
    }
    until("group 1 is known to be lost", || {
        (1..=3).all(|node| {
            let groups = cluster.groups(node);
            let lost = |it: &serde_json::Value| it["group"] == 1 && it["health"] == "repairing";
            groups.iter().any(lost)
        })
    });

    let now = cluster.directory().join("now");
    fs::create_dir(&now).unwrap();
    let to = now.to_str().unwrap();
    let words = ["snapshot", "export", "--endpoint", &endpoints, "--to", to];
    let says = |take: &str, code, expected: &str| {
        let words = [&words[..], &["--take", take]].concat();
        cluster.says(&words, code, expected);
    };
    says("1", 2, "is not GROUP=DIR");
    says("1=/nonexistent", 6, "path does not exist");
    let from = earlier.display();
    let mend = flip(&earlier, 1);
    says(&format!("1={from}"), 65, "snapshot is incomplete");
    mend();
    says(&format!("1={from}"), 0, "2 of 2 groups");

    let members = [1, 2, 3];
    let import = |cluster: &Cluster, node| Import::new(cluster, node, &now, &members);
    cluster.kill(1);
    let first = import(&cluster, 1);
    cluster.says(&first.words(&[]), 4, "LiveQuorum");
    cluster.kill(2);
    cluster.kill(3);
    for node in members {
        let import = import(&cluster, node);
        cluster.says(&import.words(&[]), 0, "\"epoch\":1");
    }
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    assert_eq!(cluster.missing(1, "kept", 30), 0);
    let lost = cluster.missing(1, "later", 30);
    assert_eq!(
        lost, newer,
        "those of group 1, which are newer than its export"
    );
    for key in &still {
        assert_eq!(cluster.ask(1, &["GET", key]).as_deref(), Some("value"));
    }
    println!("one group is lost: lost {lost} of 30 writes that were newer than its export");
}
