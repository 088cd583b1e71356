//! Every workload runs for a moment, and its results have the shape that is promised. Nothing here
//! depends on how fast the machine is.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read what it made has failed"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A directory of its own for each test, below `target`: on a disk.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // What an earlier run left.
    drop(std::fs::remove_dir_all(&directory));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_drakkar-bench"))
        .args(arguments)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs workloads for a moment; the measurements in the result file.
fn run(name: &str, workloads: &[&str]) -> (PathBuf, Vec<Value>) {
    let directory = directory(name);
    let json = directory.join("results.json");
    let hlog = directory.join("results.hlog");
    let mut arguments = vec!["run"];
    arguments.extend(workloads);
    arguments.extend(["--short", "--dir", directory.to_str().unwrap()]);
    arguments.extend(["--json", json.to_str().unwrap()]);
    arguments.extend(["--hlog", hlog.to_str().unwrap()]);
    bench(&arguments);
    let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!(results["machine"]["cpus"].as_u64().unwrap() > 0);
    let left = std::fs::read_dir(&directory).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.len() == 2, "data was left behind: {left:?}");
    let measurements = results["measurements"].as_array().unwrap().clone();
    let log = std::fs::read_to_string(hlog).unwrap();
    let lines = log.lines().filter(|line| line.starts_with("Tag=")).count();
    assert_eq!(lines, 20 * measurements.len(), "20 intervals of each turn");
    (directory, measurements)
}

fn names(measurements: &[Value]) -> Vec<&str> {
    measurements
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect()
}

fn median(measurement: &Value, figure: &str) -> f64 {
    let median = &measurement["figures"][figure]["median"];
    median
        .as_f64()
        .unwrap_or_else(|| panic!("{} has no {figure}", measurement["name"]))
}

/// What every load has.
fn check_load(measurement: &Value) {
    let name = &measurement["name"];
    assert!(median(measurement, "operations_per_second") > 0.0, "{name}");
    assert!(
        median(measurement, "cpu_servers_user_cores") >= 0.0,
        "{name}"
    );
    let [p50, p99, max] = [
        "latency_p50_micros",
        "latency_p99_micros",
        "latency_max_micros",
    ]
    .map(|figure| median(measurement, figure));
    assert!(
        0.0 < p50 && p50 <= p99 && p99 <= max,
        "{name}: {p50} {p99} {max}"
    );
    let turn = &measurement["turns"][0];
    assert_eq!(turn["intervals"].as_array().unwrap().len(), 20, "{name}");
    // Leaders may move meanwhile, and a client is told so.
    assert!(turn["errors"].is_u64(), "{name}");
    if name != "W3" && name != "ycsb-c" {
        assert!(median(measurement, "flush_bytes") >= 4096.0, "{name}");
        assert!(median(measurement, "operations_per_entry") >= 0.5, "{name}");
    }
}

#[test]
fn workloads_of_one_load_give_figures_and_what_the_machine_can_do() {
    let (directory, measurements) = run("one-load", &["W1", "W2", "W3", "w4"]);
    assert_eq!(names(&measurements), ["W1", "W2", "W3", "W4"]);
    measurements.iter().for_each(check_load);
    assert!(median(&measurements[1], "limit_disk_bytes_per_second") > 0.0);
    assert!(median(&measurements[3], "yardstick_p50_micros") > 0.0);

    let results = directory.join("results.json");
    let results = results.to_str().unwrap();
    let compared = bench(&["compare-results", results, results]);
    assert_eq!(compared.matches("+0.0 %").count(), 4 * 5, "{compared}");
    assert!(!compared.contains("WORSE"), "{compared}");

    let html = directory.join("report.html");
    bench(&["report", results, "--html", html.to_str().unwrap()]);
    let page = std::fs::read_to_string(html).unwrap();
    // Four figures compared, one chart of percentiles, and throughput over time of each workload.
    assert_eq!(page.matches("<svg").count(), 4 + 1 + 4, "{page}");
    assert_eq!(page.matches("</svg>").count(), 4 + 1 + 4, "{page}");
    let foreign = page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(foreign, 0, "a page that needs nothing else: {page}");
}

#[test]
fn workloads_of_several_loads_measure_all_of_them() {
    let (_, measurements) = run("several-loads", &["W5", "W6", "W7"]);
    let expected = [
        "W5/closed loop",
        "W5",
        "W5/one by one",
        "W6/6 groups",
        "W6/50 groups",
        "W6/100 idle",
        "W7/1 x 1 shards",
        "W7/1 x 2 shards",
        "W7/1 x 3 shards",
        "W7/3 x 1 shards",
        "W7/3 x 2 shards",
        "W7/3 x 3 shards",
    ];
    assert_eq!(names(&measurements), expected);
    let (idle, loads): (Vec<_>, Vec<_>) = measurements
        .iter()
        .partition(|m| m["name"] == "W6/100 idle");
    loads.into_iter().for_each(check_load);
    assert!(median(idle[0], "idle_cores_of_one_node") >= 0.0);
    assert!(median(&measurements[1], "offered_late_p99_micros") > 0.0);
    assert!(median(&measurements[1], "cpu_others_cores") >= 0.0);
    let half = median(&measurements[0], "operations_per_second") / 2.0;
    assert!((median(&measurements[1], "offered_per_second") - half).abs() < 1.0);
}

#[test]
fn ycsb_runs_by_name() {
    let (_, measurements) = run("ycsb", &["ycsb-a", "B", "ycsb-c", "ycsb-d", "ycsb-f"]);
    let expected = ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-f"];
    assert_eq!(names(&measurements), expected);
    measurements.iter().for_each(check_load);
}

#[test]
fn an_option_of_the_nodes_is_measured_beside_its_default() {
    let (_, measurements) = run("beside", &["W2", "--beside", "stages = false"]);
    let systems: Vec<&str> = measurements
        .iter()
        .map(|it| it["system"].as_str().unwrap())
        .collect();
    assert_eq!(systems, ["drakkar", "drakkar, stages = false"]);
    measurements.iter().for_each(check_load);
}

#[test]
fn nodes_sample_themselves_where_there_is_no_perf() {
    // A machine that is busy gives them few samples.
    let seen = (0..4).any(|_| samples_show_turns_of_shards());
    assert!(seen, "no turn of a shard in any sample");
}

/// Has nodes sample themselves. Whether they were seen at work.
fn samples_show_turns_of_shards() -> bool {
    let directory = directory("samples");
    let svg = directory.join("writes.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_drakkar-bench"))
        .args(["run", "W1", "--repeats", "1", "--warm-up", "0.2"])
        .args(["--seconds", "2", "--dir", directory.to_str().unwrap()])
        .args(["--flamegraph", svg.to_str().unwrap()])
        .env("PATH", "")
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert!(
        complaints.contains("nodes sample themselves"),
        "{complaints}"
    );
    assert!(std::fs::read_to_string(&svg).unwrap().contains("<svg"));
    let folded = std::fs::read_to_string(svg.with_extension("folded")).unwrap();
    folded.lines().any(|line| {
        let shard = line.starts_with('n') && line.contains("s0-1;");
        shard && line.contains("Executor::settle_shard")
    })
}

#[test]
fn what_makes_no_sense_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_drakkar-bench"))
        .args(["run", "W2", "--pipeline", "0"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("W2: --pipeline must be at least 1"),
        "{complaint}"
    );
}

#[test]
fn peers_get_the_same_load_where_they_are_installed() {
    for (peer, program) in [("redis", "redis-server"), ("etcd", "etcd")] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("skipped: {program} is not installed");
            continue;
        }
        let directory = directory(peer);
        let json = directory.join("results.json");
        let (dir, json) = (directory.to_str().unwrap(), json.to_str().unwrap());
        let options = ["--short", "--dir", dir, "--json", json];
        bench(&[&["compare", peer, "W3", "W4"], &options[..]].concat());
        let results: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        let measurements = results["measurements"].as_array().unwrap();
        assert_eq!(names(measurements), ["W3", "W3", "W4", "W4"]);
        for (at, measurement) in measurements.iter().enumerate() {
            let system = if at % 2 == 0 { "drakkar" } else { peer };
            assert_eq!(measurement["system"], system);
            assert!(median(measurement, "operations_per_second") > 0.0);
        }
    }
}

#[test]
fn a_peer_that_is_not_installed_is_named_with_its_package() {
    let output = Command::new(env!("CARGO_BIN_EXE_drakkar-bench"))
        .args(["compare", "etcd"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("apt-get install etcd-server"),
        "{complaint}"
    );
}
