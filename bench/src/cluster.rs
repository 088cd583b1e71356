//! A cluster of processes on this machine, for one run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ports::Ports;

use crate::load::Topology;
use crate::load::now;

/// What a node's logs make ready before it serves, in MiB: more than they are long before snapshots let
/// them use their files again.
const READY_MIB: u32 = 768;
/// The same of its memory: the host of a virtual machine may take milliseconds to find each new piece.
const READY_MEMORY: &str = "ready_memory = \"384MB\"";
/// Leaders move to where they should be within this time after all groups have one.
const LEADERS_MOVE: Duration = Duration::from_secs(10);

/// What cluster to start.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: u16,
    pub(crate) groups: u32,
    /// Threads of each node.
    pub(crate) shards: u16,
    /// A directory below it is made, and removed at the end.
    pub(crate) dir: PathBuf,
    /// An option of the nodes, or nothing: see [`with_setting`].
    pub(crate) setting: String,
    /// Whether segments are ready that the load will write, as in nodes that run for a while. Otherwise
    /// they are small: little is written, and little removed at the end.
    pub(crate) ready: bool,
}

/// Its nodes; they end, and their data goes away, when this is dropped.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    _ports: Ports,
    directory: PathBuf,
    pub(crate) endpoints: Vec<String>,
    admin_endpoints: Vec<String>,
}

/// One node's process, spoken to by lines.
pub(crate) struct Node {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts the nodes and waits until every slot has a leader.
    pub(crate) fn start(shape: &Shape) -> Result<Self, String> {
        let log = if shape.ready {
            format!("ready_size = \"{}MB\"", READY_MIB / u32::from(shape.shards))
        } else {
            "segment_size = \"20MB\"".to_owned()
        };
        Self::start_with(shape, &format!("\n[log]\n{log}\n"))
    }

    /// Starts nodes with these sections in their configuration.
    pub(crate) fn start_with(shape: &Shape, settings: &str) -> Result<Self, String> {
        let directory = shape
            .dir
            .join(format!("drakkar-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
        let ports = Ports::reserve(shape.nodes * (2 * shape.shards + 1));
        let ports = ports.map_err(|refusal| refusal.to_string())?;
        let first = ports.first();
        let mut cluster = Self {
            nodes: Vec::new(),
            _ports: ports,
            directory,
            endpoints: Vec::new(),
            admin_endpoints: Vec::new(),
        };
        for id in 1..=shape.nodes {
            let config = cluster.directory.join(format!("n{id}.toml"));
            let text = config_text(shape, &cluster.directory, id, first);
            let text = with_setting(&(text + settings), &shape.setting)?;
            std::fs::write(&config, text)
                .map_err(|error| format!("cannot write {}: {error}", config.display()))?;
            cluster.nodes.push(Node::start(&config, shape.ready)?);
            let client = client_port(shape, id, first);
            let admin = client + 2 * shape.shards;
            cluster.endpoints.push(format!("127.0.0.1:{client}"));
            cluster.admin_endpoints.push(format!("127.0.0.1:{admin}"));
        }
        for node in &mut cluster.nodes {
            let line = node.line()?;
            if line != "ready" {
                return Err(format!("a node did not start: {line}"));
            }
        }
        cluster.wait_for_leaders(shape)?;
        Ok(cluster)
    }

    /// Waits until every slot has a leader, and a little until each node leads as much as the others.
    fn wait_for_leaders(&self, shape: &Shape) -> Result<(), String> {
        let deadline = now() + Duration::from_secs(60);
        let mut balance_by = None;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            if let Ok(topology) = Topology::ask(&self.endpoints)
                && topology.is_complete()
            {
                let group_slots = net::SLOTS / u16::try_from(shape.groups).unwrap_or(1).max(1);
                let balanced = topology.leaders().len() == usize::from(shape.nodes)
                    && topology.imbalance() <= group_slots + group_slots / 2;
                let by = *balance_by.get_or_insert_with(|| now() + LEADERS_MOVE);
                if balanced || now() > by {
                    return Ok(());
                }
            }
            if now() > deadline {
                return Err("the cluster found no leaders within a minute".to_owned());
            }
        }
    }

    /// Gives each node a line.
    pub(crate) fn tell_all(&self, line: &str) -> Result<(), String> {
        for mut input in self.nodes.iter().map(|node| &node.input) {
            writeln!(input, "{line}").map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Waits for a line of each node.
    pub(crate) fn hear_all(&mut self) -> Result<Vec<String>, String> {
        self.nodes.iter_mut().map(Node::line).collect()
    }

    /// Where the nodes keep their data.
    pub(crate) fn data(&self) -> Vec<PathBuf> {
        (1..=self.nodes.len())
            .map(|id| self.directory.join(format!("n{id}")))
            .collect()
    }

    /// The nodes' admin ports.
    pub(crate) fn admin_endpoints(&self) -> &[String] {
        &self.admin_endpoints
    }

    /// Processes of the nodes, for profilers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }
}

impl Node {
    /// `keeps`: its allocator gives no memory back, as that of `serve` where memory is made ready.
    fn start(config: &Path, keeps: bool) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command
            .arg("--node")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if keeps {
            command.env("MIMALLOC_PURGE_DELAY", "-1");
        }
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

fn client_port(shape: &Shape, id: u16, first: u16) -> u16 {
    first + (id - 1) * (2 * shape.shards + 1)
}

/// A configuration with an option more, or another value of it: `stages = false` of `[node]`,
/// `log.durable = false` of any other section.
fn with_setting(config: &str, setting: &str) -> Result<String, String> {
    let read = |text: &str| {
        let table: Result<toml::Table, _> = text.parse();
        table.map_err(|error| format!("\"{text}\" is no option of a node: {}", error.message()))
    };
    let mut sections = read(config)?;
    for (key, value) in read(setting)? {
        let (section, options) = match value {
            toml::Value::Table(options) => (key, options),
            value => ("node".to_owned(), toml::Table::from_iter([(key, value)])),
        };
        let empty = || toml::Value::Table(toml::Table::new());
        let section = sections.entry(section).or_insert_with(empty);
        let section = section.as_table_mut().ok_or("sections are tables")?;
        section.extend(options);
    }
    Ok(sections.to_string())
}

fn config_text(shape: &Shape, directory: &Path, id: u16, first: u16) -> String {
    // Nodes share cores when there are more shards than those.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = if shape.ready { READY_MEMORY } else { "" };
    let mut text = format!(
        "[node]\nid = {id}\ndata_dir = \"{}\"\ncores = [{}]\n{memory}\n\n\
         [cluster]\nid = \"bench\"\nshards = {}\ngroups = {}\n\n[client]\nproxy = false\n",
        directory.join(format!("n{id}")).display(),
        (0..shape.shards)
            .map(|shard| (usize::from((id - 1) * shape.shards + shard) % cores).to_string())
            .collect::<Vec<_>>()
            .join(", "),
        shape.shards,
        shape.groups,
    );
    for node in 1..=shape.nodes {
        let client = client_port(shape, node, first);
        text.push_str(&format!(
            "\n[[cluster.nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {client}\n\
             peer_port = {}\nadmin_port = {}\n",
            client + shape.shards,
            client + 2 * shape.shards,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_goes_into_its_section_and_without_one_into_that_of_the_node() {
        let config = "[node]\nid = 1\n[log]\nready_size = \"1MB\"\n";
        let with = |setting| with_setting(config, setting).map(|it| it.parse::<toml::Table>());
        let of = |text: &str| Ok(text.parse::<toml::Table>());
        assert_eq!(with(""), of(config));
        assert_eq!(
            with("stages = false"),
            of("[node]\nid = 1\nstages = false\n[log]\nready_size = \"1MB\"\n")
        );
        assert_eq!(
            with("log.durable = false"),
            of("[node]\nid = 1\n[log]\nready_size = \"1MB\"\ndurable = false\n")
        );
        assert_eq!(
            with("limits.connections = 5"),
            of(&format!("{config}[limits]\nconnections = 5\n"))
        );
        let refused = with("log.durable").unwrap_err();
        assert!(
            refused.starts_with("\"log.durable\" is no option of a node"),
            "{refused}"
        );
    }
}
