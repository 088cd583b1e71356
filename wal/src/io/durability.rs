//! What a write to the log waits for before it counts.

use rustix::fs::OFlags;

/// What a write to the log waits for before it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The medium has it: what is confirmed survives the loss of power.
    #[default]
    Durable,
    /// The device has it, and may lose it with the power while it is in a cache. Survives the end of the
    /// process and of the kernel. What is lost is found out at the next start as rot is, unless nothing
    /// that was written later is left to tell.
    Async,
}

impl Durability {
    /// The flag of open(2) for a segment that is appended to.
    pub(super) fn flag(self) -> OFlags {
        match self {
            Self::Durable => OFlags::DSYNC,
            Self::Async => OFlags::empty(),
        }
    }
}
