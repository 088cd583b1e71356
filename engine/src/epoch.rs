//! What a replica's log stands for in a membership that a repair made, and on a node that came back
//! without its data.

use wal::{Claim, Damage, HardState, LogIndex, RecoveredLog, Term};

/// Beyond it there are no terms left.
pub const EPOCH_MAX: u64 = (1 << 30) - 1;

/// Terms of one epoch: more than elections can be held. Terms stay below 2^63.
const EPOCH_SHIFT: u32 = 32;

/// The epoch that a term is of.
pub fn of(term: Term) -> u64 {
    term.to_raw() >> EPOCH_SHIFT
}

/// Terms of an epoch are none below.
pub fn first_term(epoch: u64) -> Term {
    Term::from_raw(epoch << EPOCH_SHIFT)
}

/// What is to be assumed of a group of which a node found `log`, or nothing. `unmentioned` is what the
/// whole log says of groups that it does not mention. On a node that replaces one whose data were lost
/// (`rejoined`), a group is lost until the first flush that says what is missing: what says nothing
/// of votes and damage was put there by nothing but a snapshot's file.
pub fn told_by(
    log: Option<RecoveredLog>,
    unmentioned: &RecoveredLog,
    rejoined: bool,
) -> RecoveredLog {
    let is_silent =
        |log: &RecoveredLog| log.hard_state == HardState::default() && log.damage.is_none();
    let log = log.filter(|log| !(rejoined && is_silent(log)));
    log.unwrap_or_else(|| {
        if rejoined {
            lost()
        } else {
            unmentioned.clone()
        }
    })
}

fn lost() -> RecoveredLog {
    RecoveredLog {
        damage: Some(Damage {
            claim: Some(Claim {
                index: None,
                term: Term::ZERO,
            }),
            promises_lost: true,
            ..Damage::default()
        }),
        ..RecoveredLog::default()
    }
}

/// The log as an epoch begins with it. `newest` is the newest entry that any survivor of the repair
/// held.
///
/// # Panics
///
/// If the epoch is above [`EPOCH_MAX`].
pub fn begin(log: RecoveredLog, epoch: u64, newest: Option<(LogIndex, Term)>) -> RecoveredLog {
    in_epoch(since_repair(log, newest), epoch)
}

/// No term of an epoch was one of an epoch before: what lost members said and did in theirs can never be
/// taken for what is said now. Nobody stands in the first term, so it need not be durable.
fn in_epoch(mut log: RecoveredLog, epoch: u64) -> RecoveredLog {
    assert!(epoch <= EPOCH_MAX, "epoch {epoch}");
    let first = first_term(epoch);
    if log.hard_state.term < first {
        log.hard_state.term = first;
        log.hard_state.vote = None;
    }
    log
}

/// The newest entry that a log holds: what can be read behind a gap counts for nothing unless the gap is
/// filled.
pub fn newest(log: &RecoveredLog) -> (LogIndex, Term) {
    if log.last < log.floor.0 {
        return log.floor;
    }
    let term = log.terms.last().map_or(log.floor.1, |&(_, term)| term);
    (log.last, term)
}

/// A survivor of a lost quorum misses what another survivor held, until it has that: as if it had
/// acknowledged the newest entry that any of them held.
fn since_repair(mut log: RecoveredLog, newest: Option<(LogIndex, Term)>) -> RecoveredLog {
    let last_term = log.terms.last().map_or(log.floor.1, |&(_, term)| term);
    let Some((index, term)) = newest.filter(|&(index, term)| (term, index) > (last_term, log.last))
    else {
        return log;
    };
    let damage = log.damage.get_or_insert_default();
    let claim = match damage.claim {
        // What nobody named may be more than any survivor held when the epoch began.
        Some(Claim {
            index: None,
            term: own,
        }) => Claim {
            index: None,
            term: own.max(term),
        },
        Some(own) if (own.term, own.index) >= (term, Some(index)) => own,
        _ => Claim {
            index: Some(index),
            term,
        },
    };
    if damage.claim != Some(claim) {
        damage.claim = Some(claim);
        damage.named = false;
    }
    log
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use wal::HardState;

    use super::*;

    #[test]
    fn terms_of_an_epoch_are_above_all_of_those_before() {
        let log = |term, vote| RecoveredLog {
            hard_state: HardState {
                term: Term::from_raw(term),
                vote,
                ..HardState::default()
            },
            ..RecoveredLog::default()
        };
        let vote = Some(wal::ReplicaId::from_raw(2));
        assert_eq!(begin(log(7, vote), 0, None), log(7, vote));
        assert_eq!(begin(log(7, vote), 1, None), log(1 << 32, None));
        let went_on = log((1 << 32) + 3, vote);
        assert_eq!(begin(went_on.clone(), 1, None), went_on);
    }

    #[test]
    fn a_survivor_claims_what_another_holds_until_its_log_reaches_it() {
        let position = |index, term| (LogIndex::from_raw(index), Term::from_raw(term));
        let log = |last: u64, term: u64| RecoveredLog {
            last: LogIndex::from_raw(last),
            terms: vec![position(1, term)],
            ..RecoveredLog::default()
        };
        let claim = |log, newest| begin(log, 0, newest).damage.and_then(|it| it.claim);
        assert_eq!(claim(log(9, 4), None), None);
        for (index, term) in [(9, 4), (8, 4), (20, 3)] {
            assert_eq!(
                claim(log(9, 4), Some(position(index, term))),
                None,
                "{index} {term}"
            );
        }
        for (index, term) in [(10, 4), (2, 5)] {
            let (index, term) = position(index, term);
            let index_of = Some(index);
            let expected = Claim {
                index: index_of,
                term,
            };
            assert_eq!(claim(log(9, 4), Some((index, term))), Some(expected));
        }
        // What its own disk has lost counts as well, if that is newer.
        let own = Claim {
            index: None,
            term: Term::from_raw(5),
        };
        let mut damaged = log(9, 4);
        damaged.damage = Some(Damage {
            claim: Some(own),
            ..Damage::default()
        });
        assert_eq!(claim(damaged, Some(position(30, 5))), Some(own));
    }

    #[test]
    fn a_node_that_lost_everything_believes_nothing_that_says_nothing() {
        let unmentioned = RecoveredLog::default();
        let silent = RecoveredLog {
            last: LogIndex::from_raw(3),
            ..RecoveredLog::default()
        };
        let promises_lost = |log: Option<RecoveredLog>, rejoined| {
            let told = told_by(log, &unmentioned, rejoined);
            told.damage.is_some_and(|damage| damage.promises_lost)
        };
        assert!(!promises_lost(None, false));
        assert!(promises_lost(None, true));
        assert!(promises_lost(Some(silent.clone()), true));
        // What it acknowledged in this epoch is more than what survivors held at its beginning.
        let newest = (LogIndex::from_raw(9), Term::from_raw(4));
        let begun = begin(told_by(None, &unmentioned, true), 1, Some(newest));
        let expected = Claim {
            index: None,
            term: newest.1,
        };
        assert_eq!(begun.damage.and_then(|it| it.claim), Some(expected));
        let mut voted = silent;
        voted.hard_state.term = Term::from_raw(4);
        assert!(!promises_lost(Some(voted), true));
    }
}
