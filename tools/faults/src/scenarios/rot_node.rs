//! The log of one node rots, or is replaced by an older copy of itself, while the node is down and the
//! other two are written to. It repairs itself under load, and everything promised is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rot_nodes::{await_health, rot, segments};
use crate::load::{failed, serves, verify, written_during};
use crate::machine::interrupted;
use crate::nodes::{NODES, Nodes};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

/// How long is written before and after a copy is made.
const LIFE: Duration = Duration::from_millis(500);
/// How long replicas may take to become equal.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
/// What a node says when it finds damage at its start, or hears of it from a leader.
const TOLD: [&str; 2] = ["log.lost", DAMAGED];
const DAMAGED: &str = "group.damaged";

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let mut nodes = Nodes::running(&stage.directory, "")?;
    serves(&nodes)?;
    let mut promises = Vec::new();
    let mut told = 0;
    for round in 0..stage.rounds {
        let victim = usize::try_from(stage.chance(NODES as u64)).expect("it is small");
        let said = stage.directory.join(format!("n{}.log", victim + 1));
        let before = (words(&said, &TOLD)?, words(&said, &[DAMAGED])?);
        promises.extend(written_during(&mut nodes, round, tally, |nodes| {
            harm(stage, nodes, victim)?;
            nodes.start(victim)?;
            serves(nodes)?;
            await_health(nodes)
        })?);
        await_equal(&nodes)?;
        verify(&nodes, &promises, tally)?;
        told += u32::from(words(&said, &TOLD)? > before.0);
        if words(&said, &[DAMAGED])? > before.1 && nodes.repairs(victim) == 0 {
            let what = format!("n{}'s status tells of no repair", victim + 1);
            return Err(failed(&nodes, what));
        }
        tally.rounds += 1;
    }
    if tally.acked == 0 || told == 0 {
        return Err(Trouble::Vacuous {
            what: format!("{} writes acknowledged, {told} losses told", tally.acked),
        });
    }
    tally.note = format!("{told} losses told");
    Ok(())
}

/// Ends a node and harms its log.
fn harm(stage: &Stage, nodes: &mut Nodes, victim: usize) -> Result<(), Trouble> {
    let (log, old) = (nodes.log(victim), stage.directory.join("old"));
    std::thread::sleep(LIFE);
    copy(&log, &old)?;
    std::thread::sleep(LIFE);
    if !nodes.kill(victim) {
        return Err(failed(
            nodes,
            format!("n{} has ended by itself", victim + 1),
        ));
    }
    damage(stage, &log, &old)
}

/// Lets a log rot, or replaces some of it, or all, by an older copy.
pub(super) fn damage(stage: &Stage, log: &Path, old: &Path) -> Result<(), Trouble> {
    match stage.chance(4) {
        0 => {
            fs::remove_dir_all(log).map_err(Trouble::io("remove", log))?;
            return fs::rename(old, log).map_err(Trouble::io("move", old));
        }
        1 => rejuvenate(log, old, segments(log)?.pop())?,
        2 => {
            let all = segments(log)?;
            let at = usize::try_from(stage.chance(all.len() as u64)).expect("few segments");
            rejuvenate(log, old, all.get(at).cloned())?;
        }
        _ => drop(rot(stage, log, 1 + stage.chance(3), true)?),
    }
    fs::remove_dir_all(old).map_err(Trouble::io("remove", old))
}

/// Replaces a segment by its older copy, if there is one.
fn rejuvenate(log: &Path, old: &Path, segment: Option<PathBuf>) -> Result<(), Trouble> {
    let segment = segment.as_deref().and_then(Path::file_name);
    let Some(name) = segment.filter(|name| old.join(name).is_file()) else {
        return Ok(());
    };
    let (from, to) = (old.join(name), log.join(name));
    fs::copy(&from, &to).map_err(Trouble::io("copy", &from))?;
    Ok(())
}

/// Copies a log as it is at the moment; files may come and go meanwhile.
pub(super) fn copy(log: &Path, to: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(to).map_err(Trouble::io("create", to))?;
    for file in fs::read_dir(log)
        .map_err(Trouble::io("list", log))?
        .flatten()
    {
        if file.path().is_file() {
            drop(fs::copy(file.path(), to.join(file.file_name())));
        }
    }
    Ok(())
}

/// How often a node has said any of these.
fn words(said: &Path, words: &[&str]) -> Result<usize, Trouble> {
    let text = fs::read_to_string(said).map_err(Trouble::io("read", said))?;
    Ok(words.iter().map(|word| text.matches(word).count()).sum())
}

/// Waits until all replicas of each group have the same state.
pub(super) fn await_equal(nodes: &Nodes) -> Result<(), Trouble> {
    let states = |node| {
        let groups = nodes.groups(node);
        let hashes = groups.iter().map(|group| group["state_hash"].clone());
        hashes.collect::<Vec<_>>()
    };
    let start = Instant::now();
    loop {
        let first = states(0);
        if !first.is_empty() && (1..NODES).all(|node| states(node) == first) {
            return Ok(());
        }
        interrupted()?;
        if start.elapsed() > PATIENCE {
            let what = format!("replicas are not equal for {PATIENCE:?}");
            return Err(failed(nodes, what));
        }
        std::thread::sleep(PAUSE);
    }
}
