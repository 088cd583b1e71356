//! As what a node comes to others: of which epoch, with which members, with which data directory.

use std::collections::BTreeMap;

use net::peer::{self, Hello, Manner, Refusal};
use wal::{GroupId, LogIndex, Term};

use crate::node::node_id;

/// What the file `membership` of a node says.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) node: usize,
    pub(crate) epoch: u64,
    /// Equal on all nodes that the same repair made members.
    pub(crate) origin: u64,
    pub(crate) members: Vec<usize>,
    removed: Vec<u32>,
    /// The newest entry that a survivor held of a group when the epoch began.
    pub(crate) newest: BTreeMap<GroupId, (LogIndex, Term)>,
    /// Of the data directory.
    pub(crate) instance: u64,
    /// It came back without its data.
    pub(crate) rejoined: bool,
}

impl Standing {
    /// Of a new cluster.
    pub(crate) fn new(node: usize, nodes: usize) -> Self {
        Self {
            node,
            epoch: 0,
            origin: 0,
            members: (0..nodes).collect(),
            removed: Vec::new(),
            newest: BTreeMap::new(),
            instance: 1,
            rejoined: false,
        }
    }

    /// Of a survivor of a lost quorum, after the repair.
    pub(crate) fn shrunk(
        &self,
        survivors: &[usize],
        newest: &BTreeMap<GroupId, (LogIndex, Term)>,
    ) -> Self {
        let lost = self.members.iter().filter(|it| !survivors.contains(it));
        Self {
            epoch: self.epoch + 1,
            origin: 0x0419 + self.epoch,
            members: survivors.to_vec(),
            removed: lost.map(|&it| node_id(it).to_raw()).collect(),
            newest: newest.clone(),
            ..self.clone()
        }
    }

    /// Of the same node, after its data were lost.
    pub(crate) fn wiped(&self) -> Self {
        Self {
            instance: self.instance + 1,
            rejoined: true,
            ..self.clone()
        }
    }

    fn hello(&self, to: usize) -> Hello {
        let members = self.members.iter().map(|&it| node_id(it).to_raw());
        Hello {
            cluster: "sim".to_owned(),
            from: node_id(self.node).to_raw(),
            to: node_id(to).to_raw(),
            shard: 0,
            version_min: 1,
            version_max: 1,
            instance: self.instance,
            fingerprint: 0,
            start: 0,
            manner: if self.rejoined {
                Manner::Rejoins
            } else {
                Manner::Usual
            },
            standing: peer::Standing {
                epoch: self.epoch,
                origin: self.origin,
                members: members.collect(),
            },
        }
    }

    /// What a node that stands so answers a caller.
    pub(crate) fn admit(&self, caller: &Self) -> Result<(), Refusal> {
        let hello = caller.hello(self.node);
        let here = self.hello(caller.node);
        hello.admit(&here, &self.removed).map(drop)
    }

    /// Whether the caller speaks for the same membership: what must follow from the rules.
    pub(crate) fn agrees(&self, caller: &Self) -> bool {
        (self.epoch, self.origin) == (caller.epoch, caller.origin)
            && self.members.contains(&caller.node)
    }
}
