//! How many flushes the logs of a data directory hold, and how long they are, found from outside: the
//! newest segment of a shard says with which flush it begins and where the one before ends, and every
//! flush how long it is.

use std::fs::File;
use std::io;
use std::iter::Sum;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wal::BLOCK;
use wal::io::{DataView, SegmentView};

const SEGMENT_MAGIC: &[u8] = b"DKSG";
const FLUSH_MAGIC: &[u8] = b"DKFL";

/// Flushes since logs were made, and how long those are that are still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flushes {
    pub(crate) count: u64,
    present: u64,
    present_bytes: u64,
}

impl Flushes {
    /// Of all logs of a data directory that nobody writes to now; `None` if it cannot be told, for
    /// instance because the format is another one.
    fn of(data: &Path) -> Option<Self> {
        let shards = DataView::open(data, true).and_then(|view| view.shards());
        let logs = shards.ok()?.into_iter();
        logs.map(|(_, directory)| of_log(&directory)).sum()
    }

    /// Of several data directories.
    pub(crate) fn of_all(data: &[impl AsRef<Path>]) -> Option<Self> {
        data.iter().map(|data| Self::of(data.as_ref())).sum()
    }

    /// Bytes of a flush on average: of those that are still there, for segments are recycled.
    pub(crate) fn mean_bytes(&self) -> f64 {
        self.present_bytes as f64 / self.present as f64
    }
}

impl Sum for Flushes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            count: sum.count + one.count,
            present: sum.present + one.present,
            present_bytes: sum.present_bytes + one.present_bytes,
        })
    }
}

fn of_log(directory: &Path) -> Option<Flushes> {
    let mut flushes = Flushes::default();
    let mut behind = None;
    for segment in SegmentView::list(directory).ok()?.into_iter().rev() {
        let file = File::open(directory.join(format!("{segment}.seg"))).ok()?;
        let mut head = [0; 40];
        file.read_exact_at(&mut head, 0).ok()?;
        // The newest segments may be ready and not begun; the others belong to the log if the one
        // behind them says so.
        let generation = u32_at(&head, 8);
        if !head.starts_with(SEGMENT_MAGIC) || generation != segment.to_raw() {
            continue;
        }
        let first = u64_at(&head, 24);
        match behind {
            None => {
                let (last, bytes) = walk(&file, generation).ok()?;
                flushes.count = last.unwrap_or(first.saturating_sub(1));
                flushes.present_bytes = bytes;
            }
            Some((previous, end)) if previous == generation => {
                flushes.present_bytes += u64::saturating_sub(end, BLOCK as u64);
            }
            Some(_) => break,
        }
        flushes.present = (flushes.count + 1).saturating_sub(first);
        behind = Some((u32_at(&head, 12), u64_at(&head, 16)));
    }
    Some(flushes)
}

/// The number of a segment's last flush, and the bytes of all of its flushes.
fn walk(file: &File, generation: u32) -> io::Result<(Option<u64>, u64)> {
    let length = file.metadata()?.len();
    let (mut last, mut at) = (None, BLOCK as u64);
    let mut flush = [0; 40];
    while at + BLOCK as u64 <= length {
        file.read_exact_at(&mut flush, at)?;
        let blocks = u32_at(&flush, 36);
        if !flush.starts_with(FLUSH_MAGIC) || u32_at(&flush, 8) != generation || blocks == 0 {
            break;
        }
        last = Some(u64_at(&flush, 16));
        at += u64::from(blocks) * BLOCK as u64;
    }
    Ok((last, at - BLOCK as u64))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
