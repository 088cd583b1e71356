//! A quorum that is lost for good, survivors that go on without it, and who comes back then: replicas
//! that were given up, and nodes without their data.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::epoch;
use engine::shard::NewMembership;
use net::peer::Cause;
use wal::{GroupId, LogIndex, Term};

use crate::cluster::Cluster;
use crate::disk::Disk;
use crate::events::Event;
use crate::faults::Fault;
use crate::oracle::Broken;
use crate::rng::{Rng, mix};
use crate::shelf::{Name, Shelf};
use crate::standing::Standing;

/// The newest entry of each group.
type Newest = BTreeMap<GroupId, (LogIndex, Term)>;

impl Cluster {
    /// A node's data directory is lost while it is down, and it comes back without.
    pub(crate) fn wipe(&mut self, node: usize) {
        let sound = !self.nodes[node].disk.is_suspect() && !self.nodes[node].disk.has_lied();
        if self.nodes[node].process.is_none() || !sound || !self.may_harm(node) {
            return self.postpone(Fault::Wipe);
        }
        self.crash(node, false);
        self.tell(|_| format!("node {} loses all its data", node + 1));
        self.counters.wiped_nodes += 1;
        let groups = (0..self.plan.groups).map(GroupId::from_raw);
        self.oracles.of(node).wiped(node, groups.collect());
        let seeds = self.seeds(node);
        let noted = self.noted_by_others(node);
        self.counters.seeded_nodes += u64::from(!seeds.is_empty());
        let wiped = &mut self.nodes[node];
        wiped.standing = Rc::new(wiped.standing.wiped());
        wiped.disk = Disk::new(self.plan.segment_bytes, wiped.standing.instance);
        wiped.shelf = Shelf::of_backup(seeds);
        wiped.known.fill(0);
        wiped.noted = noted;
        wiped.replaced.clear();
    }

    /// What the others know of the members of each group: whoever brings the node back asks them.
    fn noted_by_others(&self, node: usize) -> BTreeMap<GroupId, NewMembership> {
        let mut newest = BTreeMap::<GroupId, NewMembership>::new();
        let others = self.nodes.iter().filter(|other| other.position != node);
        for noted in others.flat_map(|other| other.noted.values()) {
            let known = newest.get(&noted.group);
            if known.is_none_or(|known| known.since < noted.since) {
                newest.insert(noted.group, noted.clone());
            }
        }
        newest
    }

    /// In half of the cases, snapshots out of a backup are put into the empty directory: any of this epoch that
    /// a node has, the lost one among them.
    fn seeds(&self, node: usize) -> Vec<(Name, Rc<Vec<u8>>)> {
        let mut rng = Rng::new(mix(self.seed ^ self.now));
        if rng.chance(500_000) {
            return Vec::new();
        }
        let epoch = self.nodes[node].standing.epoch;
        let all = self.nodes.iter().flat_map(|node| node.shelf.files());
        let mut all: Vec<_> = all
            .filter(|((_, _, term), _)| epoch::of(*term) == epoch)
            .collect();
        rng.shuffle(&mut all);
        all.sort_by_key(|((group, _, _), _)| *group);
        all.dedup_by_key(|((group, _, _), _)| *group);
        all
    }

    /// A majority dies for good; whoever runs the cluster finds out after a while. The last fault of
    /// a run: few are left for others, and what survivors lack on top of that is lost.
    pub(crate) fn lose_quorum(&mut self) {
        let (nodes, plan) = (&self.nodes, &self.plan);
        let others = self.counters.missing(plan);
        let all_else = others
            .filter(|&it| it != Fault::QuorumLoss)
            .all(Self::may_lack);
        let sound = nodes.iter().all(|node| {
            let whole =
                !node.is_damaged() && !self.oracles.see(node.position).is_damaged(node.position);
            whole && !node.disk.is_suspect() && !node.disk.has_lied()
        });
        if self.counters.lost_quorums > 0 || !all_else || !sound {
            self.postpone(Fault::QuorumLoss);
            // What it waits for may have to strike again.
            return self.strike_other(Fault::QuorumLoss);
        }
        self.counters.lost_quorums += 1;
        let mut members = self.members.clone();
        self.nemesis.rng.shuffle(&mut members);
        let most = members.len() - (members.len() / 2 + 1);
        let mut survivors = members[..1 + self.nemesis.rng.index(most)].to_vec();
        survivors.sort_unstable();
        self.tell(|_| format!("only nodes {survivors:?} (from 0) survive"));
        for node in members {
            if !survivors.contains(&node) {
                self.stop(node);
            }
        }
        self.repairing = true;
        let at = self.now
            + self
                .nemesis
                .rng
                .between(1_000_000, 2 * self.plan.outage_max);
        self.plan_at(at, Event::Repair { survivors });
    }

    /// Stops a node that is not to be started again.
    fn stop(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            self.crash(node, self.plan.has(Fault::TornFlush));
        }
        self.nodes[node].held = true;
    }

    /// The survivors become the membership, with the newest that any of them holds. Then they start,
    /// and so do some of those that were given up, whose data are as they were.
    pub(crate) fn repair(&mut self, survivors: &[usize]) -> Result<(), Broken> {
        survivors.iter().for_each(|&node| self.stop(node));
        let mut survivors = survivors.to_vec();
        if let [alone] = survivors[..]
            && self.newest(alone)?.1
        {
            // Nobody could give it what it knows to be lost: whoever runs the cluster is told to choose more.
            let others = self.members.iter().filter(|&&it| it != alone);
            let others: Vec<usize> = others.copied().collect();
            survivors.push(*self.nemesis.rng.pick(&others));
            survivors.sort_unstable();
        }
        let survivors = &survivors[..];
        let mut newest = Newest::new();
        for &node in survivors {
            for (group, (index, term)) in self.newest(node)?.0 {
                let most = newest.entry(group).or_default();
                if (term, index) > (most.1, most.0) {
                    *most = (index, term);
                }
            }
        }
        self.tell(|_| format!("{survivors:?} (from 0) go on with {newest:?}"));
        self.oracles.split(survivors, &newest)?;
        self.members = survivors.to_vec();
        self.repairing = false;
        for node in 0..self.nodes.len() {
            let at = self.now + self.nemesis.rng.between(1_000_000, self.plan.outage_max);
            if survivors.contains(&node) {
                let standing = self.nodes[node].standing.shrunk(survivors, &newest);
                self.nodes[node].standing = Rc::new(standing);
                self.plan_at(at, Event::Return { node });
            } else if self.nemesis.rng.chance(800_000) {
                self.plan_at(at, Event::Return { node });
            }
        }
        self.begin_anew()
    }

    /// What a stopped node holds, in its log or in a snapshot, and whether something of it is damaged.
    fn newest(&mut self, node: usize) -> Result<(Newest, bool), Broken> {
        let (plan, node) = (&self.plan, &mut self.nodes[node]);
        let recovered = node.disk.replay(plan.cache_bytes);
        let recovered = recovered.map_err(|error| format!("a survivor's log: {error}"))?;
        let logs = recovered.groups.iter();
        let damaged = logs.clone().any(|(_, log)| log.damage.is_some());
        let mut newest: Newest = logs
            .map(|(&group, log)| (group, epoch::newest(log)))
            .collect();
        for group in (0..plan.groups).map(GroupId::from_raw) {
            let (snapshot, _) = node.shelf.load(group);
            let entry = newest.entry(group).or_default();
            if let Some(snapshot) = snapshot
                && (snapshot.term, snapshot.index) > (entry.1, entry.0)
            {
                *entry = (snapshot.index, snapshot.term);
            }
        }
        Ok((newest, damaged))
    }

    /// A node that was stopped is started.
    pub(crate) fn come_back(&mut self, node: usize) -> Result<(), Broken> {
        self.nodes[node].held = false;
        self.counters.returned_nodes += u64::from(!self.members.contains(&node));
        self.start(node)
    }

    /// Whether a node lets in what comes from one that stands as `caller`. One that is not let in
    /// because it was given up ends.
    pub(crate) fn lets_in(&mut self, to: usize, caller: &Rc<Standing>) -> Result<bool, Broken> {
        let from = caller.node;
        let Self {
            nodes, counters, ..
        } = self;
        let is_current = nodes[from].standing.instance == caller.instance;
        let here = &mut nodes[to];
        let before = here.let_in[from].as_ref();
        if before.is_some_and(|before| Rc::ptr_eq(before, caller)) && is_current {
            return Ok(true);
        }
        // What a process said whose data are gone does not outlive the connection.
        let replaced = here.replaced.contains(&(from, caller.instance)) || !is_current;
        match here.standing.admit(caller) {
            Ok(()) if !here.standing.agrees(caller) => {
                return Err(format!(
                    "node {} of epoch {} lets in node {} of epoch {}, which has {:?}",
                    to + 1,
                    here.standing.epoch,
                    from + 1,
                    caller.epoch,
                    caller.members
                ));
            }
            Ok(()) if replaced => return Ok(false),
            Ok(()) => {
                let known = std::mem::replace(&mut here.known[from], caller.instance);
                if known != 0 && known != caller.instance {
                    here.replaced.push((from, known));
                }
                here.let_in[from] = Some(caller.clone());
                return Ok(true);
            }
            Err(refusal) if here.standing.agrees(caller) => {
                return Err(format!("node {} is refused: {refusal}", from + 1));
            }
            Err(refusal) => {
                counters.fenced += 1;
                let ends = matches!(refusal.cause(), Cause::Removed | Cause::Fenced);
                if !ends || nodes[from].standing.epoch != caller.epoch {
                    return Ok(false);
                }
            }
        }
        if self.nodes[from].process.is_some() {
            self.tell(|_| format!("node {} is fenced", from + 1));
            self.stop(from);
            if self.nemesis.rng.chance(200_000) {
                let at = self.now + self.nemesis.rng.between(1_000_000, self.plan.outage_max);
                self.plan_at(at, Event::Return { node: from });
            }
        }
        Ok(false)
    }
}
