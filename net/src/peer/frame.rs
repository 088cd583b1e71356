//! The frame: a header of 32 bytes and a body whose length is a multiple of 8.

use core::fmt;

use alloc::vec::Vec;
use rkyv::util::AlignedVec;

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 32;

/// The newest frame format this build speaks.
pub const VERSION: u16 = 2;

const MAGIC: [u8; 4] = *b"DRKP";
const READ_BYTES: usize = 64 * 1024;

// Format, little-endian:
//
//   0  magic "DRKP"        4  version u16   6  kind u8   7  zero
//   8  body length u32    12  CRC32C of the body
//  16  zero, 12 bytes     28  CRC32C of bytes 0..28
//  32  body, zero-padded to a multiple of 8

/// What a frame's body is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// [`super::Hello`]: the first frame of the side that dialled.
    Hello = 1,
    /// [`super::HelloReply`]: the answer to it.
    HelloReply = 2,
    /// [`super::Messages`].
    Messages = 3,
    /// [`super::Forwards`].
    Forward = 4,
    /// [`super::Answers`].
    ForwardReply = 5,
    /// [`super::PartRequest`].
    SnapshotRequest = 6,
    /// [`super::PartReply`].
    SnapshotPart = 7,
}

/// One whole frame, its checksums right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: FrameKind,
    pub version: u16,
    /// Starts 8-byte aligned.
    pub body: &'a [u8],
}

/// Why the connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("the peer does not speak this protocol: the frame starts with {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("frame header is damaged: crc is {found:#010x}, header says {expected:#010x}")]
    HeaderChecksum { expected: u32, found: u32 },
    #[error("frame body is damaged: crc is {found:#010x}, header says {expected:#010x}")]
    BodyChecksum { expected: u32, found: u32 },
    #[error("frame format {found} is not spoken by this build, which knows up to {supported}")]
    Version { found: u16, supported: u16 },
    #[error("frame kind {found} is unknown")]
    Kind { found: u8 },
    #[error("a frame of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("frame length {bytes} is not a multiple of 8")]
    Unaligned { bytes: usize },
}

/// Appends a frame to `to`; `write` appends its body.
///
/// # Panics
///
/// If the body is 4 GiB or longer: the caller's limits are far below.
pub fn frame(kind: FrameKind, to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.resize(start + HEADER_BYTES, 0);
    write(to);
    let body_start = start + HEADER_BYTES;
    to.resize(body_start + (to.len() - body_start).next_multiple_of(8), 0);

    let (header, body) = to[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB");
    header[0..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[6] = kind as u8;
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..16].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let crc = crc32c::crc32c(&header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// Cuts a byte stream into frames. Holds at most one frame of the limit and what one read brought
/// behind it; allocates for a frame only after its header was checked.
pub struct FrameReader {
    buffer: AlignedVec<16>,
    /// Where the next frame starts; always a multiple of 8.
    start: usize,
    end: usize,
    body_bytes_max: usize,
}

struct Header {
    kind: FrameKind,
    version: u16,
    length: usize,
    crc: u32,
}

impl FrameReader {
    /// Refuses bodies longer than `body_bytes_max`.
    pub fn new(body_bytes_max: usize) -> Self {
        Self {
            buffer: AlignedVec::new(),
            start: 0,
            end: 0,
            body_bytes_max,
        }
    }

    /// Takes bodies of up to so many bytes from now on.
    pub fn admit(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    /// Room to read into; never empty. Follow with [`FrameReader::filled`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = match self.header() {
            Ok(Some(header)) => HEADER_BYTES + header.length,
            _ => 0,
        };
        let length = wanted.max(self.end + READ_BYTES);
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read into [`FrameReader::space`].
    ///
    /// # Panics
    ///
    /// If that is more than there was room.
    pub fn filled(&mut self, bytes: usize) {
        assert!(
            bytes <= self.buffer.len() - self.end,
            "{bytes} bytes were read into less room"
        );
        self.end += bytes;
    }

    /// The next whole frame, or `None` until more was read.
    ///
    /// # Errors
    ///
    /// When the stream is not one of frames within the limit: close it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(header) = self.header()? else {
            return Ok(None);
        };
        let body_start = self.start + HEADER_BYTES;
        let body_end = body_start + header.length;
        if body_end > self.end {
            return Ok(None);
        }
        let body = &self.buffer[body_start..body_end];
        let found = crc32c::crc32c(body);
        if found != header.crc {
            let expected = header.crc;
            return Err(FrameError::BodyChecksum { expected, found });
        }
        self.start = body_end;
        Ok(Some(Frame {
            kind: header.kind,
            version: header.version,
            body,
        }))
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let magic = [header[0], header[1], header[2], header[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let (expected, found) = (u32_at(28), crc32c::crc32c(&header[..28]));
        if expected != found {
            return Err(FrameError::HeaderChecksum { expected, found });
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version == 0 || version > VERSION {
            return Err(FrameError::Version {
                found: version,
                supported: VERSION,
            });
        }
        let kind = match header[6] {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloReply,
            3 => FrameKind::Messages,
            4 => FrameKind::Forward,
            5 => FrameKind::ForwardReply,
            6 => FrameKind::SnapshotRequest,
            7 => FrameKind::SnapshotPart,
            found => return Err(FrameError::Kind { found }),
        };
        let length = u32_at(8) as usize;
        if length > self.body_bytes_max {
            return Err(FrameError::TooLarge {
                bytes: length,
                limit: self.body_bytes_max,
            });
        }
        if !length.is_multiple_of(8) {
            return Err(FrameError::Unaligned { bytes: length });
        }
        Ok(Some(Header {
            kind,
            version,
            length,
            crc: u32_at(12),
        }))
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("start", &self.start)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut FrameReader, mut bytes: &[u8], at_once: usize) {
        while !bytes.is_empty() {
            let space = reader.space();
            let n = bytes.len().min(at_once).min(space.len());
            space[..n].copy_from_slice(&bytes[..n]);
            reader.filled(n);
            bytes = &bytes[n..];
        }
    }

    fn two_frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(FrameKind::Messages, &mut bytes, |to| {
            to.extend_from_slice(b"0123456789")
        });
        frame(FrameKind::Forward, &mut bytes, |_| {});
        bytes
    }

    #[test]
    fn frames_come_back_however_the_stream_is_cut() {
        let bytes = two_frames();
        for at_once in 1..bytes.len() {
            let mut reader = FrameReader::new(64);
            let mut kinds = Vec::new();
            for chunk in bytes.chunks(at_once) {
                read(&mut reader, chunk, at_once);
                while let Some(frame) = reader.next_frame().unwrap() {
                    assert_eq!(frame.body.as_ptr().align_offset(8), 0);
                    kinds.push((frame.kind, frame.body.len()));
                }
            }
            assert_eq!(
                kinds,
                [(FrameKind::Messages, 16), (FrameKind::Forward, 0)],
                "cut every {at_once} bytes"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = two_frames();
        let first = HEADER_BYTES + 16;
        for bit in 0..first * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new(64);
            read(&mut reader, &damaged, usize::MAX);
            assert!(reader.next_frame().is_err(), "bit {bit} was not missed");
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_header_alone() {
        let mut bytes = Vec::new();
        frame(FrameKind::Messages, &mut bytes, |to| {
            to.resize(to.len() + 72, 1)
        });
        let mut reader = FrameReader::new(64);
        read(&mut reader, &bytes[..HEADER_BYTES], usize::MAX);
        let error = reader.next_frame().unwrap_err();
        assert_eq!(
            error,
            FrameError::TooLarge {
                bytes: 72,
                limit: 64
            }
        );
        assert_eq!(
            std::format!("{error}"),
            "a frame of 72 bytes is larger than the limit of 64"
        );
        reader.admit(72);
        read(&mut reader, &bytes[HEADER_BYTES..], usize::MAX);
        assert!(reader.next_frame().unwrap().is_some());
    }
}
