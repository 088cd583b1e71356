//! Runs: small entries of a group that follow each other, as one record with one header and one checksum.
//!
//! ```text
//!  32      36      40
//!  ┌───────┬───────┬─────────────────────┬──────────┬──────────┬─────┬─────────┐
//!  │ count │ bytes │ bytes of each,      │ payload  │ payload  │  …  │ 0 … 0   │
//!  │ u32   │ u32   │ u16, if they differ │          │          │     │ to 8    │
//!  └───────┴───────┴─────────────────────┴──────────┴──────────┴─────┴─────────┘
//! ```
//!
//! What is before that is a record's header: `index` is that of the first entry; term and kind are those of
//! all of them. `bytes` is what every payload has, or 0 if a table tells.

use crate::bytes::{copy, read_u32, write};
use crate::codec::{HEADER, RecordError, record_bytes};
use crate::coordinates::COUNT_MAX;
use crate::record::{Entry, EntryKind, Payload, Record};
use crate::{GroupId, LogIndex, Term};

/// The largest payload of an entry in a run: the header of a larger one is of no weight.
const ENTRY_BYTES_MAX: usize = 1024;
/// Bytes of lengths and payloads, at most: to read one entry, its whole run is read.
const BYTES_MAX: usize = 32 << 10;
/// More entries than a run has space for, if their lengths are told.
const ENTRIES_MAX: usize = BYTES_MAX / LENGTH;
/// Bytes of a length in the table.
const LENGTH: usize = 2;

const COUNT_AT: usize = 32;
const EACH_AT: usize = 36;
const _: () = assert!(EACH_AT + 4 == HEADER);

/// Records of a flush that are one on the disk: a run of entries, or a record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The first of them among those of the flush.
    first: usize,
    count: usize,
    /// How many it takes in the flush.
    pub(crate) bytes: usize,
    /// They are a run of entries that are not all of one size.
    differ: bool,
}

impl Unit {
    /// One that is not among those of a flush.
    pub(crate) fn alone(record: &Record) -> Self {
        Self {
            first: 0,
            count: 1,
            bytes: record_bytes(record),
            differ: false,
        }
    }

    /// Its records, of those of the flush.
    pub(crate) fn of<'a>(&self, records: &'a [Record]) -> &'a [Record] {
        &records[self.first..][..self.count]
    }
}

/// What is one record on the disk, in the order of the records.
pub(crate) fn units(records: &[Record]) -> impl Iterator<Item = Unit> {
    let mut first = 0;
    core::iter::from_fn(move || {
        let rest = &records[first..];
        let unit = match rest.first()? {
            Record::Entry { group, entry } => measure(*group, entry, rest),
            other => Unit::alone(other),
        };
        let unit = Unit { first, ..unit };
        first += unit.count;
        Some(unit)
    })
}

/// How many records from the first on, which is this entry, are one on the disk.
fn measure(group: GroupId, head: &Entry, records: &[Record]) -> Unit {
    let each = head.payload.len();
    if each > ENTRY_BYTES_MAX {
        return Unit::alone(&records[0]);
    }
    let (mut count, mut bytes, mut differ) = (1, each, each == 0);
    for record in &records[1..] {
        let Record::Entry { group: of, entry } = record else {
            break;
        };
        let length = entry.payload.len();
        let follows = *of == group
            && entry.term == head.term
            && entry.kind == head.kind
            && entry.index.to_raw() == head.index.to_raw() + count as u64
            && length <= ENTRY_BYTES_MAX;
        if !follows || bytes + length + LENGTH * (count + 1) > BYTES_MAX {
            break;
        }
        differ |= length != each;
        bytes += length;
        count += 1;
    }
    if count == 1 {
        return Unit::alone(&records[0]);
    }
    let table = if differ { LENGTH * count } else { 0 };
    Unit {
        first: 0,
        count,
        bytes: (HEADER + table + bytes).next_multiple_of(8),
        differ,
    }
}

/// Writes what is particular to a run of entries behind the fields that every record has; says how many
/// bytes its lengths and payloads are.
pub(crate) fn put(to: &mut [u8], unit: &Unit, entries: &[Record]) -> usize {
    let count = u32::try_from(entries.len()).expect("a run is small");
    write(to, COUNT_AT, &count.to_le_bytes());
    let each = payload(&entries[0]).len();
    let behind = &mut to[HEADER..];
    let used = if unit.differ {
        put_many_sizes(behind, entries)
    } else {
        for (place, entry) in behind.chunks_exact_mut(each).zip(entries) {
            copy(place, payload(entry));
        }
        each * entries.len()
    };
    behind[used..].fill(0);
    let told = if unit.differ { 0 } else { each };
    let told = u32::try_from(told).expect("entries in a run are small");
    write(to, EACH_AT, &told.to_le_bytes());
    used
}

/// Writes the lengths of entries, and their payloads; says how many bytes that is.
fn put_many_sizes(to: &mut [u8], entries: &[Record]) -> usize {
    let (table, payloads) = to.split_at_mut(LENGTH * entries.len());
    let mut at = 0;
    for (place, entry) in table.chunks_exact_mut(LENGTH).zip(entries) {
        let payload = payload(entry);
        let length = u16::try_from(payload.len()).expect("entries in a run are small");
        place.copy_from_slice(&length.to_le_bytes());
        copy(&mut payloads[at..at + payload.len()], payload);
        at += payload.len();
    }
    table.len() + at
}

fn payload(record: &Record) -> &Payload {
    let Record::Entry { entry, .. } = record else {
        unreachable!("only entries are in a run")
    };
    &entry.payload
}

/// Entries that follow each other, as they lie in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) group: GroupId,
    pub(crate) term: Term,
    pub(crate) first: LogIndex,
    kind: EntryKind,
    count: usize,
    lengths: Lengths<'a>,
    payloads: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths<'a> {
    All(usize),
    /// [`LENGTH`] bytes of each.
    Each(&'a [u8]),
}

impl<'a> Run<'a> {
    /// Reads a run whose checksum is right; `record` ends with the payloads.
    pub(crate) fn decode(
        record: &'a [u8],
        (group, term, first): (GroupId, Term, LogIndex),
        kind: EntryKind,
    ) -> Result<Self, RecordError> {
        let (count, told) = (read_u32(record, COUNT_AT), read_u32(record, EACH_AT));
        let behind = &record[HEADER..];
        let absurd = RecordError::Run {
            entries: count,
            bytes: behind.len(),
        };
        let entries = count as usize;
        if !(1..=ENTRIES_MAX).contains(&entries) {
            return Err(absurd);
        }
        let end = first.to_raw().saturating_add(u64::from(count));
        if first == LogIndex::ZERO || end > COUNT_MAX {
            return Err(RecordError::Absurd {
                index: end,
                term: term.to_raw(),
            });
        }
        let (lengths, payloads) = match told as usize {
            0 => {
                let table = behind.split_at_checked(LENGTH * entries);
                let (table, payloads) = table.ok_or(absurd)?;
                (Lengths::Each(table), payloads)
            }
            each => (Lengths::All(each), behind),
        };
        let run = Self {
            group,
            term,
            first,
            kind,
            count: entries,
            lengths,
            payloads,
        };
        let told: u64 = match lengths {
            Lengths::All(each) => each as u64 * u64::from(count),
            Lengths::Each(_) => run.lengths().map(|length| length as u64).sum(),
        };
        if told == payloads.len() as u64 {
            Ok(run)
        } else {
            Err(absurd)
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where its entries stand in the log.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = LogIndex> {
        let first = self.first;
        (0..self.count).map(move |at| first.plus(at as u64))
    }

    fn lengths(&self) -> impl Iterator<Item = usize> + 'a {
        let lengths = self.lengths;
        (0..self.count).map(move |at| match lengths {
            Lengths::All(each) => each,
            Lengths::Each(table) => usize::from(u16::from_le_bytes([
                table[LENGTH * at],
                table[LENGTH * at + 1],
            ])),
        })
    }

    /// Its entries behind the first few, each with a payload of its own.
    pub(crate) fn entries(&self, skipped: usize) -> impl Iterator<Item = Entry> + 'a {
        let Self { term, kind, .. } = *self;
        let before: usize = self.lengths().take(skipped).sum();
        let mut index = self.first.plus(skipped as u64);
        let mut rest = &self.payloads[before..];
        self.lengths().skip(skipped).map(move |length| {
            let (payload, behind) = rest.split_at(length);
            let entry = Entry {
                term,
                index,
                kind,
                payload: Payload::from(payload),
            };
            (index, rest) = (index.next(), behind);
            entry
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::codec::{
        Decoded, Role, Stamp, decode_entries, decode_entry, decode_record, encode_unit,
    };

    const GROUP: GroupId = GroupId::from_raw(3);

    fn entry(index: u64, length: usize) -> Entry {
        Entry {
            term: Term::from_raw(2),
            index: LogIndex::from_raw(index),
            kind: EntryKind::Batch,
            payload: vec![index.to_le_bytes()[0]; length].into(),
        }
    }

    /// Entries from index 7 on.
    fn entries(lengths: &[usize]) -> Vec<Record> {
        let entries = (7..).zip(lengths).map(|(index, &length)| Record::Entry {
            group: GROUP,
            entry: entry(index, length),
        });
        entries.collect()
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let unit = units(records).next().expect("there are records");
        assert_eq!(unit.of(records).len(), records.len(), "they are one run");
        let mut bytes = vec![0xee; unit.bytes];
        let stamp = Stamp {
            role: Role::Own,
            losses: 0,
        };
        let mut table = vec![0; bytes.len() / 128 + 4];
        encode_unit(records, &unit, stamp, (&mut bytes, 0), &mut table);
        bytes
    }

    /// How many records each unit holds.
    fn counts(records: &[Record]) -> Vec<usize> {
        let counts: Vec<usize> = units(records).map(|unit| unit.of(records).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), records.len());
        counts
    }

    #[test]
    fn entries_come_back_out_of_their_run_all_at_once_or_one_by_one() {
        for lengths in [
            &[16, 16, 16][..],
            &[1, 0],
            &[0, 0, 0, 0],
            &[5, 5, 5, 6],
            &[1024, 3, 1024],
            &[300; 50],
        ] {
            let records = entries(lengths);
            let bytes = encode(&records);
            let (decoded, taken) = decode_record(&bytes).expect("just written");
            assert_eq!(taken, bytes.len());
            let Decoded::Run(run) = decoded else {
                panic!("{decoded:?} is no run")
            };
            let found = run.entries(0).map(|entry| Record::Entry {
                group: GROUP,
                entry,
            });
            assert_eq!(found.collect::<Vec<_>>(), records, "{lengths:?}");
            assert_eq!(run.indexes().count(), records.len());
            for (skipped, (index, &length)) in (7..).zip(lengths).enumerate() {
                let at = LogIndex::from_raw(index);
                assert_eq!(decode_entry(&bytes, GROUP, at), Ok(entry(index, length)));
                let mut behind = Vec::new();
                let count = lengths.len() - skipped;
                decode_entries(&bytes, GROUP, (at, count), |entry| behind.push(entry))
                    .expect("it holds them");
                assert_eq!(behind.len(), count);
                assert_eq!(behind[0], entry(index, length));
                assert!(decode_entries(&bytes, GROUP, (at, count + 1), |_| ()).is_err());
            }
            let others = [(3, 6), (3, 7 + lengths.len() as u64), (4, 7)];
            for (group, index) in others {
                assert_eq!(
                    decode_entry(&bytes, GroupId::from_raw(group), LogIndex::from_raw(index)),
                    Err(RecordError::Other {
                        group: GROUP,
                        index: LogIndex::from_raw(7)
                    })
                );
            }
        }
    }

    #[test]
    fn any_bit_of_a_run_that_changes_is_noticed() {
        let bytes = encode(&entries(&[3, 9, 0, 5]));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(&damaged).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode_record(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn only_small_entries_that_follow_each_other_are_a_run() {
        let small = entries(&[8; 6]);
        assert_eq!(counts(&small), [6]);
        let changed = |change: fn(&mut Record)| {
            let mut records = small.clone();
            change(&mut records[2]);
            counts(&records)
        };
        fn of(record: &mut Record) -> &mut Entry {
            match record {
                Record::Entry { entry, .. } => entry,
                other => unreachable!("{other:?} is no entry"),
            }
        }
        assert_eq!(changed(|it| of(it).term = Term::from_raw(3)), [2, 1, 3]);
        assert_eq!(changed(|it| of(it).kind = EntryKind::Noop), [2, 1, 3]);
        assert_eq!(
            changed(|it| of(it).index = LogIndex::from_raw(5)),
            [2, 1, 3]
        );
        assert_eq!(
            changed(|it| of(it).payload = vec![0; ENTRY_BYTES_MAX + 1].into()),
            [2, 1, 3]
        );
        let grouped = |it: &mut Record| {
            if let Record::Entry { group, .. } = it {
                *group = GroupId::from_raw(4);
            }
        };
        assert_eq!(changed(grouped), [2, 1, 3]);
        let patched = |it: &mut Record| {
            if let Record::Entry { group, entry } = it.clone() {
                *it = Record::Patch { group, entry };
            }
        };
        assert_eq!(changed(patched), [2, 1, 3]);
        assert_eq!(counts(&entries(&[ENTRY_BYTES_MAX + 1; 2])), [1, 1]);
        assert_eq!(counts(&[]), []);
    }

    #[test]
    fn a_run_has_a_bound() {
        for length in [0, 1, 16, 256, ENTRY_BYTES_MAX] {
            let records = entries(&vec![length; 20_000]);
            let each: Vec<Unit> = units(&records).collect();
            assert_eq!(counts(&records).iter().max(), Some(&each[0].count));
            let bytes = each[0].bytes;
            assert!(bytes <= HEADER + BYTES_MAX, "{length}: {bytes}");
            assert!(bytes * 3 > BYTES_MAX, "{length}: {bytes}");
            let run = each[0].of(&records);
            assert!(decode_record(&encode(run)).is_ok(), "{length}");
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused_though_its_checksum_is_right() {
        let equal = encode(&entries(&[8; 4]));
        let differ = encode(&entries(&[3, 9, 0, 5]));
        let changed = |bytes: &[u8], at: usize, field: &[u8]| {
            let mut bytes = bytes.to_vec();
            write(&mut bytes, at, field);
            let crc = crc32c::crc32c(&bytes[4..]);
            write(&mut bytes, 0, &crc.to_le_bytes());
            decode_record(&bytes).map(|_| ())
        };
        for (entries, of) in [(0, &equal), (3, &equal), (5, &equal), (u32::MAX, &equal)] {
            let bytes = 32;
            let found = changed(of, COUNT_AT, &entries.to_le_bytes());
            assert_eq!(found, Err(RecordError::Run { entries, bytes }));
        }
        for entries in [0, 3, 5, 12, 13, u32::MAX] {
            let found = changed(&differ, COUNT_AT, &entries.to_le_bytes());
            let bytes = 25;
            assert_eq!(found, Err(RecordError::Run { entries, bytes }));
        }
        for each in [1_u32, 7, 9, 1 << 30, u32::MAX] {
            let found = changed(&equal, EACH_AT, &each.to_le_bytes());
            assert!(matches!(found, Err(RecordError::Run { .. })), "{each}");
        }
        let longer = changed(&differ, HEADER, &4_u16.to_le_bytes());
        assert!(matches!(longer, Err(RecordError::Run { .. })), "{longer:?}");
        for first in [0, COUNT_MAX - 3, COUNT_MAX, u64::MAX] {
            let found = changed(&equal, 24, &first.to_le_bytes());
            assert!(matches!(found, Err(RecordError::Absurd { .. })), "{first}");
        }
        assert_eq!(changed(&equal, 24, &(COUNT_MAX - 4).to_le_bytes()), Ok(()));
        let kind = changed(&equal, 9, &[3]);
        assert_eq!(kind, Err(RecordError::Kind { kind: 8, what: 3 }));
        // No run of nothing, however long, takes more memory than there are bytes.
        let mut nothing = equal[..HEADER].to_vec();
        write(&mut nothing, 4, &0_u32.to_le_bytes());
        write(&mut nothing, EACH_AT, &0_u32.to_le_bytes());
        assert!(changed(&nothing, COUNT_AT, &1000_u32.to_le_bytes()).is_err());
    }
}
