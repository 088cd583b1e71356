//! A long run: writes at full speed, or at a rate, while every group takes a snapshot every few seconds.
//! Each second is one line: what was answered, what memory each node has, what its log and its snapshots
//! take on the disk. At the end the states of all replicas must be equal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cluster::{Cluster, Shape};
use crate::histogram::{INTERVALS, Window};
use crate::load::{Crew, Keys, Load, Mix, Protocol, Topology, now};
use crate::report;
use crate::run::{admin, default_directory};
use crate::soak_samples::{Sample, Second, csv, json, summary};

/// The load connects anew this often: a leader that moved is found again.
const ROUND: Duration = Duration::from_secs(INTERVALS as u64);
/// Between connecting and the first second that counts.
const LEAD: Duration = Duration::from_millis(200);
/// Rounds in a row without a leader or a connection before it is given up.
const FAILURES_MAX: u32 = 5;
/// How long replicas may take to become equal once nothing is written.
const SETTLE: Duration = Duration::from_secs(60);

/// What `drakkar-bench soak` was asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct SoakOptions {
    /// How long it runs, in rounds of 20 seconds.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Open loop: so many writes a second in all; without it as fast as answers come.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds between two snapshots of a group.
    #[arg(long, default_value_t = 5)]
    snapshot_seconds: u32,
    /// Distinct keys: they and their values are all the data there ever is.
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    #[arg(long, default_value_t = 24)]
    connections: usize,
    /// Requests under way on each connection of a closed loop.
    #[arg(long, default_value_t = 128)]
    pipeline: usize,
    /// Threads that make load.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, default_value_t = 3)]
    groups: u32,
    /// Shards (threads) of each node.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// `log.size_target` of the nodes: the disk holds at least three times as much.
    #[arg(long, default_value = "512MB")]
    log_size: String,
    /// Where the nodes keep their data; a temporary directory below it is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes each second as a line.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Writes everything as one document.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws it as one page for a browser.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// What a long run came to.
pub(crate) struct Soaked {
    pub(crate) seconds: Vec<Second>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Snapshots that each node took, and those that failed.
    pub(crate) snapshots: Vec<(u64, u64)>,
    /// Groups whose replicas had one state at the end, each with its hash.
    pub(crate) hashes: Vec<(u64, String)>,
}

pub(crate) fn run(options: &SoakOptions) -> Result<(), String> {
    check(options)?;
    let settings = format!(
        "\n[snapshot]\nentries = 0\ninterval = \"{}s\"\n\n[log]\nsize_target = \"{}\"\n",
        options.snapshot_seconds, options.log_size
    );
    let shape = Shape {
        nodes: 3,
        groups: options.groups,
        shards: options.shards,
        dir: options.dir.clone().unwrap_or_else(default_directory),
        setting: String::new(),
        ready: false,
    };
    let cluster = Cluster::start_with(&shape, &settings)?;
    let soaked = soak(options, &cluster)?;
    if let Some(path) = &options.csv {
        write(path, &csv(&soaked.seconds))?;
    }
    if let Some(path) = &options.json {
        write(path, &json(&soaked))?;
    }
    if let Some(path) = &options.html {
        write(path, &report::soak_page(&soaked))?;
    }
    print!("{}", summary(&soaked));
    Ok(())
}

fn check(options: &SoakOptions) -> Result<(), String> {
    let rules = [
        (
            options.minutes * 60.0 >= 1.0,
            "--minutes must be at least a second",
        ),
        (
            options.snapshot_seconds > 0,
            "--snapshot-seconds must be at least 1",
        ),
        (options.threads > 0, "--threads must be at least 1"),
        (
            options.connections >= options.threads,
            "--connections must be at least --threads",
        ),
        (
            options.keys > 0 && options.pipeline > 0,
            "--keys and --pipeline must be at least 1",
        ),
    ];
    let broken = rules.iter().find(|(holds, _)| !holds);
    broken.map_or(Ok(()), |(_, complaint)| Err((*complaint).to_owned()))
}

fn write(path: &PathBuf, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn soak(options: &SoakOptions, cluster: &Cluster) -> Result<Soaked, String> {
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let (pids, data) = (cluster.pids(), cluster.data());
    let (begun, over) = (now(), AtomicBool::new(false));
    let (loaded, samples) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = Vec::new();
            // One a second, each due at its own time.
            for number in 1_u32.. {
                let due = begun + Duration::from_secs(u64::from(number));
                while let Some(left) = due.checked_duration_since(now())
                    && !over.load(Ordering::Relaxed)
                {
                    std::thread::sleep(left.min(Duration::from_millis(50)));
                }
                if over.load(Ordering::Relaxed) {
                    break;
                }
                samples.push(Sample::take(number, &pids, &data));
            }
            samples
        });
        let loaded = load(options, cluster, begun + length);
        over.store(true, Ordering::Relaxed);
        (loaded, sampler.join())
    });
    let samples = samples.map_err(|_| "the thread that samples panicked")?;
    let mut soaked = loaded?;
    soaked.seconds = Second::merge(samples, &soaked.seconds);
    soaked.snapshots = cluster
        .admin_endpoints()
        .iter()
        .map(|it| snapshots(it))
        .collect();
    soaked.hashes = equal_states(cluster)?;
    Ok(soaked)
}

/// Makes the load in rounds until the end; what was answered in each second.
fn load(
    options: &SoakOptions,
    cluster: &Cluster,
    end: std::time::Instant,
) -> Result<Soaked, String> {
    let load = Load {
        protocol: Protocol::Redis,
        connections: options.connections,
        pipeline: options.pipeline,
        threads: options.threads,
        keys: options.keys,
        value_bytes: options.value_bytes,
        mix: Mix::uniform(0.0),
        rate: options.rate,
        burst: 1,
        seed: 1,
    };
    let mut soaked = Soaked {
        seconds: Vec::new(),
        errors: 0,
        first_error: None,
        snapshots: Vec::new(),
        hashes: Vec::new(),
    };
    let begun = now();
    let mut failures = 0;
    while now() + LEAD < end {
        let round = || {
            let topology = Topology::ask(&cluster.endpoints)?;
            let keys = Keys::new(load.keys, &topology);
            let crew = Crew::connect(&load, &keys)?;
            let start = now() + LEAD;
            let measured = ROUND;
            let recorded = crew.run(Window { start, measured })?;
            Ok::<_, String>((start, recorded))
        };
        let (start, recorded) = match round() {
            Ok(round) => round,
            Err(error) if failures < FAILURES_MAX => {
                failures += 1;
                eprintln!("a round of load ended: {error}");
                soaked.errors += 1;
                soaked.first_error.get_or_insert(error);
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        soaked.errors += recorded.errors;
        if soaked.first_error.is_none() {
            soaked.first_error.clone_from(&recorded.first_error);
        }
        let offset = start.duration_since(begun).as_secs_f64();
        for (at, latencies) in (0_u32..).zip(&recorded.intervals) {
            soaked.seconds.push(Second {
                at: offset + f64::from(at) + 1.0,
                operations: latencies.count(),
                p99_micros: latencies.percentile(99.0).as_secs_f64() * 1e6,
                nodes: Vec::new(),
            });
        }
        let last = soaked.seconds.last();
        let rate = last.map_or(0, |second| second.operations);
        eprintln!("{:>5.0} s, {rate} /s", begun.elapsed().as_secs_f64());
    }
    Ok(soaked)
}

/// How many snapshots a node took, and how many failed.
fn snapshots(endpoint: &str) -> (u64, u64) {
    let body = admin::get(endpoint, "/v1/stages").unwrap_or_default();
    let node: Value = serde_json::from_str(&body).unwrap_or_default();
    let shards = node["shards"].as_array().into_iter().flatten();
    shards.fold((0, 0), |(taken, failed), shard| {
        let count = |name: &str| shard[name].as_u64().unwrap_or_default();
        (
            taken + count("snapshots_taken"),
            failed + count("snapshots_failed"),
        )
    })
}

/// Waits until every group has one state on all nodes: the hash of each.
fn equal_states(cluster: &Cluster) -> Result<Vec<(u64, String)>, String> {
    let deadline = now() + SETTLE;
    loop {
        let found = states(cluster);
        if let Ok(equal) = &found
            && !equal.is_empty()
        {
            return found;
        }
        if now() > deadline {
            let reason = found
                .err()
                .unwrap_or_else(|| "no node has a group".to_owned());
            return Err(format!(
                "replicas differ a minute after the last write: {reason}"
            ));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn states(cluster: &Cluster) -> Result<Vec<(u64, String)>, String> {
    let mut all: std::collections::BTreeMap<u64, Vec<String>> = Default::default();
    let endpoints = cluster.admin_endpoints();
    for endpoint in endpoints {
        let body = admin::get(endpoint, "/v1/status").map_err(|e| format!("{endpoint}: {e}"))?;
        let status: Value = serde_json::from_str(&body).map_err(|e| format!("{endpoint}: {e}"))?;
        for group in status["groups"].as_array().into_iter().flatten() {
            let hash = &group["state_hash"];
            let state = format!(
                "{} at {}",
                hash["hash"].as_str().unwrap_or("?"),
                hash["index"]
            );
            let number = group["group"].as_u64().unwrap_or(u64::MAX);
            all.entry(number).or_default().push(state);
        }
    }
    let mut equal = Vec::new();
    for (group, states) in all {
        let first = &states[0];
        if states.len() != endpoints.len() || states.iter().any(|state| state != first) {
            return Err(format!("group {group}: {}", states.join(", ")));
        }
        equal.push((group, first.clone()));
    }
    Ok(equal)
}
