//! One slot: a small hash table of its own, the unit of scan, snapshot and migration.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::mem;
use core::num::NonZero;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use net::Slot;

/// The seed is fixed: every run of a history does the same work.
const HASHER: FixedState = FixedState::with_seed(0x6472_616b);

/// Tables smaller than this are not worth shrinking.
const CAPACITY_KEPT: usize = 16;

/// A key, its value, and when they go away. Key and value share one allocation: a lookup waits for
/// memory once less.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The key, and behind it the value.
    bytes: Box<[u8]>,
    key_bytes: u32,
    /// Unix milliseconds.
    due: Option<NonZero<u64>>,
}

impl Entry {
    /// Memory besides key and value: a place in a table, which is half empty at worst, and what the
    /// allocator adds.
    pub(super) const OVERHEAD: usize = 2 * size_of::<Self>() + 16;

    pub(super) fn new(key: &[u8], value: &[u8], due: Option<u64>) -> Self {
        let mut entry = Self {
            bytes: joined(key, value),
            key_bytes: u32::try_from(key.len()).expect("limits keep keys far below 4 GiB"),
            due: None,
        };
        entry.set_due(due);
        entry
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes as usize]
    }

    pub(super) fn key_and_value(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.bytes[self.key_bytes as usize..]
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.due.map(NonZero::get)
    }

    /// Sets the expiry and returns the one before.
    pub(super) fn set_due(&mut self, due: Option<u64>) -> Option<u64> {
        assert_ne!(due, Some(0), "at the beginning of time everything was due");
        mem::replace(&mut self.due, due.and_then(NonZero::new)).map(NonZero::get)
    }

    /// Replaces the value, in place if the new one is as long.
    pub(super) fn write(&mut self, value: &[u8]) {
        let key_bytes = self.key_bytes as usize;
        if self.value().len() == value.len() {
            self.bytes[key_bytes..].copy_from_slice(value);
        } else {
            self.bytes = joined(self.key(), value);
        }
    }

    /// Adds bytes behind those of the value.
    pub(super) fn append(&mut self, suffix: &[u8]) {
        let mut bytes = mem::take(&mut self.bytes).into_vec();
        bytes.reserve_exact(suffix.len());
        bytes.extend_from_slice(suffix);
        self.bytes = bytes.into_boxed_slice();
    }

    pub(super) fn hash(&self) -> u64 {
        fingerprint_of(self.key(), self.value(), self.due())
    }

    /// Memory it takes, roughly.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len() + Self::OVERHEAD
    }
}

fn joined(key: &[u8], value: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(key.len() + value.len());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes.into_boxed_slice()
}

/// Where a key is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) slot: u16,
    pub(super) hash: u64,
}

impl Spot {
    pub(super) fn of(key: &[u8]) -> Self {
        Self {
            slot: Slot::of(key).number(),
            hash: hash_key(key),
        }
    }
}

/// A value that another took the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) due: Option<u64>,
    /// Of key and value.
    pub(super) bytes: usize,
}

/// The keys of one slot. Iteration order never leaves this file. An empty one owns no memory.
#[derive(Debug, Default)]
pub(super) struct Table(HashTable<Entry>);

impl Table {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0 = HashTable::new();
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.0.find(hash_key(key), |entry| entry.key() == key)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.0.find_mut(hash_key(key), |entry| entry.key() == key)
    }

    /// Writes the value of a key of this hash. Says what it replaces, if there was one.
    pub(super) fn put(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        due: Option<u64>,
    ) -> Option<Replaced> {
        let same = |entry: &Entry| entry.key() == key;
        match self.0.entry(hash, same, rehash) {
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
                let bytes = entry.bytes.len();
                entry.write(value);
                let due = entry.set_due(due);
                Some(Replaced { due, bytes })
            }
            Place::Vacant(place) => {
                place.insert(Entry::new(key, value, due));
                None
            }
        }
    }

    /// Takes a key out, and gives memory back once most of it is unused.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let same = |entry: &Entry| entry.key() == key;
        let place = self.0.find_entry(hash_key(key), same).ok()?;
        let (entry, _) = place.remove();
        if self.0.is_empty() {
            self.clear();
        } else if self.0.capacity() > CAPACITY_KEPT && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2, rehash);
        }
        Some(entry)
    }

    /// Sum over the entries, so that their order does not matter.
    pub(super) fn hash(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, entry| sum.wrapping_add(entry.hash()))
    }

    /// Makes room for more entries.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.0.reserve(entries, rehash);
    }

    /// Memory that its entries take.
    pub(super) fn held_bytes(&self) -> usize {
        self.0.iter().map(Entry::held_bytes).sum()
    }

    /// Whether there may be a key of this hash. Looks at fingerprints only.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let mut candidate = false;
        let _ = self.0.find(hash, |_| {
            candidate = true;
            false
        });
        candidate
    }

    /// An entry that most likely is the one of this hash.
    pub(super) fn likely(&self, hash: u64) -> Option<&Entry> {
        self.0.find(hash, |_| true)
    }

    /// How many places there are. An entry keeps its place until the table moves.
    pub(super) fn places(&self) -> usize {
        self.0.num_buckets()
    }

    /// The entry in a place.
    pub(super) fn at(&self, place: usize) -> Option<&Entry> {
        self.0.get_bucket(place)
    }

    /// Where a key is.
    pub(super) fn place_of(&self, key: &[u8]) -> Option<usize> {
        self.0
            .find_bucket_index(hash_key(key), |entry| entry.key() == key)
    }

    /// Whether the next [`Self::put`] may give entries other places: it makes room first, even for a key
    /// that is there.
    pub(super) fn moves_on_put(&self) -> bool {
        self.0.len() == self.0.capacity()
    }

    /// Whether the next [`Self::remove`] may give entries other places.
    pub(super) fn moves_on_remove(&self) -> bool {
        // Capacity may shrink by the one that goes, never grow.
        self.0.capacity() > CAPACITY_KEPT && self.0.len() <= self.0.capacity() / 8
    }
}

fn rehash(entry: &Entry) -> u64 {
    hash_key(entry.key())
}

pub(super) fn hash_key(key: &[u8]) -> u64 {
    HASHER.hash_one(key)
}

/// The hash of an entry.
pub fn fingerprint_of(key: &[u8], value: &[u8], due: Option<u64>) -> u64 {
    fingerprint(fingerprint(due.unwrap_or(0), key), value)
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

    fn put(table: &mut Table, key: &[u8], value: &[u8], due: Option<u64>) -> Option<Replaced> {
        table.put(hash_key(key), key, value, due)
    }

    #[test]
    fn a_table_that_empties_gives_its_memory_back() {
        let mut table = Table::default();
        for number in 0..10_000u32 {
            put(&mut table, &number.to_le_bytes(), b"value", None);
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
        put(&mut table, b"key", b"before", None);
        let place = table.get(b"key").unwrap().value().as_ptr();
        let replaced = Replaced {
            due: None,
            bytes: 9,
        };
        assert_eq!(put(&mut table, b"key", b"behind", Some(7)), Some(replaced));
        let entry = table.get(b"key").unwrap();
        assert_eq!(
            (entry.value(), entry.due()),
            (b"behind".as_slice(), Some(7))
        );
        assert_eq!(entry.value().as_ptr(), place);
    }

    #[test]
    fn the_hash_knows_keys_values_and_expiries_apart() {
        let of = |entries: &[(&[u8], &[u8], Option<u64>)]| {
            let mut table = Table::default();
            for &(key, value, due) in entries {
                put(&mut table, key, value, due);
            }
            table.hash()
        };
        let base = of(&[(b"a", b"1", None), (b"b", b"2", None)]);
        assert_eq!(base, of(&[(b"b", b"2", None), (b"a", b"1", None)]));
        let others = [
            of(&[]),
            of(&[(b"a", b"1", None)]),
            of(&[(b"a", b"2", None), (b"b", b"1", None)]),
            of(&[(b"a", b"1", None), (b"b", b"2", Some(1))]),
            of(&[(b"a1", b"", None), (b"b", b"2", None)]),
        ];
        for (position, other) in others.iter().enumerate() {
            assert_ne!(base, *other, "state {position}");
        }
    }
}
