//! One group on this shard: its replica, its state, and the requests that wait for either.

use alloc::vec::Vec;
use core::time::Duration;

use net::Reply;
use wal::{Entry, EntryKind, GroupId, LogIndex, NodeId, ReplicaId, Term};

use super::accounts::{Accounts, Stage};
use super::disk::Disk;
use super::duty::Duty;
use super::pulse::Peace;
use super::reads::Reads;
use super::snapshots::{Snapshots, without_state};
use super::waiting::Waiting;
use super::writes::Writes;
use super::{GroupOptions, GroupStatus, Options, Outcome, Output, ReadLog};
use crate::batch::Batch;
use crate::epoch;
use crate::kv::Kv;
use crate::raft::{
    Change, ChangeError, Log, Members, Message, Mode, Outbox, Raft, Role, Settings, Standing,
    Window,
};
use crate::state_machine::{StateMachine, TURN_ANSWERS_BYTES};
use crate::time::{Clock, Time};

/// Payload asked for in one read of the log.
const READ_BYTES: usize = 1 << 20;

/// One group.
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) raft: Raft,
    /// The entry in the shard's timers.
    pub(super) timer: Option<Time>,
    pub(super) node: NodeId,
    /// The entry that made the newest membership that is noted, or is about to be.
    pub(super) noted: (LogIndex, Term),
    preferred: Option<NodeId>,
    /// Which of the members that one was when the group was created.
    turn: usize,
    pub(super) kv: Kv,
    /// As the shard has counted it.
    pub(super) data_bytes_counted: u64,
    /// The same, of entries in memory, and of what waits for a flush.
    pub(super) cached_bytes_counted: usize,
    pub(super) waiting_bytes_counted: usize,
    pub(super) applied: LogIndex,
    pub(super) writes: Writes,
    pub(super) reads: Reads,
    pub(super) waiting: Waiting,
    /// Messages of the replica, not yet addressed to nodes.
    pub(super) outbox: Outbox,
    replies: Vec<Reply>,
    /// A [`ReadLog`] is under way.
    fetching: bool,
    pub(super) snapshots: Snapshots,
    /// An entry that only carries time, so that keys expire, is under way.
    pub(super) expiry_proposed: Option<LogIndex>,
    /// When to consider handing over to the preferred node; `None` while another leads.
    balance_at: Option<Time>,
    draining: bool,
    /// Its disk, and what follows from that for its part in the group.
    pub(super) duty: Duty,
    /// Commands of the batches that were sealed, and how long each was open; not yet in the accounts.
    sealed: Vec<(usize, Duration)>,
    /// How often a leader was found, the one before or another.
    pub(super) leader_changes: u64,
    /// How the replica stood when the group was last looked at.
    pub(super) settled: Option<Standing>,
}

impl Group {
    pub(super) fn new(options: &Options, clock: Clock, group: GroupOptions) -> Self {
        let GroupOptions {
            group: id,
            members,
            noted,
            slots,
            preferred,
            recovered,
            snapshot,
        } = group;
        let replica = replica_on(options.node);
        let turn = members.iter().position(|it| Some(it.node) == preferred);
        let select = |voter| {
            let chosen = members.iter().filter(move |member| member.voter == voter);
            chosen.map(|member| member.replica).collect()
        };
        let seed =
            mix(options.seed ^ mix(u64::from(id.to_raw()) << 32 | u64::from(replica.to_raw())));
        let settings = Settings {
            heartbeat_interval: options.heartbeat_interval,
            election_timeout: options.election_timeout,
            pre_vote: true,
            check_quorum: true,
            window: Window {
                bytes_max: options.window_bytes_max,
                messages_max: options.window_messages_max,
            },
            append_bytes_max: options.flush_bytes_max,
            seed,
        };
        let start = snapshot.as_ref().map(|it| (it.index, it.term));
        let start_or_none = start.unwrap_or_default();
        let lacks_state = recovered.floor.0 > start_or_none.0;
        let recovered = if lacks_state {
            without_state(recovered, start_or_none)
        } else {
            recovered
        };
        let mut log = Log::new(
            recovered.floor,
            recovered.terms,
            recovered.last,
            recovered.tail,
        );
        if lacks_state {
            // What is put back below the floor that the disk knows would not stay.
            log.keep_what_follows();
        }
        let first_of_epoch = epoch::first_term(epoch::of(recovered.hard_state.term));
        let mut raft = Raft::new(
            replica,
            Members {
                voters: select(true),
                observers: select(false),
            },
            settings,
            recovered.hard_state,
            log,
            clock.now,
            first_wait(options, preferred, seed),
        )
        .with_changes(first_of_epoch, &recovered.memberships);
        if let Some((index, term)) = start {
            let said = snapshot.as_ref().and_then(|it| it.membership.clone());
            raft = raft.starting_from(index, term, said);
        }
        let noted_at = noted.as_ref().map(|it| (it.since, it.term));
        if let Some(noted) = noted {
            raft = raft.having_noted(noted.since, noted.term, noted.membership);
        }
        if let Some(damage) = recovered.damage {
            raft = raft.damaged(damage);
        }
        Self {
            id,
            raft,
            timer: None,
            node: options.node,
            noted: noted_at.unwrap_or_default(),
            preferred,
            turn: turn.unwrap_or_default(),
            kv: snapshot.map_or_else(|| Kv::new(slots), |snapshot| snapshot.state),
            data_bytes_counted: 0,
            cached_bytes_counted: 0,
            waiting_bytes_counted: 0,
            applied: start_or_none.0,
            writes: Writes::default(),
            reads: Reads::default(),
            waiting: Waiting::default(),
            outbox: Vec::new(),
            replies: Vec::new(),
            fetching: false,
            snapshots: Snapshots::new(clock),
            expiry_proposed: None,
            balance_at: None,
            draining: false,
            duty: Duty::default(),
            sealed: Vec::new(),
            leader_changes: 0,
            settled: None,
        }
    }

    /// Whether requests wait for a leader or for a majority, or a batch was sealed before its time.
    pub(super) fn has_requests_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.reads.is_empty() || !self.sealed.is_empty()
    }

    /// Whether requests can be taken into the log here and now.
    pub(super) fn leads(&self) -> bool {
        self.raft.role() == Role::Leader && self.raft.transferring().is_none() && !self.duty.retired
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.raft.leader().map(node_of)
    }

    /// The nodes of its members.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.raft.members().all().map(node_of)
    }

    pub(super) fn message(
        &mut self,
        clock: Clock,
        from: NodeId,
        message: Message,
        out: &mut Output,
    ) {
        let from = replica_on(from);
        if from == self.raft.id() {
            return;
        }
        // Whoever is no member as far as known here may be one by entries that are not here yet.
        self.raft.step(clock.now, from, message, &mut self.outbox);
        self.address(out);
    }

    /// Changes who is in the group.
    pub(super) fn change(
        &mut self,
        change: &Change,
        out: &mut Output,
    ) -> Result<LogIndex, ChangeError> {
        if self.refusal(true).is_some() {
            return Err(ChangeError::Disk);
        }
        let changed = self.raft.change(change, &mut self.outbox);
        // The entry leaves with the end of this turn, and the note before it.
        out.memberships.extend(self.take_new_membership());
        self.address(out);
        changed
    }

    pub(super) fn tick(
        &mut self,
        options: &Options,
        clock: Clock,
        draining: bool,
        disk: &mut Disk,
        out: &mut Output,
    ) {
        self.draining = draining;
        let at_home = self.home().is_none_or(|home| home == self.node);
        self.raft.allow_quiet(at_home && !draining);
        if draining && self.raft.role() != Role::Leader {
            self.raft
                .wait_until(clock.now.after(options.election_timeout * 2));
        }
        if self.raft.deadline() <= clock.now {
            self.raft.tick(clock.now, &mut self.outbox);
        }
        self.writes.expire(clock.now, out);
        self.expire_waiting(clock.now, out);
        self.mind_disk(options, clock, disk);
        self.balance(options, clock, disk);
        self.address(out);
    }

    /// How it takes part in the peace.
    pub(super) fn peace(&self) -> Peace {
        let leader = self.raft.is_quiet().then(|| self.leader());
        match leader.flatten() {
            Some(leader) if leader == self.node => Peace::Leads,
            Some(leader) => Peace::Follows(leader),
            None => Peace::Awake,
        }
    }

    /// Something happens: if it was quiet, it is not any more.
    pub(super) fn wake(&mut self, now: Time) {
        self.raft.wake(now);
    }

    /// The node that should lead it. All must choose the same, so it follows from who is in the group.
    fn home(&self) -> Option<NodeId> {
        let (since, membership) = self.raft.membership();
        if since == LogIndex::ZERO {
            return self.preferred;
        }
        self.preferred?;
        let mut voters = membership.members.voters.clone();
        voters.sort_unstable();
        Some(node_of(voters[self.turn % voters.len()]))
    }

    /// Hands a led group to the node that should lead it, if that node keeps up.
    fn balance(&mut self, options: &Options, clock: Clock, disk: &Disk) {
        if self.raft.role() != Role::Leader {
            return;
        }
        let soon = clock.now.after(options.election_timeout * 3);
        let balance_at = *self.balance_at.get_or_insert(soon);
        if self.draining {
            if self.raft.transferring().is_none() {
                self.hand_over(None);
            }
            return;
        }
        let Some(replica) = self.home().map(replica_on) else {
            return;
        };
        let mut others = self.raft.progress().iter();
        let Some((_, preferred)) = others.find(|(id, _)| *id == replica) else {
            return;
        };
        let Some(pace) = preferred.told else {
            return; // it will say how its disk does
        };
        if !disk.does_well(pace, clock.now) {
            // It must do well all the time until it is given the lead again.
            self.balance_at = Some(clock.now.after(options.election_timeout * 10));
            return;
        }
        if clock.now < balance_at {
            return;
        }
        self.balance_at = Some(clock.now.after(options.election_timeout * 10));
        if preferred.mode == Mode::Replicate && preferred.matched >= self.raft.commit() {
            self.hand_over(Some(replica));
        }
    }

    pub(super) fn transfer(&mut self, to: Option<NodeId>, out: &mut Output) {
        self.hand_over(to.map(replica_on));
        self.address(out);
    }

    /// Entries came back from the disk: applies them if they are next, and sends them to followers
    /// that need them.
    pub(super) fn fetched(&mut self, entries: Vec<Entry>, out: &mut Output) {
        assert!(self.fetching, "nobody asked for entries");
        self.fetching = false;
        for entry in &entries {
            // A new leader may have overwritten what was read meanwhile.
            let current = self.raft.log().term(entry.index) == Some(entry.term);
            let next = entry.index == self.applied.next();
            if next && current && entry.index <= self.raft.commit() {
                self.apply(entry, out);
            }
        }
        self.raft.fetched(&entries, &mut self.outbox);
        self.address(out);
    }

    /// Ends a burst of inputs.
    pub(super) fn settle(
        &mut self,
        options: &Options,
        clock: Clock,
        may_flush: bool,
        out: &mut Output,
        lap: &mut dyn FnMut(Option<Stage>),
    ) {
        if self.raft.role() != Role::Leader {
            self.balance_at = None;
        }
        self.place_waiting(options, clock, out);
        if self.raft.is_quiet() && self.leads() && self.expiry_due(clock) {
            self.wake(clock.now);
        }
        if may_flush && self.leads() {
            let due = self.expiry_due(clock);
            if self.writes.is_open() || due {
                lap(None);
                self.seal(options, clock);
                lap(Some(Stage::Serialise));
            }
        }
        self.raft.replicate(false, &mut self.outbox);
        self.start_round();
        if self.applied < self.raft.commit() {
            lap(None);
            self.apply_committed(out);
            lap(Some(Stage::Apply));
        }
        self.serve_reads(options, clock, out);
        // What was answered may have made room for those that waited.
        self.start_round();
        self.fetch(out);
        self.fetch_snapshot(out);
        self.address(out);
    }

    /// Starts a round for the reads that wait, if there is room for one.
    fn start_round(&mut self) {
        if self.reads.wants_round()
            && let Some((round, index)) = self.raft.start_read(&mut self.outbox)
        {
            let index = self
                .expiry_proposed
                .map_or(index, |expiry| index.max(expiry));
            self.reads.started(round, self.raft.term(), index);
        }
    }

    /// Whether followers do not know of a commit, and nothing is about to be sent that it rides along with.
    pub(super) fn owes_commit(&self) -> bool {
        let idle = !self.writes.is_open() && !self.raft.log().has_unsubmitted();
        idle && self.raft.commit_is_untold()
    }

    /// Tells followers of the commit.
    pub(super) fn tell_commit(&mut self, out: &mut Output) {
        self.raft.replicate(true, &mut self.outbox);
        self.address(out);
    }

    /// Turns the open batch into an entry.
    pub(super) fn seal(&mut self, options: &Options, clock: Clock) {
        let bytes = self.writes.open_bytes();
        self.sealed.push(self.writes.open_for(clock.now));
        let payload = self.writes.seal(clock.unix_ms);
        let index = self.raft.propose(EntryKind::Batch, payload);
        let index = index.expect("only a leader seals");
        let deadline = clock.now.after(options.request_timeout);
        if self
            .kv
            .next_expiry()
            .is_some_and(|due| due <= clock.unix_ms)
        {
            self.expiry_proposed = Some(index);
        }
        self.writes
            .proposed(index, self.raft.term(), bytes, deadline);
    }

    /// Whether keys wait for an entry that carries the time to expire them.
    pub(super) fn expiry_due(&self, clock: Clock) -> bool {
        self.expiry_proposed.is_none()
            && !self.duty.full
            && self
                .kv
                .next_expiry()
                .is_some_and(|due| due <= clock.unix_ms)
    }

    /// Applies what is committed and in memory, as much as one turn takes.
    fn apply_committed(&mut self, out: &mut Output) {
        let mut answered = 0;
        while self.applied < self.raft.commit() && answered <= TURN_ANSWERS_BYTES {
            let Some(entry) = self.raft.log().cached(self.applied.next()).cloned() else {
                return;
            };
            answered += self.apply(&entry, out);
        }
    }

    /// Applies an entry: how many bytes its answers carry.
    fn apply(&mut self, entry: &Entry, out: &mut Output) -> usize {
        assert_eq!(
            entry.index,
            self.applied.next(),
            "entries are applied in order, once"
        );
        assert!(
            entry.index <= self.raft.commit(),
            "only committed entries are applied"
        );
        if entry.kind == EntryKind::Batch {
            let batch =
                Batch::access(&entry.payload).expect("batches are checked when they arrive");
            self.kv.apply(&batch, &mut self.replies);
        }
        self.applied = entry.index;
        self.snapshots.applied(entry.payload.len());
        if self
            .expiry_proposed
            .is_some_and(|index| index <= entry.index)
        {
            self.expiry_proposed = None;
        }
        let answered = self.replies.iter().map(Reply::held_bytes).sum();
        self.writes
            .applied(entry.index, entry.term, &mut self.replies, out);
        // Those that nobody here waits for.
        self.replies.clear();
        answered
    }

    /// Whether entries or reads were left to the next turn, because of what their answers carry.
    pub(super) fn has_answers_left(&self) -> bool {
        let (next, commit) = (self.applied.next(), self.raft.commit());
        let entries = next <= commit && self.raft.log().cached(next).is_some();
        entries || self.raft.role() == Role::Leader && self.reads.is_interrupted()
    }

    fn serve_reads(&mut self, options: &Options, clock: Clock, out: &mut Output) {
        if self.raft.role() != Role::Leader {
            return;
        }
        let (kv, term) = (&self.kv, self.raft.term());
        self.reads.serve(
            term,
            self.raft.round_confirmed(),
            self.applied,
            kv,
            |command| kv.read(clock.unix_ms, options.answer_bytes_max, command),
            |token, reply| out.replies.push((token, Outcome::Reply(reply))),
        );
    }

    /// Asks for entries that are no longer in memory: those to apply first, then those to send.
    fn fetch(&mut self, out: &mut Output) {
        if self.fetching {
            return;
        }
        let next = self.applied.next();
        let apply = (next <= self.raft.commit() && self.raft.log().cached(next).is_none())
            .then(|| (next, self.raft.commit()));
        if let Some((from, to)) = apply.or_else(|| self.raft.fetch_wanted()) {
            let to = to.min(self.raft.log().persisted());
            assert!(from <= to, "entry {from} is neither in memory nor durable");
            self.fetching = true;
            out.reads.push(ReadLog {
                group: self.id,
                from,
                to,
                bytes_max: READ_BYTES,
            });
        }
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self, options: &Options, clock: Clock) -> Time {
        let expiry = self
            .kv
            .next_expiry()
            .filter(|&due| self.leads() && due > clock.unix_ms);
        let expiry = expiry.map(|due| clock.now.after(Duration::from_millis(due - clock.unix_ms)));
        let snapshot = self.snapshot_due_at(&options.snapshots);
        let snapshot = snapshot.filter(|&at| at > clock.now);
        let times = [
            self.writes.deadline(),
            self.waiting.deadline(),
            expiry,
            snapshot,
        ];
        times
            .into_iter()
            .flatten()
            .fold(self.raft.deadline(), Time::min)
    }

    /// Addresses the replica's messages to nodes.
    pub(super) fn address(&mut self, out: &mut Output) {
        for (to, message) in self.outbox.drain(..) {
            out.messages.push((node_of(to), self.id, message));
        }
    }

    pub(super) fn status(&self) -> GroupStatus {
        let progress = self.raft.progress().iter();
        let matched = progress.map(|(replica, progress)| (node_of(*replica), progress.matched));
        let members = self.raft.members();
        GroupStatus {
            group: self.id,
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.leader(),
            commit: self.raft.commit(),
            applied: self.applied,
            last: self.raft.log().last_index(),
            persisted: self.raft.log().persisted(),
            floor: self.raft.log().floor().0,
            snapshot: self.raft.snapshot().0,
            fetching: self.snapshots.fetching(),
            keys: self.kv.keys(),
            data_bytes: self.kv.held_bytes(),
            leader_changes: self.leader_changes,
            campaigns: self.raft.campaigns(),
            truncations: self.raft.truncations(),
            repairs: self.raft.repairs(),
            damaged: self.raft.is_damaged(),
            lost: self.raft.is_damaged() && members.all().eq([self.raft.id()]),
            claim: self.raft.claim(),
            promises_lost: self.raft.promises_lost(),
            waits_for: self.raft.waits_for().into_iter().map(node_of).collect(),
            pending_requests: self.writes.pending() + self.reads.pending() + self.waiting.len(),
            pending_bytes: self.writes.pending_bytes()
                + self.reads.pending_bytes()
                + self.waiting.bytes(),
            members: members.clone(),
            members_since: self.raft.membership().0,
            matched: matched.collect(),
        }
    }

    /// Accounts for what was done since the last time.
    pub(super) fn account(&mut self, now: Time, accounts: &mut Accounts) {
        for (commands, open) in self.sealed.drain(..) {
            accounts.sealed(commands, open);
        }
        if let Some(wait) = self.writes.take_peer_wait(now) {
            accounts.record(Stage::PeerWait, wait);
        }
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.kv.held_bytes()
    }

    pub(super) fn hash(&self) -> (LogIndex, u64) {
        (self.applied, self.kv.hash())
    }
}

/// Replicas have the numbers of their nodes.
pub(super) fn node_of(replica: ReplicaId) -> NodeId {
    NodeId::from_raw(replica.to_raw())
}

fn replica_on(node: NodeId) -> ReplicaId {
    ReplicaId::from_raw(node.to_raw())
}

/// How long a replica that just started waits for a leader: less than one that has heard one, and
/// the preferred replica least.
fn first_wait(options: &Options, preferred: Option<NodeId>, seed: u64) -> Duration {
    let timeout = options.election_timeout;
    let spread = |from: Duration, to: Duration| {
        let nanos = u64::try_from((to - from).as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        from + Duration::from_nanos(mix(seed) % nanos)
    };
    if preferred == Some(options.node) {
        spread(timeout / 10, timeout / 5)
    } else {
        spread(timeout / 4, timeout)
    }
}

/// The finalizer of splitmix64: spreads nearby seeds.
fn mix(mut seed: u64) -> u64 {
    seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}
