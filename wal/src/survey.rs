//! Survey: everything that can be said of a log, for people who look at it.
//!
//! Unlike [`crate::Replay`] it does not build anything on what it reads, so it goes on behind every
//! damage and names each. It wants to see the segments twice: [`Survey::witness`] learns how far the
//! log was durable, [`Survey::segment`] judges by that what is not whole.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::codec::{Decoded, Role as Reason, decode_record, stamp};
pub use crate::flaw::Flaw;
use crate::flush::{Body, FlushHeader, Start};
use crate::lives::Lives;
use crate::residue::Area;
use crate::segment::{BLOCK, FirstBlock, SECTOR, SegmentHeader};
use crate::{Claim, FlushNumber, GroupId, HardState, LogIndex, Lost, Record, SegmentId, Term};

/// What a segment is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds a part of it.
    Live,
    /// Nothing links to it any more.
    Dead,
    /// Made ready, and not written yet.
    Spare,
}

/// What the first block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFinding {
    pub segment: SegmentId,
    pub role: Role,
    /// The segment it continues, and where that one ends.
    pub previous: Option<(SegmentId, u64)>,
    pub first_flush: Option<FlushNumber>,
    /// Where its part of the log ends, if the segment behind it says so.
    pub end: Option<u64>,
    /// How long it was made, in bytes, if its header says so.
    pub bytes: Option<u32>,
}

impl SegmentFinding {
    /// Its part of the log.
    fn area<'a>(&self, bytes: &'a [u8]) -> Area<'a> {
        let made = self.bytes.map_or(bytes.len() as u64, u64::from);
        Area::new(self.segment, made, bytes).up_to(self.end.unwrap_or(u64::MAX))
    }
}

/// How a flush is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Sound,
    /// Was under way when the node stopped, and was not acknowledged.
    Torn,
    /// Was durable, and is not what was written.
    Rotten,
}

/// One flush whose header is readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushFinding {
    pub number: FlushNumber,
    /// In its segment, in bytes.
    pub offset: u64,
    pub bytes: u64,
    /// How far the log was known durable when it was written.
    pub durable: FlushNumber,
    /// Records, not counting the second copies of hard states; a run of entries is one.
    pub records: u32,
    pub condition: Condition,
}

/// The readable records of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFinding {
    /// Records of entries, also of those that were replaced later.
    pub entries: u64,
    /// Indexes of the log as it is after the last flush; `None` without entries.
    pub range: Option<(LogIndex, LogIndex)>,
    /// Where each term starts: `(first index, term)`, ascending.
    pub terms: Vec<(LogIndex, Term)>,
    pub hard_state: Option<HardState>,
    pub floor: Option<(LogIndex, Term)>,
    /// What it may have acknowledged and does not hold, while that is in force.
    pub claim: Option<Claim>,
    /// Entries that no readable flush holds: where they would be continued, and the first and last.
    gaps: Vec<(SegmentId, u64, LogIndex, LogIndex)>,
}

/// The end of a log whose node was stopped while it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub segment: SegmentId,
    pub offset: u64,
    /// The flush that was under way.
    pub number: FlushNumber,
}

/// All of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    pub groups: BTreeMap<GroupId, GroupFinding>,
    /// In the order of the log; empty if it is sound.
    pub flaws: Vec<Flaw>,
    /// A flush that was under way, which is no flaw.
    pub torn: Option<Tail>,
    /// The newest flush that is readable and part of the log.
    pub last_flush: FlushNumber,
}

/// A survey under way.
#[derive(Debug)]
pub struct Survey {
    instance: u64,
    segments: Vec<SegmentFinding>,
    /// Every flush up to this one was known durable by another.
    durable: FlushNumber,
    expected: Option<FlushNumber>,
    /// Everything behind the place where the log ends is not part of it.
    ended: bool,
    /// Some flush was read.
    begun: bool,
    found: Surveyed,
}

impl Survey {
    /// Orders the segments by their links. `firsts` holds the first block of each segment file;
    /// without `instance`, the newest segment's counts.
    pub fn new<'a>(
        instance: Option<u64>,
        firsts: impl IntoIterator<Item = (SegmentId, &'a [u8])>,
    ) -> Self {
        let headers: BTreeMap<_, _> = firsts
            .into_iter()
            .map(|(segment, block)| (segment, SegmentHeader::decode(segment, block)))
            .collect();
        let newest = headers.values().rev().find_map(|first| match first {
            FirstBlock::Header(header) => Some(header.instance),
            _ => None,
        });
        let mut survey = Self {
            instance: instance.or(newest).unwrap_or(0),
            segments: Vec::new(),
            durable: FlushNumber::ZERO,
            expected: None,
            ended: false,
            begun: false,
            found: Surveyed::default(),
        };
        survey.link(&headers);
        let first = survey.live().find_map(|segment| segment.first_flush);
        survey.expected = first;
        survey
    }

    /// Follows the links from the newest segment back, over what is missing.
    fn link(&mut self, headers: &BTreeMap<SegmentId, FirstBlock>) {
        // The link to follow; `None` before the first header and behind one that is lost.
        let mut wanted: Option<(SegmentId, u64)> = None;
        let (mut begun, mut complete) = (false, false);
        let mut needed_by = SegmentId::from_raw(0);
        for (&segment, first) in headers.iter().rev() {
            let mut finding = SegmentFinding {
                segment,
                role: Role::Live,
                previous: None,
                first_flush: None,
                end: None,
                bytes: None,
            };
            if let Some((asked, end)) = wanted {
                if asked > segment {
                    let segment = asked;
                    self.found.flaws.push(Flaw::Missing { segment, needed_by });
                    wanted = None;
                } else if asked == segment {
                    finding.end = Some(end);
                }
            }
            let skipped = wanted.is_some_and(|(asked, _)| asked != segment);
            if complete || skipped {
                finding.role = Role::Dead;
                self.segments.push(finding);
                continue;
            }
            match first {
                FirstBlock::Unwritten if !begun => finding.role = Role::Spare,
                // Whether that is a flaw depends on what the flushes behind it say.
                FirstBlock::Unwritten => wanted = None,
                FirstBlock::Header(header) if header.instance == self.instance => {
                    finding.bytes = Some(header.bytes);
                    wanted = header.previous.map(|link| (link.segment, link.end));
                    finding.previous = wanted;
                    finding.first_flush = Some(header.first_flush);
                    complete = wanted.is_none();
                }
                FirstBlock::Format(found) => {
                    let found = *found;
                    self.found.flaws.push(Flaw::Format { segment, found });
                    wanted = None;
                }
                FirstBlock::Rotten | FirstBlock::Header(_) => {
                    self.found.flaws.push(match first {
                        FirstBlock::Header(header) => Flaw::Instance {
                            segment,
                            found: header.instance,
                            expected: self.instance,
                        },
                        _ => Flaw::Header { segment },
                    });
                    wanted = None;
                }
            }
            begun |= finding.role == Role::Live;
            needed_by = segment;
            self.segments.push(finding);
        }
        // What the oldest continues is gone because nothing in it was needed; if not, the groups tell.
        self.segments.reverse();
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &[SegmentFinding] {
        &self.segments
    }

    fn live(&self) -> impl Iterator<Item = &SegmentFinding> {
        let live = |segment: &&SegmentFinding| segment.role == Role::Live;
        self.segments.iter().filter(live)
    }

    /// Learns from a segment how far the log was durable. To be done with all live and spare ones
    /// before the first is judged.
    pub fn witness(&mut self, segment: SegmentId, bytes: &[u8]) {
        let area = self.finding(segment).area(bytes);
        let mut offset = BLOCK;
        while offset < area.bytes.len() {
            offset += match self.header(segment, area, offset) {
                Start::Header(header) => {
                    self.durable = self.durable.max(header.durable);
                    header.blocks as usize * BLOCK
                }
                Start::Unwritten | Start::Rotten => BLOCK,
            };
        }
    }

    /// Judges a segment; returns its flushes. To be done with all live ones, oldest first.
    pub fn segment(&mut self, segment: SegmentId, bytes: &[u8]) -> Vec<FlushFinding> {
        let finding = self.finding(segment);
        assert_eq!(finding.role, Role::Live, "only live segments hold flushes");
        if finding.first_flush.is_none() {
            self.headless(segment);
        }
        let limit = self.limit(segment);
        let area = finding.area(bytes);
        let bytes = area.bytes;
        let lives = Lives::of(segment, self.instance, bytes);
        let mut flushes = Vec::new();
        // Where what is neither a flush nor unwritten began.
        let mut hole: Option<usize> = None;
        let mut offset = BLOCK;
        while offset < bytes.len() && !self.ended {
            let header = match self.header(segment, area, offset) {
                Start::Header(header)
                    if limit.is_none_or(|limit| header.number < limit)
                        && !lives.is_dead(&header) =>
                {
                    header
                }
                Start::Header(_) | Start::Unwritten | Start::Rotten => {
                    hole.get_or_insert(offset);
                    offset += BLOCK;
                    continue;
                }
            };
            let expected = *self.expected.get_or_insert(header.number);
            if header.number < expected {
                self.found.flaws.push(Flaw::Misplaced {
                    segment,
                    offset: offset as u64,
                    expected,
                    found: header.number,
                });
                offset += BLOCK;
                continue;
            }
            if header.number > expected {
                let from = hole.unwrap_or(offset);
                self.lost(segment, (from, offset), area, header.number);
            }
            if self.ended {
                break;
            }
            hole = None;
            flushes.push(self.flush(segment, offset, &header, area));
            self.expected = Some(header.number.next());
            offset += header.blocks as usize * BLOCK;
        }
        if let Some(from) = hole
            && !self.ended
        {
            self.rest(segment, from, area, limit, finding.end.is_some());
        }
        flushes
    }

    /// A live segment whose header says nothing.
    fn headless(&mut self, segment: SegmentId) {
        let known = self.found.flaws.iter();
        if known.map(Flaw::place).any(|place| place == (segment, 0)) {
            return;
        }
        let durable = self.durable >= self.expected.unwrap_or(FlushNumber::ZERO.next());
        if durable {
            self.found.flaws.push(Flaw::Header { segment });
        } else {
            self.end(segment, 0);
        }
    }

    /// The first flush of the next live segment: those of this one are older, unless they are dead.
    fn limit(&self, segment: SegmentId) -> Option<FlushNumber> {
        let mut behind = self.live().filter(|next| next.segment > segment);
        behind.find_map(|next| next.first_flush)
    }

    /// Flushes between the expected one and `next` are not where they should be.
    fn lost(
        &mut self,
        segment: SegmentId,
        (from, to): (usize, usize),
        area: Area<'_>,
        next: FlushNumber,
    ) {
        let first = self.expected.expect("known before anything can be lost");
        let last = FlushNumber::from_raw(next.to_raw() - 1);
        let rotten = from < to.min(area.bytes.len()) && !area.is_unwritten(from);
        if self.durable >= first || rotten {
            self.found.flaws.push(Flaw::Lost {
                segment,
                offset: from as u64,
                bytes: (to - from) as u64,
                first,
                last,
            });
        } else {
            self.end(segment, from);
        }
    }

    /// The end of a segment, behind its last flush.
    fn rest(
        &mut self,
        segment: SegmentId,
        from: usize,
        area: Area<'_>,
        limit: Option<FlushNumber>,
        linked: bool,
    ) {
        let end = area.bytes.len();
        let Some(first) = self.expected else { return };
        match limit {
            // The next segment says which flush it begins with.
            Some(next) if next > first => {
                self.lost(segment, (from, end), area, next);
                if !self.ended {
                    self.expected = Some(next);
                }
            }
            Some(_) if linked => {
                self.found.flaws.push(Flaw::Lost {
                    segment,
                    offset: from as u64,
                    bytes: (end - from) as u64,
                    first,
                    last: first,
                });
            }
            Some(_) => {}
            None if self.durable >= first => {
                self.lost(segment, (from, end), area, self.durable.next());
                self.expected = Some(self.durable.next());
            }
            None if !area.is_unwritten(from) => {
                // Never half written: a header stood here, or the zeroes have rotted.
                self.lost(segment, (from, from + BLOCK), area, first.next());
            }
            None => {}
        }
    }

    /// The log ends here; what is behind was under way.
    fn end(&mut self, segment: SegmentId, offset: usize) {
        self.ended = true;
        self.found.torn = Some(Tail {
            segment,
            offset: offset as u64,
            number: self.expected.unwrap_or(FlushNumber::ZERO.next()),
        });
    }

    fn flush(
        &mut self,
        segment: SegmentId,
        offset: usize,
        header: &FlushHeader,
        area: Area<'_>,
    ) -> FlushFinding {
        let flush = &area.bytes[offset..][..header.blocks as usize * BLOCK];
        let (condition, sector) = match area.check(offset, header) {
            Body::Sound => (Condition::Sound, 0),
            Body::Torn { sector } if self.durable < header.number => (Condition::Torn, sector),
            Body::Torn { sector } | Body::Rotten { sector } => (Condition::Rotten, sector),
        };
        match condition {
            Condition::Sound => {
                self.found.last_flush = header.number;
                self.records(segment, offset, header, flush);
                self.begun = true;
            }
            Condition::Torn => self.end(segment, offset),
            Condition::Rotten => self.found.flaws.push(Flaw::Rotten {
                segment,
                offset: (offset + sector * SECTOR) as u64,
                number: header.number,
            }),
        }
        FlushFinding {
            number: header.number,
            offset: offset as u64,
            bytes: flush.len() as u64,
            durable: header.durable,
            records: header.records,
            condition,
        }
    }

    fn records(&mut self, segment: SegmentId, offset: usize, header: &FlushHeader, flush: &[u8]) {
        let body = header.body(flush);
        let start = offset + header.body_offset();
        let mut at = 0;
        let mut found = Vec::new();
        for _ in 0..header.records {
            let place = (start + at) as u64;
            let rest = body.get(at..).unwrap_or_default();
            match decode_record(rest) {
                Ok((decoded, bytes)) => {
                    at += bytes;
                    found.push((decoded, place, stamp(rest).role));
                }
                Err(error) => {
                    self.found.flaws.push(Flaw::Record {
                        segment,
                        offset: place,
                        error,
                    });
                    break;
                }
            }
        }
        // How the groups stood before comes first. Without the segments before, it is all that is known of them.
        found.sort_by_key(|(_, _, role)| *role != Reason::Head);
        for (decoded, place, role) in found {
            let counts = match role {
                Reason::Own => true,
                Reason::Head => !self.begun,
                Reason::Echo => false,
            };
            match decoded {
                Decoded::One(record) if counts => self.record(record, segment, place),
                Decoded::Run(run) if counts => {
                    let group = self.found.groups.entry(run.group).or_default();
                    for index in run.indexes() {
                        group.entry(index, run.term, (segment, place));
                    }
                }
                Decoded::One(_) | Decoded::Run(_) => {}
            }
        }
    }

    fn record(&mut self, record: Record, segment: SegmentId, offset: u64) {
        let groups = &mut self.found.groups;
        match record {
            Record::Entry { group, entry } => {
                let group = groups.entry(group).or_default();
                group.entry(entry.index, entry.term, (segment, offset));
            }
            Record::Patch { group, entry } => {
                let group = groups.entry(group).or_default();
                group.entries += 1;
                group.fill(entry.index);
            }
            Record::HardState { group, state } => {
                groups.entry(group).or_default().hard_state = Some(state);
            }
            Record::Floor { group, index, term } => {
                groups.entry(group).or_default().raise(index, term);
            }
            Record::Damaged { group, claim, .. } => {
                groups.entry(group).or_default().claim = claim;
            }
            Record::Contents {
                group, first, last, ..
            } => {
                let group = groups.entry(group).or_default();
                if first <= last {
                    group.gaps.push((segment, offset, first, last));
                    group.range = Some((last.next(), last));
                }
            }
            Record::Intact { group, .. } => {
                let group = groups.entry(group).or_default();
                group.claim = None;
                group.gaps.clear();
            }
        }
    }

    fn header(&self, segment: SegmentId, area: Area<'_>, offset: usize) -> Start {
        match area.start(offset) {
            Start::Header(header)
                if header.generation == segment
                    && header.instance == self.instance
                    && header.blocks as usize * BLOCK <= area.bytes.len() - offset =>
            {
                Start::Header(header)
            }
            // Of another place, or longer than there is room for.
            Start::Header(_) => Start::Rotten,
            start => start,
        }
    }

    fn finding(&self, segment: SegmentId) -> SegmentFinding {
        let found = self.segments.iter().find(|one| one.segment == segment);
        *found.expect("only segments of the survey are given")
    }

    /// Learns what a start would miss, from its replay: that also knows what files tell which were made
    /// after others. To be done before the end. What is named already is not named again.
    pub fn missed(&mut self, lost: &[Lost]) {
        for lost in lost {
            let place = (lost.segment, lost.offset);
            let mut known = self.found.flaws.iter();
            if known.any(|flaw| flaw.place() >= place) {
                continue;
            }
            let last = lost.next.map_or(lost.first.to_raw(), |it| it.to_raw() - 1);
            self.found.torn = None;
            self.found.flaws.push(Flaw::Lost {
                segment: lost.segment,
                offset: lost.offset,
                bytes: 0,
                first: lost.first,
                last: FlushNumber::from_raw(last),
            });
        }
    }

    /// Ends the survey once every live segment was given.
    pub fn finish(mut self) -> Surveyed {
        for finding in self.found.groups.values_mut() {
            finding.range = finding.range.filter(|(first, last)| first <= last);
        }
        for (&group, finding) in &self.found.groups {
            for &(segment, offset, first, last) in &finding.gaps {
                self.found.flaws.push(Flaw::Gap {
                    segment,
                    offset,
                    group,
                    first,
                    last,
                });
            }
        }
        self.found.flaws.sort_by_key(Flaw::place);
        self.found
    }
}

impl GroupFinding {
    /// Takes an entry; those at its index and above are replaced.
    fn entry(&mut self, index: LogIndex, term: Term, (segment, offset): (SegmentId, u64)) {
        self.entries += 1;
        self.gaps.retain_mut(|(_, _, first, last)| {
            *last = (*last).min(index);
            *first < index
        });
        let floor = self.floor.map_or(LogIndex::ZERO, |(floor, _)| floor);
        let last = self.range.map_or(floor, |(_, last)| last).max(floor);
        if index > last.next() {
            let gap = (segment, offset, last.next(), index.previous());
            self.gaps.push(gap);
        }
        while self.terms.last().is_some_and(|&(first, _)| first >= index) {
            self.terms.pop();
        }
        if self.terms.last().is_none_or(|&(_, newest)| newest != term) {
            self.terms.push((index, term));
        }
        let first = self.range.map_or(index, |(first, _)| first.min(index));
        self.range = Some((first, index));
    }

    /// Takes an entry that was missing.
    fn fill(&mut self, index: LogIndex) {
        let mut gaps = Vec::new();
        for (segment, offset, first, last) in self.gaps.drain(..) {
            if index < first || index > last {
                gaps.push((segment, offset, first, last));
                continue;
            }
            if first < index {
                gaps.push((segment, offset, first, index.previous()));
            }
            if index < last {
                gaps.push((segment, offset, index.next(), last));
            }
        }
        self.gaps = gaps;
        let (first, last) = self.range.unwrap_or((index, index));
        self.range = Some((first.min(index), last.max(index)));
    }

    /// Everything up to `index` is in a snapshot.
    fn raise(&mut self, index: LogIndex, term: Term) {
        self.floor = Some((index, term));
        self.gaps.retain_mut(|(_, _, first, last)| {
            *first = (*first).max(index.next());
            first <= last
        });
    }
}
