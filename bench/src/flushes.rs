//! How many flushes the logs of a data directory hold, and how long they are, found from outside: the
//! newest segment of a shard says with which flush it begins and where the one before ends, and every
//! flush how long it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wal::BLOCK;
use wal::io::{DataView, SegmentView};

const SEGMENT_MAGIC: &[u8] = b"DKSG";
const FLUSH_MAGIC: &[u8] = b"DKFL";

/// Flushes and their bytes since logs were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushes {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Flushes {
    /// Of all logs of a data directory that nobody writes to now and no segment of which was recycled
    /// yet; `None` if it cannot be told, for instance because the format is another one.
    pub(crate) fn of(data: &Path) -> Option<Self> {
        let shards = DataView::open(data, true).and_then(|view| view.shards());
        let mut all = Self::default();
        for (_, directory) in shards.ok()? {
            let one = of_log(&directory)?;
            all.count += one.count;
            all.bytes += one.bytes;
        }
        Some(all)
    }

    /// Of several data directories.
    pub(crate) fn of_all(data: &[impl AsRef<Path>]) -> Option<Self> {
        let mut all = Self::default();
        for directory in data {
            let one = Self::of(directory.as_ref())?;
            all.count += one.count;
            all.bytes += one.bytes;
        }
        Some(all)
    }

    /// What came since an earlier moment.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(before.count),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

fn of_log(directory: &Path) -> Option<Flushes> {
    let mut flushes = Flushes::default();
    let mut newest = true;
    for segment in SegmentView::list(directory).ok()?.into_iter().rev() {
        let file = File::open(directory.join(format!("{segment}.seg"))).ok()?;
        let mut head = [0; 40];
        file.read_exact_at(&mut head, 0).ok()?;
        // The newest segments may be ready and not begun.
        if !head.starts_with(SEGMENT_MAGIC) {
            continue;
        }
        // Where the segment before this one ends.
        flushes.bytes += u64_at(&head, 16).saturating_sub(BLOCK as u64);
        if newest {
            let (last, bytes) = walk(&file, &head[8..12]).ok()?;
            flushes.count = last.unwrap_or(u64_at(&head, 24).saturating_sub(1));
            flushes.bytes += bytes;
            newest = false;
        }
    }
    Some(flushes)
}

/// The number of a segment's last flush, and the bytes of all of its flushes.
fn walk(file: &File, generation: &[u8]) -> io::Result<(Option<u64>, u64)> {
    let length = file.metadata()?.len();
    let (mut last, mut at) = (None, BLOCK as u64);
    let mut flush = [0; 40];
    while at + BLOCK as u64 <= length {
        file.read_exact_at(&mut flush, at)?;
        let blocks = u32::from_le_bytes(flush[36..40].try_into().expect("four bytes"));
        if !flush.starts_with(FLUSH_MAGIC) || flush[8..12] != *generation || blocks == 0 {
            break;
        }
        last = Some(u64_at(&flush, 16));
        at += u64::from(blocks) * BLOCK as u64;
    }
    Ok((last, at - BLOCK as u64))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
