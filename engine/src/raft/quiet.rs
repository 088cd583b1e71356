//! Groups in which nothing happens cost nothing.
//!
//! A leader whose followers all hold and know all that it does says so once, and then nothing: no
//! heartbeats, no check for a quorum, and its followers wait for no election. Whoever is told anything
//! wakes up. That the leader's node lives, and still leads as many quiet groups, is told for all of them
//! at once by the owner of the replicas, who wakes followers when that ends.
//!
//! Only liveness hangs on it: a quiet leader that was deposed behind its back still asks a majority
//! before it answers a read, and commits nothing without one.

use wal::LogIndex;

use super::{Message, Outbox, Raft, Role};
use crate::time::Time;

/// Heartbeats for which nothing must have happened.
const IDLE_BEATS: u32 = 10;

/// What a replica knows of the peace in its group.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// It sends nothing and waits for nothing.
    pub(super) now: bool,
    /// The owner has nothing against it.
    allowed: bool,
    idle_beats: u32,
}

impl Raft {
    /// Whether it sends nothing and waits for nothing, until something happens.
    pub fn is_quiet(&self) -> bool {
        self.quiet.now
    }

    /// Lets a leader become quiet, or not.
    pub fn allow_quiet(&mut self, allowed: bool) {
        self.quiet.allowed = allowed;
    }

    /// The leader's node was heard at that time, maybe by another group.
    pub fn heard_elsewhere(&mut self, heard: Time) {
        self.heard = self.heard.max(heard);
    }

    /// Something happens again.
    pub fn wake(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.quiet.idle_beats = 0;
        if !core::mem::take(&mut self.quiet.now) {
            return;
        }
        if self.role == Role::Leader {
            self.heartbeat_deadline = self.now;
            self.election_deadline = self.now.after(self.settings.election_timeout);
        } else {
            self.rest();
        }
    }

    /// Whether a quiet replica need not care for the message.
    pub(super) fn sleeps_through(&self, message: &Message) -> bool {
        match *message {
            Message::HeartbeatAck { term, .. } => term == self.term,
            Message::Appended { term, matched } => {
                term == self.term && matched == self.log.last_index()
            }
            _ => false,
        }
    }

    /// On a leader, instead of heartbeats: says that it will be quiet, if nothing happened for a while.
    pub(super) fn grow_quiet(&mut self, out: &mut Outbox) -> bool {
        let last = self.log.last_index();
        let knows_all = self.progress.iter().all(|(_, progress)| {
            let told = progress.told.is_some_and(|disk| !disk.has_failed());
            told && progress.matched == last && progress.commit_sent == last
        });
        let peace = knows_all
            && self.commit == last
            && self.log.persisted() == last
            && self.promise_is_durable()
            && self.rounds.confirmed() == self.rounds.started()
            && self.transfer.is_none()
            && self.repair.is_none()
            && self.questions.is_empty()
            && !self.has_unsubmitted();
        if !(self.quiet.allowed && peace) {
            self.quiet.idle_beats = 0;
            return false;
        }
        self.quiet.idle_beats += 1;
        if self.quiet.idle_beats < IDLE_BEATS {
            return false;
        }
        self.quiet.now = true;
        let term = self.term;
        let quiet = |&(to, _): &(_, _)| (to, Message::Quiet { term, last });
        out.extend(self.progress.iter().map(quiet));
        true
    }

    /// The leader will be quiet. So will this replica, if it holds and knows as much.
    pub(super) fn hear_quiet(&mut self, last: LogIndex) {
        let all = [self.log.last_index(), self.log.persisted(), self.commit];
        let peace = all == [last; 3]
            && self.role == Role::Follower
            && self.promise_is_durable()
            && self.repair.is_none()
            && !self.disk.has_failed()
            && !self.has_unsubmitted();
        self.quiet.now = peace;
    }
}
