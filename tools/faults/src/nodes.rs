//! Three real nodes, each a process with a directory of its own, and their clients.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::nodes::{Addresses, Client, Process, admin};
use ports::NoPorts;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
    addresses: Addresses,
    processes: [Option<Process>; NODES],
}

impl Nodes {
    /// Three nodes that have no data yet, all of them started. `sections` are added to their configurations.
    pub(crate) fn running(directory: &Path, sections: &str) -> Result<Self, Trouble> {
        let program = program().expect("what a scenario needs was checked");
        let mut nodes = Self::new(directory, &program, sections)?;
        for node in 0..NODES {
            nodes.start(node)?;
        }
        Ok(nodes)
    }

    /// None of them runs.
    fn new(directory: &Path, program: &Path, sections: &str) -> Result<Self, Trouble> {
        let vacuous = |refusal: NoPorts| Trouble::Vacuous {
            what: refusal.to_string(),
        };
        let addresses = Addresses::reserve(3).map_err(vacuous)?;
        let members = addresses.members(&[1, 2, 3]);
        for node in 1..=NODES {
            let config = format!(
                "[node]\nid = {node}\ndata_dir = \"{}\"\nany_file_system = true\n\
                 [cluster]\nid = \"faults\"\nshards = 1\ngroups = 3\n\
                 election_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
                 [log]\nsegment_size = \"20MB\"\n[client]\nproxy = true\n{sections}\n{members}",
                directory.join(format!("data-{node}")).display()
            );
            let path = directory.join(format!("n{node}.toml"));
            std::fs::write(&path, config).map_err(Trouble::io("write", &path))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            program: program.to_owned(),
            addresses,
            processes: [None, None, None],
        })
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), Trouble> {
        let file = |kind: &str| self.directory.join(format!("n{}.{kind}", node + 1));
        let mut program = Command::new(&self.program);
        die_with_us(&mut program);
        let process = Process::serve(program, &file("toml"), &file("log"));
        self.processes[node] = Some(process.map_err(Trouble::io("start", &self.program))?);
        Ok(())
    }

    /// SIGKILL. Whether it still ran: a node that ended by itself has failed.
    pub(crate) fn kill(&mut self, node: usize) -> bool {
        let process = self.processes[node].take();
        process.is_some_and(|mut process| process.kill())
    }

    /// Stops a node in the middle of what it does, or lets it go on.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        if let Some(process) = &self.processes[node] {
            let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            // It fails only if the node has ended.
            let _ = kill_process(id.expect("a process has a number"), signal);
        }
    }

    /// What a node says of its groups; nothing if it does not answer.
    pub(crate) fn groups(&self, node: usize) -> Vec<Value> {
        let node = u16::try_from(node + 1).expect("there are few");
        admin::groups(self.addresses.admin(node))
    }

    pub(crate) fn client(&self, first: usize) -> Client {
        let ports = [1, 2, 3].map(|node| self.addresses.client(node));
        Client::new(ports.to_vec(), first, ANSWER_MAX)
    }

    /// Where the log of a node's only shard lies.
    pub(crate) fn log(&self, node: usize) -> PathBuf {
        let data = self.directory.join(format!("data-{}", node + 1));
        data.join("shard-0")
    }

    /// Whether a node says that nothing is missing in any of its replicas.
    pub(crate) fn is_healthy(&self, node: usize) -> bool {
        let groups = self.groups(node);
        !groups.is_empty() && groups.iter().all(|group| group["health"] == "intact")
    }

    /// How many repairs of its replicas a node says there were since it started.
    pub(crate) fn repairs(&self, node: usize) -> u64 {
        let groups = self.groups(node);
        groups.iter().filter_map(|it| it["repairs"].as_u64()).sum()
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
