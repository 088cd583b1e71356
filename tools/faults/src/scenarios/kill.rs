//! `kill -9` of a process that writes.

use std::time::Duration;

use crate::scenario::{Ledger, PATIENCE, Stage, Tally};
use crate::trouble::Trouble;

/// The log begins anew after so many rounds: replay reads all of it in each.
const ROUNDS_OF_LOG: u32 = 20;
/// Longest life of a writer, in milliseconds: from its start in one round, from its first append in
/// the next.
const LIFE_MAX: u64 = 120;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let log = stage.directory.join("log");
    let mut ledger = Ledger::default();
    let mut early = 0;
    for round in 0..stage.rounds {
        if round % ROUNDS_OF_LOG == 0 && round > 0 {
            std::fs::remove_dir_all(&log).map_err(Trouble::io("remove", &log))?;
            ledger = Ledger::default();
        }
        let writer = stage.writer(&log)?;
        if round % 2 == 1 {
            writer.wait_until("the log is open", PATIENCE, |heard| heard.found.is_some())?;
        }
        writer.let_run(Duration::from_millis(stage.chance(LIFE_MAX)))?;
        let heard = writer.kill();
        early += u32::from(heard.found.is_none());
        ledger.enter(&heard, tally)?;
        ledger.verify(&log, tally)?;
        tally.rounds += 1;
    }
    tally.note = format!("{early} killed before their log was open");
    if tally.acked == 0 {
        return Err(Trouble::Vacuous {
            what: "no writer acknowledged anything before it was killed".to_owned(),
        });
    }
    Ok(())
}
