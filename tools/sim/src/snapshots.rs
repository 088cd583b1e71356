//! Snapshots in a run: how long they take, what of them fails, and how they reach other nodes.

use engine::shard::{BegunSnapshot, FetchSnapshot};
use wal::GroupId;

use crate::cluster::Cluster;
use crate::events::Event;
use crate::faults::Fault;
use crate::node::{Arrival, position_of};
use crate::oracle::Broken;
use crate::shelf::Part;

/// Share of snapshots, written or fetched, that fail for no reason.
const FAILURES: u64 = 20_000;
/// The longest time between two chunks.
const CHUNK_MAX: u64 = 20_000_000;
const CHUNK_BYTES: usize = 4096;

impl Cluster {
    /// A node begins a snapshot.
    pub(crate) fn begin_snapshot(&mut self, node: usize, begun: &BegunSnapshot) {
        self.tell(|_| format!("node {} begins {begun:?}", node + 1));
        let process = self.nodes[node].process.as_mut().expect("it asked for it");
        process.part = Some(Part::begin(begun));
        self.plan_chunk(node, begun.group);
    }

    fn plan_chunk(&mut self, node: usize, group: GroupId) {
        let life = self.nodes[node].life;
        let at = self.now + self.rng.between(1_000, CHUNK_MAX);
        self.plan_at(at, Event::Chunk { node, life, group });
    }

    /// The next chunk of the snapshot that a node is taking.
    pub(crate) fn chunk(&mut self, node: usize, group: GroupId) {
        let process = self.nodes[node].process.as_mut().expect("it lives");
        let mut bytes = Vec::new();
        let chunk = process.shard.snapshot_chunk(group, CHUNK_BYTES, &mut bytes);
        let fails = self.rng.chance(FAILURES);
        let part = process.part.as_mut().expect("it was begun");
        part.chunk(&bytes);
        match chunk.filter(|_| !fails) {
            None => {
                process.part = None;
                self.counters.failed_snapshots += 1;
                self.arrive(node, Arrival::SnapshotFailed { group });
            }
            Some(chunk) if chunk.more => self.plan_chunk(node, group),
            Some(_) => {
                let life = self.nodes[node].life;
                let at = self.now + self.rng.between(1_000, self.plan.flush_max);
                self.plan_at(at, Event::Shelved { node, life, group });
            }
        }
    }

    /// A snapshot that was taken is durable.
    pub(crate) fn shelved(&mut self, node: usize, group: GroupId) {
        let node_at = &mut self.nodes[node];
        let process = node_at.process.as_mut().expect("it lives");
        let part = process.part.take().expect("it was written");
        let (_, index, term) = part.name;
        node_at.shelf.keep(part, &self.plan);
        self.counters.snapshots += 1;
        self.tell(|_| format!("node {} has a snapshot of {group} up to {index}", node + 1));
        self.arrive(node, Arrival::SnapshotTaken { group, index, term });
    }

    /// A node asks another for a snapshot.
    pub(crate) fn fetch(&mut self, node: usize, fetch: FetchSnapshot) {
        self.tell(|_| format!("node {} fetches {fetch:?}", node + 1));
        let life = self.nodes[node].life;
        let at = self.now + self.rng.between(1_000, 10 * self.plan.flush_max);
        self.plan_at(at, Event::Fetched { node, life, fetch });
    }

    /// A snapshot came from a peer whole, or not at all.
    pub(crate) fn fetched(&mut self, node: usize, fetch: FetchSnapshot) -> Result<(), Broken> {
        let FetchSnapshot {
            group,
            from,
            index,
            term,
        } = fetch;
        let from = position_of(from);
        let caller = self.nodes[node].standing.clone();
        let there = self.reaches(node, from)
            && self.network.passes(from, node)
            && self.lets_in(from, &caller)?
            && !self.rng.chance(FAILURES);
        let name = (group, index, term);
        let bytes = self.nodes[from].shelf.get(name).filter(|_| there);
        let shelf = &mut self.nodes[node].shelf;
        let received = bytes.and_then(|bytes| shelf.receive(name, &bytes, &self.plan));
        let arrival = match received {
            Some(snapshot) => {
                self.counters.installs += 1;
                Arrival::SnapshotFetched { group, snapshot }
            }
            None => {
                self.counters.failed_installs += 1;
                Arrival::SnapshotNotFetched { group }
            }
        };
        self.tell(|_| format!("node {} is done fetching for group {group}", node + 1));
        // What comes between the file and its use is lost with the process.
        if self.nodes[node].process.is_some() {
            self.arrive(node, arrival);
        }
        Ok(())
    }

    /// Somebody wants a snapshot now.
    pub(crate) fn ask_for_snapshot(&mut self) {
        let group = self.rng.below(u64::from(self.plan.groups));
        let group = GroupId::from_raw(u32::try_from(group).expect("few groups"));
        let node = self.rng.index(self.plan.nodes);
        let release = self.rng.chance(300_000);
        if self.plan.snapshot_entries > 0 && self.nodes[node].process.is_some() {
            self.arrive(node, Arrival::TakeSnapshot { group, release });
        }
    }

    /// A snapshot of a node that was down rots. What it would lose more than another has may not.
    pub(crate) fn rot_snapshot(&mut self, node: usize) {
        if self.plan.has(Fault::SnapshotRot) && self.may_harm(node) && self.rng.chance(300_000) {
            let harmed = self.nodes[node].shelf.rot(&mut self.rng);
            self.counters.rotten_snapshots += u64::from(harmed);
        }
    }
}
