//! A snapshot's bytes, as they arrive, to checked blocks.

use alloc::vec::Vec;
use core::ops::Range;

use super::block::{BlockHead, HEAD_BYTES, Kind, TRAILER_BYTES, Trailer};
use super::header::PREFIX_BYTES;
use super::{Compression, Header, SnapshotError, Summary};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Block,
    Trailer,
    Done,
}

/// Something that is whole and has the right checksums.
pub(super) enum Part {
    Header,
    Block(Block),
}

/// A block of a chunk.
pub(super) struct Block {
    pub(super) head: BlockHead,
    /// Where its head began in the stream.
    pub(super) offset: u64,
    place: Range<usize>,
}

/// Cuts the stream.
pub(super) struct Reader {
    stage: Stage,
    header: Option<Header>,
    header_crc: u32,
    summary: Summary,
    /// The last block was a part of a chunk that goes on.
    open: bool,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read.
    read: usize,
    failed: Option<SnapshotError>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Header,
            header: None,
            header_crc: 0,
            summary: Summary {
                bytes: 0,
                chunk_bytes: 0,
                chunks: 0,
                blocks: 0,
                crc: 0,
            },
            open: false,
            buffer: Vec::new(),
            read: 0,
            failed: None,
        }
    }

    pub(super) fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes of a block, until the next ones are asked for.
    pub(super) fn stored(&self, block: &Block) -> &[u8] {
        &self.buffer[block.place.clone()]
    }

    /// The next part, once all of it is there. What went wrong once stays wrong.
    pub(super) fn next(&mut self) -> Result<Option<Part>, SnapshotError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let part = self.part();
        self.failed = part.as_ref().err().copied();
        part
    }

    /// Notes that what a block holds is wrong.
    pub(super) fn fail(&mut self, error: SnapshotError) -> SnapshotError {
        *self.failed.insert(error)
    }

    fn part(&mut self) -> Result<Option<Part>, SnapshotError> {
        if self.stage == Stage::Header {
            return self.read_header();
        }
        if self.stage == Stage::Block
            && let Some(block) = self.read_block()?
        {
            if block.head.kind != Kind::End {
                return Ok(Some(Part::Block(block)));
            }
            self.read_end(&block)?;
        }
        if self.stage == Stage::Trailer {
            self.read_trailer()?;
        }
        if self.stage == Stage::Done && self.read < self.buffer.len() {
            let offset = self.summary.bytes;
            return Err(SnapshotError::Behind { offset });
        }
        Ok(None)
    }

    /// Takes bytes from the front, if there are as many.
    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let place = self.read..self.read.checked_add(bytes)?;
        if place.end > self.buffer.len() {
            return None;
        }
        self.read = place.end;
        self.summary.bytes += bytes as u64;
        Some(place)
    }

    fn read_header(&mut self) -> Result<Option<Part>, SnapshotError> {
        let there = &self.buffer[self.read..];
        if there.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let bytes = Header::length(there)?;
        let Some(place) = self.take(bytes) else {
            return Ok(None);
        };
        let (header, crc) = Header::decode(&self.buffer[place])?;
        self.header = Some(header);
        self.header_crc = crc;
        self.summary.crc = crc32c::crc32c(&crc.to_le_bytes());
        self.stage = Stage::Block;
        Ok(Some(Part::Header))
    }

    fn read_block(&mut self) -> Result<Option<Block>, SnapshotError> {
        let offset = self.summary.bytes;
        let there = &self.buffer[self.read..];
        let Some(head) = there.get(..HEAD_BYTES) else {
            return Ok(None);
        };
        let header = self.header.as_ref().expect("blocks come behind it");
        let compressed = header.compression != Compression::None;
        let (head, own_crc) = BlockHead::decode(head, offset, self.header_crc, compressed)?;
        let (expected, found) = (self.summary.blocks + 1, head.number);
        if expected != found {
            return Err(SnapshotError::Number {
                offset,
                expected,
                found,
            });
        }
        let Some(mut place) = self.take(HEAD_BYTES + head.stored as usize) else {
            return Ok(None);
        };
        place.start += HEAD_BYTES;
        let (expected, found) = (head.crc, crc32c::crc32c(&self.buffer[place.clone()]));
        if expected != found {
            return Err(SnapshotError::Checksum {
                offset,
                part: "block",
                expected,
                found,
            });
        }
        self.summary.blocks += 1;
        self.summary.crc = crc32c::crc32c_append(self.summary.crc, &own_crc.to_le_bytes());
        self.summary.chunk_bytes += u64::from(head.raw);
        self.summary.chunks += u64::from(head.kind == Kind::Last);
        if head.kind != Kind::End {
            self.open = head.kind == Kind::Part;
        }
        Ok(Some(Block {
            head,
            offset,
            place,
        }))
    }

    fn read_end(&mut self, end: &Block) -> Result<(), SnapshotError> {
        let offset = end.offset;
        if self.open {
            return Err(SnapshotError::ChunkOpen { offset });
        }
        if self.stored(end).iter().any(|&byte| byte != 0) {
            let part = "padding";
            return Err(SnapshotError::Zero { offset, part });
        }
        self.stage = Stage::Trailer;
        Ok(())
    }

    fn read_trailer(&mut self) -> Result<(), SnapshotError> {
        let offset = self.summary.bytes;
        let Some(place) = self.take(TRAILER_BYTES) else {
            return Ok(());
        };
        let header = self.header.as_ref().expect("the trailer comes behind it");
        let found = Trailer {
            summary: self.summary,
            index: header.index.to_raw(),
            group: header.group.to_raw(),
            header_crc: self.header_crc,
        };
        found.check(&self.buffer[place], offset)?;
        self.stage = Stage::Done;
        Ok(())
    }

    /// What it was, if it was whole.
    pub(super) fn finish(mut self) -> Result<Summary, SnapshotError> {
        let unread = self.next()?.is_some();
        assert!(!unread, "everything is read before the end is asked for");
        let part = match self.stage {
            Stage::Header => "header",
            Stage::Block => "blocks",
            Stage::Trailer => "trailer",
            Stage::Done => return Ok(self.summary),
        };
        let offset = self.summary.bytes + (self.buffer.len() - self.read) as u64;
        Err(SnapshotError::Incomplete { offset, part })
    }
}
