//! The node: everything of the engine that touches the kernel.

pub mod config_file;
