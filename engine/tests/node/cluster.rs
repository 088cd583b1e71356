//! A cluster to test, and a client of it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use engine::config::{ClusterOptions, NodeAddress, Options};
use engine::io::Node;
use engine::shard::GroupStatus;
use net::command::{Command, Condition, Expiry};
use ports::Ports;
use wal::{GroupId, LogIndex, NodeId};

pub(crate) const PATIENCE: u32 = 1000;
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Clusters at a time: one mostly waits, for elections and its disk, and more would keep a small machine so
/// busy that they depose their leaders.
const CLUSTERS_MAX: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A place among the clusters that run.
struct Turn;

impl Turn {
    fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let running = ENDED.wait_while(running, |running| *running >= CLUSTERS_MAX);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

pub(crate) struct Cluster {
    _turn: Turn,
    _ports: Ports,
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) options: Options,
    pub(crate) directory: PathBuf,
}

impl Cluster {
    pub(crate) fn start(name: &str, shards: u16, proxy: bool) -> Self {
        Self::start_with(name, shards, proxy, |_| {})
    }

    pub(crate) fn start_with(
        name: &str,
        shards: u16,
        proxy: bool,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let directory = std::env::temp_dir().join(format!("drakkar-{name}-{}", std::process::id()));
        // What an earlier process with the same number left behind.
        drop(std::fs::remove_dir_all(&directory));
        let count = 2 * shards + 1;
        let ports = Ports::reserve(3 * count).unwrap();
        let address = |id: u16| {
            let client_port = ports.first() + (id - 1) * count;
            NodeAddress {
                id: u32::from(id),
                host: "127.0.0.1".into(),
                client_port,
                peer_port: client_port + shards,
                admin_port: client_port + 2 * shards,
            }
        };
        let mut options = Options {
            cluster: ClusterOptions {
                founders: Vec::new(),
                id: name.into(),
                nodes: [1, 2, 3].map(address).to_vec(),
                shards,
                groups: 4,
                election_timeout: Duration::from_millis(300),
                heartbeat_interval: Duration::from_millis(30),
            },
            proxy,
            // A busy machine may hold elections in the middle of a test.
            route_wait: Duration::from_secs(120),
            request_timeout: Duration::from_secs(120),
            segment_bytes: 20 << 20,
            ..Options::default()
        };
        change(&mut options);
        let mut cluster = Self {
            _turn: Turn::wait(),
            _ports: ports,
            nodes: vec![None, None, None],
            options,
            directory,
        };
        cluster.start_all();
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        for id in 1..=3 {
            self.start_node(id);
        }
        for id in 1..=3 {
            self.await_leaders(id);
        }
    }

    pub(crate) fn start_node(&mut self, id: usize) {
        let options = Options {
            node_id: u32::try_from(id).unwrap(),
            data_dir: self.directory_of(id).display().to_string(),
            any_file_system: true,
            ..self.options.clone()
        };
        let config = options
            .validate()
            .expect("the test's options hold together");
        let node = Node::open(config).unwrap_or_else(|error| panic!("node {id}: {error}"));
        self.nodes[id - 1] = Some(node);
    }

    /// As losing its power would.
    pub(crate) fn kill(&mut self, id: usize) {
        self.nodes[id - 1] = None;
    }

    pub(crate) fn stop(&mut self, id: usize) {
        let node = self.nodes[id - 1].take().expect("the node ran");
        node.stop();
        assert_eq!(node.wait(), Ok(()));
    }

    pub(crate) fn directory_of(&self, id: usize) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Of a group, as a node sees it.
    pub(crate) fn status(&self, id: usize, group: GroupId) -> (GroupStatus, (LogIndex, u64)) {
        // A busy shard may answer too late for one of these.
        let shards = (0..60).flat_map(|_| self.node(id).handle().status());
        let mut groups = shards.flat_map(|shard| shard.groups);
        let found = groups.find(|(status, _)| status.group == group);
        found.expect("the group lives on every node")
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let met = (0..PATIENCE).any(|_| {
            let met = condition(self);
            if !met {
                thread::sleep(PAUSE);
            }
            met
        });
        let nodes = self.nodes.iter().flatten();
        let statuses: Vec<_> = nodes.map(|node| node.handle().status()).collect();
        assert!(met, "{what}: {statuses:#?}");
    }

    /// All nodes that run have applied the same of every group, and have the same state.
    pub(crate) fn await_equal_states(&self) {
        self.wait_until("states differ", |cluster| {
            (0..4).map(GroupId::from_raw).all(|group| {
                let up = (1..=3).filter(|id| cluster.nodes[id - 1].is_some());
                let mut hashes = up.map(|id| cluster.status(id, group).1);
                let first = hashes.next();
                hashes.all(|hash| Some(hash) == first)
            })
        });
    }

    pub(crate) fn node(&self, id: usize) -> &Node {
        self.nodes[id - 1].as_ref().expect("the node runs")
    }

    /// Until a node knows a leader of each group, and one that runs: it takes a while to miss one.
    pub(crate) fn await_leaders(&self, id: usize) {
        let handle = self.node(id).handle();
        let runs = |leader: NodeId| {
            let index = usize::try_from(leader.to_raw()).unwrap() - 1;
            self.nodes[index].is_some()
        };
        for _ in 0..PATIENCE {
            let mut leaders = (0..4).map(|group| handle.leader(GroupId::from_raw(group)));
            if leaders.all(|leader| leader.is_some_and(runs)) {
                return;
            }
            thread::sleep(PAUSE);
        }
        panic!("node {id} knows no leaders: {:?}", handle.status());
    }

    pub(crate) fn connect(&self, id: usize) -> Client {
        self.connect_shard(id, 0)
    }

    pub(crate) fn connect_shard(&self, id: usize, shard: u16) -> Client {
        let port = self.options.cluster.nodes[id - 1].client_port + shard;
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        Client(stream)
    }

    pub(crate) fn stop_all(&mut self) {
        for node in self.nodes.iter().flatten() {
            node.stop();
        }
        for node in &mut self.nodes {
            let node = node.take().expect("the node ran");
            assert_eq!(node.wait(), Ok(()));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        // The directory of a failed test is of no use to the next.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).unwrap();
    }

    /// So many bytes as `expected` is long must be it.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        let mut end = 0;
        while end < bytes.len() && expected.as_bytes().starts_with(&bytes[..end]) {
            match self.0.read(&mut bytes[end..]) {
                Ok(0) => break,
                Ok(read) => end += read,
                // A thread that the kernel has something else for is told so where it waits with a limit.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes[..end])),
            }
        }
        assert_eq!(String::from_utf8_lossy(&bytes[..end]), expected);
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, request: &str, expected: &str) {
        self.send(&format!("{request}\r\n"));
        self.expect(expected);
    }

    pub(crate) fn line(&mut self, request: &str) -> String {
        self.send(&format!("{request}\r\n"));
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

pub(crate) fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry: Expiry::Never,
        condition: Condition::Always,
        get: false,
    }
}
