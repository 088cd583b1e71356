//! Where the nodes are that this one talks to. It changes while the node runs, when members come or go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::NodeAddress;

/// The addresses of all members, this node among them; for all threads of the node.
#[derive(Debug)]
pub(super) struct Book {
    nodes: RwLock<Arc<[NodeAddress]>>,
    version: AtomicU64,
}

impl Book {
    pub(super) fn new(nodes: &[NodeAddress]) -> Self {
        Self {
            nodes: RwLock::new(nodes.into()),
            version: AtomicU64::new(1),
        }
    }

    pub(super) fn nodes(&self) -> Arc<[NodeAddress]> {
        let nodes = self.nodes.read();
        nodes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rises with every change.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, nodes: Vec<NodeAddress>) {
        let mut listed = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if listed[..] == nodes[..] {
            return;
        }
        *listed = nodes.into();
        // Who sees the new version sees the new list, too.
        self.version.fetch_add(1, Ordering::Release);
    }
}
