//! A snapshot while writes go on: the slots are walked one after the other, and a key that is written
//! before the walk has come to it leaves behind what it held when the walk began.
//!
//! What is kept grows with the keys that are written meanwhile, not with the state, and a write
//! never waits for more than its own key. There is one exception: where it makes a table move that is
//! walked in parts, what is left of that slot is copied, which is as much work as the move.

use alloc::vec::Vec;
use core::mem;

use hashbrown::HashTable;

use super::chunk::Writer;
use super::slot::{Entry, Table, hash_key, mix};

/// What a write may do to a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Add a key, or change the one that is there.
    Put,
    /// Change a key that is there, where it is.
    Alter,
    /// Take a key out.
    Remove,
}

/// What a key held when the walk began; nothing, if it was not there.
struct Saved {
    entry: Entry,
    there: bool,
}

/// A snapshot under way.
pub(super) struct Walk {
    first_slot: u16,
    clock: u64,
    keys: u64,
    begun: bool,
    /// The slot that is being walked, counted from the first one, and its first place not yet walked.
    slot: usize,
    place: usize,
    /// What was written too early, for each slot.
    saved: Vec<HashTable<Saved>>,
    /// What is left of the slot before.
    rest: Vec<Entry>,
    /// The tables that all keys went away with; nothing needs saving any more.
    frozen: Option<Vec<Table>>,
    held_bytes: usize,
    written: u64,
    hash: u64,
}

impl Walk {
    pub(super) fn new(first_slot: u16, slots: usize, clock: u64, keys: u64) -> Self {
        Self {
            first_slot,
            clock,
            keys,
            begun: false,
            slot: 0,
            place: 0,
            saved: (0..slots).map(|_| HashTable::new()).collect(),
            rest: Vec::new(),
            frozen: None,
            held_bytes: slots * size_of::<HashTable<Saved>>(),
            written: 0,
            hash: mix(clock),
        }
    }

    /// Memory it keeps beside the state.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Must be told of every change of a key, before it happens.
    pub(super) fn save(&mut self, slot: usize, table: &Table, key: &[u8], change: Change) {
        if slot < self.slot || self.frozen.is_some() {
            return;
        }
        let walked = if slot == self.slot { self.place } else { 0 };
        let place = table.place_of(key);
        let moves = match change {
            Change::Put => table.moves_on_put(),
            Change::Alter => false,
            Change::Remove => place.is_some() && table.moves_on_remove(),
        };
        if moves && walked > 0 {
            return self.save_slot(table);
        }
        let was = match place {
            Some(place) if place < walked => return,
            Some(place) => table.at(place),
            None if change == Change::Put => None,
            None => return,
        };
        if is_saved(&self.saved[slot], key) {
            return;
        }
        let saved = Saved {
            there: was.is_some(),
            entry: was.map_or_else(|| Entry::new(key, &[], None), Entry::clone),
        };
        self.held_bytes += saved.entry.held_bytes();
        let rehash = |saved: &Saved| hash_key(saved.entry.key());
        self.saved[slot].insert_unique(hash_key(key), saved, rehash);
    }

    /// Saves what is left of the slot that is being walked: its entries are about to change places.
    fn save_slot(&mut self, table: &Table) {
        assert!(self.rest.is_empty(), "one slot is walked at a time");
        let saved = mem::take(&mut self.saved[self.slot]);
        let to_come = (self.place..table.places()).filter_map(|place| table.at(place));
        for entry in to_come.filter(|entry| !is_saved(&saved, entry.key())) {
            self.held_bytes += entry.held_bytes();
            self.rest.push(entry.clone());
        }
        self.leave_slot(saved);
    }

    fn leave_slot(&mut self, saved: HashTable<Saved>) {
        for Saved { entry, there } in saved {
            if there {
                self.rest.push(entry);
            } else {
                self.held_bytes -= entry.held_bytes();
            }
        }
        self.slot += 1;
        self.place = 0;
    }

    /// Takes the tables over, because all keys go away.
    pub(super) fn freeze(&mut self, mut tables: Vec<Table>) {
        if self.frozen.is_none() {
            tables[..self.slot].iter_mut().for_each(Table::clear);
            self.held_bytes += tables.iter().map(Table::held_bytes).sum::<usize>();
            self.frozen = Some(tables);
        }
    }

    /// Appends the next chunk. Says whether there is another.
    pub(super) fn next(&mut self, live: &[Table], bytes_about: usize, to: &mut Vec<u8>) -> bool {
        let mut writer = Writer::new(to, bytes_about);
        if !self.begun {
            let slots = u16::try_from(self.saved.len()).expect("there are 16384 slots");
            let range = (self.first_slot, self.first_slot + slots - 1);
            writer.head(range, self.clock, self.keys);
            self.begun = true;
        }
        loop {
            self.write_rest(&mut writer);
            if writer.full() {
                writer.close();
                return true;
            }
            if self.slot == self.saved.len() {
                break;
            }
            self.walk_slot(live, &mut writer);
        }
        assert_eq!(
            self.written, self.keys,
            "keys walked, and keys there were at the beginning"
        );
        writer.end(self.written, self.hash);
        false
    }

    fn write_rest(&mut self, writer: &mut Writer<'_>) {
        while !writer.full()
            && let Some(entry) = self.rest.pop()
        {
            self.held_bytes -= entry.held_bytes();
            self.written += 1;
            self.hash = self.hash.wrapping_add(entry.hash());
            writer.entry(self.number(self.slot - 1), &entry);
        }
    }

    fn walk_slot(&mut self, live: &[Table], writer: &mut Writer<'_>) {
        let table = &self.frozen.as_deref().unwrap_or(live)[self.slot];
        let saved = &self.saved[self.slot];
        while self.place < table.places() {
            if writer.full() {
                return;
            }
            if let Some(entry) = table.at(self.place)
                && !is_saved(saved, entry.key())
            {
                self.written += 1;
                self.hash = self.hash.wrapping_add(entry.hash());
                writer.entry(self.number(self.slot), entry);
            }
            self.place += 1;
        }
        if let Some(frozen) = &mut self.frozen {
            let walked = mem::take(&mut frozen[self.slot]);
            self.held_bytes -= walked.held_bytes();
        }
        let saved = mem::take(&mut self.saved[self.slot]);
        self.leave_slot(saved);
    }

    fn number(&self, slot: usize) -> u16 {
        self.first_slot + u16::try_from(slot).expect("there are 16384 slots")
    }
}

fn is_saved(saved: &HashTable<Saved>, key: &[u8]) -> bool {
    // Nearly always so, and then the key need not be hashed.
    !saved.is_empty()
        && saved
            .find(hash_key(key), |saved| saved.entry.key() == key)
            .is_some()
}
