//! A cluster is kept equal to another, whatever happens to who does that; and goes on without it.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};

use crate::cluster::{Cluster, PATIENCE, until};

/// Of one round trip.
const PIPELINE: usize = 2000;
/// How often it is tried to interrupt a round while it writes.
const TRIES: usize = 20;

fn connect(cluster: &Cluster) -> ClusterConnection {
    let client = ClusterClient::new([format!("redis://{}", cluster.endpoint(1))]).unwrap();
    client.get_connection().unwrap()
}

/// Many commands of one key each.
fn all(connection: &mut ClusterConnection, commands: &[Vec<String>]) {
    for commands in commands.chunks(PIPELINE) {
        let mut pipe = cluster_pipe();
        for words in commands {
            pipe.cmd(&words[0]).arg(&words[1..]).ignore();
        }
        pipe.query::<()>(connection).unwrap();
    }
}

/// A value and whether it goes away by itself, of each key.
fn content(connection: &mut ClusterConnection, keys: &[String]) -> Vec<(Option<String>, bool)> {
    let mut content = Vec::new();
    for keys in keys.chunks(PIPELINE) {
        let mut values = cluster_pipe();
        let mut times = cluster_pipe();
        for key in keys {
            values.cmd("GET").arg(key);
            times.cmd("PTTL").arg(key);
        }
        let values: Vec<Option<String>> = values.query(connection).unwrap();
        let times: Vec<i64> = times.query(connection).unwrap();
        let times = times.into_iter().map(|left| left > 0);
        content.extend(values.into_iter().zip(times));
    }
    content
}

/// The same, and remembers of which keys.
fn write(connection: &mut ClusterConnection, commands: Vec<Vec<String>>, keys: &mut Vec<String>) {
    keys.extend(commands.iter().map(|words| words[1].clone()));
    all(connection, &commands);
}

/// Writes so long until no log reaches back to what there was before.
fn cut_logs(cluster: &Cluster, connection: &mut ClusterConnection) {
    let applied: Vec<u64> = cluster
        .groups(1)
        .iter()
        .filter_map(|it| it["applied"].as_u64())
        .collect();
    assert_eq!(applied.len(), 2);
    let cut = || {
        [1, 2, 3].into_iter().all(|node| {
            let groups = cluster.groups(node);
            let mut groups = groups.iter().zip(&applied);
            groups.all(|(group, &applied)| group["floor"].as_u64() > Some(applied))
        })
    };
    let start = Instant::now();
    while !cut() {
        assert!(start.elapsed() < PATIENCE, "{:#?}", cluster.groups(1));
        let again = (0..10).map(|key| set(&format!("again{key}"), "value", &[]));
        all(connection, &again.collect::<Vec<_>>());
        let create = ["snapshot", "create", "--endpoint", &cluster.admins()];
        cluster.says(&create, 0, "SNAPSHOT");
    }
}

fn size(cluster: &Cluster) -> u64 {
    let counted = cluster.ask(1, &["DBSIZE"]);
    let counted = counted.and_then(|it| it.strip_prefix(':')?.parse().ok());
    counted.unwrap_or(0)
}

/// The words of `drakkar dr ship` between these, and more.
fn words(from: &Cluster, to: &Cluster, state: &str, more: &[&str]) -> Vec<String> {
    let state = from.directory().join(state).display().to_string();
    let (from, to) = (from.admins(), to.endpoint(2));
    let ship = [
        "dr",
        "ship",
        "--endpoint",
        &from,
        "--to",
        &to,
        "--state",
        &state,
    ];
    ship.iter().chain(more).map(ToString::to_string).collect()
}

fn ships(from: &Cluster, to: &Cluster, more: &[&str], code: i32, said: &str) {
    ships_with(from, to, "state", more, code, said);
}

fn ships_with(from: &Cluster, to: &Cluster, state: &str, more: &[&str], code: i32, said: &str) {
    let words = words(from, to, state, &[&["--once"], more].concat());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    from.says(&words, code, said);
}

/// The code of `drakkar dr status`, and what it says.
fn status(from: &Cluster, more: &[&str]) -> (Option<i32>, String) {
    let state = from.directory().join("state").display().to_string();
    let admins = from.admins();
    let status = ["dr", "status", "--state", &state, "--endpoint", &admins];
    let output = from.drakkar(&[&status, more].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[track_caller]
fn assert_equal(from: &Cluster, to: &Cluster, keys: &[String]) {
    let (source, standby) = (
        content(&mut connect(from), keys),
        content(&mut connect(to), keys),
    );
    for (key, (source, standby)) in keys.iter().zip(source.into_iter().zip(standby)) {
        assert_eq!(standby, source, "{key}: the standby, and what it should be");
    }
    assert_eq!(size(to), size(from), "keys that nobody knows");
}

fn spawn(words: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn set(key: &str, value: &str, more: &[&str]) -> Vec<String> {
    let set = ["SET", key, value].into_iter().chain(more.iter().copied());
    set.map(str::to_owned).collect()
}

#[test]
fn a_standby_is_equal_whenever_a_round_ends_however_often_one_was_cut() {
    let from = Cluster::start("[snapshot]\nkeep = 1");
    let to = from.start_beside("");
    let (mut source, mut keys) = (connect(&from), Vec::new());
    let command = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let first = vec![
        set("plain", "1", &[]),
        set("short", "1", &["PX", "300"]),
        set("long", "1", &["EX", "1000"]),
        command(&["INCR", "counter"]),
        command(&["APPEND", "text", "a"]),
    ];
    write(&mut source, first, &mut keys);
    ships(&from, &to, &[], 0, "the standby is at");
    until("what was short is gone", || {
        from.ask(1, &["GET", "short"]).as_deref() == Some("$-1")
            && to.ask(1, &["GET", "short"]).as_deref() == Some("$-1")
    });
    assert_equal(&from, &to, &keys);
    // What is relative is shipped as what came of it.
    let relative = vec![
        command(&["INCR", "counter"]),
        command(&["APPEND", "text", "b"]),
        command(&["PERSIST", "long"]),
        command(&["EXPIRE", "plain", "1000"]),
        set("plain", "2", &["NX"]),
    ];
    write(&mut source, relative, &mut keys);
    ships(&from, &to, &[], 0, "the standby is at");
    assert_equal(&from, &to, &keys);

    // A round is killed while it writes; and again while it makes good for that.
    let (mut cut, mut tries) = (0, 0);
    while cut < 3 {
        tries += 1;
        assert!(tries <= TRIES, "no round was seen at work");
        let many = (0..40_000).map(|key| set(&format!("many{tries}-{key}"), "value", &[]));
        write(&mut source, many.collect(), &mut keys);
        write(&mut source, vec![command(&["INCR", "counter"])], &mut keys);
        let before = size(&to);
        let mut child = spawn(&words(&from, &to, "state", &["--every", "0"]));
        until("it writes", || size(&to) > before);
        child.kill().unwrap();
        child.wait().unwrap();
        cut += usize::from(size(&to) < size(&from));
        let deleted = (0..40_000).step_by(3);
        let deleted = deleted.map(|key| command(&["DEL", &format!("many{tries}-{key}")]));
        write(&mut source, deleted.collect(), &mut keys);
    }
    // The log does not reach back any more: what was deleted since is still known, and what was only written by
    // a round that was cut.
    let deleted = keys.iter().filter(|key| key.starts_with("many"));
    let deleted: Vec<_> = deleted.map(|key| command(&["DEL", key])).collect();
    all(&mut source, &deleted);
    cut_logs(&from, &mut source);
    keys.sort();
    keys.dedup();
    ships(&from, &to, &[], 0, "the standby is at");
    assert_equal(&from, &to, &keys);
    println!("three of {tries} rounds were cut while they wrote");
    all(
        &mut source,
        &[command(&["DEL", "text"]), set("late", "1", &[])],
    );
    keys.push("late".to_owned());
    cut_logs(&from, &mut source);
    ships(&from, &to, &[], 0, "the standby is at");
    assert_equal(&from, &to, &keys);

    assert_eq!(from.ask(1, &["FLUSHALL"]).as_deref(), Some("+OK"));
    all(&mut source, &[set("after", "1", &[])]);
    keys.push("after".to_owned());
    ships(&from, &to, &[], 0, "the standby is at");
    assert_equal(&from, &to, &keys);
    assert_eq!(size(&to), 1);
}

#[test]
fn a_standby_takes_over_and_is_shipped_back() {
    let mut first = Cluster::start("");
    let mut second = first.start_beside("");
    first.write(1, "kept", 30);
    second.set(1, "foreign", "1");
    ships(&first, &second, &[], 4, "the standby holds 1 keys");
    ships(
        &first,
        &first,
        &["--over"],
        4,
        "is a node of the cluster that is shipped",
    );
    assert_eq!(first.missing(1, "kept", 30), 0);
    ships(&first, &second, &["--over"], 0, "emptied of 1 keys");
    until("the standby has everything", || {
        // An election may add an entry.
        ships(&first, &second, &[], 0, "the standby is at");
        status(&first, &["--lag-max", "0"]).0 == Some(0)
    });

    // What somebody else wrote, and does not show in the number of keys, is found by looking.
    second.set(1, "kept0", "changed");
    assert_eq!(
        second.ask(2, &["EXPIRE", "kept1", "1000"]).as_deref(),
        Some(":1")
    );
    ships(
        &first,
        &second,
        &["--check"],
        0,
        "2 keys of the standby differed",
    );
    ships(&first, &second, &["--check"], 0, "are as they were left");
    assert_eq!(second.missing(1, "kept", 30), 0);
    second.set(1, "foreign", "1");
    ships(&first, &second, &["--check"], 4, "it was left with 30");
    assert_eq!(second.ask(1, &["DEL", "foreign"]).as_deref(), Some(":1"));

    // It goes on, and tells how far it is behind.
    let mut child = spawn(&words(&first, &second, "state", &["--every", "1"]));
    first.write(1, "later", 10);
    until("it is shipped", || second.missing(1, "later", 10) == 0);
    ships(&first, &second, &[], 4, "another `drakkar dr ship` uses");
    child.kill().unwrap();
    child.wait().unwrap();
    first.write(1, "lost", 10);
    let (code, said) = status(&first, &["--lag-max", "0"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("--lag-max allows 0 s"), "{said}");
    println!("{said}");

    // The first is lost; the second goes on.
    for node in [1, 2, 3] {
        first.kill(node);
    }
    ships(&first, &second, &[], 6, "no node answers");
    assert_eq!(
        second.missing(1, "kept", 30) + second.missing(2, "later", 10),
        0
    );
    let lost = second.missing(3, "lost", 10);
    assert_eq!(lost, 10, "they are newer than the last round");
    second.write(1, "second", 10);
    // And is shipped back, to what the first was left with.
    for node in [1, 2, 3] {
        first.run(node);
    }
    first.await_leaders(&[1, 2, 3]);
    ships(&first, &second, &[], 4, "somebody else has written to it");
    ships_with(&second, &first, "back", &[], 4, "empties the standby first");
    ships_with(
        &second,
        &first,
        "back",
        &["--over"],
        0,
        "emptied of 50 keys",
    );
    assert_eq!(
        first.missing(1, "second", 10) + first.missing(1, "kept", 30),
        0
    );
    assert_eq!(first.missing(1, "lost", 10), 10);
    assert_eq!(size(&first), 50);

    // Another cluster of the same name is no later state of what was shipped.
    for node in [1, 2, 3] {
        second.kill(node);
        std::fs::remove_dir_all(second.data(node)).unwrap();
    }
    for node in [1, 2, 3] {
        second.run(node);
    }
    second.await_leaders(&[1, 2, 3]);
    ships_with(
        &second,
        &first,
        "back",
        &[],
        4,
        "does not continue what was shipped",
    );
    second.write(1, "new", 60);
    ships_with(
        &second,
        &first,
        "back",
        &[],
        4,
        "does not continue what was shipped",
    );
    assert_eq!(size(&first), 50, "what the standby has stays");
    println!("a cluster with a standby: lost {lost} writes that were newer than the last round");
}
