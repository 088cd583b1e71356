//! What replay finds, and why it stops.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::codec::RecordError;
use crate::damage::Damage;
use crate::lives::Rest;
use crate::writer::Writer;
use crate::{Entry, FlushNumber, GroupId, HardState, LogIndex, SegmentId, Term};

/// Why replay stopped. Every variant says where, so that an operator can look at the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    #[error(
        "segment {segment} @0: format {found}, this build reads {supported}: use the build that wrote it"
    )]
    Format {
        segment: SegmentId,
        found: u16,
        supported: u16,
    },
    #[error(
        "segment {segment} @0: instance {found:016x}, the data directory is {expected:016x}: \
         the file belongs to another directory"
    )]
    Instance {
        segment: SegmentId,
        found: u64,
        expected: u64,
    },
    #[error("segment {segment} @{offset}: {error}")]
    Record {
        segment: SegmentId,
        offset: u64,
        error: RecordError,
    },
    #[error("segment {segment} @{offset}: entry {found} of group {group} follows entry {previous}")]
    Gap {
        segment: SegmentId,
        offset: u64,
        group: GroupId,
        previous: LogIndex,
        found: LogIndex,
    },
}

/// What replay found of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    pub hard_state: HardState,
    /// The log starts behind this.
    pub floor: (LogIndex, Term),
    /// Where each term starts: `(first index, term)`, ascending.
    pub terms: Vec<(LogIndex, Term)>,
    pub last: LogIndex,
    /// The newest entries, as many as fit the cache, ending at `last`.
    pub tail: Vec<Entry>,
    /// The changes of the group's members that the log holds, oldest first.
    pub memberships: Vec<Entry>,
    /// What is missing, if anything is; the rest describes what is there without a gap.
    pub damage: Option<Damage>,
}

/// What replay found of a log.
#[derive(Debug)]
pub struct Recovered {
    pub groups: BTreeMap<GroupId, RecoveredLog>,
    /// Continues the log in a new segment.
    pub writer: Writer,
    /// Files that hold nothing of the log any more.
    pub dead: Vec<SegmentId>,
    /// The file behind the log that was made ready, as it was made: one of the dead, but another start can
    /// use it for its first segment ([`Writer::take_over`]).
    pub spare: Option<Rest>,
    /// Where the log can go on if there is no space for a segment ([`Writer::resume`]).
    pub rest: Option<Rest>,
    /// Files behind the place where the end of the log was lost, or that tell of a loss before them. Another
    /// start may be able to read what this one could not, and miss nothing: only when a flush of
    /// `writer` is durable is the loss noted, and they are dead, too.
    pub given_up: Vec<SegmentId>,
    /// Segments that must be synced before anything is built on what was read: it may have been
    /// read from a device's cache.
    pub unsynced: Vec<SegmentId>,
    /// The flush that was cut off because it was under way, if any.
    pub cut: Option<Cut>,
    /// Flushes that were durable and are no longer readable, oldest first.
    pub lost: Vec<Lost>,
    /// What has to be assumed of a group that the log does not mention.
    pub unmentioned: RecoveredLog,
}

/// Flushes that the disk lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where the first of them was expected.
    pub segment: SegmentId,
    pub offset: u64,
    pub first: FlushNumber,
    /// The flush behind the last of them; `None` if nothing follows.
    pub next: Option<FlushNumber>,
}

/// The first flush that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub segment: SegmentId,
    pub offset: u64,
    pub number: FlushNumber,
    /// Something of it was written.
    pub torn: bool,
}
