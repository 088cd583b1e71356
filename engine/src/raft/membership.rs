//! Who is in the group, and how that changes: one voter at a time (Raft thesis §4.1).
//!
//! A change is an entry. It counts from the moment that it is in a replica's log, committed or not, so a
//! replica that drops the entry goes back to the members before. Any majority of the members before shares a
//! voter with any of those after, because at most one voter comes or goes; so it takes no second phase.
//! A leader begins a change when the one before is committed, and an entry of its own term: without the
//! latter, two leaders could each build on a change that the other does not have (Ongaro's note to the
//! list raft-dev, July 2015).
//!
//! Who comes in holds data first, as an observer, and becomes a voter when it has nearly all: a majority
//! is never smaller for want of what it still has to be sent. Who leaves never comes back under its id: it
//! may have voted, and acknowledged, as what it was.
//!
//! Terms tell epochs apart (`crate::epoch`): members that a repair made replace all that entries of older
//! epochs say.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use wal::{Entry, EntryKind, LogIndex, Payload, ReplicaId, Term};

use super::{Mode, Outbox, Progress, Raft, Role};

/// Replicas of a group, and such as it once had, are no more than this.
pub(super) const REPLICAS_MAX: usize = 1024;

/// Bytes of an address, and of all that an entry says: a snapshot's header has no room for more.
const ADDRESS_MAX: usize = 255;
const ENCODED_MAX: usize = u16::MAX as usize;

/// Entries that a voter may lack when it becomes one.
const LAG_MAX: u64 = 1_000;

const FORMAT: u16 = 1;
const HEAD_BYTES: usize = 8;
const MEMBER_BYTES: usize = 8;

/// Who is in the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub voters: Vec<ReplicaId>,
    /// Hold data, have no vote.
    pub observers: Vec<ReplicaId>,
}

impl Members {
    pub fn all(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.voters.iter().chain(&self.observers).copied()
    }

    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.all().any(|it| it == replica)
    }
}

/// Who is in the group, where, and who was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub members: Members,
    /// Where members that came in are reached; of those that the group was created with, the configuration
    /// tells.
    pub addresses: Vec<(ReplicaId, String)>,
    /// Never members again.
    pub removed: Vec<ReplicaId>,
}

impl From<Members> for Membership {
    fn from(members: Members) -> Self {
        Self {
            members,
            ..Self::default()
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A replica that was never in the group, and where it is reached.
    AddObserver(ReplicaId, String),
    /// An observer that holds nearly all becomes a voter.
    Promote(ReplicaId),
    Remove(ReplicaId),
}

/// Why nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this replica does not lead")]
    NotLeader,
    #[error("the change before this one, or the leader's first entry, is not committed yet")]
    Unsettled,
    #[error("replica {0} was removed, and its id never comes back: use another")]
    Removed(ReplicaId),
    #[error("replica {0} is no member")]
    NoMember(ReplicaId),
    #[error("the group has replica {0} at {1}")]
    Elsewhere(ReplicaId, String),
    #[error("replica {replica} lacks {lag} entries: it becomes a voter when it has nearly all")]
    Lags { replica: ReplicaId, lag: u64 },
    #[error("replica {0} leads: hand the leadership over first")]
    Leads(ReplicaId),
    #[error("replica {0} is the last voter")]
    LastVoter(ReplicaId),
    #[error("of the {voters} voters that there would be, {heard} answer: no majority")]
    NoMajority { heard: usize, voters: usize },
    #[error("replica {0} does not answer")]
    Silent(ReplicaId),
    #[error("the members are asked whether they are there")]
    Asked,
    #[error("an address has 1 to {ADDRESS_MAX} bytes")]
    Address,
    #[error("the disks of too many are full or have failed: nothing is written")]
    Disk,
    #[error("no more than {REPLICAS_MAX} replicas, those that were removed counted")]
    TooMany,
}

/// A membership cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes that are no membership: {why}")]
pub struct MembershipError {
    bytes: usize,
    why: &'static str,
}

impl Membership {
    /// The payload of the entry that makes it.
    pub fn encode(&self) -> Payload {
        let short = |count: usize| u16::try_from(count).expect("no more than REPLICAS_MAX");
        let mut bytes = Vec::new();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(short(self.members.all().count()).to_le_bytes());
        bytes.extend(short(self.removed.len()).to_le_bytes());
        bytes.extend([0; 2]);
        let mut texts: Vec<u8> = Vec::new();
        let roles = [(1, &self.members.voters), (2, &self.members.observers)];
        for (role, replicas) in roles {
            for &replica in replicas {
                let text = self.address(replica).unwrap_or_default();
                bytes.extend(replica.to_raw().to_le_bytes());
                bytes.extend([role, 0]);
                bytes.extend(short(text.len()).to_le_bytes());
                texts.extend(text.as_bytes());
            }
        }
        for replica in &self.removed {
            bytes.extend(replica.to_raw().to_le_bytes());
        }
        bytes.extend(texts);
        Payload::from(bytes)
    }

    /// Reads what [`Membership::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let broken = |why| MembershipError {
            bytes: bytes.len(),
            why,
        };
        let (head, mut rest) = bytes
            .split_at_checked(HEAD_BYTES)
            .ok_or(broken("too short"))?;
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        if short(0) != FORMAT || short(6) != 0 {
            return Err(broken("of another format"));
        }
        let [count, removed] = [2, 4].map(|at| usize::from(short(at)));
        if count + removed > REPLICAS_MAX {
            return Err(broken("too many replicas"));
        }
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        let lists = take(count * MEMBER_BYTES).zip(take(removed * 4));
        let (members, removed) = lists.ok_or(broken("too short"))?;
        let id = |bytes: &[u8]| {
            ReplicaId::from_raw(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let mut membership = Self::default();
        membership.removed.extend(removed.chunks_exact(4).map(id));
        for member in members.chunks_exact(MEMBER_BYTES) {
            let replica = id(member);
            match member[4..6] {
                [1, 0] if membership.members.observers.is_empty() => {
                    membership.members.voters.push(replica);
                }
                [1, 0] => return Err(broken("a voter behind an observer")),
                [2, 0] => membership.members.observers.push(replica),
                _ => return Err(broken("a role that there is not")),
            }
            let text = take(usize::from(u16::from_le_bytes([member[6], member[7]])));
            let text = text.ok_or(broken("too short"))?;
            let text = core::str::from_utf8(text).map_err(|_| broken("an address is no text"))?;
            if !text.is_empty() {
                membership.addresses.push((replica, text.to_owned()));
            }
        }
        let mut ids: Vec<_> = membership.members.all().collect();
        ids.extend(&membership.removed);
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        if membership.members.voters.is_empty() || ids.len() < all || !rest.is_empty() {
            return Err(broken("no voter, a replica twice, or bytes behind the end"));
        }
        Ok(membership)
    }

    /// Where a member that came in is reached.
    pub fn address(&self, replica: ReplicaId) -> Option<&str> {
        let found = self.addresses.iter().find(|(it, _)| *it == replica);
        found.map(|(_, address)| address.as_str())
    }

    /// The membership after a change; `None` if it is so already.
    fn changed(&self, change: &Change) -> Result<Option<Self>, ChangeError> {
        let mut next = self.clone();
        let Members { voters, observers } = &mut next.members;
        match change {
            Change::AddObserver(replica, _) | Change::Promote(replica)
                if self.removed.contains(replica) =>
            {
                return Err(ChangeError::Removed(*replica));
            }
            Change::AddObserver(_, address)
                if address.is_empty() || address.len() > ADDRESS_MAX =>
            {
                return Err(ChangeError::Address);
            }
            Change::AddObserver(replica, address) => {
                if self.members.contains(*replica) {
                    return match self.address(*replica) {
                        Some(known) if known != address => {
                            Err(ChangeError::Elsewhere(*replica, known.to_owned()))
                        }
                        _ => Ok(None),
                    };
                }
                if self.members.all().count() + self.removed.len() >= REPLICAS_MAX {
                    return Err(ChangeError::TooMany);
                }
                observers.push(*replica);
                next.addresses.push((*replica, address.clone()));
            }
            Change::Promote(replica) if voters.contains(replica) => return Ok(None),
            Change::Promote(replica) => {
                let at = observers.iter().position(|it| it == replica);
                observers.remove(at.ok_or(ChangeError::NoMember(*replica))?);
                voters.push(*replica);
            }
            Change::Remove(replica) if !self.members.contains(*replica) => {
                return if self.removed.contains(replica) {
                    Ok(None)
                } else {
                    Err(ChangeError::NoMember(*replica))
                };
            }
            Change::Remove(replica) => {
                if voters[..] == [*replica] {
                    return Err(ChangeError::LastVoter(*replica));
                }
                voters.retain(|it| it != replica);
                observers.retain(|it| it != replica);
                next.addresses.retain(|(it, _)| it != replica);
                next.removed.push(*replica);
            }
        }
        Ok(Some(next))
    }
}

/// The memberships that a log tells of.
#[derive(Debug)]
pub(super) struct Memberships {
    /// What holds before any entry changes it.
    created: Membership,
    /// Entries of earlier terms say nothing about members.
    counts_from: Term,
    /// By the entry that made each, oldest first. The log holds all but the first: what a snapshot says, or
    /// what entries said that it holds now.
    made: Vec<(LogIndex, Term, Membership)>,
}

impl Memberships {
    pub(super) fn new(created: Membership) -> Self {
        Self {
            created,
            counts_from: Term::ZERO,
            made: Vec::new(),
        }
    }

    /// Who counts now, and since which entry; since zero if none made it so.
    fn newest(&self) -> (LogIndex, &Membership) {
        let newest = self.made.last();
        newest.map_or((LogIndex::ZERO, &self.created), |(index, _, it)| {
            (*index, it)
        })
    }

    /// The same, for a state at which the log had come to `index`.
    fn at(&self, index: LogIndex) -> (LogIndex, &Membership) {
        let made = self.made.iter().rev().find(|(at, ..)| *at <= index);
        made.map_or((LogIndex::ZERO, &self.created), |(at, _, it)| (*at, it))
    }

    /// Each that an entry made, and the entry.
    pub(super) fn members(&self) -> impl Iterator<Item = (LogIndex, &Members)> {
        self.made.iter().map(|(index, _, it)| (*index, &it.members))
    }

    /// Takes an entry that the log holds now. Says whether it is a change that counts.
    fn take(&mut self, entry: &Entry) -> bool {
        if entry.kind != EntryKind::Membership || entry.term < self.counts_from {
            return false;
        }
        let membership = Membership::decode(&entry.payload);
        let membership = membership.expect("memberships are checked when they arrive");
        self.made.push((entry.index, entry.term, membership));
        true
    }

    /// The log drops its entries from `from` on. Says whether that changes who counts.
    fn truncate(&mut self, from: LogIndex) -> bool {
        let before = self.made.len();
        self.made.retain(|(index, ..)| *index < from);
        self.made.len() < before
    }

    /// Entries up to the floor are settled: of the memberships that they made, the newest is enough.
    fn settle(&mut self, floor: LogIndex) {
        let settled = self.made.partition_point(|(index, ..)| *index <= floor);
        self.made.drain(..settled.saturating_sub(1));
    }
}

impl Raft {
    /// Entries and snapshots of terms before `first` say nothing about the members; of those that the log
    /// holds, `entries` are the changes.
    #[must_use]
    pub fn with_changes(mut self, first: Term, entries: &[Entry]) -> Self {
        self.memberships.counts_from = first;
        for entry in entries {
            self.memberships.take(entry);
        }
        self.members = self.membership().1.members.clone();
        self
    }

    /// This node knew of a membership, made by an entry that its log may have lost.
    #[must_use]
    pub fn having_noted(mut self, since: LogIndex, term: Term, noted: Membership) -> Self {
        if term >= self.memberships.counts_from {
            self.noted = Some((since, term, noted));
        }
        self
    }

    /// What is to be durable apart from the log: the newest membership that was ever here, until something else
    /// is committed in its place. An entry that was dropped may yet win elections elsewhere.
    pub fn to_note(&self) -> (LogIndex, Term, &Membership) {
        let newest = self.memberships.made.last();
        let newest = newest.map_or(
            (LogIndex::ZERO, Term::ZERO, &self.memberships.created),
            |(since, term, it)| (*since, *term, it),
        );
        match &self.noted {
            Some((since, term, it)) if *since > self.commit.max(newest.0) => (*since, *term, it),
            _ => newest,
        }
    }

    /// The members as noted, while that may count.
    pub(super) fn noted_members(&self) -> Option<(LogIndex, &Members)> {
        let (since, _, noted) = self.to_note();
        (since > LogIndex::ZERO).then_some((since, &noted.members))
    }

    /// Whether a replica left the group for good.
    pub(super) fn was_removed(&self, replica: ReplicaId) -> bool {
        self.membership_at(self.commit).1.removed.contains(&replica)
    }

    /// Who counts here, and since which entry; since zero if none made it so.
    pub fn membership(&self) -> (LogIndex, &Membership) {
        self.memberships.newest()
    }

    /// The same, as it was when the log had come to `index`, which is not below its floor.
    pub fn membership_at(&self, index: LogIndex) -> (LogIndex, &Membership) {
        self.memberships.at(index)
    }

    /// Who votes and holds data here.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Begins a change; the entry that makes it, or that made it before. It is done when that is committed. The
    /// caller makes [`Raft::to_note`] durable before anything is sent.
    pub fn change(&mut self, change: &Change, out: &mut Outbox) -> Result<LogIndex, ChangeError> {
        if self.role != Role::Leader || self.transfer.is_some() {
            return Err(ChangeError::NotLeader);
        }
        let (since, membership) = self.memberships.newest();
        let Some(next) = membership.changed(change)? else {
            return Ok(since);
        };
        let settled = since <= self.commit && self.log.term(self.commit) == Some(self.term);
        if !settled {
            return Err(ChangeError::Unsettled);
        }
        if *change == Change::Remove(self.id) {
            return Err(ChangeError::Leads(self.id));
        }
        let quorum_changes = match change {
            Change::Promote(replica) => {
                self.check_lag(*replica)?;
                true
            }
            Change::Remove(replica) => self.members.voters.contains(replica),
            Change::AddObserver(..) => false,
        };
        if quorum_changes && !self.has_asked_who_is_there(out) {
            return Err(ChangeError::Asked);
        }
        if quorum_changes {
            self.check_majority(&next.members)?;
        }
        if let Change::Promote(replica) = *change
            && !self.peer(replica).answers
        {
            return Err(ChangeError::Silent(replica));
        }
        let payload = next.encode();
        if payload.len() > ENCODED_MAX {
            return Err(ChangeError::TooMany);
        }
        self.asked_who_is_there = None;
        let index = self.propose(EntryKind::Membership, payload);
        Ok(index.expect("a leader that hands over was refused"))
    }

    /// Whether all were asked whether they are there, a while ago: who died lately counts as there otherwise, and
    /// a group at rest hears of nobody. Asks them if not.
    fn has_asked_who_is_there(&mut self, out: &mut Outbox) -> bool {
        let timeout = self.settings.election_timeout;
        let asked = self.asked_who_is_there;
        if asked.is_some_and(|at| self.now < at.after(timeout)) {
            return true;
        }
        self.wake(self.now);
        self.asked_who_is_there = Some(self.now);
        for (_, progress) in &mut self.progress {
            progress.answers = false;
        }
        self.beat(out);
        false
    }

    /// Whether a replica is told what it lacks as fast as it comes, and lacks little.
    fn check_lag(&self, replica: ReplicaId) -> Result<(), ChangeError> {
        let progress = self.peer(replica);
        let lag = progress.matched.entries_until(self.log.last_index());
        if progress.mode != Mode::Replicate || lag > LAG_MAX {
            return Err(ChangeError::Lags { replica, lag });
        }
        Ok(())
    }

    /// Whether those who will vote can go on: a majority of them answers.
    fn check_majority(&self, next: &Members) -> Result<(), ChangeError> {
        let heard = |voter: &&ReplicaId| **voter == self.id || self.peer(**voter).answers;
        let (heard, voters) = (next.voters.iter().filter(heard).count(), next.voters.len());
        if heard < super::quorum::majority(voters) {
            return Err(ChangeError::NoMajority { heard, voters });
        }
        Ok(())
    }

    /// Adds an entry to the log; a change of members counts from here on.
    pub(super) fn hold(&mut self, entry: Entry) {
        let changes = self.memberships.take(&entry);
        self.log.append(entry);
        if changes {
            self.noted = self.memberships.made.last().cloned();
            self.follow_membership();
        }
    }

    /// Drops entries of the log, and with them what they changed.
    pub(super) fn drop_from(&mut self, from: LogIndex) {
        self.log.truncate(from);
        if self.memberships.truncate(from) {
            self.follow_membership();
        }
    }

    /// A snapshot whose last entry is of `term` says who was in the group. With `anew`, the log begins
    /// behind it, and nothing else is known; if not, it holds what came later.
    pub(super) fn begin_memberships(
        &mut self,
        anew: bool,
        term: Term,
        said: Option<(LogIndex, Membership)>,
    ) {
        let said = said.filter(|_| term >= self.memberships.counts_from);
        let made = &mut self.memberships.made;
        if anew {
            made.clear();
        }
        if let Some((index, membership)) = said {
            made.retain(|(at, ..)| *at > index);
            // Its own term is not known any more: it is none that does not count.
            made.insert(0, (index, self.memberships.counts_from, membership));
        }
        self.follow_membership();
    }

    pub(super) fn settle_memberships(&mut self) {
        self.memberships.settle(self.log.floor().0);
    }

    fn follow_membership(&mut self) {
        self.members = self.memberships.newest().1.members.clone();
        if self.role != Role::Leader {
            return;
        }
        let Self {
            members,
            progress,
            id,
            log,
            ..
        } = self;
        progress.retain(|(replica, _)| members.contains(*replica));
        for replica in members.all().filter(|replica| replica != id) {
            if !progress.iter().any(|(known, _)| *known == replica) {
                progress.push((replica, Progress::new(log.last_index())));
            }
        }
    }
}
