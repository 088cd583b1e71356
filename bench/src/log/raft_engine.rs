//! TiKV's raft-engine: one thread for each group, which is how it makes one write of many.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::turns::Watch;
use super::{Cell, Measured, Plan, noise};

/// Files written before, in all: more than most turns need.
const PREFILL_BYTES: u64 = 512 << 20;

/// Entries whose first eight bytes are their index.
#[derive(Clone)]
struct Numbered;

impl MessageExt for Numbered {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.first_chunk();
        u64::from_le_bytes(*index.expect("entries have at least eight bytes"))
    }
}

fn config(directory: &Path, recycled: bool) -> Config {
    let dir = directory.join("raft-engine").to_string_lossy().into_owned();
    let default = Config {
        dir,
        ..Config::default()
    };
    if !recycled {
        return default;
    }
    Config {
        enable_log_recycle: true,
        prefill_for_recycle: true,
        prefill_limit: Some(ReadableSize(PREFILL_BYTES)),
        ..default
    }
}

/// How often any engine of this process made its log durable.
fn syncs() -> u64 {
    let families = prometheus::gather();
    let family = families
        .iter()
        .find(|family| family.get_name() == "raft_engine_sync_log_duration_seconds");
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    metrics
        .iter()
        .map(|metric| metric.get_histogram().get_sample_count())
        .sum()
}

pub(super) fn measure(cell: &Cell, plan: &Plan, recycled: bool) -> Result<Measured, String> {
    let engine =
        Engine::open(config(&plan.directory, recycled)).map_err(|error| error.to_string())?;
    let watch = Mutex::new(Watch::start(plan));
    let over = AtomicBool::new(false);
    let append = |group: u64| -> Result<Option<Measured>, String> {
        let bytes = noise(cell.batch_bytes());
        let entries = bytes.chunks(cell.entry_bytes).map(|bytes| {
            let mut entry = BytesValue::new();
            entry.value = bytes.to_vec();
            entry
        });
        let mut entries: Vec<_> = entries.collect();
        let mut index = 0u64;
        let mut batch = LogBatch::default();
        while !over.load(Ordering::Relaxed) {
            for entry in &mut entries {
                index += 1;
                entry.value[..8].copy_from_slice(&index.to_le_bytes());
            }
            let added = batch.add_entries::<Numbered>(group, &entries);
            added.map_err(|error| error.to_string())?;
            engine
                .write(&mut batch, true)
                .map_err(|error| error.to_string())?;
            let counted = watch.lock().expect("no thread panics").count(1, syncs);
            if counted.is_some() {
                over.store(true, Ordering::Relaxed);
                return Ok(counted);
            }
        }
        Ok(None)
    };
    let results = std::thread::scope(|scope| {
        let append = &append;
        let threads = (1..=cell.groups as u64).map(|group| scope.spawn(move || append(group)));
        let threads: Vec<_> = threads.collect();
        let results = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.map_err(|_| "a thread that appends panicked".to_owned())?
        });
        results.collect::<Result<Vec<_>, String>>()
    })?;
    let measured = results.into_iter().flatten().next();
    measured.ok_or_else(|| "nothing was measured".to_owned())
}
