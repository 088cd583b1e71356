//! Promises: which term and vote the disk holds, and which are on their way there.
//!
//! What a replica says of them to others waits here until a crash could not take it back.

use alloc::vec::Vec;

use wal::{Entry, FlushNumber, HardState, ReplicaId, Term};

use super::{Message, Outbox, Raft, Role};

/// What is durable of term and vote, and what is on its way.
#[derive(Debug)]
pub(super) struct Promises {
    /// `(flush, term, vote)` of each write under way.
    under_way: Vec<(FlushNumber, Term, Option<ReplicaId>)>,
    submitted: (Term, Option<ReplicaId>),
    durable: (Term, Option<ReplicaId>),
}

impl Promises {
    /// Those that were found on the disk.
    pub(super) fn new(term: Term, vote: Option<ReplicaId>) -> Self {
        Self {
            under_way: Vec::new(),
            submitted: (term, vote),
            durable: (term, vote),
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn are_settled(&self) -> bool {
        self.submitted == self.durable
    }

    /// Every flush up to `flush` is durable.
    fn written(&mut self, flush: FlushNumber) {
        self.under_way.retain(|&(number, term, vote)| {
            if number <= flush {
                self.durable = (term, vote);
            }
            number > flush
        });
    }
}

impl Raft {
    /// Whether a flush is needed.
    pub fn has_unsubmitted(&self) -> bool {
        let promise = self.promises.submitted != (self.term, self.vote);
        promise || self.log.has_unsubmitted() || self.has_note()
    }

    /// Hands what is not yet on its way to the disk to `flush`: about `bytes_max` of payload.
    pub fn submit(
        &mut self,
        flush: FlushNumber,
        bytes_max: usize,
        mut hard_state: impl FnMut(HardState),
        entry: impl FnMut(&Entry),
    ) {
        self.log.submit(flush, bytes_max, entry);
        let promise = (self.term, self.vote);
        // What is committed may not be on its way to this disk yet: after a crash, the log would
        // end before its commit.
        let commit = self.commit.min(self.log.submitted());
        // A commit alone is not worth a flush, but it rides along.
        if self.promises.submitted != promise || self.commit_submitted < commit {
            hard_state(HardState {
                term: self.term,
                vote: self.vote,
                commit,
            });
            self.commit_submitted = commit;
        }
        if self.promises.submitted != promise {
            self.promises.under_way.push((flush, self.term, self.vote));
            self.promises.submitted = promise;
        }
    }

    /// Every flush up to `flush` is durable: says what had to wait for that.
    pub fn written(&mut self, flush: FlushNumber, out: &mut Outbox) {
        assert!(!self.disk.has_failed(), "a disk that failed writes no more");
        self.log.written(flush);
        self.promises.written(flush);
        self.heal();
        self.speak(out);
        if self.role == Role::Leader {
            self.commit_what_a_majority_holds();
        }
    }

    /// Whether a crash now could not take back this term and vote.
    pub(super) fn promise_is_durable(&self) -> bool {
        self.promises.durable == (self.term, self.vote)
    }

    /// Says what is durable by now and was not said yet.
    pub(super) fn speak(&mut self, out: &mut Outbox) {
        if !self.promise_is_durable() || self.disk.has_failed() {
            return;
        }
        if let Some((to, life)) = self.vote_owed.take() {
            out.push((
                to,
                Message::Vote {
                    term: self.term,
                    pre: false,
                    granted: true,
                    life,
                },
            ));
        }
        if self.requests_held {
            self.request_votes(out);
        }
        self.acknowledge(out);
    }
}
