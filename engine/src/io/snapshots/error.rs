//! What can go wrong with the files of snapshots.

use std::io;
use std::path::{Path, PathBuf};

use glommio::GlommioError;
use rustix::io::Errno;
use wal::{GroupId, LogIndex, Term};

use crate::snapshot::{MadeError, SnapshotError};
use crate::state_machine::RestoreError;

/// Why a snapshot could not be written, read or received. The log is not touched by any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// What is free is left to the log, or nothing is.
    #[error(
        "no space for the snapshot {path}: {needed_bytes} bytes must be free: {error}; it is given up and can be \
         tried again: make space, the log cannot be shortened until then"
    )]
    Full {
        path: PathBuf,
        needed_bytes: u64,
        error: io::Error,
    },
    /// The device has lost what was written.
    #[error(
        "the device cannot read {path}: {error}; an older snapshot or a peer's has to do: look at the device"
    )]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("there is no {path}, or no more: newer snapshots have replaced it, use one of those")]
    Gone { path: PathBuf },
    #[error("{path} is no whole snapshot: {error}")]
    Damaged {
        path: PathBuf,
        #[source]
        error: SnapshotError,
    },
    #[error("{path} is {bytes} bytes long, which is no multiple of 4096: no snapshot ends there")]
    Length { path: PathBuf, bytes: u64 },
    #[error("the state machine does not take {path}: {error}")]
    Restore {
        path: PathBuf,
        #[source]
        error: RestoreError,
    },
    #[error(
        "{path} holds a snapshot of group {group} at entry {index} of term {term}: it has another's name"
    )]
    Misnamed {
        path: PathBuf,
        group: GroupId,
        index: LogIndex,
        term: Term,
    },
    #[error("{path} is of the cluster {found:?}, this is a node of {own:?}: remove the file")]
    Foreign {
        path: PathBuf,
        own: String,
        found: String,
    },
    #[error("{path} does not say who was in the group: {error}")]
    Membership {
        path: PathBuf,
        #[source]
        error: MadeError,
    },
    #[error("{path}: bytes from {found} on were received, those from {expected} on come next")]
    Order {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    #[error("{path} has failed before and takes nothing any more: begin the snapshot again")]
    Over { path: PathBuf },
}

impl SnapshotFileError {
    /// What became of doing something to a file.
    pub(super) fn io(what: &'static str, path: &Path, error: impl Into<Failure>) -> Self {
        let (path, Failure(error)) = (path.to_owned(), error.into());
        match error.kind() {
            kind if means_full(kind) => Self::Full {
                path,
                needed_bytes: super::PIECE as u64,
                error,
            },
            _ if means_lost(&error) => Self::Unreadable { path, error },
            _ => Self::Io { what, path, error },
        }
    }

    /// The same, of a file that should be there already.
    pub(super) fn reading(what: &'static str, path: &Path, error: impl Into<Failure>) -> Self {
        let failure = error.into();
        match failure.0.kind() {
            io::ErrorKind::NotFound => Self::Gone { path: path.into() },
            _ => Self::io(what, path, failure),
        }
    }

    /// Whether another attempt at the same file would end the same way, so that another file has to do.
    /// Otherwise it is the machine, or a limit, that is to be looked at first.
    pub(super) fn is_of_the_file(&self) -> bool {
        match self {
            Self::Unreadable { .. }
            | Self::Gone { .. }
            | Self::Length { .. }
            | Self::Restore { .. }
            | Self::Membership { .. }
            | Self::Misnamed { .. }
            | Self::Foreign { .. } => true,
            // The bytes are right then: a limit of this node is too low for them.
            Self::Damaged { error, .. } => !matches!(error, SnapshotError::ChunkTooLong { .. }),
            Self::Io { .. } | Self::Full { .. } | Self::Order { .. } | Self::Over { .. } => false,
        }
    }
}

/// An error of the kernel, with its number.
pub(super) struct Failure(io::Error);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<GlommioError<()>> for Failure {
    fn from(error: GlommioError<()>) -> Self {
        match error {
            // The rest of it repeats the path, and its own conversion drops the number.
            GlommioError::EnhancedIoError { source, .. } => Self(source),
            other => Self(other.into()),
        }
    }
}

fn means_full(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

fn means_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::BADMSG];
    lost.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
