//! The positions of one group's log, as replay finds them: entries that are held, in runs, and between
//! them what is lost, which takes no memory however much it is.

use alloc::collections::{BTreeMap, VecDeque};

use crate::index::Location;
use crate::{LogIndex, Term};

/// What is known of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Held(Term, Location),
    /// It was in a flush that is lost; the term is known of the last entry of such a flush.
    Lost(Option<Term>),
}

/// Positions behind a floor, without a hole up to the last.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    floor: LogIndex,
    last: LogIndex,
    /// Entries that follow each other, by the position of the first. All others are lost.
    runs: BTreeMap<LogIndex, VecDeque<(Term, Location)>>,
    /// Those lost ones of which the term is known.
    terms: BTreeMap<LogIndex, Term>,
}

impl Positions {
    /// The positions start behind this one.
    pub(crate) fn start(&self) -> LogIndex {
        self.floor
    }

    /// The newest position; the floor if there is none.
    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last == self.floor
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<Slot> {
        if index <= self.floor || index > self.last {
            return None;
        }
        let held = self.run(index).and_then(|(run, at)| run.get(at));
        Some(match held {
            Some(&(term, location)) => Slot::Held(term, location),
            None => Slot::Lost(self.terms.get(&index).copied()),
        })
    }

    /// The run that begins at a position or before it, and how far behind its start the position is.
    fn run(&self, index: LogIndex) -> Option<(&VecDeque<(Term, Location)>, usize)> {
        let (&first, run) = self.runs.range(..=index).next_back()?;
        Some((run, behind(first, index)))
    }

    /// Takes an entry behind the last position.
    pub(crate) fn push(&mut self, term: Term, location: Location) {
        self.last = self.last.next();
        self.hold(self.last, term, location);
    }

    /// Everything up to `last` that is not there is lost.
    pub(crate) fn extend(&mut self, last: LogIndex) {
        self.last = self.last.max(last);
    }

    /// The term of the last position is known if that is lost.
    pub(crate) fn name_last(&mut self, term: Term) {
        self.name(self.last, term);
    }

    /// The term of a position is known if that is lost.
    pub(crate) fn name(&mut self, index: LogIndex, term: Term) {
        if let Some(Slot::Lost(_)) = self.get(index) {
            self.terms.insert(index, term);
        }
    }

    /// Puts an entry at a position that there is.
    pub(crate) fn replace(&mut self, index: LogIndex, term: Term, location: Location) {
        assert!(
            index > self.floor && index <= self.last,
            "{index} is not in {}..={}",
            self.floor,
            self.last
        );
        self.hold(index, term, location);
    }

    fn hold(&mut self, index: LogIndex, term: Term, location: Location) {
        self.terms.remove(&index);
        if let Some((&first, run)) = self.runs.range_mut(..=index).next_back() {
            let at = behind(first, index);
            if at < run.len() {
                run[at] = (term, location);
                return;
            }
            if at == run.len() {
                run.push_back((term, location));
                return;
            }
        }
        self.runs.insert(index, VecDeque::from([(term, location)]));
    }

    /// Forgets the positions from one on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        if from > self.last {
            return;
        }
        assert!(from > self.floor, "{from} is not behind {}", self.floor);
        self.split(from);
        self.runs.split_off(&from);
        self.terms.split_off(&from);
        self.last = from.previous();
    }

    /// The positions from `first` to `last` are lost, as far as there are any.
    pub(crate) fn lose(&mut self, first: LogIndex, last: LogIndex) {
        self.split(first);
        self.split(last.next());
        self.runs.retain(|&at, _| at < first || at > last);
        self.terms.retain(|&at, _| at < first || at > last);
    }

    /// Forgets everything; the log starts behind this position.
    pub(crate) fn restart(&mut self, floor: LogIndex) {
        *self = Self {
            floor,
            last: floor,
            ..Self::default()
        };
    }

    /// Moves the floor: what is below is forgotten, what comes to be above is lost.
    pub(crate) fn set_floor(&mut self, floor: LogIndex) {
        if floor > self.floor {
            self.split(floor.next());
            self.runs = self.runs.split_off(&floor.next());
            self.terms = self.terms.split_off(&floor.next());
        }
        self.floor = floor;
        self.last = self.last.max(floor);
    }

    /// Lets a run begin at a position, if that is inside of one.
    fn split(&mut self, index: LogIndex) {
        let Some((&first, run)) = self.runs.range_mut(..index).next_back() else {
            return;
        };
        let at = behind(first, index);
        if at < run.len() {
            let rest = run.split_off(at);
            self.runs.insert(index, rest);
        }
    }

    /// The entries up to the first position that is lost.
    pub(crate) fn sound(&self) -> impl Iterator<Item = (LogIndex, Term, Location)> {
        let mut next = self.floor.next();
        let sound = self.runs.iter().map_while(move |(&first, run)| {
            let follows = first == next;
            next = first.plus(run.len() as u64);
            follows.then_some((first, run))
        });
        sound.flat_map(|(first, run)| {
            let places = run.iter().zip(0..);
            places.map(move |(&(term, location), at)| (first.plus(at), term, location))
        })
    }

    /// The last position of each gap, as far as its term is known.
    pub(crate) fn gap_ends(&self) -> impl Iterator<Item = (LogIndex, Term)> {
        let ends = self.terms.iter().map(|(&index, &term)| (index, term));
        ends.filter(|&(index, _)| !matches!(self.get(index.next()), Some(Slot::Lost(_))))
    }
}

fn behind(first: LogIndex, index: LogIndex) -> usize {
    usize::try_from(first.entries_until(index)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::SegmentId;

    /// The same, with memory for each position.
    struct Model {
        floor: u64,
        slots: Vec<Slot>,
    }

    impl Model {
        fn last(&self) -> u64 {
            self.floor + self.slots.len() as u64
        }

        fn at(&mut self, index: u64) -> &mut Slot {
            let at = usize::try_from(index - self.floor - 1).expect("few positions");
            &mut self.slots[at]
        }

        fn extend(&mut self, last: u64) {
            while self.last() < last {
                self.slots.push(Slot::Lost(None));
            }
        }

        fn truncate(&mut self, from: u64) {
            let keep = usize::try_from(from - self.floor - 1).expect("few positions");
            self.slots.truncate(keep);
        }

        fn lose(&mut self, first: u64, last: u64) {
            for index in first.max(self.floor + 1)..=last.min(self.last()) {
                *self.at(index) = Slot::Lost(None);
            }
        }

        fn set_floor(&mut self, floor: u64) {
            while self.floor > floor {
                self.slots.insert(0, Slot::Lost(None));
                self.floor -= 1;
            }
            let below = usize::try_from(floor - self.floor).expect("few positions");
            self.slots.drain(..below.min(self.slots.len()));
            self.floor = floor;
        }

        fn check(&self, positions: &Positions) {
            let index = LogIndex::from_raw;
            assert_eq!(
                (positions.start(), positions.last()),
                (index(self.floor), index(self.last()))
            );
            assert_eq!(positions.get(index(self.last() + 1)), None);
            let mut sound = Vec::new();
            let mut ends = Vec::new();
            let mut whole = true;
            for (slot, at) in self.slots.iter().zip(self.floor + 1..) {
                assert_eq!(positions.get(index(at)), Some(*slot), "at {at}");
                let next = positions.get(index(at + 1));
                match *slot {
                    Slot::Held(term, location) if whole => sound.push((index(at), term, location)),
                    Slot::Held(..) => {}
                    Slot::Lost(term) => {
                        whole = false;
                        let end = !matches!(next, Some(Slot::Lost(_)));
                        ends.extend(term.filter(|_| end).map(|term| (index(at), term)));
                    }
                }
            }
            assert_eq!(positions.sound().collect::<Vec<_>>(), sound);
            assert_eq!(positions.gap_ends().collect::<Vec<_>>(), ends);
        }
    }

    #[test]
    fn runs_and_what_lies_between_are_what_every_position_by_itself_would_be() {
        let mut seed = 0x5eed_u64;
        let mut draw = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 16) % below
        };
        let location = |number| Location {
            segment: SegmentId::from_raw(1),
            offset: number,
            bytes: 8,
        };
        let mut positions = Positions::default();
        let mut model = Model {
            floor: 0,
            slots: Vec::new(),
        };
        for step in 0..20_000 {
            let (floor, last) = (model.floor, model.last());
            let any = floor + 1 + draw(last - floor + 3);
            let (index, term) = (LogIndex::from_raw(any), Term::from_raw(1 + draw(3)));
            let held = Slot::Held(term, location(step));
            match draw(8) {
                0..=2 => {
                    positions.push(term, location(step));
                    model.slots.push(held);
                }
                3 => {
                    positions.extend(index);
                    model.extend(any);
                    positions.name_last(term);
                    if let Some(lost @ Slot::Lost(_)) = model.slots.last_mut() {
                        *lost = Slot::Lost(Some(term));
                    }
                }
                4 if any <= last => {
                    positions.replace(index, term, location(step));
                    *model.at(any) = held;
                }
                5 if draw(3) == 0 => {
                    positions.truncate(index);
                    model.truncate(any);
                }
                6 => {
                    let end = any + draw(4);
                    positions.lose(index, LogIndex::from_raw(end));
                    model.lose(any, end);
                }
                7 => {
                    let floor = (floor + draw(4)).saturating_sub(draw(3));
                    positions.set_floor(LogIndex::from_raw(floor));
                    model.set_floor(floor);
                }
                _ => {}
            }
            model.check(&positions);
        }
    }
}
