//! When snapshots are taken, and what they may take.

use alloc::vec::Vec;
use core::time::Duration;

use super::{ConfigError, MIB, millis};
use crate::shard::SnapshotPolicy;
use crate::snapshot::Compression;

/// Time after a failure before the next is tried.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// How a node takes, keeps and fetches snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Entries of a group applied since its last snapshot that make the next one due; 0: never for that.
    pub entries: u64,
    /// Bytes of their payload, at least twice those of the snapshot; 0: never for that.
    pub bytes: u64,
    /// Time since the last one, if anything was applied; 0: never for that.
    pub interval: Duration,
    /// How many of each group are kept, at least 1. With one alone the log is cut up to it, and nothing
    /// helps but a peer if it rots.
    pub keep: usize,
    pub compression: Compression,
    /// What a shard may keep in memory of what is written while a snapshot is taken; it is given up beyond.
    pub memory_bytes_max: usize,
    /// What a shard fetches from its peers in a second; 0: as fast as it goes.
    pub fetch_bytes_per_second: u64,
    /// Whether groups take one when the node is stopped, so that it starts fast.
    pub at_close: bool,
    /// How long that may take.
    pub close_wait: Duration,
}

/// What makes snapshots due, as one word: how often they are taken, and so how long a start replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotProfile {
    /// Short starts and short logs, for more writes to the disk.
    Frequent,
    #[default]
    Default,
    /// Few snapshots, for a longer log and a longer start.
    Rare,
}

impl SnapshotProfile {
    /// Bytes of payload, and time, that make a snapshot due.
    fn triggers(self) -> (u64, Duration) {
        let (mebibytes, minutes) = match self {
            Self::Frequent => (64, 10),
            Self::Default => (256, 60),
            Self::Rare => (1024, 6 * 60),
        };
        (mebibytes * MIB as u64, Duration::from_secs(minutes * 60))
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        let (bytes, interval) = SnapshotProfile::Default.triggers();
        Self {
            entries: 0,
            bytes,
            interval,
            keep: 2,
            compression: Compression::Lz4,
            memory_bytes_max: 256 * MIB,
            fetch_bytes_per_second: 0,
            at_close: true,
            close_wait: Duration::from_secs(20),
        }
    }
}

impl SnapshotOptions {
    /// Sets what makes snapshots due. By bytes and not by entries: an entry has from one to thousands of
    /// commands.
    pub fn set_profile(&mut self, profile: SnapshotProfile) {
        self.entries = 0;
        (self.bytes, self.interval) = profile.triggers();
    }

    pub(super) fn check(&self, errors: &mut Vec<ConfigError>) {
        let hours = |hours: u64| hours * 3_600_000;
        let ranges: [(&'static str, u64, u64, u64); 6] = [
            ("snapshot.keep", 1, 100, self.keep as u64),
            (
                "snapshot.interval (in ms)",
                0,
                hours(24 * 365),
                millis(self.interval),
            ),
            (
                "snapshot.memory_size",
                MIB as u64,
                1 << 40,
                self.memory_bytes_max as u64,
            ),
            ("snapshot.size", 0, 1 << 40, self.bytes),
            // A part must not take longer than it is waited for.
            (
                "snapshot.fetch_rate (0, or more)",
                MIB as u64,
                u64::MAX,
                match self.fetch_bytes_per_second {
                    0 => u64::MAX,
                    rate => rate,
                },
            ),
            (
                "snapshot.close_wait (in ms)",
                0,
                hours(1),
                millis(self.close_wait),
            ),
        ];
        ConfigError::check_ranges(&ranges, errors);
    }

    /// What that means for a group, of which the log may be kept whole.
    pub(super) fn policy(&self, keeps_log: bool) -> SnapshotPolicy {
        SnapshotPolicy {
            entries: self.entries,
            bytes: self.bytes,
            interval: self.interval,
            retry_after: RETRY_AFTER,
            keeps_previous: self.keep > 1,
            keeps_log,
        }
    }
}
