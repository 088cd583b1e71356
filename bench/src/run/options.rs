//! What to measure, and how it may differ from what a workload's name stands for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::peers::Peer;

use super::workload::{Rate, Spec, Way, Workload};

/// Measures workloads by name, each several times, and prints medians.
///
/// Every turn starts a three-node cluster of its own on this machine, every acknowledged write durable
/// on two of them, and removes it. What belongs together is measured in turns.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    /// The workloads, in this order.
    #[arg(value_enum, required = true, ignore_case = true)]
    pub(crate) workloads: Vec<Workload>,
    #[command(flatten)]
    pub(crate) plan: Plan,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Draws where the nodes spend their time, in a turn of its own after the others: by perf or, where there is none, by themselves.
    /// With several loads, each gets its name into the file's.
    #[arg(long, value_name = "SVG")]
    pub(crate) flamegraph: Option<PathBuf>,
    /// Measures the same, in turns, on nodes that have this option in their configuration as well: --beside "stages =
    /// false" of the [node] section, --beside "log.durable = false" of another.
    #[arg(long, value_name = "LINE")]
    pub(crate) beside: Option<String>,
}

/// Measures Drakkar and another system with the same load, in turns, and prints medians of both.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareOptions {
    /// What to compare with: it must be installed.
    #[arg(value_enum)]
    pub(crate) peer: Peer,
    /// Workloads through sockets.
    #[arg(value_enum, ignore_case = true, default_values_t = [Workload::Writes, Workload::Reads, Workload::OneAtATime])]
    pub(crate) workloads: Vec<Workload>,
    #[command(flatten)]
    pub(crate) plan: Plan,
    #[command(flatten)]
    pub(crate) changes: Changes,
}

/// How often and how long to measure, and where results go.
#[derive(Clone, Debug, Args)]
pub(crate) struct Plan {
    /// Turns of each load, of which the median counts.
    #[arg(long, default_value_t = 5)]
    pub(crate) repeats: usize,
    /// Measured seconds of each turn.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) warm_up: f64,
    /// One turn of a fraction of a second, of fewer groups: shows that it works, and nothing more.
    #[arg(long)]
    pub(crate) short: bool,
    /// Where the nodes keep their data, on a disk; what is written is removed.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Writes the results as JSON, for `compare-results` and `report`.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the latencies of every turn as an HdrHistogram interval log.
    #[arg(long)]
    pub(crate) hlog: Option<PathBuf>,
}

/// What to change of a workload.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Changes {
    /// Bytes of each value.
    #[arg(long)]
    pub(crate) value_bytes: Option<usize>,
    /// Distinct keys.
    #[arg(long)]
    pub(crate) keys: Option<u32>,
    /// Connections, spread evenly over the leaders.
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// Requests under way on each connection.
    #[arg(long)]
    pub(crate) pipeline: Option<usize>,
    /// Writes under way on each node, through the engine's API.
    #[arg(long)]
    pub(crate) in_flight: Option<usize>,
    /// Threads that make load through sockets.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Groups of the cluster.
    #[arg(long)]
    pub(crate) groups: Option<u32>,
    /// Shards (threads) of each node.
    #[arg(long)]
    pub(crate) shards: Option<u16>,
    /// Open loop: so many requests a second in all, latency counted from when each was due.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Requests of an open loop that are due at once on a connection: a pipeline of so many.
    #[arg(long)]
    pub(crate) burst: Option<usize>,
    /// From which the choice of keys and the values follow.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

impl Plan {
    /// As it is meant: see `short`.
    pub(crate) fn meant(&self) -> Self {
        let plan = self.clone();
        if !self.short {
            return plan;
        }
        Self {
            repeats: 1,
            seconds: 0.4,
            warm_up: 0.2,
            ..plan
        }
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Makes the directory that clusters lie in. Unless told, it is beside the program, below `target`.
    pub(crate) fn directory(&self) -> Result<PathBuf, String> {
        let directory = self.dir.clone().unwrap_or_else(default_directory);
        let failed = |error| format!("{}: {error}", directory.display());
        std::fs::create_dir_all(&directory).map_err(failed)?;
        // Nodes get it in their configuration: whole.
        directory.canonicalize().map_err(failed)
    }

    /// Says what does not make sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let within = |value: f64, limit: f64| value >= 0.0 && value <= limit;
        if self.repeats == 0 || self.repeats > 1000 {
            return Err("--repeats must be from 1 to 1000".to_owned());
        }
        if !within(self.seconds, 600.0) || self.seconds < 0.02 || !within(self.warm_up, 600.0) {
            return Err(
                "--seconds must be from 0.02 to 600, and --warm-up from 0 to 600".to_owned(),
            );
        }
        Ok(())
    }
}

/// `target/bench` if the program lies below a `target`.
pub(crate) fn default_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program
        .ancestors()
        .find(|path| path.file_name() == Some("target".as_ref()))
        .map(Path::to_owned);
    target.map_or_else(std::env::temp_dir, |target| target.join("bench"))
}

impl Changes {
    /// Applies what was asked for, and says what does not make sense.
    pub(crate) fn apply(&self, mut spec: Spec) -> Result<Spec, String> {
        let load = &mut spec.load;
        load.value_bytes = self.value_bytes.unwrap_or(load.value_bytes);
        load.keys = self.keys.unwrap_or(load.keys);
        load.connections = self.connections.unwrap_or(load.connections);
        load.pipeline = self.pipeline.unwrap_or(load.pipeline);
        load.threads = self.threads.unwrap_or(load.threads);
        load.seed = self.seed.unwrap_or(load.seed);
        load.burst = self.burst.unwrap_or(load.burst);
        if let (Way::Api { in_flight }, Some(asked)) = (&mut spec.way, self.in_flight) {
            *in_flight = asked;
        }
        spec.groups = self.groups.unwrap_or(spec.groups);
        spec.shards = self.shards.unwrap_or(spec.shards);
        spec.rate = self.rate.map_or(spec.rate, Rate::PerSecond);
        let load = &spec.load;
        let sensible = [
            (load.keys > 0, "--keys must be at least 1"),
            (load.keys <= 50_000_000, "--keys must be at most 50000000"),
            (load.connections > 0, "--connections must be at least 1"),
            (
                load.connections <= 10_000,
                "--connections must be at most 10000",
            ),
            (load.pipeline > 0, "--pipeline must be at least 1"),
            (load.threads > 0, "--threads must be at least 1"),
            (load.burst > 0, "--burst must be at least 1"),
            (
                load.connections >= load.threads,
                "--connections must be at least --threads",
            ),
            (spec.shards > 0, "--shards must be at least 1"),
            (
                spec.groups >= u32::from(spec.shards),
                "--groups must be at least --shards",
            ),
            (
                self.rate.is_none_or(|rate| rate >= 1.0),
                "--rate must be at least 1",
            ),
            (
                self.rate.is_none() || spec.way == Way::Sockets,
                "--rate is for workloads through sockets",
            ),
        ];
        match sensible.iter().find(|(holds, _)| !holds) {
            Some((_, complaint)) => Err(format!("{}: {complaint}", spec.name())),
            None => Ok(spec),
        }
    }
}
