//! Writes and flushes that fail. Whoever meets such an error must acknowledge nothing more, and what
//! it acknowledged before must be there when the device works again.

use std::path::Path;
use std::time::Duration;

use crate::faulty::{Fault, FaultyVolume};
use crate::machine::interrupted;
use crate::scenario::{Ledger, PATIENCE, Stage, Tally, brief};
use crate::story::OPTIONS;
use crate::trouble::Trouble;
use crate::verify::newest_segment;
use crate::volume::{Kind, place_of};

const EIO: i32 = 5;
/// Longest time until the fault, in milliseconds.
const LIFE_MAX: u64 = 300;
const SECTOR: u64 = 512;

const WRITES: Fault = Fault {
    request: "write",
    errno: EIO,
    sector: None,
    once: false,
};
const ONE_WRITE: Fault = Fault {
    once: true,
    ..WRITES
};
/// The daemon cannot be told that a flush works again while all of them fail: it flushes first.
const ONE_FLUSH: Fault = Fault {
    request: "flush",
    once: true,
    ..WRITES
};
pub(super) fn writes_on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Ext4, &|_| Ok(WRITES))
}

pub(super) fn writes_on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Xfs, &|_| Ok(WRITES))
}

pub(super) fn one_write(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Ext4, &|_| Ok(ONE_WRITE))
}

pub(super) fn flush_on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Ext4, &|_| Ok(ONE_FLUSH))
}

pub(super) fn flush_on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Xfs, &|_| Ok(ONE_FLUSH))
}

/// One sector of the segment that is written next.
pub(super) fn one_sector(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    repeat(stage, tally, Kind::Ext4, &|log| {
        let mut segment = newest_segment(log)?;
        // It has its place on the device once it has its size.
        while std::fs::metadata(&segment).map_or(0, |file| file.len()) < OPTIONS.segment_bytes {
            interrupted()?;
            segment = newest_segment(log)?;
        }
        let place = place_of(&segment)?;
        Ok(Fault {
            sector: Some(place / SECTOR + stage.chance(1000)),
            ..WRITES
        })
    })
}

/// Which fault to inject under a log.
type Choose<'a> = &'a dyn Fn(&Path) -> Result<Fault, Trouble>;

fn repeat(stage: &Stage, tally: &mut Tally, kind: Kind, choose: Choose<'_>) -> Result<(), Trouble> {
    for _ in 0..stage.rounds {
        fail_once(stage, tally, kind, choose)?;
        tally.rounds += 1;
    }
    Ok(())
}

fn fail_once(
    stage: &Stage,
    tally: &mut Tally,
    kind: Kind,
    choose: Choose<'_>,
) -> Result<(), Trouble> {
    let mut volume = FaultyVolume::create(&stage.directory, kind, 512 << 20)?;
    let log = volume.mount.path.join("log");
    let mut ledger = Ledger::default();
    let writer = stage.writer_at_work(&ledger, &log, 10)?;
    writer.let_run(Duration::from_millis(stage.chance(LIFE_MAX)))?;
    let fault = choose(&log)?;
    volume.arm(fault)?;
    let (heard, status) = writer.outlive(PATIENCE)?;
    ledger.enter(&heard, tally)?;
    let Some(said) = &heard.error else {
        return Err(Trouble::Wrong {
            round: tally.rounds + 1,
            what: "the writer did not say that its disk failed",
            heard: Box::new(heard),
        });
    };
    assert!(!status.success(), "whoever says an error ends with one");
    tally.note = format!("the writer said: {}", brief(said));
    // A sector that stays bad is no obstacle for a log that goes on elsewhere.
    if fault.sector.is_some() && said.starts_with("cannot write") {
        let writer = stage.writer_at_work(&ledger, &log, 10)?;
        ledger.enter(&writer.kill(), tally)?;
        ledger.verify(&log, tally)?;
    }
    volume.heal()?;
    volume.mount.unmount()?;
    volume.mount.mount()?;
    ledger.verify(&log, tally)?;
    let writer = stage.writer_at_work(&ledger, &log, 10)?;
    ledger.enter(&writer.kill(), tally)?;
    ledger.verify(&log, tally)?;
    Ok(())
}
