//! Another list of members: nodes go for good, and new ones come. Nothing is lost by that.

use std::fs;
use std::thread;

use serde_json::Value;

use crate::cluster::{Cluster, ELECTION_TIMEOUT, until};
use crate::drive::{by_shell, fails_when_applied, hosts, owned, words};
use crate::load::{Load, lost};

/// The words of a change on a node.
struct Change {
    config: String,
    members: String,
}

impl Change {
    fn new(cluster: &Cluster, node: u16, members: &[u16]) -> Self {
        Self {
            config: cluster.config(node).to_str().unwrap().to_owned(),
            members: listed(cluster, members),
        }
    }

    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let words = [
            "repair",
            "members",
            "--config",
            &self.config,
            "--members",
            &self.members,
        ];
        [&words, more].concat()
    }
}

fn listed(cluster: &Cluster, members: &[u16]) -> String {
    let member = |&node: &u16| format!("{node}={}", cluster.peer_address(node));
    members.iter().map(member).collect::<Vec<_>>().join(",")
}

/// Has these nodes write down what they hold, and gives the files.
fn plans(cluster: &Cluster, nodes: &[u16], members: &[u16]) -> String {
    let plan = |&node: &u16| {
        let file = cluster
            .directory()
            .join(format!("node{node}-of-{}.plan", members.len()));
        let file = file.to_str().unwrap().to_owned();
        let change = Change::new(cluster, node, members);
        let write = change.words(&["--write-plan", &file]);
        cluster.says(&write, 0, "Nothing was changed");
        file
    };
    nodes.iter().map(plan).collect::<Vec<_>>().join(",")
}

fn configure(cluster: &Cluster, members: &[u16]) {
    for &node in members {
        cluster.configure(node, members);
    }
}

/// Changes the members of a stopped cluster from one place.
fn drive(cluster: &Cluster, members: &[u16]) -> String {
    let broken = cluster.directory().join("broken");
    let list = listed(cluster, members);
    let verb = owned(&["repair", "drive", "members", "--yes", "--members", &list]);
    let run = owned(&["--run", &by_shell(&broken)]);
    let hosts = hosts(cluster, members);
    cluster.says(&words(&[&verb, &hosts, &run]), 0, "Done on all of them")
}

#[test]
fn a_dead_node_is_replaced_by_a_new_one_and_nothing_that_was_acknowledged_is_lost() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 20);
    let load = Load::begin(&cluster, &[1, 2]);
    cluster.kill(3);
    cluster.write(1, "without3", 20);
    let members = [1, 2, 4];
    configure(&cluster, &members);
    let change = |node| Change::new(&cluster, node, &members);
    let running = change(1);
    cluster.says(&running.words(&[]), 4, "a process answers at");
    cluster.kill(2);
    let other = Change::new(&cluster, 2, &members);
    cluster.says(&other.words(&[]), 4, "for node 1: stop it first");
    cluster.kill(1);
    let acknowledged = load.end();
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());

    let told = Change::new(&cluster, 1, &members);
    let told = cluster.says(&told.words(&[]), 0, "Nothing was changed. Next:");
    assert!(
        told.contains("then: epoch 1, members 1=127.0.0.1"),
        "{told}"
    );
    assert!(
        told.contains("Stay: nodes 1, 2. New, without data: 4. Gone, for ever: 3."),
        "{told}"
    );
    assert!(
        told.contains("what node 2 holds, which may be newer"),
        "{told}"
    );
    let files = plans(&cluster, &[1, 2], &members);
    for node in members {
        let change = Change::new(&cluster, node, &members);
        cluster.says(&change.words(&["--apply"]), 4, "--write-plan FILE");
        let apply = change.words(&["--plans", &files, "--apply"]);
        cluster.says(&apply, 0, "is of epoch 1");
        cluster.says(&apply, 0, "with these members already");
    }
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    assert_eq!(lost(&cluster, 1, &acknowledged), 0);
    assert_eq!(
        cluster.missing(1, "kept", 20) + cluster.missing(2, "without3", 20),
        0
    );
    cluster.await_equal(4, 1);
    cluster.refuses(3, 78, "replica 3 was removed");
    // The new one counts.
    cluster.kill(2);
    cluster.write(1, "later", 10);
    assert_eq!(lost(&cluster, 4, &acknowledged), 0);
    cluster.kill(1);
    cluster.kill(4);
    // Its id never comes back, with data or without.
    configure(&cluster, &[1, 2, 3, 4]);
    let back = Change::new(&cluster, 1, &[1, 2, 3, 4]);
    cluster.says(
        &back.words(&[]),
        2,
        "3 was removed, and its id never comes back",
    );
    println!(
        "a dead node was replaced: of {} acknowledged writes none was lost",
        acknowledged.len()
    );
}

#[test]
fn a_cluster_that_was_shrunk_gets_as_many_nodes_as_it_had() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "early", 20);
    cluster.await_equal(1, 2);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    let config = cluster.config(1);
    let shrink = ["repair", "shrink", "--apply", "--survivors", "1"];
    let shrink = [&shrink[..], &["--config", config.to_str().unwrap()]].concat();
    cluster.says(&shrink, 0, "node 1 is of epoch 1");
    cluster.run(1);
    cluster.await_leaders(&[1]);
    cluster.write(1, "alone", 20);
    cluster.kill(1);
    // Both others are lost. One node is a majority of one, so what it holds is all there is.
    let members = [1, 4, 5];
    configure(&cluster, &members);
    let told = drive(&cluster, &members);
    assert!(told.contains("then: epoch 2"), "{told}");
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.await_equal(4, 1);
    cluster.await_equal(5, 1);
    cluster.refuses(2, 78, "replica 2 was removed");
    cluster.kill(1);
    cluster.write(4, "later", 5);
    let missing = cluster.missing(4, "early", 20) + cluster.missing(5, "alone", 20);
    assert_eq!(missing, 0);
    println!("shrunk to one and back to three with new ids: nothing was lost");
}

#[test]
fn a_node_that_was_always_alone_gets_others() {
    let mut cluster = Cluster::new("");
    configure(&cluster, &[1]);
    cluster.run(1);
    cluster.await_leaders(&[1]);
    cluster.write(1, "alone", 20);
    cluster.kill(1);
    let members = [1, 4, 5];
    configure(&cluster, &members);
    // Nobody has ever let it in, and it holds data all the same.
    let config = cluster.config(1);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 4, "holds data");
    drive(&cluster, &members);
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.await_equal(4, 1);
    cluster.await_equal(5, 1);
    cluster.kill(1);
    assert_eq!(cluster.missing(4, "alone", 20), 0);
}

#[test]
fn all_nodes_are_replaced_one_after_another_where_the_logs_begin_behind_snapshots() {
    let mut cluster = Cluster::start("[snapshot]\nkeep = 1");
    cluster.write(1, "first", 40);
    let changes: [[u16; 3]; 3] = [[1, 2, 4], [1, 4, 5], [4, 5, 6]];
    let mut before = [1, 2, 3];
    for (epoch, members) in (1..).zip(changes) {
        let endpoints = before.map(|node| cluster.admin(node)).join(",");
        let create = ["snapshot", "create", "--endpoint", &endpoints];
        cluster.says(&create, 0, "SNAPSHOT");
        for node in before {
            cluster.kill(node);
        }
        configure(&cluster, &members);
        let told = drive(&cluster, &members);
        assert!(told.contains(&format!("then: epoch {epoch}")), "{told}");
        for node in members {
            cluster.run(node);
        }
        cluster.await_leaders(&members);
        cluster.await_equal(members[2], members[0]);
        cluster.await_equal(members[1], members[0]);
        cluster.write(members[2], &format!("epoch{epoch}-"), 10);
        before = members;
    }
    let log = fs::read_to_string(cluster.directory().join("n4.log")).unwrap();
    assert!(log.contains("snapshot.fetched"), "{log}");
    let later = ["epoch1-", "epoch2-", "epoch3-"];
    let later = later.map(|prefix| cluster.missing(6, prefix, 10));
    assert_eq!((cluster.missing(5, "first", 40), later), (0, [0; 3]));
    for gone in [1, 2] {
        cluster.refuses(gone, 78, &format!("replica {gone} was removed"));
    }
    println!("three nodes were replaced one after another: nothing was lost");
}

#[test]
fn three_nodes_become_five_and_two_of_these_may_fail() {
    let mut cluster = Cluster::start("");
    let load = Load::begin(&cluster, &[1, 2, 3]);
    cluster.write(1, "kept", 20);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    let acknowledged = load.end();
    let members = [1, 2, 3, 4, 5];
    configure(&cluster, &members);
    let told = drive(&cluster, &members);
    assert!(told.contains("Gone, for ever: none."), "{told}");
    // Two that hold data are no majority of five, and the third has not come.
    cluster.run(1);
    cluster.run(2);
    for node in [4, 5, 3] {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    assert_eq!(lost(&cluster, 1, &acknowledged), 0);
    for node in [2, 4, 5] {
        cluster.await_equal(node, 3);
    }
    cluster.kill(1);
    cluster.kill(2);
    cluster.write(3, "later", 10);
    assert_eq!(lost(&cluster, 4, &acknowledged), 0);
    assert_eq!(
        cluster.missing(5, "kept", 20) + cluster.missing(5, "later", 10),
        0
    );
    println!("three became five: nothing was lost");
}

#[test]
fn a_change_that_broke_off_goes_on_and_a_new_node_that_was_left_out_comes_later() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 20);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    let members = [1, 2, 4];
    configure(&cluster, &members);
    let broken = cluster.directory().join("broken");
    let list = listed(&cluster, &members);
    let verb = owned(&["repair", "drive", "members", "--yes", "--members", &list]);
    let leaves = format!("{}; {}", fails_when_applied(&broken), by_shell(&broken));
    let (run, hosts) = (owned(&["--run", &leaves]), hosts(&cluster, &members));
    let few = words(&[&verb, &hosts[..4], &run]);
    cluster.says(
        &few,
        2,
        "the list has the nodes [1, 2, 4], --host has [1, 2]",
    );
    let told = cluster.says(&words(&[&verb, &hosts, &run]), 1, "no route");
    assert!(told.contains("\n  1. done: node 1 (db1)"), "{told}");
    assert!(told.contains("\n  2. failed: node 2 (db2)"), "{told}");
    // One is of the new epoch and one of the old: neither goes on, and neither ends the other.
    cluster.configure(2, &[1, 2, 3]);
    cluster.run(1);
    cluster.run(2);
    until("both are there", || {
        !cluster.groups(1).is_empty() && !cluster.groups(2).is_empty()
    });
    thread::sleep(5 * ELECTION_TIMEOUT);
    assert_eq!((cluster.exited(1), cluster.exited(2)), (None, None));
    let leads = |it: &Value| it["role"] == "leader";
    let mut groups = [1, 2].into_iter().flat_map(|node| cluster.groups(node));
    assert!(!groups.any(|it| leads(&it)), "one of two epochs leads");
    cluster.kill(1);
    cluster.kill(2);
    configure(&cluster, &members);
    fs::remove_file(&broken).unwrap();
    let told = drive(&cluster, &members);
    assert!(told.contains("Done before: on node 1."), "{told}");

    // A majority is enough. And what the new node was told is lost, or it was never told.
    fs::remove_dir_all(cluster.data(4)).unwrap();
    cluster.run(1);
    cluster.run(2);
    cluster.await_leaders(&[1, 2]);
    cluster.refuses(4, 78, "drakkar repair rejoin");
    let config = cluster.config(4);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 0, "node 4 comes back with instance");
    // It never heard of the one that it replaces, and will refuse it all the same.
    let membership = fs::read_to_string(cluster.data(4).join("membership")).unwrap();
    assert!(membership.contains("\nremoved = 3\n"), "{membership}");
    cluster.run(4);
    cluster.await_equal(4, 1);
    cluster.kill(2);
    cluster.write(1, "later", 5);
    assert_eq!(
        cluster.missing(4, "kept", 20) + cluster.missing(4, "later", 5),
        0
    );
    println!("a change that broke off: nothing was lost");
}

/// Nodes 1 to 5 as members, stopped after some writes.
fn five() -> Cluster {
    let members = [1, 2, 3, 4, 5];
    let mut cluster = Cluster::new("");
    configure(&cluster, &members);
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.write(1, "early", 10);
    for node in members {
        cluster.kill(node);
    }
    cluster
}

#[test]
fn a_majority_that_goes_on_in_the_old_epoch_is_waited_for_and_loses_nothing() {
    let mut cluster = five();
    let members = [1, 2, 3];
    for node in members {
        cluster.configure(node, &[1, 2, 3, 4, 5]);
    }
    let files = plans(&cluster, &members, &members);
    for node in [1, 2] {
        let change = Change::new(&cluster, node, &members);
        let apply = change.words(&["--plans", &files, "--apply"]);
        cluster.says(&apply, 0, "is of epoch 1");
    }
    // The others were started instead: they are a majority of five.
    for node in [3, 4, 5] {
        cluster.run(node);
    }
    cluster.await_leaders(&[3, 4, 5]);
    cluster.write(3, "meanwhile", 10);
    // Two of three, but nobody can tell what the majority does.
    cluster.run(1);
    cluster.run(2);
    until("they have found each other", || {
        cluster.connected(1) == 1 && cluster.connected(2) == 1
    });
    thread::sleep(5 * ELECTION_TIMEOUT);
    for node in [1, 2] {
        let leads = |it: &Value| it["role"] == "leader";
        assert!(!cluster.groups(node).iter().any(leads), "it leads");
    }
    // Nor do they end what is there.
    cluster.write(4, "still", 10);
    let change = Change::new(&cluster, 3, &members);
    cluster.says(&change.words(&[]), 4, "stop it first");
    // One of the majority that loses its data must not be taken for one that told what it held.
    cluster.kill(3);
    let (data, away) = (cluster.data(3), cluster.directory().join("away"));
    fs::rename(&data, &away).unwrap();
    let config = cluster.config(3);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 4, "node 3 has lost what it could tell them");
    fs::rename(&away, &data).unwrap();
    cluster.run(3);
    for node in [1, 2, 3, 4, 5] {
        cluster.kill(node);
    }
    let stale = change.words(&["--plans", &files, "--apply"]);
    cluster.says(&stale, 2, "this node's log has changed since");
    let files = plans_again(&cluster, &members);
    let apply = change.words(&["--plans", &files, "--apply"]);
    cluster.says(&apply, 4, "nodes [3] hold more than nodes [1, 2] were told");
    // Nor is it a majority that lost nothing, which two of the three seem to be.
    let config = cluster.config(1);
    let shrink = ["repair", "shrink", "--survivors", "1,2", "--config"];
    let shrink = [&shrink[..], &[config.to_str().unwrap()]].concat();
    cluster.says(&shrink, 0, "May be lost: writes");
    let other = Change::new(&cluster, 1, &[1, 3]);
    cluster.says(&other.words(&[]), 4, "which has not come together");

    // As it says: those that were made members come back without what they held.
    for node in [1, 2] {
        fs::remove_dir_all(cluster.data(node)).unwrap();
    }
    for node in [3, 4, 5] {
        cluster.run(node);
    }
    cluster.await_leaders(&[3, 4, 5]);
    for node in [1, 2] {
        let config = cluster.config(node);
        let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
        cluster.says(&rejoin, 0, "comes back with instance");
        cluster.run(node);
    }
    cluster.await_equal(1, 3);
    cluster.await_equal(2, 3);
    for node in [1, 2, 3, 4, 5] {
        cluster.kill(node);
    }
    let files = plans(&cluster, &members, &members);
    for node in members {
        let change = Change::new(&cluster, node, &members);
        let apply = change.words(&["--plans", &files, "--apply"]);
        cluster.says(&apply, 0, "is of epoch 1");
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    let missing = cluster.missing(1, "early", 10) + cluster.missing(2, "meanwhile", 10);
    assert_eq!(missing + cluster.missing(3, "still", 10), 0);
    println!("a change that was overtaken: nothing was lost");
}

/// The same for nodes of which some are done.
fn plans_again(cluster: &Cluster, members: &[u16]) -> String {
    let plan = |&node: &u16| {
        let file = cluster.directory().join(format!("again{node}.plan"));
        let file = file.to_str().unwrap().to_owned();
        let change = Change::new(cluster, node, members);
        cluster.says(&change.words(&["--write-plan", &file]), 0, "");
        file
    };
    members.iter().map(plan).collect::<Vec<_>>().join(",")
}

#[test]
fn a_change_that_could_lose_something_is_refused_in_words() {
    let mut cluster = five();
    let old = [1, 2, 3, 4, 5];
    let refuses = |node: u16, members: &[u16], code: i32, expected: &str| {
        let change = Change::new(&cluster, node, members);
        cluster.says(&change.words(&[]), code, expected);
    };
    refuses(1, &old, 2, "these are the members already");
    refuses(1, &[2, 3, 4], 2, "this node, 1, is not in the list");
    refuses(1, &[1, 2, 3, 6], 2, "node 6 is not in cluster.nodes");
    refuses(
        1,
        &[1, 2],
        4,
        "of the members [1, 2, 3, 4, 5] of epoch 0 only [1, 2] stay",
    );
    refuses(1, &[1, 2, 2], 2, "2 is listed twice");
    cluster.configure(1, &[1, 2, 3, 6, 7]);
    refuses(
        1,
        &[1, 2, 3, 6],
        2,
        "node 7 is in cluster.nodes of the configuration",
    );
    cluster.configure(1, &old);

    // One that has no data is no new one if it is a member.
    let files = plans(&cluster, &[1, 2, 3], &[1, 2, 3, 4]);
    fs::remove_dir_all(cluster.data(4)).unwrap();
    let wiped = Change::new(&cluster, 4, &[1, 2, 3, 4]);
    let wiped = wiped.words(&["--plans", &files, "--apply"]);
    cluster.says(
        &wiped,
        4,
        "node 4 is a member of epoch 0, and there are no data of it here",
    );
    let few = files.split(',').next().unwrap();
    let one = Change::new(&cluster, 1, &[1, 2, 3, 4]);
    cluster.says(
        &one.words(&["--plans", few, "--apply"]),
        4,
        "--write-plan FILE",
    );
    // Plans of one list are no plans of another.
    let other = Change::new(&cluster, 1, &[1, 2, 3]);
    let other = other.words(&["--plans", &files, "--apply"]);
    cluster.says(&other, 2, "it is for another repair, cluster or list");

    // Two lists, for each of which all that stay have told what they hold: neither begins.
    let lists: [&[u16]; 2] = [&[1, 2, 3], &[1, 2, 3, 5]];
    let files = lists.map(|list| plans(&cluster, list, list));
    for (node, which) in [(1, 0), (2, 1), (3, 1)] {
        let change = Change::new(&cluster, node, lists[which]);
        let apply = change.words(&["--plans", &files[which], "--apply"]);
        cluster.says(&apply, 0, "is of epoch 1");
    }
    for node in [2, 3] {
        cluster.run(node);
    }
    cluster.refuses(1, 78, "import id mismatch");
}
