//! Replay: what a log holds, as far as it can be trusted.
//!
//! The caller gives the first block of every segment file, then the whole segments that
//! [`Replay::next_segment`] asks for. Replay follows the flushes in their order and stops at the
//! first that is not whole. If anything written later says that this flush had been durable, or if a
//! sector of it is neither what was written nor never written, it has rotted: that is an error, for
//! what it held may have been acknowledged. Otherwise it was under way when the node stopped: the
//! log is cut before it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::codec::{RecordError, decode_record};
use crate::damage::Damage;
use crate::flush::{Body, FlushHeader, Start};
use crate::index::{Index, Location};
use crate::segment::{BLOCK, FORMAT, FirstBlock, Link, SegmentHeader};
use crate::writer::{Options, Writer};
use crate::{Entry, FlushNumber, GroupId, HardState, LogIndex, Record, SegmentId, Term};

/// Why replay stopped. Every variant says where, so that an operator can look at the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    #[error(
        "segment {segment} @{offset}: flush {number} was durable and no longer passes its check; \
         the disk has lost data: keep the directory, and replace this node"
    )]
    Rot {
        segment: SegmentId,
        offset: u64,
        number: FlushNumber,
    },
    #[error(
        "segment {segment} @0: the header does not pass its check; the disk has lost data: \
         keep the directory, and replace this node"
    )]
    Header { segment: SegmentId },
    #[error("segment {segment} @0: format {found}, this build reads {supported}")]
    Format {
        segment: SegmentId,
        found: u16,
        supported: u16,
    },
    #[error(
        "segment {segment} @0: instance {found:016x}, the data directory is {expected:016x}: \
         the file belongs to another directory"
    )]
    Instance {
        segment: SegmentId,
        found: u64,
        expected: u64,
    },
    #[error("segment {missing} @0: the file is missing, segment {needed_by} continues it")]
    Missing {
        missing: SegmentId,
        needed_by: SegmentId,
    },
    #[error("segment {segment} @{offset}: flush {found} follows flush {previous}")]
    Sequence {
        segment: SegmentId,
        offset: u64,
        previous: FlushNumber,
        found: FlushNumber,
    },
    #[error("segment {segment} @{offset}: {error}")]
    Record {
        segment: SegmentId,
        offset: u64,
        error: RecordError,
    },
    #[error("segment {segment} @{offset}: entry {found} of group {group} follows entry {previous}")]
    Gap {
        segment: SegmentId,
        offset: u64,
        group: GroupId,
        previous: LogIndex,
        found: LogIndex,
    },
}

/// What replay found of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    pub hard_state: HardState,
    /// The log starts behind this.
    pub floor: (LogIndex, Term),
    /// Where each term starts: `(first index, term)`, ascending.
    pub terms: Vec<(LogIndex, Term)>,
    pub last: LogIndex,
    /// The newest entries, as many as fit the cache, ending at `last`.
    pub tail: Vec<Entry>,
    /// What is missing, if anything is; the rest describes what is there without a gap.
    pub damage: Option<Damage>,
}

/// What replay found of a log.
#[derive(Debug)]
pub struct Recovered {
    pub groups: BTreeMap<GroupId, RecoveredLog>,
    /// Continues the log in a new segment.
    pub writer: Writer,
    /// Files that hold nothing of the log any more.
    pub dead: Vec<SegmentId>,
    /// Segments that must be synced before anything is built on what was read: it may have been
    /// read from a device's cache.
    pub unsynced: Vec<SegmentId>,
    /// The flush that was cut off because it was under way, if any.
    pub cut: Option<Cut>,
}

/// The first flush that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub segment: SegmentId,
    pub offset: u64,
    pub number: FlushNumber,
    /// Something of it was written.
    pub torn: bool,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    options: Options,
    cache_bytes: usize,
    /// Segments of the log, oldest first, and where each ends.
    chain: Vec<(SegmentHeader, u64)>,
    /// Segments whose header was never written, and those that continue them: must not hold anything
    /// that was durable.
    unwritten: Vec<SegmentId>,
    dead: Vec<SegmentId>,
    newest: SegmentId,
    /// How many of `chain` and then of `unwritten` were given.
    given: usize,
    number: FlushNumber,
    cut: Option<Cut>,
    groups: BTreeMap<GroupId, Group>,
    index: Index,
}

#[derive(Debug, Default)]
struct Group {
    log: RecoveredLog,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl Replay {
    /// Orders the segments by their links. `firsts` holds the first block of each segment file;
    /// `cache_bytes` bounds the payload kept of each group.
    pub fn new<'a>(
        options: Options,
        cache_bytes: usize,
        firsts: impl IntoIterator<Item = (SegmentId, &'a [u8])>,
    ) -> Result<Self, ReplayError> {
        let mut headers = BTreeMap::new();
        let mut newest = SegmentId::from_raw(0);
        for (segment, block) in firsts {
            newest = newest.max(segment);
            headers.insert(segment, SegmentHeader::decode(block));
        }
        let mut replay = Self {
            options,
            cache_bytes,
            chain: Vec::new(),
            unwritten: Vec::new(),
            dead: Vec::new(),
            newest,
            given: 0,
            number: FlushNumber::ZERO,
            cut: None,
            groups: BTreeMap::new(),
            index: Index::default(),
        };
        replay.link(&headers)?;
        let first = replay
            .chain
            .first()
            .map(|(header, _)| header.first_flush.to_raw());
        replay.number = FlushNumber::from_raw(first.unwrap_or(1).saturating_sub(1));
        Ok(replay)
    }

    /// Follows the links from the newest segment back.
    fn link(&mut self, headers: &BTreeMap<SegmentId, FirstBlock>) -> Result<(), ReplayError> {
        let mut wanted: Option<Link> = None;
        for (&segment, first) in headers.iter().rev() {
            let begun = !self.chain.is_empty();
            if begun && wanted.is_none_or(|link| link.segment != segment) {
                if let Some(link) = wanted
                    && link.segment > segment
                {
                    let needed_by = self.chain[self.chain.len() - 1].0.id;
                    return Err(ReplayError::Missing {
                        missing: link.segment,
                        needed_by,
                    });
                }
                self.dead.push(segment);
                continue;
            }
            match first {
                FirstBlock::Unwritten => {
                    // Opened, but its first write was not whole: what continues it was under way
                    // too, unless `witness_unwritten` finds otherwise.
                    self.unwritten
                        .extend(self.chain.drain(..).map(|(header, _)| header.id));
                    self.unwritten.push(segment);
                    wanted = None;
                }
                FirstBlock::Rotten => return Err(ReplayError::Header { segment }),
                &FirstBlock::Format(found) => {
                    return Err(ReplayError::Format {
                        segment,
                        found,
                        supported: FORMAT,
                    });
                }
                FirstBlock::Header(header) => {
                    self.check_header(segment, header)?;
                    let end = wanted.map_or(self.options.segment_bytes, |link| link.end);
                    wanted = header.previous;
                    self.chain.push((*header, end));
                }
            }
        }
        if let Some(link) = wanted {
            let needed_by = self.chain[self.chain.len() - 1].0.id;
            return Err(ReplayError::Missing {
                missing: link.segment,
                needed_by,
            });
        }
        self.chain.reverse();
        Ok(())
    }

    fn check_header(&self, segment: SegmentId, header: &SegmentHeader) -> Result<(), ReplayError> {
        if header.id != segment {
            return Err(ReplayError::Header { segment });
        }
        if header.instance != self.options.instance {
            let (found, expected) = (header.instance, self.options.instance);
            return Err(ReplayError::Instance {
                segment,
                found,
                expected,
            });
        }
        Ok(())
    }

    /// The segment to give next.
    pub fn next_segment(&self) -> Option<SegmentId> {
        let unwritten = || self.unwritten.get(self.given - self.chain.len()).copied();
        self.chain
            .get(self.given)
            .map_or_else(unwritten, |(header, _)| Some(header.id))
    }

    /// Takes the bytes of the segment that [`Replay::next_segment`] named; a file that is too short
    /// counts as ending in zeroes.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        let segment = self
            .next_segment()
            .expect("only segments that were asked for are given");
        let position = self.given;
        self.given += 1;
        let whole = bytes.len() - bytes.len() % BLOCK;
        let bytes = &bytes[..whole];
        let Some(&(header, end)) = self.chain.get(position) else {
            return self.witness_unwritten(segment, bytes);
        };
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(bytes.len());
        let mut offset = BLOCK;
        if self.cut.is_none() {
            if header.first_flush != self.number.next() {
                let (previous, found) = (self.number, header.first_flush);
                return Err(ReplayError::Sequence {
                    segment,
                    offset: 0,
                    previous,
                    found,
                });
            }
            offset = self.follow(segment, &bytes[..end])?;
        }
        self.witness(segment, &bytes[..end], offset)
    }

    /// Follows the flushes of a segment; returns where it stopped.
    fn follow(&mut self, segment: SegmentId, bytes: &[u8]) -> Result<usize, ReplayError> {
        let mut offset = BLOCK;
        while offset < bytes.len() {
            let number = self.number.next();
            let cut = |torn| Cut {
                segment,
                offset: offset as u64,
                number,
                torn,
            };
            let rot = ReplayError::Rot {
                segment,
                offset: offset as u64,
                number,
            };
            let header = match FlushHeader::decode(&bytes[offset..]) {
                Start::Unwritten => {
                    self.cut = Some(cut(false));
                    return Ok(offset + BLOCK);
                }
                Start::Rotten => return Err(rot),
                Start::Header(header) => header,
            };
            let length = header.blocks as usize * BLOCK;
            if header.generation != segment || header.instance != self.options.instance {
                return Err(rot);
            }
            if header.number != number {
                let (previous, found) = (self.number, header.number);
                let offset = offset as u64;
                return Err(ReplayError::Sequence {
                    segment,
                    offset,
                    previous,
                    found,
                });
            }
            let Some(flush) = bytes.get(offset..offset + length) else {
                return Err(rot);
            };
            match header.check(flush) {
                Body::Sound => {}
                Body::Rotten { .. } => return Err(rot),
                Body::Torn { .. } => {
                    self.cut = Some(cut(true));
                    return Ok(offset + length);
                }
            }
            self.take(&header, flush, segment, offset)?;
            self.number = number;
            offset += length;
        }
        Ok(offset)
    }

    /// Looks behind a cut for a flush that knew the missing one durable.
    fn witness(&self, segment: SegmentId, bytes: &[u8], from: usize) -> Result<(), ReplayError> {
        let Some(cut) = self.cut else { return Ok(()) };
        for header in flushes_of(segment, self.options.instance, bytes, from) {
            if header.durable >= cut.number {
                let Cut {
                    segment,
                    offset,
                    number,
                    ..
                } = cut;
                return Err(ReplayError::Rot {
                    segment,
                    offset,
                    number,
                });
            }
        }
        Ok(())
    }

    /// A segment without a header, and those that continue it, were never acknowledged, unless their
    /// own flushes say otherwise.
    fn witness_unwritten(&self, segment: SegmentId, bytes: &[u8]) -> Result<(), ReplayError> {
        self.witness(segment, bytes, BLOCK)?;
        let missing = self.number.next();
        let mut flushes = flushes_of(segment, self.options.instance, bytes, BLOCK);
        match flushes.find(|header| header.durable >= missing) {
            Some(_) => Err(ReplayError::Header { segment }),
            None => Ok(()),
        }
    }

    /// Takes the records of a flush that passed its check.
    fn take(
        &mut self,
        header: &FlushHeader,
        flush: &[u8],
        segment: SegmentId,
        offset: usize,
    ) -> Result<(), ReplayError> {
        let body = header.body(flush);
        let body_start = offset + header.body_offset();
        let mut at = 0;
        for position in 0..header.records + header.copies {
            if position == header.records {
                at = header.copies_at as usize;
            }
            let place = body_start + at;
            let offset = place as u64;
            let (record, bytes) =
                decode_record(body.get(at..).unwrap_or_default()).map_err(|error| {
                    ReplayError::Record {
                        segment,
                        offset,
                        error,
                    }
                })?;
            at += bytes;
            let location = Location {
                segment,
                offset: u32::try_from(place).expect("segments are below 4 GiB"),
                bytes: u32::try_from(bytes).expect("segments are below 4 GiB"),
            };
            self.record(record, location)?;
        }
        Ok(())
    }

    fn record(&mut self, record: Record, location: Location) -> Result<(), ReplayError> {
        match record {
            Record::Entry { group, entry } | Record::Patch { group, entry } => {
                let log = self.groups.entry(group).or_default();
                let index = entry.index;
                if index > log.log.last.next() || index <= log.log.floor.0 {
                    return Err(ReplayError::Gap {
                        segment: location.segment,
                        offset: u64::from(location.offset),
                        group,
                        previous: log.log.last,
                        found: index,
                    });
                }
                log.put(entry, self.cache_bytes);
                self.index.put(group, index, location);
            }
            Record::HardState { group, state } => {
                self.groups.entry(group).or_default().log.hard_state = state;
            }
            Record::Floor { group, index, term } => {
                let log = &mut self.groups.entry(group).or_default().log;
                log.floor = (index, term);
                log.last = log.last.max(index);
            }
            Record::Damaged { .. } | Record::Intact { .. } => {}
        }
        Ok(())
    }

    /// Ends the replay once every segment was given.
    pub fn finish(mut self) -> Recovered {
        assert!(self.next_segment().is_none(), "not every segment was given");
        let last = self.chain.last();
        let end = match self.cut {
            Some(cut) => Some(Link {
                segment: cut.segment,
                end: cut.offset,
            }),
            None => last.map(|(header, end)| Link {
                segment: header.id,
                end: *end,
            }),
        };
        // What lies behind a cut is no longer part of the log.
        let unsynced = end.map(|link| link.segment).into_iter().collect();
        let alive = |segment: SegmentId| end.is_some_and(|link| segment <= link.segment);
        let behind = self
            .chain
            .iter()
            .map(|(header, _)| header.id)
            .filter(|&id| !alive(id));
        self.dead
            .extend(behind.chain(self.unwritten.iter().copied()));
        let writer = Writer::new(
            self.options,
            end,
            self.newest.next(),
            self.number,
            self.index,
        );
        let finish = |(id, group): (GroupId, Group)| (id, group.finish());
        let groups = self.groups.into_iter().map(finish).collect();
        Recovered {
            groups,
            writer,
            dead: self.dead,
            unsynced,
            cut: self.cut.filter(|cut| cut.torn),
        }
    }
}

impl Group {
    /// Takes an entry; those at its index and above are replaced.
    fn put(&mut self, entry: Entry, cache_bytes: usize) {
        let log = &mut self.log;
        while self
            .tail
            .back()
            .is_some_and(|newest| newest.index >= entry.index)
        {
            let dropped = self.tail.pop_back().expect("just seen");
            self.tail_bytes -= dropped.payload.len();
        }
        while log
            .terms
            .last()
            .is_some_and(|&(first, _)| first >= entry.index)
        {
            log.terms.pop();
        }
        if log.terms.last().is_none_or(|&(_, term)| term != entry.term) {
            log.terms.push((entry.index, entry.term));
        }
        log.last = entry.index;
        self.tail_bytes += entry.payload.len();
        self.tail.push_back(entry);
        while self.tail_bytes > cache_bytes && self.tail.len() > 1 {
            let oldest = self.tail.pop_front().expect("just seen");
            self.tail_bytes -= oldest.payload.len();
        }
    }

    fn finish(self) -> RecoveredLog {
        let mut log = self.log;
        log.tail = self.tail.into();
        // The commit may have been written in a flush whose entries came in an earlier one.
        log.hard_state.commit = log.hard_state.commit.min(log.last);
        log
    }
}

/// The headers of flushes in a segment, from an offset on, wherever a block starts with one.
fn flushes_of(
    segment: SegmentId,
    instance: u64,
    bytes: &[u8],
    from: usize,
) -> impl Iterator<Item = FlushHeader> {
    let blocks = bytes.get(from..).unwrap_or_default().chunks_exact(BLOCK);
    blocks.filter_map(move |block| match FlushHeader::decode(block) {
        Start::Header(header) if header.generation == segment && header.instance == instance => {
            Some(header)
        }
        _ => None,
    })
}
