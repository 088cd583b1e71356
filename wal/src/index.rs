//! Where each entry of each group lies, and which segments that keeps alive.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::groups::Groups;
use crate::{GroupId, LogIndex, SegmentId};

/// The place of one record in its segment: of an entry, or of the run that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u32,
    pub bytes: u32,
}

/// The places of the entries of a shard's groups: 24 bytes for each record that holds some.
#[derive(Debug, Default)]
pub(crate) struct Index {
    groups: Groups<Places>,
    /// How many places lie in each segment.
    live: BTreeMap<SegmentId, u64>,
}

/// The places of the entries of one group.
#[derive(Debug, Default)]
struct Places {
    /// Each place holds the entries from one on, up to where the next begins.
    places: VecDeque<(LogIndex, Location)>,
    /// Behind the last of them.
    end: LogIndex,
}

impl Places {
    /// The position of the first place, if there is any.
    fn first(&self) -> Option<LogIndex> {
        self.places.front().map(|&(first, _)| first)
    }

    /// Which place holds an entry.
    fn position(&self, index: LogIndex) -> Option<usize> {
        let behind = self.places.partition_point(|&(first, _)| first <= index);
        behind.checked_sub(1).filter(|_| index < self.end)
    }

    /// Where the entries of a place end.
    fn end_of(&self, at: usize) -> LogIndex {
        self.places.get(at + 1).map_or(self.end, |&(next, _)| next)
    }
}

impl Index {
    /// The places of a group's entries, to lay out more of them.
    pub(crate) fn group(&mut self, group: GroupId) -> Layout<'_> {
        Layout {
            places: self.groups.of(group),
            live: &mut self.live,
            appended: None,
        }
    }

    /// Entries up to `index` are no longer needed.
    pub(crate) fn floor(&mut self, group: GroupId, index: LogIndex) {
        let group = self.groups.of(group);
        let mut below = 0;
        while below < group.places.len() && group.end_of(below) <= index.next() {
            below += 1;
        }
        release(&mut self.live, group.places.drain(..below));
        if let Some((first, _)) = group.places.front_mut() {
            *first = index.next().max(*first);
        }
    }

    pub(crate) fn get(&self, group: GroupId, index: LogIndex) -> Option<Location> {
        let group = self.groups.get(group)?;
        let (_, location) = group.places[group.position(index)?];
        Some(location)
    }

    /// The groups whose entries lie in the oldest segment that holds any.
    pub(crate) fn oldest_owners(&self) -> Vec<GroupId> {
        let Some((&oldest, _)) = self.live.first_key_value() else {
            return Vec::new();
        };
        let owners = |of: fn(&Places, SegmentId) -> bool| -> Vec<GroupId> {
            let groups = self.groups.iter();
            let owners = groups.filter(|(_, places)| of(places, oldest));
            owners.map(|(group, _)| group).collect()
        };
        let begins = |places: &Places, oldest| {
            let first = places.places.front();
            first.is_some_and(|(_, first)| first.segment == oldest)
        };
        let begin = owners(begins);
        if !begin.is_empty() {
            return begin;
        }
        // Entries before it were laid out anew.
        owners(|places, oldest| {
            let mut places = places.places.iter();
            places.any(|(_, place)| place.segment == oldest)
        })
    }

    /// Whether any entry lies in the segment.
    pub(crate) fn is_live(&self, segment: SegmentId) -> bool {
        self.live.get(&segment).is_some_and(|&places| places > 0)
    }
}

/// The places of one group's entries while more of them are laid out.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    places: &'a mut Places,
    live: &'a mut BTreeMap<SegmentId, u64>,
    /// Places behind the others in one segment that are not counted yet.
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
        let end = index.plus(entries as u64);
        match group.places.back() {
            Some((_, last)) if index == group.end => {
                if *last != location {
                    self.append(index, location);
                }
            }
            _ => {
                self.count();
                self.make_way(index);
                self.append(index, location);
            }
        }
        self.places.end = end;
    }

    /// Takes away the entries at an index and above.
    fn make_way(&mut self, index: LogIndex) {
        let group = &mut *self.places;
        if group.first().is_none_or(|first| index < first) {
            release(self.live, group.places.drain(..));
            return;
        }
        assert!(index <= group.end, "entry {index} leaves a gap");
        let kept = group.places.partition_point(|&(first, _)| first < index);
        release(self.live, group.places.drain(kept..));
    }

    fn append(&mut self, index: LogIndex, location: Location) {
        self.places.places.push_back((index, location));
        match &mut self.appended {
            Some((segment, places)) if *segment == location.segment => *places += 1,
            _ => {
                self.count();
                self.appended = Some((location.segment, 1));
            }
        }
    }

    fn count(&mut self) {
        if let Some((segment, places)) = self.appended.take() {
            *self.live.entry(segment).or_default() += places;
        }
    }

    /// An entry was laid out anew; those above it stay where they are.
    pub(crate) fn patch(&mut self, index: LogIndex, location: Location) {
        self.count();
        let group = &mut *self.places;
        let Some(at) = group.position(index) else {
            return self.put(index, 1, location);
        };
        // What is left of the place before and behind the entry.
        let (first, old) = group.places[at];
        let end = group.end_of(at);
        let mut next = at;
        let mut held = 0;
        if first < index {
            (next, held) = (at + 1, 1);
            group.places.insert(next, (index, location));
        } else {
            group.places[at] = (index, location);
        }
        if index.next() < end {
            held += 1;
            group.places.insert(next + 1, (index.next(), old));
        }
        *self.live.entry(location.segment).or_default() += 1;
        *self.live.entry(old.segment).or_default() += held;
        release(self.live, [(first, old)].into_iter());
    }
}

fn release(
    live: &mut BTreeMap<SegmentId, u64>,
    places: impl Iterator<Item = (LogIndex, Location)>,
) {
    let mut release = |segment, released| {
        let places = live.get_mut(&segment).expect("it was counted");
        *places -= released;
        if *places == 0 {
            live.remove(&segment);
        }
    };
    let mut alike: Option<(SegmentId, u64)> = None;
    for (_, place) in places {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The same, with a place for each entry.
    #[derive(Default)]
    struct Model(BTreeMap<LogIndex, Location>);

    #[test]
    fn places_are_those_of_a_model_with_one_for_each_entry() {
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 8) % below
        };
        let group = GroupId::from_raw(1);
        let raw = LogIndex::from_raw;
        for _ in 0..200 {
            let (mut index, mut model) = (Index::default(), Model::default());
            for step in 0..200_u32 {
                let location = Location {
                    segment: SegmentId::from_raw(step / 20),
                    offset: step,
                    bytes: 1,
                };
                let first = model.0.keys().next().map_or(1, |first| first.to_raw());
                let last = model.0.keys().last().map_or(0, |last| last.to_raw());
                let any = first + draw(last + 2 - first);
                match draw(8) {
                    0 => {
                        let floor = raw(any);
                        index.floor(group, floor);
                        model.0.retain(|&at, _| at > floor);
                    }
                    1 if any <= last => {
                        index.group(group).patch(raw(any), location);
                        model.0.insert(raw(any), location);
                    }
                    kind => {
                        let from = match kind {
                            2 => any,
                            3 => first.saturating_sub(1).max(1),
                            _ => last.max(first - 1) + 1,
                        };
                        let entries = 1 + draw(5);
                        model.0.retain(|&at, _| at < raw(from));
                        let (mut at, mut layout) = (from, index.group(group));
                        // As one, or one by one, as a start does.
                        let whole = draw(2) == 0;
                        while at < from + entries {
                            let count = if whole { entries } else { 1 };
                            layout.put(raw(at), usize::try_from(count).expect("few"), location);
                            at += count;
                        }
                        model
                            .0
                            .extend((from..from + entries).map(|at| (raw(at), location)));
                    }
                }
                let ends = last + 8;
                for at in first.saturating_sub(2)..=ends {
                    let expected = model.0.get(&raw(at)).copied();
                    assert_eq!(index.get(group, raw(at)), expected, "entry {at}");
                }
                let mut oldest = None;
                for segment in (0..=step / 20).map(SegmentId::from_raw) {
                    let live = model.0.values().any(|place| place.segment == segment);
                    assert_eq!(index.is_live(segment), live, "segment {segment}");
                    oldest = oldest.or(live.then_some(segment));
                }
                assert_eq!(index.oldest_owners().is_empty(), oldest.is_none());
            }
        }
    }
}
