//! Lays out flushes one behind the other and knows where each entry lies.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::codec::{Role, record_bytes};
use crate::flush::{FlushHeader, blocks_for, copies_at, head_sectors};
use crate::index::{Index, Location};
use crate::layout::{Layout, Shape};
use crate::lives::Rest;
use crate::residue::{Residues, room};
use crate::run::{Unit, units};
use crate::segment::{BLOCK, Link, SECTOR, SegmentHeader, SegmentId};
use crate::standing::Standings;
use crate::{Entry, FlushNumber, GroupId, LogIndex, Record};

/// Sizes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of every segment, a multiple of [`BLOCK`].
    pub segment_bytes: u64,
    /// The data directory's instance: segments of others are refused.
    pub instance: u64,
}

/// The place of one flush, and what its header will say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub number: FlushNumber,
    pub segment: SegmentId,
    /// Where the write starts in the segment; a multiple of [`BLOCK`].
    pub offset: u64,
    /// How much is written, a multiple of [`BLOCK`].
    pub bytes: usize,
    /// The write is the first of its segment and starts with the segment's header.
    pub opens_segment: bool,
    /// It is the first of its segment or of a life, and says how the groups stand.
    begins: bool,
    life: u16,
    previous: Option<Link>,
    durable: FlushNumber,
    blocks: usize,
    copies: Option<usize>,
    body_bytes: usize,
    names: bool,
}

/// Lays out the flushes of one log. Pure arithmetic: the caller writes.
#[derive(Debug)]
pub struct Writer {
    options: Options,
    /// Where the newest flush ends.
    end: Option<Link>,
    /// Nothing may follow the newest flush in its segment: a torn one may lie behind it.
    sealed: bool,
    /// Where the next flush goes on in a segment that an earlier start has begun.
    rest: Option<Rest>,
    /// Of the flushes to come in the newest segment.
    life: u16,
    next_segment: SegmentId,
    placed: FlushNumber,
    durable: FlushNumber,
    /// Fingerprint of the lost flushes before this writer's first.
    losses: u64,
    /// The first and the last segment in which replay missed flushes.
    lossy: Option<(SegmentId, SegmentId)>,
    /// The segments of the log, oldest first, and the flush that each begins with, if it is readable.
    segments: VecDeque<(SegmentId, Option<FlushNumber>)>,
    /// No entry lies in any segment before this one since the flush was placed.
    emptied: Option<(SegmentId, FlushNumber)>,
    /// Durable before one that was placed earlier.
    early: BTreeSet<FlushNumber>,
    index: Index,
    /// What the newest flush must be remembered for if it is lost.
    newest: Vec<Record>,
    /// What each flush under way holds besides its own records.
    added: BTreeMap<FlushNumber, Added>,
    standings: Standings,
    residues: Residues,
    /// For the flush that is made.
    memory: Vec<u8>,
}

/// What the writer makes of a flush.
#[derive(Debug, Default)]
struct Added {
    /// How its own records are laid out, in their order.
    units: Vec<Unit>,
    /// What the flush before held.
    echo: Vec<Record>,
    /// How the groups stand, at the start of a segment.
    head: Vec<Record>,
}

/// How a log was left by those who wrote it before.
#[derive(Debug)]
pub(crate) struct Left {
    /// Where its newest flush ends.
    pub(crate) end: Option<Link>,
    pub(crate) next_segment: SegmentId,
    pub(crate) durable: FlushNumber,
    pub(crate) losses: u64,
    /// The first and the last segment in which flushes are lost.
    pub(crate) lossy: Option<(SegmentId, SegmentId)>,
    pub(crate) segments: VecDeque<(SegmentId, Option<FlushNumber>)>,
    pub(crate) index: Index,
    pub(crate) standings: Standings,
}

impl Writer {
    pub(crate) fn new(options: Options, left: Left) -> Self {
        assert!(
            options.segment_bytes.is_multiple_of(BLOCK as u64),
            "segments are whole blocks"
        );
        assert!(
            room(options.segment_bytes) >= 4 * BLOCK as u64,
            "a segment holds at least a few blocks"
        );
        assert!(
            options.segment_bytes <= u64::from(u32::MAX),
            "offsets in a segment are 32 bits"
        );
        Self {
            options,
            end: left.end,
            sealed: true,
            rest: None,
            life: 0,
            next_segment: left.next_segment,
            placed: left.durable,
            durable: left.durable,
            losses: left.losses,
            lossy: left.lossy,
            segments: left.segments,
            emptied: None,
            early: BTreeSet::new(),
            index: left.index,
            newest: Vec::new(),
            added: BTreeMap::new(),
            standings: left.standings,
            residues: Residues::new(options.segment_bytes),
            memory: Vec::new(),
        }
    }

    /// The number of the flush to place next.
    pub fn next_flush(&self) -> FlushNumber {
        self.placed.next()
    }

    /// The segment that will be opened when the current one is full.
    pub fn next_segment(&self) -> SegmentId {
        self.next_segment
    }

    /// Goes on in what is left of the newest segment, which replay found, as long as that has room.
    ///
    /// # Panics
    ///
    /// If a flush was placed already, or it is not the rest of the newest segment.
    pub fn resume(&mut self, rest: Rest) {
        assert!(self.sealed, "only a start goes on where another stopped");
        let end = self.end.expect("the newest segment has an end");
        assert_eq!(rest.segment, end.segment, "only the newest goes on");
        assert!(rest.offset >= end.end, "what is durable stays: {rest:?}");
        self.rest = Some(rest);
    }

    /// Takes the file of a segment that was made ready before this start and never written to. What it
    /// holds is not known, so it will not be recycled.
    ///
    /// # Panics
    ///
    /// If it is not newer than the segments of the log.
    pub fn take_over(&mut self, spare: SegmentId) {
        let newest = self.segments.back();
        assert!(
            newest.is_none_or(|&(newest, _)| newest < spare),
            "{spare} is not behind the log"
        );
        self.next_segment = spare;
        self.residues.disregard(spare);
    }

    /// Reserves the place of the next flush.
    ///
    /// # Panics
    ///
    /// If the numbers do not follow each other, or the flush does not fit a segment.
    pub fn place(&mut self, number: FlushNumber, records: &[Record]) -> Placement {
        assert_eq!(number, self.next_flush(), "flushes are placed in order");
        let mut added = Added {
            units: units(records).collect(),
            echo: core::mem::take(&mut self.newest),
            head: Vec::new(),
        };
        let own: usize = added.units.iter().map(|unit| unit.bytes).sum();
        let mut records_bytes = own + added.echo.iter().map(record_bytes).sum::<usize>();
        let hard_states = self.hard_states(records, &added.units);
        let (mut blocks, mut copies, mut body_bytes) = self.size(hard_states, records_bytes);
        let room = room(self.options.segment_bytes);
        let rest = self.rest.take();
        let from = rest.map(|rest| rest.offset);
        let from = from.or_else(|| self.end.map(|end| end.end).filter(|_| !self.sealed));
        let fits = |blocks: usize| from.is_some_and(|from| from + (blocks * BLOCK) as u64 <= room);
        let begins = rest.is_some() || !fits(blocks);
        if begins {
            added.head = self.standings.records();
            records_bytes += added.head.iter().map(record_bytes).sum::<usize>();
            (blocks, copies, body_bytes) = self.size(hard_states, records_bytes);
        }
        let opens_segment = rest.is_none() && begins || !fits(blocks);
        if opens_segment {
            self.segments.push_back((self.next_segment, Some(number)));
            self.life = 0;
        } else if let Some(rest) = rest {
            self.life = rest.life;
        }
        let previous = self.end;
        let mut placement = Placement {
            number,
            segment: self.next_segment,
            offset: 0,
            bytes: blocks * BLOCK,
            opens_segment,
            begins,
            life: self.life,
            previous,
            durable: self.durable,
            blocks,
            copies,
            body_bytes,
            names: !self.sealed,
        };
        if opens_segment {
            placement.bytes += BLOCK;
            self.next_segment = self.next_segment.next();
        } else {
            let end = previous.expect("not opening a segment means that one is open");
            placement.segment = end.segment;
            placement.offset = from.expect("it fits there");
        }
        self.sealed = false;
        let end = placement.offset + placement.bytes as u64;
        assert!(end <= room, "{records_bytes} bytes do not fit a segment");
        self.end = Some(Link {
            segment: placement.segment,
            end,
        });
        self.placed = number;
        self.remember(&placement, records, &added.units, hard_states.1);
        self.added.insert(number, added);
        placement
    }

    /// How many hard states are among the records, and whether any holds a new promise.
    fn hard_states(&self, records: &[Record], units: &[Unit]) -> (usize, bool) {
        let (mut hard_states, mut promised) = (0, false);
        for unit in units {
            if let [Record::HardState { group, state }] = unit.of(records) {
                hard_states += 1;
                promised |= self.standings.is_promise(*group, *state);
            }
        }
        (hard_states, promised)
    }

    /// Blocks, where copies of hard states start in the body, and the bytes of the body.
    fn size(
        &self,
        (hard_states, promised): (usize, bool),
        records_bytes: usize,
    ) -> (usize, Option<usize>, usize) {
        if !promised {
            return (blocks_for(records_bytes), None, records_bytes);
        }
        let copies_bytes = hard_states * crate::codec::HEADER;
        let mut blocks = blocks_for(records_bytes + copies_bytes);
        loop {
            let at = copies_at(blocks, hard_states, records_bytes);
            let needed = blocks_for(at + copies_bytes);
            if needed <= blocks {
                return (blocks, Some(at), at + copies_bytes);
            }
            blocks = needed;
        }
    }

    fn remember(
        &mut self,
        placement: &Placement,
        records: &[Record],
        units: &[Unit],
        promised: bool,
    ) {
        let mut offset = placement.body_offset();
        for unit in units {
            if let [record @ Record::HardState { group, state }] = unit.of(records) {
                if promised && self.standings.is_promise(*group, *state) {
                    self.newest.push(record.clone());
                }
                offset += unit.bytes as u64;
            }
        }
        let last = |unit: &Unit| unit.of(records).last().expect("units are not empty");
        for alike in units.chunk_by(|one, next| are_alike(last(one), last(next))) {
            let last = last(alike.last().expect("chunks are not empty"));
            self.standings.take(last);
            match last {
                Record::Entry { group, .. } | Record::Patch { group, .. } => {
                    let (segment, group) = (placement.segment, *group);
                    offset = self.remember_entries((segment, offset), group, records, alike);
                    continue;
                }
                Record::HardState { .. } => continue,
                Record::Contents { .. } => {}
                Record::Floor { group, index, .. } => {
                    self.index.floor(*group, *index);
                    self.newest.push(last.clone());
                }
                Record::Damaged { .. } | Record::Intact { .. } => self.newest.push(last.clone()),
            }
            offset += record_bytes(last) as u64;
        }
    }

    /// Where entries of one group lie, which start at `offset` of the segment; gives where they end.
    fn remember_entries(
        &mut self,
        (segment, mut offset): (SegmentId, u64),
        of: GroupId,
        records: &[Record],
        units: &[Unit],
    ) -> u64 {
        let mut places = self.index.group(of);
        for unit in units {
            let location = Location {
                segment,
                offset: u32::try_from(offset).expect("segments are below 4 GiB"),
                bytes: u32::try_from(unit.bytes).expect("segments are below 4 GiB"),
            };
            let entries = unit.of(records);
            let (first, last, patched) = match entries {
                [Record::Patch { entry, .. }] => (entry, entry, true),
                [Record::Entry { entry, .. }] => (entry, entry, false),
                [
                    Record::Entry { entry: first, .. },
                    ..,
                    Record::Entry { entry: last, .. },
                ] => (first, last, false),
                _ => unreachable!("only entries are given"),
            };
            if patched {
                places.patch(first.index, location);
            } else {
                places.put(first.index, entries.len(), location);
            }
            name(&mut self.newest, of, (first, last), patched);
            offset += unit.bytes as u64;
        }
        offset
    }

    /// Writes the flush's bytes to `to`, which is as large as the placement says.
    pub fn encode(&mut self, placement: &Placement, records: &[Record], to: &mut [u8]) {
        assert_eq!(
            to.len(),
            placement.bytes,
            "the buffer is as large as the flush"
        );
        self.encode_pieces(placement, records, usize::MAX, |at, bytes| {
            to[at..at + bytes.len()].copy_from_slice(bytes);
        });
    }

    /// The same in pieces of at least so many bytes, but for the last two: `done` is given each, and where
    /// it begins, once its bytes are final. Pieces are whole blocks, one behind the other, and together they
    /// are the flush. Its start comes last.
    pub fn encode_pieces(
        &mut self,
        placement: &Placement,
        records: &[Record],
        piece_bytes_min: usize,
        done: impl FnMut(usize, &[u8]),
    ) {
        let flush_at = placement.bytes - placement.blocks * BLOCK;
        let shape = Shape {
            flush_at,
            body_at: flush_at + head_sectors(placement.blocks) * SECTOR,
            bytes: placement.bytes,
        };
        let mut memory = core::mem::take(&mut self.memory);
        let mut layout = Layout::new(&mut memory, shape, self.losses, piece_bytes_min, done);
        if placement.opens_segment {
            let header = SegmentHeader {
                id: placement.segment,
                previous: placement.previous,
                first_flush: placement.number,
                instance: self.options.instance,
                bytes: u32::try_from(self.options.segment_bytes).expect("as asserted"),
            };
            let to = layout.before_flush();
            header.encode(to);
            self.residues.begin(placement.segment, to);
        }
        let added = self.added.get(&placement.number);
        let added = added.expect("a flush is encoded before it is written");
        for unit in in_layout(records, &added.units) {
            layout.put(unit.of(records), unit, Role::Own);
        }
        for record in &added.echo {
            layout.put_one(record, Role::Echo);
        }
        for record in &added.head {
            layout.put_one(record, Role::Head);
        }
        let records_all = added.units.len() + added.echo.len() + added.head.len();
        let mut copies = 0;
        if let Some(copies_at) = placement.copies {
            layout.skip_to(copies_at);
            let hard_states = added.units.iter().map(|unit| unit.of(records));
            for unit in hard_states.filter(|unit| is_hard_state(unit)) {
                layout.put_one(&unit[0], Role::Own);
                copies += 1;
            }
        }
        assert_eq!(
            layout.at, placement.body_bytes,
            "the flush is as large as was reserved"
        );
        let header = FlushHeader {
            generation: placement.segment,
            records: u32::try_from(records_all).expect("a flush has few records"),
            number: placement.number,
            durable: placement.durable,
            body_bytes: u32::try_from(layout.at).expect("segments are below 4 GiB"),
            blocks: u32::try_from(placement.blocks).expect("segments are below 4 GiB"),
            instance: self.options.instance,
            copies,
            copies_at: u32::try_from(placement.copies.unwrap_or(0)).expect("as above"),
            names: placement.names,
            opens: placement.begins,
            life: placement.life,
        };
        let head = layout.seal(&header);
        let start = placement.offset + flush_at as u64;
        self.residues
            .flush(placement.segment, start, head, placement.blocks);
        self.memory = memory;
    }

    /// The write of one flush is durable. Returns the newest flush such that it and all before it
    /// are: only that far may anything be acknowledged, for replay stops at the first flush that
    /// is not whole.
    pub fn written(&mut self, number: FlushNumber) -> FlushNumber {
        assert!(
            number <= self.placed && number > self.durable,
            "flush {number} is not under way"
        );
        self.early.insert(number);
        while self.early.first() == Some(&self.durable.next()) {
            self.early.pop_first();
            self.durable = self.durable.next();
        }
        let durable = self.durable;
        self.added.retain(|&number, _| number > durable);
        durable
    }

    /// Takes segments that nothing needs any more from the log, oldest first: no entry lies in them,
    /// and the segment behind says how the groups stand. Both is durable, so their files can be
    /// recycled. While anything is missing, all are kept: what is left of it may lie anywhere.
    pub fn reclaim(&mut self) -> Vec<SegmentId> {
        if self.standings.is_damaged() {
            return Vec::new();
        }
        let dead = self.segments.iter();
        let dead = dead.take_while(|&&(segment, _)| !self.index.is_live(segment));
        // The last one that can be the oldest instead.
        let mut oldest = self.segments.iter().enumerate().take(dead.count() + 1);
        // Segments with losses go together: what is noted of all of them says nothing about some.
        let parts = |it| {
            self.lossy
                .is_some_and(|(first, last)| first < it && it <= last)
        };
        let oldest = oldest.rfind(|&(_, &(segment, opened_by))| {
            !parts(segment) && opened_by.is_some_and(|it| it <= self.durable)
        });
        let Some((count, &(oldest, _))) = oldest.filter(|&(count, _)| count > 0) else {
            return Vec::new();
        };
        // What released the last entry was placed by now.
        let since = match self.emptied {
            Some((segment, since)) if segment >= oldest => since,
            _ => self.placed,
        };
        // A flush behind that is durable, too, so that more than one tells of the segment that stays.
        if since >= self.durable {
            self.emptied = Some((oldest, since));
            return Vec::new();
        }
        self.emptied = None;
        let free = self.segments.drain(..count);
        free.map(|(segment, _)| segment).collect()
    }

    /// Whether the file of a segment that was reclaimed can be recycled: this writer has begun it, so
    /// it knows what is in it.
    pub fn is_recyclable(&self, segment: SegmentId) -> bool {
        self.residues.knows(segment)
    }

    /// Gives the file of a segment that was reclaimed to another that is to be begun. Returns what has
    /// to be written to its end, from [`Writer::room`] on, before it is used.
    ///
    /// # Panics
    ///
    /// If the file cannot be recycled.
    pub fn recycle(&mut self, from: SegmentId, to: SegmentId) -> Vec<u8> {
        self.residues.recycle(from, to)
    }

    /// The file of a segment that was reclaimed will not be recycled.
    pub fn discard(&mut self, segment: SegmentId) {
        self.residues.forget(segment);
    }

    /// How much of a segment flushes can take.
    pub fn room(&self) -> u64 {
        room(self.options.segment_bytes)
    }

    /// The segments of the log, oldest first.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentId> {
        self.segments.iter().map(|&(segment, _)| segment)
    }

    /// The groups that keep the oldest segment with entries from being reclaimed.
    pub fn oldest_owners(&self) -> Vec<GroupId> {
        self.index.oldest_owners()
    }

    /// Where the record of an entry lies.
    pub fn locate(&self, group: GroupId, index: LogIndex) -> Option<Location> {
        self.index.get(group, index)
    }
}

impl Placement {
    fn body_offset(&self) -> u64 {
        let header = if self.opens_segment { BLOCK } else { 0 };
        self.offset + (header + head_sectors(self.blocks) * SECTOR) as u64
    }
}

fn are_alike(one: &Record, next: &Record) -> bool {
    let of = |record: &Record| match record {
        Record::Entry { group, .. } => Some((*group, true)),
        Record::Patch { group, .. } => Some((*group, false)),
        _ => None,
    };
    of(one).is_some() && of(one) == of(next)
}

/// Notes that the newest flush holds entries from one to another, which follow each other.
fn name(newest: &mut Vec<Record>, named: GroupId, (from, to): (&Entry, &Entry), put_back: bool) {
    match newest.last_mut() {
        // The entries of a group stand together.
        Some(Record::Contents {
            group,
            first,
            last,
            term,
            patched,
        }) if (*group, *patched) == (named, put_back) => {
            *first = from.index.min(*first);
            (*last, *term) = (to.index, to.term);
        }
        _ => newest.push(Record::Contents {
            group: named,
            first: from.index,
            last: to.index,
            term: to.term,
            patched: put_back,
        }),
    }
}

fn is_hard_state(unit: &[Record]) -> bool {
    matches!(unit, [Record::HardState { .. }])
}

/// Hard states come first, so that their copies can be far from them.
fn in_layout<'a>(records: &'a [Record], units: &'a [Unit]) -> impl Iterator<Item = &'a Unit> {
    let is_first = |unit: &&Unit| is_hard_state(unit.of(records));
    let rest = units.iter().filter(move |unit| !is_first(unit));
    units.iter().filter(is_first).chain(rest)
}

/// Splits a list of locations into runs that one read each can fetch: `(first, count, bytes)`.
pub fn contiguous(locations: &[Location]) -> Vec<(Location, usize, u32)> {
    let mut runs: Vec<(Location, usize, u32)> = Vec::new();
    for location in locations {
        match runs.last_mut() {
            Some((first, count, bytes))
                if first.segment == location.segment
                    && first.offset + *bytes == location.offset =>
            {
                *count += 1;
                *bytes += location.bytes;
            }
            _ => runs.push((*location, 1, location.bytes)),
        }
    }
    runs
}
