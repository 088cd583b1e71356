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

#[derive(Debug, Default)]
struct Places {
    /// Position of the first place.
    first: LogIndex,
    places: VecDeque<Location>,
}

impl Index {
    /// An entry was laid out; it replaces those at its index and above.
    pub(crate) fn put(&mut self, group: GroupId, index: LogIndex, location: Location) {
        let group = self.0.entry(group).or_default();
        if group.places.is_empty() || index <= group.first {
            group.places.clear();
            group.first = index;
        }
        let kept = usize::try_from(group.first.entries_until(index)).expect("fits memory");
        assert!(kept <= group.places.len(), "entry {index} leaves a gap");
        group.places.truncate(kept);
        group.places.push_back(location);
    }

    pub(crate) fn get(&self, group: GroupId, index: LogIndex) -> Option<Location> {
        let group = self.0.get(&group)?;
        let at = index.to_raw().checked_sub(group.first.to_raw())?;
        group.places.get(usize::try_from(at).ok()?).copied()
    }
}
