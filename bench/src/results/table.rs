//! Results as a table for a terminal.

use super::{Figure, Results};

/// Which figures a table shows, what their columns are called, and by what they are divided.
const COLUMNS: &[(&str, &str, f64)] = &[
    ("operations_per_second", "op/s", 1.0),
    ("latency_p50_micros", "p50 us", 1.0),
    ("latency_p99_micros", "p99 us", 1.0),
    ("latency_p99_9_micros", "p99.9 us", 1.0),
    ("cpu_micros_per_operation", "CPU us/op", 1.0),
    ("operations_per_cpu_second", "op/CPU-s", 1.0),
    ("flushes_per_second", "flushes/s", 1.0),
    ("flush_bytes", "KiB/flush", 1024.0),
    ("operations_per_entry", "op/entry", 1.0),
];

/// Medians, and what was measured beside them.
pub(crate) fn table(results: &Results) -> String {
    let names = results.measurements.iter();
    let label = |name: &str, system: &str| format!("{name} {system}");
    let width = names
        .map(|m| label(&m.name, &m.system).len())
        .max()
        .unwrap_or(0);
    let mut text = format!("{:width$}", "");
    for (_, title, _) in COLUMNS {
        text.push_str(&format!(" {title:>11}"));
    }
    text.push_str("  spread\n");
    for measurement in &results.measurements {
        text.push_str(&format!(
            "{:width$}",
            label(&measurement.name, &measurement.system)
        ));
        for (name, _, divisor) in COLUMNS {
            let median = measurement.median(name);
            let cell = median.map_or_else(|| "-".to_owned(), |median| number(median / divisor));
            text.push_str(&format!(" {cell:>11}"));
        }
        let rate = measurement.figures.get("operations_per_second");
        let spread = rate.map_or_else(
            || "-".to_owned(),
            |f| format!("{:.0} %", f.spread() * 100.0),
        );
        text.push_str(&format!("  {spread:>6}\n"));
    }
    for measurement in &results.measurements {
        for (name, figure) in measurement
            .figures
            .iter()
            .filter(|(name, _)| is_beside(name))
        {
            let label = label(&measurement.name, &measurement.system);
            text.push_str(&format!("{label}: {name} = {}\n", described(figure)));
        }
        let errors: u64 = measurement.turns.iter().map(|turn| turn.errors).sum();
        let first = measurement
            .turns
            .iter()
            .find_map(|turn| turn.first_error.as_ref());
        if let Some(first) = first {
            let label = label(&measurement.name, &measurement.system);
            text.push_str(&format!("{label}: {errors} errors, the first: {first}\n"));
        }
    }
    text
}

/// Figures that only some workloads have.
pub(crate) fn is_beside(name: &str) -> bool {
    ["yardstick", "limit", "idle", "of_", "offered"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn described(figure: &Figure) -> String {
    format!(
        "{} ({} to {})",
        number(figure.median),
        number(figure.lowest),
        number(figure.highest)
    )
}

/// Three digits at least.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.4}"),
        size if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}
