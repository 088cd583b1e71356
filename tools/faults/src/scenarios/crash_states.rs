//! Everything that is written to a disk is recorded once; then the power is cut at many places of the
//! record, and each time the disk is one that kept what it had confirmed, and of the rest any part.

use std::path::Path;
use std::time::Duration;

use crate::machine::{interrupted, run as run_program};
use crate::record::{Disk, Record};
use crate::scenario::{Ledger, Stage, Tally};
use crate::trouble::Trouble;
use crate::uml::{boot, disk, mount_point};
use crate::volume::{Image, Kind, LoopDevice, Mount};

const PATIENCE: Duration = Duration::from_secs(120);
/// Entries of the log that is recorded: about seven segments, some of them recycled files.
const ENTRIES: u64 = 6000;
const RECORD_BYTES: u64 = 1 << 30;

pub(super) fn on_ext4(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    with_sync(stage, tally, Kind::Ext4)
}

pub(super) fn on_xfs(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    with_sync(stage, tally, Kind::Xfs)
}

fn with_sync(stage: &Stage, tally: &mut Tally, kind: Kind) -> Result<(), Trouble> {
    let mut acked = 0;
    each_state(stage, kind, "", |ledger, log| {
        acked = acked.max(ledger.acked);
        ledger.verify(log, tally)?;
        tally.rounds += 1;
        Ok(())
    })?;
    tally.acked = acked;
    Ok(())
}

/// The negative control: a writer that does not sync must lose something, or nothing was tested.
pub(super) fn without_sync(stage: &Stage, tally: &mut Tally) -> Result<(), Trouble> {
    let (mut acked, mut states, mut lost_most) = (0, 0, 0);
    each_state(stage, Kind::Ext4, "--no-sync", |ledger, log| {
        acked = acked.max(ledger.acked);
        let mut lost = Tally::default();
        if ledger.verify(log, &mut lost).is_err() {
            states += 1;
            lost_most = lost_most.max(lost.lost);
            tally.lost += lost.lost;
        }
        tally.rounds += 1;
        Ok(())
    })?;
    tally.acked = acked;
    tally.note = format!("as it must, it lost up to {lost_most} entries in {states} states");
    if states == 0 {
        return Err(Trouble::Vacuous {
            what: "a writer that does not sync lost nothing".to_owned(),
        });
    }
    Ok(())
}

/// Records a writer, and gives each disk that was left to `look`.
fn each_state(
    stage: &Stage,
    kind: Kind,
    option: &str,
    mut look: impl FnMut(&Ledger, &Path) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let image = disk(stage, kind)?;
    let medium = Image(stage.directory.join("medium"));
    copy(&image.0, &medium.0)?;
    let record = Image::create(stage.directory.join("record"), RECORD_BYTES)?;
    let mount = mount_point(stage)?;
    let mut task = vec![
        "record".to_owned(),
        kind.name().to_owned(),
        mount.display().to_string(),
        ENTRIES.to_string(),
    ];
    task.extend((!option.is_empty()).then(|| option.to_owned()));
    let guest = boot(stage, &[&image.0, &record.0], &task)?;
    guest.wait_until("the guest has written its log", PATIENCE, |heard| {
        heard.done
    })?;
    guest.kill();

    let record = Record::read(&record.0)?;
    let places = record.places();
    if places.len() < 100 {
        return Err(Trouble::Vacuous {
            what: format!("the record has {} places", places.len()),
        });
    }
    let count = u64::try_from(places.len()).expect("it fits");
    let mut chosen: Vec<usize> = (0..stage.rounds)
        .map(|_| places.start + usize::try_from(stage.chance(count)).expect("it fits"))
        .collect();
    chosen.sort_unstable();
    let mut disk = Disk::new(&record, &medium.0);
    for place in chosen {
        interrupted()?;
        disk.advance(place)?;
        let state = Image(stage.directory.join("state"));
        copy(&medium.0, &state.0)?;
        disk.cut(&state.0, stage)?;
        let device = LoopDevice::attach(&state.0)?;
        let mut mounted = Mount::new(kind, &device.path, &stage.directory.join("mounted"))?;
        let ledger = Ledger {
            acked: disk.acked,
            term: disk.term,
        };
        let looked = look(&ledger, &mounted.path.join("log"));
        mounted.unmount()?;
        looked?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Trouble> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    run_program("cp", &["--sparse=always", &from, &to]).map(drop)
}
