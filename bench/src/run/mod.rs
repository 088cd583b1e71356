//! Workloads by name: each is measured several times, in turns with what it is compared with.

pub(crate) mod admin;
mod options;
mod turn;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use options::{Changes, Plan};
pub(crate) use options::{CompareOptions, RunOptions, default_directory};
use turn::Moment;
use workload::{Rate, Spec, Way, Workload};

use crate::flamegraph::{self, Sampler};
use crate::histogram::{HistogramLog, Recorded, wall_clock};
use crate::peers::Peer;
use crate::results::{Machine, Measurement, Results, Turn, table};

pub(crate) fn run(options: &RunOptions) -> Result<(), String> {
    let plan = &options.plan.meant();
    let mut book = Book::open(plan)?;
    let mut graphs = Vec::new();
    for &workload in &options.workloads {
        let specs = specs(workload, &options.changes, plan)?;
        let settings = [Some(String::new()), options.beside.clone()];
        let systems = settings.into_iter().flatten().map(System::Drakkar);
        let done = book.in_turns(&contestants(systems, &specs, plan), plan)?;
        graphs.push((specs, done));
    }
    book.close(plan)?;
    if let Some(svg) = &options.flamegraph {
        let only = graphs.iter().map(|(specs, _)| specs.len()).sum::<usize>() == 1;
        for (specs, measurements) in &graphs {
            flamegraphs(specs, measurements, plan, svg, only)?;
        }
    }
    Ok(())
}

/// The same for Drakkar and another system.
pub(crate) fn compare(options: &CompareOptions) -> Result<(), String> {
    let plan = &options.plan.meant();
    let peer = options.peer;
    eprintln!("drakkar next to {}", peer.describe()?);
    let mut book = Book::open(plan)?;
    for &workload in &options.workloads {
        let specs = specs(workload, &options.changes, plan)?;
        if let Some(spec) = specs.iter().find(|spec| !spec.is_for_others()) {
            return Err(format!(
                "{} has no meaning for {}",
                spec.name(),
                peer.name()
            ));
        }
        // A rate that follows from the measurement before follows from the same system's.
        let systems = [System::Drakkar(String::new()), System::Peer(peer)];
        book.in_turns(&contestants(systems, &specs, plan), plan)?;
    }
    book.close(plan)
}

fn specs(workload: Workload, changes: &Changes, plan: &Plan) -> Result<Vec<Spec>, String> {
    let specs = workload.specs(plan.short).into_iter();
    specs.map(|spec| changes.apply(spec)).collect()
}

/// What is measured.
#[derive(Clone, Debug)]
enum System {
    /// With this line in the nodes' configuration.
    Drakkar(String),
    Peer(Peer),
}

/// All loads on one system after the other.
fn contestants(
    systems: impl IntoIterator<Item = System>,
    specs: &[Spec],
    plan: &Plan,
) -> Vec<Contestant> {
    let systems = systems.into_iter();
    let with_loads =
        systems.flat_map(|system| specs.iter().map(move |spec| (system.clone(), spec)));
    with_loads
        .map(|(system, spec)| Contestant::new(system, spec, plan))
        .collect()
}

/// A load and the system that gets it.
struct Contestant {
    system: System,
    spec: Spec,
    empty: Measurement,
}

impl Contestant {
    fn new(system: System, spec: &Spec, plan: &Plan) -> Self {
        let mut empty = describe(spec, plan);
        match &system {
            System::Drakkar(setting) if setting.is_empty() => {}
            System::Drakkar(setting) => empty.system = format!("drakkar, {setting}"),
            System::Peer(peer) => {
                empty.system = peer.name().to_owned();
                // It was described before.
                empty.title = peer.describe().unwrap_or_default();
            }
        }
        Self {
            system,
            spec: spec.clone(),
            empty,
        }
    }

    fn turn(&self, rate: Option<f64>, plan: &Plan) -> Result<(Turn, Recorded), String> {
        match &self.system {
            System::Drakkar(setting) => {
                turn::drakkar(&self.spec, setting, rate, plan, &mut |_, _| Ok(()))
            }
            System::Peer(peer) => turn::peer(*peer, &self.spec, rate, plan),
        }
    }
}

/// Everything that one run of this program measures.
struct Book {
    results: Results,
    log: Option<HistogramLog>,
}

impl Book {
    fn open(plan: &Plan) -> Result<Self, String> {
        plan.check()?;
        let log = plan.hlog.as_deref();
        let log = log.map(|path| HistogramLog::new(path, false, wall_clock()));
        Ok(Self {
            results: Results::new(Machine::here(&plan.directory()?), unix_seconds()),
            log: log.transpose()?,
        })
    }

    /// Measures each contestant once in each round, and keeps what it was.
    fn in_turns(
        &mut self,
        contestants: &[Contestant],
        plan: &Plan,
    ) -> Result<Vec<Measurement>, String> {
        let mut measurements: Vec<Measurement> = contestants
            .iter()
            .map(|contestant| contestant.empty.clone())
            .collect();
        for round in 1..=plan.repeats {
            for (at, contestant) in contestants.iter().enumerate() {
                let before = at.checked_sub(1).map(|before| &measurements[before]);
                let rate = rate(&contestant.spec, before)?;
                let (mut turn, recorded) = contestant.turn(rate, plan)?;
                if let Some(rate) = rate {
                    turn.figures.insert("offered_per_second".to_owned(), rate);
                }
                let measurement = &mut measurements[at];
                let label = format!("{} {}", measurement.name, measurement.system);
                if let Some(log) = &mut self.log {
                    let interval = Duration::from_secs_f64(turn.interval_seconds);
                    let started = wall_clock() - plan.measured();
                    log.add(&label, started, interval, &recorded)?;
                }
                say(&format!("{round}/{} {label}", plan.repeats), &turn);
                measurement.push(turn);
            }
        }
        self.results.measurements.extend(measurements.clone());
        Ok(measurements)
    }

    fn close(self, plan: &Plan) -> Result<(), String> {
        print!("{}", table(&self.results));
        match &plan.json {
            Some(path) => self.results.write(path),
            None => Ok(()),
        }
    }
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
        let (mut sampler, mut folded) = (None, None);
        turn::drakkar(spec, "", rate, plan, &mut |cluster, moment| {
            match moment {
                Moment::Begun(window) => {
                    let length = window.measured.mul_f64(0.9);
                    sampler = Some(Sampler::start(cluster, length, &path)?);
                }
                Moment::Over => folded = sampler.take().map(Sampler::wait),
            }
            Ok(())
        })?;
        let title = format!("{name}: {}", spec.title);
        let folded = folded.ok_or("the turn never began")??;
        let costs = flamegraph::draw(&folded, &title, &path)?;
        println!("{name}: {}\n{costs}", path.display());
    }
    Ok(())
}

/// A measurement without turns.
fn describe(spec: &Spec, plan: &Plan) -> Measurement {
    let mut load = BTreeMap::new();
    let mut fact = |name: &str, value: String| load.insert(name.to_owned(), value);
    fact("groups", spec.groups.to_string());
    fact("nodes", spec.nodes.to_string());
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
            fact("due at once", spec.load.burst.to_string());
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

fn say(label: &str, turn: &Turn) {
    let figure = |name: &str| turn.figures.get(name).copied().unwrap_or(0.0);
    eprintln!(
        "{label}: {:.0} op/s, p50 {:.0} us, p99 {:.0} us, {:.2} + {:.2} cores, others {:.2}",
        figure("operations_per_second"),
        figure("latency_p50_micros"),
        figure("latency_p99_micros"),
        figure("cpu_servers_user_cores") + figure("cpu_servers_system_cores"),
        figure("cpu_load_cores"),
        figure("cpu_others_cores"),
    );
}

fn unix_seconds() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
