//! What the writer writes: every byte follows from its position, so that whoever reads a log needs
//! nothing but the log to tell what belongs there.

use wal::{
    Entry, EntryKind, GroupId, HardState, LogIndex, Options, Payload, Record, RecoveredLog,
    ReplicaId, Term,
};

/// Small segments: many are begun, and with each the file system changes more than data.
pub(crate) const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    instance: 0xfa01,
};
pub(crate) const GROUP: GroupId = GroupId::from_raw(1);
/// Whom the writer votes for.
const REPLICA: ReplicaId = ReplicaId::from_raw(1);

/// Spreads neighbours over all numbers (the finalizer of SplitMix64).
pub(crate) const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The payload at a position: mostly up to 1 kB, and of every sixteenth up to 32 kB.
pub(crate) fn payload(index: LogIndex) -> Payload {
    let seed = mix(index.to_raw());
    let bytes_max = if seed.is_multiple_of(16) {
        32 << 10
    } else {
        1 << 10
    };
    let words = 1 + (seed >> 8) % (bytes_max / 8);
    let bytes = (0..words).flat_map(|word| mix(seed ^ word).to_le_bytes());
    bytes.collect::<Vec<u8>>().into()
}

/// Entries that stay readable behind the floor: about two segments of them.
const KEPT: u64 = 1500;
/// How much further the floor is each time, in entries.
const FLOOR_STEP: u64 = 50;

/// A log as it grows. Its floor follows, so that segments are reclaimed and their files recycled.
pub(crate) struct Story {
    /// The newest entry.
    pub(crate) last: LogIndex,
    pub(crate) term: Term,
    promised: bool,
    /// `None`: it never moves.
    floor: Option<LogIndex>,
    /// Where each term starts.
    terms: Vec<(LogIndex, Term)>,
}

impl Story {
    /// Goes on behind what a log holds, in the next term.
    pub(crate) fn resume(found: Option<&RecoveredLog>) -> Self {
        let (last, term) = found.map_or((LogIndex::ZERO, Term::ZERO), |log| {
            (log.last, log.hard_state.term)
        });
        let mut terms = found.map_or_else(Vec::new, |log| log.terms.clone());
        terms.push((last.next(), term.next()));
        Self {
            last,
            term: term.next(),
            promised: false,
            floor: Some(found.map_or(LogIndex::ZERO, |log| log.floor.0)),
            terms,
        }
    }

    /// All entries stay, and so do all segments.
    pub(crate) fn keep_all(mut self) -> Self {
        self.floor = None;
        self
    }

    /// The record that moves the floor, when it is time.
    fn next_floor(&mut self) -> Option<Record> {
        let raw = self.last.to_raw().checked_sub(KEPT)?;
        if raw < self.floor?.to_raw() + FLOOR_STEP {
            return None;
        }
        let index = LogIndex::from_raw(raw);
        let before = self.terms.iter().rev().find(|(first, _)| *first <= index);
        self.floor = Some(index);
        before.map(|&(_, term)| Record::Floor {
            group: GROUP,
            index,
            term,
        })
    }

    /// What the next flush holds: one to four entries; the first flush of a term the vote as well, and
    /// some a floor.
    pub(crate) fn next_flush(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        if !self.promised {
            self.promised = true;
            let state = HardState {
                term: self.term,
                vote: Some(REPLICA),
                commit: self.last,
            };
            records.push(Record::HardState {
                group: GROUP,
                state,
            });
        }
        records.extend(self.next_floor());
        for _ in 0..1 + mix(!self.last.to_raw()) % 4 {
            self.last = self.last.next();
            records.push(Record::Entry {
                group: GROUP,
                entry: Entry {
                    term: self.term,
                    index: self.last,
                    kind: EntryKind::Batch,
                    payload: payload(self.last),
                },
            });
        }
        records
    }
}
