//! What a node that lost its data begins with instead of nothing: the snapshots of a backup.

use std::path::{Path, PathBuf};

use engine::config::Config;
use engine::epoch;
use engine::io::import::place;
use engine::snapshot::Header;

use super::{RepairError, memberships};
use crate::backup::BackupError;
use crate::backup::archive::Files;
use crate::backup::manifest::Manifest;

/// Snapshots that were found to be whole, and of the history that the cluster goes on with.
pub(super) struct Seed {
    from: PathBuf,
    files: Files,
    snapshots: Vec<(Header, String)>,
}

impl Seed {
    /// Reads every byte of the snapshots in a backup. A state is of the cluster's history if a directory made it that
    /// the cluster still has, or had in the place of the lost one (`known`), and if no repair has chosen
    /// another history since.
    pub(super) fn read(
        config: &Config,
        from: &Path,
        epoch: u64,
        known: u64,
    ) -> Result<Self, RepairError> {
        let files = Files::of(from)?;
        let manifest = Manifest::read(files.directory())?;
        let no = |why: String| RepairError::Seed {
            path: from.to_owned(),
            why,
        };
        let groups = u64::from(config.cluster.groups);
        if (&manifest.cluster, manifest.groups) != (&config.cluster.id, groups) {
            let (cluster, of) = (&manifest.cluster, manifest.groups);
            return Err(no(format!(
                "it is of cluster \"{cluster}\" with {of} groups"
            )));
        }
        let mut instances = instances(config)?;
        instances.push(known);
        let mut snapshots = Vec::new();
        for file in &manifest.files {
            let listed = &file.snapshot;
            let header = listed.verify(files.directory(), &config.cluster.id);
            let header = header.map_err(|what| BackupError::Damaged {
                path: files.known_as(files.directory().join(&listed.name)),
                what,
            })?;
            let (group, made_in) = (header.group, epoch::of(header.term));
            if made_in != epoch {
                return Err(no(format!(
                    "group {group} is of epoch {made_in}, and a repair began epoch {epoch} since"
                )));
            }
            if !instances.contains(&header.instance) {
                let instance = header.instance;
                return Err(no(format!(
                    "group {group} was saved by a data directory (instance {instance:016x}) that none of \
                     the nodes that answer has, so it may be of another history"
                )));
            }
            snapshots.push((header, listed.name.clone()));
        }
        Ok(Self {
            from: from.to_owned(),
            files,
            snapshots,
        })
    }

    /// Puts the snapshots where the node looks for them; says so.
    pub(super) fn place(&self, config: &Config, data: &Path) -> Result<String, RepairError> {
        for (header, name) in &self.snapshots {
            let shard = config.shard_of_group(header.group);
            let shard = data.join(format!("shard-{shard}"));
            place(&self.files.directory().join(name), &shard)?;
        }
        let (count, from) = (self.snapshots.len(), self.from.display());
        Ok(format!(
            ". It begins with the snapshots of {count} groups in {from}: they send what is newer"
        ))
    }
}

/// The data directories of the nodes that answer.
fn instances(config: &Config) -> Result<Vec<u64>, RepairError> {
    let memberships = memberships(config);
    let instances = memberships
        .iter()
        .filter_map(|it| u64::from_str_radix(it["instance"].as_str()?, 16).ok());
    let instances: Vec<u64> = instances.collect();
    if instances.is_empty() {
        let others = config.cluster.nodes.iter();
        let others = others.filter(|node| node.id != config.node_id);
        let addresses = others.map(|node| format!("{}:{}", node.host, node.admin_port));
        let addresses: Vec<String> = addresses.collect();
        let addresses = addresses.join(", ");
        return Err(RepairError::Silent { addresses });
    }
    Ok(instances)
}
