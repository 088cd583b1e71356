//! What an export consists of: the snapshots, and `EXPORT.json`, written last.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ImportError, Listed, write_manifest};
use crate::io::identity::Member;
use crate::snapshot::{Header, MemberRole};

const NAME: &str = "EXPORT.json";
const FORMAT: u64 = 1;

/// What is in an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    pub cluster: String,
    /// Of the cluster when it was made.
    pub epoch: u64,
    pub members: Vec<Member>,
    pub removed: Vec<u32>,
    /// Groups of the cluster; an export may hold one of them alone.
    pub groups: u64,
    pub files: Vec<Listed>,
}

/// FNV-1a.
pub(super) fn fingerprint(text: &str) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, add)
}

impl Shipment {
    pub fn exists(directory: &Path) -> bool {
        directory.join(NAME).exists()
    }

    /// Equal for equal snapshots, wherever they lie.
    pub fn id(&self) -> u64 {
        let mut text = format!("{} {}", self.cluster, self.groups);
        for Listed {
            name, bytes, crc, ..
        } in &self.files
        {
            text.push_str(&format!(" {name} {bytes} {crc}"));
        }
        fingerprint(&text)
    }

    pub fn write(&self, directory: &Path) -> std::io::Result<()> {
        let members = self.members.iter();
        let members = members.map(|it| json!({ "node": it.node, "address": it.address }));
        let files = self.files.iter().map(|file| file.json("keys"));
        let value = json!({
            "format": FORMAT,
            "cluster": self.cluster,
            "epoch": self.epoch,
            "members": members.collect::<Vec<_>>(),
            "removed": self.removed,
            "groups": self.groups,
            "files": files.collect::<Vec<_>>(),
        });
        write_manifest(directory, NAME, &format!("{value:#}\n"))
    }

    /// Reads what an export says of itself.
    pub fn read(directory: &Path) -> Result<Self, ImportError> {
        if !directory.is_dir() {
            let path = directory.to_owned();
            return Err(ImportError::PathNotExist { path });
        }
        let no = |why: String| ImportError::IncompleteSnapshot { why };
        let path = directory.join(NAME);
        let text = fs::read_to_string(&path)
            .map_err(|error| no(format!("{}: {error}", path.display())))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| no(format!("{}: {error}", path.display())))?;
        if value["format"] != FORMAT {
            let format = &value["format"];
            return Err(no(format!(
                "{NAME} has format {format}, this build reads {FORMAT}"
            )));
        }
        Self::parse(&value).ok_or_else(|| no(format!("{NAME} lacks fields")))
    }

    fn parse(value: &Value) -> Option<Self> {
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let member = |value: &Value| {
            Some(Member {
                node: number(&value["node"])?,
                address: value["address"].as_str()?.to_owned(),
            })
        };
        let file = |value: &Value| Listed::parse(value, "keys");
        let list = |name: &str| value[name].as_array();
        Some(Self {
            cluster: value["cluster"].as_str()?.to_owned(),
            epoch: value["epoch"].as_u64()?,
            members: list("members")?.iter().map(member).collect::<Option<_>>()?,
            removed: list("removed")?.iter().map(number).collect::<Option<_>>()?,
            groups: value["groups"].as_u64()?,
            files: list("files")?.iter().map(file).collect::<Option<_>>()?,
        })
    }

    /// Reads every byte: one whole snapshot of each group of the cluster, and none besides. Gives their
    /// headers.
    pub fn verify(&self, directory: &Path) -> Result<Vec<Header>, ImportError> {
        let no = |why: String| ImportError::IncompleteSnapshot { why };
        let groups = self.files.iter().map(|file| file.group);
        if !groups.eq(0..self.groups) {
            return Err(no(format!(
                "it holds {} of the {} groups. All groups live on the same nodes: export them without --group",
                self.files.len(),
                self.groups
            )));
        }
        let found = snapshots_in(directory).map_err(|error| no(error.to_string()))?;
        if found.len() != self.files.len() {
            return Err(no(format!(
                "{} holds {} snapshots, {NAME} names {}",
                directory.display(),
                found.len(),
                self.files.len()
            )));
        }
        let mut headers = Vec::new();
        for file in &self.files {
            let verified = file.verify(directory, &self.cluster);
            let path = directory.join(&file.name);
            let header = verified.map_err(|flaw| no(format!("{}: {flaw}", path.display())))?;
            headers.push(header);
        }
        Ok(headers)
    }
}

/// The files of snapshots in a directory.
pub fn snapshots_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "snap") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Refuses a member that was something else than a voter.
pub(super) fn check_roles(header: &Header, members: &[Member]) -> Result<(), ImportError> {
    for member in members {
        let mut before = header.membership.members.iter();
        let role = before.find(|it| it.node.to_raw() == member.node);
        let node = member.node;
        match role.map(|it| it.role) {
            Some(MemberRole::Observer) => return Err(ImportError::NonVoting { node }),
            Some(MemberRole::Witness) => return Err(ImportError::Witness { node }),
            Some(MemberRole::Voter) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wal::{GroupId, LogIndex, NodeId, ReplicaId, Term};

    use super::*;
    use crate::snapshot::{self, Compression, Membership, machine};

    #[test]
    fn a_member_that_had_no_vote_or_no_data_is_not_made_one_that_has() {
        let member = |node, role| snapshot::Member {
            replica: ReplicaId::from_raw(node),
            node: NodeId::from_raw(node),
            role,
        };
        let header = Header {
            compression: Compression::None,
            cluster: "test".to_owned(),
            instance: 1,
            group: GroupId::from_raw(0),
            index: LogIndex::from_raw(1),
            term: Term::from_raw(1),
            membership: Membership {
                version: 1,
                index: LogIndex::ZERO,
                members: vec![
                    member(1, MemberRole::Voter),
                    member(2, MemberRole::Observer),
                    member(3, MemberRole::Witness),
                ],
                extension: Vec::new(),
            },
            machine: machine::KV,
            items: 0,
            created_unix_ms: 0,
        };
        let told = |node| {
            let address = "127.0.0.1:1".to_owned();
            let listed = [Member { node, address }];
            let error = check_roles(&header, &listed).err()?;
            Some((error.code(), error.to_string()))
        };
        let text = |code, text: &str| Some((code, text.to_owned()));
        assert_eq!(told(1), None);
        assert_eq!(
            told(2),
            text("AddingNonVoting", "adding an nonVoting as regular node: 2")
        );
        assert_eq!(
            told(3),
            text("AddingWitness", "adding a witness as regular node: 3")
        );
        assert_eq!(told(4), None, "a new one");
    }
}
