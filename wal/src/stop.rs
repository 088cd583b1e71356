//! Where a replay stopped following, and what it saw of the rest of the log.

use crate::flush::FlushHeader;
use crate::segment::BLOCK;
use crate::{FlushNumber, SegmentId};

/// Where a flush was expected that is not whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) part: usize,
    pub(crate) offset: usize,
    /// Where the log ends if it is cut here: in front of what an earlier start left behind, if later lives were
    /// to begin behind that, and none did.
    pub(crate) end: usize,
    /// Some sector of it is neither right nor what it was before.
    pub(crate) rotten: bool,
    /// It may be whole although its segment's header is not.
    pub(crate) itself: bool,
    /// Something of it was written.
    pub(crate) torn: bool,
}

/// A flush whose header is sound, somewhere behind one that is not whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) part: usize,
    pub(crate) offset: usize,
    pub(crate) number: FlushNumber,
    pub(crate) durable: FlushNumber,
    /// A later life may have taken its number again.
    pub(crate) doubtful: bool,
}

/// The headers of flushes in a segment and their offsets, wherever a block starts with one.
pub(crate) fn flushes_of(
    segment: SegmentId,
    instance: u64,
    bytes: &[u8],
) -> impl Iterator<Item = (usize, FlushHeader)> {
    let blocks = bytes.chunks_exact(BLOCK).zip((0..).step_by(BLOCK));
    blocks.filter_map(move |(block, offset)| {
        let header = FlushHeader::decode(block)?;
        let ours = header.generation == segment && header.instance == instance;
        ours.then_some((offset, header))
    })
}
