//! Brings groups into the processor's caches before they are looked at, several at once.
//!
//! A shard with a thousand groups finds each of them cold when its turn comes: its fields, the ends of its
//! log, the entry to apply. One group after the other waits for all of that. Groups looked at together
//! wait only for the slowest at each step. Nothing is decided here: state is read and dropped.

use core::array;
use core::hint::black_box;

use super::Shard;
use super::group::Group;
use crate::state_machine::WINDOW;

/// Bytes of memory that a processor fetches at once.
const LINE: usize = 64;
/// So much of an entry is brought; the rest follows in order, which processors foresee.
const ENTRY_BYTES_MAX: usize = 1024;

impl Shard {
    /// Looks at the groups at these places, up to [`WINDOW`] of them.
    pub(super) fn look_ahead(&self, places: impl Iterator<Item = usize>) {
        let mut groups = places.filter_map(|at| self.groups.get(at));
        let groups: [_; WINDOW] = array::from_fn(|_| groups.next());
        let groups = || groups.iter().flatten();
        groups().for_each(|group| group.look_at_fields());
        groups().for_each(|group| group.look_at_entries());
    }
}

impl Group {
    fn look_at_fields(&self) {
        self.raft.look_ahead();
        self.writes.look_ahead();
        black_box((self.applied, self.timer, self.kv.look_at_counts()));
        black_box((self.members.first(), self.duty.retired));
    }

    /// The oldest entry in memory, and the one to apply.
    fn look_at_entries(&self) {
        let log = self.raft.log();
        black_box(log.oldest_cached().map(|entry| entry.index));
        if self.applied < self.raft.commit()
            && let Some(entry) = log.cached(self.applied.next())
        {
            let bytes = entry.payload.iter().take(ENTRY_BYTES_MAX);
            for byte in bytes.step_by(LINE) {
                black_box(*byte);
            }
        }
    }
}
