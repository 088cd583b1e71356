//! One slot: a small hash table of its own, the unit of scan, snapshot and migration.

use alloc::boxed::Box;
use core::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A value and when it goes away.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) bytes: Box<[u8]>,
    pub(super) due: Option<u64>,
}

/// The keys of one slot. Iteration order never leaves this file.
#[derive(Debug, Default)]
pub(super) struct Table(HashTable<(Box<[u8]>, Value)>);

impl Table {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0 = HashTable::new();
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.0
            .find(hash_key(key), |(found, _)| **found == *key)
            .map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.0
            .find_mut(hash_key(key), |(found, _)| **found == *key)
            .map(|(_, value)| value)
    }

    /// Writes a value. Gives the expiry of the one it replaces, if there was one.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        bytes: &[u8],
        due: Option<u64>,
    ) -> Option<Option<u64>> {
        let rehash = |(key, _): &(Box<[u8]>, Value)| hash_key(key);
        match self
            .0
            .entry(hash_key(key), |(found, _)| **found == *key, rehash)
        {
            Entry::Occupied(mut entry) => {
                let (_, value) = entry.get_mut();
                if value.bytes.len() == bytes.len() {
                    value.bytes.copy_from_slice(bytes);
                } else {
                    value.bytes = bytes.into();
                }
                Some(core::mem::replace(&mut value.due, due))
            }
            Entry::Vacant(entry) => {
                entry.insert((
                    key.into(),
                    Value {
                        bytes: bytes.into(),
                        due,
                    },
                ));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let entry = self
            .0
            .find_entry(hash_key(key), |(found, _)| **found == *key)
            .ok()?;
        Some(entry.remove().0.1)
    }

    /// Sum over the entries, so that their order does not matter.
    pub(super) fn hash(&self) -> u64 {
        self.0.iter().fold(0, |sum, (key, value)| {
            let due = value.due.map_or(0, |due| due.wrapping_add(1));
            let entry = fingerprint(fingerprint(due ^ 0x5bd1_e995, key), &value.bytes);
            sum.wrapping_add(entry)
        })
    }
}

fn hash_key(key: &[u8]) -> u64 {
    // The seed is fixed: hash order must be the same on every replica and in every run.
    foldhash::quality::FixedState::with_seed(0x6472_616b).hash_one(key)
}

/// FNV-1a by words, finished with a mix: the same on every machine and in every version.
fn fingerprint(seed: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        hash = (hash ^ word).wrapping_mul(PRIME).rotate_left(29);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}
