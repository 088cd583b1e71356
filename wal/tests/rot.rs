//! Random histories of several groups, damaged at random: nothing that was durable may be missing in
//! silence, nothing may come back that is not the newest, and a log that was healed stays healed.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod disk;

use std::collections::BTreeMap;

use disk::{Disk, entry};
use wal::{
    BLOCK, Damage, Entry, GroupId, HardState, LogIndex, Options, Record, Recovered, RecoveredLog,
    ReplayError, ReplicaId, SegmentId, Term, Writer,
};

const SEGMENT_BLOCKS: usize = 12;
const OPTIONS: Options = Options {
    segment_bytes: (SEGMENT_BLOCKS * BLOCK) as u64,
    instance: 0x0107,
};
const GROUPS: u32 = 3;
/// Holds a few entries of a group, not all.
const CACHE_BYTES: usize = 4000;
const HISTORIES: u64 = 5000;
const FILE_STATES: u64 = 1000;
/// Beyond these: in a log without its oldest segments, the last entry that these held is replaced in a lost flush;
/// the header of the newest segment decays together with the start of the mark.
const HISTORIES_KEPT: [u64; 2] = [20395, 56676];

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize % end
    }
}

type Files = BTreeMap<SegmentId, Vec<u8>>;

/// What one group's log is when nothing is lost.
#[derive(Clone, Default)]
struct Model {
    entries: Vec<Entry>,
    hard_state: HardState,
    floor: LogIndex,
}

struct History {
    random: Random,
    disk: Disk,
    /// How many blocks of each segment were written since it was begun.
    used: BTreeMap<SegmentId, usize>,
    /// Segments that are no part of the log any more, and those that became others.
    free: Vec<SegmentId>,
    recycled: usize,
    writer: Writer,
    models: BTreeMap<GroupId, Model>,
    written: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        Self::of(seed, OPTIONS.instance)
    }

    /// In another data directory.
    fn of(seed: u64, instance: u64) -> Self {
        let options = Options {
            instance,
            ..OPTIONS
        };
        let disk = Disk::new(options, CACHE_BYTES);
        let mut history = Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            writer: disk.replay().writer,
            disk,
            used: BTreeMap::new(),
            free: Vec::new(),
            recycled: 0,
            models: BTreeMap::new(),
            written: 0,
        };
        let snapshots = history.random.below(2) == 0;
        let flushes_max = if snapshots { 60 } else { 25 };
        for _ in 0..10 + history.random.below(flushes_max) {
            history.flush_something(snapshots);
        }
        history.flush(&[]);
        history
    }

    fn flush_something(&mut self, snapshots: bool) {
        let mut records = Vec::new();
        for group in (0..GROUPS).map(GroupId::from_raw) {
            if self.random.below(3) == 0 {
                self.change(group, &mut records);
            }
            if snapshots && self.random.below(3) == 0 {
                self.snapshot(group, &mut records);
            }
        }
        self.flush(&records);
    }

    /// A snapshot holds what was committed.
    fn snapshot(&mut self, group: GroupId, records: &mut Vec<Record>) {
        let Some(model) = self.models.get_mut(&group) else {
            return;
        };
        if model.hard_state.commit > model.floor {
            model.floor = model.hard_state.commit;
            let (index, at) = (model.floor, model.floor.to_raw() as usize - 1);
            let term = model.entries[at].term;
            records.push(Record::Floor { group, index, term });
        }
    }

    fn change(&mut self, group: GroupId, records: &mut Vec<Record>) {
        let model = self.models.entry(group).or_default();
        let new_term = model.hard_state.term == Term::ZERO || self.random.below(5) == 0;
        if new_term {
            // A new leader replaces what was not committed, or some of it.
            let commit = model.hard_state.commit.to_raw() as usize;
            let kept = commit + self.random.below(model.entries.len() - commit + 1);
            if self.random.below(2) == 0 {
                model.entries.truncate(kept);
            }
            model.hard_state.term = model.hard_state.term.next();
            model.hard_state.vote = Some(ReplicaId::from_raw(self.random.below(3) as u32 + 1));
        }
        let first = model.entries.len();
        let alike = self.random.below(2) == 0;
        for _ in 0..self.random.below(4) + usize::from(new_term) {
            self.written += 1;
            let bytes = if alike { 40 } else { self.random.below(1300) };
            let payload = vec![self.written as u8; bytes];
            let (index, term) = (model.entries.len() as u64 + 1, model.hard_state.term);
            model.entries.push(entry(index, term.to_raw(), payload));
        }
        if self.random.below(4) == 0 {
            let commit = self.random.below(model.entries.len() + 1) as u64;
            model.hard_state.commit = model.hard_state.commit.max(LogIndex::from_raw(commit));
        }
        if new_term || self.random.below(3) == 0 {
            let state = model.hard_state;
            records.push(Record::HardState { group, state });
        }
        let entries = model.entries[first..].iter().cloned();
        records.extend(entries.map(|entry| Record::Entry { group, entry }));
    }

    fn flush(&mut self, records: &[Record]) {
        let at = self.writer.place(self.writer.next_flush(), records);
        if at.opens_segment {
            self.make(at.segment);
        }
        self.disk.flush_at(&mut self.writer, at, records);
        let end = at.offset as usize + at.bytes;
        self.used.insert(at.segment, end / BLOCK);
        for segment in self.writer.reclaim() {
            if self.writer.is_recyclable(segment) {
                self.free.push(segment);
            } else {
                self.disk.remove(&[segment]);
            }
        }
        if self.free.len() > 2 {
            let oldest = self.free.remove(0);
            self.writer.discard(oldest);
            self.disk.remove(&[oldest]);
        }
    }

    fn make(&mut self, segment: SegmentId) {
        if self.free.is_empty() {
            self.disk.make(segment);
        } else {
            let from = self.free.remove(0);
            self.disk.recycle(&mut self.writer, from, segment);
            self.recycled += 1;
        }
    }

    /// Another writer goes on; it finds the files that were free as they are.
    fn restart(&mut self, writer: Writer) {
        self.free.clear();
        self.writer = writer;
    }

    /// Harms one block that was written, or takes a whole segment. The mark, which alone knows of the
    /// flush before it, is not emptied: what is lost together with its only witness cannot be told
    /// from what was under way.
    fn rot(&mut self) -> String {
        let segments: Vec<SegmentId> = self.disk.files.keys().copied().collect();
        let segment = segments[self.random.below(segments.len())];
        let newest = segment == segments[segments.len() - 1];
        let what = self.random.below(20);
        if what == 0 && !newest {
            self.disk.remove(&[segment]);
            return format!("segment {segment} is gone");
        }
        let bytes = self.disk.files.get_mut(&segment).unwrap();
        let used = self.used[&segment];
        let marked = usize::from(newest && !(8..16).contains(&what));
        let used = used - marked;
        let block = self.random.below(used);
        let start = block * BLOCK;
        match what {
            1..8 => {
                bytes[start..start + BLOCK].fill(0);
                format!("{segment} block {block} is zero")
            }
            8..16 => {
                let at = start + self.random.below(BLOCK);
                bytes[at] ^= 1 << self.random.below(8);
                format!("{segment} @{at} is flipped")
            }
            _ => {
                let other = self.random.below(used) * BLOCK;
                let copy = bytes[other..other + BLOCK].to_vec();
                bytes.copy_within(start..start + BLOCK, other);
                bytes[start..start + BLOCK].copy_from_slice(&copy);
                format!("{segment} @{start} and @{other} are swapped")
            }
        }
    }

    /// More rot, in front of what was noted or behind it: nothing goes in silence.
    fn stays_honest(&mut self, what: &str) {
        let disk = self.disk.clone();
        let what = format!("{what}, then {}", self.rot());
        let found = self.disk.replay();
        for group in (0..GROUPS).map(GroupId::from_raw) {
            let log = found.groups.get(&group).unwrap_or(&found.unmentioned);
            self.check(group, log, &what);
        }
        self.disk = disk;
    }

    /// Says whether the group is whole.
    fn check(&self, group: GroupId, log: &RecoveredLog, what: &str) -> bool {
        let nothing = Model::default();
        let model = self.models.get(&group).unwrap_or(&nothing);
        let whole = Damage::default();
        let damage = log.damage.as_ref().unwrap_or(&whole);
        let promise = |state: &HardState| (state.term, state.vote);
        assert!(
            damage.promises_lost || promise(&log.hard_state) == promise(&model.hard_state),
            "{what}: {group}: the newest promise is missing in silence"
        );
        let last = LogIndex::from_raw(model.entries.len() as u64);
        let last_term = model.entries.last().map_or(Term::ZERO, |entry| entry.term);
        let claim = damage.claim;
        if let Some(claim) = claim.filter(|claim| claim.index.is_none()) {
            let known = damage.promises_lost || claim.term >= last_term;
            assert!(known, "{what}: {group}: the claim's term is too low");
            return false;
        }
        let claimed = claim.map_or(
            (log.last, log.terms.last().map_or(log.floor.1, |t| t.1)),
            |claim| (claim.index.unwrap(), claim.term),
        );
        assert_eq!(
            claimed,
            (last, last_term),
            "{what}: {group}: where the log ended"
        );
        let mut end = log.last;
        for entry in log.tail.iter().rev() {
            assert_eq!(entry.index, end, "{what}: {group}: the newest entries");
            end = end.previous();
        }
        for entry in log.tail.iter().chain(&damage.spares) {
            let newest = &model.entries[entry.index.to_raw() as usize - 1];
            let (index, term) = (entry.index, entry.term);
            assert!(
                entry == newest,
                "{what}: {group}: entry {index} of term {term} is not the newest of {log:?}"
            );
        }
        for &(index, term) in &damage.gap_ends {
            let at = index.to_raw() as usize - 1;
            assert_eq!(
                term, model.entries[at].term,
                "{what}: {group}: the end of a gap"
            );
        }
        log.damage.is_none()
    }
}

#[test]
fn whatever_rots_nothing_is_missing_in_silence_and_what_heals_stays_healed() {
    let (mut damaged, mut whole, mut named, mut recycled) = (0, 0, 0, 0);
    let mut again_damaged = 0;
    for seed in (1..=HISTORIES).chain(HISTORIES_KEPT) {
        let mut history = History::new(seed);
        recycled += history.recycled;
        let mut what = format!("seed {seed}");
        for _ in 0..1 + history.random.below(3) {
            what = format!("{what}, {}", history.rot());
        }
        let found = history.disk.replay();
        let groups = || (0..GROUPS).map(GroupId::from_raw);
        let log_of = |found: &Recovered, group| {
            let log = found.groups.get(&group).unwrap_or(&found.unmentioned);
            log.clone()
        };
        for group in groups() {
            let log = log_of(&found, group);
            match history.check(group, &log, &what) {
                true => whole += 1,
                false => damaged += 1,
            }
            named += usize::from(log.damage.is_some_and(|damage| damage.named));
        }

        // The same is found again while nobody heals it, even when something else is written.
        history.disk.remove(&found.dead);
        let logs: Vec<RecoveredLog> = groups().map(|group| log_of(&found, group)).collect();
        let again = history.disk.replay();
        for (group, log) in groups().zip(&logs) {
            assert_eq!(
                log_of(&again, group).damage,
                log.damage,
                "{what}: {group}, again"
            );
        }
        history.restart(again.writer);
        history.flush(&[]);
        let again = history.disk.replay();
        for (group, log) in groups().zip(&logs) {
            assert_eq!(
                log_of(&again, group).damage,
                log.damage,
                "{what}: {group}, later"
            );
        }

        // Healed in two steps, with a start in between.
        history.restart(again.writer);
        for (group, log) in groups().zip(&logs) {
            if let Some(damage) = &log.damage {
                let (claim, promises_lost) = (damage.claim, damage.promises_lost);
                history.flush(&[Record::Damaged {
                    group,
                    claim,
                    promises_lost,
                }]);
            }
        }
        let again = history.disk.replay();
        history.restart(again.writer);
        history.stays_honest(&format!("{what}, noted"));
        for (group, log) in groups().zip(&logs) {
            if log.damage.is_none() {
                continue;
            }
            let noted = log_of(&history.disk.replay(), group).damage;
            assert_eq!(
                noted.map(|damage| (damage.claim, damage.promises_lost)),
                log.damage
                    .as_ref()
                    .map(|damage| (damage.claim, damage.promises_lost)),
                "{what}: {group}, noted"
            );
            let Some(model) = history.models.get(&group).cloned() else {
                continue;
            };
            let state = model.hard_state;
            let mut records = vec![Record::HardState { group, state }];
            match &log.damage {
                // What is missing is put back, and what stands above it after that.
                Some(damage) if damage.named => {
                    let from = log.last.to_raw() as usize;
                    let missing = model.entries[from..].iter().cloned();
                    records.extend(missing.map(|entry| Record::Patch { group, entry }));
                    history.flush(&records.drain(..2).collect::<Vec<_>>());
                    history.check(group, &log_of(&history.disk.replay(), group), &what);
                }
                // A leader replaces all that is not known to be right.
                _ => {
                    let from = log.last.min(log.hard_state.commit).to_raw() as usize;
                    let missing = model.entries[from..].iter().cloned();
                    records.extend(missing.map(|entry| Record::Entry { group, entry }));
                }
            }
            for record in records.chunks(4) {
                history.flush(record);
            }
            let index = LogIndex::from_raw(model.entries.len() as u64);
            let term = state.term;
            history.flush(&[Record::Intact { group, index, term }]);
        }
        history.flush(&[]);
        let healed = history.disk.replay();
        for group in groups().filter(|group| history.models.contains_key(group)) {
            let log = log_of(&healed, group);
            let whole = history.check(group, &log, &what);
            // A note covers nothing any more once some of what it knew of was reclaimed: what could
            // not be named is repaired again.
            let same = healed.lost.len() == found.lost.len();
            assert!(whole || !same, "{what}: {group}: not healed");
            again_damaged += usize::from(!whole);
        }
        history.stays_honest(&format!("{what}, healed"));
    }
    println!("{damaged} damaged, {named} of them named, {whole} whole, {recycled} recycled");
    assert!(again_damaged < 20, "{again_damaged}");
    assert!(damaged > 2000 && named > 500 && whole > 2000 && recycled > 500);
}

/// Harms one segment file as a whole. Of the newest, what leaves nothing to tell of it is not done.
fn harm_file(history: &mut History, foreign: &Files) -> String {
    let random = &mut history.random;
    let segments: Vec<SegmentId> = history.disk.files.keys().copied().collect();
    let pick = |random: &mut Random| segments[random.below(segments.len())];
    let (segment, other) = (pick(random), pick(random));
    let last = segments[segments.len() - 1];
    let newest = segment == last;
    let kind = random.below(if newest { 5 } else { 8 });
    let least = if newest { BLOCK } else { 0 };
    let length = least + random.below(SEGMENT_BLOCKS * BLOCK - least);
    let from = foreign.values().nth(random.below(foreign.len()));
    let from = from.unwrap().clone();
    let theirs = history.disk.files[&other].clone();
    let file = history.disk.files.get_mut(&segment).unwrap();
    // One that was emptied before would take the newest one's place.
    let is_empty = |file: &[u8]| file.iter().all(|&byte| byte == 0);
    let empties = newest && is_empty(&theirs) || other == last && kind == 3 && is_empty(file);
    match kind {
        3 | 4 if empties => {}
        0 => file.truncate(length),
        1 => file.extend((0..5000).map(|at| (at % 251) as u8 ^ length as u8)),
        2 => *file = from,
        3 => {
            let ours = std::mem::replace(file, theirs);
            history.disk.files.insert(other, ours);
        }
        4 => *file = theirs,
        5 => file.clear(),
        6 => file.fill(0),
        _ => drop(history.disk.files.remove(&segment)),
    }
    format!("{segment} and {other} of {segments:?}: {kind}, {length}")
}

#[test]
fn files_that_are_gone_cut_off_empty_too_long_zero_or_anothers_are_missed_refused_or_do_no_harm() {
    let (mut damaged, mut whole, mut refused) = (0, 0, 0);
    for seed in 1..=FILE_STATES {
        let mut history = History::new(seed | 1 << 32);
        let foreign = History::of(seed | 1 << 33, 0x0f0e).disk.files;
        let mut what = format!("seed {seed}");
        for _ in 0..1 + history.random.below(2) {
            what = format!("{what}, {}", harm_file(&mut history, &foreign));
        }
        let found = match history.disk.try_replay() {
            Ok(found) => found,
            Err(ReplayError::Instance { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        for group in (0..GROUPS).map(GroupId::from_raw) {
            let log = found.groups.get(&group).unwrap_or(&found.unmentioned);
            match history.check(group, log, &what) {
                true => whole += 1,
                false => damaged += 1,
            }
        }
    }
    assert!(damaged > 1000, "{damaged}");
    assert!(whole > 300 && refused > 30, "{whole} {refused}");
}
