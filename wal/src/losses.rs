//! The losses of a log: where replay missed flushes, and what tells of them.

use alloc::vec::Vec;

use crate::chain::Part;
use crate::recovered::Lost;
use crate::segment::{BLOCK, Link};
use crate::{FlushNumber, SegmentId};

/// What replay found to be lost so far.
#[derive(Debug)]
pub(crate) struct Losses {
    /// In the order of the log.
    found: Vec<Lost>,
    /// Flushes from this one on are lost, up to the next that is followed.
    from: Option<FlushNumber>,
    /// The segment of which the file tells of a loss before it, and nothing else does.
    witness: Option<SegmentId>,
}

impl Losses {
    /// None is found yet. What was before the log is lost from this flush on, if at all.
    pub(crate) fn new(from: Option<FlushNumber>) -> Self {
        Self {
            found: Vec::new(),
            from,
            witness: None,
        }
    }

    pub(crate) fn add(&mut self, lost: Lost) {
        self.from.get_or_insert(lost.first);
        self.found.push(lost);
    }

    /// A flush is followed again: from which one on those before it are lost, if any are.
    pub(crate) fn end_range(&mut self) -> Option<FlushNumber> {
        self.from.take()
    }

    /// The first of them is of all that was before, too.
    pub(crate) fn begin_with_all_before(&mut self) {
        if let Some(lost) = self.found.first_mut() {
            lost.first = FlushNumber::ZERO.next();
        }
    }

    /// Nothing but the file of this segment, if it is one, tells of a loss before it.
    pub(crate) fn told_by(&mut self, witness: Option<SegmentId>) {
        self.witness = self.witness.max(witness);
    }

    /// Whether the file of a segment may be all that tells of a loss.
    pub(crate) fn may_be_told_by(&self, segment: SegmentId) -> bool {
        Some(segment) <= self.witness
    }

    /// Whether it is the header of a segment that tells of one.
    pub(crate) fn are_told_by_header(&self, segment: SegmentId) -> bool {
        let told = |lost: &Lost| lost.segment == segment && lost.offset == BLOCK as u64;
        self.found.iter().any(told)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether no flush was followed behind the last of them.
    pub(crate) fn are_open(&self) -> bool {
        self.from.is_some() && !self.found.is_empty()
    }

    /// Where the last of them begins, if nothing was found behind it.
    pub(crate) fn at_end(&self) -> Option<Link> {
        let last = self.found.last().filter(|lost| lost.next.is_none());
        last.map(|lost| Link {
            segment: lost.segment,
            end: lost.offset,
        })
    }

    /// The first and the last segment in which flushes are missed.
    pub(crate) fn span(&self, parts: &[Part], newest: SegmentId) -> Option<(SegmentId, SegmentId)> {
        // What is missed where a segment begins is only missed while the one before it is there.
        let from = |lost: &Lost| {
            let mut until = parts.iter().rev().filter(|part| part.id < lost.segment);
            let before = until.next().filter(|_| lost.offset == BLOCK as u64);
            before.map_or(lost.segment, |part| part.id)
        };
        // A loss at the end is found again where the next segment begins.
        let to = |lost: &Lost| lost.next.map_or(newest.next(), |_| lost.segment);
        let lossy = self.found.first().zip(self.found.last());
        lossy.map(|(first, last)| (from(first), to(last)))
    }

    /// Tells lists of lost flushes apart; the same whether or not anything was written behind the last, and
    /// whether or not something in the middle of a range of them, of a start that came to nothing, is still seen.
    pub(crate) fn fingerprint(&self) -> u64 {
        let next_of = |it: &Lost| it.next.unwrap_or(it.first.next());
        let ranges = self
            .found
            .chunk_by(|it, behind| next_of(it) == behind.first);
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (first, last) in ranges.filter_map(|range| range.first().zip(range.last())) {
            for number in [first.first, next_of(last)] {
                hash = (hash ^ number.to_raw()).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    pub(crate) fn into_found(self) -> Vec<Lost> {
        self.found
    }
}
