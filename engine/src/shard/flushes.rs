//! What a group has for its log: what waits for a flush, what goes into one, and what follows once it is
//! durable.

use alloc::vec::Vec;

use wal::{Entry, EntryKind, FlushNumber, GroupId, Payload, Record};

use super::Output;
use super::group::Group;
use crate::raft::{NewFloor, RepairNote};
use crate::time::{Clock, Time};

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
        let mut entries = Vec::new();
        let mut hard_state = None;
        match self.raft.take_note() {
            Some(RepairNote::Begun {
                claim,
                promises_lost,
            }) => records.push(Record::Damaged {
                group,
                claim,
                promises_lost,
            }),
            Some(RepairNote::Ended { index, term }) => {
                records.push(Record::Intact { group, index, term });
            }
            None => {}
        }
        let new_floor = self.raft.take_floor();
        self.raft.submit(
            flush,
            bytes_max,
            |state| hard_state = Some(Record::HardState { group, state }),
            |entry| entries.push(entry.clone()),
        );
        records.extend(hard_state);
        records.extend(
            new_floor
                .into_iter()
                .flat_map(|floor| floor_records(group, floor)),
        );
        records.extend(self.take_carried(bytes_max));
        let raft = &self.raft;
        records.extend(entries.into_iter().map(|entry| {
            if raft.is_put_back(entry.index) {
                Record::Patch { group, entry }
            } else {
                Record::Entry { group, entry }
            }
        }));
        for record in &records[first..] {
            if let Record::Entry { entry, .. } | Record::Patch { entry, .. } = record {
                bytes += entry.payload.len();
            }
        }
        bytes
    }

    /// Whether it has something to persist.
    pub(super) fn has_unsubmitted(&self) -> bool {
        self.raft.has_unsubmitted() || self.has_carried()
    }

    /// Whether it has something to persist, or to seal and persist.
    pub(super) fn wants_flush(&self, clock: Clock) -> bool {
        let to_seal = self.writes.is_open() || self.expiry_due(clock);
        self.has_unsubmitted() || (self.leads() && to_seal)
    }

    /// Payload that waits for a flush.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.writes.open_bytes() + self.raft.log().unsubmitted_bytes()
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
