//! How a replica that may have forgotten votes and terms finds a term above all of them.
//!
//! It says nothing but questions, in two rounds. First, every other voter must have answered since
//! this start, be it *sure* (it has forgotten nothing, or found out) or not. Then it asks anew,
//! until `n − majority + 1` of the `n` voters have answered sure: so many share a voter with every
//! majority. The greatest term told sure in either round is one in which it votes no more; those
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
//! If more than half of the voters forgot (of two, both), none of them finds out: they may have
//! elected a leader of whom nobody else knows. A voter that is down holds up the first round, because
//! it may be the candidate. A lone voter asks the observers, all of them, as what it sent them may be
//! of a term that it forgot; without any it goes on at once.

use alloc::vec::Vec;

use wal::{ReplicaId, Term};

use super::Raft;
use super::quorum::majority;

/// What was answered so far.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// Everyone has answered the first round.
    second: bool,
    /// Who has answered this round, and whether sure.
    answers: Vec<(ReplicaId, bool)>,
    /// The greatest term told sure, in either round.
    newest: Term,
}

impl Inquiry {
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

    /// Begins the second round once all of `asked` have answered the first. Says whether it began.
    pub(super) fn begin_second(&mut self, asked: usize) -> bool {
        assert!(self.answers.len() <= asked, "a stranger answered");
        if self.second || self.answers.len() < asked {
            return false;
        }
        self.second = true;
        self.answers.clear();
        true
    }

    /// The term that none of its votes is above, once `needed` have answered the second round sure.
    pub(super) fn conclusion(&self, needed: usize) -> Option<Term> {
        let sure = self.answers.iter().filter(|&&(_, sure)| sure).count();
        (self.second && sure >= needed).then_some(self.newest)
    }

    /// Whether an answer of the replica could still bring this round on.
    fn lacks(&self, replica: ReplicaId) -> bool {
        let answer = self.answers.iter().find(|&&(known, _)| known == replica);
        answer.is_none_or(|&(_, sure)| self.second && !sure)
    }
}

impl Raft {
    /// Those whose answers count: the other voters, or the observers of a lone one.
    pub(super) fn asked_for_terms(&self) -> impl Iterator<Item = ReplicaId> {
        let members = &self.members;
        let lone = members.voters.len() == 1;
        let asked = if lone {
            &members.observers
        } else {
            &members.voters
        };
        asked.iter().copied().filter(|&other| other != self.id)
    }

    /// How many sure answers share a voter with every majority.
    pub(super) fn sure_answers_needed(&self) -> usize {
        match self.members.voters.len() {
            1 => self.asked_for_terms().count(),
            voters => voters - majority(voters) + 1,
        }
    }

    /// Those that a replica whose promises are lost waits for: they have not answered, or are not
    /// sure themselves. Empty on others.
    pub fn waits_for(&self) -> Vec<ReplicaId> {
        let repair = self.repair.as_ref();
        let Some(inquiry) = repair.and_then(|repair| repair.inquiry.as_ref()) else {
            return Vec::new();
        };
        let asked = self.asked_for_terms();
        asked.filter(|&other| inquiry.lacks(other)).collect()
    }
}
