//! Snapshots on their way: from the state machine to a file, from a file to a peer, from a peer to a file.

use wal::{GroupId, LogIndex, Term};

use super::part::Part;
use super::whole::Whole;
use super::{Name, SnapshotFileError, Snapshots};
use crate::snapshot::{Encoder, Header, Summary, Verifier};

impl Snapshots {
    /// Begins a snapshot. It is there once [`Writer::finish`] says so.
    ///
    /// # Panics
    ///
    /// If the header is of another cluster.
    pub async fn begin(&self, header: &Header) -> Result<Writer, SnapshotFileError> {
        let (own, found) = (&self.0.options.cluster, &header.cluster);
        assert_eq!(own, found, "a snapshot of another cluster");
        let mut part = Part::create(&self.0, Name::of(header)).await?;
        let encoder = Encoder::new(header, &mut part.buffer);
        Ok(Writer { part, encoder })
    }

    /// Begins a snapshot that a peer sends.
    pub async fn receive(
        &self,
        group: GroupId,
        index: LogIndex,
        term: Term,
    ) -> Result<Receiver, SnapshotFileError> {
        let part = Part::create(&self.0, Name { group, index, term }).await?;
        Ok(Receiver {
            part,
            verifier: Verifier::new(),
            checked: false,
        })
    }

    /// Bytes of a snapshot's file.
    pub fn size(
        &self,
        group: GroupId,
        index: LogIndex,
        term: Term,
    ) -> Result<u64, SnapshotFileError> {
        let path = self.0.path(Name { group, index, term });
        let found = std::fs::metadata(&path);
        let found = found.map_err(|error| SnapshotFileError::reading("look at", &path, error))?;
        Ok(found.len())
    }

    /// As many of a snapshot's bytes, to be sent as they are; fewer where the file ends. They are not
    /// checked here: who receives them does that. A snapshot that the device cannot read is not listed
    /// any more.
    pub async fn read(
        &self,
        group: GroupId,
        index: LogIndex,
        term: Term,
        offset: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, SnapshotFileError> {
        let name = Name { group, index, term };
        let file = Whole::open(self.0.path(name)).await?;
        let read = file.read(offset, bytes).await;
        file.close().await;
        if let Err(SnapshotFileError::Unreadable { .. }) = read {
            self.0.refuse(name);
        }
        read
    }
}

/// Writes a snapshot. After an error, and when it is dropped unfinished, nothing of it remains.
#[must_use = "a snapshot that is not finished is dropped"]
pub struct Writer {
    part: Part,
    encoder: Encoder,
}

impl Writer {
    /// Adds a chunk.
    ///
    /// # Panics
    ///
    /// If it is empty.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotFileError> {
        if self.part.is_over() {
            return Err(self.part.over());
        }
        self.encoder.chunk(chunk, &mut self.part.buffer);
        let written = self.part.write_pieces().await;
        self.part.discard(written).await
    }

    /// Bytes of the file so far.
    pub fn bytes(&self) -> u64 {
        self.encoder.bytes()
    }

    /// Makes the snapshot durable, gives it its name, and removes older ones that need not be kept.
    pub async fn finish(self) -> Result<Summary, SnapshotFileError> {
        let Self { mut part, encoder } = self;
        if part.is_over() {
            return Err(part.over());
        }
        let summary = encoder.finish(&mut part.buffer);
        let published = part.publish().await;
        part.discard(published).await?;
        Ok(summary)
    }
}

/// Receives a snapshot. After any error but [`SnapshotFileError::Order`], and when it is dropped
/// unfinished, nothing of it remains.
#[must_use = "a snapshot that is not finished is dropped"]
pub struct Receiver {
    part: Part,
    verifier: Verifier,
    /// The header has come, and is the right one.
    checked: bool,
}

impl Receiver {
    /// The offset of the bytes that come next.
    pub fn offset(&self) -> u64 {
        self.part.bytes()
    }

    /// Takes the next bytes, as many as there are. If they are not the next, nothing has happened.
    pub async fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        if self.part.is_over() {
            return Err(self.part.over());
        }
        let expected = self.offset();
        if offset != expected {
            return Err(SnapshotFileError::Order {
                path: self.part.path.clone(),
                expected,
                found: offset,
            });
        }
        let taken = self.take(bytes).await;
        self.part.discard(taken).await
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        let damaged = |error| SnapshotFileError::Damaged {
            path: self.part.path.clone(),
            error,
        };
        self.verifier.push(bytes).map_err(damaged)?;
        if !self.checked
            && let Some(header) = self.verifier.header()
        {
            self.part.check(header)?;
            self.checked = true;
        }
        self.part.buffer.extend_from_slice(bytes);
        self.part.write_pieces().await
    }

    /// Makes the snapshot durable, if all of it has come and is whole, gives it its name, and removes
    /// older ones that need not be kept.
    pub async fn finish(self) -> Result<Summary, SnapshotFileError> {
        let Self {
            mut part, verifier, ..
        } = self;
        if part.is_over() {
            return Err(part.over());
        }
        let finished = finish(&mut part, verifier).await;
        part.discard(finished).await
    }
}

async fn finish(part: &mut Part, verifier: Verifier) -> Result<Summary, SnapshotFileError> {
    let path = part.path.clone();
    let whole = verifier.finish();
    let summary = whole.map_err(|error| SnapshotFileError::Damaged { path, error })?;
    if !summary
        .bytes
        .is_multiple_of(crate::snapshot::ALIGNMENT as u64)
    {
        return Err(SnapshotFileError::Length {
            path: part.path.clone(),
            bytes: summary.bytes,
        });
    }
    assert_eq!(summary.bytes, part.bytes(), "all bytes were verified");
    part.publish().await?;
    Ok(summary)
}
