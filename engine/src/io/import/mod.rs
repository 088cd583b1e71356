//! A stopped node whose whole history becomes a set of snapshots, and whose membership a list. For a
//! cluster that has lost its majority for good; the same is done on every new member.

mod file;
mod listed;
mod members;
mod placing;
mod shipment;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use net::peer::Standing;
use wal::io::DirectoryError;

use super::OpenError;
use super::identity::{
    Census, Condition, EPOCH_MAX, Holding, IdentityError, LiveQuorum, Member, Record, Running,
    check_stopped, hold,
};
use crate::config::Config;
use crate::snapshot::Header;
pub use file::{Flaw, verify};
pub use listed::{Listed, write_manifest};
pub use members::{check_configured, check_removed, parse_members, sorted};
pub use placing::place;
pub use shipment::{Shipment, snapshots_in};
use shipment::{check_roles, fingerprint};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
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
    #[error(
        "node {node} is of epoch {found} already, by another repair: run that one here, or give --epoch {} on all members",
        found + 1
    )]
    Epoch { node: u32, found: u64 },
    #[error("epoch {found} is too high: there are {EPOCH_MAX}")]
    EpochMax { found: u64 },
    #[error(transparent)]
    LiveQuorum(#[from] LiveQuorum),
    #[error(transparent)]
    Running(#[from] Running),
    #[error(transparent)]
    Open(OpenError),
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
}

impl From<IdentityError> for ImportError {
    fn from(error: IdentityError) -> Self {
        Self::Open(error.into())
    }
}

impl ImportError {
    /// A word for programs. It stays the same when the sentence is improved.
    pub fn code(&self) -> &'static str {
        match self {
            Self::PathNotExist { .. } => "PathNotExist",
            Self::IncompleteSnapshot { .. } => "IncompleteSnapshot",
            Self::InvalidMembers { .. } => "InvalidMembers",
            Self::AddressChanged { .. } => "NodeAddressChanged",
            Self::RemovedNode { .. } => "AddingRemovedNode",
            Self::NonVoting { .. } => "AddingNonVoting",
            Self::Witness { .. } => "AddingWitness",
            Self::ClusterChanged { .. } => "ClusterChanged",
            Self::GroupsChanged { .. } => "GroupsChanged",
            Self::Locked { .. } | Self::Running(_) => "Locked",
            Self::Epoch { .. } | Self::EpochMax { .. } => "Epoch",
            Self::LiveQuorum(_) => "LiveQuorum",
            Self::Open(_) => "Refused",
            Self::Io { .. } => "Io",
        }
    }
}

/// What an import is on every member of a list alike, whatever they hold.
#[derive(Clone, Debug)]
pub struct Prospect {
    pub shipment: Shipment,
    /// By their numbers.
    pub members: Vec<Member>,
    /// What each of them will say.
    pub imported: Imported,
    /// Of the snapshots, one of each group.
    pub headers: Vec<Header>,
}

impl Prospect {
    /// Reads every byte of an export, and changes nothing; for `epoch` see [`Import`].
    ///
    /// # Errors
    ///
    /// Why it can be imported nowhere with this list.
    pub fn of(from: &Path, members: &[Member], epoch: Option<u64>) -> Result<Self, ImportError> {
        let shipment = Shipment::read(from)?;
        let headers = shipment.verify(from)?;
        let members = sorted(members)?;
        for header in &headers {
            check_roles(header, &members)?;
        }
        check_removed(&members, &shipment.removed)?;
        let epoch = epoch.unwrap_or(shipment.epoch.saturating_add(1));
        if epoch > EPOCH_MAX {
            return Err(ImportError::EpochMax { found: epoch });
        }
        let listed: Vec<String> = members.iter().map(ToString::to_string).collect();
        let imported = Imported {
            snapshot: shipment.id(),
            members: fingerprint(&listed.join(" ")),
            epoch,
            again: false,
        };
        Ok(Self {
            shipment,
            members,
            imported,
            headers,
        })
    }
}

/// What is to be imported, and into what.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// Of the node, which is stopped; it lists the new members and no others.
    pub config: &'a Config,
    /// The directory of an export.
    pub from: &'a Path,
    /// All members there will be, as [`parse_members`] reads them: the same on all of them.
    pub members: &'a [Member],
    /// Which of them the node is.
    pub replica: u32,
    /// The epoch that the members will be of, the same on all of them; `None`: the next after that of the
    /// export.
    pub epoch: Option<u64>,
    /// Whether to go on although a majority of the old members answers. What they acknowledge is lost.
    pub ignore_live_quorum: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Equal on two members if, and only if, they imported the same snapshots.
    pub snapshot: u64,
    /// Equal on two members if, and only if, they were given the same list.
    pub members: u64,
    pub epoch: u64,
    /// The same was imported before: nothing was changed.
    pub again: bool,
}
/// Makes exported snapshots the whole history of a stopped node, and a list of nodes its membership. What it
/// held is put aside in its data directory. Can be repeated, and is to be if it was broken off.
///
/// Blocks, for as long as reading and copying takes; asks the old members whether they live.
///
/// # Errors
///
/// Why nothing was imported. The node does not start if the import had begun ([`ImportError::Io`]).
pub fn import(order: &Import<'_>) -> Result<Imported, ImportError> {
    let config = order.config;
    let prospect = Prospect::of(order.from, order.members, order.epoch)?;
    let Prospect {
        shipment,
        members,
        imported: done,
        headers,
    } = prospect;
    check_shape(config, &shipment)?;
    if order.replica != config.node_id {
        let (replica, own) = (order.replica, config.node_id);
        let why = format!("--replica is {replica}, the configuration is of node {own}");
        return Err(ImportError::InvalidMembers { why });
    }
    check_configured(config, &members, &[])?;
    let Holding {
        directory,
        mut record,
    } = hold(config).map_err(refusal)?;
    check_removed(&members, &record.removed)?;
    check_stopped(config)?;
    let epoch = done.epoch;
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
    check_living(order, &shipment, &record, (epoch, origin))?;

    let old = shipment.members.iter().chain(&record.members);
    let mut gone: BTreeSet<u32> = old.map(|member| member.node).collect();
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
        place(&order.from.join(&file.name), &directory.shard(shard))?;
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
        error => ImportError::Open(error),
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

/// Refuses while those that would be given up could go on, and beside members that are of another repair.
fn check_living(
    order: &Import<'_>,
    shipment: &Shipment,
    record: &Record,
    (epoch, origin): (u64, u64),
) -> Result<(), ImportError> {
    let config = order.config;
    // The directory knows better if it went on after the export; a new one knows nothing.
    let knows = record.formed && record.epoch >= shipment.epoch;
    let (old, of) = if knows {
        (&record.members, record.epoch)
    } else {
        (&shipment.members, shipment.epoch)
    };
    let mut census = Census::take(config, of, old);
    census.ask_also(config, order.members);
    let ours = |it: &Standing| (it.epoch, it.origin) == (epoch, origin);
    let mut others = census.heard.iter().filter(|(_, it)| !ours(it));
    if let Some((node, it)) = others.find(|(_, it)| it.epoch >= epoch) {
        let (node, found) = (*node, it.epoch);
        return Err(ImportError::Epoch { node, found });
    }
    if !order.ignore_live_quorum {
        let own = old.iter().any(|member| member.node == config.node_id);
        census.check(usize::from(own && record.formed))?;
        census.check_newer(|it| !ours(it))?;
    }
    Ok(())
}
