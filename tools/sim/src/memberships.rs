//! Who the members of a group were, as its logs tell: each change is one step from the members before.

use std::collections::BTreeMap;

use engine::raft::{Members, Membership};
use wal::{Entry, LogIndex, Term};

use crate::members::place_of;

/// Positions of nodes.
pub(crate) type Voters = Vec<usize>;

pub(crate) fn voters_of(members: &Members) -> Voters {
    members.voters.iter().copied().map(place_of).collect()
}

/// Every membership of a group that was ever written.
#[derive(Clone, Default)]
pub(crate) struct Memberships {
    /// With whom the group was created, unless a repair has made others members.
    founders: Voters,
    /// What each change made of it, by where it was written.
    changes: BTreeMap<(LogIndex, Term), Membership>,
}

impl Memberships {
    pub(crate) fn new(founders: Voters) -> Self {
        Self {
            founders,
            changes: BTreeMap::new(),
        }
    }

    /// A repair has made others members.
    pub(crate) fn found_anew(&mut self, members: &[usize]) {
        self.founders = members.to_vec();
    }

    /// A change is written for the first time: to a log that `holds` certain entries, when the group had
    /// `committed` so many, and one of the same term if it `began`. Says what is wrong with it.
    pub(crate) fn change(
        &mut self,
        entry: &Entry,
        holds: impl Fn((LogIndex, Term)) -> bool,
        committed: LogIndex,
        began: bool,
    ) -> Result<(), String> {
        let after = Membership::decode(&entry.payload).map_err(|error| error.to_string())?;
        let mut earlier = self.changes.range(..(entry.index, Term::ZERO)).rev();
        let (since, before, removed) = match earlier.find(|&(&at, _)| holds(at)) {
            Some((&(since, _), made)) => (since, voters_of(&made.members), &made.removed[..]),
            None => (LogIndex::ZERO, self.founders.clone(), &[][..]),
        };
        if since > committed || !began {
            return Err(format!(
                "entry {since} changed them before, committed is {committed}, an entry of its term: {began}"
            ));
        }
        let now = voters_of(&after.members);
        let gone = before.iter().filter(|it| !now.contains(it)).count();
        let new = now.iter().filter(|it| !before.contains(it)).count();
        let back = removed
            .iter()
            .any(|&it| after.members.contains(it) || !after.removed.contains(&it));
        if gone + new > 1 || back || now.is_empty() {
            return Err(format!(
                "the voters were {before:?} (from 0) and are {now:?} now, of {after:?}"
            ));
        }
        self.changes.insert((entry.index, entry.term), after);
        Ok(())
    }

    /// How many changes are undone when a log is cut off before an entry. `held` says of which term its
    /// entries were.
    pub(crate) fn undone(&self, cut: LogIndex, held: impl Fn(LogIndex) -> Option<Term>) -> u64 {
        let replaced = self.changes.range((cut, Term::ZERO)..);
        let undone = replaced.filter(|&(&(index, term), _)| held(index) == Some(term));
        undone.count() as u64
    }

    /// The voters of every membership that may count: the newest that is `applied`, and what was written
    /// behind that.
    pub(crate) fn electorates(&self, applied: impl Fn((LogIndex, Term)) -> bool) -> Vec<Voters> {
        let settled = self.changes.keys().rev().find(|&&at| applied(at));
        let from = settled.map_or(LogIndex::ZERO, |&(index, _)| index);
        let later = self.changes.range((from, Term::ZERO)..);
        let mut electorates: Vec<Voters> =
            later.map(|(_, after)| voters_of(&after.members)).collect();
        if settled.is_none() {
            electorates.push(self.founders.clone());
        }
        electorates
    }

    /// Where a log has its newest change. `held` says of which term its entries are.
    pub(crate) fn newest(&self, held: impl Fn(LogIndex) -> Term) -> LogIndex {
        let mut changes = self.changes.keys().rev();
        let newest = changes.find(|&&(index, term)| held(index) == term);
        newest.map_or(LogIndex::ZERO, |&(index, _)| index)
    }

    pub(crate) fn knows(&self, change: (LogIndex, Term)) -> bool {
        self.changes.contains_key(&change)
    }
}
