//! Chunks to a snapshot's bytes.

use alloc::vec::Vec;

use super::block::{BlockHead, HEAD_BYTES, Kind, TRAILER_BYTES, Trailer};
use super::{ALIGNMENT, BLOCK_BYTES_MAX, Compression, Header, Summary};

/// Makes a snapshot: [`Encoder::new`], each chunk in order, [`Encoder::finish`]. What each of them appends
/// is the stream; the caller takes it away in pieces of any size.
pub struct Encoder {
    compression: Compression,
    index: u64,
    group: u32,
    header_crc: u32,
    summary: Summary,
    compressed: Vec<u8>,
}

impl Encoder {
    /// Appends the header.
    ///
    /// # Panics
    ///
    /// If the membership or a text in the header is longer than it may be.
    pub fn new(header: &Header, to: &mut Vec<u8>) -> Self {
        let start = to.len();
        let header_crc = header.encode(to);
        Self {
            compression: header.compression,
            index: header.index.to_raw(),
            group: header.group.to_raw(),
            header_crc,
            summary: Summary {
                bytes: (to.len() - start) as u64,
                chunk_bytes: 0,
                chunks: 0,
                blocks: 0,
                crc: crc32c::crc32c(&header_crc.to_le_bytes()),
            },
            compressed: Vec::new(),
        }
    }

    /// Bytes appended so far.
    pub fn bytes(&self) -> u64 {
        self.summary.bytes
    }

    /// Appends a chunk.
    ///
    /// # Panics
    ///
    /// If it is empty.
    pub fn chunk(&mut self, chunk: &[u8], to: &mut Vec<u8>) {
        assert!(!chunk.is_empty(), "a chunk has bytes");
        let mut parts = chunk.chunks(BLOCK_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            let more = parts.peek().is_some();
            self.data(if more { Kind::Part } else { Kind::Last }, part, to);
        }
        self.summary.chunks += 1;
        self.summary.chunk_bytes += chunk.len() as u64;
    }

    fn data(&mut self, kind: Kind, raw: &[u8], to: &mut Vec<u8>) {
        let mut compressed = core::mem::take(&mut self.compressed);
        let shorter = self.compression == Compression::Lz4 && compress(raw, &mut compressed);
        let stored = if shorter { &compressed } else { raw };
        self.block(kind, raw.len(), stored, to);
        self.compressed = compressed;
    }

    fn block(&mut self, kind: Kind, raw: usize, stored: &[u8], to: &mut Vec<u8>) {
        self.summary.blocks += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("blocks are short");
        let head = BlockHead {
            kind,
            number: self.summary.blocks,
            stored: length(stored.len()),
            raw: length(raw),
            crc: crc32c::crc32c(stored),
        };
        let crc = head.encode(self.header_crc, to);
        to.extend(stored);
        self.summary.crc = crc32c::crc32c_append(self.summary.crc, &crc.to_le_bytes());
        self.summary.bytes += (HEAD_BYTES + stored.len()) as u64;
    }

    /// Appends the end; the stream is a multiple of [`ALIGNMENT`] long then.
    pub fn finish(mut self, to: &mut Vec<u8>) -> Summary {
        let end = self.summary.bytes + (HEAD_BYTES + TRAILER_BYTES) as u64;
        let padding = end.next_multiple_of(ALIGNMENT as u64) - end;
        let zeroes = [0; ALIGNMENT];
        let zeroes = &zeroes[..usize::try_from(padding).expect("less than the alignment")];
        self.block(Kind::End, 0, zeroes, to);
        self.summary.bytes += TRAILER_BYTES as u64;
        let trailer = Trailer {
            summary: self.summary,
            index: self.index,
            group: self.group,
            header_crc: self.header_crc,
        };
        trailer.encode(to);
        self.summary
    }
}

/// Compresses into a buffer; whether that made it shorter.
fn compress(raw: &[u8], to: &mut Vec<u8>) -> bool {
    to.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    let bytes = lz4_flex::block::compress_into(raw, to);
    let bytes = bytes.expect("the buffer has room for what does not become shorter");
    to.truncate(bytes);
    bytes < raw.len()
}
