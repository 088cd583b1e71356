//! `kill -9` of nodes of a cluster that is written to: one, two or all three at once. Every key has
//! one writer and rising values; a key whose write had no answer gets no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::machine::interrupted;
use crate::nodes::{Answer, Client, NODES, Nodes, program};
use crate::scenario::{Stage, Tally};
use crate::trouble::Trouble;

const WRITERS: usize = 4;
const KEYS_OF_WRITER: usize = 16;
/// The data begins anew after so many rounds: a start replays all of it.
const ROUNDS_OF_DATA: u32 = 20;
/// How long a cluster with a majority may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time until nodes are killed, and until they are started again, in milliseconds.
const LIFE_MAX: u64 = 400;
const DEATH_MAX: u64 = 300;
/// Keys that together belong to all groups.
const PROBES: usize = 24;

/// What is known of a key: its value lies between.
struct Promise {
    key: String,
    acked: u64,
    attempted: u64,
}

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let program = program().expect("what a scenario needs was checked");
    let mut left = stage.rounds;
    let mut epoch = 0;
    while left > 0 {
        let rounds = left.min(ROUNDS_OF_DATA);
        left -= rounds;
        epoch += 1;
        let directory = stage.directory.join(format!("epoch-{epoch}"));
        std::fs::create_dir_all(&directory).map_err(Trouble::io("create", &directory))?;
        let mut nodes = Nodes::new(&directory, &program, stage.chance(u64::MAX))?;
        for node in 0..NODES {
            nodes.start(node)?;
        }
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
    let ended = AtomicBool::new(false);
    let clients: Vec<Client> = (0..WRITERS).map(|writer| nodes.client(writer)).collect();
    let (struck, promises) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..)
            .zip(clients)
            .map(|(writer, client)| {
                let ended = &ended;
                scope.spawn(move || write(client, &format!("r{round}w{writer}"), ended))
            })
            .collect();
        let struck = kill_and_start(stage, nodes, first, victims);
        ended.store(true, Ordering::Relaxed);
        let written = writers.into_iter();
        let written = written.flat_map(|writer| writer.join().expect("writers do not panic"));
        (struck, written.collect::<Vec<_>>())
    });
    struck?;
    tally.acked += promises.iter().map(|promise| promise.acked).sum::<u64>();
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

/// Waits until keys of all groups can be written.
fn serves(nodes: &Nodes) -> Result<(), Trouble> {
    let start = Instant::now();
    let mut client = nodes.client(0);
    for probe in 0..PROBES {
        while client.ask(&["SET", &format!("probe{probe}"), "yes"]) != Some(Answer::Ok) {
            interrupted()?;
            if start.elapsed() > PATIENCE {
                let what = format!("the cluster does not serve for {PATIENCE:?}");
                return Err(failed(nodes, what));
            }
            client.next_node();
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Writes rising numbers until told to stop.
fn write(mut client: Client, name: &str, ended: &AtomicBool) -> Vec<Promise> {
    let mut given_up = Vec::new();
    let mut fresh = 0;
    let mut open = || {
        fresh += 1;
        Promise {
            key: format!("{name}:{fresh}"),
            acked: 0,
            attempted: 0,
        }
    };
    let mut current: Vec<Promise> = (0..KEYS_OF_WRITER).map(|_| open()).collect();
    let mut at = 0;
    while !ended.load(Ordering::Relaxed) {
        at = (at + 1) % KEYS_OF_WRITER;
        let promise = &mut current[at];
        promise.attempted += 1;
        if client.ask(&["SET", &promise.key, &promise.attempted.to_string()]) == Some(Answer::Ok) {
            promise.acked = promise.attempted;
            continue;
        }
        given_up.push(std::mem::replace(&mut current[at], open()));
        client.next_node();
        std::thread::sleep(PAUSE);
    }
    given_up.extend(current);
    given_up
}

fn verify(nodes: &Nodes, promises: &[Promise], tally: &mut Tally) -> Result<(), Trouble> {
    let mut client = nodes.client(0);
    let start = Instant::now();
    for promise in promises {
        let value = loop {
            match client.ask(&["GET", &promise.key]) {
                Some(Answer::Value(value)) => break value.parse().unwrap_or(u64::MAX),
                Some(Answer::Nil) => break 0,
                Some(Answer::Ok | Answer::Error(_)) | None => {
                    interrupted()?;
                    if start.elapsed() > PATIENCE {
                        return Err(failed(nodes, format!("{} cannot be read", promise.key)));
                    }
                    client.next_node();
                    std::thread::sleep(PAUSE);
                }
            }
        };
        if !(promise.acked..=promise.attempted).contains(&value) {
            tally.lost += promise.acked.saturating_sub(value).max(1);
            let Promise {
                key,
                acked,
                attempted,
            } = promise;
            let what = format!("{key} is {value}; {acked} was acknowledged, {attempted} attempted");
            return Err(failed(nodes, what));
        }
    }
    Ok(())
}

fn failed(nodes: &Nodes, what: String) -> Trouble {
    Trouble::Cluster {
        what,
        logs: nodes.logs(),
    }
}
