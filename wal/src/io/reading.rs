//! Reads of segments, past every cache, as small as glommio and the kernel need them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use glommio::io::DmaFile;

use crate::{BLOCK, UNREADABLE};

/// How much is read at once. glommio polls for its reads, and a kernel such as 6.1 issues a polled read
/// that the device takes only in parts (`max_sectors_kb`) again and again, without end. With the blocks
/// that alignment adds, this is half of what the least of devices take.
const READ_BYTES: usize = 14 * BLOCK;
/// So many reads are under way at once when a segment is read as a whole.
const READS_MAX: usize = 16;

/// The first bytes of a file. What the device cannot read comes as [`UNREADABLE`] bytes: it is for
/// replay to say what that means.
pub(super) async fn read_all(
    file: &Rc<DmaFile>,
    bytes: u64,
) -> Result<Vec<u8>, glommio::GlommioError<()>> {
    let size = file.file_size().await?.min(bytes);
    let size = usize::try_from(size).expect("a segment fits memory");
    let all = Rc::new(RefCell::new(vec![0; size]));
    let mut under_way = VecDeque::new();
    let mut parts = (0..size).step_by(READ_BYTES);
    loop {
        for at in parts.by_ref().take(READS_MAX - under_way.len()) {
            let (file, all) = (file.clone(), all.clone());
            let read = async move { read_into(&all, &file, at).await };
            under_way.push_back(glommio::spawn_local(read));
        }
        let Some(read) = under_way.pop_front() else {
            let all = Rc::into_inner(all).expect("no read is under way");
            return Ok(all.into_inner());
        };
        read.await?;
    }
}

/// Reads a part of a file into its place, block by block if it cannot be read at once.
async fn read_into(
    all: &RefCell<Vec<u8>>,
    file: &DmaFile,
    at: usize,
) -> Result<(), glommio::GlommioError<()>> {
    let size = all.borrow().len();
    let end = size.min(at + READ_BYTES);
    let copy = |from: usize, read: &[u8]| {
        let to = size.min(from + read.len());
        all.borrow_mut()[from..to].copy_from_slice(&read[..to - from]);
    };
    // A file that was cut short may end within a block, which is asked for whole.
    let wanted = (end - at).next_multiple_of(BLOCK);
    match file.read_at_aligned(at as u64, wanted).await {
        Ok(part) => {
            copy(at, &part);
            return Ok(());
        }
        Err(error) if !is_unreadable(&error) => return Err(error),
        Err(_) => {}
    }
    for from in (at..end).step_by(BLOCK) {
        match file.read_at_aligned(from as u64, BLOCK).await {
            Ok(block) => copy(from, &block),
            Err(error) if !is_unreadable(&error) => return Err(error),
            Err(_) => copy(from, &[UNREADABLE; BLOCK]),
        }
    }
    Ok(())
}

/// Bytes of a segment that were written by this process or found whole; fewer at the end of the file.
pub(super) async fn read_part(
    file: &DmaFile,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, glommio::GlommioError<()>> {
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        let wanted = READ_BYTES.min(bytes - all.len());
        let part = file.read_at(offset + all.len() as u64, wanted).await?;
        if part.is_empty() {
            break;
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// Whether an error says that the device, or a file system that checks what it reads, has lost what
/// was written.
fn is_unreadable(error: &glommio::GlommioError<()>) -> bool {
    use glommio::GlommioError::{EnhancedIoError, IoError};
    use rustix::io::Errno;
    let (IoError(error) | EnhancedIoError { source: error, .. }) = error else {
        return false;
    };
    let lost = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG];
    lost.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
