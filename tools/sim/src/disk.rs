//! A disk that keeps what it has confirmed, and of the rest whatever it likes, sector by sector.

use std::collections::BTreeMap;

use wal::{BLOCK, FlushNumber, Location, Options, Placement, Recovered, Replay, ReplayError};
use wal::{SECTOR, SegmentId};

use crate::faults::{Counters, Fault};
use crate::platter::Platter;
use crate::rng::Rng;

/// The disk of one node's only shard.
pub(crate) struct Disk {
    /// What a power cut leaves.
    platter: Platter,
    /// What it has confirmed, as long as that differs and nobody knows yet.
    honest: Option<Platter>,
    /// What the disk does with the next write that it confirms, if not what it should.
    pub(crate) deceit: Option<Fault>,
    /// What it did.
    lie: Option<Lie>,
    /// Each flush that was confirmed, and where it should be.
    confirmed: BTreeMap<FlushNumber, Place>,
    in_flight: BTreeMap<FlushNumber, Write>,
    segment_bytes: usize,
    instance: u64,
    /// The next write fails.
    pub(crate) breaks: bool,
    /// There is no space for another segment.
    pub(crate) full: bool,
    /// How many times as long as usual a write takes.
    pub(crate) slowness: u64,
}

struct Write {
    place: Place,
    bytes: Vec<u8>,
    /// Every flush up to this one was known durable when it was begun.
    knows: FlushNumber,
}

/// What a write covers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: SegmentId,
    offset: usize,
    bytes: usize,
}

impl Place {
    fn overlaps(&self, other: &Self) -> bool {
        let ends = |place: &Self| place.offset + place.bytes;
        self.segment == other.segment && self.offset < ends(other) && other.offset < ends(self)
    }
}

/// A write that was confirmed and is not in its place.
struct Lie {
    fault: Fault,
    /// The newest flush that it harmed.
    newest: FlushNumber,
    /// A flush that knew this one durable is whole on the disk: replay can tell that it is missing.
    proven: bool,
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
    /// An empty disk for segments of this size, and the data directory's instance.
    pub(crate) fn new(segment_bytes: u64, instance: u64) -> Self {
        let segment_bytes = usize::try_from(segment_bytes).expect("a segment fits memory");
        Self {
            platter: Platter::new(segment_bytes),
            honest: None,
            deceit: None,
            lie: None,
            confirmed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            segment_bytes,
            instance,
            breaks: false,
            full: false,
            slowness: 1,
        }
    }

    /// Writes a segment with zeroes, durably, unless it is there. Says whether it is there now.
    pub(crate) fn preallocate(&mut self, segment: SegmentId) -> bool {
        if !self.full {
            self.sides()
                .for_each(|platter| platter.preallocate(segment));
        }
        self.platter.has(segment)
    }

    /// How much of a segment is zeroes, but for a quarter of it: what is at its end may not be for flushes,
    /// and torn ones may reach further than what is there of them.
    pub(crate) fn left(&self, segment: SegmentId) -> usize {
        let left = self.segment_bytes - self.platter.end(segment);
        left.saturating_sub(self.segment_bytes / 4)
    }

    /// Whether a flush can be put in its place.
    pub(crate) fn has(&self, placement: &Placement) -> bool {
        self.platter.has(placement.segment)
    }

    /// Starts a write of a flush that knows all flushes up to `knows` durable.
    pub(crate) fn begin(&mut self, placement: &Placement, bytes: Vec<u8>, knows: FlushNumber) {
        assert_eq!(bytes.len(), placement.bytes, "a flush fills its place");
        let offset = usize::try_from(placement.offset).expect("inside a segment");
        assert!(
            offset + bytes.len() <= self.segment_bytes,
            "{placement:?} leaves the segment"
        );
        assert!(self.has(placement), "{placement:?} has no file");
        let place = Place {
            segment: placement.segment,
            offset,
            bytes: bytes.len(),
        };
        let write = Write {
            place,
            bytes,
            knows,
        };
        let twice = self.in_flight.insert(placement.number, write);
        assert!(
            twice.is_none(),
            "flush {} is already on its way",
            placement.number
        );
    }

    /// A write is confirmed: it is durable, unless the disk lies. Says whether an earlier one is still
    /// on its way.
    pub(crate) fn complete(&mut self, number: FlushNumber, rng: &mut Rng) -> bool {
        let write = self.in_flight.remove(&number).expect("the write was begun");
        match self.deceit.take() {
            Some(fault) => self.deceive(number, &write, fault, rng),
            None => self.keep(&write),
        }
        self.confirmed.insert(number, write.place);
        self.in_flight
            .keys()
            .next()
            .is_some_and(|&earlier| earlier < number)
    }

    /// A write is whole where it should be.
    fn keep(&mut self, write: &Write) {
        let Place {
            segment, offset, ..
        } = write.place;
        self.sides()
            .for_each(|platter| platter.write(segment, offset, &write.bytes));
        if let Some(lie) = &mut self.lie {
            lie.proven |= write.knows >= lie.newest;
        }
    }

    /// A write is confirmed, and its bytes are nowhere, or elsewhere.
    fn deceive(&mut self, number: FlushNumber, write: &Write, fault: Fault, rng: &mut Rng) {
        assert!(!self.has_lied(), "one lie at a time can be judged");
        self.honest = Some(self.platter.clone());
        let honest = self.honest.as_mut().expect("just made");
        honest.write(write.place.segment, write.place.offset, &write.bytes);
        let mut newest = number;
        if fault == Fault::MisdirectedWrite {
            let stray = self.stray(write.place, rng);
            self.platter
                .write(stray.segment, stray.offset, &write.bytes);
            let harmed = self.confirmed.iter().rev();
            let mut harmed = harmed.filter(|(_, place)| place.overlaps(&stray));
            newest = harmed
                .next()
                .map_or(number, |(&harmed, _)| harmed.max(number));
        }
        self.lie = Some(Lie {
            fault,
            newest,
            proven: false,
        });
    }

    /// Where a write goes that should go elsewhere.
    fn stray(&self, meant: Place, rng: &mut Rng) -> Place {
        let grain = *rng.pick(&[BLOCK, BLOCK, BLOCK, SECTOR]);
        let segments = self.platter.segments();
        loop {
            let near = rng.chance(500_000);
            let segment = if near {
                meant.segment
            } else {
                *rng.pick(&segments)
            };
            let room = (self.segment_bytes - meant.bytes) / grain;
            let stray = Place {
                segment,
                offset: rng.index(room + 1) * grain,
                ..meant
            };
            if stray != meant {
                return stray;
            }
        }
    }

    /// Whether it confirmed something that it did not do.
    pub(crate) fn has_lied(&self) -> bool {
        self.lie.is_some()
    }

    /// Whether something here is lost of which nobody knows yet, or will be soon.
    pub(crate) fn is_suspect(&self) -> bool {
        self.honest.is_some() || self.deceit.is_some()
    }

    /// The power is back: what the disk lied about is found missing now, or nothing tells that it
    /// ever was there. Returns the lie, and whether it can be found out.
    pub(crate) fn own_up(&mut self) -> Option<(Fault, bool)> {
        let Lie { fault, proven, .. } = self.lie.take()?;
        Some((fault, proven))
    }

    /// What was harmed is as it should be.
    pub(crate) fn mend(&mut self) {
        self.platter = self.honest.take().expect("something was harmed");
    }

    /// What was harmed stays so.
    pub(crate) fn accept(&mut self) {
        self.honest = None;
    }

    /// Flips a bit somewhere in what is written. Says whether there is anything.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let honest = self.platter.clone();
        let harmed = self.platter.rot(rng);
        self.honest = harmed.then_some(honest);
        harmed
    }

    /// Some blocks of what is written cannot be read any more. Says whether there are any.
    pub(crate) fn fade(&mut self, rng: &mut Rng, newest: bool) -> bool {
        let honest = self.platter.clone();
        let harmed = self.platter.fade(rng, newest);
        self.honest = harmed.then_some(honest);
        harmed
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
        let kept = keeps.iter().filter(|&&keep| keep).count();
        if kept == keeps.len() {
            self.keep(write);
            return kept;
        }
        let Place {
            segment, offset, ..
        } = write.place;
        for (sector, _) in keeps.iter().enumerate().filter(|&(_, &keep)| keep) {
            let from = sector * SECTOR;
            let bytes = &write.bytes[from..from + SECTOR];
            self.sides()
                .for_each(|platter| platter.write(segment, offset + from, bytes));
        }
        kept
    }

    /// The bytes of a record, if the disk gives them.
    pub(crate) fn read(&self, location: &Location) -> Option<&[u8]> {
        let from = location.offset as usize;
        let range = from..from + location.bytes as usize;
        self.platter.read(location.segment, range)
    }

    /// Deletes a segment file. A disk that is to be mended gets it back.
    pub(crate) fn delete(&mut self, segment: SegmentId) {
        self.platter.delete(segment);
    }

    /// A segment that left the log is gone.
    pub(crate) fn reclaim(&mut self, segment: SegmentId) {
        self.sides().for_each(|platter| platter.delete(segment));
    }

    /// The file of a segment that left the log becomes another's, with a table at an offset.
    pub(crate) fn recycle(&mut self, from: SegmentId, to: SegmentId, offset: u64, table: &[u8]) {
        let offset = usize::try_from(offset).expect("inside a segment");
        for platter in self.sides() {
            platter.write(from, offset, table);
            platter.rename(from, to);
        }
    }

    /// What replay makes of the segments.
    pub(crate) fn replay(&mut self, cache_bytes: usize) -> Result<Recovered, ReplayError> {
        self.platter.fill();
        let options = Options {
            segment_bytes: self.segment_bytes as u64,
            instance: self.instance,
        };
        let segments = self.platter.segments();
        let firsts = segments.iter();
        let firsts = firsts.map(|&segment| (segment, self.platter.replayed(segment, BLOCK)));
        let mut replay = Replay::new(options, cache_bytes, firsts)?;
        while let Some(segment) = replay.next_segment() {
            replay.segment(self.platter.replayed(segment, self.segment_bytes))?;
        }
        Ok(replay.finish())
    }

    /// What is written to both what is there and what should be.
    fn sides(&mut self) -> impl Iterator<Item = &mut Platter> {
        [&mut self.platter].into_iter().chain(&mut self.honest)
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
