//! Parts of a snapshot's file, asked for one by one, and the answers.

use alloc::vec::Vec;

use super::reader::{Reader, push_blob};

/// Asks for some bytes of a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRequest {
    pub group: u32,
    /// The last entry that the snapshot is of, and its term.
    pub index: u64,
    pub term: u64,
    pub offset: u64,
    /// How many; the answer may hold fewer.
    pub bytes: u32,
}

/// The answer to a [`PartRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartReply<'a> {
    pub group: u32,
    pub index: u64,
    pub term: u64,
    pub offset: u64,
    pub part: Part<'a>,
}

/// What there is of a snapshot's file at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// None only at the end of the file.
    Bytes { total_bytes: u64, bytes: &'a [u8] },
    /// The snapshot is not there, or is of no use.
    Gone,
}

/// Why a body is no request for a part of a snapshot, and no answer to one: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    #[error("a part of a snapshot, or the request for it, lacks {what}")]
    Missing { what: &'static str },
    #[error("a part of a snapshot is of kind {found}, which this build does not know")]
    Kind { found: u8 },
    #[error(
        "a part of a snapshot has changed on its way: crc is {found:#010x}, it says {expected:#010x}"
    )]
    Checksum { expected: u32, found: u32 },
    #[error(
        "a part of a snapshot is said to be {bytes} bytes from {offset} on, of {total_bytes} in all"
    )]
    Beyond {
        offset: u64,
        bytes: u64,
        total_bytes: u64,
    },
}

// Format, little-endian. Of a request: group u32, bytes u32, index u64, term u64, offset u64.
// Of an answer: group u32, kind u8 (1 bytes, 2 gone), zero x3, index u64, term u64, offset u64;
// if bytes: total u64, crc32c of the bytes u32, length u32, bytes. What follows is padding.

const BYTES: u8 = 1;
const GONE: u8 = 2;

impl PartRequest {
    /// Appends the body of a frame of kind `SnapshotRequest`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.group.to_le_bytes());
        to.extend_from_slice(&self.bytes.to_le_bytes());
        for field in [self.index, self.term, self.offset] {
            to.extend_from_slice(&field.to_le_bytes());
        }
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    ///
    /// Names the first field that is not there.
    pub fn decode(body: &[u8]) -> Result<Self, PartError> {
        let reader = &mut Reader(body);
        let missing = |what| PartError::Missing { what };
        Ok(Self {
            group: reader.u32().ok_or(missing("the group"))?,
            bytes: reader.u32().ok_or(missing("how many bytes"))?,
            index: reader.u64().ok_or(missing("the index"))?,
            term: reader.u64().ok_or(missing("the term"))?,
            offset: reader.u64().ok_or(missing("the offset"))?,
        })
    }

    /// The answer to it.
    pub fn answer<'a>(&self, part: Part<'a>) -> PartReply<'a> {
        PartReply {
            group: self.group,
            index: self.index,
            term: self.term,
            offset: self.offset,
            part,
        }
    }
}

impl<'a> PartReply<'a> {
    /// Appends the body of a frame of kind `SnapshotPart`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let kind = match self.part {
            Part::Bytes { .. } => BYTES,
            Part::Gone => GONE,
        };
        to.extend_from_slice(&self.group.to_le_bytes());
        to.extend_from_slice(&[kind, 0, 0, 0]);
        for field in [self.index, self.term, self.offset] {
            to.extend_from_slice(&field.to_le_bytes());
        }
        if let Part::Bytes { total_bytes, bytes } = self.part {
            to.extend_from_slice(&total_bytes.to_le_bytes());
            to.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
            push_blob(to, bytes);
        }
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    ///
    /// If it is no answer, or its bytes are not those that were sent.
    pub fn decode(body: &'a [u8]) -> Result<Self, PartError> {
        let reader = &mut Reader(body);
        let missing = |what| PartError::Missing { what };
        let group = reader.u32().ok_or(missing("the group"))?;
        let kind = reader.u8().ok_or(missing("the kind"))?;
        reader.bytes(3).ok_or(missing("the kind"))?;
        let index = reader.u64().ok_or(missing("the index"))?;
        let term = reader.u64().ok_or(missing("the term"))?;
        let offset = reader.u64().ok_or(missing("the offset"))?;
        let part = match kind {
            BYTES => {
                let total_bytes = reader.u64().ok_or(missing("the total"))?;
                let expected = reader.u32().ok_or(missing("the crc"))?;
                let bytes = reader.blob().ok_or(missing("the bytes"))?;
                let found = crc32c::crc32c(bytes);
                if found != expected {
                    return Err(PartError::Checksum { expected, found });
                }
                check_place(offset, bytes, total_bytes)?;
                Part::Bytes { total_bytes, bytes }
            }
            GONE => Part::Gone,
            found => return Err(PartError::Kind { found }),
        };
        Ok(Self {
            group,
            index,
            term,
            offset,
            part,
        })
    }
}

/// Bytes lie inside the file, and there are some unless it has ended.
fn check_place(offset: u64, bytes: &[u8], total_bytes: u64) -> Result<(), PartError> {
    let end = offset.checked_add(bytes.len() as u64);
    let inside = end.is_some_and(|end| end <= total_bytes);
    if inside && (!bytes.is_empty() || offset == total_bytes) {
        return Ok(());
    }
    Err(PartError::Beyond {
        offset,
        bytes: bytes.len() as u64,
        total_bytes,
    })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const REQUEST: PartRequest = PartRequest {
        group: 3,
        index: 1 << 40,
        term: 7,
        offset: 90,
        bytes: 10,
    };

    fn replies() -> [PartReply<'static>; 3] {
        [
            REQUEST.answer(Part::Gone),
            REQUEST.answer(Part::Bytes {
                total_bytes: 100,
                bytes: b"0123456789",
            }),
            REQUEST.answer(Part::Bytes {
                total_bytes: 90,
                bytes: b"",
            }),
        ]
    }

    fn encoded(reply: &PartReply<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        bytes
    }

    #[test]
    fn requests_and_answers_come_back_and_no_cut_of_them_does() {
        let mut bytes = Vec::new();
        REQUEST.encode(&mut bytes);
        assert_eq!(PartRequest::decode(&bytes), Ok(REQUEST));
        for cut in 0..bytes.len() {
            assert!(PartRequest::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for reply in replies() {
            let bytes = encoded(&reply);
            assert_eq!(PartReply::decode(&bytes), Ok(reply));
            for cut in 0..bytes.len() {
                assert!(PartReply::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn bytes_that_changed_are_refused() {
        let bytes = encoded(&replies()[1]);
        for bit in (bytes.len() - 10) * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = PartReply::decode(&damaged).unwrap_err();
            assert!(matches!(error, PartError::Checksum { .. }), "{error}");
        }
    }

    #[test]
    fn parts_that_cannot_be_of_the_file_are_refused() {
        let refused = |offset, total_bytes, bytes| {
            let part = Part::Bytes { total_bytes, bytes };
            let reply = PartReply {
                offset,
                ..REQUEST.answer(part)
            };
            PartReply::decode(&encoded(&reply)).unwrap_err()
        };
        let bytes = b"0123456789".as_slice();
        for (offset, total) in [(91, 100), (u64::MAX, 100), (101, 100)] {
            let error = refused(offset, total, bytes);
            assert!(matches!(error, PartError::Beyond { .. }), "{error}");
        }
        assert_eq!(
            refused(90, 100, b"").to_string(),
            "a part of a snapshot is said to be 0 bytes from 90 on, of 100 in all"
        );
    }
}
