//! `drakkar repair`: what a cluster cannot do by itself, because it could only be wrong without
//! somebody who knows what was lost. Offline; each verb takes the lock of the data directory.

mod drive;
mod hosts;
mod members;
mod moved;
mod newest;
mod plan;
mod plans;
mod rejoin;
mod seed;
mod shrink;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::config::Config;
use engine::io::OpenError;
use engine::io::identity::{Answered, EPOCH_MAX, IdentityError, LiveQuorum, Running, ask};
use engine::io::import::ImportError;
use serde_json::Value;
use wal::io::DirectoryError;

use crate::backup::BackupError;
use crate::snapshot::import;
use crate::{exit, http, serve};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes a data directory for a node whose old one is lost: it comes back under its id, without a
    /// vote until all others have told what it may have forgotten, and is filled by them.
    Rejoin(rejoin::Options),
    /// Says that a data directory was moved, or that its node has another address now. The node was
    /// stopped before, and the original is gone.
    Moved(Node),
    /// Makes the survivors of a lost majority the new membership, each with its own newest log. Shows
    /// what would happen unless --apply. Run it on every survivor, with the same --survivors.
    Shrink(shrink::Options),
    /// Changes the members of a cluster that has lost nothing: nodes go for good, and new ones come. All are stopped
    /// meanwhile. Shows what would happen unless --apply. Run it on every member there will be, with the same
    /// --members.
    Members(members::Options),
    /// Reads an export and prints what its import needs on each machine. Changes nothing; asks the old members
    /// whether they live.
    Plan(plan::Options),
    /// Runs the commands of a repair on all hosts from one place, by ssh or otherwise. Shows what would happen,
    /// and each command, unless --yes; can be run again until all is done.
    #[command(subcommand)]
    Drive(drive::Verb),
}

#[derive(Args)]
pub(crate) struct Node {
    /// The node's configuration (TOML).
    #[arg(long)]
    config: PathBuf,
}

/// Why nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepairError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "{path} holds data of a node that its peers have let in. If it can be read, start the node: nothing is lost. If not, move the directory away and run this again"
    )]
    Holds { path: PathBuf },
    #[error("{path} holds no data of a node: let node.data_dir be the directory that was moved")]
    Nothing { path: PathBuf },
    #[error(
        "node {node} is the only one of its cluster, so nobody else has its data: start it with an empty directory, and restore a backup (drakkar backup restore)"
    )]
    Alone { node: u32 },
    #[error(
        "none of the other nodes answers at its peer port ({addresses}): start them first. A node that lost its data needs all of them"
    )]
    NoAnswer { addresses: String },
    #[error(
        "replica {node} was removed: epoch {epoch} has the members {members:?}. Its id never comes back"
    )]
    Removed {
        node: u32,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "no other node knows node {node}, and all of them answered: nothing was lost, so just start it"
    )]
    Unknown { node: u32 },
    #[error(
        "none of the other nodes answers at its admin port ({addresses}): whether the backup is of their history cannot be told. Mend that, or leave --from out"
    )]
    Silent { addresses: String },
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(
        "{path} cannot be what the node begins with: {why}. Take a newer backup, or leave --from out"
    )]
    Seed { path: PathBuf, why: String },
    #[error(transparent)]
    Running(#[from] Running),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("invalid members: {why}")]
    InvalidMembers { why: String },
    #[error(transparent)]
    LiveQuorum(#[from] LiveQuorum),
    #[error(
        "node {node} is of epoch {epoch} with the members {members:?} already, which is another repair: run that one here"
    )]
    OtherRepair {
        node: u32,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "the disk of this node lost entries of groups {groups:?}, and no other survivor could give them back: choose more survivors, or use drakkar snapshot import"
    )]
    DamagedAlone { groups: Vec<u32> },
    #[error(
        "three and more survivors must know what each of them holds: write it on each with --write-plan FILE, and give all those files to each with --plans"
    )]
    PlansMissing,
    #[error(
        "of the members {before:?} of epoch {epoch} only {stay:?} stay: these must be a majority, for only that holds whatever was acknowledged. Change fewer at a time; or, if the others are lost for good, drakkar repair shrink, and then this"
    )]
    FewStay {
        epoch: u64,
        before: Vec<u32>,
        stay: Vec<u32>,
    },
    #[error(
        "the members that stay must tell what they hold: write it on each of them with --write-plan FILE, and give all those files to each member with --plans"
    )]
    PlansNeeded,
    #[error(
        "node {node} does not hold all that it acknowledged, or was told to wait for, of groups {groups:?}: start the nodes as they are until drakkar status says that it is intact, and run this again. Or leave it out, if a majority stays without it"
    )]
    NotWhole { node: u32, groups: Vec<u32> },
    #[error(
        "nodes {ahead:?} hold more than nodes {done:?} were told when they were made members: they went on in epoch {epoch}. Move the data directories of nodes {done:?} away, start the others as they are, and run drakkar repair rejoin on nodes {done:?}; then change the members again"
    )]
    WentOn {
        ahead: Vec<u32>,
        done: Vec<u32>,
        epoch: u64,
    },
    #[error(
        "node {node} is of epoch {epoch} with the members {members:?} since another change, which has not come together: run the same on those and start them, and then change the members again"
    )]
    NotCome {
        node: u32,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "those of epoch {epoch} with the members {members:?} wait for a majority of the members before, and node {node} has lost what it could tell them: run drakkar repair members on more of those, or go on without this one by drakkar repair shrink"
    )]
    NotBegun {
        node: u32,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "node {node} is a member of epoch {epoch}, and there are no data of it here: let node.data_dir be its directory; or, if that is lost, start the others and run drakkar repair rejoin first; or leave it out, and give its machine a new id"
    )]
    NoData { node: u32, epoch: u64 },
    #[error("{path} is no plan of this repair: {why}")]
    Plan { path: PathBuf, why: &'static str },
    #[error("the log of shard {shard} cannot be read: {reason}")]
    Log { shard: u16, reason: String },
    #[error("nothing was changed: {0}")]
    Host(#[from] hosts::Failed),
    #[error(
        "{failed}\nThe steps:{told}\nOnce the reason is gone, run this again: what is done is left out"
    )]
    Step { failed: hosts::Failed, told: String },
    #[error(
        "nothing was changed: the host of node {node} says nothing that is a plan of that node. Does --run hand on the standard output, and is it the same version of drakkar?"
    )]
    NoPlan { node: u32 },
}

impl From<IdentityError> for RepairError {
    fn from(error: IdentityError) -> Self {
        Self::Open(error.into())
    }
}

impl RepairError {
    /// A node has answered that it is of another repair.
    fn other(node: u32, answered: &Answered) -> Self {
        Self::OtherRepair {
            node,
            epoch: answered.standing.epoch,
            members: answered.standing.members.clone(),
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Open(OpenError::DataDirectory(DirectoryError::Locked { .. })) => exit::REFUSED,
            Self::Open(error) => serve::code_of(error),
            Self::Import(error) => import::status_of(error),
            Self::Backup(error) => error.code(),
            Self::Io { .. } | Self::NoPlan { .. } => exit::ERROR,
            Self::Host(failed) | Self::Step { failed, .. } => exit::handed_on(failed.code),
            Self::NoAnswer { .. } | Self::Silent { .. } => exit::NOT_FOUND,
            Self::Nothing { .. } => exit::NO_INPUT,
            Self::Holds { .. }
            | Self::Alone { .. }
            | Self::Removed { .. }
            | Self::Unknown { .. }
            | Self::LiveQuorum(_)
            | Self::OtherRepair { .. }
            | Self::DamagedAlone { .. }
            | Self::PlansMissing
            | Self::FewStay { .. }
            | Self::PlansNeeded
            | Self::NotWhole { .. }
            | Self::WentOn { .. }
            | Self::NotCome { .. }
            | Self::NotBegun { .. }
            | Self::NoData { .. }
            | Self::Seed { .. }
            | Self::Running(_) => exit::REFUSED,
            Self::InvalidMembers { .. } | Self::Plan { .. } => exit::USAGE,
            Self::Log { .. } => exit::CORRUPT,
        }
    }
}

/// What to tell the operator.
type Repaired = Result<String, RepairError>;

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let with_config = |path: &Path, repair: &dyn Fn(&Config) -> Repaired| match serve::read(path) {
        Ok(config) => Ok(repair(&config)),
        Err(code) => Err(code),
    };
    let done = match verb {
        Verb::Rejoin(options) => {
            with_config(&options.config, &|config| rejoin::rejoin(config, options))
        }
        Verb::Moved(node) => with_config(&node.config, &moved::moved),
        Verb::Shrink(options) => {
            with_config(&options.config, &|config| shrink::shrink(config, options))
        }
        Verb::Members(options) => {
            with_config(&options.config, &|config| members::members(config, options))
        }
        Verb::Plan(options) => Ok(plan::plan(options)),
        Verb::Drive(verb) => Ok(drive::drive(verb)),
    };
    let done = match done {
        Ok(done) => done,
        Err(code) => return code,
    };
    match done {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => exit::complain(error.code(), &error),
    }
}

/// Refuses an epoch that would be one too many.
fn check_epoch(epoch: u64) -> Result<(), RepairError> {
    if epoch > EPOCH_MAX {
        let why = format!("no epoch is left after {}", epoch - 1);
        return Err(RepairError::InvalidMembers { why });
    }
    Ok(())
}

/// What the other nodes of a configuration answer; `None` for those that do not.
fn ask_others(config: &Config) -> Vec<(u32, String, Option<Answered>)> {
    let others = config.cluster.nodes.iter();
    let others = others.filter(|node| node.id != config.node_id);
    let asked = others.map(|node| {
        let address = format!("{}:{}", node.host, node.peer_port);
        let answered = ask(&config.cluster.id, config.node_id, node.id, &address);
        (node.id, address, answered)
    });
    asked.collect()
}

/// What the other nodes that run say of the membership at their admin ports.
fn memberships(config: &Config) -> Vec<Value> {
    let others = config.cluster.nodes.iter();
    let others = others.filter(|node| node.id != config.node_id && node.admin_port != 0);
    let answers = others.filter_map(|node| {
        let endpoint = format!("{}:{}", node.host, node.admin_port);
        let answer = http::get(&endpoint, "/v1/membership").ok()?;
        serde_json::from_str(&answer).ok()
    });
    answers.collect()
}
