//! `drakkar check disk`: what the device and the file system under a directory can do for a log. It
//! writes one file as the log writes its segments, and removes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use serde_json::{Value, json};
use wal::BLOCK;
use wal::io::{FileSystem, FileSystemKind};

use crate::exit;

/// Blocks of the file, written in turn.
const BLOCKS: usize = 256;
const WRITES: usize = 512;
/// A disk that takes longer is judged by what it has done until then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Durable writes in a second, one after the other: what a log needs at least, and should have.
const MINIMUM: f64 = 100.0;
const PRODUCTION: f64 = 1000.0;

#[derive(Args)]
pub(crate) struct Options {
    /// An existing directory on the disk.
    directory: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What was found out.
struct Finding {
    file_system: FileSystem,
    free_bytes: u64,
    total_bytes: u64,
    /// Memory and offset, in bytes, as the kernel says; it need not know.
    alignment: Option<(u32, u32)>,
    /// How long each durable write of a block took, ascending; or why none is possible.
    writes: io::Result<Vec<Duration>>,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let directory = &options.directory;
    let finding = match look(directory) {
        Ok(finding) => finding,
        Err(error) => {
            let complaint = format!("cannot look at {}: {error}", directory.display());
            return exit::complain(exit::ERROR, &complaint);
        }
    };
    if options.json {
        println!("{:#}", finding.json(directory));
    } else {
        print!("{}", finding.text(directory));
    }
    match (&finding.writes, finding.file_system.kind) {
        (_, kind) if kind != FileSystemKind::Local => ExitCode::from(exit::REFUSED),
        (Err(_), _) => ExitCode::from(exit::ERROR),
        _ => ExitCode::SUCCESS,
    }
}

fn look(directory: &Path) -> io::Result<Finding> {
    if !directory.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let space = rustix::fs::statvfs(directory)?;
    let path = directory.join(format!(".drakkar-check-{}", std::process::id()));
    let file = File::options().create_new(true).write(true).open(&path)?;
    let alignment = alignment(&file);
    drop(file);
    let writes = write(&path);
    std::fs::remove_file(&path)?;
    Ok(Finding {
        file_system: FileSystem::of(directory)?,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        alignment,
        writes,
    })
}

fn alignment(file: &File) -> Option<(u32, u32)> {
    let asked = StatxFlags::DIOALIGN;
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, asked).ok()?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(asked);
    (known && stat.stx_dio_mem_align > 0)
        .then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

/// Writes zeroes once, as a segment is made, then blocks over them, each durable when it returns.
#[expect(clippy::disallowed_methods, reason = "it measures a disk")]
fn write(path: &Path) -> io::Result<Vec<Duration>> {
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
    let mut options = File::options();
    let file = options.write(true).custom_flags(flags).open(path)?;
    let mut memory = vec![0; (BLOCKS + 1) * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[start..start + BLOCKS * BLOCK];
    file.write_all_at(buffer, 0)?;
    file.sync_all()?;
    let block = &mut buffer[..BLOCK];
    block.fill(0xa5);
    let mut took = Vec::with_capacity(WRITES);
    let begun = Instant::now();
    for position in 0..WRITES {
        let before = Instant::now();
        file.write_all_at(block, (position % BLOCKS * BLOCK) as u64)?;
        took.push(before.elapsed());
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    took.sort_unstable();
    Ok(took)
}

/// Of ascending durations, the one that so many hundredths do not exceed.
fn percentile(ascending: &[Duration], hundredths: usize) -> Duration {
    assert!(!ascending.is_empty(), "nothing was measured");
    assert!(hundredths <= 100, "{hundredths} % of all");
    let rank = (ascending.len() * hundredths).div_ceil(100).max(1);
    ascending[rank - 1]
}

/// Durable writes in a second, one after the other.
fn rate(took: &[Duration]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let writes = took.len() as f64;
    writes / took.iter().sum::<Duration>().as_secs_f64().max(1e-9)
}

impl Finding {
    fn verdict(&self) -> &'static str {
        match &self.writes {
            _ if self.file_system.kind != FileSystemKind::Local => "refused",
            Err(_) => "unusable",
            Ok(took) if rate(took) < MINIMUM => "too slow",
            Ok(took) if rate(took) < PRODUCTION => "slow",
            Ok(_) => "good",
        }
    }

    fn json(&self, directory: &Path) -> Value {
        let writes = match &self.writes {
            Ok(took) => json!({
                "works": true,
                "bytes": BLOCK,
                "writes": took.len(),
                "per_second": rate(took).round(),
                "median_us": micros(percentile(took, 50)),
                "p99_us": micros(percentile(took, 99)),
                "max_us": micros(percentile(took, 100)),
            }),
            Err(error) => json!({ "works": false, "error": error.to_string() }),
        };
        json!({
            "directory": directory,
            "verdict": self.verdict(),
            "file_system": {
                "name": self.file_system.name,
                "kind": match self.file_system.kind {
                    FileSystemKind::Local => "local",
                    FileSystemKind::Network => "network",
                    FileSystemKind::Memory => "memory",
                    FileSystemKind::UserSpace => "user_space",
                },
            },
            "free_bytes": self.free_bytes,
            "total_bytes": self.total_bytes,
            "direct_io": self.alignment.map(|(memory, offset)| json!({
                "memory_align_bytes": memory,
                "offset_align_bytes": offset,
            })),
            "durable_write": writes,
        })
    }

    fn text(&self, directory: &Path) -> String {
        let FileSystem { name, kind } = &self.file_system;
        let alignment = self.alignment.map_or_else(
            || "the kernel does not say".to_owned(),
            |(memory, offset)| format!("memory to {memory} bytes, offsets to {offset} bytes"),
        );
        let writes = match &self.writes {
            Ok(took) => format!(
                "of {BLOCK} bytes: median {} µs, p99 {} µs, max {} µs; {:.0} a second",
                micros(percentile(took, 50)),
                micros(percentile(took, 99)),
                micros(percentile(took, 100)),
                rate(took),
            ),
            Err(error) => format!("O_DIRECT | O_DSYNC does not work: {error}"),
        };
        let advice = match self.verdict() {
            "refused" => "refused: serve does not start here without node.any_file_system = true",
            "unusable" => "unusable: choose a directory on a local disk with ext4 or xfs",
            "too slow" => "too slow: a log needs more than 100 durable writes a second",
            "slow" => {
                "slow: enough to try, production needs more than 1000 durable writes a second"
            }
            _ => "good",
        };
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "directory      {}\nfile system    {name}, {}\nfree           {} of {} MiB\n\
             direct I/O     {alignment}\ndurable write  {writes}\nverdict        {advice}\n",
            directory.display(),
            kind.name(),
            mib(self.free_bytes),
            mib(self.total_bytes),
        )
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_measured() {
        let took: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        #[rustfmt::skip]
        let table = [(0, 1), (50, 100), (99, 198), (100, 200)];
        for (hundredths, expected) in table {
            assert_eq!(micros(percentile(&took, hundredths)), expected);
        }
        assert_eq!(micros(percentile(&took[..1], 99)), 1);
    }

    #[test]
    fn writes_that_fail_are_said_and_not_measured() {
        let finding = Finding {
            file_system: FileSystem {
                name: "ext4".into(),
                kind: FileSystemKind::Local,
            },
            free_bytes: 5 << 20,
            total_bytes: 9 << 20,
            alignment: None,
            writes: Err(io::ErrorKind::InvalidInput.into()),
        };
        assert_eq!(finding.verdict(), "unusable");
        let text = finding.text(Path::new("/d"));
        assert!(text.contains("O_DIRECT | O_DSYNC does not work"), "{text}");
        assert_eq!(
            finding.json(Path::new("/d"))["durable_write"]["works"],
            false
        );
    }
}
