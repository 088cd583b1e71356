//! Reads a log with nothing but `wal`'s replay and says what it holds. It asks for no ring, opens
//! nothing for writing, and reads past the page cache, which may remember what a disk never took.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wal::{BLOCK, LogIndex, Recovered, Replay, ReplayError, SegmentId, Term};

use crate::block::Block;
use crate::story::{GROUP, OPTIONS, payload};
use crate::trouble::Trouble;

/// More than any log of ours holds: every payload is kept.
const CACHE_BYTES: usize = 1 << 40;
const CHUNK: usize = 1 << 20;

/// What a log holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Every entry from the floor up to this one is there, as it was written.
    pub(crate) last: u64,
    pub(crate) term: u64,
    /// A flush was under way when the log ended.
    pub(crate) cut: bool,
}

/// Why a log does not hold what it must.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("cannot read {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("segment {segment} @{offset}: a flush that was durable is not readable")]
    Rotten { segment: SegmentId, offset: u64 },
    #[error("entry {index} is not what was written there")]
    Wrong { index: LogIndex },
    #[error("entry {index} is missing although entry {last} is there")]
    Gap { index: LogIndex, last: LogIndex },
    #[error(
        "the log ends at entry {found} of term {found_term}; {acked} of term {term} was acknowledged"
    )]
    Lost {
        found: u64,
        found_term: u64,
        acked: u64,
        term: u64,
    },
}

impl Flaw {
    /// Acknowledged entries that are not there.
    pub(crate) fn lost(&self, acked_all: u64) -> u64 {
        match self {
            Self::Lost { found, acked, .. } => acked.saturating_sub(*found).max(1),
            Self::Gap { .. } | Self::Wrong { .. } => 1,
            Self::Io { .. } | Self::Replay(_) | Self::Rotten { .. } => acked_all,
        }
    }
}

/// Replays the log in `directory` and compares every entry with what belongs there.
pub(crate) fn read(directory: &Path) -> Result<Contents, Flaw> {
    let recovered = replay(directory)?;
    if let Some(lost) = recovered.lost.first() {
        return Err(Flaw::Rotten {
            segment: lost.segment,
            offset: lost.offset,
        });
    }
    let cut = recovered.cut.is_some();
    let Some(log) = recovered.groups.get(&GROUP) else {
        return Ok(Contents {
            last: 0,
            term: 0,
            cut,
        });
    };
    // What lies below the floor is of no use any more; its segments may be gone.
    let above = log.tail.iter().filter(|entry| entry.index > log.floor.0);
    let mut expected = log.floor.0.next();
    for entry in above {
        if entry.index != expected {
            return Err(Flaw::Gap {
                index: expected,
                last: log.last,
            });
        }
        if entry.payload != payload(entry.index) || entry.term > log.hard_state.term {
            return Err(Flaw::Wrong { index: entry.index });
        }
        expected = expected.next();
    }
    if expected != log.last.next() {
        return Err(Flaw::Gap {
            index: expected,
            last: log.last,
        });
    }
    Ok(Contents {
        last: log.last.to_raw(),
        term: log.hard_state.term.to_raw(),
        cut,
    })
}

/// The same, and that everything up to entry `acked` and the vote of `term` are there.
pub(crate) fn read_promised(directory: &Path, acked: u64, term: u64) -> Result<Contents, Flaw> {
    let contents = read(directory)?;
    if contents.last < acked || contents.term < term {
        return Err(Flaw::Lost {
            found: contents.last,
            found_term: contents.term,
            acked,
            term,
        });
    }
    Ok(contents)
}

/// Gives the files of a log to replay.
pub(crate) fn replay(directory: &Path) -> Result<Recovered, Flaw> {
    let mut firsts = Vec::new();
    for segment in segments(directory)? {
        firsts.push((segment, read_file(directory, segment, BLOCK)?));
    }
    let blocks = firsts.iter().map(|(segment, block)| (*segment, &block[..]));
    let mut replay = Replay::new(OPTIONS, CACHE_BYTES, blocks)?;
    while let Some(segment) = replay.next_segment() {
        let bytes = usize::try_from(OPTIONS.segment_bytes).expect("a segment fits memory");
        replay.segment(&read_file(directory, segment, bytes)?)?;
    }
    Ok(replay.finish())
}

/// The segments that there are, oldest first; none if there is no log.
fn segments(directory: &Path) -> Result<Vec<SegmentId>, Flaw> {
    let failed = |error| Flaw::Io {
        path: directory.to_owned(),
        error,
    };
    let files = match std::fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for file in files {
        let name = file.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(raw) = number.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
            found.push(SegmentId::from_raw(raw));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The file of the segment that was made last.
pub(crate) fn newest_segment(directory: &Path) -> Result<PathBuf, Trouble> {
    let found = segments(directory).map_err(|flaw| Trouble::Flawed { round: 0, flaw })?;
    let newest = found.last().expect("a log that is written has segments");
    Ok(directory.join(format!("{newest}.seg")))
}

/// Up to `bytes` from the start of a segment.
fn read_file(directory: &Path, segment: SegmentId, bytes: usize) -> Result<Vec<u8>, Flaw> {
    let path = directory.join(format!("{segment}.seg"));
    let read = || {
        let mut options = File::options();
        let file = options.read(true).custom_flags(direct()).open(&path)?;
        let mut all = Vec::new();
        let mut chunk = Block::zeroed(CHUNK.min(bytes));
        while all.len() < bytes {
            match file.read_at(chunk.bytes_mut(), all.len() as u64)? {
                0 => break,
                read => all.extend_from_slice(&chunk.bytes()[..read.min(bytes - all.len())]),
            }
        }
        Ok(all)
    };
    read().map_err(|error| Flaw::Io {
        path: path.clone(),
        error,
    })
}

/// The flag of open(2) for direct I/O.
pub(crate) fn direct() -> i32 {
    i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag of open(2) is an int")
}

/// What the hidden command `verify` prints.
pub(crate) fn describe(directory: &Path, acked: u64) -> Result<String, Flaw> {
    let Contents { last, term, cut } = read_promised(directory, acked, Term::ZERO.to_raw())?;
    let end = if cut {
        ", and a flush that was cut"
    } else {
        ""
    };
    Ok(format!("entries up to {last}, term {term}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain;
    use crate::writer::Voice;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    /// A log of a hundred entries.
    fn log(name: &str) -> Scratch {
        let name = format!("drakkar-faults-{name}-{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        plain::run(&scratch.0, 100, Voice::default());
        scratch
    }

    #[test]
    fn a_whole_log_holds_what_was_promised_and_no_more() {
        let log = log("whole");
        let found = read_promised(&log.0, 100, 1).unwrap();
        assert!((100..104).contains(&found.last), "{found:?}");
        let more = read_promised(&log.0, found.last + 1, 1);
        assert!(matches!(more, Err(Flaw::Lost { .. })), "{more:?}");
        let vote = read_promised(&log.0, 100, 2);
        assert!(matches!(vote, Err(Flaw::Lost { .. })), "{vote:?}");
    }

    #[test]
    fn a_bit_that_flipped_and_an_end_that_is_missing_are_noticed() {
        let log = log("flawed");
        let path = log.0.join("00000001.seg");
        let whole = std::fs::read(&path).unwrap();
        let mut rotten = whole.clone();
        rotten[5 * BLOCK + 700] ^= 1;
        std::fs::write(&path, rotten).unwrap();
        let found = read_promised(&log.0, 100, 1);
        assert!(matches!(found, Err(Flaw::Rotten { .. })), "{found:?}");
        let mut short = whole;
        short[5 * BLOCK..].fill(0);
        std::fs::write(&path, short).unwrap();
        let found = read_promised(&log.0, 100, 1);
        assert!(matches!(found, Err(Flaw::Lost { .. })), "{found:?}");
    }
}
