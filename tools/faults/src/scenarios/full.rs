//! File systems without space: the log keeps a reserve and waits.

use std::time::Duration;

use crate::scenario::{Ledger, PATIENCE, Stage, Tally};
use crate::story::OPTIONS;
use crate::subject::{Heard, Subject};
use crate::trouble::Trouble;
use crate::volume::{Kind, Volume};

/// Starts without space.
const STARTS: u32 = 10;

pub(super) fn on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    becomes_full(stage, tally, Kind::Ext4)
}

pub(super) fn on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    becomes_full(stage, tally, Kind::Xfs)
}

fn becomes_full(stage: &Stage, tally: &mut Tally, kind: Kind) -> Result<(), Trouble> {
    for _ in 0..stage.rounds {
        let volume = Volume::create(&stage.directory, kind, kind.bytes_min())?;
        fill_and_relieve(stage, tally, volume)?;
        tally.rounds += 1;
    }
    tally.note = "waited for space, and went on".to_owned();
    Ok(())
}

fn fill_and_relieve(stage: &Stage, tally: &mut Tally, mut volume: Volume) -> Result<(), Trouble> {
    let log = volume.log();
    let mut ledger = Ledger::default();
    let writer = stage.hoarder(&log)?;
    writer.wait_until("it appends", PATIENCE, |heard| heard.acked >= 10)?;
    volume.fill(OPTIONS.segment_bytes * (3 + stage.chance(4)))?;
    writer.wait_until("the log is full", PATIENCE, |heard| heard.full)?;
    let stalled = stall(&writer)?;
    // All that was promised is there while it waits, and a reserve is left.
    let owed = Ledger {
        acked: stalled.acked,
        term: stalled.term,
    };
    owed.verify(&log, tally)?;
    if volume.free()? < OPTIONS.segment_bytes {
        return Err(Trouble::Wrong {
            round: tally.rounds + 1,
            what: "the log used up the reserve",
            heard: Box::new(stalled),
        });
    }
    // With space it goes on by itself.
    volume.relieve()?;
    let further = stalled.acked + 100;
    writer.wait_until("it goes on", PATIENCE, |heard| {
        !heard.full && heard.acked >= further
    })?;
    // Killed while it waits, and started on a full disk.
    volume.fill(OPTIONS.segment_bytes * 3)?;
    writer.wait_until("the log is full again", PATIENCE, |heard| heard.full)?;
    ledger.enter(&writer.kill(), tally)?;
    ledger.verify(&log, tally)?;
    let writer = stage.hoarder(&log)?;
    writer.wait_until("it starts on a full disk", PATIENCE, |heard| {
        heard.found.is_some() && heard.full
    })?;
    volume.relieve()?;
    let further = ledger.acked + 100;
    writer.wait_until("it goes on", PATIENCE, |heard| heard.acked >= further)?;
    start_again_and_again(stage, tally, (&volume, writer), &mut ledger)?;
    volume.remount()?;
    ledger.verify(&log, tally)?;
    Ok(())
}

/// Nothing is left at all, which the writer has not noticed yet. It is killed and started again and again, and
/// each time writes until it has used up what its segments had left.
fn start_again_and_again(
    stage: &Stage,
    tally: &mut Tally,
    (volume, mut writer): (&Volume, Subject),
    ledger: &mut Ledger,
) -> Result<(), Trouble> {
    let log = volume.log();
    volume.fill_up()?;
    for start in 0..STARTS {
        ledger.enter(&writer.kill(), tally)?;
        ledger.verify(&log, tally)?;
        writer = stage.hoarder(&log)?;
        writer.wait_until("it starts on a full disk", PATIENCE, |heard| {
            heard.found.is_some() && heard.full
        })?;
        if start == 0 {
            let further = ledger.acked + 1;
            writer.wait_until("it writes on a full disk", PATIENCE, |heard| {
                heard.acked >= further
            })?;
        }
    }
    volume.relieve()?;
    let further = ledger.acked + 100;
    writer.wait_until("it goes on", PATIENCE, |heard| heard.acked >= further)?;
    ledger.enter(&writer.kill(), tally)
}

/// Waits until a writer has filled what its segment had left.
fn stall(writer: &Subject) -> Result<Heard, Trouble> {
    let mut before = writer.heard();
    for _ in 0..100 {
        writer.let_run(Duration::from_millis(200))?;
        let now = writer.heard();
        if now.acked == before.acked {
            return Ok(now);
        }
        before = now;
    }
    Err(Trouble::Wrong {
        round: 0,
        what: "a full log takes entries without end",
        heard: Box::new(before),
    })
}
