//! The sign of life that nodes give each other for all their quiet groups at once.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use wal::NodeId;

use crate::time::Time;

/// How a group takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Peace {
    #[default]
    Awake,
    Leads,
    Follows(NodeId),
}

/// Which groups are quiet, and which nodes that hangs on.
#[derive(Debug)]
pub(super) struct Pulse {
    groups: Vec<Peace>,
    /// How many quiet groups are led here that the node is a member of.
    led: BTreeMap<NodeId, u32>,
    /// The members of each of those groups, as they were when it became quiet.
    members: BTreeMap<usize, Vec<NodeId>>,
    /// The quiet groups that a node leads.
    followed: BTreeMap<NodeId, BTreeSet<usize>>,
    /// When a node was last heard.
    heard: BTreeMap<NodeId, Time>,
    /// When the next is due, while anything is quiet.
    pub(super) due: Option<Time>,
}

impl Pulse {
    pub(super) fn new(groups: usize) -> Self {
        Self {
            groups: (0..groups).map(|_| Peace::Awake).collect(),
            led: BTreeMap::new(),
            members: BTreeMap::new(),
            followed: BTreeMap::new(),
            heard: BTreeMap::new(),
            due: None,
        }
    }

    pub(super) fn hear(&mut self, node: NodeId, now: Time) {
        self.heard.insert(node, now);
    }

    /// When the node was last heard.
    pub(super) fn heard(&self, node: NodeId) -> Time {
        self.heard.get(&node).copied().unwrap_or_default()
    }

    /// Notes how a group takes part now.
    pub(super) fn note(
        &mut self,
        at: usize,
        peace: Peace,
        members: impl Iterator<Item = NodeId>,
        now: Time,
    ) {
        let before = core::mem::replace(&mut self.groups[at], peace);
        if before == peace {
            return;
        }
        match before {
            Peace::Awake => {}
            Peace::Leads => {
                for node in self.members.remove(&at).into_iter().flatten() {
                    *self.led.entry(node).or_default() -= 1;
                }
            }
            Peace::Follows(node) => {
                self.followed.entry(node).or_default().remove(&at);
            }
        }
        match peace {
            Peace::Awake => {}
            Peace::Leads => {
                let members: Vec<NodeId> = members.collect();
                for node in &members {
                    *self.led.entry(*node).or_default() += 1;
                }
                self.members.insert(at, members);
            }
            Peace::Follows(node) => {
                self.followed.entry(node).or_default().insert(at);
            }
        }
        self.led.retain(|_, groups| *groups > 0);
        self.followed.retain(|_, groups| !groups.is_empty());
        if self.led.is_empty() && self.followed.is_empty() {
            self.due = None;
        } else {
            self.due.get_or_insert(now);
        }
    }

    /// The nodes to tell of the quiet groups here, and of how many.
    pub(super) fn led(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        self.led.iter().map(|(&node, &groups)| (node, groups))
    }

    /// The groups to wake because their leader's node leads fewer quiet groups than are quiet here.
    pub(super) fn disproved(&self, node: NodeId, groups: u32) -> Vec<usize> {
        let followed = self.followed.get(&node);
        let followed = followed.filter(|followed| followed.len() > groups as usize);
        followed.into_iter().flatten().copied().collect()
    }

    /// The groups to wake because their leader's node was not heard for so long.
    pub(super) fn silent(&self, now: Time, timeout: Duration) -> Vec<usize> {
        let silent = self.followed.iter();
        let silent = silent.filter(|&(&node, _)| now >= self.heard(node).after(timeout));
        silent.flat_map(|(_, groups)| groups).copied().collect()
    }
}
