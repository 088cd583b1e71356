//! Logs of a cluster's nodes rot while they are down: blocks turn to zeroes, bits flip, blocks change
//! places, a segment file is deleted. One node keeps all it has. All that was promised must be there,
//! on nodes that have repaired themselves.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::load::{failed, serves, verify, written_during};
use crate::machine::interrupted;
use crate::nodes::{NODES, Nodes};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

const BLOCK: usize = 4096;
/// How long the cluster is written to before its disks rot.
const LIFE: Duration = Duration::from_millis(700);
/// Heartbeats reach all, and marks are written behind the newest flushes.
const REST: Duration = Duration::from_millis(600);
/// How long nodes may take to repair themselves.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let mut nodes = Nodes::running(&stage.directory, "")?;
    serves(&nodes)?;
    let mut promises = Vec::new();
    let mut harmed = 0;
    for round in 0..stage.rounds {
        promises.extend(written_during(&mut nodes, round, tally, |_| {
            std::thread::sleep(LIFE);
            Ok(())
        })?);
        std::thread::sleep(REST);
        for node in 0..NODES {
            if !nodes.kill(node) {
                return Err(failed(&nodes, format!("n{} has ended by itself", node + 1)));
            }
        }
        let first = usize::try_from(stage.chance(NODES as u64)).expect("it is small");
        harmed += rot(stage, &nodes.log(first), 1 + stage.chance(3), true)?;
        if stage.chance(2) == 0 {
            harmed += rot(stage, &nodes.log((first + 1) % NODES), 1, false)?;
        }
        for node in 0..NODES {
            nodes.start(node)?;
        }
        serves(&nodes)?;
        await_health(&nodes)?;
        verify(&nodes, &promises, tally)?;
        tally.rounds += 1;
    }
    if tally.acked == 0 || harmed == 0 {
        return Err(Trouble::Vacuous {
            what: format!(
                "{} writes acknowledged, {harmed} places harmed",
                tally.acked
            ),
        });
    }
    tally.note = format!("{harmed} places harmed");
    Ok(())
}

/// Waits until every replica of every node is whole again.
pub(super) fn await_health(nodes: &Nodes) -> Result<(), Trouble> {
    let start = Instant::now();
    for node in 0..NODES {
        while !nodes.is_healthy(node) {
            interrupted()?;
            if start.elapsed() > PATIENCE {
                let what = format!("n{} does not repair itself for {PATIENCE:?}", node + 1);
                return Err(failed(nodes, what));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Harms a log at some places; also its newest flushes and whole files if it may be `grave`.
pub(super) fn rot(stage: &Stage, log: &Path, places: u64, grave: bool) -> Result<u64, Trouble> {
    for _ in 0..places {
        let segments = segments(log)?;
        let newest = segments.len() - 1;
        let at = usize::try_from(stage.chance(segments.len() as u64)).expect("few segments");
        let path = &segments[at];
        let kind = stage.chance(8);
        if grave && kind == 0 && at < newest {
            fs::remove_file(path).map_err(Trouble::io("remove", path))?;
            continue;
        }
        let bytes = fs::read(path).map_err(Trouble::io("read", path))?;
        let mut written: Vec<usize> = (0..bytes.len() / BLOCK)
            .filter(|block| {
                bytes[block * BLOCK..][..BLOCK]
                    .iter()
                    .any(|&byte| byte != 0)
            })
            .collect();
        if !grave {
            // What the newest segment ends with, nobody else may have yet to name.
            let kept = written.len().saturating_sub(8);
            written.truncate(kept);
        } else if at == newest {
            // The mark is the only witness of the flush before it.
            written.pop();
        }
        if written.is_empty() {
            continue;
        }
        let pick = || {
            let count = written.len() as u64;
            written[usize::try_from(stage.chance(count)).expect("few blocks")] * BLOCK
        };
        let (one, other) = (pick(), pick());
        let file = File::options().write(true).open(path);
        let file = file.map_err(Trouble::io("open", path))?;
        let write = |bytes: &[u8], at: usize| {
            let written = file.write_all_at(bytes, at as u64);
            written.map_err(Trouble::io("write", path))
        };
        match kind {
            0..4 => write(&[0; BLOCK], one)?,
            4..7 => {
                let byte = one + usize::try_from(stage.chance(BLOCK as u64)).expect("it is small");
                write(&[bytes[byte] ^ 0x20], byte)?;
            }
            _ => {
                write(&bytes[one..one + BLOCK], other)?;
                write(&bytes[other..other + BLOCK], one)?;
            }
        }
    }
    Ok(places)
}

pub(super) fn segments(log: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let listed = fs::read_dir(log).map_err(Trouble::io("list", log))?;
    let files = listed.filter_map(|file| Some(file.ok()?.path()));
    let mut segments: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|kind| kind == "seg"))
        .filter(|path| is_written(path))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

/// The next segment is made ready before it is needed.
fn is_written(path: &Path) -> bool {
    let mut start = [0; BLOCK];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut start, 0));
    read.is_ok() && start.iter().any(|&byte| byte != 0)
}
