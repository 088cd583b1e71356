//! Where the time of a write goes: a histogram per stage of its way, and what went through.
//!
//! The shard records what it can tell from the times it is given; whoever drives it records the rest
//! through [`super::Shard::accounts_mut`]. Nothing here decides anything.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use core::time::Duration;

use super::Appends;

/// Parts that each power of two is cut into: a value is known to a sixteenth.
const PARTS: usize = 16;
const PARTS_LOG2: u32 = PARTS.ilog2();
/// Larger values count as the largest: 2^40 ns are 18 minutes.
const VALUE_BITS: u32 = 40;
const BUCKETS: usize = (VALUE_BITS - PARTS_LOG2 + 1) as usize * PARTS;

/// A stretch of the way of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// A burst of commands that one connection sent was parsed and put into batches. Sampled.
    Parse,
    /// A batch was open, from its first command until it was sealed: it waited for the log to take a flush.
    Batch,
    /// In one turn, batches were sealed and a flush laid out in the log. Sampled.
    Serialise,
    /// From the start of the turn that asked for a flush until its write was handed to the kernel.
    LogSubmit,
    /// From there until the shard saw that the flush is durable.
    LogWait,
    /// From an entry being durable on the leader's disk until a quorum had it; zero if that came first.
    /// Sampled.
    PeerWait,
    /// In one turn, committed entries were applied. Sampled.
    Apply,
    /// From an answer being known until the kernel had taken it for the client. Sampled.
    Reply,
}

impl Stage {
    /// In the order in which a write passes them.
    pub const ALL: [Self; 8] = [
        Self::Parse,
        Self::Batch,
        Self::Serialise,
        Self::LogSubmit,
        Self::LogWait,
        Self::PeerWait,
        Self::Apply,
        Self::Reply,
    ];

    /// Its name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Batch => "batch",
            Self::Serialise => "serialise",
            Self::LogSubmit => "log_submit",
            Self::LogWait => "log_wait",
            Self::PeerWait => "peer_wait",
            Self::Apply => "apply",
            Self::Reply => "reply",
        }
    }

    /// What one sample is of.
    pub fn sample(self) -> &'static str {
        match self {
            Self::Parse => "burst",
            Self::Batch | Self::PeerWait => "entry",
            Self::Serialise | Self::Apply => "turn",
            Self::LogSubmit | Self::LogWait => "flush",
            Self::Reply => "answer",
        }
    }
}

/// How often which value was seen; a value is known to a sixteenth, and the largest exactly. Recording
/// takes a few nanoseconds and no memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u64,
    max: u64,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, median, max) = (self.count, self.quantile(500), self.max);
        write!(f, "Histogram({count} values, median {median}, max {max})")
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Values seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value; zero if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_mille` of 1000 values do not exceed, to a sixteenth; zero without values.
    ///
    /// # Panics
    ///
    /// If `per_mille` is above 1000.
    pub fn quantile(&self, per_mille: u16) -> u64 {
        assert!(per_mille <= 1000, "{per_mille} of 1000");
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (at, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if count > 0 && seen >= rank {
                return last_value(at).min(self.max);
            }
        }
        self.max
    }

    /// How many values do not exceed `value`, counted by whole buckets.
    pub fn count_up_to(&self, value: u64) -> u64 {
        self.buckets[..=bucket(value)].iter().sum()
    }

    /// Adds what another has seen.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

/// Small values have a bucket each; above, each power of two has [`PARTS`].
fn bucket(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS) - 1);
    let shift = value
        .checked_ilog2()
        .map_or(0, |bits| bits.saturating_sub(PARTS_LOG2));
    let part = usize::try_from(value >> shift).expect("below twice the parts");
    shift as usize * PARTS + part
}

/// The largest value of a bucket.
fn last_value(bucket: usize) -> u64 {
    let shift = (bucket / PARTS).saturating_sub(1);
    let part = (bucket - shift * PARTS) as u64;
    ((part + 1) << shift) - 1
}

/// What a shard did, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Nothing goes into the histograms, only into the counts.
    pub counts_only: bool,
    /// Nanoseconds, in the order of [`Stage::ALL`].
    stages: [Histogram; Stage::ALL.len()],
    /// Commands in each entry that was sealed here.
    pub commands_per_entry: Histogram,
    /// Commands that were sealed for each flush, of those that had any.
    pub commands_per_flush: Histogram,
    /// What followers were sent.
    pub appends: Appends,
    /// Durable writes of the log.
    pub flushes: u64,
    /// Their bytes on the disk.
    pub flush_bytes: u64,
    /// Batches sealed here: entries that this shard's groups proposed as leaders.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
    /// Messages to peers.
    pub messages: u64,
    /// Requests that were refused because too many waited.
    pub busy: u64,
    /// Snapshots that were taken here, those that failed or were given up, and those that came from peers.
    pub snapshots_taken: u64,
    pub snapshots_failed: u64,
    pub snapshots_received: u64,
    /// Commands that were sealed since the last flush.
    sealed: u64,
}

impl Accounts {
    /// How long a stage took, in nanoseconds.
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    /// Counts one passage of a stage.
    pub fn record(&mut self, stage: Stage, took: Duration) {
        if self.counts_only {
            return;
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.stages[stage as usize].record(nanos);
    }

    /// A batch of so many commands, open for so long, was sealed.
    pub(super) fn sealed(&mut self, commands: usize, open: Duration) {
        let commands = commands as u64;
        self.record(Stage::Batch, open);
        self.entries += 1;
        self.commands += commands;
        self.sealed += commands;
        if !self.counts_only {
            self.commands_per_entry.record(commands);
        }
    }

    /// A flush was asked for.
    pub(super) fn flushed(&mut self) {
        self.flushes += 1;
        let commands = core::mem::take(&mut self.sealed);
        if commands > 0 && !self.counts_only {
            self.commands_per_flush.record(commands);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_it_or_a_sixteenth_above() {
        let mut values: Vec<u64> = (0..300).collect();
        values.extend((8..VALUE_BITS).flat_map(|bits| {
            let power = 1u64 << bits;
            [power - 1, power, power + 1, power + power / 3]
        }));
        for value in values {
            let last = last_value(bucket(value));
            assert!(last >= value, "{value} in a bucket up to {last}");
            assert!(
                last - value <= value / 16,
                "{value} in a bucket up to {last}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(last_value(BUCKETS - 1), (1 << VALUE_BITS) - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values_that_were_recorded() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(990), 0);
        (1..=1000).for_each(|value| histogram.record(value * 1000));
        for (per_mille, exact) in [
            (1, 1_000),
            (500, 500_000),
            (990, 990_000),
            (1000, 1_000_000),
        ] {
            let found = histogram.quantile(per_mille);
            let range = exact..=exact + exact / 16;
            assert!(range.contains(&found), "{per_mille}: {found}");
        }
        assert_eq!((histogram.count(), histogram.max()), (1000, 1_000_000));
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!(twice.count_up_to(u64::MAX), 2000);
        assert_eq!(twice.quantile(500), histogram.quantile(500));
    }
}
