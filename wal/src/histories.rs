//! What replay learns of the groups of a log: the history of each that was mentioned, and what holds for all
//! others.

use alloc::collections::BTreeMap;

use crate::codec::{Decoded, Role, Stamp};
use crate::damage::{Claim, Damage};
use crate::history::{Gap, History};
use crate::index::{Index, Location};
use crate::losses::Losses;
use crate::recovered::{RecoveredLog, ReplayError};
use crate::standing::Standings;
use crate::{Entry, GroupId, LogIndex, Record, Term};

/// The logs of all groups as their records tell them.
#[derive(Debug)]
pub(crate) struct Histories {
    /// Bounds the payload kept of each.
    cache_bytes: usize,
    /// Flushes were lost of which nothing is known: groups not mentioned before may have been in them.
    unnamed: bool,
    groups: BTreeMap<GroupId, History>,
}

impl Histories {
    pub(crate) fn new(cache_bytes: usize) -> Self {
        Self {
            cache_bytes,
            unnamed: false,
            groups: BTreeMap::new(),
        }
    }

    /// Flushes were lost, and nothing says what they held.
    pub(crate) fn lose_unnamed(&mut self) {
        self.unnamed = true;
        for history in self.groups.values_mut() {
            history.lose_unnamed();
        }
    }

    fn of(&mut self, group: GroupId) -> &mut History {
        let unnamed = self.unnamed;
        self.groups.entry(group).or_insert_with(|| {
            let mut history = History::default();
            if unnamed {
                history.lose_unnamed();
            }
            history
        })
    }

    /// Whether a segment begins with a log that reaches further than what was followed of it. It went on behind
    /// entries that were readable beyond a gap then, and their segments have left the log since: a floor
    /// above them follows.
    pub(crate) fn fall_short(&self, decoded: &Decoded) -> bool {
        let Decoded::One(Record::Contents { group, last, .. }) = decoded else {
            return false;
        };
        let history = self.groups.get(group);
        history.is_some_and(|history| history.ends_before(*last))
    }

    /// Takes entries that lie at one place.
    pub(crate) fn entries(
        &mut self,
        group: GroupId,
        entries: impl Iterator<Item = Entry>,
        at: Location,
    ) -> Result<(), ReplayError> {
        let cache_bytes = self.cache_bytes;
        let history = self.of(group);
        for entry in entries {
            let index = entry.index;
            let put = history.put(entry, at, cache_bytes);
            put.map_err(|gap| gap_error(&gap, group, index, at))?;
        }
        Ok(())
    }

    /// Takes a record. `losses` are those before it.
    pub(crate) fn record(
        &mut self,
        record: Record,
        at: Location,
        stamp: Stamp,
        losses: &Losses,
    ) -> Result<(), ReplayError> {
        let cache_bytes = self.cache_bytes;
        match record {
            Record::Entry { group, entry } => self.entries(group, [entry].into_iter(), at)?,
            Record::Patch { group, entry } => {
                let index = entry.index;
                let put = self.of(group).patch(entry, at, cache_bytes);
                put.map_err(|gap| gap_error(&gap, group, index, at))?;
            }
            Record::HardState { group, state } => self.of(group).hard_state(state),
            Record::Floor { group, index, term } => self.of(group).floor(index, term),
            Record::Contents {
                group,
                first,
                last,
                term,
                patched,
            } if stamp.role == Role::Echo => {
                let history = self.of(group);
                if patched {
                    history.lose_patches(first, last, term);
                } else {
                    history.lose(first, last, term);
                }
            }
            Record::Contents {
                group, last, term, ..
            } => self.of(group).reached(last, term),
            Record::Damaged {
                group,
                claim,
                promises_lost,
            } => {
                let aware = stamp.losses == losses.fingerprint();
                let history = self.of(group);
                history.damaged(claim, promises_lost, aware);
            }
            Record::Intact { group, .. } => self.of(group).intact(),
        }
        Ok(())
    }

    /// What is to be made of a group that was not mentioned.
    pub(crate) fn unmentioned(&self) -> RecoveredLog {
        let nothing_known = Damage {
            claim: Some(Claim {
                index: None,
                term: Term::ZERO,
            }),
            promises_lost: true,
            ..Damage::default()
        };
        RecoveredLog {
            damage: self.unnamed.then_some(nothing_known),
            ..RecoveredLog::default()
        }
    }

    /// What each group comes to, where its entries are, and how it stands. `unsettled` tells that no segment
    /// was begun since flushes were lost of which nothing is known.
    pub(crate) fn finish(
        self,
        unsettled: bool,
    ) -> (BTreeMap<GroupId, RecoveredLog>, Index, Standings) {
        let mut index = Index::default();
        let mut groups = BTreeMap::new();
        let mut standings = BTreeMap::new();
        for (group, history) in self.groups {
            let (log, places) = history.finish();
            for (position, location) in places {
                index.group(group).put(position, 1, location);
            }
            standings.insert(group, History::standing(&log));
            groups.insert(group, log);
        }
        // Groups that a segment began with after that are known as they are.
        let standings = Standings::new(standings, self.unnamed && unsettled);
        (groups, index, standings)
    }
}

fn gap_error(gap: &Gap, group: GroupId, found: LogIndex, at: Location) -> ReplayError {
    ReplayError::Gap {
        segment: at.segment,
        offset: u64::from(at.offset),
        group,
        previous: gap.previous,
        found,
    }
}
