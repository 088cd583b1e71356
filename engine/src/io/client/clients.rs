//! The connections of a shard, and the memory of their buffers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use glommio::Task;
use glommio::timer::sleep;
use net::resp::{Counters, RaftFacts, Topology};

use crate::Time;
use crate::config::Config;

use super::super::executor::Executor;
use super::super::view;
use super::{BUFFER_BYTES_MIN, Connection};

const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// How old the figures and the topology that clients are shown may be.
const VIEW_AGE_MAX: Duration = Duration::from_millis(100);
/// How long a stopping node waits for clients to take their last answers.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// The connections of one shard, and what their sessions know about the server.
pub(in crate::io) struct Clients {
    pub(super) connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    next_id: Cell<u64>,
    id_step: u64,
    acceptor: RefCell<Option<Task<()>>>,
    /// Memory of the buffers of all connections.
    pub(super) held_bytes: Rc<Cell<usize>>,
    pub(in crate::io) seen: RefCell<Seen>,
}

/// What sessions are shown; made anew when it is older than [`VIEW_AGE_MAX`].
#[derive(Debug, Default)]
pub(in crate::io) struct Seen {
    pub(in crate::io) topology: Topology,
    pub(in crate::io) raft: RaftFacts,
    pub(in crate::io) counters: Counters,
    epoch: u64,
    at: Option<Time>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clients({})", self.len())
    }
}

impl Clients {
    pub(in crate::io) fn new(config: &Config, index: u16) -> Self {
        let seen = Seen {
            counters: view::counters(config),
            ..Seen::default()
        };
        Self {
            connections: RefCell::default(),
            next_id: Cell::new(u64::from(index) + 1),
            id_step: u64::from(config.cluster.shards),
            acceptor: RefCell::new(None),
            held_bytes: Rc::default(),
            seen: RefCell::new(seen),
        }
    }

    pub(in crate::io) fn len(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Memory of the buffers of all connections.
    pub(in crate::io) fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// Disconnects those that hold most until all together hold no more than `bytes_max`.
    pub(in crate::io) fn relieve(&self, bytes_max: usize) {
        while self.held_bytes.get() > bytes_max {
            let connections = self.connections.borrow();
            let alive = connections.values().filter(|it| !it.dead.get());
            let Some(largest) = alive.max_by_key(|it| it.counted.get()).cloned() else {
                return;
            };
            drop(connections);
            let (from, bytes) = (largest.socket.peer(), largest.counted.get());
            tracing::warn!(event = "client.too_large", from, bytes, bytes_max);
            largest.die();
        }
    }

    /// What a buffer keeps when it is not needed: less, the more clients there are.
    pub(super) fn kept_bytes(&self, config: &Config) -> usize {
        let share = config.limits.clients_bytes_max / self.len().max(1) / 8;
        share.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_KEPT)
    }

    /// Keeps the fiber that accepts, so that it can be ended.
    pub(in crate::io) fn accept_by(&self, acceptor: Task<()>) {
        *self.acceptor.borrow_mut() = Some(acceptor);
    }

    /// Accepts nobody any more.
    pub(in crate::io) async fn refuse(&self) {
        let acceptor = self.acceptor.borrow_mut().take();
        if let Some(acceptor) = acceptor {
            acceptor.cancel().await;
        }
    }

    /// Accepts nobody any more and lets those who are there take their last answers.
    pub(in crate::io) async fn finish(&self) {
        self.refuse().await;
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < FINISH_MAX && self.connections.borrow().values().any(|c| c.owes()) {
            sleep(step).await;
            waited += step;
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + self.id_step);
        id
    }

    /// Makes what sessions are shown young enough.
    pub(super) fn refresh(&self, executor: &Executor, now: Time) {
        let seen = &mut *self.seen.borrow_mut();
        let epoch = executor.routes.epoch();
        let young = seen.at.is_some_and(|at| now.since(at) < VIEW_AGE_MAX);
        if young && seen.epoch == epoch {
            return;
        }
        seen.topology = view::topology(executor);
        seen.raft = view::raft(executor);
        view::refresh_counters(executor, now, self.len(), &mut seen.counters);
        seen.epoch = epoch;
        seen.at = Some(now);
    }
}
