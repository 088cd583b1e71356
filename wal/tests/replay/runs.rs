//! Entries that lie in one record: what happens to some of them happens to these alone.

use wal::{GroupId, LogIndex, Record, Recovered, Term};

use crate::patches::{put_back, roll};
use crate::scribe::{Scribe, entry, last_of};

const GROUP: GroupId = GroupId::from_raw(1);

/// The indexes and the terms of what replay gives back, which is what can be read at the places that it
/// names.
fn found(scribe: &Scribe, recovered: &Recovered) -> Vec<(u64, u64)> {
    let log = &recovered.groups[&GROUP];
    assert_eq!(log.damage, None);
    let read = |index: LogIndex| {
        let at = recovered.writer.locate(GROUP, index).unwrap();
        assert_eq!(Some(at), scribe.writer.locate(GROUP, index));
        let bytes = &scribe.disk.files[&at.segment][at.offset as usize..][..at.bytes as usize];
        wal::decode_entry(bytes, GROUP, index).unwrap()
    };
    for entry in &log.tail {
        assert_eq!(*entry, read(entry.index));
    }
    let entries = log.tail.iter();
    let entries = entries.map(|entry| (entry.index.to_raw(), entry.term.to_raw()));
    entries.collect()
}

fn floor(index: u64) -> Record {
    Record::Floor {
        group: GROUP,
        index: LogIndex::from_raw(index),
        term: Term::from_raw(1),
    }
}

#[test]
fn a_run_keeps_its_beginning_when_it_is_replaced_from_its_middle_on() {
    for from in 1..=6 {
        let mut scribe = Scribe::new();
        scribe.entries(&[10, 20, 10, 0, 10]);
        scribe.flush(&[entry(from, 2, 20), entry(from + 1, 2, 20)]);
        let recovered = scribe.disk.replay();
        let kept = (1..from).map(|index| (index, 1));
        let expected: Vec<_> = kept.chain([(from, 2), (from + 1, 2)]).collect();
        assert_eq!(found(&scribe, &recovered), expected);
        let behind = LogIndex::from_raw(from + 2);
        assert_eq!(scribe.writer.locate(GROUP, behind), None);
    }
}

#[test]
fn an_entry_that_is_put_back_leaves_the_rest_of_its_run_in_place() {
    for index in 1..=4 {
        let mut scribe = Scribe::new();
        scribe.entries(&[10, 10, 10, 10]);
        let run = scribe.writer.locate(GROUP, LogIndex::from_raw(index));
        scribe.flush(&[put_back(index)]);
        let recovered = scribe.disk.replay();
        assert_eq!(found(&scribe, &recovered), [(1, 1), (2, 1), (3, 1), (4, 1)]);
        for other in 1..=4 {
            let place = recovered.writer.locate(GROUP, LogIndex::from_raw(other));
            assert_eq!(place == run, other != index, "{other}");
        }
    }
}

#[test]
fn a_segment_lives_as_long_as_one_entry_of_its_runs_is_above_the_floor() {
    let mut scribe = Scribe::new();
    scribe.entries(&[10; 6]);
    let first = scribe.flushes[0].0.segment;
    roll(&mut scribe);
    for index in 1..=5 {
        scribe.flush(&[floor(index)]);
        roll(&mut scribe);
        roll(&mut scribe);
        assert!(scribe.disk.files.contains_key(&first), "floor {index}");
        let recovered = scribe.disk.replay();
        let left: Vec<_> = (index + 1..=6).map(|index| (index, 1)).collect();
        assert_eq!(found(&scribe, &recovered), left);
        // As a start finds it.
        scribe.writer = recovered.writer;
    }
    scribe.flush(&[floor(6)]);
    roll(&mut scribe);
    roll(&mut scribe);
    assert!(!scribe.disk.files.contains_key(&first), "nothing needs it");
    assert_eq!(last_of(&scribe.disk.replay()), 6);
}
