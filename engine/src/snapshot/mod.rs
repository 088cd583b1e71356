#![doc = include_str!("README.md")]

mod block;
mod decoder;
mod encoder;
mod header;
mod reader;

pub use decoder::{Decoder, Event, Verifier};
pub use encoder::Encoder;
pub use header::{
    Compression, Header, MEMBERS_MAX, MadeError, Member, MemberRole, Membership, machine,
};

/// The format that this build writes and reads.
pub const FORMAT: u16 = 1;

/// A snapshot is a multiple of this long.
pub const ALIGNMENT: usize = 4096;

/// Bytes of a block, decompressed; longer chunks take several.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// What a whole snapshot turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of the stream, the padding too.
    pub bytes: u64,
    /// Of all chunks, decompressed.
    pub chunk_bytes: u64,
    pub chunks: u64,
    /// The end too.
    pub blocks: u64,
    /// Over the checksums of header and blocks: it names the content.
    pub crc: u32,
}

/// Why bytes are not a snapshot. Offsets are those in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    #[error("@{offset}: no {part} begins here, but {found:#010x}")]
    Magic {
        offset: u64,
        part: &'static str,
        found: u32,
    },
    #[error(
        "the snapshot has format {found}, this build reads {supported}: use the build that wrote it"
    )]
    Format { found: u16, supported: u16 },
    #[error(
        "@{offset}: the crc of the {part} is {found:#010x}, it should be {expected:#010x}: the bytes have changed since they were written"
    )]
    Checksum {
        offset: u64,
        part: &'static str,
        expected: u32,
        found: u32,
    },
    #[error("@{offset}: the {part} says it has {bytes} bytes, it has {min} to {max}")]
    Length {
        offset: u64,
        part: &'static str,
        bytes: u64,
        min: u64,
        max: u64,
    },
    #[error("@{offset}: this build knows no {what} {found}")]
    Unknown {
        offset: u64,
        what: &'static str,
        found: u8,
    },
    #[error("@{offset}: the {part} has bytes that should be zero")]
    Zero { offset: u64, part: &'static str },
    #[error("@{offset}: the header's parts do not add up to its length")]
    HeaderParts { offset: u64 },
    #[error("@{offset}: the cluster id is no text")]
    ClusterId { offset: u64 },
    #[error("@{offset}: block {found} where {expected} should be: blocks are missing or mixed up")]
    Number {
        offset: u64,
        expected: u64,
        found: u64,
    },
    #[error("@{offset}: block {number} does not decompress to {bytes} bytes")]
    Compressed {
        offset: u64,
        number: u64,
        bytes: u32,
    },
    #[error(
        "@{offset}: a chunk of more than {max} bytes: raise the limits to what they were when the snapshot was made"
    )]
    ChunkTooLong { offset: u64, max: usize },
    #[error("@{offset}: the blocks end in the middle of a chunk")]
    ChunkOpen { offset: u64 },
    #[error("@{offset}: {what}: the trailer says {expected}, {found} was found")]
    Trailer {
        offset: u64,
        what: &'static str,
        expected: u64,
        found: u64,
    },
    #[error("@{offset}: the snapshot has ended, but bytes follow")]
    Behind { offset: u64 },
    #[error("@{offset}: the bytes end in the middle of the {part}: the snapshot is incomplete")]
    Incomplete { offset: u64, part: &'static str },
}
