//! The newest entry that a stopped node holds of each group.

use std::collections::BTreeMap;
use std::path::Path;

use engine::batch::Batch;
use engine::config::Config;
use engine::epoch;
use engine::io::identity::{Condition, Record};
use wal::io::SegmentView;
use wal::{EntryKind, GroupId, LogIndex, Options, Recovered, RecoveredLog, Replay, Term};

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
    record: &Record,
) -> Result<BTreeMap<GroupId, Newest>, RepairError> {
    let groups = (0..config.cluster.groups).map(GroupId::from_raw);
    let mut newest: BTreeMap<_, _> = groups.map(|group| (group, Newest::default())).collect();
    for shard in 0..config.cluster.shards {
        let directory = path.join(format!("shard-{shard}"));
        let rejoined = record.condition == Condition::Rejoined;
        if !directory.exists() {
            for group in config.groups_of_shard(shard) {
                newest.entry(group).or_default().damaged = rejoined;
            }
            continue;
        }
        let failed = |reason: String| RepairError::Log { shard, reason };
        let options = Options {
            segment_bytes: config.segment_bytes,
            instance: record.instance,
        };
        let mut found = replay(&directory, options).map_err(failed)?;
        for group in config.groups_of_shard(shard) {
            let log = found.groups.remove(&group);
            let log = epoch::told_by(log, &found.unmentioned, rejoined);
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

fn replay(directory: &Path, options: Options) -> Result<Recovered, String> {
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
    Ok(replay.finish())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use engine::config::{NodeAddress, Options};
    use engine::io::identity::Place;

    use super::*;

    #[test]
    fn a_node_that_came_back_without_its_data_does_not_hold_nothing_but_lacks_all() {
        let scratch = std::env::temp_dir().join(format!("drakkar-newest-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let mut options = Options {
            node_id: 1,
            data_dir: scratch.display().to_string(),
            ..Options::default()
        };
        options.cluster.id = "test".to_owned();
        options.cluster.nodes = vec![NodeAddress {
            id: 1,
            host: "127.0.0.1".to_owned(),
            client_port: 7000,
            peer_port: 8000,
            admin_port: 0,
        }];
        let config = options.validate().unwrap();
        let place = Place::of(&fs::metadata(&scratch).unwrap());
        let mut record = Record::new(5, place, Vec::new());
        let damaged = |record: &Record| {
            let newest = read(&config, &scratch, record).unwrap();
            let groups = newest.len();
            (newest.values().filter(|it| it.damaged).count(), groups)
        };
        let groups = config.cluster.groups as usize;
        assert_eq!(damaged(&record), (0, groups));
        record.condition = Condition::Rejoined;
        assert_eq!(damaged(&record), (groups, groups));
        // Files that say nothing of votes are no more than that.
        fs::create_dir_all(scratch.join("shard-0/snapshots")).unwrap();
        assert_eq!(damaged(&record), (groups, groups));
        fs::remove_dir_all(&scratch).unwrap();
    }
}
