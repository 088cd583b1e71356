//! What a shard knows of its disk: how long its flushes take, whether there is space, whether a
//! write failed; and when a leader with such a disk should let another lead.
//!
//! A disk that became slow without failing (a gray failure) is told by comparison: far slower than
//! that of a peer who could lead, for a while. If all are as slow, handing over helps nobody.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use wal::FlushNumber;

use super::{DiskState, DiskStatus, Options};
use crate::raft::Pace;
use crate::time::Time;

/// Flushes whose median is the pace: a few that stall do not make a disk slow.
const SAMPLES: usize = 15;
/// So few say nothing about a disk: they may all have been under way while the thread stood still.
const SAMPLES_FEW: usize = 8;
/// A leader's disk is slow if a peer's takes less than one of so many parts of its time.
const SLOW_FACTOR: u32 = 8;
/// A disk does well again beside one that takes more than one of so many parts of its time.
const WELL_FACTOR: u32 = 2;

/// The disk of one shard.
#[derive(Debug)]
pub(super) struct Disk {
    failed: bool,
    full: bool,
    slow: bool,
    /// Faster than this, no disk is slow.
    unnoticed: Duration,
    /// When each flush under way began.
    begun: VecDeque<(FlushNumber, Time)>,
    latencies: VecDeque<Duration>,
    median: Option<Duration>,
    handovers: u64,
}

impl Disk {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            failed: false,
            full: false,
            slow: false,
            // Clients do not notice what is far below the time that an election takes.
            unnoticed: options.election_timeout / 100,
            begun: VecDeque::new(),
            latencies: VecDeque::with_capacity(SAMPLES),
            median: None,
            handovers: 0,
        }
    }

    pub(super) fn began(&mut self, flush: FlushNumber, now: Time) {
        assert!(!self.failed, "a disk that failed is asked for nothing");
        self.begun.push_back((flush, now));
    }

    /// Every flush up to this one is durable. Those that are told together waited for the first: they
    /// are one observation, or a single stall would look like many.
    pub(super) fn written(&mut self, flush: FlushNumber, now: Time) {
        let Some((_, began)) = self.begun.pop_front_if(|(number, _)| *number <= flush) else {
            return;
        };
        while self
            .begun
            .pop_front_if(|(number, _)| *number <= flush)
            .is_some()
        {}
        if self.latencies.len() == SAMPLES {
            self.latencies.pop_front();
        }
        self.latencies.push_back(now.since(began));
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let known = sorted.len() > SAMPLES_FEW;
        self.median = known.then(|| sorted[sorted.len() / 2]);
        if self.median.is_some_and(|median| median <= self.unnoticed) {
            self.slow = false;
        }
    }

    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.begun.clear();
    }

    /// Says whether that is news.
    pub(super) fn set_full(&mut self, full: bool, now: Time) -> bool {
        if !full {
            // What waited for space says nothing about how fast the disk is.
            self.begun.iter_mut().for_each(|(_, began)| *began = now);
        }
        core::mem::replace(&mut self.full, full) != full
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// How long flushes take lately. One that is still under way counts as soon as it has taken longer.
    pub(super) fn pace(&self, now: Time) -> Pace {
        if self.failed {
            return Pace::FAILED;
        }
        if self.full {
            return Pace::FULL;
        }
        self.median.map_or(Pace::UNKNOWN, |median| {
            Pace::of(median.max(self.waits(now)))
        })
    }

    /// How long the oldest flush under way has taken so far.
    fn waits(&self, now: Time) -> Duration {
        let oldest = self.begun.front();
        oldest.map_or(Duration::ZERO, |&(_, began)| now.since(began))
    }

    /// Whether a leader here should rather let a peer with such a disk lead.
    pub(super) fn is_slow_beside(&self, peer: Pace, now: Time) -> bool {
        let Some(peer) = peer.latency() else {
            return false;
        };
        let own = self.median.unwrap_or_default().max(self.waits(now));
        own > self.unnoticed && own / SLOW_FACTOR > peer
    }

    /// Whether a peer with such a disk may lead instead of this one.
    pub(super) fn does_well(&self, peer: Pace, now: Time) -> bool {
        let Some(peer) = peer.latency() else {
            return false;
        };
        let own = self.pace(now);
        let unlike = own != Pace::UNKNOWN && peer / WELL_FACTOR > own.latency().unwrap_or_default();
        peer <= self.unnoticed || !unlike
    }

    /// A leadership was handed over because of the disk.
    pub(super) fn handed_over(&mut self) {
        self.handovers += 1;
        self.slow = !self.failed && !self.full;
    }

    pub(super) fn status(&self, now: Time) -> DiskStatus {
        let state = match self {
            Self { failed: true, .. } => DiskState::Failed,
            Self { full: true, .. } => DiskState::Full,
            Self { slow: true, .. } => DiskState::Slow,
            _ => DiskState::Well,
        };
        DiskStatus {
            state,
            pace: self.pace(now),
            handovers: self.handovers,
        }
    }
}
