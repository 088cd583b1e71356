//! The load on a cluster and what it was promised. Every key has one writer and rising values; a key
//! whose write had no answer gets no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::nodes::{Answer, Client};

use crate::machine::interrupted;
use crate::nodes::Nodes;
use crate::scenario::Tally;
use crate::trouble::Trouble;

const WRITERS: usize = 4;
const KEYS_OF_WRITER: usize = 16;
/// How long a cluster with a majority may take to serve.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);
/// Keys that together belong to all groups.
const PROBES: usize = 24;

/// What is known of a key: its value lies between.
pub(crate) struct Promise {
    key: String,
    acked: u64,
    attempted: u64,
}

/// Writes to keys of a round until `meanwhile` has ended; returns what was promised.
pub(crate) fn written_during(
    nodes: &mut Nodes,
    round: u32,
    tally: &mut Tally,
    meanwhile: impl FnOnce(&mut Nodes) -> Result<(), Trouble>,
) -> Result<Vec<Promise>, Trouble> {
    let ended = AtomicBool::new(false);
    let clients: Vec<Client> = (0..WRITERS).map(|writer| nodes.client(writer)).collect();
    let (outcome, promises) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..)
            .zip(clients)
            .map(|(writer, client)| {
                let ended = &ended;
                scope.spawn(move || write(client, &format!("r{round}w{writer}"), ended))
            })
            .collect();
        let outcome = meanwhile(nodes);
        ended.store(true, Ordering::Relaxed);
        let written = writers.into_iter();
        let written = written.flat_map(|writer| writer.join().expect("writers do not panic"));
        (outcome, written.collect::<Vec<_>>())
    });
    outcome?;
    tally.acked += promises.iter().map(|promise| promise.acked).sum::<u64>();
    Ok(promises)
}

/// Waits until keys of all groups can be written.
pub(crate) fn serves(nodes: &Nodes) -> Result<(), Trouble> {
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

pub(crate) fn verify(
    nodes: &Nodes,
    promises: &[Promise],
    tally: &mut Tally,
) -> Result<(), Trouble> {
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

pub(crate) fn failed(nodes: &Nodes, what: String) -> Trouble {
    Trouble::Cluster {
        what,
        logs: nodes.logs(),
    }
}
