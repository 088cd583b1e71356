//! The log: laying out flushes, reading them back, and appends that are durable when they return.

mod setup;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glommio::{LocalExecutor, Placement};
use wal::io::{Log, Ring, executor};
use wal::{
    BLOCK, Entry, EntryKind, FlushNumber, GroupId, LogIndex, Options, Payload, Record, Replay,
    SegmentId, Term, Writer,
};

const OPTIONS: Options = Options {
    segment_bytes: 64 << 20,
    instance: 7,
};
/// Flushes under way at once where throughput is measured.
const DEPTH: u64 = 4;

/// Entries of one group. Each flush holds the same positions, so that the index of places stays small.
fn entries(count: u64, bytes: usize) -> Vec<Record> {
    let record = |index| Record::Entry {
        group: GroupId::from_raw(1),
        entry: Entry {
            term: Term::from_raw(1),
            index: LogIndex::from_raw(index),
            kind: EntryKind::Batch,
            payload: Payload::from(vec![b'v'; bytes]),
        },
    };
    (1..=count).map(record).collect()
}

fn empty_log() -> Writer {
    let replay = Replay::new(OPTIONS, 0, []).expect("nothing cannot be rotten");
    replay.finish().writer
}

/// Reserves the place of a flush and makes its bytes: the processor's part of an append.
fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/encode");
    for (count, bytes) in [(1, 256), (100, 16), (100, 256), (100, 4096), (1000, 256)] {
        let records = entries(count, bytes);
        group.throughput(Throughput::Elements(count));
        let name = BenchmarkId::from_parameter(format!("{count}x{bytes}B"));
        group.bench_function(name, |bencher| {
            let mut writer = empty_log();
            let mut buffer = Vec::new();
            bencher.iter(|| {
                let placement = writer.place(writer.next_flush(), &records);
                buffer.resize(placement.bytes, 0);
                writer.encode(&placement, &records, &mut buffer);
                writer.written(placement.number);
                black_box(&buffer);
            });
        });
    }
    group.finish();
}

/// One segment as a disk would hold it: flushes of 100 entries until it is full.
fn full_segment(bytes: usize) -> (SegmentId, Vec<u8>) {
    let mut writer = empty_log();
    let mut segment = vec![0; usize::try_from(OPTIONS.segment_bytes).expect("fits memory")];
    let records = entries(100, bytes);
    let mut first = None;
    loop {
        let placement = writer.place(writer.next_flush(), &records);
        let id = *first.get_or_insert(placement.segment);
        if placement.segment != id {
            return (id, segment);
        }
        let at = usize::try_from(placement.offset).expect("fits memory");
        let place = &mut segment[at..at + placement.bytes];
        writer.encode(&placement, &records, place);
        writer.written(placement.number);
    }
}

/// What a start does with each segment, once it was read.
fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/replay");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(OPTIONS.segment_bytes));
    for bytes in [256, 4096] {
        let (id, segment) = full_segment(bytes);
        let name = BenchmarkId::from_parameter(format!("64MiB of {bytes}B"));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let firsts = [(id, &segment[..BLOCK])];
                let mut replay = Replay::new(OPTIONS, 1 << 20, firsts).expect("it is whole");
                while replay.next_segment().is_some() {
                    replay.segment(&segment).expect("it is whole");
                }
                black_box(replay.finish());
            });
        });
    }
    group.finish();
}

/// A directory that goes away with the bench. On the disk that holds the build, unless
/// `DRAKKAR_BENCH_DIR` names another.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let chosen = std::env::var_os("DRAKKAR_BENCH_DIR").map(PathBuf::from);
        let parent = chosen.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
        let path = parent.join(format!("log-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory for the log can be made");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is only space.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The time that `flushes` appends take, `depth` of them under way at once.
async fn append(log: &Rc<Log>, records: &[Record], flushes: u64, depth: u64) -> Duration {
    let start = now();
    let mut number = FlushNumber::ZERO;
    let mut under_way = std::collections::VecDeque::new();
    for _ in 0..flushes {
        if under_way.len() as u64 == depth {
            wait(under_way.pop_front()).await;
        }
        number = number.next();
        under_way.push_back(glommio::spawn_local(log.append(number, records)));
    }
    while !under_way.is_empty() {
        wait(under_way.pop_front()).await;
    }
    start.elapsed()
}

async fn wait<T>(append: Option<impl Future<Output = Result<T, wal::io::LogError>>>) {
    let append = append.expect("one is under way");
    append.await.expect("the disk takes what is appended");
}

/// A fresh log, timed only between its first append and its last. The space is given back.
fn on_disk(
    executor: &LocalExecutor,
    path: &Path,
    records: &[Record],
    n: u64,
    depth: u64,
) -> Duration {
    let (directory, records) = (path.to_owned(), records.to_vec());
    let elapsed = executor.run(executor::awake(async move {
        let ring = Ring::start().expect("a ring starts");
        let opened = Log::open(&directory, OPTIONS, 0, ring).await;
        let (log, _) = opened.expect("a new log opens");
        let elapsed = append(&log, &records, n, depth).await;
        log.close().await;
        elapsed
    }));
    std::fs::remove_dir_all(path).expect("the log's directory can be removed");
    elapsed
}

/// The whole append, on a real file: one at a time, and several under way.
fn durable(criterion: &mut Criterion) {
    let scratch = Scratch::new();
    let path = scratch.0.join("shard-0");
    let mut group = criterion.benchmark_group("log/durable");
    group.sample_size(10);
    for (count, bytes, depth) in [(1, 256, 1), (100, 256, DEPTH), (1000, 256, DEPTH)] {
        let records = entries(count, bytes);
        group.throughput(Throughput::Elements(count));
        let name = BenchmarkId::from_parameter(format!("{count}x{bytes}B, {depth} under way"));
        group.bench_function(name, |bencher| {
            let executor = executor::builder(Placement::Unbound).make();
            let executor = executor.expect("io_uring is there and may lock memory (ulimit -l)");
            bencher.iter_custom(|flushes| on_disk(&executor, &path, &records, flushes, depth));
        });
    }
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

criterion_group! {
    name = benches;
    config = setup::short();
    targets = encode, replay, durable
}
criterion_main!(benches);
