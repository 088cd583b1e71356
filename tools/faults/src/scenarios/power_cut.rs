//! The power of a whole machine is cut, again and again, on one disk.

use std::time::Duration;

use crate::scenario::{Ledger, Stage, Tally};
use crate::trouble::Trouble;
use crate::uml::{boot, disk, mount_point};
use crate::volume::Kind;

/// Longest time for a kernel to start and a log to be opened, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time until the cut, in milliseconds.
const LIFE_MAX: u64 = 1500;
/// The disk is made anew after so many cuts.
const ROUNDS_OF_DISK: u32 = 5;

pub(super) fn on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    run(stage, tally, Kind::Ext4)
}

pub(super) fn on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    run(stage, tally, Kind::Xfs)
}

fn run(stage: &Stage, tally: &mut Tally, kind: Kind) -> Result<(), Trouble> {
    let mount = mount_point(stage)?;
    let mut left = stage.rounds;
    while left > 0 {
        let cuts = left.min(ROUNDS_OF_DISK);
        left -= cuts;
        let image = disk(stage, kind)?;
        let mut ledger = Ledger::default();
        // The last start only looks at what the last cut left.
        for cut in 0..=cuts {
            let task = [
                "write".to_owned(),
                kind.name().to_owned(),
                mount.display().to_string(),
                ledger.acked.to_string(),
                ledger.term.to_string(),
            ];
            let guest = boot(stage, &[&image.0], &task)?;
            let opened = guest.wait_until("the guest opens its log", PATIENCE, |heard| {
                heard.found.is_some() || heard.error.is_some()
            })?;
            if opened.error.is_some() {
                tally.lost += 1;
                return Err(Trouble::Wrong {
                    round: tally.rounds + 1,
                    what: "the log is not what it was before the power was cut",
                    heard: Box::new(opened),
                });
            }
            if cut < cuts {
                guest.let_run(Duration::from_millis(stage.chance(LIFE_MAX)))?;
            }
            ledger.enter(&guest.kill(), tally)?;
            tally.rounds += u32::from(cut < cuts);
        }
    }
    if tally.acked == 0 {
        return Err(Trouble::Vacuous {
            what: "nothing was acknowledged before the power was cut".to_owned(),
        });
    }
    Ok(())
}
