//! The program `drakkar`: one node, a cluster to try, and what an operator asks of them.

mod backup;
mod check_disk;
mod config;
mod demo;
mod endpoints;
mod exit;
mod http;
mod inspect;
mod join;
mod member;
mod memory;
mod repair;
mod serve;
mod snapshot;
mod snapshot_files;
mod stages;
mod status;
mod timestamp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A replicated key-value store that speaks the Redis protocol.
#[derive(Parser)]
#[command(name = "drakkar", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one node until SIGTERM or SIGINT.
    Serve {
        /// The node's configuration (TOML).
        #[arg(long)]
        config: PathBuf,
        /// Joins a cluster that runs, if the data directory is empty: the admin endpoint of a member. Waits until
        /// `drakkar member add` lets this node in.
        #[arg(long, value_name = "HOST:PORT")]
        join: Option<String>,
    },
    /// Says everything that is wrong with a configuration, or what a disk can do.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Check {
        /// The configuration to check.
        #[arg(long, required = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        what: Option<Checked>,
    },
    /// Shows what nodes, or a configuration file, have set.
    #[command(subcommand)]
    Config(config::Verb),
    /// Runs three nodes on this machine until Ctrl-C.
    Demo(demo::Options),
    /// Shows nodes, groups, leaders, terms and how far each has got.
    Status(status::Options),
    /// Shows the snapshots of running nodes, or has some taken.
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// Copies a cluster's data while it serves, checks such copies, and writes them to other clusters.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Practises for a disaster.
    #[command(subcommand)]
    Dr(backup::drill::Verb),
    /// Shows members, lets new ones in and others go, while the cluster serves.
    #[command(subcommand)]
    Member(member::Verb),
    /// Brings back what a cluster cannot bring back by itself. Offline: the node must be stopped.
    #[command(subcommand)]
    Repair(repair::Verb),
    /// Looks at the logs and snapshots in a data directory without changing them.
    #[command(subcommand)]
    Inspect(inspect::Verb),
}

#[derive(Subcommand)]
enum Checked {
    /// Says what the disk under a directory can do for a log. Writes one temporary file.
    Disk(check_disk::Options),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => return exit::explain(&refusal),
    };
    match arguments.verb {
        Verb::Serve { config, join } => serve::serve(&config, join.as_deref()),
        Verb::Check { config, what } => match (what, config) {
            (Some(Checked::Disk(options)), _) => check_disk::run(&options),
            (None, config) => serve::check(&config.expect("required without a subcommand")),
        },
        Verb::Config(verb) => config::run(&verb),
        Verb::Demo(options) => demo::run(&options),
        Verb::Status(options) => status::run(&options),
        Verb::Snapshot(verb) => snapshot::run(&verb),
        Verb::Backup(verb) => backup::run(&verb),
        Verb::Dr(verb) => backup::drill::run(&verb),
        Verb::Member(verb) => member::run(&verb),
        Verb::Repair(verb) => repair::run(&verb),
        Verb::Inspect(verb) => inspect::run(&verb),
    }
}
