//! What is on a disk: segment files, bytes that decay, blocks that cannot be read any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use wal::{BLOCK, SegmentId, UNREADABLE};

use crate::rng::Rng;

/// The segment files. A copy costs little until one of the two changes.
#[derive(Clone)]
pub(crate) struct Platter {
    /// Up to the last block that was written: most of a new file is only zeroes.
    segments: BTreeMap<SegmentId, Rc<Vec<u8>>>,
    segment_bytes: usize,
    /// Blocks that the device does not give, by their number in the segment.
    unreadable: BTreeSet<(SegmentId, usize)>,
}

impl Platter {
    /// Without files; each will have so many bytes.
    pub(crate) fn new(segment_bytes: usize) -> Self {
        Self {
            segments: BTreeMap::new(),
            segment_bytes,
            unreadable: BTreeSet::new(),
        }
    }

    /// Whether the segment is there.
    pub(crate) fn has(&self, segment: SegmentId) -> bool {
        self.segments.contains_key(&segment)
    }

    /// The segments that are there, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentId> {
        self.segments.keys().copied().collect()
    }

    /// Writes a segment with zeroes, unless it is there.
    pub(crate) fn preallocate(&mut self, segment: SegmentId) {
        let zeroes = || Rc::new(Vec::with_capacity(self.segment_bytes));
        self.segments.entry(segment).or_insert_with(zeroes);
    }

    /// Gives every file the zeroes that were not worth keeping, for a start that reads all.
    pub(crate) fn fill(&mut self) {
        for file in self.segments.values_mut() {
            if file.len() < self.segment_bytes {
                Rc::make_mut(file).resize(self.segment_bytes, 0);
            }
        }
    }

    /// Writes; what could not be read before can be read again.
    pub(crate) fn write(&mut self, segment: SegmentId, offset: usize, bytes: &[u8]) {
        let file = self.segments.get_mut(&segment);
        let file = Rc::make_mut(file.expect("writes go to segments that exist"));
        let end = (offset + bytes.len()).next_multiple_of(BLOCK);
        if file.len() < end {
            file.resize(end.min(self.segment_bytes), 0);
        }
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        for block in offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK) {
            self.unreadable.remove(&(segment, block));
        }
    }

    /// Some bytes, if the device gives them and they were written.
    pub(crate) fn read(&self, segment: SegmentId, range: Range<usize>) -> Option<&[u8]> {
        let mut blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        if blocks.any(|block| self.unreadable.contains(&(segment, block))) {
            return None;
        }
        self.segments[&segment].get(range)
    }

    /// The first bytes of a segment, of those that [`Platter::fill`] left, as a start reads them:
    /// [`UNREADABLE`] where the device gives none.
    pub(crate) fn replayed(&self, segment: SegmentId, bytes: usize) -> &[u8] {
        &self.segments[&segment][..bytes]
    }

    /// Deletes a segment file.
    pub(crate) fn delete(&mut self, segment: SegmentId) {
        self.segments.remove(&segment);
        self.unreadable.retain(|&(other, _)| other != segment);
    }

    /// A segment file becomes that of another.
    pub(crate) fn rename(&mut self, from: SegmentId, to: SegmentId) {
        let file = self.segments.remove(&from).expect("a file is renamed");
        self.segments.insert(to, file);
        let moved = self
            .unreadable
            .extract_if(.., |&(segment, _)| segment == from);
        let moved: Vec<_> = moved.map(|(_, block)| (to, block)).collect();
        self.unreadable.extend(moved);
    }

    /// Flips a bit somewhere in what is written. Says whether anything is.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let Some((segment, written)) = self.pick(rng) else {
            return false;
        };
        let file = self.segments.get_mut(&segment).expect("just picked");
        Rc::make_mut(file)[rng.index(written)] ^= 1 << rng.below(8);
        true
    }

    /// Some blocks in a row of what is written cannot be read any more: anywhere, or the newest, which
    /// hold the promises that count: a few of a segment, or all. Says whether anything is.
    pub(crate) fn fade(&mut self, rng: &mut Rng, newest: bool) -> bool {
        let picked = if newest {
            let segments = self.segments();
            segments.iter().rev().find_map(|&last| self.written(last))
        } else {
            self.pick(rng)
        };
        let Some((segment, written)) = picked else {
            return false;
        };
        let blocks = written.div_ceil(BLOCK);
        let (first, last) = if newest {
            let few = blocks.saturating_sub(1 + rng.index(12));
            let first = if rng.chance(500_000) { 0 } else { few };
            (first, blocks - 1)
        } else {
            let first = rng.index(blocks);
            (first, (first + rng.index(3)).min(blocks - 1))
        };
        let file = self.segments.get_mut(&segment).expect("just picked");
        let lost = first * BLOCK..((last + 1) * BLOCK).min(file.len());
        Rc::make_mut(file)[lost].fill(UNREADABLE);
        self.unreadable
            .extend((first..=last).map(|block| (segment, block)));
        true
    }

    /// Behind the last byte of a segment that is not zero.
    pub(crate) fn end(&self, segment: SegmentId) -> usize {
        self.written(segment).map_or(0, |(_, end)| end)
    }

    /// Any segment that was written, and up to where.
    fn pick(&self, rng: &mut Rng) -> Option<(SegmentId, usize)> {
        let segments = self.segments();
        let segment = *segments.get(rng.index(segments.len().max(1)))?;
        self.written(segment)
    }

    /// The segment, and up to where it was written; `None` if nowhere.
    fn written(&self, segment: SegmentId) -> Option<(SegmentId, usize)> {
        let file = &self.segments[&segment];
        let written = file.iter().rposition(|&byte| byte != 0)?;
        Some((segment, written + 1))
    }
}
