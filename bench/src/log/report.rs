//! What was measured, as a table for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Cell, Measured, System};

/// The medians of one system in one cell.
struct Line {
    system: System,
    entries_per_second: f64,
    megabytes_per_second: f64,
    cpu_micros_per_flush: f64,
    cpu_micros_per_batch: f64,
    /// What was given to the disk, for each byte of an entry. Unknown behind the page cache: the
    /// kernel counts whole folios there.
    written: Option<f64>,
    /// Throughput as a share of the limit's.
    of_limit: f64,
}

/// Everything that was measured.
pub(super) struct Report {
    systems: Vec<System>,
    cells: Vec<(Cell, Vec<Line>, Option<f64>)>,
}

impl Report {
    pub(super) fn new(systems: Vec<System>) -> Self {
        Self {
            systems,
            cells: Vec::new(),
        }
    }

    /// Adds what each system gave in each round of a cell.
    pub(super) fn add(&mut self, cell: Cell, rounds: &[Vec<Measured>]) {
        let position = |wanted| self.systems.iter().position(|&system| system == wanted);
        let limit = position(System::Limit).expect("the limit is always measured");
        let of = |at: usize, value: fn(&Measured) -> f64| {
            median(rounds.iter().map(|round| value(&round[at])).collect())
        };
        let ratio = |at: usize, to: usize| {
            let speeds = rounds
                .iter()
                .map(|round| round[at].batches_per_second() / round[to].batches_per_second());
            median(speeds.collect())
        };
        let lines = self.systems.iter().enumerate().map(|(at, &system)| {
            let entries_per_second = of(at, Measured::batches_per_second) * cell.batch as f64;
            Line {
                system,
                entries_per_second,
                megabytes_per_second: entries_per_second * cell.entry_bytes as f64 / 1e6,
                cpu_micros_per_flush: of(at, Measured::cpu_micros_per_flush),
                cpu_micros_per_batch: of(at, Measured::cpu_micros_per_batch),
                written: matches!(
                    system,
                    System::Limit | System::LimitFilled | System::Drakkar
                )
                .then(|| of(at, Measured::written_bytes_per_batch) / cell.batch_bytes() as f64),
                of_limit: ratio(at, limit),
            }
        });
        let lines = lines.collect();
        // Of the two ways in which raft-engine was set up, the faster.
        let ours = position(System::Drakkar);
        let theirs = [System::RaftEngine, System::RaftEngineRecycled];
        let ratios = theirs
            .into_iter()
            .filter_map(|system| Some(ratio(ours?, position(system)?)));
        let to_raft_engine = ratios.min_by(f64::total_cmp);
        self.cells.push((cell, lines, to_raft_engine));
    }

    /// A line for each system in each cell. Megabytes are millions of bytes of entries, and so is
    /// what `written` is a multiple of.
    pub(super) fn table(&self) -> String {
        let mut table = format!(
            "{:>6} {:>6} {:>6}  {:<20} {:>11} {:>8} {:>8} {:>12} {:>12} {:>8} {:>13}\n",
            "groups",
            "batch",
            "bytes",
            "",
            "entries/s",
            "MB/s",
            "of limit",
            "cpu us/flush",
            "cpu us/batch",
            "written",
            "x raft-engine"
        );
        for (cell, lines, to_raft_engine) in &self.cells {
            for line in lines {
                let ratio = match to_raft_engine {
                    Some(ratio) if line.system == System::Drakkar => format!("{ratio:.2}"),
                    _ => String::new(),
                };
                let bytes = line.written.map(|bytes| format!("{bytes:.1}"));
                let written = writeln!(
                    table,
                    "{:>6} {:>6} {:>6}  {:<20} {:>11.0} {:>8.1} {:>8.2} {:>12.1} {:>12.1} {:>8} {:>13}",
                    cell.groups,
                    cell.batch,
                    cell.entry_bytes,
                    name(line.system),
                    line.entries_per_second,
                    line.megabytes_per_second,
                    line.of_limit,
                    line.cpu_micros_per_flush,
                    line.cpu_micros_per_batch,
                    bytes.unwrap_or_default(),
                    ratio
                );
                written.expect("a string takes everything");
            }
        }
        table
    }

    pub(super) fn json(&self) -> String {
        let cells = self.cells.iter().map(|(cell, lines, to_raft_engine)| {
            let systems = lines.iter().map(|line| {
                json!({
                    "system": name(line.system),
                    "entries_per_second": line.entries_per_second,
                    "megabytes_per_second": line.megabytes_per_second,
                    "cpu_micros_per_flush": line.cpu_micros_per_flush,
                    "cpu_micros_per_batch": line.cpu_micros_per_batch,
                    "written_bytes_per_entry_byte": line.written,
                    "of_limit": line.of_limit,
                })
            });
            json!({
                "groups": cell.groups,
                "batch": cell.batch,
                "entry_bytes": cell.entry_bytes,
                "systems": systems.collect::<Vec<Value>>(),
                "drakkar_to_raft_engine": to_raft_engine,
            })
        });
        let cells: Vec<Value> = cells.collect();
        format!("{}\n", json!({ "cells": cells }))
    }
}

fn name(system: System) -> &'static str {
    match system {
        System::Limit => "limit",
        System::LimitFilled => "limit, filled",
        System::Drakkar => "drakkar",
        System::RaftEngine => "raft-engine",
        System::RaftEngineRecycled => "raft-engine-recycled",
        System::Pwrite => "pwrite+fdatasync",
    }
}

/// The middle of the values; of two in the middle, the upper.
fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "no round was measured");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round_and_to_the_faster_raft_engine() {
        let turn = |batches| Measured {
            batches,
            flushes: batches / 2,
            written_bytes: batches * 20_000,
            elapsed: Duration::from_secs(1),
            cpu: Duration::from_micros(batches * 3),
        };
        let systems = vec![
            System::Limit,
            System::Drakkar,
            System::RaftEngine,
            System::RaftEngineRecycled,
        ];
        let mut report = Report::new(systems);
        let cell = Cell {
            entry_bytes: 1000,
            batch: 10,
            groups: 1,
        };
        // The second round is on a busy machine.
        let rounds = [[100, 90, 20, 30], [10, 9, 2, 3], [100, 80, 20, 40]];
        report.add(cell, &rounds.map(|round| round.map(turn).to_vec()));
        let (_, lines, ratio) = &report.cells[0];
        assert_eq!(lines[1].of_limit, 0.9);
        assert_eq!(lines[1].entries_per_second, 800.0);
        assert_eq!(lines[1].megabytes_per_second, 0.8);
        assert!((lines[1].cpu_micros_per_batch - 3.0).abs() < 1e-9);
        assert!((lines[1].cpu_micros_per_flush - 6.0).abs() < 1e-9);
        assert_eq!(lines[1].written, Some(2.0));
        assert_eq!(*ratio, Some(3.0));
    }
}
