//! Coordinates in a log. The lowest crate that persists them owns them.

use core::fmt;

macro_rules! coordinate {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a number read from disk, wire or configuration. Elsewhere, derive.
            pub const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number, for encoding.
            pub const fn to_raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

/// No term, index or flush is beyond: what a disk says is more has rotted. A log that counts to it takes
/// longer than its disk lasts.
pub(crate) const COUNT_MAX: u64 = u64::MAX / 2;

coordinate! {
    /// A Raft term. [`Term::ZERO`] is "before the first election".
    Term(u64)
}

coordinate! {
    /// Position of an entry in one group's log. Entries start at 1; [`LogIndex::ZERO`] is "before the log".
    LogIndex(u64)
}

coordinate! {
    /// Number of a flush in one shard's log: consecutive, starting at 1, never used again.
    FlushNumber(u64)
}

coordinate! {
    /// One Raft group of the cluster.
    GroupId(u32)
}

coordinate! {
    /// One node's copy of a group. Never used again once removed.
    ReplicaId(u32)
}

coordinate! {
    /// One server process with one data directory.
    NodeId(u32)
}

impl Term {
    /// Before the first election.
    pub const ZERO: Self = Self(0);

    /// The term that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);

    /// The position that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one.
    ///
    /// # Panics
    ///
    /// At [`LogIndex::ZERO`], which nothing precedes.
    #[must_use]
    pub const fn previous(self) -> Self {
        assert!(self.0 > 0, "nothing precedes the start of the log");
        Self(self.0 - 1)
    }

    /// The position `entries` further on.
    #[must_use]
    pub const fn plus(self, entries: u64) -> Self {
        Self(self.0 + entries)
    }

    /// How many entries lie in `(self, end]`.
    pub fn entries_until(self, end: Self) -> u64 {
        assert!(self <= end, "range runs backwards: {self}..{end}");
        end.0 - self.0
    }
}

impl FlushNumber {
    /// Before the first flush.
    pub const ZERO: Self = Self(0);

    /// The flush that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
