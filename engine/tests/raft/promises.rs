//! What must be true of a group at every moment (Raft figure 3).

use std::collections::BTreeMap;

use engine::raft::{Raft, Role};
use wal::{LogIndex, ReplicaId, Term};

/// Everything that was ever elected or committed.
#[derive(Default)]
pub(crate) struct Promises {
    leaders: BTreeMap<Term, ReplicaId>,
    /// The term and payload of each committed position.
    pub(crate) committed: Vec<(Term, Vec<u8>)>,
}

impl Promises {
    /// Compares a replica with all that was seen before. `commit_before` is its commit when it was
    /// last looked at.
    pub(crate) fn check(&mut self, raft: &Raft, commit_before: LogIndex) {
        if raft.role() == Role::Leader {
            let elected = *self.leaders.entry(raft.term()).or_insert(raft.id());
            assert_eq!(elected, raft.id(), "two leaders in term {}", raft.term());
            let newest = *self.leaders.keys().next_back().expect("just added");
            if newest == raft.term() {
                self.check_completeness(raft);
            }
        }
        let mut index = commit_before;
        while index < raft.commit() {
            index = index.next();
            let Some(entry) = raft.log().cached(index) else {
                continue;
            };
            let found = (entry.term, entry.payload.to_vec());
            let at = usize::try_from(index.to_raw()).expect("small") - 1;
            if at == self.committed.len() {
                self.committed.push(found);
            } else {
                assert_eq!(
                    self.committed[at],
                    found,
                    "{} commits something else at {index}",
                    raft.id()
                );
            }
        }
    }

    /// The newest leader holds everything that was ever committed (leader completeness).
    fn check_completeness(&self, raft: &Raft) {
        let mut index = LogIndex::ZERO;
        for (term, _) in &self.committed {
            index = index.next();
            assert_eq!(
                raft.log().term(index),
                Some(*term),
                "leader {} of term {} lacks committed entry {index}",
                raft.id(),
                raft.term()
            );
        }
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }
}
