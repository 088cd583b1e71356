//! Two result files side by side.

use super::{Figure, Results};

/// What is compared, and whether more of it is better.
const COMPARED: &[(&str, bool)] = &[
    ("operations_per_second", true),
    ("latency_p50_micros", false),
    ("latency_p99_micros", false),
    ("latency_p99_9_micros", false),
    ("cpu_micros_per_operation", false),
];

/// For each measurement that both have: medians, the change, and whether it is more than noise, which
/// is when the lowest of one lies above the highest of the other.
pub(crate) fn compare(before: &Results, after: &Results) -> Result<String, String> {
    let mut text = String::new();
    for new in &after.measurements {
        let same = |m: &&super::Measurement| m.name == new.name && m.system == new.system;
        let Some(old) = before.measurements.iter().find(same) else {
            continue;
        };
        text.push_str(&format!("{} {}\n", new.name, new.system));
        if old.load != new.load {
            text.push_str("  note: the loads are not the same\n");
        }
        for (name, more_is_better) in COMPARED {
            if let (Some(a), Some(b)) = (old.figures.get(*name), new.figures.get(*name)) {
                text.push_str(&format!("  {name:26} {}\n", line(a, b, *more_is_better)));
            }
        }
    }
    if text.is_empty() {
        return Err("the files have no measurement in common".to_owned());
    }
    if before.machine.cpu != after.machine.cpu || before.machine.kernel != after.machine.kernel {
        text.push_str("note: the files come from different machines\n");
    }
    Ok(text)
}

fn line(before: &Figure, after: &Figure, more_is_better: bool) -> String {
    let change = (after.median / before.median - 1.0) * 100.0;
    let verdict = if after.lowest <= before.highest && before.lowest <= after.highest {
        "within the spread"
    } else if (after.median > before.median) == more_is_better {
        "better"
    } else {
        "WORSE"
    };
    let number = super::table::number;
    format!(
        "{:>12} -> {:>12}  {change:+7.1} %  {verdict}",
        number(before.median),
        number(after.median)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_spread_is_not_called_one() {
        let figure = |values: &[f64]| Figure::of(values.to_vec()).unwrap();
        let before = figure(&[90.0, 100.0, 110.0]);
        assert!(
            line(&before, &figure(&[105.0, 115.0, 120.0]), true).ends_with("within the spread")
        );
        let more = figure(&[119.0, 120.0, 121.0]);
        assert!(line(&before, &more, true).ends_with("better"));
        assert!(line(&before, &more, false).ends_with("WORSE"));
        assert!(line(&before, &more, true).contains("+20.0 %"));
    }
}
