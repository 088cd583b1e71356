//! The data commands, whatever protocol they came by. Borrowed from the bytes they were read from.

mod codec;

pub use codec::CommandError;

/// When a key written by `SET` goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never: an earlier expiry is dropped.
    Never,
    /// As before (`KEEPTTL`).
    Keep,
    /// So many milliseconds after the time the leader stamps on the batch (`EX`, `PX`).
    After(u64),
    /// At this Unix time in milliseconds (`EXAT`, `PXAT`).
    At(u64),
}

/// When `SET` may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// `NX`
    Absent,
    /// `XX`
    Present,
}

/// Unit of a time to live in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// A list of byte strings: the arguments of a request, or the same as encoded in a batch.
/// Its meaning (keys, or alternating keys and values) is that of the command that holds it.
#[derive(Clone, Copy, Debug)]
pub enum List<'a> {
    Arguments(&'a [&'a [u8]]),
    /// `count` items, each a little-endian `u32` length and the bytes. Checked when it was decoded.
    Encoded {
        count: u32,
        items: &'a [u8],
    },
}

/// A command on the data of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command<'a> {
    Get {
        key: &'a [u8],
    },
    Set {
        key: &'a [u8],
        value: &'a [u8],
        expiry: Expiry,
        condition: Condition,
        get: bool,
    },
    Delete {
        keys: List<'a>,
    },
    Exists {
        keys: List<'a>,
    },
    /// `INCR`, `DECR`, `INCRBY`, `DECRBY`.
    Increment {
        key: &'a [u8],
        delta: i64,
    },
    Append {
        key: &'a [u8],
        value: &'a [u8],
        /// Longest value that may come of it. It decides about state, so it is in the log with the
        /// command: every replica refuses alike, after its limits have been changed too.
        bytes_max: u64,
    },
    Length {
        key: &'a [u8],
    },
    MultiGet {
        keys: List<'a>,
    },
    /// Alternating keys and values.
    MultiSet {
        pairs: List<'a>,
    },
    /// `EXPIRE`, `PEXPIRE`: so many milliseconds after the batch's stamp; not positive deletes.
    Expire {
        key: &'a [u8],
        after_ms: i64,
    },
    TimeToLive {
        key: &'a [u8],
        unit: Unit,
    },
    Persist {
        key: &'a [u8],
    },
    Type {
        key: &'a [u8],
    },
    /// Keys in the group.
    Size,
    /// Empties the group.
    Flush,
    /// Keys of this group's part of a slot: `CLUSTER COUNTKEYSINSLOT`.
    CountInSlot {
        slot: u16,
    },
}

impl Command<'_> {
    /// Whether the data may take more memory after it.
    pub fn may_grow(&self) -> bool {
        matches!(
            self,
            Self::Set { .. } | Self::Increment { .. } | Self::Append { .. } | Self::MultiSet { .. }
        )
    }

    /// Whether it can change data, and so must go through the log.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Set { .. }
            | Self::Delete { .. }
            | Self::Increment { .. }
            | Self::Append { .. }
            | Self::MultiSet { .. }
            | Self::Expire { .. }
            | Self::Persist { .. }
            | Self::Flush => true,
            Self::Get { .. }
            | Self::Exists { .. }
            | Self::Length { .. }
            | Self::MultiGet { .. }
            | Self::TimeToLive { .. }
            | Self::Type { .. }
            | Self::Size
            | Self::CountInSlot { .. } => false,
        }
    }
}

impl<'a> List<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Arguments(items) => items.len(),
            Self::Encoded { count, .. } => *count as usize,
        }
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let (arguments, encoded) = match *self {
            Self::Arguments(items) => (items, [].as_slice()),
            Self::Encoded { items, .. } => ([].as_slice(), items),
        };
        arguments.iter().copied().chain(Encoded(encoded))
    }
}

impl PartialEq for List<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

#[derive(Clone)]
struct Encoded<'a>(&'a [u8]);

impl<'a> Iterator for Encoded<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (item, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(item)
    }
}
