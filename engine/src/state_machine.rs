//! What a group replicates.
//!
//! A state machine is deterministic: equal states given equal batches become equal states and give
//! equal replies. It reads no clock; its time is what the leaders stamped on the batches.

use alloc::vec::Vec;

use net::{Command, Reply};

use crate::batch::Batch;

/// The state that the committed entries of a group make.
pub trait StateMachine {
    /// Applies a whole batch and appends one reply for each of its commands, in order.
    fn apply(&mut self, batch: &Batch<'_>, replies: &mut Vec<Reply>);

    /// Answers a command that changes nothing; linearizable when the group says so. `unix_ms` is the
    /// reader's time, good for display only.
    fn read(&self, unix_ms: u64, command: &Command<'_>) -> Reply;

    /// The Unix time in milliseconds of the next change that needs nothing but a batch that is
    /// stamped later; the leader sees that one comes.
    fn next_expiry(&self) -> Option<u64>;

    /// How many keys there are.
    fn keys(&self) -> u64;

    /// Equal for equal states, whatever their history.
    fn hash(&self) -> u64;
}
