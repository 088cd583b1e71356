//! Which keys expire, by when. One place for each key that expires, so it never outgrows the keys.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// A key and when it goes away, in Unix milliseconds. Ordered by time.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Expiry {
    due: u64,
    slot: u16,
    key: Vec<u8>,
}

/// The keys that expire.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    order: BTreeSet<Expiry>,
    /// What is looked for: kept, so that looking does not allocate.
    probe: Expiry,
}

impl Expiries {
    /// When the next key expires.
    pub(super) fn first(&self) -> Option<u64> {
        self.order.first().map(|expiry| expiry.due)
    }

    /// How many keys expire.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
    }

    /// Takes out a key that is due at `clock`.
    pub(super) fn pop(&mut self, clock: u64) -> Option<(u16, Vec<u8>)> {
        if self.first()? > clock {
            return None;
        }
        self.order.pop_first().map(|due| (due.slot, due.key))
    }

    /// Moves a key from one time to another; `None` is never.
    pub(super) fn change(&mut self, slot: u16, key: &[u8], from: Option<u64>, to: Option<u64>) {
        if from == to {
            return;
        }
        let known = from.map(|due| self.take(slot, key, due));
        if let Some(due) = to {
            let fresh = || Expiry {
                due,
                slot,
                key: key.to_vec(),
            };
            let moved = known.map_or_else(fresh, |known| Expiry { due, ..known });
            let new = self.order.insert(moved);
            assert!(new, "a key expires once, and this one did not at {due}");
        }
    }

    fn take(&mut self, slot: u16, key: &[u8], due: u64) -> Expiry {
        self.probe.due = due;
        self.probe.slot = slot;
        self.probe.key.clear();
        self.probe.key.extend_from_slice(key);
        let found = self.order.take(&self.probe);
        found.expect("a key that expires is in the index")
    }
}
