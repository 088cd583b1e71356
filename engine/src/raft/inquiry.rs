//! How a replica that may have forgotten votes and terms finds a term above all of them.
//!
//! It says nothing but questions, in two rounds. First, every other voter and observer must have answered
//! since this start, be it *sure* (it has forgotten nothing, or found out) or not. Then it asks anew,
//! until so many of the `n` voters have answered sure that they share a voter with every majority:
//! `n − majority + 1`, and one more while one of an even number may be about to leave, whose majorities
//! are smaller then. The greatest term told sure in either round is one in which it votes no more; those
//! above are free.
//!
//! Why no vote or acknowledgement above that term counts: what it forgot, it said before this start.
//!
//! - A vote in term `t` counts if candidate C is elected with it, before or after. C answers the
//!   first round. If it is sure, it was in `t` when it asked for the vote, so it tells `t` or more.
//!   If it is not, it has started again since it stood: as votes name the life of the candidate
//!   that they are for, it was elected before that start, or never will be. So its majority had
//!   voted when the second round was asked, and one of them answers that sure: it tells `t` or more.
//! - If it stood in `t` itself, or acknowledged an entry of `t`, the leader of `t` was elected
//!   before this start, and a sure voter of its majority tells in the second round.
//! - A voter that is sure tells no less than the terms of its votes that count, although it may have
//!   forgotten as well: it was not sure before it found out, and then the same held for its votes,
//!   C's for itself among them (by induction over the order in which replicas found out).
//!
//! Nobody needs votes that do not count: their term may be voted in again. Answers to another start
//! or to the first round, when the second is asked, are too old to prove this, so answers repeat the
//! round's number, which starts anywhere.
//!
//! Who the voters are may have changed since the log that is left here was written, and whoever is a voter of a
//! membership that this replica does not know may be the candidate. Each was an observer before: so everyone answers
//! with the voters and observers as of the newest membership that is committed there, and with all others that its log
//! or the note beside it tells of. They are asked as well. The note is durable before anyone is told of a change by
//! its leader, and outlives the entry until something else is committed there. What a newer committed membership
//! has replaced is not asked any more: its candidates lose all elections. An observer may have voted, too: for a
//! candidate whose log has it as a voter already. A dead observer holds up the first round, until it is removed.
//!
//! If more than half of the voters forgot (of two, both), none of them finds out: they may have
//! elected a leader of whom nobody else knows. A voter that is down holds up the first round, because
//! it may be the candidate. A lone voter asks the observers, all of them, as what it sent them may be
//! of a term that it forgot; without any it goes on at once.

use alloc::vec::Vec;

use wal::{LogIndex, ReplicaId, Term};

use super::Raft;
use super::quorum::majority;

/// Who has a vote, as far as a replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Electorate {
    /// The entry that made the newest membership that is committed there; zero if none did.
    pub since: LogIndex,
    /// The voters of that.
    pub voters: Vec<ReplicaId>,
    /// Further ones, and the newest entry that makes each: of what is not committed, or was noted beside a
    /// log that lost it.
    pub others: Vec<(LogIndex, ReplicaId)>,
    /// The entry that made the newest membership that is known, committed or not.
    pub newest: LogIndex,
    /// Hold data in any of these, each with the newest entry that says so: one may have become a voter of a
    /// membership that nobody else knows.
    pub observers: Vec<(LogIndex, ReplicaId)>,
}

impl Electorate {
    /// Takes what another knows: of what is committed the newer, of the rest all.
    fn join(&mut self, told: &Self) {
        if told.since > self.since {
            self.since = told.since;
            self.voters.clone_from(&told.voters);
        }
        add(&mut self.others, &told.others);
        add(&mut self.observers, &told.observers);
        self.others.retain(|&(since, _)| since > self.since);
        self.observers.retain(|&(since, _)| since >= self.since);
        self.newest = self.newest.max(told.newest);
    }

    /// All that may have voted, as far as any log tells.
    fn voters(&self) -> Vec<ReplicaId> {
        let mut voters = self.voters.clone();
        let others = self.others.iter().map(|&(_, other)| other);
        voters.extend(others.filter(|other| !self.voters.contains(other)));
        voters
    }

    /// All that may have voted or stood.
    fn all(&self) -> Vec<ReplicaId> {
        let mut all = self.voters();
        let observers = self.observers.iter().map(|&(_, observer)| observer);
        let observers: Vec<ReplicaId> = observers.filter(|it| !all.contains(it)).collect();
        all.extend(observers);
        all
    }
}

/// Keeps each with the newest entry.
fn add(to: &mut Vec<(LogIndex, ReplicaId)>, more: &[(LogIndex, ReplicaId)]) {
    for &(since, replica) in more {
        match to.iter_mut().find(|(_, known)| *known == replica) {
            Some((known, _)) => *known = since.max(*known),
            None => to.push((since, replica)),
        }
    }
}

/// What was answered so far.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// Everyone has answered the first round.
    second: bool,
    /// Who has answered this round, and whether sure.
    answers: Vec<(ReplicaId, bool)>,
    /// The greatest term told sure, in either round.
    newest: Term,
    /// Who has a vote, as all know together that answered.
    electorate: Electorate,
}

impl Inquiry {
    /// Nothing was answered; this is what is known here.
    pub(super) fn new(electorate: Electorate) -> Self {
        Self {
            second: false,
            answers: Vec::new(),
            newest: Term::ZERO,
            electorate,
        }
    }

    /// Notes an answer to the round under way.
    pub(super) fn answered(&mut self, from: ReplicaId, sure: bool, term: Term) {
        if sure {
            self.newest = self.newest.max(term);
        }
        match self.answers.iter_mut().find(|(known, _)| *known == from) {
            Some((_, was_sure)) => *was_sure |= sure,
            None => self.answers.push((from, sure)),
        }
    }

    /// Takes what another knows of who has a vote.
    pub(super) fn hear(&mut self, electorate: &Electorate) {
        let before = self.electorate.all();
        self.electorate.join(electorate);
        let new = self.electorate.all().iter().any(|it| !before.contains(it));
        if self.second && new {
            // Whoever is new has to answer the first round, too.
            self.second = false;
            self.answers.clear();
        }
    }

    /// Begins the second round once all of `asked` have answered the first. Says whether it began.
    pub(super) fn begin_second(&mut self, asked: &[ReplicaId]) -> bool {
        let has_answered = |asked: &ReplicaId| self.answers.iter().any(|(it, _)| it == asked);
        if self.second || !asked.iter().all(has_answered) {
            return false;
        }
        self.second = true;
        self.answers.clear();
        true
    }

    /// The term that none of its votes is above, once enough have answered the second round sure.
    pub(super) fn conclusion(&self, id: ReplicaId, asked: &[ReplicaId]) -> Option<Term> {
        let sure = self.answers.iter().filter(|&&(_, sure)| sure);
        let sure: Vec<ReplicaId> = sure.map(|&(from, _)| from).collect();
        let count = |of: &[ReplicaId]| of.iter().filter(|it| sure.contains(it)).count();
        let Electorate {
            since,
            voters,
            newest,
            observers,
            ..
        } = &self.electorate;
        let all = self.electorate.voters();
        let enough = if all[..] == [id] {
            count(asked) == asked.len()
        } else {
            // One that came in later may be a voter of a change that only it knows.
            let came = observers.iter().any(|&(made, _)| made > LogIndex::ZERO);
            let changing = newest > since || came;
            let needed = |voters| needed(voters, id, changing);
            count(voters) >= needed(voters) && count(&all) >= needed(&all)
        };
        (self.second && enough).then_some(self.newest)
    }

    /// Whether an answer of the replica could still bring this round on.
    fn lacks(&self, replica: ReplicaId) -> bool {
        let answer = self.answers.iter().find(|&&(known, _)| known == replica);
        answer.is_none_or(|&(_, sure)| self.second && !sure)
    }
}

/// How many sure answers share a voter with every majority, before and after a change of one voter.
fn needed(voters: &[ReplicaId], id: ReplicaId, changing: bool) -> usize {
    let count = voters.len();
    if !voters.contains(&id) {
        // With this replica, it is a majority of one voter more.
        return count - count.div_ceil(2) + 1;
    }
    let more = usize::from(changing && count.is_multiple_of(2));
    (count - majority(count) + 1 + more).min(count - 1)
}

impl Raft {
    /// Who has a vote, as far as this replica knows.
    pub(super) fn electorate(&self) -> Electorate {
        let (since, membership) = self.membership_at(self.commit);
        let mut electorate = Electorate {
            since,
            voters: membership.members.voters.clone(),
            newest: since,
            ..Electorate::default()
        };
        let newer = self.memberships.members().chain(self.noted_members());
        let newer = newer.filter(|(made, _)| *made > since);
        for (made, members) in newer.chain([(since, &membership.members)]) {
            let stamped = |ids: &[ReplicaId]| -> Vec<(LogIndex, ReplicaId)> {
                ids.iter().map(|&id| (made, id)).collect()
            };
            if made > since {
                add(&mut electorate.others, &stamped(&members.voters));
            }
            add(&mut electorate.observers, &stamped(&members.observers));
            electorate.newest = electorate.newest.max(made);
        }
        electorate
    }

    /// Whose answers count: all who may have voted or stood.
    pub(super) fn asked_for_terms(&self) -> Vec<ReplicaId> {
        let repair = self.repair.as_ref();
        let Some(inquiry) = repair.and_then(|repair| repair.inquiry.as_ref()) else {
            return Vec::new();
        };
        let mut asked = inquiry.electorate.all();
        asked.retain(|&other| other != self.id);
        asked
    }

    /// Those that a replica whose promises are lost waits for: they have not answered, or are not
    /// sure themselves. Empty on others.
    pub fn waits_for(&self) -> Vec<ReplicaId> {
        let repair = self.repair.as_ref();
        let Some(inquiry) = repair.and_then(|repair| repair.inquiry.as_ref()) else {
            return Vec::new();
        };
        let mut asked = self.asked_for_terms();
        asked.retain(|&other| inquiry.lacks(other));
        asked
    }
}
