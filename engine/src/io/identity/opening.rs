//! Opens a data directory for its node, or for a tool while the node is stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wal::GroupId;
use wal::io::{DataDirectory, Identity};

use super::record::failed;
use super::{Condition, IdentityError, Member, Noted, Place, Record};
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
    let mut members: Vec<Member> = config.cluster.nodes.iter().map(Member::of).collect();
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
            // What has lost its record was let in by others.
            record.formed = directory.shard(0).exists();
            record
        }
    };
    Ok(Holding { directory, record })
}

/// What a node tells of the cluster that another joins.
#[derive(Clone, Debug)]
pub struct Joined {
    pub epoch: u64,
    pub origin: u64,
    pub members: Vec<Member>,
    pub removed: Vec<u32>,
    pub founders: Vec<NodeAddress>,
    pub listed: Vec<NodeAddress>,
    pub noted: BTreeMap<GroupId, Noted>,
}

/// Whether a data directory has never been anybody's.
///
/// # Errors
///
/// If what it says of itself cannot be read.
pub fn is_new(config: &Config) -> Result<bool, IdentityError> {
    let (path, _) = identity(config);
    Ok(Record::read(&path)?.is_none() && !path.join("shard-0").exists())
}

/// Makes the data directory of a node that joins a cluster which runs.
///
/// # Errors
///
/// As for [`hold`].
pub fn join(config: &Config, cluster: &Joined) -> Result<(), OpenError> {
    let Holding {
        directory,
        mut record,
    } = hold(config)?;
    let Joined {
        epoch,
        origin,
        members,
        removed,
        founders,
        listed,
        noted,
    } = cluster.clone();
    record.begin_epoch(epoch, members, removed);
    record.origin = origin;
    record.founders = founders;
    record.listed = listed;
    record.noted = noted;
    record.condition = Condition::Joining;
    record.write(directory.path())?;
    Ok(())
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
    let is_new = Record::read(&path)?.is_none();
    if is_new && holding.directory.shard(0).exists() {
        let path = path.join("membership");
        return Err(IdentityError::Missing { path }.into());
    }
    if record.condition == Condition::Importing {
        return Err(IdentityError::Unfinished { path }.into());
    }
    if !record.place.is(&here) {
        let (found, here) = (record.place.told(), here.told());
        return Err(IdentityError::Copied { path, found, here }.into());
    }
    let before = record.clone();
    record.place = here;
    let shards = 0..config.cluster.shards;
    if let Some(shard) = shards
        .into_iter()
        .find(|&it| is_log_gone(&holding.directory, it))
        && record.condition == Condition::New
        && record.formed
    {
        tracing::error!(
            event = "log.gone",
            shard,
            "no file of a log is left that there was: what it held is fetched from the peers"
        );
        record.condition = Condition::Rejoined;
    }
    let config = fit(config, record)?;
    if *record != before || is_new {
        record.write(&path)?;
    }
    Ok((holding, config))
}

/// Whether there is no file of a shard's log. A node that peers have let in had one.
fn is_log_gone(directory: &DataDirectory, shard: u16) -> bool {
    let Ok(files) = std::fs::read_dir(directory.shard(shard)) else {
        return true; // what cannot be listed is reported when the log is opened
    };
    let mut names = files.flatten().map(|file| file.file_name());
    !names.any(|name| Path::new(&name).extension().is_some_and(|it| it == "seg"))
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
    let mut options = (*config).clone();
    // Whoever came in while the node ran need not be in its configuration.
    for node in &record.listed {
        let nodes = &mut options.cluster.nodes;
        if record.has(node.id) && nodes.iter().all(|it| it.id != node.id) {
            nodes.push(node.clone());
        }
    }
    // Nor who left.
    options.cluster.founders = record.founders.clone();
    for founder in &mut options.cluster.founders {
        if let Some(node) = options.cluster.nodes.iter().find(|it| it.id == founder.id) {
            founder.clone_from(node);
        }
    }
    let mut asked: Vec<Member> = options.cluster.nodes.iter().map(Member::of).collect();
    asked.sort();
    let missing = |member: &Member| asked.iter().all(|it| it.node != member.node);
    let unknown =
        |member: &Member| !record.has(member.node) && !record.removed.contains(&member.node);
    if record.members.iter().any(missing) || asked.iter().any(unknown) {
        let recorded = record.members.clone();
        return Err(IdentityError::Members { recorded, asked });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterOptions, Options};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("drakkar-opening-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        /// Node 1 in a cluster of these, each with the peer port of its first shard.
        fn config(&self, nodes: &[(u32, u16)]) -> Config {
            let nodes = nodes.iter().map(|&(id, peer_port)| NodeAddress {
                id,
                host: "127.0.0.1".to_owned(),
                client_port: peer_port + 1000,
                peer_port,
                admin_port: 0,
            });
            let options = Options {
                cluster: ClusterOptions {
                    id: "test".to_owned(),
                    nodes: nodes.collect(),
                    ..ClusterOptions::default()
                },
                node_id: 1,
                data_dir: self.0.display().to_string(),
                ..Options::default()
            };
            options.validate().unwrap()
        }

        fn refusal(&self, nodes: &[(u32, u16)]) -> String {
            open(self.config(nodes)).map(drop).unwrap_err().to_string()
        }

        fn change(&self, change: impl FnOnce(&mut Record)) {
            let mut record = Record::read(&self.0).unwrap().unwrap();
            change(&mut record);
            record.write(&self.0).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    const NODES: [(u32, u16); 3] = [(1, 101), (2, 102), (3, 103)];

    #[test]
    fn the_members_of_a_directory_are_not_changed_by_a_configuration() {
        let scratch = Scratch::new("members");
        drop(open(scratch.config(&NODES)).unwrap());
        let fewer = scratch.refusal(&NODES[..2]);
        let words = "data dir belongs to a cluster of 1=127.0.0.1:101, 2=127.0.0.1:102, 3=127.0.0.1:103, \
             config lists 1=127.0.0.1:101, 2=127.0.0.1:102: ";
        assert!(fewer.starts_with(words), "{fewer}");
        let other = scratch.refusal(&[(1, 101), (2, 102), (4, 103)]);
        assert!(other.contains("4=127.0.0.1:103"), "{other}");
        let moved = scratch.refusal(&[(1, 109), (2, 102), (3, 103)]);
        let words = "data dir belongs to 127.0.0.1:101, config says 127.0.0.1:109";
        assert!(moved.starts_with(words), "{moved}");
        // Another's address is what the configuration says: its instance tells who it is.
        let (holding, _) = open(scratch.config(&[(1, 101), (2, 109), (3, 103)])).unwrap();
        assert_eq!(holding.record.members[1].address, "127.0.0.1:109");
        drop(holding);
        let record = Record::read(&scratch.0).unwrap().unwrap();
        assert_eq!(record.members[1].address, "127.0.0.1:109");
    }

    #[test]
    fn members_that_were_removed_may_stay_in_the_configuration_and_count_for_nothing() {
        let scratch = Scratch::new("removed");
        drop(open(scratch.config(&NODES)).unwrap());
        scratch.change(|record| {
            record.epoch = 1;
            record.removed = vec![2];
            record.members.retain(|member| member.node != 2);
        });
        let (_, config) = open(scratch.config(&NODES)).unwrap();
        let left: Vec<u32> = config.cluster.nodes.iter().map(|node| node.id).collect();
        assert_eq!(left, [1, 3]);
        assert!(scratch.refusal(&NODES[..2]).contains("config lists"));
        scratch.change(|record| {
            record.epoch = 2;
            record.removed = vec![1, 2];
            record.members.retain(|member| member.node == 3);
        });
        let gone = scratch.refusal(&NODES);
        let words = "replica 1 was removed: epoch 2 has the members 3=127.0.0.1:103";
        assert!(gone.starts_with(words), "{gone}");
    }

    #[test]
    fn a_directory_of_which_an_import_or_a_record_is_not_whole_is_not_started() {
        let scratch = Scratch::new("whole");
        drop(open(scratch.config(&NODES)).unwrap());
        scratch.change(|record| record.condition = Condition::Importing);
        let broken_off = scratch.refusal(&NODES);
        assert!(broken_off.contains("an import was begun"), "{broken_off}");
        scratch.change(|record| record.instance += 1);
        let foreign = scratch.refusal(&NODES);
        assert!(foreign.contains("does not pass its check"), "{foreign}");
        std::fs::remove_file(scratch.0.join("membership")).unwrap();
        std::fs::create_dir(scratch.0.join("shard-0")).unwrap();
        let missing = scratch.refusal(&NODES);
        assert!(missing.contains("membership is missing"), "{missing}");
        // Where nothing was written yet, nothing can be forgotten.
        std::fs::remove_dir(scratch.0.join("shard-0")).unwrap();
        drop(open(scratch.config(&NODES)).unwrap());
    }
}
