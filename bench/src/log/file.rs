//! A plain file that was written before: `pwrite`, then `fdatasync`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::turns::{Turns, Watch};
use super::{Cell, Measured, Plan, noise};

/// The file is written from its start again when it is full.
pub(super) const FILE_BYTES: u64 = 256 << 20;

/// A file of zeroes, all of which are on the disk; what a turn before has written to it is as good.
pub(super) fn prepared(plan: &Plan, name: &str) -> io::Result<PathBuf> {
    let path = plan.prepared.join(name);
    if !path.exists() {
        let mut file = File::create(&path)?;
        let zeroes = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeroes)?;
        }
        file.sync_all()?;
    }
    Ok(path)
}

pub(super) fn measure(cell: &Cell, plan: &Plan) -> Result<Measured, String> {
    let outcome = prepared(plan, "buffered").and_then(|path| {
        let file = File::options().write(true).open(path)?;
        let bytes = noise(cell.batch_bytes() * cell.batches_per_flush());
        let mut turns = Turns::new(cell);
        let mut watch = Watch::start(plan);
        let mut at = 0;
        let mut flushes = 0;
        loop {
            let groups = turns.take();
            let bytes = &bytes[..cell.batch_bytes() * groups.len()];
            if at + bytes.len() as u64 > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(bytes, at)?;
            file.sync_data()?;
            at += bytes.len() as u64;
            flushes += 1;
            turns.done(&groups);
            if let Some(measured) = watch.count(groups.len() as u64, || flushes) {
                return Ok(measured);
            }
        }
    });
    outcome.map_err(|error| error.to_string())
}
