//! Result files as one page that needs nothing else: bars of what is compared, throughput over time,
//! percentiles of latency, and all figures.

mod chart;
mod soak;

use std::fmt::Write;
use std::path::Path;

pub(crate) use soak::soak_page;

use chart::{Bar, Line, Scale, bars, escape, lines, short};

use crate::results::{Measurement, Results};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:860px;margin:2em auto;\
padding:0 1em;color:#222}svg{width:100%;font-size:11px;background:#fff}ul{list-style:none;padding:0;\
display:flex;flex-wrap:wrap;gap:.2em 1.2em;font-size:13px}li span{display:inline-block;width:1em;\
height:.7em;margin-right:.4em}table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;\
border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}\
h2{margin-top:2em}small{color:#666}";

/// Bars of all measurements: the figure, and what it is called.
const COMPARED: &[(&str, &str)] = &[
    ("operations_per_second", "operations a second"),
    ("latency_p50_micros", "p50, microseconds"),
    ("latency_p99_micros", "p99, microseconds"),
    (
        "cpu_micros_per_operation",
        "CPU of all processes, microseconds per operation",
    ),
];

/// Reads result files and writes the page.
pub(crate) fn write(files: &[impl AsRef<Path>], html: &Path) -> Result<(), String> {
    let mut all = Vec::new();
    for file in files {
        let name = file.as_ref().file_stem().unwrap_or_default();
        all.push((
            name.to_string_lossy().into_owned(),
            Results::read(file.as_ref())?,
        ));
    }
    std::fs::write(html, page(&all)).map_err(|error| format!("{}: {error}", html.display()))
}

/// The page of several files; their names tell equal measurements apart.
pub(crate) fn page(files: &[(String, Results)]) -> String {
    let several = files.len() > 1;
    let mut measurements: Vec<(String, &Measurement)> = Vec::new();
    for (file, results) in files {
        for measurement in &results.measurements {
            let label = format!("{} {}", measurement.name, measurement.system);
            let label = if several {
                format!("{label} ({file})")
            } else {
                label
            };
            measurements.push((label, measurement));
        }
    }
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>drakkar-bench</title><style>{STYLE}</style></head><body>\n<h1>drakkar-bench</h1>\n"
    );
    for (file, results) in files {
        put(&mut page, &head(file, results));
    }
    for (figure, title) in COMPARED {
        let found = measurements.iter().filter_map(|(label, measurement)| {
            let figure = measurement.figures.get(*figure)?;
            Some(Bar {
                name: label.clone(),
                value: figure.median,
                spread: (figure.lowest, figure.highest),
            })
        });
        let found: Vec<Bar> = found.collect();
        if !found.is_empty() {
            put(
                &mut page,
                &format!("<h2>{title}</h2>\n{}", bars(&found, title)),
            );
        }
    }
    put(&mut page, "<h2>Latency by percentile</h2>\n");
    put(&mut page, &percentiles(&measurements));
    for (label, measurement) in &measurements {
        put(&mut page, &section(label, measurement));
    }
    put(&mut page, "</body></html>\n");
    page
}

fn put(page: &mut String, text: &str) {
    page.push_str(text);
}

fn head(file: &str, results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "<p><b>{}</b>: <code>{}</code><br><small>{} × {}, {} GiB, Linux {}, {}; others kept {} \
         processes ready to run before. Version {}, {} s after 1970 (UTC).</small></p>\n",
        escape(file),
        escape(&results.command.join(" ")),
        machine.cpus,
        escape(&machine.cpu),
        machine.memory_bytes >> 30,
        escape(&machine.kernel),
        escape(&machine.file_system),
        machine.load_before,
        escape(&results.version),
        results.started_unix_seconds,
    )
}

/// Medians over the turns; the axis gives each nine the same room.
fn percentiles(measurements: &[(String, &Measurement)]) -> String {
    let place = |percent: f64| -(1.0 - (percent / 100.0).min(0.999_999)).log10();
    let curve = |(label, measurement): &(String, &Measurement)| {
        let turns = &measurement.turns;
        let first = turns
            .first()
            .filter(|turn| turn.latencies.iter().any(|(_, l)| *l > 0.0))?;
        let points = first
            .latencies
            .iter()
            .enumerate()
            .filter(|(_, (p, _))| *p < 100.0);
        let points = points.filter_map(|(at, (percent, _))| {
            let values = turns
                .iter()
                .filter_map(|turn| Some(turn.latencies.get(at)?.1));
            let median = crate::results::Figure::of(values.collect())?.median;
            Some((place(*percent), median))
        });
        Some(Line {
            name: label.clone(),
            points: points.collect(),
        })
    };
    let found: Vec<Line> = measurements.iter().filter_map(curve).collect();
    let values = found
        .iter()
        .flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
    let ticks = ticks.map(|percent| (place(percent), format!("{percent} %")));
    lines(
        &found,
        &ticks,
        "of operations took at most",
        "microseconds",
        Scale::logarithmic(values),
    )
}

fn section(label: &str, measurement: &Measurement) -> String {
    let mut text = format!(
        "<h2>{}</h2>\n<p>{}<br><small>",
        escape(label),
        escape(&measurement.title)
    );
    let facts = measurement.load.iter();
    let facts = facts.map(|(name, value)| format!("{}: {}", escape(name), escape(value)));
    put(
        &mut text,
        &format!("{}</small></p>\n", facts.collect::<Vec<_>>().join(" · ")),
    );
    let over_time: Vec<Line> = (1..)
        .zip(&measurement.turns)
        .map(|(number, turn)| Line {
            name: format!("turn {number}"),
            points: (0..)
                .zip(&turn.intervals)
                .map(|(at, &count)| {
                    let middle = (f64::from(at) + 0.5) * turn.interval_seconds;
                    (middle, count as f64 / turn.interval_seconds)
                })
                .collect(),
        })
        .collect();
    let seconds = measurement.turns.first();
    let seconds = seconds.map_or(1.0, |t| t.interval_seconds * t.intervals.len() as f64);
    let ticks: Vec<_> = (0..=4)
        .map(|part| seconds * f64::from(part) / 4.0)
        .map(|at| (at, format!("{} s", short(at))))
        .collect();
    let rates = over_time
        .iter()
        .flat_map(|line| line.points.iter().map(|(_, rate)| *rate));
    let scale = Scale::linear(rates);
    if measurement.median("operations_per_second").is_some() {
        let chart = lines(
            &over_time,
            &ticks,
            "measured time",
            "operations a second",
            scale,
        );
        put(&mut text, &chart);
    }
    put(
        &mut text,
        "<table><tr><th>figure</th><th>median</th><th>lowest</th><th>highest</th></tr>\n",
    );
    for (name, figure) in &measurement.figures {
        let [median, lowest, highest] = [figure.median, figure.lowest, figure.highest].map(short);
        let name = escape(&name.replace('_', " "));
        writeln!(
            text,
            "<tr><td>{name}</td><td>{median}</td><td>{lowest}</td><td>{highest}</td></tr>"
        )
        .expect("writing to memory succeeds");
    }
    put(&mut text, "</table>\n");
    let errors: u64 = measurement.turns.iter().map(|turn| turn.errors).sum();
    if let Some(first) = measurement
        .turns
        .iter()
        .find_map(|turn| turn.first_error.as_ref())
    {
        put(
            &mut text,
            &format!("<p>{errors} errors, the first: {}</p>\n", escape(first)),
        );
    }
    text
}
