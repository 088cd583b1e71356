//! Where nodes spend their time: `perf record` on their processes or, where there is no perf, what they
//! sample of themselves, drawn as a flamegraph, with the largest costs as a table.

mod within;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{self, Options};

use crate::cluster::Cluster;
use within::Within;
pub(crate) use within::sample;

/// Samples a second of each processor: not a divisor of what timers do.
const SAMPLES_PER_SECOND: u32 = 997;
/// Lines of the table.
const COSTS: usize = 15;

/// Something that samples the nodes of a cluster.
pub(crate) enum Sampler {
    Perf {
        perf: Child,
        data: PathBuf,
    },
    /// The nodes themselves: of what the kernel does for them it sees nothing.
    Within(Within),
}

impl Sampler {
    /// Samples for so long. What is gathered meanwhile lies beside `svg` and is removed.
    ///
    /// # Errors
    ///
    /// When there is no `perf` that may sample, and the nodes cannot be reached.
    pub(crate) fn start(cluster: &Cluster, length: Duration, svg: &Path) -> Result<Self, String> {
        let data = svg.with_extension("perf-data");
        if let Err(reason) = try_perf(&data) {
            eprintln!(
                "{reason}: the nodes sample themselves, without what the kernel does for them"
            );
            return Within::start(cluster, length, svg).map(Self::Within);
        }
        let pids: Vec<String> = cluster.pids().iter().map(u32::to_string).collect();
        let perf = record(&data, &["--pid", &pids.join(",")])
            .args(["--", "sleep", &format!("{:.3}", length.as_secs_f64())])
            .spawn()
            .map_err(|error| format!("perf: {error}"))?;
        Ok(Self::Perf { perf, data })
    }

    /// Waits for the samples: each stack on a line. The nodes must run until then.
    pub(crate) fn wait(self) -> Result<String, String> {
        let (perf, data) = match self {
            Self::Perf { perf, data } => (perf, data),
            Self::Within(within) => return within.wait(),
        };
        let output = perf.wait_with_output();
        let output = output.map_err(|error| format!("perf: {error}"))?;
        // It also complains when the servers end before it does: samples are what counts.
        if !data.exists() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(format!("perf took no samples: {}", complaint.trim()));
        }
        let folded = fold(&data);
        // What cannot be removed is left: the flamegraph matters more.
        drop(std::fs::remove_file(&data));
        folded
    }
}

/// Draws stacks; they go to a file beside `svg` as well. Gives a table of what took most.
pub(crate) fn draw(folded: &str, title: &str, svg: &Path) -> Result<String, String> {
    let lines = svg.with_extension("folded");
    std::fs::write(&lines, folded).map_err(|e| format!("{}: {e}", lines.display()))?;
    let mut options = Options::default();
    title.clone_into(&mut options.title);
    // Narrower than a pixel. The stacks beside have all of it.
    options.min_width = 0.1;
    let file = File::create(svg).map_err(|error| format!("{}: {error}", svg.display()))?;
    flamegraph::from_lines(&mut options, folded.lines(), file)
        .map_err(|error| format!("{}: {error}", svg.display()))?;
    Ok(costs(folded))
}

/// A `perf record` of something.
fn record(data: &Path, of: &[&str]) -> Command {
    let mut command = Command::new("perf");
    command
        .args(["record", "--quiet", "--call-graph", "fp"])
        .args(["--freq", &SAMPLES_PER_SECOND.to_string()])
        .arg("--output")
        .arg(data)
        .args(of)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Whether there is a `perf` that may sample here; if not, why.
fn try_perf(data: &Path) -> Result<(), String> {
    let output = record(data, &["--", "true"]).output();
    // The next one makes it anew.
    drop(std::fs::remove_file(data));
    match output {
        Err(error) => Err(format!("perf cannot be run ({error})")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let first = complaint.lines().next().unwrap_or("it does not say why");
            Err(format!("perf may not sample here ({first})"))
        }
    }
}

/// Runs `perf script` and brings each sample's stack on one line.
fn fold(data: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("perf script: {error}");
    let mut perf = Command::new("perf")
        .args(["script", "--force", "--input"])
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let output = perf.stdout.take().expect("it was asked for");
    let mut folded = Vec::new();
    let result = Folder::default().collapse(BufReader::new(output), &mut folded);
    perf.wait().map_err(failed)?;
    result.map_err(failed)?;
    if folded.is_empty() {
        return Err("perf took no samples: did the servers run at all?".to_owned());
    }
    Ok(String::from_utf8_lossy(&folded).into_owned())
}

/// The functions that took most, alone and with what they called, in percent of all samples.
fn costs(folded: &str) -> String {
    let (mut alone, mut with_called) = (BTreeMap::new(), BTreeMap::new());
    let mut all = 0_u64;
    for line in folded.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else {
            continue;
        };
        let count: u64 = count.parse().unwrap_or(0);
        all += count;
        // The first frame is the thread's name.
        let frames: Vec<&str> = stack.split(';').skip(1).collect();
        if let Some(last) = frames.last() {
            *alone.entry(*last).or_insert(0) += count;
        }
        for frame in frames.into_iter().collect::<BTreeSet<_>>() {
            *with_called.entry(frame).or_insert(0) += count;
        }
    }
    let most = |counts: BTreeMap<&str, u64>| {
        let mut counts: Vec<(&str, u64)> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts.truncate(COSTS);
        let lines = counts.into_iter().map(|(name, count)| {
            format!("  {:5.1} %  {name}\n", count as f64 / all as f64 * 100.0)
        });
        lines.collect::<String>()
    };
    format!(
        "alone:\n{}with what they called:\n{}",
        most(alone),
        most(with_called)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_counted_once_for_each_sample() {
        let text = costs("node;main;walk;walk;walk 30\nnode;main;rest 10\n");
        assert!(text.starts_with("alone:\n   75.0 %  walk\n"), "{text}");
        assert!(
            text.contains("called:\n  100.0 %  main\n   75.0 %  walk\n"),
            "{text}"
        );
    }
}
