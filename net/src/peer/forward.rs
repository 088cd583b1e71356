//! Commands that another node's client sent, and their answers. Flat records, 8-byte aligned.

use alloc::vec::Vec;

use crate::Reply;

use super::reader::Reader;
use super::reply::{decode_reply, encode_reply};

/// A command for a group that the receiver may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The sender's name for it: comes back with the answer.
    pub request: u64,
    pub group: u32,
    /// In the encoding of [`crate::Command`].
    pub command: &'a [u8],
}

/// How a forwarded command ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Reply(Reply),
    /// Nothing happened; this node leads. `command` is the request, so that it can be sent there.
    Redirect {
        leader: u32,
        command: Vec<u8>,
    },
    NoLeader,
    Busy,
    /// A write that may or may not take effect.
    Unknown,
}

/// The answer to one forwarded command.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub request: u64,
    pub verdict: Verdict,
}

// Format of a forward: request u64, group u32, length u32, command, zero-padded to 8.
// Of an answer: request u64, verdict u8, zero x3, length u32, payload, zero-padded to 8.
// Payload of a redirect: leader u32, command. Of a reply: the reply's encoding. Else empty.

/// Appends one record to the body of a frame of kind `Forward`.
pub fn push_forward(forward: &Forward<'_>, to: &mut Vec<u8>) {
    let length = u32::try_from(forward.command.len()).expect("commands are far below 4 GiB");
    to.extend_from_slice(&forward.request.to_le_bytes());
    to.extend_from_slice(&forward.group.to_le_bytes());
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(forward.command);
    pad(to, forward.command.len());
}

/// Appends one record to the body of a frame of kind `ForwardReply`.
pub fn push_answer(request: u64, verdict: &Verdict, to: &mut Vec<u8>) {
    to.extend_from_slice(&request.to_le_bytes());
    let kind: u8 = match verdict {
        Verdict::Reply(_) => 1,
        Verdict::Redirect { .. } => 2,
        Verdict::NoLeader => 3,
        Verdict::Busy => 4,
        Verdict::Unknown => 5,
    };
    to.extend_from_slice(&[kind, 0, 0, 0]);
    let length_at = to.len();
    to.extend_from_slice(&[0; 4]);
    match verdict {
        Verdict::Reply(reply) => encode_reply(reply, to),
        Verdict::Redirect { leader, command } => {
            to.extend_from_slice(&leader.to_le_bytes());
            to.extend_from_slice(command);
        }
        Verdict::NoLeader | Verdict::Busy | Verdict::Unknown => {}
    }
    let bytes = to.len() - length_at - 4;
    let length = u32::try_from(bytes).expect("replies are bounded far below 4 GiB");
    to[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    pad(to, bytes);
}

fn pad(to: &mut Vec<u8>, bytes: usize) {
    to.resize(to.len() + bytes.next_multiple_of(8) - bytes, 0);
}

/// The records of a frame of kind `Forward`; `Err` ends it when the bytes are no record.
#[derive(Debug)]
pub struct Forwards<'a>(Reader<'a>);

/// The records of a frame of kind `ForwardReply`; `Err` ends it when the bytes are no record.
#[derive(Debug)]
pub struct Answers<'a>(Reader<'a>);

/// A record that cannot be read: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a forwarded command or its answer is cut short or damaged")]
pub struct RecordError;

impl<'a> Forwards<'a> {
    /// Reads the body of a frame.
    pub fn new(body: &'a [u8]) -> Self {
        Self(Reader(body))
    }

    fn read(&mut self) -> Option<Forward<'a>> {
        let reader = &mut self.0;
        let request = reader.u64()?;
        let group = reader.u32()?;
        let length = reader.u32()? as usize;
        let padded = reader.bytes(length.checked_next_multiple_of(8)?)?;
        Some(Forward {
            request,
            group,
            command: &padded[..length],
        })
    }
}

impl<'a> Iterator for Forwards<'a> {
    type Item = Result<Forward<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read().ok_or(RecordError);
        if read.is_err() {
            self.0 = Reader(&[]);
        }
        Some(read)
    }
}

impl<'a> Answers<'a> {
    /// Reads the body of a frame.
    pub fn new(body: &'a [u8]) -> Self {
        Self(Reader(body))
    }

    fn read(&mut self) -> Option<Answer> {
        let reader = &mut self.0;
        let request = reader.u64()?;
        let kind = reader.u8()?;
        reader.bytes(3)?;
        let length = reader.u32()? as usize;
        let padded = reader.bytes(length.checked_next_multiple_of(8)?)?;
        let payload = &padded[..length];
        let verdict = match kind {
            1 => Verdict::Reply(decode_reply(payload).ok()?),
            2 => {
                let (leader, command) = payload.split_first_chunk::<4>()?;
                Verdict::Redirect {
                    leader: u32::from_le_bytes(*leader),
                    command: command.to_vec(),
                }
            }
            3 => Verdict::NoLeader,
            4 => Verdict::Busy,
            5 => Verdict::Unknown,
            _ => return None,
        };
        Some(Answer { request, verdict })
    }
}

impl Iterator for Answers<'_> {
    type Item = Result<Answer, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.read().ok_or(RecordError);
        if read.is_err() {
            self.0 = Reader(&[]);
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_come_back_and_cuts_end_in_an_error() {
        let forwards: [Forward<'_>; 3] =
            [(1, b"set".as_slice()), (2, b""), (3, b"8 bytes!")].map(|(request, command)| {
                Forward {
                    request,
                    group: 4,
                    command,
                }
            });
        let mut bytes = Vec::new();
        for forward in &forwards {
            push_forward(forward, &mut bytes);
        }
        let back: Result<Vec<_>, _> = Forwards::new(&bytes).collect();
        assert_eq!(back.unwrap(), forwards);
        for cut in (0..bytes.len()).filter(|cut| ![24, 40].contains(cut) && *cut > 0) {
            let back: Result<Vec<_>, _> = Forwards::new(&bytes[..cut]).collect();
            assert_eq!(back, Err(RecordError), "cut at {cut}");
        }
    }

    #[test]
    fn answers_come_back_and_damage_never_panics() {
        let verdicts = [
            Verdict::Reply(Reply::Array([Reply::Nil, Reply::bulk(*b"x")].to_vec())),
            Verdict::Redirect {
                leader: 2,
                command: b"get".to_vec(),
            },
            Verdict::NoLeader,
            Verdict::Busy,
            Verdict::Unknown,
        ];
        let mut bytes = Vec::new();
        for (verdict, request) in verdicts.iter().zip(10..) {
            push_answer(request, verdict, &mut bytes);
        }
        let back: Vec<_> = Answers::new(&bytes)
            .map(|answer| answer.unwrap().verdict)
            .collect();
        assert_eq!(back, verdicts);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            Answers::new(&damaged).for_each(drop);
        }
    }
}
