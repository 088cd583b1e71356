#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "io"), no_std)]

extern crate alloc;

mod coordinates;
mod record;

pub use coordinates::{FlushNumber, GroupId, LogIndex, NodeId, ReplicaId, Term};
pub use record::{Entry, EntryKind, HardState, Payload, Record};
