//! The limit: a file that was written before, io_uring, `O_DIRECT` and `O_DSYNC`. The bytes are those
//! of the entries, rounded up to blocks, and lie ready in memory; or they come from elsewhere, as a
//! log's do, and are copied and summed once for each write.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use io_uring::{IoUring, opcode, types};
use rustix::fs::OFlags;
use wal::BLOCK;

use crate::log::file::{FILE_BYTES, prepared};
use crate::log::turns::{Turns, Watch};
use crate::log::{Cell, DEPTH, Measured, Plan, noise};

/// A file, a ring, and what every write takes its bytes from.
struct Ring {
    ring: IoUring,
    file: File,
    /// One buffer that is written again and again, or one for each write that may be under way.
    bytes: Vec<u8>,
    /// Where the bytes are aligned for direct writes.
    start: usize,
    buffer_bytes: usize,
    /// What buffers are filled with.
    source: Option<Vec<u8>>,
    at: u64,
}

impl Ring {
    fn new(plan: &Plan, bytes_max: usize, fills: bool) -> io::Result<Self> {
        let path = prepared(plan, "direct")?;
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
        let flags = i32::try_from(flags).expect("flags of open(2) are an int");
        let file = File::options().write(true).custom_flags(flags).open(path)?;
        let buffer_bytes = bytes_max.next_multiple_of(BLOCK);
        let bytes = noise(buffer_bytes * if fills { DEPTH } else { 1 } + BLOCK);
        let start = bytes.as_ptr().align_offset(BLOCK);
        let entries = u32::try_from(DEPTH).expect("few");
        Ok(Self {
            ring: IoUring::new(entries)?,
            file,
            bytes,
            start,
            buffer_bytes,
            source: fills.then(|| noise(buffer_bytes)),
            at: 0,
        })
    }

    /// Begins a write of so many bytes, rounded up to blocks. None of this tag is under way.
    fn write(&mut self, bytes: usize, tag: usize) -> io::Result<()> {
        let bytes = bytes.next_multiple_of(BLOCK);
        let mut start = self.start;
        if let Some(source) = &self.source {
            start += tag * self.buffer_bytes;
            let buffer = &mut self.bytes[start..start + bytes];
            buffer.copy_from_slice(&source[..bytes]);
            black_box(crc32c::crc32c(buffer));
        }
        if self.at + bytes as u64 > FILE_BYTES {
            self.at = 0;
        }
        let source = &self.bytes[start..start + bytes];
        let length = u32::try_from(bytes).expect("a flush is below 4 GiB");
        let file = types::Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(file, source.as_ptr(), length);
        let write = write.offset(self.at).build().user_data(tag as u64);
        self.at += bytes as u64;
        #[expect(unsafe_code, reason = "io_uring takes addresses")]
        // SAFETY: the kernel only reads the bytes, which are never moved while there is a ring, and changed
        // only where no write of the same tag is under way: `measure` waits for every write. After an error, which ends the program's turn, direct
        // writes hold their pages themselves.
        let pushed = unsafe { self.ring.submission().push(&write) };
        pushed.expect("the ring has a place for each flush");
        self.ring.submit().map(drop)
    }

    /// Waits for at least one write, and gives the tags of those that are durable.
    fn wait(&mut self) -> io::Result<Vec<u64>> {
        self.ring.submit_and_wait(1)?;
        let mut tags = Vec::new();
        for completion in self.ring.completion() {
            if completion.result() < 0 {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
            tags.push(completion.user_data());
        }
        Ok(tags)
    }
}

/// `fills`: each write's bytes are copied from elsewhere and summed.
pub(in crate::log) fn measure(cell: &Cell, plan: &Plan, fills: bool) -> Result<Measured, String> {
    let bytes_max = cell.batch_bytes() * cell.batches_per_flush();
    let outcome = Ring::new(plan, bytes_max, fills).and_then(|mut ring| {
        let mut turns = Turns::new(cell);
        let mut watch = Watch::start(plan);
        let mut under_way: [Option<Vec<usize>>; DEPTH] = [const { None }; DEPTH];
        let mut result = None;
        let mut flushes = 0;
        // At the end, what is under way is waited for.
        while result.is_none() || under_way.iter().any(Option::is_some) {
            for (tag, place) in under_way.iter_mut().enumerate() {
                if place.is_some() || result.is_some() {
                    continue;
                }
                let groups = turns.take();
                if groups.is_empty() {
                    break;
                }
                ring.write(cell.batch_bytes() * groups.len(), tag)?;
                *place = Some(groups);
            }
            for tag in ring.wait()? {
                let place = usize::try_from(tag).expect("a place");
                let groups = under_way[place].take().expect("it was under way");
                flushes += 1;
                turns.done(&groups);
                result = result.or_else(|| watch.count(groups.len() as u64, || flushes));
            }
        }
        Ok(result.expect("the loop ends with it"))
    });
    outcome.map_err(|error| error.to_string())
}
