//! Moments of a group's history: what a backup reaches to, and what of it somebody wants.

use std::path::Path;
use std::str::FromStr;

use clap::Args;
use engine::batch::Batch;
use engine::kv::{Item, Items, Kv};
use engine::state_machine::StateMachine;
use wal::{EntryKind, GroupId, LogIndex};

use super::log::{Entries, chunks, stamp};
use super::manifest::{File, Manifest};
use super::{BackupError, damaged};
use crate::status::columns;
use crate::timestamp::Timestamp;

/// Where a history is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// With all there is.
    End,
    /// With this entry.
    Index(u64),
    /// With the last entry that a leader stamped no later.
    Time(Timestamp),
}

/// Which points an operator wants.
#[derive(Args, Default)]
pub(crate) struct Points {
    /// Ends the history of a group with this entry (GROUP:ENTRY, several with commas). `backup verify`
    /// tells which entries there are.
    #[arg(long, value_delimiter = ',', value_name = "GROUP:ENTRY")]
    to_index: Vec<GroupIndex>,
    /// Ends the history of all other groups at this time (2026-11-21T18:45:00Z), by the clocks of the
    /// nodes that led them.
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
}

/// An entry of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GroupIndex {
    group: u64,
    index: u64,
}

/// Why a text names no entry.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("write it as GROUP:ENTRY, such as 0:1200")]
struct NoGroupIndex;

impl FromStr for GroupIndex {
    type Err = NoGroupIndex;

    fn from_str(text: &str) -> Result<Self, NoGroupIndex> {
        let (group, index) = text.split_once(':').ok_or(NoGroupIndex)?;
        Ok(Self {
            group: group.parse().map_err(|_| NoGroupIndex)?,
            index: index.parse().map_err(|_| NoGroupIndex)?,
        })
    }
}

/// What there is of a group's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) group: u64,
    /// The last entry of the snapshot, and of the log.
    pub(super) first: u64,
    pub(super) last: u64,
    /// The time of the snapshot's state; and until when all is there.
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Points {
    pub(super) fn any(&self) -> bool {
        !self.to_index.is_empty() || self.to_time.is_some()
    }

    /// Where the history of a group is to end.
    pub(super) fn of(&self, group: u64) -> Point {
        let index = self.to_index.iter().find(|it| it.group == group);
        match (index, self.to_time) {
            (Some(it), _) => Point::Index(it.index),
            (None, Some(time)) => Point::Time(time),
            (None, None) => Point::End,
        }
    }

    /// Refuses what is not in the backup, and says what is.
    pub(super) fn check(&self, extents: &[Extent]) -> Result<(), BackupError> {
        for &GroupIndex { group, index } in &self.to_index {
            let mut named = self.to_index.iter().filter(|it| it.group == group);
            if named.any(|it| it.index != index) {
                return Err(BackupError::GroupTwice { group });
            }
            let Some(extent) = extents.iter().find(|it| it.group == group) else {
                let groups = extents.iter().map(|it| it.group).collect();
                return Err(BackupError::NotInBackup { group, groups });
            };
            if index < extent.first || index > extent.last {
                let (first, last) = (extent.first, extent.last);
                return Err(BackupError::IndexOutside {
                    group,
                    index,
                    first,
                    last,
                });
            }
        }
        let Some(time) = self.to_time else {
            return Ok(());
        };
        let timed = extents
            .iter()
            .filter(|it| self.of(it.group) == Point::Time(time));
        let from = timed.clone().map(|it| it.from).max();
        let until = timed.map(|it| it.until).min();
        match (from, until) {
            (Some(from), Some(until)) if time < from || time > until => {
                Err(BackupError::TimeOutside { time, from, until })
            }
            _ => Ok(()),
        }
    }
}

impl Extent {
    /// Of every group in a backup that was verified.
    pub(super) fn all(directory: &Path, manifest: &Manifest) -> Result<Vec<Self>, BackupError> {
        let files = manifest.files.iter();
        files.map(|file| Self::of(directory, file)).collect()
    }

    fn of(directory: &Path, file: &File) -> Result<Self, BackupError> {
        let from = clock_of(&directory.join(&file.snapshot.name))?;
        let first = index_of(&file.snapshot.name);
        Ok(Self {
            group: file.snapshot.group,
            first,
            last: file.log.as_ref().map_or(first, |log| index_of(&log.name)),
            from,
            until: file
                .until_unix_ms
                .map_or(from, |ms| from.max(Timestamp(ms))),
        })
    }
}

/// When the leader took the newest write that a snapshot holds; zero if it holds none.
pub(crate) fn clock_of(path: &Path) -> Result<Timestamp, BackupError> {
    let mut clock = None;
    chunks(path, |chunk| {
        clock = Some(head(chunk).map_err(|it| damaged(path, it))?.1);
        Ok(false)
    })?;
    Ok(Timestamp(clock.unwrap_or(0)))
}

/// The last entry that a file is of: its name was verified.
pub(super) fn index_of(name: &str) -> u64 {
    number_of(name, 1)
}

/// The term of that entry.
pub(super) fn term_of(name: &str) -> u64 {
    number_of(name, 2)
}

fn number_of(name: &str, part: usize) -> u64 {
    let number = name.split(['-', '.']).nth(part);
    let number = number.and_then(|number| u64::from_str_radix(number, 16).ok());
    number.expect("the names of files are checked when they are verified")
}

/// A table of what there is.
pub(super) fn table(extents: &[Extent]) -> String {
    let mut rows = vec![
        ["GROUP", "FIRST", "LAST", "FROM", "UNTIL"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(extents.iter().map(|it| {
        let from = match it.from {
            Timestamp(0) => "its beginning".to_owned(),
            from => from.to_string(),
        };
        let numbers = [it.group, it.first, it.last].map(|it| it.to_string());
        let mut row = numbers.to_vec();
        row.extend([from, it.until.to_string()]);
        row
    }));
    columns(&rows)
}

/// The slots and the time that the first chunk of a snapshot names.
fn head(chunk: &[u8]) -> Result<((u16, u16), u64), String> {
    match Items::new(chunk).next() {
        Some(Ok(Item::Head { slots, clock, .. })) => Ok((slots, clock)),
        Some(Err(error)) => Err(error.to_string()),
        _ => Err("it is no state of the built-in state machine".into()),
    }
}

/// The state that a file holds.
pub(super) fn restored(path: &Path) -> Result<Kv, BackupError> {
    let mut filled = None;
    chunks(path, |chunk| {
        let kv = match &mut filled {
            Some(kv) => kv,
            none => none.insert(Kv::new(head(chunk).map_err(|it| damaged(path, it))?.0)),
        };
        let restored = kv.restore(chunk);
        restored.map(|()| true).map_err(|it| damaged(path, it))
    })?;
    let mut kv = filled.ok_or_else(|| damaged(path, "it holds no state"))?;
    kv.restored().map_err(|it| damaged(path, it))?;
    Ok(kv)
}

/// The state of a group at a point, and the last entry that is in it. Takes the memory of that state.
pub(super) fn state(directory: &Path, file: &File, point: Point) -> Result<(Kv, u64), BackupError> {
    let mut kv = restored(&directory.join(&file.snapshot.name))?;
    let mut last = index_of(&file.snapshot.name);
    if let Some(log) = &file.log {
        let path = directory.join(&log.name);
        let mut replay =
            Replay::new(kv, log.group, last, point).map_err(|it| damaged(&path, it))?;
        chunks(&path, |chunk| {
            replay.chunk(chunk).map_err(|it| damaged(&path, it))
        })?;
        (kv, last) = (replay.kv, replay.last);
    }
    if let Point::Time(Timestamp(ms)) = point {
        // Whoever read then did not see what was due.
        kv.advance(ms);
    }
    Ok((kv, last))
}

/// A state on its way to a point.
struct Replay {
    kv: Kv,
    entries: Entries,
    point: Point,
    /// The last entry that was applied.
    last: u64,
}

impl Replay {
    fn new(kv: Kv, group: u64, last: u64, point: Point) -> Result<Self, String> {
        let group = u32::try_from(group).map_err(|_| format!("there is no group {group}"))?;
        Ok(Self {
            kv,
            entries: Entries::new(GroupId::from_raw(group), LogIndex::from_raw(last)),
            point,
            last,
        })
    }

    /// Applies a chunk of the log; whether the point may lie behind it.
    fn chunk(&mut self, chunk: &[u8]) -> Result<bool, String> {
        let Self {
            kv,
            entries,
            point,
            last,
        } = self;
        let mut replies = Vec::new();
        entries.read(chunk, |entry| {
            let index = entry.index.to_raw();
            let stamp = stamp(&entry)?;
            let wanted = match *point {
                Point::End => true,
                Point::Index(end) => index <= end,
                Point::Time(end) => stamp.is_none_or(|ms| kv.clock().max(ms) <= end.0),
            };
            if wanted && entry.kind == EntryKind::Batch {
                let batch = Batch::access(&entry.payload).map_err(|it| it.to_string())?;
                kv.apply(&batch, &mut replies);
                replies.clear();
            }
            if wanted {
                *last = index;
            }
            Ok(wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(to_index: &[&str], to_time: Option<u64>) -> Points {
        Points {
            to_index: to_index.iter().map(|it| it.parse().unwrap()).collect(),
            to_time: to_time.map(Timestamp),
        }
    }

    fn extent(group: u64, (first, last): (u64, u64), (from, until): (u64, u64)) -> Extent {
        Extent {
            group,
            first,
            last,
            from: Timestamp(from),
            until: Timestamp(until),
        }
    }

    #[test]
    fn a_point_outside_of_the_backup_is_refused_with_what_there_is() {
        let extents = [
            extent(0, (3, 10), (1000, 5000)),
            extent(1, (0, 0), (0, 4000)),
        ];
        let second = "1970-01-01T00:00:0";
        let table = [
            (points(&[], None), None),
            (points(&["0:3", "1:0"], None), None),
            (points(&["0:10"], Some(4000)), None),
            (points(&[], Some(1000)), None),
            (points(&["1:0"], Some(5000)), None),
            (points(&["0:2"], None), Some("has entries 3 to 10".into())),
            (points(&["0:11"], None), Some("has entries 3 to 10".into())),
            (points(&["2:1"], None), Some("no group 2".into())),
            (points(&["0:4", "0:5"], None), Some("group 0 twice".into())),
            (
                points(&[], Some(999)),
                Some(format!("{second}1.000Z to {second}4.000Z")),
            ),
            (
                points(&["0:4"], Some(4001)),
                Some(format!("{second}0.000Z to {second}4.000Z")),
            ),
        ];
        for (points, expected) in table {
            let refusal = points.check(&extents).err().map(|it| it.to_string());
            let (found, expected) = (refusal.unwrap_or_default(), expected.unwrap_or_default());
            assert!(found.contains(&expected), "{found}, not: {expected}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
        }
    }

    #[test]
    fn who_names_a_group_by_entry_means_all_others_by_time() {
        let points = points(&["4:7"], Some(9));
        assert_eq!(points.of(4), Point::Index(7));
        assert_eq!(points.of(5), Point::Time(Timestamp(9)));
        assert_eq!(Points::default().of(4), Point::End);
        for wrong in ["", "4", "4:", ":7", "4:x", "-1:3"] {
            assert!(wrong.parse::<GroupIndex>().is_err(), "{wrong}");
        }
    }
}
