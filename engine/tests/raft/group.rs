//! A group whose messages go, or stay on their way, one by one.

use std::time::Duration;

use engine::Time;
use engine::raft::{Members, Message, Role, Settings, Window};
use wal::{ReplicaId, Term};

use super::replica::{Disk, Replica};

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(10);

pub(crate) type Sent = (u32, u32, Message);

pub(crate) struct Group {
    pub(crate) now: Time,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) network: Vec<Sent>,
}

impl Group {
    pub(crate) fn new(voters: u32) -> Self {
        Self::with_observers(voters, 0)
    }

    pub(crate) fn with_observers(voters: u32, observers: u32) -> Self {
        let ids = || (1..=voters + observers).map(ReplicaId::from_raw);
        let members = Members {
            voters: ids().take(voters as usize).collect(),
            observers: ids().skip(voters as usize).collect(),
        };
        let replica = |id: ReplicaId| {
            let settings = Settings {
                heartbeat_interval: HEARTBEAT,
                election_timeout: Duration::from_millis(100),
                pre_vote: false,
                check_quorum: false,
                window: Window {
                    bytes_max: 1 << 16,
                    messages_max: 16,
                },
                append_bytes_max: 1 << 16,
                seed: u64::from(id.to_raw()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            };
            Replica::new(id, members.clone(), settings, Disk::default())
        };
        Self {
            now: Time::default(),
            replicas: ids().map(replica).collect(),
            network: Vec::new(),
        }
    }

    pub(crate) fn replica(&mut self, id: u32) -> &mut Replica {
        &mut self.replicas[id as usize - 1]
    }

    /// What the replica has to write becomes durable, and what it says is on its way.
    pub(crate) fn settle(&mut self, id: u32) {
        let replica = self.replica(id);
        while replica.submit(usize::MAX) || replica.written() {}
        for (to, message) in self.replica(id).speak() {
            self.network.push((id, to.to_raw(), message));
        }
    }

    pub(crate) fn campaign(&mut self, id: u32) {
        let (raft, said) = self.replica(id).raft();
        raft.campaign(said);
        self.settle(id);
    }

    /// It asks its peers.
    pub(crate) fn ask(&mut self, id: u32) {
        self.now = self.now.after(HEARTBEAT * 2);
        let now = self.now;
        let (raft, said) = self.replica(id).raft();
        raft.tick(now, said);
        self.settle(id);
    }

    /// Takes what is on its way from one to the other.
    pub(crate) fn take(&mut self, from: u32, to: u32) -> Vec<Sent> {
        let all = core::mem::take(&mut self.network);
        let (taken, left) = all
            .into_iter()
            .partition(|sent| (sent.0, sent.1) == (from, to));
        self.network = left;
        taken
    }

    pub(crate) fn give(&mut self, sent: Vec<Sent>) {
        let now = self.now;
        for (from, to, message) in sent {
            let (raft, said) = self.replica(to).raft();
            raft.step(now, ReplicaId::from_raw(from), message, said);
            self.settle(to);
        }
    }

    pub(crate) fn deliver(&mut self, from: u32, to: u32) {
        let sent = self.take(from, to);
        self.give(sent);
    }

    /// Questions and answers of one go between it and the others, until there are no more.
    pub(crate) fn consult(&mut self, id: u32, others: &[u32]) {
        for _ in 0..4 {
            others.iter().for_each(|&other| self.deliver(id, other));
            others.iter().for_each(|&other| self.deliver(other, id));
        }
    }

    /// It crashes, and forgets every vote and term.
    pub(crate) fn forgets(&mut self, id: u32) {
        let now = self.now;
        let replica = self.replica(id);
        replica.crash(0);
        replica.disk.forget();
        replica.start(now);
    }

    pub(crate) fn promises_lost(&mut self, id: u32) -> bool {
        self.replica(id).raft().0.promises_lost()
    }

    pub(crate) fn term(&mut self, id: u32) -> Term {
        self.replica(id).raft().0.term()
    }

    pub(crate) fn role(&mut self, id: u32) -> Role {
        self.replica(id).raft().0.role()
    }

    /// Nobody fails any more. Says whether a leader and all its members are intact soon.
    pub(crate) fn recovers(&mut self) -> bool {
        self.recovers_within(300)
    }

    /// The same, for so many heartbeats.
    pub(crate) fn recovers_within(&mut self, heartbeats: u32) -> bool {
        for _ in 0..heartbeats {
            self.now = self.now.after(HEARTBEAT);
            let now = self.now;
            let ids: Vec<u32> = self.replicas.iter().map(|r| r.id.to_raw()).collect();
            for id in ids {
                let (raft, said) = self.replica(id).raft();
                if raft.deadline() <= now {
                    raft.tick(now, said);
                }
                self.settle(id);
            }
            let sent = core::mem::take(&mut self.network);
            self.give(sent);
            let rafts = || self.replicas.iter().filter_map(|r| r.raft.as_ref());
            let leader = rafts().find(|raft| raft.role() == Role::Leader);
            // Who was removed may wait for ever: it is told when it connects.
            let is_intact = |id| rafts().any(|raft| raft.id() == id && !raft.is_damaged());
            if leader.is_some_and(|leader| leader.members().all().all(is_intact)) {
                return true;
            }
        }
        false
    }
}
