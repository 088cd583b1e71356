//! The built-in state machine: strings by key, in slots, with expiry.
//!
//! Deterministic: equal batches in equal order make equal states and equal replies. Time is what the
//! leaders stamped on the batches, made monotonic; no clock is read. Semantics are those of Redis 7.

mod ahead;
mod chunk;
mod expiry;
mod integer;
mod restore;
mod slot;
mod walk;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;

use net::command::{Condition, Expiry, List, Unit};
use net::{Command, ErrorReply, Reply, Slot};

use crate::batch::Batch;
use crate::state_machine::{BATCH_ANSWERS_BYTES, RestoreError, StateMachine};
use ahead::Window;
pub use chunk::{Item, Items};
use expiry::Expiries;
use restore::Restoring;
pub use slot::fingerprint_of;
use slot::{Entry, Spot, Table};
use walk::{Change, Walk};

/// The data of one group: the slots it owns.
pub struct Kv {
    first_slot: u16,
    slots: Vec<Table>,
    keys: u64,
    /// Of all keys and values.
    bytes: u64,
    expiries: Expiries,
    /// The newest stamp applied.
    clock: u64,
    /// The snapshot under way. Every change of `slots` tells it first.
    walk: Option<Box<Walk>>,
    restoring: Option<Restoring>,
}

impl core::fmt::Debug for Kv {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut shown = f.debug_struct("Kv");
        shown.field("keys", &self.keys).field("clock", &self.clock);
        shown.finish_non_exhaustive()
    }
}

impl Kv {
    /// An empty state that owns the slots from the first to the last.
    pub fn new((first, last): (u16, u16)) -> Self {
        assert!(
            first <= last && last < net::SLOTS,
            "no such slots: {first}-{last}"
        );
        let slots = empty(usize::from(last - first) + 1);
        Self {
            first_slot: first,
            slots,
            keys: 0,
            bytes: 0,
            expiries: Expiries::default(),
            clock: 0,
            walk: None,
            restoring: None,
        }
    }

    /// Time as the state machine knows it: the newest stamp applied, in Unix milliseconds.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Lets time pass, never back: keys that are due go away.
    pub fn advance(&mut self, stamp_ms: u64) {
        self.clock = self.clock.max(stamp_ms);
        while let Some((slot, key)) = self.expiries.pop(self.clock) {
            let gone = self.table_at(slot, &key, Change::Remove).remove(&key);
            let gone = gone.expect("a key that is to expire has a value");
            self.keys -= 1;
            self.bytes -= gone.key_and_value().len() as u64;
        }
    }

    /// Executes a command that was taken into the log.
    fn execute(&mut self, command: &Command<'_>, spot: Option<Spot>) -> Reply {
        match *command {
            Command::Set {
                key,
                value,
                expiry,
                condition,
                get,
            } => {
                let spot = spot.unwrap_or_else(|| Spot::of(key));
                self.set((key, spot), value, expiry, condition, get)
            }
            Command::Delete { keys } => {
                count(keys.iter().filter(|key| self.remove(key).is_some()).count())
            }
            Command::Increment { key, delta } => self.increment(key, delta),
            Command::Append {
                key,
                value,
                bytes_max,
            } => self.append(key, value, bytes_max),
            Command::MultiSet { pairs } => {
                let mut items = pairs.iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    self.put(key, value, None);
                }
                Reply::Ok
            }
            Command::Expire { key, after_ms } => self.expire(key, after_ms),
            Command::Persist { key } => self.persist(key),
            Command::Flush => {
                self.flush();
                Reply::Ok
            }
            ref read => self.read(self.clock, BATCH_ANSWERS_BYTES, read),
        }
    }

    fn flush(&mut self) {
        let slots = empty(self.slots.len());
        let all = mem::replace(&mut self.slots, slots);
        if let Some(walk) = &mut self.walk {
            walk.freeze(all);
        }
        self.expiries.clear();
        (self.keys, self.bytes) = (0, 0);
    }

    fn multi_get(&self, keys: List<'_>, bytes_max: usize) -> Reply {
        // A key may come many times, so its bytes say nothing about those of the answer.
        let mut left = bytes_max;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys.iter() {
            let entry = self.find(key);
            let bytes = entry.map_or(0, |entry| entry.value().len()) + size_of::<Reply>();
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return too_large(bytes_max),
            }
            values.push(bulk(entry));
        }
        Reply::Array(values)
    }

    /// Whether all that comes of a command now is an answer: nothing changes.
    fn only_answers(&self, command: &Command<'_>) -> bool {
        match *command {
            Command::Set {
                key,
                condition: Condition::Absent,
                ..
            } => self.find(key).is_some(),
            ref command => !command.is_write(),
        }
    }

    fn time_to_live(&self, key: &[u8], unit: Unit, unix_ms: u64) -> i64 {
        let Some(entry) = self.find(key) else {
            return -2;
        };
        let Some(due) = entry.due() else { return -1 };
        let left = i64::try_from(due.saturating_sub(self.clock.max(unix_ms))).unwrap_or(i64::MAX);
        match unit {
            Unit::Milliseconds => left,
            Unit::Seconds => left.saturating_add(500) / 1000,
        }
    }

    fn set(
        &mut self,
        (key, spot): (&[u8], Spot),
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
            Expiry::Keep => old.and_then(Entry::due),
            Expiry::After(ms) => Some(self.clock.saturating_add(ms)),
            Expiry::At(due) => Some(due),
        };
        self.put_at(spot, key, value, due);
        answer
    }

    fn increment(&mut self, key: &[u8], delta: i64) -> Reply {
        let mut digits = integer::Digits::default();
        let Some(entry) = self.table_of(key, Change::Alter).1.get_mut(key) else {
            self.put(key, digits.write(delta), None);
            return Reply::Integer(delta);
        };
        let Some(old) = integer::parse(entry.value()) else {
            return ErrorReply::NotAnInteger.into();
        };
        let Some(new) = old.checked_add(delta) else {
            return ErrorReply::IncrementOverflow.into();
        };
        let old_bytes = entry.value().len() as u64;
        entry.write(digits.write(new));
        let new_bytes = entry.value().len() as u64;
        self.bytes = self.bytes + new_bytes - old_bytes;
        Reply::Integer(new)
    }

    fn append(&mut self, key: &[u8], suffix: &[u8], bytes_max: u64) -> Reply {
        let entry = self.table_of(key, Change::Alter).1.get_mut(key);
        let old = entry.as_ref().map_or(0, |entry| entry.value().len());
        let bytes = old + suffix.len();
        if bytes as u64 > bytes_max {
            return ErrorReply::StringTooLarge.into();
        }
        match entry {
            Some(entry) => {
                entry.append(suffix);
                self.bytes += suffix.len() as u64;
            }
            None => self.put(key, suffix, None),
        }
        count(bytes)
    }

    fn expire(&mut self, key: &[u8], after_ms: i64) -> Reply {
        let found = match u64::try_from(after_ms) {
            Ok(after) if after > 0 => {
                let due = self.clock.saturating_add(after);
                self.change_due(key, Some(due)).is_some()
            }
            _ => self.remove(key).is_some(),
        };
        Reply::Integer(i64::from(found))
    }

    fn persist(&mut self, key: &[u8]) -> Reply {
        let expired_once = matches!(self.change_due(key, None), Some(Some(_)));
        Reply::Integer(i64::from(expired_once))
    }

    fn find(&self, key: &[u8]) -> Option<&Entry> {
        let at = usize::from(Slot::of(key).number().checked_sub(self.first_slot)?);
        self.slots.get(at)?.get(key)
    }

    /// The table of a key's slot, about to be changed. The group owns the slot; commands on others are
    /// sent elsewhere before they are taken into the log.
    fn table_of(&mut self, key: &[u8], change: Change) -> (u16, &mut Table) {
        let slot = Slot::of(key).number();
        (slot, self.table_at(slot, key, change))
    }

    fn table_at(&mut self, slot: u16, key: &[u8], change: Change) -> &mut Table {
        let at = slot.checked_sub(self.first_slot).map(usize::from);
        let at = at.filter(|&at| at < self.slots.len());
        let at = at.expect("writes reach only the group that owns the slot");
        let table = &mut self.slots[at];
        if let Some(walk) = &mut self.walk {
            walk.save(at, table, key, change);
        }
        table
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], due: Option<u64>) {
        self.put_at(Spot::of(key), key, bytes, due);
    }

    fn put_at(&mut self, spot: Spot, key: &[u8], bytes: &[u8], due: Option<u64>) {
        // Time that has passed already: the key is gone at once.
        if due.is_some_and(|due| due <= self.clock) {
            self.remove(key);
            return;
        }
        let Spot { slot, hash } = spot;
        let table = self.table_at(slot, key, Change::Put);
        let replaced = table.put(hash, key, bytes, due);
        self.bytes += (key.len() + bytes.len()) as u64;
        match replaced {
            None => self.keys += 1,
            Some(replaced) => self.bytes -= replaced.bytes as u64,
        }
        let old = replaced.and_then(|replaced| replaced.due);
        self.expiries.change(slot, key, old, due);
    }

    /// Gives a key another expiry, if the key is there, and returns the one it had.
    fn change_due(&mut self, key: &[u8], due: Option<u64>) -> Option<Option<u64>> {
        let (slot, table) = self.table_of(key, Change::Alter);
        let old = table.get_mut(key)?.set_due(due);
        self.expiries.change(slot, key, old, due);
        Some(old)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let (slot, table) = self.table_of(key, Change::Remove);
        let entry = table.remove(key)?;
        self.keys -= 1;
        self.bytes -= entry.key_and_value().len() as u64;
        self.expiries.change(slot, key, entry.due(), None);
        Some(entry)
    }
}

impl StateMachine for Kv {
    /// First of all, keys that are due go away.
    fn apply(&mut self, batch: &Batch<'_>, replies: &mut Vec<Reply>) {
        assert!(
            self.restoring.is_none(),
            "a state half restored is no state"
        );
        self.advance(batch.stamp_ms());
        let mut commands = batch.commands();
        let mut answered = 0;
        loop {
            let window = Window::next(&mut commands);
            if window.is_empty() {
                break;
            }
            if !window.is_single() {
                self.touch(window.iter().filter_map(|&(_, spot)| spot));
            }
            for (command, spot) in window.iter() {
                let reply = match command {
                    Ok(command) if answered > BATCH_ANSWERS_BYTES && self.only_answers(command) => {
                        ErrorReply::Busy.into()
                    }
                    Ok(command) => self.execute(command, *spot),
                    // Every replica sees the same bytes and refuses them alike.
                    Err(error) => ErrorReply::Other(alloc::format!("ERR {error}")).into(),
                };
                answered += reply.held_bytes();
                replies.push(reply);
            }
        }
        assert!(
            self.expiries.len() as u64 <= self.keys,
            "{} keys expire of {}",
            self.expiries.len(),
            self.keys
        );
    }

    /// Answers a command that changes nothing. `unix_ms` is the leader's time: it only shows in what
    /// is left of a key's life; whether a key is there is a matter of the log.
    fn read(&self, unix_ms: u64, bytes_max: usize, command: &Command<'_>) -> Reply {
        match *command {
            Command::Get { key } => match self.find(key) {
                Some(entry) if entry.value().len() > bytes_max => too_large(bytes_max),
                entry => bulk(entry),
            },
            Command::Exists { keys } => {
                count(keys.iter().filter(|key| self.find(key).is_some()).count())
            }
            Command::Length { key } => count(self.find(key).map_or(0, |entry| entry.value().len())),
            Command::MultiGet { keys } => self.multi_get(keys, bytes_max),
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

    fn look_ahead<'a>(&self, commands: impl Iterator<Item = &'a Command<'a>>) {
        self.touch(commands.filter_map(ahead::spot));
    }

    fn next_expiry(&self) -> Option<u64> {
        self.expiries.first()
    }

    fn keys(&self) -> u64 {
        self.keys
    }

    fn held_bytes(&self) -> u64 {
        self.bytes + self.keys * Entry::OVERHEAD as u64
    }

    /// Of keys, values, expiries and the clock. Visits everything.
    fn hash(&self) -> u64 {
        self.slots
            .iter()
            .fold(slot::mix(self.clock), |hash, table| {
                hash.wrapping_add(table.hash())
            })
    }

    fn snapshot_begin(&mut self) {
        assert!(self.walk.is_none(), "one snapshot is taken at a time");
        assert!(
            self.restoring.is_none(),
            "a state half restored is no state"
        );
        let walk = Walk::new(self.first_slot, self.slots.len(), self.clock, self.keys);
        self.walk = Some(Box::new(walk));
    }

    fn snapshot_next(&mut self, bytes_about: usize, to: &mut Vec<u8>) -> bool {
        let walk = self.walk.as_mut().expect("a snapshot was begun");
        let more = walk.next(&self.slots, bytes_about, to);
        if !more {
            self.walk = None;
        }
        more
    }

    fn snapshot_abort(&mut self) {
        self.walk = None;
    }

    fn snapshot_under_way(&self) -> bool {
        self.walk.is_some()
    }

    fn snapshot_held_bytes(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.held_bytes())
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        self.restore_chunk(chunk)
    }

    fn restored(&mut self) -> Result<(), RestoreError> {
        self.restore_end()
    }
}

fn empty(slots: usize) -> Vec<Table> {
    (0..slots).map(|_| Table::default()).collect()
}

fn bulk(entry: Option<&Entry>) -> Reply {
    entry.map_or(Reply::Nil, |entry| Reply::bulk(entry.value()))
}

fn too_large(limit: usize) -> Reply {
    ErrorReply::AnswerTooLarge { limit }.into()
}

fn count(items: usize) -> Reply {
    Reply::Integer(items.try_into().unwrap_or(i64::MAX))
}
