//! What processes have used, as `/proc` tells it.

use std::path::Path;

use rustix::param::clock_ticks_per_second;

/// CPU time and bytes given to disks since a process started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) written_bytes: u64,
}

impl Usage {
    /// Of all threads of one process, those that ended included.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let odd = |name: &str| format!("/proc/{pid}/{name} is not what Linux writes");
        let (user_seconds, system_seconds) =
            cpu_seconds(&read("stat")?).ok_or_else(|| odd("stat"))?;
        // Kernels without accounting of I/O have no such file.
        let written_bytes = read("io").ok().and_then(|text| written(&text)).unwrap_or(0);
        Ok(Self {
            user_seconds,
            system_seconds,
            written_bytes,
        })
    }

    /// Of several processes together.
    pub(crate) fn of_all(pids: &[u32]) -> Result<Self, String> {
        let mut all = Self::default();
        for &pid in pids {
            let one = Self::of(pid)?;
            all.user_seconds += one.user_seconds;
            all.system_seconds += one.system_seconds;
            all.written_bytes += one.written_bytes;
        }
        Ok(all)
    }

    /// What was used since an earlier moment.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            user_seconds: self.user_seconds - before.user_seconds,
            system_seconds: self.system_seconds - before.system_seconds,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// User and system time in `/proc/PID/stat` (proc(5)): fields 14 and 15, behind the name in brackets.
fn cpu_seconds(stat: &str) -> Option<(f64, f64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = clock_ticks_per_second() as f64;
    Some((user as f64 / ticks, system as f64 / ticks))
}

/// Seconds that all processors together were at work since the machine started; waiting for a disk is none,
/// and neither is what another machine of the same host took.
pub(crate) fn busy_seconds() -> Result<f64, String> {
    let path = "/proc/stat";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    busy(&text).ok_or_else(|| format!("{path} is not what Linux writes"))
}

/// User, nice, system, interrupts and soft interrupts in the first line of `/proc/stat` (proc(5)).
fn busy(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _disk, interrupts, soft, ..] = ticks[..] else {
        return None;
    };
    let busy = user + nice + system + interrupts + soft;
    Some(busy as f64 / clock_ticks_per_second() as f64)
}

fn written(io: &str) -> Option<u64> {
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// Bytes that a directory's file system has left.
pub(crate) fn free_bytes(directory: &Path) -> Result<u64, String> {
    let failed = |error| format!("{}: {error}", directory.display());
    let space = rustix::fs::statvfs(directory).map_err(failed)?;
    Ok(space.f_bavail * space.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194304 9 8 7 6 250 50 3 2 20 0 4 0 99";
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), Some((250.0 / ticks, 50.0 / ticks)));
        assert_eq!(cpu_seconds("77 (a"), None);
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n";
        assert_eq!(written(io), Some(4096));
    }

    #[test]
    fn a_machine_is_busy_when_it_neither_idles_nor_waits() {
        let ticks = clock_ticks_per_second() as f64;
        let stat = "cpu  100 20 3 5000 600 7 8 900 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(stat), Some(138.0 / ticks));
        assert_eq!(busy("cpu  100 20 3 5000"), None);
        assert!(busy_seconds().unwrap() > 0.0);
    }

    #[test]
    fn a_process_that_ran_has_used_something() {
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.cpu_seconds() >= 0.0);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
