//! `drakkar backup`: the snapshots of a cluster in a directory, with their logs if wanted, checked, and back
//! into a cluster of any size, as of the end or any moment before.

pub(crate) mod archive;
pub(crate) mod create;
pub(crate) mod drill;
mod entries;
mod lag;
mod log;
pub(crate) mod manifest;
pub(crate) mod point;
mod restore;
mod ship;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::snapshot::machine;

use crate::endpoints::Endpoints;
use crate::exit;
use crate::timestamp::Timestamp;
use archive::Files;
use create::Scope;
use manifest::Manifest;
use point::{Extent, Points};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Has every group's leader take a snapshot, and copies it, while the cluster serves. Everything
    /// acknowledged before it began is in the backup; groups are not of one moment.
    Create {
        #[command(flatten)]
        endpoints: Endpoints,
        /// An empty or new directory; or a new file that ends in .tar; or -, the standard output: one
        /// archive, for pipes.
        #[arg(long)]
        to: PathBuf,
        /// Of this group alone.
        #[arg(long)]
        group: Option<u64>,
        /// Copies the logs as well, with the oldest states that they continue: the backup can be restored as
        /// of any entry and any time since then.
        #[arg(long)]
        with_log: bool,
    },
    /// Reads a whole backup and says whether it is complete and undamaged.
    Verify(Source),
    /// Shows the writes in a backup that was made with --with-log: entry, time, command and keys. For who looks for
    /// the entry to go back to.
    Log {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        wanted: entries::Wanted,
    },
    /// Writes what is in a backup to a cluster that holds nothing yet, however many nodes, shards and
    /// groups it has.
    Restore {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        points: Points,
        /// Client endpoints of the cluster (host:port); one is enough.
        #[arg(long, value_delimiter = ',', default_values = ["127.0.0.1:7001"])]
        to: Vec<String>,
        /// Writes although the cluster holds keys: those of the backup replace theirs.
        #[arg(long)]
        over: bool,
    },
}

#[derive(Args)]
pub(crate) struct Source {
    /// The directory of the backup, or its archive, or - for the standard input. An archive is unpacked
    /// into a temporary directory.
    #[arg(long)]
    from: PathBuf,
}

/// Why a backup is not made, not sound or not restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("{path}: {error}")]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path} is not empty: name a new directory")]
    NotEmpty { path: PathBuf },
    #[error("{path} is there already: name a new file")]
    Exists { path: PathBuf },
    #[error("no node answers: name their admin ports with --endpoint ({reason})")]
    Unreachable { reason: String },
    #[error("group {group} has no leader among the nodes that answer: try again later")]
    NoLeader { group: u64 },
    #[error("the cluster has no group {group}: it has {groups}")]
    NoGroup { group: u64, groups: u64 },
    #[error("the backup has no group {group}: it has {groups:?}")]
    NotInBackup { group: u64, groups: Vec<u64> },
    #[error("--to-index names group {group} twice")]
    GroupTwice { group: u64 },
    #[error(
        "entry {index} of group {group} is outside of the backup: it has entries {first} to {last}. With --with-log \
         a backup has all that the logs hold"
    )]
    IndexOutside {
        group: u64,
        index: u64,
        first: u64,
        last: u64,
    },
    #[error(
        "{time} is outside of the backup: it has the states of all groups from {from} to {until}. With --with-log \
         a backup has all that the logs hold"
    )]
    TimeOutside {
        time: Timestamp,
        from: Timestamp,
        until: Timestamp,
    },
    #[error("group {group}: {endpoint}: {reason}")]
    Group {
        group: u64,
        endpoint: String,
        reason: String,
    },
    #[error("{path} is no backup: it has no readable MANIFEST.json ({reason})")]
    Manifest { path: PathBuf, reason: String },
    #[error("{path} says of nothing that it was shipped: name the --state of `drakkar dr ship`")]
    NothingShipped { path: PathBuf },
    #[error("{path}: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error("the cluster does not answer: {0}")]
    Cluster(#[from] redis::RedisError),
    #[error("the cluster holds keys already: restore into an empty one, or say --over")]
    Holds,
}

impl BackupError {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NotEmpty { .. } | Self::Exists { .. } | Self::Holds => exit::REFUSED,
            Self::Unreachable { .. }
            | Self::NoLeader { .. }
            | Self::NoGroup { .. }
            | Self::NotInBackup { .. }
            | Self::IndexOutside { .. }
            | Self::TimeOutside { .. }
            | Self::Cluster(_) => exit::NOT_FOUND,
            Self::GroupTwice { .. } => exit::USAGE,
            Self::Manifest { .. } | Self::NothingShipped { .. } => exit::NO_INPUT,
            Self::Damaged { .. } => exit::CORRUPT,
            Self::Io { .. } | Self::Group { .. } => exit::ERROR,
        }
    }
}

/// A file is not what it should be.
fn damaged(path: &Path, what: impl ToString) -> BackupError {
    BackupError::Damaged {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let done = match verb {
        Verb::Create {
            endpoints,
            to,
            group,
            with_log,
        } => {
            let endpoint = &endpoints.endpoint;
            let scope = Scope {
                group: *group,
                with_log: *with_log,
            };
            match archive::is_archive(to) {
                true => archive::create(endpoint, scope, to),
                false => create::create(endpoint, scope, to),
            }
        }
        Verb::Verify(source) => Files::of(&source.from).and_then(|files| describe(&files)),
        Verb::Log { source, wanted } => Files::of(&source.from).and_then(|files| {
            let directory = files.directory();
            let manifest = verify(&files)?;
            let mut output = std::io::stdout().lock();
            let shown = entries::show(directory, &manifest, wanted, &mut output)?;
            Ok(format!("{shown} writes"))
        }),
        Verb::Restore {
            source,
            points,
            to,
            over,
        } => Files::of(&source.from).and_then(|files| {
            let directory = files.directory();
            let manifest = verify(&files)?;
            if points.any() {
                points.check(&Extent::all(directory, &manifest)?)?;
            }
            restore::restore(directory, &manifest, points, to, *over)
        }),
    };
    let piped = match verb {
        Verb::Create { to, .. } => archive::is_stream(to),
        Verb::Log { .. } => true,
        _ => false,
    };
    match done {
        Ok(told) => {
            match piped {
                true => eprintln!("{told}"),
                false => println!("{told}"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => exit::complain(error.code(), &error),
    }
}

/// What there is to know of a backup that is sound.
fn describe(files: &Files) -> Result<String, BackupError> {
    let directory = files.directory();
    let manifest = verify(files)?;
    let told = manifest.told("is sound");
    let extents = Extent::all(directory, &manifest)?;
    Ok(format!("{told}\n{}", point::table(&extents).trim_end()))
}

/// Reads every byte of a backup.
fn verify(files: &Files) -> Result<Manifest, BackupError> {
    verify_in(files.directory()).map_err(|error| files.explain(error))
}

fn verify_in(directory: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(directory)?;
    for file in &manifest.files {
        for listed in [Some(&file.snapshot), file.log.as_ref()]
            .into_iter()
            .flatten()
        {
            let path = directory.join(&listed.name);
            let verified = listed.verify(directory, &manifest.cluster);
            let header = verified.map_err(|what| damaged(&path, what))?;
            let is_log = header.machine == machine::LOG;
            if is_log != file.log.as_ref().is_some_and(|log| log == listed) {
                return Err(damaged(&path, "a log and a state are mixed up"));
            }
        }
        if let Some(log) = &file.log {
            log::verify(directory, log, point::index_of(&file.snapshot.name))?;
        }
    }
    Ok(manifest)
}
