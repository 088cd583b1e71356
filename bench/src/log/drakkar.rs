//! A shard's log, as the node uses it: one thread, its executor, and segments that are made ready
//! while others are written.

use std::collections::VecDeque;
use std::rc::Rc;

use glommio::{Placement, Task};
use wal::io::{Log, LogError, Ring, executor};
use wal::{Entry, EntryKind, FlushNumber, GroupId, LogIndex, Options, Payload, Record, Term};

use super::turns::{Turns, Watch};
use super::{Cell, DEPTH, Measured, Plan, noise};

const OPTIONS: Options = Options {
    segment_bytes: 64 << 20,
    instance: 1,
};

/// So many segments are written before a turn, to be recycled in it: as a log that has run for a while.
const SEGMENTS_BEFORE: usize = 4;
/// Bytes of the entries that fill them, in a group of their own.
const FILLER_BYTES: usize = 4 << 20;
/// After so many bytes all entries that are durable are no longer needed, as behind a snapshot.
const FLOOR_BYTES: usize = 16 << 20;

/// A flush that is being written, and whose batches it holds.
type UnderWay = (Vec<usize>, Task<Result<FlushNumber, LogError>>);

/// The load on one log.
struct Load {
    cell: Cell,
    log: Rc<Log>,
    /// Room for a floor of each group, and a batch for each of the groups of a flush: made before the turn,
    /// so that only groups and positions are written in it.
    records: Vec<Record>,
    /// The newest index of each group.
    last: Vec<LogIndex>,
    /// Bytes of each group's entries since its last floor.
    since_floor: Vec<usize>,
    next_flush: FlushNumber,
}

impl Load {
    /// Begins a flush with the next batch of each of the groups.
    fn append(&mut self, groups: Vec<usize>) -> UnderWay {
        let room = self.cell.groups;
        let mut first = room;
        for (place, &at) in groups.iter().enumerate() {
            let of = GroupId::from_raw(u32::try_from(at).expect("few groups"));
            if self.since_floor[at] * self.cell.groups > FLOOR_BYTES {
                self.since_floor[at] = 0;
                // A group appends once its last batch is durable.
                first -= 1;
                self.records[first] = floor(of, self.last[at]);
            }
            self.since_floor[at] += self.cell.batch_bytes();
            let mut last = self.last[at];
            for record in &mut self.records[room + place * self.cell.batch..][..self.cell.batch] {
                if let Record::Entry { group, entry } = record {
                    last = last.next();
                    (*group, entry.index) = (of, last);
                }
            }
            self.last[at] = last;
        }
        let records = std::mem::take(&mut self.records);
        let append = self.flush(&records[first..room + groups.len() * self.cell.batch]);
        self.records = records;
        (groups, glommio::spawn_local(append))
    }

    fn flush(
        &mut self,
        records: &[Record],
    ) -> impl Future<Output = Result<FlushNumber, LogError>> + use<> {
        let append = self.log.append(self.next_flush, records);
        self.next_flush = self.next_flush.next();
        append
    }

    /// Writes segments, and has no need of them any more. The one that is next by then is ready as well:
    /// one that is zeroed during the turn would be measured.
    async fn prepare(&mut self) -> Result<(), LogError> {
        let ready = SEGMENTS_BEFORE as u64 * OPTIONS.segment_bytes;
        self.log.make_ready(ready).await?;
        let group = GroupId::from_raw(u32::MAX);
        let payload = Payload::from(noise(FILLER_BYTES));
        let mut last = LogIndex::ZERO;
        while self.log.segments() < SEGMENTS_BEFORE {
            last = last.next();
            self.flush(&[entry(group, last, payload.clone())]).await?;
        }
        self.flush(&[floor(group, last)]).await?;
        Ok(())
    }

    async fn run(mut self, plan: &Plan) -> Result<Measured, LogError> {
        self.prepare().await?;
        let mut turns = Turns::new(&self.cell);
        let mut watch = Watch::start(plan);
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        let mut flushes = 0;
        loop {
            while under_way.len() < DEPTH {
                let groups = turns.take();
                if groups.is_empty() {
                    break;
                }
                under_way.push_back(self.append(groups));
            }
            let (groups, append) = under_way.pop_front().expect("there are groups");
            append.await?;
            flushes += 1;
            turns.done(&groups);
            if let Some(measured) = watch.count(groups.len() as u64, || flushes) {
                for (_, append) in under_way {
                    append.await?;
                }
                self.log.close().await;
                return Ok(measured);
            }
        }
    }
}

/// What is appended, of no group yet.
fn records(cell: &Cell) -> Vec<Record> {
    let none = GroupId::from_raw(0);
    let mut records = vec![floor(none, LogIndex::ZERO); cell.groups];
    for _ in 0..cell.batches_per_flush() {
        let bytes = noise(cell.batch_bytes());
        let payloads = bytes.chunks(cell.entry_bytes).map(Payload::from);
        records.extend(payloads.map(|payload| entry(none, LogIndex::ZERO, payload)));
    }
    records
}

fn entry(group: GroupId, index: LogIndex, payload: Payload) -> Record {
    let entry = Entry {
        term: Term::from_raw(1),
        index,
        kind: EntryKind::Batch,
        payload,
    };
    Record::Entry { group, entry }
}

fn floor(group: GroupId, index: LogIndex) -> Record {
    let term = Term::from_raw(1);
    Record::Floor { group, index, term }
}

pub(super) fn measure(cell: &Cell, plan: &Plan) -> Result<Measured, String> {
    let executor = executor::builder(Placement::Unbound).make();
    let executor = executor.map_err(|error| format!("cannot make an executor: {error}"))?;
    let (cell, plan) = (*cell, plan.clone());
    executor.run(executor::awake(async move {
        let path = plan.directory.join("shard-0");
        let ring = Ring::start().map_err(|error| format!("cannot make a ring: {error}"))?;
        let opened = Log::open(&path, OPTIONS, 0, ring).await;
        let (log, found) = opened.map_err(|error| error.to_string())?;
        let load = Load {
            cell,
            log,
            records: records(&cell),
            last: vec![LogIndex::ZERO; cell.groups],
            since_floor: vec![0; cell.groups],
            next_flush: found.next_flush,
        };
        load.run(&plan).await.map_err(|error| error.to_string())
    }))
}
