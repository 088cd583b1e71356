//! A replica with a disk that is asked to write, and does so when told, or not at all.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use engine::Time;
use engine::raft::{Log, Members, Membership, Message, Outbox, Raft, RepairNote, Settings};
use wal::{
    Claim, Damage, Entry, EntryKind, FlushNumber, HardState, LogIndex, Payload, ReplicaId, Term,
};

/// A write on its way to the disk.
pub(crate) struct Write {
    flush: FlushNumber,
    note: Option<RepairNote>,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    /// Which of the entries leave those above them in place.
    put_back: BTreeSet<LogIndex>,
}

/// What a crash does not take.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
    pub(crate) rot: Rot,
    /// What entries written last replaced.
    pub(crate) replaced: Vec<Entry>,
    /// Beside the log: the newest membership that anyone may have been told of, and the entry that made it.
    pub(crate) noted: Option<(LogIndex, Term, Membership)>,
}

/// What of a disk is no longer readable.
#[derive(Clone, Default)]
pub(crate) struct Rot {
    /// Positions of entries.
    pub(crate) holes: BTreeSet<LogIndex>,
    /// Entries behind the last are gone, without a trace.
    pub(crate) tail: bool,
    /// The newest term and vote are gone; older ones are left.
    pub(crate) promises: bool,
    /// What the replica noted at its last start with damage.
    owed: Option<Claim>,
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
            rot: Rot::default(),
            replaced: Vec::new(),
            noted: None,
        }
    }

    /// Makes it one that waits for what it does not hold.
    pub(crate) fn owe(&mut self, claim: Claim) {
        self.rot.owed = Some(claim);
    }

    fn keep(&mut self, write: Write) {
        match write.note {
            Some(RepairNote::Begun {
                claim,
                promises_lost,
            }) => {
                self.rot.owed = claim;
                self.rot.tail = false;
                self.rot.promises = promises_lost;
            }
            Some(RepairNote::Ended { .. }) => {
                self.rot.owed = None;
                self.rot.promises = false;
            }
            None => {}
        }
        if let Some(state) = write.hard_state {
            self.hard_state = state;
            self.rot.promises = false;
        }
        for entry in write.entries {
            let at = position(entry.index);
            if write.put_back.contains(&entry.index) && at < self.entries.len() {
                self.rot.holes.remove(&entry.index);
                self.entries[at] = entry;
                continue;
            }
            let replaced = self.entries.split_off(at);
            if !replaced.is_empty() {
                self.replaced = replaced;
            }
            self.rot.holes.split_off(&entry.index);
            self.entries.push(entry);
        }
    }

    /// The entries before the first that is gone.
    pub(crate) fn sound(&self) -> &[Entry] {
        let first = self.rot.holes.first();
        first.map_or(&self.entries, |&first| &self.entries[..position(first)])
    }

    /// Whether the entry can be read.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        let found = self.entries.get(position(entry.index));
        found.is_some_and(|found| found.term == entry.term)
            && !self.rot.holes.contains(&entry.index)
    }

    /// In one line, for who looks into a failure.
    pub(crate) fn tell(&self, id: ReplicaId) -> String {
        let terms: Vec<u64> = self.entries.iter().map(|e| e.term.to_raw()).collect();
        let holes: Vec<u64> = self.rot.holes.iter().map(|index| index.to_raw()).collect();
        let (state, rot) = (&self.hard_state, &self.rot);
        let (tail, promises, owed) = (rot.tail, rot.promises, rot.owed);
        format!(
            "disk of {id}: {terms:?}, holes {holes:?}, {state:?}, tail lost {tail}, \
             promises lost {promises}, owed {owed:?}"
        )
    }

    /// Whether entries are gone that cannot even be named.
    pub(crate) fn lacks_unnamed(&self) -> bool {
        self.rot.tail || self.rot.owed.is_some()
    }

    /// The votes and terms that were written last are gone.
    pub(crate) fn forget(&mut self) {
        self.hard_state = HardState::default();
        self.rot.promises = true;
    }

    /// What a start has to know of what is gone.
    fn damage(&self) -> Option<Damage> {
        let newest = self.entries.last();
        let last = newest.map_or(LogIndex::ZERO, |entry| entry.index);
        let last_term = newest.map_or(Term::ZERO, |entry| entry.term);
        let own = (!self.rot.holes.is_empty()).then_some(Claim {
            index: Some(last),
            term: last_term,
        });
        let tail = self.rot.tail.then_some(Claim {
            index: None,
            term: self.hard_state.term,
        });
        let far = |claim: &Claim| (claim.term, claim.index.map_or(u64::MAX, LogIndex::to_raw));
        let owed = self
            .rot
            .owed
            .filter(|claim| far(claim) > (last_term, last.to_raw()));
        let claim = [own, tail, owed].into_iter().flatten().max_by_key(far);
        let mut spares = self.entries[self.sound().len()..].to_vec();
        spares.retain(|entry| !self.rot.holes.contains(&entry.index));
        (claim.is_some() || self.rot.promises).then_some(Damage {
            claim,
            named: claim == own,
            gap_ends: self.gap_ends(),
            spares,
            committed: self.hard_state.commit,
            promises_lost: self.rot.promises,
        })
    }

    fn gap_ends(&self) -> Vec<(LogIndex, Term)> {
        let holes = self.rot.holes.iter();
        let ends = holes.filter(|index| !self.rot.holes.contains(&index.next()));
        ends.map(|&index| (index, self.entries[position(index)].term))
            .collect()
    }

    fn log(&self) -> Log {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in self.sound() {
            if runs.last().is_none_or(|&(_, term)| term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let last = self.sound().last().map_or(LogIndex::ZERO, |e| e.index);
        Log::new(
            (LogIndex::ZERO, Term::ZERO),
            runs,
            last,
            self.sound().to_vec(),
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
        let log = self.disk.log();
        let mut hard_state = self.disk.hard_state;
        hard_state.commit = hard_state.commit.min(log.last_index());
        let raft = Raft::new(
            self.id,
            self.members.clone(),
            self.settings.clone(),
            hard_state,
            log,
            now,
            self.settings.election_timeout + Duration::from_millis(self.settings.seed % 100),
        );
        let sound = self.disk.sound().iter();
        let changes: Vec<Entry> = sound
            .filter(|entry| entry.kind == EntryKind::Membership)
            .cloned()
            .collect();
        let mut raft = raft.with_changes(Term::ZERO, &changes);
        if let Some((since, term, noted)) = self.disk.noted.clone() {
            raft = raft.having_noted(since, term, noted);
        }
        self.raft = Some(match self.disk.damage() {
            Some(damage) => raft.damaged(damage),
            None => raft,
        });
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
            note: raft.take_note(),
            hard_state: None,
            entries: Vec::new(),
            put_back: BTreeSet::new(),
        };
        raft.submit(
            write.flush,
            bytes_max,
            |state| write.hard_state = Some(state),
            |entry| write.entries.push(entry.clone()),
        );
        let indexes = write.entries.iter().map(|entry| entry.index);
        write.put_back = indexes.filter(|&index| raft.is_put_back(index)).collect();
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
        if let Some(raft) = self.raft.as_ref().filter(|_| !said.is_empty()) {
            let (since, term, newest) = raft.to_note();
            self.disk.noted = (since > LogIndex::ZERO).then(|| (since, term, newest.clone()));
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
                ..
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
