//! Entries that were put back, or written anew.

use wal::{GroupId, LogIndex, Record, Term};

use crate::scribe::{Scribe, covered, entry, last_of, vote};

#[test]
fn an_entry_that_was_put_back_is_no_part_of_the_tail_behind_a_hole() {
    let mut scribe = Scribe::new();
    scribe.flush(&[entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)]);
    scribe.flush(&[entry(4, 1, 200)]);
    scribe.flush(&[entry(4, 2, 10)]);
    scribe.flush(&[put_back(2)]);
    scribe.disk.cache_bytes = 100;
    let recovered = scribe.disk.replay();
    let tail = recovered.groups[&GroupId::from_raw(1)].tail.iter();
    let tail: Vec<_> = tail.map(|entry| entry.index.to_raw()).collect();
    assert_eq!(tail, [4]);
}

pub(crate) fn put_back(index: u64) -> Record {
    match entry(index, 1, 10) {
        Record::Entry { group, entry } => Record::Patch { group, entry },
        other => unreachable!("{other:?} is no entry"),
    }
}

/// What is put back may lie in a gap, or behind all that was left.
#[test]
fn a_lost_flush_of_entries_that_were_put_back_takes_those_behind_the_end_with_it() {
    let mut scribe = Scribe::new();
    scribe.flush(&[vote(1), entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)]);
    scribe.flush(&[put_back(2), put_back(3), put_back(4), put_back(5)]);
    let (lost, _) = scribe.flushes[1];
    scribe.flush(&[]);
    let lose = |scribe: &mut Scribe| {
        scribe.disk.place(&lost).fill(0xee);
        scribe.disk.replay()
    };
    let recovered = lose(&mut scribe);
    covered(&recovered, 5, "nothing follows");
    let log = &recovered.groups[&GroupId::from_raw(1)];
    assert_eq!(log.last.to_raw(), 3, "what was there before stays");
    scribe.flush(&[put_back(6)]);
    let recovered = lose(&mut scribe);
    covered(&recovered, 6, "another one follows");
    assert_eq!(last_of(&recovered), 3);
}

/// Votes until the next segment is begun. Segments that nothing needs go.
pub(crate) fn roll(scribe: &mut Scribe) {
    let segment = scribe.flushes.last().unwrap().0.segment;
    while scribe.flushes.last().unwrap().0.segment == segment {
        scribe.flush(&[vote(2)]);
        scribe.disk.remove(&scribe.writer.reclaim());
    }
}

#[test]
fn an_entry_that_was_written_anew_outlives_the_segment_it_came_from() {
    let mut scribe = Scribe::new();
    scribe.entries(&[8, 8, 8]);
    let first = scribe.flushes[0].0.segment;
    roll(&mut scribe);
    let group = GroupId::from_raw(1);
    let floor = |index| Record::Floor {
        group,
        index: LogIndex::from_raw(index),
        term: Term::from_raw(1),
    };
    scribe.flush(&[floor(1)]);
    roll(&mut scribe);
    let Record::Entry { entry, .. } = entry(3, 1, 8) else {
        unreachable!()
    };
    scribe.flush(&[floor(2), Record::Patch { group, entry }]);
    roll(&mut scribe);
    roll(&mut scribe);
    assert!(!scribe.disk.files.contains_key(&first), "nothing needs it");

    let log = scribe.disk.replay().groups.remove(&group).unwrap();
    assert_eq!((log.floor.0.to_raw(), log.last.to_raw()), (2, 3));
    assert_eq!((log.damage, log.tail.len()), (None, 1));
}

/// Without a snapshot, a log that was written anew starts where every log does.
#[test]
fn a_log_that_was_written_anew_as_a_whole_has_no_entry_before_its_first() {
    let mut scribe = Scribe::new();
    scribe.entries(&[8, 8, 8]);
    let first = scribe.flushes[0].0.segment;
    roll(&mut scribe);
    let group = GroupId::from_raw(1);
    let anew = [1, 2, 3].map(|index| {
        let Record::Entry { entry, .. } = entry(index, 1, 8) else {
            unreachable!()
        };
        Record::Patch { group, entry }
    });
    scribe.flush(&anew);
    roll(&mut scribe);
    roll(&mut scribe);
    assert!(!scribe.disk.files.contains_key(&first), "nothing needs it");

    let log = scribe.disk.replay().groups.remove(&group).unwrap();
    assert_eq!(log.floor, (LogIndex::ZERO, Term::ZERO));
    assert_eq!((log.last.to_raw(), log.damage), (3, None));
}
