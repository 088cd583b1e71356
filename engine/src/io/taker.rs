//! Takes the snapshots that groups begin: one chunk after the other into a file, in the background, while
//! the shard goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glommio::TaskQueueHandle;
use glommio::timer::sleep;
use wal::io::executor;
use wal::{GroupId, LogIndex};

use crate::Time;
use crate::shard::{BegunSnapshot, DiskState, Input};
use crate::snapshot::{Header, Membership, Summary, machine};

use super::executor::Executor;
use super::snapshots::SnapshotFileError;
use super::status::NewestSnapshot;

/// What is taken from a state at once: the shard waits for no more, which is about as long as its tasks
/// run before they yield.
const CHUNK_BYTES: usize = 64 << 10;
/// How often it is looked whether the log is too long.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(200);
/// How soon a group is asked again for the sake of the log.
const PRESSURE_PAUSE: Duration = Duration::from_secs(2);
/// How long the disk is left to the log between two snapshots that are taken for its sake, and between all
/// of them together.
const PRESSURE_REST: Duration = Duration::from_millis(20);
const PRESSURE_RESTS: Duration = Duration::from_millis(500);
/// How often it is looked whether a snapshot is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Of 1000 that the rest of the shard has.
const SHARES: usize = 50;

/// Told once, when a snapshot is there or is known not to come.
pub(super) type SnapshotAnswer = Box<dyn FnOnce(Result<LogIndex, NoSnapshot>) + Send>;

/// Why a snapshot that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSnapshot {
    /// It is tried again.
    #[error("it failed: {reason}; it is tried again by itself")]
    Failed { reason: String },
    #[error("it was not there within {patience:?}; it goes on: look at the status")]
    NotYet { patience: Duration },
    #[error("the node has stopped")]
    Stopped,
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error("a peer's has replaced it")]
    Replaced,
    #[error(
        "{held_bytes} bytes were written meanwhile and had to be kept, {held_bytes_max} may be: raise \
         snapshot.memory_size, or look why the disk is slow"
    )]
    Held {
        held_bytes: usize,
        held_bytes_max: usize,
    },
    #[error(transparent)]
    File(#[from] SnapshotFileError),
}

impl NewestSnapshot {
    pub(super) fn of(header: &Header, summary: &Summary) -> Self {
        Self {
            index: header.index,
            bytes: summary.bytes,
            unix_ms: header.created_unix_ms,
        }
    }
}

/// What a shard knows of the snapshots it takes.
pub(super) struct Taker {
    queue: TaskQueueHandle,
    newest: RefCell<BTreeMap<GroupId, NewestSnapshot>>,
    under_way: Cell<usize>,
    /// How many bytes of a group's state are in the snapshot that is being taken.
    written: RefCell<BTreeMap<GroupId, u64>>,
    /// Who waits for a snapshot that is at least of this entry.
    waiting: RefCell<Vec<(GroupId, LogIndex, SnapshotAnswer)>>,
}

impl Taker {
    pub(super) fn new(newest: BTreeMap<GroupId, NewestSnapshot>) -> Self {
        Self {
            queue: executor::queue_beside(SHARES, "snapshots"),
            newest: RefCell::new(newest),
            under_way: Cell::new(0),
            written: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// The newest snapshot of each group that has one.
    pub(super) fn newest(&self) -> BTreeMap<GroupId, NewestSnapshot> {
        self.newest.borrow().clone()
    }

    /// The groups whose snapshots are being taken, and how many bytes of their states are in them.
    pub(super) fn written(&self) -> Vec<(GroupId, u64)> {
        let written = self.written.borrow();
        written
            .iter()
            .map(|(&group, &bytes)| (group, bytes))
            .collect()
    }

    /// A snapshot is durable here.
    pub(super) fn is_there(&self, group: GroupId, newest: NewestSnapshot) {
        self.newest.borrow_mut().insert(group, newest);
        self.answer(group, Ok(newest.index));
    }

    /// Tells those that wait for a snapshot of the group.
    fn answer(&self, group: GroupId, outcome: Result<LogIndex, NoSnapshot>) {
        let all = std::mem::take(&mut *self.waiting.borrow_mut());
        for (of, index, answer) in all {
            let reached = outcome.as_ref().is_ok_and(|&taken| taken < index);
            if of == group && !reached {
                answer(outcome.clone());
            } else {
                self.waiting.borrow_mut().push((of, index, answer));
            }
        }
    }

    /// Waits until no snapshot is under way, but not for ever.
    async fn wait(&self, limit: Duration) {
        let looks = limit.as_nanos() / LOOK_INTERVAL.as_nanos();
        for _ in 0..looks {
            sleep(LOOK_INTERVAL).await;
            if self.under_way.get() == 0 {
                return;
            }
        }
    }

    /// Runs something that must not keep the shard from its work.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let spawned = glommio::spawn_local_into(task, self.queue);
        spawned
            .expect("the queue was made on this executor")
            .detach();
    }
}

impl Executor {
    /// Takes a snapshot of what a group has applied, unless that is in one already.
    pub(super) fn ask_for_snapshot(&self, group: GroupId, answer: SnapshotAnswer) {
        let Some(status) = self.group_status(group) else {
            return answer(Err(NoSnapshot::Stopped));
        };
        if status.snapshot >= status.applied {
            return answer(Ok(status.snapshot));
        }
        let waiting = (group, status.applied, answer);
        self.taker.waiting.borrow_mut().push(waiting);
        let release = false;
        self.step(self.clock(), Input::TakeSnapshot { group, release });
    }

    /// Takes a snapshot of every group with news, before the node ends, as far as there is time.
    pub(super) async fn snapshot_at_close(&self) {
        let options = &self.config.snapshot;
        let failed = self.shard.borrow().disk().state == DiskState::Failed;
        if !options.at_close || failed {
            return;
        }
        let statuses = self.group_statuses();
        let news = statuses.iter().filter(|it| it.applied > it.snapshot);
        let groups: Vec<GroupId> = news.map(|status| status.group).collect();
        let missing = Arc::new(AtomicUsize::new(groups.len()));
        for group in groups {
            let missing = missing.clone();
            let answer = move |_| {
                missing.fetch_sub(1, Ordering::Relaxed);
            };
            self.ask_for_snapshot(group, Box::new(answer));
        }
        let until = self.origin.time().after(options.close_wait);
        while missing.load(Ordering::Relaxed) > 0 {
            if self.origin.time() >= until {
                let (shard, missing) = (self.index, missing.load(Ordering::Relaxed));
                tracing::warn!(
                    event = "snapshot.not_at_close",
                    shard,
                    missing,
                    "the next start replays more of the log"
                );
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the groups that hold the oldest segments of a log that has become too long, or for which there is
    /// no space, take snapshots, one after the other: each is synced several times, and flushes wait meanwhile.
    pub(super) async fn watch_log(self: Rc<Self>) {
        let mut asked: BTreeMap<GroupId, Time> = BTreeMap::new();
        loop {
            sleep(PRESSURE_INTERVAL).await;
            let kept = !self.config.delete_log_after_snapshot;
            let full = self.log.is_full();
            if kept || !full && self.log_bytes() <= self.log_bytes_target() {
                continue;
            }
            let now = self.origin.time();
            let owners = self.log.oldest_owners();
            let share = PRESSURE_RESTS / u32::try_from(owners.len()).unwrap_or(u32::MAX).max(1);
            let rest = PRESSURE_REST.min(share);
            for group in owners {
                // Something else may keep the segment: one after the other would not help.
                let last = asked.get(&group);
                if last.is_some_and(|at| now.since(*at) < PRESSURE_PAUSE) {
                    continue;
                }
                asked.insert(group, now);
                let release = true;
                self.step(self.clock(), Input::TakeSnapshot { group, release });
                self.taker.wait(PRESSURE_PAUSE).await;
                sleep(rest).await;
            }
        }
    }

    fn log_bytes_target(&self) -> u64 {
        let newest = self.taker.newest.borrow();
        let snapshots_bytes = newest.values().map(|newest| newest.bytes).sum();
        let groups = self.config.groups_of_shard(self.index).count();
        self.config.log_bytes_target(groups, snapshots_bytes)
    }

    /// Writes a snapshot that was begun.
    pub(super) fn take_snapshot(self: &Rc<Self>, begun: BegunSnapshot) {
        let under_way = &self.taker.under_way;
        under_way.set(under_way.get() + 1);
        self.taker.spawn(take(self.clone(), begun));
    }
}

async fn take(executor: Rc<Executor>, begun: BegunSnapshot) {
    let BegunSnapshot {
        group, index, term, ..
    } = begun;
    let shard = executor.index;
    let started = executor.origin.time();
    tracing::info!(event = "snapshot.begun", shard, %group, index = index.to_raw(), keys = begun.keys);
    executor.taker.written.borrow_mut().insert(group, 0);
    let outcome = write(&executor, begun).await;
    executor.taker.written.borrow_mut().remove(&group);
    let ms = executor.origin.millis_since(started);
    let input = match outcome {
        Ok(newest) => {
            let bytes = newest.bytes;
            tracing::info!(event = "snapshot.taken", shard, %group, index = index.to_raw(), bytes, ms);
            executor.taker.is_there(group, newest);
            executor.shard.borrow_mut().accounts_mut().snapshots_taken += 1;
            Input::SnapshotTaken { group, index, term }
        }
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(event = "snapshot.failed", shard, %group, index = index.to_raw(), %reason, ms);
            let failed = NoSnapshot::Failed { reason };
            executor.shard.borrow_mut().accounts_mut().snapshots_failed += 1;
            executor.taker.answer(group, Err(failed));
            Input::SnapshotFailed { group }
        }
    };
    let under_way = &executor.taker.under_way;
    under_way.set(under_way.get() - 1);
    executor.step(executor.clock(), input);
}

async fn write(executor: &Executor, begun: BegunSnapshot) -> Result<NewestSnapshot, TakeError> {
    let group = begun.group;
    let header = header(executor, &begun);
    if executor.log.is_full() {
        let newest = executor.taker.newest.borrow();
        let likely_bytes = newest.get(&group).map_or(0, |newest| newest.bytes);
        // It may have become smaller since.
        executor.snapshots.check_space(likely_bytes / 2)?;
    }
    let mut writer = executor.snapshots.begin(&header).await?;
    let held_bytes_max = executor.config.snapshot.memory_bytes_max;
    let mut held_bytes = 0;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let bytes = match held_bytes > held_bytes_max / 2 {
            // Faster, before it has to be given up.
            true => 4 * CHUNK_BYTES,
            false => CHUNK_BYTES,
        };
        let taken = (executor.shard.borrow_mut()).snapshot_chunk(group, bytes, &mut chunk);
        let taken = taken.ok_or(TakeError::Replaced)?;
        held_bytes = taken.held_bytes;
        if held_bytes > held_bytes_max {
            return Err(TakeError::Held {
                held_bytes,
                held_bytes_max,
            });
        }
        if !chunk.is_empty() {
            writer.write(&chunk).await?;
            let mut written = executor.taker.written.borrow_mut();
            *written.entry(group).or_default() += chunk.len() as u64;
        }
        if !taken.more {
            break;
        }
        glommio::executor().yield_task_queue_now().await;
    }
    let summary = writer.finish().await?;
    Ok(NewestSnapshot::of(&header, &summary))
}

fn header(executor: &Executor, begun: &BegunSnapshot) -> Header {
    let config = &executor.config;
    let (since, membership) = &begun.membership;
    Header {
        compression: config.snapshot.compression,
        cluster: config.cluster.id.clone(),
        instance: executor.instance,
        group: begun.group,
        index: begun.index,
        term: begun.term,
        membership: Membership::of(*since, membership),
        machine: machine::KV,
        items: begun.keys,
        created_unix_ms: begun.unix_ms,
    }
}
