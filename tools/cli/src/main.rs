//! The program `drakkar`: one node, a cluster to try, and what an operator asks of them.

mod demo;
mod exit;
mod http;
mod inspect;
mod serve;
mod status;

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
    },
    /// Says everything that is wrong with a configuration.
    Check {
        /// The configuration to check.
        #[arg(long)]
        config: PathBuf,
    },
    /// Runs three nodes on this machine until Ctrl-C.
    Demo(demo::Options),
    /// Shows nodes, groups, leaders, terms and how far each has got.
    Status(status::Options),
    /// Looks at the logs in a data directory without changing them.
    #[command(subcommand)]
    Inspect(inspect::Verb),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => return exit::explain(&refusal),
    };
    match arguments.verb {
        Verb::Serve { config } => serve::serve(&config),
        Verb::Check { config } => serve::check(&config),
        Verb::Demo(options) => demo::run(&options),
        Verb::Status(options) => status::run(&options),
        Verb::Inspect(verb) => inspect::run(&verb),
    }
}
