//! Snapshots: which entries they let go, and how a replica that lacks those comes to the state.
//!
//! A snapshot is of applied entries, which are committed: no other replica will ever apply anything
//! else at these positions. So a replica may take one from any other, in whatever terms the two are,
//! and begins its log behind it unless it holds the snapshot's last entry itself (Raft §7).
//!
//! What it then acknowledges waits until the disk knows the new floor, and not only the snapshot: a
//! log that starts where it should not tells at the next start that the snapshot is missing.

use wal::{LogIndex, ReplicaId, Term};

use super::{Membership, Message, NewFloor, Outbox, Raft, Role};

/// A snapshot that another replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub from: ReplicaId,
    /// Its last entry.
    pub index: LogIndex,
    pub term: Term,
}

impl Raft {
    /// The last entry of the newest snapshot that is durable here.
    pub fn snapshot(&self) -> (LogIndex, Term) {
        self.snapshot
    }

    /// The replica starts with the state of a snapshot, which says since which entry who was in the group;
    /// nothing if no entry had changed that.
    #[must_use]
    pub fn starting_from(
        mut self,
        index: LogIndex,
        term: Term,
        members: Option<(LogIndex, Membership)>,
    ) -> Self {
        if term > self.term {
            (self.term, self.vote) = (term, None);
        }
        let behind = self.log.term(index) != Some(term);
        if behind {
            self.log.begin_behind(index, term);
        }
        self.begin_memberships(behind, term, members);
        self.snapshot = (index, term);
        self.commit = self.commit.max(index);
        self.verified = self.commit;
        self
    }

    /// A snapshot of the state after this entry is durable.
    ///
    /// # Panics
    ///
    /// If the entry is not known to be committed.
    pub fn snapshot_taken(&mut self, index: LogIndex, term: Term) {
        assert!(index <= self.commit, "a snapshot of what is not committed");
        self.snapshot = self.snapshot.max((index, term));
    }

    /// Lets entries up to `index` go, as far as the newest snapshot holds them. What follows a
    /// snapshot that a replica is taking from this leader stays: it needs that next.
    pub fn compact(&mut self, index: LogIndex) {
        let taking = self.progress.iter().map(|(_, progress)| progress);
        let taking = taking.filter(|progress| progress.offered > LogIndex::ZERO);
        let kept = taking.map(|progress| progress.offered).min();
        let index = index
            .min(self.snapshot.0)
            .min(self.log.persisted())
            .min(kept.unwrap_or(index));
        if index > self.log.floor().0 {
            self.log.compact(index);
            self.settle_memberships();
            self.forget_questions();
        }
    }

    /// What the next flush must say of where the log begins, before its entries.
    pub fn take_floor(&mut self) -> Option<NewFloor> {
        self.log.take_floor()
    }

    /// Whether another replica takes a snapshot from this leader.
    pub fn is_serving_snapshot(&self) -> bool {
        let mut others = self.progress.iter();
        others.any(|(_, progress)| progress.offered > LogIndex::ZERO)
    }

    /// A follower needs what has left the log.
    pub(super) fn offer_snapshot(&mut self, position: usize, out: &mut Outbox) {
        let (to, progress) = &mut self.progress[position];
        progress.offer(self.snapshot.0);
        let to = *to;
        self.offer(to, out);
    }

    /// Tells another replica of the newest snapshot, if there is one.
    pub(super) fn offer(&self, to: ReplicaId, out: &mut Outbox) {
        let (index, index_term) = self.snapshot;
        if index > LogIndex::ZERO {
            let offer = Message::Offer {
                term: self.term,
                index,
                index_term,
            };
            out.push((to, offer));
        }
    }

    /// Another replica has a snapshot. It may be forgotten: it is offered again.
    pub(super) fn offered(
        &mut self,
        from: ReplicaId,
        (index, index_term): (LogIndex, Term),
        term: Term,
        out: &mut Outbox,
    ) {
        if self.role == Role::Leader || self.disk.has_failed() {
            return;
        }
        if index <= self.commit {
            if (self.leader, self.term) == (Some(from), term) {
                // It does not know how far this log is equal to its own.
                self.answer_owed = true;
                self.speak(out);
            }
        } else if self.offer.is_none_or(|known| index > known.index) {
            self.offer = Some(Offer {
                from,
                index,
                term: index_term,
            });
        }
    }

    /// The newest offer since the last call that goes beyond what is committed here.
    pub fn take_offer(&mut self) -> Option<Offer> {
        let offer = self.offer.take();
        offer.filter(|offer| offer.index > self.commit && self.role != Role::Leader)
    }

    /// Another replica's snapshot is durable here. Says whether the state is to become that of the
    /// snapshot; if not, it is of no use any more.
    pub fn install(
        &mut self,
        index: LogIndex,
        term: Term,
        members: Option<(LogIndex, Membership)>,
        out: &mut Outbox,
    ) -> bool {
        if self.role == Role::Leader || self.disk.has_failed() || index <= self.commit {
            return false;
        }
        if term > self.term {
            self.become_follower(term, None);
        } else if self.role != Role::Follower {
            self.become_follower(self.term, None);
        }
        if self.log.term(index) != Some(term) {
            self.log.begin_behind(index, term);
            self.begin_memberships(true, term, members);
            self.fit_to_snapshot();
            self.forget_questions();
        }
        self.snapshot = (index, term);
        self.verified = self.verified.max(index);
        self.advance_commit(index);
        self.answer_owed = true;
        self.heal();
        self.speak(out);
        true
    }
}
