//! Logs that begin where a snapshot ends: one that is gone, or one that a peer sent.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disk;

use std::ops::RangeInclusive;

use disk::Log;
use wal::{
    BLOCK, Claim, Entry, GroupId, HardState, LogIndex, Options, Record, SegmentId, Term, UNREADABLE,
};

const OPTIONS: Options = Options {
    segment_bytes: 8 * BLOCK as u64,
    instance: 7,
};
const GROUP: GroupId = GroupId::from_raw(1);

impl Log {
    fn write(&mut self, indexes: RangeInclusive<u64>) {
        for index in indexes {
            let (group, entry) = (GROUP, entry(index));
            self.flush(&[Record::Entry { group, entry }]);
        }
    }

    /// Moves the floor, and gives the segments that leave the log then.
    fn release(&mut self, below: u64) -> Vec<SegmentId> {
        self.flush(&[floor(below)]);
        let mut gone = Vec::new();
        for _ in 0..4 {
            self.flush(&[]);
            gone.extend(self.writer.reclaim());
        }
        self.disk.remove(&gone);
        gone
    }
}

fn entry(index: u64) -> Entry {
    disk::entry(index, 1 + index / 4, *b"entry")
}

fn floor(index: u64) -> Record {
    Record::Floor {
        group: GROUP,
        index: LogIndex::from_raw(index),
        term: entry(index).term,
    }
}

fn commit(index: u64) -> Record {
    let state = HardState {
        term: entry(index).term,
        vote: None,
        commit: entry(index).index,
    };
    Record::HardState {
        group: GROUP,
        state,
    }
}

fn empty() -> Log {
    Log::new(OPTIONS, 1 << 20)
}

/// Entries up to 9, of which a snapshot held those up to 6.
fn log() -> Log {
    let mut log = empty();
    log.write(1..=9);
    log.flush(&[floor(6)]);
    log
}

#[test]
fn what_lies_between_an_older_floor_and_the_newer_is_missing_until_it_is_put_back() {
    for first in [0, 2, 5] {
        let mut log = log();
        log.flush(&[floor(first)]);
        let found = log.found(GROUP);
        let damage = found.damage.unwrap();
        assert_eq!(found.floor.0.to_raw(), first);
        assert_eq!(found.last.to_raw(), first);
        let claim = damage.claim.unwrap();
        let newest = entry(9);
        assert_eq!((claim.index, claim.term), (Some(newest.index), newest.term));
        assert_eq!(damage.gap_ends, [(entry(6).index, entry(6).term)]);
        assert_eq!(damage.spares, [entry(7), entry(8), entry(9)]);

        for index in first + 1..=6 {
            let (group, entry) = (GROUP, entry(index));
            log.flush(&[Record::Patch { group, entry }]);
        }
        let found = log.found(GROUP);
        assert_eq!((found.damage, found.last.to_raw()), (None, 9));
        let there = (first + 1..=9).map(entry);
        assert_eq!(found.tail, there.collect::<Vec<_>>());
    }
}

/// A flush that lowered the floor is lost together with the first that put something back. The next one
/// names what that was, so what was found between the floors is missed again, and nothing else.
#[test]
fn a_floor_that_was_lowered_in_a_lost_flush_is_known_by_what_was_put_back() {
    for named in [false, true] {
        let mut log = log();
        let lowered = log.flush(&[floor(0)]);
        for index in 1..=6 {
            let (group, entry) = (GROUP, entry(index));
            let put_back = log.flush(&[Record::Patch { group, entry }]);
            if index == 1 && named {
                log.disk.place(&put_back).fill(UNREADABLE);
            }
        }
        log.disk.place(&lowered).fill(UNREADABLE);
        let found = log.found(GROUP);
        assert_eq!(found.floor.0.to_raw(), 0, "named: {named}");
        assert_eq!(found.last.to_raw(), if named { 0 } else { 9 });
        let spares = found.damage.map(|damage| damage.spares);
        assert_eq!(spares, named.then(|| (2..=9).map(entry).collect()));
    }
}

#[test]
fn a_later_segment_begins_with_the_older_floor() {
    let mut log = log();
    log.flush(&[floor(2)]);
    for index in 3..=6 {
        let (group, entry) = (GROUP, entry(index));
        log.flush(&[Record::Patch { group, entry }]);
    }
    // Another start begins another segment; what is before it is lost then.
    log.writer = log.disk.replay().writer;
    log.flush(&[]);
    log.flush(&[]);
    let newest = *log.disk.files.last_key_value().unwrap().0;
    log.disk.files.retain(|&segment, _| segment == newest);
    let found = log.found(GROUP);
    let gone = found.damage.unwrap();
    assert_eq!(
        (found.floor.0.to_raw(), gone.claim.unwrap().index),
        (2, Some(entry(9).index))
    );
}

/// A node that comes back without its data has noted that it misses something of which it knows neither
/// place nor term. Then a peer's snapshot and entries of any term may be less than it acknowledged.
#[test]
fn a_log_that_a_peer_has_begun_to_fill_still_misses_what_nobody_named() {
    let mut log = empty();
    log.flush(&[Record::Damaged {
        group: GROUP,
        claim: Some(Claim {
            index: None,
            term: Term::ZERO,
        }),
        promises_lost: true,
    }]);
    let claimed = |log: &Log| {
        let damage = log
            .found(GROUP)
            .damage
            .expect("nobody has said that it is whole");
        assert!(damage.promises_lost);
        let claim = damage.claim.expect("nobody knows what is missing");
        assert_eq!(claim.index, None);
        claim.term
    };
    assert_eq!(claimed(&log), Term::ZERO);
    let (group, term) = (GROUP, Term::from_raw(18));
    let state = HardState {
        term,
        ..HardState::default()
    };
    log.flush(&[Record::HardState { group, state }]);
    assert_eq!(claimed(&log), term);
    let before = entry(5);
    log.flush(&[
        floor(5),
        Record::Entry {
            group,
            entry: entry(6),
        },
        floor(6),
    ]);
    assert!(before.term < term, "as a peer's snapshot may be");
    assert_eq!(claimed(&log), term);
    let index = LogIndex::from_raw(6);
    log.flush(&[Record::Intact { group, index, term }]);
    assert_eq!(log.found(GROUP).damage, None);
}

/// Starts from a log in which the flushes with these entries are lost, and puts back what is missing, with
/// all behind it. Gives the first that is.
fn lose_and_repair(log: &mut Log, lost: RangeInclusive<u64>, last: u64) -> u64 {
    lost.for_each(|lost| log.lose(GROUP, entry(lost).index));
    let start = log.disk.replay();
    let first = start.groups[&GROUP].last.next().to_raw();
    let damage = start.groups[&GROUP].damage.clone().unwrap();
    log.writer = start.writer;
    let (group, claim, promises_lost) = (GROUP, damage.claim, damage.promises_lost);
    log.flush(&[Record::Damaged {
        group,
        claim,
        promises_lost,
    }]);
    for index in first..=last {
        let entry = entry(index);
        log.flush(&[Record::Patch { group, entry }]);
    }
    log.flush(&[commit(last)]);
    let (index, term) = (entry(last).index, entry(last).term);
    log.flush(&[Record::Intact { group, index, term }]);
    assert_eq!(log.found(GROUP).damage, None);
    first
}

/// What is noted of losses names all of them: with the segments of some gone, it would say nothing about the
/// others, and what is whole again would be missed at the next start.
#[test]
fn segments_in_which_flushes_were_lost_leave_the_log_together() {
    // The second is the end of the log: later starts find it missing where the next segment begins.
    for lost in [3, 10] {
        let mut log = empty();
        log.write(1..=10);
        lose_and_repair(&mut log, lost..=lost, 10);
        log.write(11..=30);
        lose_and_repair(&mut log, 20..=20, 30);
        assert_eq!(log.disk.replay().lost.len(), 2);

        // Nothing is left in the segment of the first loss; in that of the second there is.
        let gone = log.release(15);
        assert_eq!(log.disk.replay().lost.len(), 2, "without {gone:?}");
        assert_eq!(log.found(GROUP).damage, None);
        assert!(!log.release(30).is_empty());
        assert_eq!(log.disk.replay().lost, []);
        assert_eq!(log.found(GROUP).damage, None);
    }
}

/// With the segments before it gone, a segment's heads say where the log ended when it was begun, and nothing
/// is known of the terms up to there. That puts none of the later entries in doubt.
#[test]
fn what_a_start_found_behind_a_loss_is_there_when_the_segments_before_have_left_the_log() {
    let mut log = empty();
    log.write(1..=5);
    log.flush(&[floor(3)]);
    log.write(6..=17);
    log.flush(&[commit(15)]);
    log.write(18..=24);
    // What is missing may have replaced what was not committed: the next entry is of another term.
    assert_eq!(lose_and_repair(&mut log, 18..=19, 24), 16);
    let gone = log.release(12);
    assert!(!gone.is_empty());
    let found = log.found(GROUP);
    assert_eq!((found.damage, found.last.to_raw()), (None, 24));
    assert_eq!(log.disk.replay().lost.len(), 1);
}

#[test]
fn what_was_committed_between_two_losses_is_not_missed() {
    let mut log = empty();
    log.write(1..=9);
    log.flush(&[commit(7)]);
    log.write(10..=22);
    log.flush(&[commit(19)]);
    log.write(23..=30);
    for lost in [10, 11, 23, 24] {
        log.lose(GROUP, entry(lost).index);
    }
    let found = log.found(GROUP);
    let spares = found.damage.unwrap().spares;
    let spares = spares.iter().map(|entry| entry.index.to_raw());
    let there = (12..=19).chain(25..=30);
    assert_eq!(found.last.to_raw(), 7);
    assert_eq!(spares.collect::<Vec<_>>(), there.collect::<Vec<_>>());
}

#[test]
fn a_log_goes_on_behind_entries_of_which_the_segments_have_gone_since() {
    let mut log = log();
    let restart = |log: &mut Log| log.writer = log.disk.replay().writer;
    // The state of the snapshot is lost: a segment begins when the log counts as ending at 0.
    log.flush(&[floor(0)]);
    restart(&mut log);
    // Another group needs that segment for ever.
    let (group, other) = (GroupId::from_raw(2), entry(1));
    log.flush(&[Record::Entry {
        group,
        entry: other,
    }]);
    let patch = |index| {
        let (group, entry) = (GROUP, entry(index));
        Record::Patch { group, entry }
    };
    log.flush(&(1..=6).map(patch).collect::<Vec<_>>());
    // Another start finds that 7 to 9 are there after all, in older segments, and goes on behind them.
    restart(&mut log);
    assert_eq!(log.found(GROUP).last.to_raw(), 9);
    log.write(10..=12);
    let gone = log.release(10);
    assert!(!gone.is_empty());
    let found = log.found(GROUP);
    assert_eq!((found.damage, found.floor.0.to_raw()), (None, 10));
    assert_eq!(found.last.to_raw(), 12);
}

/// With the segments before it gone, a segment names the last entry that they held. The end of the gap is no
/// other once a later floor tells where that begins, unless flushes are lost that may have replaced it.
#[test]
fn the_last_entry_of_segments_that_are_gone_ends_the_gap_unless_it_may_have_been_replaced() {
    let of = |index, term| disk::entry(index, term, *b"entry");
    let record = |entry| Record::Entry {
        group: GROUP,
        entry,
    };
    let ends = |lost: &[&[Entry]], next: Entry| {
        let mut log = empty();
        log.flush(&[of(1, 1), of(2, 1)].map(record));
        log.writer = log.disk.replay().writer;
        log.flush(&[]);
        let newest = *log.disk.files.last_key_value().unwrap().0;
        log.disk.files.retain(|&segment, _| segment == newest);
        for entries in lost {
            let records: Vec<_> = entries.iter().cloned().map(record).collect();
            let place = log.flush(&records);
            log.disk.place(&place).fill(UNREADABLE);
        }
        log.flush(&[record(next.clone())]);
        let (group, index, term) = (GROUP, LogIndex::from_raw(1), Term::from_raw(1));
        log.flush(&[Record::Floor { group, index, term }]);
        let found = log.found(GROUP);
        assert_eq!((found.floor, found.last), ((index, term), index));
        let damage = found.damage.unwrap();
        let claim = damage.claim.unwrap();
        assert_eq!((claim.index, claim.term), (Some(next.index), next.term));
        assert_eq!(damage.spares, [next]);
        let ends = damage.gap_ends.into_iter();
        ends.map(|(index, term)| (index.to_raw(), term.to_raw()))
            .collect::<Vec<_>>()
    };
    assert_eq!(ends(&[], of(3, 2)), [(2, 1)]);
    // An entry of the same term follows: whoever wrote it had not replaced any.
    assert_eq!(ends(&[&[], &[]], of(3, 1)), [(2, 1)]);
    // Nothing names what two flushes in a row held.
    assert_eq!(ends(&[&[of(2, 2)], &[]], of(3, 2)), []);
    // The flush behind names what one held: it replaced more than the last, and that was replaced again.
    assert_eq!(ends(&[&[of(2, 2), of(3, 2)]], of(3, 3)), []);
}
