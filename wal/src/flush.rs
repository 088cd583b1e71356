//! Flushes: what one durable write holds.
//!
//! ```text
//!  0        4     6     8            12        16       24        32     36
//!  ┌────────┬─────┬─────┬────────────┬─────────┬────────┬─────────┬──────┬────────┐
//!  │ magic  │ fmt │flags│ generation │ records │ number │ durable │ body │ blocks │
//!  │ DKFL   │ u16 │ u16 │ u32        │ u32     │ u64    │ u64     │ u32  │ u32    │
//!  ├────────┴─┬───┴─────┴─┬────────┬─┴─────────┴─┬──────┴─────────┴──────┴────────┘
//!  │ instance │ table crc │ copies │ copies at   │ crc  │
//!  │ u64      │ u32       │ u32    │ u32         │ u32  │
//!  └──────────┴───────────┴────────┴─────────────┴──────┘
//!  40         48          52       56            60     64
//!
//!  flags: 1 if the echoes among the records name all that the flush before held,
//!         2 if its heads say how every group stood: it begins its segment, or a start in the middle of it;
//!         from bit 2 on: its life (see `lives`)
//!  table, from 64: CRC32C of each sector of the body, u32 each; zeroes to the end of the sector
//!  body, from the next sector: records; zeroes; copies of hard states; 0xa5 to the end of the block
//! ```

use crate::bytes::{read_u16, read_u32, read_u64, write};
use crate::codec::{Decoded, RecordError, Stamp, decode_record, stamp};
use crate::coordinates::COUNT_MAX;
use crate::segment::{BLOCK, FORMAT, SECTOR, SegmentId};
use crate::{FlushNumber, checksum, codec};

const MAGIC: u32 = u32::from_le_bytes(*b"DKFL");
pub(crate) const HEADER: usize = 64;
const CRC_AT: usize = 60;
const SECTORS_PER_BLOCK: usize = BLOCK / SECTOR;
/// Fills a flush up to its block: padding that was written is told from zeroes that were not.
pub(crate) const PADDING: u8 = 0xa5;

/// How many sectors the header and the table take in a flush of so many blocks.
pub(crate) const fn head_sectors(blocks: usize) -> usize {
    let sectors = blocks * SECTORS_PER_BLOCK;
    let mut head = 1;
    while HEADER + 4 * (sectors - head) > head * SECTOR {
        head += 1;
    }
    head
}

/// Blocks of a flush with so many bytes of body.
pub(crate) fn blocks_for(body_bytes: usize) -> usize {
    let mut blocks = (SECTOR + body_bytes).div_ceil(BLOCK);
    while head_sectors(blocks) * SECTOR + body_bytes > blocks * BLOCK {
        blocks += 1;
    }
    blocks
}

/// The fixed part of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushHeader {
    pub(crate) generation: SegmentId,
    pub(crate) records: u32,
    pub(crate) number: FlushNumber,
    /// Every flush up to this one was known durable when this one was written.
    pub(crate) durable: FlushNumber,
    pub(crate) body_bytes: u32,
    pub(crate) blocks: u32,
    pub(crate) instance: u64,
    /// How many hard states stand a second time in the body, and where.
    pub(crate) copies: u32,
    pub(crate) copies_at: u32,
    /// Its echoes name all that the flush before it held. The first flush of a start cannot.
    pub(crate) names: bool,
    /// Its heads say how every group stood: it is the first of its segment, or of a life.
    pub(crate) opens: bool,
    /// How many starts went on in its segment before it was written.
    pub(crate) life: u16,
}

const NAMES: u16 = 1;
const OPENS: u16 = 2;
const LIFE_SHIFT: u32 = 2;
/// So many starts can go on in one segment.
pub(crate) const LIFE_MAX: u16 = u16::MAX >> LIFE_SHIFT;

/// What the start of a flush says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Header(FlushHeader),
    /// The first sector was never written.
    Unwritten,
    /// Sectors are never half written: it has rotted.
    Rotten,
}

/// What became of the rest of a flush whose header is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Sound,
    /// Some sectors were never written; the others are sound.
    Torn {
        sector: usize,
    },
    /// This sector is neither sound nor unwritten.
    Rotten {
        sector: usize,
    },
}

impl FlushHeader {
    /// Writes the header before a table that is whole.
    pub(crate) fn write(&self, start: &mut [u8]) {
        write(start, 0, &MAGIC.to_le_bytes());
        write(start, 4, &FORMAT.to_le_bytes());
        let names = if self.names { NAMES } else { 0 };
        let opens = if self.opens { OPENS } else { 0 };
        assert!(self.life <= LIFE_MAX, "life {} has its bits", self.life);
        let life = self.life << LIFE_SHIFT;
        write(start, 6, &(names | opens | life).to_le_bytes());
        write(start, 8, &self.generation.to_raw().to_le_bytes());
        write(start, 12, &self.records.to_le_bytes());
        write(start, 16, &self.number.to_raw().to_le_bytes());
        write(start, 24, &self.durable.to_raw().to_le_bytes());
        write(start, 32, &self.body_bytes.to_le_bytes());
        write(start, 36, &self.blocks.to_le_bytes());
        write(start, 40, &self.instance.to_le_bytes());
        let table = crc32c::crc32c(&start[HEADER..]);
        write(start, 48, &table.to_le_bytes());
        write(start, 52, &self.copies.to_le_bytes());
        write(start, 56, &self.copies_at.to_le_bytes());
        let crc = crc32c::crc32c(&start[..CRC_AT]);
        write(start, CRC_AT, &crc.to_le_bytes());
    }

    /// Reads the first sector of what may be a flush.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let sound = read_u32(bytes, 0) == MAGIC
            && read_u16(bytes, 4) == FORMAT
            && crc32c::crc32c(&bytes[..CRC_AT]) == read_u32(bytes, CRC_AT);
        if !sound {
            return None;
        }
        let header = Self {
            generation: SegmentId::from_raw(read_u32(bytes, 8)),
            records: read_u32(bytes, 12),
            number: FlushNumber::from_raw(read_u64(bytes, 16)),
            durable: FlushNumber::from_raw(read_u64(bytes, 24)),
            body_bytes: read_u32(bytes, 32),
            blocks: read_u32(bytes, 36),
            instance: read_u64(bytes, 40),
            copies: read_u32(bytes, 52),
            copies_at: read_u32(bytes, 56),
            names: read_u16(bytes, 6) & NAMES != 0,
            opens: read_u16(bytes, 6) & OPENS != 0,
            life: read_u16(bytes, 6) >> LIFE_SHIFT,
        };
        let blocks = header.blocks as usize;
        let fits = (1..=usize::from(u16::MAX)).contains(&blocks)
            && head_sectors(blocks) * SECTOR + header.body_bytes as usize <= blocks * BLOCK
            && header.holds_its_records()
            && header.durable < header.number
            && header.number.to_raw() <= COUNT_MAX;
        fits.then_some(header)
    }

    /// Whether there is space in the body for as many records as it says.
    fn holds_its_records(&self) -> bool {
        let records = u64::from(self.records) + u64::from(self.copies);
        records * codec::HEADER as u64 <= u64::from(self.body_bytes)
            && self.copies_at <= self.body_bytes
    }

    /// Checks table and body against the sector checksums. `unwritten` tells whether a sector of the
    /// flush is as it was before its segment was taken into use.
    pub(crate) fn check(&self, flush: &[u8], unwritten: impl Fn(usize) -> bool) -> Body {
        let head = head_sectors(self.blocks as usize);
        let (start, body) = flush.split_at(head * SECTOR);
        if crc32c::crc32c(&start[HEADER..]) != read_u32(start, 48) {
            // The sector of the header itself is sound, so only the table's others can be unwritten.
            let torn = (1..head).find(|&sector| unwritten(sector));
            return torn.map_or(Body::Rotten { sector: 0 }, |sector| Body::Torn { sector });
        }
        let mut torn = None;
        let mut rotten = None;
        checksum::for_each(body, 0..body.len() / SECTOR, |position, sum| {
            if sum == read_u32(start, HEADER + 4 * position) {
                return;
            }
            let sector = head + position;
            let state = if unwritten(sector) {
                &mut torn
            } else {
                &mut rotten
            };
            state.get_or_insert(sector);
        });
        match (rotten, torn) {
            (Some(sector), _) => Body::Rotten { sector },
            (None, Some(sector)) => Body::Torn { sector },
            (None, None) => Body::Sound,
        }
    }

    /// Where the body starts in the flush.
    pub(crate) fn body_offset(&self) -> usize {
        head_sectors(self.blocks as usize) * SECTOR
    }

    /// The records' bytes.
    pub(crate) fn body<'a>(&self, flush: &'a [u8]) -> &'a [u8] {
        &flush[self.body_offset()..][..self.body_bytes as usize]
    }
}

/// The records of a flush: where each lies in the body, and what it is, its bytes and its stamp.
pub(crate) fn records_of<'a>(
    header: &'a FlushHeader,
    flush: &'a [u8],
) -> impl Iterator<Item = (usize, Result<(Decoded<'a>, usize, Stamp), RecordError>)> + 'a {
    let body = header.body(flush);
    let mut at = 0;
    (0..header.records + header.copies).map_while(move |position| {
        if position == header.records {
            at = header.copies_at as usize;
        }
        let place = at;
        let bytes = body.get(at..).unwrap_or_default();
        let decoded = decode_record(bytes).map(|(record, length)| {
            at += length;
            (record, length, stamp(bytes))
        });
        Some((place, decoded))
    })
}

/// The checksum of each sector of the body of a flush of so many blocks, by its header and table.
pub(crate) fn table(head: &[u8], blocks: usize) -> impl Iterator<Item = u32> {
    let sectors = blocks * SECTORS_PER_BLOCK - head_sectors(blocks);
    (0..sectors).map(|sector| read_u32(head, HEADER + 4 * sector))
}

/// Where the copies of hard states start in a body: in another block than the originals, which come
/// first, so that no lost block takes both.
pub(crate) fn copies_at(blocks: usize, originals: usize, records_bytes: usize) -> usize {
    let head = head_sectors(blocks) * SECTOR;
    let originals_end = head + originals * codec::HEADER;
    (originals_end.next_multiple_of(BLOCK) - head).max(records_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u64, durable: u64) -> FlushHeader {
        FlushHeader {
            generation: SegmentId::from_raw(1),
            records: 0,
            number: FlushNumber::from_raw(number),
            durable: FlushNumber::from_raw(durable),
            body_bytes: 120,
            blocks: 1,
            instance: 1,
            copies: 0,
            copies_at: 0,
            names: true,
            opens: false,
            life: 0,
        }
    }

    /// What its bytes are taken for.
    fn sealed(header: &FlushHeader) -> Option<FlushHeader> {
        let mut flush = [0; BLOCK];
        header.write(&mut flush[..SECTOR]);
        FlushHeader::decode(&flush)
    }

    #[test]
    fn a_number_that_no_log_reaches_has_rotted_though_its_checksum_is_right() {
        let start = |number, durable| {
            let header = header(number, durable);
            sealed(&header) == Some(header)
        };
        assert!(start(1, 0) && start(9, 8) && start(9, 3));
        assert!(!start(u64::MAX, 8), "nothing can follow");
        assert!(!start(9, 9), "a flush does not know itself durable");
    }

    #[test]
    fn more_records_than_there_is_space_for_have_rotted_though_the_checksum_is_right() {
        let holds = |records, copies, copies_at| {
            let header = FlushHeader {
                records,
                copies,
                copies_at,
                ..header(1, 0)
            };
            sealed(&header) == Some(header)
        };
        assert!(holds(2, 1, 80));
        assert!(!holds(2, 2, 80), "four records are 160 bytes");
        assert!(!holds(u32::MAX, 1, 80));
        assert!(!holds(1, 1, 121), "outside of the body");
    }
}
