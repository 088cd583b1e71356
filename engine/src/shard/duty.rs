//! What the disk means for a group here: when to let another lead, and what to refuse.

use net::ErrorReply;
use wal::ReplicaId;

use super::disk::Disk;
use super::group::Group;
use super::{Options, Outcome, Output};
use crate::raft::{Mode, Pace, Progress, Role};
use crate::time::{Clock, Time};

/// Election timeouts for which a disk must be slow before it costs a leadership.
const SLOW_FOR: u32 = 2;
/// Election timeouts between two attempts to hand over.
const RETRY_AFTER: u32 = 10;

/// What a group knows of its shard's disk.
#[derive(Debug, Default)]
pub(super) struct Duty {
    /// The disk has failed.
    pub(super) retired: bool,
    pub(super) full: bool,
    /// Since when this leader's disk is full or far slower than that of a peer who could lead.
    worse_since: Option<Time>,
    /// Not before is a leadership handed over again.
    retry_at: Time,
}

impl Duty {
    /// The outcome of a request that found no leader in time.
    pub(super) fn nobody_leads(&self) -> Outcome {
        if self.retired {
            Outcome::Reply(ErrorReply::DiskFailed.into())
        } else {
            Outcome::NoLeader
        }
    }
}

impl Group {
    /// The disk has failed: hands over what it leads, or steps down if nobody can take it.
    pub(super) fn retire(&mut self, disk: &mut Disk, out: &mut Output) {
        self.duty.retired = true;
        self.raft.set_disk(Pace::FAILED);
        if self.raft.role() == Role::Leader {
            self.hand_over(None);
            if self.raft.transferring().is_some() {
                disk.handed_over();
            } else {
                self.raft.step_down();
            }
        }
        self.address(out);
    }

    /// The disk has no space any more, or has some again. What was taken and is still open is refused.
    pub(super) fn set_full(&mut self, full: bool, out: &mut Output) {
        self.duty.full = full;
        self.duty.worse_since = None;
        self.duty.retry_at = Time::default();
        if full {
            self.writes.refuse_open(&ErrorReply::DiskFull, out);
        } else {
            self.retry_snapshot();
        }
    }

    /// Why this leader takes no request of this kind: the disks of too many have no room. What was
    /// proposed could not be committed, and would have an unknown outcome.
    pub(super) fn refusal(&self, write: bool) -> Option<ErrorReply> {
        if !write {
            return None;
        }
        if self.duty.full {
            return Some(ErrorReply::DiskFull);
        }
        let voters = self.raft.members().voters.len();
        let (mut full, mut failed) = (0, 0);
        for (_, progress) in self.voters() {
            full += usize::from(progress.disk() == Pace::FULL);
            failed += usize::from(progress.disk().has_failed());
        }
        if voters - full - failed > voters / 2 {
            return None;
        }
        Some(if full > 0 {
            ErrorReply::DiskFull
        } else {
            ErrorReply::DiskFailed
        })
    }

    /// Transfers leadership, to the most up-to-date replica if none is named.
    pub(super) fn hand_over(&mut self, to: Option<ReplicaId>) {
        if let Some(to) = to.or_else(|| self.successor(|progress| !progress.disk().has_failed())) {
            self.raft.transfer(to, &mut self.outbox);
        }
    }

    /// The most up-to-date voter that keeps up and fits; one whose disk has room before others.
    pub(super) fn successor(&self, fits: impl Fn(&Progress) -> bool) -> Option<ReplicaId> {
        let voters = self.voters();
        let able =
            voters.filter(|(_, progress)| progress.mode == Mode::Replicate && fits(progress));
        able.max_by_key(|(_, progress)| (progress.disk().has_room(), progress.matched))
            .map(|&(id, _)| id)
    }

    /// What a leader knows of the other voters.
    pub(super) fn voters(&self) -> impl Iterator<Item = &(ReplicaId, Progress)> {
        let voters = &self.raft.members().voters;
        let progress = self.raft.progress().iter();
        progress.filter(|(id, _)| voters.contains(id))
    }

    /// Lets another lead if the disk here has failed, is full, or has been far slower for a while.
    pub(super) fn mind_disk(&mut self, options: &Options, clock: Clock, disk: &mut Disk) {
        if self.raft.role() != Role::Leader {
            self.duty.worse_since = None;
            return;
        }
        if self.raft.transferring().is_some() {
            return;
        }
        if disk.has_failed() {
            // It was handed over once, in vain: others elect whom they can.
            self.raft.step_down();
            return;
        }
        let now = clock.now;
        let keeps_up = |progress: &Progress| progress.matched >= self.raft.commit();
        let better = if disk.is_full() {
            self.successor(|progress| keeps_up(progress) && progress.disk().has_room())
        } else {
            self.successor(|progress| {
                keeps_up(progress)
                    && progress.disk() != Pace::UNKNOWN
                    && disk.is_slow_beside(progress.disk(), now)
            })
        };
        let Some(better) = better else {
            self.duty.worse_since = None;
            return;
        };
        let since = *self.duty.worse_since.get_or_insert(now);
        // What peers said of their disks is as old as a heartbeat.
        let wait = if disk.is_full() {
            options.heartbeat_interval * 2
        } else {
            options.election_timeout * SLOW_FOR
        };
        if now.since(since) >= wait && now >= self.duty.retry_at {
            self.duty.worse_since = None;
            self.duty.retry_at = now.after(options.election_timeout * RETRY_AFTER);
            disk.handed_over();
            self.hand_over(Some(better));
        }
    }
}
