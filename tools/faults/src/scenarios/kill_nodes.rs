//! `kill -9` of nodes of a cluster that is written to: one, two or all three at once.

use std::time::Duration;

use crate::load::{Promise, failed, serves, verify, written_during};
use crate::nodes::{NODES, Nodes};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

/// The data begins anew after so many rounds: a start replays all of it.
const ROUNDS_OF_DATA: u32 = 20;
/// Longest time until nodes are killed, and until they are started again, in milliseconds.
const LIFE_MAX: u64 = 400;
const DEATH_MAX: u64 = 300;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let mut left = stage.rounds;
    let mut epoch = 0;
    while left > 0 {
        let rounds = left.min(ROUNDS_OF_DATA);
        left -= rounds;
        epoch += 1;
        let directory = stage.directory.join(format!("epoch-{epoch}"));
        std::fs::create_dir_all(&directory).map_err(Trouble::io("create", &directory))?;
        let mut nodes = Nodes::running(&directory, "")?;
        serves(&nodes)?;
        let mut promises = Vec::new();
        for round in 0..rounds {
            promises.extend(strike(stage, tally, &mut nodes, round)?);
            tally.rounds += 1;
        }
        // All that was promised in all rounds, after one more end of everything.
        for node in 0..NODES {
            nodes.kill(node);
            nodes.start(node)?;
        }
        serves(&nodes)?;
        verify(&nodes, &promises, tally)?;
        drop(nodes);
        drop(std::fs::remove_dir_all(&directory));
    }
    if tally.acked == 0 {
        return Err(Trouble::Vacuous {
            what: "no write was acknowledged".to_owned(),
        });
    }
    Ok(())
}

/// Kills nodes under load, starts them again, waits until all is served, and verifies what was
/// promised meanwhile.
fn strike(
    stage: &Stage,
    tally: &mut Tally,
    nodes: &mut Nodes,
    round: u32,
) -> Result<Vec<Promise>, Trouble> {
    let victims = match stage.chance(10) {
        0..6 => 1,
        6..8 => 2,
        _ => 3,
    };
    let first = usize::try_from(stage.chance(NODES as u64)).expect("it is small");
    let promises = written_during(nodes, round, tally, |nodes| {
        kill_and_start(stage, nodes, first, victims)
    })?;
    verify(nodes, &promises, tally)?;
    Ok(promises)
}

fn kill_and_start(
    stage: &Stage,
    nodes: &mut Nodes,
    first: usize,
    victims: usize,
) -> Result<(), Trouble> {
    std::thread::sleep(Duration::from_millis(50 + stage.chance(LIFE_MAX)));
    let victims = (first..first + victims).map(|node| node % NODES);
    for node in victims.clone() {
        if !nodes.kill(node) {
            return Err(failed(nodes, format!("n{} has ended by itself", node + 1)));
        }
    }
    // Of three times one they are started again at once.
    let pause = stage.chance(DEATH_MAX).saturating_sub(DEATH_MAX / 3);
    std::thread::sleep(Duration::from_millis(pause));
    for node in victims {
        nodes.start(node)?;
    }
    serves(nodes)
}
