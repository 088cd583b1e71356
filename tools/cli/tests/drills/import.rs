//! A majority is lost, and new nodes go on with a snapshot that was exported before.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use nodes::until;

/// The words of an import on a node.
pub(crate) struct Import {
    config: String,
    from: String,
    members: String,
    replica: String,
}

impl Import {
    pub(crate) fn new(cluster: &Cluster, node: u16, from: &Path, members: &[u16]) -> Self {
        let member = |&node: &u16| format!("{node}={}", cluster.peer_address(node));
        Self {
            config: cluster.config(node).to_str().unwrap().to_owned(),
            from: from.to_str().unwrap().to_owned(),
            members: members.iter().map(member).collect::<Vec<_>>().join(","),
            replica: node.to_string(),
        }
    }

    pub(crate) fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let words = [
            "snapshot",
            "import",
            "--config",
            &self.config,
            "--from",
            &self.from,
            "--members",
            &self.members,
            "--replica",
            &self.replica,
            "--json",
        ];
        [&words, more].concat()
    }
}

pub(crate) fn export(cluster: &Cluster, name: &str) -> PathBuf {
    let to = cluster.directory().join(name);
    let endpoints = [1, 2, 3].map(|node| cluster.admin(node)).join(",");
    let place = to.to_str().unwrap();
    let words = [
        "snapshot",
        "export",
        "--endpoint",
        &endpoints,
        "--to",
        place,
        "--json",
    ];
    cluster.says(&words, 6, "PathNotExist");
    fs::create_dir(&to).unwrap();
    cluster.says(&words, 0, "\"files\":2");
    cluster.says(&words, 4, "holds an export already");
    to
}

/// Cuts the last byte off the snapshot of a group, until what it gives is called.
pub(crate) fn flip(directory: &Path, group: u32) -> impl FnOnce() + use<> {
    let mut files = fs::read_dir(directory).unwrap().map(|it| it.unwrap());
    let prefix = format!("{group}-");
    let file = files.find(|it| it.file_name().to_string_lossy().starts_with(&prefix));
    let file = file.unwrap().path();
    let sound = fs::read(&file).unwrap();
    fs::write(&file, &sound[..sound.len() - 1]).unwrap();
    move || fs::write(file, sound).unwrap()
}

#[test]
fn new_nodes_go_on_with_an_exported_snapshot_and_the_old_ones_never_come_back() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 30);
    let from = export(&cluster, "export");
    cluster.write(1, "lost", 10);
    let members = [1, 4, 5];
    for node in members {
        cluster.configure(node, &members);
    }
    let import = |node| Import::new(&cluster, node, &from, &members);
    cluster.says(&import(1).words(&[]), 4, "is locked by pid");
    cluster.kill(1);
    let import = |node| Import::new(&cluster, node, &from, &members);
    cluster.says(&import(1).words(&[]), 4, "LiveQuorum");
    cluster.says(&import(4).words(&[]), 4, "--ignore-live-quorum");
    let Import {
        from: place,
        members: list,
        ..
    } = import(4);
    let plan = ["repair", "plan", "--from", &place, "--members", &list];
    cluster.says(&plan, 4, "[2, 3] answer");
    cluster.kill(2);
    let stop = format!("1. Stop those that answer: 3={}.", cluster.peer_address(3));
    cluster.says(&plan, 0, &stop);
    cluster.kill(3);
    cluster.says(&plan, 0, "gone: nodes [2, 3], for ever");
    let planned = cluster.says(&[&plan[..], &["--json"]].concat(), 0, "");
    let planned: Value = serde_json::from_str(&planned).unwrap();
    let steps = planned["steps"].as_array().unwrap().iter();
    let steps: Vec<_> = steps.map(|it| (&it["node"], &it["new"])).collect();
    let expected = [
        (&json!(1), &json!(false)),
        (&json!(4), &json!(true)),
        (&json!(5), &json!(true)),
    ];
    assert_eq!(steps, expected);

    let import = |node| Import::new(&cluster, node, &from, &members);
    let mut wrong = import(4);
    wrong.from = "/nonexistent".to_owned();
    cluster.says(&wrong.words(&[]), 6, "PathNotExist");
    let mend = flip(&from, 0);
    cluster.says(&import(4).words(&[]), 65, "IncompleteSnapshot");
    mend();
    fs::write(from.join("0-1-1.snap"), "").unwrap();
    cluster.says(&import(4).words(&[]), 65, "IncompleteSnapshot");
    fs::remove_file(from.join("0-1-1.snap")).unwrap();
    let mut wrong = import(4);
    wrong.replica = "5".to_owned();
    cluster.says(&wrong.words(&[]), 2, "InvalidMembers");
    let wrong = Import::new(&cluster, 4, &from, &[1, 5]);
    cluster.says(&wrong.words(&[]), 2, "InvalidMembers");
    // Who was forgotten in the list is not given up for it.
    let wrong = Import::new(&cluster, 1, &from, &[1, 4]);
    cluster.says(&wrong.words(&[]), 2, "node 5 is in cluster.nodes");
    let mut wrong = import(4);
    wrong.members = wrong
        .members
        .replace(&cluster.peer_address(4), "127.0.0.1:1");
    cluster.says(&wrong.words(&[]), 2, "InvalidMembers");

    // What the export and the directory are of, and the configuration is not.
    let own_port = cluster
        .peer_address(1)
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    let own_peer = format!("peer_port = {own_port}");
    let changed = [
        (4, "id = \"drill\"", "id = \"other\"", "ClusterChanged"),
        (4, "groups = 2", "groups = 3", "GroupsChanged"),
        (1, own_peer.as_str(), "peer_port = 1", "NodeAddressChanged"),
    ];
    for (node, from, to, code) in changed {
        let mut wrong = import(node);
        let text = fs::read_to_string(cluster.config(node)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{text}");
        let config = cluster.directory().join("changed.toml");
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
        wrong.config = config.to_str().unwrap().to_owned();
        wrong.members = wrong.members.replace(&format!(":{own_port}"), ":1");
        if node != 1 {
            wrong.members = import(node).members;
        }
        cluster.says(&wrong.words(&[]), 2, code);
    }

    let said = members.map(|node| cluster.says(&import(node).words(&[]), 0, "\"epoch\":1"));
    for said in said {
        let said: Value = serde_json::from_str(&said).unwrap();
        for number in ["snapshot", "members", "epoch"] {
            assert_eq!(said[number], planned[number], "as it was planned");
        }
    }
    cluster.says(&import(1).words(&[]), 0, "\"epoch\":1");
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    assert_eq!(cluster.missing(4, "kept", 30), 0);
    let lost = cluster.missing(5, "lost", 10);
    assert_eq!(lost, 10, "they are newer than the snapshot");
    cluster.write(5, "later", 5);
    cluster.await_equal(4, 1);
    for node in [2, 3] {
        cluster.refuses(node, 78, &format!("replica {node} was removed"));
    }
    // Nor do others take their place beside those that serve, or in place of them.
    let others = [1, 3, 6];
    for node in [3, 6] {
        fs::remove_dir_all(cluster.data(node)).ok();
        cluster.configure(node, &others);
        let stray = Import::new(&cluster, node, &from, &others);
        cluster.says(&stray.words(&[]), 4, "is of epoch 1 already");
    }
    let others = [1, 3, 4];
    cluster.configure(3, &others);
    let stray = Import::new(&cluster, 3, &from, &others);
    cluster.says(
        &stray.words(&["--epoch", "2"]),
        4,
        "of the 3 members of epoch 1, [1, 4] answer",
    );
    // An epoch later they cannot be added again either.
    cluster.kill(4);
    cluster.configure(4, &[2, 4]);
    let back = Import::new(&cluster, 4, &from, &[2, 4]);
    cluster.says(&back.words(&["--epoch", "2"]), 2, "AddingRemovedNode");
    println!("quorum loss and import: lost {lost} writes that were newer than the export");
}

#[test]
fn nodes_with_different_imports_form_no_cluster() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "first", 5);
    let first = export(&cluster, "first");
    cluster.write(1, "second", 5);
    let second = export(&cluster, "second");
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    let members = [4, 5];
    for node in members {
        cluster.configure(node, &members);
    }
    let import = |node, from: &Path| Import::new(&cluster, node, from, &members);
    cluster.says(&import(4, &first).words(&[]), 0, "\"epoch\":1");
    cluster.says(&import(5, &second).words(&[]), 0, "\"epoch\":1");
    for node in members {
        cluster.run(node);
    }
    // It is the one that dials first.
    let mut told = None;
    let refused = || {
        told = members
            .into_iter()
            .find(|&node| cluster.exited(node) == Some(78));
        told.is_some()
    };
    until(refused, || "neither refuses the other".to_owned());
    let log = cluster.log(told.unwrap());
    assert!(log.contains("import id mismatch"), "{log}");
    for node in members {
        cluster.end(node);
    }
    let import = |node, from: &Path| Import::new(&cluster, node, from, &members);
    cluster.says(
        &import(5, &first).words(&[]),
        4,
        "give --epoch 2 on all members",
    );
    for node in members {
        cluster.says(
            &import(node, &first).words(&["--epoch", "2"]),
            0,
            "\"epoch\":2",
        );
    }
    for node in members {
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    assert_eq!(cluster.missing(4, "first", 5), 0);
    assert_eq!(cluster.missing(4, "second", 5), 5);
}
