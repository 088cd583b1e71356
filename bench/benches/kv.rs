//! The state machine: batches of writes made, applied, and reads.

mod setup;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::batch::{Batch, BatchBuilder};
use engine::kv::Kv;
use engine::state_machine::StateMachine;
use net::command::{Condition, Expiry};
use net::{Command, SLOTS};
use wal::Payload;

/// Commands of one batch.
const BATCH: usize = 128;
/// Distinct keys: more than a processor's caches hold.
const KEYS: usize = 100_000;
const VALUE_SIZES: [usize; 2] = [64, 256];

fn keys() -> Vec<Vec<u8>> {
    let key = |number| format!("key:{number:08}").into_bytes();
    (0..KEYS).map(key).collect()
}

fn fill(builder: &mut BatchBuilder, keys: &[Vec<u8>], value: &[u8]) {
    for key in keys {
        builder.push(&Command::Set {
            key,
            value,
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: false,
        });
    }
}

/// Batches that together write every key.
fn batches(keys: &[Vec<u8>], value: &[u8]) -> Vec<Payload> {
    let mut builder = BatchBuilder::default();
    let batches = keys.chunks_exact(BATCH).map(|keys| {
        fill(&mut builder, keys, value);
        builder.seal(1)
    });
    batches.collect()
}

/// What a leader does with the writes of a burst: one entry's payload.
fn seal(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("kv/seal");
    group.throughput(Throughput::Elements(BATCH as u64));
    for bytes in VALUE_SIZES {
        let value = vec![b'v'; bytes];
        let name = BenchmarkId::from_parameter(format!("SET {bytes}B"));
        group.bench_function(name, |bencher| {
            let mut builder = BatchBuilder::default();
            bencher.iter(|| {
                fill(&mut builder, &keys[..BATCH], &value);
                black_box(builder.seal(1));
            });
        });
    }
    group.finish();
}

/// What every replica does with a committed entry: keys are there already, and far apart in memory.
fn apply(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("kv/apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    for bytes in VALUE_SIZES {
        let batches = batches(&keys, &vec![b'v'; bytes]);
        let name = BenchmarkId::from_parameter(format!("SET {bytes}B"));
        group.bench_function(name, |bencher| {
            let mut state = Kv::new((0, SLOTS - 1));
            let mut replies = Vec::new();
            for batch in &batches {
                let batch = Batch::access(batch).expect("it was sealed");
                state.apply(&batch, &mut replies);
                replies.clear();
            }
            let mut turns = batches.iter().cycle();
            bencher.iter(|| {
                let batch = turns.next().expect("there is no end");
                let batch = Batch::access(batch).expect("it was sealed");
                state.apply(&batch, &mut replies);
                black_box(&replies);
                replies.clear();
            });
        });
    }
    group.finish();
}

/// Reads of a state that holds every key.
fn read(criterion: &mut Criterion) {
    let keys = keys();
    let mut group = criterion.benchmark_group("kv/read");
    group.throughput(Throughput::Elements(BATCH as u64));
    for bytes in VALUE_SIZES {
        let name = BenchmarkId::from_parameter(format!("GET {bytes}B"));
        group.bench_function(name, |bencher| {
            let mut state = Kv::new((0, SLOTS - 1));
            let mut replies = Vec::new();
            for batch in batches(&keys, &vec![b'v'; bytes]) {
                let batch = Batch::access(&batch).expect("it was sealed");
                state.apply(&batch, &mut replies);
                replies.clear();
            }
            let mut turns = keys.chunks_exact(BATCH).cycle();
            bencher.iter(|| {
                for key in turns.next().expect("there is no end") {
                    black_box(state.read(0, usize::MAX, &Command::Get { key }));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = setup::short();
    targets = seal, apply, read
}
criterion_main!(benches);
