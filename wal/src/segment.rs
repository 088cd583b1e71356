//! Segments: files of fixed size, written with zeroes once and recycled, each linked to the one before.
//!
//! ```text
//!  0        4     6     8            12           16           24            32         40      44      60
//!  ┌────────┬─────┬─────┬────────────┬────────────┬────────────┬─────────────┬──────────┬───────┬───────┬──────┐
//!  │ magic  │ fmt │ 0   │ generation │ previous   │ previous   │ first flush │ instance │ bytes │ 0 … 0 │ crc  │
//!  │ DKSG   │ u16 │ u16 │ u32        │ generation │ end u64    │ u64         │ u64      │ u32   │       │ u32  │
//!  └────────┴─────┴─────┴────────────┴────────────┴────────────┴─────────────┴──────────┴───────┴───────┴──────┘
//! ```

use core::fmt;

use crate::FlushNumber;
use crate::bytes::{read_u16, read_u32, read_u64, write};
use crate::coordinates::COUNT_MAX;

/// What the device writes as a whole, and what every flush is padded to.
pub const BLOCK: usize = 4096;

/// What the device writes or does not write, never half.
pub const SECTOR: usize = 512;

/// Stands for bytes that the device does not give: no header, record or unwritten sector looks like it.
pub const UNREADABLE: u8 = 0xee;

/// The format of segments and flushes that this build writes and reads.
pub const FORMAT: u16 = 3;

const MAGIC: u32 = u32::from_le_bytes(*b"DKSG");
const CRC_AT: usize = 60;

/// A segment, named by its generation: never used again, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u32);

impl SegmentId {
    /// Wraps the number in a file's name.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number, for a file's name.
    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// The segment that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Where the valid part of an older segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) segment: SegmentId,
    pub(crate) end: u64,
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: SegmentId,
    pub(crate) previous: Option<Link>,
    pub(crate) first_flush: FlushNumber,
    pub(crate) instance: u64,
    /// How long the segment was made.
    pub(crate) bytes: u32,
}

/// What a first block says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    Header(SegmentHeader),
    /// It was not written since the segment was taken into use.
    Unwritten,
    /// Neither: sectors are never half written, so it has rotted.
    Rotten,
    /// Of a format this build cannot read.
    Format(u16),
}

fn is_sound(block: &[u8]) -> bool {
    read_u32(block, 0) == MAGIC
        && read_u32(block, 8) < u32::MAX
        && read_u32(block, 12) < u32::MAX
        && read_u64(block, 24) <= COUNT_MAX
        && crc32c::crc32c(&block[..CRC_AT]) == read_u32(block, CRC_AT)
}

/// How long a segment's file was made, if its first block says so, whichever segment's it is.
pub(crate) fn made_bytes(block: &[u8]) -> Option<u32> {
    (block.len() >= SECTOR && is_sound(block)).then(|| read_u32(block, 40))
}

impl SegmentHeader {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK, "a segment starts with a block");
        block.fill(0);
        let (previous, end) = self
            .previous
            .map_or((0, 0), |link| (link.segment.0, link.end));
        write(block, 0, &MAGIC.to_le_bytes());
        write(block, 4, &FORMAT.to_le_bytes());
        write(block, 8, &self.id.0.to_le_bytes());
        write(block, 12, &previous.to_le_bytes());
        write(block, 16, &end.to_le_bytes());
        write(block, 24, &self.first_flush.to_raw().to_le_bytes());
        write(block, 32, &self.instance.to_le_bytes());
        write(block, 40, &self.bytes.to_le_bytes());
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        write(block, CRC_AT, &crc.to_le_bytes());
    }

    /// Reads the first block of a segment.
    pub(crate) fn decode(segment: SegmentId, block: &[u8]) -> FirstBlock {
        if block.len() < SECTOR || block[..SECTOR].iter().all(|&byte| byte == 0) {
            return FirstBlock::Unwritten;
        }
        if !is_sound(block) {
            return FirstBlock::Rotten;
        }
        let format = read_u16(block, 4);
        if format != FORMAT {
            return FirstBlock::Format(format);
        }
        let previous = match read_u32(block, 12) {
            0 => None,
            raw => Some(Link {
                segment: SegmentId(raw),
                end: read_u64(block, 16),
            }),
        };
        let id = SegmentId(read_u32(block, 8));
        match id {
            // The file was another segment's before.
            id if id < segment => return FirstBlock::Unwritten,
            id if id > segment => return FirstBlock::Rotten,
            _ => {}
        }
        FirstBlock::Header(Self {
            id,
            previous,
            first_flush: FlushNumber::from_raw(read_u64(block, 24)),
            instance: read_u64(block, 32),
            bytes: read_u32(block, 40),
        })
    }
}
