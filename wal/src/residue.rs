//! What the sectors of a segment held before it was taken into use.
//!
//! A new segment is written with zeroes, so a sector of zeroes is one that was never written. A
//! recycled segment still holds what it held before; its last blocks tell the checksum of each of
//! those sectors, so that even there a write that never happened is told from rot.
//!
//! ```text
//!  0        4             8                             512
//!  ┌────────┬─────────────┬─────────────────────────────┐
//!  │ crc    │ generation  │ 126 × crc of a sector       │  one of the sectors at the end
//!  │ u32    │ u32         │ u32 each                    │  of a recycled segment
//!  └────────┴─────────────┴─────────────────────────────┘
//!           ╰──────────── crc32c covers ────────────────╯
//! ```

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use crate::bytes::{read_u32, write};
use crate::flush::{Body, FlushHeader, Start, table};
use crate::segment::{BLOCK, SECTOR, SegmentId, UNREADABLE};

/// Checksums that one sector of the table holds.
const PER_SECTOR: usize = (SECTOR - 8) / 4;

/// A table of which fewer bytes are not zero was never written: some bit of it flipped.
const FEW: usize = 8;

/// Where the flushes of a segment of this size end at the latest: the table is behind them.
pub(crate) const fn room(segment_bytes: u64) -> u64 {
    let sectors = segment_bytes / SECTOR as u64;
    let table = sectors.div_ceil(PER_SECTOR as u64) * SECTOR as u64;
    segment_bytes.saturating_sub(table.next_multiple_of(BLOCK as u64))
}

/// A segment's bytes as they are read: where flushes can be, and what was there before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area<'a> {
    generation: SegmentId,
    /// From the start of the segment on, in whole blocks.
    pub(crate) bytes: &'a [u8],
    table: &'a [u8],
    /// The file is shorter than it was made.
    shortened: bool,
    /// And ends where flushes may have been.
    cut_off: bool,
}

/// What is known of a sector before its segment was taken into use.
enum Known {
    Zeroes,
    Sum(u32),
    /// The table that says so has rotted, or is gone.
    Nothing,
}

impl<'a> Area<'a> {
    /// Of a segment that was made `segment_bytes` long; `bytes` may be fewer.
    pub(crate) fn new(generation: SegmentId, segment_bytes: u64, bytes: &'a [u8]) -> Self {
        // A file that became shorter may have no room at all.
        let room = usize::try_from(room(segment_bytes)).unwrap_or(usize::MAX);
        let room = room.max(BLOCK);
        let whole = bytes.len() - bytes.len() % BLOCK;
        Self {
            generation,
            bytes: &bytes[..whole.min(room)],
            table: bytes.get(room..).unwrap_or_default(),
            shortened: (bytes.len() as u64) < segment_bytes,
            cut_off: bytes.len() < room,
        }
    }

    /// The same, but nothing from `end` on is looked at.
    pub(crate) fn up_to(self, end: u64) -> Self {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let there = end.min(self.bytes.len());
        Self {
            bytes: &self.bytes[..there - there % BLOCK],
            cut_off: self.cut_off && end > there,
            ..self
        }
    }

    /// What stands where a flush may start.
    pub(crate) fn start(&self, offset: usize) -> Start {
        match FlushHeader::decode(&self.bytes[offset..]) {
            Some(header) if header.generation == self.generation => Start::Header(header),
            _ if self.is_unwritten(offset) => Start::Unwritten,
            _ => Start::Rotten,
        }
    }

    /// Checks the flush at an offset, which fits the area, against its checksums.
    pub(crate) fn check(&self, offset: usize, header: &FlushHeader) -> Body {
        let flush = &self.bytes[offset..][..header.blocks as usize * BLOCK];
        header.check(flush, |sector| self.is_unwritten(offset + sector * SECTOR))
    }

    /// Whether the sector at an offset is as it was before the segment was taken into use.
    pub(crate) fn is_unwritten(&self, offset: usize) -> bool {
        let sector = &self.bytes[offset..][..SECTOR];
        match self.before(offset / SECTOR) {
            Known::Sum(crc) => crc32c::crc32c(sector) == crc,
            Known::Zeroes => is_zero(sector),
            Known::Nothing => false,
        }
    }

    /// Whether the file ends where flushes may have been: no crash does that to one that was in use.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Whether the device does not give some block from an offset on.
    pub(crate) fn has_unreadable(&self, offset: usize) -> bool {
        let mut blocks = self.bytes[offset..].chunks_exact(BLOCK);
        blocks.any(|block| block.iter().all(|&byte| byte == UNREADABLE))
    }

    /// Whether this may be a segment that was never begun, or of which the first write was torn: what its
    /// header's place holds is what it held before, and so is the start of its first flush, or it is whole.
    pub(crate) fn may_be_new(&self) -> bool {
        let Some(block) = self.bytes.get(..BLOCK) else {
            return true;
        };
        let header = match self.before(0) {
            Known::Sum(crc) => crc32c::crc32c(&block[..SECTOR]) == crc,
            Known::Zeroes => is_zero(&block[..SECTOR]),
            // A table that rots in a file that is not used yet is no reason to miss anything.
            Known::Nothing => true,
        };
        let begun = self.bytes.len() > BLOCK;
        let rotten = begun && self.start(BLOCK) == Start::Rotten;
        let spoiled = rotten || self.shortened || self.has_unreadable(0);
        header && !spoiled
    }

    /// What a sector held before.
    fn before(&self, sector: usize) -> Known {
        let at = sector / PER_SECTOR * SECTOR;
        let Some(table) = self.table.get(at..at + SECTOR) else {
            return if self.shortened {
                Known::Nothing
            } else {
                Known::Zeroes
            };
        };
        let sound = read_u32(table, 4) == self.generation.to_raw()
            && crc32c::crc32c(&table[4..]) == read_u32(table, 0);
        if sound {
            Known::Sum(read_u32(table, 8 + sector % PER_SECTOR * 4))
        } else if table.iter().filter(|&&byte| byte != 0).count() <= FEW {
            Known::Zeroes
        } else {
            Known::Nothing
        }
    }
}

fn is_zero(sector: &[u8]) -> bool {
    sector.iter().all(|&byte| byte == 0)
}

/// Memory for checksums. A segment that is begun when they would take more is not recycled.
const BYTES_MAX: usize = 24 << 20;

/// The checksums of all sectors of the segments that this writer has begun.
#[derive(Debug)]
pub(crate) struct Residues {
    sectors: usize,
    table_bytes: usize,
    /// A zero stands for a sector that was not written.
    sums: BTreeMap<SegmentId, Vec<u32>>,
    /// Segments that were begun when there was no memory for theirs.
    unknown: BTreeSet<SegmentId>,
}

impl Residues {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let fits = |bytes| usize::try_from(bytes).expect("a segment fits memory");
        let room = room(segment_bytes);
        Self {
            sectors: fits(room / SECTOR as u64),
            table_bytes: fits(segment_bytes - room),
            sums: BTreeMap::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// A segment is about to be begun with its header.
    pub(crate) fn begin(&mut self, segment: SegmentId, header: &[u8]) {
        let sectors = self.sectors;
        let full = (self.sums.len() + 1) * sectors * size_of::<u32>() > BYTES_MAX;
        // They are there already if the file is a recycled one.
        let known = self.sums.contains_key(&segment);
        if self.unknown.contains(&segment) || full && !known {
            self.unknown.insert(segment);
            return;
        }
        let sums = self.sums.entry(segment);
        sum_up(sums.or_insert_with(|| vec![0; sectors]), header);
    }

    /// A flush of so many blocks is about to be written, with this header and table.
    pub(crate) fn flush(&mut self, segment: SegmentId, offset: u64, head: &[u8], blocks: usize) {
        let Some(sums) = self.sums.get_mut(&segment) else {
            return;
        };
        let first = usize::try_from(offset / SECTOR as u64).expect("a segment fits memory");
        sum_up(&mut sums[first..], head);
        let body = sums[first + head.len() / SECTOR..].iter_mut();
        for (sum, known) in body.zip(table(head, blocks)) {
            *sum = known;
        }
    }

    /// Whether what the segment holds is known.
    pub(crate) fn knows(&self, segment: SegmentId) -> bool {
        self.sums.contains_key(&segment)
    }

    /// The table that makes the file of one segment another's.
    pub(crate) fn recycle(&mut self, from: SegmentId, to: SegmentId) -> Vec<u8> {
        let before = self.sums.remove(&from);
        let mut before = before.expect("only what this writer has begun is recycled");
        let zeroes = crc32c::crc32c(&[0; SECTOR]);
        for sum in before.iter_mut().filter(|sum| **sum == 0) {
            *sum = zeroes;
        }
        let mut bytes = vec![0; self.table_bytes];
        for (sector, known) in bytes
            .chunks_exact_mut(SECTOR)
            .zip(before.chunks(PER_SECTOR))
        {
            write(sector, 4, &to.to_raw().to_le_bytes());
            for (position, sum) in known.iter().enumerate() {
                write(sector, 8 + position * 4, &sum.to_le_bytes());
            }
            let crc = crc32c::crc32c(&sector[4..]);
            write(sector, 0, &crc.to_le_bytes());
        }
        match self.sums.get_mut(&to) {
            // What was laid out for it stays.
            Some(written) => {
                let untouched = written.iter_mut().zip(before).filter(|(sum, _)| **sum == 0);
                untouched.for_each(|(sum, before)| *sum = before);
            }
            None if self.unknown.contains(&to) => {}
            None => {
                self.sums.insert(to, before);
            }
        }
        bytes
    }

    /// Nobody knows what the segment holds.
    pub(crate) fn disregard(&mut self, segment: SegmentId) {
        self.unknown.insert(segment);
    }

    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.sums.remove(&segment);
        self.unknown.remove(&segment);
    }
}

fn sum_up(sums: &mut [u32], bytes: &[u8]) {
    for (sum, sector) in sums.iter_mut().zip(bytes.chunks_exact(SECTOR)) {
        *sum = crc32c::crc32c(sector);
    }
}
