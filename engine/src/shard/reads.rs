//! Linearizable reads: those that wait for a ReadIndex round, and those whose round is under way.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::array;

use net::{Command, Reply};
use wal::{LogIndex, Term};

use super::Token;
use crate::state_machine::{StateMachine, WINDOW};

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
        let under_way: usize = under_way.map(|round| round.batch.ends.len()).sum();
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
        });
    }

    /// Answers the reads whose round was confirmed in `term` and whose index is applied.
    pub(super) fn serve(
        &mut self,
        term: Term,
        confirmed: u64,
        applied: LogIndex,
        (state, unix_ms): (&impl StateMachine, u64),
        mut reply: impl FnMut(Token, Reply),
    ) {
        while let Some(round) = self.under_way.front() {
            if round.term != term || round.number > confirmed || round.index > applied {
                break;
            }
            let batch = self.under_way.pop_front().expect("just seen").batch;
            let mut reads = batch.iter().map(|(token, bytes)| {
                let command = Command::decode(bytes);
                (token, command.expect("encoded by this replica"))
            });
            loop {
                let window: [_; WINDOW] = array::from_fn(|_| reads.next());
                if window[0].is_none() {
                    break;
                }
                let reads = || window.iter().flatten();
                state.look_ahead(reads().map(|(_, command)| command));
                for (token, command) in reads() {
                    reply(*token, state.read(unix_ms, command));
                }
            }
        }
    }

    /// Gives back every read: leadership is lost.
    pub(super) fn take(&mut self) -> Vec<(Token, Vec<u8>)> {
        let mut all = Vec::new();
        let rounds = self.under_way.drain(..).map(|round| round.batch);
        for batch in rounds.chain([core::mem::take(&mut self.open)]) {
            all.extend(batch.iter().map(|(token, bytes)| (token, bytes.to_vec())));
        }
        all
    }
}

impl Batch {
    fn iter(&self) -> impl Iterator<Item = (Token, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(token, end)| {
            let bytes = &self.blob[start..end];
            start = end;
            (token, bytes)
        })
    }
}
