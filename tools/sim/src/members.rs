//! Members that come and go: what the nemesis asks leaders for, and who counts for what.

use engine::raft::{Change, Members, Role};
use engine::shard::GroupStatus;
use wal::{GroupId, ReplicaId};

use crate::cluster::Cluster;
use crate::events::Event;
use crate::node::{Arrival, position_of, replica_id};

/// Share of changes after which another of the same group follows soon.
const GOES_ON: u64 = 850_000;
/// The longest time until then.
const SOON: u64 = 1_500_000_000;

impl Cluster {
    /// Somebody begins to change the members of a group.
    pub(crate) fn change_members(&mut self) {
        let group = self.nemesis.rng.below(u64::from(self.plan.groups));
        let group = GroupId::from_raw(u32::try_from(group).expect("few groups"));
        self.plan_at(self.now + 1, Event::Change { group });
    }

    /// Asks whoever leads a group for a change.
    pub(crate) fn change(&mut self, group: GroupId) {
        if self.is_calm() {
            return;
        }
        let leader = self
            .leading(group)
            .map(|status| (status.0, status.1.members));
        if let Some((node, members)) = leader
            && let Some(change) = self.draw_change(node, &members)
        {
            self.tell(|_| format!("node {} is asked for {change:?} in group {group}", node + 1));
            self.arrive(node, Arrival::ChangeMembers { group, change });
        }
        if self.nemesis.rng.chance(GOES_ON) {
            let at = self.now + self.nemesis.rng.between(1_000_000, SOON);
            self.plan_at(at, Event::Change { group });
        }
    }

    fn draw_change(&mut self, leader: usize, members: &Members) -> Option<Change> {
        let any = self.nemesis.rng.index(self.plan.nodes);
        let replica = replica_id(any);
        if !members.contains(replica) {
            return Some(Change::AddObserver(replica, format!("node{replica}:7379")));
        }
        let voters = members.voters.len();
        if members.observers.contains(&replica) && self.nemesis.rng.chance(800_000) {
            return Some(Change::Promote(replica));
        }
        let leaves = !members.voters.contains(&replica) || voters > 2;
        // Each entry has to stay on a sound disk of a majority of those that are left, too.
        let left: Vec<ReplicaId> = members
            .voters
            .iter()
            .copied()
            .filter(|&it| it != replica)
            .collect();
        let sound = left
            .iter()
            .filter(|&&it| !self.is_harmed(place_of(it)))
            .count();
        (any != leader && leaves && sound > left.len() / 2).then_some(Change::Remove(replica))
    }

    /// The node that leads a group in its newest term, and how.
    pub(crate) fn leading(&self, group: GroupId) -> Option<(usize, GroupStatus)> {
        let statuses = self.nodes.iter().filter_map(|node| {
            let status = node.process.as_ref()?.shard.group_status(group)?;
            (status.role == Role::Leader).then_some((node.position, status))
        });
        statuses.max_by_key(|(_, status)| status.term)
    }

    /// Whether a disk lost something, or may have.
    pub(crate) fn is_harmed(&self, node: usize) -> bool {
        let found = &self.nodes[node];
        let harmed = found.is_damaged() || self.oracles.see(node).is_damaged(node);
        harmed || found.disk.is_suspect()
    }

    /// Whether without a node a majority of all memberships that anybody goes by is sound.
    pub(crate) fn majorities_stand_without(&self, node: usize) -> bool {
        let mut electorates: Vec<Vec<ReplicaId>> = Vec::new();
        for other in &self.nodes {
            let statuses = other
                .process
                .iter()
                .flat_map(|process| process.shard.status());
            electorates.extend(statuses.map(|status| status.members.voters));
            let noted = other.noted.values();
            electorates.extend(noted.map(|noted| noted.membership.members.voters.clone()));
        }
        electorates.push((0..self.plan.founders).map(replica_id).collect());
        electorates.iter().all(|voters| {
            let harmed = voters.iter().map(|&voter| place_of(voter));
            let harmed = harmed.filter(|&other| other != node && self.is_harmed(other));
            !voters.contains(&replica_id(node)) || harmed.count() < (voters.len() - 1) / 2
        })
    }

    /// Why the members of a group are not equal yet, when faults are over.
    pub(crate) fn differing_group(&self, group: GroupId) -> Option<String> {
        let Some((_, leader)) = self.leading(group) else {
            return Some(format!("nobody leads group {group}"));
        };
        for replica in leader.members.all() {
            let node = place_of(replica);
            let Some(process) = &self.nodes[node].process else {
                return Some(format!("node {} is down", node + 1));
            };
            let status = process.shard.group_status(group).expect("all are here");
            let end = leader.last;
            if status.damaged || status.applied != status.last || status.last != end {
                return Some(format!(
                    "log ends at {end} on the leader, on node {}: {status:?}",
                    node + 1
                ));
            }
        }
        None
    }
}

/// Where the node of a replica stands.
pub(crate) fn place_of(replica: ReplicaId) -> usize {
    position_of(wal::NodeId::from_raw(replica.to_raw()))
}
