//! Brings what commands will touch into the processor's caches, for many commands at once.
//!
//! A key is behind three dependent accesses to memory: its slot's table, its place in the table, its bytes.
//! One command after the other waits for all of them. Commands looked at together wait only for the
//! slowest at each step. Nothing is decided here: state is read and dropped.

use core::hint::black_box;

use net::Command;
use net::command::CommandError;

use super::Kv;
use super::slot::{Spot, Table};
use crate::state_machine::WINDOW;

/// Bytes of memory that a processor fetches at once.
const LINE: usize = 64;
/// So much of a value is brought; the rest follows in order, which processors foresee.
const VALUE_BYTES_MAX: usize = 512;

/// A command of a batch, and where its key is looked for.
type Placed<'a> = (Result<Command<'a>, CommandError>, Option<Spot>);

/// The next commands of a batch, up to [`WINDOW`] of them.
pub(super) struct Window<'a> {
    commands: [Option<Placed<'a>>; WINDOW],
    count: usize,
}

impl<'a> Window<'a> {
    pub(super) fn next(batch: &mut impl Iterator<Item = &'a [u8]>) -> Self {
        let mut window = Self {
            commands: [const { None }; WINDOW],
            count: 0,
        };
        while window.count < WINDOW
            && let Some(bytes) = batch.next()
        {
            let command = Command::decode(bytes);
            let spot = command.as_ref().ok().and_then(spot);
            window.commands[window.count] = Some((command, spot));
            window.count += 1;
        }
        window
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there is only one: nothing to wait for together with.
    pub(super) fn is_single(&self) -> bool {
        self.count == 1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Placed<'a>> {
        self.commands[..self.count].iter().flatten()
    }
}

impl Kv {
    /// Looks at what is in these places, [`WINDOW`] of them at most.
    pub(super) fn touch(&self, spots: impl Iterator<Item = Spot>) {
        let mut places: [Option<(&Table, u64)>; WINDOW] = [None; WINDOW];
        let mut count = 0;
        for Spot { slot, hash } in spots.take(WINDOW) {
            let at = slot.checked_sub(self.first_slot);
            if let Some(table) = at.and_then(|at| self.slots.get(usize::from(at))) {
                places[count] = Some((table, hash));
                count += 1;
            }
        }
        let places = || places[..count].iter().flatten();
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

/// Where the key of a command is that has one; those of many are looked up as they come.
pub(super) fn spot(command: &Command<'_>) -> Option<Spot> {
    match *command {
        Command::Get { key }
        | Command::Set { key, .. }
        | Command::Increment { key, .. }
        | Command::Append { key, .. }
        | Command::Length { key }
        | Command::Expire { key, .. }
        | Command::TimeToLive { key, .. }
        | Command::Persist { key }
        | Command::Type { key } => Some(Spot::of(key)),
        Command::Delete { .. }
        | Command::Exists { .. }
        | Command::MultiGet { .. }
        | Command::MultiSet { .. }
        | Command::Size
        | Command::Flush
        | Command::CountInSlot { .. } => None,
    }
}
