//! The bytes of a command in a batch and between nodes.
//!
//! ```text
//! opcode u8 · fields
//! ```
//!
//! Fields follow in the order of the variant. Numbers are little-endian; a byte string is its length
//! as `u32` and its bytes; a list is its count as `u32` and its items. Nothing may follow the last.

use alloc::vec::Vec;

use super::{Command, Condition, Expiry, List, Unit};

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("a command of {bytes} bytes ends in the middle of a field")]
    Truncated { bytes: usize },
    #[error("a command is followed by {bytes} bytes that belong to nothing")]
    Trailing { bytes: usize },
    #[error("no command has the opcode {opcode}")]
    Opcode { opcode: u8 },
    #[error("a command of opcode {opcode} has a field of value {value}, which means nothing")]
    Field { opcode: u8, value: u8 },
    #[error("a list of keys and values has {items} items: one is without a partner")]
    Unpaired { items: u32 },
}

const GET: u8 = 1;
const SET: u8 = 2;
const DELETE: u8 = 3;
const EXISTS: u8 = 4;
const INCREMENT: u8 = 5;
const APPEND: u8 = 6;
const LENGTH: u8 = 7;
const MULTI_GET: u8 = 8;
const MULTI_SET: u8 = 9;
const EXPIRE: u8 = 10;
const TIME_TO_LIVE: u8 = 11;
const PERSIST: u8 = 12;
const TYPE: u8 = 13;
const SIZE: u8 = 14;
const FLUSH: u8 = 15;
const COUNT_IN_SLOT: u8 = 16;

impl<'a> Command<'a> {
    /// Appends the command's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Get { key } => put(out, GET, &[key]),
            Self::Set {
                key,
                value,
                expiry,
                condition,
                get,
            } => {
                let (kind, time) = match expiry {
                    Expiry::Never => (0, 0),
                    Expiry::Keep => (1, 0),
                    Expiry::After(ms) => (2, ms),
                    Expiry::At(ms) => (3, ms),
                };
                let condition = match condition {
                    Condition::Always => 0,
                    Condition::Absent => 1,
                    Condition::Present => 2,
                };
                put(out, SET, &[]);
                out.push(kind | condition << 2 | u8::from(get) << 4);
                if kind >= 2 {
                    out.extend_from_slice(&time.to_le_bytes());
                }
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Self::Delete { keys } => put_list(out, DELETE, keys),
            Self::Exists { keys } => put_list(out, EXISTS, keys),
            Self::Increment { key, delta } => {
                put(out, INCREMENT, &[key]);
                out.extend_from_slice(&delta.to_le_bytes());
            }
            Self::Append {
                key,
                value,
                bytes_max,
            } => {
                put(out, APPEND, &[key, value]);
                out.extend_from_slice(&bytes_max.to_le_bytes());
            }
            Self::Length { key } => put(out, LENGTH, &[key]),
            Self::MultiGet { keys } => put_list(out, MULTI_GET, keys),
            Self::MultiSet { pairs } => put_list(out, MULTI_SET, pairs),
            Self::Expire { key, after_ms } => {
                put(out, EXPIRE, &[key]);
                out.extend_from_slice(&after_ms.to_le_bytes());
            }
            Self::TimeToLive { key, unit } => {
                put(out, TIME_TO_LIVE, &[key]);
                out.push(u8::from(unit == Unit::Milliseconds));
            }
            Self::Persist { key } => put(out, PERSIST, &[key]),
            Self::Type { key } => put(out, TYPE, &[key]),
            Self::Size => put(out, SIZE, &[]),
            Self::Flush => put(out, FLUSH, &[]),
            Self::CountInSlot { slot } => {
                put(out, COUNT_IN_SLOT, &[]);
                out.extend_from_slice(&slot.to_le_bytes());
            }
        }
    }

    /// Reads a command back, checking every length.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CommandError> {
        let mut fields = Fields {
            rest: bytes,
            whole: bytes.len(),
        };
        let opcode = fields.byte()?;
        let command = match opcode {
            GET => Self::Get {
                key: fields.bytes()?,
            },
            SET => fields.set()?,
            DELETE => Self::Delete {
                keys: fields.list()?,
            },
            EXISTS => Self::Exists {
                keys: fields.list()?,
            },
            INCREMENT => Self::Increment {
                key: fields.bytes()?,
                delta: i64::from_le_bytes(fields.fixed()?),
            },
            APPEND => Self::Append {
                key: fields.bytes()?,
                value: fields.bytes()?,
                bytes_max: u64::from_le_bytes(fields.fixed()?),
            },
            LENGTH => Self::Length {
                key: fields.bytes()?,
            },
            MULTI_GET => Self::MultiGet {
                keys: fields.list()?,
            },
            MULTI_SET => match fields.list()? {
                List::Encoded { count, .. } if count % 2 != 0 => {
                    return Err(CommandError::Unpaired { items: count });
                }
                pairs => Self::MultiSet { pairs },
            },
            EXPIRE => Self::Expire {
                key: fields.bytes()?,
                after_ms: i64::from_le_bytes(fields.fixed()?),
            },
            TIME_TO_LIVE => {
                let key = fields.bytes()?;
                let unit = match fields.byte()? {
                    0 => Unit::Seconds,
                    1 => Unit::Milliseconds,
                    value => return Err(CommandError::Field { opcode, value }),
                };
                Self::TimeToLive { key, unit }
            }
            PERSIST => Self::Persist {
                key: fields.bytes()?,
            },
            TYPE => Self::Type {
                key: fields.bytes()?,
            },
            SIZE => Self::Size,
            FLUSH => Self::Flush,
            COUNT_IN_SLOT => Self::CountInSlot {
                slot: u16::from_le_bytes(fields.fixed()?),
            },
            opcode => return Err(CommandError::Opcode { opcode }),
        };
        match fields.rest.len() {
            0 => Ok(command),
            bytes => Err(CommandError::Trailing { bytes }),
        }
    }
}

fn put(out: &mut Vec<u8>, opcode: u8, fields: &[&[u8]]) {
    out.push(opcode);
    for field in fields {
        put_bytes(out, field);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("limits keep arguments far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_list(out: &mut Vec<u8>, opcode: u8, list: List<'_>) {
    out.push(opcode);
    let count = u32::try_from(list.len()).expect("limits keep lists far below 4 G items");
    out.extend_from_slice(&count.to_le_bytes());
    for item in list.iter() {
        put_bytes(out, item);
    }
}

struct Fields<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Fields<'a> {
    fn truncated(&self) -> CommandError {
        CommandError::Truncated { bytes: self.whole }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CommandError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(self.truncated())?;
        self.rest = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, CommandError> {
        Ok(self.fixed::<1>()?[0])
    }

    fn bytes(&mut self) -> Result<&'a [u8], CommandError> {
        let length = u32::from_le_bytes(self.fixed()?) as usize;
        let (field, rest) = self.rest.split_at_checked(length).ok_or(self.truncated())?;
        self.rest = rest;
        Ok(field)
    }

    fn list(&mut self) -> Result<List<'a>, CommandError> {
        let count = u32::from_le_bytes(self.fixed()?);
        let start = self.rest;
        for _ in 0..count {
            self.bytes()?;
        }
        let items = &start[..start.len() - self.rest.len()];
        Ok(List::Encoded { count, items })
    }

    fn set(&mut self) -> Result<Command<'a>, CommandError> {
        let value = self.byte()?;
        let error = CommandError::Field { opcode: SET, value };
        if value >> 5 != 0 {
            return Err(error);
        }
        let expiry = match value & 3 {
            0 => Expiry::Never,
            1 => Expiry::Keep,
            2 => Expiry::After(u64::from_le_bytes(self.fixed()?)),
            _ => Expiry::At(u64::from_le_bytes(self.fixed()?)),
        };
        let condition = match value >> 2 & 3 {
            0 => Condition::Always,
            1 => Condition::Absent,
            2 => Condition::Present,
            _ => return Err(error),
        };
        let get = value >> 4 & 1 == 1;
        Ok(Command::Set {
            key: self.bytes()?,
            value: self.bytes()?,
            expiry,
            condition,
            get,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each() -> Vec<Command<'static>> {
        const KEYS: List<'static> = List::Arguments(&[b"k", b"", b"longer key", b"v"]);
        let set = |expiry, condition, get| Command::Set {
            key: b"k",
            value: b"v",
            expiry,
            condition,
            get,
        };
        alloc::vec![
            Command::Get { key: b"k" },
            set(Expiry::Never, Condition::Always, false),
            set(Expiry::Keep, Condition::Absent, true),
            set(Expiry::After(u64::MAX), Condition::Present, false),
            set(Expiry::At(7), Condition::Always, true),
            Command::Delete { keys: KEYS },
            Command::Exists { keys: KEYS },
            Command::Increment {
                key: b"k",
                delta: i64::MIN
            },
            Command::Append {
                key: b"",
                value: b"v",
                bytes_max: 1 << 40,
            },
            Command::Length { key: b"k" },
            Command::MultiGet {
                keys: List::Arguments(&[])
            },
            Command::MultiSet { pairs: KEYS },
            Command::Expire {
                key: b"k",
                after_ms: -1
            },
            Command::TimeToLive {
                key: b"k",
                unit: Unit::Milliseconds
            },
            Command::Persist { key: b"k" },
            Command::Type { key: b"k" },
            Command::Size,
            Command::Flush,
            Command::CountInSlot { slot: 16383 },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for command in each() {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            assert_eq!(Command::decode(&bytes), Ok(command));
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        for command in each() {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            for cut in 0..bytes.len() {
                let error = Command::decode(&bytes[..cut]).unwrap_err();
                assert_eq!(error, CommandError::Truncated { bytes: cut }, "{command:?}");
            }
            bytes.push(0);
            assert_eq!(
                Command::decode(&bytes),
                Err(CommandError::Trailing { bytes: 1 })
            );
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        assert_eq!(
            Command::decode(&[99]),
            Err(CommandError::Opcode { opcode: 99 })
        );
        assert_eq!(
            Command::decode(&[SET, 0x0c]).unwrap_err(),
            CommandError::Field {
                opcode: SET,
                value: 0x0c
            }
        );
        let mut bytes = Vec::new();
        Command::MultiSet {
            pairs: List::Arguments(&[b"k"]),
        }
        .encode(&mut bytes);
        assert_eq!(
            Command::decode(&bytes),
            Err(CommandError::Unpaired { items: 1 })
        );
    }
}
