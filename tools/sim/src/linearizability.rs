//! Judges whether what clients saw of one key could have come from one key served by one server.
//!
//! Just-in-time linearization (Lowe, "Testing for linearizability", 2017): calls and returns are
//! walked in the order they happened; a configuration is a possible value of the key and which of
//! the open operations have taken effect in it. A return keeps only the configurations in which its
//! operation took effect with the answer that was seen. None left: nobody could have served this.

use std::collections::BTreeSet;
use std::rc::Rc;

/// The bytes stored under a key.
pub(crate) type Value = Rc<[u8]>;

/// What a client asked of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    Set(Value),
    /// `SET … NX`
    SetAbsent(Value),
    /// `SET … GET`
    Swap(Value),
    Delete,
    Increment(i64),
    Append(Value),
    Length,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Value(Option<Value>),
    Number(i64),
    /// The value is not one that the call works on.
    Refused,
}

/// One call, when it was made, and when and how it was answered. Moments only have an order.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) call: Call,
    pub(crate) called: u64,
    /// `None`: nobody knows whether it took, or will take, effect.
    pub(crate) returned: Option<(u64, Answer)>,
}

/// What there is to say about a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// The answer of the operation at this position cannot be explained.
    Violation(usize),
    /// Too many operations were open at once to tell.
    Undecided,
}

/// Operations open at once that a history may have.
const OPEN_MAX: usize = 64;

/// Configurations beyond which the judge gives up.
const CONFIGURATIONS_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    /// One bit per open operation: whether it took effect.
    effective: u64,
    value: Option<Value>,
}

/// Judges one key's history, which starts without a value.
pub(crate) fn judge(history: &[Operation]) -> Verdict {
    let mut moments: Vec<(u64, usize)> = Vec::with_capacity(history.len() * 2);
    for (position, operation) in history.iter().enumerate() {
        if operation.returned.is_none() && operation.call.only_reads() {
            continue;
        }
        moments.push((operation.called, position));
        if let Some((moment, _)) = operation.returned {
            assert!(moment > operation.called, "answered before it was asked");
            moments.push((moment, position));
        }
    }
    moments.sort_unstable();

    let mut open: [Option<usize>; OPEN_MAX] = [None; OPEN_MAX];
    let mut configurations = BTreeSet::from([Configuration {
        effective: 0,
        value: None,
    }]);
    for (moment, position) in moments {
        let slot = open.iter().position(|held| *held == Some(position));
        let Some(slot) = slot.filter(|_| moment != history[position].called) else {
            let Some(free) = open.iter().position(Option::is_none) else {
                return Verdict::Undecided;
            };
            open[free] = Some(position);
            continue;
        };
        let Some(kept) = close(&configurations, history, &open, slot) else {
            return Verdict::Undecided;
        };
        if kept.is_empty() {
            return Verdict::Violation(position);
        }
        open[slot] = None;
        configurations = kept;
    }
    Verdict::Linearizable
}

/// The configurations reachable from `from` in which the operation in `slot` took effect, with its
/// bit cleared. `None` if there are too many.
fn close(
    from: &BTreeSet<Configuration>,
    history: &[Operation],
    open: &[Option<usize>; OPEN_MAX],
    slot: usize,
) -> Option<BTreeSet<Configuration>> {
    let mut kept = BTreeSet::new();
    let mut seen: BTreeSet<Configuration> = from.clone();
    let mut todo: Vec<Configuration> = from.iter().cloned().collect();
    while let Some(configuration) = todo.pop() {
        if configuration.effective & (1 << slot) != 0 {
            let effective = configuration.effective & !(1 << slot);
            kept.insert(Configuration {
                effective,
                ..configuration
            });
            continue;
        }
        for (bit, position) in open.iter().enumerate() {
            let Some(position) = position else { continue };
            if configuration.effective & (1 << bit) != 0 {
                continue;
            }
            let operation = &history[*position];
            let (value, answer) = operation.call.apply(configuration.value.as_ref());
            if operation
                .returned
                .as_ref()
                .is_some_and(|(_, seen)| *seen != answer)
            {
                continue;
            }
            let effective = configuration.effective | (1 << bit);
            let next = Configuration { effective, value };
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return None;
        }
    }
    Some(kept)
}

impl Call {
    /// Whether it leaves the value as it is, whatever it is.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(self, Self::Get | Self::Length)
    }

    /// What becomes of the value, and what the client is told.
    pub(crate) fn apply(&self, value: Option<&Value>) -> (Option<Value>, Answer) {
        let same = || value.cloned();
        let length = |value: &[u8]| i64::try_from(value.len()).expect("fits memory");
        match self {
            Self::Get => (same(), Answer::Value(same())),
            Self::Set(new) => (Some(new.clone()), Answer::Done),
            Self::SetAbsent(new) => match value {
                None => (Some(new.clone()), Answer::Done),
                Some(_) => (same(), Answer::Value(None)),
            },
            Self::Swap(new) => (Some(new.clone()), Answer::Value(same())),
            Self::Delete => (None, Answer::Number(i64::from(value.is_some()))),
            Self::Increment(delta) => {
                let old = match value {
                    None => Some(0),
                    Some(digits) => str::from_utf8(digits)
                        .ok()
                        .and_then(|text| text.parse().ok()),
                };
                match old.and_then(|old: i64| old.checked_add(*delta)) {
                    Some(new) => (
                        Some(new.to_string().into_bytes().into()),
                        Answer::Number(new),
                    ),
                    None => (same(), Answer::Refused),
                }
            }
            Self::Append(tail) => {
                let whole = [value.map_or(&[][..], |value| value), tail].concat();
                let length = length(&whole);
                (Some(whole.into()), Answer::Number(length))
            }
            Self::Length => (
                same(),
                Answer::Number(value.map_or(0, |value| length(value))),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Done, Number};
    use Call::{Append, Delete, Get, Increment, Set, SetAbsent};

    fn bytes(text: &str) -> Value {
        text.as_bytes().into()
    }

    fn held(text: &str) -> Answer {
        Answer::Value(Some(bytes(text)))
    }

    const NOTHING: Answer = Answer::Value(None);

    /// When it was called, and what was returned when; without an answer it stays open.
    type Row = (Call, u64, Option<(u64, Answer)>);

    fn verdict(history: &[Row]) -> Verdict {
        let operations: Vec<Operation> = history
            .iter()
            .cloned()
            .map(|(call, called, returned)| Operation {
                call,
                called,
                returned,
            })
            .collect();
        judge(&operations)
    }

    #[test]
    fn what_one_server_could_have_answered_is_linearizable() {
        let set = |text| Set(bytes(text));
        assert_eq!(verdict(&[]), Verdict::Linearizable);
        // One after the other.
        assert_eq!(
            verdict(&[
                (Get, 1, Some((2, NOTHING))),
                (set("a"), 3, Some((4, Done))),
                (Get, 5, Some((6, held("a")))),
                (Append(bytes("b")), 7, Some((8, Number(2)))),
                (SetAbsent(bytes("c")), 9, Some((10, NOTHING))),
                (Get, 11, Some((12, held("ab")))),
                (Delete, 13, Some((14, Number(1)))),
                (Increment(1), 15, Some((16, Number(1)))),
            ]),
            Verdict::Linearizable
        );
        // At the same time, a read may see either.
        for seen in [NOTHING, held("a")] {
            assert_eq!(
                verdict(&[(set("a"), 1, Some((4, Done))), (Get, 2, Some((3, seen)))]),
                Verdict::Linearizable
            );
        }
        // Open for ever: it may take effect late, or never.
        for seen in [NOTHING, held("a")] {
            assert_eq!(
                verdict(&[
                    (set("a"), 1, None),
                    (Get, 5, Some((6, NOTHING))),
                    (Get, 7, Some((8, seen))),
                ]),
                Verdict::Linearizable
            );
        }
    }

    #[test]
    fn a_stale_read_is_a_violation() {
        assert_eq!(
            verdict(&[
                (Set(bytes("a")), 1, Some((2, Done))),
                (Set(bytes("b")), 3, Some((4, Done))),
                (Get, 5, Some((6, held("a")))),
            ]),
            Verdict::Violation(2)
        );
    }

    #[test]
    fn a_lost_write_is_a_violation() {
        assert_eq!(
            verdict(&[
                (Set(bytes("a")), 1, Some((2, Done))),
                (Get, 3, Some((4, NOTHING))),
            ]),
            Verdict::Violation(1)
        );
    }

    #[test]
    fn an_increment_applied_twice_is_a_violation() {
        assert_eq!(
            verdict(&[
                (Increment(1), 1, Some((2, Number(1)))),
                (Get, 3, Some((4, held("2")))),
            ]),
            Verdict::Violation(1)
        );
        // An open one explains it, but only once.
        assert_eq!(
            verdict(&[
                (Increment(1), 1, None),
                (Increment(1), 2, Some((3, Number(2)))),
                (Get, 4, Some((5, held("3")))),
            ]),
            Verdict::Violation(2)
        );
    }

    #[test]
    fn reads_that_disagree_on_the_order_of_two_writes_are_a_violation() {
        let history = [
            (Set(bytes("a")), 1, Some((10, Done))),
            (Set(bytes("b")), 2, Some((11, Done))),
            (Get, 3, Some((4, held("a")))),
            (Get, 5, Some((6, held("b")))),
            (Get, 7, Some((8, held("a")))),
        ];
        assert_eq!(verdict(&history), Verdict::Violation(4));
    }

    #[test]
    fn a_read_from_the_future_is_a_violation() {
        assert_eq!(
            verdict(&[
                (Get, 1, Some((2, held("a")))),
                (Set(bytes("a")), 3, Some((4, Done))),
            ]),
            Verdict::Violation(0)
        );
    }

    #[test]
    fn too_much_at_once_is_undecided_and_never_called_right() {
        let open: Vec<Operation> = (0..=OPEN_MAX as u64)
            .map(|called| Operation {
                call: Set(bytes(&called.to_string())),
                called,
                returned: None,
            })
            .collect();
        assert_eq!(judge(&open), Verdict::Undecided);
    }
}
