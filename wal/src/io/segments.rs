//! The files of a log that are segments, were, or are about to be: opened for direct and durable I/O.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::{Directory, DmaBuffer, DmaFile, OpenOptions};
use glommio::timer::sleep;
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::blanks::{Blanks, Pace};
use super::durability::Durability;
use super::log::LogError;
use super::reading::read_all;
use super::ring::Ring;
use super::writing::Writing;
use crate::{BLOCK, Placement, SegmentId};

/// A segment is only begun while there is space for so many: the rest is a reserve for what else
/// the file system holds.
const SEGMENTS_FREE: u64 = 2;
/// Bytes of files that are kept to become segments again: a log that was as long will be so again. Removing
/// one keeps a device busy that is told what it need not hold any more (`-o discard`): a tenth of a second
/// for 64 MiB, in which it writes nothing.
const FREE_BYTES_MAX: u64 = 4 << 30;
/// How often it is looked whether files are still being made when the log is closed.
const CLOSE_PAUSE: Duration = Duration::from_millis(2);
/// A disk that does not answer for so long is not waited for.
const CLOSE_PAUSES_MAX: usize = 5000;
/// How often a segment is tried again for which there was no space.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The segment files of one log.
pub(super) struct Segments {
    directory: PathBuf,
    segment_bytes: u64,
    ring: Rc<Ring>,
    blanks: Blanks,
    durability: Durability,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<SegmentId, Rc<DmaFile>>,
    /// Files of segments that are no part of the log any more, oldest first.
    free: VecDeque<(SegmentId, Rc<DmaFile>)>,
    /// Why no segment could be made ready.
    failure: Option<Rc<LogError>>,
    waiting: Vec<Waker>,
    full: bool,
    closed: bool,
    /// Nothing is written any more, so that no segment need be waited for.
    stopped: bool,
    /// How many files are being made or recycled.
    making: usize,
}

/// A file that is being made or recycled.
struct Making<'a>(&'a Segments);

impl<'a> Making<'a> {
    fn begin(segments: &'a Segments) -> Self {
        segments.state.borrow_mut().making += 1;
        Self(segments)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().making -= 1;
    }
}

impl Segments {
    pub(super) fn new(
        directory: &Path,
        segment_bytes: u64,
        ring: Rc<Ring>,
        durability: Durability,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            segment_bytes,
            blanks: Blanks::new(directory, segment_bytes, ring.clone(), durability),
            ring,
            durability,
            state: RefCell::default(),
        }
    }

    /// The segments that there are, oldest first.
    pub(super) fn list(&self) -> Result<Vec<SegmentId>, LogError> {
        let failed = |error| LogError::io("list", &self.directory, error);
        let mut found = Vec::new();
        self.blanks.find().map_err(failed)?;
        for file in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(raw) = number.and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
                found.push(SegmentId::from_raw(raw));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.directory.join(format!("{segment}.seg"))
    }

    /// Reads the first bytes of a segment past every cache; fewer if the file is shorter.
    pub(super) async fn read(&self, segment: SegmentId, bytes: u64) -> Result<Vec<u8>, LogError> {
        let path = self.path(segment);
        let file = OpenOptions::new().read(true).dma_open(&path).await;
        let file = Rc::new(file.map_err(|error| LogError::io("open", &path, error))?);
        let result = read_all(&file, bytes).await;
        let closed = file.close_rc().await;
        closed.map_err(|error| LogError::io("close", &path, error))?;
        result.map_err(|error| LogError::io("read", &path, error))
    }

    /// Makes durable what was written to a segment before this process began.
    pub(super) async fn sync_segment(&self, segment: SegmentId) -> Result<(), LogError> {
        let file = self.existing(segment).await?;
        let synced = file.fdatasync().await;
        synced.map_err(|error| LogError::io("sync", &self.path(segment), error))
    }

    pub(super) fn remove(&self, segment: SegmentId) -> Result<(), LogError> {
        let path = self.path(segment);
        std::fs::remove_file(&path).map_err(|error| LogError::io("remove", &path, error))
    }

    /// The segment is no part of the log any more, but its file is kept to become another's. Returns
    /// the one that is too many then.
    pub(super) fn keep(&self, segment: SegmentId) -> Option<SegmentId> {
        let mut state = self.state.borrow_mut();
        // Nothing is open any more once the log was closed.
        let file = state.open.remove(&segment)?;
        state.free.push_back((segment, file));
        if state.free.len() as u64 * self.segment_bytes <= FREE_BYTES_MAX {
            return None;
        }
        let (oldest, file) = state.free.pop_front().expect("more than none");
        state.open.insert(oldest, file);
        Some(oldest)
    }

    /// The files that are kept; they are so no more.
    pub(super) fn give_up(&self) -> Vec<SegmentId> {
        let mut state = self.state.borrow_mut();
        let free = std::mem::take(&mut state.free);
        let segments = free.iter().map(|&(segment, _)| segment).collect();
        state.open.extend(free);
        segments
    }

    /// Removes the file of a segment that is no part of the log any more.
    pub(super) async fn discard(&self, segment: SegmentId) -> Result<(), LogError> {
        if self.state.borrow().closed {
            return Err(LogError::Failed);
        }
        let file = self.state.borrow_mut().open.remove(&segment);
        if let Some(file) = file {
            // Nothing that matters is in it.
            drop(file.close_rc().await);
        }
        let path = self.path(segment);
        // On another thread: a device that is told may take its time.
        let removed = glommio::io::remove(&path).await;
        removed.map_err(|error| LogError::io("remove", &path, error))
    }

    /// The file that is to be recycled next.
    pub(super) fn oldest_free(&self) -> Option<SegmentId> {
        let state = self.state.borrow();
        state.free.front().map(|&(segment, _)| segment)
    }

    /// The same, if nobody has it open.
    pub(super) fn recyclable(&self) -> Option<SegmentId> {
        let state = self.state.borrow();
        let (segment, file) = state.free.front()?;
        (Rc::strong_count(file) == 1).then_some(*segment)
    }

    /// Makes the file of `from`, which is free, ready to be `to`. `table` is written to its end.
    pub(super) async fn recycle(
        &self,
        from: SegmentId,
        to: SegmentId,
        table: &[u8],
    ) -> Result<(), LogError> {
        let _making = Making::begin(self);
        let free = self.state.borrow_mut().free.pop_front();
        let (_, file) = free
            .filter(|&(oldest, _)| oldest == from)
            .expect("the oldest free segment is recycled");
        let path = self.path(to);
        let result = self.rename(&file, from, to, table).await;
        if self.state.borrow().closed {
            drop(file.close_rc().await);
            return Err(self.closed());
        }
        let mut state = self.state.borrow_mut();
        state.waiting.drain(..).for_each(Waker::wake);
        match result {
            Ok(()) => {
                state.full = false;
                state.open.insert(to, file);
                Ok(())
            }
            Err(error) => {
                let error = LogError::io("recycle", &path, error);
                state.failure = Some(Rc::new(error));
                Err(LogError::Failed)
            }
        }
    }

    /// Whether nothing is written any more.
    pub(super) fn is_stopped(&self) -> bool {
        let state = self.state.borrow();
        state.stopped || state.closed
    }

    /// Segments that are not ready will not be written.
    pub(super) fn stop(&self) {
        self.blanks.stop();
        let mut state = self.state.borrow_mut();
        state.stopped = true;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Nobody need wait for a segment any more.
    fn closed(&self) -> LogError {
        let mut state = self.state.borrow_mut();
        state.failure.get_or_insert(Rc::new(LogError::Failed));
        state.waiting.drain(..).for_each(Waker::wake);
        LogError::Failed
    }

    async fn rename(
        &self,
        file: &Rc<DmaFile>,
        from: SegmentId,
        to: SegmentId,
        table: &[u8],
    ) -> Result<(), glommio::GlommioError<()>> {
        let mut buffer = file.alloc_dma_buffer(table.len());
        buffer.as_bytes_mut().copy_from_slice(table);
        let at = self.segment_bytes - table.len() as u64;
        let written = file.write_at(buffer, at).await?;
        if written != table.len() {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        // Whoever opened the log again may have made a file of this name.
        if self.state.borrow().closed {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        std::fs::rename(self.path(from), self.path(to))?;
        self.sync_directory().await
    }

    /// What was made and removed stays so after a crash.
    pub(super) async fn sync(&self) -> Result<(), LogError> {
        let synced = self.sync_directory().await;
        synced.map_err(|error| LogError::io("sync", &self.directory, error))
    }

    async fn sync_directory(&self) -> Result<(), glommio::GlommioError<()>> {
        let directory = Directory::open(&self.directory).await?;
        directory.sync().await?;
        directory.close().await
    }

    /// Waits for a while, unless the log is closed.
    pub(super) async fn wait_for_space(&self) -> bool {
        let open = !self.state.borrow().closed;
        if open {
            sleep(RETRY_AFTER).await;
        }
        open
    }

    /// Makes a segment ready to be written: it has its size, holds zeroes, and stays after a crash.
    /// [`LogError::Full`] if there is no space, and nothing has failed then.
    pub(super) async fn prepare(&self, segment: SegmentId) -> Result<(), LogError> {
        self.prepare_with(segment, SEGMENTS_FREE).await
    }

    /// The same if there is space for so many segments.
    pub(super) async fn prepare_with(
        &self,
        segment: SegmentId,
        free_min: u64,
    ) -> Result<(), LogError> {
        let path = self.path(segment);
        let _making = Making::begin(self);
        let result = self.make(&path, free_min).await;
        if self.is_stopped() {
            if let Ok(file) = result {
                drop(file.close().await);
            }
            return Err(self.closed());
        }
        let mut state = self.state.borrow_mut();
        state.full = false;
        let outcome = match result {
            Ok(file) => {
                state.open.insert(segment, Rc::new(file));
                Ok(())
            }
            Err(error) if is_full(&error) => {
                state.full = true;
                // What was begun takes space itself; what stays is deleted at the next start.
                drop(std::fs::remove_file(&path));
                drop(state);
                return Err(self.full(path, error));
            }
            Err(error) => {
                let error = LogError::io("make", &path, error);
                state.failure = Some(Rc::new(error));
                Err(LogError::Failed)
            }
        };
        state.waiting.drain(..).for_each(Waker::wake);
        outcome
    }

    async fn make(&self, path: &Path, free_min: u64) -> Result<DmaFile, io::Error> {
        // Reads may have been waited for, and the files may be another log's by now.
        if self.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let file = match self.blanks.take(path).await? {
            Some(blank) => blank,
            None => {
                self.check_space(free_min)?;
                self.blanks.create(path, self.pace()).await?
            }
        };
        self.sync_directory().await?;
        Ok(file)
    }

    fn pace(&self) -> Pace {
        let state = self.state.borrow();
        // Before the first append no flush waits, and whoever opens the log does.
        let begins = state.open.is_empty() || self.blanks.appended_bytes() == 0;
        if begins || !state.waiting.is_empty() {
            Pace::Full
        } else {
            Pace::Appends
        }
    }

    /// Makes files ready until these are as many bytes, each to be a segment when one is needed.
    /// [`LogError::Full`] if there is no space.
    pub(super) async fn make_ready(&self, bytes: u64) -> Result<(), LogError> {
        let _making = Making::begin(self);
        while self.blanks.len() as u64 * self.segment_bytes < bytes {
            let made = match self.check_space(SEGMENTS_FREE) {
                Ok(()) => self.blanks.add().await.map_err(Into::into),
                Err(full) => Err(full),
            };
            made.map_err(|error| match is_full(&error) {
                true => self.full(self.directory.clone(), error),
                false => LogError::io("make a segment in", &self.directory, error),
            })?;
        }
        self.sync().await
    }

    /// Whether a segment can be made once a file that is as long is gone.
    pub(super) fn has_space_without_one(&self) -> bool {
        self.blanks.len() > 0 || self.check_space(SEGMENTS_FREE - 1).is_ok()
    }

    /// Waits until the file system has done with whatever a process that was killed had begun to write to
    /// a segment: it holds no file open any more, but what it gave to the kernel may still arrive.
    pub(super) async fn drain(&self, segment: SegmentId) -> Result<(), LogError> {
        let path = self.path(segment);
        let of = path.clone();
        let drained = glommio::executor().spawn_blocking(move || {
            let file = File::options().write(true).open(of)?;
            // It has this length and this block already, but both wait for its direct writes first: the one on
            // ext4 and xfs, the other on ext4 and btrfs; of a full disk it may be refused.
            file.set_len(file.metadata()?.len())?;
            let _ = fallocate(file, FallocateFlags::KEEP_SIZE, 0, BLOCK as u64);
            Ok(())
        });
        let drained: io::Result<()> = drained.await;
        drained.map_err(|error| LogError::io("drain", &path, error))
    }

    /// How many bytes were appended so far.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.blanks.appended_bytes()
    }

    fn full(&self, path: PathBuf, error: io::Error) -> LogError {
        LogError::Full {
            path,
            needed_bytes: self.segment_bytes * SEGMENTS_FREE,
            error,
        }
    }

    /// Whether there is space for so many segments.
    fn check_space(&self, free_min: u64) -> Result<(), io::Error> {
        let free = free_bytes(&self.directory)?;
        if free < self.segment_bytes * free_min {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.directory).ok()
    }

    /// Whether there was no space for the next segment when it was last tried.
    pub(super) fn is_full(&self) -> bool {
        self.state.borrow().full
    }

    /// Begins to write a flush of so many bytes, which `encode` makes in pieces: durable once it is
    /// written, unless [`Durability::Async`].
    pub(super) fn append(
        &self,
        placement: &Placement,
        encode: impl FnOnce(usize, &mut dyn FnMut(usize, &[u8])),
    ) -> Writing {
        self.blanks.appended(placement.bytes);
        let buffer = self.buffer(placement.bytes);
        let file = self.state.borrow().open.get(&placement.segment).cloned();
        Writing::begin(&self.ring, file, buffer, placement.offset, encode)
    }

    /// Waits until a flush is written: for its segment first, if that is not ready.
    pub(super) async fn finish(
        &self,
        mut writing: Writing,
        segment: SegmentId,
    ) -> Result<(), LogError> {
        if writing.needs_file() {
            writing.give(self.ready(segment).await?);
        }
        let written = writing.finish().await;
        written.map_err(|error| {
            let file = writing.file();
            let path = file.and_then(|file| file.path().map(|path| path.to_owned()));
            LogError::io("write", &path.unwrap_or_default(), error)
        })
    }

    /// A segment that is being made ready, once it is.
    async fn ready(&self, segment: SegmentId) -> Result<Rc<DmaFile>, LogError> {
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if let Some(file) = state.open.get(&segment) {
                return Poll::Ready(Ok(file.clone()));
            }
            if state.failure.is_some() || state.stopped {
                return Poll::Ready(Err(LogError::Failed));
            }
            state.waiting.push(context.waker().clone());
            self.blanks.hurry();
            Poll::Pending
        })
        .await
    }

    /// A segment that was written earlier.
    pub(super) async fn existing(&self, segment: SegmentId) -> Result<Rc<DmaFile>, LogError> {
        let open = self.state.borrow().open.get(&segment).cloned();
        if let Some(file) = open {
            return Ok(file);
        }
        let path = self.path(segment);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .custom_flags(flag(self.durability.flag()))
            .dma_open(&path)
            .await;
        let file = Rc::new(file.map_err(|error| LogError::io("open", &path, error))?);
        self.state.borrow_mut().open.insert(segment, file.clone());
        Ok(file)
    }

    /// Whether a segment that this start makes is there.
    pub(super) fn is_open(&self, segment: SegmentId) -> bool {
        self.state.borrow().open.contains_key(&segment)
    }

    /// An aligned buffer for a write to any of the segments.
    fn buffer(&self, bytes: usize) -> DmaBuffer {
        let state = self.state.borrow();
        let (_, file) = state
            .open
            .last_key_value()
            .expect("a segment is open from the start");
        file.alloc_dma_buffer(bytes)
    }

    /// What kept a segment from being made ready.
    pub(super) fn failure(&self) -> Option<Rc<LogError>> {
        self.state.borrow().failure.clone()
    }

    /// The same, for whom it ends with.
    pub(super) fn take_failure(&self) -> Option<LogError> {
        self.state
            .borrow_mut()
            .failure
            .take()
            .and_then(Rc::into_inner)
    }

    /// Closes the files that nobody uses any more.
    pub(super) async fn close(&self) {
        self.state.borrow_mut().closed = true;
        self.stop();
        // Whoever opens the log next may make files of the same names.
        for _ in 0..CLOSE_PAUSES_MAX {
            if self.state.borrow().making == 0 {
                break;
            }
            sleep(CLOSE_PAUSE).await;
        }
        let (open, free) = {
            let mut state = self.state.borrow_mut();
            (
                std::mem::take(&mut state.open),
                std::mem::take(&mut state.free),
            )
        };
        let free = free.into_iter().map(|(_, file)| file);
        for file in open.into_values().chain(free) {
            // Everything that matters is durable: what a close could still report is not news.
            drop(file.close_rc().await);
        }
    }
}

/// Bytes that may still be written to the file system of a directory.
fn free_bytes(directory: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether an error says that there is no space: on the device, in a quota, or under a limit.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

pub(super) fn flag(of_open: OFlags) -> i32 {
    i32::try_from(of_open.bits()).expect("a flag of open(2) is an int")
}

#[cfg(test)]
mod tests {
    use glommio::Placement;

    use super::super::executor;
    use super::*;

    #[test]
    fn a_log_that_is_opened_again_waits_for_its_next_segment_no_longer_than_the_disk_takes() {
        let name = format!("drakkar-pace-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.clone();
        let executor = executor::builder(Placement::Unbound).make().unwrap();
        executor.run(executor::awake(async move {
            let ring = Ring::start().unwrap();
            let open = || Segments::new(&path, 1 << 20, ring.clone(), Durability::Durable);
            let first = SegmentId::from_raw(1);
            let segments = open();
            assert_eq!(segments.pace(), Pace::Full);
            segments.prepare(first).await.unwrap();
            segments.close().await;

            let segments = open();
            segments.sync_segment(first).await.unwrap();
            assert_eq!(segments.pace(), Pace::Full, "nothing was appended");
            segments.blanks.appended(1);
            assert_eq!(segments.pace(), Pace::Appends);
            segments.close().await;
        }));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
