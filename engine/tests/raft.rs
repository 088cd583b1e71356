//! The rules of the Raft paper and thesis, told to the core.

#[path = "raft/promises.rs"]
mod promises;
#[path = "raft/random.rs"]
mod random;
#[path = "raft/replica.rs"]
mod replica;
