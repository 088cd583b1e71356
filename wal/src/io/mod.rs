//! The log on a real disk: a data directory that one process owns, and a shard's log on io_uring.

mod blanks;
pub(crate) mod checksum;
mod directory;
mod durability;
pub mod executor;
mod file_system;
mod log;
mod outset;
mod reading;
mod reads;
mod ring;
mod segments;
mod stream;
mod view;
mod writing;

pub use directory::{DataDirectory, DirectoryError, Identity};
pub use durability::Durability;
pub use file_system::{FileSystem, FileSystemKind};
pub use log::{Found, Log, LogError};
pub use ring::Ring;
pub use view::{DataView, SegmentView, ViewError};
