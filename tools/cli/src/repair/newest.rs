//! The newest entry that a stopped node holds of each group.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use engine::batch::Batch;
use engine::config::Config;
use engine::epoch;
use serde_json::{Deserializer, Value, json};
use wal::io::SegmentView;
use wal::{EntryKind, GroupId, LogIndex, Options, RecoveredLog, Replay, Term};

use super::RepairError;
use crate::backup::point;
use crate::snapshot_files;

/// Enough payload to find the last write among entries that only begin terms.
const TAIL_BYTES: usize = 1 << 20;

/// What a node holds of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// Up to here it knew entries to be committed.
    pub(crate) commit: LogIndex,
    /// When its leader took the newest write that is there, Unix milliseconds; 0 if unknown.
    pub(crate) written_ms: u64,
    /// Its disk lost something that it held.
    pub(crate) damaged: bool,
}

/// Of each group that lives on a node, whose data are at `path`.
pub(crate) fn read(
    config: &Config,
    path: &Path,
    instance: u64,
) -> Result<BTreeMap<GroupId, Newest>, RepairError> {
    let groups = (0..config.cluster.groups).map(GroupId::from_raw);
    let mut newest: BTreeMap<_, _> = groups.map(|group| (group, Newest::default())).collect();
    for shard in 0..config.cluster.shards {
        let directory = path.join(format!("shard-{shard}"));
        if !directory.exists() {
            continue;
        }
        let failed = |reason: String| RepairError::Log { shard, reason };
        let options = Options {
            segment_bytes: config.segment_bytes,
            instance,
        };
        for (group, log) in replay(&directory, options).map_err(failed)? {
            newest.insert(group, of_log(&log));
        }
        let found = snapshot_files::find(&directory).map_err(|it| failed(it.to_string()))?;
        for file in &found {
            let Some((group, index, term)) = file.sound_position() else {
                continue;
            };
            let newest = newest.entry(group).or_default();
            // A node that was stopped in order has nothing but entries without writes behind it.
            let clock = point::clock_of(&file.path).map_err(|it| failed(it.to_string()))?;
            newest.written_ms = newest.written_ms.max(clock.0);
            if (term, index) > (newest.term, newest.index) {
                (newest.index, newest.term) = (index, term);
            }
            newest.commit = newest.commit.max(index);
        }
    }
    Ok(newest)
}

fn replay(directory: &Path, options: Options) -> Result<BTreeMap<GroupId, RecoveredLog>, String> {
    let segments = SegmentView::list(directory).map_err(|it| it.to_string())?;
    let mut firsts = Vec::new();
    for segment in segments {
        let first = SegmentView::first_block(directory, segment).map_err(|it| it.to_string())?;
        firsts.push((segment, first));
    }
    let blocks = firsts.iter().map(|(id, block)| (*id, block.as_slice()));
    let mut replay = Replay::new(options, TAIL_BYTES, blocks).map_err(|it| it.to_string())?;
    while let Some(segment) = replay.next_segment() {
        let bytes = SegmentView::open(directory, segment).map_err(|it| it.to_string())?;
        replay.segment(&bytes).map_err(|it| it.to_string())?;
    }
    Ok(replay.finish().groups)
}

fn of_log(log: &RecoveredLog) -> Newest {
    let stamp = |payload: &[u8]| Batch::access(payload).map(|batch| batch.stamp_ms()).ok();
    let batches = log.tail.iter().rev();
    let mut batches = batches.filter(|entry| entry.kind == EntryKind::Batch);
    let written = batches.find_map(|entry| stamp(&entry.payload));
    let (index, term) = epoch::newest(log);
    Newest {
        index,
        term,
        commit: log.hard_state.commit,
        written_ms: written.unwrap_or(0),
        damaged: log.damage.is_some(),
    }
}

/// What the survivors of a repair hold, as one of them wrote it down.
pub(super) struct Plan {
    pub(super) node: u32,
    pub(super) newest: BTreeMap<GroupId, Newest>,
    /// It has become a member of the new epoch already, with these as the newest entries of all.
    pub(super) done: bool,
}

/// In the place of a file: standard input or output.
pub(super) const PIPE: &str = "-";

/// Which repair a plan is of.
pub(super) struct Purpose<'a> {
    pub(super) cluster: &'a str,
    pub(super) epoch: u64,
    pub(super) survivors: &'a [u32],
}

impl Plan {
    /// As it is written to a file, or to whoever drives the repair.
    pub(super) fn text(&self, purpose: &Purpose<'_>) -> String {
        let groups = self.newest.iter().map(|(group, newest)| {
            json!({
                "group": group.to_raw(), "index": newest.index.to_raw(), "term": newest.term.to_raw(),
                "commit": newest.commit.to_raw(), "written_ms": newest.written_ms, "damaged": newest.damaged,
            })
        });
        let value = json!({
            "cluster": purpose.cluster, "epoch": purpose.epoch, "survivors": purpose.survivors,
            "node": self.node, "done": self.done, "groups": groups.collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }

    /// The plans in a file, or in what is piped in: one after another.
    pub(super) fn read(path: &Path, purpose: &Purpose<'_>) -> Result<Vec<Self>, RepairError> {
        let no = |why| RepairError::Plan {
            path: path.to_owned(),
            why,
        };
        let text = match path == Path::new(PIPE) {
            true => io::read_to_string(io::stdin()),
            false => fs::read_to_string(path),
        };
        let text = text.map_err(|_| no("it cannot be read"))?;
        let mut plans = Vec::new();
        for value in Deserializer::from_str(&text).into_iter::<Value>() {
            let value = value.map_err(|_| no("it is no JSON"))?;
            let same = value["cluster"] == purpose.cluster
                && value["epoch"] == purpose.epoch
                && value["survivors"] == json!(purpose.survivors);
            if !same {
                return Err(no("cluster, epoch or survivors are others"));
            }
            plans.push(Self::parse(&value).ok_or_else(|| no("fields are missing"))?);
        }
        Ok(plans)
    }

    /// Nothing if fields are missing.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let group = |value: &Value| {
            let group = GroupId::from_raw(u32::try_from(value["group"].as_u64()?).ok()?);
            let newest = Newest {
                index: LogIndex::from_raw(value["index"].as_u64()?),
                term: Term::from_raw(value["term"].as_u64()?),
                commit: LogIndex::from_raw(value["commit"].as_u64()?),
                written_ms: value["written_ms"].as_u64()?,
                damaged: value["damaged"].as_bool()?,
            };
            Some((group, newest))
        };
        let groups = value["groups"].as_array()?.iter().map(group);
        Some(Self {
            node: u32::try_from(value["node"].as_u64()?).ok()?,
            newest: groups.collect::<Option<_>>()?,
            done: value["done"].as_bool().unwrap_or(false),
        })
    }
}
