//! How a shard begins: from the newest good snapshot of each group and what its log holds behind that.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::sleep;
use wal::io::{Durability, Found, Log, Ring};
use wal::{FlushNumber, GroupId, NodeId, RecoveredLog};

use crate::config::Config;
use crate::epoch;
use crate::kv::Kv;
use crate::shard::{self, GroupOptions, Shard, Snapshot};

use super::clock::unix_micros;
use super::disk::Disk;
use super::executor::{Executor, Shared};
use super::node::OpenError;
use super::snapshots::{Loaded, Refused, Restored, SnapshotFileError, Snapshots};
use super::status::NewestSnapshot;

const WINDOW_MESSAGES_MAX: usize = 256;
const MARK_AFTER: Duration = Duration::from_millis(20);

/// A disk that writes a gigabyte a second is about as long with this as with its smallest durable write.
const FLUSH_BESIDE_BYTES_MIN: usize = 64 << 10;

/// How often a start that takes long says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// No chunk that this build writes is longer: the largest value and key that may be configured, and what
/// else fits beside them.
pub(super) const CHUNK_BYTES_MAX: usize = (512 + 16 + 16) << 20;

/// Loads what the shard has, and makes it ready to take inputs.
pub(super) async fn open_shard(
    shared: Shared,
    index: u16,
    directory: &Path,
    ring: Rc<Ring>,
) -> Result<Executor, OpenError> {
    let config = &shared.config;
    let failed = |error| OpenError::Snapshots {
        shard: index,
        error,
    };
    let snapshots = open_snapshots(config, directory).await.map_err(failed)?;
    let own: Vec<GroupId> = config.groups_of_shard(index).collect();
    if let Some(&group) = snapshots.groups().iter().find(|it| !own.contains(it)) {
        return Err(OpenError::Groups {
            shard: index,
            group,
        });
    }
    let mut newest = BTreeMap::new();
    let loading = load(&shared, index, &snapshots, &mut newest).await;
    let mut loaded = loading.map_err(failed)?;
    let (log, mut found) = open_log(&shared, index, directory, ring.clone()).await?;
    let groups = own.iter().map(|&group| {
        let rejoined = shared.register.rejoined();
        let log = found.groups.remove(&group);
        let log = epoch::told_by(log, &found.unmentioned, rejoined);
        let newest = shared.register.newest(group);
        GroupOptions {
            group,
            members: config.members(),
            noted: shared.register.noted(group),
            slots: config.slots_of_group(group),
            preferred: Some(config.preferred_leader(group)),
            recovered: epoch::begin(log, shared.register.standing().epoch, newest),
            snapshot: loaded.remove(&group),
        }
    });
    let groups = groups.collect();
    if let Some((group, _)) = found.groups.first_key_value() {
        return Err(OpenError::Groups {
            shard: index,
            group: *group,
        });
    }
    let seed = seed(config.node(), index, shared.instance);
    let options = shard_options(config, seed);
    let clock = shared.origin.clock();
    let shard = Shard::new(options, clock, groups, found.next_flush);
    let disk = Disk {
        ring,
        log,
        snapshots,
        newest,
    };
    Ok(Executor::new(shared, index, shard, disk, seed))
}

async fn open_snapshots(config: &Config, directory: &Path) -> Result<Snapshots, SnapshotFileError> {
    let options = super::snapshots::Options {
        cluster: config.cluster.id.clone(),
        keep: config.snapshot.keep,
        // As much as the logs of all shards want to begin their next segment.
        reserve_bytes: 2 * config.segment_bytes * u64::from(config.cluster.shards),
        // Small files, and what other shards write meanwhile.
        reserve_bytes_full: config.segment_bytes / 8,
    };
    Snapshots::open(&directory.join("snapshots"), options).await
}

/// The newest good snapshot of each group that has one.
async fn load(
    shared: &Shared,
    index: u16,
    snapshots: &Snapshots,
    newest: &mut BTreeMap<GroupId, NewestSnapshot>,
) -> Result<BTreeMap<GroupId, Snapshot>, SnapshotFileError> {
    let groups = snapshots.groups();
    let begun = shared.origin.time();
    let progress = glommio::spawn_local({
        let snapshots = snapshots.clone();
        async move {
            loop {
                sleep(PROGRESS_INTERVAL).await;
                let (loaded_bytes, all_bytes) = (snapshots.loaded_bytes(), snapshots.bytes());
                tracing::info!(
                    event = "snapshot.loading",
                    shard = index,
                    loaded_bytes,
                    all_bytes
                );
            }
        }
    });
    let mut states = BTreeMap::new();
    for &group in &groups {
        let slots = shared.config.slots_of_group(group);
        let Loaded { restored, refused } = snapshots
            .load(group, || Kv::new(slots), CHUNK_BYTES_MAX)
            .await?;
        for Refused {
            index: at,
            term,
            error,
        } in refused
        {
            tracing::warn!(event = "snapshot.refused", shard = index, %group, index = at.to_raw(), term = term.to_raw(), reason = %error);
        }
        let Some(Restored {
            state,
            header,
            membership,
            summary,
        }) = restored
        else {
            tracing::warn!(event = "snapshot.none_good", shard = index, %group, "what the log lacks is fetched from the peers");
            continue;
        };
        tracing::info!(event = "snapshot.loaded", shard = index, %group, index = header.index.to_raw(), bytes = summary.bytes, keys = header.items);
        newest.insert(group, NewestSnapshot::of(&header, &summary));
        let (index, term) = (header.index, header.term);
        let snapshot = Snapshot {
            index,
            term,
            state,
            membership,
        };
        states.insert(group, snapshot);
    }
    progress.cancel().await;
    if !groups.is_empty() {
        let ms = shared.origin.millis_since(begun);
        tracing::info!(
            event = "snapshots.loaded",
            shard = index,
            groups = states.len(),
            ms
        );
    }
    Ok(states)
}

async fn open_log(
    shared: &Shared,
    index: u16,
    directory: &Path,
    ring: Rc<Ring>,
) -> Result<(Rc<Log>, Found), OpenError> {
    let config = &shared.config;
    let options = wal::Options {
        segment_bytes: config.segment_bytes,
        instance: shared.instance,
    };
    let begun = shared.origin.time();
    let groups = config.groups_of_shard(index).count();
    let cache_bytes = config.cache_bytes / groups.max(1);
    let durability = match config.log_durable {
        true => Durability::Durable,
        false => Durability::Async,
    };
    let opened = Log::open_with(directory, options, cache_bytes, ring, durability).await;
    let failed = |error| OpenError::Log {
        shard: index,
        error,
    };
    let (log, found) = opened.map_err(failed)?;
    let entries = |group: &RecoveredLog| group.floor.0.entries_until(group.last.max(group.floor.0));
    tracing::info!(
        event = "log.replayed",
        shard = index,
        segments = log.segments(),
        entries = found.groups.values().map(entries).sum::<u64>(),
        ms = shared.origin.millis_since(begun),
    );
    tell_losses(index, &found);
    let bytes = config.log_bytes_ready;
    if bytes > 0 && found.next_flush == FlushNumber::ZERO.next() {
        let begun = shared.origin.time();
        tracing::info!(event = "log.making_ready", shard = index, bytes);
        log.make_ready(bytes).await.map_err(failed)?;
        let ms = shared.origin.millis_since(begun);
        tracing::info!(event = "log.ready", shard = index, bytes, ms);
    }
    Ok((log, found))
}

fn tell_losses(index: u16, recovered: &Found) {
    if let Some(cut) = recovered.cut.filter(|cut| cut.torn) {
        tracing::warn!(
            event = "log.cut",
            shard = index,
            segment = %cut.segment,
            offset = cut.offset,
            flush = cut.number.to_raw(),
        );
    }
    for lost in &recovered.lost {
        tracing::warn!(
            event = "log.lost",
            shard = index,
            segment = %lost.segment,
            offset = lost.offset,
            first_flush = lost.first.to_raw(),
            next_flush = lost.next.map(|flush| flush.to_raw()),
            "the disk lost flushes that had been durable: what they held is fetched from the peers",
        );
    }
}

fn shard_options(config: &Config, seed: u64) -> shard::Options {
    shard::Options {
        node: config.node(),
        heartbeat_interval: config.cluster.heartbeat_interval,
        election_timeout: config.cluster.election_timeout,
        route_wait: config.route_wait,
        request_timeout: config.request_timeout,
        mark_after: MARK_AFTER,
        flushes_in_flight_max: Config::FLUSHES_IN_FLIGHT_MAX,
        flush_beside_bytes_min: FLUSH_BESIDE_BYTES_MIN,
        flush_bytes_max: config.flush_bytes_max(),
        batch_bytes_max: config.batch_bytes_max(),
        window_bytes_max: Config::WINDOW_BYTES_MAX,
        window_messages_max: WINDOW_MESSAGES_MAX,
        pending_bytes_max: config.limits.pending_bytes_max,
        pending_requests_max: config.limits.pending_requests_max,
        answer_bytes_max: config.answer_bytes_max(),
        data_bytes_max: config
            .limits
            .data_bytes_max
            .div_ceil(u64::from(config.cluster.shards)),
        cache_bytes: config.cache_bytes,
        snapshots: config.snapshot_policy(),
        seed,
    }
}

/// Differs between shards, nodes and starts, so that elections do not collide again and again.
fn seed(node: NodeId, index: u16, instance: u64) -> u64 {
    let place = u64::from(node.to_raw()) << 16 | u64::from(index);
    (instance ^ unix_micros()).wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
