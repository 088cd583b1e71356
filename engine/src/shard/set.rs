//! A set of a shard's groups, by position.

use alloc::vec;
use alloc::vec::Vec;

/// One bit per group: what is in it is found in order, at the cost of a word per 64 groups.
#[derive(Debug)]
pub(super) struct GroupSet {
    words: Vec<u64>,
}

impl GroupSet {
    pub(super) fn new(groups: usize) -> Self {
        Self {
            words: vec![0; groups.div_ceil(64)],
        }
    }

    pub(super) fn insert(&mut self, at: usize) {
        self.words[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn set(&mut self, at: usize, within: bool) {
        if within {
            self.insert(at);
        } else {
            self.remove(at);
        }
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.words[at / 64] &= !(1 << (at % 64));
    }

    /// Adds what is in `other`, which is of the same shard.
    pub(super) fn unite(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// The first group at or behind a position.
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        let word = *self.words.get(from / 64)? >> (from % 64);
        if word != 0 {
            return Some(from + word.trailing_zeros() as usize);
        }
        let first = from / 64 + 1;
        let words = self.words[first..].iter().enumerate();
        let (at, word) = words.into_iter().find(|&(_, &word)| word != 0)?;
        Some((first + at) * 64 + word.trailing_zeros() as usize)
    }

    /// From the first group to the last.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let at = self.next(from)?;
            from = at + 1;
            Some(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn it_holds_what_was_inserted_and_not_removed_in_order() {
        for groups in [1_usize, 63, 64, 65, 200] {
            let (mut set, mut model) = (GroupSet::new(groups), BTreeSet::new());
            for step in 0..groups * 4 {
                let at = step * 37 % groups;
                if step % 3 == 0 {
                    set.remove(at);
                    model.remove(&at);
                } else {
                    set.insert(at);
                    model.insert(at);
                }
                assert!(set.iter().eq(model.iter().copied()));
                assert_eq!(set.next(at), model.range(at..).next().copied());
            }
            assert_eq!(set.next(groups), None);
            let mut other = GroupSet::new(groups);
            other.unite(&set);
            assert!(other.iter().eq(model));
            other.clear();
            assert_eq!(other.next(0), None);
        }
    }
}
