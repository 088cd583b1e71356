//! Starts on a full disk: each goes on in the segment that is there, and is cut off again.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;

use wal::survey::{Role, Survey, Surveyed};
use wal::{
    BLOCK, Entry, EntryKind, FlushNumber, GroupId, HardState, LogIndex, Options, Payload,
    Placement, Record, Recovered, Replay, ReplicaId, SECTOR, SegmentId, Term, Writer,
};

const SEGMENT_BYTES: usize = 80 * BLOCK;
const OPTIONS: Options = Options {
    segment_bytes: SEGMENT_BYTES as u64,
    instance: 0x0007_11fe,
};
const GROUP: GroupId = GroupId::from_raw(5);

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

#[derive(Clone, Default)]
struct Disk(BTreeMap<SegmentId, Vec<u8>>);

impl Disk {
    fn replay(&self) -> Recovered {
        let firsts = self.0.iter().map(|(&id, bytes)| (id, &bytes[..BLOCK]));
        let mut replay = Replay::new(OPTIONS, 1 << 20, firsts).unwrap();
        while let Some(segment) = replay.next_segment() {
            replay.segment(&self.0[&segment]).unwrap();
        }
        replay.finish()
    }

    fn survey(&self) -> Surveyed {
        let firsts = self.0.iter().map(|(&id, bytes)| (id, &bytes[..BLOCK]));
        let mut survey = Survey::new(Some(OPTIONS.instance), firsts);
        let segments = survey.segments().to_vec();
        for one in segments.iter().filter(|one| one.role != Role::Dead) {
            survey.witness(one.segment, &self.0[&one.segment]);
        }
        for one in segments.iter().filter(|one| one.role == Role::Live) {
            survey.segment(one.segment, &self.0[&one.segment]);
        }
        survey.missed(&self.replay().lost);
        survey.finish()
    }

    fn write(&mut self, at: &Placement, bytes: &[u8], keeps: impl Fn(usize) -> bool) {
        let file = self.0.get_mut(&at.segment).unwrap();
        for (sector, bytes) in bytes.chunks(SECTOR).enumerate().filter(|it| keeps(it.0)) {
            let from = at.offset as usize + sector * SECTOR;
            file[from..from + SECTOR].copy_from_slice(bytes);
        }
    }
}

/// A log, and what every start of it must find.
struct Story {
    disk: Disk,
    /// The payload that was acknowledged at each index, from 1 on.
    acknowledged: Vec<u64>,
    /// What was under way behind that when the last life ended.
    under_way: Vec<u64>,
    voted: u64,
    lives: u64,
}

fn payload(stamp: u64, bytes: u64) -> Payload {
    stamp
        .to_le_bytes()
        .into_iter()
        .chain((0..bytes).map(|_| 7))
        .collect()
}

impl Story {
    /// A first segment that was recycled or not, with a few flushes.
    fn new(recycled: bool) -> Self {
        let mut disk = Disk::default();
        let first = SegmentId::from_raw(1);
        let mut writer = disk.replay().writer;
        disk.0.insert(first, vec![0; SEGMENT_BYTES]);
        let mut story = Self {
            disk,
            acknowledged: Vec::new(),
            under_way: Vec::new(),
            voted: 0,
            lives: 0,
        };
        story.durable(&mut writer, 40);
        if recycled {
            while writer.segments().next() == Some(first) {
                let (index, term) = (story.acknowledged.len() as u64, Term::from_raw(1));
                let index = LogIndex::from_raw(index);
                let group = GROUP;
                story.flush(&mut writer, &[Record::Floor { group, index, term }]);
                story.durable(&mut writer, 1);
                for free in writer.reclaim() {
                    let to = writer.next_segment();
                    let table = writer.recycle(free, to);
                    let mut file = story.disk.0.remove(&free).unwrap();
                    file[writer.room() as usize..].copy_from_slice(&table);
                    story.disk.0.insert(to, file);
                }
            }
            let before = writer.next_segment();
            while writer.next_segment() == before {
                story.durable(&mut writer, 1);
            }
        }
        story
    }

    fn durable(&mut self, writer: &mut Writer, entries: u64) {
        for _ in 0..entries {
            let record = self.next(1, 5000);
            self.flush(writer, &[record]);
        }
    }

    fn flush(&mut self, writer: &mut Writer, records: &[Record]) {
        let (at, bytes) = self.encode(writer, records);
        self.disk.write(&at, &bytes, |_| true);
        writer.written(at.number);
        self.acknowledged.append(&mut self.under_way);
    }

    fn encode(&mut self, writer: &mut Writer, records: &[Record]) -> (Placement, Vec<u8>) {
        let at = writer.place(writer.next_flush(), records);
        let file = self.disk.0.entry(at.segment);
        file.or_insert_with(|| vec![0; SEGMENT_BYTES]);
        let mut bytes = vec![0; at.bytes];
        writer.encode(&at, records, &mut bytes);
        (at, bytes)
    }

    fn next(&mut self, term: u64, bytes: u64) -> Record {
        let index = (self.acknowledged.len() + self.under_way.len()) as u64 + 1;
        let stamp = self.lives << 32 | index;
        self.under_way.push(stamp);
        Record::Entry {
            group: GROUP,
            entry: Entry {
                term: Term::from_raw(term),
                index: LogIndex::from_raw(index),
                kind: EntryKind::Batch,
                payload: payload(stamp, bytes),
            },
        }
    }

    /// What a start finds is what was acknowledged, and perhaps more of what was under way last.
    fn check(&mut self, found: &Recovered, what: &str) {
        assert!(found.lost.is_empty(), "{what}: {:?}", found.lost);
        let log = &found.groups[&GROUP];
        assert_eq!(log.damage, None, "{what}");
        let mut all = self.acknowledged.clone();
        all.append(&mut self.under_way);
        let last = log.last.to_raw() as usize;
        assert!(
            (self.acknowledged.len()..=all.len()).contains(&last),
            "{what}: {last}"
        );
        all.truncate(last);
        for entry in &log.tail {
            let stamp = entry.payload.first_chunk().copied().map(u64::from_le_bytes);
            let at = entry.index.to_raw() as usize - 1;
            assert_eq!(stamp, Some(all[at]), "{what}: entry {}", entry.index);
        }
        self.acknowledged = all;
        let voted = log.hard_state.term.to_raw();
        assert!(voted >= self.voted, "{what}: a vote is forgotten");
        self.voted = voted;
    }

    /// A start writes, some of which becomes durable, and is cut off. Says whether it needed no segment.
    fn live(&mut self, found: Recovered, rng: &mut Rng) -> bool {
        self.lives += 1;
        let mut writer = found.writer;
        let Some(rest) = found.rest.filter(|rest| rest.bytes >= 16 * BLOCK as u64) else {
            return false;
        };
        assert_eq!(found.given_up, []);
        for dead in &found.dead {
            self.disk.0.remove(dead);
        }
        writer.resume(rest);
        let term = self.lives + 1;
        let durable = rng.below(3);
        let flushes = durable + rng.below(4);
        for flush in 0..flushes {
            let mut records = Vec::new();
            if rng.below(2) == 0 {
                let state = HardState {
                    term: Term::from_raw(term),
                    vote: Some(ReplicaId::from_raw(2)),
                    commit: LogIndex::ZERO,
                };
                let group = GROUP;
                records.push(Record::HardState { group, state });
            }
            for _ in 0..rng.below(3) {
                let bytes = [9, 600, 6000][rng.below(3) as usize];
                records.push(self.next(term, bytes));
            }
            let (at, bytes) = self.encode(&mut writer, &records);
            if flush < durable {
                self.disk.write(&at, &bytes, |_| true);
                writer.written(at.number);
                self.acknowledged.append(&mut self.under_way);
                let voted = matches!(records.first(), Some(Record::HardState { .. }));
                self.voted = if voted { term } else { self.voted };
                continue;
            }
            let (shape, border) = (rng.below(5), rng.below(at.bytes as u64) as usize / SECTOR);
            let dice: Vec<_> = (0..at.bytes / SECTOR).map(|_| rng.below(2)).collect();
            self.disk.write(&at, &bytes, |sector| match shape {
                0 => false,
                1 => true,
                2 => sector <= border,
                3 => sector >= border,
                _ => dice[sector] == 0,
            });
        }
        true
    }
}

#[test]
fn what_starts_on_a_full_disk_acknowledge_is_there_and_nothing_of_what_they_left_behind() {
    let (mut lives, mut torn, mut spaces) = (0, 0, 0);
    for seed in 0..100 {
        let mut rng = Rng(seed);
        let mut story = Story::new(seed % 2 == 0);
        loop {
            let files = story.disk.0.len();
            let what = format!("seed {seed}, life {}", story.lives);
            let found = story.disk.replay();
            story.check(&found, &what);
            let survey = story.disk.survey();
            assert_eq!(survey.flaws, [], "{what}");
            torn += u64::from(found.cut.is_some());
            if rng.below(8) == 0 && files < 6 {
                // There is space again, for one start.
                let mut writer = found.writer;
                for dead in &found.dead {
                    story.disk.0.remove(dead);
                }
                story.durable(&mut writer, 1 + rng.below(3));
                spaces += 1;
                continue;
            }
            if !story.live(found, &mut rng) {
                break;
            }
            assert_eq!(story.disk.0.len(), files, "{what}: another file");
            lives += 1;
        }
    }
    assert!(
        lives > 1000 && torn > 250 && spaces > 50,
        "{lives} lives, {torn} torn, {spaces} with space"
    );
}

/// Of each life the flushes rot, one by one. Either the log is whole all the same, or it is damaged.
#[test]
fn what_rots_of_a_life_is_missed_and_what_was_dead_stays_so() {
    let mut rotten = 0;
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let mut story = Story::new(seed % 2 == 0);
        for life in 0..5 {
            let found = story.disk.replay();
            story.check(&found, &format!("seed {seed}, life {life}"));
            if !story.live(found, &mut rng) {
                break;
            }
        }
        // The mark of an idle shard, so that what is before it is known durable.
        let found = story.disk.replay();
        story.check(&found, &format!("seed {seed}, the last life"));
        let mut writer = found.writer;
        writer.resume(found.rest.unwrap());
        story.durable(&mut writer, 1);
        let (at, bytes) = story.encode(&mut writer, &[]);
        story.disk.write(&at, &bytes, |_| true);
        let newest = at.segment;
        let sound = story.disk.0[&newest].clone();
        for sector in BLOCK / SECTOR..at.offset as usize / SECTOR {
            for with in [0x5a, 0] {
                let place = sector * SECTOR..(sector + 1) * SECTOR;
                let file = story.disk.0.get_mut(&newest).unwrap();
                file[place.clone()].fill(with);
                let found = story.disk.replay();
                let log = found.groups.get(&GROUP).unwrap_or(&found.unmentioned);
                let what = format!("seed {seed}, sector {sector}, {with:#x}");
                if log.damage.is_none() {
                    let last = log.last.to_raw() as usize;
                    assert_eq!(last, story.acknowledged.len(), "{what}: in silence");
                } else {
                    rotten += 1;
                }
                for entry in &log.tail {
                    let stamp = entry.payload.first_chunk().copied().map(u64::from_le_bytes);
                    let at = entry.index.to_raw() as usize - 1;
                    assert_eq!(stamp, story.acknowledged.get(at).copied(), "{what}");
                }
                story.disk.0.insert(newest, sound.clone());
            }
        }
    }
    assert!(rotten > 1000, "{rotten}");
}

#[test]
fn the_first_flush_of_a_life_that_the_disk_put_elsewhere_is_missed() {
    let mut story = Story::new(false);
    let found = story.disk.replay();
    let rest = found.rest.unwrap();
    let mut writer = found.writer;
    writer.resume(rest);
    let record = story.next(2, 100);
    let (at, bytes) = story.encode(&mut writer, &[record]);
    writer.written(at.number);
    let mut stray = at;
    stray.offset = rest.offset + rest.bytes - bytes.len() as u64;
    story.disk.write(&stray, &bytes, |_| true);
    story.durable(&mut writer, 2);
    let found = story.disk.replay();
    assert!(found.groups[&GROUP].damage.is_some(), "{:?}", found.lost);
}

#[test]
fn the_file_that_was_made_ready_becomes_the_first_segment_of_the_next_start() {
    let mut story = Story::new(false);
    let mut writer = story.disk.replay().writer;
    let spare = writer.next_segment();
    story.disk.0.insert(spare, vec![0; SEGMENT_BYTES]);
    let found = story.disk.replay();
    assert_eq!(found.spare.unwrap().segment, spare);
    assert_eq!(found.dead, [spare]);
    writer = found.writer;
    writer.take_over(spare);
    story.durable(&mut writer, 1);
    assert!(!writer.is_recyclable(spare), "nobody knows what it holds");
    assert_eq!(writer.next_segment(), spare.next());
    let found = story.disk.replay();
    story.check(&found, "begun");
    assert_eq!((found.spare, &found.dead[..]), (None, &[][..]));

    // Whatever is written to it, it is none any more.
    for sector in [0, 8, 77] {
        let mut disk = story.disk.clone();
        let next = found.writer.next_segment();
        let mut file = vec![0; SEGMENT_BYTES];
        file[sector * SECTOR] = 1;
        disk.0.insert(next, file);
        assert_eq!(disk.replay().spare, None, "sector {sector}");
    }
    assert!(FlushNumber::ZERO < found.writer.next_flush());
}
