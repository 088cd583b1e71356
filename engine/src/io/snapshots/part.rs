//! A file that is being written, and how it gets its name.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{Directory, DmaFile, OpenOptions};

use super::error::Failure;
use super::{Name, PIECE, Shared, SnapshotFileError};
use crate::snapshot::ALIGNMENT;

/// A file that is being written. Dropped, it is no longer, and will be removed.
pub(super) struct Part {
    shared: Rc<Shared>,
    pub(super) name: Name,
    pub(super) path: PathBuf,
    /// None once something has failed.
    file: Option<DmaFile>,
    /// What comes behind what was written.
    pub(super) buffer: Vec<u8>,
    written: u64,
}

impl Part {
    pub(super) async fn create(shared: &Rc<Shared>, name: Name) -> Result<Self, SnapshotFileError> {
        shared.sweep().await;
        let number = {
            let mut state = shared.state.borrow_mut();
            state.parts_begun += 1;
            state.parts_begun
        };
        let file_name = format!("{}.{number}.part", name.to_text());
        let mut part = Self {
            shared: shared.clone(),
            name,
            path: shared.directory.join(file_name),
            file: None,
            buffer: Vec::new(),
            written: 0,
        };
        part.check_space()?;
        let file = create(&part.path).await;
        part.file = Some(file.map_err(|error| SnapshotFileError::io("make", &part.path, error))?);
        Ok(part)
    }

    pub(super) fn is_over(&self) -> bool {
        self.file.is_none()
    }

    pub(super) fn over(&self) -> SnapshotFileError {
        SnapshotFileError::Over {
            path: self.path.clone(),
        }
    }

    /// Bytes that it has been given.
    pub(super) fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(super) fn check(&self, header: &crate::snapshot::Header) -> Result<(), SnapshotFileError> {
        self.shared.check(self.name, &self.path, header)
    }

    /// Writes what fills whole pieces.
    pub(super) async fn write_pieces(&mut self) -> Result<(), SnapshotFileError> {
        let whole = self.buffer.len() / PIECE * PIECE;
        self.write(whole).await
    }

    /// Writes the first bytes of the buffer, a multiple of the alignment.
    async fn write(&mut self, bytes: usize) -> Result<(), SnapshotFileError> {
        assert!(bytes.is_multiple_of(ALIGNMENT), "{bytes} bytes to write");
        let mut done = 0;
        while done < bytes {
            self.check_space()?;
            let Some(file) = &self.file else {
                return Err(self.over());
            };
            let piece = &self.buffer[done..bytes.min(done + PIECE)];
            let mut buffer = file.alloc_dma_buffer(piece.len());
            buffer.as_bytes_mut().copy_from_slice(piece);
            let written = file.write_at(buffer, self.written).await;
            let failed = |error: Failure| SnapshotFileError::io("write", &self.path, error);
            let written = written.map_err(|error| failed(error.into()))?;
            // A disk that fills up takes less than it was given, and says why only the next time.
            let written = written / ALIGNMENT * ALIGNMENT;
            if written == 0 {
                return Err(failed(io::Error::from(io::ErrorKind::StorageFull).into()));
            }
            done += written;
            self.written += written as u64;
        }
        self.buffer.drain(..done);
        Ok(())
    }

    fn check_space(&self) -> Result<(), SnapshotFileError> {
        self.shared.check_space(&self.path, PIECE as u64)
    }

    /// Writes the rest, makes all of it durable, and gives the file its name.
    pub(super) async fn publish(&mut self) -> Result<(), SnapshotFileError> {
        self.write(self.buffer.len()).await?;
        let Some(file) = self.file.take() else {
            return Err(self.over());
        };
        let failed = |what, error| SnapshotFileError::io(what, &self.path, error);
        let synced = file.fdatasync().await;
        let closed = file.close().await;
        synced.map_err(|error| failed("sync", error))?;
        closed.map_err(|error| failed("close", error))?;
        let path = self.shared.path(self.name);
        let renamed = glommio::io::rename(&self.path, &path).await;
        renamed.map_err(|error| failed("rename", error))?;
        sync_directory(&self.shared.directory).await?;
        self.shared.publish(self.name).await;
        Ok(())
    }

    /// Gives its space back at once, because something has failed: the log may be waiting for it.
    pub(super) async fn discard<T>(
        &mut self,
        result: Result<T, SnapshotFileError>,
    ) -> Result<T, SnapshotFileError> {
        if result.is_err() {
            if let Some(file) = self.file.take() {
                // What was written is not wanted any more: how its close ends does not matter.
                drop(file.close().await);
            }
            super::remove(&self.path).await;
        }
        result
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nothing is there any more under that name if it was published or discarded.
        let mut state = self.shared.state.borrow_mut();
        state.abandoned.push(std::mem::take(&mut self.path));
    }
}

async fn create(path: &Path) -> Result<DmaFile, glommio::GlommioError<()>> {
    let first = path.to_owned();
    let made = glommio::executor().spawn_blocking(move || {
        // glommio asks the device whether it can poll by reading from the first file it opens; on an
        // empty file that always works, and every later read of a device that cannot would fail.
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(first)?;
        file.write_all(&[0; ALIGNMENT])?;
        file.sync_all()
    });
    made.await?;
    OpenOptions::new()
        .write(true)
        .read(true)
        .dma_open(path)
        .await
}

pub(super) async fn sync_directory(path: &Path) -> Result<(), SnapshotFileError> {
    let failed = |what| move |error| SnapshotFileError::io(what, path, error);
    let directory = Directory::open(path).await.map_err(failed("open"))?;
    let synced = directory.sync().await;
    let closed = directory.close().await;
    synced.map_err(failed("sync"))?;
    closed.map_err(failed("close"))
}
