//! The page of a long run: what was answered, and what nodes took, over time.

use crate::soak::Soaked;
use crate::soak_samples::{Second, Taken, summary};

use super::STYLE;
use super::chart::{Line, Scale, escape, lines, short};

/// One of the things that a node takes.
type Part = fn(&Taken) -> u64;

/// Charts and the table.
pub(crate) fn soak_page(soaked: &Soaked) -> String {
    let seconds = &soaked.seconds;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>drakkar-bench soak</title><style>{STYLE}</style></head><body>\n\
         <h1>drakkar-bench soak</h1>\n"
    );
    let single = |name: &str, value: fn(&Second) -> f64| Line {
        name: name.to_owned(),
        points: seconds
            .iter()
            .map(|second| (second.at, value(second)))
            .collect(),
    };
    let rate = single("answered", |second| second.operations as f64);
    let wait = single("p99", |second| second.p99_micros / 1e3);
    page += &chart("Throughput", &[rate], seconds, "operations a second");
    page += &chart("Latency", &[wait], seconds, "p99, milliseconds");
    let nodes = seconds.first().map_or(0, |second| second.nodes.len());
    let parts: [(&str, &str, Part); 3] = [
        ("Memory", "resident, bytes", |it| it.resident_bytes),
        ("Log on the disk", "bytes", |it| it.log_bytes),
        ("Snapshots on the disk", "bytes", |it| it.snapshot_bytes),
    ];
    for (title, unit, part) in parts {
        let line = |node: usize| Line {
            name: format!("node {}", node + 1),
            points: (seconds.iter())
                .filter_map(|second| Some((second.at, part(second.nodes.get(node)?) as f64)))
                .collect(),
        };
        let all: Vec<Line> = (0..nodes).map(line).collect();
        page += &chart(title, &all, seconds, unit);
    }
    page += &format!("<pre>{}</pre>\n</body></html>\n", escape(&summary(soaked)));
    page
}

fn chart(title: &str, of: &[Line], seconds: &[Second], unit: &str) -> String {
    let length = seconds.last().map_or(1.0, |second| second.at);
    let ticks: Vec<_> = (0..=4)
        .map(|part| length * f64::from(part) / 4.0)
        .map(|at| (at, format!("{} s", short(at))))
        .collect();
    let values = of
        .iter()
        .flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let scale = Scale::linear(values);
    format!(
        "<h2>{title}</h2>\n{}",
        lines(of, &ticks, "time", unit, scale)
    )
}
