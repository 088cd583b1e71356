//! What the writer writes: every byte follows from its position, so that whoever reads a log needs
//! nothing but the log to tell what belongs there.

use wal::{
    Entry, EntryKind, GroupId, HardState, LogIndex, Options, Payload, Record, ReplicaId, Term,
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

/// A log as it grows.
pub(crate) struct Story {
    /// The newest entry.
    pub(crate) last: LogIndex,
    pub(crate) term: Term,
    promised: bool,
}

impl Story {
    /// Goes on behind what a log holds, in the next term.
    pub(crate) fn resume(last: LogIndex, term: Term) -> Self {
        Self {
            last,
            term: term.next(),
            promised: false,
        }
    }

    /// What the next flush holds: one to four entries; the first flush of a term the vote as well.
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
