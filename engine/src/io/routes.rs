//! Who leads which group, as every thread of the node may ask. Each group's cell is written by the
//! shard that holds the group and only guides requests: being wrong costs a redirect.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use wal::{GroupId, NodeId};

#[derive(Debug)]
pub(super) struct Routes {
    /// Node ids by group; zero while no leader is known.
    leaders: Vec<AtomicU32>,
    epoch: AtomicU64,
}

impl Routes {
    pub(super) fn new(groups: u32) -> Self {
        Self {
            leaders: (0..groups).map(|_| AtomicU32::new(0)).collect(),
            epoch: AtomicU64::new(1),
        }
    }

    pub(super) fn leader(&self, group: GroupId) -> Option<NodeId> {
        match self.leaders[group.to_raw() as usize].load(Ordering::Relaxed) {
            0 => None,
            node => Some(NodeId::from_raw(node)),
        }
    }

    pub(super) fn set(&self, group: GroupId, leader: Option<NodeId>) {
        let node = leader.map_or(0, NodeId::to_raw);
        let cell = &self.leaders[group.to_raw() as usize];
        if cell.load(Ordering::Relaxed) != node {
            cell.store(node, Ordering::Relaxed);
            // After the leader, so that whoever sees the new epoch sees the leader too.
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Grows with every change.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}
