//! Random stories of starts with and without space: crashes of any kind, recycling, rot. The environment says how
//! many (`FROM`, `SEEDS`), how many places rot at once (`ROT`), whether there is always space (`SPACE=1`).

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "a test may panic"
)]

mod disk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};

use disk::{Rng, encode, entry, stamp};
use wal::{
    BLOCK, Entry, FlushNumber, GroupId, HardState, LogIndex, Options, Payload, Placement, Record,
    Recovered, ReplicaId, SECTOR, SegmentId, Term, Writer,
};

const INSTANCE: u64 = 0x0007_11fe;
const GROUPS: [GroupId; 2] = [GroupId::from_raw(5), GroupId::from_raw(9)];

/// A disk on which nothing is written twice.
#[derive(Clone)]
struct Disk {
    disk: disk::Disk,
    /// Sectors that anybody wrote since a file got its name.
    touched: BTreeMap<SegmentId, BTreeSet<usize>>,
}

impl Deref for Disk {
    type Target = disk::Disk;

    fn deref(&self) -> &disk::Disk {
        &self.disk
    }
}

impl DerefMut for Disk {
    fn deref_mut(&mut self) -> &mut disk::Disk {
        &mut self.disk
    }
}

impl Disk {
    fn make(&mut self, id: SegmentId) {
        self.disk.make(id);
        self.touched.insert(id, BTreeSet::new());
    }

    fn recycle(&mut self, writer: &mut Writer, from: SegmentId, to: SegmentId) {
        self.disk.recycle(writer, from, to);
        self.touched.insert(to, BTreeSet::new());
    }

    fn write(&mut self, at: &Placement, bytes: &[u8], keeps: impl Fn(usize) -> bool) {
        let before = self.disk.place(at);
        let touched = self.touched.get_mut(&at.segment).unwrap();
        for sector in (0..at.bytes / SECTOR).filter(|&it| keeps(it)) {
            let (place, from) = (sector * SECTOR, at.offset as usize + sector * SECTOR);
            assert!(
                !touched.contains(&(from / SECTOR)),
                "{} @{from} is written twice",
                at.segment
            );
            // What is as before looks as if nobody had written it, and all headers of segments have one checksum.
            if from >= BLOCK && before[place..][..SECTOR] != bytes[place..][..SECTOR] {
                touched.insert(from / SECTOR);
            }
        }
        self.disk.write(at, bytes, keeps);
    }
}

#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct State {
    entries: [Vec<u64>; 2],
    voted: u64,
}

struct Pending {
    at: Placement,
    bytes: Vec<u8>,
    after: State,
}

#[derive(Default, Debug)]
struct Counts {
    starts: u64,
    resumed: u64,
    taken_over: u64,
    torn: u64,
    recycled: u64,
    reclaimed: u64,
    stuck: u64,
    rots: u64,
    damaged: u64,
}

struct Story {
    disk: Disk,
    sure: State,
    /// What each of the flushes under way would have made of it, in their order.
    perhaps: Vec<State>,
    starts: u64,
}

fn agrees(found: &Recovered, state: &State) -> bool {
    GROUPS.iter().zip(&state.entries).all(|(group, entries)| {
        let log = found.groups.get(group).unwrap_or(&found.unmentioned);
        let tail = log.tail.iter();
        let alike =
            |entry: &Entry| entries.get(entry.index.to_raw() as usize - 1) == stamp(entry).as_ref();
        log.last.to_raw() as usize == entries.len() && tail.clone().all(alike)
    }) && voted(found) == state.voted
}

fn voted(found: &Recovered) -> u64 {
    found
        .groups
        .get(&GROUPS[0])
        .map_or(0, |it| it.hard_state.term.to_raw())
}

impl Story {
    fn check(&mut self, found: &Recovered, what: &str) {
        assert!(found.lost.is_empty(), "{what}: {:?}", found.lost);
        assert!(found.given_up.is_empty(), "{what}: {:?}", found.given_up);
        for log in found.groups.values() {
            assert_eq!(log.damage, None, "{what}");
        }
        let mut states = vec![self.sure.clone()];
        states.append(&mut self.perhaps);
        let state = states.into_iter().find(|state| agrees(found, state));
        self.sure =
            state.unwrap_or_else(|| panic!("{what}: found {:?}, {}", found.groups, voted(found)));
        let flaws = self.disk.survey(&found.lost).flaws;
        if !flaws.is_empty() {
            self.dump(found);
        }
        assert_eq!(flaws, [], "{what}");
    }

    fn dump(&self, found: &Recovered) {
        eprintln!(
            "cut {:?}, rest {:?}, spare {:?}, dead {:?}",
            found.cut, found.rest, found.spare, found.dead
        );
        for (id, file) in &self.disk.files {
            let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            eprintln!(
                "{id}: magic {:?} first {} previous {} end {}",
                &file[..4],
                word(24),
                word(12) as u32,
                word(16)
            );
            for at in (BLOCK..file.len())
                .step_by(BLOCK)
                .filter(|&at| file[at..].starts_with(b"DKFL"))
            {
                let generation = word(at + 8) as u32;
                let flags = word(at) >> 48;
                eprintln!(
                    "  {at}: generation {generation} number {} durable {} blocks {} flags {} life {}",
                    word(at + 16),
                    word(at + 24),
                    word(at + 32) >> 32,
                    flags & 3,
                    flags >> 2
                );
            }
        }
    }

    fn records(&self, state: &mut State, rng: &mut Rng) -> Vec<Record> {
        let mut records = Vec::new();
        let term = self.starts + 1;
        if rng.one_in(3) {
            let hard = HardState {
                term: Term::from_raw(term),
                vote: Some(ReplicaId::from_raw(2)),
                commit: LogIndex::ZERO,
            };
            records.push(Record::HardState {
                group: GROUPS[0],
                state: hard,
            });
            state.voted = term;
        }
        for (which, group) in GROUPS.into_iter().enumerate() {
            for _ in 0..rng.below(3) {
                let index = state.entries[which].len() as u64 + 1;
                let stamp = self.starts << 32 | rng.below(1 << 16) << 16 | index;
                let bytes = [0, 0, 300, 600, 6000, 12000][rng.below(6) as usize];
                let payload: Payload = stamp
                    .to_le_bytes()
                    .into_iter()
                    .chain((0..bytes).map(|_| 7))
                    .collect();
                state.entries[which].push(stamp);
                records.push(Record::Entry {
                    group,
                    entry: entry(index, term, payload),
                });
            }
        }
        records
    }

    /// Where a start goes on; false if it has to wait for space.
    fn outset(
        &mut self,
        found: &mut Recovered,
        full: bool,
        counts: &mut Counts,
        rng: &mut Rng,
    ) -> bool {
        let spare = found.spare.filter(|_| full);
        let kept = spare.map(|it| it.segment);
        for dead in found.dead.iter().filter(|&&it| Some(it) != kept) {
            self.disk.files.remove(dead);
        }
        if let Some(spare) = spare {
            assert!(spare.is_untouched(self.disk.options, &self.disk.files[&spare.segment]));
            found.writer.take_over(spare.segment);
            counts.taken_over += 1;
            return true;
        }
        let next = found.writer.next_segment();
        if !full {
            self.disk.make(next);
            return true;
        }
        if let Some(rest) = found.rest {
            assert!(rest.is_untouched(self.disk.options, &self.disk.files[&rest.segment]));
            found.writer.resume(rest);
            counts.resumed += 1;
            return true;
        }
        counts.stuck += 1;
        if rng.one_in(2) {
            return false;
        }
        self.disk.make(next);
        true
    }

    fn live(&mut self, mut writer: Writer, mut full: bool, counts: &mut Counts, rng: &mut Rng) {
        let mut now = self.sure.clone();
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let mut early: BTreeMap<FlushNumber, State> = BTreeMap::new();
        let mut free: VecDeque<SegmentId> = VecDeque::new();
        let mut wanted: VecDeque<(FlushNumber, SegmentId)> = VecDeque::new();
        // A start that goes on tries for the next from the beginning.
        let next = writer.next_segment();
        if !self.disk.files.contains_key(&next) {
            wanted.push_back((FlushNumber::ZERO, next));
        }
        let mut durable = FlushNumber::from_raw(writer.next_flush().to_raw() - 1);
        let depth = 1 + rng.below(6) as usize;
        let long = rng.below(3) as usize;
        let steps = rng.below([4, 12, 60][long]);
        for _ in 0..steps {
            if rng.one_in(10) {
                full ^= true;
            }
            while let Some(&(opened_by, segment)) = wanted.front()
                && opened_by <= durable
                && (!full || !free.is_empty())
            {
                wanted.pop_front();
                if let Some(from) = free.pop_front() {
                    self.disk.recycle(&mut writer, from, segment);
                    counts.recycled += 1;
                } else {
                    self.disk.make(segment);
                }
            }
            if pending.len() < depth && rng.one_in(2) {
                let mut records = self.records(&mut now, rng);
                if rng.one_in(4) {
                    // Nothing of it is needed any more.
                    for (which, group) in GROUPS.into_iter().enumerate() {
                        let index = self.sure.entries[which].len() as u64;
                        if index > 0 {
                            let term = Term::from_raw(
                                (self.sure.entries[which][index as usize - 1] >> 32) + 1,
                            );
                            let index = LogIndex::from_raw(index);
                            records.push(Record::Floor { group, index, term });
                        }
                    }
                }
                let at = writer.place(writer.next_flush(), &records);
                let bytes = encode(&mut writer, &at, &records);
                if at.opens_segment {
                    wanted.push_back((at.number, writer.next_segment()));
                }
                pending.push_back(Pending {
                    at,
                    bytes,
                    after: now.clone(),
                });
                continue;
            }
            if pending.is_empty() {
                continue;
            }
            let which = rng.below(pending.len() as u64) as usize;
            if !self.disk.files.contains_key(&pending[which].at.segment) {
                continue;
            }
            let done = pending.remove(which).unwrap();
            self.disk.write(&done.at, &done.bytes, |_| true);
            early.insert(done.at.number, done.after);
            durable = writer.written(done.at.number);
            while let Some(entry) = early.first_entry()
                && *entry.key() <= durable
            {
                self.sure = entry.remove();
            }
            if durable >= done.at.number {
                for segment in writer.reclaim() {
                    counts.reclaimed += 1;
                    if writer.is_recyclable(segment) {
                        free.push_back(segment);
                    } else {
                        free.push_back(segment);
                        for gone in free.drain(..) {
                            self.disk.files.remove(&gone);
                            writer.discard(gone);
                        }
                    }
                }
            }
        }
        // Killed.
        let mut states: BTreeMap<FlushNumber, State> = early;
        for Pending { at, bytes, after } in pending {
            states.insert(at.number, after);
            if !self.disk.files.contains_key(&at.segment) {
                continue;
            }
            let (shape, border) = (rng.below(6), rng.below(at.bytes as u64) as usize / SECTOR);
            let dice: Vec<_> = (0..at.bytes / SECTOR).map(|_| rng.below(2)).collect();
            self.disk.write(&at, &bytes, |sector| match shape {
                0 => false,
                1 => true,
                2 => sector <= border,
                3 => sector >= border,
                4 => sector == border,
                _ => dice[sector] == 0,
            });
        }
        self.perhaps = states.into_values().collect();
    }

    /// Durable flushes and a mark behind them, then rot of any kind in front of the mark.
    fn rot(
        &self,
        full: bool,
        what: &str,
        counts: &mut Counts,
        rng: &mut Rng,
        runs_max: u64,
    ) -> u64 {
        let mut story = Story {
            disk: self.disk.clone(),
            sure: self.sure.clone(),
            perhaps: Vec::new(),
            starts: self.starts + 1,
        };
        let mut found = story.disk.replay();
        let mut nothing = Counts::default();
        if !story.outset(&mut found, full, &mut nothing, rng) {
            return 0;
        }
        let mut writer = found.writer;
        let mut mark = None;
        let flushes = 2 + rng.below(4);
        for flush in 0..flushes {
            let mut state = story.sure.clone();
            let last = flush == flushes - 1;
            let records = if last {
                Vec::new()
            } else {
                story.records(&mut state, rng)
            };
            let at = writer.place(writer.next_flush(), &records);
            let bytes = encode(&mut writer, &at, &records);
            if !story.disk.files.contains_key(&at.segment) {
                if full {
                    return 0;
                }
                story.disk.make(at.segment);
            }
            story.disk.write(&at, &bytes, |_| true);
            writer.written(at.number);
            story.sure = state;
            mark = Some(at);
        }
        let mark = mark.unwrap();
        if mark.opens_segment {
            return 0;
        }
        let room = writer.room() as usize;
        let sound = story.disk.files.clone();
        let files: Vec<_> = sound
            .keys()
            .copied()
            .filter(|&it| it <= mark.segment)
            .collect();
        let mut silent = 0;
        for _ in 0..12 {
            let mut did = Vec::new();
            for _ in 0..=rng.below(runs_max) {
                let segment = files[files.len()
                    - 1
                    - (rng
                        .below(files.len() as u64)
                        .min(rng.below(files.len() as u64))) as usize];
                let end = if segment == mark.segment {
                    mark.offset as usize
                } else {
                    room
                };
                let headers: Vec<_> = (BLOCK..end)
                    .step_by(BLOCK)
                    .filter(|&at| sound[&segment][at..].starts_with(b"DKFL"))
                    .collect();
                let file = story.disk.files.get_mut(&segment).unwrap();
                let with = rng.below(5);
                let of_headers = rng.below(3);
                let mut spoil = |at: usize, bytes: usize, rng: &mut Rng| {
                    let to = end.min(at + bytes);
                    match with {
                        0 => file[at..to].fill(0),
                        1 => file[at..to].fill(0x5a),
                        2 => file[at..to].fill(wal::UNREADABLE),
                        3 => file[at] ^= 1,
                        _ => {
                            let from = (1 + rng.below((room / BLOCK - 1) as u64) as usize) * BLOCK;
                            let length = (to - at).min(room - from);
                            let copy = sound[&segment][from..from + length].to_vec();
                            file[at..at + length].copy_from_slice(&copy);
                        }
                    }
                };
                if of_headers > 0 && !headers.is_empty() {
                    let first = rng.below(headers.len() as u64) as usize;
                    let count = 1 + rng.below(3) as usize;
                    for &at in headers.iter().skip(first).take(count) {
                        spoil(at, if of_headers == 1 { SECTOR } else { BLOCK }, rng);
                        did.push((segment, at, with));
                    }
                } else if end > BLOCK {
                    let at = (BLOCK / SECTOR + rng.below(((end - BLOCK) / SECTOR) as u64) as usize)
                        * SECTOR;
                    let at = if with == 4 { at / BLOCK * BLOCK } else { at };
                    spoil(at, SECTOR << rng.below(6), rng);
                    did.push((segment, at, with));
                }
            }
            counts.rots += 1;
            let found = match story.disk.try_replay() {
                Ok(found) => found,
                Err(error) => {
                    silent += 1;
                    eprintln!("{what}: ERROR {error} after {did:?}");
                    if std::env::var("DUMP").is_ok() {
                        story.disk.files.clone_from(&sound);
                        let found = story.disk.replay();
                        story.dump(&found);
                    }
                    story.disk.files.clone_from(&sound);
                    continue;
                }
            };
            let _ = story.disk.survey(&found.lost);
            let mut wrong = Vec::new();
            for (which, group) in GROUPS.iter().enumerate() {
                let entries = &story.sure.entries[which];
                let log = found.groups.get(group).unwrap_or(&found.unmentioned);
                let alike = |entry: &Entry| {
                    entries.get(entry.index.to_raw() as usize - 1) == stamp(entry).as_ref()
                };
                let whole = log.last.to_raw() as usize == entries.len();
                let claim = log.damage.as_ref().and_then(|it| it.claim);
                let claimed = claim.is_some_and(|claim| {
                    claim
                        .index
                        .is_none_or(|it| it.to_raw() as usize >= entries.len())
                });
                if !whole && !claimed {
                    wrong.push(format!(
                        "group {group}: {} of {}, {claim:?}",
                        log.last,
                        entries.len()
                    ));
                }
                if let Some(it) = log.tail.iter().find(|it| !alike(it)) {
                    wrong.push(format!("group {group}: entry {} is another", it.index));
                }
                let spares = log.damage.iter().flat_map(|it| &it.spares);
                if let Some(it) = spares.clone().find(|it| !alike(it)) {
                    wrong.push(format!("group {group}: spare {} is another", it.index));
                }
                let promises = log.damage.as_ref().is_some_and(|it| it.promises_lost);
                if which == 0 && !promises && log.hard_state.term.to_raw() != story.sure.voted {
                    wrong.push(format!(
                        "vote {} for {}",
                        log.hard_state.term, story.sure.voted
                    ));
                }
            }
            counts.damaged += u64::from(!found.lost.is_empty());
            if !wrong.is_empty() {
                silent += 1;
                eprintln!("{what}: {wrong:?} after {did:?}; lost {:?}", found.lost);
                if std::env::var("DUMP").is_ok() {
                    story.disk.files.clone_from(&sound);
                    let found = story.disk.replay();
                    story.dump(&found);
                }
            }
            story.disk.files.clone_from(&sound);
        }
        silent
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |it| it.parse().unwrap())
}

#[test]
fn random_stories() {
    let (from, seeds) = (number("FROM", 0), number("SEEDS", 40));
    let rot_runs = number("ROT", 1);
    let never_full = number("SPACE", 0) == 1;
    let mut counts = Counts::default();
    let mut silent = 0;
    for seed in from..from + seeds {
        let mut rng = Rng(seed);
        let blocks = [24, 40, 80, 300][rng.below(4) as usize];
        let options = Options {
            segment_bytes: blocks * BLOCK as u64,
            instance: INSTANCE,
        };
        let disk = Disk {
            disk: disk::Disk::new(options, 1 << 20),
            touched: BTreeMap::new(),
        };
        let mut story = Story {
            disk,
            sure: State::default(),
            perhaps: Vec::new(),
            starts: 0,
        };
        let mut fullness = 1 + rng.below(8);
        if never_full {
            fullness = 0;
        }
        for start in 0..60 {
            story.starts = start;
            counts.starts += 1;
            let what = format!("seed {seed}, start {start}");
            let mut found = story.disk.replay();
            story.check(&found, &what);
            counts.torn += u64::from(found.cut.is_some());
            let full = rng.below(8) < fullness && start > 0;
            if rot_runs > 0 && start > 2 && rng.one_in(4) {
                silent += story.rot(full, &what, &mut counts, &mut rng, rot_runs);
            }
            if rng.one_in(5) {
                // Killed in the middle of a start.
                for dead in &found.dead {
                    if rng.one_in(2) {
                        story.disk.files.remove(dead);
                    }
                }
                if !full && rng.one_in(2) {
                    let next = found.writer.next_segment();
                    story.disk.remove(&found.dead);
                    story.disk.make(next);
                }
                continue;
            }
            if !story.outset(&mut found, full, &mut counts, &mut rng) {
                continue;
            }
            story.live(found.writer, full, &mut counts, &mut rng);
        }
    }
    eprintln!("{counts:?}, {silent} wrong");
    assert_eq!(silent, 0);
}
