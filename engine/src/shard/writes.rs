//! Writes on their way: those in the open batch, and those proposed and not yet applied.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use net::{Command, Reply};
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
    proposed: VecDeque<Proposal>,
    proposed_bytes: usize,
}

impl Writes {
    pub(super) fn push(&mut self, token: Token, command: &Command<'_>) {
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

    /// Seals the open batch, stamped with the leader's time.
    pub(super) fn seal(&mut self, stamp_ms: u64) -> Payload {
        self.open.seal(stamp_ms)
    }

    /// The batch sealed last became the entry at `(index, term)`.
    pub(super) fn proposed(&mut self, index: LogIndex, term: Term, bytes: usize, deadline: Time) {
        let tokens = core::mem::take(&mut self.open_tokens);
        self.proposed_bytes += bytes;
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
        while self
            .proposed
            .front()
            .is_some_and(|proposal| proposal.index <= index)
        {
            let proposal = self.pop();
            if proposal.index == index && proposal.term == term {
                assert_eq!(
                    proposal.tokens.len(),
                    replies.len(),
                    "a reply for each command"
                );
                let answers = proposal.tokens.into_iter().zip(replies.drain(..));
                out.replies
                    .extend(answers.map(|(token, reply)| (token, Outcome::Reply(reply))));
            } else {
                let tokens = proposal.tokens.into_iter();
                out.replies
                    .extend(tokens.map(|token| (token, Outcome::NoLeader)));
            }
        }
    }

    /// Answers those that waited too long: their outcome is unknown.
    pub(super) fn expire(&mut self, now: Time, out: &mut Output) {
        while self
            .proposed
            .front()
            .is_some_and(|proposal| proposal.deadline <= now)
        {
            let tokens = self.pop().tokens.into_iter();
            out.replies
                .extend(tokens.map(|token| (token, Outcome::Unknown)));
        }
    }

    /// When [`Writes::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.proposed.front().map(|proposal| proposal.deadline)
    }

    /// Gives back what was not proposed: leadership is lost.
    pub(super) fn take_open(&mut self) -> Vec<(Token, Vec<u8>)> {
        let commands = self.open.take_commands();
        let tokens = core::mem::take(&mut self.open_tokens);
        assert_eq!(tokens.len(), commands.len(), "a command for each token");
        tokens.into_iter().zip(commands).collect()
    }

    fn pop(&mut self) -> Proposal {
        let proposal = self.proposed.pop_front().expect("callers look first");
        self.proposed_bytes -= proposal.bytes;
        proposal
    }
}
