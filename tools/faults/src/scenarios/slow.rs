//! A device that becomes slow for a while.

use std::path::PathBuf;
use std::time::Duration;

use crate::scenario::{Ledger, PATIENCE, Stage, Tally};
use crate::subject::Subject;
use crate::trouble::Trouble;
use crate::volume::{Kind, Volume};

pub(super) const BLKIO: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device";
/// Writes a second that the device takes when it is slow.
const WRITES_MAX: u32 = 40;
const SAMPLE: Duration = Duration::from_secs(1);

/// A control group that slows one device down for its processes.
struct Throttle {
    path: PathBuf,
    device: String,
}

impl Throttle {
    fn create(volume: &Volume, process: u32) -> Result<Self, Trouble> {
        let name = format!("drakkar-faults-{}", std::process::id());
        let path = PathBuf::from(BLKIO).with_file_name(name);
        std::fs::create_dir_all(&path).map_err(Trouble::io("create", &path))?;
        let device = volume.device_number()?;
        let throttle = Self { path, device };
        throttle.write("cgroup.procs", &process.to_string())?;
        Ok(throttle)
    }

    /// Zero: as fast as it can.
    fn limit(&self, writes_max: u32) -> Result<(), Trouble> {
        let line = format!("{} {writes_max}", self.device);
        self.write("blkio.throttle.write_iops_device", &line)
    }

    fn write(&self, file: &str, line: &str) -> Result<(), Trouble> {
        let path = self.path.join(file);
        std::fs::write(&path, line).map_err(Trouble::io("write", &path))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        drop(self.limit(0));
        // It can be removed once the writer is gone; the kernel may still be about it.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Entries acknowledged in a while.
fn pace(writer: &Subject) -> Result<u64, Trouble> {
    let before = writer.heard().acked;
    writer.let_run(SAMPLE)?;
    Ok(writer.heard().acked - before)
}

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    for _ in 0..stage.rounds {
        let mut volume = Volume::create(&stage.directory, Kind::Ext4, 1 << 30)?;
        let log = volume.log();
        let mut ledger = Ledger::default();
        let writer = stage.writer_at_work(&ledger, &log, 10)?;
        let throttle = Throttle::create(&volume, writer.id())?;
        let fast = pace(&writer)?;
        throttle.limit(WRITES_MAX)?;
        let slow = pace(&writer)?;
        throttle.limit(0)?;
        let further = writer.heard().acked + fast.max(2) / 2;
        writer.wait_until("it is fast again", PATIENCE, |heard| heard.acked >= further)?;
        throttle.limit(WRITES_MAX)?;
        writer.let_run(Duration::from_millis(stage.chance(300)))?;
        // The writes that wait for their turn must not hold up the end of the process for long.
        ledger.enter(&writer.kill(), tally)?;
        drop(throttle);
        volume.remount()?;
        ledger.verify(&log, tally)?;
        tally.note = format!("{fast} entries a second, {slow} while it was slow");
        if slow > fast / 2 {
            return Err(Trouble::Vacuous {
                what: tally.note.clone(),
            });
        }
        tally.rounds += 1;
    }
    Ok(())
}
