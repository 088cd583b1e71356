//! A group's snapshots: when one is due, what it lets go of the log, and the change to a peer's state
//! where the log cannot help any more.

use alloc::vec::Vec;

use wal::{Claim, LogIndex, Record, RecoveredLog, Term};

use super::group::{Group, node_of};
use super::{BegunSnapshot, FetchSnapshot, Output, Snapshot, SnapshotChunk, SnapshotPolicy};
use crate::state_machine::StateMachine;
use crate::time::{Clock, Time};

/// While a follower takes a snapshot, the next one is due after so many times as much as else.
const PATIENCE: u64 = 4;
/// On a full disk one that failed is tried again after so many times as long: it may have written a lot.
const FULL_PATIENCE: u32 = 3;

/// What a group knows of its snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Entries applied since the newest was begun, and bytes of their payload.
    entries: u64,
    bytes: u64,
    /// Bytes of the chunks of the newest that was taken to its end, and of the one that is being taken.
    size: u64,
    taken: u64,
    /// When the newest was begun, or the group started.
    since: Time,
    retry_at: Time,
    /// Somebody wants one now.
    asked: bool,
    /// The newest cannot be read: another of the same state is not one too many.
    lost: bool,
    /// All that the newest holds is to leave the log.
    release: bool,
    /// From where to where what the log still holds is to be written anew, so that the segments that
    /// it lies in can go.
    carry: Option<(LogIndex, LogIndex)>,
    /// The last entry of the one that is being taken.
    taking: Option<(LogIndex, Term)>,
    /// The last entry of the one that a peer was asked for.
    fetching: Option<LogIndex>,
}

impl Snapshots {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            since: clock.now,
            ..Self::default()
        }
    }

    pub(super) fn applied(&mut self, payload_bytes: usize) {
        self.entries += 1;
        self.bytes += payload_bytes as u64;
    }

    pub(super) fn fetching(&self) -> Option<LogIndex> {
        self.fetching
    }

    /// When time alone makes one due.
    fn due_at(&self, policy: &SnapshotPolicy) -> Option<Time> {
        if self.asked {
            return Some(self.retry_at);
        }
        let due = self.since.after(policy.interval);
        (self.entries > 0 && !policy.interval.is_zero()).then(|| due.max(self.retry_at))
    }
}

impl Group {
    pub(super) fn ask_for_snapshot(&mut self, release: bool) {
        self.snapshots.asked = true;
        self.snapshots.release |= release;
        if release {
            self.raft.compact(self.raft.snapshot().0);
            // What is not committed stays. Without a quorum that may be for ever.
            let (floor, last) = (self.raft.log().floor().0, self.raft.log().persisted());
            let carry = self.applied == self.raft.snapshot().0 && floor < last;
            self.snapshots.carry = carry.then(|| (floor.next(), last));
        } else {
            // Somebody waits for the answer, also if it is that there is no room.
            self.retry_snapshot();
        }
    }

    /// Entries that are to be written once more: about `bytes_max` of payload of durable ones, as far
    /// as they are in memory.
    pub(super) fn take_carried(&mut self, bytes_max: usize) -> Vec<Record> {
        let Some((from, to)) = self.snapshots.carry.take() else {
            return Vec::new();
        };
        let log = self.raft.log();
        let (from, to) = (from.max(log.floor().0.next()), to.min(log.persisted()));
        let entries = if from <= to {
            log.slice(from, to, bytes_max).unwrap_or_default()
        } else {
            Vec::new()
        };
        if let Some(last) = entries.last().filter(|last| last.index < to) {
            self.snapshots.carry = Some((last.index.next(), to));
        }
        let group = self.id;
        let patch = |entry| Record::Patch { group, entry };
        entries.into_iter().map(patch).collect()
    }

    pub(super) fn has_carried(&self) -> bool {
        self.snapshots.carry.is_some()
    }

    pub(super) fn snapshot_lost(&mut self) {
        self.snapshots.asked = true;
        self.snapshots.lost = true;
    }

    /// Whether a snapshot is to be taken now.
    pub(super) fn is_snapshot_due(&mut self, policy: &SnapshotPolicy, clock: Clock) -> bool {
        let Snapshots {
            entries,
            bytes,
            retry_at,
            ..
        } = self.snapshots;
        let newest = self.raft.snapshot().0;
        let again = self.snapshots.lost && self.applied == newest;
        let news = self.applied > newest || again;
        self.snapshots.asked &= news;
        self.snapshots.release &= news;
        let reached = |count: u64, limit: u64| limit > 0 && count >= limit;
        let due = self.snapshots.asked
            || reached(entries, policy.entries)
            || reached(bytes, policy.bytes) && bytes / 2 >= self.snapshots.size
            || self
                .snapshots
                .due_at(policy)
                .is_some_and(|at| at <= clock.now);
        // One that a follower is taking would leave before it has it. But it may never have it: the file
        // may have rotted.
        let outgrown = reached(entries / PATIENCE, policy.entries)
            || reached(bytes / PATIENCE, policy.bytes)
                && bytes / PATIENCE / 2 >= self.snapshots.size;
        let free = self.snapshots.taking.is_none();
        let wanted = outgrown || self.snapshots.asked;
        let free = free && (wanted || !self.raft.is_serving_snapshot());
        // While the disk is full only one that somebody asked for, because it may make space.
        let barred = self.duty.retired || self.duty.full && !self.snapshots.asked;
        due && news && free && clock.now >= retry_at && !barred
    }

    /// When a snapshot may become due although nothing happens.
    pub(super) fn snapshot_due_at(&self, policy: &SnapshotPolicy) -> Option<Time> {
        self.snapshots.due_at(policy)
    }

    pub(super) fn begin_snapshot(&mut self, clock: Clock, out: &mut Output) {
        let index = self.applied;
        let term = self.raft.log().term(index);
        let term = term.expect("what is applied is not below the floor");
        let (since, membership) = self.raft.membership_at(index);
        self.kv.snapshot_begin();
        self.snapshots = Snapshots {
            since: clock.now,
            entries: 0,
            bytes: 0,
            asked: false,
            lost: false,
            taken: 0,
            taking: Some((index, term)),
            ..self.snapshots
        };
        out.snapshots.push(BegunSnapshot {
            group: self.id,
            index,
            term,
            keys: self.kv.keys(),
            unix_ms: clock.unix_ms,
            membership: (since, membership.clone()),
        });
    }

    /// Takes a chunk of the snapshot that was begun; `None` if there is none any more.
    pub(super) fn snapshot_chunk(
        &mut self,
        bytes_about: usize,
        to: &mut Vec<u8>,
    ) -> Option<SnapshotChunk> {
        self.snapshots.taking?;
        let before = to.len();
        let more = self.kv.snapshot_next(bytes_about, to);
        self.snapshots.taken += (to.len() - before) as u64;
        let held_bytes = self.kv.snapshot_held_bytes();
        Some(SnapshotChunk { more, held_bytes })
    }

    pub(super) fn snapshot_failed(&mut self, policy: &SnapshotPolicy, clock: Clock) {
        self.kv.snapshot_abort();
        self.snapshots.asked |= self.snapshots.taking.take().is_some();
        let patience = if self.duty.full { FULL_PATIENCE } else { 1 };
        self.snapshots.retry_at = clock.now.after(policy.retry_after * patience);
    }

    pub(super) fn snapshot_taken(
        &mut self,
        policy: &SnapshotPolicy,
        (index, term): (LogIndex, Term),
    ) {
        self.snapshots.taking = None;
        self.snapshots.size = self.snapshots.taken;
        let (newest, _) = self.raft.snapshot();
        if index <= newest {
            return; // a peer's was installed meanwhile
        }
        let release = core::mem::take(&mut self.snapshots.release);
        let release = release || self.duty.full || !policy.keeps_previous;
        self.raft.snapshot_taken(index, term);
        if policy.keeps_log {
            return;
        }
        self.raft.compact(if release { index } else { newest });
    }

    /// Asks for a peer's snapshot, if one was offered that is needed.
    pub(super) fn fetch_snapshot(&mut self, out: &mut Output) {
        if self.snapshots.fetching.is_some() {
            return;
        }
        let Some(offer) = self.raft.take_offer() else {
            return;
        };
        self.snapshots.fetching = Some(offer.index);
        out.fetches.push(FetchSnapshot {
            group: self.id,
            from: node_of(offer.from),
            index: offer.index,
            term: offer.term,
        });
    }

    /// There is space again: nothing has to be waited for.
    pub(super) fn retry_snapshot(&mut self) {
        self.snapshots.retry_at = Time::default();
    }

    pub(super) fn snapshot_not_fetched(&mut self) {
        self.snapshots.fetching = None;
    }

    /// A peer's snapshot is durable here.
    pub(super) fn install(&mut self, clock: Clock, snapshot: Snapshot, out: &mut Output) {
        self.snapshots.fetching = None;
        let Snapshot {
            index,
            term,
            state,
            membership,
        } = snapshot;
        let outbox = &mut self.outbox;
        if self.raft.install(index, term, membership, outbox) {
            assert!(index > self.applied, "nothing is applied before its commit");
            self.kv = state;
            self.applied = index;
            self.expiry_proposed = None;
            self.writes.overtaken_by_snapshot(index, out);
            self.snapshots = Snapshots {
                retry_at: self.snapshots.retry_at,
                ..Snapshots::new(clock)
            };
        }
        self.address(out);
    }
}

/// What is left of a log of which the first entries are in a snapshot that is lost: nothing that can be
/// built upon, but what was acknowledged is still known. `start` is what state there is.
pub(super) fn without_state(log: RecoveredLog, start: (LogIndex, Term)) -> RecoveredLog {
    let last_term = log.terms.last().map_or(log.floor.1, |&(_, term)| term);
    let mut damage = log.damage.unwrap_or_default();
    if damage.claim.is_none() {
        damage.claim = Some(Claim {
            index: Some(log.last),
            term: last_term,
        });
        damage.named = true;
    }
    damage.gap_ends.insert(0, log.floor);
    damage.committed = damage.committed.max(log.hard_state.commit).max(log.floor.0);
    let mut spares = log.tail;
    spares.extend(damage.spares);
    damage.spares = spares;
    let mut hard_state = log.hard_state;
    hard_state.commit = hard_state.commit.min(start.0);
    RecoveredLog {
        hard_state,
        floor: start,
        terms: Vec::new(),
        last: start.0,
        tail: Vec::new(),
        memberships: Vec::new(),
        damage: Some(damage),
    }
}
