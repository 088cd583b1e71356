//! What a log holds, as far as a judge can tell from outside.

use std::collections::BTreeMap;

use wal::{GroupId, HardState, LogIndex, Record, Term};

/// What a log holds of a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) state: HardState,
    /// It starts behind this.
    pub(crate) floor: LogIndex,
    /// Of its entries, from index 1; zero where nobody knows, below the floor.
    pub(crate) terms: Vec<Term>,
}

impl Content {
    /// The terms of what is in the log.
    pub(crate) fn held(&self) -> &[Term] {
        self.behind(self.floor)
    }

    /// The terms of what it holds behind an index.
    pub(crate) fn behind(&self, index: LogIndex) -> &[Term] {
        let from = usize::try_from(index.to_raw()).expect("a log that fits memory");
        self.terms.get(from..).unwrap_or_default()
    }

    /// Up to where it holds entries, or a snapshot stands for them.
    pub(crate) fn last(&self) -> u64 {
        (self.terms.len() as u64).max(self.floor.to_raw())
    }
}

/// Of each group.
pub(crate) type Contents = BTreeMap<GroupId, Content>;

/// What replay made of each group.
pub(crate) type Found = Contents;

/// What a flush makes of it.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    Entry(GroupId, LogIndex, Term),
    /// Those above it stay.
    Patch(GroupId, LogIndex, Term),
    Floor(GroupId, LogIndex, Term),
    HardState(GroupId, HardState),
    /// The end of a repair.
    Intact(GroupId),
}

impl Change {
    pub(crate) fn group(&self) -> GroupId {
        match *self {
            Self::Entry(group, ..)
            | Self::Patch(group, ..)
            | Self::Floor(group, ..)
            | Self::HardState(group, _)
            | Self::Intact(group) => group,
        }
    }
}

/// A record of a flush counts.
pub(crate) fn apply(contents: &mut Contents, change: Change) {
    let content = contents.entry(change.group()).or_default();
    match change {
        Change::Entry(_, index, term) => {
            content.terms.resize(position(index), Term::ZERO);
            content.terms.push(term);
        }
        Change::Patch(_, index, term) => match content.terms.get_mut(position(index)) {
            Some(held) => *held = term,
            None => {
                content.terms.resize(position(index), Term::ZERO);
                content.terms.push(term);
            }
        },
        Change::Floor(_, index, term) if index > content.floor => {
            let at = position(index);
            if content.terms.get(at) != Some(&term) {
                content.terms.clear();
                content.terms.resize(at, Term::ZERO);
                content.terms.push(term);
            }
            content.floor = index;
        }
        // What stood below the old one is put back.
        Change::Floor(_, index, term) if index < content.floor => {
            content.floor = index;
            if let Some(at) = index.to_raw().checked_sub(1) {
                let at = usize::try_from(at).expect("runs are short");
                content.terms[at] = term;
            }
        }
        Change::Floor(..) => {}
        Change::HardState(_, state) => content.state = state,
        Change::Intact(_) => {}
    }
}

/// Whether an entry stands in the flush only to end what the log held before it begins anew.
pub(crate) fn ends_log(records: &[Record], of: GroupId, at: LogIndex) -> bool {
    records.iter().any(|record| match *record {
        Record::Floor { group, index, .. } => group == of && index == at,
        _ => false,
    })
}

/// Whether a log was found as it should be: term, vote and entries are the same; commit is only a hint.
/// It may start earlier: a floor that says less than an older one is not held against it.
pub(crate) fn same(should: &Contents, found: &Contents) -> bool {
    let nothing = Content::default();
    should.keys().chain(found.keys()).all(|group| {
        let (should, found) = (
            should.get(group).unwrap_or(&nothing),
            found.get(group).unwrap_or(&nothing),
        );
        let promises = |content: &Content| (content.state.term, content.state.vote);
        let entries = promises(should) == promises(found) && should.last() == found.last();
        entries && found.floor <= should.floor && found.behind(should.floor) == should.held()
    })
}

/// Where the term of an entry stands among those of its group.
pub(crate) fn position(index: LogIndex) -> usize {
    usize::try_from(index.to_raw() - 1).expect("a log that fits memory")
}
