//! A device that does not give a part of the log: the file below it is cut off there. The log must
//! say so, and must not begin without what it cannot read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::machine::run as run_program;
use crate::scenario::{Ledger, PATIENCE, Stage, Tally};
use crate::trouble::Trouble;
use crate::volume::{Kind, Volume};

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    for _ in 0..stage.rounds {
        let mut volume = Volume::create(&stage.directory, Kind::Ext4, Kind::Ext4.bytes_min())?;
        let log = volume.log();
        let mut ledger = Ledger::default();
        let writer = stage.writer_at_work(&ledger, &log, 1000)?;
        ledger.enter(&writer.kill(), tally)?;
        // Read-only: a write behind the end would make the file longer, and what is missing readable.
        volume.mount.unmount()?;
        volume.mount.mount_with("ro")?;
        let place = place_of(&log.join("00000001.seg"))? + 4096 * stage.chance(200);
        let tail = cut_off(&volume.image.0, place)?;

        let writer = stage.writer(&log)?;
        let (heard, status) = writer.outlive(PATIENCE)?;
        let unreadable = Ledger::verify_unreadable(&log);
        restore(&volume.image.0, place, &tail)?;
        if !unreadable {
            return Err(Trouble::Vacuous {
                what: "the log could be read although the device was cut off".to_owned(),
            });
        }
        let said = heard.error.clone().unwrap_or_default();
        if heard.found.is_some() || !said.starts_with("cannot read") || status.success() {
            return Err(Trouble::Wrong {
                round: tally.rounds + 1,
                what: "the log was opened although a part of it cannot be read",
                heard: Box::new(heard),
            });
        }
        tally.note = format!("the writer said: {}", said);
        volume.remount()?;
        ledger.verify(&log, tally)?;
        let writer = stage.writer_at_work(&ledger, &log, 10)?;
        ledger.enter(&writer.kill(), tally)?;
        ledger.verify(&log, tally)?;
        tally.rounds += 1;
    }
    Ok(())
}

/// Where the last extent of a file begins on its device, in bytes: its first block may lie alone.
fn place_of(file: &Path) -> Result<u64, Trouble> {
    let listed = run_program("filefrag", &["-e", "-b1", &file.display().to_string()])?;
    // `   1:     4096.. 1048575:    4491264..   5535743: 1044480:    8918016: last,eof`
    let last = listed.lines().rev().find_map(|line| {
        let mut columns = line.split(':');
        columns.next()?.trim().parse::<u32>().ok()?;
        columns.nth(1)?.split("..").next()?.trim().parse().ok()
    });
    last.ok_or(Trouble::Command {
        line: format!("filefrag -e -b1 {}", file.display()),
        said: listed,
    })
}

/// Cuts the image off at `place`; what was behind.
fn cut_off(image: &Path, place: u64) -> Result<Vec<u8>, Trouble> {
    let cut = || {
        let file = File::options().read(true).write(true).open(image)?;
        let behind = file.metadata()?.len() - place;
        let mut tail = vec![0; usize::try_from(behind).expect("images are small")];
        file.read_exact_at(&mut tail, place)?;
        file.set_len(place)?;
        Ok(tail)
    };
    cut().map_err(Trouble::io("cut off", image))
}

fn restore(image: &Path, place: u64, tail: &[u8]) -> Result<(), Trouble> {
    let file = File::options().write(true).open(image);
    let restored = file.and_then(|file| file.write_all_at(tail, place));
    restored.map_err(Trouble::io("restore", image))
}
