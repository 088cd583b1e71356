//! Snapshots of a cluster that serves, in a directory that the operator owns.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use engine::io::identity::Member;
use engine::io::import::{ImportError, Listed, Shipment, snapshots_in};
use serde_json::{Value, json};

use super::import::status_of;
use crate::backup::create::Leaders;
use crate::backup::{BackupError, create};
use crate::endpoints::Endpoints;
use crate::{exit, http};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    endpoints: Endpoints,
    /// A directory that is there and holds no export.
    #[arg(long)]
    to: PathBuf,
    /// Of this group alone. An import needs all of them.
    #[arg(long, conflicts_with = "take")]
    group: Option<u64>,
    /// Takes a group from an earlier export instead, GROUP=DIR: one that has lost its majority while the others
    /// serve.
    #[arg(long, value_parser = parse_take)]
    take: Vec<(u64, PathBuf)>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("path does not exist: {path}: make the directory, and mind who may read it")]
    PathNotExist { path: PathBuf },
    #[error("{path} holds an export already: name another directory")]
    Holds { path: PathBuf },
    #[error("the cluster has no group {group}: it has {groups}")]
    NoGroup { group: u64, groups: usize },
    #[error("{path} has no group {group}: name an export that has it")]
    NotThere { path: PathBuf, group: u64 },
    #[error("{path} is of cluster {found} with {groups} groups, not of this one")]
    Another {
        path: PathBuf,
        found: String,
        groups: u64,
    },
    #[error("group {group} is taken twice")]
    Twice { group: u64 },
    #[error(transparent)]
    Taken(#[from] ImportError),
    #[error("no node tells its membership: {reason}")]
    Membership { reason: String },
    #[error(transparent)]
    Copy(#[from] BackupError),
}

impl ExportError {
    fn code(&self) -> (&'static str, u8) {
        match self {
            Self::PathNotExist { .. } => ("PathNotExist", exit::NOT_FOUND),
            Self::Holds { .. } => ("Holds", exit::REFUSED),
            Self::NoGroup { .. } | Self::NotThere { .. } => ("NoGroup", exit::NOT_FOUND),
            Self::Another { .. } => ("ClusterChanged", exit::USAGE),
            Self::Twice { .. } => ("Twice", exit::USAGE),
            Self::Taken(error) => (error.code(), status_of(error)),
            Self::Membership { .. } => ("Membership", exit::NOT_FOUND),
            Self::Copy(error) => ("Copy", error.code()),
        }
    }
}

pub(super) fn run(options: &Options) -> ExitCode {
    match export(options) {
        Ok(shipment) if options.json => {
            let id = format!("{:016x}", shipment.id());
            let bytes: u64 = shipment.files.iter().map(|file| file.bytes).sum();
            println!(
                "{}",
                json!({ "snapshot": id, "files": shipment.files.len(), "bytes": bytes })
            );
            ExitCode::SUCCESS
        }
        Ok(shipment) => {
            let keys: u64 = shipment.files.iter().map(|file| file.items).sum();
            println!(
                "snapshot {:016x} of cluster {}: {} of {} groups, {keys} keys, is in {}",
                shipment.id(),
                shipment.cluster,
                shipment.files.len(),
                shipment.groups,
                options.to.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            let (code, status) = error.code();
            if options.json {
                println!("{}", json!({ "code": code, "error": error.to_string() }));
            }
            exit::complain(status, &error)
        }
    }
}

fn export(options: &Options) -> Result<Shipment, ExportError> {
    let to = &options.to;
    if !to.is_dir() {
        return Err(ExportError::PathNotExist { path: to.clone() });
    }
    let io = |error| BackupError::Io {
        path: to.clone(),
        error,
    };
    if Shipment::exists(to) || !snapshots_in(to).map_err(io)?.is_empty() {
        return Err(ExportError::Holds { path: to.clone() });
    }
    let membership = membership(&options.endpoints.endpoint)?;
    let taken: Vec<u64> = options.take.iter().map(|(group, _)| *group).collect();
    let mut before = BTreeSet::new();
    if let Some(&group) = taken.iter().find(|group| !before.insert(**group)) {
        return Err(ExportError::Twice { group });
    }
    let Leaders {
        cluster,
        groups,
        sources,
    } = create::leaders_besides(&taken, &options.endpoints.endpoint)?;
    let wanted = |group: u64| options.group.is_none_or(|it| it == group);
    let mut files = Vec::new();
    // What is here already is looked at before anything is copied.
    for (group, from) in &options.take {
        files.push(take((*group, from), (&cluster, groups), to)?);
    }
    for source in sources.iter().filter(|source| wanted(source.group)) {
        files.push(create::copy(source, to)?);
    }
    files.sort_by_key(|file| file.group);
    if let Some(group) = options.group.filter(|_| files.is_empty()) {
        return Err(ExportError::NoGroup { group, groups });
    }
    let shipment = Shipment {
        cluster,
        groups: groups as u64,
        files,
        ..membership
    };
    shipment.write(to).map_err(io)?;
    for file in &shipment.files {
        let path = to.join(&file.name);
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|error| BackupError::Io { path, error })?;
    }
    Ok(shipment)
}

fn parse_take(word: &str) -> Result<(u64, PathBuf), String> {
    let parsed = word.split_once('=').and_then(|(group, path)| {
        let path = Some(path).filter(|path| !path.is_empty())?;
        Some((group.parse().ok()?, path.into()))
    });
    parsed.ok_or_else(|| format!("'{word}' is not GROUP=DIR"))
}

/// Copies the snapshot of a group from an earlier export of the same cluster.
fn take(
    (group, from): (u64, &Path),
    (cluster, groups): (&str, usize),
    to: &Path,
) -> Result<Listed, ExportError> {
    let path = from.to_owned();
    let earlier = Shipment::read(from)?;
    if earlier.cluster != cluster || earlier.groups != groups as u64 {
        let (found, groups) = (earlier.cluster, earlier.groups);
        return Err(ExportError::Another {
            path,
            found,
            groups,
        });
    }
    let file = earlier.files.into_iter().find(|file| file.group == group);
    let file = file.ok_or(ExportError::NotThere { path, group })?;
    let path = from.join(&file.name);
    let verified = file.verify(from, cluster);
    verified.map_err(|why| ImportError::IncompleteSnapshot {
        why: format!("{}: {why}", path.display()),
    })?;
    fs::copy(&path, to.join(&file.name)).map_err(|error| BackupError::Io { path, error })?;
    Ok(file)
}

/// The newest membership that a node tells, and nothing else yet.
fn membership(endpoints: &[String]) -> Result<Shipment, ExportError> {
    let mut reason = "name their admin ports with --endpoint".to_owned();
    let mut newest: Option<Shipment> = None;
    for endpoint in endpoints {
        let answer = http::get(endpoint, "/v1/membership")
            .and_then(|text| serde_json::from_str::<Value>(&text).map_err(|it| it.to_string()));
        match answer.map(|value| parse(&value)) {
            Ok(Some(found)) if newest.as_ref().is_none_or(|it| it.epoch < found.epoch) => {
                newest = Some(found);
            }
            Ok(Some(_)) => {}
            Ok(None) => reason = format!("{endpoint}: fields are missing"),
            Err(error) => reason = format!("{endpoint}: {error}"),
        }
    }
    newest.ok_or(ExportError::Membership { reason })
}

fn parse(value: &Value) -> Option<Shipment> {
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let member = |value: &Value| {
        Some(Member {
            node: number(&value["node"])?,
            address: value["address"].as_str()?.to_owned(),
        })
    };
    let members = value["members"].as_array()?.iter().map(member);
    let removed = value["removed"].as_array()?.iter().map(number);
    Some(Shipment {
        cluster: value["cluster"].as_str()?.to_owned(),
        epoch: value["epoch"].as_u64()?,
        members: members.collect::<Option<_>>()?,
        removed: removed.collect::<Option<_>>()?,
        groups: 0,
        files: Vec::new(),
    })
}
