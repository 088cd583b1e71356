//! What replicas of a group say to each other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use wal::{Entry, LogIndex, Term};

use super::{Electorate, Pace};

/// A message between two replicas of one group. Every one carries the sender's term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a vote (Raft §5.2), or whether one would be given (thesis §9.6).
    RequestVote {
        /// The term voted for; a pre-candidate's is one above its own.
        term: Term,
        pre: bool,
        last_index: LogIndex,
        last_term: Term,
        /// The leader itself asked for this election: a lease does not refuse it (thesis §3.10).
        transfer: bool,
        /// The start of the sender that asks: another is another candidate.
        life: u64,
    },
    Vote {
        term: Term,
        pre: bool,
        granted: bool,
        /// The request's.
        life: u64,
    },
    /// AppendEntries (Raft §5.3).
    Append {
        term: Term,
        previous_index: LogIndex,
        previous_term: Term,
        commit: LogIndex,
        entries: Vec<Entry>,
    },
    /// The follower's log is durable and equal to the leader's up to `matched`.
    Appended { term: Term, matched: LogIndex },
    /// The follower has no entry `(previous_index, previous_term)`. Its last entry whose term is at
    /// most `previous_term` is `(hint_index, hint_term)`.
    Rejected {
        term: Term,
        previous_index: LogIndex,
        hint_index: LogIndex,
        hint_term: Term,
    },
    /// Keeps followers from standing for election; `round` numbers the ReadIndex rounds.
    Heartbeat {
        term: Term,
        commit: LogIndex,
        round: u64,
    },
    HeartbeatAck {
        term: Term,
        round: u64,
        /// How the sender's disk does.
        disk: Pace,
    },
    /// All is committed everywhere, up to `last`. The leader says nothing more until something happens.
    Quiet { term: Term, last: LogIndex },
    /// Between shards, for no group: the sender lives, and leads so many quiet groups that the receiver
    /// is a member of.
    Pulse { groups: u32 },
    /// The leader hands over: stand for election at once (thesis §3.10).
    TimeoutNow { term: Term },
    /// A damaged replica asks for what is behind its last entry, `(after, after_term)`.
    Repair {
        term: Term,
        /// Numbers the questions of this start; those of others have other numbers.
        round: u64,
        after: LogIndex,
        after_term: Term,
        /// The first entry behind the gap that it held before the damage, if it knows one.
        held: Option<(LogIndex, Term)>,
    },
    /// Answers [`Message::Repair`].
    Repaired {
        term: Term,
        /// The question's.
        round: u64,
        /// The sender has not forgotten any term.
        sure: bool,
        /// The sender leads in `term`, and its log ends at `last`.
        leads: bool,
        last: LogIndex,
        /// The entries follow `(after, after_term)`; the term may not be known.
        after: LogIndex,
        after_term: Option<Term>,
        /// Up to this entry the logs of both were equal; the entries belong to that part.
        common: Option<(LogIndex, Term)>,
        /// Who has a vote, as far as the sender knows. Apart, so that it does not make all messages larger.
        electorate: Box<Electorate>,
        entries: Vec<Entry>,
    },
    /// The receiver lacks entries that have left the sender's log. A snapshot that the sender has holds
    /// them: it ends with the entry `(index, index_term)`.
    Offer {
        term: Term,
        index: LogIndex,
        index_term: Term,
    },
}

impl Message {
    /// The term it was sent in (for a pre-vote: the term it would be).
    pub fn term(&self) -> Term {
        match *self {
            Self::RequestVote { term, .. }
            | Self::Vote { term, .. }
            | Self::Append { term, .. }
            | Self::Appended { term, .. }
            | Self::Rejected { term, .. }
            | Self::Heartbeat { term, .. }
            | Self::HeartbeatAck { term, .. }
            | Self::TimeoutNow { term }
            | Self::Quiet { term, .. }
            | Self::Repair { term, .. }
            | Self::Repaired { term, .. }
            | Self::Offer { term, .. } => term,
            Self::Pulse { .. } => Term::ZERO,
        }
    }
}
