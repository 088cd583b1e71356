//! What a shard has on its disk: what goes into its log and comes back, and what follows when the disk fails
//! or is full.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use wal::GroupId;
use wal::io::{Log, LogError, Ring};

use crate::shard::{DiskState, Flush, Input, ReadLog, Stage};

use super::executor::Executor;
use super::node::NodeError;
use super::snapshots::Snapshots;
use super::stages::Turn;
use super::status::NewestSnapshot;

/// How often it is looked whether the disk is full. Until it is seen, writes go into what is left of
/// a segment.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// The same while nothing is appended.
const WATCH_INTERVAL_IDLE: Duration = Duration::from_millis(200);

/// What a shard has on its disk.
pub(super) struct Disk {
    pub(super) ring: Rc<Ring>,
    pub(super) log: Rc<Log>,
    pub(super) snapshots: Snapshots,
    /// Of each group that has one.
    pub(super) newest: BTreeMap<GroupId, NewestSnapshot>,
}

impl Executor {
    pub(super) fn append(self: &Rc<Self>, flush: Flush, turn: &mut Turn) {
        // Laid out in the log now, in the order of the flushes, and its writing begun; waited for by the fiber.
        let number = flush.number;
        if turn.sampled {
            turn.lap(None, self.origin.time());
        }
        let written = self.log.append(number, &flush.records);
        if turn.sampled {
            turn.lap(Some(Stage::Serialise), self.origin.time());
        }
        let executor = self.clone();
        let asked = turn.started;
        glommio::spawn_local(async move {
            let submitted = executor.config.stages.then(|| executor.origin.time());
            match written.await {
                Ok(flush) => {
                    let clock = executor.clock();
                    if let Some(submitted) = submitted {
                        executor.account(Stage::LogSubmit, submitted.since(asked));
                        executor.account(Stage::LogWait, clock.now.since(submitted));
                    }
                    executor.step(clock, Input::Written { flush });
                }
                Err(error) => executor.disk_failed(Input::WriteFailed { flush: number }, error),
            }
        })
        .detach();
    }

    pub(super) fn read(self: &Rc<Self>, read: ReadLog) {
        let ReadLog {
            group,
            from,
            to,
            bytes_max,
        } = read;
        // Found in the log now, before a later flush overwrites it; read by the fiber.
        let reading = self.log.read(group, from, to, bytes_max);
        let executor = self.clone();
        glommio::spawn_local(async move {
            match reading.await {
                Ok(entries) => executor.step(executor.clock(), Input::Log { group, entries }),
                Err(error) => executor.disk_failed(Input::ReadFailed, error),
            }
        })
        .detach();
    }

    /// What was written may not be what is on the disk: the shard hands over what it leads and keeps
    /// nothing any more. The node stays, names the new leaders and its state, and fails when it ends.
    pub(super) fn disk_failed(&self, input: Input<'_>, error: LogError) {
        if self.shard.borrow().disk().state != DiskState::Failed {
            let cause = self
                .log
                .failure()
                .filter(|_| matches!(error, LogError::Failed));
            let reason = cause.map_or_else(|| error.to_string(), |cause| cause.to_string());
            let error = NodeError::Disk {
                shard: self.index,
                reason,
            };
            tracing::error!(event = "disk.failed", shard = self.index, reason = %error);
            self.fate.fail(error);
        }
        self.step(self.clock(), input);
    }

    /// Tells the shard when the disk has no space for its log any more, and when it has again.
    pub(super) async fn watch_space(self: Rc<Self>) {
        let (mut full, mut appended_bytes) = (false, 0);
        loop {
            if self.log.is_full() != full {
                full = !full;
                let free_bytes = self.log.free_bytes();
                self.snapshots.log_is_full(full);
                if full {
                    tracing::error!(event = "disk.full", shard = self.index, free_bytes);
                } else {
                    tracing::info!(event = "disk.has_space", shard = self.index, free_bytes);
                }
                self.step(self.clock(), Input::Space { full });
            }
            let before = std::mem::replace(&mut appended_bytes, self.log.appended_bytes());
            let idle = before == appended_bytes;
            glommio::timer::sleep(match idle {
                true => WATCH_INTERVAL_IDLE,
                false => WATCH_INTERVAL,
            })
            .await;
        }
    }

    /// Of all segments of the log.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log.segments() as u64 * self.config.segment_bytes
    }

    pub(super) async fn close_log(&self) {
        self.log.close().await;
    }
}
