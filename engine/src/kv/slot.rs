//! One slot: a small hash table of its own, the unit of scan, snapshot and migration.

use alloc::boxed::Box;
use core::hash::BuildHasher;
use core::mem;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The seed is fixed: every run of a history does the same work.
const HASHER: FixedState = FixedState::with_seed(0x6472_616b);

/// Tables smaller than this are not worth shrinking.
const CAPACITY_KEPT: usize = 16;

/// A value and when it goes away.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) bytes: Box<[u8]>,
    /// Unix milliseconds.
    pub(super) due: Option<u64>,
}

impl Value {
    /// Replaces the bytes, in place if there are as many.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.bytes.len() == bytes.len() {
            self.bytes.copy_from_slice(bytes);
        } else {
            self.bytes = bytes.into();
        }
    }

    /// Adds bytes behind those that are there.
    pub(super) fn append(&mut self, suffix: &[u8]) {
        let mut bytes = mem::take(&mut self.bytes).into_vec();
        bytes.reserve_exact(suffix.len());
        bytes.extend_from_slice(suffix);
        self.bytes = bytes.into_boxed_slice();
    }
}

/// The keys of one slot. Iteration order never leaves this file. An empty one owns no memory.
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
        let same = |(found, _): &(Box<[u8]>, Value)| **found == *key;
        match self.0.entry(hash_key(key), same, rehash) {
            Entry::Occupied(mut entry) => {
                let (_, value) = entry.get_mut();
                value.write(bytes);
                Some(mem::replace(&mut value.due, due))
            }
            Entry::Vacant(entry) => {
                let bytes = bytes.into();
                entry.insert((key.into(), Value { bytes, due }));
                None
            }
        }
    }

    /// Takes a key out, and gives memory back once most of it is unused.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let entry = self
            .0
            .find_entry(hash_key(key), |(found, _)| **found == *key)
            .ok()?;
        let ((_, value), _) = entry.remove();
        if self.0.is_empty() {
            self.clear();
        } else if self.0.capacity() > CAPACITY_KEPT && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2, rehash);
        }
        Some(value)
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

fn rehash((key, _): &(Box<[u8]>, Value)) -> u64 {
    hash_key(key)
}

fn hash_key(key: &[u8]) -> u64 {
    HASHER.hash_one(key)
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
    mix(hash)
}

/// Spreads every bit over all.
pub(super) fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_empties_gives_its_memory_back() {
        let mut table = Table::default();
        for number in 0..10_000u32 {
            table.put(&number.to_le_bytes(), b"value", None);
        }
        let full = table.0.capacity();
        for number in 0..10_000u32 {
            assert!(table.remove(&number.to_le_bytes()).is_some());
            let (held, used) = (table.0.capacity(), table.0.len());
            assert!(held <= CAPACITY_KEPT.max(used * 8 + 8), "{held} for {used}");
        }
        assert_eq!(table.0.capacity(), 0, "from {full}");
    }

    #[test]
    fn a_value_of_the_same_length_is_replaced_in_place() {
        let mut table = Table::default();
        table.put(b"key", b"before", None);
        let place = table.get(b"key").unwrap().bytes.as_ptr();
        assert_eq!(table.put(b"key", b"behind", Some(7)), Some(None));
        let value = table.get(b"key").unwrap();
        assert_eq!((&*value.bytes, value.due), (b"behind".as_slice(), Some(7)));
        assert_eq!(value.bytes.as_ptr(), place);
    }

    #[test]
    fn the_hash_knows_keys_values_and_expiries_apart() {
        let of = |entries: &[(&[u8], &[u8], Option<u64>)]| {
            let mut table = Table::default();
            for &(key, value, due) in entries {
                table.put(key, value, due);
            }
            table.hash()
        };
        let base = of(&[(b"a", b"1", None), (b"b", b"2", None)]);
        assert_eq!(base, of(&[(b"b", b"2", None), (b"a", b"1", None)]));
        let others = [
            of(&[]),
            of(&[(b"a", b"1", None)]),
            of(&[(b"a", b"2", None), (b"b", b"1", None)]),
            of(&[(b"a", b"1", None), (b"b", b"2", Some(0))]),
            of(&[(b"a1", b"", None), (b"b", b"2", None)]),
        ];
        for (position, other) in others.iter().enumerate() {
            assert_ne!(base, *other, "state {position}");
        }
    }
}
