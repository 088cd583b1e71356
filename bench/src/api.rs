//! The embedder's view: load through the engine's own API, in the process of each node.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use engine::io::{Commands, Handle, Node, config_file};
use engine::shard::Outcome;
use net::command::{Condition, Expiry};
use net::{Command, Reply};
use wal::GroupId;

use crate::flamegraph;
use crate::histogram::{INTERVALS, Recorded, Window};
use crate::load::now;

/// Commands given to a group at once.
const BATCH: usize = 128;

/// Runs a node and obeys the lines that come in: `api WARM_MS MEASURED_MS VALUE_BYTES KEYS IN_FLIGHT`
/// makes load on the groups that this node leads, and answers `ALL ERRORS` and then for each interval
/// of the measured time ` LATENCY_NS:COUNT,…`; `sample MS STEM` lets it sample itself for so long. Ends with
/// its input.
pub(crate) fn serve(config: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(config).map_err(|error| error.to_string())?;
    let config = config_file::parse(&text)
        .map_err(|errors| errors.iter().map(|e| format!("{e}\n")).collect::<String>())?;
    let node = Node::open(config).map_err(|error| error.to_string())?;
    println!("ready");
    std::thread::scope(|scope| obey(&node.handle(), scope))?;
    node.stop();
    node.wait().map_err(|error| error.to_string())
}

/// Obeys lines until there are no more. What takes time goes on beside.
fn obey<'scope>(handle: &Handle, scope: &'scope Scope<'scope, '_>) -> Result<(), String> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["api", warm_up, measured, value_bytes, keys, in_flight] => {
                let number = |word: &str| word.parse::<usize>().map_err(|error| error.to_string());
                let millis = |word| Ok::<_, String>(Duration::from_millis(number(word)? as u64));
                let load = Load {
                    warm_up: millis(warm_up)?,
                    measured: millis(measured)?,
                    value: vec![b'v'; number(value_bytes)?],
                    in_flight: number(in_flight)?,
                    groups: led_groups(handle, number(keys)?),
                    handle: handle.clone(),
                };
                scope.spawn(move || println!("{}", load.run()));
            }
            ["sample", millis, ..] => {
                let length = Duration::from_millis(millis.parse::<u64>().unwrap_or(0));
                let stem = line.splitn(3, ' ').nth(2).map(PathBuf::from);
                let stem = stem.ok_or("sample: where to?")?;
                scope.spawn(move || {
                    if let Err(complaint) = flamegraph::sample(length, &stem) {
                        eprintln!("{complaint}");
                    }
                });
            }
            _ => return Err(format!("what is {line:?}?")),
        }
    }
    Ok(())
}

/// The groups that this node leads, with the keys in each.
fn led_groups(handle: &Handle, keys: usize) -> Vec<(GroupId, Vec<Vec<u8>>)> {
    let own = handle.config().node();
    let mut groups: BTreeMap<GroupId, Vec<Vec<u8>>> = BTreeMap::new();
    for number in 0..keys {
        let key = format!("key:{number:08}").into_bytes();
        let group = handle.group_of(&key);
        if handle.leader(group) == Some(own) {
            groups.entry(group).or_default().push(key);
        }
    }
    groups.into_iter().collect()
}

struct Load {
    warm_up: Duration,
    measured: Duration,
    value: Vec<u8>,
    in_flight: usize,
    groups: Vec<(GroupId, Vec<Vec<u8>>)>,
    handle: Handle,
}

impl Load {
    fn run(&self) -> String {
        if self.groups.is_empty() {
            return "0 0".to_owned();
        }
        let (sender, receiver) = mpsc::channel();
        let mut next = 0;
        let mut give = |turn: usize| {
            let (group, keys) = &self.groups[turn % self.groups.len()];
            let mut commands = Commands::default();
            for _ in 0..BATCH {
                next += 1;
                commands.push(&Command::Set {
                    key: &keys[next * 7919 % keys.len()],
                    value: &self.value,
                    expiry: Expiry::Never,
                    condition: Condition::Always,
                    get: false,
                });
            }
            let (sender, given) = (sender.clone(), now());
            let done = move |outcomes: Vec<Outcome>| {
                let good = outcomes
                    .iter()
                    .filter(|o| **o == Outcome::Reply(Reply::Ok))
                    .count();
                // The load may be over.
                let _ = sender.send((turn, given, good, outcomes.len() - good));
            };
            // A refusal is completed as busy, and counted as an error.
            drop(self.handle.submit(*group, commands, done));
        };
        let window = Window {
            start: now() + self.warm_up,
            measured: self.measured,
        };
        (0..self.in_flight.div_ceil(BATCH)).for_each(&mut give);
        let mut intervals = vec![BTreeMap::<u64, u64>::new(); INTERVALS as usize];
        let (mut in_all, mut errors) = (0, 0);
        while now() < window.end() {
            let patience = Duration::from_millis(200);
            let Ok((turn, given, good, bad)) = receiver.recv_timeout(patience) else {
                continue;
            };
            let time: Instant = now();
            in_all += good as u64;
            if let Some(interval) = window.interval_of(time) {
                errors += bad as u64;
                let micros = u64::try_from((time - given).as_micros()).unwrap_or(u64::MAX);
                *intervals[interval].entry(micros * 1000).or_default() += good as u64;
            }
            give(turn);
        }
        let mut answer = format!("{in_all} {errors}");
        for interval in &intervals {
            let pairs = interval.iter().map(|(ns, count)| format!("{ns}:{count}"));
            answer.push(' ');
            answer.push_str(&pairs.collect::<Vec<_>>().join(","));
        }
        answer
    }
}

/// Adds up what the nodes answered.
pub(crate) fn sum(answers: &[String]) -> Result<Recorded, String> {
    let mut all = Recorded::new();
    for answer in answers {
        read(answer, &mut all).ok_or_else(|| format!("a node answered {answer:?}"))?;
    }
    if all.errors > 0 {
        all.first_error = Some("commands were refused or their outcome is unknown".to_owned());
    }
    Ok(all)
}

fn read(answer: &str, all: &mut Recorded) -> Option<()> {
    let mut words = answer.split(' ');
    all.answered_in_all += words.next()?.parse::<u64>().ok()?;
    all.errors += words.next()?.parse::<u64>().ok()?;
    for (word, interval) in words.zip(&mut all.intervals) {
        for pair in word.split(',').filter(|pair| !pair.is_empty()) {
            let (nanos, times) = pair.split_once(':')?;
            interval.record_many(
                Duration::from_nanos(nanos.parse().ok()?),
                times.parse().ok()?,
            );
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_nodes_are_added_up_interval_by_interval() {
        let answers = ["10 1 1000:4,2000:1  5000:2".to_owned(), "0 0".to_owned()];
        let all = sum(&answers).unwrap();
        assert_eq!((all.answered_in_all, all.errors), (10, 1));
        let counts: Vec<u64> = all.intervals.iter().map(|part| part.count()).collect();
        assert_eq!(counts[..4], [5, 0, 2, 0]);
        assert!(sum(&["10 x".to_owned()]).is_err());
    }
}
