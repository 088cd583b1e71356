//! Where each entry of each group lies, and which segments that keeps alive.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::iter::repeat_n;

use crate::{GroupId, LogIndex, SegmentId};

/// The place of one record in its segment: of an entry, or of the run that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u32,
    pub bytes: u32,
}

/// The places of the entries of a shard's groups: 12 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    groups: BTreeMap<GroupId, Places>,
    /// How many of them lie in each segment.
    live: BTreeMap<SegmentId, u64>,
}

/// The places of the entries of one group.
#[derive(Debug, Default)]
struct Places {
    /// Position of the first place.
    first: LogIndex,
    places: VecDeque<Location>,
}

impl Places {
    fn position(&self, index: LogIndex) -> Option<usize> {
        let at = index.to_raw().checked_sub(self.first.to_raw())?;
        usize::try_from(at).ok()
    }
}

impl Index {
    /// The places of a group's entries, to lay out more of them.
    pub(crate) fn group(&mut self, group: GroupId) -> Layout<'_> {
        Layout {
            places: self.groups.entry(group).or_default(),
            live: &mut self.live,
            appended: None,
        }
    }

    /// Entries up to `index` are no longer needed.
    pub(crate) fn floor(&mut self, group: GroupId, index: LogIndex) {
        let group = self.groups.entry(group).or_default();
        let below = group.position(index.next()).unwrap_or(0);
        let below = below.min(group.places.len());
        release(&mut self.live, group.places.drain(..below));
        group.first = group.first.max(index.next());
    }

    pub(crate) fn get(&self, group: GroupId, index: LogIndex) -> Option<Location> {
        let group = self.groups.get(&group)?;
        group.places.get(group.position(index)?).copied()
    }

    /// The groups whose entries lie in the oldest segment that holds any.
    pub(crate) fn oldest_owners(&self) -> Vec<GroupId> {
        let Some((&oldest, _)) = self.live.first_key_value() else {
            return Vec::new();
        };
        let owners = |of: fn(&Places, SegmentId) -> bool| -> Vec<GroupId> {
            let groups = self.groups.iter();
            let owners = groups.filter(|(_, places)| of(places, oldest));
            owners.map(|(&group, _)| group).collect()
        };
        let begins = |places: &Places, oldest| {
            let first = places.places.front();
            first.is_some_and(|first| first.segment == oldest)
        };
        let begin = owners(begins);
        if !begin.is_empty() {
            return begin;
        }
        // Entries before it were laid out anew.
        owners(|places, oldest| places.places.iter().any(|place| place.segment == oldest))
    }

    /// Whether any entry lies in the segment.
    pub(crate) fn is_live(&self, segment: SegmentId) -> bool {
        self.live.get(&segment).is_some_and(|&entries| entries > 0)
    }
}

/// The places of one group's entries while more of them are laid out.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    places: &'a mut Places,
    live: &'a mut BTreeMap<SegmentId, u64>,
    /// Entries that were put behind the others in one segment and are not counted yet.
    appended: Option<(SegmentId, u64)>,
}

impl Drop for Layout<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

impl Layout<'_> {
    /// Entries were laid out as one record, so many from an index on; they replace those at that index
    /// and above.
    pub(crate) fn put(&mut self, index: LogIndex, entries: usize, location: Location) {
        let group = &mut *self.places;
        let segment = location.segment;
        if group.position(index) == Some(group.places.len()) && !group.places.is_empty() {
            group.places.extend(repeat_n(location, entries));
            match &mut self.appended {
                Some((of, appended)) if *of == segment => *appended += entries as u64,
                _ => {
                    self.count();
                    self.appended = Some((segment, entries as u64));
                }
            }
            return;
        }
        self.count();
        let group = &mut *self.places;
        if group.places.is_empty() || index < group.first {
            release(self.live, group.places.drain(..));
            group.first = index;
        }
        let kept = group.position(index).expect("not before the first");
        assert!(kept <= group.places.len(), "entry {index} leaves a gap");
        if kept < group.places.len() {
            release(self.live, group.places.drain(kept..));
        }
        group.places.extend(repeat_n(location, entries));
        *self.live.entry(segment).or_default() += entries as u64;
    }

    fn count(&mut self) {
        if let Some((segment, entries)) = self.appended.take() {
            *self.live.entry(segment).or_default() += entries;
        }
    }

    /// An entry was laid out anew; those above it stay where they are.
    pub(crate) fn patch(&mut self, index: LogIndex, location: Location) {
        self.count();
        let at = self.places.position(index).unwrap_or(usize::MAX);
        let Some(place) = self.places.places.get_mut(at) else {
            return self.put(index, 1, location);
        };
        let old = core::mem::replace(place, location);
        release(self.live, [old].into_iter());
        *self.live.entry(location.segment).or_default() += 1;
    }
}

fn release(live: &mut BTreeMap<SegmentId, u64>, places: impl Iterator<Item = Location>) {
    let mut release = |segment, released| {
        let entries = live.get_mut(&segment).expect("it was counted");
        *entries -= released;
        if *entries == 0 {
            live.remove(&segment);
        }
    };
    let mut alike: Option<(SegmentId, u64)> = None;
    for place in places {
        match &mut alike {
            Some((segment, released)) if *segment == place.segment => *released += 1,
            _ => {
                if let Some((segment, released)) = alike.replace((place.segment, 1)) {
                    release(segment, released);
                }
            }
        }
    }
    if let Some((segment, released)) = alike {
        release(segment, released);
    }
}
