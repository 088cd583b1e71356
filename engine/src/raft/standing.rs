//! What of a replica changes rarely: who drives it has to look at little else most of the time.

use wal::{ReplicaId, Term};

use super::{Mode, Raft, Role};

/// How a replica stands in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub term: Term,
    pub leader: Option<ReplicaId>,
    pub quiet: bool,
    pub damaged: bool,
}

impl Raft {
    pub fn standing(&self) -> Standing {
        Standing {
            role: self.role,
            term: self.term,
            leader: self.leader,
            quiet: self.quiet.now,
            damaged: self.is_damaged(),
        }
    }

    /// Whether nothing is to be sent but what answers messages, and nobody needs anything that is not in
    /// memory.
    pub fn is_steady(&self) -> bool {
        let last = self.log.last_index();
        self.repair.is_none()
            && self.questions.is_empty()
            && self.offer.is_none()
            && self.transfer.is_none()
            && self
                .progress
                .iter()
                .all(|(_, progress)| progress.mode == Mode::Replicate && progress.next > last)
    }
}
