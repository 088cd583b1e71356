//! Changes of a group's members are found wherever they lie in its log, whatever else is in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use wal::{
    BLOCK, Entry, EntryKind, GroupId, LogIndex, Options, Payload, Record, RecoveredLog, Replay,
    SegmentId, Term, UNREADABLE, Writer,
};

const SEGMENT_BYTES: usize = 512 * BLOCK;
const OPTIONS: Options = Options {
    segment_bytes: SEGMENT_BYTES as u64,
    instance: 7,
};
const GROUP: GroupId = GroupId::from_raw(1);

struct Log {
    disk: BTreeMap<SegmentId, Vec<u8>>,
    writer: Writer,
}

impl Log {
    fn new() -> Self {
        let writer = Replay::new(OPTIONS, 0, []).unwrap().finish().writer;
        let disk = BTreeMap::new();
        Self { disk, writer }
    }

    /// With room for the payload of one entry in memory.
    fn found(&self) -> RecoveredLog {
        let firsts = self.disk.iter().map(|(&id, bytes)| (id, &bytes[..BLOCK]));
        let mut replay = Replay::new(OPTIONS, 1, firsts).unwrap();
        while let Some(segment) = replay.next_segment() {
            replay.segment(&self.disk[&segment]).unwrap();
        }
        let found = replay.finish().groups.remove(&GROUP);
        found.unwrap_or_default()
    }

    fn flush(&mut self, record: Record) {
        let records = [record];
        let place = self.writer.place(self.writer.next_flush(), &records);
        let mut bytes = vec![0; place.bytes];
        self.writer.encode(&place, &records, &mut bytes);
        let empty = || vec![0; SEGMENT_BYTES];
        let file = self.disk.entry(place.segment).or_insert_with(empty);
        let at = usize::try_from(place.offset).unwrap();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        self.writer.written(place.number);
    }

    fn lose(&mut self, index: LogIndex) {
        let place = self.writer.locate(GROUP, index).unwrap();
        let at = place.offset as usize / BLOCK * BLOCK;
        self.disk.get_mut(&place.segment).unwrap()[at..at + BLOCK].fill(UNREADABLE);
    }
}

fn entry(index: u64, term: u64, kind: EntryKind) -> Entry {
    Entry {
        term: Term::from_raw(term),
        index: LogIndex::from_raw(index),
        kind,
        payload: Payload::from(*b"eight by"),
    }
}

#[test]
fn replay_names_every_change_of_members_that_the_log_holds_and_no_other() {
    let mut seed = 0x5eed_u64;
    let mut draw = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) % below
    };
    for _ in 0..60 {
        let mut log = Log::new();
        let (mut floor, mut entries) = (0, Vec::<Entry>::new());
        for term in 1..=1 + draw(40) {
            let last = floor + entries.len() as u64;
            match draw(6) {
                0 if last > floor => {
                    floor += 1 + draw(last - floor);
                    entries.retain(|entry| entry.index.to_raw() > floor);
                    let (index, term) = (LogIndex::from_raw(floor), Term::from_raw(term));
                    let group = GROUP;
                    log.flush(Record::Floor { group, index, term });
                }
                choice => {
                    // Most follow what is there; some replace what no leader had committed.
                    let from = match choice {
                        1 => floor + 1 + draw(last - floor + 1),
                        _ => last + 1,
                    };
                    let kind = match draw(3) {
                        0 => EntryKind::Membership,
                        _ => EntryKind::Batch,
                    };
                    let entry = entry(from, term, kind);
                    entries.retain(|entry| entry.index.to_raw() < from);
                    entries.push(entry.clone());
                    let group = GROUP;
                    log.flush(Record::Entry { group, entry });
                }
            }
        }
        let changes = |entries: &[Entry]| -> Vec<Entry> {
            let changes = entries.iter();
            let changes = changes.filter(|entry| entry.kind == EntryKind::Membership);
            changes.cloned().collect()
        };
        assert_eq!(log.found().memberships, changes(&entries));
        // What lies behind a hole counts once the hole is filled.
        let at = entries.len() / 2;
        if at + 1 < entries.len() {
            log.lose(entries[at].index);
            let found = log.found();
            assert!(found.damage.is_some());
            assert_eq!(found.memberships, changes(&entries[..at]));
        }
    }
}
