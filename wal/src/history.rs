//! What replay learns of one group: its records in their order, with gaps where flushes were lost.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::damage::{Claim, Damage};
use crate::index::Location;
use crate::positions::{Positions, Slot};
use crate::recovered::RecoveredLog;
use crate::standing::{Note, Standing};
use crate::{Entry, EntryKind, HardState, LogIndex, Term};

/// The log of one group as its records tell it.
#[derive(Debug, Default)]
pub(crate) struct History {
    hard_state: HardState,
    positions: Positions,
    /// Of the position before the first.
    floor_term: Term,
    /// Where the log starts is lost: the floor is only where what was found of it starts.
    beheaded: bool,
    /// The newest readable entries, as many as fit the cache.
    cache: BTreeMap<LogIndex, Entry>,
    cache_bytes: usize,
    /// The readable ones that change the group's members.
    memberships: BTreeMap<LogIndex, Entry>,
    /// Flushes were lost whose contents nobody names, and the group's entries were not heard of since.
    unsure: bool,
    /// What was committed before they were lost: entries up to here were not replaced since.
    settled: LogIndex,
    promises_lost: bool,
    /// What an earlier start with damage noted.
    owed: Option<Claim>,
    promises_owed: bool,
}

/// An entry that follows neither another nor a lost flush.
pub(crate) struct Gap {
    pub(crate) previous: LogIndex,
}

impl History {
    /// The log starts behind this position.
    fn start(&self) -> LogIndex {
        self.positions.start()
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.start() {
            return Some(self.floor_term).filter(|&term| term > Term::ZERO);
        }
        match self.positions.get(index)? {
            Slot::Held(term, _) => Some(term),
            Slot::Lost(term) => term,
        }
    }

    /// Whether entries up to there are missing, and nothing tells of it.
    pub(crate) fn ends_before(&self, last: LogIndex) -> bool {
        !self.unsure && self.positions.last() < last
    }

    fn truncate(&mut self, from: LogIndex) {
        self.positions.truncate(from);
        while let Some(newest) = self.cache.last_entry() {
            if *newest.key() < from {
                break;
            }
            self.cache_bytes -= newest.remove().payload.len();
        }
    }

    /// Flushes were lost, and nothing says what they held.
    pub(crate) fn lose_unnamed(&mut self) {
        if !self.unsure {
            self.unsure = true;
            self.settled = self.hard_state.commit.min(self.positions.last());
        }
        self.promises_lost = true;
    }

    /// A lost flush held entries from `first` to `last`.
    pub(crate) fn lose(&mut self, first: LogIndex, last: LogIndex, term: Term) {
        if last <= self.start() {
            self.end_at(last, term);
            return;
        }
        if first <= self.start() {
            self.doubt_start();
        }
        let first = first.max(self.start().next());
        self.resolve(first, None);
        self.truncate(first);
        self.positions.extend(last);
        self.positions.name_last(term);
    }

    /// A lost flush held entries that were put back, from `first` to `last`. What they were to replace is
    /// as it was; behind the end they were new.
    pub(crate) fn lose_patches(&mut self, first: LogIndex, last: LogIndex, term: Term) {
        self.put_back_from(first);
        if self.positions.last() < last {
            self.lose(self.positions.last().next(), last, term);
        }
    }

    /// After lost flushes of which nothing is known, the group goes on at `next`. They held what is
    /// missing before it. If the position before is of the same term, nothing else: all entries of a
    /// term are one leader's, who never replaces them. If not, they may have replaced whatever was
    /// not committed.
    fn resolve(&mut self, next: LogIndex, term: Option<Term>) {
        if !core::mem::take(&mut self.unsure) {
            return;
        }
        let before = self.positions.last().min(next.previous());
        let same = term.is_some() && self.term(before) == term;
        let first = self.settled.max(self.start()).next();
        if self.positions.is_empty() && self.start() == LogIndex::ZERO && first < next {
            self.beheaded = true;
            self.positions.restart(next.previous());
            self.floor_term = Term::ZERO;
            return;
        }
        if !same && first < next {
            self.forget(first, next.previous());
        }
        if !same && self.settled < self.start() {
            self.doubt_start();
        }
        self.positions.extend(next.previous());
    }

    /// The position behind which the log was found to start was replaced, or may have been. At a floor that
    /// a snapshot covers, none is.
    fn doubt_start(&mut self) {
        if self.beheaded {
            self.floor_term = Term::ZERO;
        }
    }

    /// Takes an entry; those at its index and above are replaced.
    pub(crate) fn put(&mut self, entry: Entry, at: Location, cache_max: usize) -> Result<(), Gap> {
        let index = entry.index;
        let follows = self.unsure || index <= self.positions.last().next();
        if !follows {
            return Err(Gap {
                previous: self.positions.last(),
            });
        }
        if index <= self.start() {
            self.end_at(index.previous(), Term::ZERO);
            if index <= self.start() {
                return Ok(());
            }
        }
        self.resolve(index, Some(entry.term));
        self.truncate(index);
        self.positions.push(entry.term, at);
        self.keep(entry, cache_max);
        Ok(())
    }

    /// Takes an entry that was put back; those above stay.
    pub(crate) fn patch(
        &mut self,
        entry: Entry,
        at: Location,
        cache_max: usize,
    ) -> Result<(), Gap> {
        let index = entry.index;
        self.put_back_from(index);
        if index > self.positions.last() {
            // Those before it were lost, and so was the gap that they had filled.
            self.resolve(index, None);
            self.positions.extend(index.previous());
            return self.put(entry, at, cache_max);
        }
        self.positions.replace(index, entry.term, at);
        self.keep(entry, cache_max);
        Ok(())
    }

    fn keep(&mut self, entry: Entry, cache_max: usize) {
        if entry.kind == EntryKind::Membership {
            self.memberships.insert(entry.index, entry.clone());
        } else if !self.memberships.is_empty() {
            self.memberships.remove(&entry.index);
        }
        self.cache_bytes += entry.payload.len();
        if let Some(replaced) = self.cache.insert(entry.index, entry) {
            self.cache_bytes -= replaced.payload.len();
        }
        while self.cache_bytes > cache_max && self.cache.len() > 1 {
            let (_, oldest) = self.cache.pop_first().expect("more than one");
            self.cache_bytes -= oldest.payload.len();
        }
    }

    pub(crate) fn hard_state(&mut self, state: HardState) {
        self.hard_state = state;
        self.promises_lost = false;
    }

    pub(crate) fn floor(&mut self, index: LogIndex, term: Term) {
        if self.beheaded {
            self.reach_back(index);
            self.beheaded = false;
        } else if index < self.start() {
            self.lower_floor(index, term);
            return;
        } else if index == self.start() {
            return;
        }
        self.positions.set_floor(index);
        self.floor_term = term;
        while let Some(oldest) = self.cache.first_entry() {
            if *oldest.key() > index {
                break;
            }
            self.cache_bytes -= oldest.remove().payload.len();
        }
        self.memberships = self.memberships.split_off(&index.next());
    }

    /// The snapshot that the log began behind is gone, and so is what it held behind an older one.
    fn lower_floor(&mut self, index: LogIndex, term: Term) {
        let (before, before_term) = (self.start(), self.floor_term);
        self.positions.set_floor(index);
        if before_term > Term::ZERO {
            self.positions.name(before, before_term);
        }
        self.floor_term = term;
    }

    /// A start with damage noted it. If it was aware of all that is lost before the note, the note says
    /// all there is to say about it.
    pub(crate) fn damaged(&mut self, claim: Option<Claim>, promises_lost: bool, aware: bool) {
        self.owed = claim;
        self.promises_owed = promises_lost;
        if aware {
            self.unsure = false;
            self.promises_lost = false;
        }
    }

    /// What an earlier start noted is there again. What rotted since is another matter.
    pub(crate) fn intact(&mut self) {
        self.owed = None;
        self.promises_owed = false;
    }

    /// Nobody puts back what is below the floor: if it was, a flush that was lost had lowered it.
    fn put_back_from(&mut self, first: LogIndex) {
        if first <= self.start() {
            self.reach_back(first.previous());
        }
    }

    /// What was found starts at a later position than the log: the positions between are lost.
    fn reach_back(&mut self, floor: LogIndex) {
        if self.start() > floor {
            self.lower_floor(floor, Term::ZERO);
        }
        self.beheaded = self.start() > LogIndex::ZERO;
    }

    /// The log ended at a position that a snapshot covers, or that was not found: what stood above
    /// was replaced.
    fn end_at(&mut self, last: LogIndex, term: Term) {
        self.truncate(self.start().next());
        self.unsure = false;
        if self.beheaded {
            self.positions.restart(last);
            self.floor_term = term;
            self.beheaded = last > LogIndex::ZERO;
        }
    }

    /// Where the log ended when a segment was begun, which says so for all that is lost before it.
    pub(crate) fn reached(&mut self, last: LogIndex, term: Term) {
        if last <= self.start() {
            self.end_at(last, term);
            return;
        }
        self.unsure = true;
        self.resolve(last.next(), Some(term));
        self.truncate(last.next());
        self.positions.extend(last);
        if !self.positions.is_empty() {
            self.positions.name_last(term);
        } else if self.beheaded {
            self.floor_term = term;
        }
    }

    /// What stood at these positions may have been replaced by what was lost.
    fn forget(&mut self, first: LogIndex, last: LogIndex) {
        self.positions.lose(first, last);
        self.memberships
            .retain(|&index, _| index < first || index > last);
        let mut behind = self.cache.split_off(&first);
        let mut kept = behind.split_off(&last.next());
        self.cache.append(&mut kept);
        self.cache_bytes -= behind
            .values()
            .map(|entry| entry.payload.len())
            .sum::<usize>();
    }

    /// What is there up to the first gap, where its entries lie, and what is missing.
    pub(crate) fn finish(mut self) -> (RecoveredLog, Vec<(LogIndex, Location)>) {
        let found = !self.beheaded;
        let start = if found {
            (self.start(), self.floor_term)
        } else {
            Default::default()
        };
        let mut log = RecoveredLog {
            hard_state: self.hard_state,
            floor: start,
            last: start.0,
            ..RecoveredLog::default()
        };
        let mut places = Vec::new();
        for (index, term, location) in self.positions.sound().filter(|_| found) {
            log.last = index;
            if log.terms.last().is_none_or(|&(_, newest)| newest != term) {
                log.terms.push((log.last, term));
            }
            places.push((log.last, location));
        }
        // Those behind a gap count once what is missing before them is there.
        self.memberships.split_off(&log.last.next());
        if found {
            let memberships = core::mem::take(&mut self.memberships);
            log.memberships = memberships.into_values().collect();
        }
        log.damage = self.damage(log.last);
        let spares = self.cache.split_off(&log.last.next());
        // A commit that is not followed by what it may speak of says nothing of what is left.
        let settled = self.unsure.then_some(self.settled);
        let committed = log.hard_state.commit;
        let committed = settled.map_or(committed, |settled| committed.min(settled));
        if let Some(damage) = &mut log.damage {
            damage.spares = spares.into_values().collect();
            damage.committed = committed.max(log.floor.0);
        }
        // An entry that was put back may be here although those behind it left long ago.
        let mut next = log.last;
        while self.cache.contains_key(&next) {
            next = next.previous();
        }
        log.tail = self.cache.split_off(&next).into_values().collect();
        // The commit may have been written in a flush whose entries came in an earlier one, or speak of
        // entries that replaced those that are left here.
        log.hard_state.commit = committed.min(log.last);
        (log, places)
    }

    /// How the group stands, as the next segment will say.
    pub(crate) fn standing(log: &RecoveredLog) -> Standing {
        let last_term = log.terms.last().map_or(log.floor.1, |&(_, term)| term);
        let note = log.damage.as_ref().map(|damage| Note {
            claim: damage.claim,
            promises_lost: damage.promises_lost,
        });
        Standing::read(log.hard_state, log.floor, (log.last, last_term), note)
    }

    fn damage(&self, sound: LogIndex) -> Option<Damage> {
        let last = self.positions.last();
        let newest = self.hard_state.term;
        let last_term = self.term(last).unwrap_or(if last == self.start() {
            self.floor_term
        } else {
            newest
        });
        let own = (sound < last).then_some(Claim {
            index: Some(last),
            term: last_term,
        });
        let far = |claim: &Claim| (claim.term, claim.index.map_or(u64::MAX, LogIndex::to_raw));
        // While promises may be missing, the terms of what is missing are not known either: a log that
        // peers have begun to fill may be of later ones than the note and hold less than was acknowledged.
        let owed = self.owed.map(|claim| match claim.index {
            None if self.promises_owed => Claim {
                term: claim.term.max(newest).max(last_term),
                ..claim
            },
            _ => claim,
        });
        let owed = owed.filter(|claim| far(claim) > (last_term, last.to_raw()));
        let owed_term = owed.map_or(Term::ZERO, |claim| claim.term);
        // Even if an earlier start named the end, what is left may have been replaced before it.
        let tail = self.unsure.then_some(Claim {
            index: None,
            term: newest.max(last_term).max(owed_term),
        });
        let claim = [own, tail, owed].into_iter().flatten().max_by_key(far);
        let promises_lost = self.promises_lost || self.promises_owed;
        if claim.is_none() && !promises_lost {
            return None;
        }
        Some(Damage {
            claim,
            named: claim.is_some() && claim == own,
            gap_ends: self.positions.gap_ends().collect(),
            spares: Vec::new(),
            committed: LogIndex::ZERO,
            promises_lost,
        })
    }
}
