//! One node: a replica, and the storage that a recording looks into.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Time;
use engine::raft::{Log, Members, Message, NewFloor, Outbox, Raft, Role, Settings};
use wal::{Entry, FlushNumber, HardState, LogIndex, ReplicaId, Term};

/// The recorded timing, in ticks.
pub(super) const HEARTBEAT_TICKS: u64 = 1;
pub(super) const ELECTION_TICKS: u64 = 3;
const TICK: Duration = Duration::from_secs(1);

pub(super) struct Node {
    pub(super) raft: Raft,
    pub(super) ticks: u64,
    flushes: u64,
    /// What is not yet in the storage, by flush.
    queue: VecDeque<(FlushNumber, Option<NewFloor>, Vec<Entry>)>,
    /// The storage begins behind this entry.
    pub(super) floor: LogIndex,
    pub(super) storage: Vec<Entry>,
    pub(super) said: Outbox,
    /// Stands for election by itself at this tick.
    pub(super) stands_at: Option<u64>,
}

impl Node {
    pub(super) fn new(
        id: ReplicaId,
        members: Members,
        settings: Settings,
        floor: LogIndex,
    ) -> Self {
        let hard_state = HardState {
            term: Term::ZERO,
            vote: None,
            commit: floor,
        };
        // The recorded nodes start from a snapshot whose last entry is of term 1, or from nothing.
        let floor_term = Term::from_raw(u64::from(floor > LogIndex::ZERO));
        let log = Log::new((floor, floor_term), Vec::new(), floor, Vec::new());
        let raft = Raft::new(
            id,
            members,
            settings,
            hard_state,
            log,
            Time::default(),
            Duration::MAX,
        );
        Self {
            raft,
            ticks: 0,
            flushes: 0,
            queue: VecDeque::new(),
            floor,
            storage: Vec::new(),
            said: Outbox::new(),
            stands_at: None,
        }
    }

    pub(super) fn now(&self) -> Time {
        Time::default().after(ticks(self.ticks))
    }

    pub(super) fn submit(&mut self) {
        self.flushes += 1;
        let flush = FlushNumber::from_raw(self.flushes);
        let floor = self.raft.take_floor();
        let mut entries = Vec::new();
        let keep = |entry: &Entry| entries.push(entry.clone());
        self.raft.submit(flush, usize::MAX, |_| {}, keep);
        self.queue.push_back((flush, floor, entries));
    }

    /// Makes the oldest flush durable. Says whether there was one.
    pub(super) fn write(&mut self) -> bool {
        let Some((flush, floor, entries)) = self.queue.pop_front() else {
            return false;
        };
        self.raise(floor);
        for entry in entries {
            self.storage.retain(|kept| kept.index < entry.index);
            self.storage.push(entry);
        }
        self.raft.written(flush, &mut self.said);
        true
    }

    fn raise(&mut self, floor: Option<NewFloor>) {
        match floor {
            None => {}
            Some(NewFloor::Raised { index, .. }) => {
                self.floor = index;
                self.storage.retain(|kept| kept.index > index);
            }
            Some(NewFloor::Begun { index, .. }) => {
                self.floor = index;
                self.storage.clear();
            }
        }
    }

    /// Takes messages out of what the node wants to say.
    pub(super) fn take_said(&mut self, wanted: impl Fn(&Message) -> bool) -> Outbox {
        let all = core::mem::take(&mut self.said);
        let (taken, left) = all.into_iter().partition(|(_, it)| wanted(it));
        self.said = left;
        taken
    }

    /// Each state that was applied is at hand as a snapshot, as it is in the recordings.
    pub(super) fn keep_snapshot(&mut self) {
        let commit = self.raft.commit();
        let term = self.raft.log().term(commit).expect("the log reaches it");
        self.raft.snapshot_taken(commit, term);
    }

    pub(super) fn offer(&self) -> Message {
        let (index, index_term) = self.raft.snapshot();
        Message::Offer {
            term: self.raft.term(),
            index,
            index_term,
        }
    }

    /// Entries up to `index` leave the storage at once.
    pub(super) fn compact(&mut self, index: LogIndex) {
        self.raft.compact(index);
        let floor = self.raft.take_floor();
        assert!(floor.is_some(), "a snapshot holds entries up to {index}");
        self.raise(floor);
    }

    /// Nobody stands for election unless told to: the recorded commands say who does, and when.
    pub(super) fn hold_still(&mut self) {
        if self.raft.role() != Role::Leader {
            self.raft.wait_until(Time::from_nanos(u64::MAX));
        }
    }
}

pub(super) fn ticks(ticks: u64) -> Duration {
    TICK * u32::try_from(ticks).expect("few")
}
