//! A shard's log, as the node uses it: one thread, its executor, and segments that are made ready
//! while others are written.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Task};
use wal::io::{Log, LogError};
use wal::{Entry, EntryKind, FlushNumber, GroupId, LogIndex, Options, Payload, Record, Term};

use super::turns::{Turns, Watch};
use super::{Cell, DEPTH, Measured, Plan, noise};

const OPTIONS: Options = Options {
    segment_bytes: 64 << 20,
    instance: 1,
};

/// A flush that is being written, and whose batches it holds.
type UnderWay = (Vec<usize>, Task<Result<FlushNumber, LogError>>);

/// The load on one log.
struct Load<'a> {
    cell: &'a Cell,
    log: Rc<Log>,
    /// Of the entries of a batch.
    payloads: Vec<Payload>,
    /// The newest index of each group.
    last: Vec<LogIndex>,
    flush: FlushNumber,
}

impl Load<'_> {
    /// Begins a flush with the next batch of each of the groups.
    fn append(&mut self, groups: Vec<usize>) -> UnderWay {
        let mut records = Vec::with_capacity(groups.len() * self.cell.batch);
        for &group in &groups {
            for payload in &self.payloads {
                let index = self.last[group].next();
                self.last[group] = index;
                records.push(Record::Entry {
                    group: GroupId::from_raw(u32::try_from(group).expect("few groups")),
                    entry: Entry {
                        term: Term::from_raw(1),
                        index,
                        kind: EntryKind::Batch,
                        payload: payload.clone(),
                    },
                });
            }
        }
        let append = self.log.append(self.flush, &records);
        self.flush = self.flush.next();
        (groups, glommio::spawn_local(append))
    }

    async fn run(mut self, plan: &Plan<'_>) -> Result<Measured, LogError> {
        let mut turns = Turns::new(self.cell);
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

pub(super) fn measure(cell: &Cell, plan: &Plan<'_>) -> Result<Measured, String> {
    let executor = LocalExecutorBuilder::default().make();
    let executor = executor.map_err(|error| format!("cannot make an executor: {error}"))?;
    executor.run(async {
        // As in the node: the executor may only sleep while a timer is pending.
        let pulse = glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        });
        let path = plan.directory.join("shard-0");
        let opened = Log::open(&path, OPTIONS, 0).await;
        let (log, found) = opened.map_err(|error| error.to_string())?;
        let load = Load {
            cell,
            log,
            payloads: noise(cell.batch_bytes())
                .chunks(cell.entry_bytes)
                .map(Payload::from)
                .collect(),
            last: vec![LogIndex::ZERO; cell.groups],
            flush: found.next_flush,
        };
        let result = load.run(plan).await.map_err(|error| error.to_string());
        pulse.cancel().await;
        result
    })
}
