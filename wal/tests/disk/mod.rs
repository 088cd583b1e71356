//! A shard's directory in memory: logs that are written, harmed, and started from again.

#![allow(dead_code, reason = "no test needs all of it")]

use std::collections::BTreeMap;

use wal::survey::{Role, Survey, Surveyed};
use wal::{
    BLOCK, Entry, EntryKind, GroupId, LogIndex, Lost, Options, Payload, Placement, Record,
    Recovered, RecoveredLog, Replay, ReplayError, SECTOR, SegmentId, Term, UNREADABLE, Writer,
};

/// Files of segments, zero where nothing was written.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) options: Options,
    /// How much of the newest entries a start holds in memory.
    pub(crate) cache_bytes: usize,
    pub(crate) files: BTreeMap<SegmentId, Vec<u8>>,
}

impl Disk {
    pub(crate) fn new(options: Options, cache_bytes: usize) -> Self {
        Self {
            options,
            cache_bytes,
            files: BTreeMap::new(),
        }
    }

    fn firsts(&self) -> impl Iterator<Item = (SegmentId, &[u8])> {
        let files = self.files.iter();
        files.map(|(&id, bytes)| (id, &bytes[..BLOCK.min(bytes.len())]))
    }

    pub(crate) fn try_replay(&self) -> Result<Recovered, ReplayError> {
        let mut replay = Replay::new(self.options, self.cache_bytes, self.firsts())?;
        while let Some(segment) = replay.next_segment() {
            replay.segment(&self.files[&segment])?;
        }
        Ok(replay.finish())
    }

    pub(crate) fn replay(&self) -> Recovered {
        self.try_replay().unwrap()
    }

    /// With what a start missed, if it is to know of that.
    pub(crate) fn survey(&self, missed: &[Lost]) -> Surveyed {
        let mut survey = Survey::new(Some(self.options.instance), self.firsts());
        let segments = survey.segments().to_vec();
        for one in segments.iter().filter(|one| one.role != Role::Dead) {
            survey.witness(one.segment, &self.files[&one.segment]);
        }
        for one in segments.iter().filter(|one| one.role == Role::Live) {
            survey.segment(one.segment, &self.files[&one.segment]);
        }
        survey.missed(missed);
        survey.finish()
    }

    /// An empty file.
    pub(crate) fn make(&mut self, segment: SegmentId) {
        let bytes = usize::try_from(self.options.segment_bytes).unwrap();
        assert!(self.files.insert(segment, vec![0; bytes]).is_none());
    }

    /// The file of a segment that left the log becomes that of one to come.
    pub(crate) fn recycle(&mut self, writer: &mut Writer, from: SegmentId, to: SegmentId) {
        let table = writer.recycle(from, to);
        let mut file = self.files.remove(&from).unwrap();
        let end = file.len() - table.len();
        file[end..].copy_from_slice(&table);
        self.files.insert(to, file);
    }

    pub(crate) fn remove(&mut self, segments: &[SegmentId]) {
        self.files.retain(|segment, _| !segments.contains(segment));
    }

    /// Those sectors of a flush that are kept. The file is made if it is not there.
    pub(crate) fn write(&mut self, at: &Placement, bytes: &[u8], keeps: impl Fn(usize) -> bool) {
        if !self.files.contains_key(&at.segment) {
            self.make(at.segment);
        }
        let file = self.files.get_mut(&at.segment).unwrap();
        let start = usize::try_from(at.offset).unwrap();
        for (sector, bytes) in bytes.chunks(SECTOR).enumerate().filter(|it| keeps(it.0)) {
            let from = start + sector * SECTOR;
            file[from..from + SECTOR].copy_from_slice(bytes);
        }
    }

    pub(crate) fn flush(&mut self, writer: &mut Writer, records: &[Record]) -> Placement {
        let at = writer.place(writer.next_flush(), records);
        self.flush_at(writer, at, records);
        at
    }

    pub(crate) fn flush_at(&mut self, writer: &mut Writer, at: Placement, records: &[Record]) {
        let bytes = encode(writer, &at, records);
        self.write(&at, &bytes, |_| true);
        writer.written(at.number);
    }

    /// What a flush takes of its file.
    pub(crate) fn place(&mut self, at: &Placement) -> &mut [u8] {
        let start = usize::try_from(at.offset).unwrap();
        &mut self.files.get_mut(&at.segment).unwrap()[start..start + at.bytes]
    }
}

pub(crate) fn encode(writer: &mut Writer, at: &Placement, records: &[Record]) -> Vec<u8> {
    // Memory that was used before: whatever is not written shows.
    let mut bytes = vec![0xee; at.bytes];
    writer.encode(at, records, &mut bytes);
    bytes
}

/// A log whose every flush becomes durable at once.
pub(crate) struct Log {
    pub(crate) disk: Disk,
    pub(crate) writer: Writer,
}

impl Log {
    pub(crate) fn new(options: Options, cache_bytes: usize) -> Self {
        let disk = Disk::new(options, cache_bytes);
        let writer = disk.replay().writer;
        Self { disk, writer }
    }

    pub(crate) fn flush(&mut self, records: &[Record]) -> Placement {
        self.disk.flush(&mut self.writer, records)
    }

    pub(crate) fn found(&self, group: GroupId) -> RecoveredLog {
        let groups = &mut self.disk.replay().groups;
        groups.remove(&group).unwrap_or_default()
    }

    /// The flush with an entry, of one block, cannot be read any more.
    pub(crate) fn lose(&mut self, group: GroupId, index: LogIndex) {
        let place = self.writer.locate(group, index).unwrap();
        let at = usize::try_from(place.offset).unwrap() / BLOCK * BLOCK;
        self.disk.files.get_mut(&place.segment).unwrap()[at..at + BLOCK].fill(UNREADABLE);
    }
}

pub(crate) fn entry(index: u64, term: u64, payload: impl Into<Payload>) -> Entry {
    Entry {
        term: Term::from_raw(term),
        index: LogIndex::from_raw(index),
        kind: EntryKind::Batch,
        payload: payload.into(),
    }
}

/// What a payload begins with, if it is long enough.
pub(crate) fn stamp(entry: &Entry) -> Option<u64> {
    entry.payload.first_chunk().copied().map(u64::from_le_bytes)
}

pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }

    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}
