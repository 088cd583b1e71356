//! `drakkar snapshot import`: what the library does, with words and exit codes around it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use engine::config::Config;
use engine::io::import::{Import, ImportError, Imported, import, parse_members};
use serde_json::json;

use crate::{exit, serve};

#[derive(Args)]
pub(crate) struct Options {
    /// The node's configuration (TOML), which lists the new members.
    #[arg(long)]
    config: PathBuf,
    /// The directory of an export.
    #[arg(long)]
    from: PathBuf,
    /// The members there will be: node ids and peer addresses, ID=HOST:PORT, the same on all of them.
    #[arg(long, value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// Which of the members this is.
    #[arg(long)]
    replica: u32,
    /// The epoch that the members will be of; the same on all of them. By default the next after that of
    /// the export.
    #[arg(long)]
    epoch: Option<u64>,
    /// Goes on although a majority of the old members answers. What they acknowledge is lost.
    #[arg(long)]
    ignore_live_quorum: bool,
    /// Prints JSON: `snapshot` and `members` if it was done, otherwise `code` and `error`.
    #[arg(long)]
    json: bool,
}

/// The exit code of a refusal.
pub(crate) fn status_of(error: &ImportError) -> u8 {
    match error {
        ImportError::PathNotExist { .. } => exit::NOT_FOUND,
        ImportError::IncompleteSnapshot { .. } => exit::CORRUPT,
        ImportError::Locked { .. }
        | ImportError::Running(_)
        | ImportError::LiveQuorum(_)
        | ImportError::Epoch { .. } => exit::REFUSED,
        ImportError::Open(error) => serve::code_of(error),
        ImportError::Io { .. } => exit::ERROR,
        _ => exit::USAGE,
    }
}

fn ordered(config: &Config, options: &Options) -> Result<Imported, ImportError> {
    let members = parse_members(options.members.iter().map(String::as_str))?;
    import(&Import {
        config,
        from: &options.from,
        members: &members,
        replica: options.replica,
        epoch: options.epoch,
        ignore_live_quorum: options.ignore_live_quorum,
    })
}

pub(super) fn run(options: &Options) -> ExitCode {
    let config = match serve::read(&options.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match ordered(&config, options) {
        Ok(done) => {
            let (snapshot, members) = (
                format!("{:016x}", done.snapshot),
                format!("{:016x}", done.members),
            );
            if options.json {
                let epoch = done.epoch;
                println!(
                    "{}",
                    json!({ "snapshot": snapshot, "members": members, "epoch": epoch })
                );
            } else {
                let what = if done.again {
                    "was imported before"
                } else {
                    "is imported"
                };
                println!(
                    "snapshot {snapshot} with members {members} {what} on node {}, epoch {}. Run the same on all \
                     other members: these two numbers must be the same there. Then start them all. What is newer \
                     than the snapshot is lost",
                    config.node_id, done.epoch
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let (code, status) = (error.code(), status_of(&error));
            if options.json {
                println!("{}", json!({ "code": code, "error": error.to_string() }));
            }
            exit::complain(status, &error)
        }
    }
}
