//! The seconds of a long run: what nodes take, taken from outside, and what they come to.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::soak::Soaked;

/// What one node takes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) resident_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) snapshot_bytes: u64,
}

/// What all nodes take at the end of a second.
pub(crate) struct Sample {
    pub(crate) second: u32,
    pub(crate) nodes: Vec<Taken>,
}

impl Sample {
    /// Looks at the nodes' processes and at their files.
    pub(crate) fn take(second: u32, pids: &[u32], data: &[PathBuf]) -> Self {
        let nodes = pids.iter().zip(data).map(|(&pid, data)| {
            let mut taken = Taken {
                resident_bytes: resident_bytes(pid).unwrap_or(0),
                ..Taken::default()
            };
            // Files come and go meanwhile; one that is gone takes nothing.
            add_files(data, 4, &mut taken);
            taken
        });
        Self {
            second,
            nodes: nodes.collect(),
        }
    }
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

fn add_files(directory: &Path, depth: u32, taken: &mut Taken) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let Ok(meta) = entry.metadata() else {
            continue;
        };
        let path = entry.path();
        if meta.is_dir() && depth > 0 {
            add_files(&path, depth - 1, taken);
        } else if path.extension().is_some_and(|it| it == "seg") {
            taken.log_bytes += meta.len();
        } else if directory.file_name().is_some_and(|it| it == "snapshots") {
            taken.snapshot_bytes += meta.len();
        }
    }
}

/// One second: what was answered in it, and what the nodes took at its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Second {
    /// Seconds since the load began.
    pub(crate) at: f64,
    pub(crate) operations: u64,
    pub(crate) p99_micros: f64,
    pub(crate) nodes: Vec<Taken>,
}

impl Second {
    /// Gives each sample the second of load that ended nearest to it. Between two rounds of load there may
    /// be none: then nothing was answered.
    pub(crate) fn merge(samples: Vec<Sample>, load: &[Self]) -> Vec<Self> {
        let merged = samples.into_iter().map(|sample| {
            let at = f64::from(sample.second);
            let near = load.iter().find(|second| (second.at - at).abs() <= 0.5);
            Self {
                at,
                operations: near.map_or(0, |second| second.operations),
                p99_micros: near.map_or(0.0, |second| second.p99_micros),
                nodes: sample.nodes,
            }
        });
        merged.collect()
    }
}

/// A line for each second.
pub(crate) fn csv(seconds: &[Second]) -> String {
    let nodes = seconds.first().map_or(0, |second| second.nodes.len());
    let mut text = "second,operations,p99_micros".to_owned();
    for node in 1..=nodes {
        let columns = ["resident", "log", "snapshot"].map(|it| format!(",n{node}_{it}_bytes"));
        text.push_str(&columns.concat());
    }
    text.push('\n');
    for second in seconds {
        let (at, operations) = (second.at, second.operations);
        write!(text, "{at},{operations},{:.0}", second.p99_micros).expect("memory takes it");
        for node in &second.nodes {
            let (resident, log) = (node.resident_bytes, node.log_bytes);
            write!(text, ",{resident},{log},{}", node.snapshot_bytes).expect("memory takes it");
        }
        text.push('\n');
    }
    text
}

/// All of it as one document.
pub(crate) fn json(soaked: &Soaked) -> String {
    let seconds = soaked.seconds.iter().map(|second| {
        let nodes = second.nodes.iter().map(|node| {
            json!({
                "resident_bytes": node.resident_bytes,
                "log_bytes": node.log_bytes,
                "snapshot_bytes": node.snapshot_bytes,
            })
        });
        json!({
            "second": second.at,
            "operations": second.operations,
            "p99_micros": second.p99_micros,
            "nodes": nodes.collect::<Vec<_>>(),
        })
    });
    let hashes = soaked
        .hashes
        .iter()
        .map(|(group, hash)| json!({ "group": group, "state": hash }));
    let snapshots = soaked.snapshots.iter();
    let snapshots = snapshots.map(|(taken, failed)| json!({ "taken": taken, "failed": failed }));
    json!({
        "seconds": seconds.collect::<Vec<_>>(),
        "errors": soaked.errors,
        "first_error": soaked.first_error,
        "snapshots": snapshots.collect::<Vec<_>>(),
        "states": hashes.collect::<Vec<_>>(),
    })
    .to_string()
}

/// A table of ten stretches of the run, and what became of the replicas.
pub(crate) fn summary(soaked: &Soaked) -> String {
    let mut text = format!(
        "{:>13} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9}\n",
        "seconds", "median /s", "lowest /s", "p99 ms", "RSS MiB", "log MiB", "snap MiB"
    );
    let length = soaked.seconds.len().div_ceil(10).max(1);
    for stretch in soaked.seconds.chunks(length) {
        let mut rates: Vec<u64> = stretch.iter().map(|second| second.operations).collect();
        rates.sort_unstable();
        let mut waits: Vec<f64> = stretch
            .iter()
            .map(|second| second.p99_micros / 1e3)
            .collect();
        waits.sort_by(f64::total_cmp);
        let most = |part: fn(&Taken) -> u64| {
            let nodes = stretch.iter().flat_map(|second| &second.nodes);
            nodes.map(part).max().unwrap_or(0) >> 20
        };
        writeln!(
            text,
            "{:>6}-{:<6} {:>10} {:>10} {:>9.1} {:>9} {:>9} {:>9}",
            stretch[0].at,
            stretch[stretch.len() - 1].at,
            rates[rates.len() / 2],
            rates[0],
            waits[waits.len() / 2],
            most(|it| it.resident_bytes),
            most(|it| it.log_bytes),
            most(|it| it.snapshot_bytes),
        )
        .expect("memory takes it");
    }
    text.push_str("RSS, log and snapshots: the most of any node; p99: the median of its seconds\n");
    for (node, (taken, failed)) in (1..).zip(&soaked.snapshots) {
        writeln!(text, "node {node}: {taken} snapshots, {failed} failed").expect("memory takes it");
    }
    match &soaked.first_error {
        None => text.push_str("no errors\n"),
        Some(first) => {
            writeln!(text, "{} errors, the first: {first}", soaked.errors)
                .expect("memory takes it");
        }
    }
    for (group, hash) in &soaked.hashes {
        writeln!(text, "group {group}: all replicas have state {hash}").expect("memory takes it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: f64, operations: u64) -> Second {
        Second {
            at,
            operations,
            p99_micros: 1500.0,
            nodes: Vec::new(),
        }
    }

    #[test]
    fn each_sample_gets_the_load_of_its_second_or_none() {
        let taken = Taken {
            resident_bytes: 5,
            log_bytes: 6,
            snapshot_bytes: 7,
        };
        let samples = (1..=4).map(|second| Sample {
            second,
            nodes: vec![taken],
        });
        let load = [second(1.2, 100), second(2.2, 200), second(4.4, 400)];
        let merged = Second::merge(samples.collect(), &load);
        let operations: Vec<u64> = merged.iter().map(|second| second.operations).collect();
        assert_eq!(operations, [100, 200, 0, 400]);
        let expected = "second,operations,p99_micros,n1_resident_bytes,n1_log_bytes,n1_snapshot_bytes\n\
                        1,100,1500,5,6,7\n2,200,1500,5,6,7\n3,0,0,5,6,7\n4,400,1500,5,6,7\n";
        assert_eq!(csv(&merged), expected);
    }
}
