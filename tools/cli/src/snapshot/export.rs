//! Snapshots of a cluster that serves, in a directory that the operator owns.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use engine::io::identity::Member;
use engine::io::import::{Shipment, snapshots_in};
use serde_json::{Value, json};

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
    #[arg(long)]
    group: Option<u64>,
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
            Self::NoGroup { .. } => ("NoGroup", exit::NOT_FOUND),
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
    let (cluster, sources) = create::leaders(&options.endpoints.endpoint)?;
    let groups = sources.len();
    let wanted = |group: u64| options.group.is_none_or(|it| it == group);
    let mut files = Vec::new();
    for source in sources.iter().filter(|source| wanted(source.group)) {
        files.push(create::copy(source, to)?);
    }
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
