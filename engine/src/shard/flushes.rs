//! What a group has for its log: what waits for a flush, what goes into one, and what follows once it is
//! durable.

use alloc::vec::Vec;

use wal::{Entry, EntryKind, FlushNumber, GroupId, Payload, Record, Term};

use super::group::Group;
use super::{Flush, NewMembership, Output, Shard};
use crate::raft::{NewFloor, RepairNote};
use crate::time::{Clock, Time};

impl Shard {
    /// Whether a flush is to begin now, if there is something for it.
    pub(super) fn is_flush_worth_it(&self) -> bool {
        let under_way = self.under_way.len();
        if under_way == 0 || under_way >= self.options.flushes_in_flight_max {
            return under_way == 0;
        }
        self.unflushed_bytes >= self.options.flush_beside_bytes_min
    }

    /// Notes what a group has for a flush, and in memory.
    pub(super) fn count_unflushed(&mut self, at: usize) {
        let group = &mut self.groups[at];
        let waiting = group.waiting_bytes();
        self.unflushed_bytes = self.unflushed_bytes + waiting - group.waiting_bytes_counted;
        group.waiting_bytes_counted = waiting;
        let cached = group.raft.log().cached_bytes();
        self.cached_bytes = self.cached_bytes + cached - group.cached_bytes_counted;
        group.cached_bytes_counted = cached;
        self.unsealed.set(at, group.has_unsealed(self.clock));
        self.unflushed.set(at, group.has_unsubmitted());
    }

    /// Begins a flush with what the groups have for it.
    pub(super) fn flush(&mut self, out: &mut Output) {
        let mut records = Vec::new();
        let mut room = self.options.flush_bytes_max;
        let mut holds: Vec<usize> = self.unflushed.iter().collect();
        let first = holds.partition_point(|&at| at < self.flush_first);
        holds.rotate_left(first);
        holds.retain(|&at| {
            if room == 0 || !self.groups[at].has_unsubmitted() {
                return false;
            }
            let group = &mut self.groups[at];
            let bytes = group.submit(self.next_flush, room, &mut records);
            out.memberships.extend(group.take_new_membership());
            room = room.saturating_sub(bytes);
            self.flush_first = at + 1;
            self.count_unflushed(at);
            true
        });
        let idle = self.under_way.is_empty() && self.mark_at.is_some_and(|at| at <= self.clock.now);
        if records.is_empty() && !idle {
            return;
        }
        // A mark needs none behind it.
        self.mark_at = None;
        let number = self.next_flush;
        self.next_flush = number.next();
        self.under_way.push_back((number, holds));
        self.disk.began(number, self.clock.now);
        self.accounts.flushed();
        out.flushes.push(Flush { number, records });
    }

    pub(super) fn written(&mut self, flush: FlushNumber, out: &mut Output) {
        assert!(flush < self.next_flush, "flush {flush} was never asked for");
        if self.disk.has_failed() {
            return; // it may be true, but nobody can rely on such a disk any more
        }
        self.disk.written(flush, self.clock.now);
        while let Some((number, _)) = self.under_way.front() {
            if *number > flush {
                break;
            }
            let (number, holds) = self.under_way.pop_front().expect("just seen");
            if !holds.is_empty() {
                self.mark_at = Some(self.clock.now.after(self.options.mark_after));
            }
            for at in holds {
                self.groups[at].written(self.clock.now, number, out);
                self.touched(at);
            }
        }
    }
}

impl Group {
    /// A flush is durable, and all before it.
    pub(super) fn written(&mut self, now: Time, flush: FlushNumber, out: &mut Output) {
        self.raft.written(flush, &mut self.outbox);
        self.writes.persisted(self.raft.log().persisted(), now);
        self.address(out);
    }

    /// Hands what waits to a flush, as far as there is room: how many bytes of payload.
    pub(super) fn submit(
        &mut self,
        flush: FlushNumber,
        bytes_max: usize,
        records: &mut Vec<Record>,
    ) -> usize {
        let group = self.id;
        let first = records.len();
        let mut bytes = 0;
        let mut hard_state = None;
        let note = self.raft.take_note();
        let new_floor = self.raft.take_floor();
        self.raft.submit(
            flush,
            bytes_max,
            |state| hard_state = Some(Record::HardState { group, state }),
            |entry| {
                let entry = entry.clone();
                records.push(Record::Entry { group, entry });
            },
        );
        for record in &mut records[first..] {
            if let Record::Entry { entry, .. } = record
                && self.raft.is_put_back(entry.index)
            {
                let entry = entry.clone();
                *record = Record::Patch { group, entry };
            }
        }
        // All else comes before them.
        let carried = self.take_carried(bytes_max);
        if !carried.is_empty() {
            records.splice(first..first, carried);
        }
        if let Some(floor) = new_floor {
            records.splice(first..first, floor_records(group, floor));
        }
        if let Some(hard_state) = hard_state {
            records.insert(first, hard_state);
        }
        let says = records.len() > first;
        let note = note.or_else(|| self.raft.standing_note().filter(|_| says));
        if let Some(note) = note {
            records.insert(first, note_record(group, note));
        }
        for record in &records[first..] {
            if let Record::Entry { entry, .. } | Record::Patch { entry, .. } = record {
                bytes += entry.payload.len();
            }
        }
        bytes
    }

    /// What is to be noted of the group's members, if that is not noted yet.
    pub(super) fn take_new_membership(&mut self) -> Option<NewMembership> {
        let (since, term, membership) = self.raft.to_note();
        let unknown = term == Term::ZERO || self.noted.1 == Term::ZERO;
        if since == self.noted.0 && (term == self.noted.1 || unknown) {
            return None;
        }
        self.noted = (since, term);
        Some(NewMembership {
            group: self.id,
            since,
            term,
            membership: membership.clone(),
        })
    }

    /// Whether it has something to persist.
    pub(super) fn has_unsubmitted(&self) -> bool {
        self.raft.has_unsubmitted() || self.has_carried()
    }

    /// Whether it has a batch to seal.
    pub(super) fn has_unsealed(&self, clock: Clock) -> bool {
        self.leads() && (self.writes.is_open() || self.expiry_due(clock))
    }

    /// Payload that waits for a flush.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.writes.open_bytes() + self.raft.log().unsubmitted_bytes()
    }
}

fn note_record(group: GroupId, note: RepairNote) -> Record {
    match note {
        RepairNote::Begun {
            claim,
            promises_lost,
        } => Record::Damaged {
            group,
            claim,
            promises_lost,
        },
        RepairNote::Ended { index, term } => Record::Intact { group, index, term },
    }
}

/// How the disk is told of a floor. Before a log that begins anew, an empty entry ends what stood there.
fn floor_records(group: GroupId, floor: NewFloor) -> Vec<Record> {
    match floor {
        NewFloor::Raised { index, term } => [Record::Floor { group, index, term }].into(),
        NewFloor::Begun { index, term } => {
            let entry = Entry {
                term,
                index,
                kind: EntryKind::Noop,
                payload: Payload::from([]),
            };
            [
                Record::Floor {
                    group,
                    index: index.previous(),
                    term,
                },
                Record::Entry { group, entry },
                Record::Floor { group, index, term },
            ]
            .into()
        }
    }
}
