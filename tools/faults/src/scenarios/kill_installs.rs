//! A node is away until the others' logs begin behind what it has; while it takes their snapshots, it is
//! killed, or who sends them, or both, under load, with a snapshot of each group every second.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ::nodes::Answer;

use super::rot_leaders::kill;
use super::rot_node::await_equal;
use super::rot_nodes::await_health;
use crate::load::{failed, serves, verify, written_during};
use crate::machine::interrupted;
use crate::nodes::{NODES, Nodes};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

/// Snapshots are made often and are sent slowly.
const SECTIONS: &str = "[snapshot]\ninterval = \"1s\"\ncompression = \"none\"\n\
                        fetch_rate = \"1MB\"\n";
/// Values so many and so long that it takes seconds to send them.
const FILL: usize = 120;
const FILL_BYTES: usize = 16 * 1024;
/// How long logs may take to be cut, and a snapshot to be fetched.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time until a node is killed, and until it is started again, in milliseconds.
const PAUSE_MAX: u64 = 800;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let mut nodes = Nodes::running(&stage.directory, SECTIONS)?;
    serves(&nodes)?;
    fill(&nodes)?;
    let mut promises = Vec::new();
    let (mut strikes, mut amid) = (0, 0);
    for round in 0..stage.rounds {
        let away = usize::try_from(stage.chance(NODES as u64)).expect("it is small");
        promises.extend(written_during(&mut nodes, round, tally, |nodes| {
            let lasts = indexes(nodes, away, "last");
            kill(nodes, away)?;
            await_cut(nodes, away, &lasts)?;
            nodes.start(away)?;
            for _ in 0..=stage.chance(3) {
                let sender = fetches_from(nodes, away)?;
                amid += u32::from(sender.is_some());
                strikes += 1;
                sleep(Duration::from_millis(stage.chance(PAUSE_MAX)));
                let sender = sender.filter(|&sender| sender != away);
                let victims = match stage.chance(3) {
                    0 => vec![away],
                    1 => sender.into_iter().collect(),
                    _ => sender.into_iter().chain([away]).collect(),
                };
                for &victim in &victims {
                    kill(nodes, victim)?;
                }
                sleep(Duration::from_millis(stage.chance(PAUSE_MAX)));
                for &victim in &victims {
                    nodes.start(victim)?;
                }
            }
            serves(nodes)?;
            await_health(nodes)
        })?);
        await_equal(&nodes)?;
        verify(&nodes, &promises, tally)?;
        tally.rounds += 1;
    }
    if tally.acked == 0 || amid == 0 {
        return Err(Trouble::Vacuous {
            what: format!("{} writes acknowledged, {amid} installs met", tally.acked),
        });
    }
    tally.note = format!("{amid} of {strikes} strikes amid an install");
    Ok(())
}

fn fill(nodes: &Nodes) -> Result<(), Trouble> {
    let mut client = nodes.client(0);
    let value = "x".repeat(FILL_BYTES);
    let start = Instant::now();
    for number in 0..FILL {
        while client.ask(&["SET", &format!("fill{number}"), &value]) != Some(Answer::Ok) {
            wait(nodes, start, "the cluster takes no values")?;
            client.next_node();
        }
    }
    Ok(())
}

/// A number of each group of a node.
fn indexes(nodes: &Nodes, node: usize, name: &str) -> Vec<u64> {
    let groups = nodes.groups(node);
    let numbers = groups.iter().map(|group| group[name].as_u64());
    numbers.map(Option::unwrap_or_default).collect()
}

/// Waits until the logs of the others begin behind these entries.
fn await_cut(nodes: &Nodes, away: usize, lasts: &[u64]) -> Result<(), Trouble> {
    let start = Instant::now();
    for node in (0..NODES).filter(|&node| node != away) {
        loop {
            let floors = indexes(nodes, node, "floor");
            let mut pairs = floors.iter().zip(lasts);
            if floors.len() == lasts.len() && pairs.all(|(floor, last)| floor > last) {
                break;
            }
            wait(nodes, start, "logs are not cut")?;
        }
    }
    Ok(())
}

/// Waits until a node fetches a snapshot, or has no need to. Who leads the group then.
fn fetches_from(nodes: &Nodes, node: usize) -> Result<Option<usize>, Trouble> {
    let start = Instant::now();
    loop {
        let groups = nodes.groups(node);
        if let Some(group) = groups.iter().find(|group| !group["fetching"].is_null()) {
            let leader = group["leader"].as_u64().unwrap_or_default();
            let leader = usize::try_from(leader).expect("few nodes");
            return Ok(Some(leader.checked_sub(1).unwrap_or(node)));
        }
        let level = |group: &serde_json::Value| {
            group["leader"].is_u64()
                && group["health"] == "intact"
                && group["last"] == group["applied"]
        };
        if !groups.is_empty() && groups.iter().all(level) && start.elapsed().as_secs() > 2 {
            return Ok(None);
        }
        wait(nodes, start, "nothing is fetched")?;
    }
}

fn wait(nodes: &Nodes, start: Instant, what: &str) -> Result<(), Trouble> {
    interrupted()?;
    if start.elapsed() > PATIENCE {
        return Err(failed(nodes, format!("{what} for {PATIENCE:?}")));
    }
    sleep(PAUSE);
    Ok(())
}
