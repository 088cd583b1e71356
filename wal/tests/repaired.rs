//! Logs that lose flushes, are repaired as the start says, and go on: what was put back is there at every
//! later start, whatever was lost before or since, and whichever segments have left the log.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disk;

use disk::{Disk, Rng, encode};
use wal::{
    BLOCK, Damage, Entry, GroupId, HardState, LogIndex, Options, Placement, Record, RecoveredLog,
    SECTOR, SegmentId, Term, UNREADABLE, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 10 * BLOCK as u64,
    instance: 7,
};
const GROUPS: usize = 2;

/// What a group holds, by those who wrote it.
#[derive(Default)]
struct Group {
    /// The term of each entry from the first on.
    terms: Vec<u64>,
    term: u64,
    commit: u64,
    floor: u64,
}

struct Log {
    disk: Disk,
    writer: Writer,
    flushes: Vec<Placement>,
    groups: [Group; GROUPS],
    /// Something was lost that had been durable.
    harmed: bool,
}

fn id(group: usize) -> GroupId {
    GroupId::from_raw(u32::try_from(group).unwrap())
}

/// What a start says of a group that is damaged.
fn note(group: usize, damage: &Damage) -> Record {
    Record::Damaged {
        group: id(group),
        claim: damage.claim,
        promises_lost: damage.promises_lost,
    }
}

/// The term of an entry that a start found.
fn term_in(log: &RecoveredLog, index: u64) -> Option<u64> {
    let terms = log.terms.iter().rev();
    let mut before = terms.skip_while(|(from, _)| from.to_raw() > index);
    before.next().map(|(_, term)| term.to_raw())
}

impl Group {
    fn last(&self) -> u64 {
        self.terms.len() as u64
    }

    fn term_of(&self, index: u64) -> u64 {
        let before = index.checked_sub(1);
        before.map_or(0, |at| self.terms[usize::try_from(at).unwrap()])
    }

    fn entry(&self, index: u64) -> Entry {
        disk::entry(index, self.term_of(index), *b"entry")
    }

    fn state(&self, group: usize) -> Record {
        let state = HardState {
            term: Term::from_raw(self.term),
            vote: None,
            commit: LogIndex::from_raw(self.commit),
        };
        let group = id(group);
        Record::HardState { group, state }
    }

    fn floor(&self, group: usize) -> Record {
        Record::Floor {
            group: id(group),
            index: LogIndex::from_raw(self.floor),
            term: Term::from_raw(self.term_of(self.floor)),
        }
    }
}

impl Log {
    fn new() -> Self {
        let disk = Disk::new(OPTIONS, 1 << 20);
        Self {
            writer: disk.replay().writer,
            disk,
            flushes: Vec::new(),
            groups: Default::default(),
            harmed: false,
        }
    }

    fn flush(&mut self, records: &[Record]) {
        let place = self.disk.flush(&mut self.writer, records);
        self.flushes.push(place);
        let gone = self.writer.reclaim();
        self.drop_segments(&gone);
    }

    fn drop_segments(&mut self, gone: &[SegmentId]) {
        self.disk.remove(gone);
        self.flushes.retain(|at| !gone.contains(&at.segment));
    }

    fn append(&mut self, group: usize, entries: u64) {
        let of = &mut self.groups[group];
        let first = of.last() + 1;
        of.terms.extend((0..entries).map(|_| of.term));
        let of = &self.groups[group];
        let entries = (first..=of.last()).map(|index| Record::Entry {
            group: id(group),
            entry: of.entry(index),
        });
        self.flush(&entries.collect::<Vec<_>>());
    }

    /// Another leader replaces what is not committed, from a position on.
    fn replace(&mut self, group: usize, keep: u64) {
        let of = &mut self.groups[group];
        of.term += 1;
        of.terms
            .truncate(usize::try_from(of.commit.max(keep)).unwrap());
        let state = of.state(group);
        self.flush(&[state]);
        self.append(group, 1);
    }

    /// Starts, and stops in the middle of the flush that notes what is missing.
    fn start_in_vain(&mut self, keeps: impl Fn(usize) -> bool) {
        let found = self.disk.replay();
        self.drop_segments(&found.dead);
        self.writer = found.writer;
        let groups = (0..GROUPS).map(|group| {
            let log = found.groups.get(&id(group));
            let log = log.unwrap_or(&found.unmentioned);
            Some(note(group, log.damage.as_ref()?))
        });
        let mut records: Vec<_> = groups.flatten().collect();
        // Of something larger than a sector, the end is never written.
        records.push(Record::Entry {
            group: id(GROUPS),
            entry: disk::entry(1, 1, vec![1; BLOCK / 2]),
        });
        let last = |number| number >= (BLOCK + BLOCK / 2) / SECTOR;
        let at = self.writer.place(self.writer.next_flush(), &records);
        let bytes = encode(&mut self.writer, &at, &records);
        self.disk
            .write(&at, &bytes, |number| keeps(number) && !last(number));
    }

    /// Starts, and puts back what is missing. Says of how many groups something was.
    fn start(&mut self) -> usize {
        let mut found = self.disk.replay();
        let (dead, given_up) = (found.dead, found.given_up);
        self.drop_segments(&dead);
        self.writer = found.writer;
        let (mut notes, mut repairs) = (Vec::new(), Vec::new());
        for (group, of) in self.groups.iter_mut().enumerate() {
            let log = found.groups.remove(&id(group));
            let log = log.unwrap_or_else(|| found.unmentioned.clone());
            let last = log.last.to_raw();
            let Some(damage) = &log.damage else {
                assert_eq!(last, of.last(), "group {group} ends elsewhere in silence");
                continue;
            };
            notes.push(note(group, damage));
            let mut repair = Vec::new();
            if log.floor.0.to_raw() < of.floor {
                repair.push(of.floor(group));
            }
            // What is left may have been replaced only by what nobody names.
            let same = (of.floor + 1..=last.min(of.last()))
                .take_while(|&index| term_in(&log, index) == Some(of.term_of(index)));
            let same = same.last().unwrap_or(of.floor);
            let stale = same < last;
            let unnamed = damage.claim.is_some_and(|claim| claim.index.is_none());
            if stale {
                assert!(unnamed, "group {group} holds other entries behind {same}");
                // The next leader replaces them.
                of.term += 1;
                of.terms.push(of.term);
            }
            repair.extend((same + 1..=of.last()).map(|index| {
                let (group, entry) = (id(group), of.entry(index));
                // Nobody but a leader knows what the end of such a log was.
                if unnamed {
                    Record::Entry { group, entry }
                } else {
                    Record::Patch { group, entry }
                }
            }));
            repair.push(of.state(group));
            repairs.push(repair);
            let (index, term) = (of.last(), of.term_of(of.last()));
            repairs.push(vec![Record::Intact {
                group: id(group),
                index: LogIndex::from_raw(index),
                term: Term::from_raw(term),
            }]);
        }
        let damaged = notes.len();
        self.flush(&notes);
        self.drop_segments(&given_up);
        for repair in repairs {
            self.flush(&repair);
        }
        damaged
    }

    fn check(&self, what: &str) {
        let found = self.disk.replay();
        let sound = self.harmed || found.lost.is_empty();
        assert!(sound, "{what}: torn, and taken for lost: {:?}", found.lost);
        for (group, of) in self.groups.iter().enumerate() {
            let Some(log) = found.groups.get(&id(group)) else {
                assert_eq!(of.last(), 0, "{what}: group {group} is gone");
                continue;
            };
            let lost = &found.lost;
            assert_eq!(log.damage, None, "{what}: group {group}, {lost:?}");
            assert_eq!(log.last.to_raw(), of.last(), "{what}: group {group}");
            for index in log.floor.0.to_raw() + 1..=of.last() {
                let term = term_in(log, index);
                assert_eq!(term, Some(of.term_of(index)), "{what}: {group}:{index}");
            }
        }
    }
}

#[test]
fn what_was_put_back_is_there_at_every_later_start() {
    let (mut losses, mut damaged) = (0, 0);
    for seed in 1..=2_000_u64 {
        let mut rng = Rng(seed);
        let mut draw = |below: u64| rng.below(below);
        let mut log = Log::new();
        for step in 0..60 {
            let group = usize::try_from(draw(GROUPS as u64)).unwrap();
            let of = &mut log.groups[group];
            match draw(16) {
                0..=6 => {
                    of.term = of.term.max(1);
                    log.append(group, 1 + draw(2));
                }
                7..=9 => {
                    of.commit += draw(of.last() - of.commit + 1);
                    let state = of.state(group);
                    log.flush(&[state]);
                }
                10..=11 => {
                    let keep = of.last().saturating_sub(draw(4));
                    log.replace(group, keep);
                }
                12..=13 => {
                    let floor = of.floor + draw(of.commit - of.floor + 1);
                    if floor > of.floor {
                        of.floor = floor;
                        let records = [of.state(group), of.floor(group)];
                        log.flush(&records);
                    }
                }
                14 => log.flush(&[]),
                _ => {
                    // The mark tells of all before it; a sector that cannot be read of itself.
                    let marks = 2 * draw(2);
                    (0..marks).for_each(|_| log.flush(&[]));
                    let flushes = log.flushes.len() as u64 - marks;
                    if draw(4) > 0 && flushes > 0 {
                        let first = draw(flushes);
                        let lost = first..flushes.min(first + 1 + draw(3));
                        losses += 1;
                        log.harmed = true;
                        for at in lost {
                            let at = log.flushes[usize::try_from(at).unwrap()];
                            let from = usize::try_from(at.offset).unwrap();
                            let header = if at.opens_segment { BLOCK } else { 0 };
                            let file = log.disk.files.get_mut(&at.segment).unwrap();
                            file[from + header..from + at.bytes].fill(UNREADABLE);
                        }
                    }
                    for _ in 0..draw(3) {
                        let sectors = draw(1 << 16);
                        log.start_in_vain(|number| sectors >> (number % 16) & 1 == 1);
                    }
                    damaged += log.start();
                }
            }
            log.check(&format!("seed {seed}, step {step}"));
        }
    }
    assert!(
        losses > 2000 && damaged > 2000,
        "{losses} losses, {damaged} groups"
    );
}
