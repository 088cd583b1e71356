//! A log that lost the way to its newest entries takes no memory for what lies between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disk;

use disk::Log;
use wal::{BLOCK, GroupId, LogIndex, Options, Record, Term};

const OPTIONS: Options = Options {
    segment_bytes: 16 * BLOCK as u64,
    instance: 1,
};
const FAR: u64 = 20_000_000;

fn entry(index: u64) -> Record {
    Record::Entry {
        group: GroupId::from_raw(1),
        entry: disk::entry(index, index % FAR, *b"payload"),
    }
}

/// The most memory that the process has taken so far.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn entries_far_behind_what_was_lost_take_no_memory_for_the_distance() {
    let (group, index, term) = (
        GroupId::from_raw(1),
        LogIndex::from_raw(FAR),
        Term::from_raw(1),
    );
    let floor = [Record::Floor { group, index, term }];
    let mut log = Log::new(OPTIONS, 1 << 20);
    let entries = [entry(1), entry(2), entry(3)];
    log.flush(&entries);
    let places = [log.flush(&floor), log.flush(&[])];
    log.flush(&[entry(FAR + 1)]);
    log.flush(&[entry(FAR + 2)]);
    let before = peak_bytes();
    // With the floor and the flush that repeats it, the way from 3 to the far entries is lost.
    for place in &places {
        log.disk.place(place)[100] ^= 1;
    }
    let found = log.disk.replay();
    let taken = peak_bytes() - before;
    let log = &found.groups[&group];
    let damage = log.damage.as_ref().unwrap();
    assert_eq!(
        damage.claim.unwrap().index,
        Some(LogIndex::from_raw(FAR + 2))
    );
    assert_eq!(damage.spares.len(), 2);
    assert!(taken < 32 << 20, "{taken} bytes for five entries");
}
