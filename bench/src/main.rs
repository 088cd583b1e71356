//! Measures a cluster and prints two numbers for each view: throughput and p99.9.

mod api;
mod cluster;
mod histogram;
mod load;
mod log;
mod options;
mod replies;
mod topology;

use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;

use cluster::Cluster;
use histogram::Latencies;
use load::Measured;
use options::{Options, Part, View};
use topology::Topology;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match (&options.node, &options.part) {
        (Some(config), _) => api::serve(config),
        (None, Some(Part::Log(part))) => log::run(part),
        (None, None) => options.check().and_then(|()| run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("drakkar-bench: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    if !options.endpoints.is_empty() {
        if options.only == Some(View::Api) {
            return Err(
                "the engine's API needs a cluster of its own: leave out --endpoints".into(),
            );
        }
        return sockets(options, &options.endpoints);
    }
    let mut cluster = Cluster::start(options)?;
    let pids: Vec<String> = cluster.pids().iter().map(u32::to_string).collect();
    eprintln!(
        "nodes: {} (processes {})",
        cluster.endpoints.join(" "),
        pids.join(" ")
    );
    if options.only != Some(View::Api) {
        let endpoints = cluster.endpoints.clone();
        sockets(options, &endpoints)?;
    }
    if options.only != Some(View::Sockets) {
        through_api(options, &mut cluster)?;
    }
    Ok(())
}

fn sockets(options: &Options, endpoints: &[String]) -> Result<(), String> {
    let topology = Topology::ask(endpoints)?;
    if !topology.is_complete() {
        return Err("not every slot has a leader: is a quorum of the nodes up?".to_owned());
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let threads = (0..options.threads).map(|thread| {
        let (options, topology) = (options.clone(), topology.clone());
        // Nodes take the first cores; load takes the last ones.
        let core = cores.iter().rev().nth(thread).copied();
        #[expect(
            clippy::disallowed_methods,
            reason = "load generators pin their own threads"
        )]
        std::thread::spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            load::run(&options, &topology, thread)
        })
    });
    let threads: Vec<_> = threads.collect();
    let mut all = Measured {
        latencies: Latencies::new(),
        errors: 0,
        first_error: None,
        elapsed: options.measured(),
    };
    for thread in threads {
        let part = thread.join().map_err(|_| "a load thread panicked")??;
        all.latencies.add(&part.latencies);
        all.errors += part.errors;
        all.first_error = all.first_error.or(part.first_error);
    }
    if let Some(error) = &all.first_error {
        eprintln!("{} errors, the first: {error}", all.errors);
    }
    let what = format!(
        "sockets, {} B values, {} connections x {}, {:.0} % reads",
        options.value_bytes,
        options.connections,
        options.pipeline,
        options.read_share * 100.0,
    );
    report(
        options,
        &what,
        &all.latencies,
        all.elapsed,
        all.latencies.count(),
    )
}

fn through_api(options: &Options, cluster: &mut Cluster) -> Result<(), String> {
    let order = format!(
        "api {} {} {} {} {}",
        options.warm_up().as_millis(),
        options.measured().as_millis(),
        options.api_value_bytes,
        options.keys,
        options.api_in_flight,
    );
    let (latencies, count, errors) = api::sum(&cluster.ask_all(&order)?)?;
    if errors > 0 {
        eprintln!("{errors} commands were refused or their outcome is unknown");
    }
    let what = format!(
        "engine API, {} B values, {} in flight on each node",
        options.api_value_bytes, options.api_in_flight
    );
    report(options, &what, &latencies, options.measured(), count)
}

fn report(
    options: &Options,
    what: &str,
    latencies: &Latencies,
    elapsed: Duration,
    count: u64,
) -> Result<(), String> {
    if count == 0 {
        return Err(format!("{what}: nothing was answered without an error"));
    }
    let micros = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
    println!("{what}");
    println!(
        "  throughput {:>10.0} /s",
        count as f64 / elapsed.as_secs_f64()
    );
    println!("  p99.9      {:>10.0} us", micros(99.9));
    eprintln!(
        "  p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        micros(50.0),
        micros(99.0),
        micros(100.0)
    );
    if let Some(path) = &options.histogram_log {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        let tag = if what.starts_with("sockets") {
            "sockets"
        } else {
            "api"
        };
        latencies
            .write_log(tag, started(elapsed), elapsed, &mut file)
            .map_err(failed)?;
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log of latencies says when they were measured"
)]
fn started(elapsed: Duration) -> SystemTime {
    SystemTime::now() - elapsed
}
