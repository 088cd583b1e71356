//! Where each entry of each group lies.

use alloc::collections::{BTreeMap, VecDeque};

use crate::{GroupId, LogIndex, SegmentId};

/// The place of one record in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u32,
    pub bytes: u32,
}

/// The places of the entries of a shard's groups: 12 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Index(BTreeMap<GroupId, Places>);

/// The places of the entries of one group.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Position of the first place.
    first: LogIndex,
    places: VecDeque<Location>,
}

impl Places {
    /// An entry was laid out; it replaces those at its index and above.
    pub(crate) fn put(&mut self, index: LogIndex, location: Location) {
        if self.places.is_empty() || index <= self.first {
            self.places.clear();
            self.first = index;
        }
        let kept = usize::try_from(self.first.entries_until(index)).expect("fits memory");
        assert!(kept <= self.places.len(), "entry {index} leaves a gap");
        if kept < self.places.len() {
            self.places.truncate(kept);
        }
        self.places.push_back(location);
    }
}

impl Index {
    /// The places of a group's entries, to lay out more of them.
    pub(crate) fn group(&mut self, group: GroupId) -> &mut Places {
        self.0.entry(group).or_default()
    }

    pub(crate) fn get(&self, group: GroupId, index: LogIndex) -> Option<Location> {
        let group = self.0.get(&group)?;
        let at = index.to_raw().checked_sub(group.first.to_raw())?;
        group.places.get(usize::try_from(at).ok()?).copied()
    }
}
