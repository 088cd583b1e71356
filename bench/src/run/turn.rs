//! One turn: a cluster is started, loaded, watched and removed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::admin;
use super::options::Plan;
use super::workload::{Beside, Spec, Way};
use rustix::process::{Pid, Signal, kill_process};

use crate::api;
use crate::cluster::{Cluster, Shape};
use crate::flushes::Flushes;
use crate::histogram::{Recorded, Window};
use crate::load::{self, Crew, Keys, Topology, now};
use crate::peers::Peer;
use crate::results::Turn;
use crate::usage::{Usage, busy_seconds, free_bytes};
use crate::yardstick;

/// Below this the load is broken off: a full disk would hurt others.
const FREE_BYTES_MIN: u64 = 4 << 30;
/// How often writing the keys is tried again.
const FILLS_MAX: usize = 5;
/// Flushes that a shard has under way, for the disk's limit.
const FLUSHES_IN_FLIGHT: usize = 2;
/// What a figure of latency is called, and its percentage.
const PERCENTILES: &[(&str, f64)] = &[
    ("latency_p50_micros", 50.0),
    ("latency_p90_micros", 90.0),
    ("latency_p99_micros", 99.0),
    ("latency_p99_9_micros", 99.9),
    ("latency_max_micros", 100.0),
];
/// The curve that reports draw.
const CURVE: &[f64] = &[
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99,
    99.999, 100.0,
];

/// What processes used in the measured time.
struct Used {
    servers: Usage,
    load: Usage,
    /// Seconds of processor that the machine had for something else.
    others_seconds: f64,
}

/// A moment of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// The measured time begins.
    Begun(Window),
    /// It is over; the servers still run.
    Over,
}

/// Called at each moment.
pub(crate) type Witness<'a> = &'a mut dyn FnMut(&Cluster, Moment) -> Result<(), String>;
/// Called at the start of the measured time.
type Begun<'a> = &'a mut dyn FnMut(Window) -> Result<(), String>;

/// Measures a cluster of Drakkar once, `setting` in its nodes' configuration. `rate` makes the loop open.
pub(crate) fn drakkar(
    spec: &Spec,
    setting: &str,
    rate: Option<f64>,
    plan: &Plan,
    witness: Witness<'_>,
) -> Result<(Turn, Recorded), String> {
    let directory = plan.directory()?;
    let shape = Shape {
        nodes: spec.nodes,
        groups: spec.groups,
        shards: spec.shards,
        dir: directory.clone(),
        setting: setting.to_owned(),
        ready: !plan.short && spec.way != Way::Idle,
    };
    let mut cluster = Cluster::start(&shape)?;
    let load = load::Load {
        rate,
        ..spec.load.clone()
    };
    let keys = filled(&load, &|| Topology::ask(&cluster.endpoints))?;
    let before = (entries(&cluster), Flushes::of_all(&cluster.data()));
    let (recorded, used, window) = match spec.way {
        Way::Sockets => {
            let mut begun = |window| witness(&cluster, Moment::Begun(window));
            sockets(&load, &keys, plan, &cluster.pids(), &directory, &mut begun)?
        }
        Way::Api { in_flight } => through_api(spec, in_flight, plan, &mut cluster, witness)?,
        Way::Idle => {
            let mut begun = |window| witness(&cluster, Moment::Begun(window));
            idle(plan, &cluster.pids(), &directory, &mut begun)?
        }
    };
    witness(&cluster, Moment::Over)?;
    let mut turn = turn(&recorded, &used, window);
    if spec.way == Way::Idle {
        idle_figures(&mut turn, &used, window);
    } else {
        // What is under way becomes durable before it is counted.
        std::thread::sleep(Duration::from_millis(300));
        let after = (entries(&cluster), Flushes::of_all(&cluster.data()));
        batches(&mut turn.figures, &recorded, before, after, &used, window);
    }
    drop(cluster);
    beside(spec, &mut turn.figures, &directory)?;
    Ok((turn, recorded))
}

/// Measures another system once with the same load.
pub(crate) fn peer(
    peer: Peer,
    spec: &Spec,
    rate: Option<f64>,
    plan: &Plan,
) -> Result<(Turn, Recorded), String> {
    let directory = plan.directory()?;
    let servers = peer
        .start(&directory)
        .map_err(|error| format!("{}: {error}", peer.name()))?;
    let load = load::Load {
        protocol: peer.protocol(),
        rate,
        ..spec.load.clone()
    };
    let pids = servers.pids();
    let loaded = filled(&load, &|| Ok(Topology::shared(&servers.addresses)))
        .and_then(|keys| sockets(&load, &keys, plan, &pids, &directory, &mut |_| Ok(())));
    let (recorded, used, window) = loaded.map_err(|error| format!("{}: {error}", peer.name()))?;
    Ok((turn(&recorded, &used, window), recorded))
}

/// Makes the load through sockets.
fn sockets(
    load: &load::Load,
    keys: &Keys,
    plan: &Plan,
    pids: &[u32],
    directory: &Path,
    begun: Begun<'_>,
) -> Result<(Recorded, Used, Window), String> {
    let crew = Crew::connect(load, keys)?;
    let window = window(plan);
    let (recorded, used) = std::thread::scope(|scope| {
        let thread = scope.spawn(move || crew.run(window));
        let used = watch(pids, window, directory, begun);
        let recorded = thread.join().map_err(|_| "the load panicked".to_owned())?;
        // If the watch broke off, the load's complaint is only what followed from it.
        used.and_then(|used| Ok((recorded?, used)))
    })?;
    Ok((recorded, used, window))
}

/// The keys, written if the load reads. Leaders may still move: then it begins again.
fn filled(
    load: &load::Load,
    topology: &dyn Fn() -> Result<Topology, String>,
) -> Result<Keys, String> {
    let mut tries = 0;
    loop {
        let keys = Keys::new(load.keys, &topology()?);
        if !load.mix.reads_at_all() {
            return Ok(keys);
        }
        match load::fill(load, &keys) {
            Ok(()) => return Ok(keys),
            Err(error) if tries == FILLS_MAX => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
        tries += 1;
    }
}

fn window(plan: &Plan) -> Window {
    Window {
        start: now() + plan.warm_up(),
        measured: plan.measured(),
    }
}

fn through_api(
    spec: &Spec,
    in_flight: usize,
    plan: &Plan,
    cluster: &mut Cluster,
    witness: Witness<'_>,
) -> Result<(Recorded, Used, Window), String> {
    let directory = plan.directory()?;
    let window = window(plan);
    cluster.tell_all(&format!(
        "api {} {} {} {} {in_flight}",
        plan.warm_up().as_millis(),
        plan.measured().as_millis(),
        spec.load.value_bytes,
        spec.load.keys,
    ))?;
    let mut begun = |window| witness(cluster, Moment::Begun(window));
    let used = watch(&cluster.pids(), window, &directory, &mut begun)?;
    let recorded = api::sum(&cluster.hear_all()?)?;
    Ok((recorded, used, window))
}

fn idle(
    plan: &Plan,
    pids: &[u32],
    directory: &Path,
    begun: Begun<'_>,
) -> Result<(Recorded, Used, Window), String> {
    let window = window(plan);
    let used = watch(pids, window, directory, begun)?;
    Ok((Recorded::new(), used, window))
}

/// Sleeps through the measured time; what was used in it. Ends the servers if the disk fills up.
fn watch(pids: &[u32], window: Window, directory: &Path, begun: Begun<'_>) -> Result<Used, String> {
    let own = std::process::id();
    let result = (|| {
        sleep_until(window.start, directory)?;
        begun(window)?;
        let busy = busy_seconds()?;
        let (servers, load) = (Usage::of_all(pids)?, Usage::of(own)?);
        sleep_until(window.end(), directory)?;
        let servers = Usage::of_all(pids)?.since(&servers);
        let load = Usage::of(own)?.since(&load);
        let own_seconds = servers.cpu_seconds() + load.cpu_seconds();
        Ok(Used {
            servers,
            load,
            others_seconds: (busy_seconds()? - busy - own_seconds).max(0.0),
        })
    })();
    if result.is_err() {
        for &pid in pids {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // It fails only for servers that have ended.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
    }
    result
}

fn sleep_until(moment: Instant, directory: &Path) -> Result<(), String> {
    while let Some(left) = moment.checked_duration_since(now()) {
        let free = free_bytes(directory)?;
        if free < FREE_BYTES_MIN {
            return Err(format!(
                "{} has only {} MiB left: choose another --dir, or fewer --seconds",
                directory.display(),
                free >> 20
            ));
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
    Ok(())
}

/// The figures that every load has.
fn turn(recorded: &Recorded, used: &Used, window: Window) -> Turn {
    let latencies = recorded.latencies();
    let (count, seconds) = (latencies.count(), window.measured.as_secs_f64());
    let mut figures = BTreeMap::new();
    let mut figure = |name: &str, value: f64| figures.insert(name.to_owned(), value);
    let micros = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
    let cpu = used.servers.cpu_seconds() + used.load.cpu_seconds();
    if count > 0 {
        let operations = count as f64;
        figure("operations_per_second", operations / seconds);
        figure("latency_mean_micros", latencies.mean_micros());
        for (name, percent) in PERCENTILES {
            figure(name, micros(*percent));
        }
        figure("cpu_micros_per_operation", cpu / operations * 1e6);
        if cpu > 0.0 {
            figure("operations_per_cpu_second", operations / cpu);
        }
    }
    if recorded.lateness.count() > 0 {
        let late = |percent| recorded.lateness.percentile(percent).as_secs_f64() * 1e6;
        figure("offered_late_p50_micros", late(50.0));
        figure("offered_late_p99_micros", late(99.0));
    }
    figure(
        "cpu_servers_user_cores",
        used.servers.user_seconds / seconds,
    );
    figure(
        "cpu_servers_system_cores",
        used.servers.system_seconds / seconds,
    );
    figure("cpu_load_cores", used.load.cpu_seconds() / seconds);
    figure("cpu_others_cores", used.others_seconds / seconds);
    figure(
        "disk_bytes_per_second",
        used.servers.written_bytes as f64 / seconds,
    );
    Turn {
        figures,
        interval_seconds: window.interval().as_secs_f64(),
        intervals: recorded.intervals.iter().map(|part| part.count()).collect(),
        latencies: CURVE
            .iter()
            .map(|&percent| (percent, micros(percent)))
            .collect(),
        errors: recorded.errors,
        first_error: recorded.first_error.clone(),
        redirected: recorded.redirected,
    }
}

fn idle_figures(turn: &mut Turn, used: &Used, window: Window) {
    let cores = used.servers.cpu_seconds() / window.measured.as_secs_f64();
    let mut figure = |name: &str, value: f64| turn.figures.insert(name.to_owned(), value);
    figure("idle_cores_of_all_nodes", cores);
    figure("idle_cores_of_one_node", cores / 3.0);
}

/// Entries that all groups have committed, as the first node says.
fn entries(cluster: &Cluster) -> Option<u64> {
    admin::entries(cluster.admin_endpoints().first()?)
}

/// What a flush and an entry hold, over the whole load: from before the warm-up to its last answer.
fn batches(
    figures: &mut BTreeMap<String, f64>,
    recorded: &Recorded,
    before: (Option<u64>, Option<Flushes>),
    after: (Option<u64>, Option<Flushes>),
    used: &Used,
    window: Window,
) {
    let operations = recorded.answered_in_all as f64;
    let mut figure = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            figures.insert(name.to_owned(), value);
        }
    };
    if let (Some(before), Some(after)) = (before.0, after.0) {
        figure(
            "operations_per_entry",
            operations / after.saturating_sub(before) as f64,
        );
    }
    if let (Some(before), Some(after)) = (before.1, after.1) {
        let count = after.count.saturating_sub(before.count) as f64;
        let bytes = after.mean_bytes();
        let in_window = recorded.latencies().count() as f64;
        figure("flushes_per_operation", count / operations);
        figure(
            "flushes_per_second",
            count / operations * in_window / window.measured.as_secs_f64(),
        );
        figure("flush_bytes", bytes);
        figure("flushed_bytes_per_operation", count / operations * bytes);
        figure(
            "disk_bytes_per_operation",
            used.servers.written_bytes as f64 / in_window,
        );
    }
}

/// Measures the machine, and how far the load was from that.
fn beside(
    spec: &Spec,
    figures: &mut BTreeMap<String, f64>,
    directory: &Path,
) -> Result<(), String> {
    let length = Duration::from_secs(1);
    match spec.beside {
        Beside::Nothing => {}
        Beside::WriteAndRoundTrips => {
            let latencies = yardstick::write_and_round_trips(directory, length)?;
            let yardstick = latencies.percentile(50.0).as_secs_f64() * 1e6;
            figures.insert("yardstick_p50_micros".to_owned(), yardstick);
            let p99 = latencies.percentile(99.0).as_secs_f64() * 1e6;
            figures.insert("yardstick_p99_micros".to_owned(), p99);
            let rare = latencies.percentile(99.9).as_secs_f64() * 1e6;
            figures.insert("yardstick_p99_9_micros".to_owned(), rare);
            if let Some(&reached) = figures.get("latency_p50_micros") {
                figures.insert("of_yardstick_p50".to_owned(), reached / yardstick);
            }
        }
        Beside::DiskLimit => {
            let (Some(&bytes), Some(&per_operation), Some(&reached)) = (
                figures.get("flush_bytes"),
                figures.get("flushed_bytes_per_operation"),
                figures.get("operations_per_second"),
            ) else {
                return Ok(());
            };
            #[expect(clippy::cast_possible_truncation, reason = "flushes are below 4 GiB")]
            let bytes = bytes as usize;
            let logs = usize::from(spec.nodes * spec.shards);
            let limit = yardstick::disk_limit(directory, logs, FLUSHES_IN_FLIGHT, bytes, length)?;
            figures.insert("limit_disk_bytes_per_second".to_owned(), limit);
            figures.insert(
                "limit_disk_operations_per_second".to_owned(),
                limit / per_operation,
            );
            figures.insert("of_disk_limit".to_owned(), reached * per_operation / limit);
        }
    }
    Ok(())
}
