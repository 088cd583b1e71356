//! A group's log as consensus sees it: the term of every position, the newest entries in memory,
//! and how far the disk has got. Older entries are only on disk.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use wal::{Entry, FlushNumber, LogIndex, Term};

/// A floor that the disk has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFloor {
    /// Entries up to here left the log; those behind stay.
    Raised { index: LogIndex, term: Term },
    /// The log begins anew behind this entry: none that it held before is part of it.
    Begun { index: LogIndex, term: Term },
}

/// The log of one replica.
#[derive(Debug)]
pub struct Log {
    /// Everything up to here is in a snapshot.
    floor: (LogIndex, Term),
    /// The disk was not yet told of the floor.
    floor_owed: Option<NewFloor>,
    /// `(first index, term)` of each run of entries of one term, ascending.
    runs: VecDeque<(LogIndex, Term)>,
    last: LogIndex,
    /// The newest entries, contiguous, ending at `last`.
    cache: VecDeque<Entry>,
    cache_payload_bytes: usize,
    /// Payload of those that wait to be handed to the disk.
    unsubmitted_bytes: usize,
    /// Handed to the disk.
    submitted: LogIndex,
    /// Durable, and equal to what this log holds now.
    persisted: LogIndex,
    /// What each flush on its way will prove durable, oldest first.
    under_way: VecDeque<(FlushNumber, LogIndex)>,
}

impl Log {
    /// A log as replay found it; all of it is durable.
    pub fn new(
        floor: (LogIndex, Term),
        runs: Vec<(LogIndex, Term)>,
        last: LogIndex,
        tail: Vec<Entry>,
    ) -> Self {
        assert!(
            last >= floor.0,
            "log ends at {last}, before its floor {}",
            floor.0
        );
        if let Some(newest) = tail.last() {
            assert_eq!(newest.index, last, "the tail must end where the log ends");
        }
        let cache_payload_bytes = tail.iter().map(|entry| entry.payload.len()).sum();
        Self {
            floor,
            floor_owed: None,
            runs: runs.into(),
            last,
            cache: tail.into(),
            cache_payload_bytes,
            unsubmitted_bytes: 0,
            submitted: last,
            persisted: last,
            under_way: VecDeque::new(),
        }
    }

    /// Payload of the entries in memory.
    pub fn cached_bytes(&self) -> usize {
        self.cache_payload_bytes
    }

    /// The position before the first entry, and its term.
    pub fn floor(&self) -> (LogIndex, Term) {
        self.floor
    }

    /// The newest position.
    pub fn last_index(&self) -> LogIndex {
        self.last
    }

    /// The term of the newest position.
    pub fn last_term(&self) -> Term {
        self.runs.back().map_or(self.floor.1, |&(_, term)| term)
    }

    /// Everything up to here is durable.
    pub fn persisted(&self) -> LogIndex {
        self.persisted
    }

    /// Everything up to here is durable or on its way to the disk.
    pub fn submitted(&self) -> LogIndex {
        self.submitted
    }

    /// Whether entries or a floor wait to be handed to the disk.
    pub fn has_unsubmitted(&self) -> bool {
        self.submitted < self.last || self.floor_owed.is_some()
    }

    /// Payload of the entries that wait to be handed to the disk.
    pub fn unsubmitted_bytes(&self) -> usize {
        self.unsubmitted_bytes
    }

    /// The term at `index`; `None` below the floor and behind the end.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.floor.0 {
            return Some(self.floor.1);
        }
        if index < self.floor.0 || index > self.last {
            return None;
        }
        match self.runs.back() {
            Some(&(first, term)) if first <= index => Some(term),
            _ => {
                let runs_before = self.runs.partition_point(|&(first, _)| first <= index);
                Some(self.runs[runs_before - 1].1)
            }
        }
    }

    /// Whether a log ending in `(index, term)` is at least as up to date as this one (Raft §5.4.1).
    pub fn is_up_to_date(&self, index: LogIndex, term: Term) -> bool {
        (term, index) >= (self.last_term(), self.last)
    }

    /// The newest position not behind `index` whose term is at most `term`, and its term: where a
    /// conflict may end (Raft §5.3, last paragraph).
    pub fn conflict(&self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        let index = index.min(self.last);
        if index <= self.floor.0 {
            return self.floor;
        }
        let behind = self
            .runs
            .partition_point(|&(first, t)| first <= index && t <= term);
        if behind == 0 {
            return self.floor;
        }
        let end = self
            .runs
            .get(behind)
            .map_or(index, |&(first, _)| index.min(first.previous()));
        (end, self.runs[behind - 1].1)
    }

    /// Adds an entry behind the last one.
    pub fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.next(), "entries are contiguous");
        assert!(
            entry.term >= self.last_term(),
            "terms never decrease along a log"
        );
        if self.runs.back().is_none_or(|&(_, term)| term != entry.term) {
            self.runs.push_back((entry.index, entry.term));
        }
        self.last = entry.index;
        self.cache_payload_bytes += entry.payload.len();
        self.unsubmitted_bytes += entry.payload.len();
        self.cache.push_back(entry);
    }

    /// Drops the entries from `from` on. What the disk is still writing of them proves nothing any
    /// more, even if the same positions are appended again.
    pub fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.floor.0, "cannot drop what is in a snapshot");
        assert!(from <= self.last, "nothing to drop at {from}");
        let keep = from.previous();
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.cache.pop_back().expect("just seen");
            self.cache_payload_bytes -= entry.payload.len();
            if entry.index > self.submitted {
                self.unsubmitted_bytes -= entry.payload.len();
            }
        }
        while self.runs.back().is_some_and(|&(first, _)| first >= from) {
            self.runs.pop_back();
        }
        self.last = keep;
        self.submitted = self.submitted.min(keep);
        self.persisted = self.persisted.min(keep);
        for (_, proves) in &mut self.under_way {
            *proves = keep.min(*proves);
        }
    }

    /// Lets entries up to `index` go: a durable snapshot holds them.
    ///
    /// # Panics
    ///
    /// If they are not durable, or have gone before.
    pub fn compact(&mut self, index: LogIndex) {
        assert!(index > self.floor.0, "entries up to {index} went before");
        assert!(index <= self.persisted, "entry {index} is not durable");
        let term = self.term(index).expect("between floor and end");
        let first = index.next();
        while self
            .runs
            .get(1)
            .is_some_and(|&(next_first, _)| next_first <= first)
        {
            self.runs.pop_front();
        }
        match self.runs.front_mut() {
            Some(run) if index < self.last => run.0 = run.0.max(first),
            _ => self.runs.clear(),
        }
        while self.cache.front().is_some_and(|entry| entry.index <= index) {
            let entry = self.cache.pop_front().expect("just seen");
            self.cache_payload_bytes -= entry.payload.len();
        }
        self.floor = (index, term);
        self.floor_owed = Some(NewFloor::Raised { index, term });
    }

    /// Begins anew behind a durable snapshot that ends with this entry. Nothing is known to be durable
    /// until the disk has the new floor: else the log would come back as it was, should the snapshot rot.
    pub fn begin_behind(&mut self, index: LogIndex, term: Term) {
        self.runs.clear();
        self.cache.clear();
        self.cache_payload_bytes = 0;
        self.unsubmitted_bytes = 0;
        self.floor = (index, term);
        self.floor_owed = Some(NewFloor::Begun { index, term });
        self.last = index;
        self.submitted = index;
        self.persisted = LogIndex::ZERO;
        for (_, proves) in &mut self.under_way {
            *proves = LogIndex::ZERO;
        }
    }

    /// Whether it was begun anew, and the disk was not told of that yet.
    pub fn begins_anew(&self) -> bool {
        matches!(self.floor_owed, Some(NewFloor::Begun { .. }))
    }

    /// What the disk holds behind the floor belongs to this log after all: the disk need not drop it.
    pub fn keep_what_follows(&mut self) {
        let (index, term) = self.floor;
        self.floor_owed = Some(NewFloor::Raised { index, term });
    }

    /// The floor that the disk has to be told of with the next flush, before any entry.
    pub fn take_floor(&mut self) -> Option<NewFloor> {
        self.floor_owed.take()
    }

    /// The entries from `from` on, as many as fit `bytes_max` (but at least one), up to `to`.
    /// `None` if the first of them is no longer in memory.
    pub fn slice(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self
            .cache
            .front()
            .map_or(self.last.next(), |entry| entry.index);
        if from < first {
            return None;
        }
        let mut bytes = 0;
        let start = usize::try_from(first.entries_until(from)).expect("cache fits memory");
        let taken = self.cache.iter().skip(start).take_while(|entry| {
            let fits = bytes == 0 || bytes + entry.payload.len() <= bytes_max;
            bytes += entry.payload.len().max(1);
            fits && entry.index <= to
        });
        Some(taken.cloned().collect())
    }

    /// The entry at `index`, if it is in memory.
    pub fn cached(&self, index: LogIndex) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        if index < first {
            return None;
        }
        self.cache
            .get(usize::try_from(first.entries_until(index)).ok()?)
    }

    /// Takes entries that `flush` will make durable: about `bytes_max` of payload, at least one.
    pub fn submit(&mut self, flush: FlushNumber, bytes_max: usize, mut each: impl FnMut(&Entry)) {
        assert!(self.floor_owed.is_none(), "the floor is written first");
        let mut bytes = 0;
        while self.submitted < self.last && bytes < bytes_max {
            let index = self.submitted.next();
            let entry = self
                .cached(index)
                .expect("entries stay in memory until they are durable");
            let payload_bytes = entry.payload.len();
            bytes += payload_bytes.max(1);
            each(entry);
            self.unsubmitted_bytes -= payload_bytes;
            self.submitted = index;
        }
        self.under_way.push_back((flush, self.submitted));
    }

    /// Every flush up to `flush` is durable.
    pub fn written(&mut self, flush: FlushNumber) {
        while let Some(&(number, proves)) = self.under_way.front() {
            if number > flush {
                break;
            }
            self.under_way.pop_front();
            self.persisted = self.persisted.max(proves);
        }
        assert!(self.persisted <= self.last, "durable beyond the end");
    }

    /// Forgets payloads of the oldest entries up to `upto` while more than `bytes_max` are in
    /// memory; they stay on disk.
    pub fn evict(&mut self, upto: LogIndex, bytes_max: usize) {
        let upto = upto.min(self.persisted);
        while self.cache_payload_bytes > bytes_max
            && self.cache.front().is_some_and(|entry| entry.index <= upto)
        {
            let entry = self.cache.pop_front().expect("just seen");
            self.cache_payload_bytes -= entry.payload.len();
        }
    }
}
