//! Workloads by name: each is measured several times, in turns with what it is compared with.

mod options;
mod status;
mod turn;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use options::Plan;
pub(crate) use options::{RunOptions, default_directory};
use workload::{Rate, Spec, Way};

use crate::flamegraph::Sampler;
use crate::histogram::{HistogramLog, wall_clock};
use crate::results::{Machine, Measurement, Results, Turn, table};

pub(crate) fn run(options: &RunOptions) -> Result<(), String> {
    let plan = &options.plan.meant();
    plan.check()?;
    let mut results = Results::new(Machine::here(&plan.directory()?), unix_seconds());
    let log = plan.hlog.as_deref();
    let log = log.map(|path| HistogramLog::new(path, false, wall_clock()));
    let mut log = log.transpose()?;
    let mut graphs = Vec::new();
    for &workload in &options.workloads {
        let specs = workload.specs(plan.short).into_iter();
        let specs = specs.map(|spec| options.changes.apply(spec));
        let specs: Vec<Spec> = specs.collect::<Result<_, _>>()?;
        let done = in_turns(&specs, plan, log.as_mut())?;
        graphs.push((specs, done.clone()));
        results.measurements.extend(done);
    }
    print!("{}", table(&results));
    if let Some(path) = &plan.json {
        results.write(path)?;
    }
    if let Some(svg) = &options.flamegraph {
        let only = results.measurements.len() == 1;
        for (specs, measurements) in &graphs {
            flamegraphs(specs, measurements, plan, svg, only)?;
        }
    }
    Ok(())
}

/// Measures everything that belongs to a workload, once in each round.
fn in_turns(
    specs: &[Spec],
    plan: &Plan,
    mut log: Option<&mut HistogramLog>,
) -> Result<Vec<Measurement>, String> {
    let mut measurements: Vec<Measurement> =
        specs.iter().map(|spec| describe(spec, plan)).collect();
    for round in 1..=plan.repeats {
        for (at, spec) in specs.iter().enumerate() {
            let rate = rate(spec, at.checked_sub(1).map(|before| &measurements[before]))?;
            let (mut turn, recorded) = turn::drakkar(spec, rate, plan, &mut |_, _| Ok(()))?;
            if let Some(rate) = rate {
                turn.figures.insert("offered_per_second".to_owned(), rate);
            }
            if let Some(log) = &mut log {
                let interval = Duration::from_secs_f64(turn.interval_seconds);
                let started = wall_clock() - plan.measured();
                log.add(&spec.name(), started, interval, &recorded)?;
            }
            say(round, plan, spec, &turn);
            measurements[at].push(turn);
        }
    }
    Ok(measurements)
}

/// The rate of an open loop.
fn rate(spec: &Spec, before: Option<&Measurement>) -> Result<Option<f64>, String> {
    Ok(match spec.rate {
        Rate::Closed => None,
        Rate::PerSecond(rate) => Some(rate),
        Rate::OfTheOneBefore(share) => {
            let reached = before.and_then(|before| before.median("operations_per_second"));
            Some(share * reached.ok_or("what comes before reached nothing")?)
        }
    })
}

/// Draws a flamegraph of each load. Sampling costs a little: these turns are not among the results.
fn flamegraphs(
    specs: &[Spec],
    measurements: &[Measurement],
    plan: &Plan,
    svg: &Path,
    only: bool,
) -> Result<(), String> {
    for (at, spec) in specs.iter().enumerate() {
        let name = spec.name();
        let stem = svg.file_stem().unwrap_or_default().to_string_lossy();
        let path = if only {
            svg.to_owned()
        } else {
            let name = name.replace(['/', ' '], "-");
            svg.with_file_name(format!("{stem}-{name}.svg"))
        };
        let rate = rate(spec, at.checked_sub(1).map(|before| &measurements[before]))?;
        let mut sampler = None;
        turn::drakkar(spec, rate, plan, &mut |pids, window| {
            sampler = Some(Sampler::start(pids, window.measured.mul_f64(0.9), &path)?);
            Ok(())
        })?;
        let title = format!("{name}: {}", spec.title);
        let costs = sampler.ok_or("the turn never began")?.draw(&title, &path)?;
        println!("{name}: {}\n{costs}", path.display());
    }
    Ok(())
}

/// A measurement without turns.
fn describe(spec: &Spec, plan: &Plan) -> Measurement {
    let mut load = BTreeMap::new();
    let mut fact = |name: &str, value: String| load.insert(name.to_owned(), value);
    fact("groups", spec.groups.to_string());
    fact("shards on each node", spec.shards.to_string());
    fact("measured seconds", plan.seconds.to_string());
    fact("warm-up seconds", plan.warm_up.to_string());
    if spec.way != Way::Idle {
        fact("value bytes", spec.load.value_bytes.to_string());
        fact("keys", spec.load.keys.to_string());
    }
    match spec.way {
        Way::Sockets => {
            fact("connections", spec.load.connections.to_string());
            fact(
                "under way on each connection",
                spec.load.pipeline.to_string(),
            );
            fact("load threads", spec.load.threads.to_string());
            fact("mix", format!("{:?}", spec.load.mix));
            fact("rate", format!("{:?}", spec.rate));
            fact("seed", spec.load.seed.to_string());
        }
        Way::Api { in_flight } => {
            fact("under way on each node", in_flight.to_string());
        }
        Way::Idle => {}
    }
    Measurement {
        name: spec.name(),
        system: "drakkar".to_owned(),
        title: spec.title.clone(),
        load,
        turns: Vec::new(),
        figures: BTreeMap::new(),
    }
}

fn say(round: usize, plan: &Plan, spec: &Spec, turn: &Turn) {
    let figure = |name: &str| turn.figures.get(name).copied().unwrap_or(0.0);
    eprintln!(
        "{round}/{} {}: {:.0} op/s, p50 {:.0} us, p99 {:.0} us, {:.2} + {:.2} cores",
        plan.repeats,
        spec.name(),
        figure("operations_per_second"),
        figure("latency_p50_micros"),
        figure("latency_p99_micros"),
        figure("cpu_servers_user_cores") + figure("cpu_servers_system_cores"),
        figure("cpu_load_cores"),
    );
}

fn unix_seconds() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
