//! Nodes as processes, each with a configuration and a data directory of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nodes::{Addresses, Process, Scratch, admin};
use serde_json::Value;

pub(crate) use nodes::{PATIENCE, PAUSE};

/// As the configurations say.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// The highest number of a node.
const NODES: u16 = 7;

/// Two clusters at a time: each keeps the disk busy while it starts.
static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

pub(crate) struct Cluster {
    /// None beside one that has its turn: who waits for a second turn may wait for itself.
    _turn: Option<MutexGuard<'static, ()>>,
    scratch: Scratch,
    addresses: Addresses,
    /// By the number of the node; number 0 is nobody.
    processes: Vec<Option<Process>>,
    more: String,
}

impl Cluster {
    /// Nothing runs yet. `more` is appended to each configuration's log section.
    pub(crate) fn new(more: &str) -> Self {
        static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let turn = &TURNS[number % TURNS.len()];
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        Self::with(Some(turn), more)
    }

    fn with(turn: Option<MutexGuard<'static, ()>>, more: &str) -> Self {
        Self {
            _turn: turn,
            scratch: Scratch::new("drills"),
            addresses: Addresses::reserve(NODES).unwrap(),
            processes: (0..=NODES).map(|_| None).collect(),
            more: more.to_owned(),
        }
    }

    /// Nodes 1 to 3, with leaders.
    pub(crate) fn start(more: &str) -> Self {
        Self::new(more).run_three()
    }

    /// Another one, for the same test.
    pub(crate) fn start_beside(&self, more: &str) -> Self {
        Self::with(None, more).run_three()
    }

    fn run_three(mut self) -> Self {
        for node in 1..=3 {
            self.configure(node, &[1, 2, 3]);
            self.run(node);
        }
        self.await_leaders(&[1, 2, 3]);
        self
    }

    /// The admin endpoints of the first three.
    pub(crate) fn admins(&self) -> String {
        [1, 2, 3].map(|node| self.admin(node)).join(",")
    }

    /// Where all of it lies.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn data(&self, node: u16) -> PathBuf {
        self.scratch.join(format!("n{node}"))
    }

    pub(crate) fn config(&self, node: u16) -> PathBuf {
        self.scratch.join(format!("n{node}.toml"))
    }

    pub(crate) fn peer_address(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.addresses.peer(node))
    }

    pub(crate) fn endpoint(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.addresses.client(node))
    }

    pub(crate) fn admin(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.addresses.admin(node))
    }

    /// Writes the configuration of a node in a cluster of these.
    pub(crate) fn configure(&self, node: u16, members: &[u16]) {
        let text = format!(
            "[node]\nid = {node}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"drill\"\n\
             shards = 1\ngroups = 2\nelection_timeout = \"400ms\"\nheartbeat_interval = \"40ms\"\n[client]\n\
             proxy = true\nroute_wait = \"500ms\"\nrequest_timeout = \"2s\"\n[log]\nsegment_size = \"20MB\"\n{}\n{}",
            self.data(node).display(),
            self.more,
            self.addresses.members(members),
        );
        fs::write(self.config(node), text).unwrap();
    }

    pub(crate) fn run(&mut self, node: u16) {
        self.run_with(node, &[]);
    }

    /// Starts a node that asks another for the cluster, if it is new.
    pub(crate) fn join(&mut self, node: u16, other: u16) {
        let endpoint = self.admin(other);
        self.run_with(node, &["--join", &endpoint]);
    }

    fn run_with(&mut self, node: u16, more: &[&str]) {
        let log = self.scratch.join(format!("n{node}.log"));
        let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        let process = Process::serve_with(program, &self.config(node), &log, more).unwrap();
        self.processes[usize::from(node)] = Some(process);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: u16) {
        let process = self.processes[usize::from(node)].take();
        assert!(process.unwrap().kill(), "{}", self.log(node));
        self.await_ports(node);
    }

    /// Ends a node, whether it still runs or not.
    pub(crate) fn end(&mut self, node: u16) {
        drop(self.processes[usize::from(node)].take());
        self.await_ports(node);
    }

    fn await_ports(&self, node: u16) {
        until("its ports are free", || self.addresses.are_free(node));
    }

    /// The code and the last words of a node that ends by itself.
    pub(crate) fn ended(&mut self, node: u16) -> (i32, String) {
        let mut process = self.processes[usize::from(node)].take().unwrap();
        (process.ended().unwrap(), process.said())
    }

    /// The code of a node that has ended by itself.
    pub(crate) fn exited(&mut self, node: u16) -> Option<i32> {
        let process = self.processes[usize::from(node)].as_mut().unwrap();
        process.status().map(|status| status.code().unwrap_or(-1))
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
        let text = fs::read_to_string(self.scratch.join(format!("n{node}.log")));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(crate) fn status(&self, node: u16) -> Option<Value> {
        admin::status(self.addresses.admin(node))
    }

    pub(crate) fn metrics(&self, node: u16) -> String {
        admin::get(self.addresses.admin(node), "/metrics").unwrap_or_default()
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
        admin::groups(self.addresses.admin(node))
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

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    nodes::until(done, || what.to_owned());
}

/// A directory with all that is in it, as `cp -a` copies it.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cp -a");
}
