//! The newest segment, damaged in every way that leaves each of its pieces right, zero, unreadable or
//! as it was before. A start may take that for a crash only if a crash can leave it.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod disk;

use std::ops::Range;

use disk::{Disk, entry};
use wal::{BLOCK, GroupId, LogIndex, Options, Record, SECTOR, SegmentId, Term, UNREADABLE, Writer};

const SEGMENT_BYTES: usize = 10 * BLOCK;
const OPTIONS: Options = Options {
    segment_bytes: SEGMENT_BYTES as u64,
    instance: 0x7ec7_c1e5,
};
const GROUP: GroupId = GroupId::from_raw(5);
/// Flushes that the newest segment holds.
const FLUSHES: usize = 3;
/// Entries that each of them holds: a run of small ones, and one more.
const ENTRIES: u64 = 3;

/// Which file the segment behind the newest has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behind {
    Nothing,
    Fresh,
    Recycled,
}

/// A log whose newest segment holds a few flushes, and what its file held before.
struct Log {
    disk: Disk,
    writer: Writer,
    free: Vec<SegmentId>,
    newest: SegmentId,
    before: Vec<u8>,
    /// Of each flush in the newest segment; the first includes the segment's header.
    flushes: Vec<Range<usize>>,
    last: u64,
}

impl Log {
    fn new(recycled: bool, behind: Behind) -> Self {
        let disk = Disk::new(OPTIONS, 0);
        let mut log = Self {
            writer: disk.replay().writer,
            disk,
            free: Vec::new(),
            newest: SegmentId::from_raw(0),
            before: Vec::new(),
            flushes: Vec::new(),
            last: 0,
        };
        while log.newest < SegmentId::from_raw(8) || log.flushes.len() < FLUSHES {
            log.flush(recycled);
        }
        let next = log.writer.next_segment();
        if behind != Behind::Nothing {
            log.make(next, behind == Behind::Recycled);
        }
        log
    }

    /// Two entries are kept, so that older segments are free soon.
    fn flush(&mut self, recycles: bool) {
        let group = GROUP;
        let mut records = Vec::new();
        for at in 1..=ENTRIES {
            self.last += 1;
            let large = 3000 + 700 * (self.last as usize % 4);
            let bytes = if at < ENTRIES { 30 } else { large };
            let entry = entry(self.last, 3, vec![self.last as u8; bytes]);
            records.push(Record::Entry { group, entry });
        }
        if self.last > ENTRIES {
            let (index, term) = (LogIndex::from_raw(self.last - 2), Term::from_raw(3));
            records.push(Record::Floor { group, index, term });
        }
        let at = self.writer.place(self.writer.next_flush(), &records);
        if at.opens_segment {
            self.make(at.segment, recycles && !self.free.is_empty());
            self.newest = at.segment;
            self.before = self.disk.files[&at.segment].clone();
            self.flushes.clear();
        }
        self.disk.flush_at(&mut self.writer, at, &records);
        let start = at.offset as usize;
        self.flushes.push(start..start + at.bytes);
        for segment in self.writer.reclaim() {
            self.free.push(segment);
            if !recycles && self.free.len() > 1 {
                let oldest = self.free.remove(0);
                self.writer.discard(oldest);
                self.disk.remove(&[oldest]);
            }
        }
    }

    fn make(&mut self, segment: SegmentId, recycled: bool) {
        if recycled {
            let from = self.free.remove(0);
            self.disk.recycle(&mut self.writer, from, segment);
        } else {
            self.disk.make(segment);
        }
    }

    /// The newest segment in pieces: header, flushes, what is behind them, the table.
    fn pieces(&self) -> Vec<Range<usize>> {
        let room = self.writer.room() as usize;
        let mut pieces = vec![0..BLOCK, BLOCK..self.flushes[0].end];
        pieces.extend(self.flushes[1..].iter().cloned());
        let end = self.flushes[self.flushes.len() - 1].end;
        pieces.extend([end..room, room..SEGMENT_BYTES]);
        pieces
    }

    /// Whether a crash can leave all behind the first `whole` flushes of the newest segment like this: the
    /// sectors of the next flush are right or were never written, and the one behind it starts with a
    /// sector that was never written. Of flushes that are begun together the second may be there without
    /// the first, so what is behind may be anything that can be read. The file behind is only there once
    /// the first flush is durable.
    fn crash_leaves(&self, damaged: &[u8], whole: usize, behind: Behind) -> bool {
        if whole == 0 && behind != Behind::Nothing {
            return false;
        }
        let right = &self.disk.files[&self.newest];
        let room = self.writer.room() as usize;
        let zeroes = vec![0; SEGMENT_BYTES];
        let before = match &damaged[room..] {
            table if table == &zeroes[room..] => &zeroes,
            table if table == &self.before[room..] => &self.before,
            // Without the table nobody knows whether the segment was begun at all, or what was there.
            _ => return whole == 0,
        };
        let begun = whole.checked_sub(1).map_or(0, |at| self.flushes[at].end);
        let same = |other: &[u8], at: usize| damaged[at..][..SECTOR] == other[at..][..SECTOR];
        let new = |at| same(before, at);
        let mut blocks = damaged[begun..room].chunks(BLOCK);
        if blocks.any(|block| block.iter().all(|&byte| byte == UNREADABLE)) {
            return false;
        }
        if whole == 0 && new(0) {
            return new(BLOCK) || same(right, BLOCK);
        }
        let start = begun.max(BLOCK);
        let Some(next) = self.flushes.get(whole).filter(|_| !new(start)) else {
            return start == room || new(start);
        };
        let torn = |at: usize| new(at) || same(right, at);
        next.clone().step_by(SECTOR).all(torn) && (next.end == room || new(next.end))
    }

    /// Whether only the last flushes are missing, as if they had never been begun.
    fn ends_early(&self, damaged: &[u8], behind: Behind) -> bool {
        let right = &self.disk.files[&self.newest];
        let whole = self.flushes.iter();
        let whole = whole.take_while(|place| damaged[(*place).clone()] == right[(*place).clone()]);
        let end = whole.clone().last().map_or(0, |place| place.end);
        damaged[end..] == self.before[end..] && (end > 0 || behind == Behind::Nothing)
    }
}

#[test]
fn a_start_takes_for_a_crash_only_what_a_crash_can_leave() {
    let (mut cut, mut lost) = (0, 0);
    for recycled in [false, true] {
        for behind in [Behind::Nothing, Behind::Fresh, Behind::Recycled] {
            let log = Log::new(recycled, behind);
            let pieces = log.pieces();
            let mut disk = log.disk.clone();
            for state in 0..4_usize.pow(pieces.len() as u32) {
                let mut file = log.disk.files[&log.newest].clone();
                for (position, piece) in pieces.iter().enumerate() {
                    match state >> (2 * position) & 3 {
                        0 => {}
                        1 => file[piece.clone()].fill(0),
                        2 => file[piece.clone()].fill(UNREADABLE),
                        _ => file[piece.clone()].copy_from_slice(&log.before[piece.clone()]),
                    }
                }
                let what = format!("recycled {recycled}, behind {behind:?}, {state:#x}");
                disk.files.insert(log.newest, file);
                let file = &disk.files[&log.newest];
                let found = disk.replay();
                let group = found.groups.get(&GROUP).unwrap_or(&found.unmentioned);
                let last = group.last.to_raw();
                let first = log.last - ENTRIES * log.flushes.len() as u64;
                if group.damage.is_none() {
                    let whole = last.checked_sub(first).unwrap();
                    assert!(whole.is_multiple_of(ENTRIES), "{what}: half a flush");
                    let whole = (whole / ENTRIES) as usize;
                    let excused = log.crash_leaves(file, whole, behind);
                    assert!(excused || last == log.last, "{what}: {last} in silence");
                    cut += 1;
                } else {
                    // The file behind may have been that of a segment which was only released by what is missing.
                    let crash = log.ends_early(file, behind) && behind != Behind::Recycled;
                    assert!(!crash, "{what}: {:?} without reason", found.lost);
                    if state % 7 == 0 {
                        assert!(
                            !disk.survey(&found.lost).flaws.is_empty(),
                            "{what}: a survey sees nothing"
                        );
                    }
                    lost += 1;
                }
            }
        }
    }
    assert!(cut > 1000 && lost > 20_000, "{cut} crashes, {lost} losses");
}

#[test]
fn a_newest_segment_whose_file_became_shorter_is_missed() {
    for recycled in [false, true] {
        for behind in [Behind::Nothing, Behind::Fresh, Behind::Recycled] {
            let log = Log::new(recycled, behind);
            for length in (BLOCK..SEGMENT_BYTES).step_by(BLOCK / 2) {
                let mut disk = log.disk.clone();
                disk.files.get_mut(&log.newest).unwrap().truncate(length);
                let found = disk.replay();
                let group = found.groups.get(&GROUP).unwrap_or(&found.unmentioned);
                let whole = group.last.to_raw() == log.last;
                assert!(
                    whole || group.damage.is_some(),
                    "{recycled}, {behind:?}: {length}"
                );
            }
        }
    }
}

/// Only a header was written when the power went. The next start makes the file behind before it writes,
/// which must not tell of more.
#[test]
fn a_segment_of_which_only_the_header_was_written_is_no_loss_however_often_a_start_comes_to_nothing()
 {
    for recycled in [false, true] {
        let mut log = Log::new(recycled, Behind::Nothing);
        let opened = log.flushes[0].clone();
        let file = log.disk.files.get_mut(&log.newest).unwrap();
        file[BLOCK..opened.end].copy_from_slice(&log.before[BLOCK..opened.end]);
        file[opened.end..].copy_from_slice(&log.before[opened.end..]);
        for _ in 0..3 {
            let found = log.disk.replay();
            let group = &found.groups[&GROUP];
            assert_eq!((&found.lost[..], group.damage.as_ref()), (&[][..], None));
            assert_eq!(group.last.to_raw(), log.last - ENTRIES * FLUSHES as u64);
            log.disk.remove(&found.dead);
            let next = found.writer.next_segment();
            log.disk.make(next);
        }
    }
}

/// The start of the newest segment is nowhere, or the disk has put it elsewhere in the file. Only the file
/// behind tells that it was begun.
#[test]
fn what_tells_of_a_loss_stays_until_that_is_noted() {
    for (recycled, misdirected) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut log = Log::new(recycled, Behind::Fresh);
        let room = log.writer.room() as usize;
        let start = log.disk.files[&log.newest][..log.flushes[0].end].to_vec();
        // Flushes behind it would know it durable.
        let before = &log.before[..room];
        let file = log.disk.files.get_mut(&log.newest).unwrap();
        file[..room].copy_from_slice(before);
        if misdirected {
            file[room - start.len()..room].copy_from_slice(&start);
        }
        for _ in 0..3 {
            let found = log.disk.replay();
            let group = &found.groups[&GROUP];
            let whole = group.last.to_raw() == log.last - ENTRIES * (FLUSHES as u64 - 1);
            let told = group.damage.is_some() || misdirected && whole;
            assert!(told, "{recycled}, {misdirected}: {} in silence", group.last);
            log.disk.remove(&found.dead);
        }
    }
}

#[test]
fn crashes_right_behind_starts_add_nothing_to_a_loss_of_the_past() {
    let mut log = Log::new(false, Behind::Nothing);
    let rotten = log.flushes[1].clone();
    log.disk.files.get_mut(&log.newest).unwrap()[rotten].fill(0x5a);
    let mut known = None;
    for start in 0..6 {
        let found = log.disk.replay();
        assert!(!found.lost.is_empty(), "the rot is not seen");
        let known = known.get_or_insert(found.lost.clone());
        assert_eq!(*known, found.lost, "start {start}");
        log.disk.remove(&found.dead);
        log.last = found.groups[&GROUP].last.to_raw();
        log.writer = found.writer;
        log.flush(false);
        if start > 0 {
            // Of the first flush in its segment only the beginning gets to the disk, or only the file is made.
            let written = if start % 2 == 1 { BLOCK + SECTOR } else { 0 };
            log.disk.files.get_mut(&log.newest).unwrap()[written..].fill(0);
        }
    }
}
