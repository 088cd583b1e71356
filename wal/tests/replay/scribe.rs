//! A log being written, in memory, and what must come back of it.

use wal::{
    BLOCK, Damage, GroupId, HardState, LogIndex, Options, Placement, Record, Recovered, ReplicaId,
    Term, Writer,
};

use crate::disk::{self, Disk};

pub(crate) const OPTIONS: Options = Options {
    segment_bytes: 5 * BLOCK as u64,
    instance: 0x1a57,
};

/// A log being written: the disk, and what each flush acknowledged.
pub(crate) struct Scribe {
    pub(crate) disk: Disk,
    pub(crate) writer: Writer,
    /// Per flush: its place, and the newest index of group 1 that it holds.
    pub(crate) flushes: Vec<(Placement, u64)>,
    pub(crate) index: u64,
}

pub(crate) fn entry(index: u64, term: u64, bytes: usize) -> Record {
    let byte = u8::try_from(index % 251).unwrap() | 1;
    let entry = disk::entry(index, term, vec![byte; bytes]);
    Record::Entry {
        group: GroupId::from_raw(1),
        entry,
    }
}

pub(crate) fn vote(term: u64) -> Record {
    let vote = Some(ReplicaId::from_raw(2));
    let state = HardState {
        term: Term::from_raw(term),
        vote,
        commit: LogIndex::ZERO,
    };
    Record::HardState {
        group: GroupId::from_raw(1),
        state,
    }
}

impl Scribe {
    pub(crate) fn new() -> Self {
        let disk = Disk::new(OPTIONS, 1 << 20);
        Self {
            writer: disk.replay().writer,
            disk,
            flushes: vec![],
            index: 0,
        }
    }

    pub(crate) fn encode(&mut self, records: &[Record]) -> (Placement, Vec<u8>) {
        let placement = self.writer.place(self.writer.next_flush(), records);
        let bytes = disk::encode(&mut self.writer, &placement, records);
        self.flushes.push((placement, self.index));
        (placement, bytes)
    }

    pub(crate) fn flush(&mut self, records: &[Record]) {
        let (placement, bytes) = self.encode(records);
        self.disk.write(&placement, &bytes, |_| true);
        self.writer.written(placement.number);
    }

    pub(crate) fn entries(&mut self, sizes: &[usize]) {
        let records: Vec<_> = sizes.iter().map(|&bytes| self.next_entry(bytes)).collect();
        self.flush(&records);
    }

    pub(crate) fn next_entry(&mut self, bytes: usize) -> Record {
        self.index += 1;
        entry(self.index, 1, bytes)
    }

    /// Three segments of votes, entries, and runs of entries of one size and of many; with the mark of an
    /// idle shard behind them, or not.
    pub(crate) fn story(marked: bool) -> Self {
        let mut scribe = Self::new();
        scribe.flush(&[vote(1)]);
        scribe.entries(&[100, 300, 0]);
        scribe.entries(&[5000]);
        scribe.entries(&[16]);
        scribe.entries(&[700, 3000]);
        scribe.entries(&[64, 64, 64]);
        if marked {
            scribe.flush(&[]);
        }
        scribe
    }
}

pub(crate) fn last_of(recovered: &Recovered) -> u64 {
    recovered
        .groups
        .get(&GroupId::from_raw(1))
        .map_or(0, |log| log.last.to_raw())
}

/// Everything that was acknowledged is there, or is named as missing: entries of group 1 up to
/// `last`, all of them of term 1 and as [`entry`] makes them, and the vote in term 1.
pub(crate) fn covered(recovered: &Recovered, last: u64, what: &str) {
    let group = GroupId::from_raw(1);
    let log = recovered
        .groups
        .get(&group)
        .unwrap_or(&recovered.unmentioned);
    let nothing = Damage::default();
    let damage = log.damage.as_ref().unwrap_or(&nothing);
    let claimed = damage.claim.map_or(log.last.to_raw(), |claim| {
        claim.index.map_or(u64::MAX, LogIndex::to_raw)
    });
    assert!(
        log.last.to_raw().max(claimed) >= last,
        "{what}: entries are missing in silence"
    );
    assert!(
        log.hard_state.term >= Term::from_raw(1) || damage.promises_lost || last == 0,
        "{what}: the vote is missing in silence"
    );
    for entry in log.tail.iter().chain(&damage.spares) {
        let byte = u8::try_from(entry.index.to_raw() % 251).unwrap() | 1;
        assert!(
            entry.payload.iter().all(|&found| found == byte),
            "{what}: not what was written"
        );
    }
    let mut next = log.last.next();
    for entry in &damage.spares {
        assert!(
            entry.index > next,
            "{what}: a spare without a gap before it, or out of order"
        );
        next = entry.index;
    }
}
