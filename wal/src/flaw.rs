//! What can be wrong with a log, and where.

use crate::codec::RecordError;
use crate::segment::FORMAT;
use crate::{FlushNumber, GroupId, LogIndex, SegmentId};

/// Something that was durable and is not there any more, or cannot have been written like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    #[error("segment {segment} @0: the segment's header is not what was written")]
    Header { segment: SegmentId },
    #[error(
        "segment {segment} @0: format {found}, this build reads {FORMAT}: use the build that wrote it"
    )]
    Format { segment: SegmentId, found: u16 },
    #[error("segment {segment} @0: it belongs to data directory {found:016x}, not {expected:016x}")]
    Instance {
        segment: SegmentId,
        found: u64,
        expected: u64,
    },
    #[error("segment {segment} @0: the file is missing, segment {needed_by} continues it")]
    Missing {
        segment: SegmentId,
        needed_by: SegmentId,
    },
    /// Nothing is left that names them.
    #[error(
        "segment {segment} @{offset}: flushes {first} to {last} were durable and are not there, \
         {bytes} bytes are something else"
    )]
    Lost {
        segment: SegmentId,
        offset: u64,
        bytes: u64,
        first: FlushNumber,
        last: FlushNumber,
    },
    #[error("segment {segment} @{offset}: flush {number} does not pass its check")]
    Rotten {
        segment: SegmentId,
        /// Of the first sector that is not what was written.
        offset: u64,
        number: FlushNumber,
    },
    #[error("segment {segment} @{offset}: flush {found} stands where flush {expected} should be")]
    Misplaced {
        segment: SegmentId,
        offset: u64,
        expected: FlushNumber,
        found: FlushNumber,
    },
    #[error("segment {segment} @{offset}: {error}")]
    Record {
        segment: SegmentId,
        offset: u64,
        error: RecordError,
    },
    /// No flush that is readable holds them.
    #[error("segment {segment} @{offset}: entries {first} to {last} of group {group} are missing")]
    Gap {
        segment: SegmentId,
        /// Of the entry behind the gap.
        offset: u64,
        group: GroupId,
        first: LogIndex,
        last: LogIndex,
    },
}

impl Flaw {
    /// Segment, and offset in it in bytes.
    pub fn place(&self) -> (SegmentId, u64) {
        match *self {
            Self::Header { segment }
            | Self::Format { segment, .. }
            | Self::Instance { segment, .. }
            | Self::Missing { segment, .. } => (segment, 0),
            Self::Lost {
                segment, offset, ..
            }
            | Self::Rotten {
                segment, offset, ..
            }
            | Self::Misplaced {
                segment, offset, ..
            }
            | Self::Record {
                segment, offset, ..
            }
            | Self::Gap {
                segment, offset, ..
            } => (segment, offset),
        }
    }
}
