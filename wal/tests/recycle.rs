//! Segments that are written again: what they held before is never taken for what was written, nor
//! for rot, whichever sectors of the newest flushes reached the disk.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod disk;

use disk::{Disk, entry};
use wal::{
    BLOCK, FlushNumber, GroupId, HardState, LogIndex, Options, Placement, Record, Recovered,
    Replay, ReplicaId, SECTOR, SegmentId, Term, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 10 * BLOCK as u64,
    instance: 0x7ec7_c1e5,
};
/// Entries of a flush. Those of one term are a run, but for the last one if it is large.
const ENTRIES: u64 = 4;
const GROUP: GroupId = GroupId::from_raw(5);

/// A log of which a snapshot takes everything behind the newest entries.
struct Log {
    disk: Disk,
    writer: Writer,
    free: Vec<SegmentId>,
    recycled: usize,
    last: u64,
    /// Entries that no snapshot takes.
    kept: u64,
    newest: Option<Placement>,
    /// What its place held before.
    before: Vec<u8>,
}

impl Log {
    fn new() -> Self {
        let disk = Disk::new(OPTIONS, 0);
        Self {
            writer: disk.replay().writer,
            disk,
            newest: None,
            free: Vec::new(),
            recycled: 0,
            last: 0,
            kept: 4 * ENTRIES,
            before: Vec::new(),
        }
    }

    /// A few small entries and one more, one hard state, and a floor that leaves a few entries.
    fn flush(&mut self, payload_bytes: usize) {
        let group = GROUP;
        let term_of = |index: u64| Term::from_raw(1 + index / 40);
        let mut entries = Vec::new();
        for at in 1..=ENTRIES {
            self.last += 1;
            let bytes = if at < ENTRIES { 20 } else { payload_bytes };
            let term = term_of(self.last).to_raw();
            let entry = entry(self.last, term, vec![self.last as u8; bytes]);
            entries.push(Record::Entry { group, entry });
        }
        let state = HardState {
            term: term_of(self.last),
            vote: Some(ReplicaId::from_raw(1)),
            commit: LogIndex::from_raw(self.last - 1),
        };
        let mut records = vec![Record::HardState { group, state }];
        records.extend(entries);
        if let Some(floor) = self.last.checked_sub(self.kept).filter(|&floor| floor > 0) {
            let (index, term) = (LogIndex::from_raw(floor), term_of(floor));
            records.push(Record::Floor { group, index, term });
        }
        let at = self.writer.place(self.writer.next_flush(), &records);
        if at.opens_segment && self.free.is_empty() {
            self.disk.make(at.segment);
        } else if at.opens_segment {
            let from = self.free.remove(0);
            self.disk.recycle(&mut self.writer, from, at.segment);
            self.recycled += 1;
        }
        self.before = self.disk.place(&at).to_vec();
        self.disk.flush_at(&mut self.writer, at, &records);
        self.newest = Some(at);
        self.free.extend(self.writer.reclaim());
    }

    fn newest_opens_segment(&self) -> bool {
        self.newest.is_none_or(|at| at.opens_segment)
    }

    /// The place of the newest flush.
    fn place(&mut self) -> &mut [u8] {
        self.disk.place(&self.newest.unwrap())
    }
}

fn last(found: &Recovered) -> u64 {
    found.groups[&GROUP].last.to_raw()
}

#[test]
fn a_flush_of_which_any_sectors_are_old_is_torn_and_nothing_else_is_missed() {
    let mut log = Log::new();
    log.flush(10);
    let mut torn = 0;
    for round in 0..120 {
        log.flush(100 + round * 977 % 9000);
        let whole = log.place().to_vec();
        let old = log.before.clone();
        let sectors = whole.len() / SECTOR;
        // Every prefix, every sector alone, and all but one.
        let written = (0..sectors).flat_map(|at| {
            [
                (0..sectors).map(|sector| sector < at).collect::<Vec<_>>(),
                (0..sectors).map(|sector| sector == at).collect(),
                (0..sectors).map(|sector| sector != at).collect(),
            ]
        });
        for written in written {
            for (sector, &written) in written.iter().enumerate() {
                let from = if written { &whole } else { &old };
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                log.place()[range.clone()].copy_from_slice(&from[range]);
            }
            if log.place() == whole {
                continue;
            }
            let found = log.disk.replay();
            assert_eq!(found.lost, [], "round {round}: {written:?}");
            assert_eq!(found.groups[&GROUP].damage, None, "{written:?}");
            assert_eq!(
                last(&found),
                log.last - ENTRIES,
                "round {round}: {written:?}"
            );
            torn += 1;
        }
        log.place().copy_from_slice(&whole);
        let found = log.disk.replay();
        assert_eq!((last(&found), found.cut), (log.last, None));
    }
    assert!(log.recycled > 20 && torn > 3000, "{} {torn}", log.recycled);
}

#[test]
fn a_bit_that_flips_in_the_newest_flush_is_rot_in_a_recycled_segment_too() {
    let mut log = Log::new();
    for round in 0..60 {
        log.flush(100 + round * 977 % 3000);
        if log.recycled == 0 {
            continue;
        }
        for at in (0..log.place().len()).step_by(61) {
            if log.newest_opens_segment() && at < BLOCK {
                continue;
            }
            log.place()[at] ^= 0x10;
            let found = log.disk.replay();
            assert_eq!(found.cut, None, "round {round} @{at}");
            assert!(!found.lost.is_empty(), "round {round} @{at}");
            log.place()[at] ^= 0x10;
        }
    }
    assert!(log.recycled > 5);
}

#[test]
fn a_durable_flush_that_turns_into_what_its_place_held_before_is_missed() {
    let mut log = Log::new();
    for round in 0..60 {
        log.flush(100 + round * 977 % 3000);
        let (place, old) = (log.newest, log.before.clone());
        let number = log.writer.next_flush();
        let whole = log.place().to_vec();
        log.flush(10);
        let newest = std::mem::replace(&mut log.newest, place);
        log.place().copy_from_slice(&old);
        let found = log.disk.replay();
        let first = FlushNumber::from_raw(number.to_raw() - 1);
        assert_eq!(found.lost.first().map(|lost| lost.first), Some(first));
        assert!(found.groups[&GROUP].damage.is_some(), "round {round}");
        log.place().copy_from_slice(&whole);
        log.newest = newest;
    }
    assert!(log.recycled > 5);
}

#[test]
fn a_segment_says_all_that_matters_of_those_before_it() {
    let mut log = Log::new();
    for _ in 0..200 {
        log.flush(3000);
        assert!(log.disk.files.len() < 8, "what is not needed is reclaimed");
        let found = log.disk.replay();
        let group = &found.groups[&GROUP];
        assert_eq!(group.damage, None);
        assert_eq!(found.lost, []);
        let floor = log.last.saturating_sub(log.kept);
        assert_eq!((group.floor.0.to_raw(), last(&found)), (floor, log.last));
        assert_eq!(group.hard_state.vote, Some(ReplicaId::from_raw(1)));
    }
}

#[test]
fn a_survey_finds_a_recycled_log_sound_and_every_flaw_in_it() {
    let mut log = Log::new();
    for round in 0..90 {
        log.flush(100 + round * 977 % 3000);
        let found = log.disk.survey(&[]);
        assert_eq!((found.flaws, found.torn), (vec![], None), "round {round}");
        let number = log.writer.next_flush().to_raw() - 1;
        assert_eq!(found.last_flush, FlushNumber::from_raw(number));
        let range = found.groups[&GROUP].range.map(|(_, last)| last.to_raw());
        assert_eq!(range, Some(log.last));
        for at in (0..log.place().len()).step_by(509) {
            if log.newest_opens_segment() && (64..BLOCK).contains(&at) {
                continue;
            }
            log.place()[at] ^= 2;
            let found = log.disk.survey(&[]);
            assert!(!found.flaws.is_empty(), "round {round} @{at}");
            log.place()[at] ^= 2;
        }
    }
    assert!(log.recycled > 5);
}

#[test]
fn the_first_segment_that_is_left_names_what_those_before_it_held() {
    let mut log = Log::new();
    while log.last < 30 * ENTRIES || !log.newest_opens_segment() {
        log.flush(3000);
    }
    // The older segments vanish, with entries that no floor released.
    let oldest: Vec<SegmentId> = log.disk.files.keys().copied().collect();
    log.disk.remove(&oldest[..oldest.len() - 1]);
    let found = log.disk.replay();
    let damage = found.groups[&GROUP]
        .damage
        .clone()
        .expect("entries are gone");
    let claim = damage.claim.expect("they are named");
    assert_eq!(claim.index, Some(LogIndex::from_raw(log.last)));
}

#[test]
fn a_segment_whose_checksums_would_take_too_much_memory_is_not_recycled() {
    let recyclable = |segment_bytes| {
        let options = Options {
            segment_bytes,
            ..OPTIONS
        };
        let mut writer = Replay::new(options, 0, []).unwrap().finish().writer;
        let at = writer.place(writer.next_flush(), &[]);
        writer.encode(&at, &[], &mut vec![0; at.bytes]);
        writer.is_recyclable(at.segment)
    };
    assert!(recyclable(1 << 30));
    assert!(!recyclable(u64::from(u32::MAX) + 1 - BLOCK as u64));
}

#[test]
fn the_table_is_read_where_it_was_written_whatever_the_size() {
    for blocks in [8, 127, 128, 1000, 16384] {
        let segment_bytes = blocks * BLOCK;
        let options = Options {
            segment_bytes: segment_bytes as u64,
            ..OPTIONS
        };
        let mut disk = Disk::new(options, 0);
        // Sectors that differ, in most of the first segment.
        let filled = (0..segment_bytes / 2).map(|at| (at / 512 * 7 + at) as u8);
        let (group, entry) = (GROUP, entry(1, 1, filled.collect::<Vec<_>>()));
        let mut writer = disk.replay().writer;
        let at = disk.flush(&mut writer, &[Record::Entry { group, entry }]);
        let before = disk.clone();
        let next = writer.next_segment();
        disk.recycle(&mut writer, at.segment, next);
        // Another start writes to the file that was recycled.
        let mut writer = before.replay().writer;
        disk.flush(&mut writer, &[]);
        disk.files.extend(before.files);
        let found = disk.replay();
        assert_eq!((&found.lost[..], found.cut), (&[][..], None), "{blocks}");
    }
}

#[test]
fn a_log_whose_only_segment_loses_its_first_flush_does_not_begin_anew_in_silence() {
    let mut log = Log::new();
    log.kept = 0;
    let mut alone = 0;
    for _ in 0..200 {
        log.flush(3000);
        let live: Vec<SegmentId> = log.writer.segments().collect();
        let [only] = live[..] else { continue };
        if only == SegmentId::from_raw(1) {
            continue; // there may never have been more than what is lost
        }
        alone += 1;
        let mut disk = log.disk.clone();
        disk.files.retain(|&segment, _| segment == only);
        for lost in [0..SECTOR, BLOCK..BLOCK + SECTOR, 0..2 * BLOCK] {
            let file = disk.files.get_mut(&only).unwrap();
            let kept = file[lost.clone()].to_vec();
            file[lost.clone()].fill(0);
            let found = disk.replay();
            // What is there still says so, or says that it is not all.
            let known = found.groups.get(&GROUP).unwrap_or(&found.unmentioned);
            let whole = known.last.to_raw() == log.last;
            assert!(known.damage.is_some() || whole, "{only} without {lost:?}");
            disk.files.get_mut(&only).unwrap()[lost].copy_from_slice(&kept);
        }
    }
    assert!(alone > 10, "{alone}");
}
