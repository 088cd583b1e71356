//! One shard's groups, driven as a function: inputs in, disk operations, messages and replies out.
//!
//! [`Shard::step`] takes one input, [`Shard::settle`] ends a burst of them. Equal states given equal
//! inputs yield equal outputs: there is no clock, no randomness and no I/O in here.

mod accounts;
mod appends;
mod disk;
mod duty;
mod flushes;
mod group;
mod interface;
mod pulse;
mod reads;
mod set;
mod snapshots;
mod unsettled;
mod waiting;
mod writes;

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use wal::{FlushNumber, GroupId, LogIndex, NodeId};

use net::ErrorReply;

use crate::raft::{Change, ChangeError, Message};
use crate::time::{Clock, Time};
use disk::Disk;
use group::Group;
use pulse::{Peace, Pulse};
use set::GroupSet;

pub use accounts::{Accounts, Histogram, Stage};
pub use appends::Appends;
pub use interface::{
    BegunSnapshot, DiskState, DiskStatus, FetchSnapshot, Flush, GroupNews, GroupOptions,
    GroupStatus, Input, Member, NewMembership, Options, Outcome, Output, ReadLog, Snapshot,
    SnapshotChunk, SnapshotPolicy, Token,
};

/// Of the memory for entries, the part for those that no follower lacks: a megabyte of 64. Whoever becomes the
/// leader has the newest at hand; more would only push what is worked on out of the processor's caches.
const SPARE_SHARE: usize = 64;

/// How long a shard leaves its thread to others between turns that it could do at once.
const REST: Duration = Duration::from_micros(50);

/// The groups of one thread, and the one log they share.
pub struct Shard {
    options: Options,
    /// Sorted by id.
    groups: Vec<Group>,
    /// Theirs, closer together.
    ids: Vec<GroupId>,
    clock: Clock,
    next_flush: FlushNumber,
    /// The group that the next flush serves first: the last one had no room for it.
    flush_first: usize,
    /// Flushes on their way to the disk, and the groups whose records they hold.
    under_way: VecDeque<(FlushNumber, Vec<usize>)>,
    /// Groups to look at when the burst ends.
    dirty: GroupSet,
    /// Groups that have a batch to seal. They are looked at when there is a flush, not before.
    unsealed: GroupSet,
    /// Groups that have something for a flush.
    unflushed: GroupSet,
    /// Payload that waits for a flush, as counted when something last happened to its groups.
    unflushed_bytes: usize,
    /// Groups whose followers are not told of a commit.
    untold: GroupSet,
    /// When to look at a group although nothing happens: at its deadline or, if that moved on, before.
    timers: BTreeSet<(Time, usize)>,
    /// When to write the mark behind the last flush; `None` while there is nothing to mark.
    mark_at: Option<Time>,
    draining: bool,
    disk: Disk,
    pulse: Pulse,
    /// Memory that the data of all groups takes, roughly.
    data_bytes: u64,
    /// Payload of all groups' entries in memory.
    cached_bytes: usize,
    /// What each group may keep of them although no follower lacks it.
    spare_max: usize,
    /// The leader of each group, and whether something is missing, as last told.
    told: Vec<(Option<NodeId>, bool)>,
    /// Groups that want to take a snapshot.
    snapshots_due: BTreeSet<usize>,
    /// The group whose snapshot is being taken.
    snapshotting: Option<usize>,
    accounts: Accounts,
}

impl Shard {
    /// A shard as it was when it stopped. `next_flush` is the number of its log's next flush.
    pub fn new(
        options: Options,
        clock: Clock,
        mut groups: Vec<GroupOptions>,
        next_flush: FlushNumber,
    ) -> Self {
        assert!(
            options.flushes_in_flight_max > 0,
            "no flush could ever be written"
        );
        assert!(
            next_flush > FlushNumber::ZERO,
            "flushes are numbered from 1"
        );
        groups.sort_by_key(|group| group.group);
        let groups: Vec<_> = groups
            .into_iter()
            .map(|group| Group::new(&options, clock, group))
            .collect();
        let mut shard = Self {
            dirty: GroupSet::new(groups.len()),
            unsealed: GroupSet::new(groups.len()),
            unflushed: GroupSet::new(groups.len()),
            unflushed_bytes: 0,
            untold: GroupSet::new(groups.len()),
            timers: BTreeSet::new(),
            under_way: VecDeque::new(),
            mark_at: (next_flush.to_raw() > 1).then(|| clock.now.after(options.mark_after)),
            draining: false,
            disk: Disk::new(&options),
            pulse: Pulse::new(groups.len()),
            data_bytes: 0,
            cached_bytes: 0,
            spare_max: options.cache_bytes / SPARE_SHARE / groups.len().max(1),
            told: groups.iter().map(|_| (None, false)).collect(),
            snapshots_due: BTreeSet::new(),
            snapshotting: None,
            accounts: Accounts::default(),
            options,
            ids: groups.iter().map(|group| group.id).collect(),
            groups,
            clock,
            next_flush,
            flush_first: 0,
        };
        shard.touch_all();
        shard
    }

    /// Advances the groups by one input. `out` is appended to, not cleared.
    pub fn step(&mut self, clock: Clock, input: Input<'_>, out: &mut Output) {
        self.advance(clock);
        match input {
            Input::Request {
                group,
                token,
                command,
            } => match self.position(group) {
                Some(at) => {
                    let limit = self.options.data_bytes_max;
                    if limit > 0
                        && self.data_bytes > limit
                        && command.may_grow()
                        && self.groups[at].leads()
                    {
                        let refusal = Outcome::Reply(ErrorReply::DataFull.into());
                        return out.replies.push((token, refusal));
                    }
                    self.groups[at].request(&self.options, clock, token, &command, out);
                    self.touched(at);
                }
                None => out.replies.push((token, Outcome::NoLeader)),
            },
            Input::Message {
                from,
                group,
                message,
            } => {
                self.pulse.hear(from, clock.now);
                if let Message::Pulse { groups } = message {
                    let disproved = self.pulse.disproved(from, groups);
                    self.wake(disproved);
                } else if let Some(at) = self.position(group) {
                    if let Message::Heartbeat { .. } = message {
                        self.tell_disk(at);
                    }
                    self.tell_heard(at);
                    let appends = &mut self.accounts.appends;
                    appends.received(from, group, &message, clock.now);
                    self.groups[at].message(clock, from, message, out);
                    self.touched(at);
                }
            }
            Input::Written { flush } => self.written(flush, out),
            Input::WriteFailed { flush } => {
                assert!(flush < self.next_flush, "flush {flush} was never asked for");
                self.fail(out);
            }
            Input::ReadFailed => self.fail(out),
            Input::Space { full } => self.space(full, out),
            Input::Log { group, entries } => {
                if let Some(at) = self.position(group) {
                    self.groups[at].fetched(entries, out);
                    self.dirty.insert(at);
                }
            }
            Input::SnapshotTaken { group, index, term } => {
                if let Some(at) = self.position(group) {
                    self.snapshotting = self.snapshotting.filter(|&taking| taking != at);
                    self.groups[at].snapshot_taken(&self.options.snapshots, (index, term));
                    self.dirty.insert(at);
                }
            }
            Input::SnapshotFailed { group } => {
                if let Some(at) = self.position(group) {
                    self.snapshotting = self.snapshotting.filter(|&taking| taking != at);
                    self.groups[at].snapshot_failed(&self.options.snapshots, clock);
                    self.dirty.insert(at);
                }
            }
            Input::SnapshotFetched { group, snapshot } => {
                if let Some(at) = self.position(group) {
                    self.groups[at].install(clock, snapshot, out);
                    self.dirty.insert(at);
                }
            }
            Input::SnapshotNotFetched { group } => {
                if let Some(at) = self.position(group) {
                    self.groups[at].snapshot_not_fetched();
                    self.dirty.insert(at);
                }
            }
            Input::TakeSnapshot { group, release } => {
                if let Some(at) = self.position(group) {
                    let release = release && !self.options.snapshots.keeps_log;
                    self.groups[at].ask_for_snapshot(release);
                    self.dirty.insert(at);
                }
            }
            Input::SnapshotLost { group } => {
                if let Some(at) = self.position(group) {
                    self.groups[at].snapshot_lost();
                    self.dirty.insert(at);
                }
            }
            Input::Wake => {
                while let Some(&(time, at)) = self.timers.first() {
                    if time > clock.now {
                        break;
                    }
                    self.timers.pop_first();
                    self.groups[at].timer = None;
                    let (disk, draining) = (&mut self.disk, self.draining);
                    self.groups[at].tick(&self.options, clock, draining, disk, out);
                    self.dirty.insert(at);
                }
            }
            Input::Transfer { group, to } => {
                if let Some(at) = self.position(group) {
                    self.groups[at].wake(clock.now);
                    self.groups[at].transfer(to, out);
                    self.dirty.insert(at);
                }
            }
            Input::Drain => {
                self.draining = true;
                for group in &mut self.groups {
                    group.wake(clock.now);
                    group.transfer(None, out);
                }
                self.touch_all();
            }
        }
    }

    /// Ends a burst of inputs: seals open batches if the log can take a flush, applies what is
    /// committed, and says what is to be done next. Call after every burst, and take what it says: messages that
    /// are still there when the next one ends are counted as sent again.
    pub fn settle(&mut self, clock: Clock, out: &mut Output) {
        self.settle_watched(clock, out, &mut |_| {});
    }

    /// The same, for somebody who looks at a clock: `lap` is called whenever a stretch of work ends, with
    /// the stage that it belongs to; `None` if to no stage.
    pub fn settle_watched(
        &mut self,
        clock: Clock,
        out: &mut Output,
        lap: &mut dyn FnMut(Option<Stage>),
    ) {
        self.advance(clock);
        let may_flush = !self.disk.has_failed() && self.is_flush_worth_it();
        if may_flush {
            self.dirty.unite(&self.unsealed);
        }
        let (mut from, mut goes_on) = (0, None);
        while let Some(at) = self.dirty.next(from) {
            from = at + 1;
            self.settle_group(at, clock, may_flush, out, lap);
            if self.groups[at].has_answers_left() {
                goes_on = Some(clock.now.after(REST));
            } else {
                self.dirty.remove(at);
            }
        }
        if may_flush {
            self.flush(out);
        }
        if self.under_way.is_empty() {
            self.tell_commits(out);
        }
        self.begin_snapshot(out);
        self.give_pulse(out);
        self.count_appends(out);
        let next = self.timers.first().map(|&(time, _)| time);
        // While a flush is on its way its end is waited for, not the time of the mark.
        let mark = self.mark_at.filter(|_| self.under_way.is_empty());
        out.wake_at = [next, mark, self.pulse.due, goes_on]
            .into_iter()
            .flatten()
            .min();
    }

    fn settle_group(
        &mut self,
        at: usize,
        clock: Clock,
        may_flush: bool,
        out: &mut Output,
        lap: &mut dyn FnMut(Option<Stage>),
    ) {
        let cache_max = self.cache_max();
        let group = &mut self.groups[at];
        group.raft.evict(group.applied, cache_max, self.spare_max);
        group.settle(&self.options, clock, may_flush, out, lap);
        group.account(clock.now, &mut self.accounts);
        if group.is_snapshot_due(&self.options.snapshots, clock) {
            self.snapshots_due.insert(at);
        }
        self.data_bytes = self.data_bytes + group.data_bytes() - group.data_bytes_counted;
        group.data_bytes_counted = group.data_bytes();
        self.note_standing(at, &mut out.news);
        let group = &mut self.groups[at];
        // Deadlines mostly move on: the timer that is set rings too early, and finds the later one.
        let deadline = group.deadline(&self.options, clock);
        if deadline < group.timer.unwrap_or(Time::NEVER) {
            if let Some(old) = group.timer.replace(deadline) {
                self.timers.remove(&(old, at));
            }
            self.timers.insert((deadline, at));
        }
        self.count_unflushed(at);
        self.note_untold(at);
    }

    /// Payload that one group may keep in memory: all there is room for, until it becomes short.
    pub(super) fn cache_max(&self) -> usize {
        let max = self.options.cache_bytes;
        if self.cached_bytes > max {
            max / self.groups.len()
        } else {
            max
        }
    }

    /// Tells followers of commits that nothing carried to them. While flushes are on their way, more of the
    /// same groups is about to be sent; if not, the next heartbeat carries it.
    fn tell_commits(&mut self, out: &mut Output) {
        let mut from = 0;
        while let Some(at) = self.untold.next(from) {
            from = at + 1;
            self.groups[at].tell_commit(out);
        }
        self.untold.clear();
    }

    /// Tells other nodes that this one lives, for the sake of quiet groups, and looks whether they do.
    fn give_pulse(&mut self, out: &mut Output) {
        let now = self.clock.now;
        if self.pulse.due.is_none_or(|due| due > now) {
            return;
        }
        self.pulse.due = Some(now.after(self.options.heartbeat_interval));
        let own = self.options.node;
        for (node, groups) in self.pulse.led().filter(|&(node, _)| node != own) {
            let pulse = Message::Pulse { groups };
            out.messages
                .push((node, GroupId::from_raw(u32::MAX), pulse));
        }
        let silent = self.pulse.silent(now, self.options.election_timeout);
        self.wake(silent);
    }

    fn wake(&mut self, groups: Vec<usize>) {
        for at in groups {
            self.tell_heard(at);
            self.groups[at].wake(self.clock.now);
            self.dirty.insert(at);
        }
    }

    /// Lets a replica know when its leader's node was last heard.
    fn tell_heard(&mut self, at: usize) {
        if let Peace::Follows(leader) = self.groups[at].peace() {
            let heard = self.pulse.heard(leader);
            self.groups[at].raft.heard_elsewhere(heard);
        }
    }

    fn count_appends(&mut self, out: &Output) {
        if self.accounts.counts_only {
            return;
        }
        for message in &out.messages {
            let (appends, now) = (&mut self.accounts.appends, self.clock.now);
            appends.sent(message, now, self.options.election_timeout);
        }
    }

    /// Begins the next snapshot that is due, unless one is under way.
    fn begin_snapshot(&mut self, out: &mut Output) {
        while self.snapshotting.is_none()
            && let Some(at) = self.snapshots_due.pop_first()
        {
            let group = &mut self.groups[at];
            if group.is_snapshot_due(&self.options.snapshots, self.clock) {
                group.begin_snapshot(self.clock, out);
                self.snapshotting = Some(at);
            }
        }
    }

    /// Appends the next chunk of the snapshot of a group that was begun, of about as many bytes. `None`
    /// if it is no longer wanted.
    pub fn snapshot_chunk(
        &mut self,
        group: GroupId,
        bytes_about: usize,
        to: &mut Vec<u8>,
    ) -> Option<SnapshotChunk> {
        let at = self.position(group)?;
        self.groups[at].snapshot_chunk(bytes_about, to)
    }

    /// Changes who is in a group that is led here. The entry that makes the change counts at once, and is
    /// done when it is committed: see [`GroupStatus::members_since`]. Call [`Shard::settle`] after it.
    pub fn change_members(
        &mut self,
        group: GroupId,
        change: &Change,
        out: &mut Output,
    ) -> Result<LogIndex, ChangeError> {
        let at = self.position(group).ok_or(ChangeError::NotLeader)?;
        let changed = self.groups[at].change(change, out);
        self.dirty.insert(at);
        changed
    }

    /// The disk has failed: nothing is promised any more, and others lead.
    fn fail(&mut self, out: &mut Output) {
        if self.disk.has_failed() {
            return;
        }
        self.disk.fail();
        self.under_way.clear();
        self.mark_at = None;
        for group in &mut self.groups {
            group.wake(self.clock.now);
            group.retire(&mut self.disk, out);
        }
        self.touch_all();
    }

    /// The disk has no space any more, or has some again.
    fn space(&mut self, full: bool, out: &mut Output) {
        if !self.disk.has_failed() && self.disk.set_full(full, self.clock.now) {
            for group in &mut self.groups {
                group.wake(self.clock.now);
                group.set_full(full, out);
            }
            self.touch_all();
        }
    }

    /// Lets a replica know what to tell of the disk.
    fn tell_disk(&mut self, at: usize) {
        if !self.disk.has_failed() {
            let pace = self.disk.pace(self.clock.now);
            self.groups[at].raft.set_disk(pace);
        }
    }

    /// Lets every group be looked at when the burst ends.
    fn touch_all(&mut self) {
        (0..self.groups.len()).for_each(|at| self.dirty.insert(at));
    }

    fn advance(&mut self, clock: Clock) {
        assert!(
            clock.now >= self.clock.now,
            "time ran backwards: {clock:?}, {:?}",
            self.clock
        );
        self.clock = clock;
    }

    fn position(&self, group: GroupId) -> Option<usize> {
        // Shards share the groups evenly, so their ids are mostly as far apart as the first two.
        let id = |at: usize| self.ids.get(at).map(|id| id.to_raw());
        let (first, next) = (id(0)?, id(1).unwrap_or(u32::MAX));
        let steps = group.to_raw().checked_sub(first)? / (next - first).max(1);
        let likely = usize::try_from(steps).ok()?;
        match self.ids.get(likely) {
            Some(&id) if id == group => Some(likely),
            _ => self.ids.binary_search(&group).ok(),
        }
    }

    /// The node that leads a group, as far as known here; maybe this one.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.groups[self.position(group)?].leader()
    }

    /// What there is to know about each group.
    pub fn status(&self) -> Vec<GroupStatus> {
        self.groups.iter().map(Group::status).collect()
    }

    /// What there is to know about one group; `None` if it is not here.
    pub fn group_status(&self, group: GroupId) -> Option<GroupStatus> {
        Some(self.groups[self.position(group)?].status())
    }

    /// What there is to know about the disk.
    pub fn disk(&self) -> DiskStatus {
        self.disk.status(self.clock.now)
    }

    /// What this shard did since it was made.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The same, for what only its driver knows.
    pub fn accounts_mut(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    /// How far a group has applied its log, and the hash of the state that led to.
    pub fn hash(&self, group: GroupId) -> Option<(LogIndex, u64)> {
        Some(self.groups[self.position(group)?].hash())
    }
}
