//! The bytes of a record.
//!
//! ```text
//!  0       4        8      9      10   12      16      24      32       40
//!  ┌───────┬────────┬──────┬──────┬────┬───────┬───────┬───────┬────────┬─────────┬─────────┐
//!  │ crc   │ length │ kind │ what │role│ group │ term  │ index │ vote   │ payload │ 0 … 0   │
//!  │ u32   │ u32    │ u8   │ u8   │    │ u32   │ u64   │ u64   │ u64    │ length  │ to 8    │
//!  └───────┴────────┴──────┴──────┴────┴───────┴───────┴───────┴────────┴─────────┴─────────┘
//!          ╰──────────────────────── crc32c covers ───────────────────────────────────────╯
//! ```
//!
//! `role` is 1 in a record that repeats what the flush before held, 2 in one that says how a group stood when the
//! segment was begun. `what` is an entry's kind, or the bits of what a damaged replica says: it claims entries (1), the
//! claim has an index (2), promises may be lost (4); in contents 1 if they were put back. `index` is the commit in a hard state. `vote` is 0 for none, else the
//! replica with bit 32 set; in what a damaged replica says, the fingerprint of the lost flushes it knew. A record starts 8-byte aligned, and so does its payload.
//! What else a run of entries holds is told in `run.rs`.

use alloc::vec::Vec;

use crate::bytes::{read_u32, read_u64, write};
use crate::checksum;
use crate::coordinates::COUNT_MAX;
use crate::run::{self, Run, Unit};
use crate::{
    Claim, Entry, EntryKind, GroupId, HardState, LogIndex, Payload, Record, ReplicaId, Term,
};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 40;
const ALIGNMENT: usize = 8;
const _: () = assert!(HEADER.is_multiple_of(ALIGNMENT));

/// More entries than any flush holds: segments are below 4 GiB.
const ENTRIES_MAX: u64 = u32::MAX as u64 / HEADER as u64;
/// More entries than a log holds of a group: each takes memory.
const LIVE_MAX: u64 = 1 << 32;

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const FLOOR: u8 = 3;
const INTACT: u8 = 4;
const DAMAGED: u8 = 5;
const PATCH: u8 = 6;
const CONTENTS: u8 = 7;
const RUN: u8 = 8;
/// Where a record says why it is in its flush.
const ROLE_AT: usize = 10;
/// Where what a damaged replica says names the losses it knew.
const LOSSES_AT: usize = 32;
const VOTED: u64 = 1 << 32;
/// Bits of what a damaged replica says.
const CLAIMED: u8 = 1;
const NAMED: u8 = 2;
const PROMISES_LOST: u8 = 4;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record needs {needs} bytes, {has} are left")]
    Truncated { needs: usize, has: usize },
    #[error("a record's crc is {found:#010x}, its header says {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("a record has kind {kind}, entry kind {what}: this build knows no such thing")]
    Kind { kind: u8, what: u8 },
    #[error("a record names entry {index} in term {term}, or more entries than a flush holds")]
    Absurd { index: u64, term: u64 },
    #[error("a run of {entries} entries does not add up to the {bytes} bytes that it has")]
    Run { entries: u32, bytes: usize },
    #[error("the record is entry {index} of group {group}, not the one asked for")]
    Other { group: GroupId, index: LogIndex },
}

/// Bytes that a record takes alone.
pub(crate) fn record_bytes(record: &Record) -> usize {
    match record {
        Record::Entry { entry, .. } | Record::Patch { entry, .. } => entry_bytes(entry),
        Record::HardState { .. }
        | Record::Floor { .. }
        | Record::Contents { .. }
        | Record::Damaged { .. }
        | Record::Intact { .. } => HEADER,
    }
}

/// Why a record is in a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is part of the flush.
    Own = 0,
    /// It repeats what the flush before held: it counts only if that one is lost.
    Echo = 1,
    /// It says how a group stood when the segment was begun: it counts only if what was before is
    /// not there.
    Head = 2,
}

/// What the writer adds to a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) role: Role,
    /// Fingerprint of the lost flushes that are known to whoever writes.
    pub(crate) losses: u64,
}

/// Writes records that are one on the disk at a place of a flush's body. The checksums of sectors that
/// lie whole in it are noted in the flush's table.
pub(crate) fn encode_unit(
    records: &[Record],
    unit: &Unit,
    stamp: Stamp,
    (body, at): (&mut [u8], usize),
    table: &mut [u8],
) {
    let end = at + unit.bytes;
    let to = &mut body[at..end];
    to[..HEADER].fill(0);
    match records {
        [record] => put_record(to, record, stamp.losses),
        entries => put_run(to, unit, entries),
    }
    to[ROLE_AT] = stamp.role as u8;
    let crc = checksum::span(body, at + 4, end, table);
    write(body, at, &crc.to_le_bytes());
}

fn put_record(to: &mut [u8], record: &Record, losses: u64) {
    match record {
        Record::Entry { group, entry } | Record::Patch { group, entry } => {
            let patch = matches!(record, Record::Patch { .. });
            put_entry(to, if patch { PATCH } else { ENTRY }, *group, entry);
        }
        Record::HardState { group, state } => {
            put(to, HARD_STATE, *group, state.term, state.commit);
            let vote = state
                .vote
                .map_or(0, |vote| VOTED | u64::from(vote.to_raw()));
            write(to, 32, &vote.to_le_bytes());
        }
        Record::Floor { group, index, term } => put(to, FLOOR, *group, *term, *index),
        Record::Intact { group, index, term } => put(to, INTACT, *group, *term, *index),
        Record::Contents {
            group,
            first,
            last,
            term,
            patched,
        } => {
            put(to, CONTENTS, *group, *term, *last);
            to[9] = u8::from(*patched);
            write(to, 32, &first.to_raw().to_le_bytes());
        }
        Record::Damaged {
            group,
            claim,
            promises_lost,
        } => {
            let term = claim.map_or(Term::ZERO, |claim| claim.term);
            let index = claim.and_then(|claim| claim.index);
            put(to, DAMAGED, *group, term, index.unwrap_or(LogIndex::ZERO));
            let bits = [
                (claim.is_some(), CLAIMED),
                (index.is_some(), NAMED),
                (*promises_lost, PROMISES_LOST),
            ];
            let set = bits.iter().filter(|(set, _)| *set);
            to[9] = set.map(|(_, bit)| bit).sum();
            write(to, LOSSES_AT, &losses.to_le_bytes());
        }
    }
}

fn put_run(to: &mut [u8], unit: &Unit, entries: &[Record]) {
    let Some(Record::Entry { group, entry }) = entries.first() else {
        unreachable!("a run is of entries")
    };
    put(to, RUN, *group, entry.term, entry.index);
    to[9] = entry.kind as u8;
    let length = u32::try_from(run::put(to, unit, entries)).expect("a run is small");
    write(to, 4, &length.to_le_bytes());
}

fn put(to: &mut [u8], kind: u8, group: GroupId, term: Term, index: LogIndex) {
    to[8] = kind;
    write(to, 12, &group.to_raw().to_le_bytes());
    write(to, 16, &term.to_raw().to_le_bytes());
    write(to, 24, &index.to_raw().to_le_bytes());
}

fn put_entry(to: &mut [u8], kind: u8, group: GroupId, entry: &Entry) {
    put(to, kind, group, entry.term, entry.index);
    to[9] = entry.kind as u8;
    let length = u32::try_from(entry.payload.len()).expect("entries fit a segment");
    write(to, 4, &length.to_le_bytes());
    write(to, HEADER, &entry.payload);
    to[HEADER + entry.payload.len()..].fill(0);
}

/// Bytes that an entry takes as a record.
pub fn entry_bytes(entry: &Entry) -> usize {
    (HEADER + entry.payload.len()).next_multiple_of(ALIGNMENT)
}

/// Appends an entry as the record of it that stands in a log: [`entry_bytes`] of them, which
/// [`decode_entry`] reads.
pub fn encode_entry(group: GroupId, entry: &Entry, to: &mut Vec<u8>) {
    let start = to.len();
    to.resize(start + entry_bytes(entry), 0);
    let record = &mut to[start..];
    put_entry(record, ENTRY, group, entry);
    let crc = crc32c::crc32c(&record[4..]);
    write(record, 0, &crc.to_le_bytes());
}

/// What one record on the disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded<'a> {
    One(Record),
    Run(Run<'a>),
}

impl Decoded<'_> {
    /// Whose log it is about.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            Self::One(record) => record.group(),
            Self::Run(run) => run.group,
        }
    }
}

fn entry_kind(kind: u8, what: u8) -> Result<EntryKind, RecordError> {
    match what {
        0 => Ok(EntryKind::Noop),
        1 => Ok(EntryKind::Batch),
        2 => Ok(EntryKind::Membership),
        what => Err(RecordError::Kind { kind, what }),
    }
}

/// Reads the record at the start of `bytes`; says how many bytes it took.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<(Decoded<'_>, usize), RecordError> {
    let has = bytes.len();
    if has < HEADER {
        return Err(RecordError::Truncated { needs: HEADER, has });
    }
    let length = read_u32(bytes, 4) as usize;
    let needs = (HEADER + length).next_multiple_of(ALIGNMENT);
    if has < needs {
        return Err(RecordError::Truncated { needs, has });
    }
    let bytes = &bytes[..needs];
    let (found, expected) = (crc32c::crc32c(&bytes[4..]), read_u32(bytes, 0));
    if found != expected {
        return Err(RecordError::Checksum { found, expected });
    }
    let (kind, what) = (bytes[8], bytes[9]);
    check_counts(bytes)?;
    let group = GroupId::from_raw(read_u32(bytes, 12));
    let term = Term::from_raw(read_u64(bytes, 16));
    let index = LogIndex::from_raw(read_u64(bytes, 24));
    let record = match kind {
        RUN => {
            let record = &bytes[..HEADER + length];
            let run = Run::decode(record, (group, term, index), entry_kind(kind, what)?)?;
            return Ok((Decoded::Run(run), needs));
        }
        ENTRY | PATCH => {
            let payload = Payload::from(&bytes[HEADER..HEADER + length]);
            let entry = Entry {
                term,
                index,
                kind: entry_kind(kind, what)?,
                payload,
            };
            if kind == PATCH {
                Record::Patch { group, entry }
            } else {
                Record::Entry { group, entry }
            }
        }
        HARD_STATE => {
            let vote = read_u64(bytes, 32);
            let replica = u32::try_from(vote & !VOTED).unwrap_or(0);
            let vote = (vote & VOTED != 0).then(|| ReplicaId::from_raw(replica));
            Record::HardState {
                group,
                state: HardState {
                    term,
                    vote,
                    commit: index,
                },
            }
        }
        FLOOR => Record::Floor { group, index, term },
        INTACT => Record::Intact { group, index, term },
        CONTENTS => Record::Contents {
            group,
            first: LogIndex::from_raw(read_u64(bytes, 32)),
            last: index,
            term,
            patched: what != 0,
        },
        DAMAGED => Record::Damaged {
            group,
            claim: (what & CLAIMED != 0).then_some(Claim {
                index: (what & NAMED != 0).then_some(index),
                term,
            }),
            promises_lost: what & PROMISES_LOST != 0,
        },
        kind => return Err(RecordError::Kind { kind, what }),
    };
    Ok((Decoded::One(record), needs))
}

/// What the writer added to the record at the start of `bytes`, which was decoded.
pub(crate) fn stamp(bytes: &[u8]) -> Stamp {
    Stamp {
        role: match bytes[ROLE_AT] {
            0 => Role::Own,
            1 => Role::Echo,
            _ => Role::Head,
        },
        losses: read_u64(bytes, LOSSES_AT),
    }
}

/// Checks that a record names nothing that no log holds: whoever reads it counts on from there.
fn check_counts(bytes: &[u8]) -> Result<(), RecordError> {
    let (term, index) = (read_u64(bytes, 16), read_u64(bytes, 24));
    let first = read_u64(bytes, 32);
    let fits = match bytes[8] {
        // All that a log holds of a group, or nothing.
        CONTENTS if bytes[ROLE_AT] == Role::Head as u8 => {
            let behind = index.saturating_add(1);
            behind
                .checked_sub(first)
                .is_some_and(|named| first > 0 && named <= LIVE_MAX)
        }
        CONTENTS => index
            .checked_sub(first)
            .is_some_and(|named| first > 0 && named <= ENTRIES_MAX),
        ENTRY | PATCH => index > 0,
        _ => true,
    };
    if fits && term <= COUNT_MAX && index <= COUNT_MAX {
        Ok(())
    } else {
        Err(RecordError::Absurd { index, term })
    }
}

/// Reads one entry back from the place that [`crate::Writer::locate`] named, or that
/// [`encode_entry`] wrote it to.
pub fn decode_entry(bytes: &[u8], group: GroupId, index: LogIndex) -> Result<Entry, RecordError> {
    let mut entry = None;
    decode_entries(bytes, group, (index, 1), |found| entry = Some(found))?;
    Ok(entry.expect("as many are given as were asked for"))
}

/// The same for so many entries from one on, all of which were located at this place.
pub fn decode_entries(
    bytes: &[u8],
    group: GroupId,
    (from, count): (LogIndex, usize),
    mut each: impl FnMut(Entry),
) -> Result<(), RecordError> {
    let other = |group, index| Err(RecordError::Other { group, index });
    match decode_record(bytes)?.0 {
        Decoded::Run(run) => {
            let skipped = from.to_raw().checked_sub(run.first.to_raw());
            let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
            let held = skipped.and_then(|skipped| run.count().checked_sub(skipped));
            match (skipped, held) {
                (Some(skipped), Some(held)) if run.group == group && count <= held => {
                    run.entries(skipped).take(count).for_each(each);
                    Ok(())
                }
                _ => other(run.group, run.first),
            }
        }
        Decoded::One(
            Record::Entry {
                group: found,
                entry,
            }
            | Record::Patch {
                group: found,
                entry,
            },
        ) => {
            if (found, entry.index, 1) != (group, from, count) {
                return other(found, entry.index);
            }
            each(entry);
            Ok(())
        }
        Decoded::One(record) => other(record.group(), LogIndex::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose checksum is right.
    fn contents(first: u64, last: u64, term: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[8] = CONTENTS;
        for (at, field) in [(16, term), (24, last), (32, first)] {
            write(&mut bytes, at, &field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[4..]);
        write(&mut bytes, 0, &crc.to_le_bytes());
        bytes
    }

    #[test]
    fn an_entry_alone_is_read_back_and_any_bit_that_changes_is_noticed() {
        let group = GroupId::from_raw(3);
        let entry = Entry {
            term: Term::from_raw(2),
            index: LogIndex::from_raw(7),
            kind: EntryKind::Batch,
            payload: Payload::from(b"thirteen byte".as_slice()),
        };
        let mut bytes = Vec::new();
        encode_entry(group, &entry, &mut bytes);
        assert_eq!(bytes.len(), entry_bytes(&entry));
        assert_eq!(decode_entry(&bytes, group, entry.index), Ok(entry.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                decode_entry(&damaged, group, entry.index).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn what_no_log_holds_is_refused_though_its_checksum_is_right() {
        assert!(decode_record(&contents(1, 1000, 1)).is_ok());
        for (first, last, term) in [
            (u64::MAX, u64::MAX, 1),
            (1, 1, u64::MAX),
            (2, 1, 1),
            (0, 1, 1),
            (1, 1 << 40, 1),
        ] {
            assert_eq!(
                decode_record(&contents(first, last, term)),
                Err(RecordError::Absurd { index: last, term }),
                "{first} to {last} in term {term}"
            );
        }
    }
}
