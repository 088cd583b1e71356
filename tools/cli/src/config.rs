//! `drakkar config`: what running nodes, or a configuration file, have set.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use crate::endpoints::Endpoints;
use crate::{exit, serve, status};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Prints a setting: a line for each node that runs, or the one of a file.
    Get {
        setting: Setting,
        /// Reads this configuration instead of asking nodes.
        #[arg(long, conflicts_with = "endpoint")]
        config: Option<PathBuf>,
        #[command(flatten)]
        endpoints: Endpoints,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Setting {
    /// `durable`, or `async` if what is acknowledged can be lost with the power.
    Durability,
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let Verb::Get {
        setting: Setting::Durability,
        config,
        endpoints,
    } = verb;
    match config {
        None => ask(&endpoints.endpoint),
        Some(path) => match serve::read(path) {
            Ok(config) => {
                println!("{}", config.durability());
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
    }
}

fn ask(endpoints: &[String]) -> ExitCode {
    let mut answered = false;
    for endpoint in endpoints {
        let answer = status::ask(endpoint).and_then(|status| {
            let mode = status["durability"].as_str();
            let mode = mode.ok_or("it does not say: it runs an older build")?;
            Ok(format!("node {}  {mode}", status["node"]))
        });
        match answer {
            Ok(line) => {
                answered = true;
                println!("{line}");
            }
            Err(error) => eprintln!("{endpoint}: {error}"),
        }
    }
    if answered {
        ExitCode::SUCCESS
    } else {
        exit::complain(
            exit::NOT_FOUND,
            &"no node answered: name their admin ports with --endpoint, or a file with --config",
        )
    }
}
