//! Linearizable reads: those that wait for a ReadIndex round, and those whose round is under way.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::array;

use net::{Command, Reply};
use wal::{LogIndex, Term};

use super::Token;
use crate::state_machine::{StateMachine, TURN_ANSWERS_BYTES, WINDOW};

/// Rounds under way at once: the reads that come meanwhile share the next one.
const ROUNDS_MAX: usize = 2;

/// Encoded reads, back to back.
#[derive(Debug, Default)]
struct Batch {
    blob: Vec<u8>,
    /// Each read's token and where it ends in the blob.
    ends: Vec<(Token, usize)>,
}

/// Reads that share a round.
#[derive(Debug)]
struct Round {
    number: u64,
    term: Term,
    /// The state must have applied this.
    index: LogIndex,
    batch: Batch,
    /// So many of the batch are answered.
    served: usize,
}

/// The reads of one group that nobody has been answered yet.
#[derive(Debug, Default)]
pub(super) struct Reads {
    open: Batch,
    under_way: VecDeque<Round>,
}

impl Reads {
    pub(super) fn push(&mut self, token: Token, command: &Command<'_>) {
        command.encode(&mut self.open.blob);
        self.open.ends.push((token, self.open.blob.len()));
    }

    /// Whether a round should be started.
    pub(super) fn wants_round(&self) -> bool {
        !self.open.ends.is_empty() && self.under_way.len() < ROUNDS_MAX
    }

    /// Whether a round belongs to an earlier leadership of this replica: nothing will confirm it.
    pub(super) fn is_older_than(&self, term: Term) -> bool {
        self.under_way
            .front()
            .is_some_and(|round| round.term < term)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.ends.is_empty() && self.under_way.is_empty()
    }

    /// Bytes of reads that wait.
    pub(super) fn pending_bytes(&self) -> usize {
        let under_way: usize = self
            .under_way
            .iter()
            .map(|round| round.batch.blob.len())
            .sum();
        self.open.blob.len() + under_way
    }

    /// Reads that wait.
    pub(super) fn pending(&self) -> usize {
        let under_way = self.under_way.iter();
        let under_way: usize = under_way
            .map(|round| round.batch.ends.len() - round.served)
            .sum();
        self.open.ends.len() + under_way
    }

    /// A round began that serves all open reads.
    pub(super) fn started(&mut self, number: u64, term: Term, index: LogIndex) {
        let batch = core::mem::take(&mut self.open);
        self.under_way.push_back(Round {
            number,
            term,
            index,
            batch,
            served: 0,
        });
    }

    /// Whether reads could be answered that were too many for one turn.
    pub(super) fn is_interrupted(&self) -> bool {
        self.under_way.front().is_some_and(|round| round.served > 0)
    }

    /// Answers the reads whose round was confirmed in `term` and whose index is applied, as many as one
    /// turn takes. `read` gives the answer to a command.
    pub(super) fn serve(
        &mut self,
        term: Term,
        confirmed: u64,
        applied: LogIndex,
        state: &impl StateMachine,
        read: impl Fn(&Command<'_>) -> Reply,
        mut reply: impl FnMut(Token, Reply),
    ) {
        let mut bytes = 0;
        while let Some(round) = self.under_way.front_mut() {
            if round.term != term || round.number > confirmed || round.index > applied {
                break;
            }
            round.serve(&mut bytes, state, &read, &mut reply);
            if round.served < round.batch.ends.len() {
                break;
            }
            self.under_way.pop_front();
        }
    }

    /// Gives back every read: leadership is lost.
    pub(super) fn take(&mut self) -> Vec<(Token, Vec<u8>)> {
        let mut all = Vec::new();
        let rounds = self.under_way.drain(..);
        let rounds = rounds.map(|round| (round.batch, round.served));
        for (batch, served) in rounds.chain([(core::mem::take(&mut self.open), 0)]) {
            let unanswered = batch.from(served);
            all.extend(unanswered.map(|(token, bytes)| (token, bytes.to_vec())));
        }
        all
    }
}

impl Round {
    /// Answers reads, one at least, until there are none left or the turn has answered enough.
    fn serve(
        &mut self,
        bytes: &mut usize,
        state: &impl StateMachine,
        read: &impl Fn(&Command<'_>) -> Reply,
        reply: &mut impl FnMut(Token, Reply),
    ) {
        let mut reads = self.batch.from(self.served).map(|(token, bytes)| {
            let command = Command::decode(bytes);
            (token, command.expect("encoded by this replica"))
        });
        loop {
            let window: [_; WINDOW] = array::from_fn(|_| reads.next());
            let reads = || window.iter().flatten();
            state.look_ahead(reads().map(|(_, command)| command));
            for (token, command) in reads() {
                let answer = read(command);
                *bytes += answer.held_bytes();
                reply(*token, answer);
                self.served += 1;
                if *bytes > TURN_ANSWERS_BYTES {
                    return;
                }
            }
            if window[WINDOW - 1].is_none() {
                break;
            }
        }
    }
}

impl Batch {
    /// All but the first `served`.
    fn from(&self, served: usize) -> impl Iterator<Item = (Token, &[u8])> {
        let mut start = served.checked_sub(1).map_or(0, |last| self.ends[last].1);
        self.ends[served..].iter().map(move |&(token, end)| {
            let bytes = &self.blob[start..end];
            start = end;
            (token, bytes)
        })
    }
}
