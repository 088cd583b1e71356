//! What to run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::load::{Load, Mix, Protocol};
use crate::log::LogOptions;
use crate::run::{CompareOptions, RunOptions};
use crate::soak::SoakOptions;
use crate::start::StartOptions;

/// Measures a three-node cluster: throughput and tail latency.
///
/// `run` measures workloads by name. What follows here is for the headline figures alone: without --endpoints it starts a cluster of its own on this machine: three processes that keep
/// their logs below --dir, every acknowledged write durable on two of them. Keys are spread over all
/// groups, and each request goes to the node that leads its group.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "drakkar-bench",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    /// Client endpoints of a running cluster (host:port,...) instead of one of its own.
    #[arg(long, value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    pub(crate) value_bytes: usize,
    /// Distinct keys, chosen uniformly.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) keys: u32,
    /// Connections, spread evenly over the leaders.
    #[arg(long, default_value_t = 24)]
    pub(crate) connections: usize,
    /// Requests under way on each connection.
    #[arg(long, default_value_t = 128)]
    pub(crate) pipeline: usize,
    /// Share of reads, from 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) read_share: f64,
    /// Open loop: so many requests a second in all, latency counted from when each was due.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) warm_up: f64,
    /// Threads that make load through sockets.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Only through sockets, or only through the engine's own API.
    #[arg(long, value_enum)]
    pub(crate) only: Option<View>,
    /// Bytes of each value through the engine's API.
    #[arg(long, default_value_t = 16)]
    pub(crate) api_value_bytes: usize,
    /// Writes under way through the engine's API on each node.
    #[arg(long, default_value_t = 16_384)]
    pub(crate) api_in_flight: usize,
    /// Groups of the cluster it starts.
    #[arg(long, default_value_t = 3)]
    pub(crate) groups: u32,
    /// Shards (threads) of each node it starts.
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: u16,
    /// Where the nodes it starts keep their data; a temporary directory below it is removed at the end.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Appends the latencies as an HdrHistogram interval log.
    #[arg(long)]
    pub(crate) histogram_log: Option<PathBuf>,
    /// Runs one node of such a cluster: what this program starts.
    #[arg(long, hide = true)]
    pub(crate) node: Option<PathBuf>,
}

/// What else can be done.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Part {
    Run(RunOptions),
    Log(LogOptions),
    Compare(CompareOptions),
    /// Writes for a long time while snapshots are taken, and shows what nodes take meanwhile.
    Soak(SoakOptions),
    Start(StartOptions),
    /// Draws result files as one page for a browser.
    Report {
        /// What `run --json` and `compare --json` wrote.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// The page.
        #[arg(long)]
        html: PathBuf,
    },
    /// Shows what changed between two result files, and whether it is more than noise.
    CompareResults {
        /// What `run --json` wrote before.
        before: PathBuf,
        /// What it wrote afterwards.
        after: PathBuf,
    },
}

/// From where a cluster is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    /// A client's: Redis protocol over TCP.
    Sockets,
    /// An embedder's: the engine's API in the process of a node.
    Api,
}

impl Options {
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The load through sockets.
    pub(crate) fn load(&self) -> Load {
        Load {
            protocol: Protocol::Redis,
            connections: self.connections,
            pipeline: self.pipeline,
            threads: self.threads,
            keys: self.keys,
            value_bytes: self.value_bytes,
            mix: Mix::uniform(self.read_share),
            rate: self.rate,
            burst: 1,
            seed: 1,
        }
    }

    /// Says what does not make sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sensible = [
            (self.keys > 0, "--keys must be at least 1"),
            (self.connections > 0, "--connections must be at least 1"),
            (self.pipeline > 0, "--pipeline must be at least 1"),
            (self.threads > 0, "--threads must be at least 1"),
            (self.seconds > 0.0, "--seconds must be more than 0"),
            (self.warm_up >= 0.0, "--warm-up must not be negative"),
            (
                (0.0..=1.0).contains(&self.read_share),
                "--read-share must be between 0 and 1",
            ),
            (
                self.rate.is_none_or(|rate| rate > 0.0),
                "--rate must be more than 0",
            ),
            (
                self.connections >= self.threads,
                "--connections must be at least --threads",
            ),
        ];
        match sensible.iter().find(|(holds, _)| !holds) {
            Some((_, complaint)) => Err((*complaint).to_owned()),
            None => Ok(()),
        }
    }
}
