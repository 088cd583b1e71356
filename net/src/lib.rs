#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "io"), no_std)]

extern crate alloc;

pub mod command;
pub mod http;
pub mod peer;
mod reply;
pub mod resp;

mod slot;

pub use command::Command;
pub use reply::{ErrorReply, Reply};
pub use slot::{SLOTS, Slot};
