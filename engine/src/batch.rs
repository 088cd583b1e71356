//! The commands that one log entry carries, and the time their leader stamped on them.
//!
//! A batch is flat: one blob of encoded commands and where each ends. It is archived with rkyv once,
//! by the leader; from then on the same bytes are sent, written and read in place.

use alloc::rc::Rc;
use alloc::vec::Vec;

use net::Command;
use rkyv::rancor::Error;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Serialize};
use wal::Payload;

/// The archived form.
#[derive(Archive, Serialize, Default)]
struct Flat {
    stamp_ms: u64,
    ends: Vec<u32>,
    blob: Vec<u8>,
}

impl Flat {
    /// Size of the archive: where commands end, the commands, and the root behind them.
    fn archived_bytes(&self) -> usize {
        let before = size_of::<u32>() * self.ends.len() + self.blob.len();
        before.next_multiple_of(align_of::<ArchivedFlat>()) + size_of::<ArchivedFlat>()
    }
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("{bytes} bytes are not an archived batch")]
    Archive { bytes: usize },
    #[error("command {position} of a batch ends at {end}, outside of its {blob_bytes} bytes")]
    End {
        position: usize,
        end: u32,
        blob_bytes: usize,
    },
    #[error("a batch of {blob_bytes} bytes has {loose} bytes behind its last command")]
    Loose { blob_bytes: usize, loose: usize },
}

/// A batch that is being filled.
#[derive(Default)]
pub struct BatchBuilder {
    flat: Flat,
}

impl BatchBuilder {
    /// Adds a command.
    pub fn push(&mut self, command: &Command<'_>) {
        command.encode(&mut self.flat.blob);
        let end = u32::try_from(self.flat.blob.len()).expect("limits keep batches below 4 GiB");
        self.flat.ends.push(end);
    }

    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.flat.ends.len()
    }

    /// Whether there is no command.
    pub fn is_empty(&self) -> bool {
        self.flat.ends.is_empty()
    }

    /// Bytes of the commands.
    pub fn bytes(&self) -> usize {
        self.flat.blob.len()
    }

    /// Makes the payload of an entry of it, and is empty again.
    pub fn seal(&mut self, stamp_ms: u64) -> Payload {
        self.flat.stamp_ms = stamp_ms;
        let bytes = self.flat.archived_bytes();
        // Archived where it stays: zeroes are cheaper than another copy.
        let mut payload: Payload = core::iter::repeat_n(0, bytes).collect();
        let place = Rc::get_mut(&mut payload).expect("nobody else knows of it yet");
        let written = rkyv::api::high::to_bytes_in::<_, Error>(&self.flat, Buffer::from(place))
            .expect("there is room for the archive");
        assert_eq!(written.len(), bytes, "an archive is as large as its parts");
        self.flat.ends.clear();
        self.flat.blob.clear();
        payload
    }

    /// Gives the commands back, each encoded, and is empty again.
    pub fn take_commands(&mut self) -> Vec<Vec<u8>> {
        let mut start = 0;
        let commands = self.flat.ends.iter().map(|&end| {
            let command = self.flat.blob[start..end as usize].to_vec();
            start = end as usize;
            command
        });
        let commands = commands.collect();
        self.flat.ends.clear();
        self.flat.blob.clear();
        commands
    }
}

/// A sealed batch, read in place.
#[derive(Clone, Copy)]
pub struct Batch<'a>(&'a ArchivedFlat);

impl<'a> Batch<'a> {
    /// Checks the bytes of an entry's payload, which start 8-byte aligned.
    pub fn access(payload: &'a [u8]) -> Result<Self, BatchError> {
        let bytes = payload.len();
        let flat = rkyv::access::<ArchivedFlat, Error>(payload)
            .map_err(|_| BatchError::Archive { bytes })?;
        let blob_bytes = flat.blob.len();
        let mut previous = 0;
        for (position, end) in flat.ends.iter().enumerate() {
            let end = end.to_native();
            if end < previous || end as usize > blob_bytes {
                return Err(BatchError::End {
                    position,
                    end,
                    blob_bytes,
                });
            }
            previous = end;
        }
        match blob_bytes - previous as usize {
            0 => Ok(Self(flat)),
            loose => Err(BatchError::Loose { blob_bytes, loose }),
        }
    }

    /// The leader's time when it sealed the batch.
    pub fn stamp_ms(&self) -> u64 {
        self.0.stamp_ms.to_native()
    }

    /// Each command's bytes, in order.
    pub fn commands(&self) -> impl Iterator<Item = &'a [u8]> {
        let (blob, mut start) = (self.0.blob.as_slice(), 0);
        self.0.ends.iter().map(move |end| {
            let end = end.to_native() as usize;
            let command = &blob[start..end];
            start = end;
            command
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_batch_holds_its_commands_in_order() {
        let mut builder = BatchBuilder::default();
        for round in 0..3 {
            builder.push(&Command::Get { key: b"a" });
            builder.push(&Command::Increment {
                key: b"b",
                delta: round,
            });
            assert_eq!(builder.len(), 2);
            let payload = builder.seal(17);
            let batch = Batch::access(&payload).unwrap();
            assert_eq!(batch.stamp_ms(), 17);
            let commands: Vec<_> = batch
                .commands()
                .map(|c| Command::decode(c).unwrap())
                .collect();
            let expected = [
                Command::Get { key: b"a" },
                Command::Increment {
                    key: b"b",
                    delta: round,
                },
            ];
            assert_eq!(commands, expected);
            assert!(builder.is_empty());
        }
    }

    #[test]
    fn an_empty_batch_only_carries_time() {
        let payload = BatchBuilder::default().seal(5);
        let batch = Batch::access(&payload).unwrap();
        assert_eq!((batch.stamp_ms(), batch.commands().count()), (5, 0));
    }

    #[test]
    fn unsealed_commands_can_be_taken_back() {
        let mut builder = BatchBuilder::default();
        builder.push(&Command::Get { key: b"a" });
        builder.push(&Command::Size);
        let commands = builder.take_commands();
        assert_eq!(
            Command::decode(&commands[0]),
            Ok(Command::Get { key: b"a" })
        );
        assert_eq!(Command::decode(&commands[1]), Ok(Command::Size));
        assert_eq!(builder.bytes(), 0);
    }

    #[test]
    fn damaged_bytes_are_refused_or_stay_within_bounds() {
        let mut builder = BatchBuilder::default();
        builder.push(&Command::Get { key: b"abc" });
        builder.push(&Command::Size);
        let payload = builder.seal(1);
        for cut in 0..payload.len() {
            let part = Payload::from(&payload[..cut]);
            assert!(Batch::access(&part).is_err(), "cut at {cut}");
        }
        for byte in 0..payload.len() {
            let mut damaged = payload.to_vec();
            damaged[byte] ^= 0xff;
            let damaged = Payload::from(damaged);
            if let Ok(batch) = Batch::access(&damaged) {
                assert!(batch.commands().map(<[u8]>::len).sum::<usize>() <= payload.len());
            }
        }
    }
}
