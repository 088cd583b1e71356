//! A disk that keeps what it has confirmed, and of the rest whatever it likes, sector by sector.

use std::collections::BTreeMap;

use wal::{BLOCK, FlushNumber, Location, Options, Placement, Recovered, Replay, ReplayError};
use wal::{SECTOR, SegmentId};

use crate::faults::Counters;
use crate::rng::Rng;

/// The segment files of one node's only shard.
#[derive(Default)]
pub(crate) struct Disk {
    /// What a power cut leaves.
    segments: BTreeMap<SegmentId, Vec<u8>>,
    in_flight: BTreeMap<FlushNumber, Write>,
    segment_bytes: usize,
    /// The next write fails.
    pub(crate) breaks: bool,
    /// There is no space for another segment.
    pub(crate) full: bool,
    /// How many times as long as usual a write takes.
    pub(crate) slowness: u64,
}

/// The data directory's instance.
const INSTANCE: u64 = 0x5eed;

struct Write {
    segment: SegmentId,
    offset: usize,
    bytes: Vec<u8>,
}

/// How a crash treats what was on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Each write is there or not.
    Whole,
    /// Each sector is there or not.
    Torn,
}

impl Disk {
    /// An empty disk for segments of this size.
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let segment_bytes = usize::try_from(segment_bytes).expect("a segment fits memory");
        Self {
            segment_bytes,
            slowness: 1,
            ..Self::default()
        }
    }

    /// Writes a segment with zeroes, durably, unless it is there. Says whether it is there now.
    pub(crate) fn preallocate(&mut self, segment: SegmentId) -> bool {
        if !self.full {
            let zeroes = || vec![0; self.segment_bytes];
            self.segments.entry(segment).or_insert_with(zeroes);
        }
        self.segments.contains_key(&segment)
    }

    /// Whether a flush can be put in its place.
    pub(crate) fn has(&self, placement: &Placement) -> bool {
        self.segments.contains_key(&placement.segment)
    }

    /// Starts a write.
    pub(crate) fn begin(&mut self, placement: &Placement, bytes: Vec<u8>) {
        assert_eq!(bytes.len(), placement.bytes, "a flush fills its place");
        let offset = usize::try_from(placement.offset).expect("inside a segment");
        assert!(
            offset + bytes.len() <= self.segment_bytes,
            "{placement:?} leaves the segment"
        );
        assert!(self.has(placement), "{placement:?} has no file");
        let write = Write {
            segment: placement.segment,
            offset,
            bytes,
        };
        let twice = self.in_flight.insert(placement.number, write);
        assert!(
            twice.is_none(),
            "flush {} is already on its way",
            placement.number
        );
    }

    /// A write is durable. Says whether an earlier one is still on its way.
    pub(crate) fn complete(&mut self, number: FlushNumber) -> bool {
        let write = self.in_flight.remove(&number).expect("the write was begun");
        let kept = write.offset..write.offset + write.bytes.len();
        self.segment(write.segment)[kept].copy_from_slice(&write.bytes);
        self.in_flight
            .keys()
            .next()
            .is_some_and(|&earlier| earlier < number)
    }

    /// The power is cut: what was on its way is damaged.
    pub(crate) fn crash(&mut self, rng: &mut Rng, damage: Damage, counters: &mut Counters) {
        for write in std::mem::take(&mut self.in_flight).into_values() {
            let sectors = write.bytes.len() / SECTOR;
            match self.damage(&write, rng, damage) {
                0 => counters.lost_flushes += 1,
                kept if kept == sectors => counters.kept_flushes += 1,
                _ => counters.torn_flushes += 1,
            }
        }
    }

    /// A write fails: any of its sectors may be there.
    pub(crate) fn fail(&mut self, number: FlushNumber, rng: &mut Rng) {
        let write = self.in_flight.remove(&number).expect("the write was begun");
        self.damage(&write, rng, Damage::Torn);
    }

    /// Writes some sectors of a write. Says how many.
    fn damage(&mut self, write: &Write, rng: &mut Rng, damage: Damage) -> usize {
        let keeps = survivors(rng, damage, write.bytes.len() / SECTOR);
        let segment = self.segment(write.segment);
        for (sector, _) in keeps.iter().enumerate().filter(|&(_, &keep)| keep) {
            let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
            segment[write.offset + from..write.offset + to].copy_from_slice(&write.bytes[from..to]);
        }
        keeps.iter().filter(|&&keep| keep).count()
    }

    /// The bytes of a record.
    pub(crate) fn read(&self, location: &Location) -> &[u8] {
        let from = location.offset as usize;
        &self.segments[&location.segment][from..from + location.bytes as usize]
    }

    /// Deletes a segment file.
    pub(crate) fn delete(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
    }

    /// Flips a bit somewhere in what is written. Says where: doing it again undoes it.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> Option<(SegmentId, usize, u8)> {
        let segments: Vec<SegmentId> = self.segments.keys().copied().collect();
        let segment = *segments.get(rng.index(segments.len().max(1)))?;
        let bytes = &self.segments[&segment];
        let written = bytes.iter().rposition(|&byte| byte != 0)?;
        let place = (segment, rng.index(written + 1), 1 << rng.below(8));
        self.flip(place);
        Some(place)
    }

    /// Flips a bit, if the segment is still there.
    pub(crate) fn flip(&mut self, (segment, offset, bit): (SegmentId, usize, u8)) {
        if let Some(bytes) = self.segments.get_mut(&segment) {
            bytes[offset] ^= bit;
        }
    }

    /// What replay makes of the segments.
    pub(crate) fn replay(&self, cache_bytes: usize) -> Result<Recovered, ReplayError> {
        let options = Options {
            segment_bytes: self.segment_bytes as u64,
            instance: INSTANCE,
        };
        let firsts = self
            .segments
            .iter()
            .map(|(&segment, bytes)| (segment, &bytes[..BLOCK]));
        let mut replay = Replay::new(options, cache_bytes, firsts)?;
        while let Some(segment) = replay.next_segment() {
            replay.segment(&self.segments[&segment])?;
        }
        Ok(replay.finish())
    }

    fn segment(&mut self, segment: SegmentId) -> &mut [u8] {
        self.segments
            .get_mut(&segment)
            .expect("writes go to segments that exist")
    }
}

/// Which sectors of a write a crash leaves.
fn survivors(rng: &mut Rng, damage: Damage, sectors: usize) -> Vec<bool> {
    let shape = match damage {
        Damage::Whole => rng.below(2),
        Damage::Torn => rng.below(6),
    };
    let border = rng.index(sectors);
    (0..sectors)
        .map(|sector| match shape {
            0 => false,
            1 => true,
            2 => sector <= border,
            3 => sector >= border,
            4 => sector != border,
            _ => rng.chance(500_000),
        })
        .collect()
}
