//! What a replica's disk means for its part in the group: a leader prefers peers whose disks do
//! well, and a replica whose disk has failed promises nothing any more.

use core::time::Duration;

use super::{Raft, Role};

/// How long a durable write takes on a disk lately, in microseconds, or why it takes none. Smaller
/// is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pace(u32);

impl Pace {
    /// Too little was written to know.
    pub const UNKNOWN: Self = Self(0);
    /// It has no space left: what fits the last segment is still written.
    pub const FULL: Self = Self(u32::MAX - 1);
    /// A write failed: nothing is written any more.
    pub const FAILED: Self = Self(u32::MAX);

    /// The number on the wire.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub const fn to_raw(self) -> u32 {
        self.0
    }

    /// Of writes that take this long.
    pub fn of(latency: Duration) -> Self {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        Self(micros.clamp(1, Self::FULL.0 - 1))
    }

    /// How long a write takes; `None` if the disk is full or has failed.
    pub fn latency(self) -> Option<Duration> {
        self.has_room()
            .then(|| Duration::from_micros(u64::from(self.0)))
    }

    /// Neither full nor failed.
    pub fn has_room(self) -> bool {
        self < Self::FULL
    }

    pub fn has_failed(self) -> bool {
        self == Self::FAILED
    }
}

impl Raft {
    /// What the disk of this replica does from now on.
    ///
    /// # Panics
    ///
    /// If it had failed before: what reached such a disk is only found out at the next start.
    pub fn set_disk(&mut self, pace: Pace) {
        assert!(!self.disk.has_failed(), "a disk that failed stays failed");
        self.disk = pace;
        if pace.has_failed() && !matches!(self.role, Role::Leader | Role::Follower) {
            self.become_follower(self.term, None);
        }
    }

    /// Stops leading, without a successor.
    pub fn step_down(&mut self) {
        if self.role == Role::Leader {
            self.wake(self.now);
            self.become_follower(self.term, None);
        }
    }
}
