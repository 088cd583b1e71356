//! The negative control: a writer that lays out the same log with plain writes past the page cache,
//! prepares its segments as it must, and does not make its flushes durable. Whoever loses nothing of
//! it in a power cut has not cut the power.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use wal::SegmentId;

use crate::block::Block;
use crate::story::{OPTIONS, Story};
use crate::verify::{direct, replay};
use crate::writer::{Voice, end};

/// Appends to a new log in `directory`, up to entry `last`.
pub(crate) fn run(directory: &Path, last: u64, voice: Voice) -> ExitCode {
    end(write(directory, last, &voice))
}

fn write(directory: &Path, last: u64, voice: &Voice) -> Result<(), String> {
    let say = |error: io::Error| error.to_string();
    let mut writer = replay(directory).map_err(|flaw| flaw.to_string())?.writer;
    std::fs::create_dir_all(directory).map_err(say)?;
    let mut story = Story::resume(None);
    voice.found(&story);
    let mut open: Option<(SegmentId, File)> = None;
    while story.last.to_raw() < last {
        let (number, records) = (writer.next_flush(), story.next_flush());
        let placement = writer.place(number, &records);
        let mut block = Block::zeroed(placement.bytes);
        writer.encode(&placement, &records, block.bytes_mut());
        let file = match open.take() {
            Some((segment, file)) if segment == placement.segment => file,
            _ => prepare(directory, placement.segment).map_err(say)?,
        };
        let written = file.write_all_at(block.bytes(), placement.offset);
        written.map_err(say)?;
        writer.written(number);
        voice.acked(story.last, story.term);
        open = Some((placement.segment, file));
    }
    Ok(())
}

/// Writes a segment with zeroes; it stays after a crash.
fn prepare(directory: &Path, segment: SegmentId) -> io::Result<File> {
    let path = directory.join(format!("{segment}.seg"));
    let file = File::create_new(&path)?;
    let bytes = usize::try_from(OPTIONS.segment_bytes).expect("a segment fits memory");
    file.write_all_at(Block::zeroed(bytes).bytes(), 0)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()?;
    File::options()
        .write(true)
        .custom_flags(direct())
        .open(path)
}
