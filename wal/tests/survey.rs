//! What a survey says of logs that are sound, torn and damaged in several places at once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disk;

use disk::Disk;
use wal::survey::{Condition, Flaw, Survey};
use wal::{BLOCK, FlushNumber, GroupId, LogIndex, Options, Placement, Record, SegmentId, Term};

const OPTIONS: Options = Options {
    segment_bytes: 6 * BLOCK as u64,
    instance: 0x1a57,
};

fn segment(raw: u32) -> SegmentId {
    SegmentId::from_raw(raw)
}

fn flush(raw: u64) -> FlushNumber {
    FlushNumber::from_raw(raw)
}

fn entry(index: u64) -> Record {
    let entry = disk::entry(index, 3, vec![7; 100]);
    Record::Entry {
        group: GroupId::from_raw(1),
        entry,
    }
}

/// Entries of a flush.
const ENTRIES: u64 = 3;

fn entries(flush: u64) -> Vec<Record> {
    let last = flush * ENTRIES;
    (last - ENTRIES + 1..=last).map(entry).collect()
}

/// Flushes of one run of entries and one block each; four fit a segment.
fn log(flushes: u64) -> (Disk, Vec<Placement>) {
    let mut disk = Disk::new(OPTIONS, 0);
    let mut writer = disk.replay().writer;
    let flushes = (1..=flushes).map(|number| disk.flush(&mut writer, &entries(number)));
    let places = flushes.collect();
    disk.make(writer.next_segment());
    (disk, places)
}

#[test]
fn a_sound_log_has_no_flaws_and_names_its_entries() {
    let (disk, _) = log(10);
    let found = disk.survey(&[]);
    assert_eq!((found.flaws, found.torn), (vec![], None));
    assert_eq!(found.last_flush, flush(10));
    let group = &found.groups[&GroupId::from_raw(1)];
    let entries = 10 * ENTRIES;
    let (first, last) = (LogIndex::from_raw(1), LogIndex::from_raw(entries));
    assert_eq!((group.entries, group.range), (entries, Some((first, last))));
    assert_eq!(group.terms, [(first, Term::from_raw(3))]);
}

#[test]
fn every_damage_is_named_not_only_the_first() {
    let (mut disk, _) = log(10);
    disk.files.get_mut(&segment(1)).unwrap()[2 * BLOCK + 600] ^= 1;
    disk.files.get_mut(&segment(2)).unwrap()[BLOCK..2 * BLOCK].fill(0);
    let found = disk.survey(&[]);
    let [rotten, gap_1, lost, gap_2] = &found.flaws[..] else {
        panic!("{:?}", found.flaws);
    };
    let offset = 2 * BLOCK as u64 + 512;
    let (first, number) = (segment(1), flush(2));
    assert_eq!(
        rotten,
        &Flaw::Rotten {
            segment: first,
            offset,
            number
        }
    );
    assert!(
        matches!(lost, Flaw::Lost { first, last, .. } if (*first, *last) == (flush(5), flush(5)))
    );
    assert_eq!(lost.place(), (segment(2), BLOCK as u64));
    assert!(matches!(gap_1, Flaw::Gap { .. }) && matches!(gap_2, Flaw::Gap { .. }));
}

#[test]
fn the_last_flush_may_be_torn_and_is_no_flaw() {
    let (mut disk, places) = log(6);
    let last = places.last().unwrap();
    let at = usize::try_from(last.offset).unwrap();
    // The second of its sectors holds the record.
    disk.files.get_mut(&last.segment).unwrap()[at + 512..at + 1024].fill(0);
    let found = disk.survey(&[]);
    assert_eq!(found.flaws, []);
    let torn = found.torn.unwrap();
    assert_eq!((torn.offset, torn.number), (last.offset, flush(6)));
    assert_eq!(found.last_flush, flush(5));
}

#[test]
fn a_segment_that_is_gone_or_lost_its_header_is_named_and_the_rest_is_read() {
    let (mut disk, _) = log(10);
    disk.remove(&[segment(2)]);
    let found = disk.survey(&[]);
    let (missing, needed_by) = (segment(2), segment(3));
    let gone = Flaw::Missing {
        segment: missing,
        needed_by,
    };
    assert!(found.flaws.contains(&gone), "{:?}", found.flaws);
    assert_eq!(found.last_flush, flush(10));

    let (mut disk, _) = log(10);
    disk.files.get_mut(&segment(2)).unwrap()[..BLOCK].fill(0);
    let found = disk.survey(&[]);
    let header = Flaw::Header {
        segment: segment(2),
    };
    assert_eq!((found.flaws, found.last_flush), (vec![header], flush(10)));
}

#[test]
fn swapped_blocks_are_named_where_they_stand() {
    let (mut disk, _) = log(10);
    let (left, right) = disk
        .files
        .get_mut(&segment(1))
        .unwrap()
        .split_at_mut(3 * BLOCK);
    left[2 * BLOCK..].swap_with_slice(&mut right[..BLOCK]);
    let places: Vec<_> = disk.survey(&[]).flaws.iter().map(Flaw::place).collect();
    assert!(
        places.contains(&(segment(1), 2 * BLOCK as u64)),
        "{places:?}"
    );
    assert!(
        places.contains(&(segment(1), 3 * BLOCK as u64)),
        "{places:?}"
    );
}

/// A byte that is changed in what was durable never goes unnoticed, and what is noticed lies in the
/// flush, or the segment's header, that holds the byte.
#[test]
fn no_flipped_byte_goes_unnoticed() {
    let (disk, places) = log(6);
    for place in &places[..5] {
        for at in (0..place.bytes).step_by(37) {
            let at = at + usize::try_from(place.offset).unwrap();
            // Only the header of a segment is checked, not the zeroes behind it.
            if (64..BLOCK).contains(&at) {
                continue;
            }
            let mut disk = disk.clone();
            disk.files.get_mut(&place.segment).unwrap()[at] ^= 0x10;
            let found = disk.survey(&[]);
            let block = (at - at % BLOCK) as u64;
            let places = found.flaws.iter().map(Flaw::place);
            let named = places.filter(|&(id, offset)| {
                id == place.segment && offset >= block && offset < block + BLOCK as u64
            });
            let flaws = &found.flaws;
            assert!(named.count() > 0, "{} @{at}: {flaws:?}", place.segment);
        }
    }
}

#[test]
fn flushes_are_listed_with_their_condition() {
    let (mut disk, _) = log(3);
    disk.files.get_mut(&segment(1)).unwrap()[2 * BLOCK + 600] ^= 1;
    let firsts = disk.files.iter().map(|(&id, bytes)| (id, &bytes[..BLOCK]));
    let mut survey = Survey::new(None, firsts);
    survey.witness(segment(1), &disk.files[&segment(1)]);
    let flushes = survey.segment(segment(1), &disk.files[&segment(1)]);
    let conditions: Vec<_> = flushes.iter().map(|one| one.condition).collect();
    use Condition::{Rotten, Sound};
    assert_eq!(conditions, [Sound, Rotten, Sound]);
}
