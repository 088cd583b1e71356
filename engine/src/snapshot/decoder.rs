//! A snapshot's bytes to chunks, or only to whether they are whole.

use alloc::vec::Vec;

use super::block::Kind;
use super::reader::{Block, Part, Reader};
use super::{Header, SnapshotError, Summary};

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Comes first.
    Header(&'a Header),
    Chunk(&'a [u8]),
}

/// Reads a snapshot as it arrives: [`Decoder::push`] what there is, take events with [`Decoder::next`] until
/// there is none, and ask [`Decoder::finish`] at the end of the bytes.
///
/// It holds one chunk, and what was pushed but not taken: at most one block and one push.
pub struct Decoder {
    reader: Reader,
    chunk_bytes_max: usize,
    /// A chunk that is gathered, or was given out. Never shrinks: what is behind `gathered` is left from
    /// earlier ones.
    chunk: Vec<u8>,
    /// Bytes of the chunk that are there.
    gathered: usize,
    /// The chunk was given out.
    taken: bool,
}

impl Decoder {
    /// `chunk_bytes_max` bounds the memory that foreign bytes can ask for.
    pub fn new(chunk_bytes_max: usize) -> Self {
        Self {
            reader: Reader::new(),
            chunk_bytes_max,
            chunk: Vec::new(),
            gathered: 0,
            taken: false,
        }
    }

    /// The next bytes of the stream, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.reader.header()
    }

    /// What was read next; `None` if more bytes are needed, or the end was read.
    #[expect(
        clippy::should_implement_trait,
        reason = "events borrow from the decoder, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, SnapshotError> {
        if self.taken {
            self.gathered = 0;
            self.taken = false;
        }
        while let Some(part) = self.reader.next()? {
            let block = match part {
                Part::Header => return Ok(self.reader.header().map(Event::Header)),
                Part::Block(block) => block,
            };
            if let Err(error) = self.check(&block) {
                return Err(self.reader.fail(error));
            }
            let last = block.head.kind == Kind::Last;
            if last && self.gathered == 0 && block.head.stored == block.head.raw {
                // All of a chunk, as it is: nothing to gather.
                return Ok(Some(Event::Chunk(self.reader.stored(&block))));
            }
            if let Err(error) = self.append(&block) {
                return Err(self.reader.fail(error));
            }
            if last {
                self.taken = true;
                return Ok(Some(Event::Chunk(&self.chunk[..self.gathered])));
            }
        }
        Ok(None)
    }

    /// Whether a block fits its chunk.
    fn check(&self, block: &Block) -> Result<(), SnapshotError> {
        if self.gathered + block.head.raw as usize > self.chunk_bytes_max {
            let (offset, max) = (block.offset, self.chunk_bytes_max);
            return Err(SnapshotError::ChunkTooLong { offset, max });
        }
        Ok(())
    }

    fn append(&mut self, block: &Block) -> Result<(), SnapshotError> {
        let head = &block.head;
        let stored = self.reader.stored(block);
        let (start, end) = (self.gathered, self.gathered + head.raw as usize);
        if self.chunk.len() < end {
            self.chunk.resize(end, 0);
        }
        let to = &mut self.chunk[start..end];
        self.gathered = end;
        if head.stored == head.raw {
            to.copy_from_slice(stored);
            return Ok(());
        }
        match lz4_flex::block::decompress_into(stored, to) {
            Ok(bytes) if bytes == to.len() => Ok(()),
            _ => Err(SnapshotError::Compressed {
                offset: block.offset,
                number: head.number,
                bytes: head.raw,
            }),
        }
    }

    /// What the snapshot was. Only now is it known to be whole.
    ///
    /// # Panics
    ///
    /// If there are events that were not taken.
    pub fn finish(self) -> Result<Summary, SnapshotError> {
        self.reader.finish()
    }
}

/// Checks a snapshot as it arrives, without decompressing it: every checksum, every length, every count.
pub struct Verifier(Reader);

impl Verifier {
    #[expect(
        clippy::new_without_default,
        reason = "to verify nothing is not a default of anything"
    )]
    pub fn new() -> Self {
        Self(Reader::new())
    }

    /// The next bytes of the stream, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.0.push(bytes);
        while self.0.next()?.is_some() {}
        Ok(())
    }

    /// The header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.0.header()
    }

    /// What the snapshot was, if it was whole.
    pub fn finish(self) -> Result<Summary, SnapshotError> {
        self.0.finish()
    }
}
