//! `drakkar dr drill`: whether a backup can be restored, found out by doing it: into a cluster of its own
//! on this machine, which is compared key by key and thrown away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use engine::kv::{Item, Items, fingerprint_of};
use serde_json::json;

use super::archive::Files;
use super::create::{Scope, create, now_unix_ms};
use super::manifest::Manifest;
use super::point::{Extent, Points};
use super::{BackupError, damaged, restore, verify, verify_in};
use crate::demo::Scratch;
use crate::exit;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Restores a backup into a scratch cluster of three nodes on this machine, compares every key, and says
    /// how long that took. Ends with 0 only if all of it came back.
    Drill(Options),
    /// Shows how far a backup, or a standby, is behind the cluster, entry by entry and in seconds: what the
    /// loss of the cluster would cost now. Changes nothing.
    Status(super::lag::Options),
    /// Keeps another cluster equal to this one: writes to it, round after round, what has changed here since.
    Ship(super::ship::Options),
}

#[derive(Args)]
pub(crate) struct Options {
    /// A directory for the scratch cluster: new or empty, with room for three times the data. What is made
    /// there is removed at the end.
    #[arg(long)]
    scratch: PathBuf,
    /// The directory of the backup, or its archive.
    #[arg(long)]
    from: PathBuf,
    #[command(flatten)]
    points: Points,
    /// Leaves the scratch cluster's files where they are.
    #[arg(long)]
    keep: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Why a drill has failed.
#[derive(Debug, thiserror::Error)]
enum DrillError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("the scratch cluster does not start: {reason}")]
    Scratch { reason: String },
    #[error(
        "what came back differs: {found} keys with hash {found_hash:016x}, the backup has {expected} with \
         {expected_hash:016x}"
    )]
    Differs {
        expected: u64,
        expected_hash: u64,
        found: u64,
        found_hash: u64,
    },
}

impl DrillError {
    fn code(&self) -> u8 {
        match self {
            Self::Backup(error) => error.code(),
            Self::Scratch { .. } => exit::ERROR,
            Self::Differs { .. } => exit::CORRUPT,
        }
    }
}

/// What came back, and how long each step took.
struct Report {
    cluster: String,
    age: Duration,
    content: Content,
    steps: Vec<(&'static str, Duration)>,
}

/// Keys with their values and expiries, however they are spread over groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Content {
    keys: u64,
    hash: u64,
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let options = match verb {
        Verb::Drill(options) => options,
        Verb::Status(options) => return super::lag::run(options),
        Verb::Ship(options) => return super::ship::run(options),
    };
    let ended = drill(options);
    match (&ended, options.json) {
        (Ok(report), true) => println!("{}", report.json()),
        (Ok(report), false) => println!("{}", report.told()),
        (Err(error), true) => println!("{}", json!({ "ok": false, "error": error.to_string() })),
        (Err(_), false) => {}
    }
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => exit::complain(error.code(), &format!("the drill has failed: {error}")),
    }
}

fn drill(options: &Options) -> Result<Report, DrillError> {
    let scratch = &options.scratch;
    let io = |error| BackupError::Io {
        path: scratch.clone(),
        error,
    };
    fs::create_dir_all(scratch).map_err(io)?;
    if fs::read_dir(scratch).map_err(io)?.next().is_some() {
        let path = scratch.clone();
        return Err(BackupError::NotEmpty { path }.into());
    }
    let (cluster, after) = (scratch.join("cluster"), scratch.join("after"));
    let outcome = act(options, &cluster, &after);
    if !options.keep {
        for path in [&cluster, &after] {
            // What stays is in a directory that is for that.
            drop(fs::remove_dir_all(path));
        }
    }
    outcome
}

fn act(options: &Options, cluster: &Path, after: &Path) -> Result<Report, DrillError> {
    let mut watch = Watch::start();
    let files = Files::of(&options.from)?;
    let directory = files.directory();
    let manifest = verify(&files)?;
    options.points.check(&Extent::all(directory, &manifest)?)?;
    watch.lap("verify");

    let started = Scratch::start(cluster);
    let started = started.map_err(|reason| DrillError::Scratch { reason })?;
    watch.lap("start a cluster");
    restore::restore(
        directory,
        &manifest,
        &options.points,
        &started.clients(),
        false,
    )?;
    watch.lap("restore");

    let scope = Scope {
        group: None,
        with_log: false,
    };
    create(&started.admins(), scope, after)?;
    let copy = verify_in(after)?;
    drop(started);
    // What was due by then may have gone from one of the two.
    let now = now_unix_ms();
    let expected = content(directory, &manifest, &options.points, now)?;
    let found = content(after, &copy, &Points::default(), now)?;
    watch.lap("compare");
    if expected != found {
        return Err(DrillError::Differs {
            expected: expected.keys,
            expected_hash: expected.hash,
            found: found.keys,
            found_hash: found.hash,
        });
    }
    Ok(Report {
        cluster: manifest.cluster,
        age: Duration::from_millis(now.saturating_sub(manifest.created_unix_ms)),
        content: found,
        steps: watch.laps,
    })
}

/// What a backup holds that does not expire by a time.
fn content(
    directory: &Path,
    manifest: &Manifest,
    points: &Points,
    due_after_ms: u64,
) -> Result<Content, BackupError> {
    let mut content = Content::default();
    for file in &manifest.files {
        let path = directory.join(&file.snapshot.name);
        let mut add = |chunk: &[u8]| content.add(&path, chunk, due_after_ms);
        restore::each_chunk(directory, file, points.of(file.snapshot.group), &mut add)?;
    }
    Ok(content)
}

impl Content {
    fn add(&mut self, path: &Path, chunk: &[u8], due_after_ms: u64) -> Result<(), BackupError> {
        for item in Items::new(chunk) {
            if let Item::Entry { key, value, due } = item.map_err(|it| damaged(path, it))?
                && due.is_none_or(|due| due > due_after_ms)
            {
                self.keys += 1;
                self.hash = self.hash.wrapping_add(fingerprint_of(key, value, due));
            }
        }
        Ok(())
    }
}

/// A stopwatch.
struct Watch {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

#[expect(clippy::disallowed_methods, reason = "a drill tells how long it took")]
impl Watch {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, step: &'static str) {
        let now = Instant::now();
        self.laps.push((step, now - self.last));
        self.last = now;
    }
}

impl Report {
    fn minutes(&self) -> f64 {
        let all: Duration = self.steps.iter().map(|(_, took)| *took).sum();
        all.as_secs_f64() / 60.0
    }

    fn told(&self) -> String {
        let Content { keys, hash } = self.content;
        let steps = self.steps.iter();
        let steps = steps.map(|(step, took)| format!("{step} {:.1} s", took.as_secs_f64()));
        format!(
            "the drill has succeeded: all {keys} keys of cluster {} came back (hash {hash:016x}) in {:.1} minutes: {}. \
             The backup is {:.1} hours old: a loss now would cost what is newer",
            self.cluster,
            self.minutes(),
            steps.collect::<Vec<_>>().join(", "),
            self.age.as_secs_f64() / 3600.0
        )
    }

    fn json(&self) -> serde_json::Value {
        let Content { keys, hash } = self.content;
        let steps = self.steps.iter();
        let steps =
            steps.map(|(step, took)| json!({ "step": step, "seconds": took.as_secs_f64() }));
        json!({
            "ok": true,
            "cluster": self.cluster,
            "keys": keys,
            "hash": format!("{hash:016x}"),
            "minutes": self.minutes(),
            "backup_age_seconds": self.age.as_secs(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::batch::{Batch, BatchBuilder};
    use engine::kv::Kv;
    use engine::state_machine::StateMachine;
    use net::Command;
    use net::command::{Condition, Expiry};

    /// What two groups hold of which each owns half of the slots.
    fn content(slots: [(u16, u16); 2], keys: &[(&str, &str, Option<u64>)]) -> Content {
        let mut content = Content::default();
        for (first, last) in slots {
            let mut builder = BatchBuilder::default();
            for &(key, value, due) in keys {
                let owned = (first..=last).contains(&net::Slot::of(key.as_bytes()).number());
                if owned {
                    builder.push(&Command::Set {
                        key: key.as_bytes(),
                        value: value.as_bytes(),
                        expiry: due.map_or(Expiry::Never, Expiry::At),
                        condition: Condition::Always,
                        get: false,
                    });
                }
            }
            let (mut kv, mut chunk) = (Kv::new((first, last)), Vec::new());
            let payload = builder.seal(1);
            kv.apply(&Batch::access(&payload).unwrap(), &mut Vec::new());
            kv.snapshot_begin();
            while kv.snapshot_next(1 << 20, &mut chunk) {}
            content.add(Path::new("state"), &chunk, 1000).unwrap();
        }
        content
    }

    #[test]
    fn contents_are_equal_whatever_group_a_key_is_in_and_differ_by_any_byte() {
        let keys = [("a", "1", None), ("b", "2", Some(5000)), ("c", "", None)];
        let halves = [(0, 8191), (8192, 16383)];
        let expected = content(halves, &keys);
        assert_eq!(expected.keys, 3);
        assert_eq!(content([(0, 99), (100, 16383)], &keys), expected);
        let expired = [keys[0], keys[1], keys[2], ("gone", "x", Some(900))];
        assert_eq!(
            content(halves, &expired),
            expected,
            "what is due is not compared"
        );
        for changed in [
            ("b", "3", Some(5000)),
            ("b", "2", Some(5001)),
            ("d", "2", Some(5000)),
        ] {
            let found = content(halves, &[keys[0], changed, keys[2]]);
            assert_eq!(found.keys, 3);
            assert_ne!(found.hash, expected.hash, "{changed:?}");
        }
    }
}
