//! `cargo sim`: runs seeds until told to stop, or one seed again.

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sim::{Counters, Failure};

// A run makes and drops a cluster within a tenth of a second: the pages stay.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
Runs a whole cluster from a seed, in virtual time, with faults, and checks every promise.

cargo sim                    seeds until Ctrl-C, on all cores
    --seconds N              stop after so long
    --runs N                 stop after so many
    --from SEED              the first seed; default: the time of day
    --threads N              default: one per core
    --quiet                  no progress
cargo sim SEED [--trace]     one seed; with --trace, every event of it

Seeds are decimal or 0x…. Exit code 1: a promise was broken.";

struct Arguments {
    one: Option<u64>,
    trace: bool,
    quiet: bool,
    seconds: Option<u64>,
    runs: u64,
    from: u64,
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let failure = match arguments.one {
        Some(seed) => one(seed, arguments.trace),
        None => many(&arguments),
    };
    let Some(failure) = failure else {
        return ExitCode::SUCCESS;
    };
    let Failure {
        seed,
        step,
        promise,
    } = failure;
    println!("seed {seed:#018x}, step {step}: {promise}\n");
    println!(
        "reproduce with\n    git checkout {} && cargo sim {seed:#018x}",
        commit()
    );
    ExitCode::FAILURE
}

fn one(seed: u64, trace: bool) -> Option<Failure> {
    match sim::run(seed, trace) {
        Ok(report) => {
            println!(
                "seed {seed:#018x}: {} steps, {:.1} s, digest {:#018x}\n{}",
                report.steps,
                Duration::from_nanos(report.virtual_nanos).as_secs_f64(),
                report.digest,
                report.counters
            );
            None
        }
        Err(failure) => Some(failure),
    }
}

/// What all threads have done so far.
#[derive(Default)]
struct Total {
    runs: u64,
    virtual_time: Duration,
    counters: Counters,
}

#[expect(
    clippy::disallowed_methods,
    reason = "progress is told in real time; no run sees it"
)]
fn many(arguments: &Arguments) -> Option<Failure> {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let found = Mutex::new(None);
    let over = || {
        arguments
            .seconds
            .is_some_and(|most| began.elapsed().as_secs() >= most)
    };
    let work = || {
        while !stop.load(Ordering::Relaxed) && !over() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= arguments.runs {
                break;
            }
            match sim::run(arguments.from.wrapping_add(number), false) {
                Ok(report) => {
                    let mut total = total.lock().expect("no thread panics");
                    total.runs += 1;
                    total.virtual_time += Duration::from_nanos(report.virtual_nanos);
                    total.counters.add(&report.counters);
                }
                Err(failure) => {
                    stop.store(true, Ordering::Relaxed);
                    found
                        .lock()
                        .expect("no thread panics")
                        .get_or_insert(failure);
                }
            }
        }
    };
    println!(
        "from seed {:#018x} on {} threads",
        arguments.from, arguments.threads
    );
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if !arguments.quiet && told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                summary(
                    &total.lock().expect("no thread panics"),
                    began.elapsed(),
                    arguments,
                );
            }
        }
    });
    let total = total.into_inner().expect("no thread panics");
    summary(&total, began.elapsed(), arguments);
    println!("{}", total.counters);
    found.into_inner().expect("no thread panics")
}

fn summary(total: &Total, elapsed: Duration, arguments: &Arguments) {
    let seconds = elapsed.as_secs_f64();
    println!(
        "{:>6.0} s: {} runs ({:.1}/s), {:.1} cluster-hours ({:.0} x real time per thread), {} elections, {} crashes, {} writes",
        seconds,
        total.runs,
        total.runs as f64 / seconds,
        total.virtual_time.as_secs_f64() / 3600.0,
        total.virtual_time.as_secs_f64() / seconds / arguments.threads as f64,
        total.counters.elections,
        total.counters.crashes,
        total.counters.writes,
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "the first seed may be anything; it is printed"
)]
fn parse(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut arguments = Arguments {
        one: None,
        trace: false,
        quiet: false,
        seconds: None,
        runs: u64::MAX,
        from: day.map_or(0, |day| day.as_secs() << 24),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    while let Some(word) = given.next() {
        let mut value = || number(&given.next().ok_or(format!("{word} needs a number"))?);
        match word.as_str() {
            "--trace" => arguments.trace = true,
            "--quiet" => arguments.quiet = true,
            "--seconds" => arguments.seconds = Some(value()?),
            "--runs" => arguments.runs = value()?,
            "--from" => arguments.from = value()?,
            "--threads" => {
                arguments.threads = usize::try_from(value()?.clamp(1, 1024)).expect("clamped");
            }
            seed => arguments.one = Some(number(seed)?),
        }
    }
    Ok(arguments)
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is neither a number nor an option"))
}

/// What is checked out, so that the seed means the same elsewhere.
fn commit() -> String {
    let git = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let name = git.ok().filter(|output| output.status.success());
    name.and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "HEAD".to_owned(), |name| name.trim().to_owned())
}
