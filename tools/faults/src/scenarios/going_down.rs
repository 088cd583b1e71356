//! A power cut of a live file system, in a millisecond: sizes, names and allocations that it had not
//! written yet are gone, what was written past its cache stays.

use std::time::Duration;

use crate::scenario::{Ledger, PATIENCE, Stage, Tally};
use crate::trouble::Trouble;
use crate::volume::{Kind, Volume};

/// Longest time until the shutdown, in milliseconds: from the start of the writer in one round, from
/// its first append in the next.
const LIFE_MAX: u64 = 150;
/// The file system is made anew after so many rounds.
const ROUNDS_OF_VOLUME: u32 = 10;

pub(super) fn on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    run(stage, tally, Kind::Ext4)
}

pub(super) fn on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    run(stage, tally, Kind::Xfs)
}

fn run(stage: &Stage, tally: &mut Tally, kind: Kind) -> Result<(), Trouble> {
    let mut left = stage.rounds;
    let mut unacked = 0;
    while left > 0 {
        let rounds = left.min(ROUNDS_OF_VOLUME);
        left -= rounds;
        let mut volume = Volume::create(&stage.directory, kind, 512 << 20)?;
        let mut ledger = Ledger::default();
        for _ in 0..rounds {
            unacked += go_down(stage, tally, &mut volume, &mut ledger)?;
            tally.rounds += 1;
        }
    }
    tally.note = format!("{unacked} times entries stayed that were not acknowledged");
    if tally.acked == 0 {
        return Err(Trouble::Vacuous {
            what: "no writer acknowledged anything before its file system went down".to_owned(),
        });
    }
    Ok(())
}

/// One shutdown under a writer; 1 if more was there than it had promised.
fn go_down(
    stage: &Stage,
    tally: &mut Tally,
    volume: &mut Volume,
    ledger: &mut Ledger,
) -> Result<u32, Trouble> {
    let log = volume.log();
    let writer = stage.writer(&log)?;
    if tally.rounds % 2 == 1 {
        writer.wait_until("the log is open", PATIENCE, |heard| heard.found.is_some())?;
    }
    writer.let_run(Duration::from_millis(stage.chance(LIFE_MAX)))?;
    volume.go_down(stage.chance(4) == 0)?;
    let (heard, status) = writer.outlive(PATIENCE)?;
    ledger.enter(&heard, tally)?;
    if heard.error.is_none() || status.success() {
        return Err(Trouble::Wrong {
            round: tally.rounds + 1,
            what: "the writer did not say that its disk failed",
            heard: Box::new(heard),
        });
    }
    volume.remount()?;
    let contents = ledger.verify(&log, tally)?;
    Ok(u32::from(contents.last > ledger.acked))
}
