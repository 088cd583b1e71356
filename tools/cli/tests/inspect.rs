//! `drakkar inspect` on what a real node has written: while it runs, after it stopped, and after
//! somebody damaged it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nodes::{Addresses, Answer, Client, PATIENCE, Process, Scratch};
use serde_json::Value;

/// A cluster of one node in a temporary directory.
struct Node {
    process: Process,
    addresses: Addresses,
    scratch: Scratch,
}

impl Node {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(&format!("inspect-{name}"));
        let addresses = Addresses::reserve(1).unwrap();
        let config = format!(
            "[node]\nid = 1\ndata_dir = \"{}\"\n[cluster]\nid = \"inspect\"\nshards = 1\ngroups = 2\n\
             election_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n[log]\nsegment_size = \"32MB\"\n{}",
            scratch.join("data").display(),
            addresses.members(&[1]),
        );
        let file = scratch.join("toml");
        fs::write(&file, config).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        Self {
            process: Process::serve(program, &file, &scratch.join("log")).unwrap(),
            addresses,
            scratch,
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// Writes keys, each acknowledged before the next.
    fn write(&mut self, keys: u32) {
        let mut client = Client::new(vec![self.addresses.client(1)], 0, PATIENCE);
        for key in 0..keys {
            let key = format!("key{key}");
            self.process.until("it takes writes", || {
                client.ask(&["SET", &key, "value"]) == Some(Answer::Ok)
            });
        }
    }

    /// SIGTERM, and waits until it is gone.
    fn stop(&mut self) {
        let code = self.process.stop();
        assert_eq!(code, Some(0), "{}", self.process.said());
    }

    fn inspect(&self, arguments: &[&str]) -> Output {
        run(arguments, &self.data())
    }

    /// The places and the exit code of a verification.
    fn verify(&self) -> (Value, Option<i32>) {
        let output = self.inspect(&["inspect", "verify", "--json"]);
        (json(&output), output.status.code())
    }
}

fn run(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_drakkar"))
        .args(arguments)
        .arg(directory)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The flushes of the first segment: offset and bytes.
fn flushes(node: &Node) -> Vec<(u64, u64)> {
    let found = json(&node.inspect(&["inspect", "log", "--json", "--flushes"]));
    let list = &found["shards"][0]["segments"][0]["flush_list"];
    let number = |value: &Value| value.as_u64().unwrap();
    let list = list.as_array().unwrap().iter();
    list.map(|one| (number(&one["offset"]), number(&one["bytes"])))
        .collect()
}

#[test]
fn a_running_node_is_only_looked_at_when_asked_for_and_a_stopped_one_is_sound() {
    let mut node = Node::start("live");
    node.write(20);
    let refused = node.inspect(&["inspect", "log"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{words}");
    assert!(words.contains("--live"), "{words}");
    let live = node.inspect(&["inspect", "verify", "--live"]);
    assert_eq!(live.status.code(), Some(0), "{live:?}");

    node.stop();
    let (verdict, code) = node.verify();
    assert_eq!((code, &verdict["sound"]), (Some(0), &Value::Bool(true)));
    let found = json(&node.inspect(&["inspect", "log", "--json"]));
    assert_eq!(found["identity"]["cluster"], "inspect");
    let groups = found["shards"][0]["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2);
    for group in groups {
        let last = group["last"].as_u64().unwrap();
        assert!(
            last > 1 && group["entries"].as_u64() == Some(last),
            "{group}"
        );
        assert!(group["hard_state"]["term"].as_u64() > Some(0), "{group}");
    }
    let roles: Vec<&Value> = found["shards"][0]["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|segment| &segment["role"])
        .collect();
    assert_eq!(roles, ["live", "spare"]);
    let text = node.inspect(&["inspect", "log"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("SEGMENT") && text.contains("sound: 1 logs"),
        "{text}"
    );
}

#[test]
fn flipped_bytes_and_zeroed_blocks_are_all_named_with_their_places() {
    let mut node = Node::start("damage");
    node.write(30);
    node.stop();
    let flushes = flushes(&node);
    let ((flipped, _), (zeroed, bytes)) = (flushes[4], flushes[12]);
    let file = node.data().join("shard-0/00000001.seg");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, flipped + 600).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], flipped + 600).unwrap();
    let zeroes = vec![0; usize::try_from(bytes).unwrap()];
    file.write_all_at(&zeroes, zeroed).unwrap();

    let (verdict, code) = node.verify();
    assert_eq!((code, &verdict["sound"]), (Some(65), &Value::Bool(false)));
    let damage = verdict["shards"][0]["damage"].as_array().unwrap();
    for offset in [flipped + 512, zeroed] {
        let named = |one: &Value| one["segment"] == "00000001" && one["offset"] == offset;
        assert!(damage.iter().any(named), "@{offset}: {damage:?}");
    }
    let text = node.inspect(&["inspect", "verify"]);
    assert_eq!(text.status.code(), Some(65));
    let words = String::from_utf8(text.stdout).unwrap();
    let place = format!("segment 00000001 @{zeroed}");
    assert!(words.contains(&place), "{words}");
    // To look is not to fail.
    let log = node.inspect(&["inspect", "log"]);
    assert_eq!(log.status.code(), Some(0));
}

#[test]
fn a_torn_tail_is_said_to_be_one_and_is_no_damage() {
    let mut node = Node::start("torn");
    node.write(10);
    node.stop();
    let (offset, _) = *flushes(&node).last().unwrap();
    let file = node.data().join("shard-0/00000001.seg");
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&[0; 512], offset + 512).unwrap();
    let (verdict, code) = node.verify();
    assert_eq!(code, Some(0), "{verdict}");
    assert_eq!(verdict["shards"][0]["torn"]["offset"], offset);
    let text = node.inspect(&["inspect", "verify"]);
    let words = String::from_utf8(text.stdout).unwrap();
    assert!(
        words.contains("torn tail") && words.contains("sound"),
        "{words}"
    );
}

#[test]
fn an_identity_or_a_membership_that_is_damaged_or_gone_is_named() {
    let mut node = Node::start("identity");
    node.write(1);
    node.stop();
    let names = |field: &str, words: &str| {
        let (verdict, code) = node.verify();
        assert_eq!((&verdict["sound"], code), (&Value::Bool(false), Some(65)));
        let named = verdict[field].as_str().unwrap_or_default();
        assert!(named.contains(words), "{verdict}");
    };
    for name in ["identity", "membership"] {
        let path = node.data().join(name);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(&path, damaged).unwrap();
        names(&format!("{name}_error"), "does not pass its check");
        fs::remove_file(&path).unwrap();
        names(&format!("{name}_error"), name);
        fs::write(&path, whole).unwrap();
        assert_eq!(node.verify().1, Some(0));
    }
}

#[test]
fn what_is_no_data_directory_is_said() {
    let directory =
        std::env::temp_dir().join(format!("drakkar-inspect-none-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let output = run(&["inspect", "verify"], &directory);
    fs::remove_dir(&directory).unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shard-0"));
}

#[test]
fn snapshots_are_created_listed_and_inspected_and_their_damage_is_found() {
    let mut node = Node::start("snapshots");
    node.write(20);
    let endpoint = format!("127.0.0.1:{}", node.addresses.admin(1));
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        command
            .args(arguments)
            .args(["--json", "--endpoint", &endpoint]);
        let output = command.output().unwrap();
        (json(&output)[0].clone(), output.status.code())
    };
    let (created, code) = ask(&["snapshot", "create"]);
    assert_eq!(code, Some(0), "{created}; {}", node.process.log());
    let created = &created["answer"]["snapshots"];
    assert_eq!(created.as_array().unwrap().len(), 2, "one for each group");
    let index = created[1]["index"].clone();
    let (created, _) = ask(&["snapshot", "create", "--group", "1"]);
    let again = serde_json::json!([{ "group": 1, "index": index }]);
    assert_eq!(
        created["answer"]["snapshots"], again,
        "nothing has changed since: {created}"
    );
    let (listed, _) = ask(&["snapshot", "list"]);
    let newest = &listed["answer"]["snapshots"][1];
    assert_eq!(newest["index"], index, "{listed}");
    assert_eq!(newest["refused"], false, "{listed}");
    let (refused, code) = ask(&["snapshot", "create", "--group", "9"]);
    let reason = refused["error"].as_str().unwrap_or_default();
    assert!(reason.contains("?group=N"), "{refused}");
    assert_eq!(code, Some(6), "{refused}");

    node.stop();
    let found = node.inspect(&["inspect", "snapshot", "--json"]);
    assert_eq!(found.status.code(), Some(0));
    let found = json(&found);
    let last = found.as_array().unwrap().last().unwrap();
    assert_eq!(last["cluster"], "inspect");
    let (verdict, code) = node.verify();
    assert_eq!((&verdict["sound"], code), (&Value::Bool(true), Some(0)));

    let path = Path::new(last["path"].as_str().unwrap());
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 3], 90).unwrap();
    assert_eq!(run(&["inspect", "snapshot"], path).status.code(), Some(65));
    let (verdict, code) = node.verify();
    assert_eq!((&verdict["sound"], code), (&Value::Bool(false), Some(65)));
    let text = String::from_utf8(node.inspect(&["inspect", "verify"]).stdout).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name) && text.contains("crc"), "{text}");
}

#[test]
fn what_the_only_node_lost_is_said_to_be_lost() {
    let mut node = Node::start("alone");
    node.write(20);
    node.process.kill();
    let segment = node.data().join("shard-0/00000001.seg");
    let file = fs::File::options().write(true).open(&segment).unwrap();
    let flushes = flushes(&node);
    // Neither the first ones, which elect leaders, nor those of which a crash may be the cause.
    for &(offset, bytes) in &flushes[5..flushes.len() - 5] {
        let rot = vec![0xff; usize::try_from(bytes).unwrap()];
        file.write_all_at(&rot, offset).unwrap();
    }
    let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let (config, log) = (node.scratch.join("toml"), node.scratch.join("log"));
    node.process = Process::serve(program, &config, &log).unwrap();
    let admin = node.addresses.admin(1);
    node.process.until("a group is lost", || {
        let groups = nodes::admin::groups(admin);
        groups.iter().any(|group| group["health"] == "lost")
    });
    let said = node.process.log();
    assert!(
        said.contains("group.lost") && said.contains("backup restore"),
        "{said}"
    );
    let mut status = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let endpoint = format!("127.0.0.1:{admin}");
    let table = status.args(["status", "--endpoint", &endpoint]);
    let table = String::from_utf8(table.output().unwrap().stdout).unwrap();
    assert!(table.contains(", lost"), "{table}");
}
