//! Consensus of one group: Raft with pre-vote, check-quorum, ReadIndex and leadership transfer.
//!
//! A [`Raft`] is one replica. It is told the time, messages, and which flushes are durable; it
//! answers with messages, and never says anything that a crash could make untrue: votes, requests
//! for votes and acknowledgements are derived from what is durable, not from what was received.
//! Terms, votes and commits change here, and in `election`, `snapshot` and `repair`; nowhere else.
//!
//! Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (Raft), and
//! Ongaro's thesis.

mod disk;
mod election;
mod inquiry;
mod log;
mod membership;
mod message;
mod progress;
mod promises;
mod quiet;
mod quorum;
mod read_index;
mod repair;
mod replication;
mod settings;
mod snapshot;
mod standing;

use alloc::vec::Vec;
use core::time::Duration;

use wal::{Entry, EntryKind, HardState, LogIndex, Payload, ReplicaId, Term};

pub use disk::Pace;
pub use inquiry::Electorate;
pub use log::{Log, NewFloor};
use membership::Memberships;
pub use membership::{Change, ChangeError, Members, Membership, MembershipError};
pub use message::Message;
pub use progress::{Mode, Progress, Rejection, Window};
use promises::Promises;
use quiet::Quiet;
use quorum::quorum_index;
use read_index::ReadRounds;
pub use repair::RepairNote;
use repair::{Answer, Question, Repair};
pub use settings::Settings;
pub use snapshot::Offer;
pub use standing::Standing;

use crate::time::Time;

/// Messages on their way out.
pub type Outbox = Vec<(ReplicaId, Message)>;

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    /// Asks whether it would be elected, without a new term (thesis §9.6).
    PreCandidate,
    Candidate,
    Leader,
}

/// One replica of one group.
#[derive(Debug)]
pub struct Raft {
    id: ReplicaId,
    memberships: Memberships,
    /// The newest of them.
    members: Members,
    /// The newest membership that this replica ever held, and the entry that made it, whatever the log tells
    /// now.
    noted: Option<(LogIndex, Term, Membership)>,
    settings: Settings,
    /// Tells this start of the replica from all others.
    life: u64,

    term: Term,
    vote: Option<ReplicaId>,
    commit: LogIndex,
    commit_submitted: LogIndex,
    promises: Promises,
    log: Log,

    role: Role,
    leader: Option<ReplicaId>,
    now: Time,
    /// When a leader of this term was last heard.
    heard: Time,
    /// When to stand for election; on a leader, when to check for a quorum.
    election_deadline: Time,
    heartbeat_deadline: Time,
    random: u64,

    // Candidates.
    ballots: Vec<(ReplicaId, bool)>,
    /// The term and vote are not yet durable: nobody was asked yet.
    requests_held: bool,
    transfer_election: bool,
    /// How often it stood for election, or asked whether it should.
    campaigns: u64,

    // Followers.
    /// Equal to the log of this term's leader up to here.
    verified: LogIndex,
    /// What the leader was last told is durable here.
    acknowledged: LogIndex,
    /// An append was received that is not yet answered.
    answer_owed: bool,
    /// How often entries were dropped because they conflicted with a leader's.
    truncations: u64,
    /// How often a repair of this replica ended.
    repairs: u64,
    /// Voted for, in which of its lives, but not yet told: the vote is not durable yet.
    vote_owed: Option<(ReplicaId, u64)>,
    /// What it tells leaders of its disk. Once the disk has failed, it promises nothing any more.
    disk: Pace,

    /// The newest snapshot here that is durable.
    snapshot: (LogIndex, Term),
    /// A snapshot that another replica has, of what is not known to be committed here.
    offer: Option<Offer>,

    quiet: Quiet,

    // Leaders.
    progress: Vec<(ReplicaId, Progress)>,
    rounds: ReadRounds,
    transfer: Option<(ReplicaId, Time)>,
    /// When the others were asked for the sake of a change of members.
    asked_who_is_there: Option<Time>,

    // Replicas whose disk lost something, and those that they ask.
    repair: Option<Repair>,
    /// A repair ended and is not yet recorded.
    intact_owed: bool,
    questions: Vec<Question>,
}

impl Raft {
    /// A replica as it was when it stopped. `first_wait` is how long it waits for a leader before
    /// it stands for election the first time.
    pub fn new(
        id: ReplicaId,
        members: Members,
        settings: Settings,
        hard_state: HardState,
        log: Log,
        now: Time,
        first_wait: Duration,
    ) -> Self {
        assert!(
            settings.election_timeout > settings.heartbeat_interval,
            "elections too eager"
        );
        let commit = hard_state.commit.max(log.floor().0);
        assert!(
            commit <= log.last_index(),
            "commit {commit} is behind the log's end"
        );
        Self {
            id,
            memberships: Memberships::new(members.clone().into()),
            noted: None,
            members,
            term: hard_state.term,
            vote: hard_state.vote,
            commit,
            commit_submitted: commit,
            promises: Promises::new(hard_state.term, hard_state.vote),
            log,
            role: Role::Follower,
            leader: None,
            now,
            heard: now,
            election_deadline: now.after(first_wait),
            heartbeat_deadline: now,
            random: settings.seed | 1,
            // Odd factors lose nothing of the seed.
            life: settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            settings,
            ballots: Vec::new(),
            requests_held: false,
            transfer_election: false,
            campaigns: 0,
            verified: commit,
            acknowledged: LogIndex::ZERO,
            answer_owed: false,
            truncations: 0,
            repairs: 0,
            vote_owed: None,
            disk: Pace::UNKNOWN,
            snapshot: (LogIndex::ZERO, Term::ZERO),
            offer: None,
            quiet: Quiet::default(),
            progress: Vec::new(),
            rounds: ReadRounds::default(),
            transfer: None,
            asked_who_is_there: None,
            repair: None,
            intact_owed: false,
            questions: Vec::new(),
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.id
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn vote(&self) -> Option<ReplicaId> {
        self.vote
    }

    /// Everything up to here may be applied.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The leader of this term, as far as known.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The replica that leadership is on its way to.
    pub fn transferring(&self) -> Option<ReplicaId> {
        self.transfer.map(|(to, _)| to)
    }

    /// How often this replica stood for election, or asked whether it should, because it heard no leader.
    pub fn campaigns(&self) -> u64 {
        self.campaigns
    }

    /// How often this replica dropped uncommitted entries that conflicted with a leader's.
    pub fn truncations(&self) -> u64 {
        self.truncations
    }

    /// How often this replica got back what its disk had lost.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Call [`Raft::tick`] by then.
    pub fn deadline(&self) -> Time {
        if self.quiet.now {
            return Time::NEVER;
        }
        let deadline = match self.role {
            Role::Leader => self.heartbeat_deadline.min(self.election_deadline),
            _ => self.election_deadline,
        };
        self.repair
            .as_ref()
            .map_or(deadline, |repair| deadline.min(repair.ask_at))
    }

    /// Waits at least until `deadline` before it stands for election by itself.
    pub fn wait_until(&mut self, deadline: Time) {
        self.election_deadline = deadline;
    }

    /// Lets time pass: elections, heartbeats, the check for a quorum.
    pub fn tick(&mut self, now: Time, out: &mut Outbox) {
        assert!(
            now >= self.now,
            "time ran backwards: {now:?} after {:?}",
            self.now
        );
        self.now = now;
        if self.quiet.now {
            return;
        }
        self.tick_repair(out);
        if self.role == Role::Leader {
            self.tick_leader(out);
        } else if now >= self.election_deadline {
            self.rest();
            self.campaign(out);
        }
    }

    fn tick_leader(&mut self, out: &mut Outbox) {
        if self.now >= self.election_deadline {
            self.election_deadline = self.now.after(self.settings.election_timeout);
            if self.settings.check_quorum && !self.heard_from_majority() {
                self.become_follower(self.term, None);
                return;
            }
        }
        if self
            .transfer
            .is_some_and(|(_, deadline)| self.now >= deadline)
        {
            self.transfer = None; // thesis §3.10: after an election timeout, go on leading
        }
        if self.now >= self.heartbeat_deadline && !self.grow_quiet(out) {
            self.heartbeat(out);
        }
    }

    /// Handles a message from another replica of the group.
    pub fn step(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Outbox) {
        assert!(
            now >= self.now,
            "time ran backwards: {now:?} after {:?}",
            self.now
        );
        self.now = now;
        if matches!(message, Message::RequestVote { .. }) && self.was_removed(from) {
            return; // it does not know, and nobody is to be woken by it
        }
        if self.quiet.now && !self.sleeps_through(&message) {
            self.wake(self.now);
        }
        if let Message::Offer {
            term,
            index,
            index_term,
        } = message
        {
            self.offered(from, (index, index_term), term, out);
            return;
        }
        let lost = self.promises_lost();
        let of_repair = matches!(message, Message::Repair { .. } | Message::Repaired { .. });
        if lost && !of_repair && !self.asked_for_terms().contains(&from) {
            self.ask(from, out); // it may know members that are not known here
        }
        if !of_repair && (lost || !self.admits(from, &message, out)) {
            return;
        }
        match message {
            Message::RequestVote {
                term,
                pre,
                last_index,
                last_term,
                life,
                ..
            } => {
                self.request_vote(from, term, pre, (last_index, last_term), life, out);
            }
            Message::Vote {
                pre, granted, life, ..
            } => self.ballot(from, pre, granted, life, out),
            Message::Append {
                previous_index,
                previous_term,
                commit,
                entries,
                ..
            } => {
                self.hear_leader(from);
                self.append(from, (previous_index, previous_term), commit, entries, out);
            }
            Message::Heartbeat {
                term,
                commit,
                round,
            } => {
                self.hear_leader(from);
                self.hear_of_acknowledged(commit);
                // The leader names only what this replica has acknowledged in this term: it is
                // durable here, even if a restart forgot who vouched for it.
                if !self.may_be_stale() {
                    self.verified = self.verified.max(commit.min(self.log.last_index()));
                }
                self.advance_commit(commit.min(self.verified));
                let disk = self.disk;
                out.push((from, Message::HeartbeatAck { term, round, disk }));
            }
            Message::Appended { matched, .. } => self.appended(from, matched, out),
            Message::Rejected {
                previous_index,
                hint_index,
                hint_term,
                ..
            } => {
                self.rejected(from, previous_index, (hint_index, hint_term), out);
            }
            Message::HeartbeatAck { round, disk, .. } => {
                self.heartbeat_answered(from, round, disk, out);
            }
            Message::TimeoutNow { .. } => {
                let fit = !self.is_damaged() && !self.disk.has_failed();
                if self.role == Role::Follower && self.is_voter() && fit {
                    self.transfer_election = true;
                    self.stand(out);
                }
            }
            Message::Quiet { last, .. } => {
                self.hear_leader(from);
                self.hear_quiet(last);
            }
            Message::Pulse { .. } => {} // of no group
            Message::Offer { .. } => unreachable!("looked at above, whatever its term"),
            Message::Repair {
                term,
                round,
                after,
                after_term,
                held,
            } => self.repair_asked((from, round), term, (after, after_term), held, out),
            Message::Repaired {
                term,
                round,
                sure,
                leads,
                last,
                after,
                after_term,
                common,
                electorate,
                entries,
            } => {
                let answer = Answer {
                    term,
                    round,
                    sure,
                    leads,
                    last,
                    after,
                    after_term,
                    common,
                    electorate: *electorate,
                    entries,
                };
                self.repaired(from, answer, out);
            }
        }
    }

    /// Compares terms (Raft §5.1). Says whether the message is to be handled.
    fn admits(&mut self, from: ReplicaId, message: &Message, out: &mut Outbox) -> bool {
        let term = message.term();
        if term > self.term {
            match *message {
                Message::RequestVote { pre, transfer, .. } => {
                    if !transfer && self.in_lease() {
                        return false; // thesis §4.2.3: a leader is heard; nobody may depose it
                    }
                    if !pre {
                        self.become_follower(term, None);
                    }
                }
                // It would be our next term, not one that anybody is in.
                Message::Vote {
                    pre: true,
                    granted: true,
                    ..
                } => {}
                Message::Append { .. } | Message::Heartbeat { .. } | Message::Quiet { .. } => {
                    self.become_follower(term, Some(from));
                }
                _ => self.become_follower(term, None),
            }
            return true;
        }
        if term < self.term {
            match *message {
                // A leader of the past, or one that a partition kept from hearing of this term: it
                // must learn the term, or two sides that refuse each other's votes stay stuck.
                Message::Append { .. } | Message::Heartbeat { .. } | Message::Quiet { .. }
                    if self.settings.check_quorum || self.settings.pre_vote =>
                {
                    out.push((
                        from,
                        Message::Appended {
                            term: self.term,
                            matched: LogIndex::ZERO,
                        },
                    ));
                }
                Message::RequestVote {
                    pre: true, life, ..
                } => {
                    out.push((
                        from,
                        Message::Vote {
                            term: self.term,
                            pre: true,
                            granted: false,
                            life,
                        },
                    ));
                }
                _ => {}
            }
            return false;
        }
        true
    }

    /// Appends an entry to a leader's log. `None` if this replica does not lead, or is handing over.
    pub fn propose(&mut self, kind: EntryKind, payload: Payload) -> Option<LogIndex> {
        if self.role != Role::Leader || self.transfer.is_some() {
            return None;
        }
        self.wake(self.now);
        let index = self.log.last_index().next();
        self.hold(Entry {
            term: self.term,
            index,
            kind,
            payload,
        });
        Some(index)
    }

    /// Forgets who leads, so that it may vote for another (its caller knows that the leader died).
    pub fn forget_leader(&mut self) {
        if self.role == Role::Follower {
            self.leader = None;
        }
    }

    /// Moves the commit forward; never back.
    fn advance_commit(&mut self, index: LogIndex) {
        if index <= self.commit {
            return;
        }
        assert!(
            index <= self.log.last_index(),
            "cannot commit {index}: not held"
        );
        self.commit = index;
    }

    /// A leader's rule: an entry of its own term that a majority holds is committed, and with it
    /// all before. Counting proves nothing about an older term's entry (Raft §5.4.2, figure 8).
    fn commit_what_a_majority_holds(&mut self) {
        assert_eq!(self.role, Role::Leader);
        let held = |&voter: &ReplicaId| {
            if voter == self.id {
                self.log.persisted()
            } else {
                self.peer(voter).matched
            }
        };
        let index = quorum_index(self.members.voters.iter().map(held));
        if index > self.commit && self.log.term(index) == Some(self.term) {
            self.advance_commit(index);
        }
    }

    fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        assert!(
            term >= self.term,
            "terms never decrease: {} -> {term}",
            self.term
        );
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.vote_owed = None;
            self.verified = self.commit;
            self.acknowledged = LogIndex::ZERO;
            self.answer_owed = false;
        }
        if self.role == Role::Leader {
            self.verified = self.commit;
            self.acknowledged = LogIndex::ZERO;
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.progress.clear();
        self.ballots.clear();
        self.requests_held = false;
        self.transfer_election = false;
        self.rounds.abandon();
        self.transfer = None;
        self.asked_who_is_there = None;
        self.rest();
    }

    /// Raft figure 2, "candidates": a new term, a vote for itself.
    fn become_candidate(&mut self) {
        assert!(
            self.role != Role::Leader,
            "a leader does not stand for election"
        );
        self.term = self.term.next();
        self.vote = Some(self.id);
        self.role = Role::Candidate;
        self.leader = None;
        self.vote_owed = None;
        self.verified = self.commit;
        self.acknowledged = LogIndex::ZERO;
        self.answer_owed = false;
        self.ballots.clear();
        self.requests_held = true;
        self.rest();
    }

    fn become_leader(&mut self, out: &mut Outbox) {
        assert_eq!(self.role, Role::Candidate, "only a candidate is elected");
        assert!(
            self.promise_is_durable(),
            "elected before its own vote was durable"
        );
        self.role = Role::Leader;
        self.leader = Some(self.id);
        self.ballots.clear();
        self.transfer_election = false;
        let last = self.log.last_index();
        let others = self.members.all().filter(|&replica| replica != self.id);
        self.progress = others
            .map(|replica| (replica, Progress::new(last)))
            .collect();
        self.election_deadline = self.now.after(self.settings.election_timeout);
        self.heartbeat_deadline = self.now.after(self.settings.heartbeat_interval);
        // An entry of its own term, so that older ones can be committed (Raft §8).
        let noop = self.propose(EntryKind::Noop, Payload::from([]));
        assert!(noop.is_some(), "a new leader can append");
        self.replicate(true, out);
    }

    fn is_voter(&self) -> bool {
        self.members.voters.contains(&self.id)
    }
}
