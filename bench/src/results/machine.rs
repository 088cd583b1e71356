//! On what was measured.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// What of a machine decides about figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Of the directory with the data.
    pub(crate) file_system: String,
    /// Processes that were ready to run, on average over the minute before.
    pub(crate) load_before: f64,
}

impl Machine {
    /// This one. What cannot be found out is left empty.
    pub(crate) fn here(directory: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        let load = read("/proc/loadavg");
        let system = wal::io::FileSystem::of(directory);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: system
                .map(|found| found.name.to_string())
                .unwrap_or_default(),
            load_before: load
                .split(' ')
                .next()
                .and_then(|part| part.parse().ok())
                .unwrap_or(0.0),
        }
    }
}
