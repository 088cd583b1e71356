//! Brings what commands will touch into the processor's caches, for many commands at once.
//!
//! A key is behind three dependent accesses to memory: its slot's table, its place in the table, its bytes.
//! One command after the other waits for all of them. Commands looked at together wait only for the
//! slowest at each step. Nothing is decided here: state is read and dropped.

use core::array;
use core::hint::black_box;

use net::{Command, Slot};

use super::Kv;
use super::slot::hash_key;
use crate::state_machine::WINDOW;

/// Bytes of memory that a processor fetches at once.
const LINE: usize = 64;
/// So much of a value is brought; the rest follows in order, which processors foresee.
const VALUE_BYTES_MAX: usize = 512;

impl Kv {
    /// Looks at what these commands will touch.
    pub(super) fn touch<'a>(&self, commands: impl Iterator<Item = &'a Command<'a>>) {
        let mut commands = commands.filter_map(key);
        let places: [_; WINDOW] = array::from_fn(|_| {
            let key = commands.next()?;
            let at = Slot::of(key).number().checked_sub(self.first_slot)?;
            Some((self.slots.get(usize::from(at))?, hash_key(key)))
        });
        let places = || places.iter().flatten();
        for (table, _) in places() {
            black_box(table.places());
        }
        for (table, hash) in places() {
            black_box(table.may_hold(*hash));
        }
        for (table, hash) in places() {
            let Some(entry) = table.likely(*hash) else {
                continue;
            };
            let bytes = entry.key_and_value();
            for byte in bytes.iter().take(VALUE_BYTES_MAX).step_by(LINE) {
                black_box(*byte);
            }
        }
    }
}

/// The key of a command that has one; those of many are looked up as they come.
fn key<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    match *command {
        Command::Get { key }
        | Command::Set { key, .. }
        | Command::Increment { key, .. }
        | Command::Append { key, .. }
        | Command::Length { key }
        | Command::Expire { key, .. }
        | Command::TimeToLive { key, .. }
        | Command::Persist { key }
        | Command::Type { key } => Some(key),
        Command::Delete { .. }
        | Command::Exists { .. }
        | Command::MultiGet { .. }
        | Command::MultiSet { .. }
        | Command::Size
        | Command::Flush
        | Command::CountInSlot { .. } => None,
    }
}
