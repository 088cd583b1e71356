//! Samples that a process takes of itself, where nobody else may: a timer interrupts its threads while
//! they run, and the handler walks up their frame pointers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pprof::{Frames, ProfilerGuardBuilder, Report};

use super::SAMPLES_PER_SECOND;
use crate::cluster::Cluster;
use crate::load::now;

/// How long nodes may take to find the names of what they sampled.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stacks of the nodes of a cluster, each of which writes its own to a file.
pub(crate) struct Within {
    files: Vec<PathBuf>,
    deadline: std::time::Instant,
}

impl Within {
    pub(super) fn start(cluster: &Cluster, length: Duration, svg: &Path) -> Result<Self, String> {
        let stem = svg.with_extension("samples");
        cluster.tell_all(&format!("sample {} {}", length.as_millis(), stem.display()))?;
        let pids = cluster.pids().into_iter();
        Ok(Self {
            files: pids.map(|pid| file(&stem, pid)).collect(),
            deadline: now() + length + PATIENCE,
        })
    }

    /// Waits for all nodes: their stacks, one to a line.
    pub(super) fn wait(&self) -> Result<String, String> {
        let mut folded = String::new();
        for path in &self.files {
            while !path.exists() {
                if now() > self.deadline {
                    return Err(format!("a node took no samples: {}", path.display()));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let text = std::fs::read_to_string(path);
            folded += &text.map_err(|error| format!("{}: {error}", path.display()))?;
            // What cannot be removed is left.
            drop(std::fs::remove_file(path));
        }
        match folded.is_empty() {
            true => Err("the nodes took no samples: did they run at all?".to_owned()),
            false => Ok(folded),
        }
    }
}

fn file(stem: &Path, pid: u32) -> PathBuf {
    stem.with_extension(format!("samples-{pid}"))
}

/// Samples this process for so long, and writes the stacks to its file.
pub(crate) fn sample(length: Duration, stem: &Path) -> Result<(), String> {
    let failed = |error: pprof::Error| format!("this process cannot sample itself: {error}");
    let frequency = i32::try_from(SAMPLES_PER_SECOND).expect("small");
    let guard = ProfilerGuardBuilder::default().frequency(frequency);
    let guard = guard.build().map_err(failed)?;
    std::thread::sleep(length);
    let report = guard.report().build().map_err(failed)?;
    drop(guard);
    let path = file(stem, std::process::id());
    // Whoever waits for the file finds it whole.
    let partial = path.with_extension("partial");
    let written = std::fs::write(&partial, fold(&report));
    let written = written.and_then(|()| std::fs::rename(&partial, &path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Each stack as a line, the outermost function first, and how often it was seen.
fn fold(report: &Report) -> String {
    let mut counts: BTreeMap<String, isize> = BTreeMap::new();
    for (frames, count) in &report.data {
        *counts.entry(stack(frames)).or_default() += count;
    }
    let lines = counts.iter();
    lines
        .map(|(stack, count)| format!("{stack} {count}\n"))
        .collect()
}

fn stack(frames: &Frames) -> String {
    let calls = frames.frames.iter().rev();
    let names = calls.flat_map(|inlined| inlined.iter().rev());
    let names = names.map(|symbol| symbol.name().replace(';', ","));
    let thread = frames.thread_name.clone();
    std::iter::once(thread)
        .chain(names)
        .collect::<Vec<_>>()
        .join(";")
}
