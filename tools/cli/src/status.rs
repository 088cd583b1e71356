//! `drakkar status`: what every node says of itself, in one table.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::endpoints::Endpoints;
use crate::{exit, http, stages};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Prints JSON: a list of endpoints with the status or the error of each.
    #[arg(long)]
    json: bool,
    /// Shows where the time goes instead: per shard and stage of a write's way.
    #[arg(long)]
    stages: bool,
}

/// What one endpoint answered.
pub(crate) fn ask(endpoint: &str) -> Result<Value, String> {
    let body = http::get(endpoint, "/v1/status")?;
    serde_json::from_str(&body).map_err(|error| format!("it answered no JSON: {error}"))
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let answers: Vec<(&String, Result<Value, String>)> = options
        .endpoints
        .endpoint
        .iter()
        .map(|endpoint| match options.stages {
            true => (endpoint, stages::ask(endpoint)),
            false => (endpoint, ask(endpoint)),
        })
        .collect();
    let name = if options.stages { "stages" } else { "status" };
    if options.json {
        let list: Vec<Value> = answers
            .iter()
            .map(|(endpoint, answer)| match answer {
                Ok(status) => json!({ "endpoint": endpoint, (name): status }),
                Err(error) => json!({ "endpoint": endpoint, "error": error }),
            })
            .collect();
        println!("{}", Value::from(list));
    } else if options.stages {
        print!("{}", stages::table(&answers));
    } else {
        print!("{}", table(&answers));
    }
    if answers.iter().any(|(_, answer)| answer.is_ok()) {
        ExitCode::SUCCESS
    } else {
        exit::complain(
            exit::NOT_FOUND,
            &"no node answered: name their admin ports with --endpoint",
        )
    }
}

const NODES: [&str; 7] = [
    "NODE", "ENDPOINT", "STATE", "LEADS", "GROUPS", "CLIENTS", "LOG",
];
const GROUPS: [&str; 9] = [
    "GROUP", "NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "KEYS", "FLOOR", "SNAPSHOT",
];

fn table(answers: &[(&String, Result<Value, String>)]) -> String {
    let mut nodes = vec![NODES.map(str::to_owned).to_vec()];
    let mut groups = Vec::new();
    for (endpoint, answer) in answers {
        let status = match answer {
            Ok(status) => status,
            Err(error) => {
                let state = format!("down: {error}");
                nodes.push(vec!["?".into(), (*endpoint).clone(), state]);
                continue;
            }
        };
        let node = text(&status["node"]);
        let list = status["groups"].as_array().cloned().unwrap_or_default();
        let leads = list
            .iter()
            .filter(|group| group["role"] == "leader")
            .count()
            .to_string();
        let clients = text(&status["connections"]);
        let count = list.len().to_string();
        nodes.push(vec![
            node.clone(),
            (*endpoint).clone(),
            state(status),
            leads,
            count,
            clients,
            size(log_bytes(status)),
        ]);
        for group in &list {
            let field = |name: &str| text(&group[name]);
            let mut row = ["role", "term", "commit", "applied", "keys"].map(field);
            if group["health"]
                .as_str()
                .is_some_and(|health| health != "intact")
            {
                let waits = group["waits_for"]
                    .as_array()
                    .filter(|nodes| !nodes.is_empty());
                row[0] = match waits {
                    _ if group["health"] == "lost" => format!("{}, lost", row[0]),
                    Some(nodes) => {
                        let nodes: Vec<String> = nodes.iter().map(text).collect();
                        format!("{}, waits for node {}", row[0], nodes.join(", "))
                    }
                    None => format!("{}, repairing", row[0]),
                };
            } else if group["repairs"].as_u64().is_some_and(|repairs| repairs > 0) {
                row[0] = format!("{}, repaired", row[0]);
            }
            let is_in = |list: &str| {
                let list = group[list].as_array();
                list.is_none_or(|list| list.contains(&status["node"]))
            };
            if !is_in("voters") {
                let what = if is_in("observers") {
                    "observer"
                } else {
                    "no member"
                };
                row[0] = row[0].replacen("follower", what, 1);
            }
            if lacks_majority(status, group) {
                row[0] = "leader, no majority".to_owned();
            }
            let mut row = row.to_vec();
            row.extend([field("floor"), snapshot(group)]);
            let number = group["group"].as_u64().unwrap_or_default();
            groups.push((number, node.clone(), row));
        }
    }
    groups.sort();
    let mut rows = vec![GROUPS.map(str::to_owned).to_vec()];
    rows.extend(groups.into_iter().map(|(group, node, row)| {
        [group.to_string(), node]
            .into_iter()
            .chain(row)
            .collect::<Vec<_>>()
    }));
    format!("{}\n{}", columns(&nodes), columns(&rows))
}

/// Whether a leader is connected to too few of the others: it steps down when it has heard nothing of them for
/// an election timeout, and answers nothing meanwhile.
fn lacks_majority(status: &Value, group: &Value) -> bool {
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let followers = group["followers"].as_array().map_or(&[][..], Vec::as_slice);
    let is_connected = |follower: &&Value| {
        peers.iter().any(|peer| {
            peer["shard"] == group["shard"]
                && peer["node"] == follower["node"]
                && peer["connected"] == true
        })
    };
    let votes = |follower: &&Value| {
        let voters = group["voters"].as_array();
        voters.is_none_or(|voters| voters.contains(&follower["node"]))
    };
    let voters: Vec<&Value> = followers.iter().filter(votes).collect();
    let connected = voters.iter().copied().filter(is_connected).count();
    // With itself they are more than half of all.
    let needed = voters.len().div_ceil(2);
    group["role"] == "leader" && connected < needed
}

/// Whether a node is well: `up`, or the worst that a disk of it does; and if what it acknowledges is not durable.
fn state(status: &Value) -> String {
    let disks = status["disks"].as_array().cloned().unwrap_or_default();
    let is = |state: &&str| disks.iter().any(|disk| disk["state"] == **state);
    let worst = ["disk-failed", "disk-full", "disk-slow"]
        .iter()
        .find(|state| is(state));
    let worst = worst.map_or("up", |state| state);
    if status["durability"] == "async" {
        return format!("{worst}, not durable");
    }
    worst.to_owned()
}

/// Of the logs of all shards.
fn log_bytes(status: &Value) -> u64 {
    let disks = status["disks"].as_array().into_iter().flatten();
    disks.filter_map(|disk| disk["log_bytes"].as_u64()).sum()
}

/// Bytes for people: `64 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = bytes;
    while shown >= 10 * 1024 && unit + 1 < units.len() {
        shown /= 1024;
        unit += 1;
    }
    format!("{shown} {}", units[unit])
}

/// The entry that the newest snapshot of a group is of, and its size; or that one is on its way.
fn snapshot(group: &Value) -> String {
    let fetching = &group["fetching"];
    if let Some(index) = fetching["index"].as_u64() {
        let part = |name: &str| fetching[name].as_u64().unwrap_or_default();
        let share = (part("bytes") * 100).checked_div(part("total_bytes"));
        return format!("fetching {index} ({} %)", share.unwrap_or_default());
    }
    let newest = &group["snapshot"];
    match (newest["index"].as_u64(), newest["bytes"].as_u64()) {
        (Some(index), Some(bytes)) => format!("{index} ({})", size(bytes)),
        _ => "-".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Lines up columns with two blanks between.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
    };
    let widths: Vec<usize> = (0..count)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_nodes_that_are_up_and_those_that_are_not() {
        let status = json!({
            "node": 1, "connections": 2,
            "disks": [{ "shard": 0, "state": "ok", "log_bytes": 64 << 20 }],
            "groups": [
                { "group": 0, "role": "leader", "term": 3, "commit": 9, "applied": 9, "keys": 4,
                  "floor": 5, "snapshot": { "index": 7, "bytes": 20480 }, "fetching": null },
                { "group": 1, "role": "follower", "term": 3, "commit": 9, "applied": 0, "keys": 0,
                  "floor": 0, "snapshot": null,
                  "fetching": { "index": 8, "bytes": 25, "total_bytes": 100 } },
                { "group": 2, "shard": 0, "role": "leader", "term": 3, "commit": 1, "applied": 1, "keys": 0,
                  "floor": 0, "snapshot": null, "fetching": null,
                  "followers": [{ "node": 2 }, { "node": 3 }] },
            ],
            "peers": [
                { "shard": 0, "node": 2, "connected": false },
                { "shard": 0, "node": 3, "connected": false },
                { "shard": 1, "node": 3, "connected": true },
            ],
        });
        let failing = json!({
            "node": 3, "connections": 0, "groups": [],
            "disks": [{ "state": "disk-slow" }, { "state": "disk-failed" }],
        });
        let [up, down, sick] = [1, 2, 3].map(|node| format!("127.0.0.1:900{node}"));
        let refused = Err("refused".to_owned());
        let text = table(&[(&up, Ok(status)), (&down, refused), (&sick, Ok(failing))]);
        let expected = "\
NODE  ENDPOINT        STATE          LEADS  GROUPS  CLIENTS  LOG
1     127.0.0.1:9001  up             2      3       2        64 MiB
?     127.0.0.1:9002  down: refused
3     127.0.0.1:9003  disk-failed    0      0       0        0 B

GROUP  NODE  ROLE                 TERM  COMMIT  APPLIED  KEYS  FLOOR  SNAPSHOT
0      1     leader               3     9       9        4     5      7 (20 KiB)
1      1     follower             3     9       0        0     0      fetching 8 (25 %)
2      1     leader, no majority  3     1       1        0     0      -
";
        assert_eq!(text, expected);
    }
}
