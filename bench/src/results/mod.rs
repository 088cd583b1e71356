//! What was measured, as files keep it: JSON that is read again to be compared and drawn.

mod comparison;
mod machine;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use comparison::compare;
pub(crate) use machine::Machine;
pub(crate) use table::table;

/// The format that this build writes and reads.
const FORMAT: u32 = 1;

/// One run of this program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) format: u32,
    pub(crate) version: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    pub(crate) started_unix_seconds: u64,
    pub(crate) machine: Machine,
    pub(crate) measurements: Vec<Measurement>,
}

/// One load on one system, measured several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The workload, and behind a slash what is varied: `W7/3 x 2 shards`.
    pub(crate) name: String,
    /// `drakkar`, or what it is compared with.
    pub(crate) system: String,
    pub(crate) title: String,
    /// What the load was, for people.
    pub(crate) load: BTreeMap<String, String>,
    pub(crate) turns: Vec<Turn>,
    /// Medians and spread of the turns' figures.
    pub(crate) figures: BTreeMap<String, Figure>,
}

/// One time that a load was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// By name; the last word is the unit, and names that end in `per_second` count operations.
    pub(crate) figures: BTreeMap<String, f64>,
    pub(crate) interval_seconds: f64,
    /// Operations that were answered in each interval.
    pub(crate) intervals: Vec<u64>,
    /// Pairs of a percentage and the latency in microseconds that so many operations did not exceed.
    pub(crate) latencies: Vec<(f64, f64)>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// How often a request was sent elsewhere and went there: leaders moved meanwhile.
    #[serde(default)]
    pub(crate) redirected: u64,
}

/// A figure over all turns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Figure {
    /// `None` if there is no value.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (values.first()?, values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            median: lower.midpoint(upper),
            lowest,
            highest,
        })
    }

    /// The distance between the lowest and the highest value, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 {
            0.0
        } else {
            (self.highest - self.lowest) / self.median.abs()
        }
    }
}

impl Measurement {
    /// Adds a turn, and takes its figures into the medians.
    pub(crate) fn push(&mut self, turn: Turn) {
        self.turns.push(turn);
        let names: std::collections::BTreeSet<&String> = self
            .turns
            .iter()
            .flat_map(|turn| turn.figures.keys())
            .collect();
        let figure = |name: &String| {
            let values = self.turns.iter().filter_map(|turn| turn.figures.get(name));
            Some((name.clone(), Figure::of(values.copied().collect())?))
        };
        self.figures = names.into_iter().filter_map(figure).collect();
    }

    pub(crate) fn median(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure).map(|figure| figure.median)
    }
}

impl Results {
    pub(crate) fn new(machine: Machine, started_unix_seconds: u64) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: std::env::args().collect(),
            started_unix_seconds,
            machine,
            measurements: Vec::new(),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let results: Self = serde_json::from_str(&text)
            .map_err(|error| format!("{} holds no results: {error}", path.display()))?;
        if results.format != FORMAT {
            return Err(format!(
                "{} has format {}, this build reads {FORMAT}",
                path.display(),
                results.format
            ));
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle_and_the_spread_is_a_share_of_it() {
        let figure = Figure::of(vec![5.0, 1.0, 4.0]).unwrap();
        assert_eq!(
            (figure.median, figure.lowest, figure.highest),
            (4.0, 1.0, 5.0)
        );
        assert_eq!(figure.spread(), 1.0);
        assert_eq!(Figure::of(vec![1.0, 2.0, 4.0, 8.0]).unwrap().median, 3.0);
        assert_eq!(Figure::of(vec![]), None);
    }
}
