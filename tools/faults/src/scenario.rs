//! What a scenario is, how it is run, and the table that tells what came of it.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::machine::{Need, interrupted};
use crate::story::mix;
use crate::subject::{Heard, Subject};
use crate::trouble::Trouble;
use crate::verify::{Contents, Flaw, read_promised};

/// How long a writer may take to open its log, and to notice that its disk is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One row of the table.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What it runs on, where there are several.
    pub(crate) variant: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static [Need],
    /// Rounds, and those of the short form: 0 if it is no part of that.
    pub(crate) rounds: u32,
    pub(crate) rounds_short: u32,
    pub(crate) run: fn(&Stage, &mut Tally) -> Result<(), Trouble>,
}

/// Where a scenario plays.
pub(crate) struct Stage {
    /// An empty directory of its own.
    pub(crate) directory: PathBuf,
    pub(crate) rounds: u32,
    chance: Cell<u64>,
}

impl Stage {
    pub(crate) fn new(directory: PathBuf, rounds: u32, seed: u64) -> Self {
        Self {
            directory,
            rounds,
            chance: Cell::new(mix(seed)),
        }
    }

    pub(crate) fn errors(&self) -> PathBuf {
        self.directory.join("stderr")
    }

    /// Below `limit`.
    pub(crate) fn chance(&self, limit: u64) -> u64 {
        assert!(limit > 0, "nothing is below zero");
        self.chance.set(self.chance.get().wrapping_add(1));
        mix(self.chance.get()) % limit
    }

    pub(crate) fn writer(&self, log: &Path) -> Result<Subject, Trouble> {
        Subject::start(log, &[], &self.errors())
    }

    /// A writer whose log only grows.
    pub(crate) fn hoarder(&self, log: &Path) -> Result<Subject, Trouble> {
        Subject::start(log, &["--keep-all"], &self.errors())
    }

    /// A writer that has opened its log and acknowledged `entries` behind `ledger`.
    pub(crate) fn writer_at_work(
        &self,
        ledger: &Ledger,
        log: &Path,
        entries: u64,
    ) -> Result<Subject, Trouble> {
        let writer = self.writer(log)?;
        let enough = ledger.acked + entries;
        writer.wait_until("the writer appends", PATIENCE, |heard| {
            heard.acked >= enough
        })?;
        Ok(writer)
    }
}

/// What a scenario counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Rounds that came to their end.
    pub(crate) rounds: u32,
    /// Entries that were acknowledged, and of these those that were missing.
    pub(crate) acked: u64,
    pub(crate) lost: u64,
    /// What else is worth a word.
    pub(crate) note: String,
}

/// What one log has promised so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) acked: u64,
    pub(crate) term: u64,
}

impl Ledger {
    /// What a writer that ended said becomes what the log owes. Of each writer once.
    pub(crate) fn enter(&mut self, heard: &Heard, tally: &mut Tally) -> Result<(), Trouble> {
        if let Some((index, term)) = heard.found
            && (index < self.acked || term < self.term)
        {
            tally.lost += (self.acked - index.min(self.acked)).max(1);
            return Err(Trouble::Wrong {
                round: tally.rounds + 1,
                what: "the writer found less than was acknowledged before",
                heard: Box::new(heard.clone()),
            });
        }
        if heard.acked > self.acked {
            tally.acked += heard.acked - self.acked;
            (self.acked, self.term) = (heard.acked, heard.term);
        }
        Ok(())
    }

    /// Everything that was promised is in the log.
    pub(crate) fn verify(&self, log: &Path, tally: &mut Tally) -> Result<Contents, Trouble> {
        read_promised(log, self.acked, self.term).map_err(|flaw| {
            tally.lost += flaw.lost(self.acked);
            Trouble::Flawed {
                round: tally.rounds + 1,
                flaw,
            }
        })
    }

    /// The log cannot be read for now: an error of the device, and none that says it is wrong.
    pub(crate) fn verify_unreadable(log: &Path) -> bool {
        matches!(read_promised(log, 0, 0), Err(Flaw::Io { .. }))
    }
}

/// What a writer complained of, without directories.
pub(crate) fn brief(said: &str) -> String {
    let said = said.split(", op: ").next().unwrap_or_default();
    let words = said.split(' ').map(|word| match word.strip_suffix(':') {
        Some(path) if path.starts_with('/') => path.rsplit('/').next().unwrap_or(path),
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What came of a scenario.
pub(crate) enum Verdict {
    Ok,
    Failed(Trouble),
    Skipped(String),
}

/// A scenario that was run, or not.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) tally: Tally,
    pub(crate) time: Duration,
    pub(crate) verdict: Verdict,
}

impl Scenario {
    pub(crate) fn title(&self) -> String {
        match self.variant {
            "" => self.name.to_owned(),
            variant => format!("{}/{variant}", self.name),
        }
    }

    /// Runs it in a directory below `parent`, which is removed.
    pub(crate) fn play(&self, parent: &Path, rounds: u32, seed: u64) -> Row {
        let mut tally = Tally::default();
        let start = Instant::now();
        let verdict = match self.needs.iter().find_map(|need| need.missing()) {
            Some(reason) => Verdict::Skipped(reason),
            None => match self.play_in_directory(parent, rounds, seed, &mut tally) {
                Ok(()) => Verdict::Ok,
                Err(trouble) => Verdict::Failed(trouble),
            },
        };
        Row {
            name: self.title(),
            tally,
            time: start.elapsed(),
            verdict,
        }
    }

    fn play_in_directory(
        &self,
        parent: &Path,
        rounds: u32,
        seed: u64,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        interrupted()?;
        let directory = parent.join(self.title().replace('/', "-"));
        std::fs::create_dir_all(&directory).map_err(Trouble::io("create", &directory))?;
        let stage = Stage::new(directory.clone(), rounds, seed);
        let outcome = (self.run)(&stage, tally);
        // What is left of it is a temporary file.
        drop(std::fs::remove_dir_all(&directory));
        outcome
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            rounds,
            acked,
            lost,
            note,
        } = &self.tally;
        let seconds = self.time.as_secs_f64();
        write!(f, "{:<20}", self.name)?;
        match &self.verdict {
            Verdict::Skipped(_) => write!(f, "{:>7}{:>14}{:>7}{:>9}", "-", "-", "-", "-")?,
            _ => write!(f, "{rounds:>7}{acked:>14}{lost:>7}{seconds:>7.1} s")?,
        }
        match &self.verdict {
            Verdict::Ok if note.is_empty() => write!(f, "  ok"),
            Verdict::Ok => write!(f, "  ok: {note}"),
            Verdict::Failed(trouble) => write!(f, "  FAILED: {trouble}"),
            Verdict::Skipped(reason) => write!(f, "  skipped: {reason}"),
        }
    }
}

/// The line above the rows.
pub(crate) fn heading() -> String {
    format!(
        "{:<20}{:>7}{:>14}{:>7}{:>9}  verdict",
        "scenario", "rounds", "acknowledged", "lost", "time"
    )
}
