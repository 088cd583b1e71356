//! A log that lost the way to its newest entries takes no memory for what lies between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use wal::{
    BLOCK, Entry, EntryKind, GroupId, LogIndex, Options, Payload, Record, Replay, Term, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 16 * BLOCK as u64,
    instance: 1,
};
const FAR: u64 = 20_000_000;

fn entry(index: u64) -> Record {
    let (term, index) = (Term::from_raw(index % FAR), LogIndex::from_raw(index));
    let entry = Entry {
        term,
        index,
        kind: EntryKind::Batch,
        payload: Payload::from(&b"payload"[..]),
    };
    Record::Entry {
        group: GroupId::from_raw(1),
        entry,
    }
}

/// The segment behind some flushes, and where each of them starts.
fn written(flushes: &[&[Record]]) -> (Vec<u8>, Vec<usize>) {
    let mut writer: Writer = Replay::new(OPTIONS, 0, []).unwrap().finish().writer;
    let (mut segment, mut starts) = (Vec::new(), Vec::new());
    for records in flushes {
        let placement = writer.place(writer.next_flush(), records);
        let mut bytes = vec![0; placement.bytes];
        writer.encode(&placement, records, &mut bytes);
        segment.extend(bytes);
        starts.push(segment.len() - BLOCK);
        writer.written(placement.number);
    }
    segment.resize(16 * BLOCK, 0);
    (segment, starts)
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
    let (mut segment, starts) = written(&[
        &[entry(1), entry(2), entry(3)],
        &floor,
        &[],
        &[entry(FAR + 1)],
        &[entry(FAR + 2)],
    ]);
    let before = peak_bytes();
    // With the floor and the flush that repeats it, the way from 3 to the far entries is lost.
    for &start in &starts[1..3] {
        segment[start + 100] ^= 1;
    }
    let id = wal::SegmentId::from_raw(1);
    let mut replay = Replay::new(OPTIONS, 1 << 20, [(id, &segment[..BLOCK])]).unwrap();
    while replay.next_segment().is_some() {
        replay.segment(&segment).unwrap();
    }
    let found = replay.finish();
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
