//! A backup with its log, and what comes back of it as of an entry and as of a time, in a cluster of
//! another shape.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

#[path = "drills/cluster.rs"]
#[allow(dead_code, reason = "the drills need more of it")]
mod cluster;
mod demo;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Instant, SystemTime};

use cluster::{Cluster, PATIENCE, PAUSE, until};
use demo::Demo;
use redis::{Cmd, Connection, FromRedisValue};
use serde_json::Value;

/// All keys that are ever written.
const KEYS: usize = 60;

type State = BTreeMap<String, Vec<u8>>;

fn drakkar(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_drakkar")]);
    command.args(arguments).output().unwrap()
}

fn says(arguments: &[&str], code: i32, words: &str) -> String {
    let output = drakkar(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let said = format!("{said}{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
    said
}

/// A cluster that is written to.
struct Source {
    admin: String,
    client: Connection,
}

/// A moment of it: the newest entry of each group, the time, and every key.
struct Moment {
    entries: String,
    time: String,
    state: State,
}

fn connect(endpoint: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{endpoint}")).unwrap();
    client.get_connection().unwrap()
}

/// The answer to a command, as soon as leaders are there to give it.
fn ask<T: FromRedisValue>(client: &mut Connection, command: &Cmd) -> T {
    let start = Instant::now();
    loop {
        match command.query(client) {
            Ok(answer) => return answer,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(PAUSE);
    }
}

fn name(key: usize) -> String {
    format!("key {key}")
}

/// Every key that a cluster holds; all of them are of those that are ever written.
fn state_of(client: &mut Connection) -> State {
    let mut state = State::new();
    for key in (0..KEYS).map(name) {
        let value: Option<Vec<u8>> = ask(client, redis::cmd("GET").arg(&key));
        state.extend(value.map(|value| (key, value)));
    }
    let keys: usize = ask(client, &redis::cmd("DBSIZE"));
    assert_eq!(keys, state.len());
    state
}

fn now_ms() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_millis()
}

/// Waits until no clock of this machine says what it said before.
fn let_time_pass() {
    let start = now_ms();
    until("time passes", || now_ms() > start + 100);
}

impl Source {
    fn run(&mut self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        ask::<redis::Value>(&mut self.client, &command);
    }

    /// What a field of each group's status says on each node that answers, by group.
    fn groups(&self, field: &str) -> BTreeMap<u64, Vec<u64>> {
        let output = drakkar(&["status", "--json", "--endpoint", &self.admin]);
        let nodes: Value = serde_json::from_slice(&output.stdout).unwrap();
        let nodes = nodes.as_array().unwrap().iter();
        let groups =
            nodes.flat_map(|node| node["status"]["groups"].as_array().into_iter().flatten());
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for group in groups {
            let number = group["group"].as_u64().unwrap();
            let value = group[field].as_u64().unwrap();
            found.entry(number).or_default().push(value);
        }
        found
    }

    /// Waits until every node has applied all there is; the newest entry of each group.
    fn settle(&self) -> BTreeMap<u64, u64> {
        let mut newest = BTreeMap::new();
        let start = Instant::now();
        while newest.len() != 2 {
            assert!(start.elapsed() < PATIENCE, "{newest:?}");
            let groups = self.groups("applied").into_iter();
            let equal =
                |nodes: &Vec<u64>| nodes.len() == 3 && nodes.iter().all(|it| *it == nodes[0]);
            newest = groups
                .filter_map(|(group, nodes)| equal(&nodes).then(|| (group, nodes[0])))
                .collect();
        }
        newest
    }

    /// Nothing is written before and after within the same tenth of a second.
    fn moment(&mut self) -> Moment {
        let_time_pass();
        let entries = self.settle().into_iter();
        let entries: Vec<String> = entries.map(|(group, at)| format!("{group}:{at}")).collect();
        let state = state_of(&mut self.client);
        let ms = now_ms();
        let (seconds, ms) = (ms / 1000, ms % 1000);
        let time = Command::new("date")
            .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S"])
            .output()
            .unwrap();
        let time = String::from_utf8(time.stdout).unwrap();
        let_time_pass();
        Moment {
            entries: entries.join(","),
            time: format!("{}.{ms:03}Z", time.trim()),
            state,
        }
    }

    /// Has every node take one.
    fn snapshot(&self) {
        self.settle();
        until("snapshots are there", || {
            let words = ["snapshot", "create", "--endpoint", &self.admin];
            drakkar(&words).status.success()
        });
    }

    /// Fills it, changes it in every way, and empties it; the moments between.
    fn live(&mut self) -> [Moment; 3] {
        for key in 0..40 {
            self.run(&["SET", &name(key), &format!("first {key}")]);
        }
        for key in 40..50 {
            self.run(&["SET", &name(key), &key.to_string(), "EX", "3600"]);
        }
        self.snapshot();
        let first = self.moment();
        for key in 0..20 {
            self.run(&["APPEND", &name(key), " and second"]);
        }
        self.snapshot();
        for key in 40..45 {
            self.run(&["INCRBY", &name(key), "1000"]);
        }
        for key in 20..30 {
            self.run(&["DEL", &name(key)]);
        }
        self.run(&["SET", &name(55), "second"]);
        let second = self.moment();
        self.run(&["FLUSHALL"]);
        self.run(&["SET", &name(1), "third"]);
        self.snapshot();
        for key in 50..KEYS {
            self.run(&["SET", &name(key), "third"]);
        }
        [first, second, self.moment()]
    }
}

/// Writes a moment into a cluster that is emptied for it, and compares every key.
fn comes_back(backup: &str, point: &[&str], target: &Demo, expected: &State) {
    let to = format!("127.0.0.1:{}", target.port);
    let mut client = connect(&to);
    ask::<()>(&mut client, &redis::cmd("FLUSHALL"));
    let mut words = vec!["backup", "restore", "--from", backup, "--to", &to];
    words.extend(point);
    says(&words, 0, &format!("{} keys were written", expected.len()));
    assert_eq!(state_of(&mut client), *expected, "{point:?}");
}

fn logs(backup: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(backup).unwrap().map(|it| it.unwrap().path());
    let mut logs: Vec<_> = files
        .filter(|it| it.extension().is_some_and(|it| it == "log"))
        .collect();
    logs.sort();
    logs
}

#[test]
fn a_log_that_is_kept_takes_a_cluster_back_to_any_entry_and_any_time() {
    let source = Cluster::start("delete_after_snapshot = false");
    let target = Demo::start(&["--shards", "2", "--groups", "5"]);
    let mut cluster = Source {
        admin: [1, 2, 3].map(|node| source.admin(node)).join(","),
        client: connect(&source.endpoint(1)),
    };
    let [first, second, third] = cluster.live();
    let floors = cluster.groups("floor");
    assert!(floors.values().flatten().all(|&it| it == 0), "{floors:?}");

    let backup = source.directory().join("backup");
    let place = backup.to_str().unwrap();
    let admin = cluster.admin.clone();
    let create = ["backup", "create", "--with-log", "--endpoint", &admin];
    says(
        &[&create[..], &["--to", place]].concat(),
        0,
        "entries behind",
    );
    says(&["backup", "verify", "--from", place], 0, "its beginning");
    for moment in [&first, &second, &third] {
        let Moment {
            entries,
            time,
            state,
        } = moment;
        comes_back(place, &["--to-index", entries], &target, state);
        comes_back(place, &["--to-time", time], &target, state);
    }
    comes_back(place, &[], &target, &third.state);
    let long_ago = "1999-12-31T00:00:00Z";
    comes_back(place, &["--to-time", long_ago], &target, &State::new());

    // The entry before the one that emptied each group.
    let before = |group: u64| {
        let group_word = group.to_string();
        let words = ["backup", "log", "--from", place, "--group", &group_word];
        let said = says(&words, 0, "FLUSHALL");
        assert!(said.contains("  APPEND  key "), "{said}");
        let line = said.lines().find(|line| line.ends_with("FLUSHALL"));
        let index: u64 = line.unwrap().split(' ').next().unwrap().parse().unwrap();
        let last = index.to_string();
        let narrow = [&words[..], &["--key", "key 7", "--last", &last]].concat();
        let said = says(&narrow, 0, "FLUSHALL");
        assert!(!said.contains("key 8"), "{said}");
        format!("{group}:{}", index - 1)
    };
    let entries = [0, 1].map(before).join(",");
    comes_back(place, &["--to-index", &entries], &target, &second.state);
    let none = ["backup", "log", "--from", place, "--group", "2"];
    says(&none, 6, "the backup has no group 2");

    let archive = source.directory().join("backup.tar");
    let archive = archive.to_str().unwrap();
    says(
        &[&create[..], &["--to", archive]].concat(),
        0,
        "entries behind",
    );
    comes_back(
        archive,
        &["--to-time", &second.time],
        &target,
        &second.state,
    );

    let restore = ["backup", "restore", "--from", place, "--to", "127.0.0.1:1"];
    for (point, words) in [
        (["--to-index", "0:1000000"], "it has entries 0 to"),
        (["--to-index", "7:1"], "the backup has no group 7"),
        (
            ["--to-time", "2200-01-01T00:00:00Z"],
            "is outside of the backup",
        ),
    ] {
        says(&[&restore[..], &point].concat(), 6, words);
    }
    says(
        &[&restore[..], &["--to-time", "soon"]].concat(),
        2,
        "write it as",
    );

    let part = source.directory().join("part");
    let part = part.to_str().unwrap();
    says(
        &[&create[..], &["--group", "1", "--to", part]].concat(),
        0,
        "group 1 of 2",
    );
    says(&["backup", "verify", "--from", part], 0, "group 1 of 2");
    says(
        &[&create[..], &["--group", "2", "--to", "/tmp/none"]].concat(),
        6,
        "no group 2",
    );

    is_noticed_when_damaged(&backup);
    target.stop();
}

fn is_noticed_when_damaged(backup: &Path) {
    let verify = ["backup", "verify", "--from", backup.to_str().unwrap()];
    let logs = logs(backup);
    assert_eq!(logs.len(), 2);
    for log in &logs {
        let whole = fs::read(log).unwrap();
        for at in [0, 100, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(log, &bytes).unwrap();
            says(&verify, 65, ".log");
        }
        fs::write(log, &whole[..whole.len() - 4096]).unwrap();
        says(&verify, 65, ".log");
        fs::write(log, &whole).unwrap();
    }
    let [one, other] = [fs::read(&logs[0]).unwrap(), fs::read(&logs[1]).unwrap()];
    fs::write(&logs[0], other).unwrap();
    says(&verify, 65, ".log");
    fs::write(&logs[0], one).unwrap();
    says(&verify, 0, "is sound");
    fs::remove_file(&logs[1]).unwrap();
    says(&verify, 65, ".log");
}

#[test]
fn a_log_that_is_cut_takes_a_cluster_back_to_the_oldest_snapshot_that_is_kept() {
    let source = Demo::start(&["--groups", "2"]);
    let target = Demo::start(&["--groups", "3"]);
    let admin = [0, 1, 2].map(|node| format!("127.0.0.1:{}", source.port + 2000 + node));
    let mut cluster = Source {
        admin: admin.join(","),
        client: connect(&format!("127.0.0.1:{}", source.port)),
    };
    let [first, second, third] = cluster.live();
    let floors = cluster.groups("floor");
    assert!(floors.values().flatten().all(|&it| it > 0), "{floors:?}");

    let backup = source.directory.join("backup");
    let place = backup.to_str().unwrap();
    let words = [
        "backup",
        "create",
        "--with-log",
        "--endpoint",
        &cluster.admin,
        "--to",
        place,
    ];
    says(&words, 0, "entries behind");
    comes_back(
        place,
        &["--to-index", &second.entries],
        &target,
        &second.state,
    );
    comes_back(place, &["--to-time", &second.time], &target, &second.state);
    comes_back(place, &[], &target, &third.state);
    // What the log held of that is in a snapshot, and cannot be taken apart.
    let restore = ["backup", "restore", "--from", place, "--to", "127.0.0.1:1"];
    let too_early = [["--to-index", &first.entries], ["--to-time", &first.time]];
    for point in too_early {
        says(
            &[&restore[..], &point].concat(),
            6,
            "is outside of the backup",
        );
    }
    target.stop();
    source.stop();
}
