//! A state that is filled from a snapshot's chunks, which are foreign bytes.

use net::Slot;

use super::Kv;
use super::chunk::{ENTRY_BYTES_MIN, Item, Items};
use super::slot::{fingerprint_of, hash_key, mix};
use crate::state_machine::RestoreError;

/// How far a restore has come.
pub(super) struct Restoring {
    /// As the head says.
    keys: u64,
    hash: u64,
    ended: bool,
}

impl Kv {
    pub(super) fn restore_chunk(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let mut items = Items::new(chunk);
        let mut slot = None;
        loop {
            let offset = items.offset();
            let Some(item) = items.next() else {
                return Ok(());
            };
            let item = item?;
            match (item, &mut self.restoring) {
                (Item::Head { slots, clock, keys }, None) => {
                    self.restore_head(slots, clock, keys)?
                }
                (
                    Item::Slot {
                        slot: next,
                        entries,
                    },
                    Some(going),
                ) if !going.ended => {
                    slot = Some(next);
                    let left = (chunk.len() - items.offset()) / ENTRY_BYTES_MIN;
                    let entries = left.min(entries as usize);
                    let own = self.slots();
                    let at = next.checked_sub(self.first_slot).map(usize::from);
                    let table = at.and_then(|at| self.slots.get_mut(at));
                    table
                        .ok_or(RestoreError::Slot {
                            offset,
                            slot: next,
                            own,
                        })?
                        .reserve(entries);
                }
                (Item::Entry { key, value, due }, Some(going)) => {
                    let hash = fingerprint_of(key, value, due);
                    going.hash = going.hash.wrapping_add(hash);
                    let slot = slot.expect("entries come behind their slot");
                    self.restore_entry(slot, offset, key, value, due)?;
                }
                (Item::End { keys, hash }, Some(going)) if !going.ended => {
                    going.ended = true;
                    let expected = going.keys;
                    let wrong = [keys, self.keys].into_iter().find(|&k| k != expected);
                    if let Some(found) = wrong {
                        return Err(RestoreError::Keys { expected, found });
                    }
                    if hash != going.hash {
                        return Err(RestoreError::Hash {
                            expected: hash,
                            found: going.hash,
                        });
                    }
                }
                _ => return Err(RestoreError::Order { offset }),
            }
        }
    }

    fn slots(&self) -> (u16, u16) {
        let last = self.slots.len() - 1;
        let last = u16::try_from(last).expect("there are 16384 slots");
        (self.first_slot, self.first_slot + last)
    }

    fn restore_head(
        &mut self,
        slots: (u16, u16),
        clock: u64,
        keys: u64,
    ) -> Result<(), RestoreError> {
        assert!(
            self.keys == 0 && self.clock == 0,
            "a snapshot is restored into an empty state, this one has {} keys",
            self.keys
        );
        let own = self.slots();
        if slots != own {
            return Err(RestoreError::Slots { found: slots, own });
        }
        self.clock = clock;
        self.restoring = Some(Restoring {
            keys,
            hash: mix(clock),
            ended: false,
        });
        Ok(())
    }

    fn restore_entry(
        &mut self,
        slot: u16,
        offset: usize,
        key: &[u8],
        value: &[u8],
        due: Option<u64>,
    ) -> Result<(), RestoreError> {
        let own = Slot::of(key).number();
        if own != slot {
            return Err(RestoreError::Misplaced { offset, slot, own });
        }
        if let Some(due) = due.filter(|&due| due <= self.clock) {
            let clock = self.clock;
            return Err(RestoreError::Expired { offset, due, clock });
        }
        let table = &mut self.slots[usize::from(slot - self.first_slot)];
        if table.put(hash_key(key), key, value, due).is_some() {
            return Err(RestoreError::Twice { offset, slot });
        }
        self.keys += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.expiries.change(slot, key, None, due);
        Ok(())
    }

    pub(super) fn restore_end(&mut self) -> Result<(), RestoreError> {
        let going = self.restoring.take().filter(|going| going.ended);
        going
            .map(drop)
            .ok_or(RestoreError::Incomplete { keys: self.keys })
    }
}
