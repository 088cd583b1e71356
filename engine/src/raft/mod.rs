//! Consensus of one group.

mod message;

pub use message::Message;
