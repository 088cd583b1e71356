//! Nodes as processes, each with a configuration and a data directory of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ports::{Ports, is_free};
use serde_json::Value;

pub(crate) const PAUSE: Duration = Duration::from_millis(20);
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// As the configurations say.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// Ports of one cluster: nodes 1 to 7, three each.
const PORTS: u16 = 21;

/// Two clusters at a time: each keeps the disk busy while it starts.
static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

pub(crate) struct Cluster {
    _turn: MutexGuard<'static, ()>,
    pub(crate) directory: PathBuf,
    ports: Ports,
    /// By the number of the node; number 0 is nobody.
    children: Vec<Option<Child>>,
    more: String,
}

impl Cluster {
    /// Nothing runs yet. `more` is appended to each configuration's log section.
    pub(crate) fn new(more: &str) -> Self {
        static CLUSTERS: AtomicU16 = AtomicU16::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("drakkar-drills-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let turn = &TURNS[usize::from(number) % TURNS.len()];
        Self {
            _turn: turn.lock().unwrap_or_else(PoisonError::into_inner),
            directory,
            ports: Ports::reserve(PORTS).unwrap(),
            children: (0..8).map(|_| None).collect(),
            more: more.to_owned(),
        }
    }

    /// Nodes 1 to 3, with leaders.
    pub(crate) fn start(more: &str) -> Self {
        let mut cluster = Self::new(more);
        for node in 1..=3 {
            cluster.configure(node, &[1, 2, 3]);
            cluster.run(node);
        }
        cluster.await_leaders(&[1, 2, 3]);
        cluster
    }

    pub(crate) fn data(&self, node: u16) -> PathBuf {
        self.directory.join(format!("n{node}"))
    }

    pub(crate) fn config(&self, node: u16) -> PathBuf {
        self.directory.join(format!("n{node}.toml"))
    }

    fn client_port(&self, node: u16) -> u16 {
        self.ports.first() + (node - 1) * 3
    }

    pub(crate) fn peer_address(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.client_port(node) + 1)
    }

    pub(crate) fn endpoint(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.client_port(node))
    }

    pub(crate) fn admin(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.client_port(node) + 2)
    }

    /// Writes the configuration of a node in a cluster of these.
    pub(crate) fn configure(&self, node: u16, members: &[u16]) {
        let mut text = format!(
            "[node]\nid = {node}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"drill\"\n\
             shards = 1\ngroups = 2\nelection_timeout = \"400ms\"\nheartbeat_interval = \"40ms\"\n[client]\n\
             proxy = true\nroute_wait = \"500ms\"\nrequest_timeout = \"2s\"\n[log]\nsegment_size = \"20MB\"\n{}\n",
            self.data(node).display(),
            self.more
        );
        for &member in members {
            let port = self.client_port(member);
            text.push_str(&format!(
                "[[cluster.nodes]]\nid = {member}\nhost = \"127.0.0.1\"\nclient_port = {port}\npeer_port = {}\n\
                 admin_port = {}\n",
                port + 1,
                port + 2
            ));
        }
        fs::write(self.config(node), text).unwrap();
    }

    pub(crate) fn run(&mut self, node: u16) {
        let log = self.directory.join(format!("n{node}.log"));
        let log = File::options().create(true).append(true).open(log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        command.args(["serve", "--config"]).arg(self.config(node));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log.unwrap()).spawn().unwrap();
        self.children[usize::from(node)] = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: u16) {
        let mut child = self.children[usize::from(node)].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel closes what io_uring held a little later.
        let port = self.client_port(node);
        until("its ports are free", || (port..port + 3).all(is_free));
    }

    /// Ends a node, whether it still runs or not.
    pub(crate) fn end(&mut self, node: u16) {
        if let Some(mut child) = self.children[usize::from(node)].take() {
            // Fails only if it has ended.
            drop(child.kill());
            child.wait().unwrap();
        }
        let port = self.client_port(node);
        until("its ports are free", || (port..port + 3).all(is_free));
    }

    /// The code and the last words of a node that ends by itself.
    pub(crate) fn ended(&mut self, node: u16) -> (i32, String) {
        let mut child = self.children[usize::from(node)].take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status.code().unwrap(), self.log(node));
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("n{node} does not end: {}", self.log(node));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Starts a node that must end with this code and these words.
    pub(crate) fn refuses(&mut self, node: u16, code: i32, words: &str) {
        self.run(node);
        let (found, log) = self.ended(node);
        assert_eq!(found, code, "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(words), "{last}");
        println!("    n{node} ends with {code}: {words}");
    }

    pub(crate) fn log(&self, node: u16) -> String {
        let text = fs::read_to_string(self.directory.join(format!("n{node}.log")));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(crate) fn status(&self, node: u16) -> Option<Value> {
        let mut stream = TcpStream::connect(self.admin(node)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let request = b"GET /v1/status HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// How many peers a node is connected to.
    pub(crate) fn connected(&self, node: u16) -> usize {
        let status = self.status(node).unwrap_or_default();
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        peers
            .iter()
            .filter(|peer| peer["connected"] == true)
            .count()
    }

    pub(crate) fn groups(&self, node: u16) -> Vec<Value> {
        let status = self.status(node).unwrap_or_default();
        status["groups"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a group is led by one of the first three.
    pub(crate) fn await_leader_of(&self, group: u64) {
        let leads = |it: &Value| it["group"] == group && it["role"] == "leader";
        until("it has a leader", || {
            (1..=3).any(|node| self.groups(node).iter().any(leads))
        });
    }

    /// Waits until every group is led by one of these.
    pub(crate) fn await_leaders(&self, nodes: &[u16]) {
        let leads = |group: u64| {
            let found = nodes.iter().flat_map(|&node| self.groups(node));
            let mut found = found.filter(|it| it["group"] == group);
            found.any(|it| it["role"] == "leader")
        };
        let start = Instant::now();
        while !(0..2).all(leads) {
            let logs = || nodes.iter().map(|&node| self.log(node)).collect::<Vec<_>>();
            assert!(start.elapsed() < PATIENCE, "no leaders: {:#?}", logs());
            thread::sleep(PAUSE);
        }
    }

    /// Waits until a node has, of every group, the same state as another, and misses nothing.
    pub(crate) fn await_equal(&self, node: u16, other: u16) {
        let state = |node: u16| {
            let groups = self.groups(node);
            let state = |it: &Value| it["state_hash"].clone();
            groups.iter().map(state).collect::<Vec<_>>()
        };
        let sound = || self.groups(node).iter().all(|it| it["health"] == "intact");
        let start = Instant::now();
        while state(node).is_empty() || state(node) != state(other) || !sound() {
            assert!(
                start.elapsed() < PATIENCE,
                "n{node}: {:#?}\n{}\nn{other}: {:#?}",
                self.groups(node),
                self.log(node),
                self.groups(other)
            );
            thread::sleep(PAUSE);
        }
    }

    /// Runs the program with these words.
    pub(crate) fn drakkar(&self, words: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["120", env!("CARGO_BIN_EXE_drakkar")]);
        command.args(words).output().unwrap()
    }

    /// The same, of which the code and some words are known; gives all that it said.
    pub(crate) fn says(&self, words: &[&str], code: i32, expected: &str) -> String {
        let output = self.drakkar(words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = said + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
        said
    }

    /// One command to one node: its answer, or nothing.
    pub(crate) fn ask(&self, node: u16, words: &[&str]) -> Option<String> {
        let stream = TcpStream::connect(self.endpoint(node)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(4))).ok()?;
        let mut stream = BufReader::new(stream);
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.starts_with('$') && !line.starts_with("$-") {
            line.clear();
            stream.read_line(&mut line).ok()?;
        }
        Some(line.trim_end().to_owned())
    }

    /// Writes a key until that is acknowledged.
    pub(crate) fn set(&self, node: u16, key: &str, value: &str) {
        let start = Instant::now();
        loop {
            let answer = self.ask(node, &["SET", key, value]);
            if answer.as_deref() == Some("+OK") {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "SET {key}: {answer:?}; {}",
                self.log(node)
            );
            thread::sleep(PAUSE);
        }
    }

    pub(crate) fn write(&self, node: u16, prefix: &str, keys: u32) {
        for key in 0..keys {
            self.set(node, &format!("{prefix}{key}"), &format!("value {key}"));
        }
    }

    /// How many of these keys are missing, or hold something else.
    pub(crate) fn missing(&self, node: u16, prefix: &str, keys: u32) -> u32 {
        let mut missing = 0;
        let start = Instant::now();
        for key in 0..keys {
            let answer = loop {
                match self.ask(node, &["GET", &format!("{prefix}{key}")]) {
                    Some(answer) if !answer.starts_with('-') || answer == "-1" => break answer,
                    answer if answer.as_deref() == Some("$-1") => break String::new(),
                    answer => {
                        assert!(start.elapsed() < PATIENCE, "{answer:?}; {}", self.log(node));
                        thread::sleep(PAUSE);
                    }
                }
            };
            missing += u32::from(answer != format!("value {key}"));
        }
        missing
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

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(PAUSE);
    }
}

/// A directory with all that is in it, as `cp -a` copies it.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cp -a");
}
