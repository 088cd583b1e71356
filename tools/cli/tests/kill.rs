//! Real processes, real logs, SIGKILL: what was acknowledged is there afterwards, and nothing else
//! than what was written. Every key has one writer; a key whose write had no answer gets no other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "recovery of real processes is measured"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ports::Ports;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a client waits for an answer before it asks another node.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const WRITERS: usize = 10;
const KEYS_OF_WRITER: usize = 20;

/// Three nodes, each a process with a directory of its own.
struct Cluster {
    directory: PathBuf,
    _ports: Ports,
    /// The port before theirs.
    base: u16,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// With so many groups, and a proxy that waits so long for a leader.
    fn start(groups: u16, route_wait: Duration) -> Self {
        // Tests run side by side.
        static CLUSTERS: AtomicU16 = AtomicU16::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("drakkar-kill-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let ports = Ports::reserve(9).unwrap();
        let base = ports.first() - 1;
        let mut nodes = String::new();
        for id in 1..=3 {
            nodes.push_str(&format!(
                "\n[[cluster.nodes]]\nid = {id}\nhost = \"127.0.0.1\"\nclient_port = {}\n\
                 peer_port = {}\nadmin_port = {}\n",
                base + id,
                base + 3 + id,
                base + 6 + id
            ));
        }
        for id in 1..=3 {
            let config = format!(
                "[node]\nid = {id}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"kill\"\nshards = 1\n\
                 groups = {groups}\nelection_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
                 [log]\nsegment_size = \"32MB\"\n[client]\nproxy = true\nroute_wait = \"{}ms\"\n{nodes}",
                directory.join(format!("n{id}")).display(),
                route_wait.as_millis()
            );
            fs::write(directory.join(format!("n{id}.toml")), config).unwrap();
        }
        let mut cluster = Self {
            directory,
            _ports: ports,
            base,
            children: vec![None, None, None],
        };
        (0..3).for_each(|node| cluster.run(node));
        cluster
    }

    fn run(&mut self, node: usize) {
        let path = |kind| self.directory.join(format!("n{}.{kind}", node + 1));
        let log = File::options()
            .create(true)
            .append(true)
            .open(path("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
            .args(["serve", "--config"])
            .arg(path("toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children[node] = Some(child);
    }

    /// SIGKILL.
    fn kill(&mut self, node: usize) {
        let child = self.children[node].as_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The node that leads group 0, once there is one.
    fn leader(&self) -> usize {
        let start = Instant::now();
        loop {
            let found = (0..3).find(|&node| self.leads(node));
            if let Some(node) = found {
                return node;
            }
            assert!(start.elapsed() < PATIENCE, "no leader; {}", self.logs());
            thread::sleep(PAUSE);
        }
    }

    fn leads(&self, node: usize) -> bool {
        let Some(status) = self.status(node) else {
            return false;
        };
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        groups
            .iter()
            .any(|group| group["group"] == 0 && group["role"] == "leader")
    }

    fn status(&self, node: usize) -> Option<Value> {
        let port = self.base + 7 + u16::try_from(node).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream
            .write_all(b"GET /v1/status HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits until a node knows that its connection to another is down.
    fn await_loss(&self, node: usize, lost: usize) {
        let start = Instant::now();
        let is_lost = |status: Value| {
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let mut peers = peers.iter();
            peers.any(|peer| peer["node"] == lost + 1 && peer["connected"] == false)
        };
        while !self.status(node).is_some_and(is_lost) {
            assert!(
                start.elapsed() < PATIENCE,
                "still connected; {}",
                self.logs()
            );
            thread::sleep(PAUSE);
        }
    }

    /// How long it takes from `start` until keys of all groups can be written.
    fn serves(&self, what: &str, start: Instant) {
        let mut client = Client::new(self.base, 0);
        for key in 0..32 {
            while client.ask(&["SET", &format!("probe{key}"), what]) != Some(Answer::Ok) {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{what}: it does not serve again; {}",
                    self.logs()
                );
                client.next_node();
                thread::sleep(PAUSE);
            }
        }
        println!("{what}: serves after {:?}", start.elapsed());
    }

    fn logs(&self) -> String {
        let tail = |node| {
            let path = self.directory.join(format!("n{node}.log"));
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        let tails = [1, 2, 3].map(|node| format!("the end of n{node}'s log:\n{}\n", tail(node)));
        tails.concat()
    }

    /// SIGTERM for all: each ends in time, with exit code 0.
    fn stop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }
        let start = Instant::now();
        for node in 0..3 {
            let mut child = self.children[node].take().unwrap();
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if start.elapsed() > PATIENCE {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("n{} does not stop: {}", node + 1, self.logs());
                }
                thread::sleep(PAUSE);
            };
            assert_eq!(status.code(), Some(0), "{}", self.logs());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // Both fail only if it has ended.
            drop(child.kill());
            drop(child.wait());
        }
        drop(fs::remove_dir_all(&self.directory));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Nil,
    Value(String),
    Error(String),
}

/// One connection, to one node after another.
struct Client {
    base: u16,
    node: u16,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    fn new(base: u16, node: u16) -> Self {
        Self {
            base,
            node,
            patience: ANSWER_MAX,
            stream: None,
        }
    }

    fn next_node(&mut self) {
        self.node += 1;
        self.stream = None;
    }

    /// Nothing if there was no answer: then nobody knows what happened.
    fn ask(&mut self, words: &[&str]) -> Option<Answer> {
        if self.stream.is_none() {
            let port = self.base + 1 + self.node % 3;
            let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(self.patience)).ok()?;
            self.stream = Some(BufReader::new(stream));
        }
        let answer = self.exchange(words);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, words: &[&str]) -> Option<Answer> {
        let stream = self.stream.as_mut()?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        match line.as_bytes().first()? {
            b'+' => Some(Answer::Ok),
            b'-' => Some(Answer::Error(line.to_owned())),
            b'$' if line == "$-1" => Some(Answer::Nil),
            b'$' => {
                let mut bytes = vec![0; line[1..].parse::<usize>().ok()? + 2];
                stream.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                Some(Answer::Value(String::from_utf8(bytes).unwrap()))
            }
            other => panic!("unexpected answer {other}: {line}"),
        }
    }
}

/// What is known of a key: its value lies between.
struct Promise {
    key: String,
    acknowledged: u64,
    attempted: u64,
}

/// Writes rising numbers until told to stop.
fn write(base: u16, writer: usize, ended: &AtomicBool, total: &AtomicU64) -> Vec<Promise> {
    let mut client = Client::new(base, u16::try_from(writer).unwrap());
    let mut promises: Vec<Promise> = Vec::new();
    let mut fresh = 0;
    let mut open = || {
        fresh += 1;
        Promise {
            key: format!("w{writer}:{fresh}"),
            acknowledged: 0,
            attempted: 0,
        }
    };
    let mut current: Vec<Promise> = (0..KEYS_OF_WRITER).map(|_| open()).collect();
    let mut at = 0;
    while !ended.load(Ordering::Relaxed) {
        at = (at + 1) % KEYS_OF_WRITER;
        let promise = &mut current[at];
        promise.attempted += 1;
        let value = promise.attempted.to_string();
        if client.ask(&["SET", &promise.key, &value]) == Some(Answer::Ok) {
            promise.acknowledged = promise.attempted;
            total.fetch_add(1, Ordering::Relaxed);
        } else {
            promises.push(std::mem::replace(&mut current[at], open()));
            client.next_node();
            thread::sleep(PAUSE);
            continue;
        }
        if at == 0
            && let Some(answer @ (Answer::Nil | Answer::Value(_))) =
                client.ask(&["GET", &promise.key])
        {
            assert_eq!(
                answer,
                Answer::Value(value),
                "stale read of {}",
                promise.key
            );
        }
    }
    promises.extend(current);
    promises
}

fn verify(cluster: &Cluster, promises: &[Promise]) {
    let mut client = Client::new(cluster.base, 0);
    let start = Instant::now();
    for promise in promises {
        let (key, least, most) = (&promise.key, promise.acknowledged, promise.attempted);
        let value = loop {
            match client.ask(&["GET", key]) {
                Some(Answer::Value(value)) => break value.parse::<u64>().unwrap(),
                Some(Answer::Nil) => break 0,
                Some(Answer::Ok | Answer::Error(_)) | None => {
                    assert!(start.elapsed() < PATIENCE, "{key} cannot be read");
                    client.next_node();
                    thread::sleep(PAUSE);
                }
            }
        };
        assert!(
            (least..=most).contains(&value),
            "{key} is {value}: {least} was acknowledged, {most} attempted"
        );
    }
}

/// Kills `victims` under load, starts them again, and waits until all is served.
fn strike(cluster: &mut Cluster, what: &str, victims: &[usize]) {
    thread::sleep(Duration::from_millis(700));
    let killed = Instant::now();
    for &node in victims {
        cluster.kill(node);
    }
    if victims.len() == 1 {
        cluster.serves(what, killed);
    } else {
        thread::sleep(Duration::from_millis(300));
    }
    let started = Instant::now();
    for &node in victims {
        cluster.run(node);
    }
    cluster.serves(&format!("{what}, started again"), started);
}

fn kill_under_load(groups: u16) {
    let mut cluster = Cluster::start(groups, ANSWER_MAX * 5 / 6);
    cluster.serves("first start", Instant::now());
    let (ended, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let base = cluster.base;
    let promises: Vec<Promise> = thread::scope(|scope| {
        let (ended, total) = (&ended, &total);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(base, writer, ended, total)))
            .collect();
        let struck = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let leader = cluster.leader();
            strike(&mut cluster, "SIGKILL of the leader", &[leader]);
            let follower = (cluster.leader() + 1) % 3;
            strike(&mut cluster, "SIGKILL of a follower", &[follower]);
            let leader = cluster.leader();
            let two = [leader, (leader + 1) % 3];
            strike(&mut cluster, "SIGKILL of two nodes", &two);
            strike(&mut cluster, "SIGKILL of all three", &[0, 1, 2]);
            thread::sleep(Duration::from_millis(500));
        }));
        // The writers must end before a failure can be reported.
        ended.store(true, Ordering::Relaxed);
        let promises = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect();
        if let Err(panic) = struck {
            std::panic::resume_unwind(panic);
        }
        promises
    });
    let acknowledged = total.load(Ordering::Relaxed);
    println!(
        "{acknowledged} acknowledged writes, {} keys",
        promises.len()
    );
    assert!(acknowledged > 0, "nothing was written");
    verify(&cluster, &promises);
    cluster.stop();
}

#[test]
fn a_proxy_waits_for_a_new_leader_before_it_gives_up() {
    let mut cluster = Cluster::start(1, PATIENCE);
    cluster.serves("start", Instant::now());
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    let mut client = Client::new(cluster.base, u16::try_from(other).unwrap());
    client.patience = PATIENCE;
    assert_eq!(client.ask(&["SET", "key", "value"]), Some(Answer::Ok));
    cluster.kill(leader);
    cluster.await_loss(other, leader);
    assert_eq!(
        client.ask(&["GET", "key"]),
        Some(Answer::Value("value".into())),
        "at the first try"
    );
}

#[test]
fn acknowledged_writes_survive_every_kill_with_one_group() {
    kill_under_load(1);
}

#[test]
fn acknowledged_writes_survive_every_kill_with_groups_led_by_all_nodes() {
    kill_under_load(3);
}
