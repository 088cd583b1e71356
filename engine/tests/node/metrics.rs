//! What the admin port tells machines: metrics and the cost of each stage.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::cluster::Cluster;

/// The body of the answer of a node's admin port.
pub(crate) fn get(cluster: &Cluster, id: usize, path: &str) -> String {
    let port = cluster.options.cluster.nodes[id - 1].admin_port;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !text.is_empty()
}

/// The labels between braces, each `name="value"`.
fn labels(text: &str) -> BTreeMap<&str, &str> {
    let parts = text
        .split_inclusive("\",")
        .map(|part| part.trim_end_matches(','));
    let parts = parts.filter(|part| !part.is_empty());
    let label = |part| {
        let (name, value) = str::split_once(part, "=\"").unwrap_or_else(|| panic!("{text}"));
        assert!(is_name(name), "{text}");
        (
            name,
            value.strip_suffix('"').unwrap_or_else(|| panic!("{text}")),
        )
    };
    parts.map(label).collect()
}

/// Each sample by its name and labels. Every line must be as the format wants it.
fn parse(text: &str) -> BTreeMap<(&str, BTreeMap<&str, &str>), f64> {
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut family = ("", "");
    let mut helped = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            helped = name;
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            family = kind.split_once(' ').unwrap();
            assert_eq!(family.0, helped, "{line}");
            assert!(
                ["gauge", "counter", "histogram"].contains(&family.1),
                "{line}"
            );
            assert!(families.insert(family.0), "{line}: twice");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
            None => (series, BTreeMap::new()),
        };
        let suffix = name
            .strip_prefix(family.0)
            .unwrap_or_else(|| panic!("{line}: a stranger"));
        match family.1 {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert_eq!(samples.insert((name, labels), value), None, "{line}: twice");
    }
    samples
}

#[test]
fn metrics_are_in_the_format_of_prometheus_and_count_what_was_done() {
    let cluster = Cluster::start("metrics", 2, true);
    let mut client = cluster.connect(1);
    for number in 0..100 {
        client.ask(&format!("SET key{number} value"), "+OK\r\n");
    }
    let texts = [1, 2, 3].map(|id| get(&cluster, id, "/metrics"));
    let nodes = texts.each_ref().map(|text| parse(text));
    let sum = |name: &str| -> f64 {
        let all = nodes.iter().flatten();
        all.filter(|((found, _), _)| *found == name)
            .map(|(_, value)| value)
            .sum()
    };
    assert_eq!(sum("drakkar_build_info"), 3.0);
    assert_eq!(
        sum("drakkar_raft_is_leader"),
        4.0,
        "one leader for each of four groups"
    );
    assert_eq!(sum("drakkar_raft_has_leader"), 12.0);
    assert_eq!(sum("drakkar_raft_commands_total"), 100.0);
    assert_eq!(sum("drakkar_raft_batch_commands_sum"), 100.0);
    assert!(
        sum("drakkar_raft_batch_entries_sum") >= 100.0,
        "each command was an entry that went to one follower at least"
    );
    assert!(sum("drakkar_raft_batch_bytes_sum") >= 100.0 * "key0value".len() as f64);
    assert!(sum("drakkar_raft_leader_changes_total") >= 12.0);
    assert!(sum("drakkar_raft_campaigns_total") >= 4.0);
    assert_eq!(sum("drakkar_raft_voters"), 36.0, "three of each replica");
    assert_eq!(sum("drakkar_raft_observers"), 0.0);
    assert!(sum("drakkar_storage_total_bytes") > sum("drakkar_storage_free_bytes"));
    assert_eq!(sum("drakkar_replica_damaged"), 0.0);
    assert_eq!(sum("drakkar_disk_state"), 6.0, "each disk is in one state");
    assert!(sum("drakkar_wal_bytes_total") >= 4096.0 * sum("drakkar_wal_flushes_total"));
    assert!(sum("drakkar_limit_count") > 0.0);
    for samples in &nodes {
        histograms_add_up(samples);
    }
}

/// Buckets only grow, and the last holds all.
fn histograms_add_up(samples: &BTreeMap<(&str, BTreeMap<&str, &str>), f64>) {
    let mut histograms = 0;
    for ((name, labels), &count) in samples {
        let Some(family) = name.strip_suffix("_count") else {
            continue;
        };
        let Some(_) = samples.get(&(&*format!("{family}_sum"), labels.clone())) else {
            continue;
        };
        let bucket = format!("{family}_bucket");
        let mut buckets: Vec<(f64, f64)> = samples
            .iter()
            .filter(|((name, of), _)| {
                *name == bucket
                    && labels
                        .iter()
                        .all(|(label, value)| of.get(label) == Some(value))
            })
            .map(|((_, of), &value)| (of["le"].parse().unwrap(), value))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(
            buckets.is_sorted_by_key(|bucket| bucket.1),
            "{name} {labels:?}: {buckets:?}"
        );
        assert_eq!(
            buckets.last(),
            Some(&(f64::INFINITY, count)),
            "{name} {labels:?}"
        );
        histograms += 1;
    }
    let of_peers = |(name, _): &&(&str, _)| *name == "drakkar_raft_append_rtt_seconds_count";
    let of_peers = samples.keys().filter(of_peers).count();
    assert_eq!(histograms, 2 * (8 + 4) + of_peers, "of each of two shards");
}

/// What the metrics of a node say by that name, of all its shards and groups.
fn of_node(cluster: &Cluster, id: usize, name: &str) -> f64 {
    let text = get(cluster, id, "/metrics");
    let samples = parse(&text);
    let named = samples.iter().filter(|((found, _), _)| *found == name);
    named.map(|(_, value)| value).sum()
}

#[test]
fn round_trips_to_followers_are_timed_and_voters_that_are_gone_are_missed() {
    let mut cluster = Cluster::start("round-trips", 1, true);
    // Leaders that have just changed wait for answers that never come, and then watch again.
    cluster.wait_until("no append was timed", |cluster| {
        cluster.connect(1).ask("SET key value", "+OK\r\n");
        let timed = |id| of_node(cluster, id, "drakkar_raft_append_rtt_seconds_count") > 0.0;
        (1..=3).any(timed)
    });
    let reachable = |cluster: &Cluster| of_node(cluster, 1, "drakkar_raft_reachable_voters");
    cluster.wait_until("not all are connected", |cluster| {
        reachable(cluster) == 12.0
    });
    cluster.kill(3);
    cluster.wait_until("who is gone is not missed", |cluster| {
        reachable(cluster) == 8.0
    });
}

#[test]
fn the_stages_of_a_write_are_shown_for_every_shard() {
    let cluster = Cluster::start("stages", 1, true);
    let mut client = cluster.connect(1);
    let burst = "SET key value\r\n".repeat(20);
    for _ in 0..50 {
        client.send(&burst);
        client.expect(&"+OK\r\n".repeat(20));
    }
    let shown: Vec<serde_json::Value> = (1..=3)
        .map(|id| serde_json::from_str(&get(&cluster, id, "/v1/stages")).unwrap())
        .collect();
    let commands = |node: &serde_json::Value| node["shards"][0]["commands"].as_u64().unwrap();
    let all: u64 = shown.iter().map(commands).sum();
    assert!(all >= 1000, "{shown:#?}");
    // More than one, if a busy machine changes leaders meanwhile.
    let leaders = shown.iter().filter(|node| commands(node) > 0);
    let stages: Vec<_> = leaders
        .flat_map(|leader| {
            let stages = leader["shards"][0]["stages"].as_array().unwrap();
            assert_eq!(stages.len(), 8);
            stages
        })
        .collect();
    for stage in stages {
        let figure = |name: &str| stage[name].as_u64().unwrap();
        let quantiles = ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(figure);
        assert!(quantiles.is_sorted(), "{stage}");
        // What is sampled may have been missed in so few turns.
        let certain = ["batch", "log_submit", "log_wait"];
        let name = stage["stage"].as_str().unwrap();
        assert!(figure("count") > 0 || !certain.contains(&name), "{stage}");
    }
}
