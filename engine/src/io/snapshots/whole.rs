//! A file that was finished, to be read.

use std::path::PathBuf;

use glommio::io::{DmaFile, OpenOptions, ReadResult};

use super::error::Failure;
use super::{PIECE, SnapshotFileError};
use crate::snapshot::{ALIGNMENT, SnapshotError};

/// A file that was finished.
pub(super) struct Whole {
    pub(super) path: PathBuf,
    file: DmaFile,
    bytes: u64,
}

impl Whole {
    pub(super) async fn open(path: PathBuf) -> Result<Self, SnapshotFileError> {
        let failed = |error: Failure| SnapshotFileError::reading("open", &path, error);
        let bytes = std::fs::metadata(&path)
            .map_err(|error| failed(error.into()))?
            .len();
        if bytes == 0 {
            // glommio must not see it: from an empty file it learns that any device can poll.
            let (offset, part) = (0, "header");
            let error = SnapshotError::Incomplete { offset, part };
            return Err(SnapshotFileError::Damaged { path, error });
        }
        let file = OpenOptions::new().read(true).dma_open(&path).await;
        let file = file.map_err(|error| failed(error.into()))?;
        Ok(Self { path, file, bytes })
    }

    /// The bytes from an aligned offset on, as many as are read at once; none at the end.
    pub(super) async fn piece(&self, offset: u64) -> Result<ReadResult, SnapshotFileError> {
        assert!(offset.is_multiple_of(ALIGNMENT as u64), "offset {offset}");
        let read = self.file.read_at_aligned(offset, PIECE).await;
        read.map_err(|error| SnapshotFileError::reading("read", &self.path, error))
    }

    /// Any bytes; fewer where the file ends.
    pub(super) async fn read(
        &self,
        offset: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, SnapshotFileError> {
        let end = offset.saturating_add(bytes as u64).min(self.bytes);
        let mut all = Vec::with_capacity(bytes.min(PIECE));
        let mut at = offset;
        while at < end {
            let aligned = at - at % ALIGNMENT as u64;
            let piece = self.piece(aligned).await?;
            let skip = usize::try_from(at - aligned).expect("less than the alignment");
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
            let Some(there) = piece.get(skip..).filter(|there| !there.is_empty()) else {
                break;
            };
            let there = &there[..there.len().min(wanted)];
            all.extend_from_slice(there);
            at += there.len() as u64;
        }
        Ok(all)
    }

    pub(super) async fn close(self) {
        // Nothing was written: there is nothing that a close could lose.
        drop(self.file.close().await);
    }
}
