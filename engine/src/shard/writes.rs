//! Writes on their way: those in the open batch, and those proposed and not yet applied.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use net::{Command, ErrorReply, Reply};
use wal::{LogIndex, Payload, Term};

use super::{Outcome, Output, Token};
use crate::batch::BatchBuilder;
use crate::time::Time;

/// An entry this leader proposed, and who waits for it.
#[derive(Debug)]
struct Proposal {
    index: LogIndex,
    term: Term,
    tokens: Vec<Token>,
    bytes: usize,
    deadline: Time,
}

/// The writes of one group that nobody has been answered yet.
#[derive(Default)]
pub(super) struct Writes {
    open: BatchBuilder,
    open_tokens: Vec<Token>,
    /// Ascending by index.
    proposed: VecDeque<Proposal>,
    /// From an earlier leadership of this replica, at places that its log has given to others since.
    /// Another replica may still hold them, and commit them if it is elected: until their index is
    /// applied, nothing is known.
    overtaken: Vec<Proposal>,
    proposed_bytes: usize,
    /// Commands that were proposed, and nobody was answered yet.
    proposed_commands: usize,
    /// When the open batch got its first command.
    opened_at: Time,
    /// One proposal at a time is watched: what it waits for tells what they all do.
    watched: Option<Watched>,
    /// It was applied.
    watched_done: Option<Watched>,
}

/// A proposal on its way, watched for the accounts.
#[derive(Clone, Copy, Debug)]
struct Watched {
    index: LogIndex,
    term: Term,
    /// When it was durable here.
    durable_at: Option<Time>,
}

impl Writes {
    pub(super) fn push(&mut self, now: Time, token: Token, command: &Command<'_>) {
        if self.open_tokens.is_empty() {
            self.opened_at = now;
        }
        self.open.push(command);
        self.open_tokens.push(token);
    }

    pub(super) fn is_open(&self) -> bool {
        !self.open_tokens.is_empty()
    }

    /// Bytes in the open batch.
    pub(super) fn open_bytes(&self) -> usize {
        self.open.bytes()
    }

    /// Bytes of requests that wait, in the open batch or for their commit.
    pub(super) fn pending_bytes(&self) -> usize {
        self.open.bytes() + self.proposed_bytes
    }

    /// Requests that wait, in the open batch or for their commit.
    pub(super) fn pending(&self) -> usize {
        self.open_tokens.len() + self.proposed_commands
    }

    /// How many commands the open batch has, and for how long it is open.
    pub(super) fn open_for(&self, now: Time) -> (usize, Duration) {
        let open = self.open_tokens.len();
        (
            open,
            if open > 0 {
                now.since(self.opened_at)
            } else {
                Duration::ZERO
            },
        )
    }

    /// Everything up to `index` is durable here.
    pub(super) fn persisted(&mut self, index: LogIndex, now: Time) {
        if let Some(watched) = &mut self.watched
            && watched.index <= index
        {
            watched.durable_at.get_or_insert(now);
        }
    }

    /// How long the proposal that was watched waited for other disks after this one had it, if it was
    /// applied now.
    pub(super) fn take_peer_wait(&mut self, now: Time) -> Option<Duration> {
        let done = self.watched_done.take()?;
        Some(done.durable_at.map_or(Duration::ZERO, |at| now.since(at)))
    }

    /// Seals the open batch, stamped with the leader's time.
    pub(super) fn seal(&mut self, stamp_ms: u64) -> Payload {
        self.open.seal(stamp_ms)
    }

    /// The batch sealed last became the entry at `(index, term)`.
    pub(super) fn proposed(&mut self, index: LogIndex, term: Term, bytes: usize, deadline: Time) {
        while let Some(older) = self.proposed.pop_back_if(|older| older.index >= index) {
            assert!(
                older.term < term,
                "index {index} proposed twice in one term"
            );
            self.overtaken.push(older);
        }
        let tokens = core::mem::take(&mut self.open_tokens);
        self.proposed_bytes += bytes;
        self.proposed_commands += tokens.len();
        self.watched.get_or_insert(Watched {
            index,
            term,
            durable_at: None,
        });
        self.proposed.push_back(Proposal {
            index,
            term,
            tokens,
            bytes,
            deadline,
        });
    }

    /// The entry at `(index, term)` was applied. If it was proposed here, its clients are answered;
    /// if another took its place, it never happened.
    pub(super) fn applied(
        &mut self,
        index: LogIndex,
        term: Term,
        replies: &mut Vec<Reply>,
        out: &mut Output,
    ) {
        if let Some(watched) = self.watched.take_if(|watched| watched.index <= index) {
            let ours = (watched.index, watched.term) == (index, term);
            self.watched_done = ours.then_some(watched);
        }
        let over = |proposal: &mut Proposal| proposal.index <= index;
        let mut done: Vec<Proposal> = self.overtaken.extract_if(.., over).collect();
        while let Some(proposal) = self.proposed.pop_front_if(over) {
            done.push(proposal);
        }
        for proposal in done {
            self.forget(&proposal);
            let tokens = proposal.tokens.into_iter();
            if (proposal.index, proposal.term) == (index, term) {
                assert_eq!(tokens.len(), replies.len(), "a reply for each command");
                let answers = tokens.zip(replies.drain(..));
                out.replies
                    .extend(answers.map(|(token, reply)| (token, Outcome::Reply(reply))));
            } else {
                out.replies
                    .extend(tokens.map(|token| (token, Outcome::NoLeader)));
            }
        }
    }

    /// A snapshot replaced the state: what became of the proposals that it covers is not known.
    pub(super) fn overtaken_by_snapshot(&mut self, index: LogIndex, out: &mut Output) {
        let over = |proposal: &mut Proposal| proposal.index <= index;
        let mut done: Vec<Proposal> = self.overtaken.extract_if(.., over).collect();
        while let Some(proposal) = self.proposed.pop_front_if(over) {
            done.push(proposal);
        }
        self.leave_unknown(done, out);
    }

    fn forget(&mut self, proposal: &Proposal) {
        self.proposed_bytes -= proposal.bytes;
        self.proposed_commands -= proposal.tokens.len();
    }

    fn leave_unknown(&mut self, proposals: Vec<Proposal>, out: &mut Output) {
        for proposal in proposals {
            self.forget(&proposal);
            let tokens = proposal.tokens.into_iter();
            out.replies
                .extend(tokens.map(|token| (token, Outcome::Unknown)));
        }
    }

    /// Answers those that waited too long: their outcome is unknown.
    pub(super) fn expire(&mut self, now: Time, out: &mut Output) {
        let late = |proposal: &mut Proposal| proposal.deadline <= now;
        let mut done: Vec<Proposal> = self.overtaken.extract_if(.., late).collect();
        while let Some(proposal) = self.proposed.pop_front_if(late) {
            done.push(proposal);
        }
        self.leave_unknown(done, out);
    }

    /// Answers those that were proposed: what became of them will not be known here.
    pub(super) fn abandon(&mut self, out: &mut Output) {
        for proposal in self.overtaken.drain(..).chain(self.proposed.drain(..)) {
            let tokens = proposal.tokens.into_iter();
            out.replies
                .extend(tokens.map(|token| (token, Outcome::Unknown)));
        }
        self.proposed_bytes = 0;
        self.proposed_commands = 0;
    }

    /// Answers those of the open batch, which nobody has seen.
    pub(super) fn refuse_open(&mut self, error: &ErrorReply, out: &mut Output) {
        for (token, _) in self.take_open() {
            let outcome = Outcome::Reply(error.clone().into());
            out.replies.push((token, outcome));
        }
    }

    /// When [`Writes::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let overtaken = self.overtaken.iter().map(|proposal| proposal.deadline);
        let proposed = self.proposed.front().map(|proposal| proposal.deadline);
        overtaken.chain(proposed).min()
    }

    /// Gives back what was not proposed: leadership is lost.
    pub(super) fn take_open(&mut self) -> Vec<(Token, Vec<u8>)> {
        let commands = self.open.take_commands();
        let tokens = core::mem::take(&mut self.open_tokens);
        assert_eq!(tokens.len(), commands.len(), "a command for each token");
        tokens.into_iter().zip(commands).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn propose(writes: &mut Writes, token: u64, index: u64, term: u64) {
        writes.push(Time::default(), Token(token), &Command::Flush);
        writes.seal(0);
        let (index, term) = (LogIndex::from_raw(index), Term::from_raw(term));
        writes.proposed(index, term, 0, Time::from_nanos(1));
    }

    #[test]
    fn a_proposal_that_another_leadership_left_behind_hides_no_newer_one() {
        let (mut writes, mut out) = (Writes::default(), Output::default());
        propose(&mut writes, 1, 8, 2);
        propose(&mut writes, 2, 7, 4);
        propose(&mut writes, 3, 8, 4);
        for index in [7, 8] {
            let (index, term) = (LogIndex::from_raw(index), Term::from_raw(4));
            writes.applied(index, term, &mut vec![Reply::Ok], &mut out);
        }
        let done = || Outcome::Reply(Reply::Ok);
        assert_eq!(
            out.replies,
            [
                (Token(2), done()),
                (Token(1), Outcome::NoLeader),
                (Token(3), done()),
            ]
        );
    }

    #[test]
    fn what_a_later_leader_committed_after_all_is_answered_so() {
        let (mut writes, mut out) = (Writes::default(), Output::default());
        propose(&mut writes, 1, 8, 2);
        propose(&mut writes, 2, 8, 4);
        let (index, term) = (LogIndex::from_raw(8), Term::from_raw(2));
        writes.applied(index, term, &mut vec![Reply::Ok], &mut out);
        let answers = [
            (Token(1), Outcome::Reply(Reply::Ok)),
            (Token(2), Outcome::NoLeader),
        ];
        assert_eq!(out.replies, answers);
    }
}
