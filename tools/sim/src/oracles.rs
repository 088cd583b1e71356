//! Two judges from a repair on: one of those that go on, one of those that were given up and do not
//! know it.

use wal::{GroupId, LogIndex, Term};

use std::collections::BTreeMap;

use crate::faults::Plan;
use crate::oracle::{Broken, Oracle};

/// Who judges which node.
pub(crate) struct Oracles {
    now: Oracle,
    /// Of what those do that were given up.
    past: Option<Box<Oracle>>,
    given_up: Vec<bool>,
}

impl Oracles {
    /// Nobody was given up.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            now: Oracle::new(plan),
            past: None,
            given_up: vec![false; plan.nodes],
        }
    }

    /// The judge of a node.
    pub(crate) fn of(&mut self, node: usize) -> &mut Oracle {
        match &mut self.past {
            Some(past) if self.given_up[node] => past,
            _ => &mut self.now,
        }
    }

    /// The same, for looking only.
    pub(crate) fn see(&self, node: usize) -> &Oracle {
        match &self.past {
            Some(past) if self.given_up[node] => past,
            _ => &self.now,
        }
    }

    /// The furthest commit of a group, among those that go on.
    pub(crate) fn committed(&self, group: GroupId) -> LogIndex {
        self.now.committed(group)
    }

    /// From here on the survivors go on with no more than `newest` of each group.
    pub(crate) fn split(
        &mut self,
        survivors: &[usize],
        newest: &BTreeMap<GroupId, (LogIndex, Term)>,
    ) -> Result<(), Broken> {
        assert!(self.past.is_none(), "a run has one repair");
        self.past = Some(Box::new(self.now.clone()));
        for (node, given_up) in self.given_up.iter_mut().enumerate() {
            *given_up = !survivors.contains(&node);
        }
        self.now.go_on(survivors, newest)
    }
}
