//! Opens a node: one pinned thread per shard, and the handle on all of them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use glommio::{ExecutorJoinHandle, Placement};
use wal::GroupId;
use wal::io::{DataDirectory, DirectoryError, LogError, Ring, executor};

use crate::config::{Config, VotersWarning};

use super::allowance::Allowance;
use super::book::Book;
use super::clock::{Origin, unix_micros};
use super::executor::Shared;
use super::handle::Handle;
use super::identity::{self, IdentityError, Register};
use super::mailbox::{Letter, Mailbox};
use super::preflight::{self, PreflightError};
use super::routes::Routes;
use super::snapshots::SnapshotFileError;
use super::start::open_shard;
use super::{admin, client, inbound, memory, socket};

/// How often a busy thread returns to glommio's reactor: its timers and files wait so long.
const RING_DEPTH: usize = 512;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The data directory belongs to somebody else, or cannot be used.
    #[error(transparent)]
    DataDirectory(#[from] DirectoryError),
    /// The data directory is not the one that the configuration means.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be opened, or not be replayed without losing something.
    #[error("shard {shard}: {error}")]
    Log { shard: u16, error: LogError },
    /// The machine or a limit stands in the way of snapshots that may be good.
    #[error("shard {shard}: {error}")]
    Snapshots {
        shard: u16,
        error: SnapshotFileError,
    },
    /// What is there is of another division of the data.
    #[error(
        "shard {shard}: its log or a snapshot holds group {group}, which does not live here: cluster.shards and \
         cluster.groups cannot be changed while there is data"
    )]
    Groups { shard: u16, group: GroupId },
    #[error("cannot make a pipe ({source}): are there too many open files? Look at ulimit -n")]
    Mailbox { source: io::Error },
    #[error("shard {shard}: its ring cannot be made: {source}")]
    Ring { shard: u16, source: io::Error },
    #[error("shard {shard}: its thread does not start: {reason}")]
    Thread { shard: u16, reason: String },
}

/// Why a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Others lead since. What the disk holds is found out at the next start.
    #[error(
        "shard {shard}: its disk failed: {reason}; nothing acknowledged is lost while a majority is \
         well: replace the disk, or restart the node if you trust it"
    )]
    Disk { shard: u16, reason: String },
    #[error("shard {shard}: its thread ended: {reason}")]
    Thread { shard: u16, reason: String },
    /// It must not go on under this id with this data directory.
    #[error("refused by node {peer}: {reason}")]
    Refused { peer: u32, reason: String },
}

/// The first failure of any shard.
#[derive(Debug, Default)]
pub(super) struct Fate(Mutex<Option<NodeError>>);

impl Fate {
    pub(super) fn fail(&self, error: NodeError) {
        let mut fate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fate.get_or_insert(error);
    }

    fn get(&self) -> Option<NodeError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A running node. Dropping it stops it at once, as losing its power would.
#[derive(Debug)]
pub struct Node {
    shared: Shared,
    allowances: Arc<[Arc<Allowance>]>,
    threads: Mutex<Vec<(u16, ExecutorJoinHandle<()>)>>,
    directory: DataDirectory,
}

/// What one shard's thread starts with.
struct Start {
    shared: Shared,
    index: u16,
    directory: PathBuf,
    clients: std::net::TcpListener,
    peers: std::net::TcpListener,
    admin: Option<std::net::TcpListener>,
    ready: mpsc::Sender<Result<u16, OpenError>>,
}

impl Node {
    /// Starts a node and returns once its shards have replayed their logs and serve.
    ///
    /// # Errors
    ///
    /// What is in the way, and how to get rid of it. Nothing runs then.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let shards = config.cluster.shards;
        preflight::check(shards)?;
        if !config.any_file_system {
            preflight::check_file_system(Path::new(&config.data_dir))?;
        }
        // Whose data it is comes before what else is in the way: a copy must not run anywhere.
        let (identity::Holding { directory, record }, config) = identity::open(config)?;
        let instance = directory.instance();
        let address = config.own_address().clone();
        let ip = preflight::listen_address(&address.host, config.listen)?;
        let mut listeners = Vec::new();
        for shard in 0..shards {
            let clients = preflight::listen("client port", ip, address.client_port + shard)?;
            let peers = preflight::listen("peer port", ip, address.peer_port + shard)?;
            listeners.push((clients, peers));
        }
        let mut admin = match address.admin_port {
            0 => None,
            port => Some(preflight::listen("admin port", ip, port)?),
        };
        let start = unix_micros().rotate_left(16) ^ u64::from(std::process::id());
        let path = directory.path().to_owned();
        let register = Register::new(&config.cluster, config.node_id, path, record, start);
        if !register.speaks() {
            tracing::info!(
                event = "node.begins",
                node = config.node_id,
                "{}",
                register.waits_for()
            );
        }

        let bytes = config.memory_bytes_ready;
        if bytes > 0 {
            let origin = Origin::now();
            let begun = origin.time();
            memory::make_ready(bytes);
            let ms = origin.millis_since(begun);
            tracing::info!(event = "memory.ready", bytes, ms);
        }

        let limits = &config.limits;
        let mailboxes: Vec<Mailbox> = (0..shards)
            .map(|_| Mailbox::new(limits.mailbox_bytes_max))
            .collect::<io::Result<_>>()
            .map_err(|source| OpenError::Mailbox { source })?;
        let shared = Shared {
            instance,
            register: Arc::new(register),
            origin: Origin::now(),
            book: Arc::new(Book::new(&config.cluster.nodes)),
            routes: Arc::new(Routes::new(config.cluster.groups)),
            mailboxes: mailboxes.into(),
            fate: Arc::default(),
            config: Arc::new(config),
        };
        let node = Self {
            allowances: Allowance::of_each_shard(&shared.config),
            shared: shared.clone(),
            threads: Mutex::default(),
            directory,
        };
        let (ready, opened) = mpsc::channel();
        for (index, (clients, peers)) in (0..shards).zip(listeners) {
            let start = Start {
                shared: shared.clone(),
                index,
                directory: node.directory.shard(index),
                clients,
                peers,
                admin: admin.take(),
                ready: ready.clone(),
            };
            let thread = spawn(start)?;
            node.lock().push((index, thread));
        }
        drop(ready);
        for _ in 0..shards {
            match opened.recv() {
                Ok(Ok(shard)) => tracing::debug!(event = "shard.ready", shard),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let reason = "it ended before it was ready".to_owned();
                    return Err(OpenError::Thread { shard: 0, reason });
                }
            }
        }
        warn_of_voters(&shared);
        let memory = shared.config.memory_bound();
        tracing::info!(event = "node.memory", %memory);
        if !shared.config.log_durable {
            tracing::warn!(
                event = "node.not_durable",
                "log.durable = false: writes that are acknowledged can be lost when the power fails; \
                 set log.durable = true unless this data may be lost"
            );
        }
        tracing::info!(
            event = "node.ready",
            node = shared.config.node_id,
            shards,
            client_port = address.client_port,
            peer_port = address.peer_port,
        );
        Ok(node)
    }

    /// A way in for the program that embeds the node.
    pub fn handle(&self) -> Handle {
        Handle {
            config: self.shared.config.clone(),
            mailboxes: self.shared.mailboxes.clone(),
            allowances: self.allowances.clone(),
            routes: self.shared.routes.clone(),
        }
    }

    /// Asks the node to stop: it accepts nobody any more, hands over what it leads, finishes what
    /// was begun and ends. [`Node::wait`] returns then. May be called from any thread, repeatedly.
    pub fn stop(&self) {
        self.post_all(|| Letter::Stop);
    }

    /// Waits until the node has ended.
    ///
    /// # Errors
    ///
    /// If it ended by itself: exit with a status other than zero then.
    pub fn wait(&self) -> Result<(), NodeError> {
        let threads = std::mem::take(&mut *self.lock());
        for (shard, thread) in threads {
            if let Err(error) = thread.join() {
                let reason = error.to_string();
                self.shared.fate.fail(NodeError::Thread { shard, reason });
                self.post_all(|| Letter::Abort);
            }
        }
        match self.shared.fate.get() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn post_all(&self, letter: impl Fn() -> Letter) {
        for mailbox in self.shared.mailboxes.iter() {
            // A shard that has ended already is what is wanted.
            drop(mailbox.post(letter()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u16, ExecutorJoinHandle<()>)>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.post_all(|| Letter::Abort);
        // Whoever wanted to know how it ended has waited.
        drop(self.wait());
    }
}

/// Says what speaks against the number of voters that any group has.
fn warn_of_voters(shared: &Shared) {
    let config = &shared.config;
    let groups = (0..config.cluster.groups).map(GroupId::from_raw);
    let voters = groups.map(|group| match shared.register.noted(group) {
        Some(noted) => noted.membership.members.voters.len(),
        None => config.members().len(),
    });
    let counts: BTreeSet<usize> = voters.collect();
    for warning in counts.into_iter().flat_map(VotersWarning::of) {
        tracing::warn!(event = warning.event(), "{warning}");
    }
}

/// The core a shard is pinned to; nodes that share a machine start at different ones.
fn placement(config: &Config, index: u16) -> Placement {
    let allowed = preflight::cores();
    let wanted: Vec<usize> = config
        .cores
        .iter()
        .map(|&core| core as usize)
        .filter(|core| allowed.contains(core))
        .collect();
    let position = config
        .cluster
        .nodes
        .iter()
        .position(|node| node.id == config.node_id)
        .unwrap_or(0);
    let index = usize::from(index);
    let (cores, at) = if wanted.is_empty() {
        (
            allowed,
            position * usize::from(config.cluster.shards) + index,
        )
    } else {
        (wanted, index)
    };
    match cores.len() {
        0 => Placement::Unbound,
        count => Placement::Fixed(cores[at % count]),
    }
}

fn spawn(start: Start) -> Result<ExecutorJoinHandle<()>, OpenError> {
    let index = start.index;
    let config = &start.shared.config;
    let builder = executor::builder(placement(config, index))
        .name(&format!("n{}s{index}", config.node_id))
        .ring_depth(RING_DEPTH);
    builder
        .spawn(move || executor::awake(run(start)))
        .map_err(|error| OpenError::Thread {
            shard: index,
            reason: error.to_string(),
        })
}

/// Closes the mailbox however the thread ends, so that nobody waits for it.
struct Closing(Shared, u16);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.mailboxes[usize::from(self.1)].close();
        if std::thread::panicking() {
            let reason = "it panicked".to_owned();
            self.0.fate.fail(NodeError::Thread {
                shard: self.1,
                reason,
            });
            for mailbox in self.0.mailboxes.iter() {
                // A shard that has ended already is what is wanted.
                drop(mailbox.post(Letter::Abort));
            }
        }
    }
}

async fn run(start: Start) {
    let Start {
        shared,
        index,
        directory,
        clients,
        peers,
        admin,
        ready,
    } = start;
    let _closing = Closing(shared.clone(), index);
    let ring = Ring::start().map_err(|source| OpenError::Ring {
        shard: index,
        source,
    });
    let opened = match ring {
        Ok(ring) => open_shard(shared, index, &directory, ring).await,
        Err(error) => Err(error),
    };
    let executor = match opened {
        Ok(executor) => Rc::new(executor),
        Err(error) => {
            // The thread that opens the node waits for it, or has given up for another's sake.
            drop(ready.send(Err(error)));
            return;
        }
    };
    let mut fibers = vec![
        glommio::spawn_local(executor.clone().drive()),
        glommio::spawn_local(executor.clone().read_mail()),
        glommio::spawn_local(executor.clone().watch_space()),
        glommio::spawn_local(executor.clone().watch_log()),
        glommio::spawn_local(executor.clone().let_go_on()),
        glommio::spawn_local(inbound::accept(executor.clone(), socket::adopt(peers))),
    ];
    executor.follow_book();
    let accept = client::accept(executor.clone(), socket::adopt(clients));
    executor.clients.accept_by(glommio::spawn_local(accept));
    if let Some(admin) = admin {
        let accept = admin::accept(executor.clone(), socket::adopt(admin));
        fibers.push(glommio::spawn_local(accept));
    }
    executor.settle.raise();
    // As above.
    drop(ready.send(Ok(index)));
    executor.ended().await;
    drop(fibers);
    executor.stop_dialling();
    executor.clients.refuse().await;
    executor.hang_up();
    executor.close_log().await;
}
