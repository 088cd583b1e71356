//! The node: everything of the engine that touches the kernel. One thread per shard drives the
//! shard's function; fibers on it bring what clients, peers, the disk and other threads have to say.

mod admin;
mod allowance;
mod answers;
mod book;
mod client;
mod clock;
pub mod config_file;
mod costs;
mod executor;
mod exposition;
mod fetcher;
mod gathered;
mod handle;
pub mod identity;
pub mod import;
mod inbound;
mod letters;
mod log_admin;
mod mailbox;
mod member_admin;
mod memory;
mod metrics;
mod node;
mod outcomes;
mod parked;
mod peer;
mod preflight;
mod requests;
mod routes;
mod sender;
mod signal;
mod snapshot_admin;
pub mod snapshots;
mod socket;
mod stages;
mod start;
mod status;
mod taker;
mod view;

pub use handle::{Commands, Handle, Rejected};
pub use node::{Node, NodeError, OpenError};
pub use preflight::PreflightError;
pub use status::{NewestSnapshot, PeerStatus, Received, ShardStatus, role_name};
pub use taker::NoSnapshot;
