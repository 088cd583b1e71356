//! Three real nodes, each a process with a directory of its own, and their clients.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ports::Ports;

use crate::machine::die_with_us;
use crate::trouble::Trouble;

pub(crate) const NODES: usize = 3;
/// Longer than any election: no answer within it means that nobody knows what happened.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The program `drakkar`, which lies where this one lies.
pub(crate) fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    Some(own.with_file_name("drakkar")).filter(|path| path.is_file())
}

/// Nodes whose data lies in one directory. They die with this value.
pub(crate) struct Nodes {
    directory: PathBuf,
    program: PathBuf,
    _ports: Ports,
    /// The port before theirs.
    base: u16,
    children: [Option<Child>; NODES],
}

impl Nodes {
    /// Three nodes that have no data yet; none of them runs.
    pub(crate) fn new(directory: &Path, program: &Path) -> Result<Self, Trouble> {
        let ports = Ports::reserve(9).map_err(|refusal| Trouble::Vacuous {
            what: refusal.to_string(),
        })?;
        let base = ports.first() - 1;
        let mut members = String::new();
        for node in 1..=NODES {
            let port = |kind: usize| usize::from(base) + kind * NODES + node;
            members.push_str(&format!(
                "\n[[cluster.nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {}\n\
                 peer_port = {}\nadmin_port = {}\n",
                port(0),
                port(1),
                port(2)
            ));
        }
        for node in 1..=NODES {
            let config = format!(
                "[node]\nid = {node}\ndata_dir = \"{}\"\nany_file_system = true\n\
                 [cluster]\nid = \"faults\"\nshards = 1\ngroups = 3\n\
                 election_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
                 [log]\nsegment_size = \"20MB\"\n[client]\nproxy = true\n{members}",
                directory.join(format!("data-{node}")).display()
            );
            let path = directory.join(format!("n{node}.toml"));
            std::fs::write(&path, config).map_err(Trouble::io("write", &path))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            program: program.to_owned(),
            _ports: ports,
            base,
            children: [None, None, None],
        })
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), Trouble> {
        let file = |kind: &str| self.directory.join(format!("n{}.{kind}", node + 1));
        let log = file("log");
        let stderr = File::options().create(true).append(true).open(&log);
        let stderr = stderr.map_err(Trouble::io("open", &log))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--config"]).arg(file("toml"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        die_with_us(&mut command);
        let child = command.spawn();
        self.children[node] = Some(child.map_err(Trouble::io("start", &self.program))?);
        Ok(())
    }

    /// SIGKILL. Whether it still ran: a node that ended by itself has failed.
    pub(crate) fn kill(&mut self, node: usize) -> bool {
        let Some(mut child) = self.children[node].take() else {
            return false;
        };
        let ran = matches!(child.try_wait(), Ok(None));
        // Both fail only if it has ended.
        drop(child.kill());
        drop(child.wait());
        ran
    }

    pub(crate) fn client(&self, first: usize) -> Client {
        Client {
            base: self.base,
            node: first,
            stream: None,
        }
    }

    /// Where the log of a node's only shard lies.
    pub(crate) fn log(&self, node: usize) -> PathBuf {
        let data = self.directory.join(format!("data-{}", node + 1));
        data.join("shard-0")
    }

    /// Whether a node says that nothing is missing in any of its replicas.
    pub(crate) fn is_healthy(&self, node: usize) -> bool {
        let status = self.status(node).unwrap_or_default();
        let replicas = status.matches("\"health\":").count();
        replicas > 0 && status.matches("\"health\":\"intact\"").count() == replicas
    }

    /// What a node says of itself.
    pub(crate) fn status(&self, node: usize) -> Option<String> {
        let port = usize::from(self.base) + 2 * NODES + node + 1;
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).ok()?)).ok()?;
        stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        let request = b"GET /v1/status HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The ends of the nodes' logs.
    pub(crate) fn logs(&self) -> String {
        let tail = |node: usize| {
            let path = self.directory.join(format!("n{node}.log"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!(
                "n{node}: {}",
                lines[lines.len().saturating_sub(4)..].join("; ")
            )
        };
        (1..=NODES).map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..NODES {
            self.kill(node);
        }
    }
}

/// What a node answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Nil,
    Value(String),
    Error(String),
}

/// One connection, to one node after another.
pub(crate) struct Client {
    base: u16,
    node: usize,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn next_node(&mut self) {
        self.node += 1;
        self.stream = None;
    }

    /// Nothing if there was no answer: then nobody knows what happened.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Option<Answer> {
        let answer = self.exchange(words);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, words: &[&str]) -> Option<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let port = usize::from(self.base) + 1 + self.node % NODES;
                let port = u16::try_from(port).ok()?;
                let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
                stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
                none.insert(BufReader::new(stream))
            }
        };
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        match line.split_at_checked(1)? {
            ("+", _) => Some(Answer::Ok),
            ("$", "-1") => Some(Answer::Nil),
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>().ok()? + 2];
                stream.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).ok().map(Answer::Value)
            }
            _ => Some(Answer::Error(line.to_owned())),
        }
    }
}
