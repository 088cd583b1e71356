//! Another Raft's scenarios on this core: recorded commands, and after each the state of every node.
//!
//! The recordings are data of another project and are not part of this one. They are looked for in
//! `DRAKKAR_RAFT_CONFORMANCE`, or else in `../shared/raft-conformance` beside the repository. At rest
//! (`stabilize`, `raft-state`, `raft-log`, `status`) role, term, vote, leader, commit, log and members of every
//! node must be equal, and what a leader knows that the others hold. After the other commands they mostly are;
//! how often is printed. What is applied is not looked at: here that is not the core's.
//!
//! `conformance/changes.rs` tells how changes of members are compared. These recordings have no counterpart:
//!
//! - `confchange_disable_validation`: a change before the one before is applied, which is never allowed here.
//! - `confchange_v1_remove_leader` and `…_stepdown`: a leader removes itself, and is told here to hand over first
//!   (`raft/membership.txt`).
//! - `confchange_v2_replace_leader_stepdown`: the same, by leaving a joint configuration.
//! - `confchange_v2_add_double_auto`: two voters come, and go, at once, and states in between are at rest.
//! - `confchange_v2_add_single_explicit`: proposals that are refused while a joint configuration is not left take
//!   entries of the log.

#[path = "conformance/changes.rs"]
mod changes;
#[path = "conformance/cluster.rs"]
mod cluster;
#[path = "conformance/node.rs"]
mod node;

use std::fs;
use std::path::{Path, PathBuf};

use cluster::Cluster;
use node::Node;
use serde_json::Value;
use wal::ReplicaId;

const SCENARIOS: [&str; 22] = [
    "async_storage_writes",
    "async_storage_writes_append_aba_race",
    "campaign",
    "campaign_learner_must_vote",
    "checkquorum",
    "confchange_v1_add_single",
    "confchange_v2_add_double_implicit",
    "confchange_v2_add_single_auto",
    "confchange_v2_replace_leader",
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
    "slow_follower_after_compaction",
    "snapshot_succeed_via_app_resp",
    "snapshot_succeed_via_app_resp_behind",
];

/// What is compared of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) leader: u64,
    pub(crate) commit: u64,
    /// The log begins here.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// `(term, index)` of what is in the node's storage, without what its log started with.
    pub(crate) log: Vec<(u64, u64)>,
    /// As of the commit; of a joint configuration, those of both halves.
    pub(crate) voters: Vec<u64>,
    pub(crate) observers: Vec<u64>,
    /// On a leader: how far it knows that another's log is equal to its own.
    pub(crate) matched: Vec<(u64, u64)>,
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
        assert!(rest.compared > 0, "{scenario} holds no state at rest");
        at_rest.add(&rest);
        everywhere.add(&all);
    }
    println!(
        "{:42} at rest {} of {}   after every command {} of {}",
        "all", at_rest.equal, at_rest.compared, everywhere.equal, everywhere.compared
    );
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
        let input = recorded["input"].as_str().unwrap_or_default();
        cluster.run(command, &args, input);

        let rests = matches!(command, "stabilize" | "raft-state" | "raft-log" | "status");
        let nodes = recorded["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        for mut expected in nodes.iter().map(State::recorded) {
            let mut found = cluster.state(expected.id);
            cluster.changes.confine(&mut found, &mut expected);
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
    cluster.changes.assert_made(scenario);
    (at_rest, everywhere)
}

impl State {
    fn of(node: &Node) -> Self {
        let raft = &node.raft;
        let id = |replica: ReplicaId| u64::from(replica.to_raw());
        let ids = |replicas: &[ReplicaId]| sorted(replicas.iter().copied().map(id));
        let members = &raft.membership_at(raft.commit()).1.members;
        let storage = node.storage.iter();
        let last = node.storage.last().map_or(node.floor, |entry| entry.index);
        let known = raft.progress().iter();
        Self {
            id: id(raft.id()),
            role: format!("{:?}", raft.role()),
            term: raft.term().to_raw(),
            vote: raft.vote().map_or(0, id),
            leader: raft.leader().map_or(0, id),
            commit: raft.commit().to_raw(),
            first: node.floor.next().to_raw(),
            last: last.to_raw(),
            log: storage
                .map(|entry| (entry.term.to_raw(), entry.index.to_raw()))
                .collect(),
            voters: ids(&members.voters),
            observers: ids(&members.observers),
            matched: sorted(known.map(|(peer, known)| (id(*peer), known.matched.to_raw()))),
        }
    }

    fn recorded(node: &Value) -> Self {
        let number = |value: &Value| value.as_u64().expect("a number");
        let role = node["role"].as_str().expect("a role");
        let log = node["log"].as_array().map_or(&[][..], Vec::as_slice);
        let id = number(&node["id"]);
        let first = number(&node["first"]);
        // voters=(1 2)&&(1) learners=(3)
        let members = node["conf"].as_str().expect("members");
        let (voters, rest) = members.split_once(" learners=").unwrap_or((members, ""));
        let (observers, _) = rest.split_once(')').unwrap_or((rest, ""));
        let known = node["progress"].as_object().into_iter().flatten();
        let known = known.map(|(peer, known)| {
            let peer = peer.parse().expect("a node's id");
            (peer, number(&known["match"]))
        });
        Self {
            id,
            role: role.trim_start_matches("State").to_owned(),
            term: number(&node["term"]),
            vote: number(&node["vote"]),
            leader: number(&node["lead"]),
            commit: number(&node["commit"]),
            first,
            last: log.last().map_or(first - 1, |entry| number(&entry[1])),
            log: log
                .iter()
                .map(|entry| (number(&entry[0]), number(&entry[1])))
                .collect(),
            voters: sorted(numbers(voters)),
            observers: sorted(numbers(observers)),
            matched: sorted(known.filter(|&(peer, _)| peer != id)),
        }
    }
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

/// The numbers of `7` or `(1, 2, 3)`.
pub(crate) fn numbers(list: &str) -> impl Iterator<Item = u64> + '_ {
    list.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
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
