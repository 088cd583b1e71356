//! Gives peers the bytes of the snapshots here, and looks at them on the way.

use net::peer::{FrameKind, Part, PartRequest, frame};
use wal::{GroupId, LogIndex, Term};

use crate::shard::Input;
use crate::snapshot::Verifier;

use super::executor::Executor;
use super::peer::PeerError;
use super::snapshots::SnapshotFileError;

/// No part is longer: a frame of the smallest limit holds one.
pub(super) const PART_BYTES_MAX: usize = 512 << 10;

/// What was sent on one connection.
#[derive(Default)]
pub(super) struct Sender {
    verified: Option<Verified>,
}

/// How far a snapshot was sent without a gap, and found to be right.
struct Verified {
    name: (GroupId, LogIndex, Term),
    offset: u64,
    verifier: Verifier,
}

impl Sender {
    /// The frame that answers a request. A snapshot that turns out to be damaged is not offered to anybody
    /// any more.
    pub(super) async fn read(
        &mut self,
        executor: &Executor,
        request: &PartRequest,
    ) -> Result<Vec<u8>, PeerError> {
        let group = GroupId::from_raw(request.group);
        if group.to_raw() >= executor.config.cluster.groups
            || executor.config.shard_of_group(group) != executor.index
        {
            return Err(PeerError::Group { group });
        }
        let name = (
            group,
            LogIndex::from_raw(request.index),
            Term::from_raw(request.term),
        );
        let read = self.part(executor, name, request).await;
        let part = match &read {
            Ok((total_bytes, bytes)) => Part::Bytes {
                total_bytes: *total_bytes,
                bytes,
            },
            Err(error) => {
                let (shard, index) = (executor.index, name.1.to_raw());
                tracing::warn!(event = "snapshot.not_sent", shard, %group, index, reason = %error);
                let status = executor.group_status(group);
                if status.is_some_and(|status| status.snapshot == name.1) {
                    executor.step(executor.clock(), Input::SnapshotLost { group });
                }
                Part::Gone
            }
        };
        let mut bytes = Vec::new();
        frame(FrameKind::SnapshotPart, &mut bytes, |to| {
            request.answer(part).encode(to);
        });
        Ok(bytes)
    }

    async fn part(
        &mut self,
        executor: &Executor,
        name: (GroupId, LogIndex, Term),
        request: &PartRequest,
    ) -> Result<(u64, Vec<u8>), SnapshotFileError> {
        let (group, index, term) = name;
        let snapshots = &executor.snapshots;
        if !snapshots.has(group, index, term) {
            return Err(snapshots.gone(group, index, term));
        }
        let total_bytes = snapshots.size(group, index, term)?;
        let offset = request.offset.min(total_bytes);
        let wanted = (request.bytes as usize).clamp(1, PART_BYTES_MAX);
        let bytes = snapshots.read(group, index, term, offset, wanted).await?;
        if let Err(error) = self.verify(name, offset, &bytes) {
            snapshots.refuse(group, index, term);
            return Err(SnapshotFileError::Damaged {
                path: snapshots.path(group, index, term),
                error,
            });
        }
        if bytes.is_empty() && request.offset != total_bytes {
            return Err(snapshots.gone(group, index, term));
        }
        Ok((total_bytes, bytes))
    }

    /// Looks at bytes that follow those that were looked at. What is sent from the middle on, after a
    /// connection broke, is looked at only by who receives it.
    fn verify(
        &mut self,
        name: (GroupId, LogIndex, Term),
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), crate::snapshot::SnapshotError> {
        if offset == 0 {
            self.verified = Some(Verified {
                name,
                offset: 0,
                verifier: Verifier::new(),
            });
        }
        match &mut self.verified {
            Some(verified) if verified.name == name && verified.offset == offset => {
                verified.offset += bytes.len() as u64;
                verified.verifier.push(bytes)
            }
            _ => Ok(()),
        }
    }
}
