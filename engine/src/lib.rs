#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "io"), no_std)]

extern crate alloc;

pub mod batch;
pub mod config;
pub mod epoch;
#[cfg(feature = "io")]
pub mod io;
pub mod kv;
pub mod raft;
pub mod shard;
pub mod snapshot;
pub mod state_machine;
mod time;
pub mod wire;

pub use time::{Clock, Time};
