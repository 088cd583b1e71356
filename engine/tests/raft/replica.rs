//! A replica with a disk that is asked to write, and does so when told, or not at all.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Time;
use engine::raft::{Log, Members, Message, Outbox, Raft, Settings};
use wal::{Entry, EntryKind, FlushNumber, HardState, LogIndex, Payload, ReplicaId, Term};

/// A write on its way to the disk.
pub(crate) struct Write {
    flush: FlushNumber,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
}

/// What a crash does not take.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) members: Members,
    settings: Settings,
    pub(crate) disk: Disk,
    pub(crate) writes: VecDeque<Write>,
    flushes: u64,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) said: Outbox,
}

impl Disk {
    /// A disk with one entry for each of `terms`, from position 1 on.
    pub(crate) fn with_log(terms: &[u64], term: Term) -> Self {
        let entry = |(position, &term): (usize, &u64)| Entry {
            term: Term::from_raw(term),
            index: LogIndex::from_raw(position as u64 + 1),
            kind: EntryKind::Batch,
            payload: Payload::from(format!("{term}").as_bytes()),
        };
        Self {
            hard_state: HardState {
                term,
                ..HardState::default()
            },
            entries: terms.iter().enumerate().map(entry).collect(),
        }
    }

    fn keep(&mut self, write: Write) {
        if let Some(state) = write.hard_state {
            self.hard_state = state;
        }
        for entry in write.entries {
            self.entries.truncate(position(entry.index));
            self.entries.push(entry);
        }
    }

    fn log(&self) -> Log {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|&(_, term)| term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let last = self.entries.last().map_or(LogIndex::ZERO, |e| e.index);
        Log::new(
            (LogIndex::ZERO, Term::ZERO),
            runs,
            last,
            self.entries.clone(),
        )
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        self.entries.get(position(index)).map(|entry| entry.term)
    }
}

impl Replica {
    pub(crate) fn new(id: ReplicaId, members: Members, settings: Settings, disk: Disk) -> Self {
        let mut replica = Self {
            id,
            members,
            settings,
            disk,
            writes: VecDeque::new(),
            flushes: 0,
            raft: None,
            said: Outbox::new(),
        };
        replica.start(Time::default());
        replica
    }

    pub(crate) fn start(&mut self, now: Time) {
        assert!(self.raft.is_none(), "{} is up", self.id);
        self.settings.seed = self.settings.seed.wrapping_mul(0x5851_f42d_4c95_7f2d) | 1;
        self.raft = Some(Raft::new(
            self.id,
            self.members.clone(),
            self.settings.clone(),
            self.disk.hard_state,
            self.disk.log(),
            now,
            self.settings.election_timeout + Duration::from_millis(self.settings.seed % 100),
        ));
    }

    /// Stops it at once. The oldest `reached` writes under way had reached the disk, though nobody
    /// was told; the others are lost.
    pub(crate) fn crash(&mut self, reached: usize) {
        let writes = core::mem::take(&mut self.writes);
        for write in writes.into_iter().take(reached) {
            self.disk.keep(write);
        }
        self.said.clear();
        self.raft = None;
    }

    pub(crate) fn raft(&mut self) -> (&mut Raft, &mut Outbox) {
        let raft = self.raft.as_mut().expect("it is up");
        (raft, &mut self.said)
    }

    /// Gives the disk what there is to write, about `bytes_max` of it. Says whether there was anything.
    pub(crate) fn submit(&mut self, bytes_max: usize) -> bool {
        let Some(raft) = self.raft.as_mut().filter(|raft| raft.has_unsubmitted()) else {
            return false;
        };
        self.flushes += 1;
        let mut write = Write {
            flush: FlushNumber::from_raw(self.flushes),
            hard_state: None,
            entries: Vec::new(),
        };
        raft.submit(
            write.flush,
            bytes_max,
            |state| write.hard_state = Some(state),
            |entry| write.entries.push(entry.clone()),
        );
        self.writes.push_back(write);
        true
    }

    /// The oldest write under way is durable. Says whether there was one.
    pub(crate) fn written(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else {
            return false;
        };
        let flush = write.flush;
        self.disk.keep(write);
        let (raft, said) = self.raft();
        raft.written(flush, said);
        true
    }

    /// What it says now; each must be true even if it crashes at once.
    pub(crate) fn speak(&mut self) -> Outbox {
        let said = core::mem::take(&mut self.said);
        for (to, message) in &said {
            self.vouch(*to, message);
        }
        said
    }

    fn vouch(&self, to: ReplicaId, message: &Message) {
        let state = self.disk.hard_state;
        match *message {
            Message::Vote {
                term,
                pre: false,
                granted: true,
            } => {
                assert_eq!(
                    state.term, term,
                    "{} votes in a term it may forget",
                    self.id
                );
                assert_eq!(state.vote, Some(to), "{} may forget its vote", self.id);
            }
            Message::RequestVote {
                term, pre: false, ..
            } => {
                assert_eq!(
                    state.term, term,
                    "{} stands in a term it may forget",
                    self.id
                );
                assert_eq!(state.vote, Some(self.id), "{} may forget its vote", self.id);
            }
            Message::Appended { term, matched } if matched > LogIndex::ZERO => {
                assert!(state.term >= term, "{} may forget term {term}", self.id);
                let raft = self.raft.as_ref().expect("it is up");
                assert_eq!(
                    self.disk.term(matched),
                    raft.log().term(matched),
                    "{} acknowledges {matched}, which is not on its disk",
                    self.id
                );
            }
            _ => {}
        }
    }
}

/// Where the entry of `index` lies in a list that starts with position 1.
fn position(index: LogIndex) -> usize {
    usize::try_from(index.to_raw()).expect("small") - 1
}
