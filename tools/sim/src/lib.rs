#![doc = include_str!("../README.md")]

mod client;
mod cluster;
mod contents;
mod damage;
mod disk;
mod disk_trouble;
mod events;
mod faults;
mod linearizability;
mod members;
mod memberships;
mod nemesis;
mod network;
mod node;
mod node_log;
mod oracle;
mod oracles;
mod paces;
mod platter;
mod repair;
mod rng;
mod shelf;
mod snapshots;
mod standing;
mod trace;
mod traffic;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use cluster::Cluster;
pub use faults::{Counters, Fault};

/// What a run that kept every promise was like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Folds everything that happened.
    pub digest: u64,
    /// Events.
    pub steps: u64,
    /// How long it took in its own time, in nanoseconds.
    pub virtual_nanos: u64,
    pub counters: Counters,
}

/// A broken promise, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub step: u64,
    pub promise: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            step,
            promise,
        } = self;
        write!(f, "seed {seed:#018x}, step {step}: {promise}")
    }
}

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
    static RUNS: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes how far this thread's run has come, for the case that it panics.
pub(crate) fn note_step(step: u64) {
    STEP.set(step);
}

/// Runs the cluster that `seed` describes. With `told`, every event is printed.
pub fn run(seed: u64, told: bool) -> Result<Report, Failure> {
    catch_panics();
    RUNS.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut cluster = Cluster::new(seed, told);
        let result = cluster.run();
        let report = Report {
            digest: cluster.digest,
            steps: cluster.steps,
            virtual_nanos: cluster.now,
            counters: cluster.counters.clone(),
        };
        result.map(|()| report)
    }));
    RUNS.set(false);
    let promise = match result {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(broken)) => broken,
        Err(_) => PANIC.take().unwrap_or_else(|| "panicked".to_owned()),
    };
    Err(Failure {
        seed,
        step: STEP.get(),
        promise,
    })
}

/// A panic inside a run is a broken promise like others: kept, not printed.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNS.get() {
                PANIC.set(Some(info.to_string().replace('\n', " ")));
            } else {
                usual(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// If this fails, no other seed means anything: find the clock, the hash map or the thread.
    #[test]
    fn a_seed_decides_everything() {
        let run = |seed| run(seed, false).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(run(0x5eed), run(0x5eed));
        assert_ne!(run(0x5eed), run(0x5eee));
    }

    /// Every bug the simulator ever found stays found.
    #[test]
    fn past_failures_stay_fixed() {
        for line in include_str!("../seeds.txt").lines() {
            let seed = line.split('#').next().unwrap().trim();
            if seed.is_empty() {
                continue;
            }
            let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap();
            run(seed, false).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }

    /// Runs that provoke nothing prove nothing.
    #[test]
    fn a_few_runs_provoke_everything() {
        let mut counters = Counters::default();
        for seed in 20..40 {
            let report = run(seed, false).unwrap_or_else(|failure| panic!("{failure}"));
            counters.add(&report.counters);
        }
        for (name, count) in counters.list() {
            let rare = matches!(
                name,
                "busy" | "undecided" | "failed_reads" | "forgetful_at_once" | "silent_losses"
            );
            assert!(count > 0 || rare, "{name} never happened: {counters}");
        }
    }

    /// A patch that does not apply plants nothing: run.sh has to be able to use each.
    #[test]
    fn the_planted_bugs_fit_the_code() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut patches = 0;
        for file in fs::read_dir(here.join("planted")).unwrap() {
            let path = file.unwrap().path();
            if path
                .extension()
                .is_none_or(|extension| extension != "patch")
            {
                continue;
            }
            patches += 1;
            let patch = fs::read_to_string(&path).unwrap();
            let mut target = String::new();
            for hunk in patch.split("\n@@ ") {
                let after = |line: &str| line.strip_prefix("--- a/").map(str::to_owned);
                if let Some(name) = hunk.lines().find_map(after) {
                    target = fs::read_to_string(here.join("../..").join(name)).unwrap();
                    continue;
                }
                let old = hunk
                    .lines()
                    .skip(1)
                    .filter(|line| line.starts_with([' ', '-']));
                let old: Vec<&str> = old.map(|line| &line[1..]).collect();
                assert!(
                    target.contains(&old.join("\n")),
                    "{} does not fit",
                    path.display()
                );
            }
        }
        assert!(patches >= 5, "there are {patches} planted bugs");
    }
}
