//! What a client gets back, whatever protocol it speaks.

use alloc::string::String;
use alloc::vec::Vec;

/// The answer to one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Ok,
    /// A short status: `+PONG`, `+string`.
    Status(&'static str),
    Integer(i64),
    Bulk(Vec<u8>),
    /// Text that RESP3 clients may show as it is (`=txt:`); a bulk string in RESP2.
    Text(String),
    /// Absent: `$-1` in RESP2, `_` in RESP3.
    Nil,
    Array(Vec<Reply>),
    /// Pairs: a flat array in RESP2, `%` in RESP3.
    Map(Vec<(Reply, Reply)>),
    Error(ErrorReply),
}

impl Reply {
    /// Bytes of what it carries: values, and the places of the parts it consists of.
    pub fn held_bytes(&self) -> usize {
        let part = |part: &Self| size_of::<Self>() + part.held_bytes();
        match self {
            Self::Bulk(value) => value.len(),
            Self::Text(text) => text.len(),
            Self::Array(parts) => parts.iter().map(part).sum(),
            Self::Map(pairs) => pairs
                .iter()
                .map(|(key, value)| part(key) + part(value))
                .sum(),
            Self::Ok | Self::Status(_) | Self::Integer(_) | Self::Nil | Self::Error(_) => 0,
        }
    }
}

/// Every error that the data path can answer. The texts are those that Redis clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorReply {
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR increment or decrement would overflow")]
    IncrementOverflow,
    #[error("ERR invalid expire time in '{command}' command")]
    InvalidExpire { command: &'static str },
    #[error("ERR string exceeds maximum allowed size (limits.value_size)")]
    StringTooLarge,
    /// It would carry more than one answer may.
    #[error(
        "ERR the answer is larger than {limit} bytes (limits.frame_size, half of limits.output_size): ask for fewer keys at once"
    )]
    AnswerTooLarge { limit: usize },
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    #[error("MOVED {slot} {host}:{port}")]
    Moved { slot: u16, host: String, port: u16 },
    /// Nobody leads the group: nothing happened, try again.
    #[error("CLUSTERDOWN No Raft leader")]
    NoLeader,
    #[error("CLUSTERDOWN Hash slot not served")]
    SlotNotServed,
    /// The queue is full: nothing happened, try again later.
    #[error("BUSY try again later")]
    Busy,
    /// Whether the command took or will take effect is unknown.
    #[error("TIMEOUT outcome unknown: not committed yet")]
    OutcomeUnknown,
    /// Disks take nothing any more, and nobody leads whose disk does: nothing happened.
    #[error("MISCONF a disk has failed and nobody can take over: see drakkar status, replace it")]
    DiskFailed,
    /// Too few disks have space left: nothing happened. Reads are answered.
    #[error("OOM the disk is full: writes are refused until there is space, reads are answered")]
    DiskFull,
    /// The data takes as much memory as it may: nothing happened. Reads and deletions are answered.
    #[error("OOM command not allowed when used memory > 'maxmemory'. (limits.data_size)")]
    DataFull,
    #[error("LOADING Drakkar is loading the dataset in memory")]
    Loading,
    /// Anything that only the protocol layer knows: the whole line, without `-`.
    #[error("{0}")]
    Other(String),
}

impl Reply {
    /// A bulk string of these bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(bytes.into())
    }
}

impl From<ErrorReply> for Reply {
    fn from(error: ErrorReply) -> Self {
        Self::Error(error)
    }
}
