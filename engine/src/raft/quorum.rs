//! What a majority holds.

use wal::LogIndex;

/// How many of `voters` make a majority.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The newest position that a majority holds, given what each voter holds (Raft §5.3). Sorts.
pub(super) fn quorum_index(matched: &mut [LogIndex]) -> LogIndex {
    assert!(!matched.is_empty(), "a group has at least one voter");
    matched.sort_unstable_by(|a, b| b.cmp(a));
    matched[majority(matched.len()) - 1]
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
            let mut held: Vec<_> = matched
                .iter()
                .rev()
                .copied()
                .map(LogIndex::from_raw)
                .collect();
            assert_eq!(
                quorum_index(&mut held).to_raw(),
                committed,
                "matched {matched:?}"
            );
        }
    }
}
