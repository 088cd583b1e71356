//! The encoding of a [`Reply`] between nodes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::{ErrorReply, Reply};

use super::reader::{Reader, push_blob};

/// How deep replies may nest.
const DEPTH_MAX: u8 = 8;

/// Statuses and command names that are known by number, because replies hold them as `'static`.
const STATUSES: &[&str] = &["OK", "PONG", "QUEUED", "RESET", "string", "none"];
const COMMANDS: &[&str] = &[
    "set",
    "getex",
    "setex",
    "psetex",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
];

/// A reply that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reply from a peer is cut short or damaged")]
pub struct ReplyError;

/// Appends the encoding of a reply.
pub fn encode_reply(reply: &Reply, to: &mut Vec<u8>) {
    match reply {
        Reply::Ok => to.push(1),
        Reply::Status(text) => match STATUSES.iter().position(|known| known == text) {
            Some(at) => {
                to.push(2);
                to.push(u8::try_from(at).expect("there are few statuses"));
            }
            None => {
                to.push(4);
                push_blob(to, text.as_bytes());
            }
        },
        Reply::Integer(value) => {
            to.push(3);
            to.extend_from_slice(&value.to_le_bytes());
        }
        Reply::Bulk(bytes) => {
            to.push(4);
            push_blob(to, bytes);
        }
        Reply::Text(text) => {
            to.push(5);
            push_blob(to, text.as_bytes());
        }
        Reply::Nil => to.push(6),
        Reply::Array(items) => {
            to.push(7);
            push_count(to, items.len());
            for item in items {
                encode_reply(item, to);
            }
        }
        Reply::Map(pairs) => {
            to.push(8);
            push_count(to, pairs.len());
            for (key, value) in pairs {
                encode_reply(key, to);
                encode_reply(value, to);
            }
        }
        Reply::Error(error) => {
            to.push(9);
            encode_error(error, to);
        }
    }
}

/// Reads what [`encode_reply`] wrote, all of it.
///
/// # Errors
///
/// When the bytes are anything else.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, ReplyError> {
    let reader = &mut Reader(bytes);
    let reply = read(reader, 0).ok_or(ReplyError)?;
    if reader.is_empty() {
        Ok(reply)
    } else {
        Err(ReplyError)
    }
}

fn push_count(to: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("replies are bounded far below 4 G items");
    to.extend_from_slice(&count.to_le_bytes());
}

fn read(reader: &mut Reader<'_>, depth: u8) -> Option<Reply> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match reader.u8()? {
        1 => Reply::Ok,
        2 => Reply::Status(STATUSES.get(usize::from(reader.u8()?))?),
        3 => Reply::Integer(reader.u64()?.cast_signed()),
        4 => Reply::Bulk(reader.blob()?.to_vec()),
        5 => Reply::Text(text(reader)?),
        6 => Reply::Nil,
        7 => {
            let count = reader.u32()?;
            // Nothing is reserved: a count may lie, the bytes that follow cannot.
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(read(reader, depth + 1)?);
            }
            Reply::Array(items)
        }
        8 => {
            let count = reader.u32()?;
            let mut pairs = Vec::new();
            for _ in 0..count {
                pairs.push((read(reader, depth + 1)?, read(reader, depth + 1)?));
            }
            Reply::Map(pairs)
        }
        9 => Reply::Error(read_error(reader)?),
        _ => return None,
    })
}

fn text(reader: &mut Reader<'_>) -> Option<String> {
    core::str::from_utf8(reader.blob()?)
        .ok()
        .map(ToString::to_string)
}

fn encode_error(error: &ErrorReply, to: &mut Vec<u8>) {
    let plain = match error {
        ErrorReply::Syntax => 1,
        ErrorReply::NotAnInteger => 2,
        ErrorReply::IncrementOverflow => 3,
        ErrorReply::StringTooLarge => 4,
        ErrorReply::WrongType => 5,
        ErrorReply::CrossSlot => 6,
        ErrorReply::NoLeader => 7,
        ErrorReply::SlotNotServed => 8,
        ErrorReply::Busy => 9,
        ErrorReply::OutcomeUnknown => 10,
        ErrorReply::Loading => 11,
        ErrorReply::DiskFailed => 12,
        ErrorReply::DiskFull => 13,
        ErrorReply::DataFull => 14,
        ErrorReply::InvalidExpire { command } => {
            if let Some(at) = COMMANDS.iter().position(|known| known == command) {
                to.push(20);
                to.push(u8::try_from(at).expect("there are few commands"));
                return;
            }
            0
        }
        ErrorReply::Moved { slot, host, port } => {
            to.push(21);
            to.extend_from_slice(&slot.to_le_bytes());
            to.extend_from_slice(&port.to_le_bytes());
            push_blob(to, host.as_bytes());
            return;
        }
        ErrorReply::AnswerTooLarge { .. } | ErrorReply::Other(_) => 0,
    };
    to.push(plain);
    if plain == 0 {
        push_blob(to, error.to_string().as_bytes());
    }
}

fn read_error(reader: &mut Reader<'_>) -> Option<ErrorReply> {
    Some(match reader.u8()? {
        0 => ErrorReply::Other(text(reader)?),
        1 => ErrorReply::Syntax,
        2 => ErrorReply::NotAnInteger,
        3 => ErrorReply::IncrementOverflow,
        4 => ErrorReply::StringTooLarge,
        5 => ErrorReply::WrongType,
        6 => ErrorReply::CrossSlot,
        7 => ErrorReply::NoLeader,
        8 => ErrorReply::SlotNotServed,
        9 => ErrorReply::Busy,
        10 => ErrorReply::OutcomeUnknown,
        11 => ErrorReply::Loading,
        12 => ErrorReply::DiskFailed,
        13 => ErrorReply::DiskFull,
        14 => ErrorReply::DataFull,
        20 => ErrorReply::InvalidExpire {
            command: COMMANDS.get(usize::from(reader.u8()?))?,
        },
        21 => {
            let slot = reader.u16()?;
            let port = reader.u16()?;
            ErrorReply::Moved {
                slot,
                port,
                host: text(reader)?,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_comes_back() {
        let errors = [
            ErrorReply::WrongType,
            ErrorReply::DiskFailed,
            ErrorReply::DiskFull,
            ErrorReply::DataFull,
            ErrorReply::InvalidExpire { command: "set" },
            ErrorReply::Moved {
                slot: 7,
                host: "h".into(),
                port: 1,
            },
            ErrorReply::Other("ERR what".into()),
        ];
        let mut items: Vec<Reply> = errors.map(Reply::Error).into();
        items.extend([
            Reply::Ok,
            Reply::Status("PONG"),
            Reply::Integer(-3),
            Reply::bulk(*b"\0\xff"),
            Reply::Text("text".into()),
            Reply::Nil,
            Reply::Map([(Reply::Ok, Reply::Nil)].to_vec()),
        ]);
        let reply = Reply::Array(items);
        let mut bytes = Vec::new();
        encode_reply(&reply, &mut bytes);
        assert_eq!(decode_reply(&bytes), Ok(reply));
        for cut in 0..bytes.len() {
            assert_eq!(decode_reply(&bytes[..cut]), Err(ReplyError), "cut at {cut}");
        }
    }

    #[test]
    fn a_reply_that_nests_too_deep_is_refused() {
        let mut bytes = Vec::new();
        for _ in 0..100_000 {
            bytes.extend_from_slice(&[7, 1, 0, 0, 0]);
        }
        assert_eq!(decode_reply(&bytes), Err(ReplyError));
    }
}
