//! What a flush carries: the values, before they are bytes.

use alloc::rc::Rc;

use crate::{Claim, GroupId, LogIndex, ReplicaId, Term};

/// The bytes of an entry, shared between log, peers and apply. Starts 8-byte aligned, so that an
/// archived batch can be read in place.
pub type Payload = Rc<[u8]>;

/// What an entry's payload means.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Empty: what a leader appends when its term begins.
    Noop = 0,
    /// A batch of client commands.
    Batch = 1,
    /// A change of the group's members.
    Membership = 2,
}

/// One position of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub index: LogIndex,
    pub kind: EntryKind,
    pub payload: Payload,
}

/// What a replica must not forget besides its entries (Raft figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// The candidate that got this replica's vote in `term`.
    pub vote: Option<ReplicaId>,
    /// A lower bound of what is committed: only saves work at start.
    pub commit: LogIndex,
}

/// One thing a shard has to persist.
///
/// An `Entry` at an index replaces every earlier entry of its group at that index or above: that is
/// how a follower overwrites a conflicting suffix without a separate truncation record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry {
        group: GroupId,
        entry: Entry,
    },
    /// An entry that was there before damage took it. Unlike an `Entry`, it leaves what is above it
    /// in place: a repair that is interrupted must not cost entries that were readable.
    Patch {
        group: GroupId,
        entry: Entry,
    },
    HardState {
        group: GroupId,
        state: HardState,
    },
    /// Everything up to `index` is in a snapshot; the log of the group starts behind it.
    Floor {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    /// The flush before held entries of the group from `first` to `last`, whose term is `term`. At
    /// the start of a segment: the log of the group reaches to `last`.
    Contents {
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
        term: Term,
        /// They were [`Record::Patch`]: entries above them stayed.
        patched: bool,
    },
    /// What a replica that started with damage may have acknowledged and promised: it stays in force
    /// until the log reaches the claim again, or until [`Record::Intact`], whatever is written after.
    Damaged {
        group: GroupId,
        claim: Option<Claim>,
        promises_lost: bool,
    },
    /// Ends what [`Record::Damaged`] noted: the log of the group up to here, and its promises, are
    /// complete again.
    Intact {
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
}

impl Record {
    /// Whose log it is about.
    pub fn group(&self) -> GroupId {
        match *self {
            Self::Entry { group, .. }
            | Self::Patch { group, .. }
            | Self::HardState { group, .. }
            | Self::Floor { group, .. }
            | Self::Contents { group, .. }
            | Self::Damaged { group, .. }
            | Self::Intact { group, .. } => group,
        }
    }
}
