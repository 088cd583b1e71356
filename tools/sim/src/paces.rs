//! How long the last writes of a disk took, for judging what its node makes of that.

use std::collections::VecDeque;

/// The last writes, in nanoseconds each.
#[derive(Default)]
pub(crate) struct Paces(VecDeque<u64>);

/// So many are kept: what a peer said of its disk may be older than its newest.
const KEPT: usize = 64;
/// The fewest whose median a node takes for the pace of a disk.
const WINDOW: usize = 9;

impl Paces {
    /// Notes a write.
    pub(crate) fn note(&mut self, nanos: u64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(nanos);
    }

    /// The smallest that a node may have said of this disk.
    pub(crate) fn best(&self) -> Option<u64> {
        self.medians().min()
    }

    /// The largest, also of a write that is still under way.
    pub(crate) fn worst(&self) -> Option<u64> {
        let under_way = self.0.iter().rev().take(WINDOW / 2).copied();
        self.medians().chain(under_way).max()
    }

    fn medians(&self) -> impl Iterator<Item = u64> + '_ {
        let windows = self.0.len().saturating_sub(WINDOW - 1);
        (0..windows).map(|from| {
            let mut window: Vec<u64> = self.0.range(from..from + WINDOW).copied().collect();
            window.sort_unstable();
            window[WINDOW / 2]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_the_median_of_some_writes_in_a_row() {
        let mut paces = Paces::default();
        (1..=8).for_each(|nanos| paces.note(nanos));
        assert_eq!(paces.best(), None, "too few to know");
        (9..=100).for_each(|nanos| paces.note(nanos));
        assert_eq!((paces.best(), paces.worst()), (Some(41), Some(100)));
    }
}
