//! A device that does not give a part of the log: the file below it is cut off there. The log must
//! say what it lost instead of going on as if its end were there.

use std::fs::File;
use std::path::Path;

use crate::machine::run as run_program;
use crate::scenario::{Ledger, PATIENCE, Stage, Tally, brief};
use crate::trouble::Trouble;
use crate::volume::{Kind, Volume, place_of};

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    for _ in 0..stage.rounds {
        let mut volume = Volume::create(&stage.directory, Kind::Ext4, Kind::Ext4.bytes_min())?;
        let log = volume.log();
        let mut ledger = Ledger::default();
        let writer = stage.writer_at_work(&ledger, &log, 1000)?;
        ledger.enter(&writer.kill(), tally)?;
        volume.mount.unmount()?;
        let whole = stage.directory.join("whole");
        copy(&volume.image.0, &whole)?;

        // Nothing may be written before the log has read: a write behind the end makes the file longer
        // again, and what is missing readable, as zeroes. ext4 writes when a first file is opened.
        volume.mount.mount_with("noatime")?;
        let place = place_of(&log.join("00000001.seg"))? + 4096 * stage.chance(200);
        run_program("sync", &["-f", &volume.mount.path.display().to_string()])?;
        let image = File::options().write(true).open(&volume.image.0);
        let cut = image.and_then(|image| image.set_len(place));
        cut.map_err(Trouble::io("cut off", &volume.image.0))?;
        let unreadable = Ledger::verify_unreadable(&log);
        let (heard, _) = stage.writer(&log)?.outlive(PATIENCE)?;
        volume.mount.unmount()?;
        copy(&whole, &volume.image.0)?;
        volume.mount.mount()?;
        if !unreadable {
            return Err(Trouble::Vacuous {
                what: "the log could be read although the device was cut off".to_owned(),
            });
        }
        let said = heard.error.as_deref().unwrap_or_default();
        if heard.found.is_some() || !said.contains("was durable and is not readable") {
            return Err(Trouble::Wrong {
                round: tally.rounds + 1,
                what: "the log did not say what it lost",
                heard: Box::new(heard),
            });
        }
        tally.note = format!("the writer said: {}", brief(said));
        ledger.verify(&log, tally)?;
        let writer = stage.writer_at_work(&ledger, &log, 10)?;
        ledger.enter(&writer.kill(), tally)?;
        ledger.verify(&log, tally)?;
        tally.rounds += 1;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Trouble> {
    std::fs::copy(from, to)
        .map(drop)
        .map_err(Trouble::io("copy", from))
}
