//! What disks lose although they confirmed it, how it is found at a start, and which of it can be.
//!
//! A majority of the nodes is sound at all times; the others have lost something, from the moment of
//! the fault to the end of the repair. So of each entry a copy stays that a quorum counted.

use wal::{FlushNumber, GroupId, LogIndex, Term};

use crate::cluster::Cluster;
use crate::contents::Found;
use crate::events::Event;
use crate::faults::Fault;
use crate::node::Arrival;
use crate::oracle::Broken;

/// How long a disk that lied runs on at most, in nanoseconds.
const LIED_MAX: u64 = 3_000_000_000;

impl Cluster {
    /// A node starts, and whatever its disk lost must be noticed.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].process.is_some() || self.nodes[node].held {
            return Ok(());
        }
        let lie = self.nodes[node].disk.own_up();
        if let Some((fault, false)) = lie {
            self.start_silently(node, fault)?;
        }
        let harm = match lie {
            Some((fault, proven)) => proven.then_some(fault),
            // What decays now would be judged against what a disk that lied goes on from.
            None => self.decay(node),
        };
        if harm.is_none() {
            self.rot_snapshot(node);
        }
        let (mut found, mut damaged) = self.start_process(node)?;
        if let Some(fault) = harm {
            self.tell(|_| format!("{fault:?} on node {} damages {damaged:?}", node + 1));
            self.oracles.see(node).check(node, &found, &damaged)?;
            if damaged.is_empty() {
                // What did no harm now must not add to what is lost later.
                self.nodes[node].disk.mend();
                self.nodes[node].process = None;
                (found, damaged) = self.start_process(node)?;
            } else {
                self.nodes[node].disk.accept();
                *self.counters.damage(fault) += 1;
                self.forgot(node);
            }
            self.seek_again(fault);
        }
        self.tell(|_| {
            let groups = found.iter().map(|(group, content)| {
                let (entries, state) = (content.terms.len(), content.state);
                format!("{group}: {entries} entries, {state:?}")
            });
            format!(
                "node {} starts with {:?}",
                node + 1,
                groups.collect::<Vec<_>>()
            )
        });
        self.counters.restarts += u64::from(self.nodes[node].life > 1);
        let forgetful = self.forgotten(node);
        let process = self.nodes[node].process.as_ref();
        let groups = process.expect("it just started").shard.status().into_iter();
        let suspects = groups.filter(|status| status.damaged);
        let suspects = suspects.map(|status| status.group).collect();
        let judge = self.oracles.of(node);
        judge.recovered(node, &found, &damaged, (suspects, &forgetful))?;
        self.arrive(node, Arrival::Wake);
        self.make_room(node);
        Ok(())
    }

    fn start_process(&mut self, node: usize) -> Result<(Found, Vec<GroupId>), Broken> {
        let Self {
            nodes,
            plan,
            counters,
            ..
        } = self;
        nodes[node].start(plan, self.seed, self.now, counters)
    }

    /// A disk lied, and nothing on it tells that from a write that was never confirmed. If others can do
    /// without what is lost, it stays lost: the leader has to tell, or to give it anew. If not, the disk has
    /// done it after all.
    fn start_silently(&mut self, node: usize, fault: Fault) -> Result<(), Broken> {
        self.tell(|_| format!("nothing tells of {fault:?} on node {}", node + 1));
        self.counters.lies_without_trace += 1;
        self.seek_again(fault);
        let (found, damaged) = self.start_process(node)?;
        self.nodes[node].process = None;
        let harmless = damaged.is_empty() && self.oracles.of(node).forgives(node, &found);
        if harmless {
            self.tell(|_| format!("node {} forgets", node + 1));
            self.counters.silent_losses += 1;
            self.nodes[node].disk.accept();
        } else {
            self.nodes[node].disk.mend();
        }
        Ok(())
    }

    /// A replica was told by the leader of its term what it acknowledged: what of that it does not hold, it
    /// takes for lost.
    pub(crate) fn takes_for_lost(
        &self,
        node: usize,
        told: &[(GroupId, Term, LogIndex)],
    ) -> Result<(), Broken> {
        for &(group, term, acknowledged) in told {
            let process = self.nodes[node].process.as_ref().expect("it runs");
            let status = process.shard.group_status(group).expect("all are here");
            if status.term == term && status.last < acknowledged && !status.damaged {
                return Err(format!(
                    "node {} is told in term {term} that it acknowledged group {group} up to {acknowledged}, holds {}, and misses nothing",
                    node + 1,
                    status.last
                ));
            }
        }
        Ok(())
    }

    /// Sometimes the disk of a node that was down loses something meanwhile.
    fn decay(&mut self, node: usize) -> Option<Fault> {
        if self.nodes[node].life == 0 || !self.may_harm(node) {
            return None;
        }
        let kinds = [Fault::Rot, Fault::LatentErrors];
        let mut kinds: Vec<Fault> = kinds
            .into_iter()
            .filter(|&fault| self.plan.has(fault))
            .collect();
        let missing = |fault: &Fault| self.counters.of(*fault) == 0;
        let contagious = (0..self.nodes.len()).any(|node| !self.forgotten(node).is_empty());
        let share = if contagious {
            1_000_000
        } else if kinds.iter().any(missing) {
            kinds.retain(missing);
            700_000
        } else {
            200_000
        };
        if kinds.is_empty() || !self.rng.chance(share) {
            return None;
        }
        let fault = *self.rng.pick(&kinds);
        let disk = &mut self.nodes[node].disk;
        let harmed = match fault {
            Fault::Rot => disk.rot(&mut self.rng),
            _ => {
                let newest = contagious || self.rng.chance(300_000);
                disk.fade(&mut self.rng, newest)
            }
        };
        harmed.then_some(fault)
    }

    /// Whether a majority of the disks is sound without this one: of each entry a copy stays.
    pub(crate) fn may_harm(&self, node: usize) -> bool {
        if self.repairing || !self.members.contains(&node) {
            return false;
        }
        if self.plan.has(Fault::ChangeMembers) {
            return self.majorities_stand_without(node);
        }
        let others = self.members.iter().copied();
        let harmed = others.filter(|&other| other != node && self.is_harmed(other));
        harmed.count() < (self.members.len() - 1) / 2
    }

    /// Groups of which a node may have forgotten promises.
    fn forgotten(&self, node: usize) -> Vec<GroupId> {
        let Some(process) = &self.nodes[node].process else {
            return Vec::new();
        };
        let groups = process.shard.status().into_iter();
        let groups = groups.filter(|status| status.promises_lost);
        groups.map(|status| status.group).collect()
    }

    /// If a node that just started forgot promises, another is to forget as well, before they could
    /// find out.
    fn forgot(&mut self, node: usize) {
        let own = self.forgotten(node);
        if own.is_empty() {
            return;
        }
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        let others: Vec<GroupId> = others.flat_map(|other| self.forgotten(other)).collect();
        let both = own.iter().filter(|group| others.contains(group)).count();
        self.counters.lost_promises += own.len() as u64;
        self.counters.forgetful_at_once += both as u64;
        let next = (node + 1 + self.rng.index(self.nodes.len() - 1)) % self.nodes.len();
        if both == 0 && self.may_harm(next) && self.nodes[next].process.is_some() {
            self.plan_crash(next, self.now + 1);
        }
    }

    /// Whether a run may go without a fault: what damage did no harm is taken back and sought again,
    /// and in some runs no place is found in time; a node that recycles its segments may want no space of a
    /// disk that is full, and one of quiet groups writes nothing that could fail. A test counts over several
    /// runs.
    pub(crate) fn may_lack(fault: Fault) -> bool {
        use Fault::{
            ChangeMembers, DiskFull, LatentErrors, LostWrite, MisdirectedWrite, QuorumLoss, Rot,
            SnapshotRot, Wipe, WriteFails,
        };
        matches!(
            fault,
            QuorumLoss
                | ChangeMembers
                | WriteFails
                | Wipe
                | Rot
                | SnapshotRot
                | LatentErrors
                | LostWrite
                | MisdirectedWrite
                | DiskFull
        )
    }

    /// The disk of a node is to lie about its next write. Says whether it will.
    pub(crate) fn deceive(&mut self, node: usize, fault: Fault) -> bool {
        let runs = self.nodes[node].process.as_ref();
        let runs = runs.is_some_and(|process| !process.watch.failed);
        let may = runs && self.may_harm(node) && !self.nodes[node].disk.is_suspect();
        if may {
            self.nodes[node].disk.deceit = Some(fault);
        }
        may
    }

    /// A write is confirmed. Says whether an earlier one is still on its way. A disk that lied about it
    /// is found out after a crash, which is not far.
    pub(crate) fn complete(&mut self, node: usize, number: FlushNumber) -> bool {
        let disk = &mut self.nodes[node].disk;
        let lies = disk.deceit.is_some();
        let early = disk.complete(number, &mut self.rng);
        if lies {
            self.tell(|_| format!("node {} is lied to about flush {number}", node + 1));
            let at = self.now + self.rng.between(1, LIED_MAX);
            self.plan_crash(node, at);
        }
        early
    }

    /// A disk does not give what it confirmed: whoever runs the node restarts it after a while.
    pub(crate) fn read_failed(&mut self, node: usize) {
        self.counters.failed_reads += 1;
        self.tell(|_| format!("node {} cannot read back", node + 1));
        self.arrive(node, Arrival::ReadFailed);
        let at = self.now + self.rng.between(1, LIED_MAX);
        self.plan_crash(node, at);
    }

    fn plan_crash(&mut self, node: usize, at: u64) {
        let (life, torn) = (self.nodes[node].life, self.plan.has(Fault::TornFlush));
        self.plan_at(at, Event::Crash { node, life, torn });
    }

    /// Each fault has to do harm at least once.
    fn seek_again(&mut self, fault: Fault) {
        if fault.is_event() && self.counters.of(fault) == 0 {
            self.postpone(fault);
        }
    }
}
