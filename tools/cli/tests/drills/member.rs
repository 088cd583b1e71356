//! Nodes come and go while the others serve, whoever dies meanwhile.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::cluster::{Cluster, ELECTION_TIMEOUT, until};
use crate::drive::{owned, words};
use crate::load::{Load, lost, port};

fn admins(cluster: &Cluster, nodes: &[u16]) -> String {
    let admins: Vec<String> = nodes.iter().map(|&node| cluster.admin(node)).collect();
    admins.join(",")
}

/// The words that let a node in; `asked` are asked.
fn add(cluster: &Cluster, node: u16, asked: &[u16]) -> Vec<String> {
    let ports = [
        cluster.endpoint(node),
        cluster.peer_address(node),
        cluster.admin(node),
    ];
    let [client, peer, admin] = ports.map(|it| port(&it).to_string());
    let node = node.to_string();
    owned(&[
        "member",
        "add",
        "--node",
        &node,
        "--host",
        "127.0.0.1",
        "--client-port",
        &client,
        "--peer-port",
        &peer,
        "--admin-port",
        &admin,
        "--endpoint",
        &admins(cluster, asked),
    ])
}

/// The words that let one go.
fn remove(cluster: &Cluster, node: u16, asked: &[u16]) -> Vec<String> {
    let node = node.to_string();
    let asked = admins(cluster, asked);
    owned(&["member", "remove", "--node", &node, "--endpoint", &asked])
}

/// Runs these words until a line begins like this, and kills them there.
fn interrupt(words: &[String], line: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let mut command = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(command.stdout.take().unwrap()).lines();
    let found = said.find(|it| it.as_ref().unwrap().starts_with(line));
    command.kill().unwrap();
    command.wait().unwrap();
    assert!(found.is_some(), "{words:?} did not say: {line}");
}

/// Starts a node that is new, and waits until it asks to be let in.
fn begin(cluster: &mut Cluster, node: u16, other: u16) {
    cluster.configure(node, &[1, 2, 3, node]);
    cluster.join(node, other);
    let waits = format!("waiting for drakkar member add --node {node}");
    until("it waits", || cluster.log(node).contains(&waits));
}

/// Whether each group has these voters and these observers, as a node says.
fn has(cluster: &Cluster, node: u16, voters: &[u16], observers: &[u16]) -> bool {
    let groups = cluster.groups(node);
    let is = |group: &Value, name: &str, nodes: &[u16]| {
        let listed = group[name].as_array().into_iter().flatten();
        let mut listed: Vec<u64> = listed.filter_map(Value::as_u64).collect();
        listed.sort_unstable();
        listed == nodes.iter().map(|&it| it.into()).collect::<Vec<u64>>()
    };
    let both = |it: &Value| is(it, "voters", voters) && is(it, "observers", observers);
    groups.len() == 2 && groups.iter().all(both)
}

#[test]
fn a_node_that_dies_is_replaced_while_clients_write() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 20);
    let load = Load::begin(&cluster, &[1, 2, 3]);
    begin(&mut cluster, 4, 1);
    // Between the groups the command dies, and then the node that is to be replaced.
    let replaces = [
        &add(&cluster, 4, &[1, 2, 3])[..],
        &owned(&["--replaces", "3"]),
    ]
    .concat();
    interrupt(&replaces, "group 0: node 4 votes");
    cluster.kill(3);
    let told = cluster.says(&words(&[&replaces]), 0, "group 1: node 4 votes");
    assert!(told.contains("node 3 was removed"), "{told}");
    until("they agree", || {
        [1, 2, 4]
            .into_iter()
            .all(|node| has(&cluster, node, &[1, 2, 4], &[]))
    });
    // What was done is done, and what is gone never comes back.
    cluster.says(
        &words(&[&remove(&cluster, 3, &[1, 2])]),
        0,
        "node 3 was removed",
    );
    let back = add(&cluster, 3, &[1, 2]);
    let never = "replica 3 was removed, and its id never comes back: use another";
    cluster.says(&words(&[&back]), 4, never);
    cluster.refuses(3, 78, "replica 3 was removed");
    // The new one makes a majority with either of the old ones.
    cluster.kill(1);
    let acknowledged = load.end();
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    assert_eq!(lost(&cluster, 4, &acknowledged), 0);

    // The configurations of nodes 1 and 2 know nothing of all that.
    cluster.kill(2);
    cluster.kill(4);
    for node in [1, 2, 4] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 4]);
    for node in [1, 2] {
        cluster.await_equal(node, 4);
        assert!(
            has(&cluster, node, &[1, 2, 4], &[]),
            "{:#?}",
            cluster.groups(node)
        );
    }
    cluster.kill(1);
    cluster.write(2, "later", 10);
    cluster.refuses(3, 78, "replica 3 was removed");

    // Nor does a repair forget who they are.
    cluster.kill(2);
    cluster.kill(4);
    let config = cluster.config(2);
    let config = config.to_str().unwrap();
    let shrink = ["repair", "shrink", "--config", config, "--survivors", "2"];
    let plan = cluster.says(&shrink, 0, "Nothing was changed");
    let members = [1, 2, 4].map(|node| format!("{node}={}", cluster.peer_address(node)));
    let now = format!("now:  epoch 0, members {} (majority 2)", members.join(", "));
    assert!(plan.contains(&now), "{plan}");
    cluster.says(
        &[&shrink[..], &["--apply"]].concat(),
        0,
        "node 2 is of epoch 1",
    );
    cluster.run(2);
    cluster.await_leaders(&[2]);
    assert_eq!(lost(&cluster, 2, &acknowledged), 0);
    let missing = cluster.missing(2, "kept", 20) + cluster.missing(2, "later", 10);
    assert_eq!(missing, 0);
    for node in [1, 3, 4] {
        cluster.refuses(node, 78, &format!("replica {node} was removed"));
    }
    println!("a node that died was replaced under load: nothing was lost");
}

#[test]
fn an_observer_has_no_vote_and_a_member_that_was_wiped_comes_back_only_as_one_that_says_so() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 20);
    begin(&mut cluster, 4, 2);
    let promoted = add(&cluster, 4, &[1, 2, 3]);
    let observes = [&promoted[..], &owned(&["--observer"])].concat();
    cluster.says(&words(&[&observes]), 0, "node 4 is let in by all 2 groups");
    cluster.await_equal(4, 1);
    assert!(
        has(&cluster, 1, &[1, 2, 3], &[4]),
        "{:#?}",
        cluster.groups(1)
    );
    let shown = ["status", "--endpoint", &cluster.admin(4)];
    cluster.says(&shown, 0, "observer");
    for node in [1, 4] {
        // A majority of three is one besides the leader, of four it would be two.
        let waits = || cluster.ask(node, &["WAIT", "0", "0"]);
        until("it counts three voters", || {
            waits().as_deref() == Some(":1")
        });
    }
    // Two of four hold what is written, and make no majority: one of them has no vote.
    cluster.kill(2);
    cluster.kill(3);
    let answer = cluster.ask(1, &["SET", "unsure", "value"]);
    assert_ne!(answer.as_deref(), Some("+OK"), "an observer was counted");
    cluster.run(2);
    cluster.run(3);
    cluster.await_leaders(&[1, 2, 3]);
    let told = cluster.says(&words(&[&promoted]), 0, "group 1: node 4 votes");
    assert!(
        told.contains("warning: 4 voters tolerate as many failures as 3"),
        "{told}"
    );
    assert!(
        has(&cluster, 4, &[1, 2, 3, 4], &[]),
        "{:#?}",
        cluster.groups(4)
    );

    // Empty, it is known all the same, and does not get in by the door for new ones.
    cluster.kill(4);
    fs::remove_dir_all(cluster.data(4)).unwrap();
    cluster.join(4, 1);
    let (code, log) = cluster.ended(4);
    let known = "node id 4 is known with instance";
    assert!(code == 78 && log.contains(known), "{code}: {log}");
    assert!(log.contains("drakkar repair rejoin"), "{log}");
    let config = cluster.config(4);
    let rejoin = ["repair", "rejoin", "--config", config.to_str().unwrap()];
    cluster.says(&rejoin, 0, "node 4 comes back with instance");
    cluster.run(4);
    cluster.await_equal(4, 1);
    // It counts: of four, three are needed.
    cluster.kill(3);
    cluster.write(1, "later", 10);
    let missing = cluster.missing(4, "kept", 20) + cluster.missing(4, "later", 10);
    assert_eq!(missing, 0);
    println!("an observer, and a wiped member: nothing was lost");
}

#[test]
fn a_change_that_would_leave_no_majority_is_refused_and_one_that_never_ends_is_given_up() {
    let mut cluster = Cluster::start("");
    let load = Load::begin(&cluster, &[1, 2, 3]);
    let soon = owned(&["--timeout", "2"]);
    let says = |cluster: &Cluster, given: &[String], code: i32, expected: &str| {
        cluster.says(&words(&[given, &soon]), code, expected)
    };
    // Nobody is there, or somebody else is meant.
    says(&cluster, &remove(&cluster, 1, &[7]), 6, "no node answered");
    says(
        &cluster,
        &remove(&cluster, 7, &[1, 2, 3]),
        4,
        "replica 7 is no member",
    );
    let itself = [
        &add(&cluster, 2, &[1, 2, 3])[..],
        &owned(&["--replaces", "2"]),
    ]
    .concat();
    says(&cluster, &itself, 2, "node 2 cannot take its own place");
    let stranger = [
        &add(&cluster, 4, &[1, 2, 3])[..],
        &owned(&["--replaces", "7"]),
    ]
    .concat();
    says(&cluster, &stranger, 4, "node 7 is no member");
    assert!(
        has(&cluster, 1, &[1, 2, 3], &[]),
        "{:#?}",
        cluster.groups(1)
    );

    // A node that is let in and never started has no vote, so nothing hangs on it.
    let never = says(
        &cluster,
        &add(&cluster, 4, &[1, 2, 3]),
        5,
        "replica 4 lacks",
    );
    assert!(never.contains("drakkar member remove --node 4"), "{never}");
    cluster.kill(3);
    cluster.write(1, "meanwhile", 5);
    says(
        &cluster,
        &remove(&cluster, 4, &[1, 2]),
        0,
        "node 4 was removed",
    );
    // With one of three dead, the other may go only after that. Until it was silent for some election timeouts,
    // nobody can know.
    thread::sleep(4 * ELECTION_TIMEOUT);
    let least = says(&cluster, &remove(&cluster, 2, &[1, 2]), 5, "no majority");
    assert!(!least.contains("is gone"), "{least}");
    assert!(
        has(&cluster, 1, &[1, 2, 3], &[]),
        "{:#?}",
        cluster.groups(1)
    );
    says(
        &cluster,
        &remove(&cluster, 3, &[1, 2]),
        0,
        "node 3 was removed",
    );
    cluster.await_leaders(&[1, 2]);

    // Whoever leads hands over first.
    let asked = add(&cluster, 5, &[1, 2]);
    begin(&mut cluster, 5, 1);
    cluster.says(&words(&[&asked]), 0, "group 1: node 5 votes");
    for node in [1, 2] {
        // The others' addresses are told by the one that is asked.
        let gone = remove(&cluster, node, &[5]);
        cluster.says(&words(&[&gone]), 0, &format!("node {node} was removed"));
        cluster.end(node);
        cluster.refuses(node, 78, &format!("replica {node} was removed"));
    }
    says(
        &cluster,
        &remove(&cluster, 5, &[5]),
        4,
        "replica 5 is the last voter",
    );
    let acknowledged = load.end();
    assert_eq!(lost(&cluster, 5, &acknowledged), 0);
    assert_eq!(cluster.missing(5, "meanwhile", 5), 0);
    println!("a change that cannot be: nothing was lost");
}
