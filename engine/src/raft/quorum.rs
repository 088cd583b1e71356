//! What a majority holds.

use wal::LogIndex;

/// How many of `voters` make a majority.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The newest position that a majority holds, given what each voter holds (Raft §5.3).
pub(super) fn quorum_index(matched: impl Iterator<Item = LogIndex> + Clone) -> LogIndex {
    let needed = majority(matched.clone().count());
    let holders = |index| matched.clone().filter(|&held| held >= index).count();
    let held = matched.clone().filter(|&index| holders(index) >= needed);
    held.max().expect("a group has at least one voter")
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn quorum_index_is_what_a_majority_holds() {
        #[rustfmt::skip]
        let table: &[(&[u64], u64)] = &[
            // matched          committed
            (&[7],              7),
            (&[7, 3],           3), // of two, both
            (&[7, 3, 5],        5),
            (&[9, 0, 0],        0), // a leader alone commits nothing
            (&[9, 9, 0],        9),
            (&[1, 2, 3, 4],     2), // of four, three
            (&[1, 2, 3, 4, 5],  3),
        ];
        for &(matched, committed) in table {
            let held: Vec<_> = matched
                .iter()
                .rev()
                .copied()
                .map(LogIndex::from_raw)
                .collect();
            assert_eq!(
                quorum_index(held.into_iter()).to_raw(),
                committed,
                "matched {matched:?}"
            );
        }
    }
}
