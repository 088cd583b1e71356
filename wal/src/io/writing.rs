//! A flush on its way to its segment. It is given to the kernel in parts, each once its bytes are final:
//! the device writes the first while the thread makes the next.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile};

use super::ring::{Operation, Ring};
use super::stream::stream;

/// Bytes of a part, at least. Fewer cost the device more than they gain.
const PART_BYTES_MIN: usize = 512 << 10;
/// Bytes that are made at once, at least: few enough to stay in the processor's caches until they are copied.
const PIECE_BYTES_MIN: usize = 32 << 10;

/// A flush, and the writes that were begun for it.
pub(super) struct Writing {
    /// Dropped first, which waits until the kernel has let go of the buffer.
    parts: Vec<(Operation, usize)>,
    buffer: DmaBuffer,
    file: Option<Rc<DmaFile>>,
    ring: Rc<Ring>,
    /// Where the flush begins in its segment.
    at: u64,
}

impl Writing {
    /// Makes the bytes of a flush with `encode`, which is given how small a piece may be, and what takes
    /// the pieces and where in the flush they begin, the start last. Writes parts of the flush as they come
    /// if `file` is there.
    pub(super) fn begin(
        ring: &Rc<Ring>,
        file: Option<Rc<DmaFile>>,
        mut buffer: DmaBuffer,
        at: u64,
        encode: impl FnOnce(usize, &mut dyn FnMut(usize, &[u8])),
    ) -> Self {
        let mut parts = Vec::new();
        let whole_bytes = buffer.len();
        let mut begin = |part: &[u8], from: usize| {
            let file = file.as_deref();
            parts.extend(file.map(|file| write(ring, file, part, at + from as u64, whole_bytes)));
        };
        let to = buffer.as_bytes_mut();
        // What was not given to the kernel yet, but for the start.
        let mut part = 0..0;
        let mut start = to.len();
        encode(PIECE_BYTES_MIN, &mut |from, bytes| {
            let end = from + bytes.len();
            stream(&mut to[from..end], bytes);
            if from == 0 {
                return;
            }
            if part.is_empty() {
                part.start = from;
                start = start.min(from);
            }
            part.end = end;
            if part.len() >= PART_BYTES_MIN {
                begin(&to[part.clone()], part.start);
                part.start = end;
            }
        });
        if part.start > start {
            if !part.is_empty() {
                begin(&to[part.clone()], part.start);
            }
            begin(&to[..start], 0);
        } else {
            begin(to, 0);
        }
        Self {
            parts,
            buffer,
            file,
            ring: ring.clone(),
            at,
        }
    }

    /// Whether it waits for its segment.
    pub(super) fn needs_file(&self) -> bool {
        self.file.is_none()
    }

    /// Its segment is ready.
    pub(super) fn give(&mut self, file: Rc<DmaFile>) {
        let bytes = self.buffer.as_bytes();
        let whole = write(&self.ring, &file, bytes, self.at, bytes.len());
        self.parts.push(whole);
        self.file = Some(file);
    }

    pub(super) fn file(&self) -> Option<&DmaFile> {
        self.file.as_deref()
    }

    /// Waits until all of it is written, durably if the file is opened so.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        for (written, bytes) in &mut self.parts {
            if written.await? != *bytes {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// Bytes that lie in the buffer of a [`Writing`], which keeps it until the write is done or dropped.
#[expect(
    unsafe_code,
    reason = "the kernel reads the bytes, and glommio's files do not implement AsFd"
)]
fn write(
    ring: &Ring,
    file: &DmaFile,
    bytes: &[u8],
    at: u64,
    whole_bytes: usize,
) -> (Operation, usize) {
    // SAFETY: the file owns the descriptor and is borrowed meanwhile.
    let file = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    // SAFETY: the operation is dropped before the buffer, and nobody leaks a `Writing`.
    let written = unsafe { ring.write_at(file, bytes, at, whole_bytes) };
    (written, bytes.len())
}
