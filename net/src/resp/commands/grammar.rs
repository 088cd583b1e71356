//! From arguments to a data command. Every text and every order of checks is that of Redis 7.

use alloc::string::String;

use crate::command::{Condition, Expiry, List, Unit};
use crate::resp::number::parse_integer;
use crate::{Command, ErrorReply};

use super::{Spec, Verb};

/// Longest value that Redis makes, in bytes.
const VALUE_BYTES_MAX: u64 = 512 << 20;

/// How the reply of a data command becomes that of the name it was asked by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::resp) enum Shape {
    #[default]
    Same,
    /// `SETNX`: 1 if it was set, else 0.
    Flag,
    /// `CLIENT KILL ID`: how many were killed.
    Count,
}

/// The command that `arguments` spell. `spec` is theirs and accepts their number; `unix_ms` bounds
/// how far away an expiry may be.
#[inline]
pub(in crate::resp) fn data_command<'a>(
    spec: &'static Spec,
    arguments: &'a [&'a [u8]],
    unix_ms: u64,
) -> Result<(Command<'a>, Shape), ErrorReply> {
    let key = arguments[1];
    let rest = List::Arguments(&arguments[1..]);
    let command = match spec.verb {
        Verb::Get => Command::Get { key },
        Verb::Set => set(arguments, unix_ms)?,
        Verb::SetNx => {
            let command = plain_set(key, arguments[2], Expiry::Never, Condition::Absent);
            return Ok((command, Shape::Flag));
        }
        Verb::SetEx | Verb::PSetEx => {
            let unit = if spec.verb == Verb::SetEx { 1000 } else { 1 };
            let after = milliseconds(arguments[2], unit, Some(unix_ms), spec.name)?;
            plain_set(key, arguments[3], Expiry::After(after), Condition::Always)
        }
        Verb::GetSet => Command::Set {
            key,
            value: arguments[2],
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: true,
        },
        Verb::Delete => Command::Delete { keys: rest },
        Verb::Exists => Command::Exists { keys: rest },
        Verb::Incr => Command::Increment { key, delta: 1 },
        Verb::Decr => Command::Increment { key, delta: -1 },
        Verb::IncrBy => Command::Increment {
            key,
            delta: integer(arguments[2])?,
        },
        Verb::DecrBy => Command::Increment {
            key,
            delta: negated(arguments[2])?,
        },
        Verb::Append => Command::Append {
            key,
            value: arguments[2],
            // The node that takes it lowers this to its limit.
            bytes_max: VALUE_BYTES_MAX,
        },
        Verb::Strlen => Command::Length { key },
        Verb::MultiGet => Command::MultiGet { keys: rest },
        Verb::MultiSet => {
            if !rest.len().is_multiple_of(2) {
                return Err(other("ERR wrong number of arguments for 'mset' command"));
            }
            Command::MultiSet { pairs: rest }
        }
        Verb::Expire | Verb::PExpire => Command::Expire {
            key,
            after_ms: expire_after(spec, arguments, unix_ms)?,
        },
        Verb::Ttl => Command::TimeToLive {
            key,
            unit: Unit::Seconds,
        },
        Verb::PTtl => Command::TimeToLive {
            key,
            unit: Unit::Milliseconds,
        },
        Verb::Persist => Command::Persist { key },
        Verb::Type => Command::Type { key },
        verb => unreachable!("{verb:?} is not a command on a key"),
    };
    Ok((command, Shape::Same))
}

fn plain_set<'a>(
    key: &'a [u8],
    value: &'a [u8],
    expiry: Expiry,
    condition: Condition,
) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry,
        condition,
        get: false,
    }
}

/// The options that say how long a value lives. Their numbers are read only once all options are
/// known to fit together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Ex,
    Px,
    ExAt,
    PxAt,
    KeepTtl,
}

impl Lifetime {
    fn named(option: &[u8]) -> Option<Self> {
        let names = [
            ("EX", Self::Ex),
            ("PX", Self::Px),
            ("EXAT", Self::ExAt),
            ("PXAT", Self::PxAt),
            ("KEEPTTL", Self::KeepTtl),
        ];
        let mut names = names.into_iter();
        let named = names.find(|(name, _)| option.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, lifetime)| lifetime)
    }
}

fn set<'a>(arguments: &'a [&'a [u8]], unix_ms: u64) -> Result<Command<'a>, ErrorReply> {
    let mut condition = Condition::Always;
    let mut get = false;
    let mut lifetime: Option<(Lifetime, &[u8])> = None;

    let mut options = arguments[3..].iter();
    while let Some(&option) = options.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("NX") && condition != Condition::Present {
            condition = Condition::Absent;
        } else if is("XX") && condition != Condition::Absent {
            condition = Condition::Present;
        } else if is("GET") {
            get = true;
        } else {
            let option = Lifetime::named(option).ok_or(ErrorReply::Syntax)?;
            // The same one again is fine and the last one counts; two different ones are not.
            if lifetime.is_some_and(|(earlier, _)| earlier != option) {
                return Err(ErrorReply::Syntax);
            }
            let value = match option {
                Lifetime::KeepTtl => &[],
                _ => *options.next().ok_or(ErrorReply::Syntax)?,
            };
            lifetime = Some((option, value));
        }
    }
    let expiry = match lifetime {
        None => Expiry::Never,
        Some((Lifetime::KeepTtl, _)) => Expiry::Keep,
        Some((Lifetime::Ex, text)) => {
            Expiry::After(milliseconds(text, 1000, Some(unix_ms), "set")?)
        }
        Some((Lifetime::Px, text)) => Expiry::After(milliseconds(text, 1, Some(unix_ms), "set")?),
        Some((Lifetime::ExAt, text)) => Expiry::At(milliseconds(text, 1000, None, "set")?),
        Some((Lifetime::PxAt, text)) => Expiry::At(milliseconds(text, 1, None, "set")?),
    };
    Ok(Command::Set {
        key: arguments[1],
        value: arguments[2],
        expiry,
        condition,
        get,
    })
}

/// A positive time in units of `unit` milliseconds; if it counts from `unix_ms`, its end must be a
/// time too.
fn milliseconds(
    text: &[u8],
    unit: i64,
    unix_ms: Option<u64>,
    command: &'static str,
) -> Result<u64, ErrorReply> {
    let invalid = ErrorReply::InvalidExpire { command };
    let value = integer(text)?;
    if value <= 0 {
        return Err(invalid);
    }
    value
        .checked_mul(unit)
        .filter(|&ms| ms <= latest_after(unix_ms.unwrap_or(0)))
        .map(i64::unsigned_abs)
        .ok_or(invalid)
}

/// The farthest a time may be from `unix_ms`.
fn latest_after(unix_ms: u64) -> i64 {
    i64::MAX.saturating_sub_unsigned(unix_ms)
}

fn expire_after(spec: &Spec, arguments: &[&[u8]], unix_ms: u64) -> Result<i64, ErrorReply> {
    if let Some(option) = arguments.get(3) {
        let option = String::from_utf8_lossy(option);
        return Err(ErrorReply::Other(alloc::format!(
            "ERR Unsupported option {option}"
        )));
    }
    let unit = if spec.verb == Verb::Expire { 1000 } else { 1 };
    integer(arguments[2])?
        .checked_mul(unit)
        .filter(|&ms| ms <= latest_after(unix_ms))
        .ok_or(ErrorReply::InvalidExpire { command: spec.name })
}

fn integer(text: &[u8]) -> Result<i64, ErrorReply> {
    parse_integer(text).ok_or(ErrorReply::NotAnInteger)
}

fn negated(text: &[u8]) -> Result<i64, ErrorReply> {
    integer(text)?
        .checked_neg()
        .ok_or_else(|| other("ERR decrement would overflow"))
}

fn other(text: &str) -> ErrorReply {
    ErrorReply::Other(text.into())
}
