//! The built-in state machine: strings by key, in slots, with expiry.
//!
//! Deterministic: equal batches in equal order make equal states and equal replies. Time is what the
//! leaders stamped on the batches, made monotonic; no clock is read. Semantics are those of Redis 7.

mod integer;
mod slot;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use net::command::{Condition, Expiry, List, Unit};
use net::{Command, ErrorReply, Reply, Slot};

use crate::batch::Batch;
use slot::{Table, Value};

/// Largest value that `APPEND` makes, as in Redis.
const VALUE_BYTES_MAX: usize = 512 << 20;

/// The data of one group: the slots it owns.
pub struct Kv {
    first_slot: u16,
    slots: Vec<Table>,
    keys: u64,
    /// `(due, slot, key)` of every key that expires.
    expiries: BTreeSet<(u64, u16, Vec<u8>)>,
    /// The newest stamp applied.
    clock: u64,
}

impl Kv {
    /// An empty state that owns the slots from the first to the last.
    pub fn new((first, last): (u16, u16)) -> Self {
        assert!(
            first <= last && last < net::SLOTS,
            "no such slots: {first}-{last}"
        );
        let slots = (first..=last).map(|_| Table::default()).collect();
        Self {
            first_slot: first,
            slots,
            keys: 0,
            expiries: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Applies a batch; one reply for each command. First of all, keys that are due go away.
    pub fn apply(&mut self, batch: &Batch<'_>, replies: &mut Vec<Reply>) {
        self.advance(batch.stamp_ms());
        for bytes in batch.commands() {
            let reply = match Command::decode(bytes) {
                Ok(command) => self.execute(&command),
                // Every replica sees the same bytes and refuses them alike.
                Err(error) => ErrorReply::Other(alloc::format!("ERR {error}")).into(),
            };
            replies.push(reply);
        }
    }

    /// Lets time pass; never back.
    pub fn advance(&mut self, stamp_ms: u64) {
        self.clock = self.clock.max(stamp_ms);
        while self
            .expiries
            .first()
            .is_some_and(|&(due, ..)| due <= self.clock)
        {
            let (_, slot, key) = self.expiries.pop_first().expect("just seen");
            let gone = self.slots[usize::from(slot - self.first_slot)].remove(&key);
            assert!(gone.is_some(), "a key without a value was to expire");
            self.keys -= 1;
        }
    }

    /// When the next key expires.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|&(due, ..)| due)
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Equal for equal states, whatever their history: keys, values, expiries.
    pub fn hash(&self) -> u64 {
        self.slots
            .iter()
            .fold(0, |hash, table| hash.wrapping_add(table.hash()))
    }

    /// Executes a command that was taken into the log.
    fn execute(&mut self, command: &Command<'_>) -> Reply {
        match *command {
            Command::Set {
                key,
                value,
                expiry,
                condition,
                get,
            } => self.set(key, value, expiry, condition, get),
            Command::Delete { keys } => {
                count(keys.iter().filter(|key| self.remove(key).is_some()).count())
            }
            Command::Increment { key, delta } => self.increment(key, delta),
            Command::Append { key, value } => self.append(key, value),
            Command::MultiSet { pairs } => {
                let mut items = pairs.iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    self.put(key, value, None);
                }
                Reply::Ok
            }
            Command::Expire { key, after_ms } => self.expire(key, after_ms),
            Command::Persist { key } => {
                let Some(value) = self.find(key) else {
                    return Reply::Integer(0);
                };
                let had = value.due.is_some();
                self.set_due(key, None);
                Reply::Integer(i64::from(had))
            }
            Command::Flush => {
                self.slots.iter_mut().for_each(Table::clear);
                self.expiries.clear();
                self.keys = 0;
                Reply::Ok
            }
            ref read => self.read(self.clock, read),
        }
    }

    /// Answers a command that changes nothing. `unix_ms` is the leader's time: it only shows in what
    /// is left of a key's life; whether a key is there is a matter of the log.
    pub fn read(&self, unix_ms: u64, command: &Command<'_>) -> Reply {
        match *command {
            Command::Get { key } => bulk(self.find(key)),
            Command::Exists { keys } => {
                count(keys.iter().filter(|key| self.find(key).is_some()).count())
            }
            Command::Length { key } => count(self.find(key).map_or(0, |value| value.bytes.len())),
            Command::MultiGet { keys } => self.multi_get(keys),
            Command::TimeToLive { key, unit } => {
                Reply::Integer(self.time_to_live(key, unit, unix_ms))
            }
            Command::Type { key } => Reply::Status(self.find(key).map_or("none", |_| "string")),
            Command::Size => Reply::Integer(self.keys.try_into().unwrap_or(i64::MAX)),
            Command::CountInSlot { slot } => {
                let table = slot.checked_sub(self.first_slot).map(usize::from);
                count(
                    table
                        .and_then(|at| self.slots.get(at))
                        .map_or(0, Table::len),
                )
            }
            _ => ErrorReply::Other("ERR a write cannot be read".into()).into(),
        }
    }

    fn multi_get(&self, keys: List<'_>) -> Reply {
        Reply::Array(keys.iter().map(|key| bulk(self.find(key))).collect())
    }

    fn time_to_live(&self, key: &[u8], unit: Unit, unix_ms: u64) -> i64 {
        let Some(value) = self.find(key) else {
            return -2;
        };
        let Some(due) = value.due else { return -1 };
        let left = i64::try_from(due.saturating_sub(self.clock.max(unix_ms))).unwrap_or(i64::MAX);
        match unit {
            Unit::Milliseconds => left,
            Unit::Seconds => left.saturating_add(500) / 1000,
        }
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        condition: Condition,
        get: bool,
    ) -> Reply {
        let plain = condition == Condition::Always && !get && expiry != Expiry::Keep;
        let old = if plain { None } else { self.find(key) };
        let answer = if get { bulk(old) } else { Reply::Ok };
        let refused = match condition {
            Condition::Always => false,
            Condition::Absent => old.is_some(),
            Condition::Present => old.is_none(),
        };
        if refused {
            return if get { answer } else { Reply::Nil };
        }
        let due = match expiry {
            Expiry::Never => None,
            Expiry::Keep => old.and_then(|value| value.due),
            Expiry::After(ms) => Some(self.clock.saturating_add(ms)),
            Expiry::At(due) => Some(due),
        };
        self.put(key, value, due);
        answer
    }

    fn increment(&mut self, key: &[u8], delta: i64) -> Reply {
        let old = match self.find(key).map(|value| integer::parse(&value.bytes)) {
            None => 0,
            Some(Some(number)) => number,
            Some(None) => return ErrorReply::NotAnInteger.into(),
        };
        let Some(new) = old.checked_add(delta) else {
            return ErrorReply::IncrementOverflow.into();
        };
        let mut digits = integer::Digits::default();
        let digits = digits.write(new);
        self.replace_bytes(key, digits);
        Reply::Integer(new)
    }

    fn append(&mut self, key: &[u8], suffix: &[u8]) -> Reply {
        let old = self.find(key).map_or([].as_slice(), |value| &value.bytes);
        if old.len() + suffix.len() > VALUE_BYTES_MAX {
            return ErrorReply::StringTooLarge.into();
        }
        let whole = [old, suffix].concat();
        self.replace_bytes(key, &whole);
        count(whole.len())
    }

    fn expire(&mut self, key: &[u8], after_ms: i64) -> Reply {
        if self.find(key).is_none() {
            return Reply::Integer(0);
        }
        match u64::try_from(after_ms) {
            Ok(after) if after > 0 => self.set_due(key, Some(self.clock.saturating_add(after))),
            _ => {
                self.remove(key);
            }
        }
        Reply::Integer(1)
    }

    fn find(&self, key: &[u8]) -> Option<&Value> {
        let at = usize::from(Slot::of(key).number().checked_sub(self.first_slot)?);
        self.slots.get(at)?.get(key)
    }

    /// The table of a slot this group owns; commands on others are sent elsewhere before they are
    /// taken into the log.
    fn table_mut(&mut self, key: &[u8]) -> (u16, &mut Table) {
        let slot = Slot::of(key).number();
        let at = slot.checked_sub(self.first_slot).map(usize::from);
        let table = at.and_then(|at| self.slots.get_mut(at));
        (
            slot,
            table.expect("writes reach only the group that owns the slot"),
        )
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], due: Option<u64>) {
        // Time that has passed already: the key is gone at once.
        if due.is_some_and(|due| due <= self.clock) {
            self.remove(key);
            return;
        }
        let (slot, table) = self.table_mut(key);
        match table.put(key, bytes, due) {
            None => self.keys += 1,
            Some(Some(old)) => self.forget_due(old, slot, key),
            Some(None) => {}
        }
        if let Some(due) = due {
            self.expiries.insert((due, slot, key.to_vec()));
        }
    }

    /// Replaces a value and keeps its expiry.
    fn replace_bytes(&mut self, key: &[u8], bytes: &[u8]) {
        let due = self.find(key).and_then(|value| value.due);
        self.put(key, bytes, due);
    }

    fn set_due(&mut self, key: &[u8], due: Option<u64>) {
        let (slot, table) = self.table_mut(key);
        let value = table.get_mut(key).expect("callers look first");
        let old = core::mem::replace(&mut value.due, due);
        if let Some(old) = old {
            self.forget_due(old, slot, key);
        }
        if let Some(due) = due {
            self.expiries.insert((due, slot, key.to_vec()));
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let (slot, table) = self.table_mut(key);
        let value = table.remove(key)?;
        self.keys -= 1;
        if let Some(due) = value.due {
            self.forget_due(due, slot, key);
        }
        Some(value)
    }

    fn forget_due(&mut self, due: u64, slot: u16, key: &[u8]) {
        let found = self.expiries.remove(&(due, slot, key.to_vec()));
        assert!(found, "a key that expires is in the index");
    }
}

fn bulk(value: Option<&Value>) -> Reply {
    value.map_or(Reply::Nil, |value| Reply::bulk(&*value.bytes))
}

fn count(items: usize) -> Reply {
    Reply::Integer(items.try_into().unwrap_or(i64::MAX))
}
