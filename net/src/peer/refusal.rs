//! Why a peer is not let in, in words for both sides, and what of it the caller can act on.

use alloc::string::String;
use alloc::vec::Vec;

use super::handshake::TEXT_BYTES_MAX;
use super::reader::{Reader, push_blob};

/// A membership is no longer than this.
pub const MEMBERS_MAX: usize = 1024;

/// Which membership a node goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Rises with each repair that made another membership; who has a lower one is fenced.
    pub epoch: u64,
    /// Tells memberships of the same epoch apart: equal on all nodes that were made by one repair.
    pub origin: u64,
    /// The nodes of the membership, at most [`MEMBERS_MAX`].
    pub members: Vec<u32>,
}

/// What a refusal is about, for the program of the caller.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something that may be different later, or that only people can tell.
    Other = 0,
    /// The caller has nothing, and is known with another data directory.
    Empty = 1,
    /// The caller's data directory was replaced by another.
    Replaced = 2,
    /// The caller's membership is an older one, and the newer one lacks it.
    Removed = 3,
    /// The caller's membership is an older one.
    Fenced = 4,
    /// Both memberships are of the same epoch, and were not made by the same repair.
    Origin = 5,
    /// The caller only wanted to know.
    Asked = 6,
    /// Another process is connected that speaks for the same data directory.
    Copied = 7,
}

/// The answer to a caller that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub cause: Cause,
    /// Of the side that refuses.
    pub standing: Standing,
    /// The instance that the caller's node is known with here; 0 if it is not known.
    pub known: u64,
    /// For people.
    pub reason: String,
}

/// Why a peer is not let in. Both sides log the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error(
        "cluster id is '{here}' here, the caller says '{caller}': one of them has the wrong address or the wrong cluster.id"
    )]
    Cluster { here: String, caller: String },
    #[error(
        "this is node {here}, the caller wanted node {wanted}: check the nodes' hosts and peer ports"
    )]
    WrongNode { here: u32, wanted: u32 },
    #[error("node {caller} is not in this node's list of nodes")]
    UnknownNode { caller: u32 },
    #[error("a node with this node's own id {id} is calling: two nodes have the same node.id")]
    OwnId { id: u32 },
    #[error(
        "this is shard {here}, the caller wanted shard {wanted}: check cluster.shards and the peer ports"
    )]
    WrongShard { here: u32, wanted: u32 },
    #[error(
        "the caller speaks formats {min}-{max}, this build {here_min}-{here_max}: upgrade one release at a time"
    )]
    Version {
        min: u16,
        max: u16,
        here_min: u16,
        here_max: u16,
    },
    #[error(
        "options that must be the same on all nodes differ: compare the [cluster] sections of node {here} and node {caller}"
    )]
    Fingerprint { here: u32, caller: u32 },
    #[error(
        "replica {caller} was removed: epoch {epoch} has the members {members:?}. Its id never comes back; stop it and keep its data until nobody misses any"
    )]
    Removed {
        caller: u32,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "node {caller} is fenced: it comes from epoch {theirs}, epoch {epoch} has the members {members:?}. Run the repair that was run on them on node {caller} as well, with the same arguments; or, if its data may go, empty its data directory and run drakkar repair rejoin"
    )]
    Fenced {
        caller: u32,
        theirs: u64,
        epoch: u64,
        members: Vec<u32>,
    },
    #[error(
        "node {here} is behind: it is of epoch {epoch}, the caller of epoch {theirs}. Run the repair of the others on node {here}, with the same arguments"
    )]
    Behind { here: u32, epoch: u64, theirs: u64 },
    #[error(
        "import id mismatch: epoch {epoch} was made as {here:016x} on node {node} and as {theirs:016x} on node {caller}. The same repair must be run on all members, with the same snapshot and the same members"
    )]
    Origin {
        node: u32,
        caller: u32,
        epoch: u64,
        here: u64,
        theirs: u64,
    },
    #[error(
        "node id {caller} is known with instance {known:016x}; this data directory is empty. If that instance's directory exists, use it. If it is lost, the node may come back without what it held: drakkar repair rejoin --config FILE"
    )]
    Empty { caller: u32, known: u64 },
    #[error(
        "node id {caller} is known with instance {known:016x}, the caller's data directory is of {instance:016x}: two directories claim the same node id, or the caller's is a wrong one"
    )]
    Instance {
        caller: u32,
        known: u64,
        instance: u64,
    },
    #[error(
        "instance {instance:016x} of node {caller} was replaced by {known:016x}: its data directory must not be used any more"
    )]
    Replaced {
        caller: u32,
        known: u64,
        instance: u64,
    },
    #[error(
        "node {caller} is connected with instance {instance:016x} from another process: this is a copied data directory, or the other process is just ending"
    )]
    Copied { caller: u32, instance: u64 },
    #[error(
        "node {caller} comes to replace instance {known:016x}, which is connected: stop the process with that directory first"
    )]
    Alive { caller: u32, known: u64 },
    /// What is known of the caller could not be written down, so nothing is built on it.
    #[error("node {here} cannot write down whom it knows: {reason}")]
    Record { here: u32, reason: String },
    #[error("the caller only asked")]
    Asked,
}

impl Refusal {
    /// What the caller's program is told.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Empty { .. } => Cause::Empty,
            Self::Replaced { .. } => Cause::Replaced,
            Self::Removed { .. } => Cause::Removed,
            Self::Fenced { .. } => Cause::Fenced,
            Self::Origin { .. } => Cause::Origin,
            Self::Asked => Cause::Asked,
            Self::Copied { .. } => Cause::Copied,
            _ => Cause::Other,
        }
    }
}

impl Standing {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        assert!(self.members.len() <= MEMBERS_MAX, "too many members");
        to.extend_from_slice(&self.epoch.to_le_bytes());
        to.extend_from_slice(&self.origin.to_le_bytes());
        let count = u16::try_from(self.members.len()).expect("asserted");
        to.extend_from_slice(&count.to_le_bytes());
        for member in &self.members {
            to.extend_from_slice(&member.to_le_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (epoch, origin) = (reader.u64()?, reader.u64()?);
        let count = usize::from(reader.u16()?);
        if count > MEMBERS_MAX {
            return None;
        }
        let members = (0..count).map(|_| reader.u32()).collect::<Option<_>>()?;
        Some(Self {
            epoch,
            origin,
            members,
        })
    }
}

impl Refused {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        to.push(self.cause as u8);
        self.standing.encode(to);
        to.extend_from_slice(&self.known.to_le_bytes());
        let mut end = self.reason.len().min(TEXT_BYTES_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        push_blob(to, &self.reason.as_bytes()[..end]);
    }

    /// The field that is not there, if one is not.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let cause = match reader.u8().ok_or("the cause")? {
            1 => Cause::Empty,
            2 => Cause::Replaced,
            3 => Cause::Removed,
            4 => Cause::Fenced,
            5 => Cause::Origin,
            6 => Cause::Asked,
            7 => Cause::Copied,
            // A newer build may know more.
            _ => Cause::Other,
        };
        Ok(Self {
            cause,
            standing: Standing::decode(reader).ok_or("the membership")?,
            known: reader.u64().ok_or("the known instance")?,
            reason: super::handshake::text(reader).ok_or("the reason")?,
        })
    }
}
