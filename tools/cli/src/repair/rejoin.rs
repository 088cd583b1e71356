//! A node whose data are lost comes back as one that knows that.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::config::Config;
use engine::io::identity::{Condition, Holding, Joined, Member, Record, check_stopped, hold};

use crate::join;

use super::seed::Seed;
use super::{RepairError, ask_others, memberships};

#[derive(Args)]
pub(crate) struct Options {
    /// The node's configuration (TOML).
    #[arg(long)]
    pub(super) config: PathBuf,
    /// A backup of this cluster (directory, archive, or - for the standard input): the node begins with its
    /// snapshots, and its peers send only what is newer.
    #[arg(long)]
    from: Option<PathBuf>,
}

pub(super) fn rejoin(config: &Config, options: &Options) -> Result<String, RepairError> {
    check_stopped(config)?;
    let (node, path) = (config.node_id, Path::new(&config.data_dir));
    check_empty(path)?;
    let asked = ask_others(config);
    if asked.is_empty() {
        return Err(RepairError::Alone { node });
    }
    let answers: Vec<_> = asked.iter().filter_map(|(_, _, it)| it.as_ref()).collect();
    let Some(newest) = answers
        .iter()
        .max_by_key(|it| (it.standing.epoch, it.begun))
    else {
        let addresses: Vec<&str> = asked.iter().map(|(_, it, _)| it.as_str()).collect();
        let addresses = addresses.join(", ");
        return Err(RepairError::NoAnswer { addresses });
    };
    let standing = &newest.standing;
    if !standing.members.contains(&node) {
        let (epoch, members) = (standing.epoch, standing.members.clone());
        return Err(RepairError::Removed {
            node,
            epoch,
            members,
        });
    }
    if standing.epoch > 0 && !newest.begun {
        // They wait for those who told what they hold. This node would be taken for one, and holds nothing.
        let (epoch, members) = (standing.epoch, standing.members.clone());
        return Err(RepairError::NotBegun {
            node,
            epoch,
            members,
        });
    }
    let known = answers.iter().map(|it| it.known).find(|&known| known > 0);
    // Later epochs are made by repairs, and a new member may have been left out there.
    if known.is_none() && standing.epoch == 0 && answers.len() == asked.len() {
        return Err(RepairError::Unknown { node });
    }
    let seed = options.from.as_deref().map(|from| {
        let known = known.unwrap_or_default();
        Seed::read(config, from, standing.epoch, known)
    });
    let seed = seed.transpose()?;
    let Holding {
        directory,
        mut record,
    } = hold(config)?;
    clear(directory.path())?;
    let is_member = |member: &Member| standing.members.contains(&member.node);
    let is_not = |member: &&Member| !is_member(member);
    record.removed = record
        .members
        .iter()
        .filter(is_not)
        .map(|it| it.node)
        .collect();
    record.members.retain(is_member);
    let told = told(config, standing.epoch);
    for joined in &told {
        for (group, noted) in &joined.noted {
            let known = record.noted.get(group).map(|known| known.0);
            if known.is_none_or(|known| known < noted.0) {
                record.noted.insert(*group, noted.clone());
            }
        }
    }
    let changes = |joined: &Joined| joined.noted.len();
    if let Some(joined) = told.into_iter().max_by_key(changes) {
        // Members may have come and gone since the configuration was written.
        record.members = joined.members;
        record.removed.extend(joined.removed);
        record.founders = joined.founders;
        record.listed = joined.listed;
    }
    // What was removed before is not in every configuration any more, and never comes back all the same.
    for told in memberships(config) {
        let removed = told["removed"].as_array().into_iter().flatten();
        let removed = removed.filter_map(|it| u32::try_from(it.as_u64()?).ok());
        let removed = removed.filter(|it| !standing.members.contains(it));
        record.removed.extend(removed);
    }
    record.removed.sort_unstable();
    record.removed.dedup();
    (record.epoch, record.origin) = (standing.epoch, standing.origin);
    record.condition = Condition::Rejoined;
    record.formed = false;
    record.write(directory.path())?;
    let begins = seed.map(|seed| seed.place(config, directory.path()));
    let begins = begins.transpose()?.unwrap_or_default();
    let silent = asked.iter().filter(|(_, _, answered)| answered.is_none());
    let silent: Vec<String> = silent.map(|(node, ..)| node.to_string()).collect();
    let wait = if silent.is_empty() {
        "all others answer".to_owned()
    } else {
        format!(
            "start node {} as well, it does not answer now",
            silent.join(", ")
        )
    };
    let replaced = known.map_or_else(String::new, |it| format!(" in place of {it:016x}"));
    Ok(format!(
        "node {node} comes back with instance {:016x}{replaced}, epoch {}: start it. It votes for nobody until all \
         others have told it what it may have forgotten ({wait}), and is filled by their logs and snapshots{begins}",
        record.instance, record.epoch
    ))
}

/// What the nodes of the epoch that runs say of the members, at their admin ports.
fn told(config: &Config, epoch: u64) -> Vec<Joined> {
    let others = config.cluster.nodes.iter();
    let others = others.filter(|it| it.id != config.node_id && it.admin_port > 0);
    let told = others.filter_map(|it| {
        let endpoint = format!("{}:{}", it.host, it.admin_port);
        let (cluster, joined) = join::membership(&endpoint).ok()?;
        (cluster == config.cluster.id && joined.epoch == epoch).then_some(joined)
    });
    told.collect()
}

/// Refuses a directory that a node has used: but for one whose node was let in by nobody.
pub(super) fn check_empty(path: &Path) -> Result<(), RepairError> {
    let unused = match Record::read(path)? {
        // A lone node is let in by nobody, and one that stays in a later epoch not at once.
        Some(record) if record.members.len() == 1 || !record.before.is_empty() => false,
        Some(record) => match record.condition {
            Condition::Rejoined => !record.formed && record.known.is_empty(),
            _ => !record.formed && record.epoch == 0,
        },
        None => shards(path)?.is_empty(),
    };
    if unused {
        Ok(())
    } else {
        let path = path.to_owned();
        Err(RepairError::Holds { path })
    }
}

/// Removes what a start left that was refused.
pub(super) fn clear(path: &Path) -> Result<(), RepairError> {
    for shard in shards(path)? {
        fs::remove_dir_all(&shard).map_err(|error| RepairError::Io {
            what: "remove",
            path: shard,
            error,
        })?;
    }
    Ok(())
}

fn shards(path: &Path) -> Result<Vec<PathBuf>, RepairError> {
    let failed = |error| RepairError::Io {
        what: "list",
        path: path.to_owned(),
        error,
    };
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut shards = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with("shard-") {
            shards.push(entry.path());
        }
    }
    Ok(shards)
}
