//! The heads of blocks, and the trailer.

use alloc::vec::Vec;

use super::{BLOCK_BYTES_MAX, FORMAT, SnapshotError, Summary};

const MAGIC: u32 = u32::from_le_bytes(*b"DKSB");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"DKSE");

/// Bytes in front of a block's own.
pub(super) const HEAD_BYTES: usize = 32;

pub(super) const TRAILER_BYTES: usize = 64;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A chunk, or the last part of one.
    Last = 1,
    /// A part of a chunk; more follow.
    Part = 2,
    /// No blocks follow.
    End = 3,
}

/// What stands in front of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) kind: Kind,
    pub(super) number: u64,
    /// Bytes that follow.
    pub(super) stored: u32,
    pub(super) raw: u32,
    /// Of the bytes that follow.
    pub(super) crc: u32,
}

impl BlockHead {
    /// Appends the head; gives its own checksum.
    pub(super) fn encode(&self, header_crc: u32, to: &mut Vec<u8>) -> u32 {
        let start = to.len();
        to.extend(MAGIC.to_le_bytes());
        to.extend([self.kind as u8, 0, 0, 0]);
        to.extend(self.number.to_le_bytes());
        to.extend(self.stored.to_le_bytes());
        to.extend(self.raw.to_le_bytes());
        to.extend(self.crc.to_le_bytes());
        push_crc(header_crc, start, to)
    }

    /// Reads a head, and gives its own checksum. `compressed`: whether blocks may be.
    pub(super) fn decode(
        bytes: &[u8],
        offset: u64,
        header_crc: u32,
        compressed: bool,
    ) -> Result<(Self, u32), SnapshotError> {
        let found = u32_at(bytes, 0);
        if found != MAGIC {
            return Err(SnapshotError::Magic {
                offset,
                part: "block",
                found,
            });
        }
        let own_crc = check_crc(header_crc, bytes, offset, "block's head")?;
        if bytes[5..8] != [0; 3] {
            let part = "block's head";
            return Err(SnapshotError::Zero { offset, part });
        }
        let kind = match bytes[4] {
            1 => Kind::Last,
            2 => Kind::Part,
            3 => Kind::End,
            found => {
                return Err(SnapshotError::Unknown {
                    offset: offset + 4,
                    what: "kind of block",
                    found,
                });
            }
        };
        let head = Self {
            kind,
            number: u64_at(bytes, 8),
            stored: u32_at(bytes, 16),
            raw: u32_at(bytes, 20),
            crc: u32_at(bytes, 24),
        };
        head.check_lengths(offset, compressed)?;
        Ok((head, own_crc))
    }

    fn check_lengths(&self, offset: u64, compressed: bool) -> Result<(), SnapshotError> {
        let length = |at, bytes: u32, min: u64, max: u64| match bytes {
            bytes if (min..=max).contains(&bytes.into()) => Ok(()),
            bytes => Err(SnapshotError::Length {
                offset: offset + at,
                part: "block",
                bytes: bytes.into(),
                min,
                max,
            }),
        };
        let raw = u64::from(self.raw);
        if self.kind == Kind::End {
            length(20, self.raw, 0, 0)?;
            return length(16, self.stored, 0, super::ALIGNMENT as u64 - 1);
        }
        length(20, self.raw, 1, BLOCK_BYTES_MAX as u64)?;
        length(16, self.stored, if compressed { 1 } else { raw }, raw)
    }
}

/// What the last bytes say of everything before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) summary: Summary,
    pub(super) index: u64,
    pub(super) group: u32,
    pub(super) header_crc: u32,
}

impl Trailer {
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend(TRAILER_MAGIC.to_le_bytes());
        to.extend(FORMAT.to_le_bytes());
        to.extend([0; 2]);
        to.extend(self.summary.blocks.to_le_bytes());
        to.extend(self.summary.chunks.to_le_bytes());
        to.extend(self.summary.chunk_bytes.to_le_bytes());
        to.extend(self.summary.bytes.to_le_bytes());
        to.extend(self.index.to_le_bytes());
        to.extend(self.group.to_le_bytes());
        to.extend(self.header_crc.to_le_bytes());
        to.extend(self.summary.crc.to_le_bytes());
        push_crc(0, start, to);
        assert_eq!(to.len() - start, TRAILER_BYTES);
    }

    /// Whether the bytes at `offset` say what was found.
    pub(super) fn check(&self, bytes: &[u8], offset: u64) -> Result<(), SnapshotError> {
        let found = u32_at(bytes, 0);
        if found != TRAILER_MAGIC {
            return Err(SnapshotError::Magic {
                offset,
                part: "trailer",
                found,
            });
        }
        check_crc(0, bytes, offset, "trailer")?;
        let (found, supported) = (u16_at(bytes, 4), FORMAT);
        if found != supported {
            return Err(SnapshotError::Format { found, supported });
        }
        if bytes[6..8] != [0; 2] {
            let part = "trailer";
            return Err(SnapshotError::Zero { offset, part });
        }
        let equal = |at: usize, expected: u64, what, found: u64| match expected == found {
            true => Ok(()),
            false => Err(SnapshotError::Trailer {
                offset: offset + at as u64,
                what,
                expected,
                found,
            }),
        };
        let summary = &self.summary;
        equal(8, u64_at(bytes, 8), "blocks", summary.blocks)?;
        equal(16, u64_at(bytes, 16), "chunks", summary.chunks)?;
        equal(
            24,
            u64_at(bytes, 24),
            "bytes of chunks",
            summary.chunk_bytes,
        )?;
        equal(32, u64_at(bytes, 32), "bytes", summary.bytes)?;
        equal(40, u64_at(bytes, 40), "index", self.index)?;
        let small = |at| u64::from(u32_at(bytes, at));
        equal(48, small(48), "group", self.group.into())?;
        equal(52, small(52), "crc of the header", self.header_crc.into())?;
        equal(56, small(56), "crc of all blocks", summary.crc.into())
    }
}

/// Appends the checksum of what was appended since `start`, continued from `seed`.
pub(super) fn push_crc(seed: u32, start: usize, to: &mut Vec<u8>) -> u32 {
    let crc = crc32c::crc32c_append(seed, &to[start..]);
    to.extend(crc.to_le_bytes());
    crc
}

/// Compares the last four bytes with the checksum of those before.
fn check_crc(
    seed: u32,
    bytes: &[u8],
    offset: u64,
    part: &'static str,
) -> Result<u32, SnapshotError> {
    let (content, crc) = bytes.split_at(bytes.len() - 4);
    let (expected, found) = (u32_at(crc, 0), crc32c::crc32c_append(seed, content));
    if expected == found {
        return Ok(found);
    }
    Err(SnapshotError::Checksum {
        offset,
        part,
        expected,
        found,
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes[at..at + N].try_into();
    field.expect("the slice has this length")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}
