//! The log alone, in turns with others on the same disk: TiKV's raft-engine, a plain file, and the
//! limit, which is the same bytes written by io_uring with nothing around them.
//!
//! Load is a closed loop: each group appends a batch of entries, waits until it is durable, and
//! appends the next. What runs on one thread writes all batches that wait as one flush.

mod drakkar;
mod file;
mod io;
mod raft_engine;
mod report;
mod turns;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::time::{ClockId, clock_gettime};

use report::Report;

/// Bytes of one flush, unless a single batch is larger.
const FLUSH_BYTES: usize = 1 << 20;
/// Flushes under way at once.
const DEPTH: usize = 4;

/// Measures the log alone, next to others.
///
/// Everything takes turns on the same disk, and ratios are taken within a round, so that a machine
/// that is busy slows all of them.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogOptions {
    /// Bytes of each entry, at least 8.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 256, 4096])]
    pub(crate) entry_bytes: Vec<usize>,
    /// Entries of each batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    pub(crate) batch: Vec<usize>,
    /// Groups that append at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    pub(crate) groups: Vec<usize>,
    /// What to measure; the limit is always measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    pub(crate) systems: Vec<System>,
    /// Turns of each, of which the median counts.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Measured seconds of each turn.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 0.3)]
    pub(crate) warm_up: f64,
    /// One short round: shows that it works, and little more.
    #[arg(long)]
    pub(crate) short: bool,
    /// Where the files are written; what is written is removed.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// A file written before, io_uring, `O_DIRECT` and `O_DSYNC`: no headers, no checksums.
    Limit,
    /// The same, but each write's bytes are copied and summed once before: what no log can leave out.
    LimitFilled,
    /// A shard's log.
    Drakkar,
    /// raft-engine as it comes.
    RaftEngine,
    /// raft-engine with files that were written before.
    RaftEngineRecycled,
    /// A file written before, `pwrite` and `fdatasync`.
    Pwrite,
}

impl System {
    const ALL: [Self; 6] = [
        Self::Limit,
        Self::LimitFilled,
        Self::Drakkar,
        Self::RaftEngine,
        Self::RaftEngineRecycled,
        Self::Pwrite,
    ];
}

/// One shape of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    entry_bytes: usize,
    batch: usize,
    groups: usize,
}

impl Cell {
    fn batch_bytes(&self) -> usize {
        self.entry_bytes * self.batch
    }

    /// How many batches one flush takes at most.
    fn batches_per_flush(&self) -> usize {
        (FLUSH_BYTES / self.batch_bytes()).clamp(1, self.groups)
    }
}

/// How long, and where.
#[derive(Clone)]
struct Plan {
    /// Empty before the turn.
    directory: PathBuf,
    /// What is written before, and stays from turn to turn.
    prepared: PathBuf,
    warm_up: Duration,
    measured: Duration,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug)]
struct Measured {
    batches: u64,
    /// Writes that were made durable, each with all batches that waited.
    flushes: u64,
    /// What the process gave to the disk, files made ready included.
    written_bytes: u64,
    elapsed: Duration,
    /// Of the whole process, kernel included.
    cpu: Duration,
}

impl Measured {
    fn batches_per_second(&self) -> f64 {
        self.batches as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_micros_per_flush(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.flushes.max(1) as f64
    }

    fn cpu_micros_per_batch(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.batches.max(1) as f64
    }

    fn written_bytes_per_batch(&self) -> f64 {
        self.written_bytes as f64 / self.batches.max(1) as f64
    }
}

/// Measures what the options ask for and prints it.
pub(crate) fn run(options: &LogOptions) -> Result<(), String> {
    let mut options = options.clone();
    if options.short {
        options.rounds = 1;
        options.seconds = options.seconds.min(0.2);
        options.warm_up = options.warm_up.min(0.1);
    }
    check(&options)?;
    if !options.systems.contains(&System::Limit) {
        options.systems.insert(0, System::Limit);
    }
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let base = base.join(format!("drakkar-log-{}", std::process::id()));
    let report = create(&base).and_then(|base| cells(&options, &base));
    // What stays behind is only space.
    drop(std::fs::remove_dir_all(&base));
    let report = report?;
    print!(
        "{}",
        if options.json {
            report.json()
        } else {
            report.table()
        }
    );
    Ok(())
}

fn create(directory: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir_all(directory)
        // glommio opens nothing by a path that does not start at the root.
        .and_then(|()| directory.canonicalize())
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))
}

fn cells(options: &LogOptions, base: &Path) -> Result<Report, String> {
    let mut report = Report::new(options.systems.clone());
    for &groups in &options.groups {
        for &batch in &options.batch {
            for &entry_bytes in &options.entry_bytes {
                let cell = Cell {
                    entry_bytes,
                    batch,
                    groups,
                };
                let rounds = rounds(options, &cell, base)?;
                report.add(cell, &rounds);
                eprintln!("{cell:?} done");
            }
        }
    }
    Ok(report)
}

fn check(options: &LogOptions) -> Result<(), String> {
    let largest = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
    let sensible = [
        (
            options
                .entry_bytes
                .iter()
                .all(|&bytes| (8..=1 << 20).contains(&bytes)),
            "--entry-bytes must be between 8 and 1048576",
        ),
        (
            options
                .batch
                .iter()
                .all(|&batch| (1..=1000).contains(&batch)),
            "--batch must be between 1 and 1000",
        ),
        (
            largest(&options.entry_bytes) * largest(&options.batch) <= 16 << 20,
            "a batch of --batch entries of --entry-bytes must not exceed 16 MiB",
        ),
        (
            options
                .groups
                .iter()
                .all(|&groups| (1..=1024).contains(&groups)),
            "--groups must be between 1 and 1024",
        ),
        (options.rounds > 0, "--rounds must be at least 1"),
        (options.seconds > 0.0, "--seconds must be more than 0"),
        (options.warm_up >= 0.0, "--warm-up must not be negative"),
    ];
    match sensible.iter().find(|(holds, _)| !holds) {
        Some((_, complaint)) => Err((*complaint).to_owned()),
        None => Ok(()),
    }
}

/// What each system gave in each round. The order changes from round to round.
fn rounds(options: &LogOptions, cell: &Cell, base: &Path) -> Result<Vec<Vec<Measured>>, String> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let mut results = vec![None; options.systems.len()];
        for turn in 0..results.len() {
            let at = (turn + round) % results.len();
            results[at] = Some(measure(options.systems[at], cell, options, base)?);
        }
        rounds.push(results.into_iter().flatten().collect());
    }
    Ok(rounds)
}

fn measure(
    system: System,
    cell: &Cell,
    options: &LogOptions,
    base: &Path,
) -> Result<Measured, String> {
    let directory = create(&base.join("turn"))?;
    let plan = Plan {
        directory: directory.clone(),
        prepared: base.to_owned(),
        warm_up: Duration::from_secs_f64(options.warm_up),
        measured: Duration::from_secs_f64(options.seconds),
    };
    let result = match system {
        System::Limit => io::ring::measure(cell, &plan, false),
        System::LimitFilled => io::ring::measure(cell, &plan, true),
        System::Drakkar => drakkar::measure(cell, &plan),
        System::RaftEngine => raft_engine::measure(cell, &plan, false),
        System::RaftEngineRecycled => raft_engine::measure(cell, &plan, true),
        System::Pwrite => file::measure(cell, &plan),
    };
    // What stays behind is only space.
    drop(std::fs::remove_dir_all(&directory));
    result.map_err(|error| format!("{system:?}: {error}"))
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("time is not negative");
    let nanos = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(seconds, nanos)
}

/// Bytes that this process gave to file systems' disks so far; 0 if the kernel does not count them.
fn written_bytes() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = counts
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    written.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Bytes that no compression makes smaller: SplitMix64 (Steele, Lea, Flood 2014).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    });
    let mut noise: Vec<u8> = words.collect();
    noise.truncate(bytes);
    noise
}
