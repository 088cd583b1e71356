//! Files of zeroes that are to become segments: made with all the disk can give when a log begins, and in
//! step with what is appended later, so that no flush waits long behind them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use glommio::io::{DmaFile, OpenOptions};
use glommio::timer::sleep;
use rustix::fs::OFlags;

use super::durability::Durability;
use super::ring::Ring;
use super::segments::flag;
use crate::BLOCK;

/// How much is zeroed at once: a flush waits for no more than that.
const CHUNK: usize = 128 << 10;
/// The same before anything is appended, and for an append that waits for the file itself.
const CHUNK_AT_START: usize = 1 << 20;
/// How long the disk is left alone between two chunks, unless appends are faster than this.
const PAUSE: Duration = Duration::from_millis(2);
/// A file with this extension is zeroes from its beginning to its end, and stays so after a crash.
const BLANK: &str = "zero";
const UNFINISHED: &str = "part";

/// How fast a file is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing is appended before it is ready.
    Full,
    /// In time for the moment when as much was appended as it will hold.
    Appends,
}

/// The files of one log that nothing was written to yet.
pub(super) struct Blanks {
    directory: PathBuf,
    segment_bytes: u64,
    ring: Rc<Ring>,
    durability: Durability,
    /// Those that are ready.
    ready: RefCell<VecDeque<PathBuf>>,
    named: Cell<u32>,
    appended_bytes: Cell<u64>,
    hurried: Cell<bool>,
    stopped: Cell<bool>,
}

impl Blanks {
    pub(super) fn new(
        directory: &Path,
        segment_bytes: u64,
        ring: Rc<Ring>,
        durability: Durability,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            segment_bytes,
            ring,
            durability,
            ready: RefCell::default(),
            named: Cell::new(0),
            appended_bytes: Cell::new(0),
            hurried: Cell::new(false),
            stopped: Cell::new(false),
        }
    }

    /// Takes over what an earlier process made, and removes what it did not finish or made for segments
    /// of another size.
    pub(super) fn find(&self) -> io::Result<()> {
        for file in std::fs::read_dir(&self.directory)? {
            let path = file?.path();
            let extension = path.extension().and_then(|it| it.to_str());
            if extension == Some(BLANK) && path.metadata()?.len() == self.segment_bytes {
                let stem = path.file_stem().and_then(|it| it.to_str());
                let number = stem.and_then(|stem| stem.parse().ok()).unwrap_or(0);
                self.named.set(self.named.get().max(number));
                self.ready.borrow_mut().push_back(path);
            } else if matches!(extension, Some(BLANK | UNFINISHED)) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// How many are ready.
    pub(super) fn len(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Makes one. It stays after a crash once the directory was synced.
    pub(super) async fn add(&self) -> Result<(), glommio::GlommioError<()>> {
        self.named.set(self.named.get() + 1);
        let path = self.directory.join(self.named.get().to_string());
        let (unfinished, finished) = (path.with_extension(UNFINISHED), path.with_extension(BLANK));
        let made = self.create(&unfinished, Pace::Full).await;
        if let Err(error) = made {
            drop(std::fs::remove_file(unfinished));
            return Err(error);
        }
        made?.close().await?;
        std::fs::rename(unfinished, &finished)?;
        self.ready.borrow_mut().push_back(finished);
        Ok(())
    }

    /// One that is ready, under the name of a segment. It keeps that once the directory was synced.
    pub(super) async fn take(
        &self,
        segment: &Path,
    ) -> Result<Option<DmaFile>, glommio::GlommioError<()>> {
        let Some(blank) = self.ready.borrow_mut().pop_front() else {
            return Ok(None);
        };
        std::fs::rename(blank, segment)?;
        let mut options = OpenOptions::new();
        let sync = flag(self.durability.flag());
        options.read(true).write(true).custom_flags(sync);
        Ok(Some(options.dma_open(segment).await?))
    }

    /// So many bytes more were appended to the log.
    pub(super) fn appended(&self, bytes: usize) {
        let sum = self.appended_bytes.get() + bytes as u64;
        self.appended_bytes.set(sum);
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.get()
    }

    /// Someone waits for the file that is being made.
    pub(super) fn hurry(&self) {
        self.hurried.set(true);
    }

    /// No file is needed any more: those that are being made are given up.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
    }

    /// Makes a file of zeroes and opens it.
    pub(super) async fn create(
        &self,
        path: &Path,
        pace: Pace,
    ) -> Result<DmaFile, glommio::GlommioError<()>> {
        let begun_at = self.appended_bytes.get();
        self.hurried.set(pace == Pace::Full);
        // glommio asks the device whether it can poll by reading from the first file it opens; on an
        // empty file that always works, and every later read of a device that cannot would fail.
        let begun = path.to_owned();
        let begin = move || -> io::Result<File> {
            let mut options = File::options();
            options.create_new(true).write(true).mode(0o600);
            let mut file = options.open(&begun)?;
            file.write_all(&[0; BLOCK])?;
            file.sync_all()?;
            let direct = flag(OFlags::DIRECT);
            File::options().write(true).custom_flags(direct).open(begun)
        };
        // Synced once when all is written, not at each write: flushes of the log go on meanwhile.
        let unsynced = glommio::executor().spawn_blocking(begin).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let sync = flag(self.durability.flag());
        let file = options.custom_flags(sync).dma_open(path).await?;
        file.pre_allocate(self.segment_bytes, false).await?;
        let mut zeroes = file.alloc_dma_buffer(CHUNK_AT_START);
        zeroes.as_bytes_mut().fill(0);
        let mut at = 0;
        while at < self.segment_bytes {
            if self.stopped.get() {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            let hurried = self.hurried.get();
            let chunk = if hurried { CHUNK_AT_START } else { CHUNK };
            let left = self.segment_bytes - at;
            let bytes = usize::try_from(left).map_or(chunk, |left| left.min(chunk));
            let zeroes = &zeroes.as_bytes()[..bytes];
            match self.ring.write(unsynced.as_fd(), zeroes, at).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                written => at += written as u64,
            }
            // A quarter faster than appends: what is left then is small.
            let appended = self.appended_bytes.get() - begun_at;
            if !hurried && at > appended + appended / 4 {
                sleep(PAUSE).await;
            }
        }
        file.fdatasync().await?;
        Ok(file)
    }
}
