//! Changes of a group's members are found wherever they lie in its log, whatever else is in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disk;

use disk::{Log, Rng};
use wal::{BLOCK, Entry, EntryKind, GroupId, LogIndex, Options, Record, Term};

const OPTIONS: Options = Options {
    segment_bytes: 512 * BLOCK as u64,
    instance: 7,
};
const GROUP: GroupId = GroupId::from_raw(1);

fn entry(index: u64, term: u64, kind: EntryKind) -> Entry {
    let entry = disk::entry(index, term, *b"eight by");
    Entry { kind, ..entry }
}

#[test]
fn replay_names_every_change_of_members_that_the_log_holds_and_no_other() {
    let mut rng = Rng(0x5eed);
    let mut draw = |below: u64| rng.below(below);
    for _ in 0..60 {
        // With room for the payload of one entry in memory.
        let mut log = Log::new(OPTIONS, 1);
        let (mut floor, mut entries) = (0, Vec::<Entry>::new());
        for term in 1..=1 + draw(40) {
            let last = floor + entries.len() as u64;
            match draw(6) {
                0 if last > floor => {
                    floor += 1 + draw(last - floor);
                    entries.retain(|entry| entry.index.to_raw() > floor);
                    let (index, term) = (LogIndex::from_raw(floor), Term::from_raw(term));
                    let group = GROUP;
                    log.flush(&[Record::Floor { group, index, term }]);
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
                    log.flush(&[Record::Entry { group, entry }]);
                }
            }
        }
        let changes = |entries: &[Entry]| -> Vec<Entry> {
            let changes = entries.iter();
            let changes = changes.filter(|entry| entry.kind == EntryKind::Membership);
            changes.cloned().collect()
        };
        assert_eq!(log.found(GROUP).memberships, changes(&entries));
        // What lies behind a hole counts once the hole is filled.
        let at = entries.len() / 2;
        if at + 1 < entries.len() {
            log.lose(GROUP, entries[at].index);
            let found = log.found(GROUP);
            assert!(found.damage.is_some());
            assert_eq!(found.memberships, changes(&entries[..at]));
        }
    }
}
