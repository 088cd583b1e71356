//! Starts on a full disk: each goes on in the segment that is there, and is cut off again.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod disk;

use disk::{Disk, Rng, encode, entry, stamp};
use wal::{
    BLOCK, FlushNumber, GroupId, HardState, LogIndex, Options, Payload, Placement, Record,
    Recovered, ReplicaId, SECTOR, SegmentId, Term, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 80 * BLOCK as u64,
    instance: 0x0007_11fe,
};
const GROUP: GroupId = GroupId::from_raw(5);

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

fn begin(writer: &mut Writer, records: &[Record]) -> (Placement, Vec<u8>) {
    let at = writer.place(writer.next_flush(), records);
    (at, encode(writer, &at, records))
}

impl Story {
    /// A first segment that was recycled or not, with a few flushes.
    fn new(recycled: bool) -> Self {
        let disk = Disk::new(OPTIONS, 1 << 20);
        let first = SegmentId::from_raw(1);
        let mut writer = disk.replay().writer;
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
                    story.disk.recycle(&mut writer, free, to);
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
        self.disk.flush(writer, records);
        self.acknowledged.append(&mut self.under_way);
    }

    fn next(&mut self, term: u64, bytes: u64) -> Record {
        let index = (self.acknowledged.len() + self.under_way.len()) as u64 + 1;
        let stamp = self.lives << 32 | index;
        self.under_way.push(stamp);
        Record::Entry {
            group: GROUP,
            entry: entry(index, term, payload(stamp, bytes)),
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
            let at = entry.index.to_raw() as usize - 1;
            assert_eq!(stamp(entry), Some(all[at]), "{what}: entry {}", entry.index);
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
        self.disk.remove(&found.dead);
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
            if flush < durable {
                self.flush(&mut writer, &records);
                let voted = matches!(records.first(), Some(Record::HardState { .. }));
                self.voted = if voted { term } else { self.voted };
                continue;
            }
            let (at, bytes) = begin(&mut writer, &records);
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
            let files = story.disk.files.len();
            let what = format!("seed {seed}, life {}", story.lives);
            let found = story.disk.replay();
            story.check(&found, &what);
            let survey = story.disk.survey(&found.lost);
            assert_eq!(survey.flaws, [], "{what}");
            torn += u64::from(found.cut.is_some());
            if rng.below(8) == 0 && files < 6 {
                // There is space again, for one start.
                let mut writer = found.writer;
                story.disk.remove(&found.dead);
                story.durable(&mut writer, 1 + rng.below(3));
                spaces += 1;
                continue;
            }
            if !story.live(found, &mut rng) {
                break;
            }
            assert_eq!(story.disk.files.len(), files, "{what}: another file");
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
        let at = story.disk.flush(&mut writer, &[]);
        let newest = at.segment;
        let sound = story.disk.files[&newest].clone();
        for sector in BLOCK / SECTOR..at.offset as usize / SECTOR {
            for with in [0x5a, 0] {
                let place = sector * SECTOR..(sector + 1) * SECTOR;
                let file = story.disk.files.get_mut(&newest).unwrap();
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
                    let at = entry.index.to_raw() as usize - 1;
                    assert_eq!(stamp(entry), story.acknowledged.get(at).copied(), "{what}");
                }
                story.disk.files.insert(newest, sound.clone());
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
    let (at, bytes) = begin(&mut writer, &[record]);
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
    story.disk.make(spare);
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
        disk.make(next);
        disk.files.get_mut(&next).unwrap()[sector * SECTOR] = 1;
        assert_eq!(disk.replay().spare, None, "sector {sector}");
    }
    assert!(FlushNumber::ZERO < found.writer.next_flush());
}
