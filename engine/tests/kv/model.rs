//! The state machine again, as plainly as it can be said: one sorted map and no index of anything.

use std::collections::BTreeMap;

use net::command::{Condition, Expiry, Unit};
use net::{Command, ErrorReply, Reply, Slot};

/// A value and when it goes away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) due: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<Vec<u8>, Entry>,
    pub(crate) clock: u64,
}

impl Model {
    pub(crate) fn advance(&mut self, stamp_ms: u64) {
        self.clock = self.clock.max(stamp_ms);
        let clock = self.clock;
        self.entries
            .retain(|_, entry| entry.due.is_none_or(|due| due > clock));
    }

    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    fn put(&mut self, key: &[u8], value: &[u8], due: Option<u64>) {
        let value = value.to_vec();
        self.entries.insert(key.to_vec(), Entry { value, due });
        self.advance(self.clock);
    }

    fn get(&self, key: &[u8]) -> Reply {
        let entry = self.entries.get(key);
        entry.map_or(Reply::Nil, |entry| Reply::Bulk(entry.value.clone()))
    }

    fn due(&self, key: &[u8]) -> Option<u64> {
        self.entries.get(key)?.due
    }

    pub(crate) fn execute(&mut self, unix_ms: u64, command: &Command<'_>) -> Reply {
        match *command {
            Command::Get { key } => self.get(key),
            Command::Set {
                key,
                value,
                expiry,
                condition,
                get,
            } => {
                let present = self.entries.contains_key(key);
                let old = self.get(key);
                let due = match expiry {
                    Expiry::Never => None,
                    Expiry::Keep => self.due(key),
                    Expiry::After(ms) => Some(self.clock.saturating_add(ms)),
                    Expiry::At(ms) => Some(ms),
                };
                let write = match condition {
                    Condition::Always => true,
                    Condition::Absent => !present,
                    Condition::Present => present,
                };
                if write {
                    self.put(key, value, due);
                }
                match (get, write) {
                    (true, _) => old,
                    (false, true) => Reply::Ok,
                    (false, false) => Reply::Nil,
                }
            }
            Command::Delete { keys } => {
                let gone = keys
                    .iter()
                    .filter(|&key| self.entries.remove(key).is_some());
                integer(gone.count())
            }
            Command::Exists { keys } => integer(
                keys.iter()
                    .filter(|&key| self.entries.contains_key(key))
                    .count(),
            ),
            Command::Increment { key, delta } => self.increment(key, delta),
            Command::Append {
                key,
                value,
                bytes_max,
            } => {
                let due = self.due(key);
                let mut whole = match self.get(key) {
                    Reply::Bulk(old) => old,
                    _ => Vec::new(),
                };
                whole.extend_from_slice(value);
                if whole.len() as u64 > bytes_max {
                    return ErrorReply::StringTooLarge.into();
                }
                self.put(key, &whole, due);
                integer(whole.len())
            }
            Command::Length { key } => integer(self.entries.get(key).map_or(0, |e| e.value.len())),
            Command::MultiGet { keys } => Reply::Array(keys.iter().map(|k| self.get(k)).collect()),
            Command::MultiSet { pairs } => {
                let items: Vec<&[u8]> = pairs.iter().collect();
                for pair in items.chunks(2) {
                    self.put(pair[0], pair[1], None);
                }
                Reply::Ok
            }
            Command::Expire { key, after_ms } => {
                let Some(entry) = self.entries.get_mut(key) else {
                    return Reply::Integer(0);
                };
                let due = i128::from(self.clock) + i128::from(after_ms);
                entry.due = Some(due.max(0).try_into().unwrap_or(u64::MAX));
                self.advance(self.clock);
                Reply::Integer(1)
            }
            Command::TimeToLive { key, unit } => self.time_to_live(unix_ms, key, unit),
            Command::Persist { key } => {
                let entry = self.entries.get_mut(key);
                integer(entry.and_then(|entry| entry.due.take()).into_iter().count())
            }
            Command::Type { key } => Reply::Status(match self.entries.contains_key(key) {
                true => "string",
                false => "none",
            }),
            Command::Size => integer(self.entries.len()),
            Command::Flush => {
                self.entries.clear();
                Reply::Ok
            }
            Command::CountInSlot { slot } => {
                let inside = |key: &&Vec<u8>| Slot::of(key).number() == slot;
                integer(self.entries.keys().filter(inside).count())
            }
        }
    }

    fn increment(&mut self, key: &[u8], delta: i64) -> Reply {
        let due = self.due(key);
        let old = match self.get(key) {
            Reply::Bulk(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                match text.parse::<i64>() {
                    // What would be written otherwise is not a number.
                    Ok(number) if number.to_string() == text => number,
                    _ => return ErrorReply::NotAnInteger.into(),
                }
            }
            _ => 0,
        };
        let Some(new) = old.checked_add(delta) else {
            return ErrorReply::IncrementOverflow.into();
        };
        self.put(key, new.to_string().as_bytes(), due);
        Reply::Integer(new)
    }

    fn time_to_live(&self, unix_ms: u64, key: &[u8], unit: Unit) -> Reply {
        let left = match self.entries.get(key) {
            None => return Reply::Integer(-2),
            Some(Entry { due: None, .. }) => return Reply::Integer(-1),
            Some(Entry { due: Some(due), .. }) => due.saturating_sub(self.clock.max(unix_ms)),
        };
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        Reply::Integer(match unit {
            Unit::Milliseconds => left,
            Unit::Seconds => left.saturating_add(500) / 1000,
        })
    }
}

fn integer(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).expect("a count of few"))
}
