//! A stopped node whose whole history becomes a set of snapshots, and whose membership a list.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use engine::config::Config;
use engine::io::OpenError;
use engine::io::identity::{Condition, EPOCH_MAX, Holding, IdentityError, Member, Record, hold};
use serde_json::json;
use wal::io::DirectoryError;

use super::placing;
use super::shipment::{Shipment, check_roles, fingerprint};
use crate::repair::quorum::Census;
use crate::repair::{RepairError, check_stopped};
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

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    #[error("path does not exist: {path}")]
    PathNotExist { path: PathBuf },
    #[error("snapshot is incomplete: {why}")]
    IncompleteSnapshot { why: String },
    #[error("invalid members: {why}")]
    InvalidMembers { why: String },
    #[error("node address changed: data dir belongs to {found}, the list says {asked}")]
    AddressChanged { found: String, asked: String },
    #[error("adding a removed node: {node} was removed, and its id never comes back")]
    RemovedNode { node: u32 },
    #[error("adding an nonVoting as regular node: {node}")]
    NonVoting { node: u32 },
    #[error("adding a witness as regular node: {node}")]
    Witness { node: u32 },
    #[error("the export is of cluster {found}, the configuration of {asked}")]
    ClusterChanged { found: String, asked: String },
    #[error("the export has {found} groups, the configuration {asked}")]
    GroupsChanged { found: u64, asked: u32 },
    #[error("data dir is locked by pid {pid}: stop the node first")]
    Locked { pid: String },
    #[error("node {node} is of epoch {found} already: give --epoch {} on all members", found + 1)]
    Epoch { node: u32, found: u64 },
    #[error("epoch {found} is too high: there are {EPOCH_MAX}")]
    EpochMax { found: u64 },
    #[error(transparent)]
    Repair(#[from] RepairError),
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
}

impl From<IdentityError> for ImportError {
    fn from(error: IdentityError) -> Self {
        Self::Repair(RepairError::Open(error.into()))
    }
}

impl ImportError {
    fn code(&self) -> (&'static str, u8) {
        match self {
            Self::PathNotExist { .. } => ("PathNotExist", exit::NOT_FOUND),
            Self::IncompleteSnapshot { .. } => ("IncompleteSnapshot", exit::CORRUPT),
            Self::InvalidMembers { .. } => ("InvalidMembers", exit::USAGE),
            Self::AddressChanged { .. } => ("NodeAddressChanged", exit::USAGE),
            Self::RemovedNode { .. } => ("AddingRemovedNode", exit::USAGE),
            Self::NonVoting { .. } => ("AddingNonVoting", exit::USAGE),
            Self::Witness { .. } => ("AddingWitness", exit::USAGE),
            Self::ClusterChanged { .. } => ("ClusterChanged", exit::USAGE),
            Self::GroupsChanged { .. } => ("GroupsChanged", exit::USAGE),
            Self::Locked { .. } => ("Locked", exit::REFUSED),
            Self::Epoch { .. } => ("Epoch", exit::REFUSED),
            Self::EpochMax { .. } => ("Epoch", exit::USAGE),
            Self::Repair(error @ RepairError::LiveQuorum { .. }) => ("LiveQuorum", error.code()),
            Self::Repair(error @ RepairError::Running { .. }) => ("Locked", error.code()),
            Self::Repair(error) => ("Refused", error.code()),
            Self::Io { .. } => ("Io", exit::ERROR),
        }
    }
}

/// What was done.
struct Imported {
    snapshot: u64,
    members: u64,
    epoch: u64,
    again: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let config = match serve::read(&options.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match import(&config, options) {
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
            let (code, status) = error.code();
            if options.json {
                println!("{}", json!({ "code": code, "error": error.to_string() }));
            }
            exit::complain(status, &error)
        }
    }
}

fn import(config: &Config, options: &Options) -> Result<Imported, ImportError> {
    let shipment = Shipment::read(&options.from)?;
    let headers = shipment.verify(&options.from)?;
    check_shape(config, &shipment)?;
    let members = parse_members(&options.members)?;
    check_members(config, options.replica, &members)?;
    for header in &headers {
        check_roles(header, &members)?;
    }
    let removed = |list: &[u32]| {
        members
            .iter()
            .map(|it| it.node)
            .find(|it| list.contains(it))
    };
    if let Some(node) = removed(&shipment.removed) {
        return Err(ImportError::RemovedNode { node });
    }
    let Holding {
        directory,
        mut record,
    } = hold(config).map_err(refusal)?;
    if let Some(node) = removed(&record.removed) {
        return Err(ImportError::RemovedNode { node });
    }
    check_stopped(config)?;
    let epoch = options.epoch.unwrap_or(shipment.epoch.saturating_add(1));
    if epoch > EPOCH_MAX {
        return Err(ImportError::EpochMax { found: epoch });
    }
    let listed: Vec<String> = members.iter().map(ToString::to_string).collect();
    let done = Imported {
        snapshot: shipment.id(),
        members: fingerprint(&listed.join(" ")),
        epoch,
        again: false,
    };
    let origin = fingerprint(&format!(
        "import {:016x} {:016x} {epoch}",
        done.snapshot, done.members
    ));
    let same = (record.epoch, record.origin) == (epoch, origin);
    if same && record.condition == Condition::New {
        return Ok(Imported {
            again: true,
            ..done
        });
    }
    if record.epoch >= epoch && !same {
        let (node, found) = (config.node_id, record.epoch);
        return Err(ImportError::Epoch { node, found });
    }
    check_quorum(config, options, &shipment, &record, epoch)?;

    let old = shipment.members.iter().chain(&record.members);
    let old = old
        .map(|member| member.node)
        .chain(config.cluster.nodes.iter().map(|it| it.id));
    let mut gone: BTreeSet<u32> = old.collect();
    gone.extend(shipment.removed.iter().chain(&record.removed));
    gone.retain(|node| members.iter().all(|member| member.node != *node));
    let before = record.epoch;
    record = Record {
        condition: Condition::Importing,
        epoch,
        origin,
        removed: gone.into_iter().collect(),
        ..Record::new(record.instance, record.place, members)
    };
    let path = directory.path();
    record.write(path)?;
    placing::put_aside(path, before)?;
    for (file, header) in shipment.files.iter().zip(&headers) {
        let shard = config.shard_of_group(header.group);
        placing::place(&options.from.join(&file.name), &directory.shard(shard))?;
    }
    placing::sync(path)?;
    record.condition = Condition::New;
    record.write(path)?;
    Ok(done)
}

/// What stands in the way of the directory, in the words of an import.
fn refusal(error: OpenError) -> ImportError {
    match error {
        OpenError::DataDirectory(DirectoryError::Locked { pid, .. }) => ImportError::Locked { pid },
        OpenError::DataDirectory(DirectoryError::Address { found, asked }) => {
            ImportError::AddressChanged { found, asked }
        }
        error => ImportError::Repair(RepairError::Open(error)),
    }
}

fn check_shape(config: &Config, shipment: &Shipment) -> Result<(), ImportError> {
    let (cluster, groups) = (&config.cluster.id, config.cluster.groups);
    if shipment.cluster != *cluster {
        return Err(ImportError::ClusterChanged {
            found: shipment.cluster.clone(),
            asked: cluster.clone(),
        });
    }
    if shipment.groups != u64::from(groups) {
        return Err(ImportError::GroupsChanged {
            found: shipment.groups,
            asked: groups,
        });
    }
    Ok(())
}

/// The list of members, by their numbers.
fn parse_members(words: &[String]) -> Result<Vec<Member>, ImportError> {
    let invalid = |why: String| ImportError::InvalidMembers { why };
    let mut members = Vec::new();
    for word in words {
        let parsed = word.split_once('=').and_then(|(node, address)| {
            let (host, port) = address.rsplit_once(':')?;
            port.parse::<u16>().ok().filter(|_| !host.is_empty())?;
            let node = node.parse().ok()?;
            let address = address.to_owned();
            Some(Member { node, address })
        });
        members.push(parsed.ok_or_else(|| invalid(format!("'{word}' is not ID=HOST:PORT")))?);
    }
    members.sort();
    for pair in members.windows(2) {
        if pair[0].node == pair[1].node {
            return Err(invalid(format!("{} is listed twice", pair[0].node)));
        }
    }
    Ok(members)
}

/// The list has this node at its address, and the configuration has the list.
fn check_members(config: &Config, replica: u32, members: &[Member]) -> Result<(), ImportError> {
    let invalid = |why: String| ImportError::InvalidMembers { why };
    if replica != config.node_id {
        let own = config.node_id;
        return Err(invalid(format!(
            "--replica is {replica}, the configuration is of node {own}"
        )));
    }
    let address = |node: u32| {
        let mut nodes = config.cluster.nodes.iter();
        let node = nodes.find(|it| it.id == node)?;
        Some(format!("{}:{}", node.host, node.peer_port))
    };
    if members.iter().all(|member| member.node != replica) {
        return Err(invalid(format!("this node, {replica}, is not in the list")));
    }
    for member in members {
        match address(member.node) {
            Some(found) if found == member.address => {}
            Some(found) => {
                return Err(invalid(format!(
                    "node {} is at {} in the list, at {found} in the configuration",
                    member.node, member.address
                )));
            }
            None => {
                let node = member.node;
                return Err(invalid(format!(
                    "node {node} is not in cluster.nodes of the configuration"
                )));
            }
        }
    }
    Ok(())
}

/// Refuses while those that would be given up could go on.
fn check_quorum(
    config: &Config,
    options: &Options,
    shipment: &Shipment,
    record: &Record,
    epoch: u64,
) -> Result<(), ImportError> {
    // The directory knows better if it went on after the export; a new one knows nothing.
    let knows = record.formed && record.epoch >= shipment.epoch;
    let (old, of) = if knows {
        (&record.members, record.epoch)
    } else {
        (&shipment.members, shipment.epoch)
    };
    let census = Census::take(config, of, old);
    if let Some((node, answered)) = &census.newer
        && answered.standing.epoch > epoch
    {
        let found = answered.standing.epoch;
        return Err(ImportError::Epoch { node: *node, found });
    }
    if !options.ignore_live_quorum {
        let own = old.iter().any(|member| member.node == config.node_id);
        census.check(usize::from(own && record.formed))?;
    }
    Ok(())
}
