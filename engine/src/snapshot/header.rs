//! What a snapshot is of.

use alloc::string::String;
use alloc::vec::Vec;

use wal::{GroupId, LogIndex, NodeId, ReplicaId, Term};

use super::block::{push_crc, u16_at, u32_at, u64_at};
use super::{FORMAT, SnapshotError};
use crate::raft;

const MAGIC: u32 = u32::from_le_bytes(*b"DKSN");

/// Bytes that name the format and the length of the header.
pub(super) const PREFIX_BYTES: usize = 12;
const FIXED_BYTES: usize = 80;
const MEMBER_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

/// A membership is no longer than this.
pub const MEMBERS_MAX: usize = 1024;

const BYTES_MAX: usize =
    FIXED_BYTES + MEMBERS_MAX * MEMBER_BYTES + 2 * u16::MAX as usize + CRC_BYTES + 7;

/// Kinds of state machines.
pub mod machine {
    /// The built-in one.
    pub const KV: u32 = 1;
    /// None: the chunks are entries of a log, as they stand there, up to the header's index.
    pub const LOG: u32 = 2;
}

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    None = 0,
    /// Blocks that do not become shorter are left as they are.
    #[default]
    Lz4 = 1,
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    Voter = 1,
    Observer = 2,
    Witness = 3,
}

/// One replica of the group, and the node it lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub role: MemberRole,
}

/// Who was in the group at the snapshot's index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Says what `extension` is. The format looks into neither; [`Membership::made`] does.
    pub version: u16,
    /// The entry that made it; zero for the members that the group was created with.
    pub index: LogIndex,
    /// At most [`MEMBERS_MAX`].
    pub members: Vec<Member>,
    /// At most 65535 bytes.
    pub extension: Vec<u8>,
}

/// The version of a membership that no entry made: its extension is empty.
const CONFIGURED: u16 = 0;
/// The version of a membership whose extension is the payload of the entry that made it.
const MADE: u16 = 1;

/// Why consensus cannot tell from a header who was in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MadeError {
    #[error(
        "its membership has version {found}, this build reads up to {supported}: use the build that wrote it, or a newer one"
    )]
    Version { found: u16, supported: u16 },
    #[error("its membership has version {version}, which does not go with entry {index}")]
    Entry { version: u16, index: LogIndex },
    #[error(transparent)]
    Extension(#[from] raft::MembershipError),
}

impl Membership {
    /// As consensus knows it, since an entry.
    pub fn of(since: LogIndex, membership: &raft::Membership) -> Self {
        let role = |role| {
            move |&replica: &ReplicaId| Member {
                replica,
                node: NodeId::from_raw(replica.to_raw()),
                role,
            }
        };
        let raft::Members { voters, observers } = &membership.members;
        let voters = voters.iter().map(role(MemberRole::Voter));
        let members = voters.chain(observers.iter().map(role(MemberRole::Observer)));
        let made = since > LogIndex::ZERO;
        Self {
            version: if made { MADE } else { CONFIGURED },
            index: since,
            members: members.collect(),
            extension: if made {
                membership.encode().to_vec()
            } else {
                Vec::new()
            },
        }
    }

    /// The same for consensus; nothing if no entry has changed the members that the group was created with.
    ///
    /// # Errors
    ///
    /// What an extension of an unknown version says is not guessed.
    pub fn made(&self) -> Result<Option<(LogIndex, raft::Membership)>, MadeError> {
        let (version, index) = (self.version, self.index);
        match (version, index > LogIndex::ZERO) {
            (CONFIGURED, false) => Ok(None),
            (MADE, true) => Ok(Some((index, raft::Membership::decode(&self.extension)?))),
            (CONFIGURED | MADE, _) => Err(MadeError::Entry { version, index }),
            (found, _) => Err(MadeError::Version {
                found,
                supported: MADE,
            }),
        }
    }
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub compression: Compression,
    /// The cluster's id, at most 65535 bytes.
    pub cluster: String,
    /// The data directory that it was made in.
    pub instance: u64,
    pub group: GroupId,
    /// The last entry that is in the state, and its term.
    pub index: LogIndex,
    pub term: Term,
    pub membership: Membership,
    /// Kind of the state machine, one of [`machine`] or an embedder's own.
    pub machine: u32,
    /// Things in the state as the state machine counts them, for people.
    pub items: u64,
    /// When it was begun, for people.
    pub created_unix_ms: u64,
}

impl Header {
    /// Appends the header; gives its checksum.
    ///
    /// # Panics
    ///
    /// If the membership or a text is longer than it may be.
    pub(super) fn encode(&self, to: &mut Vec<u8>) -> u32 {
        let start = to.len();
        let Membership {
            version,
            index: membership_index,
            members,
            extension,
        } = &self.membership;
        assert!(members.len() <= MEMBERS_MAX, "{} members", members.len());
        let short = |bytes: usize| u16::try_from(bytes).expect("texts of a header are short");
        let bytes = FIXED_BYTES
            + members.len() * MEMBER_BYTES
            + self.cluster.len()
            + extension.len()
            + CRC_BYTES;
        let bytes = bytes.next_multiple_of(8);
        let length = u32::try_from(bytes).expect("a header is short");

        to.extend(MAGIC.to_le_bytes());
        to.extend(FORMAT.to_le_bytes());
        to.extend([self.compression as u8, 0]);
        to.extend(length.to_le_bytes());
        to.extend(short(self.cluster.len()).to_le_bytes());
        to.extend(short(members.len()).to_le_bytes());
        to.extend(short(extension.len()).to_le_bytes());
        to.extend(version.to_le_bytes());
        to.extend(self.group.to_raw().to_le_bytes());
        to.extend(self.index.to_raw().to_le_bytes());
        to.extend(self.term.to_raw().to_le_bytes());
        to.extend(membership_index.to_raw().to_le_bytes());
        to.extend(self.instance.to_le_bytes());
        to.extend(self.created_unix_ms.to_le_bytes());
        to.extend(self.items.to_le_bytes());
        to.extend(self.machine.to_le_bytes());
        to.extend([0; 4]);
        assert_eq!(to.len() - start, FIXED_BYTES);
        for member in members {
            to.extend(member.replica.to_raw().to_le_bytes());
            to.extend(member.node.to_raw().to_le_bytes());
            to.extend([member.role as u8, 0, 0, 0]);
        }
        to.extend(self.cluster.as_bytes());
        to.extend(extension);
        to.resize(start + bytes - CRC_BYTES, 0);
        push_crc(0, start, to)
    }

    /// How long the header is that begins with these bytes.
    pub(super) fn length(prefix: &[u8]) -> Result<usize, SnapshotError> {
        let found = u32_at(prefix, 0);
        if found != MAGIC {
            return Err(SnapshotError::Magic {
                offset: 0,
                part: "snapshot",
                found,
            });
        }
        let (found, supported) = (u16_at(prefix, 4), FORMAT);
        if found != supported {
            return Err(SnapshotError::Format { found, supported });
        }
        let bytes = u32_at(prefix, 8) as usize;
        let (min, max) = (FIXED_BYTES + CRC_BYTES, BYTES_MAX);
        if !(min..=max).contains(&bytes) {
            return Err(SnapshotError::Length {
                offset: 8,
                part: "header",
                bytes: bytes as u64,
                min: min as u64,
                max: max as u64,
            });
        }
        Ok(bytes)
    }

    /// Reads a whole header; gives its checksum, too.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), SnapshotError> {
        let (content, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        let (expected, found) = (u32_at(crc, 0), crc32c::crc32c(content));
        if expected != found {
            return Err(SnapshotError::Checksum {
                offset: 0,
                part: "header",
                expected,
                found,
            });
        }
        let lengths = [12, 14, 16].map(|at| usize::from(u16_at(content, at)));
        let [cluster_bytes, members, extension_bytes] = lengths;
        let members_end = FIXED_BYTES + members * MEMBER_BYTES;
        let cluster_end = members_end + cluster_bytes;
        let end = cluster_end + extension_bytes;
        let sound = members <= MEMBERS_MAX && (end + CRC_BYTES).next_multiple_of(8) == bytes.len();
        if !sound {
            return Err(SnapshotError::HeaderParts { offset: 12 });
        }
        if content[7] != 0 || u32_at(content, 76) != 0 || content[end..].iter().any(|&b| b != 0) {
            return Err(SnapshotError::Zero {
                offset: 0,
                part: "header",
            });
        }
        let cluster = core::str::from_utf8(&content[members_end..cluster_end]);
        let header = Self {
            compression: compression(content[6])?,
            cluster: String::from(cluster.map_err(|_| SnapshotError::ClusterId {
                offset: members_end as u64,
            })?),
            instance: u64_at(content, 48),
            group: GroupId::from_raw(u32_at(content, 20)),
            index: LogIndex::from_raw(u64_at(content, 24)),
            term: Term::from_raw(u64_at(content, 32)),
            membership: Membership {
                version: u16_at(content, 18),
                index: LogIndex::from_raw(u64_at(content, 40)),
                members: content[FIXED_BYTES..members_end]
                    .chunks_exact(MEMBER_BYTES)
                    .map(member)
                    .collect::<Result<_, _>>()?,
                extension: content[cluster_end..end].to_vec(),
            },
            machine: u32_at(content, 72),
            items: u64_at(content, 64),
            created_unix_ms: u64_at(content, 56),
        };
        Ok((header, found))
    }
}

fn compression(found: u8) -> Result<Compression, SnapshotError> {
    match found {
        0 => Ok(Compression::None),
        1 => Ok(Compression::Lz4),
        found => Err(SnapshotError::Unknown {
            offset: 6,
            what: "compression",
            found,
        }),
    }
}

fn member(bytes: &[u8]) -> Result<Member, SnapshotError> {
    let role = match bytes[8] {
        1 => MemberRole::Voter,
        2 => MemberRole::Observer,
        3 => MemberRole::Witness,
        found => {
            return Err(SnapshotError::Unknown {
                offset: FIXED_BYTES as u64,
                what: "role of a member",
                found,
            });
        }
    };
    if bytes[9..] != [0; 3] {
        return Err(SnapshotError::Zero {
            offset: FIXED_BYTES as u64,
            part: "header's list of members",
        });
    }
    Ok(Member {
        replica: ReplicaId::from_raw(u32_at(bytes, 0)),
        node: NodeId::from_raw(u32_at(bytes, 4)),
        role,
    })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_membership_of_an_unknown_version_is_refused_and_not_guessed() {
        let members = raft::Members {
            voters: [1, 2, 3].map(ReplicaId::from_raw).to_vec(),
            observers: Vec::new(),
        };
        let made = raft::Membership::from(members);
        let index = LogIndex::from_raw(7);
        let known = Membership::of(index, &made);
        assert_eq!(known.made(), Ok(Some((index, made.clone()))));
        let configured = Membership::of(LogIndex::ZERO, &made);
        assert_eq!(configured.made(), Ok(None));
        let refusal = |membership: &Membership, version| {
            let membership = Membership {
                version,
                ..membership.clone()
            };
            membership.made().unwrap_err().to_string()
        };
        let unknown = "its membership has version 2, this build reads up to 1: use the build that wrote it, or a newer one";
        assert_eq!(refusal(&known, 2), unknown);
        assert_eq!(refusal(&configured, 2), unknown);
        assert_eq!(
            refusal(&known, 0),
            "its membership has version 0, which does not go with entry 7"
        );
        assert_eq!(
            refusal(&configured, 1),
            "its membership has version 1, which does not go with entry 0"
        );
    }
}
