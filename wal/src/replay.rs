//! Replay: what a log holds, as far as it can be trusted.
//!
//! The caller gives the first block of every segment file, then the whole segments that
//! [`Replay::next_segment`] asks for, some of them twice. Replay follows the flushes in their order.
//! At one that is not whole it looks at all that follows. If anything written later says that the
//! flush had been durable, or if a sector of it is neither what was written nor never written, it has
//! rotted: what it held may have been acknowledged, so it is lost, and replay goes on behind it.
//! Otherwise it was under way when the node stopped: the log is cut before it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::chain::{Before, Chain, Part};
use crate::codec::{Decoded, Role};
use crate::flush::{Body, FlushHeader, Start, records_of};
use crate::histories::Histories;
use crate::index::Location;
use crate::lives::{Lives, Rest};
use crate::losses::Losses;
use crate::recovered::{Cut, Lost, Recovered, ReplayError};
use crate::residue::Area;
use crate::segment::{BLOCK, Link, made_bytes};
use crate::stop::{Sighting, Stop, flushes_of};
use crate::writer::{Left, Options, Writer};
use crate::{FlushNumber, GroupId, Record, SegmentId};

/// What replay does with the next segment.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Follows its flushes, from an offset on.
    Follow(usize),
    /// Only notes where later flushes are, to judge the one at which following stopped.
    Look(Stop),
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    options: Options,
    /// The log's segments, oldest first.
    parts: Vec<Part>,
    dead: Vec<SegmentId>,
    newest: SegmentId,
    /// The part to give next.
    given: usize,
    stage: Stage,
    sightings: Option<Vec<Sighting>>,
    number: FlushNumber,
    /// Where what was followed ends.
    end: Option<Link>,
    cut: Option<Cut>,
    losses: Losses,
    /// Something rotten stood where this flush was expected, and it was found behind.
    displaced: Option<FlushNumber>,
    /// No segment was begun since flushes were lost of which nothing is known.
    unsettled: bool,
    /// How groups stood before the first segment was not read yet.
    headless: bool,
    histories: Histories,
}

impl Replay {
    /// Orders the segments by their links. `firsts` holds the first block of each segment file;
    /// `cache_bytes` bounds the payload kept of each group.
    pub fn new<'a>(
        options: Options,
        cache_bytes: usize,
        firsts: impl IntoIterator<Item = (SegmentId, &'a [u8])>,
    ) -> Result<Self, ReplayError> {
        let chain = Chain::new(options.instance, firsts)?;
        let (mut number, mut headless, mut lost_from) = (FlushNumber::ZERO, false, None);
        match chain.before {
            Before::Nothing => {}
            Before::Gone { first } => {
                number = FlushNumber::from_raw(first.to_raw().saturating_sub(1));
                headless = true;
            }
            Before::Unknown => lost_from = Some(number.next()),
        }
        Ok(Self {
            options,
            parts: chain.parts,
            dead: chain.dead,
            newest: chain.newest,
            given: 0,
            stage: Stage::Follow(BLOCK),
            sightings: None,
            number,
            end: None,
            cut: None,
            losses: Losses::new(lost_from),
            displaced: None,
            unsettled: false,
            headless,
            histories: Histories::new(cache_bytes),
        })
    }

    /// The segment to give next.
    pub fn next_segment(&self) -> Option<SegmentId> {
        self.parts.get(self.given).map(|part| part.id)
    }

    /// Takes the bytes of the segment that [`Replay::next_segment`] named; a file that is too short
    /// counts as ending in zeroes.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        let part = self.given;
        assert!(
            part < self.parts.len(),
            "only segments that were asked for are given"
        );
        let Part { id, end, .. } = self.parts[part];
        let made = made_bytes(bytes).map_or(bytes.len() as u64, u64::from);
        if self.parts[part].rest.is_none() {
            self.parts[part].lives = Lives::of(id, self.options.instance, bytes);
            self.parts[part].rest = Rest::of(id, self.options, bytes);
            let next = end.and_then(|_| self.parts.get(part + 1));
            let first = next.and_then(|next| next.first_flush);
            self.parts[part].lives.limit(first);
        }
        let area = Area::new(id, made, bytes);
        let area = area.up_to(end.unwrap_or(u64::MAX));
        if self.parts[part].unwritten {
            self.parts[part].unwritten = area.may_be_new();
        }
        match self.stage {
            Stage::Look(stop) => {
                self.look(part, area.bytes);
                self.given += 1;
                if self.given == self.parts.len() {
                    self.judge(stop);
                }
            }
            Stage::Follow(offset) => {
                let offset = if offset == BLOCK {
                    match self.enter(part) {
                        Ok(()) => self.follow_lives(part, area, offset)?,
                        Err(mut stop) => {
                            // No crash leaves a start behind a flush that is neither another's nor unwritten.
                            if offset < area.bytes.len()
                                && let Start::Header(header) = area.start(offset)
                            {
                                let behind = offset + header.blocks as usize * BLOCK;
                                stop.rotten |= behind < area.bytes.len()
                                    && area.start(behind) == Start::Rotten;
                            }
                            Some(stop)
                        }
                    }
                } else {
                    self.follow_lives(part, area, offset)?
                };
                match offset {
                    None => {
                        self.given += 1;
                        self.stage = Stage::Follow(BLOCK);
                    }
                    Some(mut stop) => {
                        let from = stop.offset.min(area.bytes.len());
                        stop.rotten |= area.has_unreadable(from);
                        self.stop(stop, area.bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares the header of a segment with the flushes before it.
    fn enter(&mut self, part: usize) -> Result<(), Stop> {
        let Part {
            first_flush,
            unwritten,
            ..
        } = self.parts[part];
        let expected = self.number.next();
        match first_flush {
            Some(first) if first > expected => {
                self.lose(part, BLOCK, expected, Some(first));
                self.number = FlushNumber::from_raw(first.to_raw() - 1);
                Ok(())
            }
            Some(first) if first == expected => Ok(()),
            // Rotten, unwritten, or of a history that was cut off: its flushes must tell.
            _ => Err(Stop {
                part,
                offset: BLOCK,
                end: BLOCK,
                rotten: !unwritten,
                itself: true,
                torn: false,
            }),
        }
    }

    /// Follows the flushes of a segment from an offset on, also over what a later start left behind it
    /// there; says where one is not whole.
    fn follow_lives(
        &mut self,
        part: usize,
        area: Area<'_>,
        mut from: usize,
    ) -> Result<Option<Stop>, ReplayError> {
        // Where a life was to begin, and where what is before it ends.
        let mut begun: Option<(usize, usize)> = None;
        loop {
            let Some(mut stop) = self.follow(part, area, from)? else {
                return Ok(None);
            };
            if let Some((at, end)) = begun
                && stop.offset == at
            {
                stop.end = end;
            }
            let flushes = flushes_of(self.parts[part].id, self.options.instance, area.bytes);
            let behind = flushes.filter(|(at, _)| *at > stop.offset);
            let next = self.parts[part].lives.begun(self.number.next(), behind);
            let Some(next) = next else {
                return Ok(Some(stop));
            };
            begun = Some((next, stop.end));
            from = next;
        }
    }

    /// Follows the flushes of a segment from an offset on; says where one is not whole.
    fn follow(
        &mut self,
        part: usize,
        area: Area<'_>,
        from: usize,
    ) -> Result<Option<Stop>, ReplayError> {
        let segment = self.parts[part].id;
        let mut offset = from;
        while offset < area.bytes.len() {
            let stop = |rotten, torn| Stop {
                part,
                offset,
                end: offset,
                rotten,
                itself: false,
                torn,
            };
            let header = match area.start(offset) {
                Start::Unwritten => return Ok(Some(stop(false, false))),
                Start::Rotten => return Ok(Some(stop(true, true))),
                Start::Header(header) => header,
            };
            let length = header.blocks as usize * BLOCK;
            let ours = header.generation == segment
                && header.instance == self.options.instance
                && header.number > self.number;
            if ours && self.parts[part].lives.is_dead(&header) {
                return Ok(Some(stop(false, true)));
            }
            let flush = area.bytes.get(offset..offset + length).filter(|_| ours);
            let Some(flush) = flush else {
                return Ok(Some(stop(true, true)));
            };
            match area.check(offset, &header) {
                Body::Sound => {}
                Body::Rotten { .. } => return Ok(Some(stop(true, true))),
                Body::Torn { .. } => {
                    // No crash leaves a start behind it that is neither a flush's nor unwritten.
                    let behind = offset + length;
                    let rotten = behind < area.bytes.len() && area.start(behind) == Start::Rotten;
                    return Ok(Some(stop(rotten, true)));
                }
            }
            if header.number > self.number.next() {
                self.lose(part, offset, self.number.next(), Some(header.number));
            }
            self.take(&header, flush, segment, offset)?;
            if header.opens && offset == BLOCK {
                self.parts[part].opened_by = Some(header.number);
            }
            self.number = header.number;
            offset += length;
            self.end = Some(Link {
                segment,
                end: offset as u64,
            });
        }
        Ok(area.is_cut_off().then_some(Stop {
            part,
            offset,
            end: offset,
            rotten: true,
            itself: false,
            torn: true,
        }))
    }

    /// A flush is not whole: looks at all that follows before judging it.
    fn stop(&mut self, stop: Stop, bytes: &[u8]) {
        if self.sightings.is_none() {
            self.sightings = Some(Vec::new());
            self.look(stop.part, bytes);
            if stop.part + 1 < self.parts.len() {
                self.given = stop.part + 1;
                self.stage = Stage::Look(stop);
                return;
            }
        }
        self.judge(stop);
    }

    fn look(&mut self, part: usize, bytes: &[u8]) {
        let segment = self.parts[part].id;
        let lives = &self.parts[part].lives;
        let found = flushes_of(segment, self.options.instance, bytes);
        let found = found.filter(|(_, header)| !lives.is_dead(header));
        let found = found.map(|(offset, header)| Sighting {
            part,
            offset,
            number: header.number,
            durable: header.durable,
            doubtful: lives.is_doubtful(&header),
        });
        self.sightings
            .as_mut()
            .expect("looking has begun")
            .extend(found);
    }

    /// Decides about the flush that is not whole, and where to go on.
    fn judge(&mut self, stop: Stop) {
        let expected = self.number.next();
        let place = (stop.part, stop.offset);
        let sightings = self.sightings.as_deref().unwrap_or_default();
        // Where no link says how far a segment is valid, a start may have cut it here: its own flushes
        // have the same numbers as those that it left behind. Not if one of these knew better.
        let cut_before = !(stop.itself || self.parts[stop.part].end.is_some())
            && sightings.iter().any(|sighting| sighting.part > stop.part)
            && !sightings
                .iter()
                .any(|sighting| sighting.part == stop.part && sighting.durable >= expected);
        let later = sightings.iter().filter(|sighting| {
            let from = (sighting.part, sighting.offset);
            let itself = stop.itself && from == place;
            let dead = cut_before && sighting.part == stop.part;
            from > place && sighting.number >= expected && !dead && !sighting.doubtful || itself
        });
        // Wherever it stands now, it was written after this one was durable. Segments are taken from the
        // log only when the first flush of the one that becomes its oldest is durable. The file of a
        // segment is made only when the first flush of the segment before is.
        let begins = stop.itself || stop.offset == BLOCK;
        let opened_behind = if begins { 1 } else { 2 };
        let made_behind = self.parts.get(stop.part + opened_behind);
        let mut knowing = sightings.iter().filter(|it| it.durable >= expected);
        let knowing = knowing.next().map(|sighting| &self.parts[sighting.part]);
        // Behind a header that rotted, the log may go on: it no longer says where this segment ends.
        let mut behind = self.parts[stop.part + 1..].iter();
        let rotten_behind = behind.find(|part| part.first_flush.is_none() && !part.unwritten);
        let witnesses = [made_behind, knowing, rotten_behind].into_iter().flatten();
        let witness = witnesses.map(|part| part.id).min();
        let segment = self.parts[stop.part].id;
        let rotten_here =
            stop.rotten || self.displaced == Some(expected) || self.is_elsewhere(expected, stop);
        let told = self.headless || rotten_here;
        let rotten = rotten_here || rotten_behind.is_some();
        if !told && witness.is_none() {
            self.cut = Some(Cut {
                segment,
                offset: stop.offset as u64,
                number: expected,
                torn: stop.torn,
            });
            // A segment of which only the header was written is no part of the log: the file of the next one
            // would say that there had been more in it. Unless that header is what tells of a loss.
            let none = stop.offset == BLOCK && !self.losses.are_told_by_header(segment);
            if !(stop.itself || none) {
                self.end = Some(Link {
                    segment,
                    end: stop.end as u64,
                });
            }
            self.given = self.parts.len();
            return;
        }
        let next = later.min_by_key(|sighting| (sighting.part, sighting.offset));
        let next = next.copied();
        if !told {
            self.losses.told_by(witness);
        }
        let Some(next) = next else {
            // The end of the log: whatever was here is lost.
            self.lose(stop.part, stop.offset, expected, None);
            self.number = expected;
            self.given = self.parts.len();
            return;
        };
        if next.number > expected {
            self.lose(stop.part, stop.offset, expected, Some(next.number));
        } else if next.number < expected || self.is_short(stop, next) {
            // What was followed was history that had been cut off.
            self.lose(stop.part, stop.offset, expected, Some(next.number));
            self.forget();
        }
        self.displaced = rotten.then_some(next.number);
        self.number = FlushNumber::from_raw(next.number.to_raw() - 1);
        self.given = next.part;
        self.stage = Stage::Follow(next.offset);
        if next.offset == BLOCK {
            // Its segment's header was judged already.
            self.parts[next.part].first_flush = Some(next.number);
            self.parts[next.part].unwritten = false;
        }
    }

    /// Whether a flush has its place behind the one where it was expected: then something stood here,
    /// or what stands before is not in its own place.
    fn is_elsewhere(&self, flush: FlushNumber, stop: Stop) -> bool {
        let sightings = self.sightings.as_deref().unwrap_or_default();
        let mut near = sightings.iter().filter(|seen| seen.part == stop.part);
        let next = self.parts.get(stop.part + 1);
        near.any(|seen| seen.number == flush && seen.offset > stop.offset)
            || next.is_some_and(|next| next.first_flush == Some(flush))
    }

    /// Whether a segment goes on where the flushes that were followed end, although the one behind it begins with
    /// the next number: later lives took theirs again.
    fn is_short(&self, stop: Stop, next: Sighting) -> bool {
        let end = self.parts[stop.part].end;
        next.part == stop.part + 1 && end.is_some_and(|end| end > stop.offset as u64)
    }

    fn lose(&mut self, part: usize, offset: usize, first: FlushNumber, next: Option<FlushNumber>) {
        self.losses.add(Lost {
            segment: self.parts[part].id,
            offset: offset as u64,
            first,
            next,
        });
    }

    /// Flushes were lost that nothing names.
    fn forget(&mut self) {
        self.unsettled = true;
        self.histories.lose_unnamed();
    }

    /// Takes the records of a flush that passed its check.
    fn take(
        &mut self,
        header: &FlushHeader,
        flush: &[u8],
        segment: SegmentId,
        offset: usize,
    ) -> Result<(), ReplayError> {
        let lost_from = self.losses.end_range();
        let unnamed = lost_from.is_some_and(|first| first.next() < header.number || !header.names);
        let headless = core::mem::take(&mut self.headless);
        if headless && !header.opens {
            // With its first flush, all is lost that was known of older ones.
            self.losses.begin_with_all_before();
        }
        if unnamed || headless && !header.opens {
            self.forget();
        }
        let needs_head = headless || self.unsettled;
        self.unsettled &= !header.opens;
        let body_start = offset + header.body_offset();
        let records = records_of(header, flush).map(|(at, decoded)| {
            let place = body_start + at;
            let (decoded, bytes, stamp) = decoded.map_err(|error| ReplayError::Record {
                segment,
                offset: place as u64,
                error,
            })?;
            let location = Location {
                segment,
                offset: u32::try_from(place).expect("segments are below 4 GiB"),
                bytes: u32::try_from(bytes).expect("segments are below 4 GiB"),
            };
            Ok((decoded, location, stamp))
        });
        let mut records = records.collect::<Result<Vec<_>, _>>()?;
        // Who began the segment may have known less of a damaged group than what was read says.
        let damaged = records
            .iter()
            .filter_map(|(decoded, _, stamp)| match decoded {
                Decoded::One(Record::Damaged { group, .. }) if stamp.role == Role::Head => {
                    Some(*group)
                }
                _ => None,
            });
        let damaged: BTreeSet<GroupId> = damaged.collect();
        records.retain(|(decoded, _, stamp)| match stamp.role {
            Role::Own => true,
            Role::Echo => lost_from.is_some(),
            Role::Head => {
                headless
                    || needs_head && !damaged.contains(&decoded.group())
                    || self.histories.fall_short(decoded)
            }
        });
        // What was before comes first.
        records.sort_by_key(|(_, _, stamp)| match stamp.role {
            Role::Echo => 0,
            Role::Head => 1,
            Role::Own => 2,
        });
        for (decoded, location, stamp) in records {
            match decoded {
                Decoded::One(record) => {
                    self.histories
                        .record(record, location, stamp, &self.losses)?;
                }
                Decoded::Run(run) => {
                    self.histories
                        .entries(run.group, run.entries(0), location)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the replay once every segment was given.
    pub fn finish(mut self) -> Recovered {
        assert!(self.next_segment().is_none(), "not every segment was given");
        if self.losses.are_open() {
            self.forget();
        }
        let end = match self.cut {
            Some(_) => self.end,
            // What was lost at the end must be missed at the next start, too.
            None => self.losses.at_end().or(self.end),
        };
        // What lies behind a cut is no longer part of the log.
        let unsynced = end.map(|link| link.segment).into_iter().collect();
        let alive = |segment: SegmentId| end.is_some_and(|link| segment <= link.segment);
        let behind = self.parts.iter().filter(|part| !alive(part.id));
        let mut behind: Vec<_> = behind.map(|part| (part.id, part.unwritten)).collect();
        // A newest file that was never used holds nothing either, but may be all that tells of a loss before it.
        let all = self.cut.is_some() || self.losses.are_none();
        let useless = |&mut (segment, unwritten): &mut (SegmentId, bool)| {
            (all || unwritten) && !self.losses.may_be_told_by(segment)
        };
        while let Some((segment, _)) = behind.pop_if(useless) {
            self.dead.push(segment);
        }
        let given_up: Vec<_> = behind.into_iter().map(|(segment, _)| segment).collect();
        // A log that misses something goes on in a segment of its own.
        let whole = self.losses.are_none() && given_up.is_empty();
        let rest_of = |id: SegmentId| {
            let part = self.parts.iter().find(|part| part.id == id);
            part.and_then(|part| part.rest).filter(|_| whole)
        };
        let spare = rest_of(self.newest).filter(|rest| rest.offset == 0);
        let rest = end.and_then(|end| rest_of(end.segment));
        let rest = rest.filter(|rest| end.is_some_and(|end| rest.offset >= end.end));
        let unmentioned = self.histories.unmentioned();
        let (groups, index, standings) = self.histories.finish(self.unsettled);
        let parts = self.parts.iter().filter(|part| alive(part.id));
        // Only one whose header is readable can be the first of the log.
        let segments = parts.map(|part| (part.id, part.opened_by.filter(|_| part.bytes.is_some())));
        let left = Left {
            end,
            next_segment: self.newest.next(),
            durable: self.number,
            losses: self.losses.fingerprint(),
            lossy: self.losses.span(&self.parts, self.newest),
            segments: segments.collect(),
            index,
            standings,
        };
        let writer = Writer::new(self.options, left);
        Recovered {
            groups,
            writer,
            dead: self.dead,
            spare,
            rest,
            given_up,
            unsynced,
            cut: self.cut.filter(|cut| cut.torn),
            lost: self.losses.into_found(),
            unmentioned,
        }
    }
}
