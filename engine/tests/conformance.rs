//! Another Raft's scenarios on this core: recorded commands, and after each the state of every node.
//!
//! The recordings are data of another project and are not part of this one. They are looked for in
//! `DRAKKAR_RAFT_CONFORMANCE`, or else in `../shared/raft-conformance` beside the repository. At rest
//! (`stabilize`, `raft-state`, `raft-log`, `status`) role, term, vote, commit and log of every node
//! must be equal. After the other commands they mostly are; how often is printed.

#[path = "conformance/cluster.rs"]
mod cluster;

use std::fs;
use std::path::{Path, PathBuf};

use cluster::Cluster;
use serde_json::Value;

/// The scenarios without membership change and snapshot.
const SCENARIOS: [&str; 14] = [
    "async_storage_writes",
    "async_storage_writes_append_aba_race",
    "campaign",
    "checkquorum",
    "forget_leader",
    "forget_leader_prevote_checkquorum",
    "forget_leader_read_only_lease_based",
    "heartbeat_resp_recovers_from_probing",
    "lagging_commit",
    "prevote",
    "prevote_checkquorum",
    "probe_and_replicate",
    "replicate_pause",
    "single_node",
];

/// What is compared of a node.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
    /// `(term, index)` of what is in the node's storage, without what its log started with.
    pub(crate) log: Vec<(u64, u64)>,
}

/// How many nodes were compared, and how many were equal.
#[derive(Default)]
struct Score {
    compared: usize,
    equal: usize,
}

#[test]
fn another_rafts_scenarios_end_in_the_same_states() {
    let folder = scenarios_folder();
    if !folder.is_dir() {
        println!(
            "SKIPPED: no recordings at {}; set DRAKKAR_RAFT_CONFORMANCE to their folder",
            folder.display()
        );
        return;
    }
    let (mut at_rest, mut everywhere) = (Score::default(), Score::default());
    let mut differences = String::new();
    for scenario in SCENARIOS {
        let path = folder.join(format!("{scenario}.ndjson"));
        let recording = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let (rest, all) = replay(scenario, &recording, &mut differences);
        println!(
            "{scenario:42} at rest {:3} of {:3}   after every command {:3} of {:3}",
            rest.equal, rest.compared, all.equal, all.compared
        );
        at_rest.add(&rest);
        everywhere.add(&all);
    }
    println!(
        "{:42} at rest {} of {}   after every command {} of {}",
        "all", at_rest.equal, at_rest.compared, everywhere.equal, everywhere.compared
    );
    assert!(at_rest.compared > 0, "the recordings hold no state at rest");
    assert_eq!(at_rest.equal, at_rest.compared, "{differences}");
}

fn scenarios_folder() -> PathBuf {
    match std::env::var_os("DRAKKAR_RAFT_CONFORMANCE") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/raft-conformance"),
    }
}

/// Runs one recording. Differences at rest are written down.
fn replay(scenario: &str, recording: &str, differences: &mut String) -> (Score, Score) {
    let (mut at_rest, mut everywhere) = (Score::default(), Score::default());
    let mut cluster = Cluster::default();
    for (number, line) in recording.lines().enumerate() {
        let recorded: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{scenario}:{}: {error}", number + 1));
        let command = recorded["cmd"].as_str().expect("a command has a name");
        let args: Vec<&str> = match &recorded["args"] {
            Value::Array(args) => args.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        cluster.run(command, &args);

        let rests = matches!(command, "stabilize" | "raft-state" | "raft-log" | "status");
        let nodes = recorded["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        for expected in nodes.iter().map(Snapshot::recorded) {
            let found = cluster.snapshot(expected.id);
            let equal = found == expected;
            everywhere.count(equal);
            if rests {
                at_rest.count(equal);
            }
            if rests && !equal {
                differences.push_str(&format!(
                    "{scenario}:{} {command} {args:?}\n  expected {expected:?}\n  found    {found:?}\n",
                    number + 1
                ));
            }
        }
    }
    (at_rest, everywhere)
}

impl Snapshot {
    fn recorded(node: &Value) -> Self {
        let number = |value: &Value| value.as_u64().expect("a number");
        let role = node["role"].as_str().expect("a role");
        let log = node["log"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            id: number(&node["id"]),
            role: role.trim_start_matches("State").to_owned(),
            term: number(&node["term"]),
            vote: number(&node["vote"]),
            commit: number(&node["commit"]),
            log: log
                .iter()
                .map(|entry| (number(&entry[0]), number(&entry[1])))
                .collect(),
        }
    }
}

impl Score {
    fn count(&mut self, equal: bool) {
        self.compared += 1;
        self.equal += usize::from(equal);
    }

    fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.equal += other.equal;
    }
}
