//! A cluster of three processes on this machine, for one run.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::load::now;
use crate::options::Options;
use crate::topology::Topology;

const NODES: u16 = 3;

/// Three nodes; they end, and their data goes away, when this is dropped.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    directory: PathBuf,
    pub(crate) endpoints: Vec<String>,
}

/// One node's process, spoken to by lines.
pub(crate) struct Node {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts the nodes and waits until every slot has a leader.
    pub(crate) fn start(options: &Options) -> Result<Self, String> {
        let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let directory = base.join(format!("drakkar-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
        let mut cluster = Self {
            nodes: Vec::new(),
            directory,
            endpoints: Vec::new(),
        };
        let first = free_ports(NODES * (2 * options.shards + 1))?;
        for id in 1..=NODES {
            let config = cluster.directory.join(format!("n{id}.toml"));
            std::fs::write(&config, config_text(options, &cluster.directory, id, first))
                .map_err(|error| format!("cannot write {}: {error}", config.display()))?;
            cluster.nodes.push(Node::start(&config)?);
            cluster
                .endpoints
                .push(format!("127.0.0.1:{}", client_port(options, id, first)));
        }
        for node in &mut cluster.nodes {
            let line = node.line()?;
            if line != "ready" {
                return Err(format!("a node did not start: {line}"));
            }
        }
        let deadline = now() + Duration::from_secs(20);
        loop {
            match Topology::ask(&cluster.endpoints) {
                Ok(topology) if topology.is_complete() && topology.leaders().len() > 1 => break,
                _ if now() > deadline => return Err("the cluster found no leaders".to_owned()),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        // Leaders move to where they should be soon after the start.
        std::thread::sleep(Duration::from_secs(4));
        Ok(cluster)
    }

    /// Gives each node a line and collects each one's answer.
    pub(crate) fn ask_all(&mut self, line: &str) -> Result<Vec<String>, String> {
        for node in &mut self.nodes {
            writeln!(node.input, "{line}").map_err(|error| error.to_string())?;
        }
        self.nodes.iter_mut().map(Node::line).collect()
    }

    /// Processes of the nodes, for profilers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }
}

impl Node {
    fn start(config: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .arg("--node")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let input = child.stdin.take().ok_or("a node has no input")?;
        let output = child.stdout.take().ok_or("a node has no output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let bytes = self
            .output
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        if bytes == 0 {
            Err("a node ended".to_owned())
        } else {
            Ok(line.trim_end().to_owned())
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // Both fail only if the process has ended already.
            drop(node.child.kill());
            drop(node.child.wait());
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

fn client_port(options: &Options, id: u16, first: u16) -> u16 {
    first + (id - 1) * (2 * options.shards + 1)
}

/// Finds so many free ports in a row.
fn free_ports(count: u16) -> Result<u16, String> {
    for first in (21_000..31_000).step_by(usize::from(count)) {
        let taken: Vec<_> = (first..first + count)
            .map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        if taken.len() == usize::from(count) {
            return Ok(first);
        }
    }
    Err("no free ports".to_owned())
}

fn config_text(options: &Options, directory: &Path, id: u16, first: u16) -> String {
    let mut text = format!(
        "[node]\nid = {id}\ndata_dir = \"{}\"\ncores = [{}]\n\n\
         [cluster]\nid = \"bench\"\nshards = {}\ngroups = {}\n\n[client]\nproxy = false\n",
        directory.join(format!("n{id}")).display(),
        (0..options.shards)
            .map(|shard| ((id - 1) * options.shards + shard).to_string())
            .collect::<Vec<_>>()
            .join(", "),
        options.shards,
        options.groups,
    );
    for node in 1..=NODES {
        let client = client_port(options, node, first);
        text.push_str(&format!(
            "\n[[cluster.nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {client}\n\
             peer_port = {}\nadmin_port = {}\n",
            client + options.shards,
            client + 2 * options.shards,
        ));
    }
    text
}
