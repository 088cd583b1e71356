//! The bytes of a flush while they are made: in little memory, which stays in the processor's caches, and
//! given away piece by piece. The start of a flush stays until the end: its header tells of all that follows.

use alloc::vec::Vec;
use core::slice;

use crate::codec::{Role, Stamp, encode_unit};
use crate::flush::{FlushHeader, HEADER, PADDING};
use crate::run::Unit;
use crate::segment::{BLOCK, SECTOR};
use crate::{Record, checksum};

/// Memory that is kept for flushes to come.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Where the parts of a flush are, from where its write begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Where its header is: behind that of its segment if it begins that.
    pub(crate) flush_at: usize,
    pub(crate) body_at: usize,
    /// All of it.
    pub(crate) bytes: usize,
}

impl Shape {
    /// What stays until the end: up to the first block that holds nothing but body.
    fn start_bytes(&self) -> usize {
        self.body_at.next_multiple_of(BLOCK)
    }
}

/// A flush whose records are put in it one by one.
pub(crate) struct Layout<'a, D> {
    /// The start of the flush, and behind it what was not given away yet.
    memory: &'a mut Vec<u8>,
    shape: Shape,
    /// How far it was given away, but for the start.
    given: usize,
    /// Bytes of the body that are final.
    pub(crate) at: usize,
    /// Fingerprint of the losses that are known to whoever writes.
    losses: u64,
    piece_bytes_min: usize,
    done: D,
}

impl<'a, D: FnMut(usize, &[u8])> Layout<'a, D> {
    /// Begins a flush in some memory, whatever it holds. `done` is given pieces of at least so many bytes.
    pub(crate) fn new(
        memory: &'a mut Vec<u8>,
        shape: Shape,
        losses: u64,
        piece_bytes_min: usize,
        done: D,
    ) -> Self {
        let start = shape.start_bytes();
        if memory.len() < start {
            memory.resize(start, 0);
        }
        memory[shape.flush_at..shape.body_at].fill(0);
        Self {
            memory,
            shape,
            given: start,
            at: 0,
            losses,
            piece_bytes_min,
            done,
        }
    }

    /// What comes before the flush in its write.
    pub(crate) fn before_flush(&mut self) -> &mut [u8] {
        &mut self.memory[..self.shape.flush_at]
    }

    pub(crate) fn put_one(&mut self, record: &Record, role: Role) {
        self.put(slice::from_ref(record), &Unit::alone(record), role);
    }

    /// Puts records that are one on the disk.
    pub(crate) fn put(&mut self, records: &[Record], unit: &Unit, role: Role) {
        let stamp = Stamp {
            role,
            losses: self.losses,
        };
        let (body, table, at) = self.place(unit.bytes);
        encode_unit(records, unit, stamp, (body, at), table);
        self.at += unit.bytes;
        let made = (self.shape.body_at + self.at) / BLOCK * BLOCK;
        if made.saturating_sub(self.given) >= self.piece_bytes_min {
            self.give(made);
        }
    }

    /// Leaves zeroes up to here.
    pub(crate) fn skip_to(&mut self, to: usize) {
        let bytes = to - self.at;
        let (body, _, at) = self.place(bytes);
        body[at..][..bytes].fill(0);
        self.at = to;
    }

    /// What is in memory of the body, from a sector on, the table from that sector on, and where in that
    /// body the next so many bytes have their place.
    fn place(&mut self, bytes: usize) -> (&mut [u8], &mut [u8], usize) {
        let from = self.from();
        let at = self.shape.body_at + self.at - from;
        let (body, table) = self.body_and_table(at + bytes);
        (body, table, at)
    }

    /// Where what is in memory of the body begins in the flush.
    fn from(&self) -> usize {
        if self.given == self.shape.start_bytes() {
            self.shape.body_at
        } else {
            self.given
        }
    }

    /// The body from there on, of so many bytes, and its part of the table.
    fn body_and_table(&mut self, bytes: usize) -> (&mut [u8], &mut [u8]) {
        let sectors_before = (self.from() - self.shape.body_at) / SECTOR;
        // What was given away has left its place to what follows.
        let split = self.from().min(self.shape.start_bytes());
        if self.memory.len() < split + bytes {
            self.memory.resize(split + bytes, 0);
        }
        let (start, body) = self.memory.split_at_mut(split);
        let table = self.shape.flush_at + HEADER + 4 * sectors_before;
        (&mut body[..bytes], &mut start[table..self.shape.body_at])
    }

    /// Gives away what is made, up to a block.
    fn give(&mut self, made: usize) {
        self.complete(made);
        let start = self.shape.start_bytes();
        let bytes = made - self.given;
        (self.done)(self.given, &self.memory[start..][..bytes]);
        // The end of the last record lies in a block that is not full.
        let left = self.shape.body_at + self.at - made;
        self.memory
            .copy_within(start + bytes..start + bytes + left, start);
        self.given = made;
    }

    /// Sums up what is in memory of the body, up to a place in the flush.
    fn complete(&mut self, made: usize) {
        let bytes = made - self.from();
        let (body, table) = self.body_and_table(bytes);
        checksum::complete(body, table);
    }

    /// Ends the flush with its header, and gives away what is left. Returns its header and table.
    pub(crate) fn seal(mut self, header: &FlushHeader) -> &'a [u8] {
        let Shape {
            flush_at,
            body_at,
            bytes,
        } = self.shape;
        let padding = bytes - body_at - self.at;
        let (body, _, at) = self.place(padding);
        body[at..].fill(PADDING);
        self.complete(bytes);
        header.write(&mut self.memory[flush_at..body_at]);
        let start = self.shape.start_bytes();
        if self.given == start {
            (self.done)(0, &self.memory[..bytes]);
        } else {
            if self.given < bytes {
                let left = bytes - self.given;
                (self.done)(self.given, &self.memory[start..][..left]);
            }
            (self.done)(0, &self.memory[..start]);
        }
        // A flush of large records is rare.
        let kept = body_at.max(KEPT_BYTES_MAX);
        self.memory.truncate(kept);
        self.memory.shrink_to(kept);
        &self.memory[flush_at..body_at]
    }
}
