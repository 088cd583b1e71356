//! What a leader knows of another replica, and how much it may send there.

use alloc::collections::VecDeque;

use wal::{LogIndex, ReplicaId};

use super::{Pace, Raft};

/// How the leader sends to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Looking for the place where the logs agree: one append at a time.
    Probe { waiting: bool },
    /// The logs agree: appends are sent without waiting for answers, within the window.
    Replicate,
}

/// A leader's view of one other replica.
#[derive(Debug)]
pub struct Progress {
    /// Durable there, and equal to the leader's log.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    pub mode: Mode,
    /// Heard from since the last quorum check.
    pub active: bool,
    /// Heard from since somebody wanted to know whether it is there.
    pub answers: bool,
    /// The newest commit it was told of.
    pub commit_sent: LogIndex,
    /// The newest ReadIndex round it has answered.
    pub round: u64,
    /// What it last said of its disk; `None` before its first word to this leader.
    pub told: Option<Pace>,
    /// The end of the snapshot it was last offered; zero once it needs none.
    pub offered: LogIndex,
    /// Last index and bytes of each append under way.
    window: VecDeque<(LogIndex, usize)>,
    window_bytes: usize,
}

/// What a rejected append says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It belongs to a place that is no longer looked at.
    Old,
    /// The logs agree before that place, if at all.
    News,
    /// The replica lacks what it acknowledged: its disk lost that so that nothing told. Or the message
    /// was on its way for long, and does not count.
    Denial,
}

/// How much may be on its way to one follower.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub bytes_max: usize,
    pub messages_max: usize,
}

impl Progress {
    /// Of a replica about which nothing is known, when the log ends at `last`.
    pub fn new(last: LogIndex) -> Self {
        Self {
            matched: LogIndex::ZERO,
            next: last.next(),
            mode: Mode::Probe { waiting: false },
            active: false,
            answers: false,
            commit_sent: LogIndex::ZERO,
            round: 0,
            told: None,
            offered: LogIndex::ZERO,
            window: VecDeque::new(),
            window_bytes: 0,
        }
    }

    fn heard(&mut self) {
        (self.active, self.answers) = (true, true);
    }

    /// What is known of its disk.
    pub fn disk(&self) -> Pace {
        self.told.unwrap_or(Pace::UNKNOWN)
    }

    /// Whether an append may be sent now.
    pub fn may_send(&self, window: Window) -> bool {
        match self.mode {
            Mode::Probe { waiting } => !waiting,
            Mode::Replicate => {
                self.window.len() < window.messages_max && self.window_bytes < window.bytes_max
            }
        }
    }

    /// Bytes that still fit the window.
    pub fn room(&self, window: Window) -> usize {
        window.bytes_max.saturating_sub(self.window_bytes)
    }

    /// An append with entries up to `last` went out.
    pub fn sent(&mut self, last: LogIndex, bytes: usize) {
        match self.mode {
            Mode::Probe { .. } => self.mode = Mode::Probe { waiting: true },
            Mode::Replicate => {
                self.next = last.next();
                self.window.push_back((last, bytes));
                self.window_bytes += bytes;
            }
        }
    }

    /// The replica holds everything up to `matched`.
    pub fn acknowledge(&mut self, matched: LogIndex) {
        self.heard();
        while self
            .window
            .front()
            .is_some_and(|&(last, _)| last <= matched)
        {
            let (_, bytes) = self.window.pop_front().expect("just seen");
            self.window_bytes -= bytes;
        }
        if matched < self.matched {
            return;
        }
        // An answer that says nothing new must not end a probe that looks further on: it may belong
        // to another append, or to a message of an older term.
        let news = matched > self.matched || matched == self.next.previous();
        self.matched = matched;
        if matched >= self.offered {
            self.offered = LogIndex::ZERO;
        }
        self.next = self.next.max(matched.next());
        if news && matches!(self.mode, Mode::Probe { .. }) {
            self.replicate();
        }
    }

    /// The replica has no entry at `rejected` that fits; the logs may agree at `hint`.
    pub fn reject(&mut self, rejected: LogIndex, hint: LogIndex) -> Rejection {
        self.heard();
        match self.mode {
            Mode::Replicate => {
                if rejected < self.matched {
                    return Rejection::Old; // overtaken by an acknowledgement
                }
                self.probe();
                Rejection::News
            }
            Mode::Probe { .. } => {
                if self.next.previous() != rejected || rejected == LogIndex::ZERO {
                    return Rejection::Old;
                }
                if rejected <= self.matched {
                    return Rejection::Denial;
                }
                self.next = rejected.min(hint.next()).max(self.matched.next());
                self.mode = Mode::Probe { waiting: false };
                Rejection::News
            }
        }
    }

    /// The replica's disk lost what is behind `last`, even if it acknowledged that.
    pub fn regress(&mut self, last: LogIndex) {
        self.heard();
        if last < self.matched {
            self.matched = last;
            self.probe();
        }
    }

    /// Goes back to looking for the place where the logs agree.
    pub fn probe(&mut self) {
        self.next = self.matched.next();
        self.mode = Mode::Probe { waiting: false };
        self.window.clear();
        self.window_bytes = 0;
    }

    /// It was offered a snapshot that ends at `index`; again once it is heard of.
    pub fn offer(&mut self, index: LogIndex) {
        self.probe();
        self.mode = Mode::Probe { waiting: true };
        self.offered = index;
    }

    fn replicate(&mut self) {
        self.next = self.matched.next();
        self.mode = Mode::Replicate;
        self.window.clear();
        self.window_bytes = 0;
    }

    /// The replica is alive: what it has not answered may be lost.
    pub fn alive(&mut self) {
        self.heard();
        if let Mode::Probe { waiting } = &mut self.mode {
            *waiting = false;
        }
    }
}

impl Raft {
    /// What a leader knows of the other replicas; empty on others.
    pub fn progress(&self) -> &[(ReplicaId, Progress)] {
        &self.progress
    }

    pub(super) fn peer(&self, replica: ReplicaId) -> &Progress {
        let found = self.progress.iter().find(|(id, _)| *id == replica);
        &found.expect("a leader knows every member").1
    }

    pub(super) fn peer_mut(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        self.progress
            .iter_mut()
            .find(|(id, _)| *id == replica)
            .map(|(_, progress)| progress)
    }
}
