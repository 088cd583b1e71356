//! A flush on its way to its segment. It is given to the kernel in parts, each once its bytes are final:
//! the device writes the first while the thread makes the next.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;

use glommio::io::{DmaBuffer, DmaFile};

use super::ring::{Operation, Ring};

/// Bytes of a part, at least. Fewer cost the device more than they gain.
const PART_BYTES_MIN: usize = 512 << 10;

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
    /// Makes the bytes of a flush with `encode`, which is given the buffer, how small a part may be, and
    /// what takes the parts and where in the buffer they begin. Writes them as they come if `file` is
    /// there.
    pub(super) fn begin(
        ring: &Rc<Ring>,
        file: Option<Rc<DmaFile>>,
        buffer: DmaBuffer,
        at: u64,
        encode: impl FnOnce(&mut [u8], usize, &mut dyn FnMut(usize, &[u8])),
    ) -> Self {
        let mut writing = Self {
            parts: Vec::new(),
            buffer,
            file,
            ring: ring.clone(),
            at,
        };
        let (parts, file) = (&mut writing.parts, writing.file.as_deref());
        encode(
            writing.buffer.as_bytes_mut(),
            PART_BYTES_MIN,
            &mut |from, bytes| {
                parts.extend(file.map(|file| write(ring, file, bytes, at + from as u64)));
            },
        );
        writing
    }

    /// Whether it waits for its segment.
    pub(super) fn needs_file(&self) -> bool {
        self.file.is_none()
    }

    /// Its segment is ready.
    pub(super) fn give(&mut self, file: Rc<DmaFile>) {
        let whole = write(&self.ring, &file, self.buffer.as_bytes(), self.at);
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
fn write(ring: &Ring, file: &DmaFile, bytes: &[u8], at: u64) -> (Operation, usize) {
    // SAFETY: the file owns the descriptor and is borrowed meanwhile.
    let file = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    // SAFETY: the operation is dropped before the buffer, and nobody leaks a `Writing`.
    (unsafe { ring.write_at(file, bytes, at) }, bytes.len())
}
