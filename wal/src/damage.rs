//! What replay could not read, and what is still known of it.

use alloc::vec::Vec;

use crate::{Entry, LogIndex, Term};

/// What a replica may have held, acknowledged or promised besides what replay could read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The newest entry that it may have acknowledged; `None` if its entries are all there.
    pub claim: Option<Claim>,
    /// The claim is the end of the log that was read: all that is missing lies in gaps of it. If
    /// not, the claim is unknown, or was noted by an earlier start that began a repair.
    pub named: bool,
    /// The last entry of each gap, in order, as far as the log still names it.
    pub gap_ends: Vec<(LogIndex, Term)>,
    /// Entries behind the first that is missing that are readable, in order of their positions.
    /// They belong to the same log as those before the gap.
    pub spares: Vec<Entry>,
    /// What this log held up to here was committed, whether or not it is readable.
    pub committed: LogIndex,
    /// Its newest term and vote may be missing: the hard state is one of an earlier time.
    pub promises_lost: bool,
}

/// The newest entry of a log that is not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `None`: unknown. The entries that are missing have terms of at most `term`.
    pub index: Option<LogIndex>,
    pub term: Term,
}
