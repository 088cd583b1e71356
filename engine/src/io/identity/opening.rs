//! Opens a data directory for its node, or for a tool while the node is stopped.

use std::path::{Path, PathBuf};

use wal::io::{DataDirectory, Identity};

use super::record::failed;
use super::{Condition, IdentityError, Member, Place, Record};
use crate::config::{Config, NodeAddress};
use crate::io::OpenError;

/// A data directory that this process owns, and what it says of itself.
#[derive(Debug)]
pub struct Holding {
    pub directory: DataDirectory,
    pub record: Record,
}

fn address(node: &NodeAddress) -> String {
    format!("{}:{}", node.host, node.peer_port)
}

/// The nodes that a configuration lists, by their numbers.
fn listed(config: &Config) -> Vec<Member> {
    let members = config.cluster.nodes.iter().map(|node| Member {
        node: node.id,
        address: address(node),
    });
    let mut members: Vec<Member> = members.collect();
    members.sort();
    members
}

/// Who a configuration says that its data directory is of, and where that is.
pub(super) fn identity(config: &Config) -> (PathBuf, Identity) {
    let identity = Identity {
        cluster_id: config.cluster.id.clone(),
        node: config.node(),
        address: address(config.own_address()),
        shards: config.cluster.shards,
    };
    // The directory above it is opened, too, and a plain name has none.
    let path = Path::new(&config.data_dir);
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    (path, identity)
}

/// Takes a data directory, which is made if there is none. A record that it lacks is made, but not
/// written.
///
/// # Errors
///
/// If it belongs to another node, or another process holds it.
pub fn hold(config: &Config) -> Result<Holding, OpenError> {
    let (path, identity) = identity(config);
    let directory = DataDirectory::open(&path, &identity)?;
    let place = place(&directory)?;
    let record = match Record::read(directory.path())? {
        Some(record) if record.instance == directory.instance() => record,
        // The file of another directory.
        Some(_) => {
            let path = path.join("membership");
            return Err(IdentityError::Damaged { path }.into());
        }
        None => {
            let mut record = Record::new(directory.instance(), place, listed(config));
            // Data that an earlier build left was let in by others.
            record.formed = directory.shard(0).exists();
            record
        }
    };
    Ok(Holding { directory, record })
}

/// Takes the data directory of a stopped node as being where it is and having the address that its
/// configuration says. Says what it was before: its place and its address.
///
/// # Errors
///
/// As for [`hold`]; if the directory has no record, too.
pub fn settle(config: &Config) -> Result<(Holding, String), OpenError> {
    let (path, identity) = identity(config);
    let directory = DataDirectory::readdress(&path, &identity)?;
    let here = place(&directory)?;
    let mut record = match Record::read(&path)? {
        Some(record) if record.instance == directory.instance() => record,
        _ => {
            let path = path.join("membership");
            return Err(IdentityError::Damaged { path }.into());
        }
    };
    let own = record
        .members
        .iter_mut()
        .find(|it| it.node == config.node_id);
    let before = own.map_or_else(String::new, |member| {
        std::mem::replace(&mut member.address, identity.address)
    });
    let before = format!("{before}, {}", record.place.told());
    record.place = here;
    record.write(&path)?;
    Ok((Holding { directory, record }, before))
}

/// Where the directory is now.
pub(super) fn place(directory: &DataDirectory) -> Result<Place, IdentityError> {
    let found = directory.lock_metadata();
    let found = found.map_err(failed("look at the lock of", directory.path()))?;
    Ok(Place::of(&found))
}

/// Opens the data directory of a node that starts; gives the configuration with the members that the
/// directory names.
pub(in crate::io) fn open(config: Config) -> Result<(Holding, Config), OpenError> {
    let mut holding = hold(&config)?;
    let here = place(&holding.directory)?;
    let record = &mut holding.record;
    let path = holding.directory.path().to_owned();
    if record.condition == Condition::Importing {
        return Err(IdentityError::Unfinished { path }.into());
    }
    if !record.place.is(&here) {
        let (found, here) = (record.place.told(), here.told());
        return Err(IdentityError::Copied { path, found, here }.into());
    }
    let before = record.clone();
    record.place = here;
    let config = fit(config, record)?;
    if *record != before || Record::read(&path)?.is_none() {
        record.write(&path)?;
    }
    Ok((holding, config))
}

/// The configuration with the members of the record, whose addresses are those of the configuration.
fn fit(config: Config, record: &mut Record) -> Result<Config, IdentityError> {
    let (node, epoch) = (config.node_id, record.epoch);
    if !record.has(node) {
        let members = record.members.clone();
        return Err(IdentityError::Removed {
            node,
            epoch,
            members,
        });
    }
    let asked = listed(&config);
    let missing = |member: &Member| asked.iter().all(|it| it.node != member.node);
    let unknown =
        |member: &Member| !record.has(member.node) && !record.removed.contains(&member.node);
    if record.members.iter().any(missing) || asked.iter().any(unknown) {
        let recorded = record.members.clone();
        return Err(IdentityError::Members { recorded, asked });
    }
    let mut options = (*config).clone();
    let removed = record.removed.clone();
    options.cluster.nodes.retain(|node| {
        let is_removed = removed.contains(&node.id);
        if is_removed {
            tracing::warn!(
                event = "node.removed",
                node = node.id,
                epoch,
                "cluster.nodes lists a node that was removed: delete it there"
            );
        }
        !is_removed
    });
    let config = options.validate();
    let config = config.expect("fewer nodes that held together hold together");
    for (member, new) in record.members.iter_mut().zip(listed(&config)) {
        assert_eq!(member.node, new.node, "members in order");
        if member.address != new.address {
            tracing::info!(
                event = "node.moved",
                node = new.node,
                from = member.address,
                to = new.address
            );
            *member = new;
        }
    }
    Ok(config)
}
