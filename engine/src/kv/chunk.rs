//! The bytes of a snapshot's chunks.
//!
//! A snapshot is a head, the entries of each slot, and an end, cut into chunks between two entries.
//! Integers are little-endian; lengths are varints: seven bits a byte, the lowest first, the high bit
//! set in all but the last.
//!
//! ```text
//! head    1u8   format u16   first slot u16   last slot u16   clock u64   keys u64
//! slot    2u8   slot u16   entries u32 that follow in this chunk; a slot may be continued in the next
//! entry         key length × 2 + (1 if it expires)   value length   due u64, if it expires   key   value
//! end     3u8   keys u64   hash of the state u64
//! ```

use alloc::vec::Vec;

use super::slot::Entry;
use crate::state_machine::RestoreError;

/// The format that this build writes and reads.
const FORMAT: u16 = 1;

const HEAD: u8 = 1;
const SLOT: u8 = 2;
const END: u8 = 3;

/// The shortest entry: two lengths.
pub(super) const ENTRY_BYTES_MIN: usize = 2;

/// The section of a slot that is being written.
struct Section {
    slot: u16,
    count_at: usize,
    count: u32,
}

/// Appends one chunk to a buffer.
pub(super) struct Writer<'a> {
    to: &'a mut Vec<u8>,
    full_at: usize,
    section: Option<Section>,
}

impl<'a> Writer<'a> {
    /// A chunk that is full as soon as it has `bytes_about`.
    pub(super) fn new(to: &'a mut Vec<u8>, bytes_about: usize) -> Self {
        let full_at = to.len().saturating_add(bytes_about.max(1));
        Self {
            to,
            full_at,
            section: None,
        }
    }

    /// Whether the next entry belongs into the next chunk.
    pub(super) fn full(&self) -> bool {
        self.to.len() >= self.full_at
    }

    pub(super) fn head(&mut self, slots: (u16, u16), clock: u64, keys: u64) {
        self.to.push(HEAD);
        self.to.extend(FORMAT.to_le_bytes());
        self.to.extend(slots.0.to_le_bytes());
        self.to.extend(slots.1.to_le_bytes());
        self.to.extend(clock.to_le_bytes());
        self.to.extend(keys.to_le_bytes());
    }

    pub(super) fn entry(&mut self, slot: u16, entry: &Entry) {
        self.section_of(slot).count += 1;
        let (key, value) = (entry.key(), entry.value());
        varint(self.to, key.len() << 1 | usize::from(entry.due().is_some()));
        varint(self.to, value.len());
        if let Some(due) = entry.due() {
            self.to.extend(due.to_le_bytes());
        }
        self.to.extend(entry.key_and_value());
    }

    fn section_of(&mut self, slot: u16) -> &mut Section {
        if self.section.as_ref().is_none_or(|open| open.slot != slot) {
            self.close();
            self.to.push(SLOT);
            self.to.extend(slot.to_le_bytes());
            let (count_at, count) = (self.to.len(), 0u32);
            self.to.extend(count.to_le_bytes());
            self.section = Some(Section {
                slot,
                count_at,
                count,
            });
        }
        self.section.as_mut().expect("one was just opened")
    }

    /// Ends the chunk.
    pub(super) fn close(&mut self) {
        if let Some(section) = self.section.take() {
            let count = &mut self.to[section.count_at..][..4];
            count.copy_from_slice(&section.count.to_le_bytes());
        }
    }

    /// Ends the chunk and the snapshot.
    pub(super) fn end(mut self, keys: u64, hash: u64) {
        self.close();
        self.to.push(END);
        self.to.extend(keys.to_le_bytes());
        self.to.extend(hash.to_le_bytes());
    }
}

fn varint(to: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

/// One piece of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// What the snapshot is of: comes first.
    Head {
        slots: (u16, u16),
        /// The newest stamp applied, in Unix milliseconds.
        clock: u64,
        keys: u64,
    },
    /// The entries that follow are of this slot.
    Slot { slot: u16, entries: u32 },
    /// A key, its value, and the Unix milliseconds at which they go away.
    Entry {
        key: &'a [u8],
        value: &'a [u8],
        due: Option<u64>,
    },
    /// Nothing follows.
    End { keys: u64, hash: u64 },
}

/// Reads a chunk. Ends after the first error.
pub struct Items<'a> {
    chunk: &'a [u8],
    at: usize,
    /// Entries of the section that are still to come.
    entries: u32,
}

impl<'a> Items<'a> {
    /// The items of a chunk, which may hold any bytes.
    pub fn new(chunk: &'a [u8]) -> Self {
        Self {
            chunk,
            at: 0,
            entries: 0,
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.at
    }

    fn item(&mut self) -> Result<Item<'a>, RestoreError> {
        if let Some(left) = self.entries.checked_sub(1) {
            self.entries = left;
            return self.entry();
        }
        let offset = self.at;
        match self.take(1)?[0] {
            HEAD => self.head(),
            SLOT => {
                let (slot, entries) = (self.u16()?, u32::from_le_bytes(self.field()?));
                self.entries = entries;
                Ok(Item::Slot { slot, entries })
            }
            END => Ok(Item::End {
                keys: self.u64()?,
                hash: self.u64()?,
            }),
            tag => Err(RestoreError::Tag { offset, tag }),
        }
    }

    fn head(&mut self) -> Result<Item<'a>, RestoreError> {
        let found = self.u16()?;
        if found != FORMAT {
            let supported = FORMAT;
            return Err(RestoreError::Format { found, supported });
        }
        Ok(Item::Head {
            slots: (self.u16()?, self.u16()?),
            clock: self.u64()?,
            keys: self.u64()?,
        })
    }

    fn entry(&mut self) -> Result<Item<'a>, RestoreError> {
        let head = self.varint()?;
        let (key_bytes, expires) = (head >> 1, head & 1 == 1);
        let value_bytes = self.varint()?;
        let due = if expires { Some(self.u64()?) } else { None };
        Ok(Item::Entry {
            due,
            key: self.take(key_bytes)?,
            value: self.take(value_bytes)?,
        })
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], RestoreError> {
        let left = &self.chunk[self.at..];
        let Some(taken) = left.get(..bytes) else {
            return Err(RestoreError::Truncated {
                offset: self.at,
                needs: bytes,
                has: left.len(),
            });
        };
        self.at += bytes;
        Ok(taken)
    }

    fn field<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("the slice has this length"))
    }

    fn u16(&mut self) -> Result<u16, RestoreError> {
        self.field().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RestoreError> {
        self.field().map(u64::from_le_bytes)
    }

    /// Up to 35 bits: the longest is that of a key of 4 GiB.
    fn varint(&mut self) -> Result<usize, RestoreError> {
        let (offset, mut number) = (self.at, 0);
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| RestoreError::Length { offset });
            }
        }
        Err(RestoreError::Length { offset })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, RestoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.chunk.len() && self.entries == 0 {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            (self.at, self.entries) = (self.chunk.len(), 0);
        }
        Some(item)
    }
}
