//! From the newest file that is whole to a state.

use wal::{GroupId, LogIndex, Term};

use super::whole::Whole;
use super::{Name, Shared, SnapshotFileError, Snapshots};
use crate::raft::Membership;
use crate::snapshot::{ALIGNMENT, Decoder, Event, Header, Summary};
use crate::state_machine::{RestoreError, StateMachine};

/// What the snapshots of a group gave.
pub struct Loaded<S> {
    /// The newest that is good; none if there is no such.
    pub restored: Option<Restored<S>>,
    /// Newer ones that are not, the newest first. They are not listed any more, and are removed when
    /// the next snapshot of the group is durable.
    pub refused: Vec<Refused>,
}

/// A state, and what it is of.
pub struct Restored<S> {
    pub state: S,
    pub header: Header,
    /// Who was in the group, if an entry had changed that, and which.
    pub membership: Option<(LogIndex, Membership)>,
    pub summary: Summary,
}

/// A snapshot that cannot be used.
#[derive(Debug)]
pub struct Refused {
    pub index: LogIndex,
    pub term: Term,
    /// Names the file.
    pub error: SnapshotFileError,
}

impl Snapshots {
    /// Restores the newest good snapshot of a group. One that is damaged, cannot be read or is not of
    /// this cluster is skipped. `make` gives an empty state, once for each attempt.
    ///
    /// Holds one state, one chunk of at most `chunk_bytes_max` and about 2 MiB in memory, and lets
    /// other tasks run between chunks.
    ///
    /// # Errors
    ///
    /// If the machine or a limit stands in the way of a file that may be good: to go back to an older
    /// one could lose what the log does not hold any more.
    pub async fn load<S: StateMachine>(
        &self,
        group: GroupId,
        make: impl Fn() -> S,
        chunk_bytes_max: usize,
    ) -> Result<Loaded<S>, SnapshotFileError> {
        let mut refused = Vec::new();
        for name in self.0.usable(group) {
            match restore(&self.0, name, make(), chunk_bytes_max).await {
                Ok(restored) => {
                    let restored = Some(restored);
                    return Ok(Loaded { restored, refused });
                }
                Err(error) if error.is_of_the_file() => {
                    self.0.refuse(name);
                    let Name { index, term, .. } = name;
                    refused.push(Refused { index, term, error });
                }
                Err(error) => return Err(error),
            }
        }
        let restored = None;
        Ok(Loaded { restored, refused })
    }

    /// Restores one snapshot into `state`, which is empty. It is not listed any more if it is not good.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with it, or in its way.
    pub async fn load_one<S: StateMachine>(
        &self,
        group: GroupId,
        index: LogIndex,
        term: Term,
        state: S,
        chunk_bytes_max: usize,
    ) -> Result<Restored<S>, SnapshotFileError> {
        let name = Name { group, index, term };
        let restored = restore(&self.0, name, state, chunk_bytes_max).await;
        if restored
            .as_ref()
            .is_err_and(SnapshotFileError::is_of_the_file)
        {
            self.0.refuse(name);
        }
        restored
    }
}

async fn restore<S: StateMachine>(
    shared: &Shared,
    name: Name,
    state: S,
    chunk_bytes_max: usize,
) -> Result<Restored<S>, SnapshotFileError> {
    let file = Whole::open(shared.path(name)).await?;
    let restored = restore_from(shared, name, &file, state, chunk_bytes_max).await;
    file.close().await;
    restored
}

async fn restore_from<S: StateMachine>(
    shared: &Shared,
    name: Name,
    file: &Whole,
    mut state: S,
    chunk_bytes_max: usize,
) -> Result<Restored<S>, SnapshotFileError> {
    let damaged = |error| SnapshotFileError::Damaged {
        path: file.path.clone(),
        error,
    };
    let refused = |error: RestoreError| SnapshotFileError::Restore {
        path: file.path.clone(),
        error,
    };
    let mut decoder = Decoder::new(chunk_bytes_max);
    let mut offset = 0;
    loop {
        let piece = file.piece(offset).await?;
        decoder.push(&piece);
        offset += piece.len() as u64;
        shared.state.borrow_mut().loaded_bytes += piece.len() as u64;
        while let Some(event) = decoder.next().map_err(damaged)? {
            match event {
                Event::Header(header) => shared.check(name, &file.path, header)?,
                Event::Chunk(chunk) => state.restore(chunk).map_err(refused)?,
            }
            glommio::yield_if_needed().await;
        }
        // Only the last piece can be of any other length.
        if piece.is_empty() || !offset.is_multiple_of(ALIGNMENT as u64) {
            break;
        }
    }
    let header = decoder.header().cloned();
    let summary = decoder.finish().map_err(damaged)?;
    state.restored().map_err(refused)?;
    let header = header.expect("a whole snapshot has one");
    let membership = header.membership.made();
    let membership = membership.map_err(|error| SnapshotFileError::Membership {
        path: file.path.clone(),
        error,
    })?;
    Ok(Restored {
        state,
        header,
        membership,
        summary,
    })
}
