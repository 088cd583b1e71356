//! Elections: pre-votes, votes, leases, and who stands when.

use core::time::Duration;

use wal::{LogIndex, ReplicaId, Term};

use super::quorum::majority;
use super::{Message, Outbox, Raft, Role};

impl Raft {
    /// Stands for election, with a pre-vote first if so configured.
    pub fn campaign(&mut self, out: &mut Outbox) {
        if self.role == Role::Leader {
            return;
        }
        if !self.is_voter() {
            self.leader = None; // it was not heard for long
            if self.members.observers.contains(&self.id) {
                // The group may be quiet: whoever leads it wakes up by this, and speaks.
                self.send_requests(true, out);
            }
            return;
        }
        if self.disk.has_failed() {
            self.leader = None; // it was not heard for long, and nobody is to be sent there
            return;
        }
        if self.is_damaged() {
            return;
        }
        self.transfer_election = false;
        self.campaigns += 1;
        if self.settings.pre_vote {
            self.role = Role::PreCandidate;
            self.leader = None;
            self.ballots.clear();
            self.requests_held = false;
            self.rest();
            self.request_votes(out);
        } else {
            self.stand(out);
        }
    }

    /// Stands for election in a new term. The requests wait until the new term and the vote are
    /// durable: a candidate that forgot them could be elected twice in one term.
    pub(super) fn stand(&mut self, out: &mut Outbox) {
        self.become_candidate();
        self.speak(out);
    }

    pub(super) fn request_votes(&mut self, out: &mut Outbox) {
        let pre = self.role == Role::PreCandidate;
        assert!(
            pre || self.role == Role::Candidate,
            "only candidates ask for votes"
        );
        self.requests_held = false;
        self.send_requests(pre, out);
        self.ballot(self.id, pre, true, self.life, out);
    }

    fn send_requests(&self, pre: bool, out: &mut Outbox) {
        let term = if pre { self.term.next() } else { self.term };
        for &to in self
            .members
            .voters
            .iter()
            .filter(|&&voter| voter != self.id)
        {
            let request = Message::RequestVote {
                term,
                pre,
                last_index: self.log.last_index(),
                last_term: self.log.last_term(),
                transfer: self.transfer_election,
                life: self.life,
            };
            out.push((to, request));
        }
    }

    /// Answers a request for a vote (Raft §5.2, §5.4.1).
    pub(super) fn request_vote(
        &mut self,
        from: ReplicaId,
        term: Term,
        pre: bool,
        (last_index, last_term): (LogIndex, Term),
        life: u64,
        out: &mut Outbox,
    ) {
        let free = self.vote == Some(from)
            || (self.vote.is_none() && self.leader.is_none())
            || (pre && term > self.term);
        // What a failed disk cannot keep is not promised, not even in a pre-vote.
        let keeps = !self.disk.has_failed();
        if !free || !keeps || !self.is_up_to_date(last_index, last_term) {
            out.push((
                from,
                Message::Vote {
                    term: self.term,
                    pre,
                    granted: false,
                    life,
                },
            ));
        } else if pre {
            out.push((
                from,
                Message::Vote {
                    term,
                    pre: true,
                    granted: true,
                    life,
                },
            ));
        } else {
            self.vote = Some(from);
            self.vote_owed = Some((from, life));
            self.rest();
            self.speak(out);
        }
    }

    /// Counts a vote; the majority decides. A vote for an earlier start of this replica counts no
    /// more: that candidacy may be forgotten on both sides (see `repair.rs`).
    pub(super) fn ballot(
        &mut self,
        from: ReplicaId,
        pre: bool,
        granted: bool,
        life: u64,
        out: &mut Outbox,
    ) {
        let expected = if pre {
            Role::PreCandidate
        } else {
            Role::Candidate
        };
        if life != self.life
            || self.role != expected
            || self.ballots.iter().any(|&(voter, _)| voter == from)
        {
            return;
        }
        if self.members.voters.contains(&from) {
            self.ballots.push((from, granted));
        }
        let quorum = majority(self.members.voters.len());
        let count = |answer| {
            self.ballots
                .iter()
                .filter(|&&(_, vote)| vote == answer)
                .count()
        };
        if count(true) >= quorum {
            if pre {
                self.stand(out)
            } else {
                self.become_leader(out)
            }
        } else if count(false) > self.members.voters.len() - quorum {
            self.become_follower(self.term, None);
        }
    }

    /// A leader of this term spoke: there is no election.
    pub(super) fn hear_leader(&mut self, leader: ReplicaId) {
        assert!(
            self.role != Role::Leader,
            "two leaders in term {}",
            self.term
        );
        if self.role != Role::Follower {
            self.become_follower(self.term, Some(leader));
        }
        self.leader = Some(leader);
        self.heard = self.now;
        self.rest();
    }

    /// Whether a leader was heard so recently that nobody may depose it.
    pub(super) fn in_lease(&self) -> bool {
        self.settings.check_quorum
            && self.leader.is_some()
            && (self.role == Role::Leader
                || self.now < self.heard.after(self.settings.election_timeout))
    }

    /// Whether a majority was heard from since the last time this was asked.
    pub(super) fn heard_from_majority(&mut self) -> bool {
        let voters = &self.members.voters;
        let mut heard = usize::from(voters.contains(&self.id));
        for (replica, progress) in &mut self.progress {
            if voters.contains(replica) {
                heard += usize::from(progress.active);
            }
            if !progress.active {
                // It is gone: nothing is kept for it.
                progress.offered = LogIndex::ZERO;
            }
            progress.active = false;
        }
        heard >= majority(voters.len())
    }

    /// Waits for one to two election timeouts before it stands (Raft §5.2).
    pub(super) fn rest(&mut self) {
        // xorshift64: its state is part of the replica's, so that a seed decides everything.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let timeout = self.settings.election_timeout;
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1);
        let extra = Duration::from_nanos(self.random % nanos);
        self.election_deadline = self.now.after(timeout + extra);
    }
}
