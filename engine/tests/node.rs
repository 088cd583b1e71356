//! Three whole nodes in one process, on loopback, with real logs in a directory of their own.
#![cfg(feature = "io")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use engine::config::{ClusterOptions, NodeAddress, Options};
use engine::io::{Commands, Node};
use engine::shard::Outcome;
use net::command::{Command, Condition, Expiry};
use net::{ErrorReply, Reply};
use wal::GroupId;

const PATIENCE: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(20);

/// One cluster at a time: each keeps every core and the disk busy while it starts.
static TURN: Mutex<()> = Mutex::new(());

struct Cluster {
    _turn: MutexGuard<'static, ()>,
    nodes: Vec<Option<Node>>,
    options: Options,
    directory: PathBuf,
}

impl Cluster {
    fn start(name: &str, shards: u16, proxy: bool) -> Self {
        let directory = std::env::temp_dir().join(format!("drakkar-{name}-{}", std::process::id()));
        // What an earlier process with the same number left behind.
        drop(std::fs::remove_dir_all(&directory));
        let address = |id| NodeAddress {
            id,
            host: "127.0.0.1".into(),
            client_port: free_ports(shards),
            peer_port: free_ports(shards),
            admin_port: free_ports(1),
        };
        let options = Options {
            cluster: ClusterOptions {
                id: name.into(),
                nodes: [1, 2, 3].map(address).to_vec(),
                shards,
                groups: 4,
                election_timeout: Duration::from_millis(300),
                heartbeat_interval: Duration::from_millis(30),
            },
            proxy,
            route_wait: Duration::from_secs(3),
            segment_bytes: 20 << 20,
            ..Options::default()
        };
        let mut cluster = Self {
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            nodes: vec![None, None, None],
            options,
            directory,
        };
        cluster.start_all();
        cluster
    }

    fn start_all(&mut self) {
        for (id, node) in (1..).zip(&mut self.nodes) {
            let options = Options {
                node_id: id,
                data_dir: self.directory.join(id.to_string()).display().to_string(),
                any_file_system: true,
                ..self.options.clone()
            };
            let config = options
                .validate()
                .expect("the test's options hold together");
            *node = Some(Node::open(config).unwrap_or_else(|error| panic!("node {id}: {error}")));
        }
        for id in 1..=3 {
            self.await_leaders(id);
        }
    }

    fn node(&self, id: usize) -> &Node {
        self.nodes[id - 1].as_ref().expect("the node runs")
    }

    fn await_leaders(&self, id: usize) {
        let handle = self.node(id).handle();
        for _ in 0..PATIENCE {
            if (0..4).all(|group| handle.leader(GroupId::from_raw(group)).is_some()) {
                return;
            }
            thread::sleep(PAUSE);
        }
        panic!("node {id} knows no leaders: {:?}", handle.status());
    }

    fn connect(&self, id: usize) -> Client {
        self.connect_shard(id, 0)
    }

    fn connect_shard(&self, id: usize, shard: u16) -> Client {
        let port = self.options.cluster.nodes[id - 1].client_port + shard;
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Client(stream)
    }

    fn stop_all(&mut self) {
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

/// The first of so many neighbouring ports that nobody listens on.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 200).unwrap() * 50;
    for _ in 0..1000 {
        let first = 20_000 + offset + NEXT.fetch_add(count, Ordering::Relaxed);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports");
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).unwrap();
    }

    /// So many bytes as `expected` is long must be it.
    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        let mut end = 0;
        while end < bytes.len() && expected.as_bytes().starts_with(&bytes[..end]) {
            match self.0.read(&mut bytes[end..]) {
                Ok(0) => break,
                Ok(read) => end += read,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes[..end])),
            }
        }
        assert_eq!(String::from_utf8_lossy(&bytes[..end]), expected);
    }

    #[track_caller]
    fn ask(&mut self, request: &str, expected: &str) {
        self.send(&format!("{request}\r\n"));
        self.expect(expected);
    }

    fn line(&mut self, request: &str) -> String {
        self.send(&format!("{request}\r\n"));
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "the node closed the connection"
            );
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry: Expiry::Never,
        condition: Condition::Always,
        get: false,
    }
}

#[test]
fn any_node_answers_for_all_when_it_is_a_proxy() {
    let cluster = Cluster::start("proxy", 2, true);
    let mut first = cluster.connect(1);
    // Keys of every group, so on every shard and with leaders on every node.
    for number in 0..40 {
        first.ask(&format!("SET key{number} value{number}"), "+OK\r\n");
    }
    for (node, shard) in [(1, 0), (2, 0), (2, 1), (3, 1)] {
        let mut client = cluster.connect_shard(node, shard);
        let mut requests = String::new();
        let mut answers = String::new();
        for number in 0..40 {
            requests += &format!("GET key{number}\r\nPING\r\n");
            let value = format!("value{number}");
            answers += &format!("${}\r\n{value}\r\n+PONG\r\n", value.len());
        }
        client.send(&requests);
        client.expect(&answers);
        client.ask("DBSIZE", ":40\r\n");
    }
    // Of the largest value allowed, which no replica lets grow, 16 bytes are missing.
    let part = "x".repeat(61_680);
    for parts in 1..=17 {
        let bytes = parts * part.len();
        first.ask(&format!("APPEND large {part}"), &format!(":{bytes}\r\n"));
    }
    let refusal = "-ERR string exceeds maximum allowed size (limits.value_size)\r\n";
    first.ask(&format!("APPEND large {}", "x".repeat(17)), refusal);
    first.ask("STRLEN large", ":1048560\r\n");
    first.ask("FLUSHALL", "+OK\r\n");
    cluster.connect(3).ask("DBSIZE", ":0\r\n");
}

#[test]
fn a_client_is_sent_to_the_leader_when_its_node_is_no_proxy() {
    let cluster = Cluster::start("moved", 1, false);
    let leader = cluster
        .node(1)
        .handle()
        .leader(cluster.node(1).handle().group_of(b"key"));
    let leader = leader.unwrap().to_raw() as usize;
    let other = leader % 3 + 1;
    let port = cluster.options.cluster.nodes[leader - 1].client_port;
    let mut client = cluster.connect(other);
    let slot = net::Slot::of(b"key").number();
    client.ask("SET key 1", &format!("-MOVED {slot} 127.0.0.1:{port}\r\n"));
    let mut client = cluster.connect(leader);
    client.ask("SET key 1", "+OK\r\n");
    client.ask("INCR key", ":2\r\n");
    client.ask("CLUSTER KEYSLOT key", &format!(":{slot}\r\n"));
}

#[test]
fn endpoints_that_are_no_proxies_count_and_flush_what_they_lead() {
    let cluster = Cluster::start("endpoints", 2, false);
    let handle = cluster.node(1).handle();
    // Leaderships do not move any more once they are where they should be.
    let settled = || {
        let mut groups = (0..4).map(GroupId::from_raw);
        groups.all(|group| {
            let preferred = Some(handle.config().preferred_leader(group));
            (1..=3).all(|node| cluster.node(node).handle().leader(group) == preferred)
        })
    };
    let waited = (0..PATIENCE).find(|_| {
        let settled = settled();
        if !settled {
            thread::sleep(PAUSE);
        }
        settled
    });
    assert!(waited.is_some(), "leaderships do not settle");
    let keys = 40;
    for number in 0..keys {
        let key = format!("key{number}");
        let group = handle.group_of(key.as_bytes());
        let reply = handle.execute(group, &set(key.as_bytes(), b"value"));
        assert_eq!(reply, Ok(Reply::Ok));
    }
    let endpoints = || (1..=3).flat_map(|node| [(node, 0), (node, 1)]);
    let size = |(node, shard)| -> i64 {
        let line = cluster.connect_shard(node, shard).line("DBSIZE");
        line.trim_start_matches(':').trim_end().parse().unwrap()
    };
    let sizes: Vec<i64> = endpoints().map(size).collect();
    assert_eq!(sizes.iter().sum::<i64>(), keys, "{sizes:?}");
    let (at, full) = endpoints()
        .zip(&sizes)
        .find(|(_, size)| **size > 0)
        .unwrap();
    let (empty, _) = endpoints()
        .zip(&sizes)
        .find(|(_, size)| **size == 0)
        .unwrap();
    let flush = |(node, shard)| cluster.connect_shard(node, shard).line("FLUSHALL");
    let refused = "-READONLY You can't write against a read only replica.\r\n";
    assert_eq!(flush(empty), refused);
    assert_eq!(flush(at), "+OK\r\n");
    let left: i64 = endpoints().map(size).sum();
    assert_eq!(left, keys - full, "only what it leads is gone");
}

#[test]
fn hostile_bytes_get_an_error_and_a_closed_connection() {
    let cluster = Cluster::start("hostile", 1, true);
    let mut client = cluster.connect(1);
    client.send("*1\r\n!4\r\nPING\r\n");
    client.expect("-ERR Protocol error: expected '$', got '!'\r\n");
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    cluster.connect(1).ask("PING", "+PONG\r\n");
}

#[test]
fn an_embedder_reaches_every_group_through_any_node() {
    let cluster = Cluster::start("embedder", 2, false);
    let handle = cluster.node(2).handle();
    let (sender, receiver) = mpsc::channel();
    let mut submitted = 0;
    for group in (0..4).map(GroupId::from_raw) {
        let mut commands = Commands::default();
        for number in 0..100u32 {
            let key = format!("key{number}").into_bytes();
            if handle.group_of(&key) == group {
                commands.push(&set(&key, b"value"));
                submitted += 1;
            }
        }
        let sender = sender.clone();
        let completion = move |outcomes: Vec<Outcome>| sender.send(outcomes).unwrap();
        handle.submit(group, commands, completion).unwrap();
    }
    drop(sender);
    let outcomes: Vec<Outcome> = receiver.iter().flatten().collect();
    assert_eq!(outcomes, vec![Outcome::Reply(Reply::Ok); submitted]);
    for id in 1..=3 {
        let handle = cluster.node(id).handle();
        for key in [b"key1".as_slice(), b"key50", b"key99"] {
            let read = handle.execute(handle.group_of(key), &Command::Get { key });
            assert_eq!(read, Ok(Reply::bulk(*b"value")));
        }
    }
    let wrong = handle.execute(
        handle.group_of(b"key1"),
        &Command::Increment {
            key: b"key1",
            delta: 1,
        },
    );
    assert_eq!(wrong, Err(ErrorReply::NotAnInteger));
}

#[test]
fn what_was_acknowledged_is_there_after_a_stop_and_a_start() {
    let mut cluster = Cluster::start("restart", 2, true);
    let mut client = cluster.connect(1);
    for number in 0..200 {
        client.ask(&format!("SET key{number} {number}"), "+OK\r\n");
    }
    drop(client);
    cluster.stop_all();
    cluster.start_all();
    let mut client = cluster.connect(3);
    for number in 0..200 {
        let text = number.to_string();
        client.ask(
            &format!("GET key{number}"),
            &format!("${}\r\n{text}\r\n", text.len()),
        );
    }
    client.ask("DBSIZE", ":200\r\n");
}

#[test]
fn a_node_that_stops_hands_over_and_the_others_serve() {
    let mut cluster = Cluster::start("handover", 1, true);
    cluster.connect(2).ask("SET key before", "+OK\r\n");
    let stopping = cluster.nodes[0].take().unwrap();
    stopping.stop();
    assert_eq!(stopping.wait(), Ok(()));
    drop(stopping);
    let mut client = cluster.connect(2);
    for _ in 0..PATIENCE {
        if client.line("SET key after") == "+OK\r\n" {
            return client.ask("GET key", "$5\r\nafter\r\n");
        }
        thread::sleep(PAUSE);
    }
    panic!(
        "the other two do not serve: {:?}",
        cluster.node(2).handle().status()
    );
}

#[test]
fn the_admin_port_tells_of_groups_and_readiness() {
    let cluster = Cluster::start("admin", 2, true);
    let port = cluster.options.cluster.nodes[0].admin_port;
    let get = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get("/readyz").contains("[+]leaders ok"));
    assert!(get("/nothing").starts_with("HTTP/1.1 404 "));
    let status = get("/v1/status");
    let body = status.split_once("\r\n\r\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["node"], 1);
    let groups = json["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 4);
    assert!(
        groups.iter().all(|group| group["leader"].is_u64()),
        "{json}"
    );
}
