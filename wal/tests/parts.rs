//! Flushes that are made in pieces: what is given away early is what the flush holds in the end.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use wal::{
    BLOCK, Entry, EntryKind, FlushNumber, GroupId, HardState, LogIndex, Options, Payload, Record,
    Replay, ReplicaId, Term, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    instance: 9,
};

fn writer() -> Writer {
    let replay = Replay::new(OPTIONS, 0, []).unwrap();
    replay.finish().writer
}

/// Entries of many sizes, and many of one; in every third flush also promises, which are written twice.
fn records(flush: u64) -> Vec<Record> {
    let group = GroupId::from_raw(flush as u32 % 3);
    let term = Term::from_raw(1 + flush / 3);
    let state = HardState {
        term,
        vote: Some(ReplicaId::from_raw(1)),
        commit: LogIndex::ZERO,
    };
    let mut records = Vec::new();
    for at in 0..flush * 3 % 20 {
        let bytes = (flush * 7919 + at * at * 331) % 9000;
        let entry = Entry {
            term,
            index: LogIndex::from_raw(1 + at),
            kind: EntryKind::Batch,
            payload: Payload::from(vec![at as u8 + 1; bytes as usize]),
        };
        records.push(Record::Entry { group, entry });
    }
    // Small ones are laid out as runs.
    for at in 0..flush * 29 % 700 {
        let entry = Entry {
            term,
            index: LogIndex::from_raw(1 + flush * 3 % 20 + at),
            kind: EntryKind::Batch,
            payload: Payload::from(vec![at as u8; 150]),
        };
        records.push(Record::Entry { group, entry });
    }
    if flush.is_multiple_of(3) {
        records.push(Record::HardState { group, state });
    }
    records
}

#[test]
fn pieces_are_final_when_they_are_given_and_together_they_are_the_flush() {
    let mut in_pieces = 0;
    for piece_bytes_min in [BLOCK, 10_000, 100_000] {
        let (mut whole, mut pieced) = (writer(), writer());
        for number in 1..60 {
            let records = records(number);
            let number = FlushNumber::from_raw(number);
            let place = whole.place(number, &records);
            assert_eq!(pieced.place(number, &records), place);
            let mut expected = vec![0; place.bytes];
            whole.encode(&place, &records, &mut expected);

            let mut given = vec![0; place.bytes];
            let mut pieces = Vec::new();
            pieced.encode_pieces(&place, &records, piece_bytes_min, |at, bytes| {
                given[at..at + bytes.len()].copy_from_slice(bytes);
                pieces.push((at, bytes.len()));
            });
            assert!(given == expected, "flush {number} by {piece_bytes_min}");

            in_pieces += usize::from(pieces.len() > 1);
            pieces.sort_unstable();
            let end = pieces.iter().fold(0, |end, &(at, bytes)| {
                assert_eq!(at, end, "flush {number} by {piece_bytes_min}: {pieces:?}");
                assert!(bytes > 0 && bytes.is_multiple_of(BLOCK), "{pieces:?}");
                end + bytes
            });
            assert_eq!(end, place.bytes);
            whole.written(number);
            pieced.written(number);
        }
    }
    assert!(in_pieces > 60, "{in_pieces} flushes were made in pieces");
}
