//! Two numbers for each view of a cluster: throughput and p99.9.

use std::time::Duration;

use crate::api;
use crate::cluster::{Cluster, Shape};
use crate::histogram::{HistogramLog, Recorded, Window, wall_clock};
use crate::load::{self, Crew, Keys, Topology, now};
use crate::options::{Options, View};
use crate::run::default_directory;

pub(crate) fn run(options: &Options) -> Result<(), String> {
    if !options.endpoints.is_empty() {
        if options.only == Some(View::Api) {
            return Err(
                "the engine's API needs a cluster of its own: leave out --endpoints".into(),
            );
        }
        return sockets(options, &options.endpoints);
    }
    let mut cluster = Cluster::start(&Shape {
        nodes: 3,
        groups: options.groups,
        shards: options.shards,
        dir: options.dir.clone().unwrap_or_else(default_directory),
        setting: String::new(),
        ready: options.seconds >= 1.0,
    })?;
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
    let load = options.load();
    let keys = Keys::new(load.keys, &topology);
    if load.mix.reads_at_all() {
        load::fill(&load, &keys)?;
    }
    let crew = Crew::connect(&load, &keys)?;
    let window = Window {
        start: now() + options.warm_up(),
        measured: options.measured(),
    };
    let recorded = crew.run(window)?;
    if let Some(error) = &recorded.first_error {
        eprintln!("{} errors, the first: {error}", recorded.errors);
    }
    let what = format!(
        "sockets, {} B values, {} connections x {}, {:.0} % reads",
        options.value_bytes,
        options.connections,
        options.pipeline,
        options.read_share * 100.0,
    );
    report(options, "sockets", &what, &recorded)
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
    cluster.tell_all(&order)?;
    let recorded = api::sum(&cluster.hear_all()?)?;
    if recorded.errors > 0 {
        eprintln!(
            "{} commands were refused or their outcome is unknown",
            recorded.errors
        );
    }
    let what = format!(
        "engine API, {} B values, {} in flight on each node",
        options.api_value_bytes, options.api_in_flight
    );
    report(options, "api", &what, &recorded)
}

fn report(options: &Options, tag: &str, what: &str, recorded: &Recorded) -> Result<(), String> {
    let latencies = recorded.latencies();
    if latencies.count() == 0 {
        return Err(format!("{what}: nothing was answered without an error"));
    }
    let micros = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
    let rate = latencies.count() as f64 / options.measured().as_secs_f64();
    println!("{what}");
    println!("  throughput {rate:>10.0} /s");
    println!("  p99.9      {:>10.0} us", micros(99.9));
    eprintln!(
        "  p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        micros(50.0),
        micros(99.0),
        micros(100.0)
    );
    if let Some(path) = &options.histogram_log {
        let started = wall_clock() - options.measured();
        let interval: Duration = options.measured() / crate::histogram::INTERVALS;
        HistogramLog::new(path, true, started)?.add(tag, started, interval, recorded)?;
    }
    Ok(())
}
