//! `drakkar backup`: the snapshots of a whole cluster in a directory, checked, and back into a cluster
//! of any size.

mod archive;
pub(crate) mod create;
pub(crate) mod manifest;
mod restore;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::exit;
use crate::snapshot_files;
use archive::Files;
use manifest::Manifest;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Has every group's leader take a snapshot, and copies it, while the cluster serves. Everything
    /// acknowledged before it began is in the backup; groups are not of one moment.
    Create {
        /// Admin endpoints of the nodes (host:port).
        #[arg(
            long,
            value_delimiter = ',',
            default_values = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]
        )]
        endpoint: Vec<String>,
        /// An empty or new directory; or a new file that ends in .tar; or -, the standard output: one
        /// archive, for pipes.
        #[arg(long)]
        to: PathBuf,
    },
    /// Reads a whole backup and says whether it is complete and undamaged.
    Verify(Source),
    /// Writes what is in a backup to a cluster that holds nothing yet, however many nodes, shards and
    /// groups it has.
    Restore {
        #[command(flatten)]
        source: Source,
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
    #[error("group {group}: {endpoint}: {reason}")]
    Group {
        group: u64,
        endpoint: String,
        reason: String,
    },
    #[error("{path} is no backup: it has no readable MANIFEST.json ({reason})")]
    Manifest { path: PathBuf, reason: String },
    #[error("{path}: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error("the cluster does not answer: {0}")]
    Cluster(#[from] redis::RedisError),
    #[error("the cluster holds {keys} keys: restore into an empty one, or say --over")]
    Holds { keys: u64 },
}

impl BackupError {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NotEmpty { .. } | Self::Exists { .. } | Self::Holds { .. } => exit::REFUSED,
            Self::Unreachable { .. } | Self::NoLeader { .. } | Self::Cluster(_) => exit::NOT_FOUND,
            Self::Manifest { .. } => exit::NO_INPUT,
            Self::Damaged { .. } => exit::CORRUPT,
            Self::Io { .. } | Self::Group { .. } => exit::ERROR,
        }
    }
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let done = match verb {
        Verb::Create { endpoint, to } if archive::is_archive(to) => archive::create(endpoint, to),
        Verb::Create { endpoint, to } => create::create(endpoint, to),
        Verb::Verify(source) => Files::of(&source.from)
            .and_then(|files| verify(files.directory()))
            .map(|manifest| manifest.told("is sound")),
        Verb::Restore { source, to, over } => Files::of(&source.from).and_then(|files| {
            let manifest = verify(files.directory())?;
            restore::restore(files.directory(), &manifest, to, *over)
        }),
    };
    let piped = matches!(verb, Verb::Create { to, .. } if archive::is_stream(to));
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

/// Reads every byte of a backup.
fn verify(directory: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(directory)?;
    for file in &manifest.files {
        let path = directory.join(&file.name);
        let damaged = |what: String| BackupError::Damaged {
            path: path.clone(),
            what,
        };
        let (header, summary) =
            snapshot_files::verify(&path).map_err(|flaw| damaged(flaw.to_string()))?;
        let same = u64::from(header.group.to_raw()) == file.group
            && header.cluster == manifest.cluster
            && (summary.bytes, u64::from(summary.crc)) == (file.bytes, file.crc);
        if !same {
            return Err(damaged("it is not the file that the manifest names".into()));
        }
    }
    Ok(manifest)
}
