//! Starts that went on in a segment they found begun, because there was no space for another.
//!
//! Such a start writes behind everything that anybody wrote before it, and its flushes carry how many
//! did so there: their *life*. What was under way when the one before stopped lies in front of them, with
//! numbers that they take again. So in one segment a flush is dead if one of a later life has its number
//! or a smaller one.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::flush::FlushHeader;
use crate::residue::Area;
use crate::segment::{BLOCK, SECTOR, SegmentId, made_bytes};
use crate::stop::flushes_of;
use crate::{FlushNumber, Options};

/// The lives in one segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    /// All but the first, and the smallest number that is seen of each.
    least: BTreeMap<u16, FlushNumber>,
    /// The last of which the first flush is not seen, though something tells that there was one.
    headless: u16,
    /// How far the flushes of each life and of those before say that the log was durable.
    durable: BTreeMap<u16, FlushNumber>,
    /// The first flush of the segment behind, if that says where this one ends.
    limit: Option<FlushNumber>,
}

impl Lives {
    pub(crate) fn of(segment: SegmentId, instance: u64, bytes: &[u8]) -> Self {
        let mut lives = Self::default();
        let mut begun = 0;
        let mut heads = BTreeSet::new();
        for (_, header) in flushes_of(segment, instance, bytes) {
            let durable = lives.durable.entry(header.life).or_default();
            *durable = header.durable.max(*durable);
            if header.life == 0 {
                continue;
            }
            let least = lives.least.entry(header.life).or_insert(header.number);
            *least = header.number.min(*least);
            begun = header.life.max(begun);
            if header.opens {
                heads.insert(header.life);
            }
        }
        let mut known = FlushNumber::ZERO;
        for durable in lives.durable.values_mut() {
            known = known.max(*durable);
            *durable = known;
        }
        lives.headless = (1..=begun)
            .rev()
            .find(|life| !heads.contains(life))
            .unwrap_or(0);
        lives
    }

    /// The segment behind begins with this flush, and says where this one ends.
    pub(crate) fn limit(&mut self, first: Option<FlushNumber>) {
        self.limit = first;
    }

    /// Whether a later life, or the segment behind, took the flush's number again.
    pub(crate) fn is_dead(&self, header: &FlushHeader) -> bool {
        let mut later = self.least.range(header.life.saturating_add(1)..);
        self.limit.is_some_and(|first| first <= header.number)
            || later.any(|(_, &least)| least <= header.number)
    }

    /// Whether a later life may have taken the flush's number again: nobody sees any more with which it began.
    /// What follows a flush of its life that is whole and alive is alive all the same.
    pub(crate) fn is_doubtful(&self, header: &FlushHeader) -> bool {
        let known = self.durable.get(&header.life);
        header.life < self.headless && known.is_none_or(|&known| known < header.number)
    }

    /// Where a later life begins with this number: with the first of these flushes that is not older. If others
    /// stand in front of it, the disk has put it elsewhere.
    pub(crate) fn begun(
        &self,
        number: FlushNumber,
        flushes: impl Iterator<Item = (usize, FlushHeader)>,
    ) -> Option<usize> {
        let mut alive = flushes.filter(|(_, it)| it.number >= number && !self.is_dead(it));
        let (offset, first) = alive.next()?;
        (first.number == number && first.life > 0 && first.opens).then_some(offset)
    }

    fn next(&self) -> u16 {
        let last = self.least.last_key_value();
        last.map_or(1, |(&last, _)| last.saturating_add(1))
    }
}

/// Where a start can go on in the newest segment: behind everything that was ever written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    pub segment: SegmentId,
    /// A multiple of [`BLOCK`].
    pub offset: u64,
    /// How much flushes can take from there on.
    pub bytes: u64,
    pub(crate) life: u16,
}

impl Rest {
    /// Of a segment that is as long as it should be. `None` if all of it was written.
    pub(crate) fn of(segment: SegmentId, options: Options, bytes: &[u8]) -> Option<Self> {
        let made = made_bytes(bytes).map_or(options.segment_bytes, u64::from);
        if [made, bytes.len() as u64] != [options.segment_bytes; 2] {
            return None;
        }
        let area = Area::new(segment, options.segment_bytes, bytes);
        let sectors = (0..area.bytes.len()).step_by(SECTOR);
        let written = sectors.rev().find(|&sector| !area.is_unwritten(sector));
        let offset = written.map_or(0, |sector| sector / BLOCK * BLOCK + BLOCK);
        // A torn flush says how far it was to reach: what is written into that looks like rot of it.
        let flushes = flushes_of(segment, options.instance, area.bytes);
        let reach = flushes.map(|(at, header)| at + header.blocks as usize * BLOCK);
        let offset = reach.fold(offset, usize::max);
        let lives = Lives::of(segment, options.instance, area.bytes);
        let rest = Self {
            segment,
            offset: offset as u64,
            bytes: area.bytes.len().saturating_sub(offset) as u64,
            life: lives.next(),
        };
        (rest.bytes > 0 && rest.life <= crate::flush::LIFE_MAX).then_some(rest)
    }

    /// Whether nothing was written to it since, by anyone: `bytes` are those of its segment.
    pub fn is_untouched(&self, options: Options, bytes: &[u8]) -> bool {
        let now = Self::of(self.segment, options, bytes);
        now.is_some_and(|now| now.offset <= self.offset)
    }
}
