//! The logs of one or two nodes rot, or are replaced by older copies, and while they are repaired the
//! leaders are killed or stand still, or those under repair are killed again. All three were equal before,
//! so of everything promised a whole copy is left.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::rot_node::{await_equal, copy, damage};
use super::rot_nodes::{await_health, rot};
use crate::load::{failed, serves, verify, written_during};
use crate::nodes::{NODES, Nodes};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

/// How long is written before and after a copy is made.
const LIFE: Duration = Duration::from_millis(500);
/// Marks are written behind the newest flushes.
const REST: Duration = Duration::from_millis(600);
/// How long a repair is waited for that may be over before anybody sees it.
const BEGIN: Duration = Duration::from_secs(3);
/// Longest time that a node is down or stands still, in milliseconds: longer than any election.
const PAUSE_MAX: u64 = 1500;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let mut nodes = Nodes::running(&stage.directory, "")?;
    serves(&nodes)?;
    let mut promises = Vec::new();
    let (mut strikes, mut amid) = (0, 0);
    for round in 0..stage.rounds {
        let first = usize::try_from(stage.chance(NODES as u64)).expect("it is small");
        let (log, old) = (nodes.log(first), stage.directory.join("old"));
        promises.extend(written_during(&mut nodes, 2 * round, tally, |_| {
            sleep(LIFE);
            copy(&log, &old)?;
            sleep(LIFE);
            Ok(())
        })?);
        await_equal(&nodes)?;
        sleep(REST);
        let mut victims = vec![first];
        if stage.chance(2) == 0 {
            victims.push((first + 1) % NODES);
        }
        for &victim in &victims {
            kill(&mut nodes, victim)?;
        }
        damage(stage, &log, &old)?;
        for &victim in &victims[1..] {
            rot(stage, &nodes.log(victim), 1, false)?;
        }
        promises.extend(written_during(&mut nodes, 2 * round + 1, tally, |nodes| {
            for &victim in &victims {
                nodes.start(victim)?;
            }
            for _ in 0..=stage.chance(3) {
                amid += u32::from(repairs(nodes, &victims));
                strikes += 1;
                strike(stage, nodes, first)?;
            }
            serves(nodes)?;
            await_health(nodes)
        })?);
        await_equal(&nodes)?;
        verify(&nodes, &promises, tally)?;
        tally.rounds += 1;
    }
    if tally.acked == 0 || strikes == 0 {
        return Err(Trouble::Vacuous {
            what: "no write was acknowledged".to_owned(),
        });
    }
    tally.note = format!("{amid} of {strikes} strikes amid a repair");
    Ok(())
}

/// Waits until one of them is under repair. Says whether one was seen so.
fn repairs(nodes: &Nodes, victims: &[usize]) -> bool {
    let start = Instant::now();
    while start.elapsed() < BEGIN {
        let groups = victims.iter().map(|&victim| nodes.groups(victim));
        let groups: Vec<_> = groups.collect();
        let healths = groups.iter().flatten().map(|group| &group["health"]);
        if healths.into_iter().any(|health| health != "intact") {
            return true;
        }
        if groups.iter().all(|groups| !groups.is_empty()) {
            return false;
        }
    }
    false
}

/// Kills the node that leads most or the one that rotted, for a while, or lets a leader stand still.
fn strike(stage: &Stage, nodes: &mut Nodes, rotten: usize) -> Result<(), Trouble> {
    let leads = |node: &usize| {
        let groups = nodes.groups(*node);
        groups
            .iter()
            .filter(|group| group["role"] == "leader")
            .count()
    };
    let leader = (0..NODES).max_by_key(leads).expect("there are some");
    let pause = Duration::from_millis(stage.chance(PAUSE_MAX));
    match stage.chance(5) {
        0..2 => {
            kill(nodes, leader)?;
            sleep(pause);
            nodes.start(leader)
        }
        2..4 => {
            nodes.signal(leader, Signal::STOP);
            sleep(pause);
            nodes.signal(leader, Signal::CONT);
            Ok(())
        }
        _ => {
            kill(nodes, rotten)?;
            nodes.start(rotten)
        }
    }
}

pub(super) fn kill(nodes: &mut Nodes, node: usize) -> Result<(), Trouble> {
    if nodes.kill(node) {
        return Ok(());
    }
    Err(failed(nodes, format!("n{} has ended by itself", node + 1)))
}
