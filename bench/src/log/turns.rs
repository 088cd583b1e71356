//! Which groups' batches go into the next flush, and when a turn begins and ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Cell, Measured, Plan, cpu_time, written_bytes};
use crate::load::now;

/// The groups that wait for a flush, in the order in which they came.
pub(super) struct Turns {
    ready: VecDeque<usize>,
    batches_per_flush: usize,
}

impl Turns {
    pub(super) fn new(cell: &Cell) -> Self {
        Self {
            ready: (0..cell.groups).collect(),
            batches_per_flush: cell.batches_per_flush(),
        }
    }

    /// The groups of the next flush; none if all of them are under way.
    pub(super) fn take(&mut self) -> Vec<usize> {
        let count = self.batches_per_flush.min(self.ready.len());
        self.ready.drain(..count).collect()
    }

    /// A flush is durable: its groups go on.
    pub(super) fn done(&mut self, groups: &[usize]) {
        self.ready.extend(groups);
    }
}

/// Counts what becomes durable between the end of the warm-up and the end of the turn.
pub(super) struct Watch {
    warm: Instant,
    measured: Duration,
    begun: Option<Usage>,
    batches: u64,
}

/// What the process had used at a moment.
struct Usage {
    at: Instant,
    cpu: Duration,
    flushes: u64,
    written_bytes: u64,
}

impl Watch {
    pub(super) fn start(plan: &Plan) -> Self {
        Self {
            warm: now() + plan.warm_up,
            measured: plan.measured,
            begun: None,
            batches: 0,
        }
    }

    /// So many batches became durable now; `flushes` says how many flushes there were since the start.
    /// The result, once the turn is over.
    pub(super) fn count(
        &mut self,
        batches: u64,
        flushes: impl FnOnce() -> u64,
    ) -> Option<Measured> {
        let at = now();
        let usage = || Usage {
            at,
            cpu: cpu_time(),
            flushes: flushes(),
            written_bytes: written_bytes(),
        };
        let Some(begun) = &self.begun else {
            if at >= self.warm {
                self.begun = Some(usage());
            }
            return None;
        };
        self.batches += batches;
        if at - begun.at < self.measured {
            return None;
        }
        let ended = usage();
        Some(Measured {
            batches: self.batches,
            flushes: ended.flushes - begun.flushes,
            written_bytes: ended.written_bytes - begun.written_bytes,
            elapsed: at - begun.at,
            cpu: ended.cpu.saturating_sub(begun.cpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_turns_and_a_flush_takes_what_fits() {
        let mut turns = Turns {
            ready: (0..5).collect(),
            batches_per_flush: 3,
        };
        let first = turns.take();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(turns.take(), [3, 4]);
        assert!(turns.take().is_empty());
        turns.done(&first);
        assert_eq!(turns.take(), [0, 1, 2]);
    }
}
