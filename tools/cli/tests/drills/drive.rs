//! A repair that is driven on all hosts from one place, which here are reached by `sh -c`.

use std::fs;
use std::path::Path;

use crate::cluster::Cluster;

/// How the program reaches a host: this one, where `broken` names a node whose host fails.
pub(crate) fn by_shell(broken: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_drakkar"));
    let place = program.parent().unwrap().display();
    let broken = broken.display();
    format!(
        "grep -qsx {{host}} {broken} && {{ echo no route >&2; exit 255; }}; PATH={place}:$PATH sh -c {{command}}"
    )
}

pub(crate) fn hosts(cluster: &Cluster, nodes: &[u16]) -> Vec<String> {
    let host = |node: &u16| format!("{node}=db{node}:{}", cluster.config(*node).display());
    let hosts = nodes.iter().map(host);
    hosts.flat_map(|host| ["--host".to_owned(), host]).collect()
}

pub(crate) fn words<'a>(parts: &[&'a [String]]) -> Vec<&'a str> {
    parts
        .iter()
        .copied()
        .flatten()
        .map(String::as_str)
        .collect()
}

pub(crate) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn membership(cluster: &Cluster, node: u16) -> String {
    fs::read_to_string(cluster.data(node).join("membership")).unwrap()
}

#[test]
fn a_shrink_is_driven_on_all_survivors_and_goes_on_where_it_broke_off() {
    let members = [1, 2, 3, 4, 5, 6];
    let mut cluster = Cluster::new("");
    for node in members {
        cluster.configure(node, &members);
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.write(1, "all", 10);
    cluster.await_equal(1, 3);
    cluster.kill(1);
    cluster.kill(2);
    // Of the survivors only the third takes part in these.
    cluster.write(3, "some", 10);
    cluster.await_equal(3, 4);
    for node in [4, 5, 6] {
        cluster.kill(node);
    }
    let broken = cluster.directory().join("broken");
    let run = owned(&["--run", &by_shell(&broken)]);
    let (verb, yes) = (owned(&["repair", "drive", "shrink"]), owned(&["--yes"]));
    let hosts = hosts(&cluster, &[3, 1, 2]);
    let look = words(&[&verb, &hosts, &run]);
    let apply = words(&[&verb, &hosts, &run, &yes]);

    // Node 3 still runs.
    cluster.says(&apply, 4, "stop it first");
    cluster.kill(3);
    let before = [1, 2, 3].map(|node| membership(&cluster, node));
    let told = cluster.says(&look, 0, "Nothing was changed");
    assert!(told.contains("then: epoch 1"), "{told}");
    assert!(told.contains("May be lost: writes"), "{told}");
    assert!(!told.contains("Not seen from here"), "{told}");
    for number in 1..=3 {
        assert!(told.contains(&format!("  {number}. grep")), "{told}");
    }
    // A host that is out of reach from the beginning: nothing is changed anywhere.
    fs::write(&broken, "db2\n").unwrap();
    cluster.says(&apply, 1, "nothing was changed: node 2 (db2)");
    let after = [1, 2, 3].map(|node| membership(&cluster, node));
    assert_eq!(before, after);

    // And one that goes away in the middle.
    let leaves = format!("{}; ", fails_when_applied(&broken));
    let leaving = owned(&["--run", &(leaves + &by_shell(&broken))]);
    fs::remove_file(&broken).unwrap();
    let breaks = words(&[&verb, &hosts, &leaving, &yes]);
    let told = cluster.says(&breaks, 1, "no route");
    assert!(told.contains("\n  1. done: node 1 (db1)"), "{told}");
    assert!(told.contains("\n  2. failed: node 2 (db2)"), "{told}");
    assert!(told.contains("\n  3. not begun: node 3 (db3)"), "{told}");
    assert!(membership(&cluster, 1) != before[0]);
    assert!(membership(&cluster, 2) == before[1]);

    fs::remove_file(&broken).unwrap();
    let told = cluster.says(&apply, 0, "Done on all of them");
    assert!(told.contains("Done before: on node 1"), "{told}");
    cluster.says(&apply, 0, "Done on all of them before");
    for node in [1, 2, 3] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    let missing = cluster.missing(1, "all", 10) + cluster.missing(2, "some", 10);
    assert_eq!(missing, 0);
    cluster.await_equal(1, 3);
    cluster.await_equal(2, 3);
    println!("quorum loss of six, shrunk to three from one place: nothing was lost");
}

#[test]
fn a_shrink_that_was_begun_by_hand_is_driven_to_its_end() {
    let members = [1, 2, 3, 4];
    let mut cluster = Cluster::new("");
    for node in members {
        cluster.configure(node, &members);
        cluster.run(node);
    }
    cluster.await_leaders(&members);
    cluster.write(1, "kept", 10);
    cluster.await_equal(1, 3);
    cluster.await_equal(2, 3);
    for node in members {
        cluster.kill(node);
    }
    let config = cluster.config(1);
    let by_hand = [
        "repair",
        "shrink",
        "--apply",
        "--survivors",
        "1,2",
        "--config",
    ];
    let by_hand = [&by_hand[..], &[config.to_str().unwrap()]].concat();
    cluster.says(&by_hand, 0, "node 1 is of epoch 1");
    let broken = cluster.directory().join("broken");
    let verb = owned(&["repair", "drive", "shrink", "--yes"]);
    let run = owned(&["--run", &by_shell(&broken)]);
    let hosts = hosts(&cluster, &[1, 2]);
    cluster.says(&words(&[&verb, &hosts, &run]), 0, "Done on all of them");
    for node in [1, 2] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2]);
    assert_eq!(cluster.missing(2, "kept", 10), 0);
}

#[test]
fn an_import_is_planned_behind_the_epoch_of_a_repair_that_came_after_the_export() {
    let mut cluster = Cluster::start("");
    let export = exported(&cluster);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    let config = cluster.config(1);
    let shrink = [
        "repair",
        "shrink",
        "--apply",
        "--survivors",
        "1",
        "--config",
    ];
    let shrink = [&shrink[..], &[config.to_str().unwrap()]].concat();
    cluster.says(&shrink, 0, "node 1 is of epoch 1");
    cluster.run(1);
    cluster.await_leaders(&[1]);
    let list = [1, 4].map(|node| format!("{node}={}", cluster.peer_address(node)));
    let list = list.join(",");
    let plan = ["repair", "plan", "--from", &export, "--members", &list];
    let told = cluster.says(&plan, 0, "--epoch 2");
    assert!(!told.contains("--epoch 1"), "{told}");
    // And what is planned is not refused.
    cluster.kill(1);
    cluster.configure(1, &[1, 4]);
    let import = told
        .lines()
        .find(|line| line.contains("--replica 1"))
        .unwrap();
    let import = import.replace("FILE", config.to_str().unwrap());
    let import: Vec<&str> = import.split_whitespace().skip(1).collect();
    cluster.says(&import, 0, "epoch 2");
}

/// A directory with what a cluster holds.
fn exported(cluster: &Cluster) -> String {
    let export = cluster.directory().join("export");
    fs::create_dir(&export).unwrap();
    let export = export.to_str().unwrap().to_owned();
    let endpoints = [1, 2, 3].map(|node| cluster.admin(node)).join(",");
    let words = [
        "snapshot",
        "export",
        "--to",
        &export,
        "--endpoint",
        &endpoints,
    ];
    cluster.says(&words, 0, "");
    export
}

/// Makes a host fail from the second command with `--apply` on.
pub(crate) fn fails_when_applied(broken: &Path) -> String {
    let broken = broken.display();
    format!("case {{command}} in *--apply) [ {{node}} = 2 ] && echo db2 > {broken};; esac")
}

#[test]
fn an_import_is_driven_on_all_members_and_goes_on_where_it_broke_off() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "kept", 20);
    let export = exported(&cluster);
    for node in [1, 2, 3] {
        cluster.kill(node);
    }
    for node in [1, 4] {
        cluster.configure(node, &[1, 4]);
    }
    let broken = cluster.directory().join("broken");
    let verb = owned(&["repair", "drive", "import"]);
    let list = [1, 4].map(|node| format!("{node}={}", cluster.peer_address(node)));
    let what = owned(&["--from", &export, "--members", &list.join(",")]);
    let (run, yes) = (owned(&["--run", &by_shell(&broken)]), owned(&["--yes"]));
    let one = hosts(&cluster, &[1]);
    let hosts = hosts(&cluster, &[1, 4]);
    let few = words(&[&verb, &what, &one, &run]);
    cluster.says(&few, 2, "--host has [1]");
    let look = words(&[&verb, &what, &hosts, &run]);
    cluster.says(&look, 0, "Nothing was changed");
    assert!(!cluster.data(4).exists());

    fs::write(&broken, "db4\n").unwrap();
    let apply = words(&[&verb, &what, &hosts, &run, &yes]);
    let told = cluster.says(&apply, 1, "  2. failed: node 4 (db4)");
    assert!(told.contains("  1. done: node 1 (db1)"), "{told}");
    fs::remove_file(&broken).unwrap();
    cluster.says(&apply, 0, "Done on all of them");
    for node in [1, 4] {
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 4]);
    assert_eq!(cluster.missing(4, "kept", 20), 0);
    // Who loses its directory now is told that, and not to repeat the import.
    cluster.kill(4);
    fs::remove_dir_all(cluster.data(4)).unwrap();
    cluster.refuses(4, 78, "this data directory is empty");
    println!("quorum loss and import from one place: nothing was lost");
}
