//! One shard's groups, driven as a function: inputs in, disk operations, messages and replies out.

mod interface;

pub use interface::{
    Flush, GroupStatus, Input, Member, Options, Outcome, Output, ReadLog, RecoveredGroup, Token,
};
