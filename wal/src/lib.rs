#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "io"), no_std)]

extern crate alloc;

mod bytes;
mod chain;
mod checksum;
mod codec;
mod coordinates;
mod damage;
mod flaw;
mod flush;
mod groups;
mod histories;
mod history;
mod index;
#[cfg(feature = "io")]
pub mod io;
mod layout;
mod lives;
mod losses;
mod positions;
mod record;
mod recovered;
mod replay;
mod residue;
mod run;
mod segment;
mod standing;
mod stop;
pub mod survey;
mod writer;

pub use codec::{RecordError, decode_entries, decode_entry, encode_entry, entry_bytes};
pub use coordinates::{FlushNumber, GroupId, LogIndex, NodeId, ReplicaId, Term};
pub use damage::{Claim, Damage};
pub use index::Location;
pub use lives::Rest;
pub use record::{Entry, EntryKind, HardState, Payload, Record};
pub use recovered::{Cut, Lost, Recovered, RecoveredLog, ReplayError};
pub use replay::Replay;
pub use segment::{BLOCK, FORMAT, SECTOR, SegmentId, UNREADABLE};
pub use writer::{Options, Placement, Writer, contiguous};
